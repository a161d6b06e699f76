"""A solution after a change of a few sites or masses: corrected where it changed, certified anew.

What the change does to the masses is found by its difference on one sample: the old heights put so
many of its points into each cell, and the new ones shall put as many there, plus what the target
changed by. Points far from the change are in the same cell before and after, and their noise does
not enter; so the sample may be far smaller than one that finds heights (control variates).

What is known of the old heights is used, too: the samples of their certificate, which no step has
seen, and those of the correction say how far their masses are off, and as heights that are an
average over all samples they enter the streaming stage, with a certificate first.
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from aeot import _check, _io, _ranks
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot._rng import stream_seed
from aeot.data.arrays import distinct
from aeot.search.heights import center
from aeot.search.nearest import nearest
from aeot.solvers.oracles import Bank, best_gaps
from aeot.solvers.problem import OutOfSamples
from aeot.solvers.scorer import Scorer
from aeot.solvers.solution import Solution
from aeot.solvers.solve import Beginning, is_exact, solve_semidiscrete, unsolved
from aeot.solvers.stages import BAND, SETTLE, Task, break_even, newton_step
from aeot.solvers.state import Drawn, State

_KEY = "update"  # of the correction's sample
_LEAST, _MOST = 12, 0.12  # samples per site for the correction; the latter over tol^2
_MOVED = 6.5  # cells that a point is counted in anew, of those that the change moves; measured
_STEPS = 4  # of the correction
_SURE = 3.0  # squares of the noise that a cell's mass must be off by to be put right again
_SMALL = 0.2  # of the mass; where more is moved the heights are a start like any other
_INFLATION = 1.25  # variance of shared halves over that of independent samples, before it is known
# A certificate on samples that share halves takes so many times as many: what they share makes its
# error larger than the variance of the masses says. Measured at n = 2000, d = 16.
_SHARED = 2.5
_NEARLY = 0.9  # of the weight that is wanted: a certificate mostly holds, and more would cost more
_BYTES = 64  # of a sample in candidate lists


@plain_torch()
@_ranks.together("update_solution")
def update_solution(
    solution: Solution,
    *,
    add: ArrayLike | None = None,
    remove: ArrayLike | None = None,
    masses: ArrayLike | None = None,
    tol: float | None = None,
    engine: str = "auto",
    seed: int = 0,
    memory: int = 1 << 28,
    **options: Any,  # noqa: ANN401
) -> Solution:
    """Solve the transport of a solution again after sites were added or removed, or masses changed.

    The old heights are kept, new sites begin at the level at which they win their mass, and what
    the change moved is put right on one sample; then `solve_semidiscrete` certifies the result, or
    goes on from it.

    Args:
        solution: Of `solve_semidiscrete`.
        add: (k, d) new sites, taken in the dtype of the old ones; they come after those that stay.
        remove: Numbers (r,) of the sites that go, each once, or a mask (n,) of bools.
        masses: Of all sites of the result, in their order, positive, summing to one. If left out,
            those that stay keep their ratios, and each new site gets the mean of theirs.
        tol: See `solve_semidiscrete`; None: that of the solution, 0.02 where it was exact.
        engine: See there.
        seed: Of all samples, which are others than those of the solution.
        memory: See there. The correction takes as many samples as fit, so here it changes heights.
        options: Others of `solve_semidiscrete`, such as `threads` and `max_samples`.

    Returns:
        The solution of the new problem; ``n_samples`` counts what the correction drew, too.

    Raises:
        ValueError: If an argument is wrong, or two sites are equal.

    Example:
        >>> import aeot, torch
        >>> sites = torch.rand(40, 2, generator=aeot.generator(0))
        >>> before = aeot.solve_semidiscrete(aeot.UniformBox(dim=2), sites)
        >>> after = aeot.update_solution(before, add=[[0.5, 0.5]], remove=[3, 7])
        >>> after.converged, tuple(after.sites.shape)
        (True, (39, 2))
    """
    _check.instance("solution", solution, Solution, "solve_semidiscrete makes one")
    source, old = solution.source, solution.sites
    kept = _kept(remove, len(old))
    new = old[:0]
    if add is not None:
        new = _check.points("add", add, dim=source.dim).detach().to(old)
    # Memory says here how many samples the correction takes.
    facts = {"solution": solution.heights, "remove": kept, "add": new, "memory": memory}
    _ranks.agree(facts)
    sites = torch.cat([old[kept.to(old.device)], new])
    _check_new(sites, kept)
    if not len(sites):
        raise _check.fail("remove", "leave a site", f"all {len(old)} of them")
    before = solution.masses.cpu()
    if masses is None:
        mean = before[kept].mean() if len(kept) else torch.ones((), dtype=torch.float64)
        target = torch.cat([before[kept], mean.expand(len(new))])
        target = target / target.sum()
    else:
        target = _check.masses(masses, len(sites))
    if tol is None:
        tol = 0.02 if solution.tol is None else solution.tol
    tol = _check.real("tol", tol, minimum=1e-15, maximum=0.999)
    if "init" in options:
        must = "be left out: a solve of changed sites begins with the old heights"
        raise _check.fail("init", must, _check.shown(options["init"]))
    known = ["add", "remove", *inspect.signature(solve_semidiscrete).parameters]
    known = [name for name in known if name not in ("source", "sites", "init")]
    _check.keywords("update_solution", known, options)
    # The samples of the old solve are no test of heights that were fitted to them.
    stream = stream_seed(_check.seed("seed", seed), _KEY, _io.digest({"heights": solution.heights}))
    options |= {"tol": tol, "engine": engine, "seed": stream, "memory": memory}
    if len(kept) and not is_exact(source, len(sites), options.get("method", "auto")):
        options["init"] = Beginning(partial(_begun, solution, kept))
    return solve_semidiscrete(source, sites, target, **options)


def _kept(remove: ArrayLike | None, n: int) -> torch.Tensor:
    """Return the numbers of the sites that stay, rising."""
    stay = torch.ones(n, dtype=torch.bool)
    if remove is not None:
        gone = _check.tensor("remove", remove).cpu()
        must = f"be numbers of sites from 0 to {n - 1}, or a mask of {n} bools"
        if gone.dtype == torch.bool and gone.shape == (n,):
            gone = gone.nonzero()[:, 0]
        if gone.ndim == 1 and not len(gone):
            gone = gone.to(torch.int64)
        whole = not gone.is_floating_point() and gone.dtype != torch.bool and gone.ndim == 1
        if not whole or bool(((gone < 0) | (gone >= n)).any()):
            way_out = ""
            if gone.ndim == 0:
                way_out = f"write [{gone.item()}]"
            elif whole and bool((gone < 0).any()):
                first = int(gone[gone < 0][0])
                way_out = f"sites are counted from 0: write {n + first} for {first}"
            raise _check.fail("remove", must, _check.shown(remove), way_out)
        numbers, times = gone.unique(return_counts=True)
        if bool((times > 1).any()):  # such as a mask of zeros and ones
            got = f"{int(numbers[times > 1][0])} {int(times[times > 1][0])} times"
            raise _check.fail("remove", "name each site once", got, "a mask is of bools")
        stay[gone.long()] = False
    return stay.nonzero()[:, 0]


def _check_new(sites: torch.Tensor, kept: torch.Tensor) -> None:
    """Raise a ValueError if a new site, after those that stay, equals another one."""
    first, kind = distinct(sites)
    if len(first) == len(sites):
        return
    copy = int((first[kind] != torch.arange(len(sites))).nonzero()[0])
    other, stay = int(first[kind[copy]]), len(kept)
    twin = f"row {other - stay} of it" if other >= stay else f"site {int(kept[other])}"
    got, way_out = f"row {copy - stay}, which equals {twin}", "leave it out; masses= can be changed"
    raise _check.fail("add", "hold other sites, each once", got, way_out)


def _begun(
    solution: Solution, kept: torch.Tensor, task: Task, scorer: Scorer, order: torch.Tensor
) -> State | torch.Tensor:
    """Return the first state of the solve: the old heights, put right where the target changed.

    Args:
        solution: The old one.
        kept: Which of its sites stay.
        task: The new problem.
        scorer: Of the problem.
        order: Places of its sites among the caller's.
    """
    problem, split = task.problem, scorer.split
    new = np.flatnonzero(order.numpy() >= len(kept))

    def ordered(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values.cpu()[kept], torch.zeros(len(new), dtype=torch.float64)])[order]

    change = task.nu - ordered(solution.masses)
    moved = float(change.clamp(min=0).sum())
    given = ordered(solution.heights)
    if task.method != "newton" or task.dim == 1 or moved > _SMALL:
        return given
    heights = problem.to_standard(given).to(problem.sites.device)
    if len(new):
        heights = _below(task, heights, new)
    state = replace(unsolved(task, scorer), phase="try", heights=heights)
    if split > 1 and break_even(scorer) < _SHARED:
        state = replace(state, split=1, inflation=1.0)
    known = _Known.of(solution, split)
    blocks = range(scorer.blocks_for(_size(task, state, known, moved, scorer.memory)))
    m = len(blocks) * scorer.block_samples
    with contextlib.suppress(OutOfSamples), problem.supply.sparing(0.5):  # half is for the rest
        scorer.keep(_KEY, blocks, share=0.5)
        if len(new):
            heights = _levelled(scorer, heights, new)
        counted = _counted(scorer, solution, blocks)
        aim = ordered(counted - known.off(counted, m)) + change
        aim = aim.clamp(min=0.1 * task.nu)
        heights, lists, bank = _corrected(task, scorer, heights, aim / aim.sum(), m)
        unit = bank.gap_scale(heights)
        units = bank.units(heights, unit)
        now = bank.evaluate(heights, BAND * units)
        assert now.hessian is not None
        weight = state.inflation * known.weight(m, moved)
        if weight > 0.99 * _NEARLY * task.wanted(state):
            weight = max(weight, task.wanted(state))
        state = replace(state.entering("stream"), heights=heights, unit=unit, weight=weight)
        state = replace(state, local=units, lists=lists)
        state = state.with_facets(now.hessian * bank.n_samples, bank.n_samples)
    scorer.keep(_KEY, range(0), share=1.0)
    return state


@dataclass(frozen=True)
class _Known:
    """What the old heights are worth, and what is known of them, in independent samples.

    Attributes:
        masses: (n,), the old ones.
        certified: (n,), how far those of the cells were off where they were certified.
        worth: Samples that the heights are an average over.
        seen: Those of their certificate, which they do not know.
        inflation: Variance of the masses on the correction's sample over that of independent ones.
    """

    masses: torch.Tensor
    certified: torch.Tensor
    worth: float
    seen: float
    inflation: float

    @classmethod
    def of(cls, solution: Solution, split: int) -> _Known:
        """Return it for a sample of blocks that share so many half points."""
        nu, inflation = solution.masses.cpu(), _INFLATION if split > 1 else 1.0
        if solution.cell_masses is None or solution.n_samples == 0:
            return cls(nu, torch.zeros_like(nu), 1e18, 0.0, inflation)  # exact
        # Mean absolute deviations of masses on w samples are `unit` / sqrt(w).
        unit = float((nu * (1 - nu)).sqrt().sum()) / (2 * np.pi) ** 0.5
        certified = solution.cell_masses.cpu() - nu
        noise = float(certified.abs().sum() / 2) ** 2 - solution.mass_error**2
        worth = (unit / max(solution.mass_error, 0.4 * solution.mass_error_upper)) ** 2
        return cls(nu, certified, worth, unit**2 / noise if noise > 0 else 0.0, inflation)

    def off(self, counted: torch.Tensor, m: int) -> torch.Tensor:
        """Return how far the masses are off (n,), from the certificate and m samples counted."""
        fresh = m / self.inflation
        parts = self.seen * self.certified + fresh * (counted - self.masses)
        return parts / (self.worth + self.seen + fresh)

    def weight(self, m: float, moved: float) -> float:
        """Return what heights are worth that m samples have put right where mass was moved."""
        total = self.worth + self.seen + m / self.inflation
        return 1 / (1 / total + _MOVED * moved / m)


def _size(task: Task, state: State, known: _Known, moved: float, memory: int) -> float:
    """Return how many samples the correction takes: such that a certificate may follow at once."""
    m, most = max(_LEAST * task.n, 4096.0), max(_MOST / task.tol**2, _LEAST) * task.n
    while m < most and state.inflation * known.weight(m, moved) < _NEARLY * task.wanted(state):
        m *= 1.1
    return min(m, max(memory / _BYTES, 4096))


def _below(task: Task, heights: torch.Tensor, new: np.ndarray) -> torch.Tensor:
    """Put new sites below the plane of the nearest old one wherever the source is."""
    sites, old = task.problem.sites, np.setdiff1d(np.arange(task.n), new)
    apart, near = nearest(sites[new], sites[old])
    reach = (3 * task.dim) ** 0.5 + 4  # no plane leads another by more, times how far they are
    heights = heights.clone()
    heights[new] = heights[old][near[:, 0]] - reach * apart[:, 0].to(heights)
    return heights


def _levelled(scorer: Scorer, heights: torch.Tensor, new: np.ndarray) -> torch.Tensor:
    """Raise new sites to where each alone wins its mass."""
    problem = scorer.problem
    blocks = range(scorer.blocks_for(max(SETTLE * len(heights), 4096)))
    m = len(blocks) * scorer.block_samples
    rank = np.clip(np.rint(m * problem.masses.numpy()[new]), 1, 8).astype(np.int64)
    heights = heights.clone()
    heights[new] += best_gaps(scorer, heights, new, _KEY, blocks, rank=rank)
    return heights


def _counted(scorer: Scorer, solution: Solution, blocks: range) -> torch.Tensor:
    """Return the share of the correction's sample that the old heights put into each old cell."""
    brenier = solution.map()
    counts = torch.zeros(len(solution.sites), dtype=torch.int64)
    every = torch.arange(scorer.block_samples)
    for block in _ranks.part(blocks):
        points = scorer.points(scorer.draw(_KEY, block), every).to(brenier.sites.device)
        counts += torch.bincount(brenier.cell(points).cpu(), minlength=len(counts))
    _ranks.total(counts)
    return counts.to(torch.float64) / (len(blocks) * scorer.block_samples)


