import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from aeot import metrics
from aeot.metrics import distances

METRICS = {
    "frechet": metrics.frechet_distance,
    "kernel": metrics.kernel_distance,
    "sliced": metrics.sliced_wasserstein,
}


def normal(rows, width, seed, dtype=torch.float64):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whitened(rows, width, seed):
    """A sample whose mean is 0 and whose unbiased covariance is the identity, exactly."""
    x = normal(rows, width, seed)
    x = x - x.mean(dim=0)
    q, _ = torch.linalg.qr(x)
    return q * math.sqrt(rows - 1)


def of_equals(metric, d, n, repeats):
    """The metric between two samples of one normal law, mean and its standard error."""
    found = [metric(normal(n, d, 2 * r), normal(n, d, 2 * r + 1)) for r in range(repeats)]
    return found, np.mean(found), np.std(found, ddof=1) / math.sqrt(repeats)


# ---- Fréchet distance


def test_frechet_distance_of_planted_moments_is_the_closed_form():
    a, b = whitened(400, 6, 0), whitened(300, 6, 1)
    shift = torch.arange(6.0, dtype=torch.float64)
    assert metrics.frechet_distance(a + shift, a) == pytest.approx(55.0, rel=1e-12)
    low = torch.tensor([1.0, 4, 9, 1, 2, 3], dtype=torch.float64)
    high = torch.tensor([4.0, 4, 1, 9, 8, 3], dtype=torch.float64)
    commuting = float((low.sqrt() - high.sqrt()).square().sum())
    found = metrics.frechet_distance(a * low.sqrt() + shift, b * high.sqrt())
    assert found == pytest.approx(55 + commuting, rel=1e-12)


def test_frechet_distance_of_correlated_moments_agrees_with_a_matrix_square_root():
    first, second = normal(6, 6, 2), normal(6, 6, 3)
    a, b = whitened(300, 6, 4) @ first, whitened(300, 6, 5) @ second
    s1, s2 = (first.T @ first).numpy(), (second.T @ second).numpy()
    root = linalg.sqrtm(s1 @ s2)
    expected = np.trace(s1 + s2 - 2 * np.real(root))
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_two_gaussian_samples_is_within_its_sampling_error():
    # mean: |t|^2 plus the bias 2 d / n + d (d + 1) / (2 n); sd below: that of 2 <t, noise>
    d, n = 8, 4000
    shift = torch.full((d,), 0.5, dtype=torch.float64)
    found = metrics.frechet_distance(normal(n, d, 6) + shift, normal(n, d, 7))
    bias = d * (d + 5) / (2 * n)
    noise = 2 * float(shift.norm()) * math.sqrt(2 / n)
    assert abs(found - (2.0 + bias)) < 4 * noise


def test_frechet_distance_has_the_documented_bias():
    d, n = 16, 200
    _, mean, error = of_equals(metrics.frechet_distance, d, n, 40)
    # the formula is first order in 1 / n; its next term is of relative size d / n
    assert mean == pytest.approx(d * (d + 5) / (2 * n), abs=4 * error, rel=2 * d / n)


def test_frechet_and_kernel_distance_agree_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Same(torch.nn.Module):
        num_features = 10

        def forward(self, x):
            return x

    real, fake = normal(500, 10, 8) @ normal(10, 10, 9), normal(500, 10, 10) + 0.3
    frechet = FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
    kernel = KernelInceptionDistance(feature=Same(), subsets=1, subset_size=500)
    for metric in (frechet, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    assert metrics.frechet_distance(fake, real) == pytest.approx(float(frechet.compute()), rel=1e-9)
    assert metrics.kernel_distance(fake, real) == pytest.approx(
        float(kernel.compute()[0]), rel=1e-9
    )


def test_frechet_distance_survives_a_collapsed_generator():
    real = whitened(300, 5, 11)
    point = torch.full((100, 5), 2.0)
    assert metrics.frechet_distance(point, real) == pytest.approx(20 + 5, rel=1e-12)
    real[:, 2] = 0  # a dead unit
    assert metrics.frechet_distance(real, real.clone()) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("rows", "others"), [(8, 100), (100, 8), (3, 100)])
def test_frechet_distance_refuses_too_few_rows_for_the_width(rows, others):
    with pytest.raises(ValueError, match=r"more rows than its 8 columns .* at least 9 samples"):
        metrics.frechet_distance(normal(rows, 8, 0), normal(others, 8, 1))


def test_frechet_distance_is_exact_far_from_the_origin():
    a, b = whitened(300, 4, 12), whitened(300, 4, 13) * 2
    assert metrics.frechet_distance(a + 1e6, b + 1e6) == pytest.approx(4.0, abs=1e-5)


# ---- kernel distance


