"""Discriminators and critics: one number per patch or per image."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations

from aeot._check import choice, fail, integer

NORMS = ("instance", "instance-affine", "batch", "none")


def _norm(kind: str, channels: int) -> list[nn.Module]:
    if kind == "none":
        return []
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.InstanceNorm2d(channels, affine=kind == "instance-affine")]


class PatchDiscriminator(nn.Module):
    """A convolutional discriminator that judges overlapping patches of an image.

    With three layers it is the 70 x 70 discriminator of CycleGAN and pix2pix (2 764 737 parameters
    for 3 channels and instance norm; 2 768 705 for 6 channels and batch norm). `n_layers=0` judges
    single pixels through 1 x 1 convolutions.

    Args:
        in_channels: Channels of the images; of image and condition together if conditional.
        n_layers: Layers of stride 2; 0 to 6 give the receptive fields 1, 16, 34, 70, 142, 286, 574.
        filters: Channels after the first layer; they double up to 8 times that.
        norm: "instance", "instance-affine", "batch" or "none"; never on the first and last layer.
        spectral_norm: Divide every weight matrix by its largest singular value (with
            `norm="none"` this bounds how fast the output can change).

    Raises:
        ValueError: If an argument is out of range, or an image is too small for `n_layers`.

    References:
        P. Isola, J.-Y. Zhu, T. Zhou, A. Efros, "Image-to-image translation with conditional
        adversarial networks", 2017, section 6.1.2. T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida,
        "Spectral normalization for generative adversarial networks", 2018.

    Example:
        >>> import torch
        >>> discriminator = PatchDiscriminator(1, n_layers=2, filters=4)
        >>> discriminator.receptive_field
        34
        >>> discriminator(torch.zeros(5, 1, 32, 32)).shape
        torch.Size([5, 1, 6, 6])
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_layers: int = 3,
        *,
        filters: int = 64,
        norm: str = "instance",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        integer("in_channels", in_channels)
        integer("filters", filters)
        self.n_layers = integer("n_layers", n_layers, minimum=0)
        choice("norm", norm, NORMS)
        kernel, padding = (4, 1) if n_layers else (1, 0)
        bias = norm in ("instance", "none")  # a learned shift makes the layer's own redundant

        def convolution(inside: int, outside: int, stride: int, bias: bool = True) -> nn.Module:
            layer = nn.Conv2d(inside, outside, kernel, stride=stride, padding=padding, bias=bias)
            return parametrizations.spectral_norm(layer) if spectral_norm else layer

        layers = [convolution(in_channels, filters, 2 if n_layers else 1), nn.LeakyReLU(0.2)]
        width = filters
        for layer in range(1, max(n_layers, 1) + 1):
            wider = filters * min(2**layer, 8)
            stride = 2 if layer < n_layers else 1
            layers += [convolution(width, wider, stride, bias), *_norm(norm, wider)]
            layers += [nn.LeakyReLU(0.2)]
            width = wider
        self.body = nn.Sequential(*layers, convolution(width, 1, 1))

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square that one output number sees."""
        field = 1
        for layer in reversed([m for m in self.body if isinstance(m, nn.Conv2d)]):
            field = (field - 1) * layer.stride[0] + layer.kernel_size[0]
        return field

    def output_size(self, size: int) -> int:
        """Side of the output map for images of side `size`; not positive if they are too small."""
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                size = (size + 2 * layer.padding[0] - layer.kernel_size[0]) // layer.stride[0] + 1
        return size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Judge images (B, in_channels, H, W); returns (B, 1, h, w), no sigmoid applied."""
        smallest = min(x.shape[-2:])
        if self.output_size(smallest) < 1:
            way_out = "use larger images or fewer layers"
            raise fail("n_layers", f"leave an output for {smallest} px", self.n_layers, way_out)
        return self.body(x)
