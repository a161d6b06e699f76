"""A generator without an adversary
==================================

`GAN(loss="sinkhorn")` lowers the debiased Sinkhorn divergence between a batch of samples and a
batch of data: computed, not trained, so nothing can circle. What it costs is bias: two batches of
one law are not at distance zero, and detail below the blur is not seen.
"""

import sys
import time
from pathlib import Path

from matplotlib.figure import Figure

import aeot
from aeot.metrics import mode_coverage, sliced_wasserstein

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer steps

# %%
data, held = aeot.data.toy("ring", 8000), aeot.data.toy("ring", 8000, seed=1)[:]
same = {"latent_dim": 2, "prior": "normal", "architecture": "mlp", "hidden": 128, "device": "cpu"}
same |= {"learning_rate": 1e-3, "betas": (0.5, 0.9), "seed": 0}
steps = 10 if quick else 300
models = {
    "Sinkhorn, blur 0.2": aeot.GAN(**same, loss="sinkhorn", blur=0.2, batch_size=128),
    "Sinkhorn, blur 0.05": aeot.GAN(**same, loss="sinkhorn", blur=0.05, batch_size=128),
    "WGAN-GP": aeot.WGANGP(**same, penalty=0.1, batch_size=128),
}
figure = Figure(figsize=(10, 3.4), layout="constrained")
for axis, (name, model) in zip(figure.subplots(1, 3), models.items(), strict=True):
    begun = time.process_time()
    model.fit(data, steps=steps)
    seconds = time.process_time() - begun
    points = model.sample(2500, seed=1)
    found = mode_coverage(points, data.info["modes"], data.info["std"])
    away = sliced_wasserstein(points, held)
    print(f"{name}: {found['modes']:.0f} of 8 modes, {found['high_quality']:.0%} inside, ", end="")
    print(f"sliced W2 {away:.3f}, {seconds:.1f} processor seconds for {steps} steps")
    axis.scatter(*points.T, s=2, color="#0b62c4", alpha=0.4, lw=0)
    axis.set(title=name, aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
two = sliced_wasserstein(aeot.data.toy("ring", 2500, seed=2)[:], held)
print(f"two samples of the data: sliced W2 {two:.3f}")
figure.savefig(OUT / "66_sinkhorn_generator.png", dpi=120)
