"""From rendered digits to scanned ones
======================================

A classifier of scanned digits is to be trained without labels of scans: on digits rendered from
fonts. Does it help to translate these into the style of scans first? And does the bound of domain
adaptation say so: error on scans <= error on rendered digits + distance of the domains + what no
classifier can do in both? With the cycle it helps, by ten per cent of the scans; what is still lost
are classes that were exchanged, which the bound has in its last term. Without the cycle every digit
becomes the same one, and the last term says that no classifier can help.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seed: 0, of rendered digits, the split, networks and batches.
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
scans = aeot.dataset("digits", size=SIDE)
order = torch.randperm(len(scans), generator=aeot.generator(0))
train, test = scans.subset(order[:1000]), scans.subset(order[1000:])  # labels of train unused

# %%
same = {"filters": 8, "n_blocks": 1, "n_layers": 1, "batch_size": 8, "enlarge": 1.0}
same |= {"learning_rate": 1e-3, "flip": False, "device": "cpu"}
cycle = aeot.CycleGAN(**same, identity=0.0)
free = aeot.CycleGAN(**same, identity=0.0, cycle=0.0)
domains = aeot.unpaired(font, train)
steps = 2 if quick else 500
shown = {"rendered": font[:12]}
sources = {"rendered, as they are": font[:]}
for name, model in (("translated, cycle 10", cycle), ("translated, cycle 0", free)):
    model.fit(domains, steps=steps)
    sources[name] = model.translate(font[:], to="b").cpu()
    shown[name] = sources[name][:12]
shown["scans"] = test[:12]


# %%
# A finite class of hypotheses: logistic regressions of several strengths, each trained on one of
# the three sources, and those trained on scans, which show what could be had.
def fitted(images, labels):
    return [
        LogisticRegression(C=c, max_iter=300).fit(images.flatten(1).numpy(), labels)
        for c in (1e-3, 1e-2, 1e-1)
    ]


best = fitted(train[:], train.labels.numpy())
y = test.labels.numpy()
score = max(model.score(test[:].flatten(1).numpy(), y) for model in best)
print(f"trained on labelled scans: {score:.1%} right on other scans")
for name, images in sources.items():
    own = fitted(images, font.labels.numpy())
    hypotheses = own + best
    says = [
        np.stack([h.predict(x.flatten(1).numpy()) for h in hypotheses]) for x in (images, test[:])
    ]
    found = adaptation_bound(says[0], font.labels.numpy(), says[1], y)
    k = int(found.target[: len(own)].argmin())
    near = proxy_distance(images.flatten(1)[:500], test[:].flatten(1)[:500])
    print(
        f"trained on {name}: {1 - found.target[k]:.1%} right on scans; error {found.target[k]:.2f} "
        f"<= {found.source[k]:.2f} + distance {found.distance:.2f} + joint {found.joint:.2f}; "
        f"proxy distance {near:.2f}"
    )
side_by_side(shown, columns=12, across=1, path=OUT / "68_rendered_to_scanned.png")
