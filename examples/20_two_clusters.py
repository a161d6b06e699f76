"""Two clusters: the map breaks along a line
============================================

The uniform disk is carried onto two clusters. The map cannot be continuous: it breaks along a curve
that divides the disk according to the masses of the clusters. New points are generated on both
sides, and none between the clusters.
"""

import sys
from pathlib import Path

import torch

import aeot
from aeot.plotting import singular as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv


# %%
n = 200 if quick else 600
g = aeot.generator(0)
sites = 0.15 * torch.randn(n, 2, generator=g, dtype=torch.float64)
left = torch.arange(n) < 0.3 * n  # three tenths of the mass
sites[left, 0] -= 1.0
sites[~left, 0] += 1.0
solution = aeot.solve_exact(aeot.UniformBall(dim=2), sites, tol=1e-8)
brenier = solution.map()

singular = aeot.find_singularities(brenier)
print(singular)
drawn = brenier.draw(5000, singular=singular, method="linear", generator=aeot.generator(1))
between = (drawn.codes[:, 0].abs() < 0.3).sum()
share = (drawn.codes[:, 0] < 0).double().mean()
print(f"{drawn.acceptance:.1%} of the points kept, {int(between)} codes between the clusters")
print(f"share of the left cluster: {share:.3f} (asked for 0.300)")
path = OUT / "two_clusters.png"
plots.modes(singular, codes=drawn.codes, path=path)
print(f"figure: {path}")
