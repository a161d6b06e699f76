"""Where two, three or more planes meet
====================================

The potential is the highest of many planes. Where one plane is highest, the map is continuous. On a
facet two planes are highest, and the subdifferential is the segment between their sites; at a
vertex it is a triangle. The dimension of this hull divides all points into the sets Sigma_0,
Sigma_1, Sigma_2 of Lei et al., "A geometric understanding of deep learning", section 4.

Seeds: 2, of sites and points; 0 of transports.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.plotting import transport as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer points

# %%
# Twelve sites, and the cells that share the disk equally between them.
g = aeot.generator(2)
sites = torch.rand(12, 2, generator=g, dtype=torch.float64) * 1.6 - 0.8
disk = aeot.UniformBall(dim=2)
solution = aeot.solve_exact(disk, sites)
brenier = solution.map()
diagram = aeot.power_diagram(disk, sites, solution.heights)

# %%
# Ends of facets inside the disk are the vertices of the diagram; middles lie on facets; centroids
# inside cells. `subgradient` sees points alone, and counts the planes that meet there.
ends = diagram.facets.endpoints
inside = ends.reshape(-1, 2)
inside = inside[inside.norm(dim=1) < 1 - 1e-9]
marks = {
    "cells: one site": diagram.centroids,
    "facets: the segment of two": ends.mean(1),
    "vertices: the triangle of three": inside,
}
figure = Figure(figsize=(10, 5), layout="constrained")
left, right = figure.subplots(1, 2)
plots.power_diagram(diagram, ax=left)
left.set_title("points of the source")
right.set_title("the subdifferential of each: a site, a segment, a triangle")
for (name, points), colour in zip(marks.items(), ("#0b62c4", "#c2571c", "#c81e3a"), strict=True):
    found = brenier.subgradient(points, tol=1e-9)
    print(f"{name}: dimensions {found.dimension.unique().tolist()}, {len(points)} points")
    left.scatter(*points.T, s=22, color=colour, zorder=4, label=name)
    for hull in found.vertices:
        corners = sites[hull[hull >= 0]]
        right.fill(*corners.T, color=colour, alpha=0.2, lw=0)
        if len(corners) == 2:
            right.plot(*corners.T, color=colour, lw=2)
right.scatter(*sites.T, s=30, color="#0b62c4", zorder=4)
left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False)
right.set_aspect("equal")
right.set_axis_off()
figure.savefig(OUT / "18_subgradients.png", dpi=130)


# %%
# In more dimensions nothing can be drawn, and the count still holds: a point that moves from inside
# a cell to the nearest place where its k highest planes are equal has a subdifferential of
# dimension k - 1, unless another plane is higher there.
def moved(brenier, points, k):
    """Points of the least change at which the k highest planes of each are equal."""
    _, order = brenier.top(points, k)
    edges = brenier.sites[order[:, 1:]] - brenier.sites[order[:, :1]]
    gaps = brenier.heights[order[:, :1]] - brenier.heights[order[:, 1:]]
    rest = gaps - (edges @ points[:, :, None])[:, :, 0]
    return points + torch.linalg.lstsq(edges, rest[:, :, None]).solution[:, :, 0]


for d in (3, 8):
    gaussian = aeot.Gaussian(dim=d)
    many = torch.randn(200, d, generator=g, dtype=torch.float64)
    brenier = aeot.solve_semidiscrete(gaussian, many, tol=0.05).map()
    x = gaussian.sample(200 if quick else 2000, generator=g).double()
    for k in range(1, d + 2):
        counts = brenier.subgradient(moved(brenier, x, k), tol=1e-9).dimension
        share = float((counts == k - 1).double().mean())
        print(f"d = {d}: {share:4.0%} of {len(x)} points moved to {k} planes are in Sigma_{k - 1}")
