"""From rendered digits to scanned ones
======================================

A classifier of scanned digits is to be trained without labels of scans: on digits rendered from
fonts. Does it help to translate these into the style of scans first? And does the bound of domain
adaptation say so: error on scans <= error on rendered digits + distance of the domains + what no
classifier can do in both?

A few steps train nothing, so that this script is not run where the pages are built.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

import aeot
from aeot.gan_diagnostics.adaptation import adaptation_bound, proxy_distance
from aeot.plotting.images import side_by_side

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps and digits
SIDE = 16


# %%
def rendered(n, seed=0):
    """Digits of matplotlib's fonts, turned and moved at random, as images in [-1, 1]."""
    draw = np.random.default_rng(seed)
    kinds = [(f, w) for f in ("sans-serif", "serif", "monospace") for w in ("normal", "bold")]
    images, labels = [], draw.integers(0, 10, n)
    for label in labels:
        figure = Figure(figsize=(1, 1), dpi=64)
        canvas = FigureCanvasAgg(figure)
        family, weight = kinds[draw.integers(len(kinds))]
        figure.text(
            *draw.uniform(0.45, 0.55, 2), str(label), ha="center", va="center",
            fontsize=draw.uniform(42, 56), rotation=draw.normal(0, 8), family=family,
            weight=weight, style=draw.choice(["normal", "italic"]),
        )  # fmt: skip
        canvas.draw()
        ink = 255 - np.asarray(canvas.buffer_rgba())[:, :, 0]
        images.append(ink)
    pixels = torch.from_numpy(np.stack(images))[:, None]
    return aeot.tensors(aeot.data.resize(pixels, SIDE), labels)


font = rendered(120 if quick else 1500)
scans = aeot.dataset("digits", size=SIDE)
order = torch.randperm(len(scans), generator=aeot.generator(0))
train, test = scans.subset(order[:1000]), scans.subset(order[1000:])  # labels of train unused

# %%
same = {"filters": 8, "n_blocks": 2, "n_layers": 1, "batch_size": 16, "enlarge": 1.0}
same |= {"learning_rate": 1e-3, "flip": False, "device": "cpu"}
cycle = aeot.CycleGAN(**same, identity=0.0)
free = aeot.CycleGAN(**same, identity=0.0, cycle=0.0)
domains = aeot.unpaired(font, train)
steps = 2 if quick else 250
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
