"""Scores in plain torch: on any device, and with no other package.

`aeot.search.engines.Engine` says what every function does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from aeot import _loop
from aeot.search.planes import (
    LOW,
    WIDER,
    WIDTH,
    Block,
    CandidateLists,
    Edges,
    Listed,
    Planes,
    Winners,
    add_rows,
    padded_columns,
    rows_at_once,
    sure,
)

T = TypeVar("T")
NAME = "torch"
HALVES = True
HOST = False
_GROUPS = 16  # columns per group in the two-level maximum
_TILE = 1 << 20  # scores held at once; a constant, so that no setting changes a result


def top_k(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes at every point, best first, and where they are certain."""
    m, n = points.shape[0], sites.shape[0]
    wide = k if points.dtype == torch.float64 else min(k + 1, n)  # the next one tells how certain
    groups = -(-n // _GROUPS)
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    centred = sites.to(torch.float64)
    centred = (centred - centred.mean(0)).to(points.dtype)
    y = torch.nn.functional.pad(centred.T, (0, groups * _GROUPS - n))
    h = heights.to(points.dtype)
    h = torch.nn.functional.pad(h, (0, groups * _GROUPS - n), value=-torch.inf)
    rows = rows_at_once(points.shape[1], max(8, min(4096, _TILE // (groups * _GROUPS))))
    ranges = [] if edges is None else list(zip(edges[:-1], edges[1:], strict=True))
    indices = torch.empty(m, k + len(ranges), dtype=torch.int64, device=points.device)
    values = torch.empty(m, wide, dtype=points.dtype, device=points.device)
    for start in range(0, m, rows):
        _loop.beat()
        x = points[start : start + rows]
        count = x.shape[0]
        if count < rows:
            x = torch.nn.functional.pad(x, (0, 0, 0, rows - count))
        scores = torch.addmm(h, x, y).view(rows, _GROUPS, groups)
        # Column g + groups * r belongs to group g. The k best groups hold the k best columns,
        # and a maximum over strided groups is vectorised where one with an index is not.
        tops = scores.amax(1)  # (rows, groups)
        if k == 1:  # cheaper than a search for two
            top, best = tops.max(1, keepdim=True)
            inside = scores.gather(2, best[:, None].expand(-1, _GROUPS, -1)).flatten(1)
            picked = inside.argmax(1, keepdim=True)
            if wide > 1:
                near = inside.scatter_(1, picked, -torch.inf).amax(1, keepdim=True)
                far = tops.scatter_(1, best, -torch.inf).amax(1, keepdim=True)
                top = torch.cat([top, torch.maximum(near, far)], 1)
        else:
            best = tops.topk(min(wide, groups), 1).indices
            inside = scores.gather(2, best[:, None].expand(-1, _GROUPS, -1)).flatten(1)
            top, picked = inside.topk(wide, 1)
        width = best.shape[1]
        found = best.gather(1, picked % width) + groups * (picked // width)
        indices[start : start + count, :k] = found[:count, :k]
        for g, (first, end) in enumerate(ranges):
            place = scores.view(rows, -1)[:count, first:end].argmax(1)
            indices[start : start + count, k + g] = place + int(first)
        values[start : start + count] = top[:count]
    return indices, sure(values, points, centred, h[:n])


def and_ranges(
    indices: torch.Tensor,
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    edges: np.ndarray | None,
) -> torch.Tensor:
    """Add the best of each range of sites, as `top_k` finds them, to the k highest (m, k)."""
    if edges is None:
        return indices
    return torch.cat([indices, top_k(points, sites, heights, 1, edges)[0][:, 1:]], 1)


def arrange(sites: torch.Tensor, *, split: int, rows: int, memory: int, threads: int = 1) -> Planes:
    """Hold the sites for a solve."""
    n, d = sites.shape
    cut = (d + 1) // 2 if split > 1 else d
    padded = torch.zeros(d, padded_columns(n), dtype=torch.float32, device=sites.device)
    padded[:, :n] = sites.T
    # The products of both halves are in memory, and so are the sums of all pairs.
    share = memory // (4 * padded.shape[1] * (2 if split > 1 else 1) * (1 + split))
    rows = min(rows, max(split, share // split * split))
    return Planes(sites, padded[:cut].contiguous(), padded[cut:].contiguous(), rows, threads)


def raised(planes: Planes, heights: torch.Tensor) -> torch.Tensor:
    """Prepare heights for the passes over blocks that follow."""
    return planes.padded(heights)


def each(work: Callable[[int], T], blocks: Sequence[int], threads: int) -> Iterator[T]:
    """Yield ``work(block)`` for every block in turn; torch's operations have their own threads."""
    del threads
    return map(work, blocks)


def _scores(
    planes: Planes, heights: torch.Tensor, block: Block
) -> Iterator[tuple[torch.Tensor, slice]]:
    # The scores (samples, columns) of a slice of a block, and which of its rows they belong to.
    m, n = block.split, planes.columns

    def product(rows: slice) -> torch.Tensor:
        a = block.left[rows] @ planes.left
        if m == 1:
            return a + heights
        b = torch.addmm(heights, block.right[rows], planes.right)
        return (a.view(-1, m, 1, n) + b.view(-1, 1, m, n)).reshape(-1, n)

    size = block.left.shape[0]
    for first in range(0, size, planes.slice):
        rows = slice(first, min(first + planes.slice, size))
        yield product(rows), rows


def winners(
    planes: Planes,
    heights: torch.Tensor,
    block: Block,
    *,
    runners: bool,
    slack: torch.Tensor | None = None,
) -> Winners:
    """Find the best site of every sample of a block."""
    tops = [scores.topk(2, dim=1) for scores, _ in _scores(planes, heights, block)]
    value, site = (torch.cat([t[k] for t in tops]) for k in (0, 1))
    return winners_of(block, value, site, runners, slack)


def winners_of(
    block: Block,
    value: torch.Tensor,
    site: torch.Tensor,
    runners: bool,
    slack: torch.Tensor | None,
) -> Winners:
    """Return the winners where the highest scores (m, k) and their sites are known, best first."""
    site = site.to(torch.int32)
    if site.shape[1] == 1:  # a single site has no runner-up
        second, gap = torch.full_like(site[:, 0], -1), torch.full_like(value[:, 0], -LOW)
    else:
        second, gap = site[:, 1], value[:, 0] - value[:, 1]
    unsure = torch.zeros(0, dtype=torch.int64, device=site.device)
    if slack is not None:
        unsure = (~(gap > slack.repeat_interleave(block.split))).nonzero()[:, 0]
    if not runners:
        second, gap = second[:0], gap[:0]
    return Winners(block, site[:, 0], value[:, 0], second, gap, unsure)


def candidates(
    planes: Planes,
    heights: torch.Tensor,
    block: Block,
    *,
    radius: float,
    least: int,
    longest: int,
) -> list[Listed]:
    """List, for every sample of a block, the sites within a radius of the best."""
    parts = []
    for scores, _ in _scores(planes, heights, block):
        groups = scores.view(scores.shape[0], -1, 16, WIDTH).amax(2).flatten(1)
        top = scores.topk(min(longest + 1, scores.shape[1]), dim=1)
        parts.append(lists_of(top.values, top.indices, groups, radius, least, longest))
    return parts


def lists_of(
    value: torch.Tensor,
    site: torch.Tensor,
    near: torch.Tensor,
    radius: float,
    least: int,
    longest: int,
) -> Listed:
    """Make lists of the highest scores.

    Args:
        value: (m, k), highest first; k > longest, or all there are.
        site: (m, k).
        near: (m, any), scores of which `least` shall be in reach.
        radius: See `Engine.candidates`.
        least: See there.
        longest: See there.
    """
    lead = value[:, 0]
    span = torch.full_like(lead, radius)
    for _ in range(WIDER):
        span = torch.where((near >= (lead - span)[:, None]).sum(1) < least, 2 * span, span)
    value = value - lead[:, None]
    inside = value >= -span[:, None]
    bound = -span
    if value.shape[1] > longest:
        bound = torch.maximum(bound, torch.where(inside, value, LOW)[:, longest:].amax(1))
    inside, value, site = inside[:, :longest], value[:, :longest], site[:, :longest]
    start = torch.zeros(value.shape[0] + 1, dtype=torch.int64, device=value.device)
    start[1:] = inside.sum(1).cumsum(0)
    return start, site[inside].to(torch.int32), value[inside], lead, bound


def cluster_maxima(
    planes: Planes, heights: torch.Tensor, block: Block, edges: np.ndarray
) -> torch.Tensor:
    """Find the best score of every sample within each cluster of consecutive sites."""
    device = planes.left.device
    cells = torch.from_numpy(np.repeat(np.arange(edges.size - 1), np.diff(edges))).to(device)
    parts = []
    for scores, _ in _scores(planes, heights, block):
        shape = scores.shape[0], edges.size - 1
        out = torch.full(shape, LOW, dtype=torch.float32, device=device)
        index = cells.expand(scores.shape[0], -1)
        parts.append(out.scatter_reduce(1, index, scores[:, : cells.shape[0]], "amax"))
    return torch.cat(parts)


def relist(
    lists: CandidateLists, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Find winner and runner-up of every list at other heights."""
    m, n = lists.n_samples, shift.shape[0]
    row = torch.repeat_interleave(torch.arange(m, device=shift.device), lists.start.diff())
    site = lists.site.long()
    score = lists.value + shift[site]

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


def close_pairs(
    sites: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    gap: torch.Tensor,
    window: torch.Tensor,
    near: float,
) -> Edges:
    """Collect the samples in the band along their facet."""
    widest = window[first.long()].to(gap)
    close = (gap < widest) & (second >= 0)
    i, j, gap, widest = first[close].long(), second[close].long(), gap[close], widest[close]
    pairs = zip(i.split(1 << 16), j.split(1 << 16), strict=True)
    apart = torch.cat([(sites[a] - sites[b]).norm(dim=1) for a, b in pairs])
    band = torch.minimum(near * apart, widest)
    close = gap < band
    weight = 0.5 / band[close].double()
    return i[close], j[close], weight


def count(site: torch.Tensor, first: int, per_group: int, counts: torch.Tensor) -> None:
    """Count winners, groups of samples going to the rows of `counts` in turn."""
    batches, n = counts.shape
    batch = (torch.arange(len(site), device=site.device) // per_group + first) % batches
    counts.view(-1).index_add_(0, batch * n + site, torch.ones_like(batch))


def add_points(block: Block, site: torch.Tensor, sums: torch.Tensor) -> None:
    """Add every sample of a block to the sums of its cell."""
    add_rows(sums, site, block.points())
