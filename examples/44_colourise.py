"""Colours for gray pictures
=========================

A gray wall may have been red or green. What a network answers depends on what it is asked for:
squared differences want the mean of all colours that go with this gray, which is dull; absolute
differences their median, which is a colour if most agree; and a critic of patches wants any that
occurs, which is bright and may be wrong. Patches of a photograph are learned from, of its left two
thirds; the networks then colour the right third at once. All find the sky blue and the trees green,
in the colours of the left, whose sky is bluer: dullest by squared differences, most vivid by the
critic, which adds a grain and colours of its own. The narrow network blurs what has no critic, and
the true right third is nearly gray: leaving it as it is has the least error of all.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seed: 0, of networks and batches.
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
SIDE, STEP = 16, 6

# %%
# Patches of 16 x 16 of a photograph at half its size; its right third is kept apart.
photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)
photo = torch.nn.functional.avg_pool2d(photo.float(), 2).round().to(torch.uint8)[:, :212]
left, right = photo[..., :208], photo[..., 208:]


def patches(part):
    """All patches (n, 3, SIDE, SIDE) of a part of the photograph, STEP pixels apart."""
    rows = part.unfold(1, SIDE, STEP).unfold(2, SIDE, STEP)  # (3, rows, columns, SIDE, SIDE)
    return rows.permute(1, 2, 0, 3, 4).reshape(-1, 3, SIDE, SIDE)


pairs = aeot.data.gray_colour(patches(left))
gray, colour = aeot.data.gray_colour(right[None])[:]


# %%
def chroma(image):
    """Mean distance of a pixel's colour from gray."""
    return float((image - image.mean(1, keepdim=True)).norm(dim=1).mean())


def told(name, image):
    error = float((image - colour).square().mean().sqrt())
    pixels = [x.flatten(2)[0].T for x in (image, colour)]
    vivid = chroma(image) / chroma(colour)
    print(f"{name}: error {error:.3f}, colourfulness {vivid:.2f} of the true")
    print(f"    one, Frechet distance of its pixels' colours {frechet_distance(*pixels):.4f}")


same = {"generator": "resnet", "n_blocks": 1, "upsampling": "resize", "filters": 16}
same |= {"norm": "none", "dropout": 0.0, "batch_size": 32, "enlarge": 1.0}
same |= {"learning_rate": 1e-3, "device": "cpu"}
models = {
    "L2": aeot.Pix2Pix(**same, adversary="none", difference="squared"),
    "L1": aeot.Pix2Pix(**same, adversary="none"),
    "L1 and patches": aeot.Pix2Pix(**same, n_layers=1, l1=30.0, adversary="wasserstein"),
}
shown = {"seen": gray.expand(-1, 3, -1, -1), "true": colour}
told("gray", gray.expand(-1, 3, -1, -1))
for name, model in models.items():
    model.fit(pairs, steps=3 if quick else 500)
    shown[name] = model.translate(gray, noise=False).cpu()
    told(name, shown[name])
side_by_side(shown, columns=1, path=OUT / "44_colourise.png")
