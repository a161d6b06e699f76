"""What is found among parts of the sites and put together, against what is found among all."""

import numpy as np
import pytest
import torch

from aeot import generator
from aeot.search.planes import Block, joined, padded_columns

numba_engine = pytest.importorskip("aeot.search.numba_engine")
pytest.importorskip("numba")

TIED = "whole numbers: scores are exact, and many are equal"
ENDS = {"halves": [0, 1536, 2900], "thirds": [0, 512, 2048, 2900], "a last site": [0, 2560, 2561]}


def problem(kind, n, d, split):
    """Return a block, sites and heights."""
    rng = generator(0, "parts", n, d)
    if kind == TIED:
        draw = lambda *shape: torch.randint(-2, 3, shape, generator=rng).float()  # noqa: E731
    else:
        draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    cut = (d + 1) // 2
    block = Block(draw(64, d), torch.zeros(64, 0)[:1], 64)
    if split > 1:
        block = Block(draw(64, cut), draw(64, d - cut), split)
    sites, heights = draw(n, d), draw(n).double() / 4
    if kind == TIED:  # with a runner-up beside each winner, in its group of sixteen
        odd = (torch.arange(n) // 32 % 2 == 1).nonzero()[:, 0]
        sites[odd], heights[odd] = sites[odd - 32], heights[odd - 32] - 0.25
    return block, sites, heights


def arranged(sites, heights, split):
    planes = numba_engine.arrange(sites, split=split, rows=64, memory=1 << 20)
    return planes, numba_engine.raised(planes, heights)


@pytest.mark.parametrize("split", [1, 8])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("kind", [TIED, "real numbers"])
def test_parts_of_the_sites_find_what_all_of_them_do(kind, ends, split):
    ends = ENDS[ends]
    n = ends[-1]
    block, sites, heights = problem(kind, n, 6, split)
    planes, h = arranged(sites, heights, split)
    parts = [
        (*arranged(sites[first:last], heights[first:last], split), first)
        for first, last in zip(ends, ends[1:], strict=False)
    ]
    columns = padded_columns(n)
    slack = torch.rand(64, generator=generator(1)) * (kind != TIED)
    told = [numba_engine.part_winners(p, high, block, first) for p, high, first in parts]
    for runners, near in ((True, slack), (False, slack), (True, None), (False, None)):
        whole = numba_engine.winners(planes, h, block, runners=runners, slack=near)
        found = numba_engine.won(block, told, columns, runners, near)
        for name in ("site", "value", "second", "gap", "unsure"):
            assert torch.equal(getattr(found, name), getattr(whole, name)), name
    for least, longest, radius in ((4, 16, 0.5), (8, 32, 1e-3), (1, 4, 1e20), (2, 3, 2.0)):
        limits = {"radius": radius, "least": least, "longest": longest}
        all_lists = joined(numba_engine.candidates(planes, h, block, **limits))
        flat = [
            torch.cat(numba_engine.part_candidates(p, high, block, first, **limits))
            for p, high, first in parts
        ]
        found_lists = numba_engine.listed(len(found.site), flat, columns, **limits)
        for mine, theirs in zip(found_lists, all_lists, strict=True):
            assert torch.equal(mine, theirs), limits


def test_a_full_list_keeps_the_highest_and_of_equal_ones_the_first():
    block, sites, heights = problem(TIED, 700, 3, 1)
    planes, h = arranged(sites, heights, 1)
    limits = {"radius": 1e20, "least": 1, "longest": 7}
    start, site, value, lead, bound = joined(numba_engine.candidates(planes, h, block, **limits))
    scores = block.left @ sites.T + heights.float()
    tile, slot, column = (torch.arange(700) // k for k in (512, 32, 1))
    order = (column % 32 * 2 + tile) * 16 + slot % 16  # in which sites are met
    for row, own in enumerate(scores):
        ranked = sorted(range(700), key=lambda s, own=own: (-own[s].item(), order[s].item()))
        kept = sorted(ranked[:7], key=lambda s: order[s].item())
        assert site[start[row] : start[row + 1]].tolist() == kept
        assert torch.equal(value[start[row] : start[row + 1]], own[kept] - lead[row])
        assert bound[row] == own[ranked[7]] - lead[row]


@pytest.mark.parametrize("d", [3, 8, 12, 13, 40, 200])
def test_no_bit_of_a_score_depends_on_what_else_is_scored(d):
    rng = np.random.default_rng(d)
    x = rng.standard_normal((96, d)).astype(np.float32)
    y = rng.standard_normal((d, 2048)).astype(np.float32)

    def scores(rows, columns):
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
        planes = np.ascontiguousarray(y[:, columns])
        numba_engine._multiply(x[rows], planes, out, rows.start)
        return out

    whole = scores(slice(0, 96), slice(0, 2048))
    np.testing.assert_allclose(whole, x.astype(np.float64) @ y, atol=1e-5 * d, rtol=0)
    for rows in (slice(0, 8), slice(8, 32), slice(24, 40), slice(40, 96), slice(3, 4)):
        for columns in (slice(0, 512), slice(512, 1536), slice(1536, 2048)):
            assert np.array_equal(scores(rows, columns), whole[rows, columns]), (rows, columns)
