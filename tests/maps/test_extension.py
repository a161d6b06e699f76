import numpy as np
import pytest
import scipy.stats
import torch

import aeot
from aeot import BrenierMap, UniformBox, generator
from aeot.data.toys import toy
from aeot.maps import extension
from aeot.search.nearest import nearest

METHODS = ["affine", "linear", "pair", "inverse-distance"]


def blobs(d=2, *, n=40, gap=20.0, share=0.5, seed=0):
    """Two clusters of spread one, far apart along the first axis, and their labels."""
    g = generator(seed, "blobs", d)
    sites = torch.randn(n, d, generator=g, dtype=torch.float64)
    labels = (torch.arange(n) >= share * n).long()
    sites[:, 0] += gap * labels
    return sites, labels


@pytest.fixture(scope="module", params=[2, 3, 5])
def cut_map(request):
    d = request.param
    sites, labels = blobs(d)
    solution = aeot.solve_semidiscrete(UniformBox(dim=d), sites, tol=0.05)
    brenier = solution.map()
    return brenier, aeot.find_singularities(brenier, n_points=8000 if d > 3 else None), labels


def test_compatible_keeps_no_separated_pair():
    g = generator(0)
    bad = torch.rand(30, 30, generator=g) < 0.2
    bad = (bad | bad.T) & ~torch.eye(30, dtype=torch.bool)
    owners = torch.randint(30, (200,), generator=g)
    candidates = torch.randint(30, (200, 8), generator=g)
    keep = extension.compatible(owners, candidates, lambda i, j: bad[i, j])
    for owner, row, kept in zip(owners.tolist(), candidates.tolist(), keep.tolist(), strict=True):
        chosen = [owner]
        for cell, k in zip(row, kept, strict=True):
            fits = not any(bool(bad[cell, other]) for other in chosen)
            assert k == fits  # greedy: a candidate is dropped only for a reason
            chosen += [cell] if k else []


def test_members_stay_in_their_component_nearest_first():
    sites, labels = blobs(4, n=31)
    lists = extension.around(torch.arange(31), sites, extension.Sides(labels, None), 6).lists
    distances = torch.cdist(sites, sites)
    distances[labels[:, None] != labels] = torch.inf
    assert torch.equal(lists, distances.sort(1).indices[:, 1:7])


def test_members_of_a_small_component_are_padded_with_the_owner():
    sites, labels = blobs(4, n=10, share=0.3)
    lists = extension.around(torch.tensor([1, 9]), sites, extension.Sides(labels, None), 5).lists
    assert sorted(lists[0].tolist()) == [0, 1, 1, 1, 2]
    alone = extension.around(
        torch.tensor([0]), sites, extension.Sides(torch.arange(10), None), 5
    ).lists
    assert alone.tolist() == [[0] * 5]


