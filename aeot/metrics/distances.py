"""Rows of features: their checks and their distances."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import is_out_of_memory

BLOCK = 1 << 23  # entries of one block of distances: 64 MiB in float64


def features(
    name: str, value: ArrayLike, dim: int | None = None, min_rows: int = 1
) -> torch.Tensor:
    """Return an array-like (rows, width) in float64.

    Raises:
        ValueError: If it is anything else, or holds numbers too large or small for their powers.
    """
    rows = _check.points(name, value, dim=dim, min_rows=min_rows).detach().double()
    largest = float(rows.abs().max())
    if largest and not 1e-40 <= largest <= 1e40:  # squares and sixth powers would overflow or sink
        must = "have a largest entry between 1e-40 and 1e40 in size"
        raise _check.fail(name, must, f"{largest:g}", "rescale both sets")
    return rows


def pair(
    generated: ArrayLike, reference: ArrayLike, min_rows: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two sets of features and return them in float64 around the reference's mean."""
    generated = features("generated", generated, min_rows=min_rows)
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
    left = [slice(k, min(k + step, len(points))) for k in range(0, len(points), step)][::-1]
    while left:
        rows = left.pop()
        block = points[rows]
        try:
            squared = torch.addmm(norms, block, others.T, alpha=-2)
        except (MemoryError, RuntimeError) as error:
            if len(block) < 2 or not is_out_of_memory(error):
                raise
            cut = rows.start + (1 << (len(block) - 1).bit_length() - 1)
            left += [slice(cut, rows.stop), slice(rows.start, cut)]
            continue
        own = block.square().sum(dim=1, keepdim=True)
        squared += own
        yield rows, squared, eps * own, eps * norms
