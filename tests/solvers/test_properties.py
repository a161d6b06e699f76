"""Solutions of any sites and masses: laws of the heights, and certificates that tell the truth."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import EXACT_SOURCES
from strategies import SEEDS, clouds, few, masses

import aeot
from aeot.solvers.certificate import BATCHES, Tally, certify

SOURCES = {name: make() for name, make in EXACT_SOURCES.items() if name not in ("pixels",)}


@st.composite
def problems(draw, least=1, most=8, dims=(1, 2, 3)):
    source = draw(st.sampled_from([s for s in SOURCES.values() if s.dim in dims]))
    y = draw(clouds(least, most, dims=(source.dim,)))
    return source, y, draw(masses(len(y)))


def spread(heights):
    return float(heights.max() - heights.min()) + 1e-300


@given(problems())
def test_exact_heights_give_the_masses_that_were_asked_for(case):
    source, y, nu = case
    solution = aeot.solve_exact(source, y, nu)
    assert solution.converged, solution.message
    assert abs(float(solution.heights.mean())) <= 1e-12 * spread(solution.heights)
    error = (aeot.power_diagram(source, y, solution.heights).masses - nu).abs()
    allowed = torch.maximum(1e-10 * nu, torch.full_like(nu, 1.1e-11))  # see `tol`
    assert bool((error <= allowed).all())


@given(problems(least=2), SEEDS)
def test_exact_heights_follow_order_unit_and_place(case, seed):
    source, y, nu = case
    h = aeot.solve_exact(source, y, nu).heights
    size = spread(h) + float(y.abs().max())
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    permuted = aeot.solve_exact(source, y[order], nu[order]).heights
    scaled = aeot.solve_exact(source, 3.0 * y, nu).heights
    moved = aeot.solve_exact(source, y + y.std(0), nu).heights
    for found, expected in ((permuted, h[order]), (scaled, 3 * h), (moved, h)):
        assert torch.allclose(found, expected, rtol=0, atol=1e-8 * size)


@given(clouds(least=2, dims=(2, 3)), SEEDS)
def test_a_source_moved_by_a_moves_heights_by_minus_its_product_with_the_sites(y, seed):
    d = y.shape[1]
    shift = torch.from_numpy(np.random.default_rng(seed).normal(size=d))
    corner = torch.zeros(d, dtype=torch.float64)
    here, there = (
        aeot.solve_exact(aeot.UniformBox(low=low, high=low + 1), y).heights
        for low in (corner, corner + shift)
    )
    expected = here - y @ shift
    size = spread(here) + float(y.abs().max()) * (1 + float(shift.abs().max()))
    assert torch.allclose(there, expected - expected.mean(), rtol=0, atol=1e-9 * size)


@given(clouds(least=2, most=30, dims=(1,)), st.data())
def test_on_a_line_neighbours_meet_at_the_quantile(y, data):
    nu = data.draw(masses(len(y)))
    h = aeot.solve_exact(SOURCES["interval"], y, nu).heights
    order = y[:, 0].argsort()
    meet = -h[order].diff() / y[order, 0].diff()
    expected = -1 + 4 * nu[order].cumsum(0)[:-1]
    apart = y[order, 0].diff().min()
    slack = 1e-12 + 100 * np.spacing(spread(h)) / float(apart)
    assert torch.allclose(meet, expected, rtol=0, atol=slack)


@given(clouds(least=2, most=8, dims=(2, 3)), st.data())
@few(2)
def test_the_bound_of_a_sampled_solution_covers_its_exact_error(y, data):
    nu = data.draw(masses(len(y), least=0.3))
    source = aeot.UniformBox(dim=y.shape[1])
    solution = aeot.solve_semidiscrete(source, y, nu, method="newton", tol=0.05, seed=1)
    w = aeot.power_diagram(source, y, solution.heights).masses
    error = float((w - nu).abs().sum()) / 2
    # The bound holds in 95 % of problems; half of it more holds in all that matter.
    assert error <= 1.5 * solution.mass_error_upper
    assert solution.mass_error <= solution.mass_error_upper
    if solution.converged:
        assert solution.mass_error_upper <= 0.05
        assert bool((w > 0).all())


@given(clouds(least=2, most=8, dims=(4,), offsets=(0.0, 1.0)), SEEDS)
@few(4)
def test_sampled_heights_follow_order_and_powers_of_two(y, seed):
    source, options = aeot.UniformBox(dim=4), {"tol": 0.1, "max_samples": 2e5}
    h = aeot.solve_semidiscrete(source, y, **options).heights
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    assert torch.equal(aeot.solve_semidiscrete(source, y[order], **options).heights, h[order])
    assert torch.equal(aeot.solve_semidiscrete(source, 4 * y, **options).heights, 4 * h)


@pytest.mark.parametrize("engine", ["numba", "torch", "kdtree"])
@given(clouds(least=2, most=8, dims=(4,)))
@few(5)
def test_every_engine_certifies_the_same_problem(engine, y):
    solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=4), y, tol=0.1, engine=engine)
    assert solution.engine == engine
    assert solution.converged, solution.message


@st.composite
def tallies(draw):
    """Counts of known cell masses, and target masses."""
    n = draw(st.integers(1, 30))
    target, true = (draw(masses(n, least=0.2)).numpy() for _ in range(2))
    true = target + draw(st.sampled_from([0.0, 0.03, 1.0])) * (true - target)
    rng = np.random.default_rng(draw(SEEDS))
    counts = rng.multinomial(draw(st.integers(100, 3000)), true, size=BATCHES)
    return torch.from_numpy(counts.astype(np.int64)), target, true


@given(tallies(), SEEDS)
def test_a_certificate_covers_and_is_blind_to_order(case, seed):
    counts, target, true = case
    result = certify(Tally(counts, None), target)
    assert 0 <= result.mass_error <= result.mass_error_upper <= 1
    assert np.abs(true - target).sum() / 2 <= 1.5 * result.mass_error_upper + 1e-12
    rng = np.random.default_rng(seed)
    cells, batches = rng.permutation(len(target)), rng.permutation(BATCHES)
    other = certify(Tally(counts[batches][:, cells], None), target[cells])
    assert other.mass_error == pytest.approx(result.mass_error, rel=1e-9, abs=1e-12)
    assert other.mass_error_upper == pytest.approx(result.mass_error_upper, rel=1e-6, abs=1e-9)
    assert other.empty == result.empty
    # What it estimates without bias depends on the shares alone.
    more = certify(Tally(16 * counts, None), target)
    assert more.square == pytest.approx(result.square, rel=1e-9, abs=1e-12)
