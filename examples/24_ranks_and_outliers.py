"""Ranks, quantile contours and outliers in the plane
=====================================================

On a line the rank of a number is its place among the others, between 0 and 1. In the plane, the
optimal transport of the data onto the uniform disk gives every point a place in the disk: its
centre-outward rank. The middle of the disk is the middle of the data, and the deepest share p of
the data fills the disk of radius sqrt(p). The image of a circle is a quantile contour, which
follows data that no ellipse fits. The points that lie farthest out in their direction are found
without a model of the data. (V. Chernozhukov, A. Galichon, M. Hallin, M. Henry, "Monge-Kantorovich
depth, quantiles, ranks and signs", Annals of Statistics 45, 2017.)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
n = 400 if "--quick" in sys.argv else 2000

# Two positive, skewed measurements, and one row in fifty where one of them is negative. An ellipse
# around the data reaches far beyond zero and sees nothing unusual in those.
rng = np.random.default_rng(0)
usual = rng.gamma(1.5, size=(n, 2))
strange = rng.gamma(1.5, size=(n // 50, 2))
strange[np.arange(len(strange)), rng.integers(2, size=len(strange))] = -0.3
data = np.concatenate([usual, strange])
is_strange = np.arange(len(data)) >= n

# %%
# Ranks, and the depth of every point: the share of the data that lies deeper than it.
model = aeot.SemiDiscreteOT(source="ball").fit(data)
ranks = model.transform(data)
depth = (ranks**2).sum(1)  # the disk of this area, in parts of the whole
print(model.solution_.message)
quartiles = np.quantile(depth, [0.25, 0.5, 0.75])
print(f"quarters of the data lie in the disks of area {quartiles.round(3)}")

# %%
# How well depth, and the distance that an ellipse knows, tell strange points from the others.
shifted = data - data.mean(0)
ellipse = (shifted @ np.linalg.inv(np.cov(data.T)) * shifted).sum(1)
for name, score in {"depth": depth, "ellipse (Mahalanobis)": ellipse}.items():
    print(f"{name}: strange before usual in {roc_auc_score(is_strange, score):.1%} of the pairs")

# %%
# Contours: images of circles under the map extended between the points.
angle = torch.linspace(0, 2 * torch.pi, 361, dtype=torch.float64)
circle = torch.stack([angle.cos(), angle.sin()], 1)
figure = Figure(figsize=(10, 4.5), layout="constrained")
left, right = figure.subplots(1, 2)
for axes, points in ((left, ranks), (right, data)):
    axes.scatter(*points.T, c=depth, s=6, cmap="viridis")
    axes.scatter(*points[is_strange].T, facecolors="none", edgecolors="tab:red", s=24)
for share in (0.25, 0.5, 0.75, 0.9):
    radius = share**0.5
    left.plot(*(radius * circle).T, color="black", linewidth=1)
    contour = model.brenier_.extend(radius * circle, method="linear")
    right.plot(*contour.T, color="black", linewidth=1)
left.set(title="ranks in the disk, circles of 25, 50, 75 and 90 %", aspect="equal")
right.set(title="the data, and what the circles are there; red: strange")
path = OUT / "24_ranks_and_outliers.png"
figure.savefig(path, dpi=120)
print(path)
