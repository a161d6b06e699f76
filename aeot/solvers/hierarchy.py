"""The hierarchical map: first onto clusters of sites, then inside each cluster's cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from aeot import _check, _loop, _ranks
from aeot._check import ArrayLike
from aeot._environment import plain_methods, plain_torch, resolve_device
from aeot.maps.brenier import BrenierMap
from aeot.measures import Measure, Sampler, check_source
from aeot.solvers.clusters import cluster
from aeot.solvers.exact import reject_duplicates
from aeot.solvers.solution import Solution
from aeot.solvers.solve import solve_semidiscrete


@plain_methods
@dataclass(frozen=True)
class HierarchicalMap:
    """A transport map made of a coarse optimal map and one optimal map per cluster.

    It preserves measure: every site gets its mass. It is not optimal: its cost is at least that of
    the one map `solve_semidiscrete` finds, to which `cost` can be compared.

    Attributes:
        sites: (n, d), the caller's.
        labels: (n,) int64, the cluster of each site.
        coarse: Solution onto the k cluster means.
        parts: k solutions, each from the source inside a coarse cell onto the cluster's sites.
        engine: What finds the cell of a point; see `BrenierMap`.
    """

    sites: torch.Tensor
    labels: torch.Tensor
    coarse: Solution
    parts: tuple[Solution, ...]
    engine: str = "auto"

    @property
    def mass_error_upper(self) -> float:
        """Bound of the total variation between cell masses and target.

        The sum over clusters of mass times the part's bound, plus the coarse map's bound.
        """
        mass = self.coarse.masses.tolist()
        inner = sum(m * part.mass_error_upper for m, part in zip(mass, self.parts, strict=True))
        return self.coarse.mass_error_upper + inner

    @property
    def converged(self) -> bool:
        """Whether the coarse map and every part converged."""
        return self.coarse.converged and all(part.converged for part in self.parts)

    def cell(self, points: ArrayLike) -> torch.Tensor:
        """Return the site that every point (m, d) is sent to, (m,) int64."""
        points = _check.points("points", points, dim=self.sites.shape[1], min_rows=0)
        back, points = points.device, points.to(self.coarse.sites.device)
        group = self.coarse.map(engine=self.engine).cell(points)
        site = torch.empty(points.shape[0], dtype=torch.int64, device=points.device)
        for k, part in enumerate(self.parts):
            inside = group == k
            if bool(inside.any()):
                own = torch.nonzero(self.labels == k)[:, 0].to(points.device)
                site[inside] = own[part.map(engine=self.engine).cell(points[inside])]
        return site.to(back)

    def __call__(self, points: ArrayLike) -> torch.Tensor:
        """Map points (m, d) to sites, (m, d)."""
        cells = self.cell(points)
        return self.sites.to(cells.device)[cells]

    def cost(self, points: ArrayLike) -> float:
        """Return the mean of |x - T(x)|^2 / 2 over points (m, d) of the source."""
        points = _check.points("points", points, dim=self.sites.shape[1])
        return float((points - self(points)).to(torch.float64).square().sum(1).mean() / 2)


@plain_torch()
@_ranks.together("solve_hierarchical")
def solve_hierarchical(
    source: Measure,
    sites: ArrayLike,
    masses: ArrayLike | None = None,
    *,
    clusters: int | None = None,
    tol: float = 0.02,
    engine: str = "auto",
    device: str | torch.device | None = None,
    seed: int = 0,
) -> HierarchicalMap:
    """Transport onto clusters of sites, then onto the sites within each cluster.

    The parts are independent small problems, which need little memory and could run anywhere; the
    price is a map that jumps along the borders of the coarse cells, and a higher cost.

    Args:
        source: The source measure.
        sites: (n, d), pairwise different.
        masses: (n,), positive, summing to one; equal if left out.
        clusters: How many; about sqrt(n) if left out.
        tol: Total variation to certify, of the coarse map and of every part.
        engine: See `solve_semidiscrete`.
        device: Where to compute; None: the first GPU, else the CPU. The map takes points of any.
        seed: Seed of clusters and samples.

    Returns:
        The map.

    Raises:
        ValueError: If an argument is wrong or two sites are equal.
        KeyboardInterrupt: If Ctrl-C or SIGTERM came, within a second.

    References:
        N. Lei, D. An, Y. Guo, K. Su, S. Liu, Z. Luo, S.-T. Yau, X. Gu, "A geometric understanding
        of deep learning", Engineering 6 (2020), sec. 4.

    Example:
        >>> import torch, aeot
        >>> sites = torch.randn(40, 4, generator=aeot.generator(0))
        >>> tree = solve_hierarchical(aeot.UniformBox(dim=4), sites, clusters=4, tol=0.1)
        >>> tree(torch.rand(3, 4)).shape
        torch.Size([3, 4])
    """
    check_source(source)
    seed = _check.seed("seed", seed)
    y = _check.points("sites", sites, dim=source.dim).to(resolve_device(device))
    nu = _check.masses(masses, y.shape[0])
    reject_duplicates(y)
    k = max(1, round(y.shape[0] ** 0.5)) if clusters is None else clusters
    k = _check.integer("clusters", k)
    if k > y.shape[0]:
        raise _check.fail("clusters", f"be at most the {y.shape[0]} sites", str(k))
    labels = torch.from_numpy(cluster(y, k, seed=seed))
    mass = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, nu)
    means = torch.zeros(len(mass), y.shape[1], dtype=torch.float64)
    means.index_add_(0, labels, y.detach().cpu().double() * nu[:, None])
    means = (means / mass[:, None]).to(y)
    options: dict[str, Any] = {"tol": tol, "engine": engine, "seed": seed}
    parts: list[Solution] = []
    loop = _loop.Loop("hierarchical transport", 1 + len(mass), unit="part")
    try:
        with loop:
            coarse = solve_semidiscrete(source, means, mass, **options)
            brenier = coarse.map(engine=engine)
            for group in range(len(mass)):
                loop.at(1 + group)
                own = torch.nonzero(labels == group)[:, 0]
                inside = _restricted(source, brenier, group, float(mass[group]))
                share = nu[own] / nu[own].sum()
                part = solve_semidiscrete(inside, y[own.to(y.device)], share, **options)
                parts.append(replace(part, source=inside))
    except _loop.Stopped as stopped:
        where = f"part {1 + int(loop.done)} of {loop.total} of the hierarchical transport"
        raise _loop.Stopped(stopped.number, where, "nothing is kept of it") from None
    return HierarchicalMap(y, labels, coarse, tuple(parts), engine)


def _restricted(source: Measure, brenier: BrenierMap, group: int, mass: float) -> Sampler:
    """The source conditioned on one coarse cell, by rejection."""
    device = brenier.sites.device

    def draw(n: int, generator: torch.Generator | None) -> torch.Tensor:
        kept, found = [], 0
        for _ in range(10_000):
            batch = int(np.clip(1.2 * (n - found) / mass, 256, 1 << 16))
            x = source.sample(batch, generator=generator)
            x = x[(brenier.cell(x.to(device)) == group).to(x.device)]
            kept.append(x)
            found += x.shape[0]
            if found >= n:
                return torch.cat(kept)[:n]
        raise RuntimeError(f"coarse cell {group} holds almost none of the source")

    return Sampler(draw, dim=source.dim)
