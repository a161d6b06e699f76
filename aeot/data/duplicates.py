"""Rows that are exact copies of one another."""

from __future__ import annotations

import numpy as np
import torch


def distinct(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the rows that are exactly equal.

    Args:
        rows: (n, ...), of any dtype; compared number by number.

    Returns:
        The first row of each kind, (k,) in rising order, and the kind of every row, (n,): row i
        equals row ``first[kind[i]]``.

    Example:
        >>> first, kind = distinct(torch.tensor([[1.0], [2.0], [1.0], [-0.0], [0.0]]))
        >>> first.tolist(), kind.tolist()
        ([0, 1, 3], [0, 1, 0, 2, 2])
    """
    flat = rows.detach().cpu().flatten(1)
    flat = flat + 0.0 if flat.is_floating_point() else flat  # -0.0 equals 0.0
    table = np.ascontiguousarray(flat.numpy())
    keys = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))[:, 0]
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(first[order]), torch.from_numpy(rank[kind.reshape(-1)])
