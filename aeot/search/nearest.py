"""The nearest rows of a set: exact, and nearly as fast as products in the given precision."""

from __future__ import annotations

import math

import torch

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.search.engines import bind, highest

_SPARE = 4  # rows looked at beyond those asked for; measured: fewer leave more rows in doubt
_BLOCK = 1 << 22  # numbers held at once
PLAIN = "donot_use_mm_for_euclid_dist"  # torch's name for distances by differences


@plain_torch()
def nearest(
    points: ArrayLike, reference: ArrayLike, k: int = 1, *, engine: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k nearest reference rows of every point.

    A few more than k candidates are found by products in the wider precision of the two arrays,
    and differences in float64 decide among them. Where the rounding of the products could have
    hidden a nearer row, the point is searched again, in float64, then by differences from all
    rows. So the answer is exact in any precision and far from the origin, and does not depend on
    the other points; only of rows at exactly one distance any may be found.

    Args:
        points: (m, d).
        reference: (n, d), on the same device; a point that is among them is its own nearest.
        k: How many, at most n.
        engine: As in `aeot.search.engines.top_k`.

    Returns:
        Euclidean distances (m, k), ascending, float64, and row numbers (m, k).

    Raises:
        ValueError: If the widths differ or k exceeds n.

    Example:
        >>> distances, rows = nearest([[0.0], [2.2]], [[0.0], [1.0], [2.0]], k=2)
        >>> rows.tolist()
        [[0, 1], [2, 1]]
    """
    x = _check.points("points", points, min_rows=0).detach()
    y = _check.points("reference", reference, dim=x.shape[1]).detach()
    if _check.integer("k", k) > len(y):
        raise _check.fail("k", f"be at most the {len(y)} reference rows", str(k))
    dtype = torch.promote_types(x.dtype, y.dtype)
    distances, rows, sure = _search(x, y, k, dtype, engine)
    if dtype != torch.float64 and not bool(sure.all()):
        again = (~sure).nonzero()[:, 0]
        distances[again], rows[again], sure[again] = _search(x[again], y, k, torch.float64, engine)
    for some in (~sure).nonzero()[:, 0].split(max(1, _BLOCK // len(y))):
        every = torch.cdist(x[some].double(), y.double(), compute_mode=PLAIN)
        distances[some], rows[some] = every.topk(k, dim=1, largest=False)
    return distances, rows


def _search(
    x: torch.Tensor, y: torch.Tensor, k: int, dtype: torch.dtype, engine: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return distances, rows, and for which points they are certain; products in `dtype`."""
    middle = y.mean(0, dtype=torch.float64).to(dtype)
    a, b = x.to(dtype) - middle, y.to(dtype) - middle
    largest = max((float(t.abs().max()) for t in (a, b) if len(t)), default=0.0)
    if dtype != torch.float64 and largest and not 1e-30 < largest < 1e30:
        return _search(x, y, k, torch.float64, engine)
    # Of size one, so that no square overflows; a power of two, so that no digit is lost.
    unit = 2.0 ** math.frexp(largest)[1]
    a /= unit
    b /= unit
    squares = b.square().sum(1, dtype=torch.float64)
    width = min(k + _SPARE, len(y))
    # The nearest row is the highest of the planes <a, b_j> - |b_j|^2 / 2.
    found, _ = highest(bind(engine, b), a, b, -squares / 2, width)
    step = max(1, _BLOCK // (width * x.shape[1]))
    parts = [
        torch.linalg.vector_norm(p.double()[:, None] - y[rows].double(), dim=-1)
        for p, rows in zip(x.split(step), found.split(step), strict=True)
    ]
    distances = torch.cat(parts)
    worst = distances[:, -1] / unit  # no row that was not found has a better product
    rows, order = found.sort(1)
    distances, order = distances.gather(1, order).sort(dim=1, stable=True)
    rows = rows.gather(1, order)[:, :k]
    distances = distances[:, :k]
    slack = 64 * torch.finfo(dtype).eps * (a.square().sum(1, dtype=torch.float64) + squares.max())
    sure = (distances[:, -1] / unit).square() + slack < worst.square()
    return distances, rows, sure | (width == len(y))
