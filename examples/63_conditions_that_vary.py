"""Conditions that are numbers, embeddings, sentences
==================================================

`ConditionalWGANGP` takes vectors as conditions, too: an angle as its cosine and sine, a measure of
an image, another image. Samples under conditions between those of the training then interpolate,
which is measured here: on points on a circle, some of whose angles are held out, on digits of
8 x 8 pixels under how bold they are drawn, on such digits under their blurred image, of which
several sharp ones are drawn, and under embeddings: of images in five numbers, and of sentences.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seeds: 0, of data and networks; of samples the digit where digits are thin or bold, else 0, 1, 2.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.svm import SVC

import aeot
from aeot.plotting.images import side_by_side

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps

# %%
# Points near (cos a, sin a) under the condition (cos a, sin a), for all angles but those of a
# quarter of the circle.
g = aeot.generator(0)
angle = 2 * math.pi * torch.rand(4000, generator=g)
angle = angle[(angle < math.pi / 2) | (angle > math.pi)]
c = torch.stack([angle.cos(), angle.sin()], 1)
x = c + 0.05 * torch.randn(c.shape, generator=g)
model = aeot.ConditionalWGANGP(
    latent_dim=2,
    hidden=64,
    penalty=0.1,
    learning_rate=1e-3,
    batch_size=256,
    critic_steps=2,
    device="cpu",
)
model.fit(aeot.tensors(x), conditions=c, steps=20 if quick else 1000)
for name, asked in (
    ("trained on", torch.linspace(math.pi, 2.5 * math.pi, 500)),
    ("held out", torch.linspace(0.55 * math.pi, 0.95 * math.pi, 500)),
):
    wanted = torch.stack([asked.cos(), asked.sin()], 1)
    made = model.sample(500, conditions=wanted)
    off = (made - wanted).norm(dim=1)
    near = torch.cdist(wanted, c).amin(1)
    print(f"angles {name}: samples are {float(off.mean()):.3f} from their place (0.063 is right), ")
    print(f"    which is {float(near.mean()):.3f} from the nearest place under a known angle")

# %%
# Digits under their boldness: the share of ink, standardised. From thin to bold along one noise.
digits = aeot.dataset("digits", size=8)
ink = (digits[:] + 1).mean((1, 2, 3))
bold = (ink - ink.mean()) / ink.std()
label = torch.nn.functional.one_hot(digits.labels, 10).float()
conditions = torch.cat([bold[:, None], label], 1)
model = aeot.ConditionalWGANGP(
    latent_dim=16, hidden=256, learning_rate=5e-4, batch_size=64, critic_steps=3, device="cpu"
)
vectors = aeot.tensors(digits[:].flatten(1))  # of 64 numbers, for networks of plain layers
model.fit(vectors, conditions=conditions, steps=1 if quick else 2500)
levels = torch.linspace(-2, 2, 9)
rows, measured = [], []
for digit in range(10):
    made = []
    for level in levels:  # the same noises for all
        asked = torch.cat([level[None], torch.eye(10)[digit]])
        made.append(model.sample(16, seed=digit, conditions=asked).clamp(-1, 1))
    made = torch.stack(made).unflatten(2, (1, 8, 8))  # (levels, noises, 1, 8, 8)
    measured.append(((made + 1).mean((1, 2, 3, 4)) - ink.mean()) / ink.std())
    rows.append(made[:, 0])
found = torch.stack(measured).mean(0)
print("boldness asked: ", [round(v, 2) for v in levels.tolist()])
print("boldness drawn: ", [round(v, 2) for v in found.tolist()])
slope = float((levels * (found - found.mean())).sum() / levels.square().sum())
print(f"drawn boldness rises by {slope:.2f} for 1 that is asked")
side_by_side({"thin to bold": torch.cat(rows)}, columns=9, path=OUT / "63_bold.png")

# %%
# An image as the condition: four pixels of a digit made one, and many digits are possible. Blurred
# again, samples for digits of the test set should be what was asked for, and differ all the same.
tested = aeot.dataset("digits", split="test", size=8)
test = tested[:]


def blurred(images):
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def apart(a, b):
    return float((a - b).square().mean().sqrt())


how = {"latent_dim": 16, "hidden": 256, "penalty": 1.0, "learning_rate": 1e-3}
how |= {"batch_size": 64, "critic_steps": 3, "device": "cpu"}
model = aeot.ConditionalWGANGP(**how)
model.fit(vectors, conditions=blurred(digits[:]), steps=1 if quick else 1000)
asked = blurred(test)
draws = [
    model.sample(len(test), seed=seed, conditions=asked).unflatten(1, (1, 8, 8)).clamp(-1, 1)
    for seed in range(3)
]
coarse = torch.nn.functional.interpolate(asked.unflatten(1, (1, 4, 4)), scale_factor=2)
back, other = apart(blurred(draws[0]), asked), apart(asked.roll(1, 0), asked)
print(f"blurred again, samples are {back:.2f} from what was asked, another digit is {other:.2f};")
print(f"two samples for one are {apart(draws[0], draws[1]):.2f} apart, ", end="")
print(f"{apart(draws[0], test):.2f} from the true digit, the blurred one {apart(coarse, test):.2f}")
shown = {"asked": coarse, **{f"draw {k}": x for k, x in enumerate(draws)}, "true": test}
shown = {name: images[:12] for name, images in shown.items()}
side_by_side(shown, columns=12, across=1, path=OUT / "63_blurred.png")

# %%
# An embedding as the condition: five numbers of each image, a discriminant analysis of the training
# images (shrunk, as border pixels that hardly vary would rule it). What judges the samples knows
# nothing of it: a classifier of pixels. From the centre of one class to that of another, in 20
# steps under one noise, a picture should change evenly, and its class once.
lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.3, n_components=5)
lda.fit(vectors[:], digits.labels)
size = lda.transform(vectors[:]).std()  # conditions are of unit size


def embedded(images):
    return torch.from_numpy(lda.transform(images.flatten(1)) / size).float()


judge = SVC().fit(vectors[:], digits.labels)


def right(images, labels):
    return float((torch.from_numpy(judge.predict(images)) == labels).double().mean())


codes = embedded(digits[:])
model = aeot.ConditionalWGANGP(**how)
model.fit(vectors, conditions=codes, steps=1 if quick else 1000)
asked = embedded(test)
made = model.sample(len(test), conditions=asked).clamp(-1, 1)
back, other = apart(embedded(made), asked), apart(asked.roll(1, 0), asked)
print(f"embedded again, samples are {back:.2f} from what was asked, another digit is {other:.2f};")
swapped = model.sample(len(test), conditions=asked.roll(1, 0)).clamp(-1, 1)
for name, images in (("asked for", made), ("asked for by another", swapped)):
    print(f"class of the digit, {name}: {right(images, tested.labels):.0%}")
print(f"class of the digit, of true digits: {right(test.flatten(1), tested.labels):.0%}")


def steps_of(path):
    """Largest step and length of paths of pictures (..., k, d), as shares of their whole change."""
    moved = (path[..., 1:, :] - path[..., :-1, :]).norm(dim=-1)
    whole = (path[..., -1, :] - path[..., 0, :]).norm(dim=-1)
    return moved.amax(-1) / whole, moved.sum(-1) / whole


centres = torch.stack([codes[digits.labels == k].mean(0) for k in range(10)])
position = torch.linspace(0, 1, 21)[:, None]
evenness, shown = {"samples": [], "nearest training digits": []}, []
turns, ends = [], []
for a in range(10):
    for b in range(a):
        way = (1 - position) * centres[a] + position * centres[b]
        drawn = [model.sample(4, seed=1, conditions=at.expand(4, -1)).clamp(-1, 1) for at in way]
        path = torch.stack(drawn, 1)  # (noises, positions, pixels)
        nearest = vectors[torch.cdist(way, codes).argmin(1)]
        for found, name in ((path, "samples"), (nearest[None], "nearest training digits")):
            evenness[name].append([float(v.mean()) for v in steps_of(found)])
        kinds = torch.from_numpy(judge.predict(path.flatten(0, 1))).unflatten(0, path.shape[:2])
        turns.append(float((kinds[:, 1:] != kinds[:, :-1]).double().sum(1).mean()))
        ends.append(float(((kinds[:, 0] == a) & (kinds[:, -1] == b)).double().mean()))
        if b == a - 1:
            shown.append(path[0, ::2].unflatten(1, (1, 8, 8)))
for name, found in evenness.items():
    step, length = torch.tensor(found).mean(0).tolist()
    print(
        f"between classes, {name}: the largest of 20 steps is {step:.2f} of the whole change, ",
        end="",
    )
    print(f"all steps {length:.2f}")
print(f"ends have the two classes in {sum(ends) / 45:.0%}; the class changes ", end="")
print(f"{sum(turns) / 45:.1f} times on the way")
side_by_side({"class to class": torch.cat(shown)}, columns=11, path=OUT / "63_embedding.png")

# %%
# A sentence as the condition. No texts come with the digits, so sentences are made: four forms,
# with the class, the boldness and the lean of a digit in words, the last two by thirds of what is
# measured. Their counts of words, brought to 16 numbers by a singular value decomposition, are the
# condition. Of each class one of nine pairs of boldness and lean is held out: no sentence of it is
# seen.
names = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
inks, leans = ("thin", "plain", "bold"), ("left", "upright", "right")
forms = (
    "a {0} {1} leaning {2}",
    "{1}, {0} and {2}",
    "this {1} is {0}; it goes {2}",
    "the {2} {1}, {0}",
)


def lean(images):
    """How far to the right ink is, for one pixel up, by second moments; images (n, 64)."""
    ink = (images.unflatten(1, (8, 8)) + 1).clamp_min(0)
    ink = ink / ink.sum((1, 2), keepdim=True)
    side = torch.arange(8.0)
    x, y = side - (ink.sum(1) @ side)[:, None], side - (ink.sum(2) @ side)[:, None]
    return -torch.einsum("nyx,ny,nx->n", ink, y, x) / torch.einsum("nyx,ny->n", ink, y.square())


def measured(images):
    """The thirds of boldness and lean that images are in, each (n,), among 0, 1, 2."""
    for measure in (lambda x: (x + 1).mean(1), lean):
        thirds = torch.quantile(measure(vectors[:]), torch.tensor([1 / 3, 2 / 3]))
        yield torch.bucketize(measure(images), thirds)


def sentence(kind, bold, leaning, form):
    return forms[form].format(inks[bold], names[kind], leans[leaning])


bold, leaning = measured(vectors[:])
held = (bold == digits.labels % 3) & (leaning == digits.labels // 3 % 3)
seen = (~held).nonzero()[:, 0]
form = torch.randint(4, (len(digits),), generator=aeot.generator(0))
told = torch.stack([digits.labels, bold, leaning, form], 1)
texts = [sentence(*row) for row in told[seen].tolist()]
counts = CountVectorizer().fit(texts)
reduced = TruncatedSVD(16, random_state=0).fit(counts.transform(texts))
centre, spread = (f(reduced.transform(counts.transform(texts)), 0) for f in (np.mean, np.std))


def meant(texts):
    return torch.from_numpy((reduced.transform(counts.transform(texts)) - centre) / spread).float()


model = aeot.ConditionalWGANGP(**how)
model.fit(vectors.subset(seen), conditions=meant(texts), steps=1 if quick else 2000)
every = torch.cartesian_prod(*map(torch.arange, (10, 3, 3, 4)))  # all that can be said
new = (every[:, 1] == every[:, 0] % 3) & (every[:, 2] == every[:, 0] // 3 % 3)
for name, rows in (("seen", every[~new]), ("held out", every[new])):
    rows = rows.repeat_interleave(8, 0)
    asked = meant([sentence(*row) for row in rows.tolist()])
    made = model.sample(len(rows), seed=1, conditions=asked).clamp(-1, 1)
    found = (torch.from_numpy(judge.predict(made)), *measured(made))
    share = [float((one == row).double().mean()) for one, row in zip(found, rows.T, strict=False)]
    print(f"sentences {name}: the class is right in {share[0]:.0%}, ", end="")
    print(f"the boldness in {share[1]:.0%}, the lean in {share[2]:.0%}")
shown = {}
for row in ((3, 2, 2, 0), (8, 0, 1, 1), (1, 2, 0, 2), (0, 0, 2, 3)):
    asked = meant([sentence(*row)])[0]
    shown[sentence(*row)] = (
        model.sample(12, seed=1, conditions=asked).clamp(-1, 1).unflatten(1, (1, 8, 8))
    )
side_by_side(shown, columns=12, across=1, path=OUT / "63_sentences.png")