def test_kernel_distance_is_unbiased_at_zero_and_equals_its_double_sum():
    d = 5
    equal, mean, error = of_equals(metrics.kernel_distance, d, 120, 60)
    assert abs(mean) < 4 * error
    assert min(equal) < 0  # unbiased, so negative about half of the time
    x, y = normal(7, d, 100).numpy(), normal(9, d, 101).numpy()
    kernel = lambda a, b: (a @ b / d + 1) ** 3  # noqa: E731
    pairs = [
        np.mean([kernel(p, q) for i, p in enumerate(s) for j, q in enumerate(s) if i != j])
        for s in (x, y)
    ]
    expected = sum(pairs) - 2 * np.mean([[kernel(p, q) for q in y] for p in x])
    assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


# ---- sliced Wasserstein


def test_sliced_distance_in_one_dimension_is_the_quantile_formula():
    a, b = normal(40, 1, 14), normal(40, 1, 15) * 2 + 1
    expected = math.sqrt(float((a.sort(dim=0)[0] - b.sort(dim=0)[0]).square().mean()))
    assert metrics.sliced_wasserstein(a, b) == pytest.approx(expected, rel=1e-12)


def test_sliced_distance_of_unequal_sizes_agrees_with_repeated_rows_and_a_linear_program():
    import ot

    a, b = normal(12, 1, 16), normal(18, 1, 17)
    direct = metrics.sliced_wasserstein(a, b)
    repeated = metrics.sliced_wasserstein(a.repeat_interleave(3, 0), b.repeat_interleave(2, 0))
    assert direct == pytest.approx(repeated, rel=1e-12)
    cost = ot.dist(a.numpy(), b.numpy())
    assert direct**2 == pytest.approx(ot.emd2([], [], cost), rel=1e-10)


def test_sliced_distance_of_a_shift():
    d = 6
    x, shift = normal(50, d, 18), torch.tensor([3.0, 0, 4, 0, 0, 0], dtype=torch.float64)
    squared = metrics.sliced_wasserstein(x + shift, x, projections=20000) ** 2
    # Var of <t, theta>^2 / |t|^2 on the sphere: 2 (d - 1) / (d^2 (d + 2))
    sd = 25 * math.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / 20000)
    assert abs(squared - 25 / d) < 4 * sd


# ---- classes, neighbours, memorisation


def test_memorisation_takes_the_middle_of_an_even_number_of_distances():
    training = [[0.0], [10.0]]
    found = metrics.memorisation([[1.0], [4.0]], training, [[2.0], [6.0]])
    assert found["ratio"] == pytest.approx(2.5 / 3)  # distances 1, 4 and 2, 4
    with pytest.raises(ValueError, match="heldout must have 1 column"):
        metrics.memorisation([[1.0]], training, [[2.0, 3.0]])


def test_class_divergence_of_a_generator_that_keeps_k_of_25_modes():
    reference = torch.arange(25).repeat(4)
    kept = torch.arange(17).repeat(10)
    found = metrics.class_divergence(kept, reference, classes=25)
    assert found == pytest.approx(math.log(25 / 17), rel=1e-12)
    assert metrics.class_divergence(reference, reference, classes=25) == 0
    skew = torch.tensor([0, 0, 0, 1])
    expected = stats.entropy([0.75, 0.25], [0.5, 0.5])
    assert metrics.class_divergence(skew, [0, 1], classes=2) == pytest.approx(expected)


def test_class_divergence_has_the_documented_floor():
    draws = torch.randint(25, (400, 2500), generator=torch.Generator().manual_seed(0))
    reference = torch.arange(25)
    found = [metrics.class_divergence(row, reference, classes=25) for row in draws]
    assert np.mean(found) == pytest.approx(24 / 5000, abs=4 * 0.0014 / 20)


def test_labels_of_any_whole_type_and_stride_are_counted():
    backwards = np.array([1, 1, 0, 1], dtype=np.uint16)[::-1]
    expected = stats.entropy([0.25, 0.75], [0.5, 0.5])
    assert metrics.class_divergence(backwards, [0, 1], classes=2) == pytest.approx(expected)
    assert metrics.kernel_distance(np.eye(3)[::-1], np.eye(3)) == metrics.kernel_distance(
        np.eye(3)[::-1].copy(), np.eye(3)
    )


@pytest.mark.parametrize(
    ("generated", "reference", "message"),
    [
        ([0, 3], [0, 1], r"generated must be whole labels \(rows,\) in \[0, 2\)"),
        ([0.0, 1.0], [0, 1], "generated must be whole labels"),
        ([0, 1], [0, 0], "reference must hold every class, got none of class 1"),
        ([True, False], [0, 1], "generated must be whole labels.*got torch.bool"),
        ("ab", [0, 1], "generated must be a numeric array, got str"),
        ([0, 1], None, "reference must be a numeric array, got NoneType"),
    ],
)
def test_class_divergence_refuses(generated, reference, message):
    with pytest.raises(ValueError, match=message):
        metrics.class_divergence(generated, reference, classes=2)


