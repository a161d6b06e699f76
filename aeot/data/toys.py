"""Two-dimensional sets with known modes or supports, in the scalings of published numbers."""

from __future__ import annotations

import math

import numpy as np
import torch

from aeot import _check
from aeot._environment import plain_torch
from aeot._rng import generator, stream_seed
from aeot.data.arrays import Dataset

_SPREAD = {  # name -> scaling -> (distance of the modes, standard deviation, divisor)
    "grid": {"raw": (2.0, 0.05, 1.0), "wgan-gp": (2.0, 0.05, 2.828)},
    "ring": {"raw": (1.0, 0.01, 1.0), "wgan-gp": (2.0, 0.02, 1.414)},
}
_BOXES = {  # name -> (low, high) of the left part and of the right one, divisor for unit variance
    "lines": (((-1.0, -1.0), (-1.0, 1.0)), ((1.0, -1.0), (1.0, 1.0)), math.sqrt(2 / 3)),
    "islands": (((-2.0, -0.5), (-1.0, 0.5)), ((1.0, -0.5), (2.0, 0.5)), math.sqrt(29 / 24)),
}


@plain_torch()
def toy(
    name: str,
    n: int = 100_000,
    *,
    scaling: str = "raw",
    balanced: bool = True,
    seed: int = 0,
) -> Dataset:
    """Draw one of the 2-D sets on which mode collapse and saturation are measured, or letters.

    Args:
        name: "grid" (25 Gaussians at {-4, -2, 0, 2, 4}^2, standard deviation 0.05), "ring"
            (8 Gaussians on a circle), "swissroll", "lines" (uniform on the segments {-1} x [-1, 1]
            and {1} x [-1, 1]), "islands" (uniform on two unit squares, centred at (-1.5, 0) and
            (1.5, 0): a gap of 2 between them) or "letters" (uniform on each of a, e, o and t, one
            high, three of them with a hole; for pictures).
        n: Number of points.
        scaling: "raw": the units of Lin et al. (ring: radius 1, standard deviation 0.01).
            "wgan-gp": those of Gulrajani et al.: the grid divided by 2.828, the ring of radius 2
            and standard deviation 0.02 divided by 1.414, the roll divided by 7.5. For grid and
            ring that makes the variance of an axis 1; lines and islands are divided by
            sqrt(2 / 3) and sqrt(29 / 24), which makes it 1 on the mean over the axes. Letters have
            "raw" alone.
        balanced: Give every mode, line, island or letter the same number of points, up to one; else
            they are drawn.
        seed: Of the points and their order.

    Returns:
        A data set of vectors (2,). ``labels`` are the modes; ``info`` holds ``modes`` (k, 2),
        ``std`` per axis and ``scale``, the factor applied, all in the units of the points. Lines
        and islands have ``low`` and ``high`` (2, 2) in place of modes: the corners of their two
        supports, left and right. Letters have labels only, the roll not even those.

    Raises:
        ValueError: For an unknown name or scaling.

    References:
        Lin, Khetan, Fanti, Oh, PacGAN, 2018, section 4. Gulrajani, Ahmed, Arjovsky, Dumoulin,
        Courville, Improved training of Wasserstein GANs, 2017, section 5. Arjovsky, Chintala,
        Bottou, Wasserstein GAN, 2017, example 1, for the lines.

    Example:
        >>> data = toy("grid", 50)
        >>> data.labels.bincount().tolist() == [2] * 25
        True
        >>> data.info["modes"].shape, data.info["std"], data.info["scale"]
        (torch.Size([25, 2]), 0.05, 1.0)
    """
    _check.choice("name", name, [*_SPREAD, "swissroll", *_BOXES, "letters"])
    balanced = _check.flag("balanced", balanced)
    _check.choice("scaling", scaling, ["raw"] if name == "letters" else ["raw", "wgan-gp"])
    n, seed = _check.rows("n", n, 2), _check.seed("seed", seed)
    if name == "swissroll":
        return _roll(n, scaling, seed)
    if name == "letters":
        return _letters(n, balanced, seed)
    if name in _BOXES:
        return _boxes(name, n, scaling, balanced, seed)
    distance, std, divisor = _SPREAD[name][scaling]
    if name == "grid":
        axis = torch.arange(-2, 3, dtype=torch.float64) * distance
        modes = torch.cartesian_prod(axis, axis)
    else:
        angles = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        modes = distance * torch.stack([angles.cos(), angles.sin()], dim=1)
    draw = generator(seed, "toy", name)
    k = len(modes)
    labels = _labels(n, k, balanced, draw)
    noise = torch.randn(n, 2, generator=draw, dtype=torch.float64)
    points = (modes[labels] + std * noise) / divisor
    info = {"modes": modes / divisor, "std": std / divisor, "scale": 1 / divisor}
    classes = tuple(f"mode {i}" for i in range(k))
    return Dataset(points.float(), f"{name} ({scaling})", labels, classes, info)


