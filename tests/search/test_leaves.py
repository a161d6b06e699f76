"""Lists from the leaves of trees against scores of all sites in float64."""

import numpy as np
import pytest
import torch

import aeot

pytest.importorskip("numba")
from aeot.search import leaves  # noqa: E402


def clustered(n, d, seed):
    g = aeot.generator(seed)
    centres = 2 * torch.randn(12, d, generator=g)
    return (centres[torch.randint(12, (n,), generator=g)] + torch.randn(n, d, generator=g)).float()


@pytest.fixture(scope="module", params=[(5000, 3), (5003, 16), (4100, 37)])
def problem(request):
    n, d = request.param
    g = aeot.generator(1)
    y = clustered(n, d, 0)
    h = -y.square().sum(1).double() / 2 + torch.rand(n, generator=g).double()
    x = 2 * torch.randn(2000, d, generator=g)
    scores = x.double() @ y.double().T + h.float().double()
    pool = (2 * torch.randn(leaves.POOL, d, generator=g)).numpy()
    return y, h, x, scores, leaves.raised(leaves.grown(y, 0), h, pool, 0.95)


def test_every_tree_holds_every_site_once_with_its_coordinates(problem):
    y, _, _, _, at = problem
    order = at.leaves.order.reshape(leaves.TREES, -1)
    for tree in order:
        assert np.array_equal(np.sort(tree[tree < len(y)]), np.arange(len(y)))
    held = at.leaves.planes.transpose(0, 2, 1)[at.leaves.order < len(y)]
    assert np.array_equal(held, y.numpy()[at.leaves.order[at.leaves.order < len(y)]])
    assert not np.array_equal(order[0], order[1])


def test_lists_hold_scores_of_their_sites_each_once(problem):
    y, _, x, scores, at = problem
    start, site, value, lead, bound = leaves.candidates(at, x, radius=1.0, least=4, longest=16)
    size = start.diff()
    assert int(size.min()) >= 1
    assert int(size.max()) <= 16
    row = torch.arange(len(x)).repeat_interleave(size)
    pairs = row * len(y) + site.long()
    assert len(pairs.unique()) == len(pairs)
    near = 1e-5 * float(scores.abs().max())
    told = value.double() + lead[row]
    torch.testing.assert_close(told, scores[row, site.long()], atol=near, rtol=0)
    best = torch.full((len(x),), -torch.inf).scatter_reduce(0, row, value, "amax")
    torch.testing.assert_close(best, torch.zeros(len(x)), atol=near, rtol=0)
    assert (lead <= scores.amax(1) + near).all()
    assert (bound <= 1e-6).all()


def test_so_many_winners_are_found_as_were_asked_for(problem):
    _, _, x, scores, at = problem
    lead = leaves.candidates(at, x, radius=0.0, least=1, longest=1)[3]
    found = float((lead >= scores.amax(1) - 1e-5 * scores.abs().max()).double().mean())
    assert found >= 0.95 - 4 * (0.05 * 0.95 * (1 / len(x) + 2 / leaves.POOL)) ** 0.5
    assert at.probes < at.leaves.count / 2  # else it shows nothing


def test_where_all_leaves_are_looked_at_lists_are_those_of_all_scores(problem):
    _, h, x, scores, at = problem
    n = scores.shape[1]
    whole = leaves.Raised(at.leaves, at.heights, at.lift, float("inf"), at.leaves.count)
    start, site, value, lead, _ = leaves.candidates(whole, x[:300], radius=0.5, least=1, longest=n)
    best = scores[:300].amax(1)
    torch.testing.assert_close(lead.double(), best, atol=1e-5 * float(scores.abs().max()), rtol=0)
    for r in range(300):
        some = set(site[start[r] : start[r + 1]].tolist())
        inside = (scores[r] > best[r] - 0.49).nonzero()[:, 0].tolist()
        assert some >= set(inside)
    assert len(h) == n


def test_equal_sites_and_sites_far_away_are_cut_all_the_same():
    y = torch.zeros(1000, 4)
    y[:3] = 1e6
    order = leaves.grown(y, 0).order.reshape(leaves.TREES, -1)
    for tree in order:
        assert np.array_equal(np.sort(tree[tree < 1000]), np.arange(1000))
