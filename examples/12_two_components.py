"""A target in two pieces
=========================

The uniform disk is carried onto two half-disks that lie apart. The potential has a ridge, the map
jumps across it, and the cells on its two sides move apart as the mass travels. (Cf. Fig. 8 and 9 of
Lei et al., "A geometric understanding of deep learning".)
"""

import sys
from pathlib import Path

import torch

import aeot
from aeot.plotting import transport as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer sites


def half_disks(n):
    """A sunflower of n points, its left and right half moved apart."""
    k = torch.arange(n, dtype=torch.float64) + 0.5
    angle, radius = k * torch.pi * (3 - 5**0.5), (k / n).sqrt()
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    side = points[:, 0].sign()
    return (
        points
        + side[:, None] * torch.tensor([0.5, 0.0])
        + torch.outer(side, torch.tensor([0, 0.25]))
    )


# %%
sites = half_disks(300 if quick else 3000)
solution = aeot.solve_exact(aeot.UniformBall(dim=2), sites)
diagram = aeot.power_diagram(solution.source, sites, solution.heights)
print(solution.message)

singular = diagram.facets.jumps > 0.5
curves = aeot.singular_curves(diagram, singular)
print(f"{len(curves.lines)} curve with {len(curves.branch_points)} branch points")
plots.power_diagram(diagram, singular=singular, edges=quick, path=OUT / "12_singular_curve.png")
plots.potential(diagram, azimuth=-75, path=OUT / "12_ridge.png")
plots.displacement(diagram, path=OUT / "12_displacement.png")
