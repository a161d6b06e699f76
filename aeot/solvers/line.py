"""Transport on a line: neighbours meet where the source holds as much as the sites before them.

Where the source's distribution function is known, heights and their error are exact up to rounding.
Of any other source samples tell: their counts between edges, finer than cells, give the quantiles,
and the certificate is that of fresh samples. Everything happens in float64 and by sorting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from sklearn.exceptions import ConvergenceWarning

from aeot import _check, _loop
from aeot._compile import njit
from aeot.measures import Empirical, Gaussian, Measure, UniformBall, UniformBox
from aeot.search.heights import center
from aeot.search.line import envelope
from aeot.solvers.certificate import certificate_size
from aeot.solvers.problem import OutOfSamples, Problem
from aeot.solvers.solution import Outcome, Solution
from aeot.solvers.stages import Step, Task, check
from aeot.solvers.state import State

_BLOCK = 1 << 20  # samples sorted at once
_FEWEST = 64  # that tell anything of quantiles
_LEAST = 0.5  # part of its width that a cell keeps at least
UNRESOLVED = 1e-14  # masses are not resolved below this
GRAIN = 1e-11  # nor below the rounding of the heights, which is forgiven up to this
_EDGES = 4, 1 << 12  # per site, and at least, between which samples are counted


@dataclass(frozen=True)
class Law:
    """A source on a line whose distribution is known.

    Attributes:
        share: The mass up to and with each x.
        before: The integral of t over the mass up to and with each x.
        quantile: Where the share is reached; between two points of the source, where it has some.
        mean: Its mean.
        variance: Its variance.
        atoms: (k,), ascending, where all of the mass lies; none if there are no such places.
    """

    share: Callable[[np.ndarray], np.ndarray]
    before: Callable[[np.ndarray], np.ndarray]
    quantile: Callable[[np.ndarray], np.ndarray]
    mean: float
    variance: float
    atoms: np.ndarray = field(default_factory=lambda: np.zeros(0))


def law(source: Measure) -> Law | None:
    """Return the law of a source on a line; None where only samples tell."""
    # Exact types only: a subclass may sample something else.
    if type(source) is Gaussian:
        mean, sd = float(source.mean.double()), float(source.covariance.double()) ** 0.5

        def below(x: np.ndarray) -> np.ndarray:
            t = (x - mean) / sd
            return mean * ndtr(t) - sd * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)

        return Law(
            lambda x: ndtr((x - mean) / sd), below, lambda c: mean + sd * ndtri(c), mean, sd**2
        )
    if type(source) is UniformBox:
        return _interval(float(source.low.double()), float(source.high.double()))
    if type(source) is UniformBall:
        middle = float(source.center.double())
        return _interval(middle - source.radius, middle + source.radius)
    return _points(source.points[:, 0]) if type(source) is Empirical else None


def _interval(low: float, high: float) -> Law:
    side, middle = high - low, low / 2 + high / 2

    def before(x: np.ndarray) -> np.ndarray:
        t = np.clip(x, low, high)
        return (t - low) / side * (t + low) / 2

    def share(x: np.ndarray) -> np.ndarray:
        return np.clip((x - low) / side, 0.0, 1.0)

    return Law(share, before, lambda c: low + side * c, middle, side * side / 12)


def _points(given: torch.Tensor) -> Law:
    x = given.detach().cpu().double().sort().values.numpy()
    m, total = len(x), np.r_[0.0, np.cumsum(x)] / len(x)
    values = np.unique(x)
    reached = np.searchsorted(x, values, side="right")

    def quantile(share: np.ndarray) -> np.ndarray:
        return _between(values, reached, np.asarray(share * m, dtype=np.float64))

    def up_to(x_: np.ndarray) -> np.ndarray:
        return np.searchsorted(x, x_, side="right")

    return Law(
        lambda x_: up_to(x_) / m, lambda x_: total[up_to(x_)], quantile, x.mean(), x.var(), values
    )


def _between(values: np.ndarray, reached: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Cut atoms at `values` (k,), so many up to each, where nearly `count` of them lie before."""
    after = np.searchsorted(reached, count).clip(0, len(values) - 1)
    nearer = (after > 0) & (count - reached[after - 1] <= reached[after] - count)
    last = after - nearer  # the last atom before the cut
    return (values[last] + values[np.minimum(last + 1, len(values) - 1)]) / 2


