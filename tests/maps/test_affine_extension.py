import numpy as np
import ot
import pytest
import torch

from aeot import generator
from aeot.maps import extension


def whole(n):
    """All n cells on one side."""
    return extension.Sides(torch.zeros(n, dtype=torch.int64), None)


@pytest.mark.parametrize("k", [3, 12])
def test_the_local_map_carries_the_spread_to_the_covariance_of_the_codes(k):
    g = generator(1)
    sites = torch.randn(30, 5, generator=g, dtype=torch.float64)
    near = extension.around(torch.arange(30), sites, whole(30), k)
    cells = torch.tensor([4, 17])
    matrices = torch.stack(
        [
            extension.local_affine(
                torch.eye(5, dtype=torch.float64),
                near.of(cells[[row] * 5]),
                sites,
                torch.tensor(0.25, dtype=torch.float64),
            )
            for row in range(2)
        ]
    )
    for matrix, cell in zip(matrices, cells, strict=True):
        group = sites[torch.cat([cell[None], near.lists[cell]])]
        covariance = (group - group.mean(0)).T @ (group - group.mean(0)) / k
        assert torch.allclose(matrix, matrix.T, atol=1e-10)
        assert torch.allclose(matrix * 0.25 @ matrix, covariance, atol=1e-8)
        assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-10


def test_with_cell_covariances_it_is_the_optimal_map_of_two_gaussians():
    g = generator(2)
    sites = torch.randn(9, 3, generator=g, dtype=torch.float64)
    root = torch.randn(9, 3, 3, generator=g, dtype=torch.float64)
    spread = root @ root.mT
    near = extension.around(torch.tensor([5, 5, 5]), sites, whole(9), 8)
    got = extension.local_affine(torch.eye(3, dtype=torch.float64), near, sites, spread)
    covariance = torch.cov(sites.T)
    zero = np.zeros(3)
    expected, _ = ot.gaussian.bures_wasserstein_mapping(
        zero, zero, spread[5].numpy(), covariance.numpy()
    )
    assert np.allclose(got.numpy(), expected, atol=1e-8)


def test_displacements_are_shortened_below_the_usual_length_of_their_mode():
    g = generator(4)
    move = torch.randn(400, 6, generator=g, dtype=torch.float64) * torch.rand(400, 1, generator=g)
    labels = torch.randint(2, (400,), generator=g)
    move[labels == 1] *= 50
    usual = extension.usual_length(move, labels, 3)
    for label in (0, 1):
        expected = np.median(np.linalg.norm(move[labels == label].numpy(), axis=1))
        assert abs(float(usual[label]) / expected - 1) < 0.05  # one of the two middle ones
    assert usual[2] == torch.inf
    short = extension.limited(move, usual[labels])
    before, after = move.norm(dim=1), short.norm(dim=1)
    assert torch.allclose(short / after[:, None], move / before[:, None], atol=1e-12)
    assert bool((after < usual[labels]).all())
    order = before[labels == 1].argsort()
    assert bool((after[labels == 1][order].diff() > 0).all())  # none overtakes another
    small = before < usual[labels] / 4
    assert torch.allclose(after[small], before[small], rtol=1e-3)
    assert torch.equal(extension.limited(move, torch.full((400,), torch.inf)), move)


def test_codes_lean_towards_the_mean_of_their_neighbours_on_average():
    codes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [9.0, 9.0]], dtype=torch.float64)
    cells, lists = torch.tensor([0, 3]), torch.tensor([[1, 2, 0], [3, 3, 3]])  # padded by the own
    slot = torch.arange(2).repeat_interleave(20_000)
    moved = 0.3 * torch.randn(40_000, 2, generator=generator(5), dtype=torch.float64)
    near = extension.Near(cells, lists, slot)
    found = extension.lean(moved, near, codes, 0.09)
    assert torch.allclose(
        found[:20_000].mean(0), 0.3 * torch.tensor([2.0, 1.0]).double(), rtol=0.03
    )
    assert not bool(found[20_000:].any())  # alone
    assert not bool(extension.lean(0 * moved, near, codes, 0.09).any())
