"""Extensions of the transport map to new codes: pure functions of owners, centroids and codes.

The map sends a whole cell to one code. An extension spreads it: it sends the centroid of the cell
to that code and fills the space between codes, never mixing two codes that the map separates.

References:
    D. An, Y. Guo, N. Lei, Z. Luo, S.-T. Yau, X. Gu, "AE-OT: a new generative model based on
    extended semi-discrete optimal transport", ICLR 2020 (inverse distance, pair interpolation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from aeot import _check
from aeot.search.nearest import nearest

# (i, j) -> whether the map separates the cells of each pair
Separated = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Cut(Protocol):
    """What the extended map asks of a singular set; `SingularSet` answers it."""

    @property
    def components(self) -> torch.Tensor:
        """The mode of every cell, (n,)."""
        ...

    def crosses(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Whether the map separates the cells of each pair."""
        ...


class Sides(NamedTuple):
    """Which cells may be mixed.

    Attributes:
        labels: Component of every cell (n,); only cells of one component are mixed.
        separated: Says which pairs are not; None: nothing is cut, and there is one component.
    """

    labels: torch.Tensor
    separated: Separated | None


def sides_of(singular: Cut | None, n: int, device: torch.device) -> Sides:
    """Return which of n cells a singular set lets be mixed; all of them where nothing is cut.

    Raises:
        ValueError: If it is none, or of another map.
    """
    if singular is None:
        return Sides(torch.zeros(n, dtype=torch.int64, device=device), None)
    if not isinstance(getattr(singular, "components", None), torch.Tensor):
        way_out = "find_singularities(brenier) makes one"
        raise _check.fail("singular", "be a SingularSet or None", _check.shown(singular), way_out)
    if len(singular.components) != n:
        got = f"one of {len(singular.components)}"
        raise _check.fail("singular", f"be of a map of {n} sites", got)
    return Sides(singular.components, singular.crosses)


class Near(NamedTuple):
    """The cells in which some points lie, and the others that each may be mixed with.

    Attributes:
        cells: The distinct cells (u,).
        lists: Their neighbours, nearest first, padded with the cell itself (u, k).
        slot: Which of the cells each point lies in (m,).
    """

    cells: torch.Tensor
    lists: torch.Tensor
    slot: torch.Tensor

    @property
    def owners(self) -> torch.Tensor:
        """Cell of every point, (m,)."""
        return self.cells[self.slot]

    @property
    def spare(self) -> torch.Tensor:
        """The first neighbour of every point's cell; the cell itself if it has none, (m,)."""
        return self.lists[self.slot, 0]

    def of(self, rows: torch.Tensor) -> Near:
        """The same for some of the points."""
        return self._replace(slot=self.slot[rows])


def compatible(
    owners: torch.Tensor, candidates: torch.Tensor, separated: Separated
) -> torch.Tensor:
    """Return which candidates may be mixed: with the owner and with every one kept before.

    Args:
        owners: (m,) cells.
        candidates: (m, k) cells, best first; the owner itself may be among them.
        separated: Says which pairs the map separates.

    Returns:
        (m, k) bool; no two kept cells of a row, nor the owner and a kept one, are separated.
    """
    keep = ~separated(owners[:, None].expand_as(candidates), candidates)
    for column in range(1, candidates.shape[1]):
        rows = keep[:, column].nonzero()[:, 0]
        if rows.numel() == 0:
            continue
        this = candidates[rows, column, None].expand(-1, column)
        clash = (separated(this, candidates[rows, :column]) & keep[rows, :column]).any(1)
        keep[rows, column] = ~clash
    return keep


def around(
    owners: torch.Tensor, codes: torch.Tensor, sides: Sides, k: int, *, engine: str = "auto"
) -> Near:
    """Find, for the cells of some points, up to k nearest codes they may be mixed with.

    Args:
        owners: Cells of the points (m,).
        codes: (n, d).
        sides: Which cells may be mixed.
        k: Length of the lists.
        engine: Of the search for the nearest codes.
    """
    cells, slot = owners.unique(return_inverse=True)
    lists = cells[:, None].repeat(1, k)
    sizes = torch.bincount(sides.labels)
    mine = sides.labels[cells]
    for label in mine[sizes[mine] > 1].unique():
        rows = (mine == label).nonzero()[:, 0]
        inside = (sides.labels == label).nonzero()[:, 0]
        wanted = min(inside.numel(), k + 1 if sides.separated is None else 2 * k + 1)
        _, found = nearest(codes[cells[rows]], codes[inside], wanted, engine=engine)
        found = inside[found]
        own = cells[rows, None]
        keep = found != own
        if sides.separated is not None:
            keep &= compatible(cells[rows], found, sides.separated)
        # A stable sort moves the kept ones to the front and leaves them nearest first.
        order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
        kept = keep.gather(1, order)
        lists[rows, : order.shape[1]] = torch.where(kept, found.gather(1, order), own)
    return Near(cells, lists, slot)


