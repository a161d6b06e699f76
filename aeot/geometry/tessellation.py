"""The engine behind power diagrams: supports, candidates and certified cells.

Everything here lives in centred coordinates: x - center for the source, y - mean for the sites,
where the heights are h_i + <center, y_i - mean>. A `Tessellation` keeps the neighbours it found,
because the next heights of a solver rarely change them much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import ConvexHull, cKDTree

from aeot import _check, _loop
from aeot.geometry import neighbours
from aeot.geometry.pixels import tabulate
from aeot.geometry.plane import (
    DISK,
    GRID,
    PARTS,
    UNIFORM,
    Planes,
    Region,
    chord,
    plane_cells,
    plane_neighbours,
    plane_polygons,
    touching,
)
from aeot.geometry.space import space_cells, space_neighbours, space_polygons
from aeot.measures import ConvexPolygon, GridDensity, Measure, Polygon, UniformBall, UniformBox

_ALL_PAIRS = 40  # below this many sites everyone is tried against everyone
_LARGEST_COMPLETE = 20_000  # the last resort clips n**2 times
_MANY = 20_000  # bodies in space whose first neighbours are found sooner by walks than by Qhull
_GUESSES = 3  # walks for neighbours before Qhull is asked
_WILD = 8  # diagrams that Qhull makes after walks have failed


@dataclass(frozen=True)
class Support:
    """A source measure with exact geometry, in coordinates centred on it.

    Attributes:
        dim: 1, 2 or 3.
        center: (dim,), in the caller's coordinates.
        half: The support lies in the box |x_k| <= half_k (dim,).
        kind: What is integrated: UNIFORM, DISK, GRID or PARTS.
        radius: Of a disk or ball, else 0.
        density: Mass per volume of the uniform measures.
        polygon: Vertices of the support's convex hull, or of the square around a disk, (p, 2) in
            the plane.
        normals: The support is <normal, x> <= offset over all rows, but for a disk or ball.
        offsets: (p,).
        grid: (coefficients, table, low, step) of a gridded density.
        triangles: What a polygon with dents is made of (k, 3, 2).
    """

    dim: int
    center: np.ndarray
    half: np.ndarray
    kind: int
    radius: float
    density: float
    polygon: np.ndarray
    normals: np.ndarray
    offsets: np.ndarray
    grid: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    triangles: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 2)))

    @cached_property
    def region(self) -> Region:
        """What the kernels of the plane take."""
        shape = self.polygon, self.kind, self.radius, self.density, self.triangles
        return Region(*shape, *self.grid)

    @property
    def uneven(self) -> bool:
        """Whether cells may have area without mass, so that areas are asked for as well."""
        return self.kind in (GRID, PARTS)

    @cached_property
    def area(self) -> float:
        """Area of the polygon."""
        x, y = (self.polygon - self.polygon[0]).T
        return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2

    @cached_property
    def vanishes(self) -> bool:
        """Whether the density is nearly zero somewhere in the polygon: below 1 % of its mean."""
        c = self.grid[0]
        if self.kind != GRID:
            return self.kind == PARTS
        corners = c[..., 0], c[..., 0] + c[..., 1], c[..., 0] + c[..., 2], c.sum(axis=-1)
        return min(float(v.min()) for v in corners) < 1e-2 / self.area

    def quantile(self, axis: int) -> Callable[[np.ndarray], np.ndarray]:
        """The quantile function of the source's marginal on one axis (of its box if uniform)."""
        half = self.half[axis]
        if self.kind != GRID:
            return lambda share: half * (2 * share - 1)
        means = self.grid[0] @ np.array([1, 0.5, 0.5, 0.25])
        marginal = means.sum(axis=axis)  # rows run along the second coordinate
        # A little of the uniform measure keeps the function increasing where nothing is.
        marginal = 0.99 * marginal / marginal.sum() + 0.01 / len(marginal)
        edges = np.linspace(-half, half, len(marginal) + 1)
        return lambda share: np.interp(share, np.r_[0.0, np.cumsum(marginal)], edges)


_NO_GRID = (np.zeros((0, 0, 4)), np.zeros((0, 0, 3, 2)), np.zeros(2), np.ones(2))


def _rectangle(half: np.ndarray) -> np.ndarray:
    return half * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def has_geometry(source: Measure) -> bool:
    """Whether `support` can describe this source exactly."""
    planar = isinstance(source, (Polygon, GridDensity))
    return planar or (isinstance(source, (UniformBox, UniformBall)) and source.dim <= 3)


