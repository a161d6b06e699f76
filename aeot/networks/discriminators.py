"""Discriminators and critics: one number per patch or per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrizations

from aeot._check import choice, fail, integer
from aeot.networks.blocks import NORMS, DownTrunk, has_bias, image_norm, init_he, init_normal


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

        def convolution(inside: int, outside: int, stride: int, bias: bool = True) -> nn.Module:
            layer = nn.Conv2d(inside, outside, kernel, stride=stride, padding=padding, bias=bias)
            return parametrizations.spectral_norm(layer) if spectral_norm else layer

        layers = [convolution(in_channels, filters, 2 if n_layers else 1), nn.LeakyReLU(0.2)]
        width = filters
        for layer in range(1, max(n_layers, 1) + 1):
            wider = filters * min(2**layer, 8)
            stride = 2 if layer < n_layers else 1
            layers += [convolution(width, wider, stride, has_bias(norm)), *image_norm(norm, wider)]
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
                reach = size + 2 * int(layer.padding[0]) - layer.kernel_size[0]
                size = reach // layer.stride[0] + 1
        return size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Judge images (B, in_channels, H, W); returns (B, 1, h, w), no sigmoid applied."""
        smallest = min(x.shape[-2:])
        if self.output_size(smallest) < 1:
            way_out = "use larger images or fewer layers"
            raise fail("n_layers", f"leave an output for {smallest} px", self.n_layers, way_out)
        return self.body(x)


class Maxout(nn.Module):
    """The largest of several linear maps, unit by unit.

    Args:
        before: Width of the input.
        after: Number of units.
        pieces: Linear maps per unit.
    """

    def __init__(self, before: int, after: int, pieces: int = 5) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(before, after * pieces)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, before) to (B, after)."""
        pieces = self.linear(x).unflatten(1, (self.pieces, -1))
        # As `amax`, whose way back takes several times as long; equally large pieces share alike.
        largest = pieces.detach().amax(1, keepdim=True)
        share = torch.eq(pieces.detach(), largest, out=torch.empty_like(pieces))
        return (pieces * (share / share.sum(1, keepdim=True))).sum(1)


class MinibatchDiscrimination(nn.Module):
    """Append to each sample how close the others of its batch are.

    With M_i = f_i T, a matrix of `kernels` rows, row i gains for each row b of M the number
    ``sum over j != i of exp(-|M_ib - M_jb|_1)``. Real and generated batches go through separately.

    Args:
        features: Width of the input.
        kernels: Numbers appended, B.
        kernel_dim: Length of a row of M, C.

    References:
        T. Salimans et al., "Improved techniques for training GANs", 2016, section 3.2.
    """

    def __init__(self, features: int, kernels: int = 20, kernel_dim: int = 5) -> None:
        super().__init__()
        self.kernels = integer("kernels", kernels)
        self.kernel_dim = integer("kernel_dim", kernel_dim)
        self.linear = nn.Linear(features, kernels * kernel_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, features) to (B, features + kernels)."""
        rows = self.linear(x).view(len(x), self.kernels, self.kernel_dim).transpose(0, 1)
        distances = torch.cdist(rows, rows, p=1)  # (kernels, B, B)
        # A sample is at distance 0 from itself: subtracting its 1 leaves the others.
        return torch.cat([x, torch.exp(-distances).sum(2).T - 1], dim=1)


