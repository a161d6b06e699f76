"""From points to points: the colours of one picture for another
=============================================================

A source may be a set of points (`aeot.Empirical`). Here it is the colours of one picture, and the
sites are colours of another. The map recolours the first picture with the palette of the second,
and every colour is used as often as it occurs in the second.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # smaller pictures

# %%
# Two pictures without a file: a sky at noon, and one at dusk.
side = 96 if quick else 256
up, across = torch.meshgrid(torch.linspace(1, 0, side), torch.linspace(0, 1, side), indexing="ij")
waves = 0.05 * torch.sin(25 * across + 9 * up)
noon = torch.stack([0.25 + 0.5 * (1 - up) + waves, 0.5 + 0.4 * (1 - up), 0.95 - 0.1 * across], -1)
dusk = torch.stack([0.95 - 0.5 * up, 0.35 + 0.3 * (1 - up) ** 2, 0.2 + 0.5 * up * across], -1)
sun = (across - 0.7).hypot(up - 0.6) < 0.12
noon[sun] = torch.tensor([1.0, 1.0, 0.85])

# %%
noise = 0.01 * torch.randn(side, side, 3, generator=aeot.generator(0))
source = aeot.Empirical((noon + noise).reshape(-1, 3))
chosen = torch.randperm(side * side, generator=aeot.generator(1))[:400]
palette = (dusk + noise).reshape(-1, 3)[chosen]
solution = aeot.solve_semidiscrete(source, palette, tol=0.1, seed=0)
print(solution.message)
recoloured = solution.map()(noon.reshape(-1, 3)).reshape(side, side, 3)
figure = Figure(figsize=(9, 3.3), layout="constrained")
shown = {"colours of this one": noon, "become those of this one": dusk, "recoloured": recoloured}
for axis, (name, picture) in zip(figure.subplots(1, 3), shown.items(), strict=True):
    axis.imshow(picture.clamp(0, 1).numpy())
    axis.set_title(name)
    axis.set_axis_off()
path = OUT / "25_points_to_points.png"
figure.savefig(path, dpi=110)
print(path)
