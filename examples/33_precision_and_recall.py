"""Two ways to be wrong
====================

A generator may draw points that are no data, or leave data out. One number cannot tell these two
faults apart; precision and recall can, and so can density and coverage.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.metrics import frechet_distance, prdc

OUT = Path("out")
OUT.mkdir(exist_ok=True)
n = 500 if "--quick" in sys.argv else 2000

# %%
data = aeot.data.toy("ring", n, scaling="wgan-gp", seed=0)
fresh = aeot.data.toy("ring", n, scaling="wgan-gp", seed=1)
g = aeot.generator(2)
few = fresh.values[fresh.labels < 3]
samplers = {
    "as the data": fresh.values,
    "noisy": fresh.values + 0.25 * torch.randn(n, 2, generator=g),
    "three modes": few[torch.randint(len(few), (n,), generator=g)],
    "bridges": (fresh.values + fresh.values.roll(1, 0)) / 2,
}

# %%
figure = Figure(figsize=(10, 3.2), layout="constrained")
for axis, (name, points) in zip(figure.subplots(1, 4), samplers.items(), strict=True):
    scores = prdc(points, data.values)
    distance = frechet_distance(points, data.values)
    print(f"{name:12s} FD {distance:.3f} " + " ".join(f"{k} {v:.2f}" for k, v in scores.items()))
    axis.scatter(*data.values.T, s=3, c="lightgray")
    axis.scatter(*points.T, s=2, c="#1d5c9c")
    title = f"{name}\nprecision {scores['precision']:.2f}, recall {scores['recall']:.2f}"
    axis.set(xticks=[], yticks=[], aspect="equal", title=title)
path = OUT / "33_precision_and_recall.png"
figure.savefig(path, dpi=110)
print(path)