class MaxoutDiscriminator(nn.Module):
    """Three maxout layers and one score: the discriminator of the 2-D mixture experiments.

    405 201 parameters for 2-D samples; each further packed sample widens the first layer alone,
    by 2 000.

    Args:
        dim: Width of what is judged at once: of one sample or, joined by `aeot.gan.losses.pack`,
            of several; of sample and latent together for ALI.
        hidden: Units per layer.
        kernels: Numbers appended by minibatch discrimination before the score, 0 for none.

    Raises:
        ValueError: If a width is not a whole number in range.

    References:
        Z. Lin, A. Khetan, G. Fanti, S. Oh, "PacGAN: the power of two samples in generative
        adversarial networks", 2018, section 4.1.

    Example:
        >>> [sum(p.numel() for p in MaxoutDiscriminator(dim).parameters()) for dim in (2, 4)]
        [405201, 407201]
    """

    def __init__(self, dim: int, *, hidden: int = 200, kernels: int = 0) -> None:
        super().__init__()
        width, hidden = integer("dim", dim), integer("hidden", hidden)
        parts: list[nn.Module] = [Maxout(before, hidden) for before in (width, hidden, hidden)]
        if integer("kernels", kernels, minimum=0):
            parts.append(MinibatchDiscrimination(hidden, kernels))
        self.body = nn.Sequential(*parts, nn.Linear(hidden + kernels, 1))
        init_normal(self)

    def forward(self, x: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
        """Score (B, dim) samples, joined with further columns if given: (B,)."""
        return self.body(torch.cat([x, *beside], dim=1) if beside else x).squeeze(1)


class MLPCritic(nn.Module):
    """Three equal hidden layers and one score, no normalisation: the critic of WGAN-GP's toys.

    Args:
        dim: Width of the input; of sample and condition together for a conditional critic.
        hidden: Width of the hidden layers.
        leak: Slope of the units below zero: 0 for ReLU, 0.2 for the usual leaky one.

    Raises:
        ValueError: If a width is not a whole number >= 1.

    Example:
        >>> sum(p.numel() for p in MLPCritic(2).parameters())  # 2-512-512-512-1
        527361
    """

    def __init__(self, dim: int, *, hidden: int = 512, leak: float = 0.0) -> None:
        super().__init__()
        width, hidden = integer("dim", dim), integer("hidden", hidden)
        parts: list[nn.Module] = []
        for before in (width, hidden, hidden):
            parts += [nn.Linear(before, hidden), nn.LeakyReLU(leak)]
        self.body = nn.Sequential(*parts, nn.Linear(hidden, 1))
        init_he(self)

    def forward(self, x: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
        """Score (B, dim) samples, joined with further columns if given: (B,)."""
        return self.body(torch.cat([x, *beside], dim=1) if beside else x).squeeze(1)


class ImageDiscriminator(nn.Module):
    """The InfoGAN-style discriminator: one score per image, or per pack of images.

    Args:
        shape: (C, H, W) of one image, sides divisible by 4.
        packing: Images judged together, joined along the channels.
        batch_norm: Off for a critic with a gradient penalty.
        beside: Width of a vector judged together with the image, as in ALI; 0 for none.
        kernels: Numbers appended by minibatch discrimination before the score, 0 for none.

    Raises:
        ValueError: If the shape is no image shape with sides divisible by 4.

    References:
        M. Lucic, K. Kurach, M. Michalski, S. Gelly, O. Bousquet, "Are GANs created equal?", 2018.

    Example:
        >>> import torch
        >>> ImageDiscriminator((1, 28, 28))(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        packing: int = 1,
        *,
        batch_norm: bool = True,
        beside: int = 0,
        kernels: int = 0,
    ) -> None:
        super().__init__()
        wide = (shape[0] * integer("packing", packing), *shape[1:])
        trunk = DownTrunk(wide, 1, batch_norm=batch_norm)
        last = trunk[-1]
        assert isinstance(last, nn.Linear)
        self.trunk = nn.Sequential(*list(trunk)[:-1])
        width = last.in_features + integer("beside", beside, minimum=0)
        parts: list[nn.Module] = []
        if beside:
            parts += [nn.Linear(width, width), nn.LeakyReLU(0.2)]
        if integer("kernels", kernels, minimum=0):
            parts.append(MinibatchDiscrimination(width, kernels))
        self.head = nn.Sequential(*parts, nn.Linear(width + kernels, 1))
        init_normal(self.head)

    def forward(self, x: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
        """Score images (B, packing * C, H, W), with a vector each if there is one: (B,)."""
        return self.head(torch.cat([self.trunk(x), *beside], dim=1)).squeeze(1)
