"""Generators: image to image (ResNet, U-Net) and noise to image."""

from __future__ import annotations

import torch
from torch import nn

from aeot._check import choice, fail, integer, real
from aeot.networks.blocks import NORMS, has_bias, image_norm, init_he, init_normal

UPSAMPLING = ("transposed", "resize")


def _check(in_channels: int, out_channels: int, filters: int, norm: str, dropout: float) -> None:
    integer("in_channels", in_channels)
    integer("out_channels", out_channels)
    integer("filters", filters)
    choice("norm", norm, NORMS)
    if real("dropout", dropout, minimum=0) >= 1:
        raise fail("dropout", "be below 1", dropout)


class _Residual(nn.Module):
    def __init__(self, channels: int, norm: str, dropout: float) -> None:
        super().__init__()
        bias = has_bias(norm)
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias)]
        layers += [*image_norm(norm, channels), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(dropout)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias)]
        self.body = nn.Sequential(*layers, *image_norm(norm, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def _twice(width: int, upsampling: str, norm: str) -> list[nn.Module]:
    """Return the layers of a stage that doubles the sides and halves the channels."""
    bias, half = has_bias(norm), width // 2
    if upsampling == "resize":
        layers = [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1)]
        layers.append(nn.Conv2d(width, half, 3, bias=bias))
    else:
        layers = [nn.ConvTranspose2d(width, half, 3, 2, 1, output_padding=1, bias=bias)]
    return [*layers, *image_norm(norm, half), nn.ReLU(inplace=True)]


def init_translator(network: nn.Module, norm: str) -> None:
    """Draw the first weights of an image-to-image network or of a judge of patches.

    Those published, N(0, 0.02^2), rely on normalisation, which brings every layer's output back to
    unit size. Without it they shrink what goes through a small network by an order of magnitude
    a layer, until nothing of the input is left to learn from: He's law keeps its size. Residual
    blocks begin as the identity then, and the last layer small, before a tanh that saturates.

    Args:
        network: Whose weights are drawn.
        norm: One of `aeot.networks.blocks.NORMS`, which the network was made with.
    """
    if norm != "none":
        init_normal(network)
        return
    init_he(network)
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, _Residual):
                _convolutions(block)[-1].weight.zero_()
        _convolutions(network)[-1].weight.mul_(0.1)


def _convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    kinds = nn.Conv2d, nn.ConvTranspose2d
    return [layer for layer in network.modules() if isinstance(layer, kinds)]


class ResNetGenerator(nn.Module):
    """The image-to-image network of CycleGAN: two strides down, residual blocks, two up.

    With 3 channels it has 11 378 179 parameters for nine blocks (used at 256 px and up) and
    7 837 699 for six (128 px). Sides must be multiples of four.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output image, in [-1, 1] through a tanh.
        n_blocks: Residual blocks at a quarter of the resolution.
        filters: Channels after the first layer; the blocks have four times as many.
        norm: "instance" (statistics of each image, nothing learned: the published code),
            "instance-affine" (with a learned scale and shift: the paper's text), "batch" or "none".
        dropout: Dropout inside the residual blocks, 0 for none.
        upsampling: "transposed" convolutions (as published), whose stride leaves a checkerboard, or
            "resize": each pixel four times, then a convolution; no more parameters.

    Raises:
        ValueError: If an argument is out of range, or an image's side is no multiple of four.

    References:
        J.-Y. Zhu, T. Park, P. Isola, A. Efros, "Unpaired image-to-image translation using
        cycle-consistent adversarial networks", 2017, section 7.2. A. Odena, V. Dumoulin, C. Olah,
        "Deconvolution and checkerboard artifacts", 2016 (`upsampling`).

    Example:
        >>> import torch
        >>> ResNetGenerator(1, 1, n_blocks=2, filters=4)(torch.zeros(2, 1, 32, 28)).shape
        torch.Size([2, 1, 32, 28])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        n_blocks: int = 9,
        *,
        filters: int = 64,
        norm: str = "instance",
        dropout: float = 0.0,
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, filters, norm, dropout)
        integer("n_blocks", n_blocks, minimum=0)
        choice("upsampling", upsampling, UPSAMPLING)
        bias = has_bias(norm)
        relu = nn.ReLU(inplace=True)
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, filters, 7, bias=bias)]
        layers += [*image_norm(norm, filters), relu]
        for width in (filters, 2 * filters):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)]
            layers += [*image_norm(norm, 2 * width), relu]
        layers += [_Residual(4 * filters, norm, dropout) for _ in range(n_blocks)]
        layers += [*_twice(4 * filters, upsampling, norm), *_twice(2 * filters, upsampling, norm)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(filters, out_channels, 7), nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate images (B, in_channels, H, W) into (B, out_channels, H, W)."""
        if x.shape[-1] % 4 or x.shape[-2] % 4:
            raise fail("image sides", "be multiples of 4", tuple(x.shape[-2:]), "resize them")
        return self.body(x)


