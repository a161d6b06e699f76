import numpy as np
import pytest
import scipy.sparse
import torch

from aeot.solvers.laplacian import conjugate_gradient
from aeot.solvers.minimize import Evaluation, Trust, lbfgs, levenberg


def quadratic(n=30, seed=0):
    """E(h) = h' L h / 2 - <b, h> with a graph Laplacian: masses L h - b + target."""
    rng = np.random.default_rng(seed)
    w = np.triu(rng.uniform(size=(n, n)) * (rng.uniform(size=(n, n)) < 0.3), 1)
    w += w.T + 0.01 * (1 - np.eye(n))
    laplacian = np.diag(w.sum(1)) - w
    b = rng.normal(size=n)
    b -= b.mean()
    target = torch.full((n,), 1 / n, dtype=torch.float64)

    def oracle(h, window=None):
        gradient = torch.from_numpy(laplacian @ h.numpy() - b)
        energy = float(h.numpy() @ (laplacian @ h.numpy()) / 2 - b @ h.numpy())
        matrix = None if window is None else scipy.sparse.csr_matrix(laplacian)
        return Evaluation(energy, gradient + target, gradient, matrix)

    return oracle, target, torch.from_numpy(np.linalg.pinv(laplacian) @ b), laplacian


@pytest.mark.parametrize("method", [levenberg, lbfgs])
def test_minimisers_find_the_minimum_of_a_quadratic(method):
    oracle, target, solution, _ = quadratic()
    trust = Trust(unit=0.01, up=100.0)
    start = torch.zeros_like(target)
    h, now, info = method(oracle, start, target, trust=trust, stop=1e-6, max_steps=3000)
    assert float((h - h.mean() - solution).abs().max()) < 1e-4
    assert float(now.gradient.abs().sum()) / 2 <= 1e-6
    assert 0 < info["steps"] < 3000
    assert info["bound"] == 0


def test_newton_needs_fewer_steps_than_lbfgs():
    steps = {}
    for method in (levenberg, lbfgs):
        oracle, target, _, _ = quadratic()
        start = torch.zeros_like(target)
        trust = Trust(unit=0.01, up=100.0)
        info = method(oracle, start, target, trust=trust, stop=1e-6, max_steps=3000)[2]
        steps[method.__name__] = info["steps"]
    assert steps["levenberg"] < steps["lbfgs"]


@pytest.mark.parametrize("method", [levenberg, lbfgs])
def test_the_box_bounds_every_height(method):
    oracle, target, solution, _ = quadratic()
    up = 0.05 * float(solution.abs().max())
    start = torch.zeros_like(target)
    trust = Trust(unit=0.01, up=up)
    h, now, info = method(oracle, start, target, trust=trust, stop=1e-9, max_steps=50)
    assert float(h.max()) <= up + 1e-12
    assert float(h.min()) >= -6 * up - 1e-12
    assert info["bound"] > 0
    assert now.energy < oracle(start).energy


def test_conjugate_gradient_solves_the_damped_system():
    _, _, _, laplacian = quadratic()
    ridge = np.linspace(0.1, 1.0, 30)
    right = np.random.default_rng(1).normal(size=30)
    matrix = scipy.sparse.csr_matrix(laplacian)
    x = conjugate_gradient(matrix, ridge, right, tolerance=1e-12, max_steps=200)
    assert np.allclose(x, np.linalg.solve(laplacian + np.diag(ridge), right), atol=1e-9)
