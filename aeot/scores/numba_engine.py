"""The hot loops, compiled by numba at first use: group maxima, winners, candidate lists.

Every function works on one block of scores and lets go of the interpreter lock, so that a thread
pool scales; results do not depend on the number of threads. A score is the sum of one row of `a`
and one row of `b`; columns are handled in groups of sixteen, whose maxima are what a search for the
winner, or for all scores near it, descends through. `aeot.solvers.scorer` holds the same in torch.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numba import njit
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
NAME = "numba"
_OPTIONS = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}
LOW = np.float32(-1e30)  # the height of padding columns; fastmath wants no infinities
LOWEST = np.float32(-3e38)  # below every height of any size
WIDTH = 32  # of a tile: sixteen times as many columns
_TILE = 1 << 18  # scores held at once by `top_k`; a constant, so that no setting changes a result


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes milliseconds: once


def each(work: Callable[[int], T], blocks: range, threads: int) -> Iterator[T]:
    """Yield ``work(block)`` for every block in turn, worked on by several threads.

    One thread per block with single-threaded products: no barriers, and the same bits for any
    number of threads.
    """
    with _threads().limit(limits=1, user_api="blas"):
        if threads == 1 or len(blocks) == 1:
            yield from map(work, blocks)
            return
        with ThreadPoolExecutor(threads) as pool:
            running: deque = deque()
            for index in blocks:
                running.append(pool.submit(work, index))
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()


@njit(**_OPTIONS)
def _largest(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):  # noqa: ANN001, ANN202, E741
    a, c = a if a > b else b, c if c > d else d
    e, g = e if e > f else f, g if g > h else h
    i, k = i if i > j else j, k if k > l else l
    m, o = m if m > n else n, o if o > p else p
    a, e = a if a > c else c, e if e > g else g
    i, m = i if i > k else k, m if m > o else o
    a, i = a if a > e else e, i if i > m else m
    return a if a > i else i


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _fold(groups, coarse):  # noqa: ANN001, ANN202
    # coarse[c] = max over t of groups[w t + c]
    w = WIDTH
    for c in range(w):
        coarse[c] = groups[c]
    for t in range(1, groups.size // w):
        part = groups[w * t : w * (t + 1)]
        for c in range(w):
            coarse[c] = part[c] if part[c] > coarse[c] else coarse[c]


@njit(**_OPTIONS)
def _highest(values):  # noqa: ANN001, ANN202
    best = LOW
    for value in values:
        best = value if value > best else best
    return best


@njit(**_OPTIONS)
def _top_k(scores, heights, values, sites):  # noqa: ANN001, ANN202
    # scores (rows, columns), heights (1, columns), added to every row; values and sites (rows, k),
    # filled: the k highest, best first. Most groups are below the k-th best so far: their maximum
    # alone is looked at.
    k = sites.shape[1]
    pair = np.empty((2, 1, scores.shape[1] // 16), scores.dtype)
    for r in range(scores.shape[0]):
        if r % 2 == 0:
            _group_maxima(scores[r], scores[min(r + 1, scores.shape[0] - 1)], heights, pair)
        groups, value, site = pair[r % 2, 0], values[r], sites[r]
        value[:] = LOWEST
        site[:] = 0
        for t in range(groups.size // WIDTH):
            part = groups[t * WIDTH : (t + 1) * WIDTH]
            for c in range(WIDTH):
                if not part[c] > value[k - 1]:
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


def top_k(points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k highest planes at every point, best first: indices (m, k) int64."""
    m, n, d = points.shape[0], *sites.shape
    dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    columns = 16 * WIDTH * -(-n // (16 * WIDTH))
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    y = sites.to(torch.float64)
    right = torch.zeros(d, columns, dtype=dtype)
    right[:, :n] = (y - y.mean(0)).T
    h = torch.full((1, columns), float(LOWEST), dtype=dtype)
    h[0, :n] = heights
    rows = max(64, _TILE // columns, d // 2)  # wide sites are worth reading for many points
    indices = torch.empty(m, k, dtype=torch.int64)

    def work(block: int) -> None:
        x = points[rows * block : rows * (block + 1)].to(dtype).numpy()
        padded = np.zeros((rows, d), x.dtype)  # one shape: a point is answered alone as in company
        padded[: len(x)] = x
        scores = (padded @ right.numpy())[: len(x)]
        found = indices[rows * block : rows * block + len(x)].numpy()
        _top_k(scores, h.numpy(), np.empty((len(x), k), x.dtype), found)

    for _ in each(work, range(-(-m // rows)), torch.get_num_threads()):
        pass
    return indices


@njit(**_OPTIONS)
def _find(best, coarse, groups, a, b):  # noqa: ANN001, ANN202
    # Where a score stands that is known: its column and tile among the groups, its slot in the
    # group. Selected without branches, which would be guessed wrongly most of the time.
    column, tile, slot = 0, 0, 0
    for c in range(WIDTH):
        column = c if coarse[c] == best else column
    for t in range(groups.size // WIDTH):
        tile = t if groups[t * WIDTH + column] == best else tile
    base = tile * 16 * WIDTH + column
    p, q = a[base:], b[base:]  # indices into slices are known not to be negative
    for s in range(16):
        slot = s if p[s * WIDTH] + q[s * WIDTH] == best else slot
    return column, tile, slot


@njit(**_OPTIONS)
def winners(a, b, per_block, site, value, second, gap):  # noqa: ANN001, ANN201
    """Find the best site of every sample of a block of scores.

    Args:
        a: (rows, columns) float32; columns is a multiple of 16 * WIDTH.
        b: (blocks * m, columns); row k of `a` meets the m rows of block ``k // per_block``.
        per_block: Rows of `a` per block, even if there are several blocks.
        site: (rows * m,) int32, filled: the winning column.
        value: (rows * m,) float32, filled: its score.
        second: (rows * m,) int32, filled: the runner-up; empty if not wanted.
        gap: (rows * m,) float32, filled: how far it is behind; empty if not wanted.
    """
    m = b.shape[0] // (a.shape[0] // per_block)
    pair = np.empty((2, m, a.shape[1] // 16), np.float32)
    coarse = np.empty(WIDTH, np.float32)
    for k in range(a.shape[0]):
        rows = b[(k // per_block) * m : (k // per_block + 1) * m]
        if k % 2 == 0:
            _group_maxima(a[k], a[min(k + 1, a.shape[0] - 1)], rows, pair)
        for r in range(m):
            groups = pair[k % 2, r]
            _fold(groups, coarse)
            best = _highest(coarse)
            column, tile, slot = _find(best, coarse, groups, a[k], rows[r])
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
                column, tile, near = _find(other, coarse, groups, a[k], rows[r])
                base = tile * 16 * WIDTH + column
            second[k * m + r] = base + near * WIDTH
            gap[k * m + r] = best - max(own, other)


@njit(**_OPTIONS)
def candidates(a, b, per_block, radius, least, start, site, value, lead, bound):  # noqa: ANN001, ANN201
    """List, for every sample of a block of scores, the sites within a radius of the best.

    The radius doubles (at most three times) for a sample with fewer than `least` groups in reach;
    a list that is full keeps the highest scores.

    Args:
        a: (rows, columns) float32; columns is a multiple of 16 * WIDTH.
        b: (blocks * m, columns).
        per_block: Rows of `a` per block, even if there are several blocks.
        radius: How far below the best score a site may be.
        least: Wanted number of groups of sixteen in reach.
        start: (rows * m + 1,) int64, filled: where each list starts.
        site: (rows * m * longest,) int32, filled up to ``start[-1]``.
        value: The same length, float32: score minus the best score, <= 0.
        lead: (rows * m,) float32, filled: the best score.
        bound: (rows * m,) float32, filled: no site outside the list scores above ``lead + bound``.
    """
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
            for _ in range(3):
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
            first = start[k * m + r]
            outside = threshold - best
            weakest = 0
            for c in range(min(count, longest)):
                site[first + c] = near_site[c]
                value[first + c] = near_value[c] - best
            for c in range(longest, count):
                if c == longest:
                    for e in range(longest):
                        weakest = e if value[first + e] < value[first + weakest] else weakest
                score = near_value[c] - best
                low = value[first + weakest]
                outside = max(outside, min(low, score))
                if score > low:
                    site[first + weakest] = near_site[c]
                    value[first + weakest] = score
                    for e in range(longest):
                        weakest = e if value[first + e] < value[first + weakest] else weakest
            count = min(count, longest)
            start[k * m + r + 1] = first + count
            lead[k * m + r] = best
            bound[k * m + r] = outside


@njit(**_OPTIONS)
def relist(start, site, value, shift, first, second, gap):  # noqa: ANN001, ANN201
    """Find winner and runner-up of every list after the heights moved by `shift`.

    Args:
        start: (m + 1,) int64.
        site: (entries,) int32.
        value: (entries,) float32.
        shift: (n,) float32, what each site's height gained since the lists were made.
        first: (m,) int32, filled: the winner.
        second: (m,) int32, filled: the runner-up, or -1 in a list of one.
        gap: (m,) float32, filled: how far the runner-up is behind.

    Returns:
        The sum over samples of the winner's value.
    """
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


@njit(**_OPTIONS)
def add_points(site, left, right, per_block, sums):  # noqa: ANN001, ANN201
    """Add every sample's point to the sums of its cell.

    Args:
        site: (rows * m,) int32, the cell of each sample.
        left: (rows, p) float32, the first half of the coordinates.
        right: (blocks * m, q) float32, the second half; q may be 0.
        per_block: Rows of `left` per block.
        sums: (n, p + q) float64, added to.
    """
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


@njit(**_OPTIONS)
def count(site, first, per_group, counts):  # noqa: ANN001, ANN201
    """Count winners, groups of samples going to the rows of `counts` in turn.

    Args:
        site: (m,) int32.
        first: Index of the first group.
        per_group: Samples per group.
        counts: (batches, n) int64, added to.
    """
    for k in range(site.size):
        counts[(first + k // per_group) % counts.shape[0], site[k]] += 1


@njit(**_OPTIONS)
def cluster_maxima(a, heights, edges, out):  # noqa: ANN001, ANN201
    """Find the best score of every sample within each cluster of consecutive sites.

    Args:
        a: (rows, columns) float32.
        heights: (columns,) float32, added to every row.
        edges: (clusters + 1,) int64: cluster g holds the columns from edges[g] to edges[g + 1].
        out: (rows, clusters) float32, filled.
    """
    for k in range(a.shape[0]):
        for g in range(edges.size - 1):
            row = a[k, edges[g] : edges[g + 1]]
            high = heights[edges[g] : edges[g + 1]]
            best = LOW
            for c in range(row.size):
                score = row[c] + high[c]
                best = score if score > best else best
            out[k, g] = best


@njit(**_OPTIONS)
def close_pairs(first, second, gap, sites, window, near, left, right, weight):  # noqa: ANN001, ANN201
    """Collect winner and runner-up of the samples that lie in the band along their facet.

    Args:
        first: (m,) int32, winners.
        second: (m,) int32, runners-up, -1 for none.
        gap: (m,) float32.
        sites: (n, d) float32.
        window: Width of the band, at most `near` times the distance of the two sites.
        near: See `window`.
        left: (m,) int32, filled: winners of the close samples.
        right: (m,) int32, filled: their runners-up.
        weight: (m,) float64, filled: 1 / (2 band).

    Returns:
        How many samples are close.
    """
    count = 0
    for k in range(first.size):
        if gap[k] < window and second[k] >= 0:
            i = first[k]
            j = second[k]
            square = np.float32(0)
            for c in range(sites.shape[1]):
                step = sites[i, c] - sites[j, c]
                square += step * step
            band = min(window, near * np.sqrt(square))
            if gap[k] < band:
                left[count] = i
                right[count] = j
                weight[count] = 0.5 / band
                count += 1
    return count
