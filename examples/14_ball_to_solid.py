"""From a ball to a solid with ears
===================================

In space everything is exact, too: the cells are polyhedra, cut by the ball in closed form. The
ball's mass travels to a body with a head and two ears, in four stages. Between the ears the map
breaks along sheets; the folds that these sheets open are marked in red. (Cf. Fig. 11 of Lei et al.,
"A geometric understanding of deep learning".)

`--mesh file.obj` takes any watertight triangle mesh instead.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import aeot
from aeot.plotting.style import SINGULAR, colour_sites

OUT = Path("out")
OUT.mkdir(exist_ok=True)
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true", help="a coarser solid")
parser.add_argument("--mesh", help="a watertight triangle mesh, Wavefront OBJ")
options = parser.parse_args()


def in_creature(points):
    """Inside a union of ellipsoids: body, head, two ears."""
    inside = np.zeros(len(points), dtype=bool)
    for center, axes, lean in (
        ((0.0, 0.0, -0.35), (0.62, 0.5, 0.5), 0.0),
        ((0.0, -0.1, 0.3), (0.4, 0.36, 0.34), 0.0),
        ((0.3, -0.1, 0.75), (0.13, 0.11, 0.4), 0.35),
        ((-0.3, -0.1, 0.75), (0.13, 0.11, 0.4), -0.35),
    ):
        x, y, z = (points - np.array(center)).T
        along, up = x * np.cos(lean) - z * np.sin(lean), x * np.sin(lean) + z * np.cos(lean)
        a, b, c = axes
        inside |= (along / a) ** 2 + (y / b) ** 2 + (up / c) ** 2 < 1
    return inside


def in_mesh(points, path):
    """Inside a watertight triangle mesh (Wavefront OBJ): the solid angles add up to 4 pi."""
    rows = [
        line.split() for line in Path(path).read_text().splitlines() if line[:2] in ("v ", "f ")
    ]
    vertices = np.array([row[1:4] for row in rows if row[0] == "v"], dtype=float)
    faces = [[int(k.split("/")[0]) - 1 for k in row[1:]] for row in rows if row[0] == "f"]
    fans = [(f[0], f[k], f[k + 1]) for f in faces for k in range(1, len(f) - 1)]
    vertices -= (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    triangles = vertices[np.array(fans)] / np.abs(vertices).max()
    inside = np.zeros(len(points), dtype=bool)
    for k, point in enumerate(points):
        a, b, c = (triangles - point).swapaxes(0, 1)
        la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
        below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        solid = 2 * np.arctan2((a * np.cross(b, c)).sum(1), below)
        inside[k] = abs(solid.sum()) > 2 * np.pi
    return inside


# %%
spacing = 0.13 if options.quick else 0.065
axis = np.arange(-1.3, 1.3, spacing)
lattice = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
lattice += 0.2 * spacing * np.random.default_rng(0).standard_normal(lattice.shape)
inside = in_mesh(lattice, options.mesh) if options.mesh else in_creature(lattice)
sites = torch.from_numpy(lattice[inside])

solution = aeot.solve_exact(aeot.UniformBall(dim=3), sites)
diagram = aeot.power_diagram(solution.source, sites, solution.heights)
print(f"{len(sites)} sites: {solution.message}")
print(f"W2 = {diagram.w2:.6f}, duality gap {diagram.duality_gap(solution.masses):.1e}")
singular = diagram.facets.jumps > 4 * spacing
sheets = aeot.singular_surfaces(diagram, singular).sheets
print(f"{int(singular.sum())} singular facets in {len(sheets.unique())} sheet(s)")

torn = torch.zeros(len(sites), dtype=torch.bool)
torn[diagram.facets.pairs[singular].flatten()] = True
colours = colour_sites(lattice[inside][:, [0, 2]], lightness=0.74)
colours[torn.numpy()] = np.array([int(SINGULAR[k : k + 2], 16) for k in (1, 3, 5)]) / 255
size = 24 if options.quick else 11
figure = Figure(figsize=(13, 3.9))
figure.subplots_adjust(left=0, right=1, bottom=0, top=0.92, wspace=0)
for k, t in enumerate((0.0, 1 / 3, 2 / 3, 1.0)):
    ax = figure.add_subplot(1, 4, k + 1, projection="3d", computed_zorder=True)
    points = ((1 - t) * diagram.centroids + t * sites).numpy()
    front = points[:, 1] < 0.25 if t == 0 else slice(None)
    ax.scatter(*points[front].T, c=colours[front], s=size, linewidths=0, depthshade=True)
    for name in "xyz":
        getattr(ax, f"set_{name}lim")(-1.15, 1.15)
    ax.set_box_aspect((1, 1, 1), zoom=1.45)
    ax.set_axis_off()
    ax.view_init(8, -80)
    ax.set_title(f"t = {t:.2g}", fontsize=10)
figure.savefig(OUT / "14_ball_to_solid.png", dpi=130)
