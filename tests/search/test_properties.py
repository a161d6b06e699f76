"""Cells and nearest rows of any sites: every engine against brute force, whatever the block."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, clouds, heights

import aeot
from aeot.search import heights as conversions
from aeot.search.engines import top_k
from aeot.search.nearest import PLAIN, nearest

ENGINES = ["numba", "torch", "kdtree", pytest.param("keops", marks=pytest.mark.keops)]
CLOUDS = clouds(most=40, dims=(1, 2, 3, 5, 17))


def around(y, seed, m=64):
    """Points (m, d) near the sites, in the sites' unit."""
    x = torch.randn(m, y.shape[1], generator=aeot.generator(seed), dtype=torch.float64)
    return y.mean(0) + x * (y.std(0, correction=0) + 1e-3)


@pytest.mark.parametrize("engine", ENGINES)
@given(y=CLOUDS, seed=SEEDS, data=st.data())
def test_the_highest_planes_are_those_of_brute_force(engine, y, seed, data):
    x, h = around(y, seed), heights(y, seed)
    k = data.draw(st.integers(1, len(y)))
    values, found = top_k(x, y, h, k, engine=engine)
    scores = (x[:, None] * y).sum(2) + h
    size = float((x.abs().amax(1)[:, None] * y.abs().amax(1)).max() + h.abs().max())
    slack = 64 * y.shape[1] * np.spacing(size)
    # An engine may take the other of two planes that tie within rounding; values must agree.
    expected = scores.sort(1, descending=True).values[:, :k]
    assert torch.allclose(scores.gather(1, found), expected, rtol=0, atol=slack)
    assert torch.allclose(values, expected, rtol=0, atol=slack)
    assert bool((found.sort(1).values.diff(dim=1) > 0).all())


@pytest.mark.parametrize("engine", ["numba", "torch", "kdtree"])
@given(y=CLOUDS, seed=SEEDS, cut=st.integers(1, 63))
def test_a_block_changes_no_bit_of_a_point(engine, y, seed, cut):
    x, h = around(y, seed), heights(y, seed)
    together, alone = (
        top_k(x, y, h, engine=engine),
        [top_k(part, y, h, engine=engine) for part in (x[:cut], x[cut:])],
    )
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


@given(y=CLOUDS, seed=SEEDS)
def test_heights_and_dual_weights_tell_the_same_cells(y, seed):
    # |x - y_i|^2 - w_i is least where <x, y_i> + h_i is greatest; in the sites' own unit.
    y = (y - y.mean(0)) / float(y.std(correction=0) or 1.0)
    x, h = around(y, seed), heights(y, seed)
    power = (x[:, None] - y).square().sum(2) - conversions.power_weights(h, y)
    best = top_k(x, y, h)[0][:, 0]
    assert torch.allclose(power.min(1).values, x.square().sum(1) - 2 * best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@given(y=CLOUDS, seed=SEEDS, single=st.booleans(), data=st.data())
def test_the_nearest_rows_are_those_of_all_distances(engine, y, seed, single, data):
    y, x = (t.float() if single else t for t in (y, torch.cat([around(y, seed, 24), y[:4]])))
    k = data.draw(st.integers(1, len(y)))
    distances, rows = nearest(x, y, k, engine=engine)
    every = torch.cdist(x.double(), y.double(), compute_mode=PLAIN)
    expected = every.sort(1).values[:, :k]
    assert torch.allclose(distances, expected, rtol=1e-12, atol=0)
    assert torch.allclose(every.gather(1, rows), expected, rtol=1e-12, atol=0)