def support(source: Measure) -> Support:
    """Describe a source by its exact geometry.

    Raises:
        ValueError: If the source has none.
    """
    if not has_geometry(source):
        raise _check.fail(
            "source",
            "be a UniformBox or UniformBall with dim <= 3, a Polygon or a GridDensity",
            _check.shown(source),
            "solve_semidiscrete takes any source",
        )
    d, polygon, grid, kind, radius = source.dim, np.zeros((0, 2)), _NO_GRID, UNIFORM, 0.0
    assert isinstance(source, (UniformBox, UniformBall, Polygon, GridDensity))
    center = source.mean.detach().cpu().to(torch.float64).numpy()
    if isinstance(source, Polygon):
        polygon = source.vertices.cpu().numpy() - center
        half, parts = np.abs(polygon).max(axis=0), np.zeros((0, 3, 2))
        if not isinstance(source, ConvexPolygon):
            hull, kind = polygon[ConvexHull(polygon).vertices], PARTS
            polygon, parts = hull, source.triangles.cpu().numpy() - center
        edges = np.roll(polygon, -1, axis=0) - polygon
        edges, polygon = edges[np.any(edges != 0, axis=1)], polygon[np.any(edges != 0, axis=1)]
        normals = np.c_[edges[:, 1], -edges[:, 0]]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        offsets = (normals * polygon).sum(axis=1)
        shape = polygon, normals, offsets, grid, parts
        return Support(d, center, half, kind, 0.0, 1 / source.area, *shape)
    if isinstance(source, UniformBall):
        radius = source.radius
        half = np.full(d, radius)
        _check_size(half)
        volume = math.pi ** (d / 2) / math.gamma(d / 2 + 1) * radius**d
        kind = DISK if d > 1 else UNIFORM
    else:
        low, high = (v.cpu().to(torch.float64).numpy() for v in (source.low, source.high))
        center, half = (low + high) / 2, (high - low) / 2
        _check_size(half)
        volume = float(np.prod(high - low))
    if isinstance(source, GridDensity):
        coefficients = np.ascontiguousarray(source.coefficients.cpu().numpy())
        step = source.step.cpu().numpy()
        grid = (coefficients, tabulate(coefficients, -half, step), -half, step)
        kind = GRID
    if d == 2:
        polygon = _rectangle(half)
    normals = np.r_[np.eye(d), -np.eye(d)]
    return Support(
        d, center, half, kind, radius, 1 / volume, polygon, normals, np.r_[half, half], grid
    )


def _check_size(half: np.ndarray) -> None:
    # Second moments are fourth powers of lengths in the plane, fifth powers in space; on the line
    # nothing is multiplied, but below 1e-300 numbers lose their digits.
    least, most = ("1e-300", "1e300") if len(half) == 1 else ("1e-50", "1e50")
    if 2 * half.min() < float(least) or 2 * half.max() > float(most):
        got = f"{2 * half.min():g} to {2 * half.max():g}"
        way_out = "divide source and sites by a common length"
        raise _check.fail("source", f"have sides from {least} to {most}", got, way_out)


@dataclass(frozen=True)
class Cells:
    """What a tessellation says of one vector of heights, in centred coordinates.

    Attributes:
        masses: (n,).
        centroids: (n, d); zero for an empty cell.
        covariances: (n, d, d), of the source inside each cell.
        rows: Facets, each once: the lower site (k,).
        columns: The higher site (k,).
        measures: Mass of each facet (k,).
        areas: Of each cell, as a share of the support's polygon (n,), where the support is
            uneven; else (0,).
        lengths: Of each facet, for no measure but that area (k,), or (0,).
        graph: The candidates that the cells were clipped by.
        slots: Where each facet stands in the graph (k,).
        ends: End points of each facet (k, 4) in the plane if asked for, else (0, 4).
    """

    masses: np.ndarray
    centroids: np.ndarray
    covariances: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    measures: np.ndarray
    areas: np.ndarray
    lengths: np.ndarray
    graph: neighbours.Graph
    slots: np.ndarray
    ends: np.ndarray


