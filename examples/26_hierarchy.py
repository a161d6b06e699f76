"""A map in two stages
===================

The map is solved for clusters first, then for the sites inside each cluster. These are small
problems that need little memory and could run anywhere. The map preserves measure, but it has a
price: it jumps along the borders of the coarse cells, and it costs more than the optimal map.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
sites = torch.randn(200, 2, generator=aeot.generator(0), dtype=torch.float64)
source = aeot.UniformBox(low=[-1.0, -1.0], high=[1.0, 1.0])
best = aeot.solve_semidiscrete(source, sites)
staged = aeot.solve_hierarchical(source, sites, clusters=4, tol=0.2)
points = source.sample(60_000, generator=aeot.generator(1))
cost = best.map().costs().cost
print(f"cost of the optimal map {cost:.4f}, of the two stages {staged.cost(points.double()):.4f}")

# %%
# Each point of the source in the colour of its site's cluster: the staged map's cells keep to
# the coarse ones, the optimal map's do not.
figure = Figure(figsize=(9, 4.4), layout="constrained")
owners = {"two stages": staged.cell(points), "optimal": best.map().cell(points)}
for axis, (name, cells) in zip(figure.subplots(1, 2), owners.items(), strict=True):
    axis.scatter(*points.T, c=staged.labels[cells], cmap="tab10", s=0.5, linewidths=0)
    axis.set(title=name, aspect="equal", xticks=[], yticks=[])
path = OUT / "26_hierarchy.png"
figure.savefig(path, dpi=110)
print(path)
