"""The piecewise-linear extension in up to three dimensions: on triangulated centroids."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.spatial import Delaunay

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.maps.extension import Separated, Sides

_FAR = 3.0  # half side of the frame around a component, in units of the extent of all centroids


def interpolate(
    points: torch.Tensor,
    owners: torch.Tensor,
    centroids: torch.Tensor,
    codes: torch.Tensor,
    sides: Sides,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Interpolate linearly on the Delaunay triangulation of each component's centroids.

    The corners of a frame far outside are added to the centroids, with the values of the affine
    map that fits the component best, so that the map goes on continuously to the border of the
    component and beyond the outermost centroids. No simplex joins two components.

    Args:
        points: (m, d), d <= 3.
        owners: Cells of the points, (m,).
        centroids: (n, d).
        codes: (n, d).
        sides: Which cells may be mixed.

    Returns:
        Values (m, d) float64, and which of them hold: false inside a simplex with a separated
        edge.
    """
    x, c, y = (t.detach().cpu().to(torch.float64).numpy() for t in (points, centroids, codes))
    labels = sides.labels.cpu().numpy()
    groups = sides.labels[owners].cpu().numpy()
    # From the centroids alone, so that a point's value does not depend on the other points.
    middle = (c.min(0) + c.max(0)) / 2
    half = _FAR * (float((c.max(0) - c.min(0)).max()) or 1.0)
    frame = middle + half * np.array(list(itertools.product((-1.0, 1.0), repeat=x.shape[1])))
    values, valid = np.zeros_like(x), np.ones(len(x), bool)
    for label in np.unique(groups):
        rows, inside = np.flatnonzero(groups == label), np.flatnonzero(labels == label)
        # Two centroids in one place (of empty cells) would make a flat simplex: keep one.
        inside = inside[np.unique(c[inside].round(12), axis=0, return_index=True)[1]]
        mean_c, mean_y = c[inside].mean(0), y[inside].mean(0)
        slope, *_ = np.linalg.lstsq(c[inside] - mean_c, y[inside] - mean_y, rcond=1e-9)
        corners = np.concatenate([c[inside], frame])
        heights = np.concatenate([y[inside], mean_y + (frame - mean_c) @ slope])
        simplices, simplex, weights = _located(corners, x[rows])
        values[rows] = (weights[:, :, None] * heights[simplices[simplex]]).sum(1)
        valid[rows] = (simplex >= 0) & np.isfinite(values[rows]).all(1)
        if sides.separated is not None:
            cells = torch.from_numpy(inside).to(sides.labels.device)
            valid[rows] &= ~_broken(simplices, cells, sides.separated)[simplex]
    device = points.device
    return torch.from_numpy(values).to(device), torch.from_numpy(valid).to(device)


@plain_torch()
def determinants(
    centroids: ArrayLike, codes: ArrayLike
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return by how much the piecewise-linear extension stretches volume, simplex by simplex.

    The Monge-Ampere equation det D^2 u(x) g(grad u(x)) = f(x), f and g the densities of source and
    target, can be checked with them. A negative one is a fold: there the extension turns the
    simplex over, which the gradient of no convex function does.

    Args:
        centroids: (n, d), d from 2 to 3, the corners of the Delaunay triangulation.
        codes: (n, d), where the extension sends them.

    Returns:
        Corners of the simplices (t, d + 1), their volumes (t,), and det D^2 u on them (t,).

    Raises:
        ValueError: If the shapes differ, d is neither 2 nor 3, or all centroids lie in a plane.

    References:
        N. Lei et al., "A geometric understanding of deep learning", Engineering 6 (2020), eq. 13.

    Example:
        >>> square = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.1]]
        >>> turned = [[0.0, 0.0], [2.0, 0.0], [2.0, 3.0], [0.0, 3.3]]
        >>> determinants(square, turned)[2].round(decimals=9)
        tensor([6., 6.], dtype=torch.float64)
    """
    c = _check.points("centroids", centroids).detach().cpu().to(torch.float64)
    n, d = c.shape
    if d not in (2, 3):
        raise _check.fail("centroids", "have shape (n, 2) or (n, 3)", f"shape {tuple(c.shape)}")
    y = _check.points("codes", codes, dim=d).detach().cpu().to(torch.float64)
    if len(y) != n:
        raise _check.fail("codes", f"have {n} rows like centroids", len(y))
    if n <= d or int(torch.linalg.matrix_rank(c - c.mean(0))) < d:
        raise _check.fail("centroids", f"span {d} dimensions", f"{n} rows in a plane or line")
    simplices = torch.from_numpy(Delaunay(c.numpy()).simplices).long()
    before, after = (torch.linalg.det(x[simplices[:, 1:]] - x[simplices[:, :1]]) for x in (c, y))
    whole = before != 0  # Qhull keeps flat simplices on the hull
    simplices, before, after = simplices[whole], before[whole], after[whole]
    return simplices, before.abs() / math.factorial(d), after / before


def _located(corners: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangulate corners (k, d), and find points (m, d) in it.

    Returns:
        The corners of every simplex (t, d + 1); the simplex of every point, -1 outside, (m,); and
        the weights of its corners there (m, d + 1).
    """
    if x.shape[1] == 1:  # Qhull begins with the plane
        order = corners[:, 0].argsort()
        line, ends = corners[order, 0], np.c_[order[:-1], order[1:]]
        inside = (x[:, 0] >= line[0]) & (x[:, 0] <= line[-1])
        interval = (np.searchsorted(line, x[:, 0]) - 1).clip(0, len(ends) - 1)
        share = (x[:, 0] - line[interval]) / (line[interval + 1] - line[interval])
        return ends, np.where(inside, interval, -1), np.c_[1 - share, share]
    mesh = Delaunay(corners)
    simplex = mesh.find_simplex(x)
    affine = mesh.transform[simplex]
    part = np.einsum("mij,mj->mi", affine[:, :-1], x - affine[:, -1])
    return mesh.simplices, simplex, np.concatenate([part, 1 - part.sum(1, keepdims=True)], 1)


def _broken(simplices: np.ndarray, cells: torch.Tensor, separated: Separated) -> np.ndarray:
    # Whether two cells at the corners of each simplex are separated; the frame's are with none.
    out = np.zeros(len(simplices), bool)
    for a, b in itertools.combinations(range(simplices.shape[1]), 2):
        i, j = simplices[:, a], simplices[:, b]
        real = np.flatnonzero((i < len(cells)) & (j < len(cells)))
        first, second = (cells[torch.from_numpy(t[real]).long()] for t in (i, j))
        out[real] |= separated(first, second).cpu().numpy()
    return out
