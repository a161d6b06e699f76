import numpy as np
import pytest
import scipy.stats
import torch

from aeot.geometry.diagram import power_diagram
from aeot.measures import Gaussian, Radial, Sampler, UniformBall, UniformBox
from aeot.search.planes import WIDER, mean_rows
from aeot.solvers.certificate import tally
from aeot.solvers.problem import standardise
from aeot.solvers.scorer import Scorer

KEOPS = pytest.param("keops", 1, marks=pytest.mark.keops)
ENGINES = [("numba", 1), ("numba", 8), ("torch", 1), ("torch", 8), ("kdtree", 1), KEOPS]


def problem(n=300, d=8, law="box", seed=0):
    g = torch.Generator().manual_seed(seed)
    sites = torch.randn(n, d, generator=g, dtype=torch.float64)
    source = {
        "box": UniformBox(dim=d),
        "normal": Gaussian(mean=torch.ones(d), covariance=torch.eye(d) + 0.5),
        "ball": UniformBall(dim=d, center=3.0, radius=2.0),
        "sampler": Sampler(lambda m, g: torch.randn(m, d, generator=g).exp(), dim=d),
    }[law]
    return standardise(source, sites, torch.full((n,), 1 / n, dtype=torch.float64), seed)


def heights_of(p, seed=1):
    g = torch.Generator().manual_seed(seed)
    return -0.3 * p.sites.double().square().sum(1) + 0.1 * torch.randn(len(p.sites), generator=g)


def samples_of(scorer, block):
    """All samples of a block, in the coordinates of the problem, (m, d)."""
    m = scorer.split
    if m == 1:
        return block.left
    left = block.left.repeat_interleave(m, 0)
    right = block.right.view(-1, m, block.right.shape[1]).repeat_interleave(m, 0).flatten(0, 1)
    return torch.cat([left, right], 1)[:, torch.argsort(scorer.order)]


@pytest.mark.parametrize(("engine", "split"), ENGINES)
@pytest.mark.parametrize("n", [1, 2, 37, 300, 1500])
def test_winners_are_the_best_of_all_scores(n, engine, split):
    p = problem(n)
    scorer, h = Scorer(p, engine=engine, split=split), heights_of(p)
    assert (scorer.engine.NAME, scorer.split) == (engine, split)
    won = next(scorer.winners(h, "test", range(3, 4), runners=n > 1))
    x = samples_of(scorer, won.block)
    scores = x @ p.sites.T + h.float()
    tolerance = 1e-5 * float(scores.abs().max())  # float32 sums in another order
    rows = torch.arange(len(x))
    assert torch.allclose(won.value, scores.amax(1), atol=tolerance)
    assert torch.allclose(scores[rows, won.site.long()], scores.amax(1), atol=tolerance)
    if n > 1:
        top = scores.topk(2, 1).values
        assert torch.allclose(won.gap, top[:, 0] - top[:, 1], atol=2 * tolerance)
        assert (won.second != won.site).all()
        assert torch.allclose(scores[rows, won.second.long()], top[:, 1], atol=tolerance)


@pytest.mark.parametrize(("engine", "split"), ENGINES)
def test_lists_hold_exactly_the_sites_in_reach(engine, split):
    p = problem(300)
    scorer, h = Scorer(p, engine=engine, split=split), heights_of(p)
    longest = 60 if engine == "keops" else 300  # compiled for each length
    lists = scorer.candidates(h, "test", range(1), radius=0.4, least=1, longest=longest)[0]
    x = samples_of(scorer, scorer.draw("test", 0))
    scores = (x @ p.sites.T + h.float()).double()
    gap = scores.amax(1, keepdim=True) - scores
    found = torch.zeros_like(gap, dtype=torch.bool)
    row = torch.repeat_interleave(torch.arange(len(x)), lists.start.diff())
    assert int(lists.start.diff().max()) < longest
    found[row, lists.site.long()] = True
    assert found[gap < 0.4 - 1e-4].all()
    assert not found[gap > 0.4 + 1e-4].any()
    assert torch.allclose(lists.value.double(), -gap[row, lists.site.long()], atol=1e-4)
    assert (lists.bound >= -0.4 - 1e-6).all()


@pytest.mark.parametrize(("engine", "split"), ENGINES)
def test_full_lists_keep_the_best_and_know_what_they_lost(engine, split):
    p = problem(300)
    scorer, h = Scorer(p, engine=engine, split=split), heights_of(p)
    lists = scorer.candidates(h, "test", range(1), radius=2.0, least=1, longest=6)[0]
    x = samples_of(scorer, scorer.draw("test", 0))
    scores = (x @ p.sites.T + h.float()).double()
    top = (scores - scores.amax(1, keepdim=True)).topk(7, 1).values
    assert int(lists.start.diff().max()) == 6
    value = lists.value.view(-1, 6) if len(lists.value) == 6 * len(x) else None
    if value is not None:
        assert torch.allclose(value.double().sort(1, descending=True).values, top[:, :6], atol=1e-4)
    # The bound is the seventh score where that is in reach.
    full = lists.start.diff() == 6
    expected = top[:, 6].clamp(min=-2.0)
    assert torch.allclose(lists.bound[full].double(), expected[full], atol=1e-4)


