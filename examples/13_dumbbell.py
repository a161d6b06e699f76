"""A connected target is no help: the dumbbell
==============================================

The target is in one piece, but not convex. The map still breaks, along two curves. They start at
the border above and below the neck and end where the neck connects the two halves. (Cf. Fig. 10 of
Lei et al., "A geometric understanding of deep learning".)
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


def dumbbell(spacing):
    """Jittered square lattice in two disks joined by a bar."""
    axis = np.arange(-1.8, 1.8, spacing)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2) + spacing / 2
    points += 0.1 * spacing * np.random.default_rng(0).standard_normal(points.shape)
    x, y = points.T
    lobes = np.hypot(np.abs(x) - 1, y) < 0.7
    bar = (np.abs(x) < 1) & (np.abs(y) < 0.16)
    return torch.from_numpy(points[lobes | bar])


# %%
spacing = 0.1 if quick else 0.03
sites = dumbbell(spacing)
solution = aeot.solve_exact(aeot.UniformBall(dim=2), sites)
diagram = aeot.power_diagram(solution.source, sites, solution.heights)
print(f"{len(sites)} sites: {solution.message}")

# Within the neck the map stretches, but only across the curves does it jump this far.
singular = diagram.facets.jumps > 0.5
curves = aeot.singular_curves(diagram, singular)
print(f"{len(curves.lines)} singular curves, {len(curves.branch_points)} branch points")
figure = Figure(figsize=(10, 5), layout="constrained")
left, right = figure.subplots(1, 2)
plots.power_diagram(diagram, singular=singular, edges=False, ax=left)
plots.delaunay(diagram, singular=singular, ax=right)
left.set_title("source: cells and singular set")
right.set_title("target: what stays adjacent")
figure.savefig(OUT / "13_dumbbell.png", dpi=130)
plots.displacement(diagram, path=OUT / "13_displacement.png")
