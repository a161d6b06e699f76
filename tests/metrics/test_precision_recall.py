import math

import numpy as np
import pytest
import torch

import aeot
from aeot.metrics import distances, precision_recall
from aeot.metrics.precision_recall import prd_curve, prd_from_histograms, prd_scores, prdc


def normal(rows, width, seed):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).double()


# ---- PRD

F8_HALF, F18_HALF = 65 * 0.5 / 64.5, (65 / 64) * 0.5 / (1 / 64 + 0.5)  # precision 1, recall 1/2


@pytest.mark.parametrize(
    ("generated", "reference", "recall_like", "precision_like"),
    [
        ([1, 2, 3], [1, 2, 3], 1, 1),
        ([1, 0], [0, 1], 0, 0),
        ([1, 1, 0, 0], [1, 1, 1, 1], F8_HALF, F18_HALF),
        ([1, 1, 1, 1], [1, 1, 0, 0], F18_HALF, F8_HALF),
    ],
)
def test_prd_of_histograms_with_known_scores(generated, reference, recall_like, precision_like):
    f8, f1_8 = prd_scores(*prd_from_histograms(generated, reference))
    # the slope is 8^2 away from 1 at the best point, where 1001 angles are 1e-4 fine
    assert f8 == pytest.approx(recall_like, abs=1e-4)
    assert f1_8 == pytest.approx(precision_like, abs=1e-4)


def test_prd_of_a_half_overlap_passes_through_one_half():
    precision, recall = prd_from_histograms([0, 0.5, 0.5], [0.5, 0.5, 0])
    assert precision.max() == pytest.approx(0.5)
    assert recall.max() == pytest.approx(0.5)
    middle = len(precision) // 2  # slope 1: one minus total variation
    assert precision[middle] == pytest.approx(0.5)
    assert recall[middle] == pytest.approx(0.5)


def test_prd_curve_is_the_lower_envelope_of_its_definition():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(7))
    precision, recall = prd_from_histograms(q, p, angles=11)
    for i, angle in enumerate(np.linspace(1e-10, math.pi / 2 - 1e-10, 11)):
        slope = math.tan(angle)
        assert precision[i] == pytest.approx(
            sum(min(slope * a, b) for a, b in zip(p, q, strict=True)), abs=1e-9
        )
        assert recall[i] == pytest.approx(
            sum(min(a, b / slope) for a, b in zip(p, q, strict=True)), abs=1e-9
        )


def modes(kept, seed, rows=1000):
    """Well separated clusters on a line."""
    rows_of = torch.arange(rows) % kept
    return torch.stack([rows_of * 100.0, torch.zeros(rows)], dim=1) + normal(rows, 2, seed)


def test_prd_orientation_a_generator_that_drops_modes_loses_recall():
    half, full = modes(2, 0), modes(4, 1)
    f8, f1_8 = prd_scores(*prd_curve(half, full, clusters=4, runs=2))
    assert (f8, f1_8) == (pytest.approx(F8_HALF, abs=0.01), pytest.approx(F18_HALF, abs=0.01))
    f8, f1_8 = prd_scores(*prd_curve(full, half, clusters=4, runs=2))
    assert (f8, f1_8) == (pytest.approx(F18_HALF, abs=0.01), pytest.approx(F8_HALF, abs=0.01))


def test_prd_curve_depends_on_the_seed_alone():
    a, b = normal(200, 3, 2), normal(200, 3, 3) + 0.5
    first, second, other = (prd_curve(a, b, runs=1, seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], other[0])


def test_prd_runs_are_different_clusterings():
    x, y = normal(300, 2, 0), normal(300, 2, 1)
    one, three = prd_curve(x, y, runs=1)[0], prd_curve(x, y, runs=3)[0]
    assert not np.allclose(one, three, atol=1e-3)


def test_prd_of_huge_or_rounded_masses_stays_within_its_bounds():
    assert prd_scores(*prd_from_histograms([1e308] * 3, [1e308] * 3)) == pytest.approx((1, 1))
    draws = np.random.default_rng(0)
    for bins in range(2, 60):
        for curve in prd_from_histograms(draws.random(bins), draws.random(bins)):
            assert curve.min() >= 0
            assert curve.max() <= 1


def test_prdc_of_many_equal_distances():
    # 300 x 300 pairs, all at distance 0 and all balls of radius 0, which hold nothing
    same = np.full((300, 2), 0.1)
    assert set(prdc(same, same).values()) == {0.0}
    # Corners of a simplex, 100 rows at each: balls of the 100th neighbour reach to the other
    # corners and, strictly, hold their own alone. Rounded products see 120 000 pairs inside.
    corners = np.tile(0.37 + 0.1 * np.eye(4), (100, 1))
    found = prdc(corners, corners, k=100)
    assert found == {"precision": 1.0, "recall": 1.0, "density": 1.0, "coverage": 1.0}