@pytest.mark.parametrize("engine", ["numba", "torch", "kdtree"])
def test_short_lists_widen_their_radius(engine):
    p = problem(1500)
    scorer, h = Scorer(p, engine=engine), heights_of(p)
    args = {"radius": 1e-4, "least": 4, "longest": 16}
    few = scorer.candidates(h, "test", range(1), radius=1e-4, least=1, longest=16)[0]
    many = scorer.candidates(h, "test", range(1), **args)[0]
    assert many.start[-1] >= few.start[-1]
    # It doubles until there are enough, and no more.
    enough = (many.start.diff() >= 4).numpy()
    steps = np.log2(-many.bound.numpy() / 1e-4)
    assert 0.1 < enough.mean() < 1
    assert np.allclose(steps[~enough], WIDER, atol=1e-3)
    assert 4 < steps[enough].mean() < WIDER


@pytest.mark.parametrize(("engine", "split"), ENGINES[2:])
def test_every_engine_makes_the_lists_of_numba(engine, split):
    p = problem(700)
    # Groups of sites are counted by one engine, sites by another: one of either is always there.
    h, args = heights_of(p), {"radius": 0.5, "least": 1, "longest": 16}
    fast = Scorer(p, split=split)
    a = fast.candidates(h, "test", range(2), **args)[0]
    moved = h + 0.05 * torch.randn(len(h), generator=torch.Generator().manual_seed(2))
    slow = Scorer(p, engine=engine, split=split, memory=1 << 20)
    b = slow.candidates(h, "test", range(2), **args)[0]
    # Rounding may list a site at the very edge in one and not in the other.
    assert abs(int(a.start[-1]) - int(b.start[-1])) <= 2 + len(a.site) // 1000
    assert a.lead == pytest.approx(b.lead, rel=1e-6)
    found = [x.engine.relist(y, y.shift(moved)) for x, y in ((fast, a), (slow, b), (fast, b))]
    for other in found[1:]:
        assert (found[0][0] != other[0]).double().mean() < 1e-3
        assert torch.allclose(found[0][2], other[2], atol=1e-4)
        assert found[0][3] == pytest.approx(other[3], rel=1e-4, abs=1e-2)
    width = torch.full((700,), 0.2, dtype=torch.float64)
    width[::2] = 0.1
    edges = [x.engine.close_pairs(p.sites, *found[0][:3], width, 0.5) for x in (fast, slow)]
    assert len(edges[0][0]) == len(edges[1][0]) > 100
    for i, j in zip(*edges, strict=True):
        assert np.allclose(i, j, rtol=1e-5)
    counts = torch.zeros(2, 32, 700, dtype=torch.int64)
    sums = [torch.zeros(700, 8, dtype=torch.int64) for _ in range(2)]
    for k, scorer in enumerate((fast, slow)):
        won = next(fast.winners(h, "test", range(1)))
        scorer.engine.add_points(won.block, won.site, sums[k])
        scorer.engine.count(won.site, 5, 64, counts[k])
    means = [mean_rows(x, counts[0].sum(0)) for x in sums]
    assert torch.allclose(*means, rtol=1e-6, atol=1e-6)
    assert (counts[0] == counts[1]).all()
    assert counts[0].sum() == fast.block_samples


def test_lists_give_the_winner_after_a_move_they_are_exact_for():
    p = problem(300)
    scorer, h = Scorer(p, split=8), heights_of(p)
    lists = scorer.candidates(h, "test", range(1), radius=0.6, least=4, longest=64)[0]
    moved = h + 0.1 * torch.rand(len(h), generator=torch.Generator().manual_seed(3)).double()
    first, second, gap, _ = scorer.engine.relist(lists, lists.shift(moved))
    x = samples_of(scorer, scorer.draw("test", 0))
    top = (x @ p.sites.T + moved.float()).topk(2, 1)
    clear = gap > 1e-4
    assert (first[clear] == top.indices[clear, 0]).all()
    assert torch.allclose(gap, top.values[:, 0] - top.values[:, 1], atol=1e-4)


@pytest.mark.parametrize("law", ["box", "normal", "ball", "sampler"])
def test_blocks_are_keyed_and_have_the_moments_of_the_source(law):
    p = problem(64, law=law)
    z = torch.cat([p.draw(1 << 14, "moments", b) for b in range(4)])
    assert torch.equal(z[: 1 << 14], p.draw(1 << 14, "moments", 0))
    noise = 6 / len(z) ** 0.5
    assert float(z.mean(0).abs().max()) < noise + (0.1 if law == "sampler" else 0)
    if law != "sampler":  # its moments are estimates, and its tails heavy
        assert float((torch.cov(z.T) - torch.eye(8)).abs().max()) < 2 * noise
    # Against the measure itself: <x, y> has the same law, up to the change of variables.
    x = p.source.sample(1 << 16, generator=torch.Generator().manual_seed(1)).double()
    back = z.double() @ (torch.diag(p.factor) if p.factor.ndim == 1 else p.factor.T) + p.mean
    for q in (0.1, 0.5, 0.9):
        direct, ours = x.quantile(q, 0), back.quantile(q, 0)
        assert torch.allclose(direct, ours, atol=0.06 * float(x.std()))


