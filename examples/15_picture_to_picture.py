"""One picture carried onto another
===================================

A picture is a density: dark pixels hold mass (in the second picture, light ones). Exact transport
cuts it into cells of equal mass. Moving every site to the centroid of its cell, a few times in
turn, makes dots that each stand for the same amount of ink. Then the ink of one picture is carried
onto the dots of the other: this is the cheapest way to turn the first into the second.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import aeot
from aeot.plotting.style import INK

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer dots


def ink(name, rows, *, invert=False):
    """A picture as a density on a rectangle of height 1: dark is heavy, or light if inverted."""
    grey = torch.from_numpy(load_sample_image(name).mean(axis=2) / 255).float()[None, None]
    columns = round(rows * grey.shape[3] / grey.shape[2])
    small = torch.nn.functional.interpolate(grey, (rows, columns), mode="bilinear", antialias=True)[
        0, 0
    ]
    dark = (small if invert else 1 - small).clamp(0.02, 1) ** 1.6
    return aeot.GridDensity(dark, high=[columns / rows, 1.0])


def stipple(density, n, rounds):
    """Sites that are the centroids of their equal-mass cells, nearly."""
    sites = density.sample(n, generator=aeot.generator(0))
    for _ in range(rounds):
        sites = aeot.solve_exact(density, sites, tol=1e-2).cell_centroids
    return sites


# %%
n, rows, rounds = (400, 60, 2) if quick else (6000, 240, 6)
source, target = ink("china.jpg", rows), ink("flower.jpg", rows, invert=True)
sites = stipple(target, n, rounds)
start = stipple(source, n, rounds)  # only to show the source in the same hand
solution = aeot.solve_exact(source, sites)
diagram = aeot.power_diagram(source, sites, solution.heights)
print(f"{n} dots: {solution.message}; W2 = {diagram.w2:.5f}")

figure = Figure(figsize=(12, 3.1), layout="constrained")
axes = figure.subplots(1, 3)
wide = float(source.high[0])
shown = (
    (start, "a picture in dots of equal ink"),
    ((diagram.centroids + sites) / 2, "half way"),
    (sites, "the other picture"),
)
for ax, (points, title) in zip(axes, shown, strict=True):
    ax.scatter(*points.T, s=2.2 * 6000 / n, c=INK, linewidths=0)
    ax.set(xlim=(0, wide), ylim=(0, 1), aspect="equal", title=title)
    ax.set_axis_off()
error = np.abs(solution.cell_masses.numpy() * n - 1).max()
print(f"largest relative error of a cell's ink: {error:.1e}")
figure.savefig(OUT / "15_picture_to_picture.png", dpi=130)
