"""The stages of the Monte-Carlo solver: functions from one state to the next.

try      heights that may be good already are certified, and taken over if they are;
coarse   whole clusters of sites are put right (see `aeot.solvers.clusters`);
settle   2 to 8 samples per site on long candidate lists, drawn afresh after every few Newton
         steps, until the masses of fresh samples look like sampling noise; what the heights owe to
         one sample is averaged with what they owe to the next;
grow     the same with 24 per site, not at all if `tol` is loose;
stream   ever larger fresh samples that are only counted. Each count is a held-out test of the
         current heights and, if they fail it, one more equation: a Newton step from the counted
         masses aims at the solution with that sample's noise, and the heights are the average of
         all aims, each weighted by its sample. Nothing but counts is kept, so that no tolerance
         asks for memory.

References:
    B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J.
    Control Optim. 30 (1992). J. Kitagawa, Q. Merigot, B. Thibert, "Convergence of a Newton
    algorithm for semi-discrete optimal transport", J. Eur. Math. Soc. 21 (2019).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch

from aeot import _ranks
from aeot.search.heights import center
from aeot.solvers.certificate import ENOUGH, Certificate, Tally, certificate_size, certify, tally
from aeot.solvers.clusters import cluster, correct
from aeot.solvers.laplacian import Laplacian, beside, conjugate_gradient
from aeot.solvers.minimize import Trust, lbfgs, levenberg
from aeot.solvers.oracles import Bank, best_gaps, facet_laplacian
from aeot.solvers.problem import Problem
from aeot.solvers.scorer import Scorer
from aeot.solvers.state import Drawn, State

FIRST, SETTLE, GROW = 2, 8, 24  # samples per site; a loose tolerance grows less
SETTLED, GROWN = 0.98, 0.998  # share of the winners that lists of few sites must have
LIFT = 2  # the same, that sites which win nothing are lifted by
BAND = 0.5  # width of the band along a facet that the Laplacian is estimated in, in units
EDGED = 320  # samples per site that the Laplacian of the streaming stage is made from
HELD = 0.1  # share of the heights that the box may hold before lists say nothing of the rest
FAR = 0.15  # stiffness of heights with units of their own, in masses over units
_LOOK_ON = 1 << 18  # samples that a certificate may take in any case to see light cells
AHEAD = {"coarse": 4 * SETTLE + GROW, "settle": 2 * SETTLE + GROW, "grow": GROW}


class Task:
    """What all steps of a solve share; nothing that they change.

    Args:
        problem: In standard coordinates.
        scorer: Of the problem, with halves shared as at the start.
        tol: Total variation to certify.
        method: "newton", "lbfgs" or "adam".

    Attributes:
        first: The scorer.
        nu: (n,) float64, the masses wanted, on the CPU.
        n: Number of sites.
        dim: Dimension.
        root: Sum of their square roots; sqrt(n) for equal masses.
        goal: Q that the last heights should have on average, in units of tol^2; see `aim`.
        grow: Samples per site in the lists of the growing stage.
        minimise: `levenberg` or `lbfgs`, which works on lists.
    """

    def __init__(self, problem: Problem, scorer: Scorer, tol: float, method: str) -> None:
        self.problem, self.tol, self.method = problem, tol, method
        self.nu = problem.masses
        self.n, self.dim = problem.sites.shape
        self.root = float(self.nu.sqrt().sum())
        self.goal = aim(self.root)
        enough = 1.3 * self.root**2 / (self.goal * tol**2 * self.n)
        self.grow = min(max(enough, SETTLE), GROW)
        self.minimise = lbfgs if method == "lbfgs" else levenberg
        self.first = scorer
        self._scorers = {scorer.split: scorer}
        self._held: tuple[Drawn, Bank] | None = None

    def scorer(self, state: State) -> Scorer:
        """Return the scorer with the halves shared that the state says."""
        if state.split not in self._scorers:
            self._scorers[state.split] = next(iter(self._scorers.values())).without_split()
        return self._scorers[state.split]

    def wanted(self, state: State) -> float:
        """Return how many samples the heights should be worth in the end."""
        return state.inflation * self.root**2 / (self.goal * self.tol**2)

    def planned(self, state: State) -> float:
        """Return how many samples are still to come, if nothing goes wrong."""
        check = certificate_size(self.nu.numpy(), self.tol)
        ahead = AHEAD.get(state.phase, 0) * self.n
        return ahead + max(self.wanted(state) - state.weight, 0) + check

    def expected(self, state: State) -> float:
        """Return how many samples a solve takes in all if nothing goes wrong, generously."""
        check = certificate_size(self.nu.numpy(), self.tol, state.inflation)
        return self.wanted(state) + check + 120 * max(self.n, 512)

    def bank(
        self,
        scorer: Scorer,
        heights: torch.Tensor,
        key: str,
        m: float,
        *,
        radius: float,
        least: int,
        longest: int,
        found: float | None = None,
    ) -> Bank:
        """Return the lists of at least m samples; `Engine.candidates` explains the options.

        Where a share is said that is to be found, winners may be missing: `Scorer.pruned`.
        """
        by = (scorer.pruned(heights, key, found) if found else None) or scorer
        blocks = range(by.blocks_for(m))
        options: dict[str, Any] = {"radius": radius, "least": least, "longest": longest}
        lists = by.candidates(heights, key, blocks, **options)
        m = len(blocks) * by.block_samples
        return Bank(self.problem, scorer.engine, lists, m, scorer.threads)

    def hold(self, drawn: Drawn, bank: Bank) -> None:
        """Keep lists at hand that were drawn so."""
        self._held = drawn, bank

    def drawn(self, state: State) -> tuple[State, Bank]:
        """Return the lists in use, which are drawn again only if they are not at hand."""
        drawn = state.lists
        assert drawn is not None, "lists are asked for before they were chosen"
        if self._held is None or self._held[0] is not drawn:
            scorer = self.scorer(replace(state, split=drawn.split))
            m = drawn.n_samples or max(self.grow * self.n, 8192)
            self._held = None  # two at a time would be the most that a solve holds
            options: dict[str, Any] = {"radius": drawn.radius, "least": 4, "longest": 16}
            options["found"] = GROWN
            known = self.problem.supply.again() if drawn.n_samples else contextlib.nullcontext()
            with known:
                bank = self.bank(scorer, drawn.heights, drawn.key, m, **options)
            if not drawn.n_samples:
                drawn = replace(drawn, n_samples=bank.n_samples)
                state = replace(state, lists=drawn)
            self._held = drawn, bank
        return state, self._held[1]


def aim(root: float) -> float:
    """Return the Q that the last heights should have on average, in units of tol^2.

    The bound of the certificate allows 4. Below it there has to be room for the spread of Q, for
    that of its estimate and for what the bound adds, all of which fall with the number of sites: as
    much room as costs the fewest samples in all, those of looks that fail too (the tests simulate
    it).

    Args:
        root: Sum of the roots of the masses; sqrt(n) for equal ones.
    """
    return min(max(4 - 4.7 * root**-0.42, 1.6), 3.25)


# From a state to the next, with what the history shall say of the step.
Step: TypeAlias = Callable[[Task, State], tuple[State, dict[str, Any]]]


def advance(task: Task, steps: dict[str, Step], state: State) -> State:
    """Make the step of the state's stage, and add its record to the history."""
    record = {"stage": state.phase, "step": state.step}
    state, values = steps[state.phase](task, state)
    state = replace(state, n_samples=task.problem.supply.drawn)
    record |= {"samples": state.n_samples, "unit": state.unit, "inflation": state.inflation}
    record |= dict.fromkeys(("error", "upper", "bound", "empty", "steps")) | values
    return replace(state, history=(*state.history, record))


