"""Transport from few points in several dimensions: a linear assignment, and heights for it.

Every point goes to one site as a whole, so the masses of cells are sums of those of points. The
best way to deal the points out is a linear assignment. Heights that realise it are the potentials
of shortest paths between the cells; those taken here leave every point as far inside its cell as
the worst placed one allows. The error is counted on all points, with the map itself.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot import _check
from aeot.maps.brenier import BrenierMap
from aeot.measures import Empirical, Measure
from aeot.search.heights import center, shifted_source
from aeot.solvers.solution import Outcome, Solution

_POINTS = 2048  # dealt out in a second or two; the time grows as their cube
_PER_SITE = 64  # points for each site from which sampled solves can do


def check_enough(source: Measure, n: int, *, per: str = "site") -> None:
    """Raise if a source of points has fewer places than there are sites.

    Raises:
        ValueError: Saying so.
    """
    if not isinstance(source, Empirical):
        return
    m = len(source.points)
    places = len(_places(source)[0]) if m < _PER_SITE * n else m
    if places < n:
        got = f"{m} points{f' at {places} places' if places < m else ''} for {n} sites"
        way_out = "give more points or fewer sites; points at one place count once"
        raise _check.fail("source", f"have at least one point for each {per}", got, way_out)


def is_few(source: Measure, n: int) -> bool:
    """Whether points are so few for n sites that they are dealt out one by one.

    So they are where one of them holds more than a site's share on average, too: that is seen at
    once instead of never being met.
    """
    if type(source) is not Empirical or source.dim == 1:
        return False
    count = _places(source)[1]
    few = len(count) <= _PER_SITE * n or count.max() * n > count.sum()
    return len(count) <= _POINTS and bool(few)


def solve_assignment(
    source: Measure,
    sites: torch.Tensor,
    masses: torch.Tensor,
    *,
    tol: float,
    init: torch.Tensor | None = None,
) -> Solution:
    """Solve transport from few points, and count the result exactly.

    It has converged if no cell is empty and the error is at most `tol`. Where the masses are no
    sums of those of points, the nearest are met.

    Args:
        source: For which `is_few` holds.
        sites: (n, d), distinct.
        masses: (n,).
        tol: Total variation that is accepted.
        init: (n,), heights that are kept if they are within `tol`.

    References:
        D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Trans. Aerosp.
        Electron. Syst. 52 (2016): `scipy.optimize.linear_sum_assignment`. J. Cochet-Terrasson,
        G. Cohen, S. Gaubert, M. McGettrick, J.-P. Quadrat, "Numerical computation of spectral
        elements in max-plus algebra", IFAC Proc. 31 (1998): `_widest`.
    """
    assert isinstance(source, Empirical)
    if init is not None:
        start = _counted(source, sites, masses, init.detach().to("cpu", torch.float64), tol)
        if start.converged:
            return start
    y, nu = sites.detach().cpu().double(), masses.cpu().numpy()
    first, count = _places(source)
    x = source.points[first].detach().cpu().double()
    middle = x.mean(0)
    scores = ((x - middle) @ (y - y.mean(0)).T).numpy()
    total = min(int(count.sum()), _POINTS)
    point = np.repeat(np.arange(len(count)), _dealt(count, total))
    room = np.repeat(np.arange(len(nu)), _dealt(nu, total))
    _, place = scipy.optimize.linear_sum_assignment(-scores[np.ix_(point, room)])
    held = np.zeros(scores.shape, np.int64)
    np.add.at(held, (point, room[place]), 1)
    owner = held.argmax(1)  # a point that is held twice cannot be divided
    order = np.argsort(owner, kind="stable")
    cells, starts = np.unique(owner[order], return_index=True)
    ahead = scores[np.arange(len(owner)), owner][:, None] - scores
    least = np.full((len(nu), len(nu)), np.inf)
    least[cells] = np.minimum.reduceat(ahead[order], starts, axis=0)
    np.fill_diagonal(least, np.inf)
    heights = shifted_source(torch.from_numpy(_widest(least)), y, middle)
    s = _counted(source, sites, masses, heights, tol)
    if not s.converged:
        _check.warn(s.message, ConvergenceWarning)
    return s


def why_unmet(source: Measure, masses: torch.Tensor) -> str | None:
    """Say why points cannot meet masses, and what to do; None where nothing speaks against it."""
    if not isinstance(source, Empirical):
        return None
    first, count = _places(source)
    k, m = int(count.argmax()), int(count.sum())
    if count[k] > float(masses.min()) * m * (1 + 1e-9):
        at = [float(f"{v:.4g}") for v in source.points[first[k]][:4].tolist()]
        more = ", ..." if source.dim > 4 else ""
        where = f"({', '.join(map(str, at))}{more})"
        return (
            f"the source holds {count[k] / m:.3g} at {where}, more than a site shall get, and a "
            "map cannot divide it: take more points, or raise tol"
        )
    if m >= _PER_SITE * len(masses):
        return None
    return "points of the source cannot be divided: take more of them, or raise tol"


def _places(source: Empirical) -> tuple[np.ndarray, np.ndarray]:
    """Return the first point at each place, and how many points are there, (k,) each."""
    x = source.points.detach().cpu().double()
    # One number for a row: a product of matrices might round equal rows unequally.
    weights = np.random.default_rng(0).uniform(1, 2, x.shape[1]).tolist()
    key = torch.zeros(len(x), dtype=torch.float64)
    for column, weight in zip(x.T, weights, strict=True):
        key += column * weight
    _, first, count = np.unique(key.numpy(), return_index=True, return_counts=True)
    return first, count


def _dealt(share: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers (k,), 1 at least, that add up to a total and follow the shares."""
    wanted = share * (total / share.sum())
    found = np.maximum(np.floor(wanted + 1e-9), 1).astype(np.int64)
    while (missing := total - int(found.sum())) != 0:
        sign = 1 if missing > 0 else -1
        gain = np.where(found + sign >= 1, sign * (wanted - found), -np.inf)
        chosen = np.argsort(-gain, kind="stable")[: abs(missing)]
        found[chosen[gain[chosen] > -np.inf]] += sign
    return found


