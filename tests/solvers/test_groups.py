"""Sites with scales of their own, near-duplicates, tight clusters, far outliers, and flat ones."""

import numpy as np
import pytest
import torch
from problems import mass_error
from scipy.stats import norm

import aeot
from aeot.solvers.groups import tight_groups


def _twins(eps, n=100, d=6, copies=2):
    rng = np.random.default_rng(n + copies)
    y = np.repeat(rng.normal(size=(n // copies, d)), copies, axis=0)
    return y + eps * rng.normal(size=y.shape)


def _clusters(n=60, d=8):
    rng = np.random.default_rng(1)
    return np.r_[rng.normal(size=(n, d)), 3 + 0.001 * rng.normal(size=(n, d))]


def _levels(n=40, d=5):
    rng = np.random.default_rng(2)
    inner = 0.05 * np.r_[rng.normal(size=(n, d)), 4 + 0.0005 * rng.normal(size=(n, d))]
    return np.r_[rng.normal(size=(n, d)), 20 + inner]


def _outlier(far, n=120, d=8):
    rng = np.random.default_rng(3)
    return np.r_[rng.normal(size=(n - 1, d)), far * np.ones((1, d))]


def _one_pair(eps, n=120, d=6):
    y = np.random.default_rng(4).normal(size=(n, d))
    return np.r_[y, y[:1] + eps]


def _flat(rank, n=80, d=10):
    rng = np.random.default_rng(rank)
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + rng.normal(size=d)


KINDS = {
    "a line, Gaussian source": (aeot.Gaussian(dim=10), _flat(1)),
    "a line, box": (aeot.UniformBox(dim=10), -_flat(1)),
    "a line, ball": (aeot.UniformBall(dim=10), _flat(1)),
    "a plane, ball": (aeot.UniformBall(dim=10), _flat(2)),
    "a space of three dimensions": (aeot.UniformBox(dim=10), _flat(3)),
    "pairs 1e-3": (aeot.UniformBox(dim=6), _twins(1e-3)),
    "pairs 1e-6": (aeot.Gaussian(dim=6), _twins(1e-6)),
    "pairs 1e-6 in many dimensions": (aeot.UniformBox(dim=32), _twins(1e-6, d=32)),
    "triples": (aeot.UniformBall(dim=6), _twins(1e-4, n=99, copies=3)),
    "tens": (aeot.UniformBox(dim=6), _twins(1e-4, copies=10)),
    "one pair at 1e-9": (aeot.UniformBox(dim=6), _one_pair(1e-9)),
    "a tight cluster": (aeot.UniformBox(dim=8), _clusters()),
    "clusters in clusters": (aeot.Gaussian(dim=5), _levels()),
    "a far outlier": (aeot.UniformBox(dim=8), _outlier(1e6)),
    "an outlier farther than float32": (aeot.Gaussian(dim=8), _outlier(1e8)),
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
    y = _twins(1e-5, n=60, copies=3)
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
    assert tight_groups(_outlier(1e6)).max() == 1  # one group, and the outlier


def test_groups_follow_neither_unit_nor_place_nor_order():
    y, order = _levels(), np.random.default_rng(0).permutation(120)
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
