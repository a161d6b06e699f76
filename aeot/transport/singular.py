"""Where the transport map jumps: facets between cells whose sites lie far apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from aeot import _check
from aeot._rng import generator as _generator
from aeot.transport.brenier import BrenierMap
from aeot.transport.extension import nearest


@dataclass(frozen=True)
class Facets:
    """Facets between power cells, found by sampling.

    Attributes:
        pairs: Cells (k, 2), the smaller index first, each pair once.
        angles: Angle between the normals (y_i, -1) and (y_j, -1) of the planes, radians, (k,).
            It depends on the scale and the origin of the sites: those of the caller.
        jumps: |y_i - y_j|, in the units of the sites, (k,).
        mass: mu-surface mass of W_i ∩ W_j, per unit of length in the source, (k,).
    """

    pairs: torch.Tensor
    angles: torch.Tensor
    jumps: torch.Tensor
    mass: torch.Tensor


@dataclass(frozen=True)
class _Rule:
    """Says of any two cells whether the map is broken between them."""

    max_angle: float | None
    ratio: float
    scales: torch.Tensor  # (n,) distance to a near neighbour on the own side
    labels: torch.Tensor  # (n,) clusters no facet between which is regular

    def __call__(self, sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        if self.max_angle is not None:
            return angle(sites, i, j) > self.max_angle
        local = torch.maximum(self.scales[i], self.scales[j])
        return (self.labels[i] != self.labels[j]) | (jump(sites, i, j) > self.ratio * local)


def jump(sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return |y_i - y_j| for index tensors of equal shape."""
    return (sites[i] - sites[j]).norm(dim=-1)


