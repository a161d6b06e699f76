"""What engines work on: the planes of a solve, blocks of samples, winners and candidate lists.

A sample is a row of 32-bit coordinates; where the source allows it, a block shares half points: row
k of `left` meets the m rows of `right` of its group, which makes m samples of two halves each.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch

LOW = -1e30  # the height of padding columns
WIDTH = 32  # groups of sixteen columns lie side by side in tiles of 16 * WIDTH
WIDER = 12  # doublings of the radius of a list that is too short: far sites have wide gaps
FIXED = 2.0**29  # one, in sums of whole numbers: a float32 near one keeps all its digits
_TILE = 1 << 20  # numbers held at once; a constant, so that no setting changes a result


@dataclass(frozen=True)
class Planes:
    """The sites of a solve as an engine holds them, without their heights.

    Attributes:
        sites: (n, d) float32, columns in the order of the coordinates of blocks.
        left: (p, columns) float32, the coordinates of first halves; zero in padding columns.
        right: (d - p, columns) float32, those of second halves.
        slice: Rows of a block that are scored at once, at most.
        threads: Worker threads, where an engine makes use of them.
        scratch: Memory that each thread uses again for every block.
    """

    sites: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    slice: int
    threads: int
    scratch: threading.local = field(default_factory=threading.local, repr=False)

    def shorter(self, rows: int) -> Planes:
        """Return the same for fewer rows at once, with scratch memory of its own."""
        return replace(self, slice=rows, scratch=threading.local())

    @property
    def columns(self) -> int:
        """Number of sites, filled up to whole tiles."""
        return self.left.shape[1]

    def padded(self, heights: torch.Tensor) -> torch.Tensor:
        """Return heights (n,) as (columns,) float32, `LOW` in padding columns."""
        h = torch.full((self.columns,), LOW, dtype=torch.float32, device=self.left.device)
        h[: heights.shape[0]] = heights.to(h)
        return h


def padded_columns(n: int) -> int:
    """Return how many columns whole tiles for n sites have."""
    return 16 * WIDTH * -(-n // (16 * WIDTH))


def rows_at_once(d: int, rows: int) -> int:
    """Return how many points to score together: so many as make it worth reading wide sites.

    Args:
        d: Dimension.
        rows: How many it would be for narrow sites.
    """
    return min(max(rows, min(d // 2, 512)), max(64, (1 << 24) // d))  # of 64 MB


@dataclass(frozen=True)
class Block:
    """The samples of one block: row k of `left` meets the m rows of `right` of its group.

    Attributes:
        left: (rows, p) float32.
        right: (groups * m, q) float32; (1, 0) for independent samples.
        group: Rows of `left` per group.
        drawn: The points of the source as it gave them (rows, p), where whole points stand for
            such; None where the block was drawn in the coordinates of the solve.
    """

    left: torch.Tensor
    right: torch.Tensor
    group: int
    drawn: torch.Tensor | None = None

    @property
    def split(self) -> int:
        """The number m of second halves that every first half meets; 1 for whole points."""
        return self.right.shape[0] // (self.left.shape[0] // self.group)

    def rows(self, rows: slice) -> Block:
        """Return some rows, whole groups where halves are shared, as a block."""
        drawn = None if self.drawn is None else self.drawn[rows]
        if self.split == 1:
            return Block(self.left[rows], self.right, rows.stop - rows.start, drawn)
        return Block(self.left[rows], self.right[rows], self.group, drawn)

    def some(self, samples: torch.Tensor) -> torch.Tensor:
        """Return chosen samples (k,) of the block as points, (k, p + q)."""
        m = self.split
        row = samples // m
        return torch.cat([self.left[row], self.right[row // self.group * m + samples % m]], 1)

    def points(self) -> torch.Tensor:
        """Return every sample of the block as one point, (rows * m, p + q)."""
        m = self.split
        if m == 1:
            return self.left
        left = self.left.repeat_interleave(m, 0)
        right = self.right.view(-1, 1, m, self.right.shape[1]).expand(-1, self.group, -1, -1)
        return torch.cat([left, right.reshape(left.shape[0], -1)], 1)


@dataclass(frozen=True)
class Winners:
    """Who wins the samples of a block.

    Attributes:
        block: The samples.
        site: (m,) int32.
        value: (m,) float32, the best score.
        second: (m,) int32, the runner-up, or (0,).
        gap: (m,) float32, how far it is behind, or (0,).
        unsure: (k,) int64, the samples whose winner rounding may have chosen, if asked for.
    """

    block: Block
    site: torch.Tensor
    value: torch.Tensor
    second: torch.Tensor
    gap: torch.Tensor
    unsure: torch.Tensor


def all_won(block: Block, parts: list[Winners]) -> Winners:
    """Join the winners of consecutive parts of a block."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0] + [len(part.site) for part in parts])
    site, value, second, gap = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("site", "value", "second", "gap")
    )
    unsure = torch.cat([part.unsure + int(k) for part, k in zip(parts, ends, strict=False)])
    return Winners(block, site, value, second, gap, unsure)


