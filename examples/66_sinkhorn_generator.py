"""A generator without an adversary
==================================

`GAN(loss="sinkhorn")` lowers the debiased Sinkhorn divergence between a batch of samples and a
batch of data: computed, not trained, so nothing can circle. What it costs is bias: two batches of
one law are not at distance zero, and detail below the blur is not seen. Networks of one size,
each for a quarter of a minute, five seeds: all reach the eight modes and have bridges left between
them. WGAN-GP has the fewest; the smaller blur is nearest to the data on average, at a price of more
than half above that of the larger, but no distance differs beyond errors.

Seeds: 0 of data; 0 to 4 of networks; 1 of held-out data and samples, 2 of the second sample.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import aeot
from aeot.metrics import mode_coverage, sliced_wasserstein

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps and one seed

# %%
# Eight modes on a ring, ten times as wide as usual, so that a batch tells how wide they are.
modes, WIDTH = aeot.data.toy("ring", 8).info["modes"], 0.1


def ring(n, seed):
    g = aeot.generator(seed, "ring")
    return (modes[torch.arange(n) % 8] + WIDTH * torch.randn(n, 2, generator=g)).float()


data, held = ring(8000, 0), ring(8000, 1)
same = {"latent_dim": 2, "prior": "normal", "architecture": "mlp", "hidden": 128, "device": "cpu"}
same |= {"learning_rate": 2e-3, "betas": (0.5, 0.9), "batch_size": 64}
models = {
    "Sinkhorn, blur 0.3": (aeot.GAN, {"loss": "sinkhorn", "blur": 0.3}, 500),
    "Sinkhorn, blur 0.05": (aeot.GAN, {"loss": "sinkhorn", "blur": 0.05}, 500),
    "WGAN-GP": (aeot.WGANGP, {"penalty": 0.1, "critic_steps": 2}, 1000),
}
seeds = range(1 if quick else 5)
figure = Figure(figsize=(13, 3.4), layout="constrained")
first, *axes = figure.subplots(1, 4)
first.scatter(*data[:2500].T, s=2, color="#0b62c4", alpha=0.4, lw=0)
first.set(title="data", aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
print(f"means of {len(seeds)} seeds and their standard errors; processor seconds of one training")
for axis, (name, (kind, own, steps)) in zip(axes, models.items(), strict=True):
    found, begun = [], time.process_time()
    for seed in seeds:
        model = kind(**same, **own, seed=seed).fit(data, steps=10 if quick else steps)
        points = model.sample(2500, seed=1)
        if seed == 0:
            axis.scatter(*points.T, s=2, color="#0b62c4", alpha=0.4, lw=0)
        covered = mode_coverage(points, modes, WIDTH)
        away = sliced_wasserstein(points, held)
        found.append([covered["modes"], 100 * covered["high_quality"], away])
    seconds = (time.process_time() - begun) / len(seeds)
    mean, spread = np.mean(found, 0), np.std(found, 0, ddof=len(found) > 1) / len(found) ** 0.5
    print(f"{name}: {mean[0]:.1f} ± {spread[0]:.1f} of 8 modes, ", end="")
    print(f"{mean[1]:.0f} ± {spread[1]:.0f} % inside, ", end="")
    print(f"sliced W2 {mean[2]:.3f} ± {spread[2]:.3f}, {seconds:.0f} s")
    axis.set(title=name, aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
print(f"two samples of the data: sliced W2 {sliced_wasserstein(ring(2500, 2), held):.3f}")
figure.savefig(OUT / "66_sinkhorn_generator.png", dpi=120)
