"""What happens to images on their way through the world: filtering, rounding, compression."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from aeot import _check
from aeot._check import ArrayLike, fail, integer, real
from aeot._environment import plain_torch

STEP = 2 / 255  # one 8-bit level, for images in [-1, 1]


@plain_torch()
def radial_frequency(height: int, width: int) -> torch.Tensor:
    """Distance from zero frequency of every coefficient of `torch.fft.rfft2`.

    Args:
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        (height, width // 2 + 1) in cycles per pixel: 0 is the mean, 0.5 an alternation along one
        axis, sqrt(0.5) a checkerboard.
    """
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)
    return torch.hypot(rows[:, None], columns[None, :])


@plain_torch()
def low_pass(images: ArrayLike, cutoff: float) -> torch.Tensor:
    """Remove every Fourier coefficient above a radial frequency.

    Args:
        images: (B, C, H, W).
        cutoff: In cycles per pixel; 0 leaves the mean, 0.71 and more leaves everything.

    Returns:
        The images without their fine detail, of the same shape and dtype. An orthogonal projection:
        filtering twice changes nothing, and what was removed is orthogonal to what stays.

    Raises:
        ValueError: If the cutoff is negative.
    """
    images, cutoff = _check.array("images", images), real("cutoff", cutoff, minimum=0)
    height, width = images.shape[-2:]
    keep = (radial_frequency(height, width) <= cutoff + 1e-12).to(images.device)
    spectrum = torch.fft.rfft2(images.double()) * keep
    return torch.fft.irfft2(spectrum, s=(height, width)).to(images.dtype)


@plain_torch()
def blur(images: ArrayLike, sigma: float) -> torch.Tensor:
    """Blur images (B, C, H, W) with a Gaussian of standard deviation `sigma` pixels."""
    images, sigma = _check.array("images", images), real("sigma", sigma, above=0)
    radius = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)  # reflection reaches no further
    grid = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(grid**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, [radius] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


@plain_torch()
def edges(images: ArrayLike, threshold: float = 1.5) -> torch.Tensor:
    """Draw white lines on black where the brightness changes fast.

    Args:
        images: (B, C, H, W) in [-1, 1]; channels are averaged.
        threshold: On the length of Sobel's gradient, which is four times the height of a step.

    Returns:
        (B, 1, H, W) of -1 and 1.

    Raises:
        ValueError: If the threshold is not positive.
    """
    images, threshold = _check.array("images", images), real("threshold", threshold, above=0)
    down = images.new_tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])[None, None]
    padded = F.pad(images.mean(dim=1, keepdim=True), [1] * 4, mode="replicate")
    slope = torch.hypot(F.conv2d(padded, down), F.conv2d(padded, down.transpose(2, 3)))
    return (slope > threshold).to(images.dtype) * 2 - 1


@plain_torch()
def quantise(images: ArrayLike, bits: int = 8) -> torch.Tensor:
    """Round images in [-1, 1] to 2**bits equally spaced levels, as saving them would."""
    images, levels = _check.array("images", images), 2 ** integer("bits", bits) - 1
    return ((images.clamp(-1, 1) + 1) * (levels / 2)).round() * (2 / levels) - 1


@plain_torch()
def jpeg(images: ArrayLike, quality: int = 90) -> torch.Tensor:
    """Write images as JPEG files and read them back.

    Args:
        images: (B, C, H, W) in [-1, 1] with one or three channels.
        quality: 1 to 95, as Pillow counts it.

    Returns:
        The images as a reader would see them.

    Raises:
        ValueError: If the channels are neither one nor three.
    """
    images, quality = _check.array("images", images), integer("quality", quality)
    if images.shape[1] not in (1, 3):
        raise fail("images", "have 1 or 3 channels", images.shape[1])
    levels = ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    seen = []
    for image in levels:
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
        array = torch.from_numpy(np.array(Image.open(file)))
        seen.append(array[None] if array.ndim == 2 else array.permute(2, 0, 1))
    return (torch.stack(seen).to(images) / 127.5) - 1
