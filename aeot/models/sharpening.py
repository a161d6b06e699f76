"""Sharpening: decoded images are given the power spectrum of the data.

A code of few numbers does not say where every fold and button is. The squared error is least for
the mean of all images that share a code. What the mean lacks is uncorrelated with it, so at every
frequency the power of images is that of their means plus that of the missing details: decoded
images are blurred by a known amount. Of all maps that mend this the one that changes least is the
optimal transport map between stationary Gaussian laws of the two spectra, a filter without phase
whose gain is the root of the ratio of powers.

References:
    Y. Blau, T. Michaeli, "The perception-distortion tradeoff", 2018: no decoder has both the least
    error and images distributed as the data are. G.-S. Xia, S. Ferradans, G. Peyre, J.-F. Aujol,
    "Synthesizing and mixing stationary Gaussian texture models", 2014, for the map.
"""

from __future__ import annotations

import torch

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import in_parts, plain_torch

LIMIT = 2.0  # no frequency is amplified more: what is nearly lost cannot be brought back
_BLOCK = 500  # images at a time bound the memory


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


@plain_torch()
def sharpen(images: ArrayLike, gain: ArrayLike) -> torch.Tensor:
    """Amplify the frequencies of images by a gain, and clip to [-1, 1].

    Args:
        images: (n, C, H, W) in [-1, 1].
        gain: From `spectral_gain`, for images of this shape.

    Returns:
        (n, C, H, W) in [-1, 1].
    """
    images, gain = _check.array("images", images), _check.array("gain", gain)
    height, width = images.shape[2:]
    whole = (2 * height, 2 * width)

    def sharpened(part: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(_mirrored(part)) * gain.to(part)
        return torch.fft.irfft2(spectrum, s=whole)[..., :height, :width]

    return torch.cat([in_parts(sharpened, p) for p in images.split(_BLOCK)]).clamp_(-1, 1)


def _mirrored(images: torch.Tensor) -> torch.Tensor:
    images = torch.cat([images, images.flip(-1)], dim=-1)
    return torch.cat([images, images.flip(-2)], dim=-2)


def _power(images: torch.Tensor) -> torch.Tensor:
    """Mean power of each frequency, (C, 2 H, W + 1)."""
    return sum(
        torch.fft.rfft2(_mirrored(part.double())).abs().square().sum(0)
        for part in images.split(_BLOCK)
    ) / len(images)
