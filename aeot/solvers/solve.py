"""The Monte-Carlo transport solver: source, sites and masses in, certified heights out."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot import _check, _io, _loop, _ranks
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot._rng import generator, stream_seed
from aeot.geometry.tessellation import support
from aeot.measures import Measure, check_source
from aeot.search.engines import ENGINES
from aeot.search.planes import mean_rows
from aeot.solvers.assignment import check_enough, is_few, solve_assignment, why_unmet
from aeot.solvers.certificate import certificate_size
from aeot.solvers.descent import ADAM, LBFGS
from aeot.solvers.exact import reject_duplicates, solve_exact
from aeot.solvers.groups import flat, grouped_heights, has_heavy_tails, tight_groups
from aeot.solvers.line import LINE, at_quantiles, law, solve_line
from aeot.solvers.oracles import sampled
from aeot.solvers.problem import OutOfSamples, Problem, Supply, check_fits, standardise, times
from aeot.solvers.scorer import Scorer
from aeot.solvers.solution import Outcome, Solution
from aeot.solvers.stages import NEWTON, Step, Task, advance, check
from aeot.solvers.starts import (
    PICTURE_SITES,
    gaussian_heights,
    picture_heights,
    radial_heights,
)
from aeot.solvers.state import (
    Compressed,
    Parts,
    State,
    fingerprint,
    load,
    placed,
    save,
    with_all_rows,
)

METHODS = ("auto", "newton", "lbfgs", "adam", "exact")
_EXACT_SITES = {1: 1 << 24, 2: 200_000, 3: 100_000}  # where exact cells beat samples
_LEAST_TOL = 1e-15  # masses are not resolved below
_USUAL = 8  # times what an ordinary problem takes: enough is enough
# Tolerance of groups over that of the whole. Steps on all sites are of the size of the smallest
# gaps and cannot put whole groups right, so the start has to leave room for its certificate.
_FINER = 0.75
STEPS = {"newton": NEWTON, "lbfgs": LBFGS, "adam": ADAM}


@dataclass(frozen=True)
class Beginning:
    """Passed as `init`: how a solve begins that knows more of its heights than what they are.

    Attributes:
        state: From the task, its scorer and the places (n,) of its sites among the caller's, to
            the first state, or to heights (n,) in the caller's coordinates to start from.
    """

    state: Callable[[Task, Scorer, torch.Tensor], State | torch.Tensor]


@plain_torch()
@_ranks.together("solve_semidiscrete")
def solve_semidiscrete(
    source: Measure,
    sites: ArrayLike,
    masses: ArrayLike | None = None,
    *,
    tol: float = 0.02,
    method: str = "auto",
    engine: str = "auto",
    init: ArrayLike | None = None,
    seed: int = 0,
    max_samples: float | None = None,
    memory: int | None = None,
    threads: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    on_step: Callable[[dict[str, Any]], bool | None] | None = None,
    progress: bool | None = None,
) -> Solution:
    r"""Find heights whose cells have the given masses, and certify them on fresh samples.

    For dim <= 3 and a source with exact geometry the cells are computed exactly
    (`solve_exact`), and on a line for a Gaussian and for points, too, where sites meet at
    quantiles. A few points (up to 64 a site, 2048 in all) are dealt out by a linear assignment, and
    counted. Otherwise the masses are sampled: growing samples, Newton steps on candidate
    lists, and a certificate from points that no step has seen. Shifts and units of the sites change
    nothing but the obvious, and their order nothing at all: sampled solutions keep their bits,
    exact ones differ by rounding. No setting has to be chosen for a problem. Sites in tight groups,
    such as near-duplicates, and sites in a line or plane start from easier problems of their own.

    Inside an initialised process group of torch.distributed every rank has to make the call, with
    the same arguments: ranks share the samples, and each gets the solution of one process, bit by
    bit (docs/scale.md).

    Accuracy costs samples: after m of them the masses of n equal cells are off by a total
    variation of about 0.4 sqrt(n / m), and the solver draws about n (0.6 / tol)^2, up to 1.5 times
    as many where recombined half points are used, and those of the early stages. Memory, in
    bytes: `memory` for scores, 4 n d for sites, about 24 n (20 + 8 k) for the lists, k <= 16
    entries each, 1200 to 4000 n for facets (more where a site has more neighbours; from 100 000
    sites on ranks share these, as they do the lists), 8 n d for the cells' means, 800 n for counts,
    20 MB, and for a checkpoint, while it is written, 16 n (d + 60) (docs/reliability.md).

    Args:
        source: The source measure.
        sites: (n, d), pairwise different, on any device; numbers, lists and whole numbers are
            float64. Steps are made on float32 copies of size one, the certificate is of the sites
            as given.
        masses: (n,), positive, summing to one; equal if left out.
        tol: Total variation between the cells' masses and `masses` that the 95 % bound of the
            certificate must not exceed, in (0, 1).
        method: "auto" (exact where possible, else "newton"); "newton"; "lbfgs"
            (quasi-Newton) on the same lists; "adam" on fresh samples, the published rule; "exact".
        engine: What scores samples against sites: "auto" (numba on a CPU that has it, Triton on a
            GPU, else torch), "numba", "triton", "torch", "keops" or "kdtree"; exact cells need
            none. Where it is neither numba nor kdtree all that is large stays on the device.
        init: (n,) heights to start from, in the caller's coordinates; used where their energy is
            below that of the start made from the data. On a line they are kept if within `tol`.
        seed: Seed of all samples, >= 0.
        max_samples: Draw no more samples in all and stop, uncertified, before a step that would.
            Less than 16 384 + 64 d count as so many: they tell what the source is like and what
            the heights are worth. By default the solve ends after the step that exceeds
            eight times what an ordinary problem takes.
        memory: Bytes for blocks of scores; rounding aside it changes no result. None: 256 MiB, on a
            GPU a quarter of what is free; halved where even that does not fit. Several processes
            whose sites take more hold a part of them each, to score by.
        threads: Worker threads on a CPU; torch's number if left out. They change no result.
        checkpoint: Directory where the state is saved and from which a solve of the same problem
            goes on, to the same heights: after every step, as long as that costs 2 % of the time
            at most, and whenever the solve ends or is stopped. Exact solutions keep nothing on the
            way and start anew; a warning says so.
        on_step: Called with every record of the history (with "seconds", of all processes that
            worked at it, and "left", an estimate, added); return True to stop and get the best
            certified heights so far. Where near sites are merged and told apart, steps of such
            parts come first, their stage as in "part 1.2: settle".
        progress: Whether to show progress on stderr; by default a bar if that is a terminal, else
            a line a minute.

    Returns:
        The solution; ``converged`` says whether the certificate holds, ``message`` what to change.

    Raises:
        ValueError: If an argument is wrong, two sites are equal, or a checkpoint is of another
            problem.
        KeyboardInterrupt: If Ctrl-C or SIGTERM came, within a second. It holds the best heights so
            far as ``heights``, to be passed as `init`; what was done since the last step is lost.

    References:
        N. Lei, D. An, Y. Guo, K. Su, S. Liu, Z. Luo, S.-T. Yau, X. Gu, "A geometric understanding
        of deep learning", Engineering 6 (2020), sec. 4.

    Example:
        >>> import torch, aeot
        >>> sites = torch.randn(50, 4, generator=aeot.generator(0))
        >>> solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=4), sites, tol=0.05)
        >>> solution.converged, solution.mass_error_upper <= 0.05
        (True, True)
    """
    check_source(source)
    y = _check.points("sites", sites, dim=source.dim)
    check_enough(source, len(y))
    nu = _check.masses(masses, y.shape[0])
    tol = _check.real("tol", tol, minimum=_LEAST_TOL, maximum=0.999)
    if progress is not None:
        _check.flag("progress", progress)
    _check.callback("on_step", on_step)
    method = _check.choice("method", method, METHODS)
    engine = _check.choice("engine", engine, ENGINES)
    seed = _check.seed("seed", seed)
    memory = None if memory is None else _check.integer("memory", memory, minimum=1 << 20)
    threads = None if threads is None else _check.integer("threads", threads)
    if max_samples is not None:
        max_samples = _check.real("max_samples", max_samples, minimum=1)
    start = None
    if init is not None and not isinstance(init, Beginning):
        start = _check.array("init", init)
        if start.shape != (y.shape[0],):
            raise _check.fail("init", f"have shape ({y.shape[0]},)", f"shape {tuple(start.shape)}")
    if checkpoint is not None and _ranks.rank() == 0:
        _io.check_writable(checkpoint, kind="transport", name="checkpoint")
    facts = {"sites": y, "masses": nu, "tol": tol, "method": method, "engine": engine, "seed": seed}
    facts |= {"init": start, "max_samples": max_samples, "checkpoint": checkpoint is not None}
    agree(source, facts)
    if is_exact(source, len(y), method):
        if checkpoint is not None:
            _check.warn("checkpoint is not used: exact solutions keep no state on the way")
        known, few = law(source) if source.dim == 1 else None, is_few(source, len(y))
        if known is None and not few:
            return _exactly(source, y, nu, tol)
        reject_duplicates(y)
        if known is None:
            return solve_assignment(source, y, nu, tol=tol, init=start)
        return solve_line(source, y, nu, known, tol=tol, init=start)
    method = "newton" if method == "auto" else method
    reject_duplicates(y)
    # The solver sees the sites sorted, coordinate by coordinate, whatever the caller's order.
    order = torch.from_numpy(np.lexsort(y.detach().cpu().numpy().T[::-1]))
    start = None if start is None else start.detach().cpu()[order]
    place = order.argsort()
    check_fits(source, len(y))
    supply = Supply.of(max_samples, d=source.dim)
    given = y[order.to(y.device)], nu[order]
    problem = standardise(source, *given, seed, place, supply=supply)
    split = choose_split(problem.law, *problem.sites.shape)
    scorer = Scorer(problem, engine=engine, split=split, memory=memory, threads=threads)
    task = Task(problem, scorer, tol, method)
    mark = fingerprint(problem, tol=tol, method=method, engine=scorer.engine.NAME)
    _ranks.agree({"engine": mark["engine"]})
    keeper = Keeper(checkpoint, mark)
    try:
        with _loop.Loop("transport", unit="samples", progress=progress) as loop:
            found = keeper.restored(problem.sites.device, _steps(method, source.dim))
            outcome = Outcome.STOPPED
            if isinstance(found, State):
                supply.drawn = found.n_samples
                state, outcome = run(task, found, keeper, on_step, loop)
            else:
                begin = _Start(task, found, keeper, on_step, loop)
                state = begin.run(init if isinstance(init, Beginning) else start, order)
                if not begin.stopped:
                    state, outcome = run(task, state, keeper, on_step, loop)
    except _loop.Stopped as stopped:
        if stopped.heights is not None:
            heights = problem.from_standard(stopped.heights.cpu())
            stopped.heights = heights[place].to(y.device)
        raise
    return finished(task, state, outcome, y)


def is_exact(source: Measure, n: int, method: str = "auto") -> bool:
    """Whether a transport onto n sites is solved exactly, without samples and checkpoints."""
    if method == "exact":
        return True
    if source.dim == 1 and method in ("auto", "newton") and law(source) is not None:
        return True
    if method == "auto" and is_few(source, n):
        return True
    if method != "auto" or n > _EXACT_SITES.get(source.dim, 0):
        return False
    try:
        support(source)
    except ValueError:
        return False
    return True


def _exactly(source: Measure, y: torch.Tensor, nu: torch.Tensor, tol: float) -> Solution:
    # Relative errors of 1e-8 cost one Newton step more than any coarser wish.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        exact = solve_exact(source, y, nu, tol=min(1e-8, 2 * tol))
    if exact.converged:
        return exact
    if exact.mass_error > tol or exact.outcome is Outcome.EMPTY:
        _check.warn(exact.message, ConvergenceWarning)
        return exact
    return replace(
        exact, outcome=Outcome.CONVERGED, message=f"mass error {exact.mass_error:.3g} (exact)"
    )


def choose_split(law: str, n: int, d: int) -> int:
    """Return how many half points to recombine with how many; 1 for independent samples.

    | n           | d        | m  |                                                        |
    |-------------|----------|----|--------------------------------------------------------|
    | below 512   |          | 1  | scores are cheap, and large cells hold whole blocks    |
    |             | up to 6  | 1  | samples that share a half fall into one cell too often |
    | 512 or more | 7 to 31  | 8  |                                                        |
    |             | 32 on    | 16 | the product of the scores would be the main cost       |

    Sources known by their samples only take 1.
    """
    if law == "sampler" or d < 7 or n < 512:
        return 1
    return 8 if d < 32 else 16


class _Start:
    """Makes the first state, and keeps, shows and tells the steps of parts that it solves for it.

    Args:
        task: The whole problem.
        kept: How far an earlier process came, if it did.
        keeper: Writes that.
        on_step: Called with a record of every step of a part.
        loop: Where progress is shown.

    Attributes:
        stopped: Whether `on_step` ended it: what parts are left take the heights they start with.
    """

    def __init__(
        self,
        task: Task,
        kept: Parts | None,
        keeper: Keeper,
        on_step: Callable[[dict[str, Any]], bool | None] | None,
        loop: _loop.Loop,
    ) -> None:
        self.task, self.keeper, self.on_step, self.loop = task, keeper, on_step, loop
        self.kept = kept or Parts()
        self.begun = time.perf_counter() - self.kept.seconds
        self.stopped = self.unwritten = False
        self._numbers = [0]  # of the part in the making, and of those around it

    def run(self, init: torch.Tensor | Beginning | None, order: torch.Tensor) -> State:
        """Return the first state of the whole, whose sites have these places (n,)."""
        try:
            found: State | torch.Tensor | None
            if isinstance(init, Beginning):
                found = init.state(self.task, self.task.first, order)
            else:
                found = init
            if not isinstance(found, State):
                found = _started(self.task, self.task.first, found, self)
            state = found
        except _loop.Stopped as stopped:
            if stopped.at_once:
                raise
            left = "nothing is kept, and the same call begins anew"
            if self.kept.history and self.keeper.path is not None:
                left = f"{self.keeper.path} holds it, and the same call goes on"
            raise _loop.Stopped(stopped.number, "the start of the transport", left) from None
        finally:
            self._write()
        return replace(state, history=tuple(self.kept.history), seconds=self.kept.seconds)

    def part(self, problem: Problem, solve: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """Return the heights of the next part: those that are kept, or what `solve(name)` finds."""
        self._numbers[-1] += 1
        name, kept = ".".join(map(str, self._numbers)), self.kept
        if name in kept.done:
            heights, problem.supply.drawn = kept.done[name]
            if heights.shape != problem.masses.shape:
                with _io.using(self.keeper.path or ""):
                    raise _io.Damaged(f"part {name} has {len(heights)} heights")
            return heights.to(problem.sites.device)
        self._numbers.append(0)
        try:
            heights = solve(name)
        finally:
            self._numbers.pop()
        if not self.stopped:
            inside = f"{name}."
            kept.done = {k: v for k, v in kept.done.items() if not k.startswith(inside)}
            kept.done[name] = heights.cpu(), problem.supply.drawn
            kept.part, kept.state, self.unwritten = "", None, True
        return heights

    def state(self, name: str, problem: Problem, steps: dict[str, Step]) -> State | None:
        """Return the state in which an earlier process left a part, if it did."""
        if self.kept.part != name or self.kept.state is None:
            return None
        with _io.using(self.keeper.path or ""):
            state = placed(self.kept.state, problem.sites.shape, problem.sites.device)
            if state.phase not in {"done", *steps}:
                raise _io.Damaged(f"there is no stage {state.phase[:80]!r}")
        problem.supply.drawn = state.n_samples
        return state

    def step(self, name: str, state: State) -> None:
        """Take the state of a part after a step."""
        kept, drawn = self.kept, self.task.problem.supply.drawn
        kept.part, kept.state = name, self.keeper.whole(replace(state, history=()))
        kept.seconds = time.perf_counter() - self.begun
        # The error is that of the part: of the whole nothing is known yet.
        record = state.history[-1] | {"stage": f"part {name}: {state.history[-1]['stage']}"}
        record |= {"samples": drawn, "error": None, "upper": None, "empty": None}
        kept.history.append(record)
        self.unwritten = True
        self.loop.at(drawn, {"stage": record["stage"]})
        left = kept.seconds * self.task.expected(state) / max(drawn, 1)
        told = {**record, "seconds": kept.seconds, "left": left}
        self.stopped = _ranks.agreed(partial(self._ends, told), state.heights)

    def _ends(self, record: dict[str, Any]) -> bool:
        if self.keeper.pace.due():
            self._write()
        with _ranks.alone():
            return self.on_step is not None and self.on_step(record) is True

    def _write(self) -> None:
        if self.unwritten and self.kept.history:
            self.keeper.write(self.kept)
            self.unwritten = False


def agree(source: Measure, facts: dict[str, Any]) -> None:
    """Refuse arguments, and a source, that are not the same on every rank."""
    _ranks.agree(facts)
    if _ranks.size() > 1:
        _ranks.agree({"source": source.sample(16, generator=generator(0, "transport", "ranks"))})


def unsolved(task: Task, scorer: Scorer) -> State:
    """Return the state of a solve before it has a start."""
    device, (n, d) = task.problem.sites.device, task.problem.sites.shape
    return State(
        phase="adam" if task.method == "adam" else "coarse",
        heights=torch.zeros(n, dtype=torch.float64, device=device),
        split=scorer.split,
        sums=torch.zeros(n, d, dtype=torch.int64, device=device),
        counts=torch.zeros(n, dtype=torch.int64),
    )


def _started(task: Task, scorer: Scorer, init: torch.Tensor | None, begin: _Start) -> State:
    """Take the start with the least energy on a small sample; the energy is convex."""
    problem, first = task.problem, unsolved(task, scorer)
    n, d = problem.sites.shape
    given = None if init is None else problem.to_standard(init).to(problem.sites.device)
    if given is None and task.method == "newton" and d > 1:
        heights = None
        with contextlib.suppress(OutOfSamples):
            heights = _composed(task, scorer, first, begin)
        if heights is not None:
            heights = heights.to(problem.sites.device)
            return replace(first, phase="try", heights=heights, weight=1.0)
    if d == 1 and task.method == "newton":
        return (
            replace(first, phase="line")
            if given is None
            else replace(first, phase="try", heights=given)
        )
    starts = [gaussian_heights(problem.sites, s) for s in (0.3, 0.6, 1.0)]
    starts.append(radial_heights(problem.sites, problem.masses))
    found: list[torch.Tensor] = []  # they may be the solution
    if task.method == "newton":
        samples = int(min(1.5 * (n**0.5 / task.tol) ** 2 + 1024, 1 << 24))
        if d == 2 and n <= PICTURE_SITES:
            with contextlib.suppress(OutOfSamples):
                picture = picture_heights(problem, samples)
                found += [] if picture is None else [picture]
    if given is not None:
        found.append(given)
    starts += found
    blocks = range(scorer.blocks_for(2048))
    oracle = sampled(scorer, "start", blocks)
    best = -1 if found else 1  # if they cannot be told apart
    with contextlib.suppress(OutOfSamples):
        scorer.keep("start", blocks, share=0.5)  # drawn once for all starts
        best = int(np.argmin([oracle(h).energy for h in starts]))
        scorer.keep("start", range(0), share=1.0)
    best %= len(starts)
    state = replace(first, heights=starts[best])
    good = best >= len(starts) - len(found) and task.method == "newton"
    return replace(state, phase="try") if good else state


def _composed(task: Task, scorer: Scorer, first: State, begin: _Start) -> torch.Tensor | None:
    """Return heights from easier problems, if the sites lie flat or in tight groups."""
    problem, supply = task.problem, task.problem.supply
    thin = flat(problem)
    if thin is not None:
        exact = _at_known_quantiles(task, thin)
        if exact is not None:
            return exact
        source, sites = thin[0], thin[1].to(problem.sites.device)
        seed = stream_seed(problem.seed, "flat")
        order = torch.arange(task.n)
        if source.dim == 1:  # there neighbours have to stand beside each other
            order = sites[:, 0].cpu().argsort()
        with supply.sparing(0.4):
            part = standardise(source, sites[order], problem.masses[order], seed, supply=supply)
            heights = _part(task, scorer, part, task.tol, begin)
        heights = part.from_standard(heights.cpu())[order.argsort()]
        return problem.to_standard(heights)
    y = times(problem.caller_sites - problem.caller_sites.mean(0), problem.factor)
    labels = tight_groups(y.numpy())
    if labels is None or has_heavy_tails(y.numpy(), labels):
        return None

    def solved(part: Problem, mass: float) -> torch.Tensor:
        # As accurate as so many sites, that hold so much, among all sites have to be.
        tol = _FINER * task.tol * (len(part.sites) / (task.n * mass)) ** 0.5
        return _part(task, scorer, part, min(tol, 0.999), begin)

    return grouped_heights(scorer, labels, task.wanted(first) / _FINER**2, solved)


def _at_known_quantiles(task: Task, thin: tuple[Measure, torch.Tensor]) -> torch.Tensor | None:
    """Return the heights of sites on a line, where the law of the source on it is known."""
    source, sites = thin
    known = law(source) if source.dim == 1 else None
    if known is None:
        return None
    exact = solve_line(source, sites, task.nu, known, tol=task.tol)
    return task.problem.to_standard(exact.heights.cpu())


def _part(task: Task, like: Scorer, problem: Problem, tol: float, begin: _Start) -> torch.Tensor:
    """Solve a part of a problem: its best heights, standard coordinates."""
    if len(problem.sites) == 1:
        return torch.zeros(1, dtype=torch.float64)
    return begin.part(problem, lambda name: _solved(task, like, problem, tol, begin, name))


def _solved(
    task: Task, like: Scorer, problem: Problem, tol: float, begin: _Start, name: str
) -> torch.Tensor:
    """Solve the part of this name."""
    n, d = problem.sites.shape
    scorer = Scorer(
        problem,
        engine=like.engine.NAME,
        split=choose_split(problem.law, n, d),
        memory=like.memory,
        threads=like.threads,
    )
    task = Task(problem, scorer, tol, task.method)
    begun, thin = problem.supply.drawn, flat(problem)
    exact = None if thin is None else _at_known_quantiles(task, thin)
    if exact is not None:
        return exact
    steps = _steps(task.method, d)
    state = begin.state(name, problem, steps) or _started(task, scorer, None, begin)
    with contextlib.suppress(OutOfSamples):
        while state.phase != "done" and not begin.stopped:
            if problem.supply.drawn - begun > _USUAL * task.expected(state):
                break
            # The last check is of the whole.
            if state.phase == "try" and thin is not None:
                return state.heights
            if state.phase == "line":
                return at_quantiles(task, state).heights
            if state.phase == "stream" and state.weight >= 0.95 * task.wanted(state):
                return state.heights
            state = advance(task, steps, state)
            begin.step(name, state)
    return state.heights if state.best_heights is None else state.best_heights


def _steps(method: str, dim: int) -> dict[str, Step]:
    """The stages of a solve, by name."""
    return LINE if method == "newton" and dim == 1 else STEPS[method]


class Keeper:
    """Writes the states of a solve, as often as that costs little, and the last one always."""

    def __init__(self, path: str | os.PathLike | None, mark: dict[str, Any]) -> None:
        self.path, self.mark = path, mark
        self.pace = _loop.Pace(0.0)
        self._facets: tuple[Compressed, Compressed | None] | None = None

    def whole(self, state: State) -> State:
        """Return a state as it can be written, whatever the others do then; on every rank.

        Of a Laplacian that ranks divide the first one holds all rows, where there is a checkpoint.
        """
        if self.path is None or state.facets is None:
            return state
        if self._facets is None or self._facets[0] is not state.facets:
            with _loop.whole():  # a signal that comes now shall not cost the step just made
                self._facets = state.facets, with_all_rows(state).facets
        return replace(state, facets=self._facets[1])

    def restored(self, device: torch.device, steps: dict[str, Step]) -> State | Parts | None:
        """Return what was written last of a solve in these stages, if there is anything."""
        if self.path is None or not _ranks.everyones(_io.holds_save(self.path))[0]:
            return None
        state = load(self.path, self.mark, device)
        if isinstance(state, State) and state.phase not in {"done", *steps}:
            with _io.using(self.path):
                raise _io.Damaged(f"there is no stage {state.phase[:80]!r}")
        return state

    def write(self, state: State | Parts) -> None:
        """Write a state, on the first rank; or nothing, where there is no checkpoint."""
        if self.path is not None and _ranks.rank() == 0:
            with self.pace.measured():
                save(self.path, state, self.mark)

    def stopped(self, number: int, state: State) -> _loop.Stopped:
        """Return what is raised where a signal stops the solve."""
        left = "its heights are the best so far, to be passed as init"
        if self.path is not None:
            left = "nothing is kept, and the same call begins anew"
            if state.history:
                left = f"{self.path} holds it, and the same call goes on"
        done = f"step {len(state.history)} of the transport ({state.n_samples} samples)"
        stopped = _loop.Stopped(number, done, left)
        best = state.heights if state.best_heights is None else state.best_heights
        stopped.heights = best
        return stopped


def run(
    task: Task,
    state: State,
    keeper: Keeper,
    on_step: Callable[[dict[str, Any]], bool | None] | None,
    loop: _loop.Loop,
    *,
    steps: dict[str, Step] | None = None,
) -> tuple[State, Outcome]:
    """Make steps until the heights are certified, or something else ends the solve.

    Args:
        task: What is solved.
        state: Before the first step.
        keeper: Writes checkpoints.
        on_step: Called with every record.
        loop: Where progress is shown.
        steps: The stages, by name; those of the task's method if left out.
    """
    begun = time.perf_counter() - state.seconds
    whole, unwritten = state, False  # not the state written last, which would be held beside it
    loop.first = state.n_samples

    def exhausted() -> bool:
        unlimited = math.isinf(task.problem.supply.limit)
        return unlimited and state.n_samples > _USUAL * task.expected(state)

    def ends(record: dict[str, Any]) -> bool:
        nonlocal unwritten
        if keeper.pace.due():
            keeper.write(whole)
            unwritten = False
        with _ranks.alone():
            return on_step is not None and on_step(record) is True

    try:
        steps = steps or _steps(task.method, task.dim)
        while state.phase != "done":
            if state.history and exhausted():
                return state, Outcome.OUT_OF_SAMPLES
            before, then = state.n_samples, time.perf_counter()
            try:
                state = advance(task, steps, state)
            except _loop.Stopped as stopped:
                raise keeper.stopped(stopped.number, state) from None
            except OutOfSamples:
                return state, Outcome.OUT_OF_SAMPLES
            record = state.history[-1]
            now = time.perf_counter()
            seconds, drawn = now - begun, max(state.n_samples - before, 1)
            state = replace(state, seconds=seconds)
            # Early stages cost more per sample than the last ones: an overestimate at first.
            ahead = 0.0 if state.phase == "done" else task.planned(state)
            left = ahead * (now - then) / drawn
            loop.total = state.n_samples + ahead
            shown = {"stage": record["stage"], "error": record["error"], "bound": record["upper"]}
            loop.at(state.n_samples, {k: v for k, v in shown.items() if v is not None}, left)
            seen = {**record, "seconds": seconds, "left": left}
            try:
                whole, unwritten = keeper.whole(state), True
                if _ranks.agreed(partial(ends, seen), state.heights):
                    return state, Outcome.STOPPED
            except _loop.Stopped as stopped:  # on another rank
                raise keeper.stopped(stopped.number, state) from None
    finally:
        if unwritten:
            keeper.write(whole)
    return state, Outcome.CONVERGED


def finished(task: Task, state: State, outcome: Outcome, sites: torch.Tensor) -> Solution:
    """Carry the best heights and their certificate back to the caller's sites.

    Args:
        task: What was solved.
        state: Where it ended.
        outcome: Why.
        sites: (n, d), as the caller gave them.
    """
    problem, tol = task.problem, task.tol
    scorer, place = task.scorer(state), problem.place
    if state.best is None:  # stopped before any check
        m = min(certificate_size(task.nu.numpy(), tol), 64 * task.n + 4096)
        supply = problem.supply
        supply.limit = max(supply.limit, supply.drawn + scorer.block_samples)
        state, _, _ = check(task, state, "certificate", m, edges=False)
    c, h = state.best, state.best_heights
    assert c is not None
    assert h is not None
    message = f"mass error <= {c.mass_error_upper:.3g} (95 %) on {c.n_samples} fresh samples"
    if c.holds(tol):
        outcome = Outcome.CONVERGED
    else:
        reasons = [f"above tol={tol:g}"] if c.mass_error_upper > tol else []
        reasons += [f"{c.empty} empty cell(s)"] if c.empty else []
        message += ": " + ", ".join([*reasons, outcome.value])
        why = why_unmet(problem.source, problem.masses)
        message += f"; {why}" if why else ""
    if outcome is Outcome.OUT_OF_SAMPLES:
        _check.warn(message, ConvergenceWarning)
    centroids, spread = _means(problem, scorer, state)
    return Solution(
        source=problem.source,
        sites=sites,
        masses=task.nu[place].to(sites.device),
        heights=problem.from_standard(h.cpu())[place].to(sites.device),
        mass_error=c.mass_error,
        mass_error_upper=c.mass_error_upper,
        outcome=outcome,
        message=message,
        method=task.method,
        engine=scorer.engine.NAME,
        history=list(state.history),
        n_samples=problem.supply.drawn,
        cell_masses=c.cell_masses[place].to(sites.device),
        cell_centroids=centroids[place.to(centroids.device)].to(sites),
        cell_variance=spread,
        tol=tol,
    )


def _means(problem: Problem, scorer: Scorer, state: State) -> tuple[torch.Tensor, float | None]:
    """Mean of the source in every cell, (n, d), and its mean variance per axis inside.

    The variance is a difference; None where rounding leaves nothing of it, as for a source of
    clumps that are small against their distances.
    """
    counts, device = state.counts, state.sums.device
    z = torch.zeros(state.sums.shape, dtype=torch.float64, device=device)
    z[:, scorer.order.to(device)] = mean_rows(state.sums, counts.to(device))
    shift = times(z, problem.factor.to(device), transposed=True)
    drawn = max(int(counts.sum()), 1)
    between = float((counts / drawn).to(torch.float64) @ shift.square().sum(1).cpu())
    total = float(problem.factor.square().sum())
    # The means carry their own sampling noise: one degree of freedom per cell that was hit.
    lost = 1 - float((counts > 0).sum()) / drawn
    spread = (total - between) / max(lost, 1e-9) / problem.factor.shape[0]
    return problem.mean.to(device) + shift, spread if total - between > 1e-3 * total else None
