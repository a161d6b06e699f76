"""Lipschitz constraints on the weights of a critic, in place of a penalty on its slopes."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def clip_weights(module: nn.Module, bound: float) -> None:
    """Clamp every parameter to [-bound, bound] in place: WGAN's first Lipschitz constraint.

    References:
        Arjovsky et al., Wasserstein GAN, 2017, algorithm 1.
    """
    for parameter in module.parameters():
        parameter.clamp_(-bound, bound)


def spectral_normalise(module: nn.Module) -> nn.Module:
    """Divide the weight of each linear and convolution layer by its largest singular value.

    One power iteration per forward pass. For a convolution the matrix is (out, in * kh * kw):
    that bounds the matrix, not quite the convolution as an operator.

    Args:
        module: Changed in place.

    Returns:
        The same module.

    References:
        Miyato et al., Spectral normalization for generative adversarial networks, 2018, eq. 8.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.utils.parametrizations.spectral_norm(layer)
    return module
