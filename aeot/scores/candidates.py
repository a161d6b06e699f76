"""Candidate lists: which sites may win a sample while the heights move a little.

The reference implementation in torch, for any device and without a compiler; on a CPU the kernels
of `aeot.scores.numba_engine` do the same faster.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LOW = -1e30  # the height of padding columns
WIDTH = 32  # groups of sixteen columns lie side by side in tiles of 16 * WIDTH


def load_kernels() -> Any | None:  # noqa: ANN401 - a module
    """Return the compiled kernels, or None where numba is missing or AEOT_NUMBA=0 is set."""
    if os.environ.get("AEOT_NUMBA") == "0":
        return None
    try:
        import aeot.scores.numba_engine as kernels
    except ImportError:
        return None
    return kernels


@dataclass(frozen=True)
class Segment:
    """Candidate lists of some samples, made at the heights `reference`.

    Attributes:
        reference: (n,) float64.
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

    def winners(
        self, heights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Return winner, runner-up (or -1), the gap between them, and the sum of best values."""
        shift = (heights - self.reference).to(torch.float32)
        kernels = load_kernels() if self.site.device.type == "cpu" else None
        if kernels:
            first, second = torch.empty(2, self.n_samples, dtype=torch.int32)
            gap = torch.empty(self.n_samples)
            arrays = (x.numpy() for x in (self.start, self.site, self.value, shift))
            total = kernels.relist(*arrays, first.numpy(), second.numpy(), gap.numpy())
            return first, second, gap, total
        m, n = self.n_samples, heights.shape[0]
        row = torch.repeat_interleave(torch.arange(m, device=shift.device), self.start.diff())
        site = self.site.long()
        score = self.value + shift[site]

        def best(score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            top = score.new_full((m,), LOW).scatter_reduce(0, row, score, "amax")
            hit = torch.where((score == top[row]) & (score > LOW), site, n)
            index = torch.full((m,), n, device=site.device).scatter_reduce(0, row, hit, "amin")
            return top, index

        top, first = best(score)
        next_top, second = best(torch.where(site == first[row], LOW, score))
        second = torch.where(second == n, -1, second)
        total = float(top.sum(dtype=torch.float64))
        return first.to(torch.int32), second.to(torch.int32), top - next_top, total


def outer(a: torch.Tensor, b: torch.Tensor, m: int) -> torch.Tensor:
    """Add to every row of `a` (rows, columns) each of the m rows of its group of `b`."""
    if m == 1:
        return a + b
    n = a.shape[1]
    return (a.view(-1, m, 1, n) + b.view(-1, 1, m, n)).reshape(-1, n)


def candidates(scores: torch.Tensor, radius: float, least: int, longest: int) -> list[torch.Tensor]:
    """Do in torch what `kernels.candidates` does."""
    lead = scores.amax(1)
    groups = scores.view(scores.shape[0], -1, 16, WIDTH).amax(2).flatten(1)
    span = torch.full_like(lead, radius)
    for _ in range(3):
        span = torch.where((groups >= (lead - span)[:, None]).sum(1) < least, 2 * span, span)
    value, site = (scores - lead[:, None]).topk(min(longest + 1, scores.shape[1]), dim=1)
    inside = value >= -span[:, None]
    bound = (
        torch.maximum(-span, torch.where(inside, value, LOW)[:, longest:].amax(1))
        if (value.shape[1] > longest)
        else -span
    )
    inside = inside[:, :longest]
    start = torch.zeros(scores.shape[0] + 1, dtype=torch.int64, device=scores.device)
    start[1:] = inside.sum(1).cumsum(0)
    kept = value[:, :longest][inside]
    return [start, site[:, :longest][inside].to(torch.int32), kept, lead, bound]


def joined(parts: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Join lists: (start, site, value, lead, bound) of several blocks into one."""
    if len(parts) == 1:
        return list(parts[0])
    offsets = np.cumsum([0] + [int(part[0][-1]) for part in parts])
    starts = [part[0][:-1] + int(o) for part, o in zip(parts, offsets, strict=False)]
    starts.append(parts[-1][0][-1:] + int(offsets[-2]))
    return [torch.cat(starts), *(torch.cat([part[i] for part in parts]) for i in range(1, 5))]