@pytest.mark.parametrize("memory", [1 << 20, 1 << 28])
@pytest.mark.parametrize("threads", [1, 3])
def test_memory_and_threads_change_nothing(memory, threads):
    p = problem(3000)
    h = heights_of(p)
    base = torch.cat([w.site for w in Scorer(p, split=8, threads=1).winners(h, "t", range(5))])
    scorer = Scorer(p, split=8, memory=memory, threads=threads)
    other = torch.cat([w.site for w in scorer.winners(h, "t", range(5))])
    assert (base != other).double().mean() < (1e-3 if memory == 1 << 20 else 1e-12)


@pytest.mark.parametrize("engine", ["numba", "torch", "kdtree"])
def test_cluster_maxima_are_maxima_over_clusters(engine):
    p = problem(100)
    scorer, h = Scorer(p, engine=engine), heights_of(p)
    edges = np.array([0, 10, 11, 60, 100])
    scores = next(scorer.cluster_maxima(h, edges, "t", range(1)))
    full = scorer.draw("t", 0).left @ p.sites.T + h.float()
    for g in range(4):
        expected = full[:, edges[g] : edges[g + 1]].amax(1)
        assert torch.allclose(scores[:, g], expected, atol=1e-4)


RADIAL = {
    "ball": (UniformBall(dim=9, center=3.0, radius=2.0), lambda r: (r / 2) ** 9),
    "sphere": (Radial(dim=9, radius=2.0), None),
    "shell": (Radial(dim=9, radius=lambda n, g: 1 + torch.rand(n, generator=g)), lambda r: r - 1),
}


@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize("place", [0, 27, 63])
def test_each_sample_of_shared_halves_has_the_radial_law(name, place):
    # One sample of every group: those are independent.
    source, distribution = RADIAL[name]
    g = torch.Generator().manual_seed(0)
    sites = torch.randn(600, 9, generator=g, dtype=torch.float64)
    p = standardise(source, sites, torch.full((600,), 1 / 600, dtype=torch.float64), 1)
    scorer = Scorer(p, split=8)
    chosen = torch.arange(place, scorer.block_samples, 64)
    x = torch.cat([scorer.points(scorer.draw("t", b), chosen) for b in range(80)])
    assert len(x) > 3000
    x = x - source.center
    r = x.norm(dim=1)
    if distribution is None:
        assert float((r - 2).abs().max()) < 1e-5
    else:
        assert scipy.stats.kstest(distribution(r.numpy()), "uniform").pvalue > 1e-3
    # The square of a coordinate of a uniform direction, and of the direction inside a half.
    squares = (x / r[:, None]).square().numpy()
    for column in (0, 3, 8):
        assert scipy.stats.kstest(squares[:, column], scipy.stats.beta(0.5, 4).cdf).pvalue > 1e-3
    half = squares[:, ::2].sum(1)
    assert scipy.stats.kstest(half, scipy.stats.beta(2.5, 2).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(squares[:, 4] / half, scipy.stats.beta(0.5, 2).cdf).pvalue > 1e-3
    assert float((x[:, :4].sign() * x[:, 4:8].sign()).mean(0).abs().max()) < 5 / len(x) ** 0.5


@pytest.mark.parametrize("split", [1, 4, 8])
def test_masses_of_shared_halves_are_those_of_exact_cells_in_a_disk(split):
    g = torch.Generator().manual_seed(4)
    sites = torch.randn(40, 2, generator=g, dtype=torch.float64)
    source = UniformBall(dim=2, center=[1.0, -2.0], radius=1.5)
    p = standardise(source, sites, torch.full((40,), 1 / 40, dtype=torch.float64), 0)
    h = heights_of(p)
    exact = power_diagram(source, sites, p.from_standard(h)).masses.numpy()
    result = tally(Scorer(p, split=split), h, "t", range(48))
    share = result.counts.double() / result.counts.sum(1, keepdim=True)
    share = share.numpy()
    noise = share.std(axis=0, ddof=1) / 32**0.5  # batches are independent
    seen = exact > 1e-3
    z = (share.mean(0) - exact)[seen] / noise[seen]
    assert float(np.abs(z).max()) < 5
    assert 0.4 < float(np.square(z).mean()) < 2
    inflation = np.square(noise).sum() * result.n_samples / (exact * (1 - exact)).sum()
    assert (inflation > 1.5) == (split > 1)  # cells of a plane are large