def angle(sites: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return the angle between the normals (y, -1) of two planes, in radians in [0, pi]."""
    a, b = sites[i].to(torch.float64), sites[j].to(torch.float64)
    # atan2 of |a x b| and <a, b>: an arccos would lose small angles.
    dot = (a * b).sum(-1) + 1
    lengths = (a.square().sum(-1) + 1) * (b.square().sum(-1) + 1)
    cross = (a - b).square().sum(-1) + (
        a.square().sum(-1) * b.square().sum(-1) - (a * b).sum(-1).square()
    ).clamp(min=0)
    return torch.atan2(cross.clamp(max=lengths).sqrt(), dot).to(sites.dtype)


@dataclass(frozen=True)
class SingularSet:
    """The facets the map breaks across, and the modes that are left when they are cut.

    Attributes:
        brenier: The map.
        pairs: Singular pairs of cells, (k, 2).
        angles: Angle of the planes' normals, radians, (k,).
        jumps: |y_i - y_j|, (k,).
        mass: mu-surface mass of each singular facet, (k,).
        facets: All facets found, regular and singular.
        components: Connected component of every cell when the singular facets are cut, (n,):
            the modes, numbered by falling mass.
    """

    brenier: BrenierMap = field(repr=False)
    pairs: torch.Tensor
    angles: torch.Tensor = field(repr=False)
    jumps: torch.Tensor = field(repr=False)
    mass: torch.Tensor = field(repr=False)
    facets: Facets = field(repr=False)
    components: torch.Tensor = field(repr=False)
    rule: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = field(repr=False)

    @property
    def n_components(self) -> int:
        """How many modes."""
        return int(self.components.max()) + 1

    def crosses(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Whether the map separates the cells of each pair: in other modes, or too far apart."""
        apart = self.components[first] != self.components[second]
        return apart | (self.rule(self.brenier.sites, first, second) & (first != second))

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Whether the facet next to each point (by the two best planes) is singular, (m,) bool."""
        if self.brenier.sites.shape[0] < 2:
            return torch.zeros(len(points), dtype=torch.bool, device=self.brenier.sites.device)
        _, best = self.brenier.top(points, 2)
        return self.crosses(best[:, 0], best[:, 1])


def find_singularities(
    brenier: BrenierMap,
    max_angle: float | None = None,
    n_points: int | None = None,
    seed: int = 0,
) -> SingularSet:
    """Find the facets across which the map jumps too far to be continuous.

    Args:
        brenier: The map.
        max_angle: Angle in radians above which a facet is singular (the paper: 0.75, or 0.68);
            None: found from the data, in a way that no shift, rotation or scaling changes.
        n_points: Points walked to a facet.
        seed: Which points.

    Returns:
        The singular set.
    """
    if max_angle is not None:
        _check.real("max_angle", max_angle, above=0.0)
    n, d = brenier.sites.shape
    if n_points is None:
        # Three passes over all sites; about half a minute of one processor at the most.
        n_points = int(min(1 << 20, 200 * n, max(1 << 14, 1.5e12 / (n * d))))
    facets = sample_facets(brenier, _check.integer("n_points", n_points), seed=seed)
    rule = _Rule(max_angle, *_scales(brenier.sites))
    i, j = facets.pairs.T
    cut = rule(brenier.sites, i, j)
    components = _components(n, facets.pairs[~cut], brenier.masses)
    return SingularSet(
        brenier,
        facets.pairs[cut],
        facets.angles[cut],
        facets.jumps[cut],
        facets.mass[cut],
        facets,
        components,
        rule,
    )


def _scales(sites: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    n = sites.shape[0]
    labels = torch.zeros(n, dtype=torch.int64, device=sites.device)
    if n < 3:
        return torch.inf, torch.ones(n, dtype=sites.dtype, device=sites.device), labels
    distances, _ = nearest(sites, sites, min(n, 9))
    return 3.0, distances[:, -1], labels


def _components(n: int, pairs: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
    i, j = pairs.cpu().numpy().T
    graph = coo_matrix((np.ones(len(i), np.int8), (i, j)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    share = np.bincount(labels, weights=masses.cpu().numpy())
    rank = np.empty(len(share), np.int64)
    rank[np.argsort(-share, kind="stable")] = np.arange(len(share))
    return torch.from_numpy(rank[labels]).to(masses.device)


def _inside(source: object, points: torch.Tensor) -> torch.Tensor:
    # Facets may go on outside the support, where they are nobody's.
    if hasattr(source, "low") and hasattr(source, "high"):
        low, high = source.low.to(points), source.high.to(points)
        return ((points >= low) & (points <= high)).all(1)
    if hasattr(source, "center") and hasattr(source, "radius"):
        return (points - source.center.to(points)).norm(dim=1) <= source.radius
    return torch.ones(len(points), dtype=torch.bool, device=points.device)


def sample_facets(brenier: BrenierMap, n_points: int, *, seed: int = 0) -> Facets:
    """Find facets by walking from points of the source to the border of their cell.

    A point of cell i walks against the difference of its two best planes until another plane k
    takes over: (i, k) share that border point, so no false pair is reported.

    Args:
        brenier: The map.
        n_points: How many points.
        seed: Which points.

    Returns:
        The facets with their estimated masses.
    """
    sites = brenier.sites
    n = sites.shape[0]
    found, reach = [], []
    block = 8192
    if n > 1:
        for b, start in enumerate(range(0, n_points, block)):
            x = brenier.source.sample(
                min(block, n_points - start), generator=_generator(seed, "facets", b)
            ).to(sites.device)
            pair, distance = _walk(brenier, x)
            found.append(pair)
            reach.append(distance)
    pairs = torch.cat(found) if found else torch.zeros(0, 2, dtype=torch.int64)
    steps = torch.cat(reach) if reach else torch.zeros(0, dtype=torch.float64)
    keys = pairs.amin(1) * n + pairs.amax(1)
    unique, slot = keys.unique(return_inverse=True)
    pairs = torch.stack([unique // n, unique % n], 1)
    # The layer of thickness t along a facet F has mass t mu(F) on each side: a tent of width w
    # over the distances walked, whose integral is w / 2 a side, estimates mu(F).
    mass = torch.zeros(len(unique), dtype=torch.float64, device=sites.device)
    if len(unique):
        width = float(steps.median()) * 2 + 1e-300
        mass.index_add_(0, slot, (1 - steps / width).clamp(min=0))
        mass /= n_points * width
    i, j = pairs.T
    return Facets(pairs, angle(sites, i, j), jump(sites, i, j), mass)


def _walk(brenier: BrenierMap, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sites, heights = brenier.sites.to(torch.float64), brenier.heights
    x = x.to(torch.float64) if brenier.dim <= 3 else x
    _, best = brenier.top(x, 2)
    start = x.to(torch.float64)
    owner, other = best.T
    toward = sites[other] - sites[owner]
    toward = toward / toward.norm(dim=1, keepdim=True).clamp(min=1e-300)

    def gap(rival: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        apart = sites[rival] - sites[owner[rows]]
        lead = heights[owner[rows]] - heights[rival] - (apart * start[rows]).sum(1)
        return lead, (apart * toward[rows]).sum(1)

    active = torch.arange(len(x), device=x.device)
    lead, speed = gap(other, active)
    step = lead.clamp(min=0) / speed
    settled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(12):
        place = start[active] + step[active, None] * toward[active]
        winner = brenier.cell(place.to(x.dtype))
        done = (winner == owner[active]) | (winner == other[active])
        settled[active[done]] = True
        active, winner = active[~done], winner[~done]
        if active.numel() == 0:
            break
        lead, speed = gap(winner, active)
        # Rounding can name a winner that does not overtake; such a point is given up.
        valid = (speed > 0) & (lead < speed * step[active])
        active, winner = active[valid], winner[valid]
        other[active] = winner
        step[active] = (lead[valid] / speed[valid]).clamp(min=0)
    place = start + step[:, None] * toward
    good = settled & _inside(brenier.source, place)
    return torch.stack([owner, other], 1)[good], step[good]
