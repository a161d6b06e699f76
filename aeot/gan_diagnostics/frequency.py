"""Errors and power by spatial frequency: structure is coarse, texture is fine; contrast.

A patch discriminator judges texture up to its receptive field and is blind to anything larger, so
its depth trades one against the other; these functions put numbers on both sides.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from aeot import _check
from aeot._check import ArrayLike, fail, real
from aeot._environment import plain_torch
from aeot.data.filters import radial_frequency


def _band_energy(images: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    # Mean square per pixel in each band: by Parseval the bands sum to the mean square.
    height, width = images.shape[-2:]
    spectrum = torch.fft.rfft2(images.double()).abs().square()
    # rfft2 drops the mirror half: all columns stand for two but the first and, if even, the last.
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    power = spectrum.mean(dim=(0, 1)).cpu() * twice / (height * width) ** 2
    band = torch.bucketize(radial_frequency(height, width).flatten(), edges[1:-1] + 1e-12)
    return torch.zeros(len(edges) - 1, dtype=torch.float64).index_add(0, band, power.flatten())


@plain_torch()
def spectrum(images: ArrayLike, *, n_bands: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the mean square of images by radial frequency.

    Args:
        images: (B, C, H, W).
        n_bands: Bands of equal width from 0 to sqrt(0.5) cycles per pixel; the last is closed.

    Returns:
        The centres of the bands (n_bands,) in cycles per pixel, and the mean square per pixel in
        each (n_bands,), float64; the latter sums to ``images.square().mean()``.

    Raises:
        ValueError: If there are no images, or bands without number.

    References:
        Parseval's identity for the discrete Fourier transform.
    """
    n_bands = _check.rows("n_bands", n_bands, 4, way_out="choose fewer")
    edges = torch.linspace(0, 0.5**0.5, n_bands + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2, _band_energy(_check.images("images", images), edges)


@plain_torch()
def error_split(output: ArrayLike, target: ArrayLike, *, cutoff: float = 0.125) -> dict[str, float]:
    """Split the squared error of paired images into structure and texture.

    Args:
        output: (B, C, H, W), what a translator made.
        target: (B, C, H, W), what it should have made.
        cutoff: Between the two, in cycles per pixel; 0.125 is a wavelength of eight pixels.

    Returns:
        ``structure`` and ``texture``, mean squares per pixel that sum to ``total``; and
        ``texture_power``, the energy of the output above the cutoff over that of the target: 1 for
        the right amount of detail wherever it sits, near 0 for blurred outputs.

    Raises:
        ValueError: If the shapes differ or the cutoff is not in (0, 0.7).
    """
    output, target = _check.images("output", output), _check.images("target", target)
    if output.shape != target.shape:
        got = f"{tuple(target.shape)}"
        raise fail("target", f"have the shape of output, {tuple(output.shape)}", got)
    cutoff = real("cutoff", cutoff, above=0, maximum=0.7)
    edges = torch.tensor([0, cutoff, 1], dtype=torch.float64)
    low, high = _band_energy(output - target, edges).tolist()
    made, wanted = (float(_band_energy(images, edges)[1]) for images in (output, target))
    power = made / max(wanted, 1e-30)
    return {"structure": low, "texture": high, "total": low + high, "texture_power": power}


@plain_torch(grad=False)
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

    Raises:
        ValueError: If `x` holds no images, an argument is no number, or nothing is changed.
    """
    _check.function("function", function, "function(images)")
    x = _check.images("x", x)
    gain, offset = real("gain", gain), real("offset", offset)
    changed = gain * x + offset
    if torch.equal(changed, x):
        must = "change the images, together with offset"
        raise fail("gain", must, f"{gain:g}, and offset {offset:g}", "choose another gain")
    moved = (function(changed) - function(x)).double().square().mean().sqrt()
    return float(moved / (changed - x).double().square().mean().sqrt())


@plain_torch()
def checkerboard(images: ArrayLike, *, stride: int = 2) -> float:
    """Measure the pattern that strided transposed convolutions leave: pixels differ by their place.

    What a pixel differs by from the mean of its four neighbours is averaged over all pixels whose
    row and column agree modulo `stride`: whatever the images show, these means should agree.

    Args:
        images: (B, C, H, W), sides at least 2 + 2 `stride`.
        stride: Of the network's last up-sampling.

    Returns:
        The spread of these means in each image, over the root mean square of the differences
        themselves: 1 for a pure checkerboard, about (number of pixels)^(-1/2) where there is none.

    Raises:
        ValueError: If there are no images, they are too small, or `stride` is below 2.

    References:
        A. Odena, V. Dumoulin, C. Olah, "Deconvolution and checkerboard artifacts", 2016.

    Example:
        >>> import torch
        >>> board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
        >>> checkerboard(board[None, None] * 2.0 - 1)
        1.0
    """
    stride = _check.integer("stride", stride, minimum=2)
    x = _check.images("images", images).detach().double()
    around = (x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]) / 4
    away = x[..., 1:-1, 1:-1] - around
    height, width = (side // stride * stride for side in away.shape[-2:])
    if min(height, width) < 2 * stride:
        got = f"{x.shape[-2]} x {x.shape[-1]}"
        raise fail("images", f"have sides >= {2 + 2 * stride} for stride {stride}", got)
    away = away[..., :height, :width]
    tiles = away.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))  # (B, C, h, s, w, s)
    spread = tiles.mean((2, 4)).flatten(2).var(2, correction=0).mean()
    return float((spread / away.square().mean().clamp(min=1e-300)).sqrt())
