"""Extensions of the transport map to new codes: pure functions of owners, centroids and codes.

The map sends a whole cell to one code. An extension spreads it: it sends the centroid of the cell
to that code and fills the space between codes, never mixing two codes that the map separates.

References:
    D. An, Y. Guo, N. Lei, Z. Luo, S.-T. Yau, X. Gu, "AE-OT: a new generative model based on
    extended semi-discrete optimal transport", ICLR 2020 (inverse distance, pair interpolation).
    R. Bhatia, T. Jain, Y. Lim, "On the Bures-Wasserstein distance between positive definite
    matrices", Expositiones Mathematicae 37 (2019), eq. 34 (the local affine map).
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
    codes: torch.Tensor, labels: torch.Tensor, k: int, cut: Cut | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for every code, up to k nearest codes it may be mixed with, nearest first.

    Args:
        codes: (n, d).
        labels: (n,) components; no list leaves its component.
        k: Length of the lists.
        cut: Says which pairs of a component the map separates; None: none.

    Returns:
        lists (n, k) int64, padded with the code itself, and their lengths (n,).
    """
    n = codes.shape[0]
    own = torch.arange(n, device=codes.device)
    lists = own[:, None].repeat(1, k)
    for label in labels.unique():
        inside = own[labels == label]
        wanted = min(inside.numel(), k + 1 if cut is None else 2 * k + 1)
        if wanted == 1:
            continue
        found = inside[nearest(codes[inside], codes[inside], wanted)[1]]
        keep = found != inside[:, None]
        if cut is not None:
            keep &= compatible(inside, found, cut)
        # A stable sort moves the kept ones to the front and leaves them nearest first.
        order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
        kept = keep.gather(1, order)
        lists[inside, : order.shape[1]] = torch.where(kept, found.gather(1, order), inside[:, None])
    return lists, (lists != own[:, None]).sum(1)


def local_affine(
    displacements: torch.Tensor,
    owners: torch.Tensor,
    codes: torch.Tensor,
    lists: torch.Tensor,
    spread: torch.Tensor,
) -> torch.Tensor:
    """Return A_i (x - c_i): the displacement from the code that the local affine map adds.

    A_i is the symmetric positive map that carries the spread of the source inside cell i onto the
    covariance of the codes around y_i (the owner and its list). With one isotropic variance
    sigma^2 for all cells it is C^(1/2) / sigma, of the rank of the list; with a covariance S_i for
    each cell it is the optimal map between the two Gaussians,
    S^(-1/2) (S^(1/2) C S^(1/2))^(1/2) S^(-1/2).

    Args:
        displacements: x - c_i, (m, d).
        owners: i, (m,).
        codes: y, (n, d).
        lists: Neighbours (n, k), padded with the owner.
        spread: sigma^2, one number, or S (n, d, d).

    Returns:
        (m, d) in the dtype of the codes; zero where the list is empty.
    """
    unique, slot = owners.unique(return_inverse=True)
    order = slot.argsort(stable=True)
    ends = torch.bincount(slot).cumsum(0).tolist()
    out = torch.empty(displacements.shape, dtype=codes.dtype, device=codes.device)
    first = 0
    for start in range(0, unique.numel(), 256):
        block = unique[start : start + 256]
        last = ends[min(start + 256, unique.numel()) - 1]
        rows = order[first:last]
        first = last
        factor = _factors(block, codes, lists)  # (b, k + 1, d): C = factor' factor
        root = _root(factor) if spread.ndim == 0 else _bures(factor, spread[block])
        for part in rows.split(1024):
            x = displacements[part].to(codes.dtype)
            if spread.ndim == 0:
                x = x / float(spread) ** 0.5
            here = root[slot[part] - start]
            out[part] = (here.mT @ (here @ x[:, :, None]))[:, :, 0]
    return out


def _factors(block: torch.Tensor, codes: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    group = torch.cat([block[:, None], lists[block]], 1)
    there = torch.cat([torch.ones_like(block)[:, None], lists[block] != block[:, None]], 1)
    weight = there[:, :, None].to(codes.dtype)
    rows = codes[group] * weight
    mean = rows.sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    return (rows - mean * weight) / (weight.sum(1, keepdim=True) - 1).clamp(min=1).sqrt()


def _root(factor: torch.Tensor) -> torch.Tensor:
    # R with R'R = (F'F)^(1/2), by the small Gram matrix: F = U D V', R = D^(-1/2) U' F = D^(1/2) V'
    values, vectors = torch.linalg.eigh(factor @ factor.mT)
    floor = values[:, -1:] * 100 * torch.finfo(factor.dtype).eps
    power = torch.where(values > floor, values.clamp(min=1e-37) ** -0.25, 0.0)
    return power[:, :, None] * (vectors.mT @ factor)


def _power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    floor = values[:, -1:].clamp(min=0) * 1e-12
    powers = torch.where(values > floor, values.clamp(min=1e-300) ** exponent, 0.0)
    return (vectors * powers[:, None]) @ vectors.mT


def _bures(factor: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    cov = (factor.mT @ factor).to(torch.float64)
    half, inverse = _power(spread.to(torch.float64), 0.5), _power(spread.to(torch.float64), -0.5)
    middle = _power(half @ cov @ half, 0.25)  # A = (M^(1/4) S^(-1/2))' (M^(1/4) S^(-1/2))
    return (middle @ inverse).to(factor.dtype)


def match_scale(
    displacements: torch.Tensor, owners: torch.Tensor, codes: torch.Tensor, target: float
) -> float:
    """Return s such that y_i + s A_i (x - c_i) lies as far from the codes as a new code would.

    Args:
        displacements: A_i (x - c_i) of points of the source, (m, d).
        owners: i, (m,).
        codes: y, (n, d).
        target: Median distance from a new code to the nearest given one.

    Returns:
        s in [0, 8]; 0 if the target is zero, 1 if no displacement is there to scale.
    """
    if not bool(displacements.any()):
        return 1.0
    low, high = 0.0, 8.0
    for _ in range(12):
        middle = (low + high) / 2
        new = codes[owners] + middle * displacements
        reached = float(nearest(new, codes, 1)[0].median())
        low, high = (middle, high) if reached < target else (low, middle)
    return (low + high) / 2


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
