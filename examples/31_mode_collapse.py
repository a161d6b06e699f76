"""Mode collapse, watched
=========================

Twenty-five Gaussians on a grid. A GAN finds some modes, loses others, and lays bridges between
them: its generator is continuous, and no continuous map takes a disc to 25 islands. The transport
map jumps instead. The places of its jumps are known, and it generates nothing there.
"""

import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.metrics.formulas import mode_coverage

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv

# %%
# The GAN of the 2-D experiments, sampled at the steps wanted.
data = aeot.data.toy("grid", 100_000)
stops = (20, 60, 120, 200) if quick else (250, 1000, 2000, 4000)
gan = aeot.PacGAN(packing=1, latent_dim=2, seed=0)
panels, begun = [], time.perf_counter()


def look(step, record):
    if step in stops:
        seconds = time.perf_counter() - begun
        panels.append((f"GAN, {step} steps, {seconds:.0f} s", gan.sample(2500, seed=1)))


gan.fit(data, steps=max(stops), on_step=look)

# %%
# 512 data points, the exact map onto them, new points of its extension.
begun = time.perf_counter()
chosen = data.subset(torch.randperm(len(data), generator=aeot.generator(0))[:512])
box = aeot.UniformBox(low=[0, 0], high=[1, 1])
solution = aeot.solve_exact(box, chosen.values.double())
brenier = solution.map()
singular = aeot.find_singularities(brenier, seed=0)
points = brenier.sample(2500, singular=singular, generator=aeot.generator(1))
panels.append((f"AE-OT, {time.perf_counter() - begun:.1f} s", points))
panels.append(("data", data.values[:2500]))

figure = Figure(figsize=(9.6, 6.8), layout="constrained")
for axis, (title, points) in zip(figure.subplots(2, 3).ravel(), panels, strict=True):
    scores = mode_coverage(points, data.info["modes"], data.info["std"])
    quality = 100 * scores["high_quality"]
    print(f"{title}: {scores['modes']:.0f} modes, quality {quality:.1f} %")
    axis.scatter(*points.T, s=2, c="#1f5fa8", alpha=0.5, linewidths=0)
    axis.set(xlim=(-5.2, 5.2), ylim=(-5.2, 5.2), aspect="equal", xticks=[], yticks=[])
    axis.set_title(f"{title}\n{scores['modes']:.0f} of 25 modes", fontsize=10)
path = OUT / "31_mode_collapse.png"
figure.savefig(path, dpi=110)
print(path)
