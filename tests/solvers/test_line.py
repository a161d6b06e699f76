"""On a line the solution is known: neighbours meet at the quantile between their masses."""

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.exceptions import ConvergenceWarning

import aeot
from aeot import generator
from aeot.measures import Empirical, Gaussian, Sampler, UniformBall, UniformBox
from aeot.solvers.line import law


def solve(source, sites, masses=None, **options):
    given = {"tol": 0.002, "progress": False, "threads": 1} | options
    return aeot.solve_semidiscrete(source, sites, masses, **given)


def sampled(draw):
    return Sampler(lambda m, g: draw(m, g)[:, None], dim=1)


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 1))


def cauchy(m, g):
    return torch.tan(torch.pi * (torch.rand(m, generator=g, dtype=torch.float64) - 0.5))


def double(m, g):
    return torch.randn(m, generator=g, dtype=torch.float64)


POINTS = np.random.default_rng(9).standard_cauchy(60_000)
KNOWN = {  # source and its distribution function, by another library
    "gaussian": (Gaussian(mean=[3.0], covariance=[[4.0]]), scipy.stats.norm(3, 2).cdf),
    "box": (UniformBox(low=[-2.0], high=[5.0]), scipy.stats.uniform(-2, 7).cdf),
    "ball": (UniformBall(dim=1, center=10.0, radius=0.5), scipy.stats.uniform(9.5, 1).cdf),
    "empirical": (Empirical(POINTS[:, None]), scipy.stats.ecdf(POINTS).cdf.evaluate),
}
SAMPLED = {
    "normal": (sampled(double), scipy.stats.norm.cdf),
    "lognormal": (sampled(lambda m, g: double(m, g).exp()), scipy.stats.lognorm(1).cdf),
    "cauchy": (sampled(cauchy), scipy.stats.cauchy.cdf),
}


def error(cdf, sites, heights, masses):
    """Total variation from neighbours' borders alone, each cell found by scores at its borders."""
    y = np.asarray(sites, dtype=np.float64)[:, 0]
    order = np.argsort(y)
    meet = -np.diff(heights.numpy()[order]) / np.diff(y[order])
    assert (np.diff(meet) > 0).all()  # every cell is there
    got = np.diff(np.r_[0.0, cdf(meet), 1.0])
    return np.abs(got - masses[order]).sum() / 2


def decades(n):
    masses = np.exp(np.random.default_rng(2).uniform(-7, 0, n))
    return masses / masses.sum()


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("weights", ["equal", "decades"])
def test_known_laws_are_solved_exactly(name, weights):
    source, cdf = KNOWN[name]
    n = 2000
    sites, masses = normal(n), np.full(n, 1 / n) if weights == "equal" else decades(n)
    s = solve(source, sites, masses)
    exact = error(cdf, sites, s.heights, masses) if name != "empirical" else s.mass_error
    assert s.mass_error == pytest.approx(exact, abs=1e-10)
    assert abs(float(s.heights.mean())) < 1e-9 * float(s.heights.abs().max())
    if name == "empirical" and weights == "decades":
        assert s.mass_error < 0.02  # half a point at every border is the best there is
        return
    assert s.converged, s.message
    assert s.mass_error < (0.002 if name == "empirical" else 1e-8)


@pytest.mark.parametrize("name", KNOWN)
def test_cells_means_and_variance_are_those_of_fresh_points(name):
    source, _ = KNOWN[name]
    if name == "empirical":
        source = Empirical(normal(5000, 3))
    s = solve(source, normal(6), decades(6), tol=0.01)
    x = source.sample(400_000, generator=generator(1)).double()[:, 0]
    cell = s.map().cell(x[:, None])
    assert torch.allclose(
        torch.bincount(cell, minlength=6) / len(x), s.cell_masses.float(), atol=4e-3
    )
    for k in range(6):
        inside = x[cell == k]
        if len(inside) > 5000:
            noise = 6 * float(inside.std()) / len(inside) ** 0.5
            assert abs(float(inside.mean()) - float(s.cell_centroids[k, 0])) < noise + 1e-6
    within = float((x - s.cell_centroids[cell, 0]).square().mean())
    assert s.cell_variance == pytest.approx(within, rel=0.02)


