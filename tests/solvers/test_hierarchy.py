import os
import signal

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from aeot import _loop
from aeot.measures import Sampler, UniformBox
from aeot.solvers.hierarchy import solve_hierarchical
from aeot.solvers.solve import solve_semidiscrete


@pytest.fixture(scope="module")
def both():
    g = torch.Generator().manual_seed(0)
    sites = torch.randn(60, 4, generator=g)
    masses = torch.rand(60, generator=g, dtype=torch.float64) + 0.2
    masses /= masses.sum()
    source = UniformBox(dim=4)
    tree = solve_hierarchical(source, sites, masses, clusters=6, tol=0.04)
    return source, sites, masses, tree, solve_semidiscrete(source, sites, masses, tol=0.02)


def test_it_preserves_measure(both):
    source, sites, masses, tree, _ = both
    x = source.sample(1 << 16, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(tree.cell(x), minlength=60) / len(x)
    error = float((counts - masses).abs().sum()) / 2
    floor = 0.4 * (60 / len(x)) ** 0.5
    assert tree.converged
    assert error <= tree.mass_error_upper + floor
    told = tree.certificate
    assert (told["converged"], told["message"]) == (True, tree.message)
    assert told["n_samples"] == tree.n_samples > tree.coarse.n_samples
    assert error < 0.1


def test_it_is_another_map_at_no_lower_cost_and_respects_the_tree(both):
    source, sites, _, tree, best = both
    x = source.sample(1 << 16, generator=torch.Generator().manual_seed(2))
    optimal = float((x - best.map()(x)).square().sum(1).mean() / 2)
    # Each is optimal for masses that are a few per cent off, which moves a cost by less.
    assert 0.995 * optimal < tree.cost(x) < 1.2 * optimal
    assert float((tree.cell(x) != best.map().cell(x)).double().mean()) > 0.05
    group = tree.coarse.map().cell(x)
    assert torch.equal(tree.labels[tree.cell(x)], group)


def test_one_cluster_is_the_optimal_map(both):
    source, sites, masses, _, best = both
    tree = solve_hierarchical(source, sites, masses, clusters=1, tol=0.02)
    assert len(tree.coarse.sites) == 1
    x = source.sample(1 << 14, generator=torch.Generator().manual_seed(3))
    same = (tree.cell(x) == best.map().cell(x)).double().mean()
    assert float(same) > 0.9  # both are within 2 % of the masses


def test_inside_a_coarse_cell_it_is_the_optimal_map(both):
    """Solved by itself, from points of the source that lie in the cell."""
    source, sites, masses, tree, _ = both
    coarse = tree.coarse.map()

    def inside(n, generator, group=2):
        x = source.sample(20 * n, generator=generator)
        return x[coarse.cell(x) == group][:n]

    own = (tree.labels == 2).nonzero()[:, 0]
    share = masses[own] / masses[own].sum()
    part = solve_semidiscrete(Sampler(inside, dim=4), sites[own], share, tol=0.02)
    x = inside(1 << 13, torch.Generator().manual_seed(4))
    same = own[part.map().cell(x)] == tree.cell(x)
    assert float(same.double().mean()) > 0.9  # both are within a few per cent of the masses
    # Potentials, not only cells, up to a constant.
    apart = (tree.heights[own] - part.heights).std()
    assert float(apart) < 0.05 * float(part.heights.std())


def test_the_order_of_the_sites_and_the_threads_change_nothing(both):
    source, sites, masses, tree, _ = both
    order = torch.randperm(len(sites), generator=torch.Generator().manual_seed(5))
    again = solve_hierarchical(source, sites[order], masses[order], clusters=6, tol=0.04)
    assert torch.equal(again.heights, tree.heights[order])
    assert torch.equal(again.labels, tree.labels[order])


def test_the_global_solve_may_begin_with_its_heights(both):
    source, sites, masses, tree, best = both
    x = source.sample(1 << 14, generator=torch.Generator().manual_seed(6)).double()

    def energy(heights):
        scores = x @ sites.double().T + heights
        return float(scores.max(1).values.mean() - masses @ heights)

    least, start = energy(best.heights), energy(tree.heights)
    nothing = energy(-sites.double().square().sum(1) / 2)
    assert least < start < least + 0.1 * (nothing - least)
    warm = solve_semidiscrete(source, sites, masses, tol=0.02, init=tree.heights)
    assert warm.converged


@pytest.mark.parametrize("engine", ["torch", "kdtree"])
def test_every_engine_finds_it(both, engine):
    source, sites, masses, tree, _ = both
    again = solve_hierarchical(source, sites, masses, clusters=6, tol=0.1, engine=engine)
    assert again.converged
    assert again._inside.engine == engine
    assert float((again.heights - tree.heights).std()) < 0.1 * float(tree.heights.std())


@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions(dim):
    sites = torch.randn(50, dim, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    source = UniformBox(dim=dim)
    tree = solve_hierarchical(source, sites, clusters=5, tol=0.1)
    x = source.sample(1 << 15, generator=torch.Generator().manual_seed(8)).double()
    counts = torch.bincount(tree.cell(x), minlength=50) / len(x)
    assert tree.converged
    assert float((counts - 0.02).abs().sum()) / 2 < 0.1 + 0.4 * (50 / len(x)) ** 0.5
    if dim == 1:  # where clusters are intervals no map costs less
        best = solve_semidiscrete(source, sites).map()
        cost = float((x - best(x)).square().sum(1).mean() / 2)
        assert tree.cost(x) == pytest.approx(cost, rel=0.1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="clusters"):
        solve_hierarchical(UniformBox(dim=2), torch.rand(5, 2), clusters=6)
    with pytest.raises(ValueError, match="distinct"):
        solve_hierarchical(UniformBox(dim=2), torch.zeros(2, 2))


def counted(dim):
    """Return a source that is known by its samples alone, and a list of how many were asked for."""
    asked = []

    def draw(n, generator):
        asked.append(n)
        return torch.rand(n, dim, generator=generator)

    return Sampler(draw, dim=dim), asked


@pytest.mark.parametrize("limit", [1, 6e4])
def test_no_more_samples_are_drawn_than_may_be(both, limit):
    _, sites, masses, _, _ = both
    source, asked = counted(4)
    with pytest.warns(ConvergenceWarning, match="above tol") as told:
        tree = solve_hierarchical(source, sites, masses, clusters=6, tol=0.01, max_samples=limit)
    assert len(told) == 1  # of the whole, none of the clusters
    assert sum(asked) == tree.n_samples
    least, block = 2 * ((1 << 14) + 64 * 4) + 64 * 6, 4096
    assert tree.n_samples <= max(limit, least) + 2 * block * (limit < least)
    assert not tree.converged
    assert tree.certificate["mass_error_upper"] > 0.01
    x = torch.rand(1 << 15, 4, generator=torch.Generator().manual_seed(9))
    counts = torch.bincount(tree.cell(x), minlength=60) / len(x)
    assert float((counts - masses).abs().sum()) / 2 < tree.mass_error_upper + 0.02


@pytest.mark.parametrize(
    ("loop", "part"), [("transport", "coarse"), ("hierarchical transport", "inner")]
)
def test_a_stopped_one_goes_on_to_the_same_heights(both, tmp_path, monkeypatch, loop, part):
    source, sites, masses, whole, _ = both
    options = {"clusters": 6, "tol": 0.04, "checkpoint": tmp_path / "state"}
    at, steps = _loop.Loop.at, []

    def strike(own, *arguments):
        at(own, *arguments)
        steps.append(own.name)
        if steps.count(loop) == 3 and steps[-1] == loop:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(_loop.Loop, "at", strike)
        with pytest.raises(KeyboardInterrupt, match=f"{part} part .*state holds it, and the same"):
            solve_hierarchical(source, sites, masses, **options)
        again = solve_hierarchical(source, sites, masses, **options)
    assert torch.equal(again.heights, whole.heights)
    assert again.certificate == whole.certificate
    assert len(steps) == len(again.coarse.history) + len(again._inside.history)  # none twice
    if part == "inner":
        for name, value in {"clusters": 5, "max_samples": 1e6, "tol": 0.03}.items():
            with pytest.raises(ValueError, match=f"same problem, got another {name} in"):
                solve_hierarchical(source, sites, masses, **options | {name: value})
