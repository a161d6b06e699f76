"""The Monte-Carlo transport solver: source, sites and masses in, certified heights out."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from aeot import _check, _io
from aeot.geometry.tessellation import support
from aeot.measures import Empirical, Measure
from aeot.scores.engines import ENGINES
from aeot.solvers.certificate import Certificate, certificate_size, certify, tally
from aeot.solvers.descent import Descent
from aeot.solvers.exact import reject_duplicates, solve_exact
from aeot.solvers.minimize import levenberg
from aeot.solvers.oracles import sampled
from aeot.solvers.problem import Problem, standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.solution import Solution
from aeot.solvers.stages import Stages, State
from aeot.solvers.starts import PICTURE_SITES, gaussian_heights, picture_heights, quantile_heights

METHODS = ("auto", "newton", "lbfgs", "adam", "exact")
_EXACT_SITES = {1: 1 << 24, 2: 200_000, 3: 20_000}  # where exact cells beat samples
_SAVED = ("step", "unit", "best", "stalled", "weight", "key", "returns")
_SAVED += ("inflation", "n_samples", "edged", "split")


def solve_semidiscrete(
    source: Measure,
    sites: Any,  # noqa: ANN401 - array-like
    masses: Any = None,  # noqa: ANN401 - array-like
    *,
    tol: float = 0.02,
    method: str = "auto",
    engine: str = "auto",
    init: Any = None,  # noqa: ANN401 - array-like
    seed: int = 0,
    max_samples: float | None = None,
    memory: int = 1 << 28,
    threads: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    on_step: Callable[[dict[str, Any]], bool | None] | None = None,
    progress: bool | None = None,
) -> Solution:
    r"""Find heights whose cells have the given masses, and certify them on fresh samples.

    For dim <= 3 and a source with exact geometry the cells are computed exactly
    (`solve_exact`). Otherwise the masses are sampled: growing samples, Newton steps on candidate
    lists, and a certificate from points that no step has seen. Shifts, units and the order of the
    sites change nothing but the obvious; no setting has to be chosen for a problem.

    Accuracy costs samples: after m of them the masses of n equal cells are off by a total
    variation of about 0.4 sqrt(n / m), and the solver draws about n (0.66 / tol)^2, up to 1.4 times
    as many where recombined half points are used, and those of the early stages. Memory, in
    bytes: `memory` for scores, 4 n d for sites, about 24 n (70 + 8 k) for the lists, k <= 16
    entries each, and what is found on them, 8 n d for the cells' means, and 400 n for counts.

    Args:
        source: The source measure.
        sites: (n, d), pairwise different; float32 or float64, any device.
        masses: (n,), positive, summing to one; equal if left out.
        tol: Total variation between the cells' masses and `masses` that the 95 % bound of the
            certificate must not exceed, in (0, 1).
        method: "auto" (exact where possible, else "newton"); "newton"; "lbfgs"
            (quasi-Newton) on the same lists; "adam" on fresh samples, the published rule; "exact".
        engine: What scores samples against sites: "auto" (numba on a CPU that has it, else torch),
            "numba", "torch", "keops" or "kdtree"; exact cells need none.
        init: (n,) heights to start from, in the caller's coordinates; used where their energy is
            below that of the start made from the data.
        seed: Seed of all samples, >= 0.
        max_samples: Stop, uncertified, once so many samples are drawn; by default eight times
            what an ordinary problem takes.
        memory: Bytes for blocks of scores; rounding aside it changes no result.
        threads: Worker threads on a CPU; torch's number if left out. They change no result.
        checkpoint: Directory where the state is saved after every step and from which a solve of
            the same problem goes on, to the same heights.
        on_step: Called with every record of the history (with "seconds" and "left", an estimate,
            added); return True to stop and get the best certified heights so far. An interrupt
            from the keyboard does the same.
        progress: Show a progress bar on stderr; by default where that is a terminal.

    Returns:
        The solution; ``converged`` says whether the certificate holds, ``message`` what to change.

    Raises:
        ValueError: If an argument is wrong, two sites are equal, or a checkpoint is of another
            problem.

    References:
        N. Lei, D. An, Y. Guo, K. Su, S. Liu, Z. Luo, S.-T. Yau, X. Gu, "A geometric understanding
        of deep learning", Engineering 6 (2020), sec. 3.

    Example:
        >>> import torch, aeot
        >>> sites = torch.randn(50, 4, generator=aeot.generator(0))
        >>> solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=4), sites, tol=0.05)
        >>> solution.converged, solution.mass_error_upper <= 0.05
        (True, True)
    """
    _check_source(source)
    y = _check.points("sites", sites, dim=source.dim)
    if isinstance(source, Empirical) and len(source.points) < len(y):
        got = f"{len(source.points)} points for {len(y)} sites"
        raise _check.fail("source", "have at least one point for each site", got)
    nu = _check.masses(masses, y.shape[0])
    tol = _check.real("tol", tol, above=0.0, maximum=0.999)
    if on_step is not None and not callable(on_step):
        raise _check.fail("on_step", "be callable", repr(on_step))
    method = _check.choice("method", method, METHODS)
    engine = _check.choice("engine", engine, ENGINES)
    seed = _check.integer("seed", seed, minimum=0)
    memory = _check.integer("memory", memory, minimum=1 << 20)
    threads = None if threads is None else _check.integer("threads", threads)
    if max_samples is not None:
        max_samples = _check.real("max_samples", max_samples, minimum=1)
    start = None
    if init is not None:
        start = _check.array("init", init)
        if start.shape != (y.shape[0],):
            raise _check.fail("init", f"have shape ({y.shape[0]},)", f"shape {tuple(start.shape)}")
    if checkpoint is not None:
        _io.check_writable(checkpoint, kind="transport")
    if method == "exact" or (method == "auto" and _has_geometry(source, y.shape[0])):
        return _exactly(source, y, nu, tol)
    reject_duplicates(y)
    problem = standardise(source, y, nu, seed)
    run = _Run(problem, tol, "newton" if method == "auto" else method, engine, memory, threads)
    run.begin(start, checkpoint)
    run.go(max_samples, checkpoint, on_step, progress)
    return run.solution(y)


def _check_source(source: Measure) -> None:
    if not isinstance(getattr(source, "dim", None), int) or not callable(
        getattr(source, "sample", None)
    ):
        way_out = "for a function of (n, generator) write Sampler(function, dim=...)"
        raise _check.fail("source", "be a measure such as UniformBox(dim=8)", repr(source), way_out)


def _has_geometry(source: Measure, n: int) -> bool:
    if n > _EXACT_SITES.get(source.dim, 0):
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
    if exact.mass_error > tol:
        warnings.warn(exact.message, ConvergenceWarning, stacklevel=3)
        return exact
    return replace(exact, converged=True, message=f"mass error {exact.mass_error:.3g} (exact)")


def choose_split(law: str, n: int, d: int) -> int:
    """Return how many half points to recombine with how many; 1 for independent samples.

    | n           | d        | m  |                                                        |
    |-------------|----------|----|--------------------------------------------------------|
    | below 512   |          | 1  | scores are cheap, and large cells hold whole blocks    |
    |             | up to 6  | 1  | samples that share a half fall into one cell too often |
    | 512 or more | 7 to 31  | 8  |                                                        |
    |             | 32 on    | 16 | the product of the scores would be the main cost       |

    Sources without independent coordinates take 1.
    """
    if law not in ("box", "normal") or d < 7 or n < 512:
        return 1
    return 8 if d < 32 else 16


class _Run:
    """One solve: the stages, and what surrounds them."""

    def __init__(
        self,
        problem: Problem,
        tol: float,
        method: str,
        engine: str,
        memory: int,
        threads: int | None,
    ) -> None:
        self.problem, self.tol, self.method = problem, tol, method
        split = choose_split(problem.law, *problem.sites.shape)
        options: dict[str, Any] = {"engine": engine, "memory": memory, "threads": threads}
        self.scorer = Scorer(problem, split=split, **options)
        self.nu = problem.masses
        self.stages: Stages
        self.best: Certificate | None = None
        self.best_heights: torch.Tensor | None = None
        self.stopped = ""

    def begin(self, init: torch.Tensor | None, checkpoint: str | os.PathLike | None) -> None:
        n, d = self.problem.sites.shape
        state = State("coarse", torch.zeros(n), np.zeros((n, d)), np.zeros(n, np.int64))
        if checkpoint is None or not os.path.exists(checkpoint):
            self._start(state, init)
        else:
            self._load(state, checkpoint)
        if self.method == "newton":
            self.stages = Stages(self.problem, self.scorer, self.tol, levenberg, state)
        else:
            self.stages = Descent(self.problem, self.scorer, self.tol, self.method, state)

    def go(
        self,
        max_samples: float | None,
        checkpoint: str | os.PathLike | None,
        on_step: Callable[[dict[str, Any]], bool | None] | None,
        progress: bool | None,
    ) -> None:
        stages, state = self.stages, self.stages.state
        begun = time.perf_counter()
        hidden = None if progress is None else not progress
        bar = tqdm(desc="transport", unit=" samples", unit_scale=True, disable=hidden)
        try:
            while state.phase != "done" and not self.stopped:
                before, then = state.n_samples, time.perf_counter()
                record = stages.advance()
                if stages.checked is not None:
                    self._keep(*stages.checked)
                bar.update(state.n_samples - before)
                bar.set_postfix(stage=record["stage"], error=record["error"])
                now = time.perf_counter()
                seconds, drawn = now - begun, max(state.n_samples - before, 1)
                # Early stages cost more per sample than the last ones: an overestimate at first.
                left = 0.0 if state.phase == "done" else stages.planned() * (now - then) / drawn
                if checkpoint is not None and state.phase != "done":
                    self._save(checkpoint)
                if on_step and on_step({**record, "seconds": seconds, "left": left}) is True:
                    self.stopped = "stopped by on_step"
                elif state.n_samples > (max_samples or 8 * stages.expected()):
                    self.stopped = f"stopped after {state.n_samples} samples, raise max_samples"
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        finally:
            bar.close()

    def solution(self, sites: torch.Tensor) -> Solution:
        state, problem = self.stages.state, self.problem
        if self.best is None:
            self._certify_now()
        c, h = self.best, self.best_heights
        converged = c.mass_error_upper <= self.tol and c.empty == 0
        message = f"mass error <= {c.mass_error_upper:.3g} (95 %) on {c.n_samples} fresh samples"
        if not converged:
            reasons = [f"above tol={self.tol:g}"] if c.mass_error_upper > self.tol else []
            reasons += [f"{c.empty} empty cell(s)"] if c.empty else []
            reasons += [self.stopped] if self.stopped else []
            message += ": " + ", ".join(reasons)
            if not self.stopped.startswith(("stopped by", "interrupted")):
                warnings.warn(message, ConvergenceWarning, stacklevel=3)
        centroids, spread = self._means()
        return Solution(
            source=problem.source,
            sites=sites,
            masses=self.nu.to(sites.device),
            heights=problem.from_standard(h.cpu()).to(sites.device),
            mass_error=c.mass_error,
            mass_error_upper=c.mass_error_upper,
            converged=converged,
            message=message,
            method=self.method,
            engine=self.scorer.engine.NAME,
            history=state.history,
            n_samples=state.n_samples,
            cell_masses=torch.from_numpy(c.cell_masses).to(sites.device),
            cell_centroids=centroids.to(sites),
            cell_variance=spread,
        )

    def _start(self, state: State, init: torch.Tensor | None) -> None:
        """Take the start with the least energy on a small sample; the energy is convex."""
        problem = self.problem
        n, d = problem.sites.shape
        starts = [gaussian_heights(problem.sites, s) for s in (0.3, 0.6, 1.0)]
        tries = []
        if self.method == "newton":
            samples = int(min(1.5 * (n**0.5 / self.tol) ** 2 + 1024, 1 << 24))
            if d == 1:
                tries = [(quantile_heights(problem, samples), samples)]
            elif d == 2 and n <= PICTURE_SITES:
                tries = [picture_heights(problem, samples)]
        found = [pair for pair in tries if pair is not None]
        state.n_samples = sum(m for _, m in found)
        if init is not None:
            found.append((problem.to_standard(init.detach().cpu()).to(problem.sites.device), 0))
        oracle = sampled(self.scorer, "start", range(self.scorer.blocks_for(2048)))
        starts += [h for h, _ in found]
        best = int(np.argmin([oracle(h).energy for h in starts]))
        state.heights = starts[best]
        if best >= len(starts) - len(found) and self.method == "newton":
            state.enter("try")  # they may be the solution

    def _keep(self, certificate: Certificate, heights: torch.Tensor) -> None:
        def rank(c: Certificate) -> tuple[bool, float]:
            return c.empty > 0, c.mass_error_upper

        if self.best is None or rank(certificate) < rank(self.best):
            self.best, self.best_heights = certificate, heights

    def _certify_now(self) -> None:
        state = self.stages.state
        m = min(certificate_size(self.nu.numpy(), self.tol), 64 * self.nu.shape[0] + 4096)
        scorer = self.stages.scorer
        blocks = range(scorer.blocks_for(m))
        result = tally(scorer, state.heights, "certificate", blocks, sums=state.sums)
        state.counts += result.cell_counts
        state.n_samples += result.n_samples
        self._keep(certify(result, self.nu.numpy()), state.heights)

    def _means(self) -> tuple[torch.Tensor, float | None]:
        """Mean of the source in every cell, (n, d), and its mean variance per axis inside.

        The variance is a difference; None where rounding leaves nothing of it, as for a source of
        clumps that are small against their distances.
        """
        state, problem = self.stages.state, self.problem
        z = torch.zeros_like(problem.caller_sites)
        sums = torch.from_numpy(state.sums / np.maximum(state.counts, 1)[:, None])
        z[:, self.stages.scorer.order] = sums
        shift = z @ problem.factor.T
        share = torch.from_numpy(state.counts / max(state.counts.sum(), 1))
        between = float(share @ shift.square().sum(1))
        total = float((problem.factor @ problem.factor.T).trace())
        # The means carry their own sampling noise: one degree of freedom per cell that was hit.
        lost = 1 - float((state.counts > 0).sum()) / max(state.counts.sum(), 1)
        spread = (total - between) / max(lost, 1e-9) / problem.factor.shape[0]
        return problem.mean + shift, spread if total - between > 1e-3 * total else None

    def _fingerprint(self) -> dict[str, Any]:
        p = self.problem
        probe = p.caller_sites.sum(1) @ torch.arange(1.0, 1 + len(self.nu), dtype=torch.float64)
        return {
            "source": repr(p.source),
            "sites": [*p.sites.shape, float(probe)],
            "masses": float(self.nu @ torch.arange(len(self.nu), dtype=torch.float64)),
            "seed": p.seed,
            "tol": self.tol,
            "method": self.method,
        }

    def _save(self, path: str | os.PathLike) -> None:
        state = self.stages.state
        reference = state.heights if state.reference is None else state.reference
        tensors = {
            "heights": state.heights,
            "reference": reference,
            "sums": torch.from_numpy(state.sums),
            "counts": torch.from_numpy(state.counts),
        }
        if state.facets is not None:
            parts = state.facets.data, state.facets.indices, state.facets.indptr
            tensors |= {f"facets {k}": torch.from_numpy(x) for k, x in enumerate(parts)}
        saved = {name: getattr(state, name) for name in _SAVED}
        saved["best"] = min(saved["best"], 1e300)  # JSON knows no infinity
        config = {"problem": self._fingerprint(), "phase": state.phase, "state": saved}
        _io.save(path, tensors, {**config, "history": state.history}, kind="transport")

    def _load(self, state: State, path: str | os.PathLike) -> None:
        tensors, config = _io.load(path, kind="transport")
        mine, theirs = self._fingerprint(), config["problem"]
        if mine != theirs:
            names = [k for k in mine if mine[k] != theirs.get(k)]
            raise _check.fail(
                "checkpoint",
                "belong to the same problem",
                f"another {', '.join(names)} in {path}",
                "choose another directory",
            )
        device = self.problem.sites.device
        state.phase, state.history = config["phase"], config["history"]
        for name, value in config["state"].items():
            setattr(state, name, value)
        state.heights = tensors["heights"].to(device)
        state.reference = tensors["reference"].to(device)
        state.sums = tensors["sums"].numpy().copy()
        state.counts = tensors["counts"].numpy().copy()
        if "facets 0" in tensors:
            parts = tuple(tensors[f"facets {k}"].numpy() for k in range(3))
            state.facets = scipy.sparse.csr_matrix(parts, shape=(len(self.nu), len(self.nu)))