FORTY, THIRTY, TEN = (normal(rows, 2, rows) for rows in (40, 30, 10))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prd_curve(FORTY, THIRTY), "have as many rows as reference, got 40 and 30"),
        (lambda: prd_curve(TEN, TEN), "generated must have at least 20 row"),
        (lambda: prd_curve(FORTY, FORTY, seed=-1), "seed must be a whole number >= 0, got -1"),
        (lambda: prd_from_histograms([-1, 2], [1, 1]), "generated must be a histogram"),
        (lambda: prd_from_histograms([], []), "generated must be a histogram"),
        (lambda: prd_from_histograms([1, 2], [1, 1, 1]), "the reference's 3 bins, got 2"),
        (lambda: prd_from_histograms([1], [1], angles=2), "angles must be a whole number >= 3"),
        (lambda: prd_scores([], []), r"precision must be a curve \(angles,\) in \[0, 1\]"),
        (lambda: prd_scores([1], [1, 1]), "recall must be as long as precision, got 2 and 1"),
    ],
)
def test_prd_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_features_that_require_gradients_are_taken_as_numbers():
    x, y = normal(60, 2, 0), normal(60, 2, 1)
    expected = prd_curve(x, y, clusters=4, runs=1)
    found = prd_curve(x.clone().requires_grad_(), y, clusters=4, runs=1)
    assert np.array_equal(found, expected)


# ---- precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("rows", "others", "width"), [(120, 150, 4), (200, 90, 30)])
def test_prdc_equals_the_package(rows, others, width, k, capsys):
    from prdc import compute_prdc

    fake, real = normal(rows, width, 4) * 0.8 + 0.1, normal(others, width, 5)
    expected = compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
    assert prdc(fake, real, k=k) == pytest.approx(expected, rel=1e-12)


def test_prdc_of_one_distribution_has_density_one_and_the_known_coverage():
    found = [prdc(normal(1500, 3, 2 * s), normal(1500, 3, 2 * s + 1)) for s in range(8)]
    for name, expected in (("density", 1), ("coverage", 1 - 2**-5)):
        values = [f[name] for f in found]
        error = np.std(values, ddof=1) / math.sqrt(8)
        assert abs(np.mean(values) - expected) < 4 * error + 0.003  # the rest is O(1 / rows)


def test_prdc_orientation_a_generator_that_drops_modes_loses_recall_and_coverage():
    found = prdc(modes(2, 6), modes(4, 7))
    assert found["precision"] > 0.9
    assert found["recall"] == pytest.approx(0.5, abs=0.05)
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)


def test_prdc_does_not_depend_on_blocks_or_order(monkeypatch):
    a, b = normal(90, 5, 8), normal(80, 5, 9)
    expected = prdc(a, b)
    monkeypatch.setattr(distances, "BLOCK", 100)
    assert prdc(a.flip(0), b.flip(0)) == pytest.approx(expected, rel=1e-12)


def test_prdc_of_copies():
    real = normal(60, 3, 10)
    found = prdc(real, real)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    collapsed = prdc(real[:1].repeat(60, 1), real)
    assert collapsed["precision"] == 1
    assert collapsed["recall"] == 0  # balls of radius 0 hold nothing, strictly


def test_prdc_takes_ties_as_its_definition_does():
    image = aeot.dataset("digits").values[:300].float()
    few = torch.nn.functional.avg_pool2d(image, image.shape[-1] // 4).flatten(1) > 100
    fake, real = few[:140].double().numpy(), few[140:].double().numpy()
    k = 5

    def between(a, b):  # whole numbers, hence exact
        return np.square(a[:, None] - b[None]).sum(2)

    radii_fake, radii_real = (np.sort(between(a, a), 1)[:, k] for a in (fake, real))
    in_real = between(real, fake) < radii_real[:, None]
    in_fake = between(real, fake) < radii_fake[None]
    expected = {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum() / k / len(fake),
        "coverage": in_real.any(1).mean(),
    }
    assert prdc(fake, real) == pytest.approx(expected, rel=1e-12)
    assert prdc(3 * fake - 7, 3 * real - 7) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("width", [2, 64])
def test_a_set_compared_with_itself_has_density_one(width):
    assert prdc(normal(700, width, 12) + 3, normal(700, width, 12) + 3)["density"] == 1


def test_prdc_refuses_k_beyond_the_rows():
    with pytest.raises(ValueError, match="generated must have at least 6 row"):
        prdc(normal(5, 2, 0), normal(50, 2, 1))
    assert precision_recall.prdc(normal(6, 2, 0), normal(50, 2, 1))["density"] >= 0


@pytest.mark.slow
def test_prdc_of_the_published_example():
    # Two standard normal samples in 1000 dimensions, as in the README of the package `prdc`.
    rows = [normal(10_000, 1000, seed) for seed in (30, 31)]
    found = prdc(*rows)
    expected = {"precision": 0.477, "recall": 0.471, "density": 1.056, "coverage": 0.974}
    assert found.pop("density") == pytest.approx(expected.pop("density"), abs=0.1)  # of few hubs
    assert found == pytest.approx(expected, abs=0.02)
