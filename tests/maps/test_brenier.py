import numpy as np
import pytest
import torch

import aeot
from aeot import BrenierMap, Gaussian, UniformBox, generator
from aeot.maps.brenier import METHODS

SPLIT = torch.tensor([[0.0, 0.5], [1.0, 0.5]], dtype=torch.float64)


def split(low=0.3, **kwargs):
    """Two points a unit apart whose cells meet at x = low: everything is known in closed form."""
    half = (low + 0.0) / 2
    masses = kwargs.pop("masses", [low, 1 - low])
    return BrenierMap(
        UniformBox(dim=2), SPLIT, torch.tensor([half, -half]), masses=masses, **kwargs
    )


def some(n=40, d=3, *, source=None, seed=0):
    g = generator(seed, "brenier")
    sites = torch.randn(n, d, generator=g, dtype=torch.float64)
    heights = 0.2 * torch.randn(n, generator=g, dtype=torch.float64)
    return BrenierMap(source or UniformBox(dim=d), sites, heights)


def test_the_gradient_of_the_potential_is_the_map(dtype):
    brenier = some()
    x = torch.rand(20, 3, generator=generator(1), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(brenier.potential(x).sum(), x)
    assert torch.equal(gradient, brenier(x.detach()))
    assert torch.autograd.gradcheck(brenier.potential, (x,))
    assert brenier.potential(x.detach().to(dtype)).dtype == dtype


def test_the_potential_differentiates_in_the_heights_to_cell_counts():
    brenier = some()
    x = torch.rand(500, 3, generator=generator(1), dtype=torch.float64)
    brenier.heights.requires_grad_()
    brenier.potential(x).sum().backward()
    assert torch.equal(brenier.heights.grad, torch.bincount(brenier.cell(x), minlength=40).double())


def test_c_transform_is_the_least_cost_over_the_sites():
    brenier = some()
    x = torch.rand(50, 3, generator=generator(1), dtype=torch.float64)
    dual = brenier.heights + brenier.sites.square().sum(1) / 2
    brute = (torch.cdist(x, brenier.sites).square() / 2 - dual).amin(1)
    assert torch.allclose(brenier.c_transform(x), brute, atol=1e-12)


@pytest.mark.parametrize("method", ["potential", "c_transform", "cell", "top", "forward", "extend"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_whole_numbers_are_points_in_float64(method, make):
    brenier, rows = some(d=2), [[1, 0], [0, 2]]
    x = torch.tensor(rows, dtype=torch.float64)
    expected, found = getattr(brenier, method)(x), getattr(brenier, method)(make(rows))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    if method in ("potential", "c_transform"):
        assert found.dtype == torch.float64
        planes = (x @ brenier.sites.T + brenier.heights).amax(1)
        brute = planes if method == "potential" else x.square().sum(1) / 2 - planes
        assert torch.allclose(found, brute, rtol=1e-14)


def test_sites_and_heights_that_are_whole_numbers_stay_apart():
    brenier = BrenierMap(UniformBox(dim=1), [[1_700_000_000], [1_700_000_007]], [0, -3.5])
    assert brenier.sites.tolist() == [[1_700_000_000], [1_700_000_007]]
    assert brenier.cell([[0.4], [0.6]]).tolist() == [0, 1]  # they meet where 7 x = 3.5
    assert brenier(torch.tensor([[0.4], [0.6]])).tolist() == brenier.sites.tolist()


def test_values_far_from_the_origin_are_those_of_doubles():
    brenier = some(d=2)
    x = 1e4 + torch.rand(50, 2, generator=generator(2))
    for method in (brenier.potential, brenier.c_transform):
        assert torch.equal(method(x), method(x.double()).float())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_inside_autocast_the_map_and_its_gradient_are_the_same(precision):
    brenier = some()
    x = torch.rand(500, 3, generator=generator(1), requires_grad=True)
    (expected,) = torch.autograd.grad(brenier.potential(x).square().sum(), x)
    with torch.autocast("cpu", precision):
        value = brenier.potential(x)
        (gradient,) = torch.autograd.grad(value.square().sum(), x)
        assert torch.is_autocast_enabled("cpu")
        assert torch.equal(brenier.cell(x), torch.as_tensor(some().cell(x.detach())))
    assert torch.equal(gradient, expected)


def test_costs_of_two_points_match_the_integral():
    # cells [0, .3] and [.3, 1] times [0, 1]: .3^3/6 + .7^3/6 + 1/24
    costs = split().costs(1 << 16, seed=3)
    exact = 0.3**3 / 6 + 0.7**3 / 6 + 1 / 24
    assert abs(costs.cost - exact) < 5 * costs.cost_error
    assert abs(costs.semidual - exact) < 5 * costs.semidual_error
    assert abs(costs.w2 - (2 * exact) ** 0.5) < 5 * costs.w2_error
    assert 0 < costs.cost_error < 1e-3


def test_the_dual_value_of_wrong_heights_is_less_by_duality():
    exact = split().costs(1 << 16)
    wrong = split(0.5, masses=[0.3, 0.7]).costs(1 << 16)
    # E(h) of the two-cell problem is quadratic: the deficit is (.5 - .3)^2 / 2
    assert abs(exact.semidual - wrong.semidual - 0.02) < 5 * wrong.semidual_error


def test_standard_errors_cover():
    exact = 0.3**3 / 6 + 0.7**3 / 6 + 1 / 24
    runs = [split().costs(1024, seed=seed) for seed in range(64)]
    scores = np.array([(run.cost - exact) / run.cost_error for run in runs])
    assert 0.7 < scores.std() < 1.3  # five standard errors of a standard deviation over 64


def test_state_is_buffers_and_heights_stay_double():
    brenier = some()
    assert not list(brenier.parameters())
    assert set(brenier.state_dict()) == {"sites", "heights", "masses"}
    cast = brenier.to(torch.float32)
    assert cast.sites.dtype == torch.float32
    assert cast.heights.dtype == cast.masses.dtype == torch.float64
    again = BrenierMap(cast.source, **cast.state_dict())
    x = torch.rand(9, 3, generator=generator(1))
    assert torch.equal(again(x), cast(x))
    assert again(x).dtype == torch.float32


def test_estimated_moments_are_those_of_the_cells():
    brenier = split()
    brenier.estimate_moments(1 << 16)
    expected = torch.tensor([[0.15, 0.5], [0.65, 0.5]], dtype=torch.float64)
    # a coordinate of a centroid over 20 000 points: at most 0.3 / sqrt(20 000) = 0.002
    assert torch.allclose(brenier.centroids, expected, atol=0.01)
    spread = (0.3 * 0.3**2 + 0.7 * 0.7**2 + 1) / 12 / 2
    assert abs(float(brenier.spread) - spread) < 1e-3


def test_the_spread_is_not_biased_by_few_points_per_cell():
    # Voronoi cells, so that nearly all are hit: random heights leave a handful of large ones.
    sites = torch.randn(400, 2, generator=generator(0)).double()
    many, few = (BrenierMap(Gaussian(dim=2), sites, -sites.square().sum(1) / 2) for _ in range(2))
    many.estimate_moments(1 << 17)
    few.estimate_moments(1 << 11)
    assert abs(float(few.spread / many.spread) - 1) < 0.15


def test_cells_without_points_get_a_finite_centroid():
    sites = torch.rand(30, 4, generator=generator(0))
    heights = torch.zeros(30)
    heights[7] = -100.0
    brenier = BrenierMap(UniformBox(dim=4), sites, heights)
    brenier.estimate_moments(4096)
    assert bool(torch.isfinite(brenier.centroids).all())


def test_given_moments_are_kept():
    brenier = split(centroids=SPLIT + 1, spread=0.25)
    assert torch.equal(brenier.centroids, SPLIT + 1)
    assert float(brenier.spread) == 0.25


@pytest.mark.parametrize("engine", ["numba", "torch", "kdtree"])
def test_every_engine_gives_the_same_map_and_the_same_codes(engine):
    brenier = some(n=80)
    other = BrenierMap(brenier.source, brenier.sites, brenier.heights, engine=engine)
    assert f"engine='{engine}'" in repr(other)
    x = torch.rand(500, 3, generator=generator(1), dtype=torch.float64)
    assert torch.equal(other.cell(x), brenier.cell(x))
    for method in METHODS:
        codes = (b.draw(50, method=method, generator=generator(2)).codes for b in (brenier, other))
        torch.testing.assert_close(*codes, rtol=0, atol=1e-9)
    found = (aeot.find_singularities(b, n_points=400) for b in (brenier, other))
    assert torch.equal(*(f.facets.pairs for f in found))


def test_a_solution_gives_its_map():
    sites = torch.rand(30, 2, generator=generator(0), dtype=torch.float64)
    solution = aeot.solve_exact(UniformBox(dim=2), sites)
    brenier = solution.map()
    assert torch.equal(brenier.heights, solution.heights)
    x = UniformBox(dim=2).sample(1 << 16, generator=generator(1))
    share = torch.bincount(brenier.cell(x), minlength=30) / (1 << 16)
    assert float((share - 1 / 30).abs().max()) < 5 * (1 / 30 / (1 << 16)) ** 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BrenierMap(UniformBox(dim=3), SPLIT, [0, 0]), "sites must have 3 columns, got 2"),
        (lambda: BrenierMap(UniformBox(dim=2), SPLIT, [0.0]), r"heights must have shape \(2,\)"),
        (lambda: split(masses=[1.0, 1.0]), "masses must sum to 1"),
        (lambda: split(engine="cuda"), "engine must be one of 'auto', 'numba'"),
        (lambda: split().extend(torch.zeros(1, 2), method="cubic"), "method must be one of"),
        (lambda: split().extend(torch.zeros(1, 3)), "points must have 2 columns, got 3"),
        (lambda: split().draw(-1), "n must be a whole number >= 0, got -1"),
        (lambda: split().draw(1, boundary="keep"), "boundary must be one of 'reject', 'reassign'"),
        (lambda: split().costs(1), "n_points must be a whole number >= 2"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.gpu
def test_the_map_runs_where_its_sites_are():
    brenier = some().to("cuda")
    assert brenier(torch.rand(5, 3, device="cuda")).is_cuda
    assert brenier.draw(5, generator=generator(0)).codes.is_cuda


def small(**k):
    sites = torch.rand(30, 4, generator=generator(0))
    return BrenierMap(UniformBox(dim=4), sites, torch.zeros(30), **k)


def test_held_out_scale_is_not_kept():
    b, fresh = small(), small()
    usual = fresh.match_scale()
    assert b.match_scale(held_out=b.sites + 0.5) != usual
    assert b.match_scale() == usual


def test_scale_is_of_its_cut():
    class Halves:
        components = torch.arange(30) % 2

        def crosses(self, i, j):
            return self.components[i] != self.components[j]

    b = small()
    whole = b.match_scale()
    cut = b.match_scale(Halves())
    assert cut == small().match_scale(Halves())
    assert cut != whole
