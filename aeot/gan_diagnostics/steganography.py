"""Does a translator hide its input inside its output?

A cycle that must return what it was given can be closed honestly, or by writing the input in
faint detail that nobody sees and the way back reads. The instruments here disturb the detail and
watch the way back. Two hand-made pairs with known answers calibrate them: `cheating_pair`, which
hides everything, and `linear_pair`, which hides nothing.

In all of them `to_b` and `to_a` are functions from images to images (B, C, H, W) in [-1, 1], and
errors are means over pixels of squares, in those units.

References:
    C. Chu, A. Zhmoginov, M. Sandler, "CycleGAN, a master of steganography", 2017.
    D. Bashkirova, B. Usman, K. Saenko, "Adversarial self-defense for cycle-consistent GANs", 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from aeot import _check
from aeot._check import fail
from aeot._environment import plain_torch
from aeot._rng import generator
from aeot.data import filters

Translator = Callable[[torch.Tensor], torch.Tensor]


def _called(name: str, function: Translator, images: torch.Tensor) -> torch.Tensor:
    """Return what a translator makes of images, or say whose answer is none."""
    _check.function(name, function, f"{name}(images)")
    return _check.images(f"{name}(images)", function(images))


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).square().mean())


@plain_torch(grad=False)
def sensitivity(
    to_b: Translator,
    to_a: Translator,
    x: torch.Tensor,
    *,
    levels: Sequence[float] = (1, 2, 3, 4, 5, 6, 7, 8),
    seed: int = 0,
) -> dict[str, list[float] | float]:
    """Measure how far noise on the translation moves the way back.

    Args:
        to_b: The translation.
        to_a: The way back.
        x: (B, C, H, W) images of domain A.
        levels: Standard deviations of the noise in 8-bit levels (1 is 2/255 in [-1, 1]), rising.
        seed: Fixes the noise.

    Returns:
        ``levels``; ``curve``, the mean over pixels of ``|to_a(to_b(x) + noise) - to_a(to_b(x))|^2``
        for each; ``integral``, the area under that curve over the levels (trapezoids, from 0 at
        level 0). For a linear way back the curve is |matrix|_F^2 sigma^2 / pixels.

    Raises:
        ValueError: If `x` holds no images, a translator makes none of them, or levels do not rise.

    References:
        Bashkirova, Usman, Saenko 2019, "sensitivity to noise".
    """
    levels = _check.array("levels", levels).flatten().tolist()
    _check.seed("seed", seed)
    steps = zip((0, *levels), levels, strict=False)
    if not levels or any(second <= first for first, second in steps):
        raise fail("levels", "rise from above 0", _check.shown(levels), "sort them")
    y = _called("to_b", to_b, _check.images("x", x))
    back = _called("to_a", to_a, y)
    stream = generator(seed, "sensitivity")
    noise = torch.randn(y.shape, generator=stream).to(y)  # the same shape of noise at every level
    curve = [_error(to_a(y + level * filters.STEP * noise), back) for level in levels]
    grid = torch.tensor([0.0, *levels], dtype=torch.float64)
    area = torch.trapezoid(torch.tensor([0.0, *curve], dtype=torch.float64), grid)
    return {"levels": [float(v) for v in levels], "curve": curve, "integral": float(area)}


@plain_torch(grad=False)
def drops(
    to_b: Translator,
    to_a: Translator,
    x: torch.Tensor,
    *,
    quality: int = 90,
    sigma: float = 1.0,
) -> dict[str, float]:
    """Measure the cycle error after what ordinary handling does to the translated image.

    Args:
        to_b: The translation.
        to_a: The way back.
        x: (B, C, H, W) images of domain A.
        quality: Of the JPEG files.
        sigma: Of the blur, in pixels.

    Returns:
        The cycle error ``clean``, after rounding to ``8-bit``, through ``jpeg`` and after a
        ``blur``; and ``chance``, the error of answering with the mean image.

    Raises:
        ValueError: If `x` holds no images, a translator makes none of them, or `quality` or `sigma`
            is out of range.
    """
    x = _check.images("x", x)
    y = _called("to_b", to_b, x)
    handled = {
        "clean": y,
        "8-bit": filters.quantise(y),
        "jpeg": filters.jpeg(y, quality),
        "blur": filters.blur(y, sigma),
    }
    errors = {name: _error(_called("to_a", to_a, image), x) for name, image in handled.items()}
    return errors | {"chance": _error(x, x.mean(dim=0, keepdim=True))}


@plain_torch(grad=False)
def honesty(
    to_b: Translator, to_a: Translator, x: torch.Tensor, y: torch.Tensor
) -> dict[str, float]:
    """Compare the way back from a real partner with the way back from a translation.

    A way back that needs what the translation hid does well on its own translations and badly on
    real images of the other domain.

    Args:
        to_b: The translation.
        to_a: The way back.
        x: (B, C, H, W) images of domain A.
        y: Their true partners in domain B.

    Returns:
        ``real``, the error of ``to_a(y)``; ``cycle``, the error of ``to_a(to_b(x))``; and ``gap``,
        the first minus the second.

    Raises:
        ValueError: If the two are not paired.
    """
    x, y = _check.images("x", x), _check.images("y", y)
    if len(x) != len(y):
        raise fail("y", f"hold the {len(x)} partners of x", len(y))
    real = _error(_called("to_a", to_a, y), x)
    cycle = _error(_called("to_a", to_a, _called("to_b", to_b, x)), x)
    return {"real": real, "cycle": cycle, "gap": real - cycle}


@plain_torch(grad=False)
def low_pass_curve(
    to_b: Translator,
    to_a: Translator,
    x: torch.Tensor,
    *,
    cutoffs: Sequence[float] = (0.71, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05),
) -> dict[str, list[float]]:
    """Measure the cycle error against the finest detail left in the translation.

    Args:
        to_b: The translation.
        to_a: The way back.
        x: (B, C, H, W) images of domain A.
        cutoffs: Radial frequencies in cycles per pixel; 0.71 keeps everything.

    Returns:
        ``cutoffs``; ``cycle``, the errors; ``direct``, for scale, the error of filtering x itself.

    Raises:
        ValueError: If `x` holds no images, a translator makes none of them, or a cutoff is
            negative.
    """
    cutoffs = _check.array("cutoffs", cutoffs).flatten().tolist()
    if not cutoffs or min(cutoffs) < 0:
        raise fail("cutoffs", "be numbers >= 0", _check.shown(cutoffs))
    x = _check.images("x", x)
    y = _called("to_b", to_b, x)
    return {
        "cutoffs": cutoffs,
        "cycle": [_error(_called("to_a", to_a, filters.low_pass(y, c)), x) for c in cutoffs],
        "direct": [_error(filters.low_pass(x, c), x) for c in cutoffs],
    }


@plain_torch(grad=False)
def swap(
    to_b: Translator,
    to_a: Translator,
    x: torch.Tensor,
    other: torch.Tensor,
    *,
    cutoff: float = 0.25,
) -> dict[str, float]:
    """Give one translation the fine detail of another: whose image comes back?

    Args:
        to_b: The translation.
        to_a: The way back.
        x: (B, C, H, W) images whose translations lend their fine detail.
        other: (B, C, H, W) images whose translations lend everything else.
        cutoff: What is fine: above this radial frequency, in cycles per pixel.

    Returns:
        ``detail``, the error against `x`; ``visible``, the error against `other`; and ``leak``,
        the second over the sum of both: 0 when what can be seen decides, 1 when the detail does.

    Raises:
        ValueError: If the two differ in shape.
    """
    x, other = _check.images("x", x), _check.images("other", other)
    _check.real("cutoff", cutoff, minimum=0)
    if x.shape != other.shape:
        raise fail("other", f"have the shape of x, {tuple(x.shape)}", tuple(other.shape))
    lender, base = _called("to_b", to_b, x), _called("to_b", to_b, other)
    hybrid = filters.low_pass(base, cutoff) + lender - filters.low_pass(lender, cutoff)
    back = _called("to_a", to_a, hybrid)
    detail, visible = _error(back, x), _error(back, other)
    return {"detail": detail, "visible": visible, "leak": visible / max(detail + visible, 1e-30)}


@plain_torch()
def examine(
    to_b: Translator,
    to_a: Translator,
    x: torch.Tensor,
    *,
    partners: torch.Tensor | None = None,
    cutoff: float = 0.25,
    seed: int = 0,
) -> dict[str, object]:
    """Run the whole suite on images of domain A.

    Args:
        to_b: The translation.
        to_a: The way back.
        x: (B, C, H, W) images of domain A, at least two.
        partners: Their true partners in domain B, for `honesty`; None to leave it out.
        cutoff: Of the swap test, in cycles per pixel.
        seed: Fixes the noise.

    Returns:
        One entry each of plain numbers: ``drops``, ``sensitivity``, ``low_pass``, ``swap`` and,
        with partners, ``honesty``.

    Raises:
        ValueError: If there are fewer than two images, partners are not as many, or a translator
            makes no images of them.
    """
    x = _check.images("x", x, minimum=2)
    if partners is not None:
        partners = _check.images("partners", partners)
        if len(partners) != len(x):
            raise fail("partners", f"be as many as the {len(x)} images of x", len(partners))
    _check.real("cutoff", cutoff, minimum=0)
    _check.seed("seed", seed)
    result = {
        "drops": drops(to_b, to_a, x),
        "sensitivity": sensitivity(to_b, to_a, x, seed=seed),
        "low_pass": low_pass_curve(to_b, to_a, x),
        "swap": swap(to_b, to_a, x, x.roll(1, dims=0), cutoff=cutoff),
    }
    if partners is not None:
        result["honesty"] = honesty(to_b, to_a, x, partners)
    return result


@plain_torch()
def cheating_pair(amplitude: float = 0.5) -> tuple[Translator, Translator]:
    """Build the pair that cheats perfectly: a flat grey image with everything written underneath.

    The translation adds to grey the image, its signs flipped like a checkerboard, at `amplitude`
    times half an 8-bit level; the way back divides by that. Known answers for an image x, with
    q the mean of x^2: cycle error 0; after rounding to 8 bits q; sensitivity at one level and
    above 1 / (3 amplitude^2) + q; for x without frequencies above 1/8, the cycle error behind a
    low-pass at 0.25 is q, and the swap test returns the image that lent its detail.

    Args:
        amplitude: In (0, 1): below 1 so that rounding leaves nothing.

    Returns:
        `to_b` and `to_a`; use float64 images for the cycle error to be zero to 1e-10.

    Raises:
        ValueError: If the amplitude is not between 0 and 1.
    """
    amplitude = _check.real("amplitude", amplitude, above=0, maximum=1)
    scale = amplitude * filters.STEP / 2
    grey = 127 * filters.STEP - 1  # on the grid of 8-bit levels

    def checkerboard(images: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(images.shape[-2], device=images.device)
        columns = torch.arange(images.shape[-1], device=images.device)
        return (1 - 2 * ((rows[:, None] + columns) % 2)).to(images.dtype)

    def to_b(images: torch.Tensor) -> torch.Tensor:
        return grey + scale * checkerboard(images) * images

    def to_a(images: torch.Tensor) -> torch.Tensor:
        levels = (images - grey) / filters.STEP
        return (levels - levels.round()) * filters.STEP / scale * checkerboard(images)

    return to_b, to_a


@plain_torch()
def linear_pair(matrix: torch.Tensor) -> tuple[Translator, Translator]:
    """Build an honest pair: an invertible linear map of the flattened image, and its inverse.

    Args:
        matrix: (D, D) with D = C H W, invertible.

    Returns:
        `to_b` and `to_a`. The sensitivity of `to_a` is |matrix^-1|_F^2 sigma^2 / D.

    Raises:
        ValueError: If the matrix is not square or has no inverse.
    """
    matrix = _check.points("matrix", matrix)
    if len(matrix) != matrix.shape[1] or float(torch.linalg.det(matrix)) == 0:
        got = f"one of shape {tuple(matrix.shape)}"
        raise fail("matrix", "be square and have an inverse", got)

    def times(factor: torch.Tensor) -> Translator:
        return lambda images: (images.flatten(1) @ factor.T.to(images)).view_as(images)

    return times(matrix), times(torch.linalg.inv(matrix))
