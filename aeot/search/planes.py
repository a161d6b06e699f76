"""What engines work on: the planes of a solve, blocks of samples, winners and candidate lists.

A sample is a row of 32-bit coordinates; where the source allows it, a block shares half points: row
k of `left` meets the m rows of `right` of its group, which makes m samples of two halves each.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

LOW = -1e30  # the height of padding columns
WIDTH = 32  # groups of sixteen columns lie side by side in tiles of 16 * WIDTH


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


@dataclass(frozen=True)
class Block:
    """The samples of one block: row k of `left` meets the m rows of `right` of its group.

    Attributes:
        left: (rows, p) float32.
        right: (groups * m, q) float32; (1, 0) for independent samples.
        group: Rows of `left` per group.
    """

    left: torch.Tensor
    right: torch.Tensor
    group: int

    @property
    def split(self) -> int:
        """The number m of second halves that every first half meets; 1 for whole points."""
        return self.right.shape[0] // (self.left.shape[0] // self.group)

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
    """

    block: Block
    site: torch.Tensor
    value: torch.Tensor
    second: torch.Tensor
    gap: torch.Tensor


# The lists of one block: where each starts (m + 1,) int64; sites (entries,) int32; scores minus the
# best (entries,) float32; the best score (m,) float32; how far below the best (m,) float32, <= 0,
# every site lies that is in no list.
Listed: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

# Samples near a facet: winner (k,), runner-up (k,), and weight (k,) float64. The weights of a pair,
# summed and divided by the number of samples, estimate the mass of its facet per unit of height.
Edges: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


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