@njit(error_model="numpy")
def _fit(y, meet, heights):  # noqa: ANN001, ANN202
    # y (n,) ascending, meet (n - 1,) ascending, where neighbours shall meet; heights (n,), filled
    # from the first on. Sites so close that one unit of a height moves their border over many cells
    # meet at the next place there is, and those behind move up: no cell gets lost.
    before = -np.inf
    for k in range(meet.size):
        apart = y[k + 1] - y[k]
        width = meet[k] - meet[k - 1] if k > 0 else 0.0
        wanted = max(meet[k], before + _LEAST * width)
        height = heights[k] - apart * wanted
        x = (heights[k] - height) / apart
        if x <= before + 0.5 * _LEAST * width:
            height = np.nextafter(height, -np.inf)
            x = (heights[k] - height) / apart
        heights[k + 1] = height
        before = x


@njit(error_model="numpy")
def _fit_to_atoms(y, meet, atoms, heights):  # noqa: ANN001, ANN202
    # The same for a source of `atoms` (k,), ascending: every cell keeps one, as long as one is left
    # for each of those to come, and half of the atoms it should hold.
    before, held, due = -np.inf, 0, 0
    for k in range(meet.size):
        apart = y[k + 1] - y[k]
        planned, due = due, np.searchsorted(atoms, meet[k], side="right")
        most = max(held, atoms.size - (meet.size - k))
        last = min(max(due, held + max(1, (due - planned) // 2)), most)
        if last == due:
            wanted = max(meet[k], before)
        elif last > held:
            wanted = (atoms[last - 1] + atoms[min(last, atoms.size - 1)]) / 2
        else:
            wanted = before
        height = heights[k] - apart * wanted
        got = np.searchsorted(atoms, (heights[k] - height) / apart, side="right")
        if got <= held:
            height = np.nextafter(height, -np.inf)
            got = np.searchsorted(atoms, (heights[k] - height) / apart, side="right")
        if got > most:  # too far for those to come: this cell has to go
            height = np.nextafter(height, np.inf)
        heights[k + 1] = height
        before = max(before, (heights[k] - height) / apart)
        held = max(held, np.searchsorted(atoms, before, side="right"))


def heights_that_meet(sites: np.ndarray, meet: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Return heights (n,), mean zero, for sites ascending that meet at `meet` (n - 1,).

    Args:
        sites: (n,).
        meet: (n - 1,), ascending.
        atoms: (k,), ascending, the points of a source that has no others; empty for any other.
    """
    # In extended precision, where there is one, for the mean.
    steps = -np.diff(sites.astype(np.longdouble)) * meet
    exact = np.r_[np.longdouble(0), np.cumsum(steps)]
    heights = np.empty(len(sites))
    heights[0] = exact[0] - exact.mean()
    if len(atoms):
        _fit_to_atoms(sites, meet, atoms, heights)
        if abs(heights.mean()) > 1e-12 * np.abs(heights).max():  # cells have given way to others
            heights[0] -= heights.mean()
            _fit_to_atoms(sites, meet, atoms, heights)
    else:
        _fit(sites, meet, heights)
    return heights


def solve_line(
    source: Measure,
    sites: torch.Tensor,
    masses: torch.Tensor,
    known: Law,
    *,
    tol: float,
    init: torch.Tensor | None = None,
    each: bool = False,
) -> Solution:
    """Solve transport from a known law on a line, and measure the result exactly.

    It has converged if no cell is empty and the error is at most `tol`.

    Args:
        source: The source.
        sites: (n, 1), distinct.
        masses: (n,).
        known: The source's law.
        tol: Total variation that is accepted.
        init: (n,), heights that are kept if they are within `tol`.
        each: Whether `tol` is of the error of every cell instead, as in `solve_exact`.
    """
    y, nu = sites[:, 0].detach().cpu().double().numpy(), masses.cpu().numpy()
    if init is not None:
        h = init.detach().to("cpu", torch.float64)
        if abs(float(h.mean())) > 1e-12 * float(h.abs().max()):  # else leave every bit
            h = center(h)
        start = _measured(source, sites, masses, known, h, tol, each)
        if start.converged:
            return start
    order = np.argsort(y)
    ordered = nu[order].astype(np.longdouble)
    meet = known.quantile((np.cumsum(ordered)[:-1] / ordered.sum()).astype(np.float64))
    heights = np.empty(len(y))
    heights[order] = heights_that_meet(y[order], meet, known.atoms)
    s = _measured(source, sites, masses, known, torch.from_numpy(heights), tol, each)
    if not s.converged:
        _check.warn(s.message, ConvergenceWarning)
    return s


def _measured(
    source: Measure,
    sites: torch.Tensor,
    masses: torch.Tensor,
    known: Law,
    heights: torch.Tensor,
    tol: float,
    each: bool,
) -> Solution:
    """Return heights with what the law says of their cells."""
    n, nu = len(sites), masses.cpu().numpy()
    order, meet = envelope(sites[:, 0], heights)
    share = np.r_[0.0, known.share(meet), 1.0]
    before = np.r_[0.0, known.before(meet), known.mean]
    w, inside = np.zeros(n), np.zeros(n)
    w[order], inside[order] = np.diff(share), np.diff(before)
    centroids = np.where(w > 0, inside / np.where(w > 0, w, 1.0), known.mean)
    off = np.abs(w - nu)
    error, empty = float(off.sum()) / 2, int((w <= 0).sum())
    message, missed = f"mass error {error:.3g} (exact)", error > tol
    if each:
        message = how_near(off, nu)
        grain = np.zeros(n)
        grain[order] = _grain(sites[:, 0], heights, order, meet, known)
        missed = bool((off > np.maximum(tol * nu, np.clip(grain, UNRESOLVED, GRAIN))).any())
    outcome = Outcome.CONVERGED
    if missed or empty:
        outcome = Outcome.UNMET
        reasons = [f"above tol={tol:g}"] if missed else []
        reasons += [f"{empty} empty cell(s)"] if empty else []
        message += ": " + ", ".join(reasons) + "; " + _reason(sites, heights, masses, known, empty)
    return Solution(
        source=source,
        sites=sites,
        masses=masses.to(sites.device),
        heights=heights.to(sites.device, torch.float64),
        mass_error=error,
        mass_error_upper=error,
        outcome=outcome,
        message=message,
        method="exact",
        engine="geometry",
        cell_masses=torch.from_numpy(w).to(sites.device),
        cell_centroids=torch.from_numpy(centroids)[:, None].to(sites),
        cell_variance=max(known.variance - float((w * (centroids - known.mean) ** 2).sum()), 0.0),
    )


def how_near(off: np.ndarray, masses: np.ndarray) -> str:
    """Say how far, at most, cells are off their masses, (n,) each."""
    light = masses < UNRESOLVED
    message = f"every cell within {(off[~light] / masses[~light]).max():.1e} of its mass"
    if light.any():  # no relative error of these means anything
        message += f", those of less than {UNRESOLVED:g} within {off[light].max():.1e} of all mass"
    return message


def _grain(
    y: torch.Tensor, heights: torch.Tensor, order: np.ndarray, meet: np.ndarray, known: Law
) -> np.ndarray:
    """What one unit in the last place of the heights is worth in the mass of each cell, (k,)."""
    apart = np.diff(y.detach().cpu().double().numpy()[order])
    moved = np.spacing(float(heights.abs().max())) / apart
    at_border = np.r_[0.0, (known.share(meet + moved) - known.share(meet - moved)) / 2, 0.0]
    return at_border[1:] + at_border[:-1]


def _reason(
    sites: torch.Tensor, heights: torch.Tensor, masses: torch.Tensor, known: Law, empty: int
) -> str:
    """Why cells have missed their masses, and what to do about it."""
    if len(known.atoms):
        ends = known.share(known.atoms)
        held = np.diff(np.r_[0.0, ends])
        k, least = int(held.argmax()), float(masses.min())
        if held[k] > least * (1 + 1e-9):
            return (
                f"the source holds {held[k]:.3g} at {known.atoms[k]:g}, more than a site shall "
                "get, and a map cannot divide it"
            )
        if not empty:
            return "points of the source cannot be divided: take more of them, or raise tol"
    y, h = sites[:, 0].detach().cpu().double().numpy(), np.abs(heights.numpy())
    order = np.argsort(y)
    apart = np.diff(y[order])
    moved = np.spacing(np.maximum(h[order][1:], h[order][:-1])) / apart
    k = int(moved.argmax())
    i, j = sorted((int(order[k]), int(order[k + 1])))
    way_out = "merge them, or take more points" if len(known.atoms) else "merge them"
    return (
        f"sites {i} and {j} lie {apart[k]:.1e} apart, where one unit in the last place of a height "
        f"moves their border by {moved[k]:.1e}: {way_out}, or raise tol"
    )


def quantiles(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Take the heights from the quantiles of a sample, four times as large at every step."""
    state = at_quantiles(task, state)
    state, record = _checked(task, state, f"line {state.step}")
    return replace(state, step=state.step + 1), record


def at_quantiles(task: Task, state: State) -> State:
    """Return the state with the heights of a sample's quantiles.

    Raises:
        OutOfSamples: If too few are left.
    """
    problem = task.problem
    nu, y = problem.masses.numpy().astype(np.longdouble), problem.caller_sites[:, 0].numpy()
    share = (np.cumsum(nu)[:-1] / nu.sum()).astype(np.float64)
    m = int(max(task.wanted(replace(state, inflation=1.0)), 1 << 14)) << 2 * state.step
    m = int(min(m, problem.supply.left / 4))  # half of them twice, and half for the check
    if m <= max(state.weight, _FEWEST):
        raise OutOfSamples
    meet, atoms = _sampled_quantiles(problem, share, m, f"quantiles {state.step}")
    heights = problem.to_standard(torch.from_numpy(heights_that_meet(y, meet, atoms)))
    return replace(state, heights=heights.to(problem.sites.device), weight=m)


def _sampled_quantiles(
    problem: Problem, share: np.ndarray, m: int, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the shares are reached, and the atoms of a source of few points."""
    problem.supply.take(m + min(m, _BLOCK))
    first = problem.drawn(min(m, _BLOCK), key, "first").cpu().double().numpy()[:, 0]
    first.sort()
    values = np.unique(first)
    atoms = 2 * len(values) < len(first)  # a source of few points, which no cut may hit
    if not atoms:
        ends = np.r_[0.0, share, 1.0]
        parts = np.linspace(0, len(ends) - 1, _EDGES[0] * (len(ends) - 1) + 1)
        fine = np.r_[np.interp(parts, np.arange(len(ends)), ends), np.linspace(0, 1, _EDGES[1])]
        values = np.unique(first[(fine * len(first)).astype(np.int64).clip(0, len(first) - 1)])
    reached, low, high = np.zeros(len(values), np.int64), values[0], values[-1]
    for block, start in enumerate(range(0, m, _BLOCK)):
        _loop.beat()
        x = problem.drawn(min(_BLOCK, m - start), key, block).cpu().double().numpy()[:, 0]
        x.sort()
        reached += np.searchsorted(x, values, side="right")
        low, high = min(low, x[0]), max(high, x[-1])
    if atoms:
        return _between(values, reached, share * m), values
    found = np.interp(share * m, np.r_[0, reached, m], np.r_[low, values, high])
    return found, np.zeros(0)


def try_start(task: Task, state: State) -> tuple[State, dict[str, Any]]:
    """Certify heights that may be good already."""
    state, record = _checked(task, state, "try")
    return state if state.phase == "done" else state.entering("line"), record


def _checked(task: Task, state: State, key: str) -> tuple[State, dict[str, Any]]:
    size = certificate_size(task.nu.numpy(), task.tol)
    state, c, _ = check(task, state, key, size, edges=False)
    return state, {"error": c.mass_error, "upper": c.mass_error_upper, "empty": c.empty}


LINE: dict[str, Step] = {"try": try_start, "line": quantiles}