@pytest.mark.parametrize("method", ["affine", "linear", "inverse-distance"])
def test_centroids_go_to_their_sites(cut_map, method):
    brenier, singular, _ = cut_map
    brenier.extend(brenier.sites[:1] * 0 + 0.5, singular, method)  # centroids are there now
    own = torch.arange(len(brenier.sites))
    inside = brenier.cell(brenier.centroids) == own  # estimated ones may fall beside a thin cell
    assert float(inside.double().mean()) > 0.95
    codes = brenier.extend(brenier.centroids[inside], singular, method)
    # 1e-6: inverse distances of exactly one centroid, and a regularised solve
    assert torch.allclose(codes, brenier.sites[inside], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_leaves_its_mode_and_nothing_is_a_training_code(cut_map, method):
    brenier, singular, labels = cut_map
    assert singular.n_components == 2
    drawn = brenier.draw(2000, singular=singular, method=method, generator=generator(1))
    mode = (drawn.codes[:, 0] > 10).long()
    assert torch.equal(mode, labels[drawn.owners])
    assert float((drawn.codes[:, 0] - 20 * mode).abs().max()) < 8
    assert float(torch.cdist(drawn.codes, brenier.sites).min()) > 1e-9
    assert drawn.n_alone == 0


@pytest.mark.parametrize("method", METHODS)
def test_uncut_pairs_do_mix_the_modes(cut_map, method):
    brenier, _, _ = cut_map
    if method == "affine":
        pytest.skip("its spread follows the nearest codes, cut or not")
    codes = brenier.draw(4000, method=method, generator=generator(1)).codes
    assert bool(((codes[:, 0] > 5) & (codes[:, 0] < 15)).any())


@pytest.mark.parametrize("d", [2, 3])
def test_linear_is_continuous_inside_a_mode_and_jumps_between_modes(d):
    sites, _ = blobs(d, n=60)
    brenier = aeot.solve_exact(UniformBox(dim=d), sites).map()
    singular = aeot.find_singularities(brenier)
    ends = UniformBox(dim=d).sample(80, generator=generator(5)).double()
    found = [singular.crossings(a, b) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    broken = torch.cat([c.singular for c in found])
    assert int((~broken).sum()) > 100
    assert int(broken.sum()) > 10
    step = torch.cat(
        [(b - a).expand_as(c.points) for c, a, b in zip(found, ends[::2], ends[1::2], strict=True)]
    )
    points = torch.cat([c.points for c in found])

    def jumps(method, **kwargs):
        before, after = (
            brenier.extend(points + sign * 1e-9 * step, singular, method, **kwargs)
            for sign in (-1, 1)
        )
        return (before - after).norm(dim=1)

    # simplices as flat as 1e-4 would still pass at this distance of 1e-9
    assert float(jumps("linear")[~broken].max()) < 1e-4
    assert float(jumps("linear")[broken].min()) > 5
    for method, kwargs in (("pair", {"weight": 0.75}), ("inverse-distance", {}), ("affine", {})):
        assert float(jumps(method, **kwargs)[~broken].max()) > 0.1  # the others are not


def test_linear_on_a_line_joins_the_middles_of_the_cells():
    sites = torch.tensor([[0.0], [3.0], [1.0]], dtype=torch.float64)
    brenier = aeot.solve_exact(UniformBox(dim=1), sites, [0.2, 0.5, 0.3]).map()
    x = torch.linspace(0.1, 0.75, 30, dtype=torch.float64)[:, None]  # cells end at 0.2 and 0.5
    expected = np.interp(x[:, 0], [0.1, 0.35, 0.75], [0.0, 1.0, 3.0])
    found = brenier.extend(x, None, "linear")[:, 0]
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-12)
    beyond = brenier.extend(x + 5, None, "linear")
    assert bool((beyond.diff(dim=0) > 0).all())  # the affine map that fits best


@pytest.mark.parametrize("d", [2, 3, 6])
def test_linear_reproduces_an_affine_map(d):
    g = generator(3)
    x = torch.rand(60, d, generator=g, dtype=torch.float64)
    matrix = torch.randn(d, d, generator=g, dtype=torch.float64)
    matrix = matrix @ matrix.T + torch.eye(d, dtype=torch.float64)
    brenier = aeot.solve_semidiscrete(UniformBox(dim=d), x @ matrix, tol=0.05).map()
    centroids, _ = brenier._cells()
    brenier.sites = centroids @ matrix + 1
    points = brenier.source.sample(300, generator=g).double()
    owner = brenier.cell(points)  # of the new sites; any owner will do
    if d <= 3:
        new = brenier.extend(points, None, "linear")
    else:
        one_side = extension.Sides(torch.zeros(60, dtype=torch.int64), None)
        near = extension.around(owner, brenier.sites, one_side, 20)
        parts = extension.barycentric(points, near, centroids)
        new = extension.mixed(brenier.sites, *parts)
    error = (new - (points @ matrix + 1)).norm(dim=1)
    scale = (brenier.sites - brenier.sites.mean(0)).norm(dim=1).mean()
    # the regulariser of the barycentric weights (1e-3) bends it by about as much
    assert float(error.max() / scale) < (1e-6 if d <= 3 else 0.05)


def test_the_matched_scale_makes_codes_as_new_as_held_out_ones():
    g = generator(0)
    codes = torch.randn(1200, 8, generator=g)
    train, held = codes[:600], codes[600:]
    brenier = aeot.solve_semidiscrete(UniformBox(dim=8), train, tol=0.05).map()
    distance = float(nearest(held, train, 1)[0].median())
    for kwargs, wanted in (({}, 0.92 * distance), ({"held_out": held}, distance)):
        scale = brenier.match_scale(**kwargs)
        x = brenier.source.sample(4000, generator=generator(7))
        got = nearest(brenier.extend(x, scale=scale), train, 1)[0].median()
        # medians over 600 and 2048 distances that vary by about a tenth
        assert abs(float(got) / wanted - 1) < 0.05


def test_every_mode_gets_its_share_after_rejection():
    labels = torch.tensor([0] * 27 + [1] * 6 + [2] * 27)  # in a row: the middle is all border
    sites = torch.randn(60, 2, generator=generator(3), dtype=torch.float64)
    sites[:, 0] += 9 * labels
    masses = torch.rand(60, generator=generator(4), dtype=torch.float64) + 0.2
    masses = masses / masses.sum()
    brenier = aeot.solve_exact(UniformBox(dim=2), sites, masses).map()
    singular = aeot.find_singularities(brenier, lambda angles, jumps: jumps > 4)
    share = torch.zeros(3, dtype=torch.float64).index_add_(0, labels, masses)
    drawn = brenier.draw(20_000, singular=singular, generator=generator(2))
    counts = torch.bincount(labels[drawn.owners], minlength=3)
    assert float((counts - 20_000 * share).abs().max()) < 1  # rounded up or down
    assert drawn.n_rejected > 0
    assert drawn.n_drawn == 20_000 + drawn.n_rejected + drawn.n_surplus
    assert not bool(singular.contains(drawn.points).any())
    # without the correction rejection takes more from the middle
    biased = brenier.draw(20_000, singular=singular, balance=False, generator=generator(2))
    counts = torch.bincount(labels[biased.owners], minlength=3)
    assert scipy.stats.chisquare(counts, 20_000 * share).pvalue < 1e-3
    accepted = dict(zip(singular.components.tolist(), labels.tolist(), strict=True))
    rates = torch.empty(3).double()
    for mode, label in accepted.items():
        rates[label] = drawn.accepted[mode]
    expected = share * rates / (share * rates).sum() * 20_000
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-6


def test_codes_in_every_region_come_as_often_as_they_should_and_not_by_chance():
    sites = torch.randn(400, 2, generator=generator(0), dtype=torch.float64)
    masses = torch.rand(400, generator=generator(1), dtype=torch.float64) + 0.2
    masses /= masses.sum()
    brenier = aeot.solve_exact(UniformBox(dim=2), sites, masses).map()
    region = (sites[:, 0] + sites[:, 1] > 0.4).double()  # across the strata
    n, share = 200, float(masses @ region)
    found, every = {}, {}
    for balance in (True, False):
        owners = [
            brenier.draw(n, method="pair", balance=balance, generator=generator(seed)).owners
            for seed in range(60)
        ]
        found[balance] = torch.stack([region[o].sum() for o in owners])
        every[balance] = torch.bincount(torch.cat(owners), minlength=400)
    chance = n * share * (1 - share)
    assert float(found[True].var()) < 0.25 * chance
    assert 0.6 < float(found[False].var()) / chance < 1.6
    for balance in (True, False):  # either is right on average, for the region and for each cell
        error = (float(found[balance].var()) / 60) ** 0.5
        assert abs(float(found[balance].mean()) - n * share) < 4 * error
        assert scipy.stats.chisquare(every[balance], 60 * n * masses).pvalue > 1e-3


def test_light_cells_beside_a_heavy_one_get_their_share():
    masses = torch.tensor([0.97, 0.01, 0.02], dtype=torch.float64)
    sites = torch.randn(3, 2, generator=generator(5), dtype=torch.float64)
    brenier = aeot.solve_exact(UniformBox(dim=2), sites, masses).map()
    owners = [brenier.draw(7, method="pair", generator=generator(s)).owners for s in range(300)]
    counts = torch.bincount(torch.cat(owners), minlength=3)
    assert scipy.stats.chisquare(counts, 2100 * masses).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 12])
