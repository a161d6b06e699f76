import math

import numpy as np
import ot
import pytest
import torch
from scipy.stats import norm, wasserstein_distance

from aeot import generator
from aeot.metrics import wasserstein1


def rows(n, width, key, spread=1.0):
    return spread * torch.randn(n, width, generator=generator(3, key), dtype=torch.float64)


def test_two_gaussians_on_a_line_have_their_closed_form():
    # N(0, 1) against N(1, 4): the means are 1 apart, the standard deviations 1; 1.16663.
    shift, spread = 1.0, 1.0
    right = spread * math.sqrt(2 / math.pi) * math.exp(-((shift / spread) ** 2) / 2)
    right += shift * (1 - 2 * norm.cdf(-shift / spread))
    found = wasserstein1(rows(400_000, 1, "a"), 1 + rows(300_000, 1, "b", spread=2.0))
    assert abs(right - 1.16663) < 1e-5
    assert found == pytest.approx(right, abs=0.01)  # the spread of 4e5 samples is 0.004


def test_a_line_agrees_with_scipy_for_any_two_numbers_of_rows():
    a, b = rows(37, 1, "a"), 0.3 + rows(91, 1, "b", spread=2.0)
    right = wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    assert wasserstein1(a, b) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize(("m", "n"), [(12, 12), (8, 12), (1, 5)])
def test_an_exact_distance_is_that_of_the_linear_program(m, n):
    from scipy.optimize import linprog

    a, b = rows(m, 3, "a"), 0.5 + rows(n, 3, "b")
    cost = torch.cdist(a, b).numpy()
    sums = np.r_[np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))]
    masses = np.r_[np.full(m, 1 / m), np.full(n, 1 / n)]
    right = linprog(cost.ravel(), A_eq=sums, b_eq=masses).fun
    assert wasserstein1(a, b) == pytest.approx(right, rel=1e-9)


def test_a_shift_costs_its_length_and_sliced_its_mean_shadow():
    a, shift = rows(200, 2, "a"), torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert wasserstein1(a, a + shift) == pytest.approx(5.0, rel=1e-12)
    sliced = wasserstein1(a, a + shift, projections=20_000)
    assert sliced == pytest.approx(5 * 2 / math.pi, rel=0.01)  # 20 000 directions: 0.3 %
    assert sliced <= 5.0


def test_a_shadow_is_never_longer_and_a_seed_chooses_the_directions():
    a, b = rows(60, 5, "a"), rows(60, 5, "b", spread=1.5)
    first = wasserstein1(a, b, projections=50, seed=1)
    assert first == wasserstein1(a, b, projections=50, seed=1)
    assert first != wasserstein1(a, b, projections=50, seed=2)
    assert first <= wasserstein1(a, b)


@pytest.mark.parametrize(("m", "n"), [(97, 101), (71, 83)])
def test_numbers_of_rows_without_a_small_common_multiple_are_taken(m, n):
    """Of 97 and 101 rows it is 9 797, too many for an assignment: against POT's network simplex."""
    a, b = rows(m, 3, "a"), 0.5 + rows(n, 3, "b", spread=2.0)
    right = ot.emd2(ot.unif(m), ot.unif(n), torch.cdist(a, b).numpy())
    assert math.lcm(m, n) > 5000
    assert wasserstein1(a, b) == pytest.approx(right, rel=1e-7)


def test_too_many_rows_for_an_assignment_have_a_way_out():
    a, b = torch.zeros(600, 2), torch.ones(599, 2)
    told = r"lcm\(m, n\) <= 5000 or m n <= 250000 .*m = 600, n = 599.*projections"
    with pytest.raises(ValueError, match=told):
        wasserstein1(a, b)
    assert wasserstein1(a, b, projections=10) > 0


@pytest.mark.parametrize("projections", [0, -1, 1.5])
def test_a_number_of_directions_that_is_none_is_refused(projections):
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="projections must be a whole number >= 1, got"):
        wasserstein1(x, x, projections=projections)
