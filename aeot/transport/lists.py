"""Samples of the source scored against all sites, block by block, and their candidate lists.

Blocks are keyed: block b of a stage is drawn from (seed, stage, b) alone, and its shape depends on
the number of sites only. Where the source's coordinates are independent, a block shares half
points: m first halves and m second halves make m * m samples, each distributed like the source,
for the matrix products of 2m rows (each half as wide).
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from aeot.transport.blocks import Problem

LOW = -1e30  # the height of padding columns


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds: once


def load_kernels() -> Any | None:  # noqa: ANN401 - a module
    """Return the compiled kernels, or None where numba is missing or AEOT_NUMBA=0 is set."""
    if os.environ.get("AEOT_NUMBA") == "0":
        return None
    try:
        import aeot.transport.kernels as kernels
    except ImportError:
        return None
    return kernels


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

    def unsettled(self, heights: torch.Tensor) -> int:
        """Count the lists that a site outside them might win at `heights`."""
        shift = (heights - self.reference).to(torch.float32)
        row = torch.repeat_interleave(
            torch.arange(self.n_samples, device=shift.device), self.start.diff()
        )
        score = self.value + shift[self.site.long()]
        top = score.new_full((self.n_samples,), LOW).scatter_reduce(0, row, score, "amax")
        return int((top < self.bound + shift.max()).sum())


class Scorer:
    """Scores keyed blocks of source samples against all sites of a problem.

    Args:
        problem: In standard coordinates.
        split: m, how many first halves meet how many second halves; 1 for independent samples.
        memory: Bytes that the scores in flight may take; rounding aside, it changes no result.
        threads: Worker threads; torch's setting if left out. It changes no result.

    Attributes:
        block_samples: Samples in one block.
        engine: "numba" or "torch".
    """

    def __init__(
        self,
        problem: Problem,
        *,
        split: int = 1,
        memory: int = 1 << 28,
        threads: int | None = None,
    ) -> None:
        self.problem, self.split = problem, split
        n, d = problem.sites.shape
        device = problem.sites.device
        self.kernels = load_kernels() if device.type == "cpu" else None
        self.engine = "numba" if self.kernels else "torch"
        tiles = max(1, round(n / 1024))
        self.width = 16 * -(-n // (256 * tiles))
        self.columns = 16 * self.width * tiles
        # Powers of two near 4 MB of scores (1 MB of halves): fixed by n, whatever the memory.
        power = int(np.log2(max((1 << 20) // self.columns, 1)))
        self.rows = int(2 ** min(max(power, 5), 9 if split > 1 else 12))
        self.block_samples = self.rows * split
        # Interleaved halves: with sorted principal axes both carry the same spread.
        order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
        self.cut = (d + 1) // 2 if split > 1 else d
        self.order = order if split > 1 else torch.arange(d)
        padded = torch.zeros(d, self.columns, device=device)
        padded[:, :n] = problem.sites.T[self.order.to(device)]
        self.left, self.right = padded[: self.cut].contiguous(), padded[self.cut :].contiguous()
        self.threads = threads or torch.get_num_threads()
        held = 4 * self.columns * (2 if split > 1 else 1)
        share = memory // (held * (self.threads if self.kernels else 1 + split))
        self.slice = min(self.rows, max(split, int(share) // split * split))
        self._scratch = threading.local()

    def draw(self, stage: str, block: int) -> Block:
        """Draw one block, from (seed, stage, block) alone."""
        z = self.problem.draw(self.rows, stage, self.split, block)
        if self.split == 1:
            return Block(z, z.new_zeros(1, 0), self.rows)
        z = z[:, self.order.to(z.device)]
        left, right = z[:, : self.cut].contiguous(), z[:, self.cut :].contiguous()
        return Block(left, right, self.split)

    def winners(
        self, heights: torch.Tensor, stage: str, blocks: range
    ) -> Iterator[tuple[Block, torch.Tensor, torch.Tensor]]:
        """Yield, block by block, the samples, their winning sites (int32) and best scores."""
        h = self._padded(heights)

        def work(index: int) -> tuple[Block, torch.Tensor, torch.Tensor]:
            block = self.draw(stage, index)
            site = torch.empty(self.block_samples, dtype=torch.int32, device=h.device)
            value = torch.empty(self.block_samples, dtype=torch.float32, device=h.device)
            for a, b, group, rows in self._scores(block, h):
                part = slice(rows.start * self.split, rows.stop * self.split)
                if self.kernels:
                    self.kernels.winners(
                        a, b, group, self.width, site.numpy()[part], value.numpy()[part]
                    )
                else:
                    value[part], best = _outer(a, b, self.split).max(1)
                    site[part] = best.to(torch.int32)
            return block, site, value

        yield from self._each(work, blocks)

    def candidates(
        self,
        heights: torch.Tensor,
        stage: str,
        blocks: range,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> list[Segment]:
        """Make the candidate lists of some blocks.

        Args:
            heights: (n,) float64, standard coordinates.
            stage: Key of the samples.
            blocks: Which blocks.
            radius: How far below the best score a listed site may be.
            least: Double the radius where fewer groups of sixteen sites are in reach.
            longest: The most entries of a list.
        """
        h = self._padded(heights)
        longest = min(longest, self.problem.sites.shape[0])

        def work(index: int) -> list[torch.Tensor]:
            parts = []
            for a, b, group, _ in self._scores(self.draw(stage, index), h):
                if self.kernels:
                    m = a.shape[0] * self.split
                    out = [
                        np.empty(m + 1, np.int64),
                        np.empty(m * longest, np.int32),
                        np.empty(m * longest, np.float32),
                        np.empty(m, np.float32),
                        np.empty(m, np.float32),
                    ]
                    self.kernels.candidates(a, b, group, self.width, radius, least, *out)
                    used = out[0][-1]
                    out[1:3] = out[1][:used].copy(), out[2][:used].copy()
                    parts.append([torch.from_numpy(x) for x in out])
                else:
                    scores = _outer(a, b, self.split)
                    parts.append(_candidates(scores, self.width, radius, least, longest))
            return _joined(parts)

        segments, waiting, size = [], [], 0
        last = len(blocks) - 1
        for count, piece in enumerate(self._each(work, blocks)):
            waiting.append(piece)
            size += piece[4].shape[0]
            if size >= 1 << 17 or count == last:
                start, site, value, lead, bound = _joined(waiting)
                total = float(lead.sum(dtype=torch.float64))
                segments.append(Segment(heights, start, site, value, bound, total))
                waiting, size = [], 0
        return segments

    def add_points(self, block: Block, site: np.ndarray, sums: np.ndarray) -> None:
        """Add every sample of a block to the row of its cell in `sums` (n, d), float64."""
        if self.kernels:
            # One row of sums is contiguous in the order of the halves.
            self.kernels.add_points(
                site, block.left.numpy(), block.right.numpy(), block.group, self.order.numpy(), sums
            )
            return
        m = self.split
        left = block.left.repeat_interleave(m, 0)
        right = block.right.view(-1, 1, m, block.right.shape[1])
        right = right.expand(-1, m, -1, -1).reshape(left.shape[0], -1) if m > 1 else left[:, :0]
        points = torch.cat([left, right], 1)[:, torch.argsort(self.order)]
        np.add.at(sums, site, points.cpu().numpy().astype(np.float64))

    def blocks_for(self, samples: float) -> int:
        """Return the number of blocks that hold at least `samples` samples."""
        return max(1, -(-int(samples) // self.block_samples))

    def _padded(self, heights: torch.Tensor) -> torch.Tensor:
        h = torch.full((self.columns,), LOW, device=self.problem.sites.device)
        h[: heights.shape[0]] = heights.to(h)
        return h

    def _scores(
        self, block: Block, h: torch.Tensor
    ) -> Iterator[tuple[Any, Any, int, slice]]:  # arrays for numba, tensors for torch
        m = self.split
        for first in range(0, self.rows, self.slice):
            rows = slice(first, min(first + self.slice, self.rows))
            if self.kernels:
                a = self._buffer("a", rows.stop - first)
                np.matmul(block.left[rows].numpy(), self.left.numpy(), out=a)
            else:
                a = block.left[rows] @ self.left
            if m == 1:
                b = h[None]
                yield a, b.numpy() if self.kernels else b, rows.stop - first, rows
            elif self.kernels:
                b = self._buffer("b", rows.stop - first)
                np.matmul(block.right[rows].numpy(), self.right.numpy(), out=b)
                b += h.numpy()
                yield a, b, m, rows
            else:
                yield a, torch.addmm(h, block.right[rows], self.right), m, rows

    def _buffer(self, name: str, rows: int) -> np.ndarray:
        # Fresh megabytes for every block would cost more in page faults than the product itself.
        held = getattr(self._scratch, name, None)
        if held is None:
            held = np.empty((self.slice, self.columns), np.float32)
            setattr(self._scratch, name, held)
        return held[:rows]

    def _each(self, work: Callable[[int], Any], blocks: range) -> Iterator[Any]:
        # One thread per block with single-threaded products: no barriers, and the same bits for
        # any number of threads.
        if not self.kernels:
            yield from map(work, blocks)
            return
        with _threads().limit(limits=1, user_api="blas"):
            if self.threads == 1:
                yield from map(work, blocks)
                return
            with ThreadPoolExecutor(self.threads) as pool:
                running: deque = deque()
                for index in blocks:
                    running.append(pool.submit(work, index))
                    if len(running) > 2 * self.threads:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()


def _outer(a: torch.Tensor, b: torch.Tensor, m: int) -> torch.Tensor:
    # (samples, columns): row k of a with each of the m rows of its group of b
    if m == 1:
        return a + b
    n = a.shape[1]
    return (a.view(-1, m, 1, n) + b.view(-1, 1, m, n)).reshape(-1, n)


def _candidates(
    scores: torch.Tensor, width: int, radius: float, least: int, longest: int
) -> list[torch.Tensor]:
    """Do in torch what `kernels.candidates` does."""
    lead = scores.amax(1)
    groups = scores.view(scores.shape[0], -1, 16, width).amax(2).flatten(1)
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


def _joined(parts: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    if len(parts) == 1:
        return list(parts[0])
    offsets = np.cumsum([0] + [int(part[0][-1]) for part in parts])
    starts = [part[0][:-1] + int(o) for part, o in zip(parts, offsets, strict=False)]
    starts.append(parts[-1][0][-1:] + int(offsets[-2]))
    return [torch.cat(starts), *(torch.cat([part[i] for part in parts]) for i in range(1, 5))]