def test_every_place_of_a_sample_is_as_likely_to_come_from_each_mode(n):
    class Halves:
        components = torch.tensor([0, 0, 0, 1])

        def crosses(self, first, second):
            return self.components[first] != self.components[second]

    masses = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    sites = torch.randn(4, 2, generator=generator(5), dtype=torch.float64)
    brenier = aeot.solve_exact(UniformBox(dim=2), sites, masses).map()
    how = {"singular": Halves(), "boundary": "reassign", "method": "pair"}
    owners = [brenier.draw(n, **how, generator=generator(s)).owners for s in range(200)]
    for place in (0, n - 1):  # the rare mode comes last, and is rounded away or up where n is small
        counts = torch.bincount(torch.stack(owners)[:, place], minlength=4)
        assert scipy.stats.chisquare(counts, 200 * masses).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "n"), [("grid", 512), ("ring", 256)])
def test_of_a_million_codes_none_lies_off_the_modes(name, n, method):
    data = toy(name, n)
    sites = data[torch.arange(n)].double()
    brenier = aeot.solve_exact(UniformBox(dim=2), sites, tol=1e-8).map()
    singular = aeot.find_singularities(brenier)
    drawn = brenier.draw(1_000_000, singular=singular, method=method, generator=generator(1))
    away = torch.cdist(drawn.codes, data.info["modes"].double())
    distance, label = away.min(1)
    assert float(distance.max()) < 8 * data.info["std"]
    assert torch.equal(label, data.labels[drawn.owners])
    share = torch.bincount(data.labels).double() / n * 1_000_000
    counts = torch.bincount(label, minlength=len(share))
    assert scipy.stats.chisquare(counts, share).pvalue > 1e-3


