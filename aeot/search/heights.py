r"""The Brenier potential of given heights, and conversions between the dual variables.

With the cost c(x, y) = |x - y|^2 / 2, sites y_i and heights h_i (see docs/math.md):

- potential u_h(x) = max_i <x, y_i> + h_i, a convex function whose gradient is the map;
- dual psi_i = h_i + |y_i|^2 / 2, the Kantorovich dual weight;
- power weights 2 psi_i: the power cell W_i is where |x - y_i|^2 - 2 psi_i is least;
- energy E(h) = integral of u_h d mu - <nu, h>, convex, with gradient mu(W_i) - nu_i.

Every other file of the package speaks heights; conversions happen here and nowhere else.

References:
    N. Lei, D. An, Y. Guo, K. Su, S. Liu, Z. Luo, S.-T. Yau, X. Gu, "A geometric understanding of
    deep learning", Engineering 6 (2020), eq. 18-32.
"""

from __future__ import annotations

import torch


def center(heights: torch.Tensor) -> torch.Tensor:
    """Return the heights with mean zero, the gauge used everywhere, in float64 (n,)."""
    heights = heights.to(torch.float64)
    return heights - heights.mean()


def scores(points: torch.Tensor, sites: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Return the value of every plane at every point: <x, y_i> + h_i.

    Args:
        points: (m, d).
        sites: (n, d).
        heights: (n,).

    Returns:
        (m, n), in the dtype of the points. For many points use `engines.top_k`, which never
        holds this matrix.
    """
    dtype = points.dtype
    return torch.addmm(heights.to(dtype), points, sites.to(dtype).T)


def dual_from_heights(heights: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """Return psi_i = h_i + |y_i|^2 / 2, (n,) float64."""
    y = sites.to(torch.float64)
    return heights.to(torch.float64) + (y * y).sum(1) / 2


def power_weights(heights: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """Return w_i = 2 psi_i: W_i is where |x - y_i|^2 - w_i is least, (n,) float64."""
    return 2 * dual_from_heights(heights, sites)


def shifted_source(heights: torch.Tensor, sites: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Carry heights from a source mu to the same source moved by `shift`: h_i - <shift, y_i>.

    Args:
        heights: (n,), for mu.
        sites: (n, d).
        shift: (d,), the translation of the source.

    Returns:
        (n,) float64, mean zero, for mu moved by `shift`; the cells move along.
    """
    y = sites.to(torch.float64)
    return center(heights.to(torch.float64) - y @ shift.to(y))
