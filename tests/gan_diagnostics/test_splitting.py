import numpy as np
import ot
import pytest
import torch

from aeot.gan_diagnostics.splitting import diversity, mass_splitting


def test_one_point_onto_two():
    found = mass_splitting(torch.zeros(1, 1), torch.tensor([[-1.0], [1.0]]))
    assert found.plan.tolist() == [[0.5, 0.5]]
    assert (found.split, found.plan_cost, found.map_error) == (1.0, 1.0, 1.0)
    # No other point does better than the barycentre: W2^2(delta_c, nu) = 1 + c^2.
    assert found.map_points.tolist() == [[0.0]]


def test_a_permutation_splits_nothing():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
    found = mass_splitting(x, x[torch.randperm(12)] + 0.01)
    assert found.split == 0
    assert found.map_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 6), (9, 3), (5, 7)])
def test_plan_against_a_linear_program(n, m):
    generator = torch.Generator().manual_seed(n)
    x, y = torch.randn(n, 2, generator=generator), torch.randn(m, 2, generator=generator)
    found = mass_splitting(x, y)
    cost = ot.dist(x.double().numpy(), y.double().numpy())
    assert found.plan_cost == pytest.approx(ot.emd2(ot.unif(n), ot.unif(m), cost), rel=1e-9)
    np.testing.assert_allclose(found.plan.sum(0), np.full(m, 1 / m), atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(1), np.full(n, 1 / n), atol=1e-12)
    mapped = ot.dist(found.map_points.numpy(), y.double().numpy())
    assert found.map_error == pytest.approx(ot.emd2(ot.unif(n), ot.unif(m), mapped), rel=1e-9)


def test_unequal_masses_against_another_program():
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(7, 2, generator=g).double(), torch.randn(5, 2, generator=g).double()
    mu, nu = (torch.rand(k, generator=g).double() + 0.1 for k in (7, 5))
    mu, nu = mu / mu.sum(), nu / nu.sum()
    found = mass_splitting(x, y, mu, nu)
    cost = ot.dist(x.numpy(), y.numpy())
    assert found.plan_cost == pytest.approx(ot.emd2(mu.numpy(), nu.numpy(), cost), rel=1e-7)
    torch.testing.assert_close(found.plan.sum(0), nu)
    torch.testing.assert_close(found.plan.sum(1), mu)
    left = ot.emd2(mu.numpy(), nu.numpy(), ot.dist(found.map_points.numpy(), y.numpy()))
    assert found.map_error == pytest.approx(left, rel=1e-6)


def test_one_point_onto_two_of_unequal_masses():
    """The barycentre leaves the variance p (1 - p) |b - a|^2, and nothing does better."""
    found = mass_splitting(torch.zeros(1, 1), torch.tensor([[-1.0], [1.0]]), None, [0.25, 0.75])
    assert found.plan.tolist() == [[0.25, 0.75]]
    assert found.map_points.tolist() == [[0.5]]
    assert found.map_error == pytest.approx(0.25 * 0.75 * 4)


def test_too_many_atoms():
    with pytest.raises(ValueError, match="lcm"):
        mass_splitting(torch.zeros(601, 1), torch.zeros(600, 1))
    with pytest.raises(ValueError, match="n m <= 250000"):
        mass_splitting(torch.zeros(600, 1), torch.zeros(600, 1), torch.full((600,), 1 / 600))
    with pytest.raises(ValueError, match="target_masses must sum to 1"):
        mass_splitting(torch.zeros(1, 1), torch.zeros(2, 1), None, [0.5, 0.4])


def test_diversity_is_the_mean_over_pairs():
    x = torch.zeros(3, 1, 4, 4)

    def noisy(images, seed):
        return images + torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))

    draws = [noisy(x, seed) for seed in range(5)]
    pairs = [float((a - b).abs().mean()) for i, a in enumerate(draws) for b in draws[:i]]
    assert diversity(noisy, x, n_draws=5) == pytest.approx(sum(pairs) / 10, rel=1e-6)
    assert diversity(lambda images, seed: images, x) == 0


def test_tensors_in_training_are_taken():
    points = torch.randn(4, 2, requires_grad=True)
    assert mass_splitting(points, points + 1).plan_cost == pytest.approx(2, rel=1e-5)
