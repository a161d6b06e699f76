"""Semi-discrete transport solved exactly, where the power diagram is: d <= 3, plain supports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot import _check, _loop
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.data.arrays import distinct
from aeot.geometry.diagram import PowerDiagram, divided, laplacian
from aeot.geometry.neighbours import Graph
from aeot.geometry.tessellation import Cells, Support, Tessellation, support
from aeot.measures import Measure
from aeot.search import heights as conversions
from aeot.solvers.line import GRAIN, UNRESOLVED, how_near, law, solve_line
from aeot.solvers.minimize import Evaluation, newton, newton_over_gaps
from aeot.solvers.solution import Outcome, Solution

_CACHED = 5000  # sites whose diagram fits a processor's cache
_NUDGES = 1 << 10  # units in the last place that the rounding of a height may be off, at most


def reject_duplicates(sites: torch.Tensor) -> None:
    """Raise if two sites are equal.

    Raises:
        ValueError: Naming the first pair.
    """
    first, kind = distinct(sites)
    if len(first) == len(sites):
        return
    copy = int((first[kind] != torch.arange(len(sites))).nonzero()[0])
    where = f"sites {int(first[kind[copy]])} and {copy} both at {sites[copy].tolist()}"
    raise _check.fail("sites", "be distinct", where, "merge them and add their masses")


@plain_torch()
def solve_exact(
    source: Measure,
    sites: ArrayLike,
    masses: ArrayLike | None = None,
    *,
    tol: float = 1e-10,
) -> Solution:
    """Solve semi-discrete optimal transport to rounding by Newton's method on exact power cells.

    On a line cells meet at quantiles, which need no steps.

    Args:
        source: UniformBox or UniformBall with dim <= 3, ConvexPolygon, Polygon or GridDensity; on a
            line Gaussian or Empirical, too.
        sites: (n, d), distinct.
        masses: (n,), positive, summing to 1; equal if None.
        tol: Largest error of a cell's mass relative to its target, > 0. Always accepted are errors
            below 1e-14 of the whole, or below what one unit in the last place of the heights
            is worth, where that is under 1e-11 of the whole (sites very close together).

    Returns:
        The solution; its `mass_error` is exact.

    Raises:
        ValueError: If an argument is unusable, or two sites coincide.
        KeyboardInterrupt: If Ctrl-C or SIGTERM came, after the cells in the making.

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
    known = law(source) if isinstance(source, Measure) and source.dim == 1 else None
    where = None if known is not None else support(source)
    tol = _check.real("tol", tol, above=0.0, maximum=1.0)
    y = _check.points("sites", sites, dim=source.dim)
    nu = _check.masses(masses, len(y))
    reject_duplicates(y)
    if known is not None:
        return solve_line(source, y, nu, known, tol=tol, each=True)
    assert where is not None
    exact = y.detach().cpu().to(torch.float64)
    center = torch.from_numpy(where.center)
    shifted = exact - exact.mean(dim=0)
    try:
        with _loop.Loop("exact transport"):
            order = spatial_order(shifted)
            heights, history, facets = _newton(where, shifted[order], nu[order], tol)
            place = order.argsort()
            heights, facets = heights[place], renumbered(facets, order, place)
    except _loop.Stopped as stopped:
        kept = "nothing is kept of it, and the same call starts anew"
        raise _loop.Stopped(stopped.number, "the exact transport", kept) from None
    heights = conversions.shifted_source(heights, shifted, center)
    return _certified(source, y, nu, heights, history, tol, facets)


