"""Which codes belong together: what a continuous map could reach without a jump.

The rule has no scale: codes that are shifted, rotated or multiplied by a constant are split the
same way. Codes are joined to their nearest ones in a distance measured in units of the local
spacing, and what cannot be reached along these links lies in another mode. In many dimensions the
distances between independent points concentrate, and a point on the rim of a cluster can find its
nearest codes in another one; there each code is first replaced by the mean of its nearest ones,
which shrinks the noise and leaves the clusters apart.

References:
    L. Zelnik-Manor, P. Perona, "Self-tuning spectral clustering", NeurIPS 2004 (local scaling).
    E. Levina, P. J. Bickel, "Maximum likelihood estimation of intrinsic dimension", NeurIPS 2004.
    J. B. Tenenbaum, V. de Silva, J. C. Langford, "A global geometric framework for nonlinear
    dimensionality reduction", Science 290 (2000) (distances along the data).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

from aeot.search.engines import top_k
from aeot.search.nearest import nearest

LINKS = 8  # nearest codes that a code is linked to
_SMOOTH = 10  # nearest codes in the mean, and in the estimate of the dimension
_CROWDED = 10.0  # intrinsic dimension above which codes are smoothed first
_SHEET = 4.0  # intrinsic dimension up to which distances along the data are resolved
_DETOUR = 1.7  # a half circle is pi / 2 times its chord; paths over links zigzag by a tenth
_STEPS = 8  # a way along the data that is worth the name has more links than that
_GAP = 2.0  # of a sheet, in units of the spacing at its edge, that is no gap
_NEAR = 3  # links within which two codes may always be mixed


def _distances(codes: torch.Tensor, k: int, engine: str) -> torch.Tensor:
    k = min(k, codes.shape[0] - 1)
    return nearest(codes, codes, k + 1, engine=engine)[0][:, 1:]


def _dimension(distances: torch.Tensor) -> float:
    distances = distances.clamp(min=1e-300)
    rate = float((distances[:, -1:] / distances[:, :-1]).log().mean())
    return 1 / rate if rate > 0 else 0.0


def _scaled_nearest(
    codes: torch.Tensor, k: int, distances: torch.Tensor, engine: str
) -> torch.Tensor:
    # The k nearest by |y_i - y_j|^2 / r_j, r_j the spacing around j: up to a factor of the query,
    # the local scaling |y_i - y_j|^2 / (r_i r_j). These are the highest planes over (y, |y|^2).
    spacing = distances[:, :k].square().mean(1).sqrt()
    spacing = spacing.clamp(min=float(spacing.mean()) * 1e-9 + 1e-300)
    y = (codes - codes.mean(0)).to(torch.float64)
    unit = float(y.square().sum(1).mean().sqrt()) or 1.0
    y, spacing = y / unit, spacing / unit
    square = y.square().sum(1)
    points = torch.cat([y, square[:, None]], 1).to(codes.dtype)
    planes = torch.cat([2 * y, -torch.ones_like(square)[:, None]], 1) / spacing[:, None]
    _, found = top_k(points, planes.to(codes.dtype), -square / spacing, k + 1, engine=engine)
    own = torch.arange(len(codes), device=codes.device)[:, None]
    order = (found != own).to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return found.gather(1, order[:, :k])


def links(codes: torch.Tensor, *, engine: str = "auto") -> tuple[csr_matrix, float]:
    """Link every code to its nearest ones, in units of the local spacing.

    Args:
        codes: (n, d), n >= 2.
        engine: Of the search for near codes.

    Returns:
        The symmetric graph (n, n), lengths |y_i - y_j| on the links, and the intrinsic dimension.
    """
    n = codes.shape[0]
    distances = _distances(codes, _SMOOTH, engine)
    dimension = _dimension(distances) if n > 2 else 0.0
    places = codes
    if dimension > _CROWDED:
        near = _scaled_nearest(codes, min(_SMOOTH, n - 1), distances, engine)
        parts = [
            (codes[start : start + len(block)] + codes[block].sum(1)) / (near.shape[1] + 1)
            for start, block in zip(range(0, n, 4096), near.split(4096), strict=True)
        ]
        places = torch.cat(parts)
        distances = _distances(places, LINKS, engine)
    near = _scaled_nearest(places, min(LINKS, n - 1), distances, engine)
    first = torch.arange(n, device=codes.device).repeat_interleave(near.shape[1])
    second = near.flatten()
    length = (codes[first] - codes[second]).norm(dim=1).clamp(min=1e-30)
    i, j, w = (t.cpu().numpy() for t in (first, second, length.to(torch.float64)))
    graph = csr_matrix((w, (i, j)), shape=(n, n))
    graph = graph.maximum(graph.T).tocsr()
    if resolves_sheets(dimension):
        graph = _bridged(codes, graph, engine)
    return graph, dimension


def _bridged(codes: torch.Tensor, graph: csr_matrix, engine: str) -> csr_matrix:
    # Nine points of a thin sheet can happen to have one another as nearest. Parts whose gap is no
    # wider than twice the spacing at its edge are one.
    count, labels = connected_components(graph, directed=False)
    if count == 1:
        return graph
    n = codes.shape[0]
    labels = torch.from_numpy(labels).to(codes.device)
    spacing = nearest(codes, codes, min(LINKS, n - 1) + 1, engine=engine)[0][:, -1]
    for label in range(count):
        inside, outside = (labels == label).nonzero()[:, 0], (labels != label).nonzero()[:, 0]
        gap, found = nearest(codes[inside], codes[outside], engine=engine)
        other = outside[found[:, 0]]
        join = gap[:, 0] <= _GAP * torch.maximum(spacing[inside], spacing[other])
        i, j, w = (t[join].cpu().numpy() for t in (inside, other, gap[:, 0]))
        bridge = csr_matrix((w.clip(1e-30), (i, j)), shape=(n, n))
        graph = graph.maximum(bridge).maximum(bridge.T)
    return graph.tocsr()


def modes(graph: csr_matrix, masses: np.ndarray) -> np.ndarray:
    """Return the connected component of every node, (n,) int64, numbered by falling mass."""
    _, labels = connected_components(graph, directed=False)
    share = np.bincount(labels, weights=masses)
    rank = np.empty(len(share), np.int64)
    rank[np.argsort(-share, kind="stable")] = np.arange(len(share))
    return rank[labels]


def detours(graph: csr_matrix, pairs: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Return which pairs of one component lie far apart along the data, though near in space.

    A pair is separated when the shortest way over the links takes more than eight of them and is
    longer than 1.7 times the jump: more than a half circle over its chord.

    Args:
        graph: Links with their lengths (n, n).
        pairs: (k, 2), both in the same component.
        jumps: |y_i - y_j|, (k,).

    Returns:
        (k,) bool.
    """
    out = np.zeros(len(pairs), bool)
    if len(pairs) == 0:  # scipy takes no entry of a matrix for a matrix of none
        return out
    direct = np.asarray(graph[pairs[:, 0], pairs[:, 1]]).ravel() > 0
    rows = np.flatnonzero(~direct)
    if rows.size == 0:
        return out
    # By the longest jump of a source, so that a search may stop at the limit of its batch.
    order = rows[np.lexsort((jumps[rows], pairs[rows, 0]))]
    sources, starts = np.unique(pairs[order, 0], return_index=True)
    groups = np.split(order, starts[1:])
    reach = np.array([jumps[group].max() for group in groups])
    ranked = np.argsort(reach)
    for batch in np.array_split(ranked, max(1, len(ranked) * graph.shape[0] // 10_000_000)):
        if batch.size == 0:
            continue
        limit = _DETOUR * reach[batch].max()
        length = dijkstra(graph, indices=sources[batch], limit=limit)
        steps = dijkstra(graph, indices=sources[batch], limit=_STEPS, unweighted=True)
        for row, group in enumerate(groups[g] for g in batch):
            far = length[row, pairs[group, 1]] > _DETOUR * jumps[group]
            out[group] = far & np.isinf(steps[row, pairs[group, 1]])
    return out


def resolves_sheets(dimension: float) -> bool:
    """Whether distances along the data mean something in that intrinsic dimension."""
    return dimension <= _SHEET


def close(graph: csr_matrix) -> np.ndarray:
    """Return the pairs within three links of each other, (k, 2) with the smaller index first."""
    step = (graph > 0).astype(np.int8)
    step.setdiag(1)
    reach = step
    for _ in range(_NEAR - 1):
        reach = ((reach @ step) > 0).astype(np.int8)
    i, j = reach.nonzero()
    keep = i < j
    return np.stack([i[keep], j[keep]], 1)