class Tessellation:
    """Power cells of fixed sites over a fixed support, for one vector of heights after another.

    Args:
        where: The support.
        sites: (n, d), float64, centred.
    """

    def __init__(self, where: Support, sites: np.ndarray) -> None:
        self.support = where
        self.sites = np.ascontiguousarray(sites)
        self.last: neighbours.Graph | None = None  # the facets of the last complete diagram
        self.wild = 0  # for so many diagrams more, the last one's facets are no good start
        self.count = {"diagrams": 0, "hulls": 0, "repairs": 0}

    def _clipped(
        self, heights: np.ndarray, graph: neighbours.Graph, region: Region, ends: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        n, d = self.sites.shape
        where = self.support
        moments = np.zeros((n, 6 if d == 2 else 10))
        measures = np.zeros(len(graph[1]))
        edges = np.zeros((len(graph[1]) if ends and d == 2 else 0, 4))
        evenly = np.zeros(0), np.zeros(0)
        if where.uneven:
            evenly = np.zeros(n), np.zeros(len(graph[1]))
        planes = Planes(self.sites, heights, *graph)
        box = (where.half, where.radius, where.density)
        _loop.beat()

        def part(span: tuple[int, int]) -> None:
            if d == 2:
                plane_cells(span, planes, region, moments, (measures, edges), evenly)
            else:
                space_cells(span, planes, box, moments, measures)

        self._for_spans(part)
        if where.uneven:
            for values in evenly:
                values /= where.area
        return moments, measures, edges, evenly

    def _for_spans(self, part: Callable[[tuple[int, int]], Any]) -> list[Any]:
        """Call a function of a range of sites for all sites, in threads; its results in order."""
        n = len(self.sites)
        threads = torch.get_num_threads() if n >= 2000 else 1
        bounds = np.linspace(0, n, 4 * threads + 1 if threads > 1 else 2).astype(int).tolist()
        blocks = list(zip(bounds[:-1], bounds[1:], strict=True))
        if threads == 1:
            return [part(blocks[0])]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(part, blocks))

    def _walked(self, heights: np.ndarray, graph: neighbours.Graph) -> neighbours.Graph:
        """Candidates found by walks from the corners of the cells that a graph's clip."""
        n, d = self.sites.shape
        where, planes = self.support, Planes(self.sites, heights, *graph)
        size = float((np.abs(self.sites) @ where.half).max() + np.abs(heights).max())
        slack = 1e-14 * size

        def part(span: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            if d == 2:
                return plane_neighbours(span, planes, where.polygon, slack)
            return space_neighbours(span, planes, where.half, slack)

        parts = self._for_spans(part)
        counts = np.concatenate([counts for counts, _ in parts])
        return np.r_[0, np.cumsum(counts)], np.concatenate([found for _, found in parts])

    def _suspects(self, graph: neighbours.Graph, measures: np.ndarray) -> np.ndarray:
        """Sites whose facets look different from the other side."""
        n = len(self.sites)
        matrix = sp.csr_matrix((measures, graph[1], graph[0]), shape=(n, n))
        gap = abs(matrix - matrix.T).max(axis=1).toarray().ravel()
        return np.flatnonzero(gap > 1e-9 * max(float(measures.max(initial=0.0)), 1e-300))

    def __call__(
        self, heights: np.ndarray, *, ends: bool = False, floor: float | None = None
    ) -> Cells:
        """Clip all cells.

        Cells clipped by some of the sites contain the true ones, so their masses sum to one only
        if all of them are right: that is checked, and candidates are added until it holds. Where
        some of the support may be without mass, their areas are.

        Args:
            heights: (n,), centred.
            ends: Whether to return the end points of the facets (plane only).
            floor: Stop at once, with masses that are only upper bounds, if some cell has less. Of
                a density that vanishes: give areas for masses if some cell has no more area.

        Raises:
            RuntimeError: If the cells cannot be made to fill the support.
        """
        n, d = self.sites.shape
        heights = np.ascontiguousarray(heights, dtype=np.float64)
        if d == 1:
            return self._line(heights)
        self.count["diagrams"] += 1
        tried = guesses = 0
        if n <= _ALL_PAIRS:
            graph = neighbours.complete(n)
        elif not self.wild and (self.last is not None or (d == 3 and n >= _MANY)):
            start = neighbours.near(self.sites) if self.last is None else self.last
            graph, guesses = self._walked(heights, start), 1
        else:
            graph = self._hull(heights)
            self.wild = max(self.wild - 1, 0)
        region = self.support.region
        # Areas alone are cheaper where edges cross many pixels and first graphs are often wrong.
        proving = region._replace(kind=UNIFORM) if self.support.vanishes else region
        while True:
            moments, measures, edges, (areas, lengths) = self._clipped(
                heights, graph, proving, ends
            )
            sizes, seen = (areas, lengths) if self.support.uneven else (moments[:, 0], measures)
            excess = sizes.sum() - 1
            if abs(excess) <= 1e-12:
                break
            if floor is not None and not self.support.vanishes and sizes.min() < floor:
                break
            if 0 < guesses < _GUESSES:
                rows = np.repeat(np.arange(n), np.diff(graph[0]))
                graph = self._walked(heights, neighbours.joined(graph, rows, graph[1]))
                guesses += 1
            elif guesses:
                graph, guesses, self.wild = self._hull(heights), 0, _WILD
            else:
                graph = self._repaired(graph, seen, tried, excess)
                tried += 1
        rows = np.repeat(np.arange(n), np.diff(graph[0]))
        if self.support.vanishes and not (floor is not None and areas.min() <= floor):
            moments, measures, edges, (areas, lengths) = self._clipped(heights, graph, region, ends)
        if abs(excess) <= 1e-12:
            # Empty cells keep those that emptied them: walks begin there.
            self.last = neighbours.thinned(graph, (seen > 0) | (sizes[rows] <= 0))
        keep = np.flatnonzero((seen > 0) & (rows < graph[1]))
        cells = self._gather(moments, rows[keep], graph[1][keep], measures[keep], graph, keep)
        if self.support.uneven:
            cells = replace(cells, areas=areas, lengths=lengths[keep])
        if ends and d == 2:
            cells = replace(cells, ends=edges[keep])
        return cells

    def _repaired(
        self, graph: neighbours.Graph, measures: np.ndarray, tried: int, excess: float
    ) -> neighbours.Graph:
        """More candidates for the sites whose facets do not match: first near ones, then all."""
        n = len(self.sites)
        self.count["repairs"] += 1
        suspects = self._suspects(graph, measures)
        if len(suspects) == 0 or tried > 10 or len(graph[1]) == n * (n - 1):
            got = f"power cells that overlap by {excess:.3g} of the source"
            way_out = "merge near-duplicates and add their masses"
            raise _check.fail("sites", "be far enough apart for float64", got, way_out)
        rows = np.repeat(np.arange(n), np.diff(graph[0]))
        graph = neighbours.joined(graph, rows[measures > 0], graph[1][measures > 0])
        if tried > 4 and len(suspects) * n <= _LARGEST_COMPLETE**2:
            return neighbours.widened(graph, suspects, None)
        return neighbours.widened(graph, suspects, graph)

    def _hull(self, heights: np.ndarray) -> neighbours.Graph:
        self.count["hulls"] += 1
        graph = neighbours.envelope(self.sites, heights, self.support.half)
        return neighbours.complete(len(heights)) if graph is None else graph

    def _gather(self, moments, rows, columns, measures, graph, slots) -> Cells:  # noqa: ANN001
        n, d = self.sites.shape
        covariances = np.empty((n, d, d))
        upper = np.triu_indices(d)
        covariances[:, upper[0], upper[1]] = moments[:, 1 + d :]
        covariances[:, upper[1], upper[0]] = moments[:, 1 + d :]
        return Cells(
            moments[:, 0].copy(),
            moments[:, 1 : 1 + d].copy(),
            covariances,
            rows,
            columns,
            measures,
            np.zeros(0),
            np.zeros(0),
            graph,
            slots,
            np.zeros((0, 4)),
        )

    def _line(self, heights: np.ndarray) -> Cells:
        n = len(heights)
        y, half, density = self.sites[:, 0], self.support.half[0], self.support.density
        order, breaks = neighbours.line_envelope(y, heights)
        ends = np.clip(np.r_[-half, breaks, half], -half, half)
        left, right = ends[:-1], ends[1:]
        moments = np.zeros((n, 3))
        moments[order, 0] = density * (right - left)
        moments[order, 1] = (left + right) / 2
        moments[order, 2] = (right - left) ** 2 / 12
        inside = (breaks > -half) & (breaks < half)
        a, b = order[:-1][inside], order[1:][inside]
        graph = neighbours.joined((np.zeros(n + 1, np.int64), np.zeros(0, np.int64)), a, b)
        slots = np.zeros(0, dtype=np.int64)
        low, high = np.minimum(a, b), np.maximum(a, b)
        cells = self._gather(moments, low, high, np.full(len(a), density), graph, slots)
        return replace(cells, ends=breaks[inside][:, None])

    def _corners(
        self, heights: np.ndarray, graph: neighbours.Graph
    ) -> tuple[np.ndarray, np.ndarray]:
        n = len(heights)
        offsets = np.zeros(n + 1, dtype=np.int64)
        points = np.empty((len(graph[1]) + 4 * n + len(self.support.polygon) * n + 8, 2))
        plane_polygons(Planes(self.sites, heights, *graph), self.support.polygon, offsets, points)
        return offsets, points

    def touching(self, heights: np.ndarray, cells: Cells) -> np.ndarray:
        """Heights (n,) with every empty cell's plane raised until it touches the others' envelope.

        Args:
            heights: (n,), centred.
            cells: Theirs, over an uneven support.
        """
        n = len(heights)
        empty = cells.areas <= 0
        filled = np.flatnonzero(~empty)
        near = np.full(n, -1)
        near[empty] = filled[cKDTree(self.sites[filled]).query(self.sites[empty])[1]]
        raised = np.array(heights, dtype=np.float64)
        met = neighbours.from_pairs(
            np.r_[cells.rows, cells.columns], np.r_[cells.columns, cells.rows], n
        )
        corners = self._corners(raised, cells.graph)
        touching(Planes(self.sites, raised.copy(), *met), corners, near, raised)
        return raised

    def corners(self, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners of every cell clipped to the support's polygon: offsets (n + 1,) and (k, 2)."""
        heights = np.ascontiguousarray(heights, dtype=np.float64)
        self.last = None  # neighbours that meet outside a disk count too, or its cells do not fit
        offsets, points = self._corners(heights, self(heights).graph)
        return offsets, points[: offsets[-1]]

    def polygons(self, heights: np.ndarray) -> list[np.ndarray]:
        """Corners of every cell (m_i, 2), counter-clockwise; arcs as many short edges."""
        offsets, points = self.corners(heights)
        cells = np.split(points, offsets[1:-1])
        if self.support.kind == DISK:
            cells = [_rounded(cell, self.support.radius) for cell in cells]
        return cells

    def facet_polygons(self, heights: np.ndarray) -> list[np.ndarray]:
        """Corners of every facet in space (m, 3), in order; of a ball, as of the box around it."""
        heights = np.ascontiguousarray(heights, dtype=np.float64)
        self.last = None  # neighbours that meet outside a ball count too, or its cells do not fit
        cells = self(heights)
        wanted = np.zeros(len(cells.graph[1]), dtype=bool)
        wanted[cells.slots] = True
        sizes = np.zeros(len(wanted), dtype=np.int64)
        corners = np.empty((16 * len(cells.slots) + 16, 3))
        planes = Planes(self.sites, heights, *cells.graph)
        arguments = (planes, self.support.half, wanted, sizes)
        total = space_polygons(*arguments, corners)
        if total > len(corners):
            corners = np.empty((total, 3))
            space_polygons(*arguments, corners)
        return np.split(corners[:total], np.cumsum(sizes[cells.slots])[:-1])


def _rounded(corners: np.ndarray, radius: float) -> np.ndarray:
    """Clip a convex polygon to the disk about the origin; arcs are edges of at most 1.5 degrees."""
    if len(corners) == 0 or (np.hypot(*corners.T) <= radius).all():
        return corners
    pieces = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        start, stop = chord(a[0], a[1], b[0], b[1], radius)
        if start < stop:
            pieces.append((a + start * (b - a), a + stop * (b - a)))
    if not pieces:  # the whole disk or nothing of it
        heading = np.unwrap(np.arctan2(corners[:, 1], corners[:, 0])[[*range(len(corners)), 0]])
        pieces = [(np.array([radius, 0.0]),) * 2] if heading[-1] - heading[0] > 3 else []
    out = []
    for k, (a, b) in enumerate(pieces):
        after = pieces[(k + 1) % len(pieces)][0]
        out += [a] if np.array_equal(a, b) else [a, b]
        first, last = np.arctan2(b[1], b[0]), np.arctan2(after[1], after[0])
        turn = (last - first) % (2 * np.pi)
        whole = len(pieces) == 1 and np.array_equal(a, b)
        if whole or np.hypot(*(after - b)) > 1e-12 * radius:
            turn = 2 * np.pi if whole else turn
            steps = int(np.ceil(turn / np.deg2rad(1.5)))
            angles = first + turn * np.arange(1, steps) / max(steps, 1)
            out += list(radius * np.c_[np.cos(angles), np.sin(angles)])
    return np.array(out).reshape(-1, 2)
