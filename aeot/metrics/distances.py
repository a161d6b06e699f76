"""Rows of features: their checks, their distances, and an exact search for neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aeot import _check
from aeot._check import ArrayLike

BLOCK = 1 << 23  # entries of one block of distances: 64 MiB in float64
PLAIN = "donot_use_mm_for_euclid_dist"  # torch's name for distances by differences


def features(
    name: str, value: ArrayLike, dim: int | None = None, min_rows: int = 1
) -> torch.Tensor:
    """Return an array-like (rows, width) in float64.

    Raises:
        ValueError: If it is anything else, or holds numbers too large or small for their powers.
    """
    rows = _check.points(name, _check.double(value), dim=dim, min_rows=min_rows).detach().double()
    largest = float(rows.abs().max())
    if largest and not 1e-40 <= largest <= 1e40:  # squares and sixth powers would overflow or sink
        must = "have a largest entry between 1e-40 and 1e40 in size"
        raise _check.fail(name, must, f"{largest:g}", "rescale both sets")
    return rows


def pair(
    generated: ArrayLike,
    reference: ArrayLike,
    min_rows: int = 1,
    *,
    name: str = "generated",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two sets of features and return them in float64 around the reference's mean."""
    generated = features(name, generated, min_rows=min_rows)
    reference = features("reference", reference, generated.shape[1], min_rows)
    # Every metric here is invariant under shifts, and a common centre keeps products accurate. Of
    # few binary digits, it leaves ties of whole numbers exact; others are as rounded when given.
    centre = reference.mean(dim=0)
    unit = 2.0 ** torch.frexp(centre.abs().max().clamp(min=1e-300))[1].sub(12).double()
    centre = (centre / unit).round() * unit
    return generated - centre, reference - centre


def squares(
    points: torch.Tensor, others: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (rows, squared distances of these rows to all others), block by block.

    Beside them stand the parts (rows, 1) and (others,) whose sum bounds the rounding error that
    products of rows leave in them.
    """
    eps = 64 * torch.finfo(torch.float64).eps
    norms = others.square().sum(dim=1)
    step = max(1, BLOCK // len(others))
    for start in range(0, len(points), step):
        rows = slice(start, min(start + step, len(points)))
        block = points[rows]
        squared = torch.addmm(norms, block, others.T, alpha=-2)
        own = block.square().sum(dim=1, keepdim=True)
        squared += own
        yield rows, squared, eps * own, eps * norms


def nearest(
    points: ArrayLike,
    reference: ArrayLike,
    k: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k nearest reference rows of every point, by exact search.

    Args:
        points: (m, width).
        reference: (n, width); a point that is itself among them is its own nearest.
        k: How many, at most n.

    Returns:
        Euclidean distances (m, k), ascending, and row numbers (m, k).

    Raises:
        ValueError: If the widths differ or k exceeds n.

    Example:
        >>> distances, rows = nearest([[0.0], [2.2]], [[0.0], [1.0], [2.0]], k=2)
        >>> rows.tolist()
        [[0, 1], [2, 1]]
    """
    points, reference = pair(points, reference, name="points")
    k = _check.integer("k", k)
    if k > len(reference):
        raise _check.fail("k", f"be at most the {len(reference)} reference rows", str(k))
    rows_found = []
    for part, block, own, other in squares(points, reference):
        found = block.min(dim=1).indices[:, None] if k == 1 else None
        found = block.topk(k, dim=1, largest=False).indices if found is None else found
        # Others that rounding may have put behind: these rows are searched without products.
        reach = (block.gather(1, found) + other[found]).amax(dim=1, keepdim=True) + 2 * own
        unsure = ((block - other <= reach).sum(dim=1) > k).nonzero()[:, 0]
        for some in unsure.split(max(1, BLOCK // len(reference))):
            exact = torch.cdist(points[part][some], reference, compute_mode=PLAIN)
            found[some] = exact.topk(k, dim=1, largest=False).indices
        rows_found.append(found)
    rows = torch.cat(rows_found)
    # Anew from differences: a copy is then at distance 0, not at the square root of rounding.
    exact = torch.cat(
        [
            torch.linalg.vector_norm(p[:, None] - reference[r], dim=-1)
            for p, r in zip(points.split(1024), rows.split(1024), strict=True)
        ]
    )
    exact, order = exact.sort(dim=1, stable=True)
    return exact, rows.gather(1, order)
