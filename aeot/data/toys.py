"""Two-dimensional sets with known modes, in the two scalings under which numbers are published."""

from __future__ import annotations

import math

import numpy as np
import torch

from aeot import _check
from aeot._rng import generator, stream_seed
from aeot.data.arrays import Dataset

_SPREAD = {  # name -> scaling -> (distance of the modes, standard deviation, divisor)
    "grid": {"raw": (2.0, 0.05, 1.0), "wgan-gp": (2.0, 0.05, 2.828)},
    "ring": {"raw": (1.0, 0.01, 1.0), "wgan-gp": (2.0, 0.02, 1.414)},
}


def toy(
    name: str,
    n: int = 100_000,
    *,
    scaling: str = "raw",
    balanced: bool = True,
    seed: int = 0,
) -> Dataset:
    """Draw one of the 2-D sets on which mode collapse is measured.

    Args:
        name: "grid" (25 Gaussians at {-4, -2, 0, 2, 4}^2, standard deviation 0.05), "ring"
            (8 Gaussians on a circle) or "swissroll".
        n: Number of points.
        scaling: "raw": the units of Lin et al. (ring: radius 1, standard deviation 0.01).
            "wgan-gp": those of Gulrajani et al.: the grid divided by 2.828, the ring of radius 2
            and standard deviation 0.02 divided by 1.414, the roll divided by 7.5.
        balanced: Give every mode the same number of points, up to one; else modes are drawn.
        seed: Of the points and their order.

    Returns:
        A data set of vectors (2,). ``labels`` are the modes; ``info`` holds ``modes`` (k, 2),
        ``std`` per axis and ``scale``, the factor applied, all in the units of the points. The
        roll has neither modes nor labels.

    Raises:
        ValueError: For an unknown name or scaling.

    References:
        Lin, Khetan, Fanti, Oh, PacGAN, 2018, section 4. Gulrajani, Ahmed, Arjovsky, Dumoulin,
        Courville, Improved training of Wasserstein GANs, 2017, section 5.

    Example:
        >>> data = toy("grid", 50)
        >>> data.labels.bincount().tolist() == [2] * 25
        True
        >>> data.info["modes"].shape, data.info["std"], data.info["scale"]
        (torch.Size([25, 2]), 0.05, 1.0)
    """
    _check.choice("name", name, [*_SPREAD, "swissroll"])
    _check.choice("scaling", scaling, ["raw", "wgan-gp"])
    n, seed = _check.integer("n", n), _check.integer("seed", seed, minimum=0)
    if name == "swissroll":
        return _roll(n, scaling, seed)
    distance, std, divisor = _SPREAD[name][scaling]
    if name == "grid":
        axis = torch.arange(-2, 3, dtype=torch.float64) * distance
        modes = torch.cartesian_prod(axis, axis)
    else:
        angles = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        modes = distance * torch.stack([angles.cos(), angles.sin()], dim=1)
    draw = generator(seed, "toy", name)
    k = len(modes)
    if balanced:
        labels = (torch.arange(n) % k)[torch.randperm(n, generator=draw)]
    else:
        labels = torch.randint(k, (n,), generator=draw)
    noise = torch.randn(n, 2, generator=draw, dtype=torch.float64)
    points = (modes[labels] + std * noise) / divisor
    info = {"modes": modes / divisor, "std": std / divisor, "scale": 1 / divisor}
    classes = tuple(f"mode {i}" for i in range(k))
    return Dataset(points.float(), f"{name} ({scaling})", labels, classes, info)


def _roll(n: int, scaling: str, seed: int) -> Dataset:
    # The roll of scikit-learn with noise 0.25, seen along its axis.
    draw = np.random.default_rng(stream_seed(seed, "toy", "swissroll"))
    turn = 1.5 * np.pi * (1 + 2 * draw.random(n))
    points = np.stack([turn * np.cos(turn), turn * np.sin(turn)], axis=1)
    points += 0.25 * draw.standard_normal((n, 2))
    divisor = 7.5 if scaling == "wgan-gp" else 1.0
    values = torch.from_numpy(points / divisor).float()
    return Dataset(values, f"swissroll ({scaling})", info={"scale": 1 / divisor})
