"""Trunks shared by autoencoders and GANs: from an image to features, and from features back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from aeot import _check

LEAK = 0.2
EPS = 1e-3  # of batch normalisation
NORMS = ("instance", "instance-affine", "batch", "none")


def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Draw every weight of linear and convolution layers from N(0, std^2); set biases to 0.

    Batch-normalisation layers are left as they are (scale 1, shift 0).
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_he(module: nn.Module) -> None:
    """Draw weights for ReLU: He's uniform law, Glorot's in the last linear layer; biases 0.

    Of a transposed convolution each output sees as many inputs as its kernel has over its stride.
    """
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            seen = layer.weight[:, 0].numel() / math.prod(layer.stride)
            bound = math.sqrt(6 / seen)
            nn.init.uniform_(layer.weight, -bound, bound)
        else:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if isinstance(layers[-1], nn.Linear):
        nn.init.xavier_uniform_(layers[-1].weight)


def _grid(shape: Sequence[int], factor: int, name: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise _check.fail("shape", f"be (C, H, W) for {name}", str(tuple(shape)))
    channels, height, width = shape
    if height % factor or width % factor:
        got = f"{height} x {width}"
        way_out = "resize the images (data sets take size=...)"
        raise _check.fail("shape", f"have sides divisible by {factor} for {name}", got, way_out)
    return channels, height // factor, width // factor


class DownTrunk(nn.Sequential):
    """Image (B, C, H, W) to outputs (B, outputs): the InfoGAN-style discriminator or encoder.

    conv 4x4/2 to 64, LReLU; conv 4x4/2 to 128, [BN], LReLU; linear to 1024, [BN], LReLU; linear.

    Layers and sizes are those of the study below. Two details are torch's instead: the population
    statistics of batch normalisation move by 0.1 a step (the study: 0.001, a decay of 0.999), so
    that they are usable after tens of steps instead of thousands, and the normal law of the
    convolutions' first weights is not truncated (the study cuts it at two deviations).

    Args:
        shape: (C, H, W), H and W divisible by 4.
        outputs: Width of the last layer: 1 for a discriminator, the latent size for an encoder.
        batch_norm: Whether the layers marked [BN] are normalised.

    Raises:
        ValueError: If `shape` is no image shape with sides divisible by 4.

    References:
        Lucic, Kurach, Michalski, Gelly, Bousquet, Are GANs created equal?, 2018, appendix.
    """

    def __init__(self, shape: Sequence[int], outputs: int = 1, *, batch_norm: bool = True) -> None:
        channels, height, width = _grid(shape, 4, "the InfoGAN-style networks")
        super().__init__(
            nn.Conv2d(channels, 64, 4, 2, 1),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(64, 128, 4, 2, 1),
            *([nn.BatchNorm2d(128, eps=EPS)] if batch_norm else []),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Flatten(),
            nn.Linear(128 * height * width, 1024),
            *([nn.BatchNorm1d(1024, eps=EPS)] if batch_norm else []),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Linear(1024, outputs),
        )
        init_normal(self)


class UpTrunk(nn.Sequential):
    """Latent (B, latent) to image (B, C, H, W) in [-1, 1]: the InfoGAN-style generator or decoder.

    linear to 1024, BN, LReLU; linear to 128 (H/4) (W/4), BN, LReLU; transposed conv 4x4/2 to 64,
    BN, LReLU; transposed conv 4x4/2 to C, tanh. The original ends in a sigmoid because its images
    lie in [0, 1]; the shapes are the same. Statistics and first weights are as in `DownTrunk`.

    Args:
        shape: (C, H, W), H and W divisible by 4.
        latent_dim: Width of the input.

    Raises:
        ValueError: If `shape` is no image shape with sides divisible by 4.

    References:
        Lucic, Kurach, Michalski, Gelly, Bousquet, Are GANs created equal?, 2018, appendix.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int = 64) -> None:
        channels, height, width = _grid(shape, 4, "the InfoGAN-style networks")
        inner = 128 * height * width
        super().__init__(
            nn.Linear(latent_dim, 1024),
            nn.BatchNorm1d(1024, eps=EPS),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Linear(1024, inner),
            nn.BatchNorm1d(inner, eps=EPS),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Unflatten(1, (128, height, width)),
            nn.ConvTranspose2d(128, 64, 4, 2, 1),
            nn.BatchNorm2d(64, eps=EPS),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.ConvTranspose2d(64, channels, 4, 2, 1),
            nn.Tanh(),
        )
        init_normal(self)


