import math

import numpy as np
import pytest
import torch

import aeot
from aeot import BrenierMap, UniformBall, UniformBox, find_singularities, generator
from aeot.data.toys import toy
from aeot.geometry.facets import angle, jump
from aeot.singular import facets, modes


def solved(sites, source=None, **kwargs):
    source = source or UniformBox(dim=sites.shape[1])
    return aeot.solve_exact(source, sites, **kwargs).map()


def toy_map(name, n, scaling="raw"):
    data = toy(name, n, scaling=scaling)
    sites = data[torch.arange(n)].double()
    return solved(sites, tol=1e-6), data


def mode_pairs(singular, labels):
    """Pairs of modes that share facets, and the total mass they share."""
    i, j = singular.facets.pairs.T
    a, b = torch.minimum(labels[i], labels[j]), torch.maximum(labels[i], labels[j])
    keys, slot = (a * 1000 + b)[a != b].unique(return_inverse=True)
    mass = torch.zeros(len(keys), dtype=torch.float64)
    return keys, mass.index_add_(0, slot, singular.facets.mass[a != b])


def purity(singular, labels):
    """Each component is one labelled mode and each mode one component."""
    both = torch.stack([singular.components, labels], 1).unique(dim=0)
    return len(both) == singular.n_components == int(labels.max()) + 1


