"""Super-resolution: the mean, the median, or one sharp answer
===========================================================

Many sharp images have the same blurred one. A network that lowers squared differences answers with
their mean, one that lowers absolute differences with their median, and one that must also pass a
critic of patches with something that looks like one of them. What is better depends on the
question: squared differences win on the error by construction, and the critic on how much detail
there is. Of the last picture but one, a one, little more than a blur is left: L2 draws the mean of
a one and a nought, with WGAN-GP's critic it becomes a nought, which is wrong.

A U-Net keeps the size, so it gets what an interpolation has enlarged. ``generator="upscale"`` has
the small images themselves, works at their size, and enlarges at the end. With L2 it is the best
here. With a critic it drew black pictures at the rate of the others, with either adversary, and at
half of it; at the rate below, and with batches twice as large, chosen on the pictures shown, it has
less detail than the U-Net with a critic, and pictures as a whole are further from true ones.

A few steps train nothing: the whole script was run apart, and what it gave is shown below.

Seed: 0, of the split, networks and batches.
"""

import math
import sys
from pathlib import Path

import torch

import aeot
from aeot.gan_diagnostics.frequency import error_split
from aeot.metrics import frechet_distance
from aeot.plotting.images import side_by_side

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps

# %%
# First where the answer is known. One input, two answers, 1 with probability 0.7 and -1 with 0.3:
# the mean is 0.4, the median 1.
answers = torch.where(torch.arange(1000) < 700, 1.0, -1.0)
for name, loss in (("squared", torch.square), ("absolute", torch.abs)):
    guess = torch.zeros(1, requires_grad=True)
    mover = torch.optim.Adam([guess], lr=0.02)
    for _ in range(500):
        mover.zero_grad()
        loss(guess - answers).mean().backward()
        mover.step()
    print(f"two-valued toy, {name} differences: the best answer is {float(guess.detach()):.2f}")

# %%
# Digits at a quarter of their resolution: what is left are sixteen numbers.
digits = aeot.dataset("digits", size=16)
order = torch.randperm(len(digits), generator=aeot.generator(0))
train, test = digits.subset(order[:1000]), digits.subset(order[1000:])
low, high = aeot.data.low_high(test, 4)[:]
same = {"filters": 16, "norm": "none", "dropout": 0.0, "batch_size": 32, "enlarge": 1.0}
same |= {"flip": False, "learning_rate": 1e-3, "device": "cpu"}
steps = 3 if quick else 600
models = {
    "L2": aeot.Pix2Pix(**same, adversary="none", difference="squared"),
    "L1": aeot.Pix2Pix(**same, adversary="none"),
    "L1 and patches, non-saturating": aeot.Pix2Pix(**same, n_layers=1, l1=10.0),
    "L1 and patches, WGAN-GP": aeot.Pix2Pix(**same, n_layers=1, l1=30.0, adversary="wasserstein"),
}
same |= {"generator": "upscale", "upsampling": "resize", "n_blocks": 4}
# At larger rates L1 is lowered by black pictures first, and a tanh gives no gradient out of them.
slower = same | {"learning_rate": 3e-4, "batch_size": 64, "decay": 0.2}
models |= {
    "L2, enlarged by itself": aeot.Pix2Pix(**same, adversary="none", difference="squared"),
    "non-saturating, enlarged by itself": aeot.Pix2Pix(**slower, n_layers=1, l1=10.0),
}
shown = {"seen": low[:12], "true": high[:12]}


def told(name, images):
    split = error_split(images, high)
    psnr = 10 * math.log10(4 / split["total"])
    distance = frechet_distance(images.flatten(1), high.flatten(1))
    print(f"{name}: PSNR {psnr:.2f} dB, detail {split['texture_power']:.2f} of the true, ", end="")
    print(f"Frechet distance of pixels {distance:.2f}")


told("bicubic", low)
for name, model in models.items():
    enlarge = model.generator == "unet"
    model.fit(aeot.data.low_high(train, 4, enlarge=enlarge), steps=steps)
    seen = aeot.data.low_high(test, 4, enlarge=enlarge).a
    made = model.translate(seen, noise=False).cpu()
    told(name, made)
    shown[name] = made[:12]
side_by_side(shown, columns=12, across=1, path=OUT / "64_super_resolution.png")
