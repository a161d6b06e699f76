"""The claims of the table of critics, at a small size and against closed forms."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from aeot.gan_diagnostics import critics

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("bench_critics", ROOT / "benchmarks/bench_critics.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def small(**options):
    return bench.row(options, 0, steps=300, hidden=64)


def test_the_best_critic_of_a_strong_penalty_reports_the_distance():
    assert bench.optimum(1e6) == pytest.approx(bench.DISTANCE, abs=1e-4)
    assert bench.optimum() == pytest.approx(1.2833, abs=1e-3)  # docs/adversarial.md


@pytest.mark.slow
def test_a_mixed_penalty_comes_near_its_best_critic():
    found = small()
    assert found["estimate"] == pytest.approx(bench.optimum(), rel=0.06)
    assert found["bound"] < 1.02 * bench.DISTANCE  # the noise of the sample


@pytest.mark.slow
def test_clipping_makes_a_critic_flat_or_steep_and_no_constraint_steeper_still():
    flat, steep, free = (
        small(penalty=0.0, clip=0.01),
        small(penalty=0.0, clip=0.3),
        small(penalty=0.0),
    )
    assert flat["estimate"] < 0.05
    assert steep["estimate"] > 3 * bench.DISTANCE
    assert free["estimate"] > 3 * bench.DISTANCE


@pytest.mark.parametrize("bins", [2, 10])
def test_the_divergence_of_single_points_is_that_of_chance(bins):
    """Two samples of one point each: log 2 unless they share a bin, so log 2 (1 - 1 / bins)."""
    g = torch.Generator().manual_seed(bins)
    values = []
    for _ in range(2000):
        one, two = (torch.histc(torch.rand(1, generator=g), bins, 0, 1) for _ in range(2))
        values.append(critics.jensen_shannon(one, two))
    wanted = math.log(2) * (1 - 1 / bins)
    assert sum(values) / len(values) == pytest.approx(wanted, abs=4 * 0.35 / 2000**0.5)
