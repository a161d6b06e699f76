"""Sources of any shape
====================

The source need not be a square. Cells are exact in any polygon without crossings, and for a density
that is given as a picture. Where the picture is dark there is little mass, and the cells are large.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot
from aeot.plotting import transport as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# A triangle, and a picture of two lights.
triangle = aeot.ConvexPolygon([[-1.0, -0.8], [1.0, -0.8], [0.0, 1.0]])
place = torch.linspace(-1, 1, 64, dtype=torch.float64)
y, x = torch.meshgrid(place, place, indexing="ij")
lights = torch.exp(-8 * ((x - 0.4) ** 2 + (y - 0.4) ** 2)) + torch.exp(
    -8 * ((x + 0.5) ** 2 + (y + 0.3) ** 2)
)
sources = {
    "a triangle": triangle,
    "a picture": aeot.GridDensity(lights + 0.02, low=[-1, -1], high=[1, 1]),
}

# %%
sites = torch.randn(300, 2, generator=aeot.generator(0), dtype=torch.float64)
figure = Figure(figsize=(9, 4.6), layout="constrained")
for axis, (name, source) in zip(figure.subplots(1, 2), sources.items(), strict=True):
    solution = aeot.solve_exact(source, sites)
    plots.power_diagram(aeot.power_diagram(source, sites, solution.heights), ax=axis)
    axis.set_title(f"{name}: 300 cells of equal mass")
    print(f"{name}: {solution.message}")
path = OUT / "16_polygons_and_pictures.png"
figure.savefig(path, dpi=110)
print(path)
