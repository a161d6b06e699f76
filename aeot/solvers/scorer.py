"""Samples of the source scored against all sites, block by block, and their candidate lists.

Blocks are keyed: block b of a stage is drawn from (seed, stage, b) alone, and its shape depends on
the number of sites only. Where the source's coordinates are independent, a block shares half
points: m first halves and m second halves make m * m samples, each distributed like the source,
for the matrix products of 2m rows (each half as wide).
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from aeot.scores.candidates import LOW, WIDTH, Segment, candidates, joined, load_kernels, outer
from aeot.solvers.problem import Problem


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds: once


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
        order: (d,) int64, the order of the coordinates in blocks and in `add_points`.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        split: int = 1,
        memory: int = 1 << 28,
        threads: int | None = None,
    ) -> None:
        self.problem, self.split, self.memory = problem, split, memory
        n, d = problem.sites.shape
        device = problem.sites.device
        self.kernels = load_kernels() if device.type == "cpu" else None
        self.engine = "numba" if self.kernels else "torch"
        self.columns = 16 * WIDTH * -(-n // (16 * WIDTH))
        # Powers of two near 16 MB of scores: fixed by n, whatever the memory.
        power = int(np.log2(max((1 << 22) // self.columns, 1)))
        self.rows = int(2 ** min(max(power, 8), 9 if split > 1 else 12))
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
        if self.kernels:
            # Narrow products cost less than the way of their results to memory and back; wide
            # ones want 64 rows.
            cached = (5 << 17 if self.cut <= 12 else 1 << 22) // (4 * self.columns)
            share = min(share, 2 ** int(np.log2(max(cached, 1 if self.cut <= 12 else 64))))
        self.slice = min(self.rows, max(split, int(share) // split * split))
        self._scratch = threading.local()

    def without_split(self) -> Scorer:
        """Return the same scorer of independent samples."""
        return Scorer(self.problem, memory=self.memory, threads=self.threads)

    def draw(self, stage: str, block: int) -> Block:
        """Draw one block, from (seed, stage, block) alone."""
        z = self.problem.draw(self.rows, stage, self.split, block)
        if self.split == 1:
            return Block(z, z.new_zeros(1, 0), self.rows)
        # Independent coordinates may be taken in any order, so here in that of `order`.
        z = z.view(-1)
        left, right = z[: self.rows * self.cut], z[self.rows * self.cut :]
        return Block(left.view(self.rows, -1), right.view(self.rows, -1), self.split)

    def winners(
        self, heights: torch.Tensor, stage: str, blocks: range, *, runners: bool = False
    ) -> Iterator[Winners]:
        """Yield, block by block, the samples and the sites that win them.

        Args:
            heights: (n,) float64, standard coordinates.
            stage: Key of the samples.
            blocks: Which blocks.
            runners: Find the runners-up, too.
        """
        h = self._padded(heights)

        def work(index: int) -> Winners:
            block = self.draw(stage, index)
            whole, integer = self.block_samples, {"dtype": torch.int32, "device": h.device}
            site, value = torch.empty(whole, **integer), torch.empty(whole, device=h.device)
            second = torch.empty(whole if runners else 0, **integer)
            gap = torch.empty(whole if runners else 0, device=h.device)
            for a, b, group, rows in self._scores(block, h):
                part = slice(rows.start * self.split, rows.stop * self.split)
                if self.kernels:
                    out = (x.numpy()[part] for x in (site, value, second, gap))
                    self.kernels.winners(a, b, group, *out)
                    continue
                top = outer(a, b, self.split).topk(2, dim=1)
                value[part], site[part] = top.values[:, 0], top.indices[:, 0].to(torch.int32)
                if runners:
                    second[part] = top.indices[:, 1].to(torch.int32)
                    gap[part] = top.values[:, 0] - top.values[:, 1]
            return Winners(block, site, value, second, gap)

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
                    self.kernels.candidates(a, b, group, radius, least, *out)
                    used = out[0][-1]
                    out[1:3] = out[1][:used].copy(), out[2][:used].copy()
                    parts.append([torch.from_numpy(x) for x in out])
                else:
                    scores = outer(a, b, self.split)
                    parts.append(candidates(scores, radius, least, longest))
            return joined(parts)

        segments, waiting, size = [], [], 0
        last = len(blocks) - 1
        for count, piece in enumerate(self._each(work, blocks)):
            waiting.append(piece)
            size += piece[4].shape[0]
            if size >= 1 << 15 or count == last:
                start, site, value, lead, bound = joined(waiting)
                total = float(lead.sum(dtype=torch.float64))
                segments.append(Segment(heights, start, site, value, bound, total))
                waiting, size = [], 0
        return segments

    def cluster_scores(
        self, heights: torch.Tensor, edges: np.ndarray, stage: str, blocks: range
    ) -> Iterator[torch.Tensor]:
        """Yield, block by block, every sample's best score within each cluster, (rows, clusters).

        Sites edges[g] to edges[g + 1] form cluster g; `split` must be 1.
        """
        h = self._padded(heights)
        cells = torch.from_numpy(np.repeat(np.arange(edges.size - 1), np.diff(edges)))

        def work(index: int) -> torch.Tensor:
            block = self.draw(stage, index)
            out = torch.empty(self.rows, edges.size - 1, device=h.device)
            for a, b, _, rows in self._scores(block, h):
                if self.kernels:
                    self.kernels.cluster_maxima(a, b[0], edges, out.numpy()[rows])
                else:
                    scores = (a + b)[:, : cells.shape[0]]
                    index_ = cells.to(h.device).expand(scores.shape[0], -1)
                    out[rows] = out[rows].fill_(LOW).scatter_reduce(1, index_, scores, "amax")
            return out

        yield from self._each(work, blocks)

    def scores_of(self, block: Block, heights: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        """Return the scores of chosen sites at the samples of a block, (samples, k)."""
        index = torch.from_numpy(chosen).to(heights.device)
        a = block.left @ self.left[:, index]
        b = heights[index].to(a)[None]
        if self.split > 1:
            b = b + block.right @ self.right[:, index]
        return outer(a, b, self.split)

    def add_points(self, block: Block, site: np.ndarray, sums: np.ndarray) -> None:
        """Add every sample to the row of its cell in `sums` (n, d), columns in `order`."""
        if self.kernels:
            halves = block.left.numpy(), block.right.numpy()
            self.kernels.add_points(site, *halves, block.group, sums)
            return
        m, points = self.split, block.left
        if m > 1:
            right = block.right.view(-1, 1, m, block.right.shape[1]).expand(-1, m, -1, -1)
            left = block.left.repeat_interleave(m, 0)
            points = torch.cat([left, right.reshape(left.shape[0], -1)], 1)
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
