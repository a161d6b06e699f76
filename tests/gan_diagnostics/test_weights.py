import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from aeot.gan_diagnostics import weights


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


@pytest.mark.parametrize("wanted", [-1.0, -0.1, 0.0, 0.2, 0.7])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("curvature", [0.5, 2.0])
def test_identity_shift_minimises_its_objective(wanted, weight, curvature):
    shift = weights.identity_shift(wanted, weight, curvature=curvature)
    grid = np.linspace(-1.5, 1.5, 30_001)
    values = curvature * (grid - wanted) ** 2 + weight * np.abs(grid)
    assert shift == pytest.approx(grid[values.argmin()], abs=1e-4)


def test_too_few_or_equal_residuals_are_named():
    for values, estimate, words in (
        ([], "mean", "hold at least 1 for 'mean', got 0"),
        ([0.3], "std", "hold at least 2 for 'std', got 1"),
        ([0.3, 0.3], "std", "not be all equal"),
        ([0.0, 0.0], "mean", "not be all zero"),
    ):
        with pytest.raises(ValueError, match=f"residuals must {words}"):
            weights.l1_weight(values, estimate=estimate)
