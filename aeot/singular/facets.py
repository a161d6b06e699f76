"""Facets between power cells in any dimension: exact where geometry is, else by way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from aeot import _check, _loop
from aeot._compile import njit
from aeot._rng import generator as _generator
from aeot.geometry.diagram import power_diagram
from aeot.geometry.facets import Facets
from aeot.geometry.tessellation import has_geometry
from aeot.maps.brenier import BrenierMap
from aeot.search.engines import cell_or, leaders
from aeot.search.planes import rounding

_BLOCK = 8192  # points per block of the stream
_RUNNERS = 8  # highest planes looked at from each point
_FAR = 4  # and nearest ones of other modes, which may be lower than all planes of the point's own
_FEW = 8  # dimensions up to which rays in any direction reach a facet inside the source


def find_facets(
    brenier: BrenierMap,
    n_points: int | None = None,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> Facets:
    """Find the facets between the cells of a map: exact diagrams in 2-D and 3-D, else way.

    Args:
        brenier: The map.
        n_points: How many walks; None: exact geometry where the source has it (d <= 3), else
            what about a minute of one processor allows, at most 200 per cell.
        labels: (n,) int64, the mode of every cell, so that walks see what lies beyond a mode of
            many cells; None: there is one.
        seed: Which points.

    Returns:
        The facets.
    """
    n, d = brenier.sites.shape
    if n_points is None and n > 1 and has_geometry(brenier.source):
        diagram = power_diagram(brenier.source, brenier.sites, brenier.heights)
        return diagram.facets.to(brenier.sites.device)
    if n_points is None:
        # About three passes over all sites; small problems need no more than 200 walks a cell.
        n_points = int(min(1 << 20, 200 * n, max(1 << 14, 2e11 / (n * d))))
    n_points = _check.integer("n_points", n_points)
    with _loop.Loop("facets", n_points, unit="point", stops=False):
        return _sampled(brenier, n_points, labels, seed)


class _Sites(NamedTuple):
    """The sites of a map in the order of their modes, and balls around them; on the host.

    Attributes:
        number: (n,) int64, the sites as the caller numbers them.
        sites: (n, d) float64.
        heights: (n,) float64.
        edges: (g + 1,) int64, where the modes begin that could fill a list of planes, and the rest.
        modes: How many of them; 0 where there is one mode.
        center: (g, d) float64, of a ball that holds each range.
        radius: (g,) float64.
    """

    number: np.ndarray
    sites: np.ndarray
    heights: np.ndarray
    edges: np.ndarray
    modes: int
    center: np.ndarray
    radius: np.ndarray


def _sorted(brenier: BrenierMap, labels: np.ndarray | None) -> _Sites:
    n = len(brenier.sites)
    modes, rank = 0, np.zeros(n, np.int64)
    if labels is not None and labels.max() > 0:
        large = np.bincount(labels) > _RUNNERS // 2
        modes = int(large.sum())
        rank = np.where(large, np.cumsum(large) - 1, modes)[labels]
    number = np.argsort(rank, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=1))])
    sites = brenier.sites.detach().to("cpu", torch.float64).numpy()[number]
    heights = brenier.heights.detach().cpu().numpy()[number]
    parts = [sites[i:j] for i, j in zip(edges[:-1], edges[1:], strict=True)]
    center = np.stack([part.mean(0) for part in parts])
    away = [np.linalg.norm(part - c, axis=1).max() for part, c in zip(parts, center, strict=True)]
    return _Sites(number, sites, heights, edges, modes, center, (1 + 1e-9) * np.array(away))


def _sampled(brenier: BrenierMap, n_points: int, labels: np.ndarray | None, seed: int) -> Facets:
    n, d = brenier.sites.shape
    among, k, device = _sorted(brenier, labels), min(_RUNNERS, n), brenier.sites.device
    number = torch.from_numpy(among.number).to(device)
    sites, heights = brenier.sites.detach()[number], brenier.heights.detach()[number]
    edges = among.edges if among.modes else None
    longest = sites.norm(dim=1, dtype=torch.float64).max()
    walked = [torch.zeros(0, 2, dtype=torch.int64, device=device)]
    layers = [np.zeros(0, np.int64)]
    shares = [np.zeros(0)]
    width = 0.0
    for block, start in enumerate(range(0, n_points if n > 1 else 0, _BLOCK)):
        count = min(_BLOCK, n_points - start)
        x = brenier.source.sample(count, generator=_generator(seed, "facets", block))
        x = x.to(device, torch.float64 if d <= 3 else None)
        found = leaders(x, sites, heights, k, edges, engine=brenier.engine)
        # The best of a range is known up to rounding.
        reach = x.norm(dim=1, dtype=torch.float64) * longest
        slack = 2 * rounding(reach, heights, d, x.dtype)
        points = x.to("cpu", torch.float64).numpy()
        rays = np.zeros((0, d))
        if d <= _FEW:
            rays = _rays(points, _generator(seed, "rays", block))
        given = points, rays, found.cpu().numpy(), slack.cpu().numpy()
        if block == 0:
            width = float(np.quantile(_looked(among, k, *given, 0.0).nearest, 0.25)) + 1e-300
        seen = _looked(among, k, *given, width)
        layers.append(_keys(among.number[seen.pairs[:, 0]], among.number[seen.pairs[:, 1]], n))
        shares.append(seen.share)
        ways = (torch.from_numpy(way).to(device) for way in seen[:5])
        walked.append(number[_arrived(brenier, sites, heights, x, *ways)])
        _loop.at(start + count)
    pairs = torch.cat(walked).cpu().numpy()
    keys = np.unique(_keys(pairs[:, 0], pairs[:, 1], n))
    mass = np.zeros(len(keys))
    if len(keys):
        layer = np.concatenate(layers)
        slot = np.searchsorted(keys, layer).clip(max=len(keys) - 1)
        real = keys[slot] == layer
        mass = np.bincount(slot[real], np.concatenate(shares)[real], len(keys)) / n_points
    pairs = np.stack([keys // n, keys % n], 1)
    made = (torch.from_numpy(made).to(device) for made in (pairs, mass))
    return Facets.between(brenier.sites, *made, exact=False)


def _keys(i: np.ndarray, j: np.ndarray, n: int) -> np.ndarray:
    return np.minimum(i, j) * n + np.maximum(i, j)


class _Seen(NamedTuple):
    """What m points see of the planes around them.

    Attributes:
        owner: (m,) int64, the highest plane.
        other: (m,) int64, the first of those looked at to take over on a straight way; `owner`
            where none does.
        step: (m,) float64, how far that is.
        toward: (m, d) float64, the direction of the way.
        sure: (m,), whether no other plane takes over before.
        nearest: (m,) float64, how far the nearest of the hyperplanes is that carry facets.
        pairs: (q, 2) int64, facets that points lie right above, and
        share: (q,) float64, what they say of the mass of each.
    """

    owner: np.ndarray
    other: np.ndarray
    step: np.ndarray
    toward: np.ndarray
    sure: np.ndarray
    nearest: np.ndarray
    pairs: np.ndarray
    share: np.ndarray


def _looked(
    among: _Sites,
    k: int,
    points: np.ndarray,
    rays: np.ndarray,
    found: np.ndarray,
    slack: np.ndarray,
    width: float,
) -> _Seen:
    """Look from points at the planes next in rank, and at the nearest ones of other modes.

    A way leads to the nearest of them, in few dimensions from half the points along a ray instead:
    that also finds facets behind which the planes rise steeply.

    A point lies above the facet of two planes if those two are the highest ones at its foot on the
    hyperplane where they meet. The mass of the source in a layer of width 2 dt above a facet F is
    2 mu(F) dt + O(dt^3), whichever cells the layer passes and where the support ends; a tent over
    the distances measures it.

    Args:
        among: The sites.
        k: How many planes next in rank.
        points: (m, d) float64.
        rays: (m, d) float64, zero for the points without one, or (0, d).
        found: (m, k + g) int64, the highest planes, best first, and the best of each range.
        slack: (m,) float64, within which that one is the best.
        width: Half the width of the layer; 0: none is looked for.

    Returns:
        What they see.
    """
    m, d = points.shape
    most = k + min(_FAR, among.modes)
    made = _Seen(
        found[:, 0].copy(),
        np.empty(m, np.int64),
        np.empty(m),
        np.empty((m, d)),
        np.empty(m, np.bool_),
        np.empty(m),
        np.empty((m * most * (most - 1) // 2, 2), np.int64),
        np.empty(m * most * (most - 1) // 2),
    )
    used = _look(among, k, points, rays, found, slack, width, made)
    return made._replace(pairs=made.pairs[:used].copy(), share=made.share[:used].copy())


@njit(fastmath=True)
def _dot(a, b):  # noqa: ANN001, ANN202
    total = 0.0
    for c in range(a.size):
        total += a[c] * b[c]
    return total


@njit(error_model="numpy")
def _listed(found, k, modes, gaps, apart, seat):  # noqa: ANN001, ANN202
    # Which of `found` are looked at: the k highest, and of the best of other modes the nearest.
    # Fills `seat` with their places and returns how many.
    for e in range(k):
        seat[e] = e
    count = k
    for e in range(k, k + modes):
        own = False
        for f in range(k):
            own = own or found[f] == found[e]
        if own or (count == seat.size and gaps[e] * apart[seat[-1]] >= gaps[seat[-1]] * apart[e]):
            continue
        count = min(count + 1, seat.size)
        f = count - 1
        while f > k and gaps[e] * apart[seat[f - 1]] < gaps[seat[f - 1]] * apart[e]:
            seat[f] = seat[f - 1]
            f -= 1
        seat[f] = e
    return count


@njit(error_model="numpy")
def _above(ahead, gaps, seat, i, j, width, down):  # noqa: ANN001, ANN202
    # How far a point is from the foot on the hyperplane of planes i and j, gaps[i] <= gaps[j], if
    # these are the highest there; else -1. `down` (d,) is filled.
    for c in range(down.size):
        down[c] = ahead[i, c] - ahead[j, c]
    apart = max(np.sqrt(_dot(down, down)), 1e-300)
    step = (gaps[j] - gaps[i]) / apart
    if not step < width:
        return -1.0
    along = step / apart
    both = -gaps[i] - along * _dot(ahead[i], down)
    for e in seat:
        if e not in (i, j) and -gaps[e] - along * _dot(ahead[e], down) > both:
            return -1.0
    return step


@njit(error_model="numpy")
def _look(among, k, points, rays, found, slack, width, out):  # noqa: ANN001, ANN202
    # `_looked`; fills `out` and returns how many pairs there are.
    m, d = points.shape
    total, used = found.shape[1], 0
    ahead, gaps, apart = np.empty((total, d)), np.empty(total), np.empty(total)
    down, every = np.empty(d), np.empty(k + min(_FAR, among.modes), np.int64)
    for r in range(m):
        own = found[r, 0]
        for e in range(total):
            site = found[r, e]
            for c in range(d):
                ahead[e, c] = among.sites[site, c] - among.sites[own, c]
            lead = among.heights[own] - among.heights[site] - _dot(ahead[e], points[r])
            gaps[e] = max(lead, 0.0)
            apart[e] = max(np.sqrt(_dot(ahead[e], ahead[e])), 1e-300)
        seat = every[: _listed(found[r], k, among.modes, gaps, apart, every)]
        near, step = 1, gaps[1] / apart[1]
        for e in seat[2:]:
            if gaps[e] / apart[e] < step:
                near, step = e, gaps[e] / apart[e]
        out.nearest[r] = step
        toward, length = out.toward[r], 0.0
        if rays.shape[0]:
            length = np.sqrt(_dot(rays[r], rays[r]))
        if length > 0:
            near, step = 0, length
            for c in range(d):
                toward[c] = rays[r, c] / length
        else:
            for c in range(d):
                toward[c] = ahead[near, c] / apart[near]
        for e in seat:
            speed = _dot(ahead[e], toward)
            if speed > 0 and gaps[e] < step * speed:
                near, step = e, gaps[e] / speed
        out.other[r], out.step[r] = found[r, near], step
        # What a plane gains on the first is the step times how far its site lies ahead: in a ball
        # less than its foremost point. It was behind the last of the list, and the best of its
        # range.
        sure, start = near > 0, _dot(among.sites[own], toward)
        for g in range(among.radius.size):
            behind = gaps[k - 1]
            if among.modes:
                behind = max(behind, gaps[k + g] - slack[r])
            foremost = _dot(among.center[g], toward) - start + among.radius[g]
            sure = sure and step * foremost < (1 - 1e-9) * behind
        out.sure[r] = sure
        if not width > 0:
            continue
        for a in range(seat.size):
            for b in range(a + 1, seat.size):
                i, j = seat[a], seat[b]
                if gaps[i] > gaps[j]:
                    i, j = j, i
                if gaps[j] - gaps[i] < width * (apart[i] + apart[j]):
                    step = _above(ahead, gaps, seat, i, j, width, down)
                    if step >= 0:
                        out.pairs[used, 0], out.pairs[used, 1] = found[r, i], found[r, j]
                        out.share[used] = (1 - step / width) / width
                        used += 1
    return used


def _rays(points: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Return ways through the whole source for half the points (m, d), zero for the others."""
    rays = torch.randn(points.shape, generator=generator, dtype=torch.float64).numpy()
    far = 2 * np.linalg.norm(points - points.mean(0), axis=1).max()
    rays *= far / np.linalg.norm(rays, axis=1, keepdims=True)
    rays[::2] = 0
    return rays


