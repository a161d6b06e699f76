import pytest
import torch

from aeot.measures import UniformBox
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
    assert len(tree.parts) == 1
    x = source.sample(1 << 14, generator=torch.Generator().manual_seed(3))
    same = (tree.cell(x) == best.map().cell(x)).double().mean()
    assert float(same) > 0.9  # both are within 2 % of the masses


def test_bad_arguments():
    with pytest.raises(ValueError, match="clusters"):
        solve_hierarchical(UniformBox(dim=2), torch.rand(5, 2), clusters=6)
    with pytest.raises(ValueError, match="distinct"):
        solve_hierarchical(UniformBox(dim=2), torch.zeros(2, 2))
