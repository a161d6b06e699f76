"""Exact diagrams of any sites and heights: what every one of them satisfies."""

import math

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import EXACT_SOURCES
from strategies import SEEDS, clouds, heights

import aeot

SOURCES = {name: make() for name, make in EXACT_SOURCES.items()}


@st.composite
def diagrams(draw, least=1):
    """A source, sites and heights; the sites' unit and place are far from the source's, or not."""
    source = SOURCES[draw(st.sampled_from(sorted(SOURCES)))]
    y = draw(clouds(least=least, dims=(source.dim,)))
    return source, y, heights(y, draw(SEEDS))


def masses(source, y, h):
    return aeot.power_diagram(source, y, h).masses


def tolerance(source, y, h):
    """What rounding of the inputs may move masses by: heights against the closest two sites."""
    apart = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist")
    apart.fill_diagonal_(math.inf)
    reach = float(source.mean.abs().max() + 6 * source.covariance.diagonal().max().sqrt())
    size = float(h.abs().max()) + reach * float(y.abs().max())
    width = float(source.covariance.diagonal().min().sqrt())
    # A facet moves by the error of a difference of planes over the distance of its sites.
    return 1e-12 + 200 * len(y) * np.spacing(size) / float(apart.min().clamp(max=1e300)) / width


@given(diagrams())
def test_masses_are_shares_of_the_source(case):
    source, y, h = case
    diagram = aeot.power_diagram(source, y, h)
    w, c = diagram.masses, diagram.centroids
    assert bool((w >= 0).all())
    assert abs(float(w.sum()) - 1) < 1e-12 + tolerance(source, y, h)
    # The cells' means and spreads are the source's: the law of total variance.
    mean, size = (w[:, None] * c).sum(0), float(source.covariance.trace()) ** 0.5
    slack = 1e-11 + 10 * tolerance(source, y, h) + torch.finfo(source.covariance.dtype).eps
    assert float((mean - source.mean).abs().max()) < slack * size
    apart = c - mean
    spread = w[:, None, None] * (diagram.second_moments + apart[:, :, None] * apart[:, None, :])
    assert float((spread.sum(0) - source.covariance).abs().max()) < slack * size**2


@given(diagrams(), SEEDS)
def test_masses_are_those_counted_by_brute_force(case, seed):
    source, y, h = case
    w, m = masses(source, y, h), 8192
    x = source.sample(m, generator=aeot.generator(seed)).double()
    # Centred, so that a tie by rounding is none.
    scores = (x - source.mean) @ (y - y[0]).T + (h - h[0] + (y - y[0]) @ source.mean.double())
    share = torch.bincount(scores.argmax(1), minlength=len(y)).double() / m
    deviation = (w * (1 - w) / m).clamp(min=0).sqrt()
    assert bool(((share - w).abs() < 6 * deviation + 12 / m + tolerance(source, y, h)).all())


@given(diagrams(least=2), SEEDS)
def test_masses_move_with_the_sites_and_blind_to_shifts_and_units(case, seed):
    source, y, h = case
    w, slack = masses(source, y, h), tolerance(source, y, h)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    assert torch.allclose(masses(source, y[order], h[order]), w[order], rtol=0, atol=slack)
    assert torch.allclose(masses(source, y, h + 3.0 * float(h.std())), w, rtol=0, atol=4 * slack)
    assert torch.allclose(masses(source, 8 * y, 8 * h), w, rtol=0, atol=slack)
    moved = y + y.std(0)
    assert torch.allclose(masses(source, moved, h), w, rtol=0, atol=4 * tolerance(source, moved, h))


@given(diagrams(least=2), SEEDS)
def test_the_energy_is_convex_with_the_masses_as_gradient(case, seed):
    # E(g) >= E(h) + <w(h), g - h> for all pairs says both; the target adds a linear function.
    source, y, h = case
    g = heights(y, seed, wobble=3.0)

    def energy(at):
        d = aeot.power_diagram(source, y, at)
        return float(d.masses @ ((d.centroids * y).sum(1) + at)), d.masses

    (first, w), (second, v) = energy(h), energy(g)
    middle, _ = energy((g + h) / 2)
    size = float(h.abs().max() + g.abs().max() + y.abs().max() * (1 + source.mean.abs().max()))
    slack = size * (1e-12 + tolerance(source, y, h))
    assert second >= first + float(w @ (g - h)) - slack
    assert first >= second + float(v @ (h - g)) - slack
    assert middle <= (first + second) / 2 + slack


@given(diagrams(least=2))
def test_more_height_is_more_mass_and_takes_it_from_the_others(case):
    source, y, h = case
    step = torch.zeros_like(h)
    step[0] = 0.1 * float(h.std()) + 1e-3 * float(y.std())
    gain = masses(source, y, h + step) - masses(source, y, h)
    slack = 4 * tolerance(source, y, h)
    assert float(gain[0]) > -slack
    assert float(gain[1:].max()) < slack


@given(diagrams(least=2))
def test_the_hessian_is_a_laplacian(case):
    source, y, h = case
    hessian = aeot.power_diagram(source, y, h).hessian.toarray()
    size = max(abs(hessian).max(), 1e-300)
    assert np.abs(hessian - hessian.T).max() <= 1e-12 * size
    assert np.abs(hessian.sum(1)).max() <= 1e-12 * size * len(y)
    off = hessian[~np.eye(len(y), dtype=bool)]
    assert off.max() <= 0
    assert np.linalg.eigvalsh(hessian).min() >= -1e-10 * size


@given(clouds(dims=(2,), least=4), SEEDS)
def test_the_legendre_dual_is_above_every_affine_function_below_it(y, seed):
    # u*(y_i) >= <x, y_i> - u(x) for every x, with equality somewhere for cells that are not empty.
    y = (y - y.mean(0)) / float(y.std())
    assume(np.linalg.matrix_rank((y - y[0]).numpy(), tol=1e-6) == 2)
    h = heights(y, seed)
    diagram = aeot.power_diagram(SOURCES["disk"], y, h)
    x = torch.randn(64, 2, generator=aeot.generator(seed), dtype=torch.float64) * 3
    u = (x @ y.T + h).max(1).values
    dual = diagram.legendre(y)
    slack = 1e-9 * float(y.abs().max() + h.abs().max()) * (1 + float(x.abs().max()))
    assert bool((dual[None] >= x @ y.T - u[:, None] - slack).all())
    assert bool((dual <= -h + slack).all())
    held = diagram.masses > 1e-6
    assert torch.allclose(dual[held], -h[held], rtol=0, atol=slack)
