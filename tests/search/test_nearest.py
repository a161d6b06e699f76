import numpy as np
import pytest
import torch
from scipy import spatial

from aeot import generator, metrics
from aeot.search import nearest as module
from aeot.search.nearest import nearest


def normal(rows, width, seed, dtype=torch.float64):
    return torch.randn(rows, width, generator=generator(seed), dtype=dtype)


def brute(points, reference, k):
    """Distances (m, k) and rows by all differences in float64."""
    gaps = (points.double()[:, None] - reference.double()).norm(dim=2).sort(dim=1, stable=True)
    return gaps.values[:, :k], gaps.indices[:, :k]


@pytest.mark.parametrize("k", [1, 4, 90])
@pytest.mark.parametrize("engine", ["auto", "torch", "kdtree"])
@pytest.mark.parametrize("shift", [0.0, 50.0, 1e5])
def test_agrees_with_a_tree_in_any_precision(k, engine, shift):
    for dtype in (torch.float32, torch.float64):
        points, reference = (normal(m, 3, m, dtype) + shift for m in (70, 90))
        gaps, rows = nearest(points, reference, k, engine=engine)
        tree = spatial.cKDTree(reference.double())
        expected, _ = tree.query(points.double(), k=[*range(1, k + 1)])
        # From differences on either side: equal up to the order in which squares are summed.
        np.testing.assert_allclose(gaps, expected, rtol=1e-12)
        again = (points.double()[:, None] - reference.double()[rows]).norm(dim=2)
        np.testing.assert_allclose(gaps, again, rtol=1e-12)
        assert bool((rows.sort(1).values.diff(dim=1) > 0).all())  # each row once


def test_a_copy_is_at_distance_zero():
    reference = 100 * normal(50, 20, 21, torch.float32) + 1e4
    gaps, rows = nearest(reference, reference)
    assert float(gaps.max()) == 0
    assert torch.equal(rows[:, 0], torch.arange(50))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_where_products_of_rows_are_not(dtype):
    far = 1e3 if dtype == torch.float32 else 1e7
    near = torch.cat([1e-2 * normal(50, 4, 26) + centre for centre in (far, -far)]).to(dtype)
    gaps, rows = nearest(near, near, 3)
    expected, expected_rows = brute(near, near, 3)
    torch.testing.assert_close(gaps, expected, rtol=1e-12, atol=0)
    assert torch.equal(rows, expected_rows)


def test_copies_are_found_among_far_clumps():
    near = torch.cat([1e-2 * normal(50, 4, 26) + far for far in (1e7, -1e7)])
    copies = metrics.memorisation(near, near, near + 1e-2 * normal(100, 4, 27))
    assert copies == {"ratio": 0.0, "copied": 1.0}


@pytest.mark.parametrize("k", [1, 3, 50])  # of the 50 near ones, only the order is in question
def test_tells_apart_what_products_confuse(k):
    # Two far groups: squares of rows are 1e14, squared distances 4 and closer than 1e-3.
    lengths = 2 + 1e-5 * torch.arange(50.0).double()
    directions = normal(50, 3, 0)
    ring = lengths[:, None] * directions / directions.norm(dim=1, keepdim=True)
    order = torch.randperm(50, generator=generator(1))
    far = torch.tensor([[1e7, 0, 0]]).double()
    reference = torch.cat([far + ring[order], ring - far])
    gaps, rows = nearest(far, reference, k)
    assert rows[0].tolist() == order.argsort()[:k].tolist()
    np.testing.assert_allclose(gaps[0], lengths[:k], rtol=1e-8)


def test_what_products_in_float64_tell_apart_needs_no_look_at_all_rows(monkeypatch):
    x = normal(30, 3, 4, torch.float32)
    y = normal(40, 3, 5, torch.float32) + torch.where(torch.arange(40) < 30, 0.0, 1e5)[:, None]
    expected = brute(x, y, 2)
    slow = torch.cdist
    monkeypatch.setattr(
        torch, "cdist", lambda a, b, **_: pytest.fail("slow") if len(a) else slow(a, b)
    )
    gaps, rows = nearest(x, y, 2)
    assert torch.equal(rows, expected[1])
    torch.testing.assert_close(gaps, expected[0])


@pytest.mark.parametrize("size", [1e-140, 1e-42, 1e-20, 1e20, 1e38, 1e140])
def test_of_any_size(size):
    x, y = normal(20, 4, 1).clamp(-1, 1), normal(30, 4, 2).clamp(-1, 1)
    dtype = torch.float32 if 1e-43 < size < 1e39 else torch.float64
    x, y = ((size * t).to(dtype) for t in (x, y))
    gaps, rows = nearest(x, y, 2)
    expected, expected_rows = brute(x.double() / size, y.double() / size, 2)
    torch.testing.assert_close(gaps / size, expected, rtol=1e-12, atol=0)
    assert torch.equal(rows, expected_rows)


def test_a_point_is_answered_alone_as_in_company(monkeypatch):
    x, y = normal(40, 3, 1, torch.float32), normal(60, 3, 2, torch.float32)
    y[20:40] = y[:20]  # ties
    gaps, rows = nearest(x, y, 5)
    monkeypatch.setattr(module, "_BLOCK", 50)
    for k in range(0, 40, 7):
        alone = nearest(x[k : k + 1], y, 5)
        assert torch.equal(alone[0][0], gaps[k])
        assert torch.equal(alone[1][0], rows[k])


def test_one_row_and_no_points():
    assert nearest(torch.zeros(0, 2), [[1.0, 2.0]])[1].shape == (0, 1)
    gaps, rows = nearest([[1.0, 2.0], [4.0, 6.0]], [[1.0, 2.0]])
    assert gaps.tolist() == [[0.0], [5.0]]
    assert rows.tolist() == [[0], [0]]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="k must be at most the 2 reference rows, got 3"):
        nearest([[0.0]], [[0.0], [1.0]], 3)
    with pytest.raises(ValueError, match="reference must have 1 columns, got 2"):
        nearest([[0.0]], [[0.0, 1.0]])
