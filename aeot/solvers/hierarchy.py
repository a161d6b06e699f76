"""The hierarchical map: first onto clusters of sites, then inside each cluster's cell.

All clusters are solved at once: a sample goes to the cluster in whose cell it lies, and is scored
against the sites of that cluster alone. So the inner problems share samples, Newton steps and one
certificate with each other, and m samples of n sites in k clusters cost some m (k + n / k) scores
where those of the one optimal map cost m n.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot import _check, _io, _loop, _ranks
from aeot._check import ArrayLike
from aeot._environment import plain_methods, plain_torch, resolve_device
from aeot._rng import generator
from aeot.measures import Measure, check_source
from aeot.search import torch_engine
from aeot.search.engines import ENGINES, Engine, bind, top_k
from aeot.search.planes import LOW, Block, Listed, Planes, Winners
from aeot.solvers.assignment import check_enough
from aeot.solvers.clusters import cluster
from aeot.solvers.exact import reject_duplicates
from aeot.solvers.problem import OutOfSamples, Problem, Supply, check_fits, standardise, times
from aeot.solvers.scorer import Scorer
from aeot.solvers.solution import Solution
from aeot.solvers.solve import (
    Keeper,
    agree,
    finished,
    is_exact,
    run,
    solve_semidiscrete,
    unsolved,
)
from aeot.solvers.stages import NEWTON, Task
from aeot.solvers.starts import gaussian_heights
from aeot.solvers.state import State, fingerprint

T = TypeVar("T")
_FINER = 4.0  # times smaller is the coarse map's error: what it leaves is no step's inside to mend
_SEEN = 64  # samples per coarse cell that tell where it lies
_ROWS = 1 << 12, 1 << 15  # samples of a block, at least and at most


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
        engine: What finds the cell of a point; see `BrenierMap`.
    """

    sites: torch.Tensor
    labels: torch.Tensor
    coarse: Solution
    # What the solve found. Its certificate is of this map, its own `map` would be another one.
    _inside: Solution = field(repr=False)
    engine: str = "auto"

    @property
    def heights(self) -> torch.Tensor:
        """(n,) float64: they share each coarse cell among the sites of its cluster.

        Each cluster is raised to the coarse map's potential, which is what this map knows of the
        optimal one: `solve_semidiscrete` takes them as `init`.
        """
        return self._inside.heights

    @property
    def masses(self) -> torch.Tensor:
        """The masses wanted (n,), float64."""
        return self._inside.masses

    @property
    def mass_error_upper(self) -> float:
        """Bound of the total variation between cell masses and target, at 95 %."""
        return self._inside.mass_error_upper

    @property
    def converged(self) -> bool:
        """Whether the bound is at most `tol`, and no cell is empty."""
        return self._inside.converged

    @property
    def message(self) -> str:
        """What the certificate says, and what to change if it does not hold."""
        return self._inside.message

    @property
    def certificate(self) -> dict[str, Any]:
        """What is promised of the whole map, on fresh samples, as `Solution.certificate`."""
        return self._inside.certificate | {"n_samples": self.n_samples}

    @property
    def n_samples(self) -> int:
        """Source points drawn in all."""
        return self.coarse.n_samples + self._inside.n_samples

    def cell(self, points: ArrayLike) -> torch.Tensor:
        """Return the site that every point (m, d) is sent to, (m,) int64."""
        points = _check.points("points", points, dim=self.sites.shape[1], min_rows=0)
        back, points = points.device, points.to(self.coarse.sites.device)
        group = self.coarse.map(engine=self.engine).cell(points)
        given = self.sites.to(points.device), self.heights, _members(self.labels)
        return _highest(points, group, *given, k=1, engine=self.engine)[1][:, 0].to(back)

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
    max_samples: float | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> HierarchicalMap:
    """Transport onto clusters of sites, then onto the sites within each cluster.

    A sample is scored against the clusters and against the sites of its own: for n sites in
    sqrt(n) clusters the scores grow as n^1.5, those of the optimal map as n^2. The price is a map
    that jumps along the borders of the coarse cells, and a higher cost (docs/scale.md).

    Args:
        source: The source measure.
        sites: (n, d), pairwise different.
        masses: (n,), positive, summing to one; equal if left out.
        clusters: How many; about sqrt(n) if left out.
        tol: Total variation to certify, of the whole map. That onto the clusters is solved to a
            quarter of it.
        engine: See `solve_semidiscrete`.
        device: Where to compute; None: the first GPU, else the CPU. The map takes points of any.
        seed: Seed of clusters and samples.
        max_samples: Draw no more samples in all, and stop uncertified before a step that would.
            Less than 2 (16 384 + 64 d) + 64 k for k clusters count as so many.
        checkpoint: Directory from which the same call goes on where it was stopped, to the same
            heights; see `solve_semidiscrete`. Clusters whose cells are exact are solved anew.

    Returns:
        The map; ``converged`` says whether its certificate holds.

    Raises:
        ValueError: If an argument is wrong, two sites are equal, or a checkpoint is of another
            problem.
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
    check_enough(source, len(y))
    nu = _check.masses(masses, len(y))
    tol = _check.real("tol", tol, minimum=1e-15, maximum=0.999)
    engine = _check.choice("engine", engine, ENGINES)
    k = max(1, round(len(y) ** 0.5)) if clusters is None else clusters
    k = _check.integer("clusters", k)
    if k > len(y):
        raise _check.fail("clusters", f"be at most the {len(y)} sites", str(k))
    if max_samples is not None:
        max_samples = _check.real("max_samples", max_samples, minimum=1)
    places = _places(checkpoint, k)
    reject_duplicates(y)
    check_fits(source, len(y))
    facts = {"sites": y, "masses": nu, "clusters": k, "tol": tol, "engine": engine, "seed": seed}
    facts |= {"max_samples": max_samples, "checkpoint": checkpoint is not None}
    agree(source, facts)
    # As `solve_semidiscrete` does it, with the sites of a cluster beside each other.
    order = torch.from_numpy(np.lexsort(y.detach().cpu().numpy().T[::-1]))
    labels = torch.from_numpy(cluster(y[order.to(y.device)], k, seed=seed))
    beside = labels.argsort(stable=True)
    order, labels = order[beside], labels[beside]
    given, nu = y[order.to(y.device)], nu[order]
    mass = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, nu)
    means = torch.zeros(len(mass), y.shape[1], dtype=torch.float64)
    means.index_add_(0, labels, given.detach().cpu().double() * nu[:, None])
    means = (means / mass[:, None]).to(y)
    place, supply = order.argsort(), Supply.of(max_samples, d=source.dim)
    whole = standardise(source, given, nu, seed, place, supply=supply)
    loop = _loop.Loop("hierarchical transport", unit="samples")
    step = "the coarse part of the hierarchical transport"
    try:
        with loop:
            mark = _mark(whole, beside.argsort(), clusters=k, tol=tol, engine=engine)
            keeper = Keeper(places[1], mark | {"max_samples": max_samples})
            state = keeper.restored(whole.sites.device, NEWTON)
            options: dict[str, Any] = {"tol": max(tol / _FINER, 1e-15), "engine": engine}
            if places[0] is not None and not is_exact(source, len(mass)):
                options["checkpoint"] = places[0]
            if max_samples is not None:
                options["max_samples"] = supply.limit * _share(len(mass), len(y))
            with warnings.catch_warnings():  # what is promised is promised of the whole
                warnings.simplefilter("ignore", ConvergenceWarning)
                coarse = solve_semidiscrete(source, means, mass, seed=seed, **options)
            step = "the inner part of the hierarchical transport"
            known = {f.name: getattr(whole, f.name) for f in fields(Problem)}
            problem = _Inside(**known, coarse=coarse, labels=labels)
            task = Task(problem, _scorer(problem, engine), tol, "newton")
            least = Supply.of(0, d=source.dim).limit
            supply.limit = max(supply.limit - coarse.n_samples - _SEEN * len(mass), least)
            if isinstance(state, State):
                supply.drawn = state.n_samples
            else:
                state = replace(unsolved(task, task.first), phase="settle")
                state = replace(state, heights=_started(cast("_Scorer", task.first)))
            state, outcome = run(task, state, keeper, None, loop, steps=NEWTON)
            inside = finished(task, state, outcome, y)
    except _loop.Stopped as stopped:
        left = "nothing is kept, and the same call begins anew"
        if any(at is not None and _io.holds_save(at) for at in places):
            left = f"{checkpoint} holds it, and the same call goes on"
        raise _loop.Stopped(stopped.number, step, left) from None
    tree = HierarchicalMap(y, labels[place], coarse, inside, engine)
    drawn = inside.n_samples + _SEEN * len(mass)
    return replace(tree, _inside=replace(inside, heights=_raised(tree, seed), n_samples=drawn))


def _places(checkpoint: str | os.PathLike | None, k: int) -> tuple[Path | None, Path | None]:
    """Return where the states are kept of the map onto k clusters, and of that inside them."""
    if checkpoint is None:
        return None, None
    folder = _check.path("checkpoint", checkpoint)
    places = folder / f"clusters-{k}", folder / "inside"
    if _ranks.rank() == 0:
        for place in places:
            _io.check_writable(place, kind="transport", name="checkpoint")
    return places


def _mark(problem: Problem, order: torch.Tensor, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a `fingerprint` of a problem in another order of its sites, (n,)."""
    options["engine"] = bind(options["engine"], problem.sites).NAME
    sites, masses = problem.caller_sites[order], problem.masses[order]
    return fingerprint(replace(problem, caller_sites=sites, masses=masses), **options)


