"""Where the transport map jumps: facets between cells whose sites lie apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_methods, plain_torch
from aeot.geometry.facets import Facets, angle, jump
from aeot.geometry.tessellation import has_geometry
from aeot.maps.brenier import BrenierMap
from aeot.singular import modes
from aeot.singular.facets import find_facets
from aeot.singular.scores import Chances, chances

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (angles, jumps) -> singular


@dataclass(frozen=True)
class Crossings:
    """Where a segment in the source passes from cell to cell.

    Attributes:
        positions: t in (0, 1) along the segment, rising, (k,).
        points: (k, d).
        pairs: The cells left and entered, (k, 2).
        jumps: |y_i - y_j|, (k,).
        singular: Whether the map is broken there, (k,).
    """

    positions: torch.Tensor
    points: torch.Tensor
    pairs: torch.Tensor
    jumps: torch.Tensor
    singular: torch.Tensor


@plain_methods
@dataclass(frozen=True)
class SingularSet:
    """The facets the map breaks across, and the modes that are left when they are cut.

    Attributes:
        brenier: The map.
        pairs: Singular pairs of cells, (k, 2), the smaller index first.
        angles: Angle of the planes' normals, radians, (k,).
        jumps: |y_i - y_j|, (k,).
        mass: mu-surface mass of each singular facet, (k,).
        facets: All facets found, regular and singular.
        components: Connected component of every cell when the singular facets are cut, (n,):
            the modes, numbered by falling mass.
        links: Pairs that may be mixed, (r, 2): regular facets and, for the default rule, near
            codes. The components are those of this graph.
        sheets: With the default rule, whether distances along the data separate pairs of one
            component, too: in few dimensions.
        max_angle: The angle that was asked for, or None.
        criterion: The function that was asked for, or None.
        level: With the default rule and without sheets, the score from which on a pair of one
            component is separated; 1: none is.
        chances: What gives scores to pairs; None: they are learned when asked for.
    """

    brenier: BrenierMap = field(repr=False)
    pairs: torch.Tensor = field(repr=False)
    angles: torch.Tensor = field(repr=False)
    jumps: torch.Tensor = field(repr=False)
    mass: torch.Tensor = field(repr=False)
    facets: Facets = field(repr=False)
    components: torch.Tensor = field(repr=False)
    links: torch.Tensor = field(repr=False)
    sheets: bool
    max_angle: float | None = None
    criterion: Criterion | None = field(default=None, repr=False)
    level: float = 1.0
    chances: Chances | None = field(default=None, repr=False)

    @property
    def scores(self) -> torch.Tensor:
        """Score of every facet found, (k,) float64: `score` of `facets.pairs`."""
        return self._score(*self.facets.pairs.T)

    def score(self, first: ArrayLike, second: ArrayLike) -> torch.Tensor:
        """Return the chance that the middle of two sites lies off the data, of each pair.

        It is estimated from the sites alone: how often, for pairs whose neighbourhoods are as far
        apart, the middle of these is lonelier than 95 % of all neighbourhoods are
        (`aeot.singular.scores`). Pairs that the rule separates by modes or along sheets score 1.
        Shift, rotation and unit of the sites do not matter.

        Args:
            first: Numbers of cells, any shape.
            second: Of the same shape.

        Returns:
            float64 of that shape, in [0, 1].

        Raises:
            ValueError: If they are no numbers of cells, or of different shapes.

        Example:
            >>> import aeot
            >>> sites = torch.randn(60, 12, generator=aeot.generator(0))
            >>> sites[30:, 0] += 40
            >>> brenier = BrenierMap(aeot.UniformBox(dim=12), sites, -(sites**2).sum(1) / 2)
            >>> singular = find_singularities(brenier, n_points=500)
            >>> (singular.score([0, 0], [1, 31]) > 0.5).tolist()
            [False, True]
        """
        n = len(self.brenier.sites)
        cells = []
        for name, value in (("first", first), ("second", second)):
            found = _check.tensor(name, value).to(self.components.device)
            whole = found.dtype in (torch.int32, torch.int64)
            if not whole or (found.numel() and not 0 <= int(found.min()) <= int(found.max()) < n):
                raise _check.fail(name, f"be numbers of {n} cells", _check.shown(value))
            cells.append(found.long())
        if cells[0].shape != cells[1].shape:
            got = f"{tuple(cells[1].shape)} and {tuple(cells[0].shape)}"
            raise _check.fail("second", "have the shape of first", got)
        return self._score(*cells)

    def _score(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        apart = self.components[first] != self.components[second]
        if self.sheets:
            apart = apart | self._unlinked(first, second)
        if len(self.brenier.sites) <= modes.LINKS:
            return (first != second).to(torch.float64)
        return torch.where(apart & (first != second), 1.0, self._chances.of(first, second))

    @cached_property
    def _chances(self) -> Chances:
        if self.chances is not None:
            return self.chances
        codes, engine = self.brenier.sites.detach(), self.brenier.engine
        return chances(codes, self.facets.pairs, seed=0, engine=engine)

    def _unlinked(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        n = len(self.brenier.sites)
        if not len(self.links):
            return torch.ones_like(first, dtype=torch.bool)
        known = self.links[:, 0] * n + self.links[:, 1]  # sorted
        keys = torch.minimum(first, second) * n + torch.maximum(first, second)
        slot = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        return known[slot] != keys

    def __repr__(self) -> str:
        found, modes = len(self.facets.pairs), self.n_components
        told = f"{len(self.pairs)} of {found} facets cut, {modes} mode{'s' * (modes != 1)}"
        return f"SingularSet({told}, {len(self.components)} sites)"

    @property
    def n_components(self) -> int:
        """How many modes."""
        return int(self.components.max()) + 1

    def crosses(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Whether the map separates the cells of each pair.

        Args:
            first: Cells, any shape.
            second: Cells of the same shape.

        Returns:
            bool of that shape: in different components, or separated by the rule.
        """
        sites = self.brenier.sites
        for name, cells in (("first", first), ("second", second)):
            if not torch.is_tensor(cells) or cells.dtype not in (torch.int32, torch.int64):
                got = _check.shown(cells)
                raise _check.fail(name, "be a tensor of whole numbers, as cell returns", got)
        apart = self.components[first] != self.components[second]
        if self.criterion is not None:
            pairs = angle(sites, first, second), jump(sites, first, second)
            broken = ruled(self.criterion, *pairs)
        elif self.max_angle is not None:
            broken = angle(sites, first, second) > self.max_angle
        elif self.sheets:
            broken = self._unlinked(first, second)
        elif self.level < 1:
            broken = self._chances.of(first, second) >= self.level
        else:
            return apart
        return apart | (broken & (first != second))

    def contains(self, points: ArrayLike) -> torch.Tensor:
        """Whether the facet next to each point (of its two best planes) is singular, (m,) bool."""
        points = _check.points("points", points, dim=self.brenier.dim, min_rows=0)
        if self.brenier.sites.shape[0] < 2:
            return torch.zeros(len(points), dtype=torch.bool, device=self.brenier.sites.device)
        _, best = self.brenier.top(points, 2)
        return self.crosses(best[:, 0], best[:, 1])

    def distance(self, points: ArrayLike) -> torch.Tensor:
        """Return how far each point is from the singular set, at least, (m,).

        It is the least (s_i - s_j) / |y_i - y_j| over the cells j that the map separates from the
        point's own cell i: the distance to the plane that carries the facet. It never exceeds the
        distance to a separated cell, and equals it where the foot of the perpendicular lies on
        the facet. Infinite where nothing is separated.

        Args:
            points: (m, d), in the source.

        Returns:
            (m,) in the dtype of the points.
        """
        sites, heights = self.brenier.sites.to(torch.float64), self.brenier.heights
        points = _check.points("points", points, dim=self.brenier.dim, min_rows=0)
        owner = self.brenier.cell(points)
        rows = max(1, (1 << 21) // sites.shape[0])
        every = torch.arange(sites.shape[0], device=sites.device)
        out = []
        for x, own in zip(points.to(torch.float64).split(rows), owner.split(rows), strict=True):
            planes = x @ sites.T + heights
            gap = (planes.gather(1, own[:, None]) - planes).clamp(min=0)
            apart = self.crosses(own[:, None].expand_as(planes), every.expand_as(planes))
            steps = torch.where(apart, gap / torch.cdist(sites[own], sites), torch.inf)
            out.append(steps.amin(1))
        return torch.cat(out).to(points.dtype) if out else points[:, 0]

    def crossings(self, start: ArrayLike, end: ArrayLike) -> Crossings:
        """Return every facet that the segment from `start` to `end` passes, exactly.

        Along a segment each plane is a line and the potential their upper envelope; its corners
        are the crossings.

        Args:
            start: (d,), in the source.
            end: (d,).

        Returns:
            All crossings in order; those with ``singular`` break the map.
        """
        sites, heights = self.brenier.sites.to(torch.float64), self.brenier.heights
        given = []
        for name, value in (("start", start), ("end", end)):
            point = _check.array(name, value)
            if point.shape != (self.brenier.dim,):
                must = f"have shape ({self.brenier.dim},)"
                raise _check.fail(name, must, f"shape {tuple(point.shape)}")
            given.append(point.to(sites))
        ends = torch.stack(given)
        level = sites @ ends[0] + heights
        slope = sites @ (ends[1] - ends[0])
        here = int(level.argmax())
        at, pairs = 0.0, []
        positions = []
        while True:
            faster = slope > slope[here]
            meet = torch.where(faster, (level[here] - level) / (slope - slope[here]), torch.inf)
            meet = meet.clamp(min=at)
            at = float(meet.min())
            if not at < 1:
                break
            # Of planes that meet at once the steepest goes on.
            tied = (meet <= at) & faster
            after = int(torch.where(tied, slope, -torch.inf).argmax())
            positions.append(at)
            pairs.append((here, after))
            here = after
        t = torch.tensor(positions, dtype=torch.float64, device=sites.device)
        cells = torch.tensor(pairs, dtype=torch.int64, device=sites.device).reshape(-1, 2)
        points = ends[0] + t[:, None] * (ends[1] - ends[0])
        i, j = cells.T
        return Crossings(t, points, cells, jump(sites, i, j), self.crosses(i, j))

    def path(self, first: int, last: int) -> torch.Tensor:
        """Return cells from `first` to `last`, each the regular neighbour of the one before.

        Interpolating between the sites of consecutive cells stays inside one mode. The path is
        the shortest in squared jumps over the chance that their middles lie on the data, so it
        prefers many small steps, and goes round what separates groups of codes.

        Args:
            first: A cell.
            last: A cell of the same component.

        Returns:
            (k,) int64, both ends included.

        Raises:
            ValueError: If the two lie in different components.
        """
        n = self.brenier.sites.shape[0]
        first = _check.integer("first", first, minimum=0, maximum=n - 1)
        last = _check.integer("last", last, minimum=0, maximum=n - 1)
        if bool(self.components[first] != self.components[last]):
            got = f"cells {first} and {last} in modes {int(self.components[first])} and "
            got += str(int(self.components[last]))
            way_out = "choose both where singular.components is the same, or cut less"
            raise _check.fail("first and last", "lie in one component", got, way_out)
        i, j = self.links.T
        length = jump(self.brenier.sites, i, j).square().clamp(min=1e-30)
        if self.level < 1:
            length = length / (1 - self._chances.of(i, j)).clamp(min=1e-6)
        graph = csr_matrix((length.cpu().numpy(), self.links.T.cpu().numpy()), shape=(n, n))
        _, before = dijkstra(graph, directed=False, indices=first, return_predecessors=True)
        path = [last]
        while path[-1] != first:
            path.append(int(before[path[-1]]))
        return torch.tensor(path[::-1], device=self.links.device)


@plain_torch()
def find_singularities(
    brenier: BrenierMap,
    max_angle: float | str | Criterion | None = None,
    n_points: int | None = None,
    seed: int = 0,
    *,
    level: float | None = None,
) -> SingularSet:
    """Find the facets across which the map jumps too far to be continuous.

    The default rule is found from the data and has no scale: sites belong together when they can
    be reached over links between near sites, near in units of the local spacing; facets between
    different components are singular. Inside a component, so are those whose middle lies off the
    data with a chance of at least `level`; in intrinsic dimension up to 4 those whose sites lie
    far apart along the data though near in space (the turns of a roll) are instead.
    With fewer than nine sites there is no spacing to compare with, and every facet is singular.

    Args:
        brenier: The map.
        max_angle: Angle between the normals (y, -1) of two planes, in radians and in the caller's
            units, above which their facet is singular (the paper: 0.75, for CIFAR-10 0.68); a share
            of the facets found that has smaller angles, such as "90%"; or a function of (angles,
            jumps) that returns a mask; None: the default rule.
        n_points: Points walked to a facet; None: exact geometry in 2-D and 3-D where the source
            has it, else 200 per cell, fewer for many sites in many dimensions.
        seed: Which points.
        level: Of the default rule, in (0, 1]: the least score (`SingularSet.score`) of a singular
            facet inside a component. 1: cuts run between components only, as before 0.3. None:
            0.5. Not beside `max_angle`, which is another rule.

    Returns:
        The singular set.

    Raises:
        ValueError: For an angle that is not positive, a bad number of points or a bad level, or
            both rules at once.

    References:
        N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020),
        section 4 (the angle rule); `aeot.singular.modes` has the default rule.

    Example:
        >>> import aeot
        >>> sites = torch.tensor([[0.0, 0.5], [1.0, 0.5]])  # two points: a cut at x = 0.3
        >>> brenier = BrenierMap(aeot.UniformBox(dim=2), sites, torch.tensor([0.15, -0.15]))
        >>> singular = find_singularities(brenier)
        >>> singular.pairs, singular.mass
        (tensor([[0, 1]]), tensor([1.], dtype=torch.float64))
        >>> singular.crossings(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5])).positions
        tensor([0.3000], dtype=torch.float64)
    """
    if not isinstance(brenier, BrenierMap):
        way_out = "solve_semidiscrete(...).map() makes one"
        raise _check.fail("brenier", "be a BrenierMap", _check.shown(brenier), way_out)
    seed = _check.seed("seed", seed)
    criterion, angle, share = None, None, None
    if max_angle is not None:
        found = check_angle("max_angle", max_angle)
        if callable(found):
            criterion = found
        elif isinstance(found, str):
            share = float(found[:-1]) / 100
        else:
            angle = found
        way_out = "max_angle cuts by an angle, level by a chance; choose one"
        _check.unused("beside max_angle", way_out, level=(level, None))
    level = _check.real("level", 0.5 if level is None else level, above=0.0, maximum=1.0)
    n = brenier.sites.shape[0]
    known, labels = None, None
    exact = n_points is None and has_geometry(brenier.source)
    if n > modes.LINKS and not (max_angle is not None and exact):
        known = modes.links(brenier.sites.detach(), engine=brenier.engine)
        labels = modes.modes(known[0], brenier.masses.cpu().numpy())
    facets = find_facets(brenier, n_points, labels=labels, seed=seed)
    i, j = facets.pairs.T
    if share is not None:
        angle = float(facets.angles.quantile(share)) if len(i) else 1.0
    sheets, learned = False, None
    if criterion is not None:
        cut = ruled(criterion, facets.angles, facets.jumps)
        links = facets.pairs[~cut]
    elif angle is not None:
        cut = facets.angles > angle
        links = facets.pairs[~cut]
    else:
        cut, links, sheets = _default(facets, n, known, labels)
        if labels is not None and not sheets and level < 1:
            codes, engine = brenier.sites.detach(), brenier.engine
            learned = chances(codes, facets.pairs, seed=seed, engine=engine)
            cut |= learned.of(*facets.pairs.T) >= level
    labels = modes.modes(_graph(links, n), brenier.masses.cpu().numpy())
    components = torch.from_numpy(labels).to(brenier.sites.device)
    links = links[(links[:, 0] * n + links[:, 1]).argsort()]
    return SingularSet(
        brenier,
        *(facets.pairs[cut], facets.angles[cut], facets.jumps[cut], facets.mass[cut]),
        facets,
        components,
        links,
        sheets,
        angle,
        criterion,
        level=1.0 if learned is None else level,
        chances=learned,
    )


def check_angle(name: str, value: Any) -> float | str | Criterion:  # noqa: ANN401
    """Return an angle in radians > 0, a share of the facets such as "90%", or a function."""
    if callable(value):
        return value
    if not isinstance(value, str):
        return _check.real(name, value, above=0.0)
    way_out = "write a share of the facets as '90%', or an angle in radians as a number"
    if not re.fullmatch(r"[0-9]{1,2}([.][0-9]{1,9})?%", value) or not float(value[:-1]) > 0:
        must = "be an angle, or a share between 0% and 100%"
        raise _check.fail(name, must, _check.shown(value), way_out)
    return value


def ruled(criterion: Criterion, angles: torch.Tensor, jumps: torch.Tensor) -> torch.Tensor:
    """Return what a function says of pairs of cells, a bool for each."""
    cut = _check.array("max_angle(angles, jumps)", criterion(angles, jumps)) > 0
    if cut.shape != angles.shape:
        got = f"shape {tuple(cut.shape)}"
        raise _check.fail("max_angle(angles, jumps)", f"have shape {tuple(angles.shape)}", got)
    return cut.to(angles.device)


def _graph(links: torch.Tensor, n: int) -> csr_matrix:
    return csr_matrix((np.ones(len(links)), links.T.cpu().numpy()), shape=(n, n))


def _default(
    facets: Facets,
    n: int,
    known: tuple[csr_matrix, float] | None,
    labels: np.ndarray | None,
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    # Which facets are singular, which pairs are linked, and whether sheets were looked for.
    if known is None or labels is None:
        return torch.ones_like(facets.jumps, dtype=torch.bool), facets.pairs[:0], False
    (graph, dimension), device = known, facets.pairs.device
    pairs, jumps = facets.pairs.cpu().numpy(), facets.jumps.cpu().numpy()
    cut = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    sheets = modes.resolves_sheets(dimension)
    if sheets:
        inside = np.flatnonzero(~cut)
        cut[inside] = modes.detours(graph, pairs[inside], jumps[inside])
        near = modes.close(graph)
    else:
        i, j = graph.nonzero()
        near = np.stack([i[i < j], j[i < j]], 1)
    keys = np.union1d(pairs[~cut] @ [n, 1], near.astype(np.int64) @ [n, 1])
    links = torch.from_numpy(np.stack([keys // n, keys % n], 1)).to(device)
    return torch.from_numpy(cut).to(device), links, sheets
