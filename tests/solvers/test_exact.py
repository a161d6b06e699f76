"""The exact solver against closed forms, planted heights and a linear program."""

import math
import os
import signal
import warnings

import numpy as np
import ot
import pytest
import torch
from problems import EXACT_SOURCES as SOURCES
from problems import diagram_problem as problem
from sklearn.exceptions import ConvergenceWarning

import aeot
from aeot.geometry.diagram import power_diagram
from aeot.geometry.tessellation import Tessellation, support
from aeot.search.heights import center
from aeot.singular.curves import singular_curves, singular_surfaces
from aeot.solvers.exact import evaluate, solve_exact, starting_heights

F8 = torch.float64


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=aeot.generator(seed), dtype=F8)


def lattice(k, dim=2):
    axis = (torch.arange(k, dtype=F8) + 0.5) / k
    return torch.cartesian_prod(*[axis] * dim)


def assert_solved(solution, tol=1e-10):
    assert solution.converged, solution.message
    # By a diagram of its own, not the solver's.
    masses = power_diagram(solution.source, solution.sites, solution.heights).masses
    error = (masses - solution.masses).abs()
    assert bool((error <= torch.maximum(tol * solution.masses, torch.tensor(1e-11))).all())
    # On a line the solver has another route to the masses, of another rounding.
    rounding = 1e-13 if solution.source.dim == 1 else 1e-15
    assert solution.mass_error == pytest.approx(float(error.sum()) / 2, abs=rounding)
    assert float(solution.heights.mean()) == pytest.approx(0, abs=1e-9)


def test_one_dimensional_oracle():
    sites = torch.tensor([[0.9], [0.1], [0.5]], dtype=F8)
    solution = solve_exact(aeot.UniformBox(dim=1), sites, torch.tensor([0.3, 0.2, 0.5], dtype=F8))
    want = center(torch.tensor([-0.2133333333333333, 0.1466666666666667, 0.0666666666666667]))
    assert torch.allclose(solution.heights, want, atol=1e-7)
    h = solution.heights[torch.tensor([1, 2, 0])]
    assert h.diff().tolist() == pytest.approx([-0.4 * 0.2, -0.4 * 0.7], abs=1e-15)
    assert_solved(solution)


def test_one_dimension_on_any_interval():
    source = aeot.UniformBall(dim=1, center=5.0, radius=3.0)
    masses = rand(40, seed=1) + 0.1
    assert_solved(solve_exact(source, 100 + rand(40, 1), masses / masses.sum()), tol=1e-8)


def test_two_points():
    sites = torch.tensor([[0.0, 0.5], [1.0, 0.5]], dtype=F8)
    solution = solve_exact(aeot.UniformBox(dim=2), sites, torch.tensor([0.3, 0.7], dtype=F8))
    assert float(solution.heights[1] - solution.heights[0]) == pytest.approx(-0.3, abs=1e-14)
    diagram = power_diagram(solution.source, sites, solution.heights)
    assert diagram.cost == pytest.approx(0.3**3 / 6 + 0.7**3 / 6 + 1 / 24, abs=1e-14)
    assert diagram.w2 == pytest.approx(math.sqrt(2 * diagram.cost))


@pytest.mark.parametrize("dim", [2, 3])
def test_lattice(dim):
    sites = lattice(6, dim)
    solution = solve_exact(aeot.UniformBox(dim=dim), sites)
    assert_solved(solution)
    assert torch.allclose(solution.heights, center(-(sites - 0.5).square().sum(1) / 2 - sites @ torch.full((dim,), 0.5, dtype=F8)), atol=1e-9)  # fmt: skip  # noqa: E501
    diagram = power_diagram(solution.source, sites, solution.heights)
    assert diagram.cost == pytest.approx(dim / (24 * 36), abs=1e-10)


