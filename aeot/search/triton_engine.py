"""Scores in Triton kernels on a GPU: a tile of them is reduced in registers, none is written.

A first pass finds the chunks of sites that hold the best scores of every sample, a second one
scores these chunks again in float32 by products and sums of their own. Where a winner steers, the
first pass multiplies in TF32; where it is certified, in three TF32 products that make one of nearly
float32, whose error the doubts take into account. Half points are multiplied once for all that they
meet, and what remains of a score is one addition and one comparison. Sites that are wider than a
tile are multiplied in slices, halves of them by torch, as are all halves of certificates.

On a CPU, Triton's interpreter (TRITON_INTERPRET=1) runs the same kernels, slowly, for tests.
`aeot.search.engines.Engine` says what every function does.

References:
    P. Tillet, H. T. Kung, D. Cox, "Triton: an intermediate language and compiler for tiled neural
    network computations", MAPL 2019. S. Yang et al., "Flash-KMeans", 2026 (no distance leaves the
    chip; a path for few and one for many dimensions).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from aeot.search import torch_engine
from aeot.search.planes import (
    Block,
    CandidateLists,
    Listed,
    Planes,
    Winners,
    padded_columns,
    sure,
)
from aeot.search.torch_engine import add_points, close_pairs, count, each, lists_of, raised

__all__ = [
    "HALVES",
    "HOST",
    "NAME",
    "add_points",
    "arrange",
    "candidates",
    "close_pairs",
    "cluster_maxima",
    "count",
    "each",
    "raised",
    "relist",
    "top_k",
    "winners",
]
NAME = "triton"
HALVES = True
HOST = False
CHUNK = 128  # sites whose best is kept at once in a search for winners
FINE = 32  # the same in a search for lists
_ROWS = 64  # of a tile
_WHOLE = 128  # coordinates that one tile holds; more of them come in slices of 64
_FUSED = 32  # coordinates of halves that are multiplied where they are added
_PROGRAMS = 1024  # that fill a card
_LOWEST = -3e38  # below every height of any size
_AT_ONCE = 1 << 26  # numbers that `top_k` holds
_SAMPLES = 64 if os.environ.get("TRITON_INTERPRET") == "1" else 1  # scored again by a program
STEER, CERTIFY = "tf32", "tf32x3"  # arithmetic of the first pass


@triton.jit
def _two_best(new, at, best, chunk, second, other):
    # Keep the two highest of the chunks seen so far: `new` is the best score of the chunk `at`.
    up = new > best
    near = new > second
    other = tl.where(up, chunk, tl.where(near, at, other))
    second = tl.where(up, best, tl.where(near, new, second))
    chunk = tl.where(up, at, chunk)
    best = tl.where(up, new, best)
    return best, chunk, second, other


@triton.jit
def _product(
    x,
    y,
    rows,
    columns,
    m,
    d,
    X,
    D: tl.constexpr,
    BK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # x (m, d) times y (columns, D)', a tile; X holds the rows where they fit.
    if D == BK:
        k = tl.arange(0, BK)
        tile = tl.load(y + columns.to(tl.int64)[None, :] * D + k[:, None])
        total = tl.dot(X, tile, input_precision=PRECISION)
    else:
        total = tl.zeros((BM, BN), tl.float32)
        for begin in range(0, D, BK):
            k = begin + tl.arange(0, BK)
            there = (rows[:, None] < m) & (k[None, :] < d)
            part = tl.load(x + rows.to(tl.int64)[:, None] * d + k[None, :], mask=there, other=0.0)
            tile = tl.load(y + columns.to(tl.int64)[None, :] * D + k[:, None])
            total = tl.dot(part, tile, total, input_precision=PRECISION)
    return total


@triton.jit
def _rows_of(x, rows, m, d, BK: tl.constexpr):
    k = tl.arange(0, BK)
    there = (rows[:, None] < m) & (k[None, :] < d)
    return tl.load(x + rows.to(tl.int64)[:, None] * d + k[None, :], mask=there, other=0.0)


@triton.jit
def best_chunks(
    x,
    y,
    h,
    best,
    chunk,
    second,
    other,
    m,
    n,
    d,
    each,
    D: tl.constexpr,
    BK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Find the two best chunks of BN sites for every row of x (m, d); y (n, D), n whole chunks.

    A program looks at `each` sites and fills a row of best, chunk, second and other.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    X = _rows_of(x, rows, m, d, BK)
    b1 = tl.full((BM,), float("-inf"), tl.float32)
    b2 = tl.full((BM,), float("-inf"), tl.float32)
    c1 = tl.zeros((BM,), tl.int32)
    c2 = tl.zeros((BM,), tl.int32)
    low = tl.program_id(1) * each
    for begin in range(low, tl.minimum(low + each, n), BN):
        columns = begin + tl.arange(0, BN)
        scores = _product(x, y, rows, columns, m, d, X, D, BK, BM, BN, PRECISION)
        scores += tl.load(h + columns)[None, :]
        b1, c1, b2, c2 = _two_best(tl.max(scores, 1), begin, b1, c1, b2, c2)
    at = tl.program_id(1) * m + rows
    tl.store(best + at, b1, mask=rows < m)
    tl.store(chunk + at, c1, mask=rows < m)
    tl.store(second + at, b2, mask=rows < m)
    tl.store(other + at, c2, mask=rows < m)


@triton.jit
def maxima(
    x,
    y,
    h,
    edges,
    out,
    m,
    d,
    ranges,
    each,
    D: tl.constexpr,
    BK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Find the best score in each range of sites, out (ranges, m), `each` ranges a program."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    X = _rows_of(x, rows, m, d, BK)
    line = tl.full((BM,), 1, tl.int64) * m  # 32 bits may not do
    first = tl.program_id(1) * each
    for g in range(first, tl.minimum(first + each, ranges)):
        low = tl.load(edges + g)
        high = tl.load(edges + g + 1)
        best = tl.full((BM,), -1e30, tl.float32)
        for begin in range(low, high, BN):
            columns = begin + tl.arange(0, BN)
            inside = columns < high
            columns = tl.where(inside, columns, low)
            scores = _product(x, y, rows, columns, m, d, X, D, BK, BM, BN, PRECISION)
            scores += tl.load(h + columns)[None, :]
            scores = tl.where(inside[None, :], scores, float("-inf"))
            best = tl.maximum(best, tl.max(scores, 1))
        tl.store(out + g * line + rows, best, mask=rows < m)


@triton.jit
def halves(
    xl,
    xr,
    yl,
    yr,
    h,
    best,
    chunk,
    second,
    other,
    m,
    n,
    p,
    q,
    each,
    D: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    BN: tl.constexpr,
    U: tl.constexpr,
    TRACK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Find the two best chunks of U BN sites for samples of shared halves, or the best of each.

    xl (m, p) and xr (m, q) are half points, groups of M rows, each row of a group of xl with each
    of xr: m M samples; yl and yr (n, D) are the sites' halves. D = 0: xl and xr (m, n) are products
    already. A program looks at `each` sites. TRACK: it fills a row of best, chunk, second and
    other, (m M,); else rows of best (n / (U BN), m M).
    """
    R: tl.constexpr = G * M
    rows = tl.program_id(0) * R + tl.arange(0, R)
    if D > 0:
        k = tl.arange(0, D)
        XL = _rows_of(xl, rows, m, p, D)
        XR = _rows_of(xr, rows, m, q, D)
    b1 = tl.full((G, M, M), float("-inf"), tl.float32)
    b2 = tl.full((G, M, M), float("-inf"), tl.float32)
    c1 = tl.zeros((G, M, M), tl.int32)
    c2 = tl.zeros((G, M, M), tl.int32)
    group = tl.program_id(0) * G + tl.arange(0, G)[:, None, None]
    row = group * M + tl.arange(0, M)[None, :, None]
    at = row * M + tl.arange(0, M)[None, None, :]  # (G, M, M), the sample
    line = tl.full((1, 1, 1), 1, tl.int64) * m * M  # 32 bits may not do
    low = tl.program_id(1) * each
    for begin in range(low, tl.minimum(low + each, n), U * BN):
        # Column c holds the best of the sites begin + c, begin + c + BN, ...: nothing is reduced
        # across threads until the chunk is through.
        top = tl.full((G, M, M, BN), float("-inf"), tl.float32)
        for u in range(U):
            columns = begin + u * BN + tl.arange(0, BN)
            high = tl.load(h + columns)[None, :]
            if D > 0:
                left = tl.load(yl + columns.to(tl.int64)[None, :] * D + k[:, None])
                right = tl.load(yr + columns.to(tl.int64)[None, :] * D + k[:, None])
                a = tl.dot(XL, left, input_precision=PRECISION)
                b = tl.dot(XR, right, input_precision=PRECISION) + high
            else:
                place = rows.to(tl.int64)[:, None] * n + columns[None, :]
                a = tl.load(xl + place, mask=rows[:, None] < m, other=0.0)
                b = tl.load(xr + place, mask=rows[:, None] < m, other=0.0) + high
            top = tl.maximum(top, tl.reshape(a, (G, M, 1, BN)) + tl.reshape(b, (G, 1, M, BN)))
        new = tl.max(top, 3)
        if TRACK:
            b1, c1, b2, c2 = _two_best(new, begin, b1, c1, b2, c2)
        else:
            place = at + (begin // (U * BN)) * line
            tl.store(best + place, new, mask=row < m)
    if TRACK:
        at += tl.program_id(1) * m * M
        tl.store(best + at, b1, mask=row < m)
        tl.store(chunk + at, c1, mask=row < m)
        tl.store(second + at, b2, mask=row < m)
        tl.store(other + at, c2, mask=row < m)


@triton.jit
def _again(xl, xr, yl, yr, h, row, other, columns, p, q, D: tl.constexpr, BK: tl.constexpr):
    # The scores of some sites (S, C) at samples (S,), in float32 by elementwise products.
    total = tl.load(h + columns)
    place = columns.to(tl.int64)[:, :, None] * D
    for begin in range(0, D, BK):
        k = begin + tl.arange(0, BK)
        there = (row[:, None] >= 0) & (k[None, :] < p)
        point = tl.load(xl + row.to(tl.int64)[:, None] * p + k[None, :], mask=there, other=0.0)
        total += tl.sum(tl.load(yl + place + k[None, None, :]) * point[:, None, :], 2)
    if q > 0:
        for begin in range(0, D, BK):
            k = begin + tl.arange(0, BK)
            there = (other[:, None] >= 0) & (k[None, :] < q)
            half = xr + other.to(tl.int64)[:, None] * q + k[None, :]
            point = tl.load(half, mask=there, other=0.0)
            total += tl.sum(tl.load(yr + place + k[None, None, :]) * point[:, None, :], 2)
    return total


@triton.jit
def refined(
    xl,
    xr,
    yl,
    yr,
    h,
    chunk,
    other,
    site,
    value,
    runner,
    gap,
    m,
    p,
    q,
    split,
    group,
    n,
    D: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    TWO: tl.constexpr,
):
    """Find the best of n sites in a sample's best chunk; with TWO in both, and the runner-up."""
    i = tl.program_id(0) * S + tl.arange(0, S)
    here = i < m
    row = tl.where(here, i // split, -1)
    meets = tl.where(here, row // group * split + i % split, -1)
    low = float("-inf")
    most = 2147483647
    first = tl.load(chunk + i, mask=here, other=0)[:, None] + tl.arange(0, C)[None, :]
    s1 = _again(xl, xr, yl, yr, h, row, meets, first, p, q, D, BK)
    if TWO:
        second = tl.load(other + i, mask=here, other=0)[:, None] + tl.arange(0, C)[None, :]
        s2 = _again(xl, xr, yl, yr, h, row, meets, second, p, q, D, BK)
        top = tl.maximum(tl.max(s1, 1), tl.max(s2, 1))
        # The lowest number among equals, whichever chunk it is in.
        w1 = tl.min(tl.where(s1 == top[:, None], first, most), 1)
        w2 = tl.min(tl.where(s2 == top[:, None], second, most), 1)
        best = tl.minimum(w1, w2)
        s1 = tl.where(first == best[:, None], low, s1)
        s2 = tl.where(second == best[:, None], low, s2)
        behind = tl.maximum(tl.max(s1, 1), tl.max(s2, 1))
        w1 = tl.min(tl.where(s1 == behind[:, None], first, most), 1)
        w2 = tl.min(tl.where(s2 == behind[:, None], second, most), 1)
        near = tl.minimum(w1, w2)
        tl.store(runner + i, tl.where(near < n, near, -1), mask=here)
        tl.store(gap + i, top - behind, mask=here)
    else:
        top = tl.max(s1, 1)
        best = tl.min(tl.where(s1 == top[:, None], first, most), 1)
    tl.store(site + i, best, mask=here)
    tl.store(value + i, top, mask=here)


@triton.jit
def expanded(
    xl,
    xr,
    yl,
    yr,
    h,
    chunk,
    out,
    m,
    p,
    q,
    split,
    group,
    chunks,
    D: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    """Score the sites of chosen chunks (m, chunks), out (m, chunks * C)."""
    i = tl.program_id(0) * S + tl.arange(0, S)
    here = i < m
    row = tl.where(here, i // split, -1)
    meets = tl.where(here, row // group * split + i % split, -1)
    place = i.to(tl.int64) * chunks + tl.program_id(1)
    each = tl.arange(0, C)[None, :]
    columns = tl.load(chunk + place, mask=here, other=0)[:, None] * C + each
    scores = _again(xl, xr, yl, yr, h, row, meets, columns, p, q, D, BK)
    tl.store(out + place[:, None] * C + each, scores, mask=here[:, None])


@triton.jit
def relisted(start, site, value, shift, first, second, gap, top, m, BM: tl.constexpr):
    """Find winner and runner-up of every list at shifted heights."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    here = rows < m
    begin = tl.load(start + rows, mask=here, other=0)
    end = tl.load(start + rows + 1, mask=here, other=0)
    b1 = tl.full((BM,), -1e30, tl.float32)
    b2 = tl.full((BM,), -1e30, tl.float32)
    c1 = tl.full((BM,), -1, tl.int32)
    c2 = tl.full((BM,), -1, tl.int32)
    for e in range(tl.max(end - begin, 0)):
        on = begin + e < end
        i = tl.load(site + begin + e, mask=on, other=0)
        score = tl.load(value + begin + e, mask=on, other=0.0) + tl.load(shift + i)
        score = tl.where(on, score, -1e30)
        b1, c1, b2, c2 = _two_best(score, i, b1, c1, b2, c2)
    tl.store(first + rows, c1, mask=here)
    tl.store(second + rows, c2, mask=here)
    tl.store(gap + rows, b1 - b2, mask=here)
    tl.store(top + rows, b1, mask=here)


def width_of(d: int) -> int:
    """Return how many coordinates a row of d is filled up to: what tiles can hold."""
    return max(16, triton.next_power_of_2(d)) if d <= _WHOLE else -(-d // 64) * 64


def _doubt(d: int) -> float:
    # How many times `planes.rounding` two scores must be apart for the better one to be sure.
    # Twice, as those compared first were added up in another way; and a product of three in TF32
    # leaves out 3 * 2**-20 at most of |x| |y|, on either side, where that counts d + 6 epsilon.
    return 2 + 48 / (d + 6)


def whole_tile(width: int, steer: str, columns: int) -> dict[str, Any]:
    """Return the constants of a kernel for whole points: its tile, and the slices it is summed of.

    Three products at once take more registers, so narrower slices.
    """
    one = 64 if steer == CERTIFY else _WHOLE
    slices = width if width <= one else 16 if steer == CERTIFY else 64
    return {"D": width, "BK": slices, "BM": _ROWS, "BN": columns, "PRECISION": steer}


def halves_tile(
    width: int, split: int, chunk: int, steer: str, *, track: bool, hopper: bool = True
) -> dict[str, Any]:
    """Return the constants of the kernel for halves; D = 0 where torch multiplies before.

    Before Hopper a product and the sums of sixteen by sixteen halves do not fit into registers.
    """
    fits = width <= _FUSED and steer == STEER and (hopper or split < 16)
    fused = width if fits else 0
    groups = max(1, _ROWS // split)
    tile = {"D": fused, "G": groups, "M": split, "BN": 16, "U": chunk // 16}
    return {**tile, "TRACK": track, "PRECISION": steer}


@contextlib.contextmanager
def _on(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        yield


def arrange(sites: torch.Tensor, *, split: int, rows: int, memory: int, threads: int = 1) -> Planes:
    """Hold the sites for a solve."""
    n, d = sites.shape
    cut = (d + 1) // 2 if split > 1 else d
    columns, width = padded_columns(n), width_of(cut)
    # Site by site, filled up to whole tiles with zeros; seen from outside as of other engines.
    held = torch.zeros(2 if split > 1 else 1, columns, width, device=sites.device)
    held[0, :n, :cut] = sites[:, :cut]
    right = sites.new_zeros(0, columns)
    if split > 1:
        held[1, :n, : d - cut] = sites[:, cut:]
        right = held[1, :, : d - cut].T
    # A list takes the maxima of all chunks; halves have their products in memory.
    share = memory // (4 * split * (columns // FINE + 64 * FINE) + 8 * columns * (split > 1))
    least = max(split, 1)
    rows = min(rows, max(least, 1 << max(share, 1).bit_length() - 1))
    return Planes(sites, held[0, :, :cut].T, right, rows, threads)


def _stored(plane: torch.Tensor) -> tuple[torch.Tensor, int]:
    # Where the sites of one half begin, and how wide their rows are.
    return plane.T, plane.T.stride(0)


def _args(planes: Planes, block: Block) -> tuple[list[Any], int]:
    left, width = _stored(planes.left)
    right = _stored(planes.right)[0] if block.split > 1 else left
    return [block.left.contiguous(), block.right.contiguous(), left, right], width


def _sliced(planes: Planes, block: Block, work: Callable[[Block], Any]) -> list[Any]:
    size, step = block.left.shape[0], planes.slice
    return [work(block.rows(slice(k, min(k + step, size)))) for k in range(0, size, step)]


def _products(planes: Planes, block: Block, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if precision == STEER else "ieee"
    try:
        return block.left @ planes.left, block.right @ planes.right
    finally:
        settings.fp32_precision = before


def _share(programs: int, chunks: int, chunk: int) -> tuple[int, int]:
    # How many programs share the sites for one tile of samples, so that a card is full; and how
    # many sites each takes.
    each = triton.cdiv(chunks, max(1, min(_PROGRAMS // programs, chunks // 4))) * chunk
    return triton.cdiv(chunks * chunk, each), each


def _halves(
    planes: Planes, h: torch.Tensor, block: Block, out: list[torch.Tensor], chunk: int, steer: str
) -> None:
    (xl, xr, yl, yr), width = _args(planes, block)
    (rows, p), q = block.left.shape, block.right.shape[1]
    hopper = h.device.type != "cuda" or torch.cuda.get_device_capability(h.device)[0] >= 9
    tile = halves_tile(width, block.split, chunk, steer, track=len(out) == 4, hopper=hopper)
    if not tile["D"]:
        xl, xr = _products(planes, block, steer)
    tiles = triton.cdiv(rows, tile["G"] * block.split)
    pieces, each = _share(tiles, planes.columns // chunk, chunk)
    args = xl, xr, yl, yr, h, *(out * 4)[:4], rows, planes.columns, p, q, each
    halves[tiles, pieces](*args, **tile, num_warps=8, num_stages=2)


def _chunks(planes: Planes, h: torch.Tensor, block: Block, steer: str) -> torch.Tensor:
    # Where the two best chunks of every sample begin, (2, samples).
    samples, split = block.left.shape[0] * block.split, block.split
    tiles = triton.cdiv(samples, _ROWS * split)
    pieces, each = _share(tiles, planes.columns // CHUNK, CHUNK)
    kinds = torch.float32, torch.int32, torch.float32, torch.int32
    out = [torch.empty(pieces, samples, dtype=kind, device=h.device) for kind in kinds]
    if split > 1:
        _halves(planes, h, block, out, CHUNK, steer)
    else:
        (x, _, y, _), width = _args(planes, block)
        tile = whole_tile(width, steer, CHUNK)
        args = x, y, h, *out, samples, planes.columns, x.shape[1], each
        best_chunks[tiles, pieces](*args, **tile, num_warps=8, num_stages=2)
    best, chunk, second, other = out
    if pieces == 1:
        return torch.cat([chunk, other])
    return torch.cat([chunk, other]).gather(0, torch.cat([best, second]).topk(2, 0).indices)


def _refined(
    planes: Planes, h: torch.Tensor, block: Block, chunks: torch.Tensor, two: bool
) -> list[torch.Tensor]:
    # Site, value, runner-up and gap of every sample, whose chunks are found.
    samples = block.left.shape[0] * block.split
    kinds = torch.int32, torch.float32, torch.int32, torch.float32
    some = samples, samples, samples * two, samples * two
    made = zip(some, kinds, strict=True)
    out = [torch.empty(k, dtype=kind, device=h.device) for k, kind in made]
    args, width = _args(planes, block)
    sizes = samples, block.left.shape[1], block.right.shape[1], block.split, block.group
    shape = {"D": width, "BK": min(width, 64), "C": CHUNK, "S": _SAMPLES, "TWO": two}
    grid = (triton.cdiv(samples, _SAMPLES),)
    refined[grid](*args, h, *chunks, *out, *sizes, len(planes.sites), **shape)
    return out


def winners(
    planes: Planes,
    heights: torch.Tensor,
    block: Block,
    *,
    runners: bool,
    slack: torch.Tensor | None = None,
) -> Winners:
    """Find the best site of every sample of a block."""
    two, steer = runners or slack is not None, STEER if slack is None else CERTIFY

    def work(part: Block) -> list[torch.Tensor]:
        return _refined(planes, heights, part, _chunks(planes, heights, part, steer), two)

    with _on(heights.device):
        parts = _sliced(planes, block, work)
    site, value, second, gap = (torch.cat(column) for column in zip(*parts, strict=True))
    unsure = torch.zeros(0, dtype=torch.int64, device=site.device)
    if slack is not None:
        wide = _doubt(planes.sites.shape[1]) * slack.repeat_interleave(block.split)
        unsure = (~(gap > wide)).nonzero()[:, 0]
    if not runners:
        second, gap = second[:0], gap[:0]
    return Winners(block, site, value, second, gap, unsure)


def _maxima(
    planes: Planes, h: torch.Tensor, block: Block, edges: torch.Tensor, steer: str
) -> torch.Tensor:
    # The best score of each range of sites at whole points, (ranges, rows).
    (x, _, y, _), width = _args(planes, block)
    ranges, rows = len(edges) - 1, x.shape[0]
    out = torch.empty(ranges, rows, dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(rows, _ROWS)
    each = max(1, ranges * blocks // _PROGRAMS)
    tile = whole_tile(width, steer, FINE)
    args = x, y, h, edges, out, rows, x.shape[1], ranges, each
    maxima[blocks, triton.cdiv(ranges, each)](*args, **tile, num_warps=4, num_stages=2)
    return out


def _highest(
    planes: Planes, h: torch.Tensor, block: Block, k: int, steer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    # The k highest scores of every sample, best first, and their sites, (samples, k).
    samples, chunks = block.left.shape[0] * block.split, planes.columns // FINE
    if block.split > 1:
        tops = torch.empty(chunks, samples, dtype=torch.float32, device=h.device)
        _halves(planes, h, block, [tops], FINE, steer)
    else:
        edges = FINE * torch.arange(chunks + 1, dtype=torch.int32, device=h.device)
        tops = _maxima(planes, h, block, edges, steer)
    # The k best columns are in the k best chunks.
    best = tops.T.topk(min(k, chunks), 1).indices.to(torch.int32).contiguous()
    del tops
    scores = torch.empty(samples, best.shape[1] * FINE, dtype=torch.float32, device=h.device)
    args, width = _args(planes, block)
    (p, q), chosen = (block.left.shape[1], block.right.shape[1]), best.shape[1]
    sizes = samples, p, q, block.split, block.group, chosen
    shape = {"D": width, "BK": min(width, 64), "C": FINE, "S": _SAMPLES}
    grid = (triton.cdiv(samples, _SAMPLES), chosen)
    expanded[grid](*args, h, best, scores, *sizes, **shape, num_warps=1)
    value, place = scores.topk(k, 1)
    site = best.gather(1, place // FINE).to(torch.int64) * FINE + place % FINE
    return value, site


def top_k(
    points: torch.Tensor,
    sites: torch.Tensor,
    heights: torch.Tensor,
    k: int,
    edges: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k highest planes at every point, best first, and where they are certain."""
    if points.dtype == torch.float64:  # few, or wanted so: products of torch
        return torch_engine.top_k(points, sites, heights, k, edges)
    m, n = points.shape[0], sites.shape[0]
    wide = min(k + 1, n)  # the next one tells how certain
    # A shift of all sites changes no cell and keeps float32 products accurate far from zero.
    y = sites.to(torch.float64)
    y = (y - y.mean(0)).to(torch.float32)
    rows = max(_ROWS, _AT_ONCE // (padded_columns(n) // FINE + 2 * wide * FINE))
    planes = arrange(y, split=1, rows=rows, memory=1 << 62)
    h = torch.full((planes.columns,), _LOWEST, dtype=torch.float32, device=y.device)
    h[:n] = heights
    none = points.new_zeros(1, 0)

    def work(part: Block) -> tuple[torch.Tensor, torch.Tensor]:
        if wide != 2:
            return _highest(planes, h, part, wide, CERTIFY)
        site, value, second, gap = _refined(
            planes, h, part, _chunks(planes, h, part, CERTIFY), True
        )
        return torch.stack([value, value - gap], 1), torch.stack([site, second], 1).long()

    with _on(y.device):
        parts = _sliced(planes, Block(points.contiguous(), none, m), work)
    value, site = (torch.cat(column) for column in zip(*parts, strict=True))
    site = torch_engine.and_ranges(site[:, :k].contiguous(), points, sites, heights, edges)
    return site, sure(value / _doubt(y.shape[1]), points, y, h[:n])


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
    k = min(longest + 1, len(planes.sites))

    def work(part: Block) -> Listed:
        value, site = _highest(planes, heights, part, k, STEER)
        return lists_of(value, site, value, radius, least, longest)

    with _on(heights.device):
        return _sliced(planes, block, work)


def cluster_maxima(
    planes: Planes, heights: torch.Tensor, block: Block, edges: np.ndarray
) -> torch.Tensor:
    """Find the best score of every sample within each cluster of consecutive sites."""
    ends = torch.from_numpy(edges.astype(np.int32)).to(heights.device)
    with _on(heights.device):
        parts = _sliced(planes, block, lambda part: _maxima(planes, heights, part, ends, STEER).T)
    return torch.cat(parts)


def relist(
    lists: CandidateLists, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Find winner and runner-up of every list at other heights."""
    m, device = lists.n_samples, shift.device
    kinds = torch.int32, torch.int32, torch.float32, torch.float32
    out = [torch.empty(m, dtype=kind, device=device) for kind in kinds]
    args = lists.start, lists.site, lists.value, shift, *out, m
    with _on(device):
        relisted[(triton.cdiv(m, 128),)](*args, BM=128)
    first, second, gap, top = out
    return first, second, gap, float(top.sum(dtype=torch.float64))
