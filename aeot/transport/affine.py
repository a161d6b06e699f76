"""The local affine extension: each cell is carried onto the codes around its own.

Inside cell i the map is y_i + s A_i (x - c_i). A_i is the symmetric positive map that carries the
spread of the source inside the cell onto the covariance of the codes around y_i, so new codes
spread as the data do and in their directions, where convex mixing would contract them.

Where cells are too many for a covariance of the source in each, two things keep new codes where
codes are: no displacement is much longer than is usual in its mode (`limited`), and displacements
lean towards the middle of the codes around (`lean`).

References:
    R. Bhatia, T. Jain, Y. Lim, "On the Bures-Wasserstein distance between positive definite
    matrices", Expositiones Mathematicae 37 (2019), eq. 34 (the optimal map of two Gaussians).
"""

from __future__ import annotations

import torch

from aeot.transport.extension import nearest

# Measured on 60 000 codes of Fashion-MNIST in 64 dimensions (`benchmarks/bench_extension.py`):
# leaning by more makes clearer images of fewer kinds, the last tenth of newness makes unclear ones.
LEAN = 0.3
NEWNESS = 0.92


def local_affine(
    displacements: torch.Tensor,
    cells: torch.Tensor,
    slot: torch.Tensor,
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
        cells: The distinct cells i that occur, (u,).
        slot: Which of them each point lies in, (m,).
        codes: y, (n, d).
        lists: Their neighbours (u, k), padded with the cell itself.
        spread: sigma^2, one number, or S of every cell (n, d, d).

    Returns:
        (m, d) in the dtype of the codes; zero where the list is empty.
    """
    order = slot.argsort(stable=True)
    ends = torch.bincount(slot, minlength=len(cells)).cumsum(0).tolist()
    out = torch.empty(displacements.shape, dtype=codes.dtype, device=codes.device)
    first = 0
    for start in range(0, len(cells), 256):
        block = cells[start : start + 256]
        last = ends[min(start + 256, len(cells)) - 1]
        rows = order[first:last]
        first = last
        factor = _factors(
            block, codes, lists[start : start + 256]
        )  # (b, k + 1, d): C = factor' factor
        root = _root(factor) if spread.ndim == 0 else _bures(factor, spread[block])
        for part in rows.split(1024):
            x = displacements[part].to(codes.dtype)
            if spread.ndim == 0:
                x = x / float(spread) ** 0.5
            here = root[slot[part] - start]
            out[part] = (here.mT @ (here @ x[:, :, None]))[:, :, 0]
    return out


def _factors(block: torch.Tensor, codes: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    group = torch.cat([block[:, None], lists], 1)
    there = torch.cat([torch.ones_like(block)[:, None], lists != block[:, None]], 1)
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


def usual_length(
    displacements: torch.Tensor, labels: torch.Tensor, components: int
) -> torch.Tensor:
    """Return the median length of displacements (m, d) in each component, (components,).

    It is infinite for components without one.
    """
    lengths = displacements.norm(dim=1)
    usual = lengths.new_full((components,), float("inf"))
    for label in labels.unique().tolist():
        usual[label] = lengths[labels == label].median()
    return usual


def limited(displacements: torch.Tensor, usual: torch.Tensor) -> torch.Tensor:
    """Shorten displacements (m, d) smoothly, to less than their usual length (m,).

    Twenty codes say little about the directions in which they spread most, and the codes around one
    that stands apart say nothing about it.
    """
    ratio = displacements.norm(dim=1, keepdim=True) / usual[:, None].clamp(min=1e-30)
    return displacements / (1 + ratio**4) ** 0.25


def lean(
    displacements: torch.Tensor,
    slot: torch.Tensor,
    cells: torch.Tensor,
    codes: torch.Tensor,
    lists: torch.Tensor,
    spread: float,
) -> torch.Tensor:
    """Return what leads from a code to the mean of its list: 0.3 of the way on average over x.

    It grows as |x - c_i|^2 / (d sigma^2), so that the centroid keeps its code.

    Args:
        displacements: x - c_i, (m, d).
        slot: Which of the cells each point lies in, (m,).
        cells: The distinct cells, (u,).
        codes: y, (n, d).
        lists: Their neighbours, padded with the cell itself, (u, k).
        spread: sigma^2.

    Returns:
        (m, d); zero where the list is empty.
    """
    towards = torch.cat(
        [
            (codes[part] - codes[own][:, None]).sum(1)
            / (part != own[:, None]).sum(1, keepdim=True).clamp(min=1)
            for part, own in zip(lists.split(4096), cells.split(4096), strict=True)
        ]
    )
    share = displacements.square().mean(1, keepdim=True) / spread
    return LEAN * share.to(codes) * towards[slot]


def match_scale(
    start: torch.Tensor, displacements: torch.Tensor, codes: torch.Tensor, target: float
) -> float:
    """Return s such that start + s displacements lie as far from the codes as a new code would.

    Args:
        start: The codes that points of the source are sent to without them, (m, d).
        displacements: What they add, (m, d).
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
        new = start + middle * displacements
        reached = float(nearest(new, codes, 1)[0].median())
        low, high = (middle, high) if reached < target else (low, middle)
    return (low + high) / 2