def _widest(least: np.ndarray) -> np.ndarray:
    """Return the heights that leave all points as much margin as one number allows.

    The margin of a point in cell s over site i is at least h_s - h_i + least[s, i]. It is `margin`
    or more for all if and only if no cycle of cells has a smaller mean of `least`: the heights are
    shortest ways to the cycle of the least mean, which Howard's iteration finds.

    Args:
        least: (n, n); infinite where there is no point, and on the diagonal.

    Returns:
        (n,).
    """
    n = len(least)
    ways = np.ascontiguousarray(least.T)  # h_i <= h_s + ways[i, s] - margin
    heights, sites = np.zeros(n), np.arange(n)
    alone = np.flatnonzero(np.isinf(ways.min(1)))  # a cell that holds all points
    if len(alone):
        below = least[alone[0]] - np.abs(least[alone[0]][sites != alone[0]]).max(initial=1e-300)
        return np.where(sites == alone[0], 0.0, below)
    onto = ways.argmin(1)
    grain = 1e-15 * np.abs(ways[np.isfinite(ways)]).max()
    for _ in range(50 + n):
        end, margin = _least_mean(onto, ways[sites, onto])
        jump, along = onto.copy(), ways[sites, onto] - margin
        jump[end], along[end] = end, 0.0
        for _ in range(int(n).bit_length()):
            along, jump = along + along[jump], jump[jump]
        heights = np.where(jump == end, heights[end] + along, heights)
        through = ways + (heights - margin)
        better = through.argmin(1)
        value = through[sites, better]
        gain = value < heights - grain
        if not gain.any():
            break
        onto[gain], heights[gain] = better[gain], value[gain]
    return heights


def _least_mean(onto: np.ndarray, length: np.ndarray) -> tuple[int, float]:
    """Return a node of the cycle of the least mean, and the mean, where every node has one edge."""
    seen, best = np.full(len(onto), -1), (0, np.inf)
    for start in range(len(onto)):
        path, node = [], start
        while seen[node] < 0:
            seen[node] = start
            path.append(node)
            node = onto[node]
        if seen[node] == start:
            cycle = path[path.index(node) :]
            mean = float(length[cycle].mean())
            if mean < best[1]:
                best = int(node), mean
    return best


def _counted(
    source: Empirical, sites: torch.Tensor, masses: torch.Tensor, heights: torch.Tensor, tol: float
) -> Solution:
    """Return heights with what the map makes of all points."""
    h = center(heights).to(sites.device)
    n, d = sites.shape
    x = source.points.detach().to(sites.device)
    cells = BrenierMap(source, sites, h).cell(x).cpu()
    count = cells.bincount(minlength=n)
    w = count.double() / len(x)
    error, empty = float((w - masses.cpu()).abs().sum()) / 2, int((count == 0).sum())
    message, outcome = f"mass error {error:.3g} (exact)", Outcome.CONVERGED
    if error > tol or empty:
        outcome = Outcome.UNMET
        reasons = [f"above tol={tol:g}"] if error > tol else []
        reasons += [f"{empty} empty cell(s)"] if empty else []
        way_out = why_unmet(source, masses) or "raise tol"
        message += ": " + ", ".join(reasons) + f"; {way_out}"
    x = x.cpu().double()
    total = torch.zeros(n, d, dtype=torch.float64).index_add_(0, cells, x)
    mean = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], x.mean(0))
    return Solution(
        source=source,
        sites=sites,
        masses=masses.to(sites.device),
        heights=h,
        mass_error=error,
        mass_error_upper=error,
        outcome=outcome,
        message=message,
        method="exact",
        engine="geometry",
        cell_masses=w.to(sites.device),
        cell_centroids=mean.to(sites),
        cell_variance=float((x - mean[cells]).square().mean()),
    )
