import sys
import tracemalloc

import numpy as np
import pytest
import torch

from aeot import generator
from aeot.search import numba_engine
from aeot.search.engines import cell, cell_or, choose_engine, leaders, top_k

TRITON = pytest.param("triton", marks=pytest.mark.interpreter)
ENGINES = ["numba", "torch", "kdtree", pytest.param("keops", marks=pytest.mark.keops), TRITON]


def problem(n, d, m=300, *, seed=0, dtype=torch.float64, shift=0.0, scale=1.0):
    g = generator(seed, "cells", n, d)
    sites = shift + scale * torch.randn(n, d, generator=g, dtype=dtype)
    heights = scale * torch.randn(n, generator=g, dtype=torch.float64)
    return torch.rand(m, d, generator=g, dtype=dtype), sites, heights


def brute(points, sites, heights, k):
    """All scores, one by one, in float64."""
    scores = torch.stack([(points.double() * y).sum(1) for y in sites.double()], 1) + heights
    return scores.sort(1, descending=True).values[:, :k]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 1, 1), (2, 3, 2), (17, 2, 5), (100, 3, 1), (333, 5, 20), (40, 2, 40)]
)
def test_values_are_those_of_brute_force(engine, n, d, k, dtype):
    points, sites, heights = problem(n, d, dtype=dtype)
    values, indices = top_k(points, sites, heights, k, engine=engine)
    assert values.dtype == dtype
    assert indices.dtype == torch.int64
    assert values.shape == indices.shape == (300, k)
    # an engine may pick the other of two planes that tie within its own rounding
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert torch.allclose(values.double(), brute(points, sites, heights, k), atol=tolerance, rtol=0)
    assert (indices.sort(1).values.diff(dim=1) > 0).all()  # k different planes
    attained = (points[:, None].double() * sites[indices].double()).sum(2) + heights[indices]
    assert torch.allclose(values.double(), attained, atol=tolerance, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("n", "d"), [(70, 3), (1300, 9)])
