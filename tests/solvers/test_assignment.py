"""Sources of few points in several dimensions: dealt out to the sites, and counted."""

import warnings

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning

import aeot
from aeot.measures import Empirical
from aeot.solvers.assignment import _dealt, is_few


def cloud(m, d, seed=0, spread=1.0):
    return spread * np.random.default_rng([7, m, d, seed]).normal(size=(m, d))


def owners(s, x):
    """Cells of points and the margin over the next plane, from all scores in long doubles."""
    y, h = s.sites.numpy().astype(np.longdouble), s.heights.numpy().astype(np.longdouble)
    scores = x.astype(np.longdouble) @ (y - y.mean(0)).T + h
    best = np.sort(scores, axis=1)
    return scores.argmax(1), best[:, -1] - best[:, -2]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("d", [2, 3, 16])
def test_as_many_points_as_sites_are_assigned_one_by_one(d, seed):
    n = 150
    x, y = cloud(n, d, seed), np.abs(cloud(n, d, seed + 10)) + 3
    s = aeot.solve_semidiscrete(Empirical(x), y, tol=1e-6)
    assert s.converged, s.message
    assert s.mass_error < 1e-12
    assert s.n_samples == 0
    found, margin = owners(s, x)
    assert sorted(found) == list(range(n))
    assert margin.min() > 0
    # The cheapest assignment for another, equivalent cost.
    cost = np.square(x[:, None] - y).sum(2)
    _, best = scipy.optimize.linear_sum_assignment(cost)
    assert found.tolist() == best.tolist() == s.map().cell(x).tolist()


def test_unequal_masses_that_points_add_up_to_are_met_at_the_least_cost():
    rng, m, n = np.random.default_rng(3), 60, 9
    x, y = cloud(m, 4), cloud(n, 4, 1)
    nu = (1 + rng.multinomial(m - n, np.full(n, 1 / n))) / m
    s = aeot.solve_semidiscrete(Empirical(x), y, nu, tol=1e-9)
    assert s.converged, s.message
    found, _ = owners(s, x)
    np.testing.assert_array_equal(np.bincount(found, minlength=n), np.rint(nu * m))
    # By linear programming over all plans, divided points too.
    cost = np.square(x[:, None] - y).sum(2) / 2
    rows = np.kron(np.eye(m), np.ones(n))
    columns = np.kron(np.ones(m), np.eye(n))
    plan = scipy.optimize.linprog(
        cost.ravel(), A_eq=np.r_[rows, columns], b_eq=np.r_[np.full(m, 1 / m), nu]
    )
    assert cost[np.arange(m), found].mean() == pytest.approx(plan.fun, rel=1e-9)


def test_masses_that_points_do_not_add_up_to_are_met_as_far_as_they_go():
    m, n = 400, 20
    nu = np.random.default_rng(0).dirichlet(np.full(n, 2.0)) * 0.8 + 0.2 / n
    x, y = cloud(m, 5), cloud(n, 5, 1)
    s = aeot.solve_semidiscrete(Empirical(x), y, nu, tol=0.05)
    assert s.converged, s.message
    found, _ = owners(s, x)
    error = np.abs(np.bincount(found, minlength=n) / m - nu).sum() / 2
    assert s.mass_error == s.mass_error_upper == pytest.approx(error, abs=1e-12)
    assert error <= n / (4 * m) + 1e-12  # whole numbers nearest to the masses
    with pytest.warns(ConvergenceWarning, match="cannot be divided: take more of them"):
        assert not aeot.solve_semidiscrete(Empirical(x), y, nu, tol=1e-4).converged


def test_heights_leave_points_the_widest_margin():
    # For two sites that is the middle between the points that divide the cells.
    x = np.array([[0.0, 5.0], [1.0, -3.0], [4.0, 0.0], [7.0, 1.0]])
    y = np.array([[0.0, 0.0], [1.0, 0.0]])
    s = aeot.solve_semidiscrete(Empirical(x), y)
    assert float(s.heights[0] - s.heights[1]) == pytest.approx(2.5)
    # For more, no heights do better than the linear programme for the margin.
    x, y = cloud(24, 3), cloud(8, 3, 1)
    s = aeot.solve_semidiscrete(Empirical(x), y)
    found, margin = owners(s, x)
    ahead = (x @ y.T)[np.arange(24), found][:, None] - x @ y.T
    rows, bounds = [], []
    for j, i in np.ndindex(24, 8):
        if i != found[j]:
            row = np.zeros(9)
            row[i], row[found[j]], row[8] = 1, -1, 1
            rows.append(row)
            bounds.append(ahead[j, i])
    free = [(None, None)] * 9
    best = scipy.optimize.linprog(np.r_[np.zeros(8), -1], np.array(rows), bounds, bounds=free)
    assert float(margin.min()) == pytest.approx(-best.fun, rel=1e-6)


