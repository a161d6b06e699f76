import itertools

import numpy as np
import pytest
import torch

from aeot.gan_diagnostics.adaptation import adaptation_bound, proxy_distance


def thresholds(x, cuts):
    """Each cut and its mirror image: a finite class on the line."""
    rows = [x > cut for cut in cuts] + [x <= cut for cut in cuts]
    return np.stack(rows).astype(int)


def test_terms_by_enumeration_and_the_bound_always_holds():
    rng = np.random.default_rng(0)
    for _ in range(30):
        k, n, m = rng.integers(2, 6), rng.integers(3, 20), rng.integers(3, 20)
        said_s, said_t = rng.integers(0, 2, (k, n)), rng.integers(0, 2, (k, m))
        truth_s, truth_t = rng.integers(0, 2, n), rng.integers(0, 2, m)
        found = adaptation_bound(said_s, truth_s, said_t, truth_t)
        assert (found.target <= found.bound + 1e-12).all()
        pairs = itertools.product(range(k), repeat=2)
        distance = max(
            abs(np.mean(said_s[i] != said_s[j]) - np.mean(said_t[i] != said_t[j])) for i, j in pairs
        )
        assert found.distance == pytest.approx(distance)
        joint = min(np.mean(said_s[i] != truth_s) + np.mean(said_t[i] != truth_t) for i in range(k))
        assert found.joint == pytest.approx(joint)


def test_shift_costs_distance_and_contradiction_costs_joint():
    rng = np.random.default_rng(0)
    x, cuts = rng.uniform(-1, 1, 2000), np.linspace(-1, 2, 31)
    # The same rule, the inputs shifted by one: distance is the price.
    shifted = adaptation_bound(thresholds(x, cuts), x > 0.5, thresholds(x + 1, cuts), x + 1 > 0.5)
    assert shifted.distance > 0.4
    assert shifted.joint < 0.01
    # The same inputs, the labels flipped: the distance is nil and the joint error is all.
    flipped = adaptation_bound(thresholds(x, cuts), x > 0, thresholds(x, cuts), x <= 0)
    assert flipped.distance == 0
    assert flipped.joint > 0.95


def test_bad_shapes():
    with pytest.raises(ValueError, match="shape"):
        adaptation_bound(np.zeros((2, 3)), np.zeros(4), np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="same hypotheses"):
        adaptation_bound(np.zeros((2, 3)), np.zeros(3), np.zeros((1, 3)), np.zeros(3))


def test_proxy_distance_from_none_to_complete():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 800, 3, generator=generator)
    assert abs(proxy_distance(x, y)) < 0.2  # err has deviation 0.0125, times four: 0.05
    assert proxy_distance(x, y + torch.tensor([20.0, 0, 0])) == pytest.approx(2)
    # Means 2 apart along one axis: the Bayes error is Phi(-1) = 0.1587, so 2 (1 - 2 err) = 1.365.
    assert proxy_distance(x, y + torch.tensor([2.0, 0, 0])) == pytest.approx(1.365, abs=0.15)
    assert proxy_distance(x[:100], y + torch.tensor([2.0, 0, 0])) > 1  # sizes do not matter
