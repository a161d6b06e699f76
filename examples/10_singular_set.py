"""Where a transport map must break
===================================

The source is a disk. The target is a square with a notch, a slit and a triangular hole. No optimal
map onto a target with a hole is continuous: the exact map jumps along curves, the singular set. The
curves that belong to the three sides of the hole meet in a branch point, whose subgradient is the
triangle itself. (Cf. Fig. 5 of Lei et al., "A geometric understanding of deep learning".)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import aeot
from aeot.plotting import transport as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # a coarser target


def target(spacing):
    """Jittered triangular lattice in the square without its notch, slit and triangle."""
    across, up = np.arange(-1, 1, spacing), np.arange(-1, 1, spacing * np.sqrt(0.75))
    points = np.stack(np.meshgrid(across, up), axis=-1)
    points[1::2, :, 0] += spacing / 2
    points = points.reshape(-1, 2)
    points += 0.15 * spacing * np.random.default_rng(0).standard_normal(points.shape)
    x, y = points.T
    notch = (y > 0.1) & (np.abs(x + 0.55) < 0.32 * (y - 0.1))
    slit = (np.abs(x - 0.1) < 0.75) & (np.abs(y + 0.6) < 0.09)
    triangle = (y > 0.0) & (y < 0.6) & (np.abs(x - 0.45) < 0.58 * (0.6 - y))
    inside = (np.abs(points) < 1).all(axis=1) & ~notch & ~slit & ~triangle
    return torch.from_numpy(points[inside])


# %%
spacing = 0.08 if quick else 0.03
sites = target(spacing)
solution = aeot.solve_exact(aeot.UniformBall(dim=2), sites)
diagram = aeot.power_diagram(solution.source, sites, solution.heights)
print(f"{len(sites)} sites: {solution.message}")

# Neighbours in the target are about one spacing apart; much larger jumps are breaks.
singular = diagram.facets.jumps > 4 * spacing
curves = aeot.singular_curves(diagram, singular)
print(f"{len(curves.lines)} curves, {len(curves.branch_points)} branch point(s)")

figure = Figure(figsize=(10, 5), layout="constrained")
left, right = figure.subplots(1, 2)
plots.power_diagram(diagram, singular=singular, edges=False, ax=left)
plots.delaunay(diagram, singular=singular, ax=right)
left.set_title("source: cells and singular set")
right.set_title("target: what stays adjacent")
figure.savefig(OUT / "10_singular_set.png", dpi=130)
