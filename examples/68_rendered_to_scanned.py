"""From rendered digits to scanned ones
======================================

A classifier of scanned digits is to be trained without labels of scans: on digits rendered from
fonts. Does it help to translate these into the style of scans first? And does the bound of domain
adaptation say so: error on scans <= error on rendered digits + distance of the domains + what no
classifier can do in both? Without labels of scans a classifier can be chosen by digits of its own
kind alone, such as it has not seen. Chosen so, it does not help here: digits translated with the
cycle look like scans, but many changed their class on the way, which the bound has in its last
term, and a classifier of them is right on fewer scans than one of rendered digits is. Without the
cycle every digit becomes the same one, and the last term says that no classifier can help.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seeds: 0, of rendered digits, the split, networks and batches; 1 of digits to choose by.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.linear_model import LogisticRegression

import aeot
from aeot.gan_diagnostics.adaptation import adaptation_bound, proxy_distance
from aeot.plotting.images import side_by_side

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps and digits
SIDE = 16


# %%
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSansMono")
FONTS += ("STIXGeneral", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")


def rendered(n, seed=0):
    """Digits of fonts, of various sizes, turned and moved at random, as images in [-1, 1]."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = [
        ImageFont.truetype(folder / f"{name}.ttf", size) for name in FONTS for size in (54, 60, 66)
    ]
    draw = np.random.default_rng(seed)
    images, labels = [], draw.integers(0, 10, n)
    for label in labels:
        image = Image.new("L", (64, 64))
        place, font = draw.uniform(30, 34, 2), fonts[draw.integers(len(fonts))]
        ImageDraw.Draw(image).text(tuple(place), str(label), fill=255, font=font, anchor="mm")
        images.append(np.asarray(image.rotate(draw.normal(0, 8), Image.Resampling.BILINEAR)))
    pixels = torch.from_numpy(np.stack(images))[:, None]
    return aeot.tensors(aeot.data.resize(pixels, SIDE), labels)


font = rendered(120 if quick else 1500)
unseen = rendered(60 if quick else 500, seed=1)  # by which a classifier is chosen
scans = aeot.dataset("digits", size=SIDE)
order = torch.randperm(len(scans), generator=aeot.generator(0))
train, test = scans.subset(order[:1000]), scans.subset(order[1000:])


# %%
def translators():
    """With the cycle and without it, under the weights that they have."""
    same = {"filters": 8, "n_blocks": 1, "n_layers": 1, "batch_size": 8, "enlarge": 1.0}
    same |= {"learning_rate": 1e-3, "flip": False, "identity": 0.0, "device": "cpu"}
    models = [aeot.CycleGAN(**same, cycle=weight) for weight in (10.0, 0.0)]
    return {f"translated, cycle {model.cycle:g}": model for model in models}


domains = aeot.unpaired(font, train)  # without labels
steps = 2 if quick else 500
sources = {"rendered, as they are": (font[:], unseen[:])}
for name, model in translators().items():
    model.fit(domains, steps=steps)
    sources[name] = tuple(model.translate(side[:], to="b").cpu() for side in (font, unseen))
shown = {name: images[:12] for name, (images, _) in sources.items()} | {"scans": test[:12]}


# %%
# A finite class of hypotheses: logistic regressions of several strengths, each trained on one of
# the three sources, and those trained on scans, which show what could be had. For each source the
# strength is the one that errs least on digits of its own kind which it has not seen.
def fitted(images, labels):
    return [
        LogisticRegression(C=c, max_iter=300).fit(images.flatten(1).numpy(), labels)
        for c in (1e-3, 1e-2, 1e-1)
    ]


def says(hypotheses, images):
    return np.stack([h.predict(images.flatten(1).numpy()) for h in hypotheses])


def least(hypotheses, images, labels):
    """Which of them errs least here."""
    return int((says(hypotheses, images) != labels).mean(1).argmin())


def judged(own, others, held, scans):
    """Which of `own` is chosen, and the bound of all; `held` and `scans` are images and labels."""
    source, target = (says(own + others, images) for images, _ in (held, scans))
    return least(own, *held), adaptation_bound(source, held[1], target, scans[1])


y = test.labels.numpy()
best = fitted(train[:800], train.labels[:800].numpy())
score = 1 - (says(best, test[:]) != y).mean(1)[least(best, train[800:], train.labels[800:].numpy())]
print(f"trained on labelled scans: {score:.1%} right on other scans")
for name, (images, others) in sources.items():
    own = fitted(images, font.labels.numpy())
    k, found = judged(own, best, (others, unseen.labels.numpy()), (test[:], y))
    near = proxy_distance(others.flatten(1)[:500], test[:].flatten(1)[:500])
    print(
        f"trained on {name}: {1 - found.target[k]:.1%} right on scans; error {found.target[k]:.2f} "
        f"<= {found.source[k]:.2f} + distance {found.distance:.2f} + joint {found.joint:.2f}; "
        f"proxy distance {near:.2f}"
    )
side_by_side(shown, columns=12, across=1, path=OUT / "68_rendered_to_scanned.png")
