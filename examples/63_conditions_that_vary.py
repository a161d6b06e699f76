"""Conditions that are numbers
=============================

`ConditionalWGANGP` takes vectors as conditions, too: an angle as its cosine and sine, a measure of
an image, another image. Samples under conditions between those of the training then interpolate,
which is measured here: on points on a circle, some of whose angles are held out, on digits of
8 x 8 pixels under how bold they are drawn, and on such digits under their blurred image, of which
several sharp ones are drawn.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seeds: 0, of data and networks; of samples of digits the digit, of blurred ones 0, 1, 2.
"""

import math
import sys
from pathlib import Path

import torch

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
test = aeot.dataset("digits", split="test", size=8)[:]


def blurred(images):
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def apart(a, b):
    return float((a - b).square().mean().sqrt())


model = aeot.ConditionalWGANGP(
    latent_dim=16,
    hidden=256,
    penalty=1.0,
    learning_rate=1e-3,
    batch_size=64,
    critic_steps=3,
    device="cpu",
)
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
