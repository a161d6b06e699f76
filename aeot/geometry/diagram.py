"""Exact power diagrams in one, two and three dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.spatial import ConvexHull, QhullError

from aeot import _check
from aeot._environment import plain_methods, plain_torch
from aeot.geometry.facets import Facets
from aeot.geometry.neighbours import Graph, line_envelope
from aeot.geometry.tessellation import Tessellation, support
from aeot.measures import Measure
from aeot.search import heights as conversions


@plain_methods
@dataclass(frozen=True)
class PowerDiagram:
    """Power cells clipped to the support of a source.

    Attributes:
        source: The source measure mu.
        sites: (n, d), float64.
        heights: (n,), float64, as given.
        masses: mu of each cell (n,); they sum to one.
        centroids: Mean of mu inside each cell (n, d); zero for an empty cell.
        second_moments: Central second moments, the mean of (x - c_i)(x - c_i)^T over the cell
            (n, d, d).
        facets: See `Facets`; they have the map's jumps and angles.

    Its properties need nothing else: the map's cost, the dual value, the weighted Delaunay
    triangulation and the Legendre dual.
    """

    source: Measure
    sites: torch.Tensor
    heights: torch.Tensor
    masses: torch.Tensor
    centroids: torch.Tensor
    second_moments: torch.Tensor
    facets: Facets

    _engine: Tessellation = field(repr=False, compare=False)

    @property
    def jumps(self) -> torch.Tensor:
        """Length of the map's jump across each facet (k,)."""
        return self.facets.jumps

    @property
    def angles(self) -> torch.Tensor:
        """Angle at each facet between the normals of its two planes, radians (k,)."""
        return self.facets.angles

    @cached_property
    def hessian(self) -> scipy.sparse.csr_matrix:
        """Second derivatives of the energy in the heights: a sparse Laplacian (n, n)."""
        i, j = self.facets.pairs.T.numpy()
        return laplacian(i, j, (self.facets.mass / self.facets.jumps).numpy(), len(self.masses))

    @property
    def cost(self) -> float:
        """Transport cost of the map: the integral of |x - y_i|^2 / 2 over all cells."""
        spread = self.second_moments.diagonal(dim1=1, dim2=2).sum(1)
        square = (self.centroids - self.sites).square().sum(1)
        return float((self.masses * (square + spread)).sum() / 2)

    def semidual(self, masses: Any = None) -> float:  # noqa: ANN401 - array-like
        """Dual value of the heights for target masses (n,), the cells' own by default.

        It never exceeds the cost of transporting the source onto those masses.
        """
        nu = self.masses if masses is None else _check.masses(masses, len(self.sites))
        dual = conversions.dual_from_heights(self.heights, self.sites)
        return self.cost + float(dual @ (nu - self.masses))

    def duality_gap(self, masses: Any = None) -> float:  # noqa: ANN401 - array-like
        """Cost of the map minus the dual value for target masses (n,).

        Zero where the masses are met. Elsewhere it has either sign and proves nothing: certify a
        solution by its mass error.
        """
        return self.cost - self.semidual(masses)

    @property
    def w2(self) -> float:
        """2-Wasserstein distance (cost |x - y|^2) of the source to the sites with cell masses."""
        return math.sqrt(2 * self.cost)

    @cached_property
    def polygons(self) -> list[torch.Tensor]:
        """Corners of each cell, counter-clockwise, a list of n tensors (m_i, 2); plane only.

        Empty cells have none. The arcs of a disk are drawn as edges of at most 1.5 degrees.
        """
        self._only(2, "polygons")
        center = torch.from_numpy(self._engine.support.center)
        return [torch.from_numpy(c) + center for c in self._engine.polygons(self._centred())]

    @cached_property
    def facet_polygons(self) -> list[torch.Tensor]:
        """Corners of each facet in order, a list of k tensors (m, 3); space only.

        For a ball these are the facets before its surface clips them.
        """
        self._only(3, "facet_polygons")
        center = torch.from_numpy(self._engine.support.center)
        return [torch.from_numpy(c) + center for c in self._engine.facet_polygons(self._centred())]

    def displaced(self, t: float) -> list[torch.Tensor]:
        """Cells under displacement interpolation: (1 - t) W_i + t y_i, corners as in `polygons`.

        The density on each is that of the source divided by (1 - t)^2.

        Args:
            t: Time in [0, 1]; 0 is the source, 1 the target.
        """
        t = _check.real("t", t, minimum=0.0, maximum=1.0)
        return [(1 - t) * cell + t * y for cell, y in zip(self.polygons, self.sites, strict=True)]

    @cached_property
    def delaunay(self) -> torch.Tensor:
        """Simplices of the weighted Delaunay triangulation (t, d + 1), int64.

        It is the projection of the lower hull of the points (y_i, -h_i), dual to the power diagram
        of the whole space; sites with an empty cell there are in none of them.
        """
        return torch.from_numpy(lower_hull(self.sites.numpy(), self.heights.numpy())[0])

    def legendre(self, points: Any) -> torch.Tensor:  # noqa: ANN401 - array-like
        """Legendre dual u*(y) = sup_x <x, y> - u_h(x) at points (m, d): (m,) float64.

        It is piecewise linear over `delaunay`, equals -h_i at the sites whose cells are not empty,
        and is infinite outside the convex hull of the sites.

        References:
            N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020),
            eq. 15 and Fig. 6.
        """
        y = _check.points("points", points, dim=self.sites.shape[1]).detach().to(torch.float64)
        sites = self.sites.numpy()
        simplices, planes, walls = lower_hull(sites, self.heights.numpy())
        rows = max(1, 10_000_000 // max(1, len(planes)))
        values = []
        for block in y.split(rows):
            on = block.numpy() @ planes[:, :-1].T + planes[:, -1]
            outside = block.numpy() @ walls[:, :-1].T + walls[:, -1]
            slack = 1e-12 * max(1.0, float(np.abs(sites).max()))
            values.append(np.where((outside > slack).any(axis=1), np.inf, on.max(axis=1)))
        return torch.from_numpy(np.concatenate(values))

    def _centred(self) -> np.ndarray:
        y = self.sites - self.sites.mean(dim=0)
        center = torch.from_numpy(self._engine.support.center)
        return conversions.shifted_source(self.heights, y, -center).numpy()

    def _only(self, dim: int, what: str) -> None:
        if self.sites.shape[1] != dim:
            got = f"d = {self.sites.shape[1]}"
            raise _check.fail("the diagram", f"have d = {dim} for {what}", got)


def lower_hull(sites: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower convex hull of the points (y_i, -h_i), seen from below.

    Args:
        sites: (n, d), affinely spanning.
        heights: (n,).

    Returns:
        The sites of each facet (t, d + 1); its plane, value = <plane[:d], y> + plane[d]; and the
        sides of the sites' convex hull, negative inside (w, d + 1).

    Raises:
        ValueError: If the sites lie in a hyperplane or are fewer than d + 1.
    """
    n, d = sites.shape
    if d == 1:
        order, breaks = line_envelope(sites[:, 0], heights)
        y, h = sites[order, 0], heights[order]
        planes = np.c_[breaks, -h[:-1] - breaks * y[:-1]]
        walls = np.array([[-1.0, y.min()], [1.0, -y.max()]])
        return np.c_[order[:-1], order[1:]], planes, walls
    try:
        around = ConvexHull(sites)
        # One far point above closes the hull even where all the others lie in one plane.
        top = np.r_[sites.mean(axis=0), (-heights).max() + np.ptp(heights) + 1.0]
        hull = ConvexHull(np.r_[np.c_[sites, -heights], top[None]], qhull_options="Qt")
    except QhullError as error:
        raise _check.fail("sites", f"span {d} dimensions", f"{n} that do not") from error
    below = (hull.equations[:, d] < 0) & (hull.simplices < n).all(axis=1)
    normal = hull.equations[below]
    planes = np.c_[-normal[:, :d], -normal[:, d + 1]] / normal[:, d : d + 1]
    return hull.simplices[below].astype(np.int64), planes, around.equations


def laplacian(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, n: int
) -> scipy.sparse.csr_matrix:
    """Graph Laplacian (n, n): minus the sum of a pair's weights, and rows summing to zero.

    Args:
        rows: One site of each pair, (k,) integers; a pair may come many times.
        columns: The other, (k,).
        weights: (k,).
        n: Number of sites.
    """
    half = pair_sums(rows, columns, weights, (n, n))
    both = half + half.T
    del half  # of very many pairs each of these takes gigabytes
    return with_degrees(both)


def pair_sums(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """Sum the weights (k,) of every entry; each row in an order that depends on its own alone."""
    index = np.int32 if shape[1] < 1 << 31 else np.int64
    pairs = rows.astype(index, copy=False), columns.astype(index, copy=False)
    return scipy.sparse.coo_matrix((weights, pairs), shape=shape).tocsr()


def with_degrees(weights: scipy.sparse.csr_matrix, first: int = 0) -> scipy.sparse.csr_matrix:
    """Return rows of a graph Laplacian.

    Args:
        weights: (k, n), those of k vertices with all, whose data are overwritten.
        first: The number of the first of the k.
    """
    k = weights.shape[0]
    degree = np.asarray(weights.sum(1)).ravel()
    np.negative(weights.data, out=weights.data)
    own = np.arange(first, first + k), np.arange(k + 1)
    return weights + scipy.sparse.csr_matrix((degree, *own), shape=weights.shape)


@plain_torch()
def power_diagram(source: Measure, sites: Any, heights: Any) -> PowerDiagram:  # noqa: ANN401
    """Divide the support of a source into the power cells of given heights, exactly.

    The cell of site i is where <x, y_i> + h_i is the greatest.

    Args:
        source: UniformBox or UniformBall with dim <= 3, ConvexPolygon, Polygon or GridDensity.
        sites: (n, d).
        heights: (n,).

    Returns:
        The diagram.

    Raises:
        ValueError: If the source has no exact geometry or the shapes do not fit.

    Example:
        >>> from aeot import UniformBox
        >>> diagram = power_diagram(UniformBox(dim=2), [[0.0, 0.5], [1.0, 0.5]], [0.15, -0.15])
        >>> diagram.masses
        tensor([0.3000, 0.7000], dtype=torch.float64)
    """
    where = support(source)
    y = _check.points("sites", sites, dim=where.dim).detach().cpu().to(torch.float64)
    h = _check.array("heights", heights).detach().cpu().to(torch.float64)
    if h.shape != (len(y),):
        raise _check.fail("heights", f"have shape ({len(y)},)", f"shape {tuple(h.shape)}")
    return divided(source, y, h)


def divided(
    source: Measure, y: torch.Tensor, h: torch.Tensor, facets: Graph | None = None
) -> PowerDiagram:
    """`power_diagram` of checked sites and heights, float64 on the CPU.

    Args:
        source: The source.
        y: (n, d).
        h: (n,).
        facets: Neighbours in a diagram of heights near by, which save looking for them.
    """
    where = support(source)
    mean = y.mean(dim=0)
    center = torch.from_numpy(where.center)
    engine = Tessellation(where, (y - mean).numpy())
    engine.last = facets
    centred = conversions.shifted_source(h, y - mean, -center)
    cells = engine(centred.numpy(), ends=True)
    massive = cells.measures > 0
    pairs = torch.from_numpy(np.stack([cells.rows, cells.columns], axis=1)[massive])
    endpoints = None
    if where.dim == 2:
        endpoints = torch.from_numpy(cells.ends[massive]).reshape(-1, 2, 2) + center
    elif where.dim == 1:
        endpoints = torch.from_numpy(cells.ends[massive]) + center
    mass = torch.from_numpy(cells.measures[massive])
    between = Facets.between(y, pairs, mass, exact=True, endpoints=endpoints)
    masses = torch.from_numpy(cells.masses)
    filled = (masses > 0).to(torch.float64)[:, None]
    return PowerDiagram(
        source,
        y,
        h,
        masses,
        (torch.from_numpy(cells.centroids) + center) * filled,
        torch.from_numpy(cells.covariances),
        between,
        engine,
    )