def pair(
    planes: torch.Tensor,
    near: Near,
    codes: torch.Tensor,
    weights: torch.Tensor,
    separated: Separated | None,
) -> torch.Tensor:
    """Mix the owner with the first runner-up on its side: w y_i + (1 - w) y_j.

    Where all runners-up are separated from the owner, its nearest regular neighbour serves.

    Args:
        planes: The highest planes at each point, best first, (m, k).
        near: Of the points.
        codes: (n, d).
        weights: w, (m, 1).
        separated: Says which pairs are separated.

    Returns:
        (m, d).
    """
    owner = planes[:, 0]
    others = torch.cat([planes[:, 1:], near.spare[:, None]], 1)
    allowed = torch.ones_like(others, dtype=torch.bool)
    if separated is not None:
        allowed = ~separated(owner[:, None].expand_as(others), others)
    allowed[:, -1] = True
    partner = others.gather(1, allowed.to(torch.int8).argmax(1, keepdim=True))[:, 0]
    return weights * codes[owner] + (1 - weights) * codes[partner]


def inverse_distance(
    points: torch.Tensor,
    near: Near,
    found: torch.Tensor,
    centroids: torch.Tensor,
    separated: Separated | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh the cells of the centroids nearest to each point by 1 / |x - c_k|.

    Args:
        points: (m, d).
        near: Of the points.
        found: Cells of the nearest centroids (m, k).
        centroids: (n, d).
        separated: Says which pairs are separated; what is separated from the owner, or from a
            nearer one, is left out.

    Returns:
        Cells and their weights (m, k + 2); a point on a centroid gives it all the weight.
    """
    owners = near.owners
    cells = torch.cat([owners[:, None], found, near.spare[:, None]], 1)
    keep = torch.ones_like(cells, dtype=torch.bool)
    if separated is not None:
        keep = compatible(owners, cells, separated)
    keep[:, 1:] &= cells[:, 1:] != owners[:, None]
    # The spare neighbour only helps those who would be left alone.
    keep[:, -1] &= keep[:, :-1].sum(1) == 1
    distance = (points[:, None] - centroids[cells]).norm(dim=2)
    weights = keep / distance.clamp(min=torch.finfo(points.dtype).tiny ** 0.5)
    return cells, weights / weights.sum(1, keepdim=True)


def barycentric(
    points: torch.Tensor, near: Near, centroids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh the owner and its neighbours such that their centroids average to the point.

    The weights of sum one minimise |x - sum_k l_k c_k|^2 + e sum_k l_k^2 |x - c_k|^2, e = 1e-3: a
    point on a centroid gets its code, and centroids far away weigh little. They may be negative.

    Args:
        points: (m, d).
        near: Of the points.
        centroids: (n, d).

    Returns:
        Cells and their weights (m, k + 1).

    References:
        S. T. Roweis, L. K. Saul, "Nonlinear dimensionality reduction by locally linear embedding",
        Science 290 (2000), note 9, with the regulariser weighted by distance.
    """
    owners = near.owners
    cells = torch.cat([owners[:, None], near.lists[near.slot]], 1)
    keep = cells != owners[:, None]
    keep[:, 0] = True
    arms = (centroids[cells] - points[:, None]).to(torch.float64)  # (m, k, d)
    square = arms.square().sum(2)
    unit = square.amax(1).clamp(min=1e-300)
    # |x - sum l c|^2 with sum l = 1 is l' G l; the solution of (G + e D) l = 1, normalised.
    gram = (arms @ arms.mT + 1e-3 * torch.diag_embed(square)) / unit[:, None, None]
    gram = gram + torch.diag_embed(torch.where(keep, 1e-12, 1e12).to(torch.float64))
    weights = torch.linalg.solve(gram, torch.ones_like(square)) * keep
    return cells, (weights / weights.sum(1, keepdim=True)).to(points.dtype)


def mixed(codes: torch.Tensor, cells: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mix the codes (n, d) of cells (m, k) by weights (m, k): (m, d)."""
    return (weights[:, :, None] * codes[cells]).sum(1)


# Measured on 60 000 codes of Fashion-MNIST in 64 dimensions (`benchmarks/bench_extension.py`):
# leaning by more makes clearer images of fewer kinds, the last tenth of newness makes unclear ones.
LEAN = 0.3
NEWNESS = 0.92


def local_affine(
    displacements: torch.Tensor, near: Near, codes: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    """Return A_i (x - c_i): the displacement from the code that the local affine map adds.

    A_i is the symmetric positive map that carries the spread of the source inside cell i onto the
    covariance of the codes around y_i (the owner and its list). With one isotropic variance
    sigma^2 for all cells it is C^(1/2) / sigma, of the rank of the list; with a covariance S_i for
    each cell it is the optimal map between the two Gaussians,
    S^(-1/2) (S^(1/2) C S^(1/2))^(1/2) S^(-1/2).

    Args:
        displacements: x - c_i, (m, d).
        near: Of the points x.
        codes: y, (n, d).
        spread: sigma^2, one number, or S of every cell (n, d, d).

    Returns:
        (m, d) in the dtype of the codes; zero where the list is empty.
    """
    cells, lists, slot = near
    order = slot.argsort(stable=True)
    ends = torch.bincount(slot, minlength=len(cells)).cumsum(0).tolist()
    out = torch.empty(displacements.shape, dtype=codes.dtype, device=codes.device)
    first = 0
    for start in range(0, len(cells), 256):
        block = cells[start : start + 256]
        last = ends[min(start + 256, len(cells)) - 1]
        rows = order[first:last]
        first = last
        factor = _factors(block, codes, lists[start : start + 256])  # C = factor' factor
        root = _root(factor) if spread.ndim == 0 else _bures(factor, spread[block])
        for part in rows.split(1024):
            x = displacements[part].to(codes.dtype)
            if spread.ndim == 0:
                x = x / float(spread) ** 0.5
            here = root[slot[part] - start]
            out[part] = (here.mT @ (here @ x[:, :, None]))[:, :, 0]
    return out


def _factors(block: torch.Tensor, codes: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    # Of cells (b,) and their lists (b, k): (b, k + 1, d).
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
    displacements: torch.Tensor, near: Near, codes: torch.Tensor, spread: float
) -> torch.Tensor:
    """Return what leads from a code to the mean of its list: 0.3 of the way on average over x.

    It grows as |x - c_i|^2 / (d sigma^2), so that the centroid keeps its code.

    Args:
        displacements: x - c_i, (m, d).
        near: Of the points x.
        codes: y, (n, d).
        spread: sigma^2.

    Returns:
        (m, d); zero where the list is empty.
    """
    towards = torch.cat(
        [
            (codes[part] - codes[own][:, None]).sum(1)
            / (part != own[:, None]).sum(1, keepdim=True).clamp(min=1)
            for part, own in zip(near.lists.split(4096), near.cells.split(4096), strict=True)
        ]
    )
    share = displacements.square().mean(1, keepdim=True) / spread
    return LEAN * share.to(codes) * towards[near.slot]


def match_scale(
    start: torch.Tensor,
    displacements: torch.Tensor,
    codes: torch.Tensor,
    target: float,
    *,
    engine: str = "auto",
) -> float:
    """Return s such that start + s displacements lie as far from the codes as a new code would.

    Args:
        start: The codes that points of the source are sent to without them, (m, d).
        displacements: What they add, (m, d).
        codes: y, (n, d).
        target: Median distance from a new code to the nearest given one.
        engine: Of the search for nearest codes.

    Returns:
        s in [0, 8]; 0 if the target is zero, 1 if no displacement is there to scale.
    """
    if not bool(displacements.any()):
        return 1.0
    low, high = 0.0, 8.0
    for _ in range(12):
        middle = (low + high) / 2
        new = start + middle * displacements
        reached = float(nearest(new, codes, engine=engine)[0].median())
        low, high = (middle, high) if reached < target else (low, middle)
    return (low + high) / 2
