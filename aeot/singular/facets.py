"""Facets between power cells in any dimension: exact where geometry is, else by walks."""

from __future__ import annotations

import numpy as np
import torch

from aeot import _check, _loop
from aeot._rng import generator as _generator
from aeot.geometry.diagram import power_diagram
from aeot.geometry.facets import Facets, jump
from aeot.geometry.tessellation import has_geometry
from aeot.maps.brenier import BrenierMap
from aeot.search.engines import top_k

_BLOCK = 8192  # points per block of the stream
_RUNNERS = 8  # highest planes looked at from each point
_FAR = 4  # and nearest ones of other modes, which may be lower than all planes of the point's own
_NUMBERS = 1 << 22  # coordinates of planes held at once
_FEW = 8  # dimensions up to which rays in any direction reach a facet inside the source


def find_facets(
    brenier: BrenierMap,
    n_points: int | None = None,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> Facets:
    """Find the facets between the cells of a map: exact diagrams in 2-D and 3-D, else walks.

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
        return _sampled(brenier, n_points, _large(labels, brenier.sites.device), seed)


def _large(labels: np.ndarray | None, device: torch.device) -> list[torch.Tensor]:
    """Return the cells of each mode that could fill a list of planes; none if there is one mode."""
    if labels is None or labels.max() == 0:
        return []
    large = np.flatnonzero(np.bincount(labels) > _RUNNERS // 2)
    return [torch.from_numpy(np.flatnonzero(labels == k)).to(device) for k in large]


def _sampled(brenier: BrenierMap, n_points: int, modes: list[torch.Tensor], seed: int) -> Facets:
    sites = brenier.sites
    n = sites.shape[0]
    walked = [torch.zeros(0, 2, dtype=torch.int64, device=sites.device)]
    layers = [torch.zeros(0, dtype=torch.int64, device=sites.device)]
    shares = [torch.zeros(0, dtype=torch.float64, device=sites.device)]
    width = 0.0
    for block, start in enumerate(range(0, n_points if n > 1 else 0, _BLOCK)):
        count = min(_BLOCK, n_points - start)
        x = brenier.source.sample(count, generator=_generator(seed, "facets", block))
        x = x.to(sites.device, torch.float64 if brenier.dim <= 3 else None)
        values, best = brenier.top(x, min(_RUNNERS, n))
        gaps = (values[:, :1] - values[:, 1:]).to(torch.float64)
        if modes:
            gaps, best = _with_far(brenier, x, values[:, :1], gaps, best, modes)
        if block == 0:
            apart = jump(sites, best[:, :1].expand_as(best)[:, 1:], best[:, 1:])
            width = float((gaps / apart.clamp(min=1e-300)).amin(1).quantile(0.25)) + 1e-300
        rows = max(1, _NUMBERS // (best.shape[1] * brenier.dim))
        for some in zip(gaps.split(rows), best.split(rows), strict=True):
            near, share = _layer(sites, *some, width)
            layers.append(_keys(near[:, 0], near[:, 1], n))
            shares.append(share)
        walked.append(_walk(brenier, x, gaps, best, _generator(seed, "rays", block)))
        _loop.at(start + count)
    pairs = torch.cat(walked)
    keys = _keys(pairs[:, 0], pairs[:, 1], n).unique()
    pairs = torch.stack([keys // n, keys % n], 1)
    mass = torch.zeros(len(keys), dtype=torch.float64, device=sites.device)
    if len(keys):
        layer = torch.cat(layers)
        slot = torch.searchsorted(keys, layer).clamp(max=len(keys) - 1)
        real = keys[slot] == layer
        mass.index_add_(0, slot[real], torch.cat(shares)[real])
        mass /= n_points
    return Facets.between(sites, pairs, mass, exact=False)


def _with_far(
    brenier: BrenierMap,
    x: torch.Tensor,
    top: torch.Tensor,
    gaps: torch.Tensor,
    best: torch.Tensor,
    modes: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the highest planes of those modes whose facets may be nearest, as `_FAR` more columns."""
    sites, heights = brenier.sites, brenier.heights
    behind, found = [], []
    for cells in modes:
        values, place = top_k(x, sites[cells], heights[cells], engine=brenier.engine)
        behind.append((top - values).to(torch.float64))
        found.append(cells[place])
    far, gap = torch.cat(found, 1), torch.cat(behind, 1).clamp(min=0)
    gap = gap.masked_fill((far[:, :, None] == best[:, None]).any(2), torch.inf)
    apart = torch.cat([jump(sites, best[:, 0], column)[:, None] for column in far.T], 1)
    near = (gap / apart.clamp(min=1e-300)).topk(min(_FAR, len(modes)), dim=1, largest=False).indices
    return torch.cat([gaps, gap.gather(1, near)], 1), torch.cat([best, far.gather(1, near)], 1)


def _layer(
    sites: torch.Tensor, gaps: torch.Tensor, best: torch.Tensor, width: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the facets that points lie right above, and what each point says of their mass.

    A point lies above the facet of two planes if those two are the highest ones at its foot on the
    hyperplane where they meet. The mass of the source in a layer of width 2 dt above a facet F is
    2 mu(F) dt + O(dt^3), whichever cells the layer passes and where the support ends; a tent over
    the distances measures it.

    Args:
        sites: (n, d).
        gaps: (m, k - 1) float64, by how much the best plane at each point leads the next ones.
        best: (m, k), the planes, best first.
        width: Half the width of the layer.

    Returns:
        Pairs of sites (q, 2), and of each the point's share (q,) float64.
    """
    k = best.shape[1]
    y = sites[best].to(torch.float64)
    y = y - y[:, :1]
    level = torch.nn.functional.pad(-gaps, (1, 0))
    apart = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-300)
    steps = (level[:, :, None] - level[:, None]) / apart  # from the point down to the foot
    ahead = torch.ones(k, k, dtype=torch.bool, device=best.device).triu(1)
    row, i, j = ((steps < width) & ahead).nonzero().T
    step = steps[row, i, j]
    slope = torch.bmm(y, y.mT)
    slope = (slope[row, i] - slope[row, j]) / apart[row, i, j, None]
    there = level[row] - step[:, None] * slope
    both = there.gather(1, i[:, None])[:, 0]
    for one in (i, j):
        there.scatter_(1, one[:, None], -torch.inf)
    above = there.amax(1) <= both
    row, i, j, step = (part[above] for part in (row, i, j, step))
    return torch.stack([best[row, i], best[row, j]], 1), (1 - step / width) / width


def _keys(i: torch.Tensor, j: torch.Tensor, n: int) -> torch.Tensor:
    return torch.minimum(i, j) * n + torch.maximum(i, j)


def _inside(source: object, points: torch.Tensor) -> torch.Tensor:
    # A border point outside the support belongs to no facet of the source.
    if hasattr(source, "low") and hasattr(source, "high"):
        low, high = source.low.to(points), source.high.to(points)
        return ((points >= low) & (points <= high)).all(1)
    if hasattr(source, "center") and hasattr(source, "radius"):
        return (points - source.center.to(points)).norm(dim=1) <= source.radius
    return torch.ones(len(points), dtype=torch.bool, device=points.device)


def _walk(
    brenier: BrenierMap,
    x: torch.Tensor,
    gaps: torch.Tensor,
    best: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    # From x in cell i straight on to where another plane k takes over: (i, k) share that point.
    # The way leads to the nearest of the planes next in rank; in few dimensions half the points
    # take any direction instead, which also finds facets behind which the planes rise steeply.
    sites, heights = brenier.sites, brenier.heights
    start = x.to(torch.float64)
    owner = best[:, 0].clone()
    own = sites[owner].to(torch.float64)
    apart = (sites[best[:, 1:]].to(torch.float64) - own[:, None]).norm(dim=2).clamp(min=1e-300)
    first = (gaps / apart).argmin(1, keepdim=True)
    other = best[:, 1:].gather(1, first)[:, 0]
    toward = sites[other].to(torch.float64) - own
    toward = toward / toward.norm(dim=1, keepdim=True).clamp(min=1e-300)
    step = (gaps.clamp(min=0) / apart).gather(1, first)[:, 0]
    if brenier.dim <= _FEW:
        any_way = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        odd = torch.arange(len(x), device=x.device) % 2 == 1
        toward[odd] = any_way[odd] / any_way[odd].norm(dim=1, keepdim=True)
        step[odd] = 2 * float((start - start.mean(0)).norm(dim=1).max())
        other[odd] = owner[odd]  # none yet

    active = torch.arange(len(x), device=x.device)
    settled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(24):
        place = start[active] + step[active, None] * toward[active]
        winner = brenier.cell(place.to(x.dtype))
        done = (winner == owner[active]) | (winner == other[active])
        settled[active[done]] = True
        active, winner = active[~done], winner[~done]
        if active.numel() == 0:
            break
        ahead = sites[winner].to(torch.float64) - own[active]
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
