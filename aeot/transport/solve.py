"""The Monte-Carlo transport solver: growing samples, candidate lists, and a certificate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from aeot import _check
from aeot.measures import Measure
from aeot.transport.blocks import Problem, standardise
from aeot.transport.certificate import Certificate, certificate_size, certify, tally
from aeot.transport.heights import center
from aeot.transport.lists import Scorer
from aeot.transport.minimize import Trust, conjugate_gradient, levenberg
from aeot.transport.oracles import Bank
from aeot.transport.solution import Solution

_log = logging.getLogger(__name__)


def gaussian_heights(sites: torch.Tensor) -> torch.Tensor:
    """Return the heights of the map between two Gaussians, the second fitted to the sites.

    Args:
        sites: (n, d), standard coordinates, so that the source has covariance one.

    Returns:
        (n,) float64: ``-0.3 y' Cov(y)^(-1/2) y``, mean zero (0.6 of the Legendre dual's value).
    """
    y = sites.to(torch.float64)
    y = y - y.mean(0)
    values, vectors = torch.linalg.eigh(y.T @ y / y.shape[0])
    values = values.clamp(min=max(float(values[-1]) * 1e-6, 1e-300))
    return center(-0.3 * ((y @ vectors).square() / values.sqrt()).sum(1))


def solve_semidiscrete(
    source: Measure,
    sites: Any,  # noqa: ANN401 - array-like
    masses: Any = None,  # noqa: ANN401 - array-like
    *,
    tol: float = 0.02,
    method: str = "auto",
    init: Any = None,  # noqa: ANN401 - array-like
    seed: int = 0,
    on_step: Callable[[dict[str, Any]], bool | None] | None = None,
) -> Solution:
    """Find the heights whose cells have the given masses, and certify them on fresh samples.

    Args:
        source: The source measure.
        sites: (n, d), pairwise different.
        masses: (n,), positive, summing to one; equal if left out.
        tol: Total variation between the cells' masses and `masses` that the certificate must
            undercut, in (0, 1).
        method: "auto" or "newton".
        init: (n,) heights to start from, in the caller's coordinates.
        seed: Seed of all samples.
        on_step: Called with every record of the history; return True to stop early.

    Returns:
        The solution; ``converged`` says whether the certificate undercuts `tol`.

    Raises:
        ValueError: If an argument is wrong; two sites are equal.

    Example:
        >>> import torch, aeot
        >>> sites = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> solution = solve_semidiscrete(aeot.measures.UniformBox(dim=4), sites, tol=0.05)
        >>> solution.converged
        True
    """
    y = _check.points("sites", sites, dim=source.dim)
    nu = _check.masses(masses, y.shape[0])
    tol = _check.real("tol", tol, above=0.0, maximum=0.999)
    method = _check.choice("method", method, ("auto", "newton", "lbfgs", "adam", "gd", "exact"))
    seed = _check.integer("seed", seed, minimum=0)
    refuse_duplicates(y)
    problem = standardise(source, y, nu, seed)
    run = _Run(problem, tol, on_step)
    start = gaussian_heights(problem.sites)
    if init is not None:
        h = _check.array("init", init)
        if h.shape != (y.shape[0],):
            raise _check.fail("init", f"have shape ({y.shape[0]},)", f"shape {tuple(h.shape)}")
        start = problem.to_standard(h)
    heights, certificate = run.newton(start)
    return run.solution(y, heights, certificate)


def refuse_duplicates(sites: torch.Tensor) -> None:
    """Raise a ValueError that names the first pair of equal sites, if there is one."""
    y = sites.detach().cpu().numpy()
    order = np.lexsort(y.T[::-1])
    same = (y[order[1:]] == y[order[:-1]]).all(1)
    if same.any():
        k = int(np.flatnonzero(same)[0])
        i, j = sorted((int(order[k]), int(order[k + 1])))
        raise _check.fail(
            "sites",
            "be pairwise different",
            f"equal rows {i} and {j}",
            "merge them and add their masses (SemiDiscreteOT does)",
        )


class _Run:
    """One solve: what the stages share."""

    def __init__(self, problem: Problem, tol: float, on_step: Any) -> None:  # noqa: ANN401
        self.problem, self.tol, self.on_step = problem, tol, on_step
        n, d = problem.sites.shape
        split = 1 if not problem.product or d < 7 else 8 if d < 32 else 16
        self.scorer = Scorer(problem, split=split)
        self.nu = problem.masses
        self.root_sum = float(self.nu.sqrt().sum())
        self.history: list[dict[str, Any]] = []
        self.n_samples = 0
        self.begun = time.perf_counter()
        self.sums = np.zeros((n, d))
        self.sum_counts = np.zeros(n, np.int64)
        self.inflation = 1.0

    def record(self, stage: str, **values: float) -> None:
        row = {"stage": stage, "samples": self.n_samples, **values}
        row["seconds"] = time.perf_counter() - self.begun
        self.history.append(row)
        if self.on_step:
            self.on_step(row)

    def bank(self, heights: torch.Tensor, stage: str, m: float, **options: Any) -> Bank:  # noqa: ANN401
        blocks = range(self.scorer.blocks_for(m))
        segments = self.scorer.candidates(heights, stage, blocks, **options)
        bank = Bank(self.problem, segments)
        self.n_samples += bank.n_samples
        return bank

    def chi2(self, gradient: torch.Tensor, m: int) -> float:
        """Mean square of the deviations relative to that of independent samples."""
        return float((gradient.square() / self.nu.sqrt()).sum()) * m / self.root_sum

    def newton(self, h: torch.Tensor) -> tuple[torch.Tensor, Certificate]:
        h, unit = self.settle(h)
        h, bank, unit = self.grow(h, unit)
        return self.stream(h, bank, unit)

    def settle(self, h: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Stage 0: small fresh samples until the heights are about right everywhere."""
        n = self.nu.shape[0]
        m = max(8 * n, 4096)
        unit = self.bank(h, "unit", 1, radius=1e20, least=1, longest=4).gap_scale(h)
        best, stalled = np.inf, 0
        for rebuild in range(25):
            bank = self.bank(h, f"settle {rebuild}", m, radius=4 * unit, least=8, longest=32)
            unit = bank.gap_scale(h)
            fresh = bank.evaluate(h)
            chi2 = self.chi2(fresh.gradient, bank.n_samples)
            floor = 0.4 * self.root_sum / bank.n_samples**0.5
            trust = Trust(unit, 0.5 * 4 * unit)
            h, now, info = levenberg(
                bank.evaluate, h, self.nu, trust=trust, stop=0.3 * floor, max_steps=8
            )
            self.record("settle", chi2=chi2, unit=unit, **info)
            stalled = stalled + 1 if chi2 > 0.9 * best else 0
            best = min(best, chi2)
            if chi2 < 3 and info["bound"] < 0.03:
                break
            if stalled >= 2 and info["bound"] < 0.01:
                break
        return h, unit

    def grow(self, h: torch.Tensor, unit: float) -> tuple[torch.Tensor, Bank, float]:
        """Larger samples on lists: 24 per site until no height hits its box, then 120 more."""
        n = self.nu.shape[0]
        for repeat in range(6):
            m = max(24 * n, 8192)
            bank = self.bank(h, f"grow {repeat}", m, radius=3 * unit, least=4, longest=16)
            unit = bank.gap_scale(h)
            floor = 0.4 * self.root_sum / bank.n_samples**0.5
            chi2 = self.chi2(bank.evaluate(h).gradient, bank.n_samples)
            trust = Trust(unit, 0.6 * 3 * unit)
            h, now, info = levenberg(bank.evaluate, h, self.nu, trust=trust, stop=0.35 * floor)
            self.record("grow", chi2=chi2, unit=unit, **info)
            if info["bound"] < 0.004:
                break
        m = max(120 * n, 1 << 15)
        more = self.bank(h, "bank", m, radius=2.5 * unit, least=4, longest=16)
        bank.segments.extend(more.segments)
        floor = 0.4 * self.root_sum / bank.n_samples**0.5
        trust = Trust(unit, 0.6 * 2.5 * unit)
        h, now, info = levenberg(bank.evaluate, h, self.nu, trust=trust, stop=0.15 * floor)
        self.record("bank", unit=unit, **info)
        return h, bank, unit

    def stream(self, h: torch.Tensor, bank: Bank, unit: float) -> tuple[torch.Tensor, Certificate]:
        """Average Newton targets of ever larger fresh samples, each of them a held-out test."""
        nu = self.nu.numpy()
        laplacian = bank.evaluate(h, 0.5 * unit).hessian
        ridge = 1e-3 * laplacian.diagonal() + 1e-6 * nu / unit
        weight, mean = bank.n_samples, h
        for k in range(24):
            # What the masses of the final heights may cost, and what a sharp check needs.
            wanted = self.inflation * (self.root_sum / (1.6 * self.tol)) ** 2 * 1.1
            check = certificate_size(nu, self.tol, self.inflation)
            m = min(wanted - weight, weight) if weight < 0.95 * wanted else check
            blocks = range(self.scorer.blocks_for(m))
            result = tally(self.scorer, mean, f"stream {k}", blocks, sums=self.sums)
            self.n_samples += result.n_samples
            self.sum_counts += result.cell_counts
            certificate = certify(result, nu)
            self.inflation = min(max(certificate.inflation, 1.0), 4.0)
            self.record(
                "stream",
                mass_error=certificate.mass_error,
                mass_error_upper=certificate.mass_error_upper,
                empty=certificate.empty,
            )
            if certificate.mass_error_upper <= self.tol and certificate.empty == 0:
                break
            gradient = certificate.cell_masses - nu
            step = torch.from_numpy(conjugate_gradient(laplacian, ridge, -gradient, tolerance=1e-3))
            before, after = bank.evaluate(mean), bank.evaluate(mean + step)
            change = float(step @ (after.masses - before.masses))
            curvature = change / max(float(step.numpy() @ (laplacian @ step.numpy())), 1e-300)
            step = step / min(max(curvature, 0.5), 2.0)
            total = weight + result.n_samples
            mean = mean + step * (result.n_samples / total)
            weight = total
        return center(mean), certificate

    def solution(self, sites: torch.Tensor, h: torch.Tensor, c: Certificate) -> Solution:
        problem = self.problem
        converged = c.mass_error_upper <= self.tol and c.empty == 0
        message = (
            f"mass error at most {c.mass_error_upper:.3g} (95 %) on {c.n_samples} fresh samples"
        )
        if not converged:
            message += f"; {c.empty} empty cells" if c.empty else f", above tol={self.tol:g}"
        z = torch.from_numpy(self.sums / np.maximum(self.sum_counts, 1)[:, None])
        return Solution(
            source=problem.source,
            sites=sites,
            masses=self.nu.to(sites.device),
            heights=problem.from_standard(h).to(sites.device),
            mass_error=c.mass_error,
            mass_error_upper=c.mass_error_upper,
            converged=converged,
            message=message,
            method="newton",
            backend="lists",
            history=self.history,
            n_samples=self.n_samples,
            cell_masses=torch.from_numpy(c.cell_masses),
            cell_centroids=(problem.mean + z @ problem.factor.T).to(sites),
        )
