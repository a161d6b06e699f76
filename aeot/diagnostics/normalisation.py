"""What instance normalisation does to the statistics of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


@torch.no_grad()
def instance_statistics(layer: nn.InstanceNorm2d, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compare what a layer does to means and variances with what theory says.

    With scale a and shift b (1 and 0 without `affine`) every channel of every image leaves with
    mean b and variance a^2 v / (v + eps), v its variance on entry: contrast and brightness are
    gone.

    Args:
        layer: An instance norm without running statistics.
        x: (B, C, H, W).

    Returns:
        ``mean`` and ``variance`` (divided by H W) of the output and what was ``expected_mean`` and
        ``expected_variance``, each (B, C) float64.
    """
    out = layer(x).double().flatten(2)
    entry = x.double().flatten(2).var(dim=2, correction=0)
    device = x.device
    scale = torch.ones(x.shape[1], device=device) if layer.weight is None else layer.weight.detach()
    shift = torch.zeros(x.shape[1], device=device) if layer.bias is None else layer.bias.detach()
    return {
        "mean": out.mean(dim=2),
        "variance": out.var(dim=2, correction=0),
        "expected_mean": shift.double().expand(len(x), -1),
        "expected_variance": scale.double() ** 2 * entry / (entry + layer.eps),
    }


@torch.no_grad()
def contrast_response(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    *,
    gain: float = 0.5,
    offset: float = 0.2,
) -> float:
    """Measure how much of a change of contrast and brightness a translator lets through.

    Args:
        function: Images to images.
        x: (B, C, H, W).
        gain: The images are multiplied by this,
        offset: and this is added.

    Returns:
        The change of the output over the change of the input, root mean squares: 1 for the
        identity; 0 for a network that normalises its first layer without padding. Padding by
        reflection keeps the invariance, padding by zeros breaks it.
    """
    changed = gain * x + offset
    moved = (function(changed) - function(x)).double().square().mean().sqrt()
    return float(moved / (changed - x).double().square().mean().sqrt())