def spatial_order(sites: torch.Tensor) -> torch.Tensor:
    """An order (n,) of sites (n, d) in which those nearby stand nearby, in memory too.

    They are sorted along the last axis within strips of the others. Random places of what a cell
    touches cost a third of the time of 100 000 sites; few sites are left as they are.
    """
    n, d = sites.shape
    if n < _CACHED:
        return torch.arange(n)
    strips = round(n ** (1 / d))
    rank = sites.argsort(dim=0, stable=True).argsort(dim=0)
    keys = [sites[:, -1], *(rank[:, k] * strips // n for k in reversed(range(d - 1)))]
    return torch.from_numpy(np.lexsort(keys))


def renumbered(facets: Graph | None, order: torch.Tensor, place: torch.Tensor) -> Graph | None:
    """A graph of sites in an order, of the sites as they were; `place` is the inverse of it."""
    if facets is None:
        return None
    counts = np.diff(facets[0])[place.numpy()]
    indptr = np.r_[0, np.cumsum(counts)]
    slots = np.repeat(facets[0][place.numpy()] - indptr[:-1], counts) + np.arange(indptr[-1])
    return indptr, order.numpy()[facets[1][slots]]


def _newton(
    where: Support, y: torch.Tensor, nu: torch.Tensor, tol: float
) -> tuple[torch.Tensor, list[dict[str, Any]], Graph | None]:
    # One isotropic factor brings the sites to the support's size: the problem keeps its cells.
    factor = float(where.half.max()) / max(float(y.abs().max()), 1e-300)
    sites = (factor * y).numpy()
    heights = conversions.center(torch.from_numpy(starting_heights(where, sites, nu.numpy())))
    allowed = (tol * nu).clamp(min=UNRESOLVED)
    engine = Tessellation(where, sites)
    heights, history = _descend(engine, heights, nu, 0.5 * allowed)
    return heights / factor, history, engine.last


_KEPT = 0.3  # of the heights before, in a trial that emptied cells: they keep 0.3^2 of their area


def _descend(
    engine: Tessellation, start: torch.Tensor, nu: torch.Tensor, goal: torch.Tensor
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Damped Newton steps until every cell's error is below its goal, or rounding."""
    unit = float(np.spacing(float(start.abs().max())))
    floor: float | None = None

    def grain(now: Evaluation) -> torch.Tensor:
        assert now.hessian is not None
        return torch.from_numpy(now.hessian.diagonal()) * unit

    def done(now: Evaluation) -> bool:
        return bool((now.gradient.abs() <= torch.maximum(goal, grain(now))).all())

    def residual(now: Evaluation) -> float:
        # Without what the rounding of the heights may cause, or one close pair of sites hides
        # the progress of all the others.
        return float((now.gradient.abs() - grain(now)).clamp(min=0).norm())

    if engine.support.vanishes:
        return _over_gaps(engine, start, nu, done, residual)

    def oracle(heights: torch.Tensor) -> Evaluation:
        nonlocal floor
        result = evaluate(engine, heights, nu, floor=floor)
        if floor is None:
            floor = 0.5 * min(float(result.masses.min()), float(nu.min()))
        return result

    def accept(now: Evaluation, trial: Evaluation, length: float) -> bool:
        # The rule of Kitagawa, Merigot and Thibert: no cell gets empty, and the error falls.
        if floor is None or float(trial.masses.min()) < floor:
            return False
        return residual(trial) <= (1 - length / 2) * residual(now)

    heights, _, history = newton(oracle, start, accept=accept, done=done, on_step=_shown)
    return heights, history


def _over_gaps(
    engine: Tessellation,
    start: torch.Tensor,
    nu: torch.Tensor,
    done: Callable[[Evaluation], bool],
    residual: Callable[[Evaluation], float],
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """The same where the density nearly vanishes somewhere: cells may lose all mass on the way."""
    cells = engine(start.numpy())

    def oracle(heights: torch.Tensor) -> Evaluation:
        nonlocal cells
        cells = engine(heights.numpy(), floor=0.0)
        return _evaluation(engine, cells, heights, nu)

    def mend(heights: torch.Tensor, trial: torch.Tensor) -> torch.Tensor | None:
        if cells.areas.min() > 0:
            return None
        # A plane that touches the envelope has a corner of a cell. By Minkowski sums of cells, what
        # is between such heights and those before keeps at least that share's square of the area.
        touching = torch.from_numpy(engine.touching(trial.numpy(), cells))
        return _KEPT * heights + (1 - _KEPT) * touching

    heights, _, history = newton_over_gaps(
        oracle, start, mend=mend, done=done, residual=residual, on_step=_shown
    )
    return heights, history


def _shown(record: dict[str, float]) -> None:
    _loop.at(record["step"], {"mass error": record["mass_error"]})


def starting_heights(where: Support, sites: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """Heights near the solution that leave no cell empty, (n,).

    If phi is strictly convex and its gradient stays inside the support, then at the point
    grad phi(y_i) the plane of site i is the highest for h = -phi(y). Here phi transports the
    marginals: one coordinate at a time for a box, the radius for a ball. For independent
    coordinates, or a round cloud in a ball, that is the solution itself up to sampling.

    Args:
        where: The support.
        sites: (n, d), centred.
        nu: Target masses (n,).
    """
    n, d = sites.shape
    if where.radius:
        radii = np.linalg.norm(sites, axis=1)
        # The share of a ball within radius r is (r / R)^d.
        return -_antiderivative(
            radii, nu, lambda share: where.radius * share ** (1 / d), at_zero=True
        )
    reach = np.abs(where.normals) @ where.half
    inside = min(1.0, float((where.offsets / reach).min()))
    heights = np.zeros(n)
    for k in range(d):
        quantile = where.quantile(k)

        def within(share: np.ndarray, quantile: Callable = quantile) -> np.ndarray:
            return inside * quantile(share)

        heights -= _antiderivative(sites[:, k], nu, within)
    return heights


def _antiderivative(
    values: np.ndarray,
    nu: np.ndarray,
    quantile: Callable[[np.ndarray], np.ndarray],
    *,
    at_zero: bool = False,
) -> np.ndarray:
    """Integral of quantile(F) up to each value, F the distribution function of the values."""
    distinct, place = np.unique(values, return_inverse=True)
    share = np.bincount(place, weights=nu)
    slope = quantile(np.cumsum(share) - share / 2)
    if at_zero and distinct[0] > 0:
        distinct, slope, place = np.r_[0.0, distinct], np.r_[0.0, slope], place + 1
    pieces = np.diff(distinct) * (slope[1:] + slope[:-1]) / 2
    return np.r_[0.0, np.cumsum(pieces)][place]


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
    return _evaluation(engine, engine(heights.numpy(), floor=floor), heights, nu)


def _evaluation(
    engine: Tessellation, cells: Cells, heights: torch.Tensor, nu: torch.Tensor
) -> Evaluation:
    w = torch.from_numpy(cells.masses)
    inner = (torch.from_numpy(cells.centroids * engine.sites)).sum(dim=1)
    energy = float((w * inner).sum() + heights @ (w - nu))
    apart = np.linalg.norm(engine.sites[cells.rows] - engine.sites[cells.columns], axis=1)
    hessian = laplacian(cells.rows, cells.columns, cells.measures / apart, len(w))
    even = None
    if len(cells.lengths):
        even = laplacian(cells.rows, cells.columns, cells.lengths / apart, len(w))
    return Evaluation(energy, w, w - nu, hessian, even)


def _certified(
    source: Measure,
    sites: torch.Tensor,
    nu: torch.Tensor,
    heights: torch.Tensor,
    history: list[dict[str, Any]],
    tol: float,
    facets: Graph | None,
) -> Solution:
    """Measure the heights as they will be handed out, and mend what their rounding cost."""
    allowed = (tol * nu).clamp(min=UNRESOLVED)
    exact = sites.detach().cpu().to(torch.float64)
    diagram = divided(source, exact, heights, facets)
    for _ in range(6):
        excess = diagram.masses - nu
        nudged = _nudged(diagram, excess, allowed)
        if nudged is None:
            break
        trial = divided(source, exact, nudged, facets)
        if float(((trial.masses - nu).abs() / allowed).max()) < float(
            (excess.abs() / allowed).max()
        ):
            diagram = trial
        else:
            break
    error = (diagram.masses - nu).abs()
    grain = _grain(diagram)
    allowed = torch.maximum(allowed, grain.clamp(max=GRAIN))
    worst = int((error / allowed).argmax())
    # Cells are cut in centred coordinates: in the caller's, one of so little mass may be empty.
    light = diagram.masses <= grain
    empty = int(light.sum())
    converged = bool(error[worst] <= allowed[worst]) and not empty
    steps = max(len(history) - 1, 0)
    message = f"{how_near(error.numpy(), nu.numpy())} after {steps} Newton steps"
    outcome = Outcome.CONVERGED
    if not converged:
        outcome = Outcome.EMPTY if empty else Outcome.UNMET
        worst = int(torch.where(light, torch.inf, error / allowed).argmax())
        message = _reason(diagram, worst, float(error[worst]), steps, empty)
        _check.warn(message, ConvergenceWarning)
    return Solution(
        source=source,
        sites=sites,
        masses=nu,
        heights=diagram.heights,
        mass_error=float(error.sum()) / 2,
        mass_error_upper=float(error.sum()) / 2,
        outcome=outcome,
        message=message,
        method="exact",
        engine="geometry",
        history=history,
        cell_masses=diagram.masses,
        cell_centroids=diagram.centroids,
    )


def _grain(diagram: PowerDiagram) -> torch.Tensor:
    """What one unit in the last place of the heights is worth in each cell's mass, (n,)."""
    unit = float(np.spacing(float(diagram.heights.abs().max())))
    return torch.from_numpy(diagram.hessian.diagonal()) * unit


def _nudged(
    diagram: PowerDiagram, excess: torch.Tensor, allowed: torch.Tensor
) -> torch.Tensor | None:
    """Heights moved by a few units in the last place where that mends a cell; None if nowhere.

    Two sites very close together trade much mass for a tiny change of their heights: there the
    rounding of the heights shows. Of two neighbours only one is moved.
    """
    ulp = torch.from_numpy(np.spacing(diagram.heights.abs().numpy()))
    worth = torch.from_numpy(diagram.hessian.diagonal()) * ulp
    # A cell without facets, an empty one, does not say what its height is worth.
    wrong = (excess.abs() > allowed) & (worth > 0)
    units = torch.where(wrong, (excess / worth).round().clamp(-_NUDGES, _NUDGES), 0.0)
    i, j = diagram.facets.pairs.T
    units[j[(units[i] != 0) & (units[j] != 0)]] = 0.0
    if not bool((units != 0).any()):
        return None
    return diagram.heights - units * ulp


def _reason(diagram: PowerDiagram, worst: int, error: float, steps: int, empty: int) -> str:
    """Why a cell missed its mass, and what to do about it."""
    text = f"cell {worst} misses its mass by {error:.1e} after {steps} Newton steps"
    if empty:
        text += f", {empty} cell(s) are empty or of less mass than a height resolves"
    grain = float(_grain(diagram)[worst])
    if error > 4 * grain and not empty:
        return f"{text}; raise tol, or the source's least density if it is nearly zero somewhere"
    gaps = (diagram.sites - diagram.sites[worst]).norm(dim=1)
    gaps[worst] = torch.inf
    near = int(gaps.argmin())
    if empty:
        moved = float(np.spacing(float(diagram.heights.abs().max()))) / float(gaps[near])
        return (
            f"{text}: its site lies {float(gaps[near]):.1e} from site {near}, where one unit in "
            f"the last place of a height moves their border by {moved:.1e}; merge the two, or "
            "raise the source's least density if it is nearly zero somewhere"
        )
    return (
        f"{text}: its site lies {float(gaps[near]):.1e} from site {near}, where one unit in the "
        f"last place of a height is worth {grain:.1e} of the mass; merge the two or raise tol"
    )
