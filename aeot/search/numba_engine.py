"""Scores in loops that numba compiles at first use: the fastest engine on a CPU.

Every kernel works on one slice of a block and lets go of the interpreter lock, so that a thread
pool scales; results do not depend on the number of threads. A score is the sum of one row of `a`
and one row of `b`; columns are handled in groups of sixteen, whose maxima are what a search for the
winner, or for all scores near it, descends through. `aeot.search.engines.Engine` says what every
function does; the kernel of each stands above it.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from aeot import _loop
from aeot._compile import njit
from aeot.search import planes as _planes
from aeot.search.planes import (
    Block,
    CandidateLists,
    Edges,
    Listed,
    Planes,
    Winners,
    padded_columns,
    rows_at_once,
    sure,
)

T = TypeVar("T")
NAME = "numba"
HALVES = True
HOST = True
_compiled = njit(fastmath=True, error_model="numpy")
LOW = np.float32(_planes.LOW)  # fastmath wants no infinities
FIXED = _planes.FIXED
LOWEST = np.float32(-3e38)  # below every height of any size
WIDTH = _planes.WIDTH  # of a tile: sixteen times as many columns
WIDER = _planes.WIDER
_NARROW, _ROWS = 12, 64  # coordinates of a narrow product; rows of a piece of a wide one
_TILE = 1 << 18  # scores held at once by `top_k`; a constant, so that no setting changes a result


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds: once


def each(work: Callable[[int], T], blocks: Sequence[int], threads: int) -> Iterator[T]:
    """Yield ``work(block)`` for every block in turn, worked on by several threads."""
    # One thread per block with single-threaded products: no barriers, and the same bits for any
    # number of threads.
    with _threads().limit(limits=1, user_api="blas"):
        if threads == 1 or len(blocks) == 1:
            yield from map(work, blocks)
            return
        with ThreadPoolExecutor(threads) as pool:
            running: deque = deque()
            try:
                for index in blocks:
                    running.append(pool.submit(work, index))
                    if len(running) > 2 * threads:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:  # whoever stops in the middle does not wait for what has not begun
                for future in running:
                    future.cancel()


@_compiled
def _largest(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):  # noqa: ANN001, ANN202, E741
    a, c = a if a > b else b, c if c > d else d
    e, g = e if e > f else f, g if g > h else h
    i, k = i if i > j else j, k if k > l else l
    m, o = m if m > n else n, o if o > p else p
    a, e = a if a > c else c, e if e > g else g
    i, m = i if i > k else k, m if m > o else o
    a, i = a if a > e else e, i if i > m else m
    return a if a > i else i


@_compiled
def _group_maxima(first, second, rows, groups):  # noqa: ANN001, ANN202
    # first, second (columns,), rows (m, columns), groups (2, m, columns / 16). Group w t + c holds
    # the columns 16 w t + w s + c, s = 0..15, of the sum of `first` (or `second`) and a row. The
    # sixteen are written out and w is a constant, because offsets known to the compiler are what
    # it turns into plain loads; an inner loop over s is 4 to 15 times slower. Two sums at a time
    # halve the loads of `rows`.
    w = WIDTH
    for t in range(first.size // (16 * w)):
        p, o = first[16 * w * t : 16 * w * (t + 1)], second[16 * w * t : 16 * w * (t + 1)]
        for r in range(rows.shape[0]):
            q = rows[r, 16 * w * t : 16 * w * (t + 1)]
            g, h = groups[0, r, w * t : w * (t + 1)], groups[1, r, w * t : w * (t + 1)]
            for c in range(w):
                b0, b1, b2, b3 = q[c], q[w + c], q[2 * w + c], q[3 * w + c]
                b4, b5, b6, b7 = q[4 * w + c], q[5 * w + c], q[6 * w + c], q[7 * w + c]
                b8, b9, b10, b11 = q[8 * w + c], q[9 * w + c], q[10 * w + c], q[11 * w + c]
                b12, b13, b14, b15 = q[12 * w + c], q[13 * w + c], q[14 * w + c], q[15 * w + c]
                g[c] = _largest(
                    *(p[c] + b0, p[w + c] + b1, p[2 * w + c] + b2, p[3 * w + c] + b3),
                    *(p[4 * w + c] + b4, p[5 * w + c] + b5, p[6 * w + c] + b6, p[7 * w + c] + b7),
                    *(p[8 * w + c] + b8, p[9 * w + c] + b9, p[10 * w + c] + b10),
                    *(p[11 * w + c] + b11, p[12 * w + c] + b12, p[13 * w + c] + b13),
                    *(p[14 * w + c] + b14, p[15 * w + c] + b15),
                )
                h[c] = _largest(
                    *(o[c] + b0, o[w + c] + b1, o[2 * w + c] + b2, o[3 * w + c] + b3),
                    *(o[4 * w + c] + b4, o[5 * w + c] + b5, o[6 * w + c] + b6, o[7 * w + c] + b7),
                    *(o[8 * w + c] + b8, o[9 * w + c] + b9, o[10 * w + c] + b10),
                    *(o[11 * w + c] + b11, o[12 * w + c] + b12, o[13 * w + c] + b13),
                    *(o[14 * w + c] + b14, o[15 * w + c] + b15),
                )


@_compiled
def _fold(groups, coarse):  # noqa: ANN001, ANN202
    # coarse[c] = max over t of groups[w t + c]
    w = WIDTH
    for c in range(w):
        coarse[c] = groups[c]
    for t in range(1, groups.size // w):
        part = groups[w * t : w * (t + 1)]
        for c in range(w):
            coarse[c] = part[c] if part[c] > coarse[c] else coarse[c]


@_compiled
def _highest(values):  # noqa: ANN001, ANN202
    best = LOW
    for value in values:
        best = value if value > best else best
    return best


@_compiled
def _top_k(scores, heights, values, sites):  # noqa: ANN001, ANN202
    # scores (rows, columns), heights (1, columns), added to every row; values and sites (rows, k),
    # filled: the k highest, best first. Most groups are below the k-th best so far, or below the
    # k-th best of the maxima of columns of groups: their maximum alone is looked at.
    k = sites.shape[1]
    pair = np.empty((2, 1, scores.shape[1] // 16), scores.dtype)
    coarse, least = np.empty(WIDTH, scores.dtype), np.empty(k, scores.dtype)
    for r in range(scores.shape[0]):
        if r % 2 == 0:
            _group_maxima(scores[r], scores[min(r + 1, scores.shape[0] - 1)], heights, pair)
        groups, value, site = pair[r % 2, 0], values[r], sites[r]
        value[:] = LOWEST
        site[:] = 0
        least[:] = LOWEST
        if k <= WIDTH:
            _fold(groups, coarse)
            for c in range(WIDTH):
                score = coarse[c]
                if score > least[k - 1]:
                    e = k - 1
                    while e > 0 and least[e - 1] < score:
                        least[e] = least[e - 1]
                        e -= 1
                    least[e] = score
        floor = least[k - 1]
        for t in range(groups.size // WIDTH):
            part = groups[t * WIDTH : (t + 1) * WIDTH]
            for c in range(WIDTH):
                if part[c] < floor or not part[c] > value[k - 1]:
                    continue
                base = t * 16 * WIDTH + c
                p, q = scores[r, base:], heights[0, base:]
                for s in range(16):
                    score = p[s * WIDTH] + q[s * WIDTH]
                    if not score > value[k - 1]:
                        continue
                    e = k - 1
                    while e > 0 and value[e - 1] < score:
                        value[e] = value[e - 1]
                        site[e] = site[e - 1]
                        e -= 1
                    value[e] = score
                    site[e] = base + s * WIDTH


@_compiled
def _range_tops(scores, heights, edges, sites):  # noqa: ANN001, ANN202
    # As `_top_k`; sites (rows, ranges), filled: the best from edges[g] to edges[g + 1]. WIDTH
    # columns at a time, as the maximum of a row is not turned into vectors.
    lanes = np.empty(WIDTH, scores.dtype)
    for r in range(scores.shape[0]):
        for g in range(sites.shape[1]):
            p, q = scores[r, edges[g] : edges[g + 1]], heights[0, edges[g] : edges[g + 1]]
            whole = p.size // WIDTH * WIDTH
            lanes[:] = LOWEST
            for t in range(0, whole, WIDTH):
                a, b = p[t : t + WIDTH], q[t : t + WIDTH]
                for c in range(WIDTH):
                    score = a[c] + b[c]
                    lanes[c] = score if score > lanes[c] else lanes[c]
            best = lanes[0]
            for score in lanes:
                best = score if score > best else best
            for c in range(whole, p.size):
                score = p[c] + q[c]
                best = score if score > best else best
            first = 0
            while first < whole:
                a, b, hits = p[first : first + WIDTH], q[first : first + WIDTH], np.int32(0)
                for c in range(WIDTH):
                    hits += np.int32(a[c] + b[c] == best)
                if hits > 0:
                    break
                first += WIDTH
            while first < p.size - 1 and p[first] + q[first] != best:
                first += 1
            sites[r, g] = edges[g] + first


def top_k(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes at every point, best first, and where they are certain."""
    m, n, d = points.shape[0], *sites.shape
    dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    columns = padded_columns(n)
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    y = sites.to(torch.float64)
    y = (y - y.mean(0)).to(dtype)
    right = torch.zeros(d, columns, dtype=dtype)
    right[:, :n] = y.T
    h = torch.full((1, columns), float(LOWEST), dtype=dtype)
    h[0, :n] = heights
    rows = rows_at_once(d, max(64, _TILE // columns))
    wide = k if dtype == torch.float64 else min(k + 1, n)  # the next one tells how certain
    indices, values = torch.empty(m, wide, dtype=torch.int64), torch.empty(m, wide, dtype=dtype)
    tops = np.empty((m, 0 if edges is None else len(edges) - 1), np.int64)
    scratch = threading.local()

    def work(block: int) -> None:
        x = points[rows * block : rows * (block + 1)].to(dtype).numpy()
        padded = np.zeros((rows, d), x.dtype)  # one shape: a point is answered alone as in company
        padded[: len(x)] = x
        # Fresh megabytes for every block would cost as much in page faults as the product.
        if not hasattr(scratch, "scores"):
            scratch.scores = np.empty((rows, columns), x.dtype)
        scores = np.matmul(padded, right.numpy(), out=scratch.scores)[: len(x)]
        found = slice(rows * block, rows * block + len(x))
        _top_k(scores, h.numpy(), values[found].numpy(), indices[found].numpy())
        if edges is not None:
            _range_tops(scores, h.numpy(), edges, tops[found])

    for _ in each(work, range(-(-m // rows)), torch.get_num_threads()):
        _loop.beat()
    indices = torch.cat([indices[:, :k], torch.from_numpy(tops)], 1)
    return indices, sure(values, points, y, h[0, :n])


def arrange(sites: torch.Tensor, *, split: int, rows: int, memory: int, threads: int = 1) -> Planes:
    """Hold the sites for a solve."""
    n, d = sites.shape
    cut = (d + 1) // 2 if split > 1 else d
    padded = torch.zeros(d, padded_columns(n), dtype=torch.float32)
    padded[:, :n] = sites.T
    held = 4 * padded.shape[1]  # bytes in a row of scores
    share = memory // (held * (2 if split > 1 else 1) * threads)
    # Narrow products cost less than the way of their results to memory and back; wide ones want
    # 64 rows.
    narrow = cut <= _NARROW
    cached = (5 << 17 if narrow else 1 << 22) // held
    share = min(share, 2 ** int(np.log2(max(cached, 1 if narrow else 64))))
    unit = split if narrow or share < _ROWS else max(split, _ROWS)
    rows = min(rows, max(split, share // unit * unit))
    return Planes(sites, padded[:cut].contiguous(), padded[cut:].contiguous(), rows, threads)


def raised(planes: Planes, heights: torch.Tensor) -> np.ndarray:
    """Prepare heights for the passes over blocks that follow."""
    return planes.padded(heights).numpy()


def _scores(
    planes: Planes, heights: np.ndarray, block: Block
) -> Iterator[tuple[np.ndarray, np.ndarray, int, slice]]:
    # What the kernels call `a`, `b` and `per_block`, for one slice of the rows after the other.
    whole = block.left.shape[0]
    for first in range(0, whole, planes.slice):
        rows = slice(first, min(first + planes.slice, whole))
        a = _buffer(planes, "a", rows.stop - first)
        _multiply(block.left[rows].numpy(), planes.left.numpy(), a, first)
        if block.split == 1:
            yield a, heights[None], rows.stop - first, rows
        else:
            b = _buffer(planes, "b", rows.stop - first)
            _multiply(block.right[rows].numpy(), planes.right.numpy(), b, first)
            b += heights
            yield a, b, block.group, rows


# BLAS adds up in another order at the edges of a product than inside, so that a number depends on
# how many rows and columns there are. Here it does not, whatever memory, threads and ranks make of
# the rows and of the tiles: narrow products are added up by these loops, wide ones in pieces of one
# shape.


@_compiled
def _narrow(x, planes, out):  # noqa: ANN001, ANN202
    # x (rows, p), planes (p, columns); out (rows, columns), filled. Tiles of known length leave no
    # rest that would be added up otherwise; eight or four coordinates at a time spare the way of
    # the sums to memory and back.
    p = x.shape[1]
    for t in range(0, planes.shape[1], 16 * WIDTH):
        for r in range(x.shape[0]):
            to, a = out[r, t : t + 16 * WIDTH], x[r]
            for c in range(16 * WIDTH):
                to[c] = 0
            k = 0
            while k + 8 <= p:
                q0, q1 = planes[k, t : t + 16 * WIDTH], planes[k + 1, t : t + 16 * WIDTH]
                q2, q3 = planes[k + 2, t : t + 16 * WIDTH], planes[k + 3, t : t + 16 * WIDTH]
                q4, q5 = planes[k + 4, t : t + 16 * WIDTH], planes[k + 5, t : t + 16 * WIDTH]
                q6, q7 = planes[k + 6, t : t + 16 * WIDTH], planes[k + 7, t : t + 16 * WIDTH]
                a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                a4, a5, a6, a7 = a[k + 4], a[k + 5], a[k + 6], a[k + 7]
                for c in range(16 * WIDTH):
                    half = a0 * q0[c] + a1 * q1[c] + a2 * q2[c] + a3 * q3[c]
                    to[c] += half + a4 * q4[c] + a5 * q5[c] + a6 * q6[c] + a7 * q7[c]
                k += 8
            if k + 4 <= p:
                q0, q1 = planes[k, t : t + 16 * WIDTH], planes[k + 1, t : t + 16 * WIDTH]
                q2, q3 = planes[k + 2, t : t + 16 * WIDTH], planes[k + 3, t : t + 16 * WIDTH]
                a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                for c in range(16 * WIDTH):
                    to[c] += a0 * q0[c] + a1 * q1[c] + a2 * q2[c] + a3 * q3[c]
                k += 4
            while k < p:
                q0, a0 = planes[k, t : t + 16 * WIDTH], a[k]
                for c in range(16 * WIDTH):
                    to[c] += a0 * q0[c]
                k += 1


def _multiply(x: np.ndarray, planes: np.ndarray, out: np.ndarray, first: int) -> None:
    # As `_narrow`; `first` is where the rows begin among those of their block.
    p, columns = planes.shape
    if p <= _NARROW:
        _narrow(x, planes, out)
        return
    wide, tiles = 16 * WIDTH, columns // (16 * WIDTH)
    pieces = planes.reshape(p, tiles, wide).transpose(1, 0, 2)
    whole = 0 if first % _ROWS else len(x) // _ROWS
    rows = whole * _ROWS
    to = out[:rows].reshape(whole, _ROWS, tiles, wide).transpose(0, 2, 1, 3)
    np.matmul(x[:rows].reshape(whole, 1, _ROWS, p), pieces, out=to)
    while rows < len(x):  # some rows of a piece, at their place in it
        begin = (first + rows) % _ROWS
        some = min(len(x) - rows, _ROWS - begin)
        piece = np.zeros((_ROWS, p), np.float32)
        piece[begin : begin + some] = x[rows : rows + some]
        for t in range(tiles):
            found = (piece @ pieces[t])[begin : begin + some]
            out[rows : rows + some, t * wide : (t + 1) * wide] = found
        rows += some


def _buffer(planes: Planes, name: str, rows: int) -> np.ndarray:
    # Fresh megabytes for every block would cost more in page faults than the product itself.
    held = getattr(planes.scratch, name, None)
    if held is None:
        held = np.empty((planes.slice, planes.columns), np.float32)
        setattr(planes.scratch, name, held)
    return held[:rows]


@_compiled
def _find(best, slack, coarse, groups, a, b):  # noqa: ANN001, ANN202
    # Where a score stands that is known: its column and tile among the groups, its slot in the
    # group. Selected without branches, which would be guessed wrongly most of the time. The last
    # number returned is 3 exactly if no other score is within `slack` of it.
    column, tile, slot, near = 0, 0, 0, np.int32(0)
    low = best - slack
    for c in range(WIDTH):
        column = c if coarse[c] == best else column
    for c in range(WIDTH):
        near += np.int32(coarse[c] >= low)
    for t in range(groups.size // WIDTH):
        value = groups[t * WIDTH + column]
        tile = t if value == best else tile
        near += np.int32(value >= low)
    base = tile * 16 * WIDTH + column
    p, q = a[base:], b[base:]  # indices into slices are known not to be negative
    for s in range(16):
        value = p[s * WIDTH] + q[s * WIDTH]
        slot = s if value == best else slot
        near += np.int32(value >= low)
    return column, tile, slot, near


class _Won(NamedTuple):
    """What `_winners` fills in, (m,) each; the last three only if they have that length."""

    site: np.ndarray  # int32
    value: np.ndarray  # float32, its score
    second: np.ndarray  # int32, the runner-up
    other: np.ndarray  # float32, its score
    unsure: np.ndarray  # bool, whether any other is within the slack


@_compiled
def _winners(a, b, per_block, slack, out):  # noqa: ANN001, ANN202
    # a (rows, columns) float32, columns a multiple of 16 * WIDTH; b (groups * m, columns): row k of
    # `a` meets the m rows of group k // per_block, an even number if there are several; slack
    # (rows,), not looked at where no `unsure` is wanted.
    site, value, second, runner, unsure = out
    m = b.shape[0] // (a.shape[0] // per_block)
    pair = np.empty((2, m, a.shape[1] // 16), np.float32)
    coarse = np.empty(WIDTH, np.float32)
    for k in range(a.shape[0]):
        rows = b[(k // per_block) * m : (k // per_block + 1) * m]
        wide = slack[k] if unsure.size else np.float32(0)
        if k % 2 == 0:
            _group_maxima(a[k], a[min(k + 1, a.shape[0] - 1)], rows, pair)
        for r in range(m):
            groups = pair[k % 2, r]
            _fold(groups, coarse)
            best = _highest(coarse)
            column, tile, slot, many = _find(best, wide, coarse, groups, a[k], rows[r])
            if unsure.size:
                unsure[k * m + r] = many != 3
            base = tile * 16 * WIDTH + column
            site[k * m + r] = base + slot * WIDTH
            value[k * m + r] = best
            if second.size == 0:
                continue
            # The runner-up: in the same group, or the best of the others.
            p, q = a[k, base:], rows[r, base:]
            near, own = slot, LOW
            for s in range(16):
                score = p[s * WIDTH] + q[s * WIDTH] if s != slot else LOW
                near = s if score > own else near
                own = score if score > own else own
            groups[tile * WIDTH + column] = LOW
            coarse[column] = _highest(groups[column::WIDTH])
            other = _highest(coarse)
            if other > own:
                column, tile, near, _ = _find(other, np.float32(0), coarse, groups, a[k], rows[r])
                base = tile * 16 * WIDTH + column
            second[k * m + r] = base + near * WIDTH
            runner[k * m + r] = max(own, other)


def winners(
    planes: Planes,
    heights: np.ndarray,
    block: Block,
    *,
    runners: bool,
    slack: torch.Tensor | None = None,
) -> Winners:
    """Find the best site of every sample of a block."""
    site, value, second, other, unsure = _won(planes, heights, block, runners, slack)
    return Winners(block, site, value, second, value[: len(other)] - other, unsure.nonzero()[:, 0])


def _won(
    planes: Planes,
    heights: np.ndarray,
    block: Block,
    runners: bool,
    slack: torch.Tensor | None,
) -> list[torch.Tensor]:
    # The arrays of `_Won`.
    m = block.split
    whole = block.left.shape[0] * m
    lengths = whole, whole, whole * runners, whole * runners, whole * (slack is not None)
    kinds = torch.int32, torch.float32, torch.int32, torch.float32, torch.bool
    found = [torch.empty(n, dtype=kind) for n, kind in zip(lengths, kinds, strict=True)]
    near = np.zeros(0, np.float32) if slack is None else slack.numpy()
    for a, b, group, rows in _scores(planes, heights, block):
        part = slice(rows.start * m, rows.stop * m)
        out = _Won(*(x.numpy()[part] for x in found))
        _winners(a, b, group, near[rows], out)
    return found


class _Lists(NamedTuple):
    """What `_candidates` fills in; m samples, at most `longest` entries each."""

    start: np.ndarray  # (m + 1,) int64, where each list starts
    site: np.ndarray  # (m * longest,) int32, filled up to start[-1]
    value: np.ndarray  # the same length, float32: score minus the best score, <= 0
    lead: np.ndarray  # (m,) float32, the best score
    bound: np.ndarray  # (m,) float32: no site outside the list scores above lead + bound
    # (m, any) float32, the highest maxima of groups in reach. Where there are any the sites are
    # some of all: scores are not made relative, for the best of all is not known yet.
    tops: np.ndarray


@_compiled
def _keep(sites, values, count, longest, threshold, site, value):  # noqa: ANN001, ANN202
    # Moves the `longest` highest of `count` values and their sites to `site` and `value`, in
    # order; of equal ones the first. Returns how many, and the highest that is not among them.
    for c in range(min(count, longest)):
        site[c] = sites[c]
        value[c] = values[c]
    outside = threshold
    weakest = 0
    for c in range(longest, count):
        if c == longest:
            for e in range(longest):
                weakest = e if value[e] <= value[weakest] else weakest
        score = values[c]
        low = value[weakest]
        outside = max(outside, min(low, score))
        if score > low:
            for e in range(weakest, longest - 1):
                site[e] = site[e + 1]
                value[e] = value[e + 1]
            site[longest - 1] = sites[c]
            value[longest - 1] = score
            weakest = 0
            for e in range(longest):
                weakest = e if value[e] <= value[weakest] else weakest
    return min(count, longest), outside


@_compiled
def _candidates(a, b, per_block, radius, least, out):  # noqa: ANN001, ANN202
    # a, b and per_block as for `_winners`. The radius doubles (at most WIDER times) for a sample
    # with fewer than `least` groups in reach; a list that is full keeps the highest scores.
    start, site, value, lead, bound, tops = out
    m = b.shape[0] // (a.shape[0] // per_block)
    longest = site.size // (a.shape[0] * m)
    pair = np.empty((2, m, a.shape[1] // 16), np.float32)
    coarse = np.empty(WIDTH, np.float32)
    columns = np.empty(WIDTH + 1, np.int32)
    reach = np.empty(pair.shape[2] + 1, np.int32)
    near_site = np.empty(a.shape[1] + 1, np.int32)
    near_value = np.empty(a.shape[1] + 1, np.float32)
    tiles = pair.shape[2] // WIDTH
    start[0] = 0
    for k in range(a.shape[0]):
        rows = b[(k // per_block) * m : (k // per_block + 1) * m]
        if k % 2 == 0:
            _group_maxima(a[k], a[min(k + 1, a.shape[0] - 1)], rows, pair)
        for r in range(m):
            groups = pair[k % 2, r]
            _fold(groups, coarse)
            best = _highest(coarse)
            span = np.float32(radius)
            for _ in range(WIDER):
                near = 0
                for c in range(groups.size):
                    near += np.int32(groups[c] >= best - span)
                if near >= least:
                    break
                span = span + span
            threshold = best - span
            # Here and below: written in any case and kept or not, no branch to guess wrongly.
            warm = 0
            for c in range(WIDTH):
                columns[warm] = c
                warm += coarse[c] >= threshold
            found = 0
            for e in range(warm):
                c = columns[e]
                for t in range(tiles):
                    reach[found] = t * WIDTH + c
                    found += groups[t * WIDTH + c] >= threshold
            count = 0
            for f in range(found):
                base = (reach[f] // WIDTH) * 16 * WIDTH + reach[f] % WIDTH
                p, q = a[k, base:], rows[r, base:]
                sites, values = near_site[count:], near_value[count:]
                more = 0
                for s in range(16):
                    score = p[s * WIDTH] + q[s * WIDTH]
                    sites[more] = base + s * WIDTH
                    values[more] = score
                    more += score >= threshold
                count += more
            row, first = k * m + r, start[k * m + r]
            own_site, own_value = site[first:], value[first:]
            count, outside = _keep(
                near_site, near_value, count, longest, threshold, own_site, own_value
            )
            start[row + 1] = first + count
            lead[row] = best
            if tops.shape[1] == 0:
                for e in range(count):
                    own_value[e] -= best
                bound[row] = outside - best
                continue
            top = tops[row]
            top[:] = LOWEST
            for f in range(found):
                score = groups[reach[f]]
                for e in range(top.size):
                    if score > top[e]:
                        score, top[e] = top[e], score


def candidates(
    planes: Planes,
    heights: np.ndarray,
    block: Block,
    *,
    radius: float,
    least: int,
    longest: int,
) -> list[Listed]:
    """List, for every sample of a block, the sites within a radius of the best."""
    parts = _listed(planes, heights, block, radius, least, longest, 0)
    found = []
    for out in parts:
        start, site, value, lead, bound = map(torch.from_numpy, out[:5])
        found.append((start, site, value, lead, bound))
    return found


def _listed(
    planes: Planes,
    heights: np.ndarray,
    block: Block,
    radius: float,
    least: int,
    longest: int,
    tops: int,
) -> list[_Lists]:
    # The lists of the slices of a block, with so many maxima of groups.
    parts = []
    for a, b, group, _ in _scores(planes, heights, block):
        m = a.shape[0] * block.split
        out = _Lists(
            np.empty(m + 1, np.int64),
            np.empty(m * longest, np.int32),
            np.empty(m * longest, np.float32),
            np.empty(m, np.float32),
            np.empty(m, np.float32),
            np.empty((m, tops), np.float32),
        )
        _candidates(a, b, group, radius, least, out)
        used = out.start[-1]
        parts.append(out._replace(site=out.site[:used].copy(), value=out.value[:used].copy()))
    return parts


# Where ranks share the sites, each looks among its own, whole tiles of them, for what may count
# among all, and sends it to the rank whose block it is. That one makes of it what it would have
# found among all sites; of equal scores it takes the one which would have been taken there.


def part_winners(planes: Planes, heights: np.ndarray, block: Block, first: int) -> torch.Tensor:
    """Find winners and runners-up among the sites from `first` on: (m, 4) int32, for `won`."""
    site, value, second, other, _ = _won(planes, heights, block, True, None)
    return torch.stack(
        [site + first, value.view(site.dtype), second + first, other.view(site.dtype)], 1
    )


@_compiled
def _order(site, tiles):  # noqa: ANN001, ANN202
    # Of equal scores `_find` takes the last column of tiles, there the last tile, the last slot.
    return ((site % WIDTH) * tiles + site // (16 * WIDTH)) * 16 + site // WIDTH % 16


@_compiled
def _best_of_parts(sites, scores, tiles, out):  # noqa: ANN001, ANN202
    # sites, scores (parts, m, 4) int32 and float32, of the same bytes: `part_winners`.
    site, value, second, runner = out
    for r in range(site.size):
        k = 0
        for e in range(1, sites.shape[0]):
            ahead = scores[e, r, 1] > scores[k, r, 1]
            same = scores[e, r, 1] == scores[k, r, 1]
            if ahead or (same and _order(sites[e, r, 0], tiles) > _order(sites[k, r, 0], tiles)):
                k = e
        i, j, other = sites[k, r, 0], sites[k, r, 2], scores[k, r, 3]
        # A runner-up in the group of the winner comes before equal ones.
        beside = i % WIDTH == j % WIDTH and i // (16 * WIDTH) == j // (16 * WIDTH)
        for e in range(sites.shape[0]):
            score, s = scores[e, r, 1], sites[e, r, 0]
            same = score == other and not beside and _order(s, tiles) > _order(j, tiles)
            if e != k and (score > other or same):
                j, other, beside = s, score, False
        site[r], value[r], second[r], runner[r] = i, scores[k, r, 1], j, other


def won(
    block: Block,
    parts: list[torch.Tensor],
    columns: int,
    runners: bool,
    slack: torch.Tensor | None,
) -> Winners:
    """Return the `winners` of a block where those of all parts of the sites are known."""
    whole = torch.stack(parts)
    kinds = torch.int32, torch.float32, torch.int32, torch.float32
    found = [torch.empty(whole.shape[1], dtype=kind) for kind in kinds]
    out = tuple(x.numpy() for x in found)
    _best_of_parts(whole.numpy(), whole.view(torch.float32).numpy(), columns // (16 * WIDTH), out)
    site, value, second, other = found
    unsure = torch.zeros(0, dtype=torch.int64)
    if slack is not None:
        unsure = (other >= value - slack.repeat_interleave(block.split)).nonzero()[:, 0]
    gap = value - other
    if not runners:
        second, gap = second[:0], gap[:0]
    return Winners(block, site, value, second, gap, unsure)


def part_candidates(
    planes: Planes,
    heights: np.ndarray,
    block: Block,
    first: int,
    *,
    radius: float,
    least: int,
    longest: int,
) -> list[torch.Tensor]:
    """List the sites from `first` on that may be in the lists of all sites: for `listed`.

    Of every sample how many; the highest maxima of `least` groups; sites; scores; all as int32.
    """
    # One more than fit, in as many groups: there are no higher ones among these sites.
    parts = _listed(planes, heights, block, radius, longest + 1, longest + 1, least)
    found = [[np.diff(out.start), out.tops, out.site + first, out.value] for out in parts]
    flat = [np.concatenate(x).ravel() for x in zip(*found, strict=True)]
    whole = [x.astype(np.int32) if x.dtype == np.int64 else x.view(np.int32) for x in flat]
    return [torch.from_numpy(x) for x in whole]


@_compiled
def _lists_of_parts(begin, end, sites, scores, tops, tiles, radius, least, out):  # noqa: ANN001, ANN202
    # begin, end (parts, m): where in `sites` and `scores` the lists of the parts stand; tops
    # (parts, m, least).
    start, site, value, lead, bound, _ = out
    parts, m = begin.shape
    longest = site.size // m
    near_site = np.empty(int((end - begin).sum(0).max()) + 1, np.int32)
    near_value = np.empty(near_site.size, np.float32)
    head = np.empty(parts, np.int64)
    start[0] = 0
    for r in range(m):
        best = LOW
        for k in range(parts):
            for e in range(begin[k, r], end[k, r]):
                best = scores[e] if scores[e] > best else best
        span = np.float32(radius)
        for _ in range(WIDER):
            near = 0
            for k in range(parts):
                for top in tops[k, r]:
                    near += np.int32(top >= best - span)
            if near >= least:
                break
            span = span + span
        threshold = best - span
        count = 0
        head[:] = begin[:, r]
        while True:  # in the order in which `_candidates` meets them
            first, own = np.int64(-1), 0
            for k in range(parts):
                if head[k] < end[k, r]:
                    order = _order(sites[head[k]], tiles)
                    if first < 0 or order < first:
                        first, own = order, k
            if first < 0:
                break
            near_site[count] = sites[head[own]]
            near_value[count] = scores[head[own]]
            count += scores[head[own]] >= threshold
            head[own] += 1
        own_site, own_value = site[start[r] :], value[start[r] :]
        count, outside = _keep(
            near_site, near_value, count, longest, threshold, own_site, own_value
        )
        for e in range(count):
            own_value[e] -= best
        start[r + 1] = start[r] + count
        lead[r] = best
        bound[r] = outside - best


def listed(
    m: int,
    parts: list[torch.Tensor],
    columns: int,
    *,
    radius: float,
    least: int,
    longest: int,
) -> Listed:
    """Return the `candidates` of m samples where those of all parts of the sites are known."""
    begin, end = np.empty((2, len(parts), m), np.int64)
    tops, sites, scores, offset = [], [], [], 0
    for k, part in enumerate(parts):
        count, top, rest = np.split(part.numpy(), [m, m + m * least])
        end[k] = offset + np.cumsum(count, dtype=np.int64)
        begin[k] = end[k] - count
        offset += len(rest) // 2
        tops.append(top.view(np.float32).reshape(m, least))
        sites.append(rest[: len(rest) // 2])
        scores.append(rest[len(rest) // 2 :].view(np.float32))
    out = _Lists(
        np.empty(m + 1, np.int64),
        np.empty(m * longest, np.int32),
        np.empty(m * longest, np.float32),
        np.empty(m, np.float32),
        np.empty(m, np.float32),
        np.empty((m, 0), np.float32),
    )
    flat, tiles = (
        (np.concatenate(sites), np.concatenate(scores), np.stack(tops)),
        columns // (16 * WIDTH),
    )
    _lists_of_parts(begin, end, *flat, tiles, radius, least, out)
    used = out.start[-1]
    found = out._replace(site=out.site[:used].copy(), value=out.value[:used].copy())[:5]
    start, site, value, lead, bound = map(torch.from_numpy, found)
    return start, site, value, lead, bound


@_compiled
def _relist(start, site, value, shift, first, second, gap):  # noqa: ANN001, ANN202
    # start, site and value of `CandidateLists` and its shift (n,) float32. Filled, (m,): winner,
    # runner-up, or -1 in a list of one, and how far it is behind. Returns the sum of best values.
    total = 0.0
    for k in range(first.size):
        best = LOW
        other = LOW
        i = np.int32(-1)
        j = np.int32(-1)
        for e in range(start[k], start[k + 1]):
            score = value[e] + shift[site[e]]
            if score > best:
                other = best
                j = i
                best = score
                i = site[e]
            elif score > other:
                other = score
                j = site[e]
        first[k] = i
        second[k] = j
        gap[k] = best - other
        total += best
    return total


def relist(
    lists: CandidateLists, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Find winner and runner-up of every list at other heights."""
    first, second = torch.empty(2, lists.n_samples, dtype=torch.int32)
    gap = torch.empty(lists.n_samples, dtype=torch.float32)
    arrays = lists.start, lists.site, lists.value, shift, first, second, gap
    total = _relist(*(x.numpy() for x in arrays))
    return first, second, gap, total


@_compiled
def _fixed(rows):  # noqa: ANN001, ANN202
    # As `planes.add_rows` counts: (m, d) int64.
    out = np.empty(rows.shape, np.int64)
    for k in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            out[k, c] = np.int64(np.rint(np.float64(rows[k, c]) * FIXED))
    return out


@_compiled
def _add_points(site, left, right, per_block, sums):  # noqa: ANN001, ANN202
    # site (rows * m,), the cell of each sample; left (rows, p) and right (groups * m, q) int64, the
    # halves of its coordinates, q may be 0; sums (n, p + q) int64, added to.
    rows, p = left.shape
    m = site.size // rows
    for k in range(rows):
        point = left[k]
        for r in range(m):
            total = sums[site[k * m + r]]
            head, tail = total[:p], total[p:]
            for c in range(p):
                head[c] += point[c]
            other = right[(k // per_block) * m + r]
            for c in range(other.size):
                tail[c] += other[c]


def add_points(block: Block, site: torch.Tensor, sums: torch.Tensor) -> None:
    """Add every sample of a block to the sums of its cell."""
    left, right = _fixed(block.left.numpy()), _fixed(block.right.numpy())
    _add_points(site.numpy(), left, right, block.group, sums.numpy())


@_compiled
def _count(site, first, per_group, counts):  # noqa: ANN001, ANN202
    for k in range(site.size):
        counts[(first + k // per_group) % counts.shape[0], site[k]] += 1


def count(site: torch.Tensor, first: int, per_group: int, counts: torch.Tensor) -> None:
    """Count winners, groups of samples going to the rows of `counts` in turn."""
    _count(site.numpy(), first, per_group, counts.numpy())


@_compiled
def _cluster_maxima(a, heights, edges, out):  # noqa: ANN001, ANN202
    # a (rows, columns); heights (columns,), added to every row; cluster g holds the columns from
    # edges[g] to edges[g + 1]; out (rows, clusters), filled.
    for k in range(a.shape[0]):
        for g in range(edges.size - 1):
            row = a[k, edges[g] : edges[g + 1]]
            high = heights[edges[g] : edges[g + 1]]
            best = LOW
            for c in range(row.size):
                score = row[c] + high[c]
                best = score if score > best else best
            out[k, g] = best


def cluster_maxima(
    planes: Planes, heights: np.ndarray, block: Block, edges: np.ndarray
) -> torch.Tensor:
    """Find the best score of every sample within each cluster of consecutive sites."""
    out = torch.empty(block.left.shape[0], edges.size - 1, dtype=torch.float32)
    for a, b, _, rows in _scores(planes, heights, block):
        _cluster_maxima(a, b[0], edges, out.numpy()[rows])
    return out


class _Close(NamedTuple):
    """What `_close_pairs` fills in, (m,) each."""

    left: np.ndarray  # int32, winners of the close samples
    right: np.ndarray  # int32, their runners-up
    weight: np.ndarray  # float64, 1 / (2 band)


@_compiled
def _close_pairs(first, second, gap, sites, window, near, out):  # noqa: ANN001, ANN202
    # Returns how many samples are close.
    left, right, weight = out
    count = 0
    for k in range(first.size):
        i = first[k]
        j = second[k]
        if j >= 0 and gap[k] < window[i]:
            square = np.float32(0)
            for c in range(sites.shape[1]):
                step = sites[i, c] - sites[j, c]
                square += step * step
            band = min(window[i], near * np.sqrt(square))
            if gap[k] < band:
                left[count] = i
                right[count] = j
                weight[count] = 0.5 / band
                count += 1
    return count


def close_pairs(
    sites: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    gap: torch.Tensor,
    window: torch.Tensor,
    near: float,
) -> Edges:
    """Collect the samples in the band along their facet."""
    m = first.shape[0]
    out = _Close(np.empty(m, np.int32), np.empty(m, np.int32), np.empty(m, np.float64))
    winner, runner = first.numpy(), second.numpy()
    k = _close_pairs(winner, runner, gap.numpy(), sites.numpy(), window.numpy(), near, out)
    left, right, weight = (torch.from_numpy(x[:k].copy()) for x in out)
    return left, right, weight