@pytest.mark.parametrize("name", SOURCES)
def test_planted_heights_are_recovered(name):
    source, sites, heights = problem(name, 60, seed=3)
    masses = power_diagram(source, sites, heights).masses
    keep = masses > 1e-6
    planted = power_diagram(source, sites[keep], heights[keep])
    solution = solve_exact(source, sites[keep], planted.masses)
    assert_solved(solution)
    assert torch.allclose(solution.heights, center(heights[keep]), atol=1e-8)


@pytest.mark.parametrize("name", SOURCES)
def test_no_duality_gap_and_no_coupling_is_cheaper(name):
    source = SOURCES[name]()
    sites = torch.randn(25, source.dim, generator=aeot.generator(7), dtype=F8)
    solution = solve_exact(source, sites)
    assert_solved(solution, tol=1e-9)
    diagram = power_diagram(source, sites, solution.heights)
    assert abs(diagram.duality_gap(solution.masses)) < 1e-9
    # Cyclically monotone on random triples.
    x = source.sample(3000, generator=aeot.generator(8)).to(F8)
    y = sites[(x @ sites.T + solution.heights).argmax(1)]
    x, y = x.reshape(3, -1, source.dim), y.reshape(3, -1, source.dim)
    assert float(((x.roll(1, 0) - x) * y).sum((0, 2)).max()) <= 1e-12


def test_a_linear_program_on_a_fine_grid_agrees():
    k, n = 45, 12
    x, sites = lattice(k), rand(n, 2, seed=4)
    solution = solve_exact(aeot.UniformBox(dim=2), sites)
    cost = ((x[:, None] - sites[None]) ** 2).sum(2).numpy() / 2
    plan_cost = ot.emd2(np.full(k * k, 1 / k**2), np.full(n, 1 / n), cost)
    ours = power_diagram(solution.source, sites, solution.heights).cost
    # Moving each pixel's mass to its middle moves it by at most 0.71 / k.
    assert plan_cost == pytest.approx(ours, abs=1.5 * 0.71 / k * math.sqrt(2 * ours))
    assert plan_cost == pytest.approx(ours, abs=3e-4)


def test_start_leaves_no_cell_empty():
    for name in SOURCES:
        if name == "interval":
            continue
        source = SOURCES[name]()
        where = support(source)
        sites = torch.randn(200, source.dim, generator=aeot.generator(9), dtype=F8).numpy() ** 3
        nu = np.full(200, 1 / 200)
        cells = Tessellation(where, sites)(starting_heights(where, sites, nu))
        assert cells.masses.min() > 0, name


def test_energy_gradient():
    source, sites, heights = problem("disk", 30)
    where = support(source)
    engine = Tessellation(where, (sites - sites.mean(0)).numpy())
    nu, v = torch.full((30,), 1 / 30, dtype=F8), torch.randn(30, generator=aeot.generator(1)).to(F8)
    heights = heights + (sites - sites.mean(0)) @ source.mean.to(F8)
    now = evaluate(engine, heights, nu)
    up, down = (evaluate(engine, heights + s * 1e-5 * v, nu).energy for s in (1, -1))
    assert (up - down) / 2e-5 == pytest.approx(float(now.gradient @ v), abs=1e-8)
    assert float(now.gradient.sum()) == pytest.approx(0, abs=1e-13)


def circle(n):
    angle = 2 * math.pi * torch.arange(n, dtype=F8) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def six_orders(n):
    masses = 10 ** (-6 * torch.arange(n, dtype=F8) / (n - 1))
    return masses[torch.randperm(n, generator=aeot.generator(0))] / masses.sum()


