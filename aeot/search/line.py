"""Power cells on a line: the upper envelope of the lines x -> x y_i + h_i, by sorting."""

from __future__ import annotations

import numpy as np
import torch

from aeot._compile import njit


@njit(error_model="numpy")
def _envelope(y, h, order, meet):  # noqa: ANN001, ANN202
    # y (n,) ascending without equal ones, h (n,). Filled: in `order` the lines that are highest
    # somewhere, from left to right; in meet[k] where the k-th takes over. Returns how many.
    count = 0
    for i in range(y.size):
        x = -np.inf
        while count > 0:
            top = order[count - 1]
            x = (h[top] - h[i]) / (y[i] - y[top])
            if count == 1 or x > meet[count - 1]:
                break
            count -= 1
        order[count] = i
        meet[count] = x
        count += 1
    return count


def envelope(sites: torch.Tensor, heights: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells that are not empty, from left to right, and where neighbours meet.

    Args:
        sites: (n,), the slopes.
        heights: (n,).

    Returns:
        Sites (k,) int64 by their place, and the points (k - 1,) float64, ascending, where one cell
        ends and the next begins. Of equal sites the highest has the cell, the first of equal ones.
    """
    y, h = (t.detach().to("cpu", torch.float64).numpy() for t in (sites, heights))
    ascending = np.lexsort((-np.arange(len(y)), h, y))
    ascending = ascending[np.r_[y[ascending][1:] != y[ascending][:-1], True]]
    order = np.empty(len(ascending), np.int64)
    meet = np.empty(len(ascending))
    count = _envelope(y[ascending], h[ascending], order, meet)
    return ascending[order[:count]], meet[1:count]


def owners(points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Return the cell of every point (m,), int64; where two meet, the one on the left."""
    order, meet = envelope(sites, heights)
    x = points.to("cpu", torch.float64).contiguous()
    place = torch.searchsorted(torch.from_numpy(meet), x)
    return torch.from_numpy(order)[place].to(points.device)
