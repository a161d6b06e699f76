import pytest
import torch

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
