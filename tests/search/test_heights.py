import numpy as np
import ot
import pytest
import torch

import aeot
from aeot import generator
from aeot.search import heights as H


@pytest.fixture
def problem():
    draw = generator(5, "heights")
    sites = torch.randn(30, 3, generator=draw, dtype=torch.float64)
    heights = 0.3 * torch.randn(30, generator=draw, dtype=torch.float64)
    points = torch.rand(400, 3, generator=draw, dtype=torch.float64)
    return points, sites, H.center(heights)


def test_scores_are_the_planes(problem):
    points, sites, heights = problem
    by_hand = torch.stack([points @ y + h for y, h in zip(sites, heights, strict=True)], 1)
    torch.testing.assert_close(H.scores(points, sites, heights), by_hand)


def test_power_cells_are_those_of_the_highest_plane(problem):
    points, sites, heights = problem
    weights = H.power_weights(heights, sites)
    power = (points[:, None] - sites[None]).square().sum(2) - weights
    assert torch.equal(power.argmin(1), H.scores(points, sites, heights).argmax(1))


def test_c_transform_of_the_dual_is_half_a_square_minus_the_potential(problem):
    points, sites, heights = problem
    cost = (points[:, None] - sites[None]).square().sum(2) / 2
    c_transform = (cost - H.dual_from_heights(heights, sites)).min(1).values
    potential = H.scores(points, sites, heights).max(1).values
    torch.testing.assert_close(c_transform, points.square().sum(1) / 2 - potential)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_heights_of_equal_power_weights_give_voronoi_cells(problem, scale):
    points, sites, _ = problem
    nearest = torch.cdist(points, scale * sites).argmin(1)
    heights = -scale * sites.square().sum(1) / 2
    assert torch.equal(H.scores(points, sites, heights).argmax(1), nearest)
    if scale == 1:
        assert float(H.power_weights(heights, sites).abs().max()) < 1e-12


def test_cells_move_with_the_source(problem):
    points, sites, heights = problem
    shift = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    before = H.scores(points, sites, heights).argmax(1)
    moved = H.shifted_source(heights, sites, shift)
    assert torch.equal(H.scores(points + shift, sites, moved).argmax(1), before)


@pytest.mark.parametrize("kind", ["weights", "matrix"])
def test_sites_of_another_cost_give_its_optimal_plan(problem, kind):
    """Compared with the linear programme on points and the masses that the map gives them."""
    points, sites, _ = problem
    cost = torch.tensor([4.0, 1.0, 0.1], dtype=torch.float64)
    if kind == "matrix":
        turn = torch.linalg.qr(torch.randn(3, 3, generator=generator(1)).double())[0]
        cost = turn @ torch.diag(cost) @ turn.T
    matrix = cost if kind == "matrix" else torch.diag(cost)
    solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=3), aeot.cost_sites(sites, cost))
    owner = solution.map().cell(points)
    apart = points[:, None] - sites[None]
    table = torch.einsum("mnd,de,mne->mn", apart, matrix, apart) / 2
    masses = torch.bincount(owner, minlength=30).double() / len(points)
    least = ot.emd2(np.full(400, 1 / 400), masses.numpy(), table.numpy())
    paid = float(table[torch.arange(400), owner].mean())
    assert abs(paid - least) < 1e-9
    plain = aeot.solve_semidiscrete(aeot.UniformBox(dim=3), sites).map().cell(points)
    assert float(table[torch.arange(400), plain].mean()) > 1.02 * least


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ([1.0, 2.0], r"cost must have shape \(3,\) or \(3, 3\), got shape \(2,\)"),
        ([1.0, 0.0, 1.0], "cost must be positive definite, got least weight 0; leave out"),
        (-np.eye(3), "cost must be positive definite, got least eigenvalue -1"),
        (np.triu(np.ones((3, 3))), "cost must be symmetric, got a matrix that is not"),
        ([1.0, float("nan"), 1.0], "cost must be finite"),
        ("mahalanobis", "cost must be a numeric array"),
        (1e308 * np.eye(3), "cost must leave the sites finite, got 1e.308, .*; divide it by"),
    ],
)
def test_costs_that_are_no_metric_are_refused(problem, cost, message):
    with pytest.raises(ValueError, match=message):
        aeot.cost_sites(problem[1], cost)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(8))
def test_a_singular_cost_is_refused_whatever_sign_rounding_gives_its_zero(problem, seed, dtype):
    thin = np.random.default_rng(seed).normal(size=(3, 2)) * [[1e-3], [1], [1e4]]
    cost = (thin @ thin.T).astype(dtype)
    with pytest.raises(ValueError, match="cost must be positive definite, got least eigenvalue"):
        aeot.cost_sites(problem[1], cost)
    axes = thin[:, :1] ** 2 * np.eye(3)  # its diagonal alone costs something on every axis
    assert torch.equal(aeot.cost_sites(problem[1], axes), problem[1].double() @ torch.tensor(axes))
