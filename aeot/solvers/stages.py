"""The stages of the Monte-Carlo solver, one resumable step at a time.

try      heights that may be good already are certified, and taken over if they are;
coarse   whole clusters of sites are put right (see `aeot.solvers.clusters`);
settle   8 samples per site on long candidate lists, drawn afresh after every few Newton steps,
         until the masses of fresh samples look like sampling noise;
grow     the same with 24 per site;
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

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
import torch

from aeot.scores.heights import center
from aeot.solvers.certificate import Certificate, Tally, certificate_size, certify, tally
from aeot.solvers.clusters import cluster, correct
from aeot.solvers.minimize import Trust, conjugate_gradient
from aeot.solvers.oracles import Bank, best_gaps, facet_laplacian
from aeot.solvers.problem import Problem
from aeot.solvers.scorer import Scorer

SETTLE, GROW = 8, 24  # samples per site
BAND = 0.5  # width of the band along a facet that the Laplacian is estimated in, in units
EDGED = 320  # samples per site that the Laplacian of the streaming stage is made from
AIM = 1.6  # root of Q the last heights should have, in units of tol; the bound allows 2


@dataclass
class State:
    """Everything that a later step depends on; a checkpoint holds exactly this.

    Attributes:
        phase: The next step's stage: "try", "coarse", "settle", "grow", "stream" or "done".
        step: How many steps of this stage were made.
        heights: (n,) float64, standard coordinates.
        unit: Mean gap between the best score and the next.
        best: Least chi2 of this stage so far.
        stalled: Steps since `best` improved by a tenth.
        weight: Samples that the heights are worth.
        reference: (n,) heights at which the lists in use were made.
        key: Stage key of the samples of those lists.
        returns: How often the streaming stage went back to the lists.
        inflation: Variance of the masses relative to independent samples.
        facets: (n, n) Laplacian of the facets between cells, summed over `edged` samples.
        split: Half points that share a block (`Scorer.split`).
        n_samples: Samples drawn in all.
        sums: (n, d) float64, sum of the samples in each cell; `counts` (n,) how many.
        history: One dict per step.
    """

    phase: str
    heights: torch.Tensor
    sums: np.ndarray
    counts: np.ndarray
    step: int = 0
    unit: float = 1.0
    best: float = float("inf")
    stalled: int = 0
    weight: float = 0.0
    reference: torch.Tensor | None = None
    key: str = ""
    returns: int = 0
    inflation: float = 1.25
    n_samples: int = 0
    facets: scipy.sparse.csr_matrix | None = None
    edged: int = 0
    split: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        """Go to the first step of another stage."""
        self.phase, self.step, self.best, self.stalled = phase, 0, float("inf"), 0


def break_even(scorer: Scorer) -> float:
    """Return the inflation above which independent samples are cheaper than shared halves.

    A sample costs a product of about 0.13 d, in units of the search through its scores; sharing
    halves divides the product by `split`.
    """
    product = 0.13 * scorer.problem.sites.shape[1]
    return (1 + product) / (1 + product / scorer.split)


class Stages:
    """The steps of a solve; each call of `advance` makes one.

    Args:
        problem: In standard coordinates.
        scorer: Of the problem.
        tol: Total variation to certify.
        inner: Minimiser on lists, with the signature of `minimize.levenberg`.
        state: Where to start or go on.
    """

    def __init__(
        self,
        problem: Problem,
        scorer: Scorer,
        tol: float,
        inner: Callable[..., tuple[torch.Tensor, Any, dict[str, float]]],
        state: State,
    ) -> None:
        self.problem, self.scorer, self.tol, self.inner = problem, scorer, tol, inner
        self.state = state
        if state.split == 1 and scorer.split > 1:
            self.scorer = scorer.without_split()
        state.split = self.scorer.split
        self.nu = problem.masses
        self.root = float(self.nu.sqrt().sum())  # sqrt(n) for equal masses
        self.checked: tuple[Certificate, torch.Tensor] | None = None  # of these heights
        self._bank: Bank | None = None

    def advance(self) -> dict[str, Any]:
        """Make one step, and return its record."""
        state = self.state
        record = {"stage": state.phase, "step": state.step}
        values = getattr(self, f"_{state.phase}")(state)
        record |= {"samples": state.n_samples, "unit": state.unit, "inflation": state.inflation}
        names = ("error", "upper", "bound", "empty", "steps")
        record |= dict.fromkeys(names) | values
        state.history.append(record)
        return record

    def planned(self) -> float:
        """Return how many samples are still to come, if nothing goes wrong."""
        wanted, check = self._wanted(), certificate_size(self.nu.numpy(), self.tol)
        early = {"coarse": 4 * SETTLE + GROW, "settle": 2 * SETTLE + GROW, "grow": GROW}
        ahead = early.get(self.state.phase, 0) * self.nu.shape[0]
        return ahead + max(wanted - self.state.weight, 0) + check

    def expected(self) -> float:
        """Return how many samples a solve takes in all if nothing goes wrong, generously."""
        check = certificate_size(self.nu.numpy(), self.tol, self.state.inflation)
        return self._wanted() + check + 120 * max(self.nu.shape[0], 512)

    def _wanted(self) -> float:
        return 1.1 * self.state.inflation * (self.root / (AIM * self.tol)) ** 2

    def _try(self, state: State) -> dict[str, Any]:
        first = self._lists("unit", 1, radius=1e20, least=1, longest=4)
        state.unit = first.gap_scale(state.heights)
        c, result = self._check(state, "try", certificate_size(self.nu.numpy(), self.tol))
        state.facets = facet_laplacian(result.edges, self.nu.shape[0], 1)
        state.edged = result.n_samples
        worth = self._worth(c)
        if state.phase != "done" and worth < GROW * self.nu.shape[0]:
            state.enter("coarse")
        elif state.phase != "done":
            state.enter("stream")
            state.weight, state.key, state.reference = worth, "grow try", state.heights
        return {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}

    def _coarse(self, state: State) -> dict[str, Any]:
        n = self.nu.shape[0]
        sizes = [k for k in (round(n**0.5), min(round(n**0.75 / 2), 1024)) if 8 <= k <= n // 4]
        state.step += 1
        if state.step > len(sizes):
            state.enter("settle")
            return {}
        labels = cluster(self.problem.sites, sizes[state.step - 1], seed=self.problem.seed)
        state.heights, error, m = correct(
            self.problem,
            state.heights,
            labels,
            stage=f"coarse {state.step}",
            engine=self.scorer.engine.NAME,
        )
        state.n_samples += m
        return {"error": error}

    def _settle(self, state: State) -> dict[str, Any]:
        if state.step == 0:
            first = self._lists("unit", 1, radius=1e20, least=1, longest=4)
            state.unit = first.gap_scale(state.heights)
        bank = self._lists(
            f"settle {state.returns}.{state.step}",
            max(SETTLE * self.nu.shape[0], 4096),
            radius=4 * state.unit,
            least=8,
            longest=32,
        )
        record = self._newton(state, bank, Trust(state.unit, 2 * state.unit), 0.3, 8)
        chi2, bound = record.pop("chi2"), record["bound"]
        state.stalled = state.stalled + 1 if chi2 > 0.9 * state.best else 0
        state.best = min(state.best, chi2)
        state.step += 1
        absent = bank.absent()
        absent = absent[self.nu.numpy()[absent] * bank.n_samples >= 1]
        record["empty"] = int(absent.size)
        if 0 < absent.size < 0.1 * self.nu.shape[0]:
            self._lift(state, absent, f"lift {state.returns}.{state.step}")
        settled = chi2 < 3 and bound < 0.1 and absent.size <= self.nu.shape[0] // 1000
        if settled or (state.stalled >= 2 and chi2 < 4) or state.step == 25:
            state.enter("grow")
        return record

    def _grow(self, state: State) -> dict[str, Any]:
        state.key, state.reference = f"grow {state.returns}.{state.step}", state.heights
        bank = self._bank = self._grown(state)
        record = self._newton(state, bank, Trust(state.unit, 1.8 * state.unit), 0.2, 20)
        chi2, bound = record.pop("chi2"), record["bound"]
        state.stalled = state.stalled + 1 if chi2 > 0.9 * state.best else 0
        state.best = min(state.best, chi2)
        state.step += 1
        if (chi2 < 6 and bound < 0.03) or state.stalled >= 1 or state.step == 6:
            state.enter("stream")
            state.weight = bank.n_samples
            now = bank.evaluate(state.heights, BAND * state.unit)
            state.facets, state.edged = now.hessian * bank.n_samples, bank.n_samples
        return record

    def _stream(self, state: State) -> dict[str, Any]:
        nu = self.nu.numpy()
        wanted = self._wanted()
        check = certificate_size(nu, self.tol, state.inflation)
        m = min(wanted - state.weight, state.weight) if state.weight < 0.95 * wanted else check
        key = f"stream {state.returns}.{state.step}"
        c, result = self._check(state, key, m)
        state.step += 1
        record = {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}
        if state.phase == "done":
            return record
        if result.edges:
            state.facets = state.facets + facet_laplacian(result.edges, nu.size, 1)
            state.edged += result.n_samples
        if self.scorer.split > 1 and c.inflation > break_even(self.scorer):
            # Cells that follow one half of the coordinates, such as slabs: sharing does not pay.
            self.scorer = self.scorer.without_split()
            state.split = 1
            state.sums[:], state.counts[:] = 0, 0  # their columns stood in another order
        missing = np.flatnonzero((result.cell_counts == 0) & (result.n_samples * nu >= 8))
        if missing.size > nu.size // 100 and state.returns < 4:
            self._lift(state, missing, f"lift {key}")
            state.returns += 1
            state.enter("grow")
            return record
        self._average(state, c, result.n_samples)
        if missing.size:
            self._lift(state, missing, f"lift {key}")
        return record

    def _check(
        self, state: State, key: str, m: float, *, edges: bool = True
    ) -> tuple[Certificate, Tally]:
        """Count fresh samples at the heights and certify them: good ones end the solve."""
        edges = edges and state.edged < EDGED * self.nu.shape[0]
        window = BAND * state.unit if edges else None
        blocks = range(self.scorer.blocks_for(m))
        result = tally(self.scorer, state.heights, key, blocks, sums=state.sums, window=window)
        state.n_samples += result.n_samples
        state.counts += result.cell_counts
        c = certify(result, self.nu.numpy())
        self.checked = c, state.heights
        state.inflation = max(c.inflation, 1.0)
        if c.mass_error_upper <= self.tol and not c.empty:
            state.phase = "done"
        return c, result

    def _worth(self, c: Certificate) -> float:
        """Return how many samples would leave the error that was measured."""
        return self.state.inflation * self.root**2 / max(c.square, 1e-300)

    def _average(self, state: State, c: Certificate, m: int) -> None:
        """Average the heights with the Newton target of the counted masses."""
        if self._bank is None:
            self._bank = self._grown(state)
        bank, heights = self._bank, state.heights
        now = bank.evaluate(heights)
        facets = state.facets / state.edged
        gradient = c.cell_masses - self.nu.numpy()
        # A cell without an edge in the lists must not run away: its own mass is its stiffness.
        degree = facets.diagonal()
        ridge = 1e-6 * degree + np.where(degree > 0, 1e-6, 1.0) * self.nu.numpy() / state.unit
        x = conjugate_gradient(facets, ridge, -gradient, tolerance=1e-3, max_steps=300)
        step = torch.from_numpy(x)
        # The band along the facets blurs the Laplacian; the lists know the curvature exactly.
        ahead = bank.evaluate(heights + step.to(heights))
        change = float(step @ (ahead.masses - now.masses).cpu())
        curvature = change / max(float(x @ (facets @ x)), 1e-300)
        step = step / min(max(curvature, 0.5), 2.0)
        # From end to end of the support there are n^(1/d) cells, each of which may move by a unit.
        reach = state.unit * max(3.0, self.nu.shape[0] ** (1 / self.problem.sites.shape[1]))
        step = step.clamp(-reach, reach)
        worth = self._worth(c)
        if worth < 0.7 * state.weight:
            # The last step fell short: near sites trade facets within it. Count them anew.
            state.facets, state.edged = state.facets / 2, state.edged / 2
        state.weight = min(state.weight, worth) + m
        state.heights = center(heights + (step * (m / state.weight)).to(heights))

    def _newton(
        self, state: State, bank: Bank, trust: Trust, stop: float, max_steps: int
    ) -> dict[str, Any]:
        fresh = bank.evaluate(state.heights)
        m = bank.n_samples
        # Cells that expect less than 8 samples weigh as if they did: they come by the sample.
        root = self.nu.clamp(min=8 / m).sqrt()
        chi2 = float((fresh.gradient.cpu().square() / root).sum() * m / (self.nu / root).sum())
        floor = 0.4 * self.root / m**0.5
        state.unit = bank.gap_scale(state.heights)
        state.heights, _, info = self.inner(
            bank.evaluate,
            state.heights,
            self.nu.to(state.heights),
            trust=trust,
            stop=stop * floor,
            max_steps=max_steps,
        )
        # What is left of the deviations when sampling noise is taken off.
        return {"chi2": chi2, "error": floor * max(chi2 - 1, 0.0) ** 0.5, **info}

    def _grown(self, state: State) -> Bank:
        m = max(GROW * self.nu.shape[0], 8192)
        options = {"radius": 3 * state.unit, "least": 4, "longest": 16}
        return self._lists(state.key, m, heights=state.reference, **options)

    def _lists(
        self,
        key: str,
        m: float,
        *,
        heights: torch.Tensor | None = None,
        **options: float,
    ) -> Bank:
        heights = self.state.heights if heights is None else heights
        blocks = range(self.scorer.blocks_for(m))
        lists = self.scorer.candidates(heights, key, blocks, **options)
        bank = Bank(self.problem, self.scorer.engine, lists, self.scorer.threads)
        self.state.n_samples += bank.n_samples
        return bank

    def _lift(self, state: State, missing: np.ndarray, key: str) -> None:
        """Raise empty cells to where they win about half of their share."""
        m = max(SETTLE * self.nu.shape[0], 4096)
        blocks = range(self.scorer.blocks_for(m))
        rank = np.clip(np.rint(m * self.nu.numpy()[missing] / 2), 1, 8).astype(np.int64)
        gaps = best_gaps(self.scorer, state.heights, missing, key, blocks, rank=rank)
        heights = state.heights.clone()
        heights[torch.from_numpy(missing).to(heights.device)] += gaps
        state.heights = center(heights)
        state.n_samples += len(blocks) * self.scorer.block_samples
