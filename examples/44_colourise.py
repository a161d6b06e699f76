"""Colours for gray pictures
=========================

A gray leaf may have been green or brown. What a network answers depends on what it is asked for:
squared differences want the mean of all colours that go with this gray, which is dull; absolute
differences their median, which is a colour if most agree; and a critic of patches wants any that
occurs, which is bright and may be wrong. Patches of a photograph, of which the left two thirds are
learned from.

A few steps train nothing, so that this script is not run where the pages are built.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_sample_image

import aeot
from aeot.metrics import frechet_distance
from aeot.plotting.images import side_by_side

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps
SIDE, STEP = 16, 8

# %%
# Patches of 16 x 16 of a photograph at half its size; those of the right third are kept apart.
photo = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)
photo = torch.nn.functional.avg_pool2d(photo.float(), 2).round().to(torch.uint8)


def patches(part):
    """All patches (n, 3, SIDE, SIDE) of a part of the photograph, STEP pixels apart."""
    rows = part.unfold(1, SIDE, STEP).unfold(2, SIDE, STEP)  # (3, rows, columns, SIDE, SIDE)
    return rows.permute(1, 2, 0, 3, 4).reshape(-1, 3, SIDE, SIDE)


pairs = aeot.data.gray_colour(patches(photo[..., :212]))
test = aeot.data.gray_colour(patches(photo[..., 212:]))
gray, colour = test[:]


# %%
def chroma(images):
    """Mean distance of a pixel's colour from gray."""
    return float((images - images.mean(1, keepdim=True)).norm(dim=1).mean())


def told(name, images):
    error = float((images - colour).square().mean().sqrt())
    distance = frechet_distance(images.mean((2, 3)), colour.mean((2, 3)))
    print(f"{name}: error {error:.3f}, colourfulness {chroma(images) / chroma(colour):.2f} of the ")
    print(f"    true, Frechet distance of the patches' mean colours {distance:.4f}")


same = {"generator": "resnet", "n_blocks": 2, "filters": 16, "n_layers": 1, "norm": "none"}
same |= {"batch_size": 16, "enlarge": 1.0, "learning_rate": 1e-3, "device": "cpu"}
models = {
    "L2": aeot.Pix2Pix(**same, difference="squared", l1=1e5),  # an adversary too weak to count
    "L1": aeot.Pix2Pix(**same, l1=1e5),
    "L1 and patches": aeot.Pix2Pix(**same, l1=3.0, adversary="wasserstein"),
}
some = torch.randperm(len(colour), generator=aeot.generator(0))[:12]
shown = {"seen": gray[some].expand(-1, 3, -1, -1), "true": colour[some]}
told("gray", gray.expand(-1, 3, -1, -1))
for name, model in models.items():
    model.fit(pairs, steps=3 if quick else 300)
    made = model.translate(gray, noise=False).cpu()
    told(name, made)
    shown[name] = made[some]
side_by_side(shown, columns=12, across=1, path=OUT / "44_colourise.png")