def _share(k: int, n: int) -> float:
    """Return which share of the samples the map onto k clusters takes, of n sites.

    It is solved `_FINER` times more accurately, and samples grow as sites / tol^2.
    """
    return _FINER**2 * k / (_FINER**2 * k + n)


def _members(labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the indices of the sites of every cluster."""
    return list(labels.argsort(stable=True).split(torch.bincount(labels).tolist()))


def _highest(
    points: torch.Tensor,
    group: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    members: Sequence[torch.Tensor],
    *,
    k: int,
    engine: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes of each point's own cluster, as `BrenierMap` finds them.

    Args:
        points: (m, d).
        group: (m,) int64, the coarse cell of each.
        sites: (n, d), on the device of the points.
        heights: (n,) float64.
        members: Indices of the sites of every cluster.
        k: How many.
        engine: What finds them.

    Returns:
        Scores (m, k), minus infinity behind the last site of a cluster, and sites (m, k) int64.
    """
    shape = len(points), k
    value = torch.full(shape, -torch.inf, dtype=points.dtype, device=points.device)
    site = torch.zeros(shape, dtype=torch.int64, device=points.device)
    for rows, own in _sorted(group, members):
        own = own.to(points.device)
        near = min(k, len(own))
        found = top_k(points[rows], sites[own], heights[own], near, engine=engine)
        value[rows, :near], site[rows] = found[0], own[found[1][:, :1]]
        site[rows, :near] = own[found[1]]
    return value, site


def _sorted(group: torch.Tensor, each: Sequence[T]) -> Iterator[tuple[torch.Tensor, T]]:
    """Yield the rows of every group that has some, with what belongs to the group."""
    rows = group.argsort(stable=True).split(torch.bincount(group, minlength=len(each)).tolist())
    yield from ((some, own) for some, own in zip(rows, each, strict=True) if len(some))


@dataclass(frozen=True)
class _Inside(Problem):
    """A problem in which a sample goes to one of the sites of its coarse cell.

    Attributes:
        coarse: The solution onto the clusters.
        labels: (n,) int64, the cluster of each site, in order.
    """

    coarse: Solution = field(kw_only=True)
    labels: torch.Tensor = field(kw_only=True)

    def target(self, cell_masses: torch.Tensor) -> torch.Tensor:
        """Return the masses wanted (n,), where the coarse cells hold what they hold."""
        nu, labels = self.masses.to(cell_masses), self.labels.to(cell_masses.device)
        have, wanted = (
            torch.zeros(len(self.coarse.sites), dtype=nu.dtype, device=nu.device).index_add_(
                0, labels, each
            )
            for each in (cell_masses, nu)
        )
        return nu * (have / wanted)[labels]

    def decide(
        self, points: torch.Tensor, heights: torch.Tensor, k: int = 1, *, engine: str = "auto"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the k highest planes at points of the source as the map does for the caller."""
        group = self.coarse.map(engine=engine).cell(points)
        h = self.from_standard(heights.cpu()).to(points.device)
        given = self.given, h, _members(self.labels)
        values, found = _highest(points, group, *given, k=k, engine=engine)
        return values / self.scale, found


class _Engine:
    """An engine that scores a sample against the sites of its coarse cell.

    It has the functions of `aeot.search.engines.Engine` that a solve without a coarse stage calls.

    Args:
        base: Finds coarse cells, and searches lists.
        scorer: Of the coarse problem.
        heights: (k,) float64, of that, in its standard coordinates.
        labels: (n,) int64, the cluster of each site, in order.
    """

    HALVES = False

    def __init__(
        self, base: Engine, scorer: Scorer, heights: torch.Tensor, labels: torch.Tensor
    ) -> None:
        self.NAME, self.HOST = base.NAME, base.HOST
        self.each, self.relist, self.close_pairs = base.each, base.relist, base.close_pairs
        self.count, self.add_points = base.count, base.add_points
        self._scorer, self._slack = scorer, scorer.slack(heights)
        self._raised = scorer.engine.raised(scorer.planes, heights)
        ends = torch.bincount(labels).cumsum(0).tolist()
        self._own = [slice(a, b) for a, b in itertools.pairwise([0, *ends])]

    def arrange(
        self, sites: torch.Tensor, *, split: int, rows: int, memory: int, threads: int = 1
    ) -> Planes:
        """Hold the sites for a solve."""
        del split, memory
        return Planes(sites, sites.T, sites.T[:0], rows, threads)

    def raised(self, planes: Planes, heights: torch.Tensor) -> torch.Tensor:
        """Prepare heights for the passes over blocks that follow."""
        return heights.to(planes.sites)

    def groups(self, block: Block, *, doubts: bool = False) -> Winners:
        """Find the coarse cell of every sample of a block."""
        slack, scorer = self._slack(block) if doubts else None, self._scorer
        given = scorer.planes, self._raised, block
        return scorer.engine.winners(*given, runners=False, slack=slack)

    def _top(
        self, planes: Planes, heights: torch.Tensor, block: Block, group: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The k highest scores of each sample, `LOW` behind the last, and their sites.
        shape, sites = (len(group), k), planes.sites
        value = torch.full(shape, LOW, dtype=torch.float32, device=sites.device)
        site = torch.full(shape, -1, dtype=torch.int64, device=sites.device)
        for rows, own in _sorted(group.long(), self._own):
            # NumPy's products: an engine on the host holds them to one thread.
            x, y = block.left[rows], sites[own]
            scores = (
                torch.from_numpy(x.numpy() @ y.numpy().T) if x.device.type == "cpu" else x @ y.T
            )
            near = min(k, scores.shape[1])
            top = scores.add_(heights[own]).topk(near, dim=1)
            value[rows, :near], site[rows, :near] = top.values, top.indices + own.start
        return value, site

    def winners(
        self,
        planes: Planes,
        heights: torch.Tensor,
        block: Block,
        *,
        runners: bool,
        slack: torch.Tensor | None = None,
    ) -> Winners:
        """Find the best site of every sample of a block."""
        coarse = self.groups(block, doubts=slack is not None)
        found = self._top(planes, heights, block, coarse.site, 2)
        won = torch_engine.winners_of(block, *found, runners, slack)
        if slack is None:
            return won
        return replace(won, unsure=torch.cat([won.unsure, coarse.unsure]).unique())

    def candidates(
        self,
        planes: Planes,
        heights: torch.Tensor,
        block: Block,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> list[Listed]:
        """List, for every sample of a block, the sites within a radius of the best."""
        group = self.groups(block).site
        value, site = self._top(planes, heights, block, group, longest + 1)
        return [torch_engine.lists_of(value, site, value, radius, least, longest)]


class _Scorer(Scorer):
    """Scores samples against the sites of their coarse cells."""

    sorts, prunes = False, False

    def scores_of(self, block: Block, heights: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        """Return the scores of chosen sites at the samples of a block, (samples, k)."""
        scores, problem = super().scores_of(block, heights, chosen), cast("_Inside", self.problem)
        group = cast("_Engine", self.engine).groups(block).site.long()
        own = problem.labels[torch.from_numpy(chosen)].to(group.device)
        return torch.where(group[:, None] == own, scores, LOW)


def _scorer(problem: _Inside, engine: str) -> _Scorer:
    """Return what scores the samples of a problem, whose sites are sorted by clusters."""
    y, means = problem.caller_sites, problem.coarse.sites.detach().to("cpu", torch.float64)
    centres = times(means - y.mean(0), problem.factor) / problem.scale
    known = {f.name: getattr(problem, f.name) for f in fields(Problem)}
    known |= {"sites": centres.to(problem.sites), "caller_sites": means}
    known |= {"masses": problem.coarse.masses.cpu(), "place": torch.arange(len(means))}
    coarse, base = Problem(**known), bind(engine, problem.sites)
    heights = coarse.to_standard(problem.coarse.heights.cpu()).to(problem.sites.device)
    rows = int(np.clip(_SEEN * len(means), *_ROWS))
    above = Scorer(coarse, engine=base.NAME, rows=rows, shared=False)
    inside = _Engine(base, above, heights, problem.labels)
    return _Scorer(problem, engine=cast("Engine", inside), rows=rows)


def _started(scorer: _Scorer) -> torch.Tensor:
    """Return heights (n,) to begin with: inside each coarse cell as if it and its sites were round.

    Under ranks every one of them does it alike.
    """
    problem, engine = cast("_Inside", scorer.problem), cast("_Engine", scorer.engine)
    sites = problem.sites.to(torch.float64)
    (k, d), device = problem.coarse.sites.shape, sites.device
    blocks = range(scorer.blocks_for(_SEEN * k))
    try:
        problem.supply.take(len(blocks) * scorer.block_samples)
    except OutOfSamples:  # then as if each cell were the whole source
        blocks = range(0)
    sums = torch.zeros(k, d, dtype=torch.float64, device=device)
    count, squares = torch.zeros(k, dtype=torch.int64, device=device), 0.0
    for index in blocks:
        block = scorer.draw("cells", index)
        z, group = block.left.to(torch.float64), engine.groups(block).site.long()
        sums.index_add_(0, group, z)
        count += torch.bincount(group, minlength=k)
        squares += float(z.square().sum())
    mean, within = sums / count.clamp(min=1)[:, None], float(d)
    if m := int(count.sum()):
        within = squares / m - float(count.to(mean) @ mean.square().sum(1)) / m
    spread = max(within / d, 1e-12) ** 0.5
    heights = -(sites * mean[problem.labels.to(device)]).sum(1)
    for own in _members(problem.labels):
        heights[own] += spread * gaussian_heights(sites[own])
    return heights


def _raised(tree: HierarchicalMap, seed: int) -> torch.Tensor:
    """Return the heights (n,), each cluster's raised to the coarse potential in its cell."""
    coarse, source = tree.coarse, tree._inside.source
    k, labels = len(coarse.sites), tree.labels.to(tree.sites.device)
    x = source.sample(_SEEN * k, generator=generator(seed, "hierarchy", "raised"))
    x = x.to(tree.sites.device, torch.float64)
    site = tree.cell(x)
    group = labels[site]

    def value(rows: torch.Tensor, h: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return (x * rows[of].to(x)).sum(1) + h[of]

    above = value(coarse.sites, coarse.heights, group) - value(tree.sites, tree.heights, site)
    rise = torch.zeros(k, dtype=torch.float64, device=x.device).index_add_(0, group, above)
    rise /= torch.bincount(group, minlength=k).clamp(min=1)
    heights = tree.heights + rise[labels]
    return heights - math.fsum(heights.tolist()) / len(heights)  # the same in any order of sites
