"""The certificate speaks of the caller's sites and the heights he gets, in float64."""

import functools
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.stats
import torch

import aeot
from aeot import generator
from aeot.measures import Empirical, Gaussian, Sampler, UniformBall, UniformBox
from aeot.search.planes import FIXED
from aeot.solvers.certificate import (
    BATCHES,
    Tally,
    _between,
    certificate_size,
    certify,
    quantile,
    tally,
)
from aeot.solvers.oracles import NEAR
from aeot.solvers.problem import standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.stages import aim
from aeot.solvers.starts import gaussian_heights


def normal(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def twins(n=60, d=5):
    """The first site has a neighbour one float32 unit away."""
    y = normal(n, d).astype(np.float32)
    return np.r_[y, np.nextafter(y[:1], np.float32(9))]


def spaced(n=40, d=5):
    """Half of the sites in pairs, 1e-3 to 1e-9 apart."""
    y = normal(n, d, 1)
    gaps = np.repeat([1e-3, 1e-4, 1e-6, 1e-9], n // 8)[:, None]
    return np.r_[y, y[: n // 2] + gaps * normal(n // 2, d, 2)]


def outlier(n=50, d=5):
    """One site lies 1e8 times as far as the rest."""
    y = normal(n, d, 3)
    return np.r_[y, 1e8 * np.ones((1, d))]


def lattice(k=3, d=4):
    axes = np.meshgrid(*[np.arange(k)] * d, indexing="ij")
    return np.stack(axes, -1).reshape(-1, d).astype(np.float32)


KINDS = {
    "twins": twins,
    "pairs": spaced,
    "outlier": outlier,
    "lattice": lattice,
    "far": lambda: 1e6 + normal(50, 5, 4),
    "far and small": lambda: 1e6 + 1e-6 * normal(50, 5, 4),
    "tiny": lambda: 1e-30 * normal(50, 5, 4),
}


def solve(source, sites, masses=None, **options):
    given = {"tol": 0.05, "progress": False, "threads": 1, "max_samples": 2e5} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return aeot.solve_semidiscrete(source, sites, masses, **given)


def counted(source, sites, heights, m=1 << 16, seed=77):
    """Masses of fresh points by all scores in float64, block by block; an independent route."""
    y = np.asarray(sites, dtype=np.float64)
    middle = (y.min(0) + y.max(0)) / 2  # moves all scores of a point alike
    x = source.sample(m, generator=generator(seed)).double().numpy()
    scores = np.concatenate([b @ (y - middle).T + heights.numpy() for b in np.split(x, 16)])
    return np.bincount(scores.argmax(1), minlength=len(y)) / m


def agree(s, source, sites, m=1 << 16):
    """The masses that were certified are those counted, up to the noise of both counts."""
    fresh, said = counted(source, sites, s.heights, m), s.cell_masses.numpy()
    noise = np.sqrt(np.maximum(fresh, said) * (1 / m + 1 / 4096)) + 2 / 4096
    assert (np.abs(fresh - said) < 6 * noise).all(), np.abs(fresh - said).max()
    covered = np.abs(fresh - s.masses.numpy()).sum() / 2
    floor = 0.4 * np.sqrt(len(fresh) / m)
    assert covered <= s.mass_error_upper + 2 * floor
    if s.converged:  # a count may miss a cell that expects few samples
        assert (fresh > 0)[s.masses.numpy() * m >= 30].all()
    return fresh


@pytest.mark.parametrize("kind", KINDS)
def test_the_masses_certified_are_those_of_the_returned_heights(kind):
    sites = KINDS[kind]()
    source = UniformBox(dim=sites.shape[1])
    agree(solve(source, sites), source, sites)


@pytest.mark.parametrize("kind", ["twins", "outlier", "far"])
def test_with_weights_too(kind):
    sites = KINDS[kind]()
    masses = np.random.default_rng(0).dirichlet(np.ones(len(sites)))
    source = Gaussian(dim=sites.shape[1])
    agree(solve(source, sites, masses), source, sites)


def test_twins_get_their_shares_or_no_certificate():
    sites = twins()
    s = solve(UniformBox(dim=5), sites, tol=0.02, max_samples=1.2e6)
    fresh = agree(s, UniformBox(dim=5), sites, 1 << 18)
    if s.converged:
        assert abs(fresh[[0, 60]] - 1 / 61).max() < 0.004


@pytest.mark.parametrize(
    "engine", ["numba", "torch", "kdtree", pytest.param("keops", marks=pytest.mark.keops)]
)
@pytest.mark.parametrize("kind", ["twins", "outlier", "lattice"])
def test_every_engine_and_the_map_see_the_same_cells(kind, engine):
    sites = KINDS[kind]()
    n, d = sites.shape
    source = UniformBox(dim=d)
    s = solve(source, sites, engine=engine, max_samples=6e4)
    x = source.sample(1 << 14, generator=generator(3))
    cells = s.map(engine=engine).cell(x)
    y = sites.astype(np.float64)
    scores = x.double().numpy() @ (y - y.mean(0)).T + s.heights.numpy()
    best, at = scores.max(1), scores[np.arange(len(x)), cells.numpy()]
    # float32 points are decided as float64 ones, to the rounding of float64
    assert (best - at <= 1e-14 * (np.abs(scores).max() + 1)).all()
    assert torch.equal(cells, s.map().cell(x.double()))
    fresh = np.bincount(cells.numpy(), minlength=n) / len(x)
    assert np.abs(fresh - s.cell_masses.numpy()).max() < 6 * np.sqrt(0.1 / len(x)) + 0.01


@pytest.mark.parametrize("split", [1, 8])
def test_a_tally_is_what_cell_says_of_its_own_samples(split):
    """Counts and sums, sample by sample, of sites that float32 cannot tell apart."""
    n, d = 80, 8
    y = np.r_[normal(n // 2, d), normal(n // 2, d) * (1 + 1e-8)]
    order = np.random.default_rng(5).permutation(n)
    y, masses = torch.from_numpy(y[order]), torch.full((n,), 1 / n, dtype=torch.float64)
    ranked = torch.from_numpy(np.lexsort(y.numpy().T[::-1]))
    source = UniformBox(low=[1.0] * d, high=[3.0] * d)
    problem = standardise(source, y[ranked], masses, 0, ranked.argsort())
    scorer = Scorer(problem, split=split, threads=1)
    h = gaussian_heights(problem.sites) + 1e-9 * torch.randn(n, generator=generator(1)).double()
    sums = torch.zeros(n, d, dtype=torch.int64)
    result = tally(scorer, h, "t", range(3), sums=sums)
    brenier = aeot.BrenierMap(source, y, problem.from_standard(h)[problem.place])
    counts, totals = np.zeros(n, np.int64), np.zeros((n, d))
    for block in range(3):
        drawn = scorer.draw("t", block)
        z = drawn.points()
        cells = brenier.cell(problem.to_source(z[:, torch.argsort(scorer.order)])).numpy()
        counts += np.bincount(cells, minlength=n)
        np.add.at(totals, cells, z.double().numpy())
    place = problem.place.numpy()
    assert result.counts.shape == (BATCHES, n)
    assert (result.counts >= 0).all()
    assert (result.counts.sum(1) == result.n_samples // BATCHES).all()  # also what was moved
    assert (result.cell_counts[place] == counts).all()
    fast = sum(w.site.long().bincount(minlength=n) for w in scorer.winners(h, "t", range(3)))
    assert (fast.numpy()[place] != counts).sum() > 20  # float32 sees one of each pair
    assert np.allclose(sums.numpy()[place] / FIXED, totals, atol=1e-6)


@pytest.mark.parametrize("window", [0.02, 1e9])  # in the second the distance of the sites decides
def test_a_sample_near_a_facet_is_one_edge_however_it_was_decided(window):
    n, d = 30, 5
    y = torch.from_numpy(np.r_[normal(n - 1, d), np.full((1, d), 1e4)])  # takes float32's digits
    y = y[np.lexsort(y.numpy().T[::-1])]
    source = UniformBox(dim=d)
    problem = standardise(source, y, torch.full((n,), 1 / n, dtype=torch.float64), 0)
    scorer = Scorer(problem, threads=1)
    given = -y.square().sum(1) / 8
    h = problem.to_standard(given)
    window = window / problem.scale
    found = tally(scorer, h, "t", range(3), window=window)
    unsure = sum(len(w.unsure) for w in scorer.winners(h, "t", range(3), doubts=True))
    x = torch.cat([problem.to_source(scorer.draw("t", k).points()) for k in range(3)])
    best = (x @ y.T + given).topk(2, dim=1)
    gap = (best.values[:, 0] - best.values[:, 1]) / problem.scale
    i, j = best.indices.T
    factor = torch.diag(problem.factor) if problem.factor.ndim == 1 else problem.factor
    apart = ((y[i] - y[j]) @ factor).norm(dim=1) / problem.scale
    near = gap < (NEAR * apart).clamp(max=window)
    keys = torch.cat([first * n + second for first, second, _ in found.edges]).numpy()
    expected = (i * n + j)[near].numpy()
    assert unsure > 0.02 * len(x)
    assert abs(len(keys) - len(expected)) < 0.01 * len(expected)
    difference = np.bincount(keys, minlength=n * n) - np.bincount(expected, minlength=n * n)
    assert np.abs(difference).sum() < 0.02 * len(expected)


def test_points_of_a_lattice_that_tie_are_counted_as_the_map_sends_them():
    corners = lattice(2, 4)
    source = Empirical(np.r_[corners, corners + 0.5, lattice(3, 4)].astype(np.float64))
    heights = -np.square(corners).sum(1).astype(np.float64) / 2  # Voronoi: a point may have 16
    s = solve(source, corners, init=heights, max_samples=1, tol=1e-3, method="newton")
    cells = s.map().cell(source.points).numpy()
    exact = np.bincount(cells, minlength=len(corners)) / len(cells)
    noise = np.sqrt(exact / 1e4) + 1e-3
    assert (np.abs(exact - s.cell_masses.numpy()) < 6 * noise).all()


@pytest.mark.parametrize("kind", ["twins", "far"])
def test_a_start_is_judged_in_the_same_arithmetic(kind):
    sites = KINDS[kind]()
    source = UniformBox(dim=5)
    first = solve(source, sites)
    # A fresh look at heights that are just good enough has noise of its own.
    again = solve(source, sites, init=first.heights, max_samples=4e4, tol=0.07)
    agree(again, source, sites)
    assert first.converged
    assert again.converged
    assert len(again.history) == 1  # one look, and no step


def test_a_checkpoint_goes_on_to_the_same_cells(tmp_path):
    sites, source = spaced(), UniformBox(dim=5)
    whole = solve(source, sites)
    solve(source, sites, checkpoint=tmp_path / "s", on_step=lambda r: r["stage"] == "stream")
    again = solve(source, sites, checkpoint=tmp_path / "s")
    assert torch.equal(again.heights, whole.heights)
    assert torch.equal(again.cell_masses, whole.cell_masses)
    assert again.mass_error_upper == whole.mass_error_upper


@pytest.mark.parametrize("kind", ["twins", "far"])
def test_the_parts_of_a_hierarchy_too(kind):
    sites, source = KINDS[kind](), UniformBox(dim=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = aeot.solve_hierarchical(source, sites, clusters=4, tol=0.1)
    x = source.sample(1 << 16, generator=generator(5))
    fresh = np.bincount(tree.cell(x).numpy(), minlength=len(sites)) / len(x)
    error = np.abs(fresh - 1 / len(sites)).sum() / 2
    assert error <= tree.mass_error_upper + 0.8 * np.sqrt(len(sites) / len(x))


def test_an_estimator_predicts_the_cells_that_were_counted():
    sites = twins()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = aeot.SemiDiscreteOT(tol=0.1, max_samples=1e5).fit(np.r_[sites, sites[:5]])
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).random((1 << 15, 5)).astype(dtype)
        fresh = np.bincount(model.predict(x), minlength=len(model.sites_)) / len(x)
        assert np.abs(fresh - model.solution_.cell_masses.numpy()).max() < 0.01


@pytest.mark.parametrize(
    "source",
    [
        UniformBall(dim=5, center=1e4, radius=1e-3),
        Gaussian(mean=torch.full((5,), 1e3), covariance=1e-4 * torch.eye(5)),
        Sampler(lambda m, g: torch.randn(m, 5, generator=g).double() + 1e6, dim=5),
    ],
    ids=["ball", "gaussian", "sampler"],
)
def test_sources_far_from_the_origin(source):
    sites = normal(50, 5, 6)
    s = solve(source, sites)
    assert s.converged, s.message
    x = source.sample(1 << 14, generator=generator(9)).double()
    fresh = np.bincount(s.map().cell(x).numpy(), minlength=50) / len(x)
    if not isinstance(source, UniformBall):  # whose own float32 points are 1e-3 apart
        assert np.abs(fresh - 1 / 50).sum() / 2 < s.mass_error_upper + 0.04


def test_a_light_cell_that_is_empty_is_seen():
    """Its mass expects four samples of the certificate: too few to tell, so it looks on."""
    n, d = 60, 6
    masses = np.full(n, 1.0)
    masses[7] = 0.03
    masses /= masses.sum()
    source, sites = UniformBox(dim=d), normal(n, d, 8)
    good = solve(source, sites, masses)
    assert good.converged, good.message
    heights = good.heights.clone()
    heights[7] -= 10
    again = solve(source, sites, masses, init=heights, on_step=lambda _: True, tol=0.1)
    assert again.history[0]["upper"] <= 0.1  # its mass alone is not missed
    assert again.history[0]["empty"] == 1
    assert not again.converged
    whole = solve(source, sites, masses, init=heights, max_samples=5e6, tol=0.1)
    assert whole.converged
    assert counted(source, sites, whole.heights, 1 << 18)[7] > 0


@pytest.mark.parametrize("shared", [False, True])
def test_looks_together_spend_no_more_than_five_percent(shared):
    tail = scipy.stats.t(14).sf if shared else scipy.stats.norm.sf
    at = functools.partial(quantile, shared=shared)
    spent = 10 * tail(at(0)) + sum(tail(at(k)) for k in range(1, 30))
    assert spent == pytest.approx(0.05, rel=2e-3)
    assert at(0) > at(2) > at(1) > at() > 1.644
    assert quantile(1, shared=True) > quantile(1)


@pytest.mark.parametrize(("n", "tol"), [(20, 0.05), (200, 0.1)])
def test_heights_that_stay_too_bad_are_not_certified_by_looking_again(n, tol):
    # The worst errors for the bound: every cell is off by as much, so that TV is sqrt(Q) / 2.
    rng, target = np.random.default_rng(3), np.full(n, 1 / n)
    truth = target * (1 + np.where(np.arange(n) % 2, 1, -1) * 2 * 1.001 * tol)
    assert np.abs(truth - target).sum() / 2 > tol

    def taken(looks):
        for look in looks:
            m = certificate_size(target, tol, look=look or 1)
            counts = rng.multinomial(m // BATCHES, truth, size=BATCHES).astype(np.int64)
            counts = torch.from_numpy(counts)
            if certify(Tally(counts, None), target, look).mass_error_upper <= tol:
                return True
        return False

    # 250 solves of four early looks and six that may be the last: at most 5 % wrong, up to chance.
    wrong = sum(taken([0] * 4 + list(range(1, 7))) for _ in range(250))
    assert wrong <= scipy.stats.binom.isf(0.01, 250, 0.05)
    # With the bound of a single look one of a dozen is soon below.
    assert sum(taken([None] * 12) for _ in range(40)) > 8


@pytest.mark.parametrize("n", [50, 300, 2000])
def test_solves_aim_where_they_cost_nearly_the_least(n):
    # Heights worth w samples have Q = chi^2_n / w; a check of m adds its own noise to what it sees.
    # All samples are in units of n / tol^2, and Q in units of tol^2.
    rng, runs = np.random.default_rng(1), 4000

    def cost(goal):
        worth, left, total = np.full(runs, 1 / goal), np.ones(runs, bool), np.full(runs, 1 / goal)
        for look in range(1, 12):
            m = certificate_size(np.full(n, 1 / n), 1e-3, look=look) / n * 1e-6
            seen = (q := rng.chisquare(n, runs) / n / worth) + rng.normal(size=runs) * np.sqrt(
                (2 / m**2 + 4 * q / m) / n
            )
            total += m * left
            worth = worth + m * left
            left &= seen + quantile(look) * np.sqrt((2 / m**2 + 16 / m) / n) > 4
        assert left.mean() < 0.01
        return total.mean()

    assert cost(aim(n**0.5)) < 1.06 * min(cost(goal) for goal in np.arange(1.2, 3.9, 0.15))


def test_unseen_cells_are_looked_for_until_they_are_seen_or_empty():
    # A certificate of ten samples per cell misses some; more are drawn, and no more than needed.
    n, d = 400, 4
    sites = normal(n, d, 7)
    s = aeot.solve_semidiscrete(aeot.Gaussian(dim=d), sites, tol=0.25, seed=2)
    assert s.converged
    assert bool((s.cell_masses > 0).all())


def test_comparing_batches_holds_two_copies_of_the_counts_and_keeps_its_bits():
    n = 40_000
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.poisson(20, (BATCHES, n)))
    masses = rng.uniform(1, 2, n) / (1.5 * n)
    tracemalloc.start()
    products, mean, noise = _between(counts, masses)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    share = counts.double().numpy()
    share = share / share.sum(1)[:, None]
    scaled = (share - masses) * (np.sqrt(masses).sum() / np.sqrt(masses)) ** 0.5
    assert np.array_equal(products, scaled @ scaled.T)
    assert np.array_equal(mean, scaled.mean(0))
    assert noise == (((share - share.mean(0)) ** 2).sum(0) / 31).sum() / len(share)
    # NumPy's part: torch made the copy of the counts.
    assert peak < 1.2 * share.nbytes


def test_points_are_decided_alike_among_some_sites_at_a_time(monkeypatch):
    rng = generator(5)
    y, x = (torch.randn(m, 3, generator=rng, dtype=torch.float64) for m in (203, 500))
    nu = torch.full((203,), 1 / 203, dtype=torch.float64)
    place = torch.randperm(203, generator=rng)
    p = standardise(Gaussian(dim=3), y[place.argsort()], nu, 0, place)
    h = torch.randn(203, generator=rng, dtype=torch.float64) / 4
    whole = p.decide(x, h, 2)
    monkeypatch.setattr(
        "aeot.solvers.problem._AT_ONCE", 150
    )  # four parts of fifty, and three sites more
    found = p.decide(x, h, 2)
    assert torch.equal(found[0], whole[0])
    assert torch.equal(found[1], whole[1])
    given = p.from_standard(h)  # in the order of `caller_sites`
    scores = x @ p.caller_sites.T + given
    assert torch.equal(scores.topk(2, 1).indices, found[1])
