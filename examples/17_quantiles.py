"""On a line, transport is quantiles
=================================

In one dimension the optimal map is the quantile function, and the solver uses it: heights are exact
for a box, a Gaussian or points, for a million sites in seconds. Each step of the map is a site, and
a jump over a gap in the data is a tear. The 1-Wasserstein distance is the mean distance of
quantiles, which has a closed form for two Gaussians.
"""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import aeot
from aeot.metrics import wasserstein1

OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# Two groups on a line: the median is a gap.
rng = np.random.default_rng(0)
values = np.r_[rng.normal(-3, 0.4, 200), rng.normal(3, 0.7, 200)]
solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=1), values[:, None])
brenier = solution.map()
print(solution.message)

# %%
ranks = (torch.arange(997, dtype=torch.float64)[:, None] + 0.5) / 997
mapped = brenier(ranks)[:, 0]
wanted = np.quantile(values, ranks[:, 0].numpy(), method="inverted_cdf")
print("largest difference to numpy's quantiles:", float(np.abs(mapped.numpy() - wanted).max()))
singular = aeot.find_singularities(brenier, lambda angles, jumps: jumps > 1)  # a rule of one's own
figure = Figure(figsize=(5.6, 3.8), layout="constrained")
axis = figure.add_subplot(xlabel="source: the unit interval", ylabel="data")
axis.plot(ranks[:, 0], mapped, c="#1d5c9c")
for i, j in singular.pairs.tolist():
    low, high = sorted(brenier.sites[[i, j], 0].tolist())
    axis.plot([(values <= low).mean()] * 2, [low, high], c="#c81e3a", lw=3)
axis.set_title(f"the map, with its {len(singular.pairs)} tear(s) in red")
path = OUT / "17_quantiles.png"
figure.savefig(path, dpi=110)
print(path)

# %%
# Quantiles of N(1, 4) and N(0, 1) differ by 1 + z, z a normal number: their distance is E|1 + z|.
# Samples miss it by chance, and two samples of one law are not at distance zero. Along random
# directions of the plane only a part of a shift is seen, 2 / pi of it.
exact = math.sqrt(2 / math.pi) * math.exp(-0.5) + math.erf(math.sqrt(0.5))
print(f"N(0, 1) and N(1, 4) are {exact:.5f} apart")
for n in (100, 1000, 10_000):
    x, y, again = rng.normal([[0.0], [1.0], [0.0]], [[1.0], [2.0], [1.0]], (3, n))
    found = wasserstein1(x[:, None], y[:, None]), wasserstein1(x[:, None], again[:, None])
    print(f"{n} samples: {found[0]:.3f}, two samples of N(0, 1) {found[1]:.3f}")
plane = rng.normal(size=(1000, 2))
shift = plane + [3.0, 4.0]
exact, sliced = wasserstein1(plane, shift), wasserstein1(plane, shift, projections=4000)
print(f"a shift by 5 in the plane: {exact:.3f}, sliced {sliced:.3f}, 5 * 2 / pi = {10 / np.pi:.3f}")