HARD = {
    "one site": (torch.tensor([[3.0, 4.0]]), None),
    "two sites": (torch.tensor([[3.0, 4.0], [-5.0, 4.5]], dtype=F8), [0.25, 0.75]),
    "collinear": (torch.linspace(0, 1, 60, dtype=F8)[:, None] * torch.tensor([1.0, 2.0]), None),
    "on an axis": (torch.linspace(0, 1, 60, dtype=F8)[:, None] * torch.tensor([1.0, 0.0]), None),
    "cocircular": (circle(60), None),
    "cocircular and centre": (torch.cat([circle(60), torch.zeros(1, 2)]), None),
    "lattice with unequal masses": (lattice(12), six_orders(144)),
    "far outside": (1000 + 0.1 * rand(150, 2), None),
    "huge": (1e6 * rand(150, 2), None),
    "tiny": (1e-6 * rand(150, 2), None),
    "six orders of mass": (rand(200, 2), six_orders(200)),
    "two far clusters": (torch.cat([rand(100, 2), 30 + rand(50, 2)]), None),
    "heavy tails": (torch.tan(3.1 * (rand(200, 2) - 0.5)), None),
    "in space on a line": (
        torch.linspace(0, 1, 50, dtype=F8)[:, None] * torch.tensor([1.0, 2, -1]),
        None,
    ),
    "in space on a plane": (torch.cat([rand(80, 2), torch.zeros(80, 1)], dim=1), None),
    "on a sphere": (torch.nn.functional.normalize(rand(100, 3) - 0.5, dim=1), None),
    "cube lattice, six orders": (lattice(5, 3), six_orders(125)),
    "far in space": (1e3 + rand(80, 3), None),
    "one site in space": (torch.tensor([[3.0, 4.0, 5.0]]), None),
    "two sites in space": (torch.tensor([[3.0, 4, 5], [3, 4, 6]], dtype=F8), [0.1, 0.9]),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_cases(case):
    sites, masses = HARD[case]
    for source in (aeot.UniformBox(dim=sites.shape[1]), aeot.UniformBall(dim=sites.shape[1])):
        assert_solved(solve_exact(source, sites, masses))


def test_near_duplicates_are_solved_as_far_as_heights_can_and_named():
    sites = rand(100, 2)
    sites[7] = sites[3] + torch.tensor([6e-10, 8e-10])
    with pytest.warns(ConvergenceWarning, match=r"its site lies 1.0e-09 from site"):
        solution = solve_exact(aeot.UniformBox(dim=2), sites)
    assert not solution.converged
    error = (solution.cell_masses - solution.masses).abs()
    assert float(error.max()) < 1e-7  # of 1e-2 each
    error[[3, 7]] = 0
    assert float(error.max()) < 1e-11  # nobody else suffers


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("gap", [1e-13, 1e-14, 3e-16])
def test_nothing_is_called_converged_with_an_empty_cell(dim, gap):
    sites = rand(60, dim)
    sites[7] = sites[3]
    sites[7, 0] += gap
    source = aeot.UniformBox(dim=dim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solution = aeot.solve_semidiscrete(source, sites, tol=0.05)
    x = source.sample(1 << 14, generator=aeot.generator(5)).double()
    cell = (x.numpy().astype(np.longdouble) @ sites.numpy().T + solution.heights.numpy()).argmax(1)
    empty = int((np.bincount(cell, minlength=60) == 0).sum())
    assert not (solution.converged and empty), solution.message
    assert bool(torch.isfinite(solution.heights).all())


def test_duplicates_are_named():
    sites = rand(10, 2)
    sites[8] = sites[2]
    with pytest.raises(ValueError, match="sites 2 and 8"):
        solve_exact(aeot.UniformBox(dim=2), sites)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((aeot.Gaussian(dim=2), [[0.0, 0.0]]), "source must be"),
        ((aeot.UniformBox(dim=2), [[0.0, 0.0]], [0.5]), "masses must sum to 1"),
        (
            (aeot.UniformBox(dim=2), [[0.0, 0.0], [1.0, 0.0]], [1.5, -0.5]),
            "masses must be positive",
        ),
        ((aeot.UniformBox(dim=2), [0.0, 0.0]), "sites must have shape"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_exact(*arguments)


def test_picture_with_black_parts():
    picture = torch.zeros(16, 16)
    picture[2:6, 2:6] = 1.0
    picture[9:15, 8:15] = 0.5
    solution = solve_exact(aeot.GridDensity(picture), rand(60, 2))
    assert_solved(solution, tol=1e-9)


def blobs(least, side=48):
    x = (torch.arange(side, dtype=F8) + 0.5) / side
    bump = [torch.exp(-(x - c).square() / 0.01) for c in (0.25, 0.75)]
    return torch.maximum(sum(torch.outer(b, b) for b in bump), torch.tensor(least, dtype=F8))


def rectangles(least):
    picture = torch.full((32, 32), least, dtype=F8)
    picture[4:12, 4:12], picture[18:30, 16:30] = 1.0, 0.5
    return picture


@pytest.mark.parametrize(
    "least",
    [0.0, 1e-6, 1e-3, *(pytest.param(few, marks=pytest.mark.slow) for few in (1e-12, 1e-4))],
)
@pytest.mark.parametrize("picture", [blobs, rectangles])
@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_densities_that_nearly_vanish(picture, least, interpolation):
    source = aeot.GridDensity(picture(least), interpolation=interpolation)
    sites = torch.randn(250, 2, generator=aeot.generator(1), dtype=F8)
    solution = solve_exact(source, sites, tol=1e-8)
    assert_solved(solution, tol=1e-8)
    assert len(solution.history) - 1 <= 30
    assert counts_are_noise(solution)


def counts_are_noise(solution, m=1 << 17):
    """Whether the masses of sampled points differ from the target by no more than chance."""
    x = solution.source.sample(m, generator=aeot.generator(8)).to(F8)
    owner = (x @ solution.sites.to(F8).T + solution.heights).argmax(1)
    count = torch.bincount(owner, minlength=len(solution.sites))
    square = ((count - m * solution.masses).square() / (m * solution.masses)).sum()
    freedom = max(len(count) - 1, 1)
    return float(square) / freedom < 1 + 5 * math.sqrt(2 / freedom)


ELL = [[0.0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]


def comb(teeth=8):
    shape = [[0.0, 0], [teeth, 0]]
    for k in range(teeth, 0, -1):
        shape += [[k, 3], [k - 0.2, 3], [k - 0.3, 0.3], [k - 0.9, 0.3], [k - 0.98, 3]]
    return shape


def star(points=20):
    angle = torch.arange(2 * points, dtype=F8) * math.pi / points
    return torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([1.0, 0.4] * points)[:, None]


def spiral():
    t = torch.linspace(0.0, 3 * math.pi, 40, dtype=F8)
    turn = torch.stack([t.cos(), t.sin()], 1)
    return torch.cat([t[1:, None] * turn[1:], ((t[:, None] + 1) * turn).flip(0)])


DENTED = {"ell": lambda: ELL, "comb": comb, "star": star, "spiral": spiral}


@pytest.mark.parametrize("shape", DENTED)
def test_polygons_with_dents(shape):
    source = aeot.Polygon(DENTED[shape]())
    sites = torch.randn(150, 2, generator=aeot.generator(2), dtype=F8)
    solution = solve_exact(source, sites, tol=1e-8)
    assert_solved(solution, tol=1e-8)
    assert len(solution.history) - 1 <= 30
    assert counts_are_noise(solution)


def test_an_ell_in_three_squares():
    # The cells of the squares' middles, for equal masses, are the squares.
    middles = torch.tensor([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5]], dtype=F8)
    solution = solve_exact(aeot.Polygon(ELL), middles)
    diagram = power_diagram(solution.source, middles, solution.heights)
    assert torch.allclose(diagram.centroids, middles, atol=1e-12)
    assert torch.allclose(diagram.second_moments, torch.eye(2, dtype=F8) / 12, atol=1e-12)
    assert diagram.cost == pytest.approx(1 / 12)
    # They share two sides of length 1, of mass 1 / 3 each; outside in the dent is no mass.
    shared = diagram.facets.mass > 1e-9
    assert diagram.facets.pairs[shared].tolist() == [[0, 1], [0, 2]]
    assert torch.allclose(diagram.facets.mass[shared], torch.full((2,), 1 / 3, dtype=F8))


def test_a_polygon_is_the_picture_of_it():
    picture = torch.ones(2, 2, dtype=F8)
    picture[0, 1] = 0.0
    sites = rand(40, 2, seed=3)
    one = solve_exact(aeot.Polygon(ELL), sites)
    other = solve_exact(aeot.GridDensity(picture, high=2.0), sites)
    assert_solved(one)
    assert torch.allclose(one.cell_centroids, other.cell_centroids, atol=1e-9)
    diagrams = [power_diagram(s.source, sites, s.heights) for s in (one, other)]
    assert diagrams[0].cost == pytest.approx(diagrams[1].cost, abs=1e-12)


def test_a_polygon_without_dents_is_convex():
    corners = [[0.0, 0], [2, 0], [2.5, 1], [1, 2], [0, 1.5]]
    sites = rand(40, 2, seed=4)
    one, other = (solve_exact(kind(corners), sites) for kind in (aeot.Polygon, aeot.ConvexPolygon))
    assert torch.allclose(one.heights, other.heights, atol=1e-10)


def test_caller_keeps_dtype_and_sites():
    sites = rand(20, 2).float()
    solution = solve_exact(aeot.UniformBox(dim=2), sites)
    assert solution.sites is sites
    assert solution.heights.dtype == torch.float64
    assert solution.map() is not None


# Singular sets


def test_two_clusters_break_along_the_bisector():
    half = circle(40) * 0.2 * rand(40, 1).sqrt() + torch.tensor([1.5, 0.0])
    sites = torch.cat([half, half * torch.tensor([-1.0, 1.0])])
    solution = solve_exact(aeot.UniformBall(dim=2), sites)
    diagram = power_diagram(solution.source, sites, solution.heights)
    curves = singular_curves(diagram, diagram.facets.jumps > 1.5)
    assert len(curves.lines) == 1
    assert float(curves.lines[0][:, 0].abs().max()) < 1e-10
    assert curves.lines[0][[0, -1], 1].abs().tolist() == pytest.approx([1, 1])
    assert len(curves.branch_points) == 0
    assert len(curves.ends) == 2


def test_unequal_clusters_break_at_the_quantile():
    sites = torch.tensor([[0.0, 0.25], [0.0, 0.75], [5.0, 0.25], [5.0, 0.75]], dtype=F8)
    solution = solve_exact(aeot.UniformBox(dim=2), sites, [0.15, 0.15, 0.35, 0.35])
    diagram = power_diagram(solution.source, sites, solution.heights)
    (line,) = singular_curves(diagram, diagram.facets.jumps > 2).lines
    assert line[:, 0].tolist() == pytest.approx([0.3] * 3, abs=1e-10)


def test_three_clusters_meet_in_one_branch_point():
    centres = circle(3)
    sites = (centres[:, None] + 0.1 * (rand(3, 30, 2) - 0.5)).reshape(-1, 2)
    solution = solve_exact(aeot.UniformBall(dim=2), sites)
    diagram = power_diagram(solution.source, sites, solution.heights)
    pairs = diagram.facets.pairs // 30
    mask = pairs[:, 0] != pairs[:, 1]
    curves = singular_curves(diagram, mask)
    assert len(curves.lines) == 3
    assert len(curves.branch_points) == 1
    assert torch.allclose(curves.ends.norm(dim=1), torch.ones(3, dtype=F8))
    assert sum(len(f) for f in curves.facets) == int(mask.sum())
    # The map jumps exactly there: points on the two sides go to different clusters.
    for line in curves.lines:
        a, b = line[:-1], line[1:]
        normal = torch.stack([(b - a)[:, 1], -(b - a)[:, 0]], dim=1)
        normal = 1e-9 * normal / normal.norm(dim=1, keepdim=True)
        sides = [((a + b) / 2 + s * normal) @ sites.T + solution.heights for s in (1, -1)]
        assert bool((sides[0].argmax(1) // 30 != sides[1].argmax(1) // 30).all())


def test_mode_grid_has_forty_adjacent_pairs():
    sites = torch.cartesian_prod(*[torch.arange(-4.0, 5.0, 2.0, dtype=F8)] * 2)
    solution = solve_exact(aeot.UniformBox(dim=2), sites)
    diagram = power_diagram(solution.source, sites, solution.heights)
    real = diagram.facets.mass > 1e-9
    assert int(real.sum()) == 40
    assert torch.allclose(diagram.facets.jumps[real], torch.full((40,), 2.0, dtype=F8))
    angles = diagram.facets.angles[real]  # of the normals (y, -1)
    assert float(angles.max()) == pytest.approx(1.107, abs=1e-3)
    assert float(angles.min()) == pytest.approx(0.2187, abs=1e-3)


def test_sheets_in_space():
    centres = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=F8)
    sites = (centres[:, None] + 0.1 * rand(3, 20, 3)).reshape(-1, 3)
    solution = solve_exact(aeot.UniformBox(dim=3), sites)
    diagram = power_diagram(solution.source, sites, solution.heights)
    pairs = diagram.facets.pairs // 20
    surfaces = singular_surfaces(diagram, pairs[:, 0] != pairs[:, 1])
    assert int(surfaces.sheets.max()) == 2
    assert len(surfaces.branch_lines) > 0
    for sheet in range(3):  # one sheet between each two clusters
        between = pairs[surfaces.facets[surfaces.sheets == sheet]]
        assert len(between.unique(dim=0)) == 1


def test_masks_are_checked():
    diagram = power_diagram(*problem("box", 5))
    with pytest.raises(ValueError, match="boolean mask"):
        singular_curves(diagram, diagram.facets.jumps)
    with pytest.raises(ValueError, match="d = 3"):
        singular_surfaces(diagram, diagram.facets.jumps > 0)


def test_a_signal_stops_between_two_diagrams(monkeypatch):
    from aeot import _loop

    seen, plain = [], _loop.at

    def strike(done, values=None):
        plain(done, values)
        seen.append(done)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(_loop, "at", strike)
    sites = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0)).double() ** 3
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM at the exact transport"):
        aeot.solve_semidiscrete(aeot.UniformBox(dim=2), sites)
    assert len(seen) == 1


@pytest.mark.parametrize("dim", [2, 3])
def test_many_sites_are_put_in_an_order_and_back(dim, monkeypatch):
    sites = torch.randn(600, dim, generator=aeot.generator(3), dtype=F8)
    one = solve_exact(aeot.UniformBox(dim=dim), sites)
    monkeypatch.setattr("aeot.solvers.exact._CACHED", 100)
    other = solve_exact(aeot.UniformBox(dim=dim), sites)
    assert_solved(other)
    assert torch.allclose(one.heights, other.heights, atol=1e-12)


def test_a_large_plane_goes_over_two_grids(monkeypatch):
    monkeypatch.setattr("aeot.solvers.laplacian._COARSE", 100)
    sites = torch.randn(1500, 2, generator=aeot.generator(4), dtype=F8)
    two = solve_exact(aeot.UniformBox(dim=2), sites)
    assert_solved(two)
    monkeypatch.undo()
    assert torch.allclose(
        two.heights, solve_exact(aeot.UniformBox(dim=2), sites).heights, atol=1e-12
    )


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("mass", [1e-17, 1e-310, 5e-324])
def test_a_mass_that_nothing_resolves_is_not_told_relative_to_itself(mass, dim):
    sites = np.random.default_rng(0).normal(size=(3, dim))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        s = solve_exact(aeot.UniformBox(dim=dim), sites, [mass, 0.5, 0.5])
    off = (s.cell_masses - s.masses).abs()
    if s.converged:
        heavy, light = s.message.split(", those of less than 1e-14 within ")
        relative = float((off / s.masses)[1:].max())
        assert heavy == f"every cell within {relative:.1e} of its mass"
        assert light.startswith(f"{float(off[0]):.1e} of all mass")
    assert "e+" not in s.message
