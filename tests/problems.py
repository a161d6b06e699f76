"""Problems whose solution is known by another route than the solver's."""

from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

import aeot
from aeot.measures import Gaussian, Measure, UniformBox


@dataclass(frozen=True)
class Problem:
    """A transport problem with the heights that solve it (mean zero)."""

    source: Measure
    sites: torch.Tensor
    masses: torch.Tensor
    heights: torch.Tensor


def centered(heights):
    return heights - heights.mean()


def line(n=7, seed=0):
    """Unit interval: h_{j+1} - h_j = -(y_{j+1} - y_j) C_j, C the cumulated masses."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.normal(size=n))
    nu = rng.dirichlet(np.ones(n) * 3)
    steps = -np.diff(y) * np.cumsum(nu)[:-1]
    heights = torch.from_numpy(np.concatenate([[0.0], np.cumsum(steps)]))
    order = rng.permutation(n)
    tensors = (torch.from_numpy(x[order]) for x in (y[:, None], nu))
    return Problem(UniformBox(dim=1), *tensors, centered(heights[order]))


def slabs(d, n=6, seed=0, source="box"):
    """Sites on one axis of R^d: only that coordinate matters, as on a line."""
    rng = np.random.default_rng(seed)
    y = np.zeros((n, d))
    y[:, 0] = np.sort(rng.normal(size=n))
    nu = rng.dirichlet(np.ones(n) * 3)
    cut = np.cumsum(nu)[:-1] if source == "box" else scipy.stats.norm.ppf(np.cumsum(nu)[:-1])
    heights = np.concatenate([[0.0], np.cumsum(-np.diff(y[:, 0]) * cut)])
    measure = UniformBox(dim=d) if source == "box" else Gaussian(dim=d)
    tensors = (torch.from_numpy(x) for x in (y, nu, heights))
    sites, masses, heights = tensors
    return Problem(measure, sites, masses, centered(heights))


def lattice(k, d):
    """k^d sites at the centres of a grid of cubes: the cells are the cubes, h = -|y|^2 / 2."""
    axis = (torch.arange(k, dtype=torch.float64) + 0.5) / k
    sites = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    masses = torch.full((k**d,), 1 / k**d, dtype=torch.float64)
    return Problem(UniformBox(dim=d), sites, masses, centered(-sites.square().sum(1) / 2))


def planted(n, d, seed=0, m=1 << 20):
    """Heights first, masses from them by brute force on m uniform points."""
    g = torch.Generator().manual_seed(seed)
    sites = torch.randn(n, d, generator=g, dtype=torch.float64)
    heights = centered(-0.2 * sites.square().sum(1) + 0.05 * torch.randn(n, generator=g))
    counts = torch.zeros(n)
    for _ in range(m >> 16):
        x = torch.rand(1 << 16, d, generator=g, dtype=torch.float64)
        counts += torch.bincount((x @ sites.T + heights).argmax(1), minlength=n)
    masses = counts.double() / counts.sum()
    kept = masses > 0
    return Problem(UniformBox(dim=d), sites[kept], masses[kept], centered(heights[kept]))


def mass_error(source, sites, heights, masses, *, m=1 << 19, seed=12345):
    """Total variation between cell masses and target by brute force, and its noise floor."""
    sites, heights = sites.double(), heights.double()
    g = torch.Generator().manual_seed(seed)
    counts = torch.zeros(len(sites))
    step = max(1, min(m, (1 << 26) // len(sites)))
    for start in range(0, m, step):
        x = source.sample(min(step, m - start), generator=g).double()
        for rows in x.split(max(1, (1 << 18) // len(sites))):  # their scores stay in the cache
            best = torch.addmm(heights, rows, sites.T).argmax(1)
            counts += torch.bincount(best, minlength=len(sites))
    error = float((counts.double() / m - masses).abs().sum()) / 2
    return error, float((2 * masses / np.pi / m).sqrt().sum()) / 2


def _picture():
    return torch.rand(6, 5, generator=aeot.generator(5), dtype=torch.float64) + 0.1


EXACT_SOURCES = {  # of which power cells are exact
    "box": lambda: aeot.UniformBox(low=[-1.0, 0.5], high=[2.0, 2.0]),
    "polygon": lambda: aeot.ConvexPolygon([[0.0, 0], [2, 0], [2.5, 1], [1, 2], [0, 1.5]]),
    "disk": lambda: aeot.UniformBall(dim=2, center=[1.0, -2.0], radius=1.5),
    "pixels": lambda: aeot.GridDensity(_picture(), low=[-1.0, 0], high=[1.0, 3]),
    "bilinear": lambda: aeot.GridDensity(_picture(), high=[2.0, 1], interpolation="linear"),
    "cube": lambda: aeot.UniformBox(low=[-1.0, 0, 2], high=[1.0, 3, 3]),
    "ball": lambda: aeot.UniformBall(dim=3, center=[1.0, 0.0, -1.0], radius=2.0),
    "interval": lambda: aeot.UniformBox(low=[-1.0], high=[3.0]),
}


def diagram_problem(name, n, *, seed=0, spread=1.0):
    """A source, sites and heights for which most cells are not empty."""
    source = EXACT_SOURCES[name]()
    g = aeot.generator(seed, name)
    sites = source.mean + spread * (
        source.sample(n, generator=g).to(torch.float64) - source.mean.to(torch.float64)
    )
    heights = -sites.square().sum(1) / 2
    size = float(source.covariance.trace())
    wobble = torch.rand(n, generator=g, dtype=torch.float64) * 0.3 * size * n ** (-2 / source.dim)
    return source, sites, heights + wobble


def twin_sites(eps, n=100, d=6, copies=2):
    """Sites (n, d) in groups of `copies`, eps apart."""
    rng = np.random.default_rng(n + copies)
    y = np.repeat(rng.normal(size=(n // copies, d)), copies, axis=0)
    return y + eps * rng.normal(size=y.shape)


def wide_and_tight(n=60, d=8):
    """A wide cluster and a tight one."""
    rng = np.random.default_rng(1)
    return np.r_[rng.normal(size=(n, d)), 3 + 0.001 * rng.normal(size=(n, d))]


def nested_clusters(n=40, d=5):
    """A cluster, and far from it one that holds a tight one."""
    rng = np.random.default_rng(2)
    inner = 0.05 * np.r_[rng.normal(size=(n, d)), 4 + 0.0005 * rng.normal(size=(n, d))]
    return np.r_[rng.normal(size=(n, d)), 20 + inner]


def with_outlier(far, n=120, d=8):
    """A cluster and one site far away."""
    rng = np.random.default_rng(3)
    return np.r_[rng.normal(size=(n - 1, d)), far * np.ones((1, d))]


def with_one_pair(eps, n=120, d=6):
    """A cluster with one near-duplicate."""
    y = np.random.default_rng(4).normal(size=(n, d))
    return np.r_[y, y[:1] + eps]


def flat_sites(rank, n=80, d=10):
    """Sites in a subspace of so many dimensions."""
    rng = np.random.default_rng(rank)
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + rng.normal(size=d)
