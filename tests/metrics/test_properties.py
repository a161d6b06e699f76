"""Metrics of any features: order of rows, order of the sets, shifts, rotations and units."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import OFFSETS, SEEDS, few

from aeot import metrics
from aeot.metrics.distances import squares

INVARIANT = {  # name -> (metric, the power of the unit that it is measured in)
    "frechet_distance": (metrics.frechet_distance, 2),
    "sliced_wasserstein": (metrics.sliced_wasserstein, 1),
}


@st.composite
def features(draw, sets=2, least=9, most=30):
    """Sets of rows of one width: apart, collapsed, on a lattice, or a thousand units off."""
    width, rng = draw(st.integers(1, 6)), np.random.default_rng(draw(SEEDS))
    offset = draw(st.sampled_from(OFFSETS))
    found = []
    for _ in range(sets):
        rows = rng.normal(size=(draw(st.integers(least, most)), width)) + rng.normal(size=width)
        shape = draw(st.sampled_from(["normal", "collapsed", "lattice", "constant column"]))
        if shape == "collapsed":
            rows = rows[rng.integers(min(2, len(rows)), size=len(rows))]
        if shape == "lattice":
            rows = np.round(rows)
        if shape == "constant column":
            rows[:, 0] = 1.0
        found.append(torch.from_numpy(rows + offset))
    return found


def turned(sets, seed):
    """The same sets after one rotation."""
    width = sets[0].shape[1]
    normal = np.random.default_rng(seed).normal(size=(width, width))
    rotation = torch.from_numpy(np.linalg.qr(normal)[0])
    return [rows @ rotation for rows in sets]


def shuffled(rows, seed):
    return rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]


def size(*sets):
    return max(float((rows - sets[0].mean(0)).abs().max()) for rows in sets) + 1e-12


@pytest.mark.parametrize("name", INVARIANT)
@given(sets=features(), seed=SEEDS, unit=st.sampled_from([1e-3, 1.0, 1e3]))
def test_distances_are_symmetric_shift_free_and_in_the_features_unit(name, sets, seed, unit):
    metric, power = INVARIANT[name]
    a, b = sets
    value = metric(a, b)
    slack = 1e-9 * size(a, b) ** power
    assert value >= 0
    assert metric(b, a) == pytest.approx(value, abs=slack)
    assert metric(shuffled(a, seed), shuffled(b, seed)) == pytest.approx(value, abs=slack)
    assert metric(a + 7, b + 7) == pytest.approx(value, abs=slack)
    assert metric(unit * a, unit * b) == pytest.approx(value * unit**power, abs=slack * unit**power)
    # A rounding error e inside a square root of what is zero leaves sqrt(e).
    own = 1e-7 if name == "sliced_wasserstein" else 1e-12
    assert metric(a, shuffled(a, seed)) <= own * size(a) ** power


@given(features(), SEEDS)
def test_the_frechet_distance_is_blind_to_rotations(sets, seed):
    value = metrics.frechet_distance(*sets)
    found = metrics.frechet_distance(*turned(sets, seed))
    assert found == pytest.approx(value, abs=1e-8 * size(*sets) ** 2)


@given(features(sets=3, least=2))
def test_the_sliced_distance_keeps_the_triangle_inequality(sets):
    a, b, c = sets
    direct = metrics.sliced_wasserstein(a, c)
    way = metrics.sliced_wasserstein(a, b) + metrics.sliced_wasserstein(b, c)
    assert direct <= way + 1e-9 * size(a, b, c)


@given(features(least=2), SEEDS)
def test_the_kernel_distance_is_the_double_sum_in_any_order(sets, seed):
    a, b = sets
    kernel = [
        [(x @ y.T / a.shape[1] + 1) ** 3 for y in (a, b)]  # (rows, rows)
        for x in (a, b)
    ]
    within = [
        (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
        for k in (kernel[0][0], kernel[1][1])
    ]
    expected = float(within[0] + within[1] - 2 * kernel[0][1].mean())
    slack = 1e-11 * float(max(k.abs().max() for row in kernel for k in row))
    assert metrics.kernel_distance(a, b) == pytest.approx(expected, abs=slack)
    assert metrics.kernel_distance(shuffled(b, seed), a) == pytest.approx(expected, abs=slack)


@given(features(least=8), SEEDS, st.integers(1, 7))
def test_precision_and_recall_by_all_distances(sets, seed, k):
    a, b = sets
    found = metrics.prdc(a, b, k=k)
    a, b = a - b.mean(0), b - b.mean(0)

    def apart(x, y):
        return torch.linalg.vector_norm(x[:, None] - y, dim=2)

    within = apart(a, b)
    own, other = (apart(x, x).sort(1).values[:, k] for x in (a, b))
    inside, around = within < other, within < own[:, None]
    near = [(within - r).abs() < 1e-9 * size(a, b) for r in (other, own[:, None])]
    if not bool(near[0].any() or near[1].any()):  # else rounding decides
        assert found["precision"] == pytest.approx(float(inside.any(1).double().mean()))
        assert found["recall"] == pytest.approx(float(around.any(0).double().mean()))
        assert found["density"] == pytest.approx(float(inside.double().sum(1).mean() / k))
        assert found["coverage"] == pytest.approx(float(inside.any(0).double().mean()))
    same = metrics.prdc(b, shuffled(b, seed), k=k)
    if float(other.min()) > 0:
        assert [same[name] for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]


@given(features(least=1, most=20))
def test_squared_distances_are_within_the_rounding_they_state(sets):
    a, b = sets
    for rows, block, own, other in squares(a, b):
        exact = (a[rows][:, None] - b).square().sum(2)
        assert bool(((block - exact).abs() <= own + other).all())


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), SEEDS)
def test_the_trade_of_precision_for_recall_is_monotone_and_symmetric(counts, seed):
    p = np.array(counts) + 1.0
    q = np.random.default_rng(seed).permutation(p) ** 2
    precision, recall = metrics.prd_from_histograms(q, p, angles=51)
    assert (np.diff(precision) >= -1e-12).all()
    assert (np.diff(recall) <= 1e-12).all()
    other, back = metrics.prd_from_histograms(p, q, angles=51)
    assert np.allclose(other, recall[::-1], atol=1e-6)
    assert np.allclose(back, precision[::-1], atol=1e-6)
    best, worst = metrics.prd_scores(*metrics.prd_from_histograms(p, 3 * p))
    assert min(best, worst) > 0.999
    assert max(metrics.prd_scores(precision, recall)) <= 1.0 + 1e-12


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), SEEDS)
def test_class_frequencies_differ_by_a_divergence(labels, seed):
    reference = torch.arange(50) % 5
    value = metrics.class_divergence(labels, reference, classes=5)
    share = np.bincount(labels, minlength=5) / len(labels)
    expected = sum(q * math.log(5 * q) for q in share if q)
    assert value == pytest.approx(expected, abs=1e-12)
    assert metrics.class_divergence(shuffled(reference, seed), reference, classes=5) < 1e-15


@given(features(sets=3, least=3))
@few(2)
def test_copies_are_memorised_and_shifts_change_nothing(sets):
    generated, training, heldout = sets
    heldout = heldout + 0.123  # not on the lattice of the others
    found = metrics.memorisation(generated, training, heldout)
    assert metrics.memorisation(training, training, heldout) == {"ratio": 0.0, "copied": 1.0}
    moved = metrics.memorisation(generated + 5, training + 5, heldout + 5)
    assert moved["ratio"] == pytest.approx(found["ratio"], abs=1e-9 * (1 + found["ratio"]))
    assert 0 <= found["copied"] <= 1
