"""Keyed blocks of source samples, scored against all sites of a problem by an engine.

Block b of a stage is drawn from (seed, stage, b) alone, and its shape depends on the number of
sites only. A block may share half points: m first halves and m second halves make m * m samples,
each distributed like the source, for the matrix products of 2m rows (each half as wide). Halves of
independent coordinates meet as they are. Of a source that looks the same in every direction, the
directions of the halves are independent of each other and of their lengths: there all samples of a
group share the two lengths of one point.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch

from aeot import _loop, _ranks
from aeot._environment import is_out_of_memory
from aeot.search import leaves
from aeot.search.engines import Engine, PartsEngine, bind
from aeot.search.line import envelope
from aeot.search.planes import (
    WIDTH,
    Block,
    CandidateLists,
    Listed,
    Planes,
    Winners,
    all_won,
    joined,
    padded_columns,
    rounding,
)
from aeot.solvers.problem import Problem

T = TypeVar("T")
# Of the samples that are left, what a certificate may take, and all else: it comes last.
_CERTIFIED, _PREPARED = 1.0, 0.5
_LISTED = 1 << 15  # samples whose candidate lists are kept together, at least
_MANY = 1 << 16  # sites, from which on it may pay not to look at all of them


def default_memory(device: torch.device) -> int:
    """Return how many bytes scores in flight may take: a quarter of what is free on a GPU."""
    if device.type != "cuda":
        return 1 << 28
    return max(torch.cuda.mem_get_info(device)[0] // 4, 1 << 28)


def _longest(rows: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).max())


def _holders(engine: Engine, sites: torch.Tensor, memory: int) -> int:
    """Return among how many ranks the sites are split: as few as suffice, the same for all ranks.

    Each of them holds its tiles, and scores their blocks. Several groups of so many ranks share the
    blocks. One rank holds all sites where they fit, where there are few, or one process only.
    """
    tiles, size = padded_columns(len(sites)) // (16 * WIDTH), _ranks.size()
    possible = [k for k in range(2, min(size, tiles) + 1) if size % k == 0]
    if not possible or not hasattr(engine, "part_winners"):
        return 1
    tile = 4 * 16 * WIDTH * sites.shape[1]
    enough = [k for k in (1, *possible) if -(-tiles // k) * tile <= memory]
    return max(_ranks.everyones(min(enough, default=possible[-1])))


def _pays(at: leaves.Raised, n: int, d: int, split: int) -> bool:
    # A score that is compared with others is one unit, its product 0.13 for each coordinate, which
    # shared halves divide; one thing after another in small pieces costs half as much again.
    product = 0.13 * d
    looked = at.leaves.count + at.leaves.order.shape[1] * at.probes
    return 1.5 * looked * (1 + product) + 8000 < 0.4 * n * (1 + product / split)


class Scorer:
    """Scores keyed blocks of source samples against all sites of a problem.

    Args:
        problem: In standard coordinates.
        engine: See `aeot.search.engines.top_k`; or one that has its functions.
        split: m, how many first halves meet how many second halves; 1 for independent samples,
            as always where the engine saves nothing by it.
        memory: Bytes that the scores in flight may take; rounding aside, it changes no result.
            None: `default_memory`. Several ranks whose sites take more hold a part of them each.
        threads: Worker threads; torch's setting if left out. It changes no result.
        rows: Of a block; chosen by the number of sites if left out.
        shared: Whether several ranks may hold a part of the sites each.

    Attributes:
        engine: The module of the engine, `aeot.search.engines.Engine`.
        block_samples: Samples in one block.
        order: (d,) int64, the order of the coordinates in blocks.
        columns: Number of sites, filled up to whole tiles.
        group: Which ranks hold all sites together; where each does, this one alone.
        own: Which sites this rank holds: all, or whole tiles of them where ranks share the sites.
        parts: The engine, where they do.
        sorts: Whether samples on a line are decided by sorting the sites.
        prunes: Whether `pruned` may find that lists can do without scores of all sites.
    """

    sorts, prunes = True, True

    def __init__(
        self,
        problem: Problem,
        *,
        engine: str | Engine = "auto",
        split: int = 1,
        memory: int | None = None,
        threads: int | None = None,
        rows: int | None = None,
        shared: bool = True,
    ) -> None:
        memory = default_memory(problem.sites.device) if memory is None else memory
        self.problem, self.memory = problem, memory
        n, d = problem.sites.shape
        self.engine = bind(engine, problem.sites) if isinstance(engine, str) else engine
        self.split = split = split if self.engine.HALVES else 1
        # Powers of two near 16 MB of scores: fixed by n, whatever the memory. A GPU wants work for
        # all of its processors.
        power = int(np.log2(max((1 << 22) // padded_columns(n), 1)))
        self.rows = int(2 ** min(max(power, 8), 9 if split > 1 else 12))
        if problem.sites.device.type == "cuda":
            self.rows = 1 << (14 if split > 1 else 17)
        self.rows = rows or self.rows
        self.block_samples = self.rows * split
        # Interleaved halves: with sorted principal axes both carry the same spread.
        order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
        self.order = order if split > 1 else torch.arange(d)
        self.threads = threads or torch.get_num_threads()
        self._short = False  # of memory
        self._kept: dict[tuple[str, int], Block] = {}
        self._leaves: leaves.Leaves | None = None
        self.own, self.columns = slice(0, n), padded_columns(n)
        self.parts: PartsEngine | None = None
        holders = _holders(self.engine, problem.sites, memory) if shared else 1
        first = _ranks.rank() // holders * holders
        self.group = slice(first, first + holders)
        if holders > 1:
            self.parts = cast("PartsEngine", self.engine)
            some = _ranks.parts(range(self.columns), 16 * WIDTH, holders)[_ranks.rank() - first]
            self.own = slice(some.start, min(some.stop, n))
        self.planes = self.engine.arrange(
            problem.sites[self.own][:, self.order.to(problem.sites.device)],
            split=split,
            rows=self.rows,
            memory=memory,
            threads=self.threads,
        )

    def without_split(self) -> Scorer:
        """Return the same scorer of independent samples."""
        engine = self.engine.NAME
        return Scorer(self.problem, engine=engine, memory=self.memory, threads=self.threads)

    def keep(self, stage: str, blocks: range, *, share: float) -> None:
        """Draw some blocks now, and keep them in place of those kept before.

        Args:
            stage: Key of the samples.
            blocks: Which blocks.
            share: Of the samples that are left, how many at most.
        """
        self.problem.supply.take(len(blocks) * self.block_samples, share=share)
        self._kept = {}
        self._kept = {(stage, block): self.draw(stage, block) for block in blocks}

    def draw(self, stage: str, block: int) -> Block:
        """Draw one block, from (seed, stage, block) alone; or return the one that is kept."""
        if (stage, block) in self._kept:
            return self._kept[stage, block]
        key, x = (stage, self.split, block), None
        if self.problem.law == "sampler":
            x = self.problem.drawn(self.rows, *key)
            z = self.problem.to_z(x)
        else:
            z = self.problem.draw(self.rows, *key)
        if self.split == 1:
            return Block(z, z.new_zeros(1, 0), self.rows, x)
        # The coordinates of these laws may be taken in any order, so here in that of `order`.
        cut = self.planes.left.shape[0]
        if self.problem.law == "radial":
            left, right = (self._of_one_length(half) for half in (z[:, :cut], z[:, cut:]))
            return Block(left, right, self.split)
        z, cut = z.view(-1), self.rows * cut
        return Block(z[:cut].view(self.rows, -1), z[cut:].view(self.rows, -1), self.split)

    def _of_one_length(self, half: torch.Tensor) -> torch.Tensor:
        # Every group of half points (rows, p) gets the length of its first.
        lengths = half.norm(dim=1, keepdim=True)
        shared = lengths[:: self.split].repeat_interleave(self.split, 0)
        return half * (shared / lengths.clamp(min=1e-30))

    def points(self, block: Block, samples: torch.Tensor) -> torch.Tensor:
        """Return chosen samples (k,) of a block in the caller's coordinates, (k, d) float64."""
        if block.drawn is not None and self.split == 1:
            return block.drawn.to(samples.device)[samples].to(torch.float64)
        z = block.some(samples)
        return self.problem.to_source(z[:, torch.argsort(self.order).to(z.device)])

    def winners(
        self,
        heights: torch.Tensor,
        stage: str,
        blocks: range,
        *,
        runners: bool = False,
        doubts: bool = False,
    ) -> Iterator[Winners]:
        """Yield, for each block of this rank's part, the samples and the sites that win them.

        Args:
            heights: (n,) float64, standard coordinates.
            stage: Key of the samples.
            blocks: Which blocks, of all ranks.
            runners: Find the runners-up, too.
            doubts: Name the samples that `Problem.decide` might decide otherwise. On a line
                there are none, and sites are all that is told.
        """
        if doubts and self.problem.sites.shape[1] == 1 and self.sorts:
            yield from self._on_line(heights, stage, blocks)
            return
        h = self.engine.raised(self.planes, heights[self.own])
        slack_of = self.slack(heights) if doubts else lambda block: None
        share, parts = _CERTIFIED if doubts else _PREPARED, self.parts
        if parts is not None:

            def part_of(planes: Planes, part: Block, rows: slice) -> list[torch.Tensor]:  # noqa: ARG001
                return [parts.part_winners(planes, h, part, self.own.start).view(-1)]

            def won(block: Block, told: list[torch.Tensor]) -> Winners:
                each = [part.view(-1, 4) for part in told]
                return parts.won(block, each, self.columns, runners, slack_of(block))

            yield from self._rounds(part_of, won, stage, blocks, share=share)
            return

        def work(index: int) -> Winners:
            block = self.draw(stage, index)
            slack = slack_of(block)

            def of(planes: Planes, part: Block, rows: slice) -> Winners:
                some = None if slack is None else slack[rows]
                return self.engine.winners(planes, h, part, runners=runners, slack=some)

            return all_won(block, self._in_parts(of, block))

        yield from self._each(work, stage, blocks, share)

    def _on_line(self, heights: torch.Tensor, stage: str, blocks: range) -> Iterator[Winners]:
        # By sorting, as for the caller; only the sites are told.
        p = self.problem
        order, meet = envelope(p.caller_sites[:, 0], p.from_standard(heights.cpu()))
        cells, ends = torch.from_numpy(order.astype(np.int32)), torch.from_numpy(meet)
        none, index = torch.empty(0), torch.empty(0, dtype=torch.int64)

        def work(block: int) -> Winners:
            drawn = self.draw(stage, block)
            x = self.points(drawn, torch.arange(self.rows))[:, 0].cpu().contiguous()
            site = cells[torch.searchsorted(ends, x)].to(p.sites.device)
            return Winners(drawn, site, none, none, none, index)

        yield from self._each(work, stage, blocks, _CERTIFIED)

    def slack(self, heights: torch.Tensor) -> Callable[[Block], torch.Tensor]:
        """Return what says how far the scores of a block may be off.

        From those that the caller's sites and heights give in float64, for the samples of each row.
        """
        p = self.problem
        d, reach = p.sites.shape[1], _longest(p.sites)
        centred = _longest(p.caller_sites - p.caller_sites.mean(0))
        full = p.factor.ndim == 2
        longest = torch.linalg.matrix_norm(p.factor, 2) if full else p.factor.abs().max()
        mean, spread = float(p.mean.norm()), float(longest)
        given = p.from_standard(heights.cpu())
        # Both bounds are linear in the sample's size: slope and intercept.
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        fast = rounding(ends * reach, heights.cpu(), d, torch.float32)
        exact = rounding((mean + spread * ends) * centred, given, d, torch.float64)
        least, more = (fast + 2 * exact / p.scale).tolist()

        def slack_of(block: Block) -> torch.Tensor:
            squares = block.left.square().sum(1)
            if self.split > 1:
                squares += block.right.square().sum(1).max()
            return squares.sqrt_().mul_((more - least) * 1.001).add_(least * 1.001)

        return slack_of

    def candidates(
        self,
        heights: torch.Tensor,
        stage: str,
        blocks: range,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> list[CandidateLists]:
        """Make the candidate lists of this rank's part of some blocks.

        Args:
            heights: (n,) float64, standard coordinates.
            stage: Key of the samples.
            blocks: Which blocks, of all ranks.
            radius: See `Engine.candidates`.
            least: See there.
            longest: See there.
        """
        h = self.engine.raised(self.planes, heights[self.own])
        longest = min(longest, self.problem.sites.shape[0])
        limits: dict[str, Any] = {"radius": radius, "least": least, "longest": longest}
        parts = self.parts

        def of(planes: Planes, part: Block, rows: slice) -> list[Listed]:  # noqa: ARG001
            return self.engine.candidates(planes, h, part, **limits)

        def work(index: int) -> Listed:
            found = self._in_parts(of, self.draw(stage, index))
            return joined([lists for part in found for lists in part])

        some = -(-_LISTED // self.block_samples)  # blocks whose lists are kept together
        pieces = self._each(work, stage, blocks, unit=some)
        if parts is not None:

            def part_of(planes: Planes, part: Block, rows: slice) -> list[torch.Tensor]:  # noqa: ARG001
                return parts.part_candidates(planes, h, part, self.own.start, **limits)

            def listed(block: Block, told: list[torch.Tensor]) -> Listed:  # noqa: ARG001
                return parts.listed(self.block_samples, told, self.columns, **limits)

            pieces = self._rounds(part_of, listed, stage, blocks, unit=some)
        return _gathered(heights, pieces, some)

    def pruned(self, heights: torch.Tensor, stage: str, found: float) -> PrunedScorer | None:
        """Return what makes candidate lists of a few sites each; None if that costs no less.

        Args:
            heights: (n,) float64, standard coordinates.
            stage: Key of the samples that tell.
            found: Share of the samples whose winner is to be among the sites looked at.
        """
        n, d = self.problem.sites.shape
        if not self.prunes or n < _MANY or self.engine.NAME != "numba":
            return None
        if self._leaves is None:
            self._leaves = leaves.grown(self.problem.sites, self.problem.seed)
        self.problem.supply.take(leaves.POOL, share=_PREPARED)
        pool = self.problem.draw(leaves.POOL, f"{stage} pool")
        at = leaves.raised(self._leaves, heights, pool.numpy(), found)
        if not _pays(at, n, d, self.split):
            return None
        return PrunedScorer(self, at)

    def cluster_maxima(
        self, heights: torch.Tensor, edges: np.ndarray, stage: str, blocks: range
    ) -> Iterator[torch.Tensor]:
        """Yield, for each block of this rank's part, every sample's best score in each cluster.

        (rows, clusters) each; sites edges[g] to edges[g + 1] form cluster g; `split` must be 1.
        """
        h = self.engine.raised(self.planes, heights[self.own])
        edges = np.clip(edges, self.own.start, self.own.stop) - self.own.start

        def of(planes: Planes, part: Block, rows: slice) -> torch.Tensor:  # noqa: ARG001
            return self.engine.cluster_maxima(planes, h, part, edges)

        def work(index: int) -> torch.Tensor:
            found = self._in_parts(of, self.draw(stage, index))
            return found[0] if len(found) == 1 else torch.cat(found)

        if self.parts is None:
            yield from self._each(work, stage, blocks)
            return

        def part_of(planes: Planes, part: Block, rows: slice) -> list[torch.Tensor]:
            return [of(planes, part, rows).view(-1)]

        def highest(block: Block, told: list[torch.Tensor]) -> torch.Tensor:
            scores = torch.stack(told).view(torch.float32)
            return scores.amax(0).view(len(block.left), -1)

        yield from self._rounds(part_of, highest, stage, blocks)

    def leads(
        self, heights: torch.Tensor, stage: str, blocks: range
    ) -> Iterator[tuple[Block, torch.Tensor]]:
        """Yield each block of this rank's part, and the best score of each of its samples."""
        for won in self.winners(heights, stage, blocks):
            yield won.block, won.value

    def _in_parts(self, of: Callable[[Planes, Block, slice], T], block: Block) -> list[T]:
        """Have the engine work on a block, or on its parts once memory did not suffice."""
        size = block.left.shape[0]
        while True:
            planes = self.planes
            step = planes.slice if self._short else size
            parts = [slice(k, min(k + step, size)) for k in range(0, size, step)]
            try:
                return [
                    of(planes, block if len(parts) == 1 else block.rows(rows), rows)
                    for rows in parts
                ]
            except (MemoryError, RuntimeError) as error:
                fewer = min(planes.slice, size) // 2 // self.split * self.split
                if not fewer or not is_out_of_memory(error):
                    raise
            # Not above: the error's traceback holds what there was.
            if self.planes is planes:  # else another thread has been here
                self.planes, self._short = planes.shorter(fewer), True

    def _each(
        self,
        work: Callable[[int], T],
        stage: str,
        blocks: range,
        share: float = _PREPARED,
        unit: int = 1,
    ) -> Iterator[T]:
        self._take(stage, blocks, share)
        for done in self.engine.each(work, _ranks.part(blocks, unit), self.threads):
            _loop.beat()
            yield done

    def _rounds(
        self,
        part_of: Callable[[Planes, Block, slice], list[torch.Tensor]],
        whole: Callable[[Block, list[torch.Tensor]], T],
        stage: str,
        blocks: range,
        *,
        share: float = _PREPARED,
        unit: int = 1,
    ) -> Iterator[T]:
        """Yield for each block of this rank's part what is found among the sites of its group.

        Every rank works on all blocks of its group, in rounds of one of each rank, with the sites
        that it holds.

        Args:
            part_of: Finds what `whole` has to know: tensors, told one behind the other.
            whole: From a block of this rank and what every rank of the group told of it.
            stage: Key of the samples.
            blocks: Which blocks, of all ranks.
            share: Of the samples that are left, how many at most.
            unit: Of the parts of the ranks.
        """
        self._take(stage, blocks, share)

        def work(index: int) -> tuple[Block, torch.Tensor]:
            block = self.draw(stage, index)
            found = zip(*self._in_parts(part_of, block), strict=True)
            return block, torch.cat([x.view(torch.int32) for some in found for x in some])

        group, rank = self.group, _ranks.rank()
        turns = list(itertools.zip_longest(*_ranks.parts(blocks, unit)))
        order = [index for turn in turns for index in turn[group] if index is not None]
        done = self.engine.each(work, order, self.threads)
        none = torch.zeros(0, dtype=torch.int32)  # to other groups, and of no block
        for turn in turns:
            found = [None if index is None else next(done) for index in turn[group]]
            given = [none] * _ranks.size()
            given[group] = [none if part is None else part[1] for part in found]
            everyones, come = _ranks.exchanged(torch.cat(given), [len(part) for part in given])
            told = list(everyones.split(come)[group])
            _loop.beat()
            if (own := found[rank - group.start]) is not None:
                yield whole(own[0], told)

    def _take(self, stage: str, blocks: range, share: float) -> None:
        # The account is of all ranks, the work of this one.
        fresh = sum((stage, block) not in self._kept for block in blocks)
        self.problem.supply.take(fresh * self.block_samples, share=share)

    def scores_of(self, block: Block, heights: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        """Return the scores of chosen sites at the samples of a block, (samples, k)."""
        index = torch.from_numpy(chosen).to(heights.device)
        m, cut, order = self.split, self.planes.left.shape[0], self.order.to(heights.device)
        planes = self.problem.sites[index].T[order].contiguous()
        a, h = block.left @ planes[:cut], heights[index].to(planes)
        if m == 1:
            return a + h
        b = h + block.right @ planes[cut:]
        return (a.view(-1, m, 1, chosen.size) + b.view(-1, 1, m, chosen.size)).flatten(0, 2)

    def blocks_for(self, samples: float) -> int:
        """Return the number of blocks that hold at least `samples` samples."""
        return max(1, -(-int(samples) // self.block_samples))

    def blocks_left(self, samples: float) -> int:
        """Return the number of blocks that hold `samples`, as far as there are samples left."""
        return self.blocks_for(min(samples, self.problem.supply.left - self.block_samples + 1))


class PrunedScorer:
    """Makes candidate lists that may lack a site, from `aeot.search.leaves`; as a `Scorer` does.

    Args:
        scorer: Of the problem.
        at: The leaves of its sites, at the heights of the lists.
    """

    def __init__(self, scorer: Scorer, at: leaves.Raised) -> None:
        self.scorer, self.at = scorer, at
        self.list, self.block_samples = leaves.candidates, leaves.ROWS

    def blocks_for(self, samples: float) -> int:
        """Return the number of blocks that hold at least `samples` samples."""
        return max(1, -(-int(samples) // self.block_samples))

    def candidates(
        self,
        heights: torch.Tensor,
        stage: str,
        blocks: range,
        *,
        radius: float,
        least: int,
        longest: int,
    ) -> list[CandidateLists]:
        """Make the candidate lists of this rank's part of some blocks; see `Scorer.candidates`."""
        limits: dict[str, Any] = {"radius": radius, "least": least, "longest": longest}
        some = _LISTED // self.block_samples

        def work(index: int) -> Listed:
            return self.list(self.at, self._points(stage, index), **limits)

        return _gathered(heights, self._each(work, blocks, some), some)

    def leads(
        self,
        heights: torch.Tensor,  # noqa: ARG002
        stage: str,
        blocks: range,
    ) -> Iterator[tuple[Block, torch.Tensor]]:
        """Yield each block of this rank's part, and the best score found of each of its samples."""

        def work(index: int) -> tuple[Block, torch.Tensor]:
            z = self._points(stage, index)
            lead = self.list(self.at, z, radius=0.0, least=1, longest=1)[3]
            return Block(z, z.new_zeros(1, 0), len(z)), lead

        yield from self._each(work, blocks, 1)

    def scores_of(self, block: Block, heights: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        """Return the scores of chosen sites at the samples of a block, (samples, k)."""
        index = torch.from_numpy(chosen)
        sites = self.scorer.problem.sites[index]
        return torch.addmm(heights[index].to(sites), block.left, sites.T)

    def _points(self, stage: str, block: int) -> torch.Tensor:
        return self.scorer.problem.draw(self.block_samples, stage, "pruned", block)

    def _each(self, work: Callable[[int], T], blocks: range, unit: int) -> Iterator[T]:
        scorer = self.scorer
        scorer.problem.supply.take(len(blocks) * self.block_samples, share=_PREPARED)
        for done in scorer.engine.each(work, _ranks.part(blocks, unit), scorer.threads):
            _loop.beat()
            yield done


def _gathered(heights: torch.Tensor, pieces: Iterator[Listed], some: int) -> list[CandidateLists]:
    # The lists of so many blocks together.
    found = []
    while waiting := list(itertools.islice(pieces, some)):
        start, site, value, lead, bound = joined(waiting)
        total = float(lead.sum(dtype=torch.float64))
        found.append(CandidateLists(heights, start, site, value, bound, total))
    return found