@pytest.mark.parametrize("method", ["auto", "newton"])
@pytest.mark.parametrize("n", [2000, 20_000])
def test_closed_form_heights_are_judged_right_and_kept(n, method):
    y, share = np.sort(normal(n), axis=0), np.arange(1, n) / n
    h = np.r_[0.0, np.cumsum(-np.diff(y[:, 0]) * scipy.stats.norm.ppf(share))]
    h = torch.from_numpy(h - h.mean())
    s = solve(Gaussian(dim=1), y, init=h, method=method, tol=0.01)
    assert s.converged
    assert s.mass_error < 1e-6  # the rounding of these heights
    assert torch.equal(s.heights, h)
    # the sampled certificate of the same law says the same
    draw = sampled(double)
    s = solve(draw, y, init=h, tol=0.02)
    assert s.converged, s.message
    assert [r["stage"] for r in s.history] == ["try"]
    assert s.history[0]["empty"] == 0
    spread = float(h.max() - h.min())
    assert float((s.heights - h).abs().max()) < 1e-12 * spread


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_laws_are_certified_and_covered(name):
    source, cdf = SAMPLED[name]
    n = 500
    for masses in (np.full(n, 1 / n), decades(n)):
        s = solve(source, normal(n), masses, tol=0.01)
        assert s.converged, s.message
        assert error(cdf, normal(n), s.heights, masses) <= s.mass_error_upper
        assert s.cell_masses.sum() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_laws_down_to_two_thousandths(name):
    source, cdf = SAMPLED[name]
    s = solve(source, normal(1000), tol=0.002)
    assert s.converged, s.message
    assert error(cdf, normal(1000), s.heights, np.full(1000, 1e-3)) <= 0.002


def test_bad_starts_are_replaced_and_runs_go_on(tmp_path):
    source, sites = SAMPLED["normal"][0], normal(300)
    bad = torch.randn(300, generator=generator(0)).double()
    whole = solve(source, sites, init=bad, tol=0.02)
    assert whole.converged
    assert [r["stage"] for r in whole.history][:2] == ["try", "line"]
    path = tmp_path / "s"
    solve(source, sites, init=bad, tol=0.02, checkpoint=path, on_step=lambda r: True)
    again = solve(source, sites, init=bad, tol=0.02, checkpoint=path)
    assert torch.equal(again.heights, whole.heights)
    assert again.history == whole.history
    exact = solve(Gaussian(dim=1), sites, init=bad)
    assert exact.mass_error < 1e-8


def test_atoms_of_the_source():
    die = torch.arange(1.0, 7.0)
    sites = np.array([[0.0], [2.0], [5.0]])
    masses = np.array([1, 2, 3]) / 6
    s = solve(Empirical(die[:, None]), sites, masses)
    assert s.converged
    assert s.mass_error < 1e-15
    assert s.map().cell(die[:, None]).tolist() == [0, 1, 1, 2, 2, 2]
    roll = sampled(lambda m, g: torch.randint(1, 7, (m,), generator=g).double())
    s = solve(roll, sites, masses, tol=0.01)
    assert s.converged, s.message
    assert s.map().cell(die[:, None].double()).tolist() == [0, 1, 1, 2, 2, 2]
    heavy = Empirical(np.r_[np.zeros(50), np.arange(1.0, 51)][:, None])
    with pytest.warns(ConvergenceWarning, match="holds 0.5 at 0, more than a site shall get"):
        assert not solve(heavy, normal(10)).converged


def test_the_exact_solver_takes_quantiles():
    n = 3000
    for name in ("gaussian", "box", "ball"):
        source, cdf = KNOWN[name]
        s = aeot.solve_exact(source, normal(n), tol=1e-3)
        assert s.converged, s.message
        assert error(cdf, normal(n), s.heights, np.full(n, 1 / n)) < 1e-5
        near = np.r_[normal(n), normal(1) + 1e-13]
        with pytest.warns(ConvergenceWarning, match="sites 0 and 3000 lie .* merge them"):
            assert not aeot.solve_exact(source, near).converged  # no height is so fine
        s = solve(source, near, method="exact")
        assert s.converged, s.message
        assert s.mass_error < 0.002


