"""Linear systems of graph Laplacians against dense and direct solutions."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial import Delaunay

from aeot.geometry.diagram import laplacian
from aeot.solvers.laplacian import LaplacianSolver, TwoGrids, aggregates, preconditioned


def planar(n, *, decades, seed=0):
    """The Laplacian of a triangulation with weights over some decades, and a right-hand side."""
    rng = np.random.default_rng(seed)
    triangles = Delaunay(rng.random((n, 2))).simplices
    i, j = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2)), axis=0).T
    right = rng.normal(size=n)
    return laplacian(i, j, 10 ** rng.uniform(-decades, 0, len(i)), n), right - right.mean()


@pytest.mark.parametrize("n", [1, 2, 500, 3000])
def test_residual(n):
    if n < 3:
        matrix, right = laplacian(*np.triu_indices(n, 1), np.ones(n - 1), n), np.arange(n) - 0.5
    else:
        matrix, right = planar(n, decades=2)
    x = LaplacianSolver()(matrix, right, tolerance=1e-10)
    assert np.linalg.norm(matrix @ x - (right - right.mean())) <= 1e-9 * np.linalg.norm(right)
    assert x.mean() == pytest.approx(0, abs=1e-12 * np.abs(x).max() if n > 1 else 1e-15)


@pytest.mark.parametrize("decades", [0, 2, 6])
def test_two_grids_agree_with_the_factor(decades):
    matrix, right = planar(3000, decades=decades)
    direct = LaplacianSolver()(matrix, right, tolerance=1e-10)  # so few are factorised
    inverse = TwoGrids(matrix)
    x, steps = preconditioned(matrix, right, inverse, 1e-10, 200)
    assert steps is not None
    assert np.abs(x - x.mean() - direct).max() < 1e-7 * np.abs(direct).max()
    # It is symmetric, or conjugate gradients would not be.
    a, b = np.random.default_rng(1).normal(size=(2, 3000))
    a, b = a - a.mean(), b - b.mean()
    assert a @ inverse(b) == pytest.approx(b @ inverse(a), rel=1e-9)


def test_steps_hardly_grow_with_the_graph():
    steps = []
    for n in (1000, 16000):
        matrix, right = planar(n, decades=1)
        steps.append(preconditioned(matrix, right, TwoGrids(matrix), 1e-8, 200)[1])
    assert steps[1] < 1.5 * steps[0]


def test_a_kept_coarse_graph_is_made_anew_when_it_no_longer_serves(monkeypatch):
    monkeypatch.setattr("aeot.solvers.laplacian._COARSE", 100)
    solve = LaplacianSolver()
    one, right = planar(2000, decades=0)
    graphs = []
    for matrix in (one, 1.1 * one, planar(2000, decades=5)[0], one):
        x = solve(matrix, right, tolerance=1e-10)
        assert np.linalg.norm(matrix @ x - right) <= 1.01e-10 * np.linalg.norm(right)
        graphs.append(solve._kept)
    assert graphs[0] is not None
    assert graphs[1] is graphs[0]
    assert graphs[2] is not graphs[1]


@pytest.mark.parametrize("coarse", [100, 20_000])
@pytest.mark.parametrize("dense", [False, True])
def test_the_mean_of_the_right_hand_side_is_taken_off(monkeypatch, coarse, dense):
    monkeypatch.setattr("aeot.solvers.laplacian._COARSE", coarse)
    n = 2100
    matrix, right = planar(n, decades=1)
    if dense:  # too many neighbours for a factor
        rng = np.random.default_rng(3)
        matrix = laplacian(*rng.integers(0, n, (2, 12 * n)), np.ones(12 * n), n)
    x = LaplacianSolver()(matrix, right + 3.0, tolerance=1e-10)
    assert np.linalg.norm(matrix @ x - right) <= 1e-8 * np.linalg.norm(right)


def test_groups_are_connected_and_cover_all():
    matrix, _ = planar(2000, decades=2)
    group, count = aggregates(matrix.indptr, matrix.indices, matrix.data)
    assert set(group) == set(range(count))
    assert count < 2000 / 3
    i, j = matrix.nonzero()
    inside = group[i] == group[j]
    graph = sp.coo_matrix((np.ones(inside.sum()), (i[inside], j[inside])), shape=matrix.shape)
    assert sp.csgraph.connected_components(graph)[0] == count
