import numpy as np
import pytest
import torch
from problems import mass_error, slabs

from aeot.measures import Gaussian, Sampler
from aeot.solvers.solve import solve_semidiscrete
from aeot.solvers.starts import radial_heights


def clumps(n, generator):
    x = 0.1 * torch.randn(n, 2, generator=generator)
    x[:, 0] += torch.where(torch.rand(n, generator=generator) < 0.3, -3.0, 3.0)
    return x


def ring(n, generator):
    angle = torch.randint(8, (n,), generator=generator) * (torch.pi / 4)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    return circle + 0.05 * torch.randn(n, 2, generator=generator)


def modes(n, generator):
    centres = 2.0 * torch.randint(5, (n, 2), generator=generator)
    return centres + 0.05 * torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize(
    "source",
    [
        Gaussian(mean=[1.0, 2.0], covariance=[[1.0, 0.9], [0.9, 1.0]]),
        Sampler(lambda n, g: torch.rand(n, 2, generator=g), dim=2),
        Sampler(clumps, dim=2),
        Sampler(ring, dim=2),
        Sampler(modes, dim=2),
        # Student's law of 2.5 degrees of freedom, or close to it: heavy tails.
        Sampler(
            lambda n, g: torch.randn(n, 2, generator=g) / torch.rand(n, 1, generator=g) ** 0.4,
            dim=2,
        ),
    ],
    ids=["gaussian", "square", "clumps", "ring", "modes", "heavy"],
)
@pytest.mark.parametrize("weighted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_plane_without_geometry_is_solved_on_a_picture(source, weighted):
    # 25 tight modes far apart: steps on a sample's lists do not get there.
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(-4.0, 5, 2)] * 2), -1).reshape(-1, 2)
    sites = grid[rng.integers(25, size=300)] + 0.05 * rng.normal(size=(300, 2))
    masses = torch.from_numpy(rng.dirichlet(np.ones(300))) if weighted else None
    s = solve_semidiscrete(source, sites, masses, tol=0.02)
    assert s.converged, s.message
    raw, floor = mass_error(source, s.sites, s.heights, s.masses, m=1 << 17)
    assert raw <= 0.02 + floor


@pytest.mark.filterwarnings("error")
def test_source_on_a_line_in_the_plane_is_the_problem_on_the_line():
    def line(n, generator):
        x = torch.full((n, 2), 0.5)
        x[:, 0] = torch.rand(n, generator=generator)
        return x

    sites = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    s = solve_semidiscrete(Sampler(line, dim=2), sites, tol=0.02)
    assert s.converged, s.message
    # On a line the map is increasing: the k-th twelfth goes to the site that is k-th along it.
    x = line(12_000, torch.Generator().manual_seed(1))
    wanted = sites[:, 0].argsort()[(12 * x[:, 0]).long()]
    assert float((s.map().cell(x) != wanted).double().mean()) < 0.15


def test_picture_of_a_gaussian_gives_exact_heights():
    p = slabs(2, n=12, source="gaussian")
    s = solve_semidiscrete(p.source, p.sites, p.masses, tol=0.05)
    assert float((s.heights - p.heights).abs().max()) < 2e-3 * float(p.heights.std())


def test_radial_heights_are_the_map_onto_round_sites():
    # Of the standard Gaussian onto one of three times its size: phi(y) = |y|^2 / 6.
    y = 3 * torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = radial_heights(y, torch.full((20_000,), 1 / 20_000))
    exact = -y.square().sum(1) / 6
    assert float((h - exact + exact.mean()).std() / exact.std()) < 0.02


@pytest.mark.parametrize("seed", [2, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 3))])
def test_heavy_tails_are_certified(seed):
    y = torch.from_numpy(np.random.default_rng(seed).standard_cauchy(size=(200, 6)))
    s = solve_semidiscrete(Gaussian(dim=6), y, tol=0.12, seed=seed)
    assert s.converged, s.message
    error, noise = mass_error(Gaussian(dim=6), y, s.heights, s.masses, m=1 << 17)
    assert error < (s.mass_error_upper**2 + noise**2) ** 0.5 + 0.2 * noise
