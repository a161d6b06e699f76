import numpy as np
import pytest
import torch

from aeot import generator
from aeot.search.engines import cell, top_k
from aeot.search.line import envelope, owners


def brute(x, y, h):
    return (x.double()[:, None] * y.double() + h).argmax(1)


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_cells_are_those_of_brute_force(n):
    g = generator(0, n)
    y, h = torch.randn(n, generator=g).double(), torch.randn(n, generator=g).double() / n
    x = 3 * torch.randn(2000, generator=g).double()
    assert torch.equal(owners(x, y, h), brute(x, y, h))
    order, meet = envelope(y, h)
    assert (np.diff(meet) > 0).all()
    assert (np.diff(y.numpy()[order]) > 0).all()
    assert set(brute(x, y, h).tolist()) <= set(order.tolist())


def test_equal_sites_and_equal_heights():
    y, h = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.0]), torch.tensor([0.0, -1.0, -0.5, 0.0, -1.5])
    order, meet = envelope(y, h)
    assert order.tolist() == [0, 2, 4]
    assert meet.tolist() == [0.5, 1.0]
    assert owners(torch.tensor([0.5, 0.51, 1.0, 1.1]), y, h).tolist() == [0, 2, 2, 4]


def test_narrow_cells_far_from_zero_are_told_apart():
    # float32 products of these are all one number
    y = 1e6 + torch.arange(1000, dtype=torch.float64) / 1000
    share = torch.arange(1, 1000, dtype=torch.float64) / 1000
    h = torch.cat([torch.zeros(1).double(), -(share * y.diff()).cumsum(0)])
    x = (torch.arange(1000).double() + 0.5) / 1000
    assert torch.equal(cell(x[:, None].float(), y[:, None], h), torch.arange(1000))
    for engine in ("numba", "torch", "kdtree"):
        found = top_k(x[:, None], y[:, None], h, 1, engine=engine)[1][:, 0]
        assert torch.equal(found, torch.arange(1000))


def test_a_line_that_touches_the_envelope_in_a_point_has_no_cell():
    sites = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    for heights in ([0.0, 0.0, 0.0, -1.0], [0.0, 0.0, -1.0, -2.0]):
        order, meet = envelope(sites, torch.tensor(heights))
        assert len(order) == 3
        assert (np.diff(meet) > 0).all(), "every cell has a width"
