"""Sharpening: decoded images are given the power spectrum of the data.

A code of few numbers does not say where every fold and button is. The squared error is least for
the mean of all images that share a code. What the mean lacks is uncorrelated with it, so at every
frequency the power of images is that of their means plus that of the missing details: decoded
images are blurred by a known amount. Of all maps that mend this the one that changes least is the
optimal transport map between stationary Gaussian laws of the two spectra, a filter without phase
whose gain is the root of the ratio of powers.

A filter acts everywhere, and where an image is flat all it can add is speckle. So what it adds is
taken in full where a decoded image varies much around a pixel, and fades where it varies little;
how little is chosen on images that the autoencoder was not trained on, such that flat areas stay as
flat as they were decoded.

References:
    Y. Blau, T. Michaeli, "The perception-distortion tradeoff", 2018: no decoder has both the least
    error and images distributed as the data are. G.-S. Xia, S. Ferradans, G. Peyre, J.-F. Aujol,
    "Synthesizing and mixing stationary Gaussian texture models", 2014, for the map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import in_parts, plain_torch

FLAT = 0.25  # share of pixels, those with the least variance around them, that count as flat
RISE = 1.05  # of the squared error there that sharpening may cause
LIMIT = 2.0  # no frequency is amplified more: what is nearly lost cannot be brought back
_NUMBERS = 1 << 21  # in images that are looked at together, which bounds the memory


@plain_torch()
def spectral_gain(images: ArrayLike, decoded: ArrayLike) -> torch.Tensor:
    """Return how much each frequency of decoded images must be amplified.

    Images are continued by their mirror images, so that borders are no edges.

    Args:
        images: (n, C, H, W).
        decoded: The same images, encoded and decoded.

    Returns:
        Gains (C, 2 H, W + 1), float32, from 1 to 2, for `sharpen`.

    Raises:
        ValueError: If the shapes differ or are not those of images.

    Example:
        >>> x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> gain = spectral_gain(x, 0.8 * x)
        >>> bool((gain[:, :8, :8] - 1.25).abs().max() < 1e-5)
        True
    """
    images, decoded = _check.array("images", images), _check.array("decoded", decoded)
    for name, value in (("images", images), ("decoded", decoded)):
        if value.ndim != 4 or not len(value):
            raise _check.fail(name, "have shape (n, C, H, W)", str(tuple(value.shape)))
    if images.shape != decoded.shape:
        got = str(tuple(decoded.shape))
        raise _check.fail("decoded", f"have shape {tuple(images.shape)}", got)
    wanted, found = _power(images), _power(decoded)
    # Mirrored images have no power at the highest frequency; of 0 / 0 nothing is asked.
    faint = found <= 1e-12 * found.amax(dim=(1, 2), keepdim=True)
    ratio = torch.where(faint, 1.0, wanted / found.clamp(min=1e-300))
    return ratio.sqrt().clamp(1, LIMIT).float()


class Sharpening(NamedTuple):
    """What sharpening does to decoded images of known originals; errors in [0, 1] units.

    Attributes:
        floor: Local variance of an image in [-1, 1] at which half of it is taken, for `sharpen`;
            1e9 where none could be.
        limited: Share of frequencies that would need more than the limit of the gain.
        error: Mean squared error before, and after.
        flat_error: The same where the originals vary least.
    """

    floor: float
    limited: float
    error: tuple[float, float]
    flat_error: tuple[float, float]


@plain_torch()
def choose_floor(images: ArrayLike, decoded: ArrayLike, gain: ArrayLike) -> Sharpening:
    """Find how flat an image must be around a pixel to be left as it is there.

    Args:
        images: Originals (n, C, H, W) in [-1, 1], best such that the decoder does not know.
        decoded: The same, encoded and decoded.
        gain: From `spectral_gain`.

    Returns:
        The least floor with which the squared error in flat areas rises by at most 5 %, and what
        comes of it.

    Example:
        >>> x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> choose_floor(x, 0.8 * x, spectral_gain(x, 0.8 * x)).floor
        0.0
    """
    images, decoded = _check.array("images", images), _check.array("decoded", decoded)
    added = sharpen(decoded, gain) - decoded
    texture = _texture(decoded)
    variance = _local_variance(images)
    flat = (
        variance <= variance.flatten().kthvalue(max(1, int(FLAT * variance.numel())))[0]
    ).expand(decoded.shape)
    off = (decoded - images).double()

    def errors(floor: float) -> tuple[float, float]:
        square = (off + added * _share(texture, floor)).square() / 4
        return float(square.mean()), float(square[flat].mean())

    before = errors(1e9)
    floors = [0.0, *(10 ** (k / 4) for k in range(-24, 5)), 1e9]
    for floor in floors:
        after = errors(floor)
        if after[1] <= RISE * before[1]:
            break
    gain = _check.array("gain", gain)
    limited = float((gain >= LIMIT).double().mean())
    return Sharpening(floor, limited, (before[0], after[0]), (before[1], after[1]))


@plain_torch()
def sharpen(images: ArrayLike, gain: ArrayLike, floor: float = 0.0) -> torch.Tensor:
    """Amplify the frequencies of images by a gain, except where they are flat; clip to [-1, 1].

    Args:
        images: (n, C, H, W) in [-1, 1].
        gain: From `spectral_gain`, for images of this shape.
        floor: Of what the gain adds, the share v^2 / (v^2 + floor^2) is taken, with v the variance
            in 5x5 pixels, the least of those around each of the 3x3 nearest; 0: all of it.

    Returns:
        (n, C, H, W) in [-1, 1].
    """
    images, gain = _check.array("images", images), _check.array("gain", gain)
    height, width = images.shape[2:]
    whole = (2 * height, 2 * width)

    def sharpened(part: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(_mirrored(part)) * gain.to(part)
        sharp = torch.fft.irfft2(spectrum, s=whole)[..., :height, :width]
        if floor == 0:
            return sharp
        return part + (sharp.clamp(-1, 1) - part) * _share(_texture(part), floor)

    return torch.cat([in_parts(sharpened, part) for part in _parts(images)]).clamp_(-1, 1)


def _share(texture: torch.Tensor, floor: float) -> torch.Tensor:
    if floor == 0:
        return torch.ones_like(texture)
    square = texture.square()
    return square / (square + floor**2)


def _texture(images: torch.Tensor) -> torch.Tensor:
    """The local variance, where what is beside an edge counts as flat, (n, 1, H, W)."""
    return -F.max_pool2d(-_local_variance(images), 3, 1, 1)


def _local_variance(images: torch.Tensor) -> torch.Tensor:
    """Mean over channels of the variance in the 5x5 pixels around each, (n, 1, H, W)."""
    near = min(2, *(side - 1 for side in images.shape[2:]))
    padded = F.pad(images, [near] * 4, mode="reflect") if near else images
    mean = F.avg_pool2d(padded, 2 * near + 1, 1)
    square = F.avg_pool2d(padded.square(), 2 * near + 1, 1)
    return (square - mean.square()).clamp_(min=0).mean(1, keepdim=True)


def _parts(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return images.split(max(1, min(500, _NUMBERS // images[0].numel())))


def _mirrored(images: torch.Tensor) -> torch.Tensor:
    images = torch.cat([images, images.flip(-1)], dim=-1)
    return torch.cat([images, images.flip(-2)], dim=-2)


def _power(images: torch.Tensor) -> torch.Tensor:
    """Mean power of each frequency, (C, 2 H, W + 1)."""
    return sum(
        torch.fft.rfft2(_mirrored(part.double())).abs().square().sum(0) for part in _parts(images)
    ) / len(images)
