"""What each term of a translator does
=====================================

Warm pictures into cold ones, by CycleGANs that differ in one term: the weight of the identity loss,
the cycle, the adversary, the way of up-sampling. Disks and bars on a plain ground; domain B is the
same pictures with a blue tint. Three numbers say what happened: the tint that is still missing, how
far edges stayed where they were, and how much outputs still differ from each other. Few steps: a
choice that looks bad may only be slower. Where the identity loss or the cycle is left out, hardly
an edge stays where it was. Without the cycle three times as many steps are taken, with critics of
patches under the gradient penalty twice as many.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seeds: 0, of pictures; 0 to 4, of networks and batches.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import aeot
from aeot.gan_diagnostics.frequency import checkerboard
from aeot.plotting.images import side_by_side

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps
SIDE = 16


# %%
def pictures(n, tint, key):
    """Disks and bars of random place and brightness, in colours about a tint."""
    g = aeot.generator(0, "pictures", key)
    axis = torch.linspace(-1, 1, SIDE)
    y, x = axis[:, None], axis[None, :]
    place = torch.rand(n, 2, 1, 1, generator=g) * 1.2 - 0.6
    disk = ((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2 < 0.16).float()
    bar = ((x - place[:, 1]).abs() < 0.15).float().expand(n, SIDE, SIDE)
    shape = torch.where(torch.rand(n, 1, 1, generator=g) < 0.5, disk, bar)
    bright = 0.5 + 0.4 * torch.rand(n, 1, 1, generator=g)
    grey = -0.6 + bright * 1.2 * shape
    return (grey[:, None] + torch.tensor(tint)[:, None, None]).clamp(-1, 1)


a, b = pictures(512, (0.2, 0.0, -0.2), "a"), pictures(512, (-0.2, 0.0, 0.2), "b")
test = pictures(64, (0.2, 0.0, -0.2), "test")
wanted = b.mean((0, 2, 3))


def measured(images):
    """Missing tint, edges kept, variety of the outputs over that of the inputs."""

    def edges(x):
        grey = x.mean(1)
        return torch.cat([grey.diff(dim=1).flatten(1), grey.diff(dim=2).flatten(1)], 1)

    tint = float((images.mean((0, 2, 3)) - wanted).abs().mean() / 0.27)  # of what is to change
    kept = torch.cosine_similarity(edges(images), edges(test)).mean()
    variety = images.std(0).mean() / test.std(0).mean()
    return tint, float(kept), float(variety)


# %%
same = {"filters": 8, "n_blocks": 1, "n_layers": 1, "batch_size": 8, "enlarge": 1.0}
same |= {"learning_rate": 1e-3, "flip": False, "device": "cpu"}
steps = 3 if quick else 150
longer = {"cycle 0": 3, "patches, WGAN-GP": 2}  # which are slower to get there
choices = [
    {},
    {"identity": 0.0},
    {"identity": 5.0},
    {"cycle": 0.0},
    {"adversary": "wasserstein", "learning_rate": 3e-4},
    {"adversary": "sinkhorn", "batch_size": 16},
    {"upsampling": "resize"},
]


def named(model):
    """What a model is called here: by the argument that is not the published one."""
    words = {"wasserstein": "patches, WGAN-GP", "sinkhorn": "Sinkhorn"}
    words["resize"] = "resize convolution"
    for name in ("identity", "cycle", "adversary", "upsampling"):
        value, published = getattr(model, name), getattr(aeot.CycleGAN, name)
        if value != published:
            return words.get(value) or f"{name} {value:g}"
    return "as published"


seeds = range(1 if quick else 5)
print(f"means of {len(seeds)} seeds and their standard errors")
shown = {"input": test[:10]}
for changed in choices:
    found = []
    for seed in seeds:
        model = aeot.CycleGAN(**same | changed, seed=seed)
        name = named(model)
        model.fit(aeot.unpaired(a, b), steps=longer.get(name, 1) * steps)
        made = model.translate(test, to="b").cpu()
        found.append([*measured(made), checkerboard(made)])
        shown.setdefault(name, made[:10])  # of the first seed
    mean, spread = np.mean(found, 0), np.std(found, 0, ddof=len(found) > 1) / len(found) ** 0.5
    told = [f"{m:.2f} ± {e:.2f}" for m, e in zip(mean[1:], spread[1:], strict=True)]
    print(f"{name}: {mean[0]:.0%} ± {spread[0]:.0%} of the tint missing, ", end="")
    print(f"edges kept {told[0]}, variety {told[1]}, checkerboard {told[2]}")
print(f"checkerboard of the data: {checkerboard(test):.2f}")
side_by_side(shown, columns=10, across=1, path=OUT / "65_translator_choices.png")
