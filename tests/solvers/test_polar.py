import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

import aeot
from aeot import Gaussian, UniformBox, generator, polar_factorisation

N = 2000


def drawn(source, n=N):
    return source.sample(n, generator=generator(5, "polar")).double()


def test_a_linear_map_of_a_gaussian_is_a_rotation_and_then_its_symmetric_factor():
    # A = P O: the gradient is P = (A A^T)^(1/2), the rearrangement the rotation O.
    gaussian, matrix = Gaussian(dim=2), torch.tensor([[1.0, 2.0], [-0.5, 0.5]]).double()
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    rotation = (vectors / values.sqrt()) @ vectors.T @ matrix
    assert torch.allclose(rotation @ rotation.T, torch.eye(2).double())
    x = drawn(gaussian)
    found = polar_factorisation(gaussian, x @ matrix.T)
    error = (found.rearranged - x @ rotation.T).norm(dim=1)
    # Two samples of 2 000 points are matched within 0.05 to 0.1 of each other in the plane.
    assert float(error.median()) < 0.08
    assert float((found.rearranged - x).norm(dim=1).median()) > 0.5
    assert torch.equal(found.gradient(found.rearranged), x @ matrix.T)


def test_a_rotation_of_a_gaussian_is_all_rearrangement():
    gaussian, angle = Gaussian(dim=3), 1.0
    turn = torch.eye(3).double()
    turn[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    x = drawn(gaussian)
    found = polar_factorisation(gaussian, x @ turn.T, tol=0.05)
    error = (found.rearranged - x @ turn.T).norm(dim=1)
    assert float(error.median()) < 0.25  # 2 000 points in space lie 0.2 apart
    for axis in found.rearranged.T:  # s preserves the Gaussian; cells' means are a little inwards
        assert kstest(axis.numpy(), norm.cdf).statistic < 0.04


def test_a_shear_that_wraps_round_the_square_preserves_it_and_its_gradient_is_the_identity():
    square = UniformBox(dim=2)
    x = drawn(square)
    sheared = torch.stack([(x[:, 0] + 2 * x[:, 1]) % 1, x[:, 1]], 1)
    found = polar_factorisation(square, sheared)
    assert float((found.rearranged - sheared).norm(dim=1).mean()) < 0.04
    assert float((found.rearranged - x).norm(dim=1).mean()) > 0.2


def test_a_sheared_square_is_reached_at_the_least_cost_after_its_points_are_rearranged():
    square, shear = UniformBox(dim=2), torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double()
    x = drawn(square)
    found = polar_factorisation(square, x @ shear.T)
    # s keeps the square's law, the exact plan from the points to the values costs no less, and
    # the map as it was costs E (x_2)^2 = 1/3 where the gradient costs less.
    least = float((found.gradient(found.rearranged) - found.rearranged).square().sum(1).mean())
    as_it_was = float((x @ shear.T - x).square().sum(1).mean())
    assert as_it_was == pytest.approx(1 / 3, abs=0.02)
    subset = torch.arange(0, N, 4)
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x[subset], (x @ shear.T)[subset]).square().numpy()
    plan = float(cost[linear_sum_assignment(cost)].mean())
    assert least == pytest.approx(plan, rel=0.1)
    assert least < 0.9 * as_it_was
    for axis in found.rearranged.T:
        assert kstest(axis.numpy(), "uniform").statistic < 0.03


def test_equal_values_are_one_site_and_the_width_is_checked():
    values = np.array([[0.0], [1.0], [1.0], [1.0]])
    found = polar_factorisation(UniformBox(dim=1), values)
    assert np.allclose(found.rearranged[:, 0], [0.125, 0.625, 0.625, 0.625])
    with pytest.raises(ValueError, match="values must"):
        polar_factorisation(aeot.UniformBall(dim=3), values)
