"""Sites with scales of their own, near-duplicates, tight clusters, far outliers, and flat ones."""

import numpy as np
import pytest
import torch
from problems import (
    flat_sites,
    mass_error,
    nested_clusters,
    twin_sites,
    wide_and_tight,
    with_one_pair,
    with_outlier,
)
from scipy.stats import norm

import aeot
from aeot.solvers.groups import tight_groups

KINDS = {
    "a line, Gaussian source": (aeot.Gaussian(dim=10), flat_sites(1)),
    "a line, box": (aeot.UniformBox(dim=10), -flat_sites(1)),
    "a line, ball": (aeot.UniformBall(dim=10), flat_sites(1)),
    "a plane, ball": (aeot.UniformBall(dim=10), flat_sites(2)),
    "a space of three dimensions": (aeot.UniformBox(dim=10), flat_sites(3)),
    "pairs 1e-3": (aeot.UniformBox(dim=6), twin_sites(1e-3)),
    "pairs 1e-6": (aeot.Gaussian(dim=6), twin_sites(1e-6)),
    "pairs 1e-6 in many dimensions": (aeot.UniformBox(dim=32), twin_sites(1e-6, d=32)),
    "triples": (aeot.UniformBall(dim=6), twin_sites(1e-4, n=99, copies=3)),
    "tens": (aeot.UniformBox(dim=6), twin_sites(1e-4, copies=10)),
    "one pair at 1e-9": (aeot.UniformBox(dim=6), with_one_pair(1e-9)),
    "a tight cluster": (aeot.UniformBox(dim=8), wide_and_tight()),
    "clusters in clusters": (aeot.Gaussian(dim=5), nested_clusters()),
    "a far outlier": (aeot.UniformBox(dim=8), with_outlier(1e6)),
    "an outlier farther than float32": (aeot.Gaussian(dim=8), with_outlier(1e8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sites_with_scales_of_their_own_are_certified_and_the_bound_covers_a_count(kind):
    source, y = KINDS[kind]
    s = aeot.solve_semidiscrete(source, y, tol=0.1, seed=1)
    assert s.converged, s.message
    assert s.n_samples < 1_000_000
    error, noise = mass_error(source, torch.from_numpy(y), s.heights, s.masses, m=1 << 17)
    # The noise of the count comes on top, and it varies a little.
    assert error < (s.mass_error_upper**2 + noise**2) ** 0.5 + 0.2 * noise


def test_unequal_masses_inside_groups():
    y = twin_sites(1e-5, n=60, copies=3)
    nu = np.random.default_rng(0).dirichlet(np.full(60, 2.0)) * 0.7 + 0.3 / 60
    s = aeot.solve_semidiscrete(aeot.Gaussian(dim=6), y, nu, tol=0.05)
    assert s.converged, s.message
    error, noise = mass_error(aeot.Gaussian(dim=6), torch.from_numpy(y), s.heights, s.masses)
    assert error < (s.mass_error_upper**2 + noise**2) ** 0.5 + 0.2 * noise


def test_groups_are_those_that_were_planted():
    rng = np.random.default_rng(0)
    for eps, size in ((1e-3, 2), (1e-8, 3), (1e-3, 25)):
        label = rng.permutation(np.repeat(np.arange(300 // size), size))
        y = rng.normal(size=(300 // size, 6))[label] + eps * rng.normal(size=(len(label), 6))
        found = tight_groups(y)
        pairs = len(set(zip(label.tolist(), found.tolist(), strict=True)))
        assert pairs == found.max() + 1 == 300 // size
    assert tight_groups(rng.normal(size=(500, 6))) is None
    assert tight_groups(rng.normal(size=(2, 6))) is None
    assert tight_groups(with_outlier(1e6)).max() == 1  # one group, and the outlier


def test_groups_follow_neither_unit_nor_place_nor_order():
    y, order = nested_clusters(), np.random.default_rng(0).permutation(120)
    found = tight_groups(y)
    for other in (1e6 * y, y + 50.0, y[order]):
        again = tight_groups(other)
        reference = found[order] if other is not y and np.array_equal(other, y[order]) else found
        assert len(set(zip(again.tolist(), reference.tolist(), strict=True))) == found.max() + 1


def test_heights_of_sites_on_a_line_are_those_of_the_line():
    rng = np.random.default_rng(5)
    t, u = np.sort(rng.normal(size=50)), rng.normal(size=7)
    u /= np.linalg.norm(u)
    nu = rng.dirichlet(np.full(50, 3.0))
    s = aeot.solve_semidiscrete(aeot.Gaussian(dim=7), t[:, None] * u, nu, tol=0.02)
    steps = -np.diff(t) * norm.ppf(np.cumsum(nu)[:-1])
    heights = np.r_[0, np.cumsum(steps)]
    np.testing.assert_allclose(s.heights, heights - heights.mean(), atol=1e-9)
