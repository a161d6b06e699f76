"""Mode coverage against what is known of exact, contracted and collapsed samplers."""

import math

import pytest
import torch

from aeot.data import toy
from aeot.metrics.formulas import mode_coverage

GRID = toy("grid", 200_000, seed=3)
MODES, STD = GRID.info["modes"], GRID.info["std"]


def test_exact_sampler_scores_what_theory_says():
    scores = mode_coverage(GRID.values, MODES, STD)
    assert scores["modes"] == 25
    # Radial, not per axis: 1 - exp(-9/2).
    assert scores["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=1e-3)
    assert scores["variance_ratio"] == pytest.approx(1, abs=0.01)


def test_divergence_of_a_drawn_sample_has_the_known_floor():
    draws = [toy("grid", 2500, balanced=False, seed=s).values for s in range(40)]
    values = torch.tensor([mode_coverage(x, MODES, STD)["reverse_kl"] for x in draws])
    # (modes - 1) / (2 samples), with standard error 0.0014 / sqrt(40).
    assert float(values.mean()) == pytest.approx(24 / 5000, abs=4 * 0.0014 / math.sqrt(40))


def test_segments_between_pairs_look_better_than_exact_and_are_contracted():
    order = GRID.labels.argsort()
    by_mode = GRID.values[order].view(25, 2, 4000, 2)
    share = torch.rand(25, 4000, 1, generator=torch.Generator().manual_seed(0))
    points = torch.lerp(by_mode[:, 0], by_mode[:, 1], share).flatten(0, 1)
    scores = mode_coverage(points, MODES, STD)
    assert scores["high_quality"] == pytest.approx(0.9978, abs=1e-3)
    assert scores["variance_ratio"] == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize("k", [1, 17])
def test_even_collapse_to_some_modes(k):
    kept = GRID.values[GRID.labels < k]
    scores = mode_coverage(kept, MODES, STD)
    assert scores["modes"] == k
    assert scores["reverse_kl"] == pytest.approx(math.log(25 / k), abs=1e-6)


def test_two_readings_of_the_divergence_differ_on_bridges():
    on = MODES[:2].float().repeat(50, 1)
    between = torch.full((100, 2), 0.0) + MODES[0].float() + torch.tensor([0.0, 0.3])
    scores = mode_coverage(torch.cat([on, between]), MODES, STD)
    other = mode_coverage(torch.cat([on, between]), MODES, STD, count="high-quality")
    assert scores["reverse_kl"] == pytest.approx(
        0.75 * math.log(0.75 * 25) + 0.25 * math.log(0.25 * 25)
    )
    assert other["reverse_kl"] == pytest.approx(math.log(25 / 2))
    assert scores["high_quality"] == 0.5


def test_reference_and_units():
    masses = torch.arange(1.0, 26.0)
    uniform = mode_coverage(MODES, MODES, STD)["reverse_kl"]
    weighted = mode_coverage(MODES, MODES, STD, reference=masses)["reverse_kl"]
    wanted = float((math.log(1 / 25) - (masses / masses.sum()).log()).mean())
    assert uniform == pytest.approx(0, abs=1e-12)
    assert weighted == pytest.approx(wanted)
    # The raw grid and the one divided by 2.828 score alike.
    points = GRID.values[:2500]
    scaled = mode_coverage(points / 2.828, MODES / 2.828, STD / 2.828)
    assert scaled == pytest.approx(mode_coverage(points, MODES, STD), rel=1e-4)
    # Deviations per axis are units per axis.
    stretched = mode_coverage([[0.0, 20.0]], [[0.0, 0.0]], [1.0, 10.0])
    assert stretched["high_quality"] == 1


def test_masses_keep_their_double_precision_and_tensors_may_require_gradients(recwarn):
    samples, masses = [[0.0], [1.0], [1.0]], [0.1, 0.2]
    std = torch.tensor(0.1, requires_grad=True)
    found = mode_coverage(samples, [[0.0], [1.0]], std, reference=masses)["reverse_kl"]
    assert found == pytest.approx(0, abs=1e-15)  # float32 has 1e-8
    assert not recwarn.list


def test_a_shift_changes_nothing():
    generator = torch.Generator().manual_seed(3)
    centres = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    x = centres.repeat_interleave(50, 0)
    x = x + torch.randn(100, 1, generator=generator, dtype=torch.float64)
    there = mode_coverage(x + 1e9, centres + 1e9, 1.0)
    assert there == pytest.approx(mode_coverage(x, centres, 1.0), rel=1e-5)


def test_what_is_beyond_six_deviations_belongs_to_no_mode():
    near = [[-1.0], [1.0], [5.9], [-5.9]]
    ratio = mode_coverage(near, [[0.0]], 1.0)["variance_ratio"]
    assert ratio == pytest.approx(2 * (1 + 5.9**2) / 3, rel=1e-12)
    assert mode_coverage([*near, [6.1]], [[0.0]], 1.0)["variance_ratio"] == ratio


def test_nothing_of_quality_is_no_mode_and_no_number():
    scores = mode_coverage([[100.0, 100.0]], MODES, STD, count="high-quality")
    assert scores["modes"] == scores["high_quality"] == 0
    assert math.isnan(scores["reverse_kl"])
    assert math.isnan(scores["variance_ratio"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": 0.0}, "std must be positive"),
        ({"std": [1.0, 2.0, 3.0]}, "std must be positive, one number or 2, got"),
        ({"reference": [1.0, 2.0]}, "reference must be 25 positive numbers"),
        ({"count": "some"}, "count must be one of"),
        ({"samples": [[1.0]]}, "samples must have 2 columns"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"samples": MODES, "modes": MODES, "std": STD} | change
    with pytest.raises(ValueError, match=message):
        mode_coverage(**arguments)
