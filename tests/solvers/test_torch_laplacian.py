import numpy as np
import pytest
import scipy.sparse
import torch

from aeot import generator
from aeot.geometry.diagram import laplacian
from aeot.solvers.laplacian import beside, conjugate_gradient
from aeot.solvers.torch_laplacian import TorchLaplacian


def pairs(n=40, k=300, seed=0):
    g = generator(seed)
    first = torch.randint(n, (k,), generator=g)
    second = (first + torch.randint(1, n, (k,), generator=g)) % n
    return first, second, 0.5 + torch.rand(k, generator=g, dtype=torch.float64).exp()


def dense(graph):
    n = len(graph.indptr) - 1
    return torch.stack([graph @ row for row in torch.eye(n, dtype=torch.float64)])


def test_it_is_the_laplacian_that_scipy_assembles():
    first, second, weight = pairs()
    graph = TorchLaplacian.of_pairs(first, second, weight, 41)  # one vertex without an edge
    expected = laplacian(first.numpy(), second.numpy(), weight.numpy(), 41)
    # Weights are counted in steps of 2**-20 of the least one.
    assert np.allclose(dense(graph), expected.toarray(), atol=1e-5)
    assert np.allclose(graph.diagonal(), expected.diagonal(), atol=1e-5)
    parts = tuple(x.numpy() for x in (graph.data, graph.indices, graph.indptr))
    scipy.sparse.csr_matrix(parts, shape=(41, 41)).check_format(full_check=True)


def test_the_order_of_the_pairs_changes_no_bit():
    first, second, weight = pairs(k=5000)
    order = torch.randperm(5000, generator=generator(1))
    one = TorchLaplacian.of_pairs(first, second, weight, 40)
    other = TorchLaplacian.of_pairs(second[order], first[order], weight[order], 40)
    for name in ("data", "indices", "indptr"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_sums_and_multiples_are_those_of_matrices():
    one, other = (TorchLaplacian.of_pairs(*pairs(k=60, seed=s), 40) for s in (0, 1))
    none = TorchLaplacian.of_pairs(*(x[:0] for x in pairs()), 40)
    assert torch.allclose(dense(one + other), dense(one) + dense(other))
    assert torch.equal(dense(one + none), dense(one))
    assert torch.allclose(dense(one * 3), 3 * dense(one))
    assert torch.allclose(dense(one / 3), dense(one) / 3)
    assert not dense(none).any()


def test_a_weight_beyond_all_others_does_not_overflow():
    first, second = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2])
    weight = torch.tensor([1.0, 1e300, 1.0], dtype=torch.float64)
    assert float(TorchLaplacian.of_pairs(first, second, weight, 3).data.max()) == 2**22


def test_conjugate_gradients_solve_on_either_side():
    first, second, weight = pairs()
    expected = laplacian(first.numpy(), second.numpy(), weight.numpy(), 40)
    graph = TorchLaplacian.of_pairs(first, second, weight, 40)
    g = generator(3)
    ridge = 0.1 + torch.rand(40, generator=g, dtype=torch.float64)
    right = torch.randn(40, generator=g, dtype=torch.float64)
    made = []
    for matrix in (expected, graph):
        sides = beside(matrix, ridge), beside(matrix, right)
        made.append(torch.as_tensor(conjugate_gradient(matrix, *sides, tolerance=1e-10)))
    exact = np.linalg.solve(expected.toarray() + np.diag(ridge), right)
    assert np.allclose(made[0], exact, atol=1e-7)
    assert made[1].numpy() == pytest.approx(exact, abs=1e-4)