class UpscaleGenerator(nn.Module):
    """A network that enlarges images: residual blocks at their size, then stages that double it.

    All but the last layers work on small images, and nothing is interpolated before them.

    Args:
        in_channels: Channels of the input (small images, or small images and noise).
        out_channels: Channels of the output image, in [-1, 1] through a tanh.
        factor: How many times as large the output's sides are: a power of two, at least 2.
        n_blocks: Residual blocks at the size of the input.
        filters: Channels of the last stage; the blocks have `factor` times as many.
        norm: As of `ResNetGenerator`.
        dropout: Dropout inside the residual blocks, 0 for none.
        upsampling: As of `ResNetGenerator`.

    Raises:
        ValueError: If an argument is out of range, or an image has a side of one pixel.

    References:
        C. Ledig and others, "Photo-realistic single image super-resolution using a generative
        adversarial network", 2017, section 2.1, whose stages shuffle pixels where these resize.

    Example:
        >>> import torch
        >>> UpscaleGenerator(1, 3, 4, n_blocks=2, filters=4)(torch.zeros(2, 1, 7, 5)).shape
        torch.Size([2, 3, 28, 20])
    """

    size = 1  # sides need be multiples of nothing

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        factor: int = 4,
        *,
        n_blocks: int = 6,
        filters: int = 64,
        norm: str = "instance",
        dropout: float = 0.0,
        upsampling: str = "resize",
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, filters, norm, dropout)
        integer("n_blocks", n_blocks, minimum=0)
        choice("upsampling", upsampling, UPSAMPLING)
        if integer("factor", factor, minimum=2) & (factor - 1):
            raise fail("factor", "be a power of two", factor, "resize the images")
        widths = [filters * factor >> stage for stage in range(factor.bit_length() - 1)]
        bias, relu = has_bias(norm), nn.ReLU(inplace=True)
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(in_channels, widths[0], 3, bias=bias)]
        layers += [*image_norm(norm, widths[0]), relu]
        layers += [_Residual(widths[0], norm, dropout) for _ in range(n_blocks)]
        layers += [layer for width in widths for layer in _twice(width, upsampling, norm)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(filters, out_channels, 7), nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enlarge images (B, in_channels, H, W) to (B, out_channels, factor H, factor W)."""
        if min(x.shape[-2:]) < 2:
            raise fail("image sides", "be at least 2", tuple(x.shape[-2:]), "take larger ones")
        return self.body(x)


class _Level(nn.Module):
    """One level of the U: down, whatever is inside, up, and the input beside it."""

    def __init__(
        self,
        outer: int,
        inner: int,
        inside: nn.Module | None,
        *,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        bias = has_bias(norm)
        self.down = nn.Sequential(
            # Not in place: the same tensor goes through the skip connection.
            nn.LeakyReLU(0.2),
            nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=bias),
            *(image_norm(norm, inner) if inside is not None else []),
        )
        self.inside = nn.Identity() if inside is None else inside
        self.up = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(
                inner if inside is None else 2 * inner, outer, 4, stride=2, padding=1, bias=bias
            ),
            *image_norm(norm, outer),
            *([nn.Dropout(dropout)] if dropout else []),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.up(self.inside(self.down(x)))], dim=1)


class UNetGenerator(nn.Module):
    """The U-Net of pix2pix: log2(size) strides down to one pixel and back, with skips.

    Channels grow as 1, 2, 4, 8, 8, ... times `filters`. The outermost levels and the innermost
    one down have no normalisation; dropout sits on the way up wherever both sides of a level have
    8 `filters` channels, the innermost excepted.

    Args:
        in_channels: Channels of the input (images, or images and noise).
        out_channels: Channels of the output image, in [-1, 1] through a tanh.
        size: Side of the square images: a power of two, at least 8. Larger multiples of it work.
        filters: Channels after the first layer.
        norm: "batch", "instance", "instance-affine" or "none". With one image at a time, batch
            normalisation in training *is* "instance-affine".
        dropout: Probability in the intermediate levels; the only noise of pix2pix.

    Raises:
        ValueError: If an argument is out of range.

    References:
        P. Isola, J.-Y. Zhu, T. Zhou, A. Efros, "Image-to-image translation with conditional
        adversarial networks", 2017, section 6.1.

    Example:
        >>> import torch
        >>> UNetGenerator(1, 3, size=32, filters=4)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        size: int = 256,
        *,
        filters: int = 64,
        norm: str = "batch",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, filters, norm, dropout)
        size = integer("size", size, minimum=8)
        if size & (size - 1):
            raise fail("size", "be a power of two", size, "resize the images")
        self.size = size
        levels = size.bit_length() - 1
        widths = [filters * min(2**i, 8) for i in range(levels)]
        bias = has_bias(norm)
        inside = _Level(widths[-2], widths[-1], None, norm=norm, dropout=0.0)
        for level in range(levels - 2, 0, -1):
            outer, inner = widths[level - 1], widths[level]
            drop = dropout if outer == inner else 0.0
            inside = _Level(outer, inner, inside, norm=norm, dropout=drop)
        self.first = nn.Conv2d(in_channels, filters, 4, stride=2, padding=1, bias=bias)
        self.inside = inside
        self.last = nn.ConvTranspose2d(2 * filters, out_channels, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate images (B, in_channels, H, W) into (B, out_channels, H, W)."""
        if x.shape[-1] % self.size or x.shape[-2] % self.size:
            raise fail(
                "image sides", f"be multiples of {self.size}", tuple(x.shape[-2:]), "resize them"
            )
        return torch.tanh(self.last(torch.relu(self.inside(self.first(x)))))


class MLPGenerator(nn.Sequential):
    """Noise to vectors through equal hidden layers with ReLU.

    With batch normalisation it is the generator of the PacGAN experiments on 2-D mixtures (hidden
    layers without bias, weights from N(0, 0.02^2); 484 802 parameters for 2 -> 2), without it that
    of WGAN-GP's toy examples (He's uniform weights; ``hidden=512, layers=3``). Two layers from
    (x, noise) to z make ALI's encoder.

    Args:
        latent_dim: Width of the input.
        dim: Width of the output.
        hidden: Width of the hidden layers.
        layers: How many there are.
        batch_norm: Normalise each hidden layer (statistics decay by 0.95 a step).

    Raises:
        ValueError: If a width is not a whole number >= 1.

    References:
        Z. Lin, A. Khetan, G. Fanti, S. Oh, "PacGAN: the power of two samples in generative
        adversarial networks", 2018, section 4.1. I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin,
        A. Courville, "Improved training of Wasserstein GANs", 2017, section 5.

    Example:
        >>> sum(p.numel() for p in MLPGenerator(2, 2).parameters())
        484802
    """

    def __init__(
        self,
        latent_dim: int,
        dim: int,
        *,
        hidden: int = 400,
        layers: int = 4,
        batch_norm: bool = True,
    ) -> None:
        integer("dim", dim)
        integer("hidden", hidden)
        widths = [integer("latent_dim", latent_dim), *[hidden] * integer("layers", layers)]
        parts: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            parts.append(nn.Linear(before, after, bias=not batch_norm))
            # The constant and the decay of the original experiments.
            parts += [nn.BatchNorm1d(after, eps=1e-4, momentum=0.05)] if batch_norm else []
            parts.append(nn.ReLU())
        super().__init__(*parts, nn.Linear(hidden, dim))
        init_normal(self) if batch_norm else init_he(self)