def _inside(source: object, points: torch.Tensor) -> torch.Tensor:
    # A border point outside the support belongs to no facet of the source.
    if hasattr(source, "low") and hasattr(source, "high"):
        low, high = source.low.to(points), source.high.to(points)
        return ((points >= low) & (points <= high)).all(1)
    if hasattr(source, "center") and hasattr(source, "radius"):
        return (points - source.center.to(points)).norm(dim=1) <= source.radius
    return torch.ones(len(points), dtype=torch.bool, device=points.device)


def _arrived(
    brenier: BrenierMap,
    sites: torch.Tensor,
    heights: torch.Tensor,
    x: torch.Tensor,
    *way: torch.Tensor,
) -> torch.Tensor:
    """Go ways from points x (m, d), at most until another plane takes over.

    Args:
        brenier: The map.
        sites: Its sites (n, d).
        heights: Their heights (n,).
        x: (m, d).
        way: `owner`, `other`, `step`, `toward` and `sure` of `_Seen`.

    Returns:
        Pairs of sites (q, 2) whose cells meet where ways end in the source.
    """
    owner, other, step, toward, settled = way
    start = x.to(torch.float64)
    active = (~settled).nonzero()[:, 0]
    for _ in range(24):
        if len(active) == 0:
            break
        place = start[active] + step[active, None] * toward[active]
        known = torch.stack([owner[active], other[active]], 1)
        winner = cell_or(place.to(x.dtype), sites, heights, known, engine=brenier.engine)
        done = winner == known[:, 0]
        settled[active[done]] = True
        active, winner = active[~done], winner[~done]
        ahead = sites[winner].to(torch.float64) - sites[owner[active]]
        lead = heights[owner[active]] - heights[winner] - (ahead * start[active]).sum(1)
        speed = (ahead * toward[active]).sum(1)
        # Rounding can name a winner that does not overtake; such a walk is given up.
        valid = (speed > 0) & (lead < speed * step[active])
        active, winner = active[valid], winner[valid]
        other[active] = winner
        step[active] = (lead[valid] / speed[valid]).clamp(min=0)
    place = start + step[:, None] * toward
    good = settled & (other != owner) & _inside(brenier.source, place)
    return torch.stack([owner, other], 1)[good]
