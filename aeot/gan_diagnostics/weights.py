"""What the weights of a translator's losses mean, and what values the data suggest."""

from __future__ import annotations

import math

import torch

from aeot import _check
from aeot._environment import plain_torch


@plain_torch()
def l1_weight(residuals: torch.Tensor, *, estimate: str = "mean") -> float:
    """Estimate the best weight of an L1 loss from residuals y - G(x).

    An L1 loss with weight w is the log likelihood of Laplace noise of scale 1 / w. If the noise is
    normal with deviation sigma, the nearest Laplace law has w* = sqrt(pi / (2 sigma^2)).

    Args:
        residuals: Any shape, in units of the images.
        estimate: "mean" for 1 / mean|r|, the maximum likelihood of the Laplace law whatever the
            noise is; "std" for sqrt(pi / 2) / std(r). They agree for normal noise only.

    Returns:
        The weight, per unit of residual.

    Raises:
        ValueError: If the residuals are not finite, all zero (for "std": all equal), or too few.

    Example:
        >>> round(l1_weight([0.1, -0.1, 0.3, -0.3]), 6)
        5.0
    """
    _check.choice("estimate", estimate, ("mean", "std"))
    values = _check.array("residuals", residuals).double().flatten()
    least = 1 if estimate == "mean" else 2
    if len(values) < least:
        raise _check.fail("residuals", f"hold at least {least} for {estimate!r}", str(len(values)))
    spread = values.abs().mean() if estimate == "mean" else values.std() * math.sqrt(2 / math.pi)
    if not float(spread) > 0:
        wanted = "not be all zero" if estimate == "mean" else "not be all equal"
        raise _check.fail("residuals", wanted, f"{len(values)} of them")
    return 1 / float(spread)


def laplace_divergence(weight: float, sigma: float) -> float:
    """Return KL(N(0, sigma^2) || Laplace(0, 1 / weight)), the price of an L1 loss.

    Its minimum over the weight is at sqrt(pi / (2 sigma^2)) and is log(2 / pi) + 1/2 = 0.04842
    whatever sigma is.

    Example:
        >>> round(laplace_divergence((3.14159265 / 2) ** 0.5, 1.0), 5)
        0.04842
    """
    weight = _check.real("weight", weight, above=0)
    sigma = _check.real("sigma", sigma, above=0)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(sigma)
    return math.log(2 / weight) + weight * sigma * math.sqrt(2 / math.pi) - entropy


def identity_shift(wanted: float, weight: float, *, curvature: float = 1.0) -> float:
    """Return how far a generator shifts its input when an identity loss holds it back.

    The minimiser of ``curvature (shift - wanted)^2 + weight |shift|``, a soft threshold: shifts
    the domains ask for below weight / (2 curvature) are suppressed altogether.

    Example:
        >>> identity_shift(0.5, 0.4), identity_shift(-0.1, 0.4)
        (0.3, -0.0)
    """
    wanted, curvature = _check.real("wanted", wanted), _check.real("curvature", curvature, above=0)
    threshold = _check.real("weight", weight, minimum=0) / (2 * curvature)
    return math.copysign(max(0.0, abs(wanted) - threshold), wanted)
