"""Semi-discrete transport solved exactly, where the power diagram is: d <= 3, plain supports."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot import _check
from aeot.measures import Measure
from aeot.transport import heights as conversions
from aeot.transport.geometry import laplacian, power_diagram
from aeot.transport.minimize import Evaluation, newton
from aeot.transport.solution import Solution
from aeot.transport.tessellation import Support, Tessellation, support

_ABSOLUTE = 1e-14  # masses are not resolved below this


def reject_duplicates(sites: torch.Tensor) -> None:
    """Raise if two sites are equal.

    Raises:
        ValueError: Naming the first pair.
    """
    y = sites.detach().cpu().numpy()
    order = np.lexsort(y.T[::-1])
    same = np.flatnonzero((y[order[1:]] == y[order[:-1]]).all(axis=1))
    if len(same):
        i, j = sorted((int(order[same[0]]), int(order[same[0] + 1])))
        raise _check.fail(
            "sites",
            "be distinct",
            f"sites {i} and {j} both at {y[i].tolist()}",
            "merge them and add their masses",
        )


def _voronoi_scale(where: Support, sites: np.ndarray) -> float:
    """The largest s for which every s y_i lies well inside the support."""
    if where.radius:
        return 0.95 * where.radius / max(np.linalg.norm(sites, axis=1).max(), 1e-300)
    reach = (sites @ where.normals.T).max(axis=0) / where.offsets
    return 0.98 / max(reach.max(), 1e-300)


def solve_exact(
    source: Measure,
    sites: Any,  # noqa: ANN401 - array-like
    masses: Any = None,  # noqa: ANN401
    *,
    tol: float = 1e-10,
) -> Solution:
    """Solve semi-discrete optimal transport to rounding by Newton's method on exact power cells.

    Args:
        source: UniformBox or UniformBall with dim <= 3, ConvexPolygon or GridDensity.
        sites: (n, d), distinct.
        masses: (n,), positive, summing to 1; equal if None.
        tol: Largest error of a cell's mass relative to its target, > 0. Errors below 1e-14 of the
            whole are always accepted.

    Returns:
        The solution; its `mass_error` is exact.

    Raises:
        ValueError: If an argument is unusable, or two sites coincide.

    References:
        J. Kitagawa, Q. Merigot, B. Thibert, "Convergence of a Newton algorithm for semi-discrete
        optimal transport", J. Eur. Math. Soc. 21 (2019). N. Lei et al., "A geometric understanding
        of deep learning", Engineering 6 (2020), eq. 23-27.

    Example:
        >>> from aeot import UniformBox
        >>> solution = solve_exact(UniformBox(dim=2), [[0.0, 0.5], [1.0, 0.5]], [0.3, 0.7])
        >>> [round(h, 6) for h in solution.heights.tolist()]
        [0.15, -0.15]
    """
    where = support(source)
    tol = _check.real("tol", tol, above=0.0)
    y = _check.points("sites", sites, dim=where.dim)
    nu = _check.masses(masses, len(y))
    reject_duplicates(y)
    exact = y.detach().cpu().to(torch.float64)
    center = torch.from_numpy(where.center)
    shifted = exact - exact.mean(dim=0)
    if where.dim == 1:
        heights, history = _line(shifted[:, 0], nu, float(where.half[0])), []
    else:
        heights, history = _newton(where, shifted, nu, tol)
    heights = conversions.shifted_source(heights, shifted, center)
    return _certified(source, y, nu, heights, history, tol)


def _line(y: torch.Tensor, nu: torch.Tensor, half: float) -> torch.Tensor:
    """Heights on the line in closed form: neighbours meet at the quantile between them."""
    order = torch.argsort(y)
    ordered, cumulated = y[order], nu[order].cumsum(0)[:-1]
    steps = -(ordered[1:] - ordered[:-1]) * half * (2 * cumulated - 1)
    heights = torch.zeros_like(y)
    heights[order[1:]] = steps.cumsum(0)
    return heights


def _newton(
    where: Support, y: torch.Tensor, nu: torch.Tensor, tol: float
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    # One isotropic factor brings the sites into the support: the problem keeps its cells.
    factor = _voronoi_scale(where, y.numpy())
    sites = (factor * y).numpy()
    engine = Tessellation(where, sites)
    allowed = (tol * nu).clamp(min=_ABSOLUTE)

    floor = None

    def oracle(heights: torch.Tensor) -> Evaluation:
        return evaluate(engine, heights, nu, floor=floor)

    def done(now: Evaluation) -> bool:
        return bool((now.gradient.abs() <= 0.5 * allowed).all())

    def accept(now: Evaluation, trial: Evaluation, length: float) -> bool:
        nonlocal floor
        if floor is None:
            floor = 0.5 * min(float(now.masses.min()), float(nu.min()))
        if float(trial.masses.min()) < floor:
            return False
        return float(trial.gradient.norm()) <= (1 - length / 2) * float(now.gradient.norm())

    start = conversions.voronoi_heights(torch.from_numpy(sites))
    heights, _, history = newton(oracle, start, accept=accept, done=done)
    return heights / factor, history


def evaluate(
    engine: Tessellation, heights: torch.Tensor, nu: torch.Tensor, *, floor: float | None = None
) -> Evaluation:
    """Energy, masses, gradient and Hessian of centred heights from exact cells.

    Args:
        engine: The cells' engine.
        heights: (n,), centred.
        nu: Target masses (n,).
        floor: If some cell has less mass, the masses returned are only upper bounds.

    Returns:
        The evaluation.

    References:
        N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020), eq. 23,
        26 and 27.
    """
    cells = engine(heights.numpy(), floor=floor)
    w = torch.from_numpy(cells.masses)
    inner = (torch.from_numpy(cells.centroids * engine.sites)).sum(dim=1)
    energy = float((w * inner).sum() + heights @ (w - nu))
    apart = np.linalg.norm(engine.sites[cells.rows] - engine.sites[cells.columns], axis=1)
    hessian = laplacian(cells.rows, cells.columns, cells.measures / apart, len(w))
    return Evaluation(energy, w, w - nu, hessian)


def _certified(
    source: Measure,
    sites: torch.Tensor,
    nu: torch.Tensor,
    heights: torch.Tensor,
    history: list[dict[str, Any]],
    tol: float,
) -> Solution:
    """Measure the heights as they will be handed out, rounding included."""
    diagram = power_diagram(source, sites, heights)
    error = (diagram.masses - nu).abs()
    worst = float((error / nu).max())
    converged = bool((error <= (tol * nu).clamp(min=_ABSOLUTE)).all())
    steps = max(len(history) - 1, 0)
    message = f"every cell within {worst:.1e} of its mass after {steps} Newton steps"
    if not converged:
        message = f"largest relative cell error {worst:.1e} after {steps} Newton steps"
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return Solution(
        source=source,
        sites=sites,
        masses=nu,
        heights=heights,
        mass_error=float(error.sum()) / 2,
        mass_error_upper=float(error.sum()) / 2,
        converged=converged,
        message=message,
        method="exact",
        backend="geometry",
        history=history,
        cell_masses=diagram.masses,
        cell_centroids=diagram.centroids,
    )