# The lists of one block: where each starts (m + 1,) int64; sites (entries,) int32; scores minus the
# best (entries,) float32; the best score (m,) float32; how far below the best (m,) float32, <= 0,
# every site lies that is in no list.
Listed: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

# Samples near a facet: winner (k,), runner-up (k,), and weight (k,) float64. The weights of a pair,
# summed and divided by the number of samples, estimate the mass of its facet per unit of height.
Edges: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class CandidateLists:
    """Which sites may win some samples while the heights move a little.

    Attributes:
        reference: (n,) float64, the heights that the lists were made at.
        start: (m + 1,) int64, where each list starts.
        site: (entries,) int32.
        value: (entries,) float32, score minus the best score.
        bound: (m,) float32: no unlisted site scores above the best plus this.
        lead: Sum of the best scores.
    """

    reference: torch.Tensor
    start: torch.Tensor
    site: torch.Tensor
    value: torch.Tensor
    bound: torch.Tensor
    lead: float

    @property
    def n_samples(self) -> int:
        """Number of lists."""
        return self.bound.shape[0]

    def shift(self, heights: torch.Tensor) -> torch.Tensor:
        """Return what each site's height gained since the lists were made, (n,) float32."""
        return (heights - self.reference).to(torch.float32)


def joined(parts: list[Listed]) -> Listed:
    """Join the lists of several blocks into one."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0] + [int(part[0][-1]) for part in parts])
    starts = [part[0][:-1] + int(o) for part, o in zip(parts, offsets, strict=False)]
    starts.append(parts[-1][0][-1:] + int(offsets[-2]))
    _, site, value, lead, bound = zip(*parts, strict=True)
    return torch.cat(starts), torch.cat(site), torch.cat(value), torch.cat(lead), torch.cat(bound)


def add_rows(sums: torch.Tensor, index: torch.Tensor, rows: torch.Tensor, *, sign: int = 1) -> None:
    """Add rows (m, d), or subtract them, to the rows of `sums` (n, d) that `index` (m,) names.

    Sums are whole numbers, in units of 1 / `FIXED`: their bits depend on no order of adding.
    """
    whole = (rows.to(torch.float64) * FIXED).round().to(torch.int64)
    sums.index_add_(0, index, whole, alpha=sign)


def mean_rows(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return sums (n, d) of `add_rows` divided by how many rows (n,) they are of, float64."""
    return sums.to(torch.float64) / FIXED / counts.clamp(min=1)[:, None]


def rounding(
    reach: torch.Tensor, heights: torch.Tensor, d: int, dtype: torch.dtype
) -> torch.Tensor:
    """Bound how far rounding moves the difference of two scores <x, y_i> + h_i, (m,) float64.

    Each score is off by at most (d + 2) u |x| |y_i| of its sum, in any order of adding up (N. J.
    Higham, "Accuracy and stability of numerical algorithms", 2002, eq. 3.5), and by what the
    rounding of point, site, height and of the result adds; u is half the precision's epsilon.

    Args:
        reach: (m,) float64, |x| times the largest |y_i|.
        heights: (n,), as added.
        d: Number of coordinates.
        dtype: Of the scores.
    """
    kind = torch.finfo(dtype)
    largest = heights.abs().max().to(torch.float64)
    return kind.eps * ((d + 6) * reach + 3 * largest) + d * kind.tiny


def sure(
    values: torch.Tensor, points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor
) -> torch.Tensor:
    """Return where rounding cannot have changed which planes are the j + 1 highest, (m, k) for j.

    Args:
        values: (m, k + 1), the highest scores in the dtype of the points, best first; those of
            float64 count as right.
        points: (m, d).
        sites: (n, d), as multiplied.
        heights: (n,), as added.
    """
    if values.dtype == torch.float64:
        return torch.ones_like(values[:, 1:], dtype=torch.bool)
    longest, sizes = (
        torch.linalg.vector_norm(t, dim=1, dtype=torch.float64) for t in (sites, points)
    )
    slack = rounding(sizes * longest.max(), heights, points.shape[1], values.dtype)
    return values[:, :-1] - values[:, 1:] > slack[:, None]


def scores_of(
    points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """Return the scores of chosen sites (m, k) at every point (m, d), in float64, (m, k)."""
    h = heights.to(torch.float64)
    parts = []
    rows = max(1, _TILE // (indices.shape[1] * points.shape[1]))
    for x, near in zip(points.split(rows), indices.split(rows), strict=True):
        products = x.to(torch.float64)[:, None] * sites[near].to(torch.float64)  # (rows, k, d)
        parts.append(products.sum(2) + h[near])
    return torch.cat(parts)