def test_points_far_off_and_in_float32():
    x = (cloud(200, 3, spread=1e-2) + 1e3).astype(np.float32)
    s = aeot.solve_semidiscrete(Empirical(x), cloud(50, 3, 1) - 40, tol=1e-6)
    assert s.converged, s.message
    assert np.bincount(owners(s, x)[0]).tolist() == [4] * 50
    assert s.map().cell(x).bincount().tolist() == [4] * 50


def test_points_that_come_several_times():
    die, y = cloud(6, 2), cloud(3, 2, 1)
    x = np.repeat(die, 40, axis=0)
    s = aeot.solve_semidiscrete(Empirical(x), y, np.array([1, 2, 3]) / 6)
    assert s.converged, s.message
    assert sorted(s.map().cell(die).bincount().tolist()) == [1, 2, 3]
    assert s.cell_masses.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    many = np.repeat(die, 4000, axis=0)  # more points than are ever dealt out, at few places
    s = aeot.solve_semidiscrete(Empirical(many), y, np.array([1, 2, 3]) / 6)
    assert s.converged, s.message


@pytest.mark.parametrize("copies", [50, 5000])
def test_points_that_hold_more_than_a_cell_are_named(copies):
    x = np.r_[np.tile(cloud(1, 3), (copies, 1)), cloud(copies, 3, 5)]
    with pytest.warns(ConvergenceWarning, match=r"holds 0\.5 at \(.*more than a site shall get"):
        s = aeot.solve_semidiscrete(Empirical(x), cloud(10, 3, 1), max_samples=3e4)
    assert not s.converged
    assert s.mass_error_upper >= 0.4  # of the half that one site should have a tenth of


def test_one_point_twice_costs_no_more_than_that_point():
    x = cloud(40, 4)
    x[7] = x[3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        s = aeot.solve_semidiscrete(Empirical(x), cloud(20, 4, 1), tol=1e-3)
    assert s.mass_error <= 1 / 40 + 1e-12
    assert bool((s.cell_masses > 0).all())


def test_fewer_places_than_sites_are_refused():
    x = np.repeat(cloud(12, 3), 5, axis=0)
    for solve in (
        lambda: aeot.solve_semidiscrete(Empirical(x), cloud(20, 3, 1)),
        lambda: aeot.solve_conditional(Empirical(x), cloud(21, 3, 1), [0] * 20 + [1]),
    ):
        with pytest.raises(ValueError, match="60 points at 12 places for 20 sites"):
            solve()


def test_a_start_within_tol_is_kept():
    x, y = cloud(60, 3), cloud(20, 3, 1)
    first = aeot.solve_semidiscrete(Empirical(x), y)
    h = first.heights + 1e-9 * torch.randn(20, generator=aeot.generator(0)).double()
    again = aeot.solve_semidiscrete(Empirical(x), y, init=h)
    assert again.converged
    assert float((again.heights - h).std()) < 1e-15


def test_one_heavy_place_among_many_points_is_seen_at_once():
    points = cloud(300, 2)
    assert not is_few(Empirical(points), 3)
    assert is_few(Empirical(np.concatenate([points, np.repeat(points[:1], 400, 0)])), 3)


@pytest.mark.parametrize(
    ("share", "total", "right"),
    [
        ([1e-6, 1.0], 10, [1, 9]),
        ([1e-6] * 5 + [1.0], 6, [1] * 6),  # where what is too much is taken off, one stays
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([1.0, 1.0, 1.0], 10, [4, 3, 3]),
    ],
)
def test_every_share_is_one_point_at_least_and_all_are_dealt(share, total, right):
    assert _dealt(np.array(share), total).tolist() == right


def test_a_start_within_tol_with_an_empty_cell_is_not_kept():
    sites, start = [[0.0, 0.0], [1.0, 0.0]], [50.0, -50.0]  # the first takes all
    source = Empirical(cloud(100, 2))
    s = aeot.solve_semidiscrete(source, sites, [0.97, 0.03], tol=0.1, init=start)
    assert s.converged
    assert (100 * s.cell_masses).round().tolist() == [97, 3]
