"""The GPU engine's kernels against all scores in float64, in Triton's interpreter or on a card."""

import pytest
import torch

from aeot import generator
from aeot.search import planes as P
from aeot.search import torch_engine

triton_engine = pytest.importorskip("aeot.search.triton_engine")
pytestmark = pytest.mark.interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def problem(n, d, rows, split, seed=0):
    g = generator(seed, "triton", n, d, split)
    sites = torch.randn(n, d, generator=g) / d**0.5
    heights = 0.2 * torch.randn(n, generator=g, dtype=torch.float64)
    cut = (d + 1) // 2 if split > 1 else d
    left = torch.randn(rows, cut, generator=g)
    right = torch.randn(rows, d - cut, generator=g) if split > 1 else torch.zeros(1, 0)
    block = P.Block(left.to(DEVICE), right.to(DEVICE), split if split > 1 else rows)
    return sites.to(DEVICE), heights.to(DEVICE), block


def arranged(sites, split, memory=1 << 28):
    return triton_engine.arrange(sites, split=split, rows=1 << 12, memory=memory)


def exact(sites, heights, block):
    return block.points().double() @ sites.double().T + heights


# Rows that fill no tile, sites that fill no chunk, and widths on every side of the tiles' limits.
SHAPES = [
    *[(n, d, m, 1) for n, d, m in [(1, 1, 1), (5, 2, 70), (129, 17, 65), (600, 64, 33)]],
    *[(n, d, m, 1) for n, d, m in [(200, 129, 40), (90, 300, 20)]],
    *[(300, 7, 32, 8), (600, 64, 16, 16), (130, 65, 16, 16), (90, 300, 8, 8), (40, 8, 8, 4)],
]


@pytest.mark.parametrize(("n", "d", "rows", "split"), SHAPES)
@pytest.mark.parametrize("certified", [False, True])
def test_winners_runners_up_and_gaps_are_those_of_all_scores(n, d, rows, split, certified):
    sites, heights, block = problem(n, d, rows, split)
    planes, scores = arranged(sites, split), exact(sites, heights, block)
    slack = torch.full((rows,), 1e-5, device=DEVICE) if certified else None
    h = triton_engine.raised(planes, heights)
    won = triton_engine.winners(planes, h, block, runners=True, slack=slack)
    near = 1e-5 * float(scores.abs().max())
    if DEVICE == "cuda" and not certified:
        near *= 100  # TF32; the interpreter multiplies in float32
    top = scores.topk(min(2, n), 1)
    assert torch.allclose(won.value.double(), top.values[:, 0], atol=near)
    at = torch.arange(len(scores), device=DEVICE)
    assert torch.allclose(scores[at, won.site.long()], top.values[:, 0], atol=near)
    if n == 1:
        assert (won.second == -1).all()
        return
    assert (won.second != won.site).all()
    assert torch.allclose(scores[at, won.second.long()], top.values[:, 1], atol=near)
    assert torch.allclose(won.gap.double(), top.values[:, 0] - top.values[:, 1], atol=2 * near)
    alone = triton_engine.winners(planes, h, block, runners=False)
    assert torch.equal(alone.value, won.value)
    assert alone.second.numel() == alone.gap.numel() == 0
    if certified:
        wide = triton_engine._doubt(d) * 1e-5
        assert torch.equal(won.unsure, (~(won.gap > wide)).nonzero()[:, 0])
        sure = torch.ones(len(scores), dtype=torch.bool, device=DEVICE)
        sure[won.unsure] = False
        assert torch.equal(won.site.long()[sure], top.indices[sure, 0])


@pytest.mark.parametrize(("n", "d", "rows", "split"), [(300, 9, 32, 8), (600, 40, 70, 1)])
def test_lists_and_cluster_maxima_are_those_of_the_torch_engine(n, d, rows, split):
    sites, heights, block = problem(n, d, rows, split)
    a, b = (
        arranged(sites, split),
        torch_engine.arrange(sites, split=split, rows=rows, memory=1 << 28),
    )
    ha, hb = triton_engine.raised(a, heights), torch_engine.raised(b, heights)
    options = {"radius": 0.8, "least": 1, "longest": 12}
    found = [
        P.joined(engine.candidates(planes, h, block, **options))
        for engine, planes, h in ((triton_engine, a, ha), (torch_engine, b, hb))
    ]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    for x, y in zip(found[0][2:], found[1][2:], strict=True):
        assert torch.allclose(x, y, atol=1e-5)
    lists = P.CandidateLists(heights, *found[0][:3], found[0][4], 0.0)
    moved = heights + 0.1 * torch.randn(n, generator=generator(1)).to(heights)
    again = [engine.relist(lists, lists.shift(moved)) for engine in (triton_engine, torch_engine)]
    for x, y in zip(*[part[:3] for part in again], strict=True):
        assert torch.equal(x, y)
    assert again[0][3] == pytest.approx(again[1][3])
    if split == 1:
        edges = torch.tensor([0, 3, 4, 100, n]).numpy()
        made = triton_engine.cluster_maxima(a, ha, block, edges)
        scores = exact(sites, heights, block)
        expected = torch.stack([scores[:, i:j].amax(1) for i, j in zip(edges, edges[1:])], 1)  # noqa: B905
        assert torch.allclose(made.double(), expected, atol=1e-5)


def test_the_memory_of_a_slice_changes_no_bit():
    sites, heights, block = problem(700, 20, 64, 4)
    made = []
    for memory in (1 << 28, 1 << 18):
        planes = arranged(sites, 4, memory)
        h = triton_engine.raised(planes, heights)
        made.append((planes.slice, triton_engine.winners(planes, h, block, runners=True)))
    assert made[1][0] < 64 <= made[0][0]
    for name in ("site", "value", "second", "gap"):
        assert torch.equal(getattr(made[0][1], name), getattr(made[1][1], name))


def test_of_equal_scores_the_first_site_wins():
    sites = torch.ones(300, 3, device=DEVICE)
    block = P.Block(
        torch.rand(5, 3, generator=generator(0)).to(DEVICE), torch.zeros(1, 0, device=DEVICE), 5
    )
    planes = arranged(sites, 1)
    h = triton_engine.raised(planes, torch.zeros(300, device=DEVICE).double())
    won = triton_engine.winners(planes, h, block, runners=True, slack=torch.zeros(5, device=DEVICE))
    assert won.site.tolist() == [0] * 5
    assert won.second.tolist() == [1] * 5
    assert won.gap.tolist() == [0] * 5
    assert won.unsure.tolist() == list(range(5))


@pytest.mark.parametrize("size", [1e-42, 1e-20, 1e30])
def test_heights_of_any_size_float32_holds_are_told_apart(size):
    g = generator(2)
    heights = size * torch.randn(400, generator=g, dtype=torch.float64).to(DEVICE)
    sites, points = torch.zeros(400, 4, device=DEVICE), torch.rand(9, 4, generator=g).to(DEVICE)
    sites[:, 0] = torch.arange(400) % 2 * size  # two kinds of planes
    for k in (1, 3):
        found, sure = triton_engine.top_k(points, sites, heights, k)
        sure = sure.all(1)
        expected = (points.double() @ sites.double().T + heights).topk(k, 1).indices
        assert torch.equal(found[sure], expected[sure])
        assert bool(sure.all()) == (size > 1e-40)  # of subnormal numbers few digits are left