def _levels(height: int, width: int) -> int:
    """How often both sides can be halved until the smaller is 4 to 7 pixels."""
    levels = 0
    while min(height, width) // 2 >= 4 and height % 2 == 0 and width % 2 == 0:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels


def _deep_widths(shape: Sequence[int], base: int) -> list[int]:
    if len(shape) != 3 or _levels(*shape[1:]) < 2 or min(shape[1:]) >> _levels(*shape[1:]) > 7:
        requirement = (
            "be (C, H, W) with sides that halve down to 4 to 7 pixels for the deep networks"
        )
        raise _check.fail("shape", requirement, str(tuple(shape)), "for instance 64, 96 or 128")
    return [base * min(2**level, 8) for level in range(_levels(*shape[1:]))]


class DeepDown(nn.Sequential):
    """Image to outputs by a chain of halving convolutions (DCGAN-like), for 64 pixels and up.

    conv 4x4/2 to f, 2f, 4f, 8f, ... (at most 8f) until 4 to 7 pixels are left, each with LReLU and
    all but the first with BN; then one linear layer.

    Args:
        shape: (C, H, W).
        outputs: Width of the last layer.
        base: Channels f of the first convolution.

    Raises:
        ValueError: If the sides do not halve down to 4 to 7 pixels.

    References:
        Radford, Metz, Chintala, Unsupervised representation learning with deep convolutional
        generative adversarial networks, 2016.
    """

    def __init__(self, shape: Sequence[int], outputs: int = 1, *, base: int = 64) -> None:
        widths = _deep_widths(shape, base)
        layers: list[nn.Module] = []
        for level, (before, after) in enumerate(zip([shape[0], *widths[:-1]], widths, strict=True)):
            layers += [
                nn.Conv2d(before, after, 4, 2, 1, bias=level == 0),
                *([nn.BatchNorm2d(after, eps=EPS)] if level else []),
                nn.LeakyReLU(LEAK, inplace=True),
            ]
        area = (shape[1] >> len(widths)) * (shape[2] >> len(widths))
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * area, outputs))
        init_normal(self)