def test_a_cut_between_all_cells_does_not_draw_for_ever():
    class Everywhere:
        components = torch.arange(3000)

        def crosses(self, first, second):
            return first != second

    sites = torch.randn(3000, 2, generator=generator(3), dtype=torch.float64)
    brenier = BrenierMap(UniformBox(dim=2), sites, -(sites**2).sum(1) / 2)
    drawn = brenier.draw(500, singular=Everywhere(), method="pair", generator=generator(2))
    torch.testing.assert_close(drawn.codes, sites[drawn.owners])  # each is alone in its mode
    away = torch.cdist(drawn.points.double(), sites)
    assert float((away.gather(1, drawn.owners[:, None])[:, 0] - away.amin(1)).max()) < 1e-5
    assert drawn.n_conceded == 500 == drawn.n_alone
    assert 500 < drawn.n_drawn < 1_000_000
    assert drawn.n_drawn == 500 + drawn.n_rejected + drawn.n_surplus


def test_reassigned_points_are_kept():
    sites, _ = blobs(2)
    brenier = aeot.solve_exact(UniformBox(dim=2), sites).map()
    singular = aeot.find_singularities(brenier)
    drawn = brenier.draw(3000, singular=singular, boundary="reassign", generator=generator(2))
    assert drawn.n_rejected == 0
    assert bool(singular.contains(drawn.points).any())
    assert drawn.acceptance == 1.0


def test_the_same_generator_gives_the_same_codes(cut_map):
    brenier, singular, _ = cut_map
    one, two = (brenier.sample(50, singular=singular, generator=generator(9)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (50, brenier.dim)
    assert brenier.sample(0, singular=singular, generator=generator(9)).shape == (0, brenier.dim)


def test_a_points_code_does_not_depend_on_its_company(cut_map):
    brenier, singular, _ = cut_map
    x = brenier.source.sample(1500, generator=generator(3))
    for method in ("affine", "linear", "inverse-distance"):
        together = brenier.extend(x, singular, method)
        alone = torch.cat([brenier.extend(x[i : i + 1], singular, method) for i in (0, 7, 1400)])
        assert torch.allclose(together[[0, 7, 1400]], alone, atol=1e-9)


def test_sites_alone_in_their_component_are_returned_bare_and_counted():
    sites = torch.tensor([[0.0, 0.5], [1.0, 0.5]])
    brenier = BrenierMap(UniformBox(dim=2), sites, torch.tensor([0.25, -0.25]))
    singular = aeot.find_singularities(brenier)
    for method in METHODS:
        drawn = brenier.draw(100, singular=singular, method=method, generator=generator(0))
        assert drawn.n_alone == 100
        assert torch.equal(drawn.codes, sites[drawn.owners])


def test_modes_without_a_cell_do_not_stop_the_drawing():
    sites, labels = blobs(2, n=40)
    heights = torch.where(labels == 1, -1e3, -(sites**2).sum(1) / 2)  # the second mode is empty
    brenier = BrenierMap(UniformBox(dim=2), sites, heights)
    singular = aeot.find_singularities(brenier, lambda angles, jumps: jumps > 10)
    drawn = brenier.draw(500, singular=singular, method="pair", generator=generator(0))
    assert drawn.codes.shape == (500, 2)
    assert not bool(labels[drawn.owners].any())
