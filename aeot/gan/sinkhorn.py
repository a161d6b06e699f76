"""The debiased Sinkhorn divergence: an adversary that is computed instead of trained."""

from __future__ import annotations

import math

import torch

from aeot._check import fail, points, real


def _soft_min(eps: float, cost: torch.Tensor, dual: torch.Tensor) -> torch.Tensor:
    # min over columns of cost - dual, softened at temperature eps; every column has mass 1 / m
    columns = cost.shape[1]
    return -eps * torch.logsumexp((dual - cost) / eps - math.log(columns), dim=1)


def sinkhorn_divergence(
    x: torch.Tensor, y: torch.Tensor, *, blur: float, scaling: float = 0.7
) -> torch.Tensor:
    """Compute S_eps(x, y) = OT_eps(x, y) - OT_eps(x, x) / 2 - OT_eps(y, y) / 2.

    The cost is |x - y|^2 / 2 and eps = blur^2. The divergence is not negative and zero only for
    equal samples; it goes from W2^2 / 2 at blur = 0 to half the squared distance of the means at
    large blur, and for a translated sample it is half the squared translation at every blur.

    Args:
        x: (n, d) sample of masses 1 / n; gradients flow to both arguments.
        y: (m, d) sample of masses 1 / m.
        blur: Smallest length that is told apart, in units of the points.
        scaling: Factor in (0, 1) between the temperatures on the way down from the diameter;
            larger is slower and more exact.

    Returns:
        The divergence, a scalar.

    Raises:
        ValueError: If the shapes do not fit or `blur` or `scaling` is out of range.

    References:
        A. Genevay, G. Peyre, M. Cuturi, "Learning generative models with Sinkhorn divergences",
        2018, equation 4. J. Feydy and others, "Interpolating between optimal transport and MMD
        using Sinkhorn divergences", 2019, equation 3 and section 3.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
        >>> round(float(sinkhorn_divergence(x, x + 2, blur=0.5)), 4)
        2.0
    """
    x = points("x", x)
    y = points("y", y, dim=x.shape[1])
    blur = real("blur", blur, above=0)
    if not 0 < real("scaling", scaling) < 1:
        raise fail("scaling", "be in (0, 1)", scaling)

    def cost(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        # A product of matrices: exact enough because the means were moved to zero.
        squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        return squares.clamp_min(0) / 2

    # In place of their own means: the difference of two close samples keeps its digits.
    middle = (x.detach().mean(0) + y.detach().mean(0)) / 2
    x, y = x - middle, y - middle
    with torch.no_grad():
        xy, xx, yy = cost(x, y), cost(x, x), cost(y, y)
        top = max(2 * float(xy.max()), blur**2)
        count = max(0, math.ceil(math.log(blur**2 / top) / (2 * math.log(scaling))))
        eps = [top * scaling ** (2 * k) for k in range(count)] + [blur**2] * 60
        f, p = _soft_min(top, xy, xy.new_zeros(len(y))), _soft_min(top, xx, xx.new_zeros(len(x)))
        g, q = _soft_min(top, xy.T, xy.new_zeros(len(x))), _soft_min(top, yy, yy.new_zeros(len(y)))
        for e in eps:  # averaging both halves of a step makes it symmetric and damps it
            f, g = (f + _soft_min(e, xy, g)) / 2, (g + _soft_min(e, xy.T, f)) / 2
            p, q = (p + _soft_min(e, xx, p)) / 2, (q + _soft_min(e, yy, q)) / 2
    # The duals are optimal, so their own derivative does not count: one more step, with gradients
    # through the cost of the point itself, gives value and gradient.
    e = blur**2
    here, there = x.detach(), y.detach()
    first = _soft_min(e, cost(x, there), g) - _soft_min(e, cost(x, here), p)
    second = _soft_min(e, cost(y, here), f) - _soft_min(e, cost(y, there), q)
    return first.mean() + second.mean()