@pytest.mark.parametrize("times", [1, 2, 7])
def test_points_are_dealt_out_in_order(times):
    n = 500
    x, y = normal(times * n, 6), normal(n)
    s = aeot.solve_exact(Empirical(x), y)
    assert s.converged, s.message
    want = np.repeat(np.argsort(y[:, 0]), times)  # the sorted assignment
    assert s.map().cell(torch.from_numpy(np.sort(x, axis=0))).tolist() == want.tolist()


def test_squeezed_cells_keep_a_point():
    n = 200
    y = np.linspace(-2, 2, n)
    y[n // 4 :: n // 4] = y[n // 4 - 1 : -1 : n // 4] + 2e-14  # whose border moves by 1e-2
    masses = decades(n)
    for x in (normal(10 * n, 7), np.round(normal(20 * n, 8), 3)):  # and with ties
        for nu in (None, masses):
            s = solve(Empirical(x), y[:, None], nu, tol=0.2)
            assert s.converged, s.message
            # Counted by scores in another precision.
            planes = x.astype(np.longdouble) * y + s.heights.numpy()
            assert (np.bincount(planes.argmax(1), minlength=n) > 0).all()
    with pytest.warns(ConvergenceWarning, match="more than a site shall get"):
        assert not solve(Empirical(np.r_[x, np.repeat(x[:1], len(x), 0)]), y[:, None]).converged
    with pytest.raises(ValueError, match="at least one point for each site, got 200 points at"):
        solve(Empirical(np.r_[x[: n // 2], x[: n // 2]]), y[:, None])


def test_exact_solutions_say_that_they_keep_no_checkpoint(tmp_path):
    for source in (Gaussian(dim=1), UniformBox(dim=2)):
        sites = np.random.default_rng(0).normal(size=(20, source.dim))
        with pytest.warns(UserWarning, match="checkpoint is not used"):
            assert solve(source, sites, checkpoint=tmp_path / "s").converged


@pytest.mark.parametrize("source", ["gaussian", "box"])
def test_close_sites_far_sites_and_units(source):
    source, cdf = KNOWN[source]
    y = normal(400, 4)
    near = np.r_[y, y[:100] + 1e-9 * np.abs(normal(100, 5))]
    for sites in (near, 1e6 + y, 1e-30 * y, 1e30 * y, np.r_[y, [[1e8]]], np.arange(400.0)[:, None]):
        s = solve(source, sites)
        assert s.converged, s.message
        assert error(cdf, sites, s.heights, np.full(len(sites), 1 / len(sites))) < 0.002


def test_sites_that_one_unit_of_a_height_moves_over_many_cells_stay():
    n = 20_000
    y = np.linspace(-2, 2, n)
    y[n // 4 :: n // 4] = y[n // 4 - 1 : -1 : n // 4] + 1e-14  # whose border moves by 1e-2
    s = solve(Gaussian(dim=1), y[:, None], tol=0.02)
    assert s.converged, s.message
    assert int((s.cell_masses <= 0).sum()) == 0


@pytest.mark.slow
def test_a_million_sites():
    for source, _ in (KNOWN["gaussian"], KNOWN["box"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            s = solve(source, normal(1_000_000))
        assert s.converged
        assert s.mass_error < 2e-3


def test_other_methods_are_judged_by_sorting_too():
    s = solve(Gaussian(dim=1), normal(60), method="lbfgs", tol=0.06)
    assert s.converged, s.message
    floor = 0.4 * (60 / 8192) ** 0.5  # of the check
    masses = np.full(60, 1 / 60)
    assert abs(error(scipy.stats.norm.cdf, normal(60), s.heights, masses) - s.mass_error) < floor


def test_only_the_types_themselves_are_known():
    class Shifted(Gaussian):
        def sample(self, n, *, generator=None):
            return super().sample(n, generator=generator) + 5

    assert law(Shifted(dim=1)) is None
    s = solve(Shifted(dim=1), normal(20), tol=0.05)
    assert s.converged
    assert float(s.cell_centroids.mean()) > 4