def _corrected(
    task: Task, scorer: Scorer, heights: torch.Tensor, aim: torch.Tensor, m: int
) -> tuple[torch.Tensor, Drawn, Bank]:
    """Find heights that give the masses `aim` on the correction's sample, up to its noise.

    The first step follows the facets' Laplacian from all that the change did to the masses. What
    it leaves is put right where it is more than the noise of the points that changed their cells
    since, for to follow that noise would add it to the masses.

    Returns:
        The heights (n,), how the lists that they were found on are drawn, and these.
    """
    options: dict[str, Any] = {"radius": 1e20, "least": 1, "longest": 4}
    unit = task.bank(scorer, heights, _KEY, 1, **options).gap_scale(heights)
    options = {"radius": 3 * unit, "least": 4, "longest": 16}

    def listed(heights: torch.Tensor) -> tuple[Drawn, Bank]:
        bank = task.bank(scorer, heights, _KEY, m, **options)
        return Drawn(_KEY, heights, 3 * unit, scorer.split, bank.n_samples), bank

    first: torch.Tensor | None = None
    step: torch.Tensor | None = None
    begun, least = heights, torch.inf
    lists, bank = listed(heights)
    for k in range(_STEPS + 1):
        if float((heights - lists.heights).max()) > unit:
            del bank  # two would be the most that is held
            lists, bank = listed(heights)
        shift = bank.shift(heights)
        found = [bank.engine.relist(part, shift)[0].long() for part in bank.lists]
        cells = torch.cat([*found, heights.new_zeros(0, dtype=torch.int64)])
        first = cells if first is None else first
        moved = cells != first
        counts = [torch.bincount(c, minlength=task.n) for c in (cells, cells[moved], first[moved])]
        _ranks.total(*counts)
        counted, gained, lost = (c.cpu().double() / m for c in counts)
        missing, noise = aim - counted, (gained + lost) / m
        left = float(missing.square().sum())
        if step is not None and left > least:  # few points may say far too little of facets
            step = step / 4 if k < _STEPS else 0 * step
            heights = center(begun + step)
            continue
        if left < 1.5 * float(noise.sum()) or k == _STEPS:
            break
        begun, least = heights, left
        missing *= (1 - _SURE * noise / missing.square().clamp(min=1e-300)).clamp(0)
        missing -= missing.sum() * task.nu
        units = bank.units(heights, unit)
        facets = bank.evaluate(heights, BAND * units).hessian
        assert facets is not None
        step = newton_step(bank, heights, facets, task.nu, missing, unit, units).to(heights)
        heights = center(heights + step)
    task.hold(lists, bank)
    return heights, lists, bank
