"""What points of the source say of a map: its costs, the centroids and spread of its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aeot._rng import generator
from aeot.transport import heights

if TYPE_CHECKING:
    from aeot.transport.brenier import BrenierMap

_BLOCK = 8192  # points per block; part of the definition of the stream


@dataclass(frozen=True)
class Costs:
    """Transport cost and dual value, measured on the same points of the source.

    Attributes:
        cost: E |x - T(x)|^2 / 2, and its standard error.
        cost_error: Standard error of `cost`.
        semidual: E psi^c(x) + <nu, psi>: equal to the cost at the optimum, else either sign.
        semidual_error: Standard error of `semidual`.
        w2: sqrt(2 cost), the 2-Wasserstein distance if the heights are optimal.
        w2_error: Standard error of `w2`.
        n_points: How many points.
    """

    cost: float
    cost_error: float
    semidual: float
    semidual_error: float
    w2: float
    w2_error: float
    n_points: int


def stream(
    brenier: BrenierMap, n_points: int, seed: int, key: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield points of the source in float64 with their cells, block by block."""
    for block, start in enumerate(range(0, n_points, _BLOCK)):
        count = min(_BLOCK, n_points - start)
        x = brenier.source.sample(count, generator=generator(seed, key, block))
        x = x.to(brenier.sites.device)
        yield x.to(torch.float64), brenier.cell(x)


def costs(brenier: BrenierMap, n_points: int, seed: int) -> Costs:
    """Measure costs; the arguments are those of `BrenierMap.costs`."""
    sites = brenier.sites.to(torch.float64)
    total = torch.zeros(4, dtype=torch.float64, device=sites.device)
    for x, owner in stream(brenier, n_points, seed, "costs"):
        y = sites[owner]
        move = (x - y).square().sum(1) / 2
        dual = x.square().sum(1) / 2 - brenier.heights[owner] - (x * y).sum(1)
        parts = [move.sum(), move.square().sum(), dual.sum(), dual.square().sum()]
        total += torch.stack(parts)
    cost, square, dual, dual_square = (total / n_points).tolist()
    inner = float(brenier.masses @ heights.dual_from_heights(brenier.heights, brenier.sites))
    cost_error = (max(square - cost**2, 0.0) / (n_points - 1)) ** 0.5
    dual_error = (max(dual_square - dual**2, 0.0) / (n_points - 1)) ** 0.5
    w2 = (2 * cost) ** 0.5
    w2_error = cost_error / w2 if w2 > 0 else 0.0
    return Costs(cost, cost_error, dual + inner, dual_error, w2, w2_error, n_points)


def moments(brenier: BrenierMap, n_points: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate the cells' centroids (n, d) and the mean of |x - c_i|^2 / d, in float64."""
    n, d = brenier.sites.shape
    count = torch.zeros(n, dtype=torch.int64, device=brenier.sites.device)
    total = torch.zeros(n, d, dtype=torch.float64, device=brenier.sites.device)
    square = torch.zeros((), dtype=torch.float64, device=brenier.sites.device)
    for x, owner in stream(brenier, n_points, seed, "moments"):
        count += torch.bincount(owner, minlength=n)
        total.index_add_(0, owner, x)
        square += x.square().sum()
    hit = count > 0
    mean = total / count.clamp(min=1)[:, None]
    inside = square - (count[:, None] * mean.square()).sum()
    # Each mean is fitted to its own points, which hides one part in count of the spread.
    spread = inside / (d * (n_points - hit.sum()).clamp(min=1))
    return filled(mean, hit, brenier.sites), spread


def filled(mean: torch.Tensor, hit: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """Give cells without a centroid the one that a linear fit of the others on the sites says."""
    if bool(hit.all()):
        return mean
    design = torch.nn.functional.pad(sites.to(torch.float64), (0, 1), value=1.0)
    fit = torch.linalg.lstsq(design[hit].cpu(), mean[hit].cpu(), driver="gelsd").solution
    return torch.where(hit[:, None], mean, design @ fit.to(mean.device))
