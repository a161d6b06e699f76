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

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch


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


@plain_torch()
def cost_sites(sites: ArrayLike, cost: ArrayLike) -> torch.Tensor:
    r"""Return the sites whose map for |x - y|^2 / 2 is that of `sites` for another quadratic cost.

    The cost is (x - y)^T A (x - y) / 2. Of it x^T A x and y^T A y are paid whatever goes where, so
    only -<x, A y> decides: a map onto the sites A y_i has the same cells. Its indices stand for the
    caller's sites, ``sites[solution.map().cell(x)]``, and ``aeot.coupling(solution, sites)`` pairs
    with those. The cost -<x, y> has the map of |x - y|^2 / 2 itself. Other costs are not offered.

    Args:
        sites: (n, d).
        cost: A: weights of the axes (d,), positive, or a matrix (d, d), symmetric and positive
            definite.

    Returns:
        A y_i, (n, d), in the dtype of the sites.

    Raises:
        ValueError: If shapes do not match, A is not positive definite beyond rounding, or A y_i is
            beyond the dtype of the sites.

    Example:
        >>> import aeot
        >>> sites = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
        >>> cost_sites(sites, [4.0, 0.25])
        tensor([[0.0000, 0.0000],
                [4.0000, 0.5000]])
        >>> solution = aeot.solve_semidiscrete(aeot.Gaussian(dim=2), cost_sites(sites, [4.0, 0.25]))
        >>> sites[solution.map().cell([[-1.0, 0.5], [3.0, 0.5]])]
        tensor([[0., 0.],
                [1., 2.]])
    """
    y = _check.points("sites", sites)
    given = _check.array("cost", cost).detach()
    matrix = given.to(y.device, torch.float64)
    d = y.shape[1]
    if matrix.shape not in ((d,), (d, d)):
        must = f"have shape ({d},) or ({d}, {d})"
        raise _check.fail("cost", must, f"shape {tuple(matrix.shape)}")
    if matrix.ndim == 1:
        least = float(matrix.min())
        moved = y.double() * matrix
    else:
        if not torch.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-7 * float(matrix.abs().max())):
            raise _check.fail("cost", "be symmetric", "a matrix that is not", "use (A + A.T) / 2")
        least = float(torch.linalg.eigvalsh(matrix)[0])
        moved = y.double() @ matrix.T
        # Rounding leaves a singular matrix eigenvalues of either sign; what they are worth is seen
        # with a diagonal of ones, whatever the units of the axes.
        scale = matrix.diagonal().clamp(min=1e-300).sqrt()
        unit = torch.linalg.eigvalsh(matrix / scale / scale[:, None])[0]
        rounding = d**0.5 * torch.finfo(given.dtype).eps + d * torch.finfo(torch.float64).eps
        least = least if unit > 4 * rounding else min(least, 0.0)
    if not least > 0:
        got = f"least {'weight' if matrix.ndim == 1 else 'eigenvalue'} {least:.3g}"
        raise _check.fail("cost", "be positive definite", got, "leave out axes that cost nothing")
    moved = moved.to(y.dtype)
    if not bool(moved.isfinite().all()):
        got = f"{float(matrix.abs().max()):.3g}, which takes sites beyond {y.dtype}"
        raise _check.fail("cost", "leave the sites finite", got, "divide it by its largest entry")
    return moved
