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


def inverse_distance(
    points: torch.Tensor, near: torch.Tensor, keep: torch.Tensor, centroids: torch.Tensor
) -> torch.Tensor:
    """Return weights 1 / |x - c_k| over the cells kept, normalised.

    Args:
        points: (m, d).
        near: Cells whose centroids are used, (m, k).
        keep: Which of them may be, (m, k) bool, at least one per row.
        centroids: (n, d).

    Returns:
        (m, k) weights >= 0, each row summing to one; a point on a centroid has weight one there.
    """
    distance = (points[:, None] - centroids[near]).norm(dim=2)
    tiny = torch.finfo(points.dtype).tiny ** 0.5
    weights = keep / distance.clamp(min=tiny)
    return weights / weights.sum(1, keepdim=True)


def barycentric(
    points: torch.Tensor, near: torch.Tensor, keep: torch.Tensor, centroids: torch.Tensor
) -> torch.Tensor:
    """Return weights of sum one that reproduce the point from the centroids, the near ones first.

    They minimise |x - sum_k l_k c_k|^2 + e sum_k l_k^2 |x - c_k|^2 with e = 1e-3: a point on a
    centroid gets weight one there, and a centroid far away gets little. Weights may be negative.

    Args:
        points: (m, d).
        near: Cells whose centroids are used, (m, k).
        keep: Which of them may be, (m, k) bool, at least one per row.
        centroids: (n, d).

    Returns:
        (m, k) weights, each row summing to one.

    References:
        S. T. Roweis, L. K. Saul, "Nonlinear dimensionality reduction by locally linear embedding",
        Science 290 (2000), note 9, with the regulariser weighted by distance.
    """
    arms = (centroids[near] - points[:, None]).to(torch.float64)  # (m, k, d)
    square = arms.square().sum(2)
    unit = square.amax(1).clamp(min=1e-300)
    # |x - sum l c|^2 with sum l = 1 is l' G l; the solution of (G + e D) l = 1, normalised.
    gram = arms @ arms.mT + 1e-3 * torch.diag_embed(square)
    gram = gram / unit[:, None, None] + torch.diag_embed(
        torch.where(keep, 1e-12, 1e12).to(torch.float64)
    )
    weights = torch.linalg.solve(gram, torch.ones_like(square)) * keep
    return (weights / weights.sum(1, keepdim=True)).to(points.dtype)
