"""Stretch of the piecewise-linear extension: closed forms, folds, and the Monge-Ampere equation."""

import math

import pytest
import torch

import aeot
from aeot.maps.triangulation import determinants


@pytest.mark.parametrize("d", [2, 3])
def test_a_linear_map_stretches_every_simplex_by_its_determinant(d):
    g = aeot.generator(d)
    x = torch.randn(40, d, generator=g, dtype=torch.float64)
    matrix = torch.randn(d, d, generator=g, dtype=torch.float64)
    simplices, volumes, stretch = determinants(x, x @ matrix.T + 1)
    expected = torch.linalg.det(matrix).expand(len(stretch))
    torch.testing.assert_close(stretch, expected, rtol=1e-6, atol=0)
    assert simplices.shape == (len(volumes), d + 1)


def test_volumes_fill_the_hull():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0], [0.7, 0.4]])
    assert float(determinants(x, x)[1].sum()) == pytest.approx(2.0)


def test_a_point_pulled_over_an_edge_folds():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    y = x.clone()
    y[4] = torch.tensor([1.5, 0.5])
    volumes, stretch = determinants(x, y)[1:]
    assert float(volumes[stretch < 0].sum()) == pytest.approx(0.25)  # of the four triangles, one


@pytest.mark.parametrize(
    ("centroids", "codes", "told"),
    [
        (torch.zeros(5, 4), torch.zeros(5, 4), r"centroids must have shape \(n, 2\) or \(n, 3\)"),
        (torch.rand(5, 2), torch.rand(4, 2), "codes must have 5 rows"),
        (torch.arange(10.0).view(5, 2), torch.rand(5, 2), "centroids must span 2 dimensions"),
    ],
)
def test_what_cannot_be_triangulated_is_refused(centroids, codes, told):
    with pytest.raises(ValueError, match=told):
        determinants(centroids, codes)


def _density(variance, half, pixels=100):
    axis = torch.linspace(-half, half, pixels, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    values = torch.exp(-0.5 * (x.square() / variance).sum(1)).view(pixels, pixels)
    values = values.T.flip(0)  # as a picture is seen: its columns run along the first coordinate
    return aeot.GridDensity(values, low=[-half] * 2, high=[half] * 2, interpolation="linear")


def _errors(step):
    """Median |log(det D^2u g(grad u) / f)| near the middle, for N(0, 1) onto N(0, variance)."""
    variance = torch.tensor([1.6, 0.6], dtype=torch.float64)
    source, target = _density(torch.ones(2), 5.0), _density(variance, 6.0)
    k = torch.arange(-20, 21, dtype=torch.float64) * step
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    sites = (torch.cartesian_prod(k, k) + 0.3 * step) @ turn.T
    sites = sites[(sites / variance.sqrt()).norm(dim=1) < 3.5]
    masses = aeot.power_diagram(target, sites, -sites.square().sum(1) / 2).masses
    found = []
    for heights in (
        aeot.solve_exact(source, sites, masses).heights,
        -sites.square().sum(1) / 2,  # heights of another problem: the nearest site
    ):
        c = aeot.power_diagram(source, sites, heights).centroids
        simplices, _, stretch = determinants(c, sites)
        middle, image = c[simplices].mean(1), sites[simplices].mean(1)
        f = torch.exp(-0.5 * middle.square().sum(1))
        g = torch.exp(-0.5 * (image.square() / variance).sum(1)) / math.sqrt(1.6 * 0.6)
        error = (stretch.clamp(min=1e-9) * g / f).log().abs()
        found.append(float(error[middle.norm(dim=1) < 1.5].median()))
    return len(sites), *found


def test_monge_ampere_between_gaussians_holds_in_the_limit():
    """The error falls as 1 / n, the square of the lattice's step; of wrong heights it stays."""
    few, coarse, wrong_before = _errors(0.7)
    many, fine, wrong = _errors(0.35)
    rate = math.log(coarse / fine) / math.log(many / few)
    assert 0.7 < rate < 1.4
    assert fine < 0.03
    assert wrong > 0.5 * wrong_before > 0.05
