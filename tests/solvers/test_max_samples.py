"""No problem draws more samples than it may, counted where the source is asked for them."""

import warnings

import numpy as np
import pytest
import torch
from problems import flat_sites, nested_clusters, twin_sites, wide_and_tight, with_outlier

import aeot
from aeot.measures import Sampler
from aeot.solvers.problem import OutOfSamples, Supply
from aeot.solvers.solution import Outcome

LEAST = (1 << 14) + 64 * 10  # what counts as the least limit, for d <= 10
BLOCK = 4096  # samples that a last certificate may take beyond it


def _normal(n, d):
    return np.random.default_rng(n).normal(size=(n, d))


KINDS = {
    "ordinary": _normal(200, 6),
    "a line": _normal(100, 1),
    "a plane": _normal(60, 2),
    "flat, one dimension": flat_sites(1),
    "flat, two dimensions": flat_sites(2),
    "flat, three dimensions": flat_sites(3),
    "pairs": twin_sites(1e-4),
    "tens": twin_sites(1e-4, copies=10),
    "a tight cluster": wide_and_tight(),
    "clusters in clusters": nested_clusters(),
    "an outlier": with_outlier(1e6),
    "an outlier among many": with_outlier(1e3, n=300),
    "heavy tails": np.random.default_rng(0).standard_cauchy(size=(150, 5)),
}


LARGE = "ordinary", "pairs", "clusters in clusters", "an outlier among many", "a plane"


class Counted:
    """A Gaussian that is known by its samples only, and how many were asked for."""

    def __init__(self, d):
        self.asked, self.d = 0, d
        self.source = Sampler(self.draw, dim=d)

    def draw(self, n, stream):
        self.asked += n
        return torch.randn(n, self.d, generator=stream)


def solve(source, sites, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return aeot.solve_semidiscrete(source, sites, **{"threads": 1, "tol": 0.02} | options)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(kind, 3e4) for kind in KINDS]
    + [pytest.param(kind, 2e5, marks=[] if kind in LARGE else pytest.mark.slow) for kind in KINDS]
    + [("tens", 1)],
)
def test_no_kind_of_problem_asks_the_source_for_more(kind, limit):
    sites = KINDS[kind]
    counted = Counted(sites.shape[1])
    s = solve(counted.source, sites, max_samples=limit)
    assert counted.asked == s.n_samples
    assert counted.asked <= limit or counted.asked <= LEAST + BLOCK
    assert s.converged or s.outcome is Outcome.OUT_OF_SAMPLES
    assert s.converged == (s.mass_error_upper <= 0.02)


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
@pytest.mark.parametrize("limit", [2e4, 1e5])
def test_no_method_does(method, limit):
    counted = Counted(6)
    s = solve(counted.source, KINDS["ordinary"], method=method, max_samples=limit)
    assert counted.asked == s.n_samples <= limit


def test_a_limit_that_is_not_reached_changes_nothing():
    for sites in (KINDS["ordinary"], KINDS["tens"]):
        free = solve(aeot.UniformBox(dim=6), sites, tol=0.1)
        limited = solve(aeot.UniformBox(dim=6), sites, tol=0.1, max_samples=1e9)
        assert torch.equal(free.heights, limited.heights)
        assert free.n_samples == limited.n_samples


def test_more_samples_find_better_heights():
    sites, source = KINDS["ordinary"], aeot.UniformBox(dim=6)
    upper = [solve(source, sites, max_samples=m).mass_error_upper for m in (2e4, 1e5, 4e5)]
    assert upper[0] > upper[1] > upper[2]


@pytest.mark.parametrize("kind", ["ordinary", "a line"])
def test_a_solve_that_goes_on_counts_what_was_drawn_before(kind, tmp_path):
    sites = KINDS[kind]
    options = {"max_samples": 1e5, "checkpoint": tmp_path / "whole"}
    whole = solve(Counted(sites.shape[1]).source, sites, **options)
    options["checkpoint"] = tmp_path / "stopped"
    solve(Counted(sites.shape[1]).source, sites, on_step=lambda record: True, **options)
    again = solve(Counted(sites.shape[1]).source, sites, **options)
    assert torch.equal(again.heights, whole.heights)
    assert again.n_samples == whole.n_samples <= 1e5


def test_lists_that_are_drawn_again_cost_nothing(tmp_path):
    """Stopped after any step, also where fewer samples are left than the lists once took."""
    sites, source = KINDS["ordinary"], aeot.UniformBox(dim=6)
    options = {"max_samples": 6e4, "tol": 0.005}
    whole = solve(source, sites, **options)
    for stop in range(len(whole.history) - 3, len(whole.history) + 1):
        records, path = [], tmp_path / str(stop)
        solve(
            source,
            sites,
            on_step=lambda r, seen=records, last=stop: seen.append(r) or len(seen) == last,
            checkpoint=path,
            **options,
        )
        again = solve(source, sites, checkpoint=path, **options)
        assert again.history == whole.history, f"stopped after step {stop}"
        assert torch.equal(again.heights, whole.heights)
        assert again.n_samples == whole.n_samples


def test_an_account_of_samples():
    supply = Supply(limit=1000)
    supply.take(100)
    with supply.sparing(0.5):
        assert supply.left == 450
        with supply.sparing(0.5), pytest.raises(OutOfSamples):
            supply.take(226)
        supply.take(225, share=0.5)
        with pytest.raises(OutOfSamples):
            supply.take(113, share=0.5)
    assert supply.left == 675
    with Supply().sparing(0.5):
        Supply().take(1 << 60, share=0.01)


@pytest.mark.parametrize("limit", [1, 3e4, 2e5])
def test_a_changed_solution_neither(limit):
    sites = KINDS["ordinary"]
    counted = Counted(6)
    old = solve(counted.source, sites, tol=0.3)
    counted.asked = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = aeot.update_solution(
            old, add=sites[:3] + 0.1, remove=[0, 1], tol=0.02, threads=1, max_samples=limit
        )
    assert counted.asked == s.n_samples
    assert counted.asked <= limit or counted.asked <= 2 * (LEAST + BLOCK)