def test_the_best_of_every_range_is_that_of_brute_force(engine, n, d, dtype):
    points, sites, heights = problem(n, d, dtype=dtype)
    edges = np.array([0, 1, 40, 69, n])
    found = leaders(points, sites, heights, 5, edges, engine=engine)
    assert torch.equal(found[:, :5], top_k(points, sites, heights, 5, engine=engine)[1])
    scores = (points[:, None].double() * sites.double()).sum(2) + heights
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for g in range(4):
        best, chosen = scores[:, edges[g] : edges[g + 1]].amax(1), found[:, 5 + g]
        assert bool(((chosen >= edges[g]) & (chosen < edges[g + 1])).all())
        attained = scores.gather(1, chosen[:, None])[:, 0]
        assert torch.allclose(attained, best, atol=tolerance, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_known_planes_are_told_from_all_others(engine, dtype):
    points, sites, heights = problem(400, 6, dtype=dtype)
    known = top_k(points, sites, heights, 2)[1]
    i, j = known.T
    ahead = (sites[j] - sites[i]).double()
    lead = heights[i] - heights[j] - (points * ahead).sum(1)
    points[:200] += ((lead / ahead.square().sum(1))[:, None] * ahead).to(dtype)[:200]  # they meet
    known[250:] = torch.randint(400, (50, 2), generator=generator(1))
    owner = cell(points, sites, heights)
    inside = (owner[:, None] == known).any(1)
    assert min(int(inside[:200].sum()), int((~inside).sum())) > 40
    expected = torch.where(inside, known[:, 0], owner)
    assert torch.equal(cell_or(points, sites, heights, known, engine=engine), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_far_and_large_sites_lose_nothing_in_float32(engine):
    points, sites, heights = problem(200, 3, dtype=torch.float32, shift=1000.0, scale=50.0)
    values, indices = top_k(points, sites, heights, 1, engine=engine)
    exact = points.double() @ sites.double().T + heights
    lost = exact.amax(1) - exact.gather(1, indices)[:, 0]
    # the rounding of products of centred sites; uncentred ones lose 30 times as much
    assert float(lost.max()) < 50 * 4 * 3 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_a_point_is_answered_alone_as_in_company(engine):
    points, sites, heights = problem(500, 8, m=9000, dtype=torch.float32)
    together = top_k(points, sites, heights, 3, engine=engine)
    some = [0, 1, 4095, 4096, 8999]
    for row in some:
        alone = top_k(points[row : row + 1], sites, heights, 3, engine=engine)
        assert torch.equal(alone[0][0], together[0][row])
        assert torch.equal(alone[1][0], together[1][row])


def test_few_wide_points_take_little_memory():
    # Points are filled up to whole blocks; of pixels, those were gigabytes for a hundred images.
    points, sites = torch.rand(3, 49152), torch.rand(20, 49152)
    sites[7] = points[1] + 0.01
    heights = -sites.double().square().sum(1) / 2
    top_k(points, sites, heights, 1, engine="numba")  # compiles
    tracemalloc.start()
    try:
        _, indices = top_k(points, sites, heights, 1, engine="numba")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert int(indices[1]) == 7
    assert peak < 2e8


def test_no_points_give_no_answers():
    points, sites, heights = problem(5, 2)
    values, indices = top_k(points[:0], sites, heights, 2)
    assert values.shape == indices.shape == (0, 2)


@pytest.mark.parametrize(("engine", "package"), [("keops", "pykeops"), ("numba", "numba")])
def test_an_engine_without_its_package_says_how_to_install_it(monkeypatch, engine, package):
    monkeypatch.setitem(sys.modules, package, None)
    points, sites, heights = problem(5, 2)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        top_k(points, sites, heights, 1, engine=engine)
    top_k(points, sites, heights, 1)  # passes over it


@pytest.mark.parametrize(
    ("device", "numba", "triton", "engine"),
    [
        ("cpu", True, True, "numba"),
        ("cpu", False, True, "torch"),
        ("cuda", True, True, "triton"),
        ("cuda:1", False, True, "triton"),
        ("cuda", True, False, "torch"),
        ("mps", True, True, "torch"),
    ],
)
def test_auto_takes_what_the_device_and_the_packages_offer(device, numba, triton, engine):
    assert choose_engine(9, 2, device, has_numba=numba, has_triton=triton) == engine


def test_what_needs_a_gpu_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    points, sites, heights = problem(5, 2)
    with pytest.raises(ValueError, match="engine must be none that needs a GPU on cpu"):
        top_k(points, sites, heights, 1, engine="triton")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k must be a whole number >= 1, got 0"),
        ({"k": 6}, "k must be at most the number of sites 5, got 6"),
        ({"engine": "faiss"}, "engine must be one of 'auto', 'numba', 'triton', 'torch'"),
        ({"points": torch.zeros(3, 4)}, r"points must have shape \(rows, 2\)"),
        ({"points": torch.full((1, 2), torch.nan)}, "points must be finite"),
    ],
)
def test_bad_arguments_are_named(change, words):
    points, sites, heights = problem(5, 2)
    with pytest.raises(ValueError, match=words):
        top_k(**{"points": points, "sites": sites, "heights": heights, **change})


@pytest.mark.gpu
def test_the_answer_stays_on_the_gpu():
    points, sites, heights = (t.cuda() for t in problem(50, 3))
    values, indices = top_k(points, sites, heights, 2)
    assert values.is_cuda
    assert indices.is_cuda
    assert torch.allclose(values.cpu(), brute(points.cpu(), sites.cpu(), heights.cpu(), 2))


@pytest.mark.parametrize("threads", [1, 3])
def test_each_yields_blocks_in_their_order(threads):
    assert list(numba_engine.each(lambda b: b * b, range(3, 40), threads)) == [
        b * b for b in range(3, 40)
    ]
