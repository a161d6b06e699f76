"""A generator without an adversary
==================================

`GAN(loss="sinkhorn")` lowers the debiased Sinkhorn divergence between a batch of samples and a
batch of data: computed, not trained, so nothing can circle. What it costs is bias: two batches of
one law are not at distance zero, and detail below the blur is not seen. Networks of one size,
each for a quarter or half of a minute: all reach the eight modes and have bridges left between
them; the smaller blur comes closest to the data, at twice the price of the larger.

Seeds: 0, of data and networks; 1 of held-out data and samples, 2 of the second sample.
"""

import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.metrics import mode_coverage, sliced_wasserstein

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps

# %%
# Eight modes on a ring, ten times as wide as usual, so that a batch tells how wide they are.
modes, WIDTH = aeot.data.toy("ring", 8).info["modes"], 0.1


def ring(n, seed):
    g = aeot.generator(seed, "ring")
    return (modes[torch.arange(n) % 8] + WIDTH * torch.randn(n, 2, generator=g)).float()


data, held = ring(8000, 0), ring(8000, 1)
same = {"latent_dim": 2, "prior": "normal", "architecture": "mlp", "hidden": 128, "device": "cpu"}
same |= {"learning_rate": 2e-3, "betas": (0.5, 0.9), "seed": 0}
models = {
    "Sinkhorn, blur 0.3": (aeot.GAN(**same, loss="sinkhorn", blur=0.3, batch_size=64), 500),
    "Sinkhorn, blur 0.05": (aeot.GAN(**same, loss="sinkhorn", blur=0.05, batch_size=64), 500),
    "WGAN-GP": (aeot.WGANGP(**same, penalty=0.1, critic_steps=2, batch_size=64), 1000),
}
figure = Figure(figsize=(13, 3.4), layout="constrained")
first, *axes = figure.subplots(1, 4)
first.scatter(*data[:2500].T, s=2, color="#0b62c4", alpha=0.4, lw=0)
first.set(title="data", aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
for axis, (name, (model, steps)) in zip(axes, models.items(), strict=True):
    begun = time.process_time()
    model.fit(data, steps=10 if quick else steps)
    seconds = time.process_time() - begun
    points = model.sample(2500, seed=1)
    found = mode_coverage(points, modes, WIDTH)
    away = sliced_wasserstein(points, held)
    print(f"{name}: {found['modes']:.0f} of 8 modes, {found['high_quality']:.0%} inside, ", end="")
    print(f"sliced W2 {away:.3f}, {seconds:.1f} processor seconds")
    axis.scatter(*points.T, s=2, color="#0b62c4", alpha=0.4, lw=0)
    axis.set(title=name, aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
print(f"two samples of the data: sliced W2 {sliced_wasserstein(ring(2500, 2), held):.3f}")
figure.savefig(OUT / "66_sinkhorn_generator.png", dpi=120)
