"""Reading the certificate
=======================

In many dimensions the masses of cells can only be counted on samples. The solver counts on points
that it has not optimised on, subtracts the noise of the count, and gives a bound that holds with
95 % confidence. Here the bound is compared with the count on a much larger sample.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # looser tolerances, a smaller sample

# %%
# A tolerance is a share of the source: at most so much may go to the wrong site.
sites = torch.randn(500, 8, generator=aeot.generator(0))
source = aeot.UniformBox(dim=8)
asked = (0.2, 0.1, 0.05) if quick else (0.2, 0.1, 0.05, 0.02)
solutions = [aeot.solve_semidiscrete(source, sites, tol=tol, seed=0) for tol in asked]
for tol, solution in zip(asked, solutions, strict=True):
    print(f"tol {tol}: {solution.message}, {solution.n_samples} samples in all")

# %%
# Count again, on points that nobody has seen. The count has noise of its own, about
# 0.4 sqrt(n / m) for n sites and m points, so it lies a little above the truth.
m = 500_000 if quick else 5_000_000
points = source.sample(m, generator=aeot.generator(99))
counted = []
for solution in solutions:
    masses = torch.bincount(solution.map().cell(points), minlength=500) / m
    counted.append(float((masses - 1 / 500).abs().sum() / 2))
figure = Figure(figsize=(5.2, 3.8), layout="constrained")
axis = figure.add_subplot(xscale="log", yscale="log", xlabel="tol", ylabel="total variation")
axis.plot(asked, asked, ":", c="gray", label="tol")
axis.plot(asked, [s.mass_error_upper for s in solutions], "v-", label="bound of the certificate")
axis.plot(asked, counted, "o", label=f"counted on {m} points")
axis.plot(asked, [s.mass_error for s in solutions], "x", label="estimate of the certificate")
axis.legend(frameon=False)
path = OUT / "04_certificate.png"
figure.savefig(path, dpi=110)
print(path)
