import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from aeot.diagnostics import normalisation, weights


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_divergence_by_quadrature_and_its_minimum(sigma):
    normal = stats.norm(scale=sigma)
    for weight in (0.3 / sigma, 1 / sigma, 4 / sigma):
        laplace = stats.laplace(scale=1 / weight)
        value, _ = integrate.quad(
            lambda r, q=laplace: normal.pdf(r) * (normal.logpdf(r) - q.logpdf(r)),
            -12 * sigma, 12 * sigma, points=[0],
        )  # fmt: skip
        assert weights.laplace_divergence(weight, sigma) == pytest.approx(value, rel=1e-6)
    best = optimize.minimize_scalar(
        lambda log: weights.laplace_divergence(math.exp(log), sigma), bounds=(-5, 5)
    )
    assert math.exp(best.x) == pytest.approx(math.sqrt(math.pi / (2 * sigma**2)), rel=1e-3)
    assert best.fun == pytest.approx(0.5 * math.log(4 / math.pi**2) + 0.5, abs=1e-6)


def test_l1_weight_by_both_estimates():
    noise = np.random.default_rng(0).normal(0, 0.3, 200_000)
    wanted = math.sqrt(math.pi / (2 * 0.3**2))
    for estimate in ("mean", "std"):
        assert weights.l1_weight(noise, estimate=estimate) == pytest.approx(wanted, rel=0.01)
    # Laplace noise of scale 0.2: only "mean" gives its own weight, 5.
    heavy = np.random.default_rng(1).laplace(0, 0.2, 200_000)
    assert weights.l1_weight(heavy) == pytest.approx(5, rel=0.01)
    assert weights.l1_weight(heavy, estimate="std") == pytest.approx(
        math.sqrt(math.pi / 2) / (0.2 * math.sqrt(2)), rel=0.01
    )
    with pytest.raises(ValueError, match="residuals must not be all zero"):
        weights.l1_weight(torch.zeros(3))


@pytest.mark.parametrize("wanted", [-1.0, -0.1, 0.0, 0.2, 0.7])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("curvature", [0.5, 2.0])
def test_identity_shift_minimises_its_objective(wanted, weight, curvature):
    shift = weights.identity_shift(wanted, weight, curvature=curvature)
    grid = np.linspace(-1.5, 1.5, 30_001)
    values = curvature * (grid - wanted) ** 2 + weight * np.abs(grid)
    assert shift == pytest.approx(grid[values.argmin()], abs=1e-4)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_statistics(affine):
    torch.manual_seed(0)
    layer = torch.nn.InstanceNorm2d(3, affine=affine).double()
    if affine:
        torch.nn.init.uniform_(layer.weight, 0.5, 3)
        torch.nn.init.uniform_(layer.bias, -1, 1)
    x = torch.tensor([0.01, 1.0, 40.0])[:, None, None] * torch.randn(2, 3, 8, 8).double() + 7
    found = normalisation.instance_statistics(layer, x)
    for name in ("mean", "variance"):
        torch.testing.assert_close(found[name], found[f"expected_{name}"], atol=1e-9, rtol=1e-9)
    # The smallest channel shows the eps: variance 1e-4 against 1e-5.
    scale = layer.weight[0] ** 2 if affine else 1.0
    assert float(found["variance"][0, 0] / scale) < 0.95


def test_contrast_response():
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert normalisation.contrast_response(lambda v: v, x) == pytest.approx(1)
    norm = torch.nn.InstanceNorm2d(1, eps=0.0)
    assert normalisation.contrast_response(norm, x) < 1e-5
    assert normalisation.contrast_response(lambda v: 3 * v, x) == pytest.approx(3)


def test_too_few_or_equal_residuals_are_named():
    for values, estimate, words in (
        ([], "mean", "hold at least 1 for 'mean', got 0"),
        ([0.3], "std", "hold at least 2 for 'std', got 1"),
        ([0.3, 0.3], "std", "not be all equal"),
        ([0.0, 0.0], "mean", "not be all zero"),
    ):
        with pytest.raises(ValueError, match=f"residuals must {words}"):
            weights.l1_weight(values, estimate=estimate)