def _labels(n: int, k: int, balanced: bool, draw: torch.Generator) -> torch.Tensor:
    if balanced:
        return (torch.arange(n) % k)[torch.randperm(n, generator=draw)]
    return torch.randint(k, (n,), generator=draw)


def _boxes(name: str, n: int, scaling: str, balanced: bool, seed: int) -> Dataset:
    *corners, divisor = _BOXES[name]
    divisor = divisor if scaling == "wgan-gp" else 1.0
    low, high = torch.tensor(corners, dtype=torch.float64).unbind(1)  # each (2, 2)
    low, high = low / divisor, high / divisor
    draw = generator(seed, "toy", name)
    labels = _labels(n, 2, balanced, draw)
    share = torch.rand(n, 2, generator=draw, dtype=torch.float64)
    points = torch.lerp(low[labels], high[labels], share)
    info = {"low": low, "high": high, "scale": 1 / divisor}
    return Dataset(points.float(), f"{name} ({scaling})", labels, ("left", "right"), info)


def _roll(n: int, scaling: str, seed: int) -> Dataset:
    # The roll of scikit-learn with noise 0.25, seen along its axis.
    draw = np.random.default_rng(stream_seed(seed, "toy", "swissroll"))
    turn = 1.5 * np.pi * (1 + 2 * draw.random(n))
    points = np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=1)
    points += 0.25 * draw.standard_normal((n, 2))
    divisor = 7.5 if scaling == "wgan-gp" else 1.0
    values = torch.from_numpy(points / divisor).float()
    return Dataset(values, f"swissroll ({scaling})", info={"scale": 1 / divisor})


def _letters(n: int, balanced: bool, seed: int) -> Dataset:
    draw = generator(seed, "toy", "letters")
    labels = _labels(n, 4, balanced, draw)
    points = torch.zeros(n, 2, dtype=torch.float64)
    left = torch.ones(n, dtype=torch.bool)
    while left.any():  # a third of the box is ink
        x, y = (torch.rand(n, 2, generator=draw, dtype=torch.float64) * 1.25).unbind(1)
        ring = ((x - 0.5).hypot(y - 0.5) - 0.4).abs() < 0.1
        stem = (x - 0.9).abs() < 0.1
        bar = ((y - 0.5).abs() < 0.09) & ((x - 0.5).abs() < 0.4)
        mouth = (x > 0.5) & (y > 0.22) & (y < 0.5)
        a = ring | (stem & (y < 1))
        t = ((x - 0.4).abs() < 0.1) | ((y - 0.9).abs() < 0.1) & (x < 0.8)
        t |= (y < 0.2) & (x > 0.4) & (x < 0.8)
        ink = torch.stack([a, bar | (ring & ~mouth), ring, t])[labels, torch.arange(n)]
        points[ink & left] = torch.stack([x + 1.45 * labels, y], 1)[ink & left]
        left &= ~ink
    return Dataset(points.float(), "letters (raw)", labels, tuple("aeot"), {"scale": 1.0})
