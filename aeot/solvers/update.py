"""A solution after a change of a few sites or masses: corrected where it changed, certified anew.

What the change does to the masses is found by its difference on one sample: the old heights put so
many of its points into each cell, and the new ones shall put as many there, plus what the target
changed by. Points far from the change are in the same cell before and after, and their noise does
not enter; so the sample may be far smaller than one that finds heights (control variates).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from aeot import _check, _ranks
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.search.nearest import nearest
from aeot.solvers.oracles import best_gaps
from aeot.solvers.problem import OutOfSamples, Problem, Supply, standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.solution import Solution
from aeot.solvers.solve import choose_split, is_exact, solve_semidiscrete
from aeot.solvers.stages import SETTLE, Task, measured, minimised
from aeot.solvers.state import State

_LEAST, _MOST = 24, 0.12  # samples per site for the correction; the latter over tol^2
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
    goes on from it. What is gained are heights that stay where nothing changed; samples are not
    saved reliably yet, since a first check that fails by a little draws nearly as many as a cold
    solve (`benchmarks/bench_conditional.py` counts them).

    Args:
        solution: Of `solve_semidiscrete`.
        add: (k, d) new sites; they come after those that stay.
        remove: Numbers (r,) of the sites that go, or a mask (n,) of bools.
        masses: Of all sites of the result, in their order, positive, summing to one. If left out,
            those that stay keep their ratios, and each new site gets the mean of theirs.
        tol: See `solve_semidiscrete`; None: the bound of a solution that sampling certified, so
            that the result is as good, 0.02 of any other.
        engine: See there.
        seed: Of all samples; another than that of the solution makes the two independent.
        memory: See there.
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
    sites = torch.cat([old[kept.to(old.device)], new])
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
        sampled = solution.converged and solution.n_samples > 0
        tol = solution.mass_error_upper if sampled else 0.02
    tol = _check.real("tol", tol, minimum=1e-15, maximum=0.999)
    memory = _check.integer("memory", memory, minimum=1 << 20)
    seed = _check.seed("seed", seed)
    options |= {"tol": tol, "engine": engine, "seed": seed, "memory": memory}
    if is_exact(source, len(sites), options.get("method", "auto")) or not len(kept):
        return solve_semidiscrete(source, sites, target, **options)
    change = target.clone()
    change[: len(kept)] -= before[kept]
    gone = 1 - float(before[kept].sum())
    moved = float(change.abs().sum() + gone) / 2
    limit = options.get("max_samples")
    limit = None if limit is None else _check.real("max_samples", limit, minimum=1)
    supply = Supply.of(limit, d=source.dim)
    problem = standardise(source, sites, target, seed, supply=supply)
    n, d = problem.sites.shape
    split = choose_split(problem.law, n, d)
    scorer = Scorer(problem, engine=engine, split=split, memory=memory)
    start = torch.cat([solution.heights.cpu()[kept], torch.zeros(len(new), dtype=torch.float64)])
    heights = problem.to_standard(start).to(problem.sites.device)
    with contextlib.suppress(OutOfSamples), supply.sparing(0.5):  # half is for the solve
        if len(new):
            heights = _levelled(scorer, heights, np.arange(len(kept), n))
        wanted = min(max(_LEAST, 7 * moved / tol**2), max(_LEAST, _MOST / tol**2)) * n
        blocks = range(scorer.blocks_for(min(max(wanted, 4096), memory / _BYTES)))
        held = _counted(scorer, solution, blocks)[kept]
        aim = (torch.cat([held, held.new_zeros(len(new))]) + change).clamp(min=0.1 * target)
        task = Task(replace(problem, masses=aim / aim.sum()), scorer, tol, "newton")
        heights = _corrected(task, scorer, heights, len(blocks) * scorer.block_samples)
    if math.isfinite(supply.limit):
        options["max_samples"] = max(supply.left, 1)
    init = problem.from_standard(heights.cpu())
    found = solve_semidiscrete(source, sites, target, init=init, **options)
    return replace(found, n_samples=found.n_samples + supply.drawn)


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
            raise _check.fail("remove", must, _check.shown(remove))
        stay[gone.long()] = False
    return stay.nonzero()[:, 0]


def _levelled(scorer: Scorer, heights: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
    """Give the chosen sites the heights at which each alone wins its mass."""
    problem, index = scorer.problem, torch.from_numpy(chosen)
    n, d = problem.sites.shape
    known, some = problem.sites[: n - len(chosen)], problem.sites[index]
    apart, near = nearest(some, known)
    # Below the plane of the nearest site wherever the source is: no plane leads it by more.
    reach = (3 * d) ** 0.5 + 4
    heights = heights.clone()
    heights[index] = heights[near[:, 0]] - reach * apart[:, 0].to(heights)
    samples = max(SETTLE * n, 4096)
    blocks = range(scorer.blocks_for(samples))
    m = len(blocks) * scorer.block_samples
    rank = np.clip(np.rint(m * problem.masses.numpy()[chosen]), 1, 8).astype(np.int64)
    heights[index] += best_gaps(scorer, heights, chosen, "level", blocks, rank=rank)
    return heights


def _counted(scorer: Scorer, solution: Solution, blocks: range) -> torch.Tensor:
    """Return the share of the correction's sample that the old heights put into each old cell."""
    brenier = solution.map()
    counts = torch.zeros(len(solution.sites), dtype=torch.int64)
    every = torch.arange(scorer.block_samples)
    scorer.problem.supply.take(len(blocks) * scorer.block_samples, share=0.5)
    for block in _ranks.part(blocks):
        points = scorer.points(scorer.draw("update", block), every).to(brenier.sites.device)
        counts += torch.bincount(brenier.cell(points).cpu(), minlength=len(counts))
    _ranks.total(counts)
    return counts.to(torch.float64) / (len(blocks) * scorer.block_samples)


def _corrected(task: Task, scorer: Scorer, heights: torch.Tensor, samples: int) -> torch.Tensor:
    """Minimise on lists of the correction's sample."""
    problem: Problem = task.problem
    n, d = problem.sites.shape
    none = torch.zeros(n, d, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    state = State("grow", heights, scorer.split, *none)
    state = measured(task, state)
    how: dict[str, Any] = {"radius": 3 * state.unit, "least": 4, "longest": 16}
    bank = task.bank(scorer, heights, "update", samples, **how)
    state, _ = minimised(task, state, bank, 1.8, 0.02, 30)
    return state.heights
