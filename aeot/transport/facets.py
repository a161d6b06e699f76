"""Facets between power cells in any dimension: exact where geometry is, else by walks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from aeot import _check
from aeot._rng import generator as _generator
from aeot.transport.brenier import BrenierMap
from aeot.transport.geometry import power_diagram

_BLOCK = 8192  # points per block of the stream


@dataclass(frozen=True)
class Facets:
    """Facets between power cells.

    Attributes:
        pairs: Cells (k, 2), the smaller index first, each pair once.
        angles: Angle between the normals (y_i, -1) and (y_j, -1) of the planes, radians, (k,).
            It depends on the scale and the origin of the sites: those of the caller.
        jumps: |y_i - y_j|, in the units of the sites, (k,).
        mass: mu-surface mass of W_i ∩ W_j, (k,): for a uniform source its area times the density.
        exact: Whether they are all the facets, exactly, or those that points walked to.
    """

    pairs: torch.Tensor
    angles: torch.Tensor
    jumps: torch.Tensor
    mass: torch.Tensor
    exact: bool


def jump(sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return |y_i - y_j| for index tensors of equal shape."""
    return (sites[i] - sites[j]).norm(dim=-1)


def angle(sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return the angle between the normals (y, -1) of two planes, in radians in [0, pi).

    Args:
        sites: (n, d).
        i: Indices of any shape.
        j: Indices of the same shape.

    Returns:
        Angles of that shape, in the dtype of the sites.

    Example:
        >>> sites = torch.tensor([[0.0], [1.0]])
        >>> angle(sites, torch.tensor(0), torch.tensor(1))  # (0, -1) and (1, -1): 45 degrees
        tensor(0.7854)
    """
    a, b = sites[i].to(torch.float64), sites[j].to(torch.float64)
    dot = (a * b).sum(-1)
    # |a' x b'|^2 of a' = (a, -1), b' = (b, -1), without the cancellation an arccos suffers.
    inner = a.square().sum(-1) * b.square().sum(-1) - dot.square()
    cross = ((a - b).square().sum(-1) + inner.clamp(min=0)).sqrt()
    return torch.atan2(cross, dot + 1).to(sites.dtype)


def find_facets(brenier: BrenierMap, n_points: int | None = None, *, seed: int = 0) -> Facets:
    """Find the facets between the cells of a map: exact diagrams in 2-D and 3-D, else walks.

    Args:
        brenier: The map.
        n_points: How many walks; None: exact geometry where the source has it (d <= 3), else
            what about a minute of one processor allows, at most 200 per cell.
        seed: Which points.

    Returns:
        The facets.
    """
    n, d = brenier.sites.shape
    if n_points is None and d <= 3 and n > 1:
        try:
            diagram = power_diagram(brenier.source, brenier.sites, brenier.heights)
        except ValueError:  # a source without exact geometry, such as a Gaussian
            diagram = None
        if diagram is not None:
            pairs = diagram.facets.pairs.to(brenier.sites.device)
            i, j = pairs.T
            mass = diagram.facets.measures.to(pairs.device, torch.float64)
            sites = brenier.sites
            return Facets(pairs, angle(sites, i, j), jump(sites, i, j), mass, exact=True)
    if n_points is None:
        # About three passes over all sites; small problems need no more than 200 walks a cell.
        n_points = int(min(1 << 20, 200 * n, max(1 << 14, 1e12 / (n * d))))
    return _sampled(brenier, _check.integer("n_points", n_points), seed)


def _sampled(brenier: BrenierMap, n_points: int, seed: int) -> Facets:
    sites = brenier.sites
    n = sites.shape[0]
    found = [torch.zeros(0, 2, dtype=torch.int64, device=sites.device)]
    reach = [torch.zeros(0, dtype=torch.float64, device=sites.device)]
    for block, start in enumerate(range(0, n_points if n > 1 else 0, _BLOCK)):
        count = min(_BLOCK, n_points - start)
        x = brenier.source.sample(count, generator=_generator(seed, "facets", block))
        pair, distance = _walk(brenier, x.to(sites.device))
        found.append(pair)
        reach.append(distance)
    pairs, steps = torch.cat(found), torch.cat(reach)
    keys, slot = (pairs.amin(1) * n + pairs.amax(1)).unique(return_inverse=True)
    pairs = torch.stack([keys // n, keys % n], 1)
    # The layer of thickness t along a facet F has mass t mu(F) on each side: a tent of width w
    # over the distances walked, whose integral is w / 2 a side, estimates mu(F).
    mass = torch.zeros(len(keys), dtype=torch.float64, device=sites.device)
    if len(keys):
        width = 2 * float(steps.median()) + 1e-300
        mass = mass.index_add_(0, slot, (1 - steps / width).clamp(min=0)) / (n_points * width)
    i, j = pairs.T
    return Facets(pairs, angle(sites, i, j), jump(sites, i, j), mass, exact=False)


def _inside(source: object, points: torch.Tensor) -> torch.Tensor:
    # A border point outside the support belongs to no facet of the source.
    if hasattr(source, "low") and hasattr(source, "high"):
        low, high = source.low.to(points), source.high.to(points)
        return ((points >= low) & (points <= high)).all(1)
    if hasattr(source, "center") and hasattr(source, "radius"):
        return (points - source.center.to(points)).norm(dim=1) <= source.radius
    return torch.ones(len(points), dtype=torch.bool, device=points.device)


def _walk(brenier: BrenierMap, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # From x in cell i straight against y_i - y_j, j the runner-up, to where a plane k takes over:
    # (i, k) share that point. Returns the pairs and the lengths of the walks.
    sites, heights = brenier.sites, brenier.heights
    x = x.to(torch.float64) if brenier.dim <= 3 else x
    _, best = brenier.top(x, 2)
    start = x.to(torch.float64)
    owner, other = best[:, 0].clone(), best[:, 1].clone()
    own = sites[owner].to(torch.float64)
    toward = sites[other].to(torch.float64) - own
    toward = toward / toward.norm(dim=1, keepdim=True).clamp(min=1e-300)

    def race(rival: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        apart = sites[rival].to(torch.float64) - own[rows]
        lead = heights[owner[rows]] - heights[rival] - (apart * start[rows]).sum(1)
        return lead, (apart * toward[rows]).sum(1)

    active = torch.arange(len(x), device=x.device)
    lead, speed = race(other, active)
    step = lead.clamp(min=0) / speed.clamp(min=1e-300)
    settled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(16):
        place = start[active] + step[active, None] * toward[active]
        winner = brenier.cell(place.to(x.dtype))
        done = (winner == owner[active]) | (winner == other[active])
        settled[active[done]] = True
        active, winner = active[~done], winner[~done]
        if active.numel() == 0:
            break
        lead, speed = race(winner, active)
        # Rounding can name a winner that does not overtake; such a walk is given up.
        valid = (speed > 0) & (lead < speed * step[active])
        active, winner = active[valid], winner[valid]
        other[active] = winner
        step[active] = (lead[valid] / speed[valid]).clamp(min=0)
    place = start + step[:, None] * toward
    good = settled & _inside(brenier.source, place)
    return torch.stack([owner, other], 1)[good], step[good]
