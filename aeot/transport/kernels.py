"""The hot loops, compiled by numba at first use: group maxima, winners, candidate lists.

Every function works on one block of scores and lets go of the interpreter lock, so that a thread
pool scales; results do not depend on the number of threads. A score is the sum of one row of `a`
and one row of `b`; columns are handled in groups of sixteen, whose maxima are what a search for the
winner, or for all scores near it, descends through. `aeot.transport.lists` holds the same in torch.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_OPTIONS = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}
LOW = np.float32(-1e30)  # the height of padding columns; fastmath wants no infinities


@njit(**_OPTIONS)
def _group_maxima(a, rows, width, groups):  # noqa: ANN001, ANN202
    # a (columns,), rows (m, columns), groups (m, columns / 16). Group t * width + c holds the
    # columns 16 t width + s width + c, s = 0..15. Sixteen names, because slices of known length
    # are what the vectoriser turns into plain loads; an inner loop over s is 4 to 15 times slower.
    w = width
    for t in range(a.size // (16 * w)):
        p = a[16 * w * t : 16 * w * (t + 1)]
        a0, a1, a2, a3 = p[:w], p[w : 2 * w], p[2 * w : 3 * w], p[3 * w : 4 * w]
        a4, a5, a6, a7 = p[4 * w : 5 * w], p[5 * w : 6 * w], p[6 * w : 7 * w], p[7 * w : 8 * w]
        a8, a9, a10 = p[8 * w : 9 * w], p[9 * w : 10 * w], p[10 * w : 11 * w]
        a11, a12, a13 = p[11 * w : 12 * w], p[12 * w : 13 * w], p[13 * w : 14 * w]
        a14, a15 = p[14 * w : 15 * w], p[15 * w :]
        for r in range(rows.shape[0]):
            q = rows[r, 16 * w * t : 16 * w * (t + 1)]
            b0, b1, b2, b3 = q[:w], q[w : 2 * w], q[2 * w : 3 * w], q[3 * w : 4 * w]
            b4, b5, b6, b7 = q[4 * w : 5 * w], q[5 * w : 6 * w], q[6 * w : 7 * w], q[7 * w : 8 * w]
            b8, b9, b10 = q[8 * w : 9 * w], q[9 * w : 10 * w], q[10 * w : 11 * w]
            b11, b12, b13 = q[11 * w : 12 * w], q[12 * w : 13 * w], q[13 * w : 14 * w]
            b14, b15 = q[14 * w : 15 * w], q[15 * w :]
            g = groups[r, w * t : w * (t + 1)]
            for c in range(w):
                x0, x1, x2, x3 = a0[c] + b0[c], a1[c] + b1[c], a2[c] + b2[c], a3[c] + b3[c]
                x4, x5, x6, x7 = a4[c] + b4[c], a5[c] + b5[c], a6[c] + b6[c], a7[c] + b7[c]
                x8, x9, x10 = a8[c] + b8[c], a9[c] + b9[c], a10[c] + b10[c]
                x11, x12, x13 = a11[c] + b11[c], a12[c] + b12[c], a13[c] + b13[c]
                x14, x15 = a14[c] + b14[c], a15[c] + b15[c]
                x0 = x0 if x0 > x1 else x1
                x2 = x2 if x2 > x3 else x3
                x4 = x4 if x4 > x5 else x5
                x6 = x6 if x6 > x7 else x7
                x8 = x8 if x8 > x9 else x9
                x10 = x10 if x10 > x11 else x11
                x12 = x12 if x12 > x13 else x13
                x14 = x14 if x14 > x15 else x15
                x0 = x0 if x0 > x2 else x2
                x4 = x4 if x4 > x6 else x6
                x8 = x8 if x8 > x10 else x10
                x12 = x12 if x12 > x14 else x14
                x0 = x0 if x0 > x4 else x4
                x8 = x8 if x8 > x12 else x12
                g[c] = x0 if x0 > x8 else x8


@njit(**_OPTIONS)
def _fold(groups, coarse):  # noqa: ANN001, ANN202
    # coarse[c] = max over s of groups[s n + c], s = 0..15
    n = coarse.size
    part = groups[:n]
    for c in range(n):
        coarse[c] = part[c]
    for s in range(1, 16):
        part = groups[s * n : (s + 1) * n]
        for c in range(n):
            coarse[c] = part[c] if part[c] > coarse[c] else coarse[c]


@njit(**_OPTIONS)
def winners(a, b, per_block, width, site, value, second, gap):  # noqa: ANN001, ANN201
    """Find the best site of every sample of a block of scores.

    Args:
        a: (rows, columns) float32.
        b: (blocks * m, columns); row k of `a` meets the m rows of block ``k // per_block``.
        per_block: Rows of `a` per block.
        width: Group width; columns is a multiple of 16 * width.
        site: (rows * m,) int32, filled: the winning column.
        value: (rows * m,) float32, filled: its score.
        second: (rows * m,) int32, filled: the runner-up; empty if not wanted.
        gap: (rows * m,) float32, filled: how far it is behind; empty if not wanted.
    """
    m = b.shape[0] // (a.shape[0] // per_block)
    groups = np.empty((m, a.shape[1] // 16), np.float32)
    coarse = np.empty(groups.shape[1] // 16, np.float32)
    n = coarse.size
    for k in range(a.shape[0]):
        rows = b[(k // per_block) * m : (k // per_block + 1) * m]
        _group_maxima(a[k], rows, width, groups)
        for r in range(m):
            _fold(groups[r], coarse)
            best = coarse[0]
            at = 0
            for c in range(1, n):
                if coarse[c] > best:
                    best = coarse[c]
                    at = c
            group = at
            for s in range(16):
                if groups[r, s * n + at] == best:
                    group = s * n + at
                    break
            base = (group // width) * 16 * width + group % width
            column = base
            top = LOW
            other = LOW
            rival = base
            for s in range(16):
                score = a[k, base + s * width] + rows[r, base + s * width]
                if score > top:
                    other = top
                    rival = column
                    top = score
                    column = base + s * width
                elif score > other:
                    other = score
                    rival = base + s * width
            site[k * m + r] = column
            value[k * m + r] = top
            if second.size == 0:
                continue
            # The runner-up: in the same group, or best of a group elsewhere.
            near = -1
            for s in range(16):
                c = s * n + at
                if c != group and groups[r, c] > other:
                    other = groups[r, c]
                    near = c
            apart = -1
            for c in range(n):
                if c != at and coarse[c] > other:
                    other = coarse[c]
                    apart = c
            if apart >= 0:
                for s in range(16):
                    if groups[r, s * n + apart] == other:
                        near = s * n + apart
                        break
            if near >= 0:
                base = (near // width) * 16 * width + near % width
                best = LOW
                for s in range(16):
                    score = a[k, base + s * width] + rows[r, base + s * width]
                    if score > best:
                        best = score
                        rival = base + s * width
            second[k * m + r] = rival
            gap[k * m + r] = top - other


@njit(**_OPTIONS)
def candidates(a, b, per_block, width, radius, least, start, site, value, lead, bound):  # noqa: ANN001, ANN201
    """List, for every sample of a block of scores, the sites within a radius of the best.

    The radius doubles (at most three times) for a sample with fewer than `least` groups in reach;
    a list that is full keeps the highest scores.

    Args:
        a: (rows, columns) float32.
        b: (blocks * m, columns).
        per_block: Rows of `a` per block.
        width: Group width.
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
    groups = np.empty((m, a.shape[1] // 16), np.float32)
    coarse = np.empty(groups.shape[1] // 16, np.float32)
    reach = np.empty(groups.shape[1], np.int32)
    n = coarse.size
    start[0] = 0
    for k in range(a.shape[0]):
        rows = b[(k // per_block) * m : (k // per_block + 1) * m]
        _group_maxima(a[k], rows, width, groups)
        for r in range(m):
            _fold(groups[r], coarse)
            best = coarse[0]
            for c in range(1, n):
                best = coarse[c] if coarse[c] > best else best
            span = np.float32(radius)
            for _ in range(4):
                threshold = best - span
                found = 0
                for c in range(n):
                    if coarse[c] >= threshold:
                        for s in range(16):
                            if groups[r, s * n + c] >= threshold:
                                reach[found] = s * n + c
                                found += 1
                if found >= least:
                    break
                span = span + span
            first = start[k * m + r]
            count = 0
            weakest = 0
            outside = threshold - best
            for f in range(found):
                base = (reach[f] // width) * 16 * width + reach[f] % width
                for s in range(16):
                    column = base + s * width
                    score = a[k, column] + rows[r, column]
                    if score < threshold:
                        continue
                    score = score - best
                    if count < longest:
                        site[first + count] = column
                        value[first + count] = score
                        count += 1
                        if count < longest:
                            continue
                    else:
                        low = value[first + weakest]
                        outside = max(outside, min(low, score))
                        if score <= low:
                            continue
                        site[first + weakest] = column
                        value[first + weakest] = score
                    for e in range(longest):
                        if value[first + e] < value[first + weakest]:
                            weakest = e
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
