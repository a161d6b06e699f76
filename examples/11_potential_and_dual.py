"""Potential, dual, power diagram, weighted Delaunay triangulation
==================================================================

One convex function determines the whole map. Its graph is an upper envelope of planes, one for each
site; seen from above it is the power diagram. Its Legendre dual is the lower hull of the points
(y, -h); seen from above it is the weighted Delaunay triangulation, dual to the diagram.
(Cf. Fig. 6 and 7 of Lei et al., "A geometric understanding of deep learning".)
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.plotting import transport as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer sites


# %%
g = aeot.generator(3)
n = 30 if quick else 60
sites = torch.rand(n, 2, generator=g, dtype=torch.float64) * 1.6 - 0.8
masses = torch.rand(n, generator=g, dtype=torch.float64) + 0.2
solution = aeot.solve_exact(aeot.UniformBall(dim=2), sites, masses / masses.sum())
diagram = aeot.power_diagram(solution.source, sites, solution.heights)
print(solution.message)
print(f"cost {diagram.cost:.6f}, duality gap {diagram.duality_gap(solution.masses):.1e}")

plots.potential(diagram, path=OUT / "11_potential.png")

figure = Figure(figsize=(10, 5), layout="constrained")
left, right = figure.subplots(1, 2)
plots.power_diagram(diagram, ax=left, centroids=True)
plots.delaunay(diagram, whole=True, ax=right)
left.set_title("power diagram, with centroids")
right.set_title("weighted Delaunay triangulation of the sites")
figure.savefig(OUT / "11_power_and_delaunay.png", dpi=130)
