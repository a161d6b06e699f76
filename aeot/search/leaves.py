"""Candidate lists from the leaves of trees of sites: most sites are not looked at.

The sites are cut in two, again and again, into leaves of 64, in two ways. A sample is scored
against the mean plane of every leaf, and against the sites of the leaves that come out best. How
far behind the best a leaf has to be looked at, so that nearly all winners are found, a few samples
tell first that are scored against all sites.

A list may lack a site, even its winner. That is good enough for Newton steps whose outcome fresh
samples judge, which are scored against all sites.

References:
    H. Jegou, M. Douze, C. Schmid, "Product quantization for nearest neighbor search", IEEE Trans.
    Pattern Anal. Mach. Intell. 33 (2011), section IV: lists of a coarse quantiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from aeot._rng import stream_seed
from aeot.search.numba_engine import LOW, LOWEST, _compiled, _keep, _threads
from aeot.search.planes import WIDER, Listed

TREES = 2  # a winner that is not found in one may be found in another
LEAF = 64  # sites; a constant, because loops of a known length become vector instructions
ROWS = 4096  # samples of a block
POOL = 2048  # samples that are scored against all sites: half to learn from, half to judge by
_NEAREST = 8  # of them, to each leaf, that say how far its best site is above its mean plane
_SCORES = 1 << 18  # held at once; a constant, so that no setting changes a result
_ROUNDS = 2  # of power iteration


@dataclass(frozen=True)
class Leaves:
    """The sites of a problem, in several trees.

    Attributes:
        order: (leaves, LEAF) int32, the sites, n where a leaf has no more; tree by tree.
        planes: (leaves, d, LEAF) float32, their coordinates, zero where there is no site.
        centres: (d, leaves) float32, the means of the coordinates.
    """

    order: np.ndarray
    planes: np.ndarray
    centres: np.ndarray

    @property
    def count(self) -> int:
        """Number of leaves."""
        return len(self.order)


@dataclass(frozen=True)
class Raised:
    """The leaves at some heights, and which are looked at there.

    Attributes:
        leaves: Of the sites.
        heights: (leaves, LEAF) float32, `LOW` where there is no site.
        lift: (leaves,) float32, what is added to the products with the means.
        reach: How far below the highest mean plane those of the leaves are that are looked at.
        probes: How many of them there are for a sample, on average.
    """

    leaves: Leaves
    heights: np.ndarray
    lift: np.ndarray
    reach: float
    probes: float


def grown(sites: torch.Tensor, seed: int) -> Leaves:
    """Cut sites (n, d) into the leaves of trees, each time along the directions of great spread."""
    y = np.ascontiguousarray(sites.to(torch.float32).numpy())
    n, d = y.shape
    rng = np.random.default_rng(stream_seed(seed, "leaves"))
    count = -(-n // LEAF)
    order = np.full((TREES, count * LEAF), n, np.int32)
    order[:, :n] = np.arange(n)
    parts = [(tree, 0, n) for tree in range(TREES)]
    with _threads().limit(limits=1, user_api="blas"):  # the same bits for any number of threads
        while parts:
            tree, first, last = parts.pop()
            leaves = -(-(last - first) // LEAF)
            if leaves == 1:
                continue
            own = order[tree, first:last]
            z = y[own]
            cut = LEAF * (leaves // 2)
            own[:] = own[np.argsort(z @ _direction(z, rng), kind="stable")]
            parts += [(tree, first, first + cut), (tree, first + cut, last)]
    order = order.reshape(-1, LEAF)
    planes = np.concatenate([y, np.zeros((1, d), np.float32)])[order].transpose(0, 2, 1)
    planes = np.ascontiguousarray(planes)
    return Leaves(order, planes, np.ascontiguousarray((planes.sum(2) / _sizes(order, n)).T))


def _sizes(order: np.ndarray, n: int) -> np.ndarray:
    return (order < n).sum(1, keepdims=True).astype(np.float32)


def _direction(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Some mean of the first principal axes of rows of which none counts more than twice the median.
    z = z - z.mean(0)
    size = np.sqrt(np.einsum("ij,ij->i", z, z))
    z *= np.minimum(1, 2 * np.median(size) / np.maximum(size, 1e-30))[:, None]
    axis = np.asarray(rng.standard_normal(z.shape[1], dtype=np.float32))
    for _ in range(_ROUNDS):
        axis = z.T @ (z @ axis)
        axis /= max(float(np.linalg.norm(axis)), 1e-30)
    return axis


def raised(leaves: Leaves, heights: torch.Tensor, pool: np.ndarray, found: float) -> Raised:
    """Find out how far below the best the leaves are that have to be looked at.

    Args:
        leaves: Of the sites.
        heights: (n,).
        pool: (POOL, d) float32, samples.
        found: Share of them whose winner is to be found.
    """
    n, half = len(heights), len(pool) // 2
    h = np.append(heights.numpy().astype(np.float32), np.float32(LOW))[leaves.order]
    lift = (np.where(leaves.order < n, h, 0).sum(1, keepdims=True) / _sizes(leaves.order, n))[:, 0]
    best = np.empty((leaves.count, half), np.float32)
    above = np.empty(leaves.count, np.float32)
    with _threads().limit(limits=1, user_api="blas"):
        _all_maxima(pool[:half], leaves.planes, h, best)
        mean = leaves.centres.T @ pool[:half].T + lift[:, None]
        _above(best, best.max(0), mean, above)
        lift = (lift + above).astype(np.float32)
        _all_maxima(pool[half:], leaves.planes, h, best)
        mean = pool[half:] @ leaves.centres + lift
    top = mean.max(1)
    behind = np.full(half, np.inf)
    for tree in np.split(np.arange(leaves.count), TREES):
        winner = tree[best[tree].argmax(0)]
        behind = np.minimum(behind, top - mean[np.arange(half), winner])
    reach = float(np.quantile(behind, found, method="higher"))
    probes = float((mean >= (top - reach)[:, None]).mean() * leaves.count)
    return Raised(leaves, h, lift, reach, probes)


@_compiled
def _above(best, top, mean, above):  # noqa: ANN001, ANN202
    # best, mean (leaves, samples), top (samples,). Filled, (leaves,): how far the best site is
    # above the mean plane, on average over the samples where it is nearest to the top.
    value = np.empty(_NEAREST, np.float32)
    where = np.empty(_NEAREST, np.int64)
    for t in range(best.shape[0]):
        value[:] = LOWEST
        where[:] = 0
        for r in range(best.shape[1]):
            score = best[t, r] - top[r]
            if not score > value[_NEAREST - 1]:
                continue
            e = _NEAREST - 1
            while e > 0 and value[e - 1] < score:
                value[e] = value[e - 1]
                where[e] = where[e - 1]
                e -= 1
            value[e] = score
            where[e] = r
        total = np.float32(0)
        for r in where:
            total += best[t, r] - mean[t, r]
        above[t] = total / _NEAREST


@_compiled
def _score(x, plane, height, out):  # noqa: ANN001, ANN202
    # x (d,), plane (d, LEAF), height (LEAF,); out (LEAF,), filled: the scores. Eight coordinates at
    # a time, so that sums stay where they are added up.
    d = x.size
    for c in range(LEAF):
        out[c] = height[c]
    k = 0
    while k + 8 <= d:
        p0, p1, p2, p3 = plane[k], plane[k + 1], plane[k + 2], plane[k + 3]
        p4, p5, p6, p7 = plane[k + 4], plane[k + 5], plane[k + 6], plane[k + 7]
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        x4, x5, x6, x7 = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        for c in range(LEAF):
            half = x0 * p0[c] + x1 * p1[c] + x2 * p2[c] + x3 * p3[c]
            out[c] += half + x4 * p4[c] + x5 * p5[c] + x6 * p6[c] + x7 * p7[c]
        k += 8
    while k < d:
        p0, x0 = plane[k], x[k]
        for c in range(LEAF):
            out[c] += x0 * p0[c]
        k += 1


@_compiled
def _most(out):  # noqa: ANN001, ANN202
    best = out[0]
    for c in range(LEAF):
        best = out[c] if out[c] > best else best
    return best


@_compiled
def _all_maxima(x, planes, heights, best):  # noqa: ANN001, ANN202
    # best (leaves, samples), filled.
    out = np.empty(LEAF, np.float32)
    for t in range(planes.shape[0]):
        for r in range(x.shape[0]):
            _score(x[r], planes[t], heights[t], out)
            best[t, r] = _most(out)


@_compiled
def _taken(mean, lift, reach, number, leaf):  # noqa: ANN001, ANN202
    # mean (rows, leaves), the products with the means of the leaves, to which `lift` is added.
    # Filled: the leaves within `reach` of the highest, row by row, and how many each row has; one
    # place more than there are may be written to. Returns how many in all. Most of 32 in turn are
    # below, and their maximum alone is looked at.
    k, count = 0, mean.shape[1]
    tops = np.empty(-(-count // 32), np.float32)
    for r in range(mean.shape[0]):
        row, top = mean[r], LOW
        for part in range(tops.size):
            own, more = row[32 * part : 32 * part + 32], lift[32 * part : 32 * part + 32]
            high = LOW
            for c in range(own.size):
                own[c] += more[c]
                high = own[c] if own[c] > high else high
            tops[part] = high
            top = high if high > top else top
        begin, low = k, top - reach
        for part in range(tops.size):
            if tops[part] < low:
                continue
            own = row[32 * part : 32 * part + 32]
            for c in range(own.size):
                leaf[k] = 32 * part + c
                k += own[c] >= low
        number[r] = k - begin
    return k


@_compiled
def _by_leaf(start, leaf, first, entry, row):  # noqa: ANN001, ANN202
    # Sample r is scored against the leaves from start[r] on. Filled: where each leaf begins
    # (leaves + 1,), and in the order of leaves the entries, and their samples.
    m, count = start.size - 1, first.size - 1
    first[:] = 0
    for f in range(start[m]):
        first[leaf[f] + 1] += 1
    for t in range(count):
        first[t + 1] += first[t]
    head = first[:count].copy()
    for r in range(m):
        for f in range(start[r], start[r + 1]):
            entry[head[leaf[f]]] = f
            row[head[leaf[f]]] = r
            head[leaf[f]] += 1


@_compiled
def _maxima(x, planes, heights, first, entry, row, best):  # noqa: ANN001, ANN202
    # x (m, d); best, filled, the highest score of each entry. Leaf by leaf, so that the sites are
    # read once.
    most = 0
    for t in range(first.size - 1):
        most = max(most, first[t + 1] - first[t])
    some = np.empty((most, x.shape[1]), np.float32)
    scores = np.empty((most, LEAF), np.float32)
    for t in range(first.size - 1):
        k = first[t + 1] - first[t]
        for f in range(k):
            some[f] = x[row[first[t] + f]]
        np.dot(some[:k], planes[t], scores[:k])
        height = heights[t]
        for f in range(k):
            own = scores[f]
            top = own[0] + height[0]
            for c in range(LEAF):
                score = own[c] + height[c]
                top = score if score > top else top
            best[entry[first[t] + f]] = top


@_compiled
def _in_reach(start, best, radius, least, lead, threshold, place):  # noqa: ANN001, ANN202
    # lead, threshold (m,), filled: the best score, and what a score has to be to be listed. place,
    # of each entry, filled: its number among those whose leaf has such scores, -1 for others.
    # Returns how many those are. The radius doubles for a sample with fewer than `least`.
    found = 0
    for r in range(lead.size):
        tops = best[start[r] : start[r + 1]]
        top = tops.max()
        span = np.float32(radius)
        for _ in range(WIDER):
            near = 0
            for e in range(tops.size):
                near += np.int32(tops[e] >= top - span)
            if near >= min(least, tops.size):
                break
            span = span + span
        lead[r] = top
        threshold[r] = top - span
        for e in range(tops.size):
            place[start[r] + e] = found if tops[e] >= top - span else -1
            found += np.int64(tops[e] >= top - span)
    return found


@_compiled
def _scored(x, planes, heights, first, entry, row, place, scores):  # noqa: ANN001, ANN202
    # scores (entries in reach, LEAF), filled; leaf by leaf.
    for t in range(first.size - 1):
        for f in range(first[t], first[t + 1]):
            to = place[entry[f]]
            if to >= 0:
                _score(x[row[f]], planes[t], heights[t], scores[to])


@_compiled
def _gathered(scores, order, begin, leaf, place, lead, threshold, longest, n, out):  # noqa: ANN001, ANN202
    # Fills in the lists, as `numba_engine._candidates` does.
    start, site, value, bound = out
    most = 0
    for r in range(lead.size):
        most = max(most, begin[r + 1] - begin[r])
    near_site = np.empty(most * LEAF + 1, np.int32)
    near_value = np.empty(most * LEAF + 1, np.float32)
    seen = np.full(n + 1, -1, np.int32)
    start[0] = 0
    for r in range(lead.size):
        count, low = 0, threshold[r]
        for e in range(begin[r], begin[r + 1]):
            if place[e] < 0:
                continue
            own, sites = scores[place[e]], order[leaf[e]]
            for c in range(LEAF):
                if own[c] < low:
                    continue
                near_site[count] = sites[c]
                near_value[count] = own[c]
                count += seen[sites[c]] != r  # the other tree may have had it
                seen[sites[c]] = r
        own_site, own_value = site[start[r] :], value[start[r] :]
        count, outside = _keep(near_site, near_value, count, longest, low, own_site, own_value)
        for e in range(count):
            own_value[e] -= lead[r]
        start[r + 1] = start[r] + count
        bound[r] = outside - lead[r]


def candidates(
    at: Raised, points: torch.Tensor, *, radius: float, least: int, longest: int
) -> Listed:
    """List, for every sample (m, d), sites within a radius of the best; see `Engine.candidates`.

    Groups are the leaves, of which only those are looked at that come out best.
    """
    x, leaves, h = points.numpy(), at.leaves, at.heights
    m, n, reach = len(x), int(leaves.order.max()), np.float32(at.reach)
    found, number = [], np.empty(m, np.int64)
    rows = max(16, _SCORES // leaves.count)
    means, some = (
        np.empty((rows, leaves.count), np.float32),
        np.empty(rows * leaves.count + 1, np.int32),
    )
    for k in range(0, m, rows):
        mean = np.matmul(x[k : k + rows], leaves.centres, out=means[: min(rows, m - k)])
        size = _taken(mean, at.lift, reach, number[k : k + rows], some)
        found.append(some[:size].copy())
    begin, leaf = np.concatenate([[0], np.cumsum(number)]), np.concatenate(found)
    first, (entry, row) = np.empty(leaves.count + 1, np.int64), np.empty((2, leaf.size), np.int32)
    _by_leaf(begin, leaf, first, entry, row)
    best, place = np.empty(leaf.size, np.float32), np.empty(leaf.size, np.int32)
    _maxima(x, leaves.planes, h, first, entry, row, best)
    lead, threshold, bound = np.empty((3, m), np.float32)
    size = _in_reach(begin, best, np.float32(radius), least, lead, threshold, place)
    scores = np.empty((size, LEAF), np.float32)
    _scored(x, leaves.planes, h, first, entry, row, place, scores)
    start = np.empty(m + 1, np.int64)
    site, value = np.empty(m * longest, np.int32), np.empty(m * longest, np.float32)
    out = start, site, value, bound
    _gathered(scores, leaves.order, begin, leaf, place, lead, threshold, longest, n, out)
    lists = start, site[: start[-1]].copy(), value[: start[-1]].copy(), lead, bound
    starts, sites, values, leads, bounds = map(torch.from_numpy, lists)
    return starts, sites, values, leads, bounds
