"""The map of any heights: convex potential, monotone map, costs, and draws that keep shares."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, clouds, few, heights, masses

import aeot

CLOUDS = clouds(most=30, dims=(1, 2, 3, 8))


def made(y, seed, **options):
    """A map, and pairs of points of the plane or space around its sites' unit."""
    d = y.shape[1]
    brenier = aeot.BrenierMap(aeot.Gaussian(dim=d), y, heights(y, seed), **options)
    g = aeot.generator(seed, "points")
    pair = torch.randn(2, 50, d, generator=g, dtype=torch.float64)
    return brenier, *pair


def rounding(brenier, *points):
    reach = max(float(p.abs().max()) for p in points) * float(brenier.sites.abs().max())
    return 32 * brenier.dim * np.spacing(reach + float(brenier.heights.abs().max()))


@given(CLOUDS, SEEDS, st.floats(0, 1))
def test_the_potential_is_convex_and_the_greatest_plane(y, seed, t):
    brenier, a, b = made(y, seed)
    slack = rounding(brenier, a, b)
    first, second, between = (brenier.potential(x) for x in (a, b, t * a + (1 - t) * b))
    assert bool((between <= t * first + (1 - t) * second + slack).all())
    planes = a @ y.T + brenier.heights
    assert bool((first[:, None] >= planes - slack).all())


@given(CLOUDS, SEEDS)
def test_the_map_is_monotone_and_a_subgradient(y, seed):
    brenier, a, b = made(y, seed)
    image_a, image_b = brenier(a), brenier(b)
    slack = 4 * rounding(brenier, a, b)
    assert bool((((a - b) * (image_a - image_b)).sum(1) >= -slack).all())
    rise = brenier.potential(b) - brenier.potential(a)
    assert bool((rise >= ((b - a) * image_a).sum(1) - slack).all())


@given(CLOUDS, SEEDS)
def test_the_c_transform_is_the_greatest_function_below_all_costs(y, seed):
    # psi^c(x) + psi_i <= |x - y_i|^2 / 2, and equal at the site that x is sent to.
    y = (y - y.mean(0)) / float(y.std(correction=0) or 1.0)
    brenier, x, _ = made(y, seed)
    psi = brenier.heights + y.square().sum(1) / 2
    cost = (x[:, None] - y).square().sum(2) / 2
    sums = brenier.c_transform(x)[:, None] + psi
    slack = 1e-12 * float(cost.max() + psi.abs().max())
    assert bool((sums <= cost + slack).all())
    owner = brenier.cell(x)[:, None]
    assert torch.allclose(sums.gather(1, owner), cost.gather(1, owner), rtol=0, atol=slack)


@given(CLOUDS, SEEDS, st.sampled_from([0.25, 1.0, 8.0]))
def test_units_and_shifts_of_the_sites_change_no_cell(y, seed, unit):
    brenier, x, _ = made(y, seed)
    other = aeot.BrenierMap(brenier.source, unit * y, unit * brenier.heights)
    assert torch.equal(other.cell(x), brenier.cell(x))  # powers of two round nothing
    moved = aeot.BrenierMap(brenier.source, y + y[0], brenier.heights)
    values = moved.potential(x) - x @ y[0]
    slack = 4 * rounding(moved, x)
    assert torch.allclose(values, brenier.potential(x), rtol=0, atol=slack)


@given(y=clouds(most=20, dims=(1, 2, 3), shapes=("normal", "lattice", "clusters")), seed=SEEDS)
@pytest.mark.parametrize("method", ["affine", "pair", "inverse-distance", "linear"])
@few(2)
def test_the_extended_map_never_mixes_modes(method, y, seed):
    # Two modes far apart: every code stays on its owner's side of the middle.
    y = (y - y.mean(0)) / float(y.std(correction=0) or 1.0)
    label = torch.arange(len(y)) % 2
    y[:, 0] += 1e4 * label
    cut = SimpleNamespace(components=label, crosses=lambda i, j: label[i] != label[j])
    source, g = aeot.UniformBox(dim=y.shape[1]), aeot.generator(seed)
    brenier = aeot.solve_exact(source, y, tol=1e-6).map()
    x = source.sample(50, generator=g)
    codes = brenier.extend(x, cut, method, generator=g)
    assert bool(torch.isfinite(codes).all())
    if len(y) > 1:
        assert torch.equal((codes[:, 0] > 5e3).long(), label[brenier.cell(x)])


@st.composite
def solved(draw):
    y = draw(clouds(least=2, most=15, dims=(2,), shapes=("normal", "lattice", "clusters")))
    nu = draw(masses(len(y), least=0.3))
    solution = aeot.solve_exact(aeot.UniformBox(dim=2), y, nu)
    return solution, np.random.default_rng(draw(SEEDS)).integers(3, size=len(y))


@given(solved(), st.integers(0, 300), SEEDS)
def test_draws_give_every_mode_its_share_up_to_one(case, n, seed):
    solution, labels = case
    label = torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(-1))
    cut = SimpleNamespace(components=label, crosses=lambda i, j: label[i] != label[j])
    draw = solution.map().draw(
        n, singular=cut, boundary="reassign", generator=aeot.generator(seed), method="pair"
    )
    count = torch.bincount(label[draw.owners], minlength=int(label.max()) + 1)
    share = torch.zeros(len(count), dtype=torch.float64).index_add_(0, label, solution.masses)
    assert int(count.sum()) == n == len(draw.codes)
    assert bool(((count - n * share).abs() < 1 + 1e-9).all())
    assert torch.equal(solution.map().cell(draw.points), draw.owners)