def try_start(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Certify heights that may be good already, and choose the stage to go on with."""
    state = measured(task, state)
    size = certificate_size(task.nu.numpy(), task.tol)
    state, c, result = check(task, state, "try", size)
    state = state.with_facets(
        facet_laplacian(result.edges, task.n, 1, task.scorer(state).engine), result.n_samples
    )
    worth = _worth(task, state, c)
    # Heights that were put together from parts are worth more than what began anew would find.
    if state.phase != "done" and worth < (2 if state.weight else GROW) * task.n:
        state = state.entering("coarse")
    elif state.phase != "done":
        lists = Drawn("grow try", state.heights, 3 * state.unit, state.split)
        state = replace(state.entering("stream"), weight=worth, lists=lists)
    return state, {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}


def coarse(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Put whole clusters of sites right."""
    n, step = task.n, state.step + 1
    sizes = [k for k in (round(n**0.5), min(round(n**0.75 / 2), 1024)) if 8 <= k <= n // 4]
    if step > len(sizes):
        return state.entering("settle"), {}
    labels = cluster(task.problem.sites, sizes[step - 1], seed=task.problem.seed)
    scorer = task.scorer(state)
    heights, error = correct(scorer, state.heights, labels, stage=f"coarse {step}")
    return replace(state, step=step, heights=heights), {"error": error}


def settle(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Take a few Newton steps on the long lists of 2 to 8 fresh samples per site."""
    if state.step == 0:
        state = measured(task, state)
    # Far from the solution fewer samples tell as much: so many that their noise is two fifths of
    # the deviation that was found last.
    least = max(FIRST / SETTLE, 4096 / (SETTLE * task.n))
    share = min(max(6 / max(state.lowest - 1, 1.0), least), 1.0)
    key, m = f"settle {state.returns}.{state.step}", max(share * SETTLE * task.n, 4096)
    options: dict[str, Any] = {"radius": 4 * state.unit, "least": 8, "longest": 32}
    options["found"] = SETTLED
    bank = task.bank(task.scorer(state), state.heights, key, m, **options)
    # The more sites, the dearer are lists, and the further from them the heights are.
    most = min(8 + task.n // 8000, 20)
    state, record = minimised(task, state, bank, 2.0, 0.3, most)
    chi2, bound = 1 + (record.pop("chi2") - 1) / share, record["bound"]
    state = replace(_judged(state, chi2), step=state.step + 1)
    absent = bank.absent()
    absent = absent[task.nu.numpy()[absent] * bank.n_samples >= 1]
    del bank  # not held beside the scores of the absent sites
    record["empty"] = int(absent.size)
    if share == 1 and 0 < absent.size < 0.1 * task.n:
        state = _lifted(task, state, absent, f"lift {state.returns}.{state.step}")
    settled = chi2 < 3 and bound < HELD and absent.size <= task.n // 1000
    if settled or (state.stalled >= 2 and chi2 < 4) or state.step == 25:
        state = state.entering("grow")
    return state, record


def grow(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Minimise on the lists of 24 samples per site, unless the heights are worth enough."""
    key = f"grow {state.returns}.{state.step}"
    state = replace(state, lists=Drawn(key, state.heights, 3 * state.unit, state.split))
    if not state.step + state.returns and state.weight >= 0.95 * task.wanted(state):
        return state.entering("stream"), {}
    state, bank = task.drawn(state)
    state, record = minimised(task, state, bank, 1.8, 0.2, 20)
    chi2, bound = record.pop("chi2"), record["bound"]
    state = replace(_judged(state, chi2), step=state.step + 1)
    if (chi2 < 6 and bound < 0.03) or state.stalled >= 1 or state.step == 6:
        state = state.entering("stream")
        now = bank.evaluate(state.heights, BAND * state.units)
        assert now.hessian is not None
        state = state.with_facets(now.hessian * bank.n_samples, bank.n_samples)
    return state, record


def stream(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Count a fresh sample: it certifies the heights, or else improves them."""
    nu, wanted = task.nu.numpy(), task.wanted(state)
    size = certificate_size(nu, task.tol, state.inflation, state.looks + 1)
    m = min(wanted - state.weight, state.weight) if state.weight < 0.95 * wanted else size
    key = f"stream {state.returns}.{state.step}"
    state, c, result = check(task, state, key, m, last=state.weight >= 0.95 * wanted)
    state = replace(state, step=state.step + 1)
    record = {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}
    if state.phase == "done":
        return state, record
    if result.edges:
        engine = task.scorer(state).engine
        facets: Any = facet_laplacian(result.edges, nu.size, 1, engine)
        facets = state.laplacian(engine.HOST) + facets
        state = state.with_facets(facets, state.edged + c.n_samples)
    if state.split > 1 and c.inflation > break_even(task.scorer(state)):
        # Cells that follow one half of the coordinates, such as slabs: sharing does not pay. The
        # sums so far have their columns in another order.
        empty = torch.zeros_like(state.sums), torch.zeros_like(state.counts)
        state = replace(state, split=1, sums=empty[0], counts=empty[1])
    missing = np.flatnonzero((result.cell_counts == 0) & (result.n_samples * nu >= 10))
    if missing.size > nu.size // 100 and state.returns < 4:
        state = _lifted(task, state, missing, f"lift {key}")
        # Heights at which cells are empty are worth nothing to the average.
        return replace(state, returns=state.returns + 1, weight=0.0).entering("grow"), record
    state = _averaged(task, state, c, result.n_samples)
    if missing.size:
        state = _lifted(task, state, missing, f"lift {key}")
    return state, record


NEWTON: dict[str, Step] = {
    "try": try_start,
    "coarse": coarse,
    "settle": settle,
    "grow": grow,
    "stream": stream,
}


def break_even(scorer: Scorer) -> float:
    """Return the inflation above which independent samples are cheaper than shared halves.

    A sample costs a product of about 0.13 d, in units of the search through its scores; sharing
    halves divides the product by `split`.
    """
    product = 0.13 * scorer.problem.sites.shape[1]
    return (1 + product) / (1 + product / scorer.split)


def measured(task: Task, state: State) -> State:
    """Return the state with the unit of heights measured on a few samples."""
    options: dict[str, Any] = {"radius": 1e20, "least": 1, "longest": 4}
    first = task.bank(task.scorer(state), state.heights, "unit", 1, **options)
    unit = first.gap_scale(state.heights)
    return replace(state, unit=unit, local=first.units(state.heights, unit))


def check(
    task: Task, state: State, key: str, m: float, *, edges: bool = True, last: bool = True
) -> tuple[State, Certificate, Tally]:
    """Count fresh samples at the heights and certify them: good ones end the solve.

    Args:
        task: What is solved.
        state: With the heights.
        key: Stage key of the samples.
        m: How many, at least; fewer if no more are left.
        edges: Collect the samples near facets, as long as too few were.
        last: Whether this look is thought to be the last one; see `quantile`.
    """
    state = replace(state, looks=state.looks + last)
    look = state.looks if last else 0
    edges = edges and state.edged < EDGED * task.n
    scorer, sums, nu = task.scorer(state), torch.zeros_like(state.sums), task.nu.numpy()

    def counted(blocks: range) -> Tally:
        window = BAND * state.units if edges else None
        return tally(scorer, state.heights, key, blocks, sums=sums, window=window)

    blocks = scorer.blocks_left(m)
    result = counted(range(blocks))
    c = certify(result, nu, look)
    # Cells that were not seen, and are too light yet for a miss to mean anything: look on, at most
    # as long again as the whole solve took, or for what a small one costs next to nothing.
    most = scorer.blocks_for(max(state.n_samples + 2 * result.n_samples, _LOOK_ON))
    left = min(task.problem.supply.left, 1 << 60)
    most = min(most, blocks + int(left // scorer.block_samples))
    while c.holds(task.tol):
        unseen = nu[(result.cell_counts == 0) & (result.n_samples * nu < ENOUGH)]
        end = min(scorer.blocks_for(1.1 * ENOUGH / unseen.min()), most) if len(unseen) else 0
        end = min(end, blocks + max(blocks // 4, 1))
        if end <= blocks:
            break
        result, blocks = result.joined(counted(range(blocks, end))), end
        c = certify(result, nu, look)
    _ranks.total(sums)
    better = state.best is None or c.rank < state.best.rank
    state = replace(
        state,
        phase="done" if c.holds(task.tol) else state.phase,
        sums=sums.add_(state.sums),
        counts=state.counts + torch.from_numpy(result.cell_counts),
        inflation=max(c.inflation, 1.0),
        best=c if better else state.best,
        best_heights=state.heights if better else state.best_heights,
    )
    return state, c, result


def minimised(
    task: Task, state: State, bank: Bank, up: float, stop: float, max_steps: int
) -> tuple[State, dict[str, Any]]:
    """Minimise on lists, down to `stop` times their sampling noise; heights rise by `up` units."""
    fresh, m = bank.evaluate(state.heights), bank.n_samples
    # Cells that expect less than 8 samples weigh as if they did: they come by the sample.
    root = task.nu.clamp(min=8 / m).sqrt()
    chi2 = float((fresh.gradient.cpu().square() / root).sum() * m / (task.nu / root).sum())
    floor = 0.4 * task.root / m**0.5
    unit, target = bank.gap_scale(state.heights), task.nu.to(state.heights)
    units = bank.units(state.heights, state.unit)
    heights, _, info = task.minimise(
        bank.evaluate,
        state.heights,
        target,
        trust=Trust(units, up * units),
        stop=stop * floor,
        max_steps=max_steps,
    )
    # What earlier samples found is not thrown away: the average of both heights, each weighted by
    # the samples it is worth, is worth them all. These samples tell what the earlier ones are.
    known = 0.0
    if info["bound"] < HELD:
        known = min(state.weight, state.inflation * m / max(chi2 - 1, 1e-9))
    heights = state.heights + (heights - state.heights) * (m / (known + m))
    # What is left of the deviations when sampling noise is taken off.
    record = {"chi2": chi2, "error": floor * max(chi2 - 1, 0.0) ** 0.5, **info}
    units = bank.units(state.heights, unit)
    state = replace(state, heights=heights, unit=unit, local=units, weight=known + m)
    return state, record


def _judged(state: State, chi2: float) -> State:
    stalled = state.stalled + 1 if chi2 > 0.9 * state.lowest else 0
    return replace(state, stalled=stalled, lowest=min(state.lowest, chi2))


def _worth(task: Task, state: State, c: Certificate) -> float:
    # How many samples would leave the error that was measured.
    return state.inflation * task.root**2 / max(c.square, 1e-300)


def _averaged(task: Task, state: State, c: Certificate, m: int) -> State:
    """Average the heights with the Newton target of the counted masses."""
    state, bank = task.drawn(state)
    host = task.scorer(state).engine.HOST
    heights, facets = state.heights, state.laplacian(host) / state.edged
    missing = task.problem.target(c.cell_masses) - c.cell_masses
    step = newton_step(bank, heights, facets, task.nu, missing, state.unit, state.units)
    worth = _worth(task, state, c)
    if worth < 0.7 * state.weight:
        # The last step fell short: near sites trade facets within it. Count them anew.
        state = state.with_facets(state.laplacian(host) / 2, state.edged / 2)
    weight = min(state.weight, worth) + m
    heights = center(heights + (step * (m / weight)).to(heights))
    return replace(state, weight=weight, heights=heights)


def newton_step(
    bank: Bank,
    heights: torch.Tensor,
    facets: Laplacian,
    masses: torch.Tensor,
    missing: torch.Tensor,
    unit: float,
    units: torch.Tensor,
) -> torch.Tensor:
    """Return the step (n,) that gives cells what they miss, on the CPU.

    Args:
        bank: Lists that know the curvature along the step.
        heights: (n,), where it begins.
        facets: Their Laplacian, for one sample.
        masses: (n,), the target.
        missing: (n,), what is to be added to the masses.
        unit: Of the heights.
        units: Of each of them (n,); see `Bank.units`.
    """
    now = bank.evaluate(heights)
    # A cell without an edge in the lists must not run away: its own mass is its stiffness.
    degree = torch.as_tensor(facets.diagonal())
    own = torch.where(degree > 0, torch.full_like(degree, 1e-6), 1.0)
    # One with a scale of its own has few samples near its facets, which say little of them.
    units = units.to(degree)
    own = torch.where(units > 1.001 * unit, own.clamp(min=FAR), own)
    ridge = 1e-6 * degree + own * masses.to(degree) / units
    sides = beside(facets, ridge), beside(facets, missing)
    x = conjugate_gradient(facets, *sides, tolerance=1e-3, max_steps=300)
    step = torch.as_tensor(x).cpu()
    # The band along the facets blurs the Laplacian; the lists know the curvature exactly.
    ahead = bank.evaluate(heights + step.to(heights))
    change = float(step @ (ahead.masses - now.masses).cpu())
    curvature = change / max(float(x @ (facets @ x)), 1e-300)
    step = step / min(max(curvature, 0.5), 2.0)
    # From end to end of the support there are n^(1/d) cells, each of which may move by a unit.
    n, d = bank.problem.sites.shape
    reach = units.cpu() * max(3.0, n ** (1 / d))
    step = step - step.median()  # a common rise is none, and must not be cut
    return step.clamp(-reach, reach)


def _lifted(task: Task, state: State, missing: np.ndarray, key: str) -> State:
    """Raise empty cells to where they win about half of their share."""
    m, every = max(LIFT * task.n, 4096), task.scorer(state)
    scorer = every.pruned(state.heights, key, SETTLED) or every
    blocks = range(scorer.blocks_for(m))
    rank = np.clip(np.rint(m * task.nu.numpy()[missing] / 2), 1, 8).astype(np.int64)
    gaps = best_gaps(scorer, state.heights, missing, key, blocks, rank=rank)
    heights = state.heights.clone()
    heights[torch.from_numpy(missing).to(heights.device)] += gaps
    return replace(state, heights=center(heights))