@pytest.mark.parametrize("unit", ["raw", "wgan-gp", "square"])
def test_the_25_modes_of_the_grid_and_their_40_neighbours(unit):
    brenier, data = toy_map("grid", 512, "wgan-gp" if unit == "wgan-gp" else "raw")
    modes = data.info["modes"].double()
    if unit == "square":
        brenier.sites = (brenier.sites + 5) / 10  # u of the moved sites has the same cells
        brenier.heights = brenier.heights / 10
        modes = (modes + 5) / 10
    singular = find_singularities(brenier)
    assert purity(singular, data.labels)
    i, j = singular.pairs.T
    assert bool((data.labels[i] != data.labels[j]).all())
    keys, mass = mode_pairs(singular, data.labels)
    large = keys[mass > 0.1 * mass.median()]
    step = (modes[large // 1000] - modes[large % 1000]).abs()
    spacing = float((modes[:, 0].unique()).diff().min())
    assert len(large) == 40
    assert torch.allclose(step.sum(1), torch.full((40,), spacing).double())  # along one axis


@pytest.mark.parametrize(
    ("scale", "each", "n_points"),
    [
        (1.0, 12, 1 << 15),
        (37.0, 12, 1 << 17),
        (1e-3, 40, 1 << 15),
        *(pytest.param(s, 40, 1 << 18, marks=pytest.mark.slow) for s in (1e-3, 1.0, 37.0)),
    ],
)
def test_points_find_the_40_neighbours_and_their_masses(scale, each, n_points):
    # 25 tight modes on a grid: each of the 40 pairs shares a facet of a fifth of the side. A mode
    # of 40 sites fills a list of eight planes.
    g = generator(31)
    modes = torch.arange(25).repeat_interleave(each)
    centres = torch.stack([modes // 5, modes % 5], 1) * 2.0 - 4
    sites = torch.randn(25 * each, 2, generator=g, dtype=torch.float64)
    sites = scale * (centres + 0.05 * sites)
    brenier = solved(sites, tol=1e-6)
    keys, exact = mode_pairs(find_singularities(brenier), modes)
    exact = {k: m for k, m in zip(keys.tolist(), exact.tolist(), strict=True) if m > 0.02}
    assert len(exact) == 40
    keys, mass = mode_pairs(find_singularities(brenier, n_points=n_points), modes)
    large = mass > 0.1 * mass.median()
    assert sorted(keys[large].tolist()) == sorted(exact)
    off = mass[large] / torch.tensor([exact[k] for k in keys[large].tolist()]) - 1
    # The layer that is counted is as thin as cells are wide.
    noise = 0.12 * ((1 << 17) / n_points) ** 0.5 * (each / 12) ** 0.25
    assert float(off.square().mean().sqrt()) < noise
    assert abs(float(off.mean())) < max(0.04, 3 * noise / 40**0.5)


@pytest.mark.parametrize(
    "source", [UniformBox(dim=2), UniformBox(dim=3), UniformBall(dim=3)], ids=repr
)
def test_points_measure_facets_without_bias(source):
    d = source.dim
    sites = torch.randn(40, d, generator=generator(3), dtype=torch.float64)
    brenier = solved(sites, source, tol=1e-6)
    exact = find_singularities(brenier).facets
    found = find_singularities(brenier, n_points=1 << 16).facets
    known = dict(zip(map(tuple, exact.pairs.tolist()), exact.mass.tolist(), strict=True))
    mass = {tuple(p): m for p, m in zip(found.pairs.tolist(), found.mass.tolist(), strict=True)}
    assert sum(m for p, m in mass.items() if p not in known) < 1e-3 * sum(known.values())
    assert sum(mass.values()) == pytest.approx(sum(known.values()), rel=0.02)
    large = [p for p in known if known[p] > 0.5 * float(exact.mass.median())]
    off = np.array([mass.get(p, 0.0) / known[p] - 1 for p in large])
    assert float(np.sqrt(np.square(off).mean())) < 0.15
    assert abs(float(off.mean())) < 0.03


def test_points_measure_the_facets_of_a_lattice_in_four_dimensions():
    # Cells are cubes of side 1 / 3: between two there is a facet of area 1 / 27.
    steps = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 4)
    sites = (steps + 0.5) / 3
    brenier = BrenierMap(UniformBox(dim=4), sites, -(sites**2).sum(1) / 2)
    facets = find_singularities(brenier, n_points=1 << 16).facets
    i, j = facets.pairs.T
    side = (steps[i] - steps[j]).abs().sum(1) == 1
    assert int(side.sum()) == 4 * 2 * 27
    assert float(facets.mass[side].mean()) * 27 == pytest.approx(1, abs=0.03)
    assert float((facets.mass[side] * 27 - 1).square().mean().sqrt()) < 0.2
    assert float(facets.mass[~side].sum()) < 0.02 * float(facets.mass.sum())


def test_the_ring_has_eight_modes():
    for scaling in ("raw", "wgan-gp"):
        brenier, data = toy_map("ring", 256, scaling)
        assert purity(find_singularities(brenier), data.labels)


@pytest.mark.parametrize("n", [256, 800])
def test_the_roll_is_one_sheet_cut_between_its_turns(n):
    brenier, data = toy_map("swissroll", n)
    singular = find_singularities(brenier)
    assert singular.n_components == 1
    assert singular.sheets
    turn = brenier.sites.norm(dim=1) / data.info["scale"] / math.pi  # angle / pi: r = angle
    i, j = singular.pairs.T
    assert len(i) > 50
    assert float((turn[i] - turn[j]).abs().min()) > 0.9  # half a turn, up to the noise
    kept = {tuple(p) for p in singular.facets.pairs.tolist()}
    kept -= {tuple(p) for p in singular.pairs.tolist()}
    i, j = torch.tensor(sorted(kept)).T
    assert float((turn[i] - turn[j]).abs().max()) < 1.1
    assert not bool(singular.crosses(i, j).any())


def mixture(d, *, modes=8, n=400, gap=8.0, seed=0):
    """Codes in clusters whose centres are at least `gap` standard deviations apart."""
    g = generator(seed, "mixture", d)
    centres = torch.randn(modes, d, generator=g)
    spread = torch.linspace(1, 1.6, modes)
    apart = torch.cdist(centres, centres) + 1e9 * torch.eye(modes)
    centres = centres * (gap * (spread[:, None] + spread) / 2 / apart).max()
    labels = torch.arange(n) % modes
    return centres[labels] + spread[labels, None] * torch.randn(n, d, generator=g), labels


@pytest.mark.parametrize("d", [8, 32, 64])
def test_pairs_across_clusters_are_told_from_pairs_inside(d):
    sites, labels = mixture(d)
    brenier = aeot.solve_semidiscrete(UniformBox(dim=d), sites, tol=0.1).map()
    singular = find_singularities(brenier, n_points=10_000)
    i, j = singular.facets.pairs.T
    found, true = singular.crosses(i, j), labels[i] != labels[j]
    assert int(true.sum()) > 500
    assert int((~true).sum()) > 500
    hits = float((found & true).sum())
    assert hits / float(found.sum()) > 0.98
    assert hits / float(true.sum()) > 0.98
    assert purity(singular, labels)


@pytest.mark.parametrize("d", [2, 8, 32])
def test_a_convex_cloud_is_not_cut(d):
    sites = torch.randn(500, d, generator=generator(1), dtype=torch.float64)
    brenier = BrenierMap(UniformBox(dim=d), sites, -(sites**2).sum(1) / 2)
    singular = find_singularities(brenier, n_points=4000)
    assert singular.n_components == 1
    assert len(singular.pairs) == 0


def test_shift_rotation_and_scale_change_nothing():
    sites, _ = mixture(3, n=120)
    sites = sites.double()
    brenier = BrenierMap(UniformBox(dim=3), sites, -(sites**2).sum(1) / 20)
    before = find_singularities(brenier, n_points=3000)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator(2), dtype=torch.float64))
    for moved in (sites * 1e-3, sites * 1e3, sites + 50.0, sites @ turn):
        graph, _ = modes.links(moved)
        labels = modes.modes(graph, np.full(120, 1 / 120))
        assert np.array_equal(labels, before.components.numpy())


def test_two_clusters_on_the_disk_are_cut_along_the_diameter():
    g = generator(0)
    half = torch.randn(15, 2, generator=g, dtype=torch.float64) * 0.1
    sites = torch.cat([half + torch.tensor([1.0, 0.0]), half * torch.tensor([-1.0, 1.0])])
    sites[15:, 0] -= 1.0
    disk = UniformBall(dim=2)
    brenier = solved(sites, disk, tol=1e-10)
    singular = find_singularities(brenier)
    assert singular.n_components == 2
    diagram = aeot.power_diagram(disk, sites, brenier.heights)
    keys = {tuple(p) for p in singular.pairs.tolist()}
    on = torch.tensor([tuple(p) in keys for p in diagram.facets.pairs.tolist()])
    ends = diagram.facets.endpoints[on]
    assert float(ends[:, :, 0].abs().max()) < 1e-6
    lengths = (ends[:, 0] - ends[:, 1]).norm(dim=1)
    assert abs(float(lengths.sum()) - 2) < 1e-6
    # mass of a facet: its length times the density 1 / pi
    assert abs(float(singular.mass.sum()) - 2 / math.pi) < 1e-6
    sampled = find_singularities(brenier, n_points=20_000)
    assert abs(float(sampled.mass.sum()) * math.pi / 2 - 1) < 0.1
    # every crossing of a segment through the disk lies on the diameter
    found = singular.crossings([-0.5, -0.3], [0.6, 0.4])
    assert float(found.points[found.singular][0, 0].abs()) < 1e-6
    assert int(found.singular.sum()) == 1


def test_two_points_of_unequal_mass_are_cut_at_the_quantile():
    sites = torch.tensor([[0.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
    brenier = solved(sites, masses=[0.3, 0.7])
    singular = find_singularities(brenier)
    assert singular.pairs.tolist() == [[0, 1]]
    assert singular.jumps.tolist() == [1.0]
    assert abs(float(singular.mass[0]) - 1) < 1e-9
    crossing = singular.crossings([0.0, 0.2], [1.0, 0.9])
    assert torch.allclose(crossing.positions, torch.tensor([0.3]).double(), atol=1e-9)
    x = torch.rand(50, 2, generator=generator(0), dtype=torch.float64)
    assert torch.allclose(singular.distance(x), (x[:, 0] - 0.3).abs(), atol=1e-9)


@pytest.mark.parametrize(("d", "n"), [(2, 150), (3, 100)])
def test_walks_find_the_facets_of_the_exact_diagram(d, n):
    sites = torch.randn(n, d, generator=generator(0, d), dtype=torch.float64)
    brenier = solved(sites, tol=1e-6)
    exact, walked = facets.find_facets(brenier), facets.find_facets(brenier, 200 * n)
    assert exact.exact
    assert not walked.exact
    true = {tuple(p): float(m) for p, m in zip(exact.pairs.tolist(), exact.mass, strict=True)}
    found = [tuple(p) for p in walked.pairs.tolist()]
    assert all(pair in true for pair in found)  # no false pair
    assert sum(true[pair] for pair in found) > 0.99 * sum(true.values())
    i, j = exact.pairs.T
    large = exact.mass > exact.mass.median()
    mass = dict(zip(found, walked.mass.tolist(), strict=True))
    ratio = np.array([mass.get(tuple(p), 0) / true[tuple(p)] for p in exact.pairs[large].tolist()])
    # a large facet is hit by dozens of walks; the tent blurs it by a quarter of the cells' width
    assert abs(ratio.mean() - 1) < 0.15


@pytest.mark.parametrize("d", [2, 3])
def test_walks_between_modes_find_the_facets_of_the_exact_diagram(d):
    # The last plane of a list and the best one of each mode bound those that no walk looks at.
    labels = np.arange(150) % 6
    centres = 3 * torch.randn(6, d, generator=generator(5, d), dtype=torch.float64)
    noise = torch.randn(150, d, generator=generator(6, d), dtype=torch.float64)
    brenier = solved(centres[torch.from_numpy(labels)] + noise, tol=1e-6)
    exact = facets.find_facets(brenier)
    walked = facets.find_facets(brenier, 200 * 150, labels=labels)
    true = {tuple(p): float(m) for p, m in zip(exact.pairs.tolist(), exact.mass, strict=True)}
    found = [tuple(p) for p in walked.pairs.tolist()]
    assert all(pair in true for pair in found)
    assert sum(true[pair] for pair in found) > 0.99 * sum(true.values())


def test_angles_are_those_of_the_normals():
    sites = torch.randn(40, 5, generator=generator(0), dtype=torch.float64)
    i, j = torch.arange(39), torch.arange(1, 40)
    normals = torch.nn.functional.pad(sites, (0, 1), value=-1.0)
    cosine = torch.nn.functional.cosine_similarity(normals[i], normals[j])
    assert torch.allclose(angle(sites, i, j), cosine.arccos(), atol=1e-7)
    tiny = torch.tensor([[0.0], [1e-6]], dtype=torch.float64)  # where an arccos loses all digits
    assert abs(float(angle(tiny, i[:1], j[:1])) * 1e6 - 1) < 1e-6


def test_published_angles_cut_the_published_grid():
    brenier, data = toy_map("grid", 256, "wgan-gp")
    singular = find_singularities(brenier, 0.2)  # the angle used for this grid
    i, j = singular.facets.pairs.T
    assert bool(((singular.facets.angles > 0.2) == (data.labels[i] != data.labels[j])).all())
    assert torch.equal(singular.crosses(i, j), singular.facets.angles > 0.2) or purity(
        singular, data.labels
    )


def test_a_callable_criterion_is_used_on_any_pair():
    brenier, data = toy_map("grid", 256)
    singular = find_singularities(brenier, lambda angles, jumps: jumps > 1.0)
    assert purity(singular, data.labels)
    i, j = torch.randint(256, (2, 500), generator=generator(0))
    assert torch.equal(singular.crosses(i, j), data.labels[i] != data.labels[j])


def test_crossings_are_where_the_cell_changes():
    sites = torch.randn(60, 4, generator=generator(0), dtype=torch.float64)
    brenier = BrenierMap(UniformBox(dim=4), sites, -(sites**2).sum(1) / 2)
    singular = find_singularities(brenier, n_points=500)
    start, end = torch.zeros(4).double(), torch.ones(4).double()
    found = singular.crossings(start, end)
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    owner = brenier.cell(start + t[:, None] * (end - start))
    change = (owner[1:] != owner[:-1]).nonzero()[:, 0]
    assert len(found.positions) == len(change) >= 3
    assert float((found.positions - (t[change] + t[change + 1]) / 2).abs().max()) < 1e-5
    assert torch.equal(found.pairs, torch.stack([owner[change], owner[change + 1]], 1))


def test_the_distance_is_a_lower_bound_that_is_reached():
    brenier, data = toy_map("grid", 256)
    singular = find_singularities(brenier)
    x = UniformBox(dim=2).sample(200, generator=generator(0)).double()
    distance = singular.distance(x)
    cloud = UniformBox(dim=2).sample(60_000, generator=generator(1)).double()
    mode, here = data.labels[brenier.cell(cloud)], data.labels[brenier.cell(x)]
    gaps = torch.cdist(x, cloud)
    gaps[here[:, None] == mode] = torch.inf
    nearest = gaps.amin(1)
    assert bool((distance <= nearest + 1e-9).all())
    close = nearest < 0.03  # the facet of the own cell is often the nearest there
    assert float((nearest - distance)[close].median()) < 0.005


def test_paths_step_over_regular_pairs_only():
    brenier, data = toy_map("swissroll", 256)
    singular = find_singularities(brenier)
    turn = brenier.sites.norm(dim=1)
    first, last = int(turn.argmin()), int(turn.argmax())
    path = singular.path(first, last)
    assert path[0] == first
    assert path[-1] == last
    assert not bool(singular.crosses(path[:-1], path[1:]).any())
    # it follows the sheet: its length is that of the roll, not of the chord across it
    steps = jump(brenier.sites, path[:-1], path[1:])
    chord = (brenier.sites[first] - brenier.sites[last]).norm()
    assert float(steps.sum()) > 4 * float(chord)
    # and no other has a smaller sum of squares: Floyd and Warshall, all pairs at once
    i, j = singular.links.T
    n = len(brenier.sites)
    least = torch.full((n, n), torch.inf, dtype=torch.float64).fill_diagonal_(0.0)
    least[i, j] = least[j, i] = (brenier.sites[i] - brenier.sites[j]).double().square().sum(1)
    for k in range(n):
        least = torch.minimum(least, least[:, k : k + 1] + least[k])
    assert float(steps.square().sum()) == pytest.approx(float(least[first, last]))
    grid, data = toy_map("grid", 256)
    singular = find_singularities(grid)
    with pytest.raises(ValueError, match="first and last must lie in one component"):
        singular.path(0, int((data.labels != data.labels[0]).nonzero()[0]))


def test_few_sites_have_no_scale_and_are_all_cut():
    sites = torch.rand(5, 2, generator=generator(0), dtype=torch.float64)
    singular = find_singularities(solved(sites))
    assert singular.n_components == 5
    one = BrenierMap(UniformBox(dim=2), sites[:1], torch.zeros(1))
    singular = find_singularities(one)
    assert singular.n_components == 1
    assert not bool(singular.contains(torch.rand(3, 2)).any())


def test_the_same_seed_finds_the_same_facets():
    sites, _ = mixture(6, n=60)
    brenier = BrenierMap(UniformBox(dim=6), sites, -(sites**2).sum(1) / 20)
    a, b, c = (facets.find_facets(brenier, 3000, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.pairs, b.pairs)
    assert torch.equal(a.mass, b.mass)
    assert not (a.pairs.shape == c.pairs.shape and torch.equal(a.pairs, c.pairs))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"max_angle": 0.0}, "max_angle must be a finite number > 0, got 0.0"),
        ({"n_points": 0}, "n_points must be a whole number >= 1, got 0"),
        ({"max_angle": lambda a, j: True}, r"max_angle\(angles, jumps\) must have shape"),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    brenier = solved(torch.rand(12, 2, generator=generator(0), dtype=torch.float64))
    with pytest.raises(ValueError, match=words):
        find_singularities(brenier, **kwargs)


def test_another_seed_draws_other_points_and_other_rays():
    b = BrenierMap(
        UniformBox(dim=6), torch.rand(60, 6, generator=generator(0)).double(), torch.zeros(60)
    )
    first, second = (facets.find_facets(b, 3000, seed=s) for s in (1, 2))
    masses = [
        dict(zip(map(tuple, f.pairs.tolist()), f.mass.tolist(), strict=True))
        for f in (first, second)
    ]
    both = [p for p in masses[0] if masses[1].get(p, 0) > 0 and masses[0][p] > 0]
    assert len(both) > 20
    assert all(masses[0][p] != masses[1][p] for p in both)


def test_a_map_without_facets_inside_a_component_is_no_error():
    sites = torch.rand(9, 3, generator=generator(11))
    brenier = BrenierMap(UniformBox(dim=3), sites, torch.zeros(9))
    singular = find_singularities(brenier, n_points=500)
    i, j = singular.facets.pairs.T
    assert not (singular.components[i] == singular.components[j]).any()


def test_what_is_printed_of_a_map_says_how_good_it_is_and_whether_it_tears():
    sites = torch.tensor([[0.1, 0.1], [0.9, 0.9]])
    solution = aeot.solve_exact(aeot.UniformBox(dim=2), sites)
    assert repr(solution) == f"Solution(2 sites in 2 dimensions, {solution.message})"
    singular = aeot.find_singularities(solution.map())
    assert repr(singular) == "SingularSet(1 of 1 facets cut, 2 modes, 2 sites)"
