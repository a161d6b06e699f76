"""Which sites may share a facet: the candidates that a cell is clipped by.

The graph of the heights is a convex polyhedron {(x, t): t >= <x, y_i> + h_i} over a box; its
facets are the cells and its ridges the facets between them. By duality it is one convex hull in
d + 1 dimensions, which Qhull finds.
"""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse as sp
from scipy.spatial import ConvexHull, QhullError, cKDTree

Graph = tuple[np.ndarray, np.ndarray]  # row pointers (n + 1,) and columns


def from_pairs(rows: np.ndarray, columns: np.ndarray, n: int) -> Graph:
    """The graph of the pairs (rows, columns), one way, without loops and repetitions."""
    keep = rows != columns
    ones = np.ones(int(keep.sum()), dtype=bool)
    matrix = sp.coo_matrix((ones, (rows[keep], columns[keep])), shape=(n, n)).tocsr()
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)


def complete(n: int) -> Graph:
    """Everyone is a candidate of everyone."""
    rows, columns = np.divmod(np.arange(n * n), n)
    return from_pairs(rows, columns, n)


def near(sites: np.ndarray, count: int = 16) -> Graph:
    """The nearest sites of every site, in both directions."""
    n = len(sites)
    _, columns = cKDTree(sites).query(sites, min(count + 1, n))
    rows = np.repeat(np.arange(n), columns.shape[1])
    return from_pairs(np.r_[rows, columns.ravel()], np.r_[columns.ravel(), rows], n)


def thinned(graph: Graph, keep: np.ndarray) -> Graph:
    """The graph with those of its pairs that a mask (slots,) keeps."""
    indptr, indices = graph
    return np.r_[0, np.cumsum(keep)][indptr], indices[keep]


def joined(graph: Graph, rows: np.ndarray, columns: np.ndarray) -> Graph:
    """The graph with the pairs (rows, columns) added, both ways."""
    indptr, indices = graph
    n = len(indptr) - 1
    old = np.repeat(np.arange(n), np.diff(indptr))
    return from_pairs(
        np.concatenate([old, rows, columns]), np.concatenate([indices, columns, rows]), n
    )


def widened(graph: Graph, sites: np.ndarray, by: Graph | None) -> Graph:
    """The graph with the candidates' candidates, or everyone, added for some sites (one way)."""
    indptr, indices = graph
    n = len(indptr) - 1
    if by is None:
        rows, columns = np.repeat(sites, n), np.tile(np.arange(n), len(sites))
    else:
        ones = np.ones(len(by[1]), dtype=bool)
        one = sp.csr_matrix((ones, by[1], by[0]), shape=(n, n))
        ring = (one[sites] @ one).tocoo()
        rows, columns = sites[ring.row], ring.col
    old = np.repeat(np.arange(n), np.diff(indptr))
    return from_pairs(np.concatenate([old, rows]), np.concatenate([indices, columns]), n)


def envelope(sites: np.ndarray, heights: np.ndarray, half: np.ndarray) -> Graph | None:
    """Neighbours on the upper envelope of the planes <x, y_i> + h_i over the box |x_k| <= half_k.

    Args:
        sites: (n, d).
        heights: (n,).
        half: (d,), > 0.

    Returns:
        The symmetric graph of candidates. A site that Qhull leaves out (an empty cell, or one too
        thin for it) gets its nearest neighbour's candidates. None if Qhull gives up.
    """
    n, d = sites.shape
    y = sites * half
    y = y / max(np.abs(y).max(), np.finfo(float).tiny)
    h = heights / max(np.abs(sites * half).max(), np.finfo(float).tiny)
    reach = np.abs(y).sum(1)
    # A point above every plane; seen from it, planes become points and the envelope their hull.
    top = (h + reach).max() + 0.5 * max(1e-3, (h + reach).max() - (h - reach).max())
    planes = np.c_[y, np.full(n, -1.0)] / (top - h)[:, None]
    walls = np.r_[np.eye(d, d + 1), -np.eye(d, d + 1)]
    cap = np.r_[np.zeros(d), 1.0][None]
    try:
        hull = ConvexHull(np.r_[planes, walls, cap], qhull_options="Qt")
    except QhullError:
        return None
    corners = hull.simplices
    every = list(itertools.permutations(range(d + 1), 2))
    rows = np.concatenate([corners[:, a] for a, _ in every])
    columns = np.concatenate([corners[:, b] for _, b in every])
    keep = (rows < n) & (columns < n)
    graph = from_pairs(rows[keep], columns[keep], n)
    lost = np.flatnonzero(np.diff(graph[0]) == 0)
    if len(lost) == 0:
        return graph
    found = np.flatnonzero(np.diff(graph[0]) > 0)
    if len(found) == 0:  # one cell takes the whole box
        found = hull.vertices[hull.vertices < n]
        if len(found) == 0:
            return None
    _, near = cKDTree(sites[found]).query(sites[lost])
    near = found[near]
    count = np.diff(graph[0])[near]
    start = np.repeat(graph[0][near] - np.r_[0, np.cumsum(count)[:-1]], count)
    theirs = graph[1][start + np.arange(count.sum())]
    rows = np.r_[lost, np.repeat(lost, count)]
    return joined(graph, rows, np.r_[near, theirs])


def line_envelope(slopes: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper envelope of the lines slope x + height.

    Args:
        slopes: (n,).
        heights: (n,).

    Returns:
        The lines on it from left to right (k,) and the points where they meet (k - 1,).
    """
    order = np.lexsort((-heights, slopes))
    chain: list[int] = []
    breaks: list[float] = []
    for i in order.tolist():
        if chain and slopes[chain[-1]] == slopes[i]:
            continue  # the same slope, not higher
        while chain:
            j = chain[-1]
            meet = (heights[j] - heights[i]) / (slopes[i] - slopes[j])
            if breaks and meet <= breaks[-1]:
                chain.pop()
                breaks.pop()
            else:
                breaks.append(meet)
                break
        chain.append(i)
    return np.array(chain, dtype=np.int64), np.array(breaks)