def test_a_broken_number_of_classes_and_a_negative_seed_are_refused():
    with pytest.raises(ValueError, match="classes must be a whole number >= 1, got 2.5"):
        metrics.class_divergence([0, 1], [0, 1], classes=2.5)
    with pytest.raises(ValueError, match="seed must be a whole number >= 0, got -1"):
        metrics.sliced_wasserstein([[0.0]], [[1.0]], seed=-1)


def test_features_whose_squares_overflow_are_refused_and_large_ones_are_not():
    x = normal(20, 2, 0)
    for metric in METRICS.values():
        for scale in (1e200, 1e-170, 1.1e40 / float(x.abs().max())):
            with pytest.raises(ValueError, match="reference must .*(rescale|another unit)"):
                metric(x, scale * x)
        assert math.isfinite(metric(1e38 * x + 1e38, 1e38 * x))
        assert metric(2e-39 * x, 0 * x) >= 0
    small = metrics.frechet_distance(3e-39 * x, 2e-39 * x)
    assert small == pytest.approx(1e-78 * metrics.frechet_distance(3 * x, 2 * x), rel=1e-9)
    # A list keeps its double precision.
    assert metrics.sliced_wasserstein([[0.1]], [[0.3]]) == pytest.approx(0.2, rel=1e-14)


def test_whole_numbers_keep_their_digits():
    whole = torch.tensor([[2**24 + 1], [2**24 + 3], [2**24 + 5]])
    for same in (whole, whole.numpy()):
        assert metrics.sliced_wasserstein(same, whole.double()) == 0


def test_memorisation_tells_new_data_from_copies_and_from_noisy_copies():
    training, heldout, new = (normal(2000, 4, s) for s in (22, 23, 24))
    fresh = metrics.memorisation(new, training, heldout)
    assert fresh["ratio"] == pytest.approx(1, abs=0.1)
    assert fresh["copied"] < 0.025  # 0.01 expected; sd 0.003 on either side
    half = torch.cat([new[:1000], training[:1000]])
    assert metrics.memorisation(half, training, heldout)["copied"] == pytest.approx(0.505, abs=0.01)
    near = training + 1e-3 * normal(2000, 4, 25)
    assert metrics.memorisation(near, training, heldout)["copied"] > 0.99
    with pytest.raises(ValueError, match="heldout must be data that are not in training"):
        metrics.memorisation(new, training, training)


# ---- what all have in common


@pytest.mark.parametrize("name", METRICS)
def test_block_size_and_order_of_rows_do_not_matter(name, monkeypatch):
    a, b = normal(90, 5, 26), normal(80, 5, 27) + 0.2
    expected = METRICS[name](a, b)
    monkeypatch.setattr(distances, "BLOCK", 100)
    shuffled = METRICS[name](a.flip(0), b.flip(0))
    assert shuffled == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_inputs_are_left_alone_and_may_be_float32_or_numpy(name):
    a, b = normal(60, 4, 28, torch.float32), normal(60, 4, 29, torch.float32)
    before = a.clone(), b.clone()
    value = METRICS[name](a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert METRICS[name](a.numpy(), b.double()) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_bad_features_are_refused(name):
    good = normal(30, 3, 30)
    bad = good.clone()
    bad[4, 1] = math.nan
    with pytest.raises(ValueError, match=r"generated must be finite.* index \(4, 1\)"):
        METRICS[name](bad, good)
    with pytest.raises(ValueError, match="reference must have 3 columns, got 2"):
        METRICS[name](good, good[:, :2])
    with pytest.raises(ValueError, match="generated must have shape"):
        METRICS[name](good[0], good)


def test_inception_score_of_certain_mixed_and_equal_samples():
    certain = torch.eye(4).double()[[0, 1, 1, 1]]  # frequencies 1/4, 3/4: exp of their entropy
    right = math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert metrics.inception_score(certain) == pytest.approx(right, rel=1e-12)
    p = torch.softmax(3 * normal(50, 6, seed=0), 1)
    by_rows = (p * (p / p.mean(0)).log()).sum(1).mean().exp()
    assert metrics.inception_score(p) == pytest.approx(float(by_rows), rel=1e-12)
    assert metrics.inception_score(p[:1]) == 1.0
    with pytest.raises(ValueError, match=r"probabilities must have rows >= 0 .*softmax"):
        metrics.inception_score([[0.5, 0.6]])


def test_inception_score_of_equal_samples_is_never_below_one():
    for seed in range(50):  # where sums are rounded down, without a bound every fifth would be
        row = torch.rand(10, generator=torch.Generator().manual_seed(seed)).double()
        assert metrics.inception_score((row / row.sum()).repeat(37, 1)) >= 1.0


def test_inception_score_takes_rows_that_sum_to_one_nearly():
    p = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).double()
    p = p / p.sum(1, keepdim=True)
    off = p * (1 + 5e-5 * torch.linspace(-1, 1, 20).double()[:, None])
    exact = metrics.inception_score(p)
    assert metrics.inception_score(off) == pytest.approx(exact, rel=1e-12)
