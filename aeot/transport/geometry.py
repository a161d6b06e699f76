"""Exact power diagrams in one, two and three dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch

from aeot import _check
from aeot.measures import Measure
from aeot.transport import heights as conversions
from aeot.transport.tessellation import Tessellation, support


@dataclass(frozen=True)
class Facets:
    """The facets between adjacent power cells: where the map jumps.

    Attributes:
        pairs: The two sites of each facet, the lower index first (k, 2), int64.
        measures: Mass of the source on each facet per unit of its density: a number, length or
            area times the density (k,).
        endpoints: End points (k, 2, 2) in the plane, positions (k, 1) on the line, else None.
    """

    pairs: torch.Tensor
    measures: torch.Tensor
    endpoints: torch.Tensor | None = None


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
        facets: See `Facets`.
    """

    source: Measure
    sites: torch.Tensor
    heights: torch.Tensor
    masses: torch.Tensor
    centroids: torch.Tensor
    second_moments: torch.Tensor
    facets: Facets

    @property
    def jumps(self) -> torch.Tensor:
        """Length |y_i - y_j| of the map's jump across each facet, (k,)."""
        i, j = self.facets.pairs.T
        return (self.sites[i] - self.sites[j]).norm(dim=1)

    @cached_property
    def hessian(self) -> scipy.sparse.csr_matrix:
        """Second derivatives of the energy in the heights, a sparse (n, n) Laplacian."""
        i, j = self.facets.pairs.T.numpy()
        return laplacian(i, j, (self.facets.measures / self.jumps).numpy(), len(self.masses))


def laplacian(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, n: int
) -> scipy.sparse.csr_matrix:
    """Graph Laplacian: -weight off the diagonal, rows summing to zero, (n, n)."""
    i = np.concatenate([rows, columns, rows, columns])
    j = np.concatenate([columns, rows, rows, columns])
    data = np.concatenate([-weights, -weights, weights, weights])
    return scipy.sparse.coo_matrix((data, (i, j)), shape=(n, n)).tocsr()


def power_diagram(source: Measure, sites: Any, heights: Any) -> PowerDiagram:  # noqa: ANN401
    """Cut the support of a source into the power cells of given heights, exactly.

    The cell of site i is where <x, y_i> + h_i is the greatest.

    Args:
        source: UniformBox or UniformBall with dim <= 3, ConvexPolygon or GridDensity.
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
    mean = y.mean(dim=0)
    center = torch.from_numpy(where.center)
    engine = Tessellation(where, (y - mean).numpy())
    centred = conversions.shifted_source(h, y - mean, -center)
    cells = engine(centred.numpy(), ends=True)
    pairs = torch.from_numpy(np.stack([cells.rows, cells.columns], axis=1))
    endpoints = None
    if where.dim == 2:
        endpoints = torch.from_numpy(cells.ends).reshape(-1, 2, 2) + center
    elif where.dim == 1:
        endpoints = torch.from_numpy(cells.ends) + center
    masses = torch.from_numpy(cells.masses)
    filled = (masses > 0).to(torch.float64)[:, None]
    return PowerDiagram(
        source,
        y,
        h,
        masses,
        (torch.from_numpy(cells.centroids) + center) * filled,
        torch.from_numpy(cells.covariances),
        Facets(pairs, torch.from_numpy(cells.measures), endpoints),
    )
