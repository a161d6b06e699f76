"""Problems of `bench_transport.py hard`: everything that a transport solver stumbles over.

Each is a function of a random generator that returns source, sites (n, d) and masses, or None for
equal ones. The first is ordinary, for comparison.
"""

from __future__ import annotations

import numpy as np
import torch

from aeot import Empirical, Gaussian, GridDensity, Polygon, Sampler, UniformBox, generator


def _pairs(rng, eps, d, n=1000, copies=2):
    y = np.repeat(rng.normal(size=(n // copies, d)), copies, axis=0)
    return y + eps * rng.normal(size=y.shape)


def _curve(rng, d, n=1000):
    t, k = rng.uniform(0, 2 * np.pi, size=(n, 1)), rng.integers(1, 4, size=d)
    return np.sin(t * k + rng.uniform(0, 6, size=d)) * rng.normal(size=d)


def _scales(rng, near=0.05, tight=0.002, n=2100, d=5):
    wide, some, rest = rng.normal(size=(3, n // 3, d))
    return np.concatenate([wide, 4 + near * some, -4 + tight * rest])


def _moons(n, rng):
    t, upper = rng.uniform(0, np.pi, n), rng.integers(2, size=n)
    x = np.stack([np.cos(t) + 1.0 * upper - 0.5, np.sin(t) * (1 - 2 * upper) + 0.25 * upper], 1)
    return 2 * x + 0.1 * rng.normal(size=(n, 2))


def _eight(m, g):
    k = torch.randint(8, (m,), generator=g) * (2 * np.pi / 8)
    x = torch.stack([k.cos(), k.sin()], 1) * 4
    return x + 0.3 * torch.randn(m, 2, generator=g)


def _fading(least):
    t = np.linspace(-1, 1, 64)
    return GridDensity(least ** np.abs(t[:, None] * t), low=-1, high=1)


def _holes():
    picture = np.zeros((32, 32))
    picture[4:12, 4:28] = picture[20:28, 2:10] = picture[20:28, 22:30] = 1.0
    return GridDensity(picture)


def _star(points=7):
    t = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, 0.35, 1.0)
    return Polygon(np.stack([radius * np.cos(t), radius * np.sin(t)], 1))


def _far(rng, far, n=1000, d=8):
    return np.r_[rng.normal(size=(n - 1, d)), far * np.ones((1, d))]


HARD = {
    "ordinary": lambda r: (UniformBox(dim=6), r.normal(size=(1000, 6)), None),
    "pairs 1e-3": lambda r: (UniformBox(dim=6), _pairs(r, 1e-3, 6), None),
    "pairs 1e-4": lambda r: (UniformBox(dim=6), _pairs(r, 1e-4, 6), None),
    "pairs 1e-6": lambda r: (UniformBox(dim=6), _pairs(r, 1e-6, 6), None),
    "pairs 1e-6, d = 32": lambda r: (Gaussian(dim=32), _pairs(r, 1e-6, 32), None),
    "triples 1e-4": lambda r: (Gaussian(dim=6), _pairs(r, 1e-4, 6, 999, 3), None),
    "tens 1e-4": lambda r: (UniformBox(dim=8), _pairs(r, 1e-4, 8, 1000, 10), None),
    "a pair at 1e-9": lambda r: (
        UniformBox(dim=6),
        np.r_[y := r.normal(size=(999, 6)), y[:1] + 1e-9 * r.normal(size=(1, 6))],
        None,
    ),
    "sd 1 and 0.001": lambda r: (
        UniformBox(dim=8),
        np.r_[r.normal(size=(1000, 8)), 3 + 0.001 * r.normal(size=(1000, 8))],
        None,
    ),
    "sd 1, 0.05, 0.002": lambda r: (Gaussian(dim=5), _scales(r), None),
    "sd 1, 1e-2, 1e-4": lambda r: (UniformBox(dim=8), _scales(r, 1e-2, 1e-4, 900, 8), None),
    "outlier at 1e3": lambda r: (Gaussian(dim=8), _far(r, 1e3), None),
    "outlier at 1e6": lambda r: (UniformBox(dim=8), _far(r, 1e6), None),
    "outlier at 1e6, d = 3": lambda r: (Gaussian(dim=3), _far(r, 1e6, 2000, 3), None),
    "Cauchy": lambda r: (Gaussian(dim=8), r.standard_cauchy(size=(1500, 8)), None),
    "Cauchy, d = 4": lambda r: (UniformBox(dim=4), r.standard_cauchy(size=(500, 4)), None),
    "closed curve": lambda r: (UniformBox(dim=8), _curve(r, 8), None),
    "closed curve, d = 4": lambda r: (Gaussian(dim=4), _curve(r, 4, 500), None),
    "closed curve, d = 20": lambda r: (Gaussian(dim=20), _curve(r, 20, 2000), None),
    "line, d = 10": lambda r: (
        Gaussian(dim=10),
        np.outer(r.normal(size=400), r.normal(size=10)),
        None,
    ),
    "plane, d = 8": lambda r: (
        Gaussian(dim=8),
        r.normal(size=(500, 2)) @ r.normal(size=(2, 8)),
        None,
    ),
    "d = 1, exponential": lambda r: (
        Sampler(lambda m, g: torch.empty(m, 1).exponential_(generator=g), dim=1),
        r.normal(size=(5000, 1)),
        None,
    ),
    "8 Gaussians onto moons": lambda r: (Sampler(_eight, dim=2), _moons(500, r), None),
    "density down to 1e-8": lambda r: (_fading(1e-8), r.normal(size=(1000, 2)), None),
    "picture of three parts": lambda r: (_holes(), r.normal(size=(500, 2)), None),
    "star": lambda r: (_star(), r.normal(size=(1000, 2)), None),
    "source of condition 1e6": lambda r: (
        Gaussian(covariance=np.diag(np.geomspace(1, 1e-6, 8))),
        r.normal(size=(1000, 8)),
        None,
    ),
    "masses over 6 decades": lambda r: (
        UniformBox(dim=6),
        r.normal(size=(1000, 6)),
        10 ** r.uniform(-6, 0, 1000),
    ),
    "1000 points, 1000 sites": lambda r: (
        Empirical(r.normal(size=(1000, 8))),
        r.normal(size=(1000, 8)),
        None,
    ),
    "1500 points, masses": lambda r: (
        Empirical(r.normal(size=(1500, 4))),
        r.normal(size=(50, 4)),
        r.dirichlet(np.full(50, 2.0)) + 0.01,
    ),
}


def counted(source, sites, heights, masses, seed):
    """Total variation of the masses by all scores in float64, the count's noise taken off.

    Of a source of points all of them count, and there is no noise.
    """
    n, points = len(sites), isinstance(source, Empirical)
    y, nu = torch.from_numpy(sites), torch.from_numpy(masses)
    y = y - y.median(0).values  # moving all sites adds the same to all scores
    counts = torch.zeros(n, dtype=torch.int64)
    for block in range(-(-(len(source.points) if points else 120 * n) // 4096)):
        if points:
            x = source.points[4096 * block : 4096 * (block + 1)]
        else:
            x = source.sample(4096, generator=generator(seed, "hard", block))
        counts += (x.double() @ y.T + heights).argmax(1).bincount(minlength=n)
    m = int(counts.sum())
    tv = float((counts / m - nu).abs().sum()) / 2
    noise = 0.0 if points else float(nu.sqrt().sum()) / (2 * np.pi * m) ** 0.5
    return max(tv**2 - noise**2, 0.0) ** 0.5
