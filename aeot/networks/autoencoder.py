"""Encoder and decoder pairs by architecture name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from aeot import _check
from aeot.networks import blocks

ARCHITECTURES = ("auto", "residual", "infogan", "dcgan", "mlp")


def resolve_architecture(
    architecture: str, shape: Sequence[int], *, published: bool = False
) -> str:
    """Return the name that "auto" stands for, and any other as it is.

    Args:
        architecture: One of `ARCHITECTURES`.
        shape: Of one row: (C, H, W) or (d,).
        published: Of images choose the networks of published studies, which the generators of the
            GANs are made like: "dcgan" from 64 pixels on, else "infogan".

    Returns:
        "mlp" for vectors, "residual" for images unless `published`.

    Example:
        >>> resolve_architecture("auto", (1, 28, 28))
        'residual'
    """
    _check.choice("architecture", architecture, ARCHITECTURES)
    if architecture != "auto":
        return architecture
    if len(shape) != 3:
        return "mlp"
    if not published:
        return "residual"
    return "infogan" if min(shape[1:]) < 64 else "dcgan"


def autoencoder_pair(
    shape: Sequence[int], latent_dim: int, *, architecture: str = "auto", width: int | None = None
) -> tuple[nn.Module, nn.Module]:
    """Build an encoder and the decoder that mirrors it.

    Args:
        shape: Of one row: (C, H, W) or (d,).
        latent_dim: Size of the codes.
        architecture: "residual": a small residual network, for sides divisible by 4. "infogan":
            the study of Lucic et al., 2018, for sides divisible by 4, made for 28 to 64 pixels.
            "dcgan": a deeper chain of convolutions, for 64 pixels and up. "mlp": two hidden layers,
            for vectors. "auto": "mlp" for vectors, else "residual".
        width: Channels of the first level of "residual" (None: 32) or of the first convolution of
            "dcgan" (None: 64), or of the hidden layers of "mlp" (None: 256); "infogan" has none.

    Returns:
        Encoder from rows to codes (B, latent_dim), and decoder back; images lie in [-1, 1].

    Raises:
        ValueError: If the architecture is unknown or does not fit the shape.

    Example:
        >>> encoder, decoder = autoencoder_pair((1, 28, 28), 64)
        >>> blocks.count_parameters(decoder) < 400_000
        True
    """
    architecture = resolve_architecture(architecture, shape)
    latent_dim = _check.integer("latent_dim", latent_dim)
    width = None if width is None else _check.integer("width", width)
    if architecture == "residual":
        base = width or 32
        return blocks.ResidualDown(shape, latent_dim, base=base), blocks.ResidualUp(
            shape, latent_dim, base=base
        )
    if architecture == "infogan":
        return blocks.DownTrunk(shape, latent_dim), blocks.UpTrunk(shape, latent_dim)
    if architecture == "dcgan":
        base = width or 64
        return blocks.DeepDown(shape, latent_dim, base=base), blocks.DeepUp(
            shape, latent_dim, base=base
        )
    if len(shape) != 1:
        raise _check.fail("architecture", "fit images", "'mlp'", "use 'residual' or 'infogan'")
    hidden = width or 256
    return (
        blocks.mlp([shape[0], hidden, hidden, latent_dim]),
        blocks.mlp([latent_dim, hidden, hidden, shape[0]]),
    )
