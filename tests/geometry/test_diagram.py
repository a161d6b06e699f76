"""Power diagrams against closed forms, brute force, sampling and finite differences."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from problems import EXACT_SOURCES as SOURCES
from problems import diagram_problem as problem
from scipy.spatial import Delaunay
from scipy.stats import norm

import aeot
from aeot.geometry import tessellation
from aeot.geometry.diagram import power_diagram
from aeot.geometry.tessellation import Tessellation, support
from aeot.solvers.exact import starting_heights

# Rows are summed in another order than columns, and heights are recentred: a few roundings.
ROUNDING = 1e-12


@pytest.mark.parametrize("name", SOURCES)
def test_masses_and_moments_add_up_to_the_source(name):
    source, sites, heights = problem(name, 200)
    diagram = power_diagram(source, sites, heights)
    w, c = diagram.masses, diagram.centroids
    assert float(w.sum()) == pytest.approx(1, abs=ROUNDING)
    mean = (w[:, None] * c).sum(0)
    assert torch.allclose(mean, source.mean.to(torch.float64), atol=ROUNDING)
    # The law of total variance.
    between = (w[:, None, None] * (c - mean)[:, :, None] * (c - mean)[:, None, :]).sum(0)
    within = (w[:, None, None] * diagram.second_moments).sum(0)
    assert torch.allclose(between + within, source.covariance.to(torch.float64), atol=1e-11)


def check_by_sampling(name, n, m):
    source, sites, heights = problem(name, n, seed=1)
    diagram = power_diagram(source, sites, heights)
    g, counts = aeot.generator(2, name), torch.zeros(n)
    for _ in range(m // 250_000):
        x = source.sample(250_000, generator=g).to(torch.float64)
        counts += torch.bincount((x @ sites.T + heights).argmax(1), minlength=n)
    w = diagram.masses
    assert counts[w == 0].sum() == 0
    w, counts = w[w > 0], counts[w > 0]
    z = (counts / m - w) / (w * (1 - w) / m).sqrt()
    big = w * m > 10  # the normal approximation
    assert float(z[big].abs().max()) < norm.isf(0.0005 / len(w))
    chi2 = float(((counts - w * m).square() / (w * m))[big].sum())
    degrees = int(big.sum()) - 1
    assert abs(chi2 / degrees - 1) < 4 * math.sqrt(2 / degrees)


@pytest.mark.parametrize("name", SOURCES)
def test_masses_agree_with_sampling(name):
    check_by_sampling(name, 40, 250_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_masses_agree_with_ten_million_points(name):
    check_by_sampling(name, 200, 10_000_000)


@pytest.mark.parametrize("name", SOURCES)
def test_hessian_is_the_derivative_of_the_masses(name):
    source, sites, heights = problem(name, 30)
    hessian = torch.from_numpy(power_diagram(source, sites, heights).hessian.toarray())
    # A facet may be born or die within the step, where the masses are only C^1.
    step = 1e-6 * float(source.covariance.trace())
    g = aeot.generator(3)
    for _ in range(5):
        v = torch.randn(30, generator=g, dtype=torch.float64)
        up = power_diagram(source, sites, heights + step * v).masses
        down = power_diagram(source, sites, heights - step * v).masses
        difference = (up - down) / (2 * step)
        assert torch.allclose(difference, hessian @ v, atol=1e-5 * float(hessian.abs().max()))


@pytest.mark.parametrize("name", SOURCES)
def test_cost_is_the_semidual_value_and_the_energy_has_the_masses_as_gradient(name):
    source, sites, heights = problem(name, 30)
    diagram = power_diagram(source, sites, heights)
    x = source.sample(400_000, generator=aeot.generator(4)).to(torch.float64)
    cost = (x - sites[(x @ sites.T + heights).argmax(1)]).square().sum(1) / 2
    assert diagram.cost == pytest.approx(float(cost.mean()), abs=5 * float(cost.std()) / 632)
    nu = torch.full((30,), 1 / 30, dtype=torch.float64)
    v = torch.randn(30, generator=aeot.generator(6), dtype=torch.float64) * 1e-5
    up, down = (power_diagram(source, sites, heights + s * v).semidual(nu) for s in (1, -1))
    assert up - down == pytest.approx(-2 * float(v @ (diagram.masses - nu)), abs=1e-9)


def test_one_dimensional_oracle():
    # y = (.1, .5, .9), masses (.2, .5, .3) on [0, 1].
    sites = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)
    heights = torch.tensor([0.22, 0.14, -0.14], dtype=torch.float64)
    heights = heights - heights.mean()
    diagram = power_diagram(aeot.UniformBox(dim=1), sites, heights)
    assert diagram.masses.tolist() == pytest.approx([0.2, 0.5, 0.3], abs=1e-14)
    assert diagram.facets.endpoints.flatten().tolist() == pytest.approx([0.2, 0.7])
    assert diagram.facets.mass.tolist() == [1, 1]


@pytest.mark.parametrize("dim", [2, 3])
def test_lattice_has_cubes_for_cells(dim):
    k = 5
    axis = (torch.arange(k, dtype=torch.float64) + 0.5) / k
    sites = torch.cartesian_prod(*[axis] * dim)
    diagram = power_diagram(aeot.UniformBox(dim=dim), sites, -sites.square().sum(1) / 2)
    assert torch.allclose(diagram.masses, torch.full_like(diagram.masses, k**-dim), atol=1e-15)
    assert diagram.cost == pytest.approx(dim / (24 * k**2), abs=1e-14)
    real = diagram.facets.mass > 1e-12  # corner contacts may leave dust
    assert int(real.sum()) == dim * (k - 1) * k ** (dim - 1)
    entries = (diagram.facets.mass / diagram.facets.jumps)[real]
    assert torch.allclose(entries, torch.full_like(entries, k ** (2 - dim)), atol=1e-13)


def test_half_planes_of_disk_and_ball():
    for dim in (2, 3):
        sites = torch.zeros(2, dim, dtype=torch.float64)
        sites[1, 0] = 1.0
        for cut in (-0.9, -0.3, 0.0, 0.5, 0.99):
            diagram = power_diagram(aeot.UniformBall(dim=dim), sites, [cut, 0.0])  # x < cut
            a = math.acos(cut)
            if dim == 2:
                cap, chord = (a - cut * math.sin(a)) / math.pi, 2 * math.sin(a) / math.pi
            else:
                cap, chord = (1 - cut) ** 2 * (2 + cut) / 4, 0.75 * (1 - cut**2)
            assert float(diagram.masses[1]) == pytest.approx(cap, rel=1e-7, abs=1e-7)
            assert float(diagram.facets.mass[0]) == pytest.approx(chord, rel=1e-6)


def test_edges_of_no_length_at_the_centre_of_a_ball():
    # Six corners of a cube: many faces meet in the ball's centre, where corners coincide.
    source = aeot.UniformBall(dim=3, center=[1.0, 0.0, -1.0], radius=2.0)
    corners = [[0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 0, 1], [0, 0, 0]]
    masses = torch.tensor([0.1741, 0.2594, 0.0083, 0.0039, 0.1416, 0.4127], dtype=torch.float64)
    solution = aeot.solve_exact(source, corners, masses / masses.sum())
    assert solution.converged
    assert torch.allclose(solution.cell_masses, masses / masses.sum(), atol=1e-11)


def test_a_flat_picture_is_the_box():
    _, sites, heights = problem("box", 80)
    flat = aeot.GridDensity(torch.ones(7, 9), low=[-1.0, 0.5], high=[2.0, 2.0])
    a, b = (power_diagram(s, sites, heights) for s in (SOURCES["box"](), flat))
    assert torch.allclose(a.masses, b.masses, atol=1e-14)
    assert torch.allclose(a.centroids, b.centroids, atol=1e-11)
    assert torch.allclose(a.second_moments, b.second_moments, atol=1e-10)
    assert abs(a.hessian - b.hessian).max() < 1e-10


@pytest.mark.parametrize("name", ["box", "cube", "disk", "ball"])
def test_neighbours_found_are_all_there_are(name, monkeypatch):
    source, sites, heights = problem(name, 150, spread=1.3)
    found = power_diagram(source, sites, heights)
    monkeypatch.setattr(tessellation, "_ALL_PAIRS", 1000)
    brute = power_diagram(source, sites, heights)
    assert torch.allclose(found.masses, brute.masses, atol=1e-14)
    assert abs(found.hessian - brute.hessian).max() < 1e-9


def test_missing_candidates_are_noticed_and_repaired(monkeypatch):
    source, sites, heights = problem("box", 150)
    want = power_diagram(source, sites, heights)
    hull = tessellation.neighbours.envelope

    def lossy(*args):
        indptr, indices = hull(*args)
        rows = np.repeat(np.arange(150), np.diff(indptr))
        keep = (rows + indices) % 7 != 0
        return tessellation.neighbours.from_pairs(rows[keep], indices[keep], 150)

    monkeypatch.setattr(tessellation.neighbours, "envelope", lossy)
    got = power_diagram(source, sites, heights)
    assert torch.allclose(got.masses, want.masses, atol=1e-14)


def test_most_cells_empty():
    source = aeot.UniformBox(dim=2)
    sites = torch.rand(400, 2, generator=aeot.generator(0), dtype=torch.float64) * 10
    diagram = power_diagram(source, sites, torch.zeros(400))
    x = source.sample(20_000, generator=aeot.generator(1)).to(torch.float64)
    seen = torch.bincount((x @ sites.T).argmax(1), minlength=400) > 0
    assert bool((diagram.masses[seen] > 0).all())
    assert int((diagram.masses == 0).sum()) > 350
    assert float(diagram.masses.sum()) == pytest.approx(1, abs=ROUNDING)


@pytest.mark.parametrize("name", ["box", "cube", "disk", "ball", "polygon"])
def test_symmetries(name):
    source, sites, heights = problem(name, 60)
    want = power_diagram(source, sites, heights).masses
    order = torch.randperm(60, generator=aeot.generator(0))
    assert torch.allclose(
        power_diagram(source, sites[order], heights[order]).masses, want[order], atol=1e-14
    )
    assert torch.allclose(power_diagram(source, sites + 3, heights).masses, want, atol=1e-13)
    assert torch.allclose(power_diagram(source, 7 * sites, 7 * heights).masses, want, atol=1e-13)


@pytest.mark.parametrize("name", ["box", "cube"])
def test_delaunay_of_voronoi_heights_is_the_ordinary_one(name):
    _, sites, _ = problem(name, 80)
    diagram = power_diagram(SOURCES[name](), sites, -sites.square().sum(1) / 2)
    ours = {tuple(sorted(s)) for s in diagram.delaunay.tolist()}
    assert ours == {tuple(sorted(s)) for s in Delaunay(sites.numpy()).simplices.tolist()}


@pytest.mark.parametrize("name", ["interval", "box", "cube"])
def test_legendre_dual_is_the_supremum(name):
    source, sites, heights = problem(name, 40)
    diagram = power_diagram(source, sites, heights)
    simplices = diagram.delaunay
    corners = sites[simplices]  # (t, d + 1, d)
    # The supremum is attained at a vertex of the diagram of the whole space: solve for those.
    slopes = corners[:, 1:] - corners[:, :1]
    rises = heights[simplices[:, :1]] - heights[simplices[:, 1:]]
    vertices = torch.linalg.solve(slopes, rises.unsqueeze(2)).squeeze(2)
    u = (vertices @ sites.T + heights).max(1).values
    y = sites[:20] * 0.5 + sites[20:] * 0.5
    want = (y @ vertices.T - u).max(1).values
    assert torch.allclose(diagram.legendre(y), want, atol=1e-9)
    assert bool(torch.isinf(diagram.legendre(sites.max(0).values[None] + 1)).all())


def test_polygons_and_displaced_cells_have_the_right_areas():
    source, sites, heights = problem("polygon", 60)
    diagram = power_diagram(source, sites, heights)

    def area(p):
        x, y = p.T
        return float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2)

    areas = torch.tensor([area(p) for p in diagram.polygons], dtype=torch.float64)
    assert torch.allclose(areas, diagram.masses * source.area, atol=1e-13)
    moved = torch.tensor([area(p) for p in diagram.displaced(0.75)], dtype=torch.float64)
    assert torch.allclose(moved, areas / 16, atol=1e-13)


def test_facet_polygons_have_the_right_areas():
    source, sites, heights = problem("cube", 60)
    diagram = power_diagram(source, sites, heights)
    for corners, measure in zip(diagram.facet_polygons, diagram.facets.mass, strict=True):
        fan = torch.linalg.cross(corners[1:-1] - corners[0], corners[2:] - corners[0])
        assert float(fan.sum(0).norm()) / 2 == pytest.approx(6 * float(measure), abs=1e-12)


def test_a_facet_lies_where_the_two_planes_meet():
    source, sites, heights = problem("disk", 60)
    facets = power_diagram(source, sites, heights).facets
    middle = facets.endpoints.mean(1)
    best = (middle @ sites.T + heights).topk(2, dim=1)
    assert torch.allclose(best.values[:, 0], best.values[:, 1], atol=1e-13)
    assert torch.equal(best.indices.sort(1).values, facets.pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((aeot.Gaussian(dim=2), [[0.0, 0.0]], [0.0]), "source must be"),
        ((aeot.UniformBox(dim=4), [[0.0] * 4], [0.0]), "dim <= 3"),
        ((aeot.UniformBox(dim=2), [[0.0, 0.0, 0.0]], [0.0]), "sites must have 2 columns"),
        ((aeot.UniformBox(dim=2), [[0.0, 0.0]], [0.0, 1.0]), "heights must have shape"),
        ((aeot.UniformBox(dim=2), [[0.0, math.nan]], [0.0]), "sites must be finite"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        power_diagram(*arguments)


def test_planar_only_properties_say_so():
    diagram = power_diagram(*problem("cube", 5))
    with pytest.raises(ValueError, match="d = 2 for polygons"):
        _ = diagram.polygons


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("moved", [0.0, 0.02, 0.2, 10.0])  # cells are empty from 0.2 on
def test_walks_find_the_neighbours_that_qhull_finds(dim, moved):
    # From the facets of other heights, near ones and unrelated ones.
    where = support(aeot.UniformBox(dim=dim))
    rng = np.random.default_rng(dim)
    n = 400
    sites = rng.uniform(-0.5, 0.5, (n, dim))
    heights = -(sites**2).sum(1) / 2
    warm = Tessellation(where, sites)
    warm(heights)
    warm.count["hulls"] = 0
    goal = heights + moved * n ** (-2 / dim) * rng.normal(size=n)
    got = warm(goal)
    cold = Tessellation(where, sites)
    cold.wild = 1
    want = cold(goal)
    assert np.abs(got.masses - want.masses).max() < 1e-14
    facets = [
        sp.coo_matrix((c.measures, (c.rows, c.columns)), shape=(n, n)).tocsr() for c in (got, want)
    ]
    assert abs(facets[0] - facets[1]).max() < 1e-12
    assert warm.count["hulls"] == 0 or moved > 1


def test_many_bodies_in_space_need_no_hull(monkeypatch):
    monkeypatch.setattr(tessellation, "_MANY", 1000)
    where = support(aeot.UniformBox(dim=3))
    sites = np.random.default_rng(0).normal(size=(3000, 3))
    sites -= sites.mean(0)
    engine = Tessellation(where, sites / np.abs(sites).max() / 2)
    engine(starting_heights(where, engine.sites, np.full(3000, 1 / 3000)))
    assert engine.count["hulls"] == 0