class DeepUp(nn.Sequential):
    """Latent to image by a chain of doubling convolutions: the mirror of `DeepDown`.

    Args:
        shape: (C, H, W).
        latent_dim: Width of the input.
        base: Channels f of the last hidden layer.

    Raises:
        ValueError: If the sides do not halve down to 4 to 7 pixels.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int = 64, *, base: int = 64) -> None:
        widths = _deep_widths(shape, base)[::-1]
        height, width = shape[1] >> len(widths), shape[2] >> len(widths)
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * height * width, bias=False),
            nn.Unflatten(1, (widths[0], height, width)),
            nn.BatchNorm2d(widths[0], eps=EPS),
            nn.ReLU(inplace=True),
        ]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after, eps=EPS),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], shape[0], 4, 2, 1), nn.Tanh()]
        super().__init__(*layers)
        init_normal(self)


class Residual(nn.Module):
    """Add to (B, C, H, W) what BN and two 3x3 convolutions make of it; at first nothing.

    One BN, and ReLU: on processors a second, and SiLU, cost time that more steps use better.

    References:
        He, Zhang, Ren, Sun, Identity mappings in deep residual networks, 2016.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1),
        )
        last = self.body[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return an image of the same shape."""
        return images + self.body(images)


def _residual_sizes(shape: Sequence[int], base: int) -> list[tuple[int, int, int]]:
    """Channels, height and width at each level: at least two, and none below 7 pixels after."""
    _, height, width = _grid(shape, 4, "the residual networks")
    sizes = [(base, 2 * height, 2 * width), (2 * base, height, width)]
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 14:
        height, width = height // 2, width // 2
        sizes.append((base * min(2 ** len(sizes), 4), height, width))
    return sizes


class ResidualDown(nn.Module):
    """Image (B, C, H, W) to outputs (B, outputs) by small residual levels.

    At each level a convolution 4x4/2 and one `Residual`: f channels at half the sides, 2f at a
    quarter, 4f at an eighth and below, until fewer than 14 pixels are left; then BN, ReLU and one
    linear layer. Of 28 pixels: f at 14, 2f at 7. It works on channels-last images, which processors
    and cards convolve faster.

    Args:
        shape: (C, H, W), H and W divisible by 4.
        outputs: Width of the last layer.
        base: Channels f of the first convolution.

    Raises:
        ValueError: If `shape` is no image shape with sides divisible by 4.
    """

    def __init__(self, shape: Sequence[int], outputs: int, *, base: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = shape[0]
        sizes = _residual_sizes(shape, base)
        for channels, *_ in sizes:
            layers += [nn.Conv2d(before, channels, 4, 2, 1), Residual(channels)]
            before = channels
        self.levels = nn.Sequential(*layers, nn.BatchNorm2d(before), nn.ReLU(inplace=True))
        self.code = nn.Linear(math.prod(sizes[-1]), outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs of images in [-1, 1]."""
        features = self.levels(images.contiguous(memory_format=torch.channels_last))
        return self.code(features.permute(0, 2, 3, 1).flatten(1))


class ResidualUp(nn.Module):
    """Latent (B, latent) to image (B, C, H, W) in [-1, 1]: the mirror of `ResidualDown`.

    One linear layer; at each level one `Residual`, and where the sides double a convolution to four
    times the channels whose pixels are shuffled into place, which leaves no lattice of overlapping
    kernels; tanh at last.

    Args:
        shape: (C, H, W), H and W divisible by 4.
        latent_dim: Width of the input.
        base: Channels f of the last level.

    Raises:
        ValueError: If `shape` is no image shape with sides divisible by 4.

    References:
        Shi, Caballero, Huszar, Totz, Aitken, Bishop, Rueckert, Wang, Real-time single image and
        video super-resolution using an efficient sub-pixel convolutional neural network, 2016.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int = 64, *, base: int = 32) -> None:
        super().__init__()
        sizes = _residual_sizes(shape, base)[::-1]
        self.start = sizes[0]
        self.code = nn.Linear(latent_dim, math.prod(self.start))
        layers: list[nn.Module] = [Residual(self.start[0])]
        for (before, *_), (after, *_) in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2), Residual(after)]
        layers += [nn.BatchNorm2d(base), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(base, 4 * shape[0], 3, 1, 1), nn.PixelShuffle(2), nn.Tanh()]
        self.levels = nn.Sequential(*layers)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the images of codes."""
        channels, height, width = self.start
        features = self.code(codes).unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
        return self.levels(features).contiguous()


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with LReLU between them; torch's own initialisation.

    Args:
        widths: Input, hidden and output widths.
    """
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.LeakyReLU(LEAK, inplace=True)]
    return nn.Sequential(*layers[:-1])


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable numbers.

    Example:
        >>> [count_parameters(UpTrunk((1, 28, 28))), count_parameters(DownTrunk((1, 28, 28)))]
        [6642241, 6559169]
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def has_bias(norm: str) -> bool:
    """Whether a convolution before one of `NORMS` needs a bias: without a shift learned there."""
    return norm in ("instance", "none")


def image_norm(kind: str, channels: int) -> list[nn.Module]:
    """Return the layers of one of `NORMS`: a list of one normalisation, or an empty one."""
    if kind == "none":
        return []
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.InstanceNorm2d(channels, affine=kind == "instance-affine")]
