"""Extensions of the transport map to new codes: pure functions of owners, centroids and codes.

The map sends a whole cell to one code. An extension spreads it: it sends the centroid of the cell
to that code and fills the space between codes, never mixing two codes that the map separates.

References:
    D. An, Y. Guo, N. Lei, Z. Luo, S.-T. Yau, X. Gu, "AE-OT: a new generative model based on
    extended semi-discrete optimal transport", ICLR 2020 (inverse distance, pair interpolation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from aeot.transport import cells

Cut = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (i, j) -> is that pair separated


def nearest(
    queries: torch.Tensor, codes: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k nearest codes of every query, nearest first, by exact blocked search.

    Args:
        queries: (m, d).
        codes: (n, d).
        k: 1 <= k <= n.

    Returns:
        distances (m, k) and indices (m, k) int64.
    """
    middle = codes.mean(0)
    x, y = queries - middle, codes - middle
    # The nearest code is the highest plane of the Voronoi heights.
    _, found = cells.assign(x, y, -(y.to(torch.float64) ** 2).sum(1) / 2, k)
    distances = [
        (a[:, None] - y[b]).norm(dim=2)
        for a, b in zip(x.split(4096), found.split(4096), strict=True)
    ]
    return torch.cat(distances), found


def compatible(owners: torch.Tensor, candidates: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return which candidates may be mixed: with the owner and with every one kept before.

    Args:
        owners: (m,) cells.
        candidates: (m, k) cells, best first; the owner itself may be among them.
        cut: Says which pairs the map separates.

    Returns:
        (m, k) bool; no two kept cells of a row, nor the owner and a kept one, are separated.
    """
    keep = ~cut(owners[:, None].expand_as(candidates), candidates)
    for column in range(1, candidates.shape[1]):
        rows = keep[:, column].nonzero()[:, 0]
        if rows.numel() == 0:
            continue
        this = candidates[rows, column, None].expand(-1, column)
        clash = (cut(this, candidates[rows, :column]) & keep[rows, :column]).any(1)
        keep[rows, column] = ~clash
    return keep


def members(
    owners: torch.Tensor,
    codes: torch.Tensor,
    labels: torch.Tensor,
    k: int,
    cut: Cut | None,
) -> torch.Tensor:
    """Return, for some cells, up to k nearest codes they may be mixed with, nearest first.

    Args:
        owners: The cells asked for, (m,).
        codes: (n, d).
        labels: (n,) components; no list leaves its component.
        k: Length of the lists.
        cut: Says which pairs of a component the map separates; None: none.

    Returns:
        (m, k) int64, padded with the owner itself.
    """
    lists = owners[:, None].repeat(1, k)
    sizes = torch.bincount(labels)
    mine = labels[owners]
    for label in mine[sizes[mine] > 1].unique():
        rows = (mine == label).nonzero()[:, 0]
        inside = (labels == label).nonzero()[:, 0]
        wanted = min(inside.numel(), k + 1 if cut is None else 2 * k + 1)
        found = inside[nearest(codes[owners[rows]], codes[inside], wanted)[1]]
        own = owners[rows, None]
        keep = found != own
        if cut is not None:
            keep &= compatible(owners[rows], found, cut)
        # A stable sort moves the kept ones to the front and leaves them nearest first.
        order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
        kept = keep.gather(1, order)
        lists[rows, : order.shape[1]] = torch.where(kept, found.gather(1, order), own)
    return lists


def pair(
    planes: torch.Tensor,
    spare: torch.Tensor,
    codes: torch.Tensor,
    weights: torch.Tensor,
    cut: Cut | None,
) -> torch.Tensor:
    """Mix the owner with the first runner-up on its side: w y_i + (1 - w) y_j.

    Args:
        planes: The highest planes at each point, best first, (m, k).
        spare: A regular neighbour of each owner, for points all of whose runners-up are separated
            from it; the owner itself if there is none, (m,).
        codes: (n, d).
        weights: w, (m, 1).
        cut: Says which pairs are separated.

    Returns:
        (m, d).
    """
    owner = planes[:, 0]
    others = torch.cat([planes[:, 1:], spare[:, None]], 1)
    allowed = torch.ones_like(others, dtype=torch.bool)
    if cut is not None:
        allowed = ~cut(owner[:, None].expand_as(others), others)
    allowed[:, -1] = True
    partner = others.gather(1, allowed.to(torch.int8).argmax(1, keepdim=True))[:, 0]
    return weights * codes[owner] + (1 - weights) * codes[partner]


def inverse_distance(
    points: torch.Tensor,
    owners: torch.Tensor,
    spare: torch.Tensor,
    centroids: torch.Tensor,
    codes: torch.Tensor,
    cut: Cut | None,
) -> torch.Tensor:
    """Mix the codes of the nearest d + 1 centroids (20 at most) by weights 1 / |x - c_k|.

    Args:
        points: (m, d).
        owners: (m,).
        spare: As for `pair`.
        centroids: (n, d).
        codes: (n, d).
        cut: Says which pairs are separated; what is separated from the owner, or from a nearer
            one, is left out.

    Returns:
        (m, d); a point on a centroid gets exactly its code.
    """
    _, near = nearest(points, centroids, min(points.shape[1] + 1, 20, len(codes)))
    near = torch.cat([owners[:, None], near, spare[:, None]], 1)
    keep = torch.ones_like(near, dtype=torch.bool)
    if cut is not None:
        keep = compatible(owners, near, cut)
    keep[:, 1:] &= near[:, 1:] != owners[:, None]
    # The spare neighbour only helps those who would be left alone.
    keep[:, -1] &= keep[:, :-1].sum(1) == 1
    distance = (points[:, None] - centroids[near]).norm(dim=2)
    weights = keep / distance.clamp(min=torch.finfo(points.dtype).tiny ** 0.5)
    weights = weights / weights.sum(1, keepdim=True)
    return (weights[:, :, None] * codes[near]).sum(1)


def barycentric(
    points: torch.Tensor,
    owners: torch.Tensor,
    lists: torch.Tensor,
    centroids: torch.Tensor,
    codes: torch.Tensor,
) -> torch.Tensor:
    """Mix the owner and its list by weights that reproduce the point from their centroids.

    The weights of sum one minimise |x - sum_k l_k c_k|^2 + e sum_k l_k^2 |x - c_k|^2, e = 1e-3: a
    point on a centroid gets its code, and centroids far away weigh little. They may be negative.

    Args:
        points: (m, d).
        owners: (m,).
        lists: Cells that may be mixed with the owner, padded with it, (m, k).
        centroids: (n, d).
        codes: (n, d).

    Returns:
        (m, d).

    References:
        S. T. Roweis, L. K. Saul, "Nonlinear dimensionality reduction by locally linear embedding",
        Science 290 (2000), note 9, with the regulariser weighted by distance.
    """
    near = torch.cat([owners[:, None], lists], 1)
    keep = near != owners[:, None]
    keep[:, 0] = True
    arms = (centroids[near] - points[:, None]).to(torch.float64)  # (m, k, d)
    square = arms.square().sum(2)
    unit = square.amax(1).clamp(min=1e-300)
    # |x - sum l c|^2 with sum l = 1 is l' G l; the solution of (G + e D) l = 1, normalised.
    gram = (arms @ arms.mT + 1e-3 * torch.diag_embed(square)) / unit[:, None, None]
    gram = gram + torch.diag_embed(torch.where(keep, 1e-12, 1e12).to(torch.float64))
    weights = torch.linalg.solve(gram, torch.ones_like(square)) * keep
    weights = (weights / weights.sum(1, keepdim=True)).to(codes.dtype)
    return (weights[:, :, None] * codes[near]).sum(1)
