"""The Sinkhorn divergence against closed forms, POT and finite differences."""

import numpy as np
import ot
import pytest
import torch

from aeot.gan.sinkhorn import sinkhorn_divergence


def clouds(n=12, m=9, d=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64)
    return x, 1.5 * torch.randn(m, d, generator=draw, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("eps", [0.05, 0.5, 5.0])
def test_a_translation_costs_half_its_square_at_every_blur(eps):
    x, _ = clouds()
    move = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    value = sinkhorn_divergence(x + move, x, blur=eps**0.5)
    assert float(value.detach()) == pytest.approx(float(move.detach().square().sum()) / 2, rel=1e-6)
    (slope,) = torch.autograd.grad(value, move)
    torch.testing.assert_close(slope, move.detach(), atol=1e-3, rtol=0)


def test_gradient_at_each_point_is_a_share_of_the_displacement():
    x, _ = clouds()
    y = (x + torch.tensor([2.0, 0, 0], dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(sinkhorn_divergence(y, x, blur=0.3), y)
    wanted = torch.tensor([2.0 / 12, 0, 0], dtype=torch.float64).expand(12, -1)
    torch.testing.assert_close(slope, wanted, atol=1e-4, rtol=0)


def entropic(x, y, eps):
    """OT_eps(x, y) = <P, C> + eps KL(P | a b), the plan from POT."""
    cost = ot.dist(x, y) / 2
    a, b = ot.unif(len(x)), ot.unif(len(y))
    plan = ot.sinkhorn(a, b, cost, eps, method="sinkhorn_log", numItermax=5_000, stopThr=1e-10)
    product = a[:, None] * b[None, :]
    relative = (plan * np.log(np.maximum(plan, 1e-300) / product)).sum()
    return (plan * cost).sum() + eps * relative


@pytest.mark.parametrize("blur", [1.0, 1.5, 6.0])
def test_against_pot(blur):
    x, y = clouds()
    a, b = x.numpy(), y.numpy()
    wanted = entropic(a, b, blur**2) - (entropic(a, a, blur**2) + entropic(b, b, blur**2)) / 2
    assert float(sinkhorn_divergence(x, y, blur=blur)) == pytest.approx(wanted, rel=2e-4)


def test_both_limits():
    x, y = clouds(10, 10)
    w2 = ot.emd2(ot.unif(10), ot.unif(10), ot.dist(x.numpy(), y.numpy()))
    sharp = sinkhorn_divergence(x, y, blur=0.05, scaling=0.95)
    assert float(sharp) == pytest.approx(w2 / 2, rel=0.02)
    means = float((x.mean(0) - y.mean(0)).square().sum()) / 2
    assert float(sinkhorn_divergence(x, y, blur=200.0)) == pytest.approx(means, rel=1e-3)
    assert float(sinkhorn_divergence(x, x, blur=0.5)) == pytest.approx(0, abs=1e-12)
    assert float(sinkhorn_divergence(x, y, blur=0.5)) > 0


def test_gradients_by_finite_differences():
    x, y = clouds(5, 4, 2)
    x.requires_grad_()
    y.requires_grad_()
    slopes = torch.autograd.grad(sinkhorn_divergence(x, y, blur=0.8, scaling=0.95), (x, y))
    for points, slope in zip((x, y), slopes, strict=True):
        for i, j in np.ndindex(*points.shape):
            values = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    points[i, j] += step
                    values.append(float(sinkhorn_divergence(x, y, blur=0.8, scaling=0.95)))
                    points[i, j] -= step
            assert float(slope[i, j]) == pytest.approx((values[0] - values[1]) / 2e-4, abs=1e-4)


def test_bad_arguments():
    x, y = clouds()
    with pytest.raises(ValueError, match="blur must"):
        sinkhorn_divergence(x, y, blur=0)
    with pytest.raises(ValueError, match="scaling must"):
        sinkhorn_divergence(x, y, blur=1, scaling=1)
    with pytest.raises(ValueError, match="y must have 3 columns"):
        sinkhorn_divergence(x, y[:, :2], blur=1)


def test_lists_are_points():
    assert float(sinkhorn_divergence([[0.0], [1.0]], [[2.0], [3.0]], blur=0.1)) == pytest.approx(2)
    with pytest.raises(ValueError, match="scaling must be a finite number, got 'fast'"):
        sinkhorn_divergence([[0.0]], [[1.0]], blur=0.1, scaling="fast")
