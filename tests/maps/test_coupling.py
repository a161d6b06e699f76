"""Pairs for flow matching: by brute force, by counting, and against the source's own samples."""

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import make_moons
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import aeot
from aeot import _io
from aeot._io import Damaged
from aeot.maps.coupling import Pairs
from aeot.metrics import sliced_wasserstein


def normal(n, d, *keys):
    return torch.randn(n, d, generator=aeot.generator(0, "coupling tests", *keys))


@pytest.fixture(scope="module")
def solution():
    return aeot.solve_semidiscrete(aeot.Gaussian(dim=3), normal(30, 3), tol=0.02)


@pytest.fixture(scope="module")
def uneven():
    masses = torch.arange(1.0, 13.0, dtype=torch.float64)
    masses /= masses.sum()
    return aeot.solve_semidiscrete(aeot.UniformBox(dim=2), normal(12, 2), masses)


def first(pairs, items):
    return list(itertools.islice(iter(pairs), items))


def joined(batches):
    return Pairs(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def owners(solution, noise):
    """The cells by all scores."""
    scores = noise.double() @ solution.sites.double().T + solution.heights
    return scores.argmax(1)


@pytest.mark.parametrize("seed", [0, 1 << 70])
def test_every_epoch_has_each_datum_once_and_no_pair_is_changed(solution, seed):
    data = torch.arange(30.0)[:, None]
    pairs = joined(first(aeot.coupling(solution, data, batch_size=15, seed=seed), 40))
    for epoch in pairs.index.split(30):
        assert sorted(epoch.tolist()) == list(range(30))
    assert torch.equal(pairs.index, owners(solution, pairs.noise))
    assert torch.equal(pairs.data[:, 0].long(), pairs.index)
    assert len(pairs.noise.unique(dim=0)) == len(pairs.noise)


def test_masses_are_met_in_every_epoch_up_to_one_pair_and_over_many_to_a_few(uneven):
    pairs = aeot.coupling(uneven, epoch_size=50, batch_size=50)
    counts = torch.stack([b.index.bincount(minlength=12) for b in first(pairs, 60)])
    share = 50 * uneven.masses
    assert bool(((counts - share).abs() < 1).all())
    assert bool(((counts.sum(0) - 60 * share).abs() < 4).all())


def test_the_noise_of_epochs_follows_the_source(solution):
    noise = joined(first(aeot.coupling(solution, batch_size=300), 40)).noise.double()
    m = len(noise)  # 12 000: a distance of Kolmogorov of 0.0148 or less in 99 % of samples
    for axis in noise.T:
        distance = scipy.stats.kstest(axis.numpy(), "norm").statistic
        assert distance < 0.0148 + solution.mass_error_upper
    assert float(noise.mean(0).abs().max()) < 4 / m**0.5 + 3 * solution.mass_error_upper
    covariance = noise.T @ noise / m
    assert float((covariance - torch.eye(3)).abs().max()) < 6 / m**0.5 + 0.05


def test_noise_has_the_law_of_the_source_inside_each_cell(solution):
    """Which is more than that all of it together follows the source."""
    pairs = joined(first(aeot.coupling(solution, batch_size=3000), 10))
    reference = solution.source.sample(60_000, generator=aeot.generator(5))
    cells = owners(solution, reference)
    values = [
        scipy.stats.ks_2samp(pairs.noise[pairs.index == k, 0], reference[cells == k, 0]).pvalue
        for k in range(30)
    ]
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3


SOURCES = {
    "box": aeot.UniformBox(low=[0.0, -1.0], high=[2.0, 3.0]),
    "ball": aeot.UniformBall(dim=2, center=[1.0, 2.0], radius=3.0),
    "gaussian": aeot.Gaussian(mean=[1.0, -2.0], covariance=[[2.0, 0.7], [0.7, 0.5]]),
    "points": aeot.Empirical(normal(5000, 2, "points")),
    "polygon": aeot.Polygon([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]),
    "sampler": aeot.Sampler(lambda n, g: torch.rand(n, 2, generator=g) ** 2, dim=2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_keys_give_the_same_points_alone_and_they_follow_the_source(name):
    source = SOURCES[name]
    brenier = aeot.BrenierMap(source, normal(3, 2), torch.zeros(3))
    pairs = aeot.coupling(brenier, seed=3)
    keys = torch.arange(20_000)
    points = pairs.noise(keys)
    some = torch.randint(20_000, (50,), generator=aeot.generator(1))
    assert torch.equal(pairs.noise(some), points[some])
    assert torch.equal(torch.cat([pairs.noise(k[None]) for k in some]), points[some])
    assert points.dtype == source.sample(1, generator=aeot.generator(0)).dtype
    reference = source.sample(20_000, generator=aeot.generator(2))
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8]):
        along = torch.tensor(direction, dtype=points.dtype)
        assert scipy.stats.ks_2samp(points @ along, reference @ along).pvalue > 1e-3
    assert not torch.equal(aeot.coupling(brenier, seed=4).noise(some), points[some])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_any_number_of_workers_gives_the_same_batches(solution):
    pairs = aeot.coupling(solution, batch_size=8, transform=lambda row: row + torch.rand(1))
    alone = first(pairs, 7)
    for workers in (1, 2):
        batches = first(DataLoader(pairs, batch_size=None, num_workers=workers), 7)
        assert all(same(a, b) for a, b in zip(alone, batches, strict=True))


def test_it_can_be_sent_to_another_process(solution):
    pairs = aeot.coupling(solution, TensorDataset(normal(30, 4)), batch_size=8)
    first(pairs, 3)
    assert same(pickle.loads(pickle.dumps(pairs)).batch(4), pairs.batch(4))


def test_workers_share_single_pairs(solution):
    loader = DataLoader(aeot.coupling(solution), batch_size=5, num_workers=2)
    found = joined(first(loader, 12))
    assert sorted(found.index.tolist()) == sorted(list(range(30)) * 2)
    alone = joined([Pairs(*(x[None] for x in pair)) for pair in first(aeot.coupling(solution), 60)])
    assert Counter(map(tuple, found.noise.tolist())) == Counter(map(tuple, alone.noise.tolist()))


@pytest.mark.parametrize("batch_size", [None, 7])
def test_ranks_share_the_items_in_turn(solution, batch_size, monkeypatch):
    whole = first(aeot.coupling(solution, batch_size=batch_size), 30)
    for rank in range(3):
        part = aeot.coupling(solution, batch_size=batch_size, rank=rank, world_size=3)
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        known = aeot.coupling(solution, batch_size=batch_size)
        for found in (first(part, 10), first(known, 10)):
            assert all(same(a, b) for a, b in zip(found, whole[rank::3], strict=True))


def test_a_stopped_sequence_goes_on(solution):
    whole = first(aeot.coupling(solution, batch_size=8), 600)
    for start in (0, 3, 590):  # the last is of another round of epochs
        rest = first(aeot.coupling(solution, batch_size=8, start=start), 10)
        assert all(same(a, b) for a, b in zip(rest, whole[start : start + 10], strict=True))
    fresh = aeot.coupling(solution, batch_size=8)
    for number in (599, 2, 300):
        assert same(fresh.batch(number), whole[number])
    single = first(aeot.coupling(solution, start=100), 3)
    assert torch.equal(single[0].noise, whole[12].noise[4])


def test_stored_pairs_are_the_same_and_are_mapped(solution, tmp_path):
    pairs = aeot.coupling(solution, batch_size=10)
    before = first(pairs, 12)
    pairs.save_pairs(tmp_path / "pairs", epochs=3)
    back = aeot.coupling(solution, batch_size=10).load_pairs(tmp_path / "pairs")
    after = first(back, 18)
    assert all(same(a, b) for a, b in zip(before[:9], after[:9], strict=True))
    again = joined(after[9:])  # the same three epochs, in another order
    for old, new in zip(joined(after[:9]).index.split(30), again.index.split(30), strict=True):
        assert sorted(new.tolist()) == sorted(old.tolist())
        assert not torch.equal(old, new)
    assert torch.equal(again.index, owners(solution, again.noise))
    assert len(torch.cat([again.noise, joined(after[:9]).noise]).unique(dim=0)) == 90
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "pairs" / "model.safetensors") in maps
    size = (tmp_path / "pairs" / "model.safetensors").stat().st_size
    assert size < 90 * 12 + 300
    loader = DataLoader(back, batch_size=None, num_workers=2)
    assert all(same(a, b) for a, b in zip(after, first(loader, 18), strict=True))


def test_pairs_of_another_problem_or_damaged_ones_are_refused(solution, uneven, tmp_path):
    pairs = aeot.coupling(solution)
    pairs.save_pairs(tmp_path / "pairs", epochs=1)
    with pytest.raises(ValueError, match="path must hold pairs of this map, source and seed"):
        aeot.coupling(uneven).load_pairs(tmp_path / "pairs")
    with pytest.raises(ValueError, match="seed 0"):
        aeot.coupling(solution, seed=1).load_pairs(tmp_path / "pairs")
    moved = aeot.BrenierMap(aeot.Gaussian(dim=3, mean=1.0), solution.sites, solution.heights)
    with pytest.raises(ValueError, match="path must hold pairs"):
        aeot.coupling(moved).load_pairs(tmp_path / "pairs")
    file = tmp_path / "pairs" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged):
        pairs.load_pairs(tmp_path / "pairs")
    with pytest.raises(ValueError, match="overwrite=True"):
        pairs.save_pairs(tmp_path / "pairs", epochs=1)
    pairs.save_pairs(tmp_path / "pairs", epochs=2, overwrite=True)
    assert len(pairs.load_pairs(tmp_path / "pairs")._stored["keys"]) == 60
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        pairs.save_pairs(tmp_path / "other", epochs=0)


@pytest.mark.parametrize(
    "forged",
    [
        {"keys": torch.arange(30)},
        {"keys": torch.arange(30), "index": torch.arange(29, dtype=torch.int32)},
        {"keys": torch.arange(30), "index": torch.arange(30)},
        {"keys": torch.arange(30), "index": torch.arange(1, 31, dtype=torch.int32)},
        {"keys": torch.arange(30) - 1, "index": torch.arange(30, dtype=torch.int32)},
        {"keys": torch.arange(20), "index": torch.arange(20, dtype=torch.int32)},
    ],
)
def test_forged_pairs_are_refused_in_one_line(solution, forged, tmp_path):
    pairs = aeot.coupling(solution)
    facts = {"seed": "0", "epoch_size": 30, "map": pairs.digest()}
    _io.save(tmp_path / "pairs", forged, facts, kind="pairs")
    with pytest.raises(Damaged, match="it must hold keys and sites of whole epochs"):
        pairs.load_pairs(tmp_path / "pairs")


def images(n):
    return torch.randint(256, (n, 1, 4, 6), generator=aeot.generator(0, "images")).to(torch.uint8)


def test_flipped_images_are_sites_that_need_no_storage():
    pictures = images(20)
    values = aeot.tensors(pictures)[:]
    sites = torch.cat([values, values.flip(-1)]).flatten(1)
    solution = aeot.solve_semidiscrete(aeot.Gaussian(dim=24), sites, tol=0.1)
    labels = torch.arange(20)
    pairs = aeot.coupling(solution, pictures, labels=labels, flips=True, batch_size=40)
    batch = pairs.batch(0)
    assert batch.noise.shape == batch.data.shape == (40, 1, 4, 6)
    assert torch.equal(batch.data.flatten(1), sites[batch.index])
    assert torch.equal(batch.label, batch.index % 20)
    assert torch.equal(batch.index, owners(solution, batch.noise.flatten(1)))
    with pytest.raises(ValueError, match="data must hold 20 rows, got 40"):
        aeot.coupling(solution, sites, flips=True)


def test_every_form_of_data_gives_the_same_rows(solution):
    table = normal(30, 5, "table")
    labels = torch.arange(30) % 4
    forms = [
        (table, {"labels": labels}),
        (table.numpy(), {"labels": labels.numpy()}),
        (table.tolist(), {"labels": labels.tolist()}),
        (aeot.tensors(table, labels), {}),
        (TensorDataset(table, labels), {}),
        (lambda i: table[i], {"labels": labels}),
        (lambda i: (table[i].numpy(), int(labels[i])), {}),
    ]
    for data, options in forms:
        batch = aeot.coupling(solution, data, batch_size=9, **options).batch(2)
        assert torch.equal(batch.data.float(), table[batch.index])
        assert torch.equal(batch.label, labels[batch.index])
    plain = aeot.coupling(solution, batch_size=9).batch(2)
    assert torch.equal(plain.data, solution.sites[plain.index])
    assert plain.label.tolist() == [-1] * 9


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (lambda i: None, {}, "data must give arrays of numbers, all of one shape, got None"),
        (lambda i: "row", {}, "data must give arrays of numbers, .* got 'row'"),
        (
            lambda i: torch.ones(1 + i % 2),
            {},
            r"data must give .*shape \([12],\).* and .*shape \([12],\)",
        ),
        (
            lambda i: (torch.ones(2), "cat"),
            {},
            "data must have labels that are numbers, got cat; pass",
        ),
        (lambda i: (torch.ones(2), None), {}, "labels must be whole numbers or texts, got None"),
        (None, {"transform": lambda row: None}, "transform must give arrays of numbers.* got None"),
        (None, {"transform": lambda row: row[row > 0]}, "transform must give arrays .* one shape"),
    ],
)
def test_functions_of_rows_that_give_no_rows_are_named(solution, data, options, words):
    pairs = aeot.coupling(solution, data, batch_size=30, **options)
    with pytest.raises(ValueError, match=words):
        pairs.batch(0)
    if data is None:
        with pytest.raises(ValueError, match=words):
            pairs.sample_plan(normal(20, 3, "x0"), normal(20, 3, "x1"))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", "b"] * 15, "be 30 whole numbers >= 0.*; number them: np.unique"),
        ([float("nan"), 1.0] * 15, "be whole numbers or texts, got nan"),
        (np.ma.masked_equal([0, 1] * 15, 1), "have no masked entries, got 15"),
        ([-1] * 30, "be 30 whole numbers >= 0"),
        ([0] * 29, r"be 30 whole numbers >= 0, one per row, got .*\(29,\)"),
    ],
)
def test_labels_of_pairs_are_numbers(solution, labels, words):
    with pytest.raises(ValueError, match="labels must " + words):
        aeot.coupling(solution, labels=labels)
    whole = aeot.coupling(solution, labels=np.arange(30, dtype=np.uint64))
    assert torch.equal(whole.labels, torch.arange(30))


def test_bytes_come_in_the_range_of_networks_and_transforms_see_single_rows():
    pictures = images(6)
    solution = aeot.solve_semidiscrete(aeot.Gaussian(dim=2), normal(6, 2))
    seen = []
    pairs = aeot.coupling(
        solution, pictures, batch_size=6, transform=lambda x: seen.append(x.shape) or x[:, :2]
    )
    batch = pairs.batch(0)
    assert seen == [(1, 4, 6)] * 6
    assert torch.equal(batch.data, aeot.tensors(pictures)[:][batch.index][..., :2, :])
    assert batch.noise.shape == (6, 2)  # no picture has two numbers


def test_plans_send_the_noise_that_came_to_its_data(solution):
    labels = torch.arange(30) % 4
    pairs = aeot.coupling(solution, labels=labels)
    x0, x1 = normal(64, 3, "noise"), torch.zeros(64, 3, dtype=torch.float64)
    noise, data = pairs.sample_plan(x0, x1)
    cells = owners(solution, x0)
    assert noise is x0
    assert data.dtype == torch.float64
    assert torch.equal(data, solution.sites[cells].double())
    y0, y1 = torch.arange(64), torch.zeros(64, dtype=torch.int32)
    found = pairs.sample_plan_with_labels(x0, x1, y0, y1, replace=False)
    assert same(found[:3], (x0, data, y0))
    assert torch.equal(found[3], labels[cells].int())
    plain = aeot.coupling(solution)
    assert plain.sample_plan_with_labels(x0, x1)[2:] == (None, None)
    with pytest.raises(ValueError, match="y1 must be None.*labels="):
        plain.sample_plan_with_labels(x0, x1, y0, y1)
    with pytest.raises(ValueError, match="x0 must be noise from Gaussian"):
        pairs.sample_plan(0.1 * x0, x1)
    with pytest.raises(ValueError, match="x0 must be noise from Gaussian"):
        pairs.sample_plan(4 * x0, x1)
    with pytest.raises(ValueError, match="x0 must have 3 columns, got 2"):
        pairs.sample_plan(x0[:, :2], x1)


def uniform(n, generator):
    return torch.rand(n, 3, generator=generator)


NOISES = {  # sources, and what is mistaken for them
    "normal for uniform": (aeot.UniformBox(dim=3), aeot.Gaussian(dim=3)),
    "uniform for normal": (aeot.Gaussian(dim=8), aeot.UniformBox(dim=8)),
    "another box": (aeot.UniformBox(dim=3), aeot.UniformBox(low=[-0.5] * 3, high=[0.5] * 3)),
    "half the variance": (aeot.Gaussian(dim=16), aeot.Gaussian(covariance=0.5 * torch.eye(16))),
    "a function": (aeot.Sampler(uniform, dim=3), aeot.Gaussian(dim=3)),
}


@pytest.mark.parametrize("name", NOISES)
def test_noise_of_another_law_is_refused_from_the_first_32_rows_on(name):
    source, other = NOISES[name]
    pairs = aeot.coupling(aeot.BrenierMap(source, normal(40, source.dim), torch.zeros(40)))
    draw = aeot.generator(5, name)

    def plan(measure, rows):
        pairs.sample_plan(measure.sample(rows, generator=draw), torch.zeros(rows, source.dim))

    with pytest.raises(ValueError, match="x0 must be noise from .* is right"):
        plan(other, 32)
    for rows in [1, 2, 32] * 300:  # the right one never is
        plan(source, rows)
    with pytest.raises(ValueError, match="x0 must be noise from .* is right"):
        plan(other, 32)


@pytest.mark.parametrize(
    ("shape", "labels"), [((3,), False), ((3, 1, 1), False), ((3, 1, 1), True)]
)
def test_loops_of_torchcfm_take_it_for_their_sampler(solution, shape, labels):
    """Needs the extra "torchcfm"."""
    matching = pytest.importorskip("torchcfm.conditional_flow_matching")
    data = solution.sites.reshape(30, *shape)
    flow = matching.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    flow.ot_sampler = aeot.coupling(solution, data, labels=torch.arange(30))  # the one line
    x1 = data[torch.arange(16)]
    x0 = normal(16, 3, "cfm").reshape(16, *shape)
    cells = owners(solution, x0.flatten(1))
    if labels:
        y1 = torch.arange(16)
        t, xt, ut, _, label = flow.guided_sample_location_and_conditional_flow(x0, x1, y1=y1)
        assert torch.equal(label, cells)
    else:
        t, xt, ut = flow.sample_location_and_conditional_flow(x0, x1)
    assert torch.allclose(ut, data[cells] - x0)
    time = t.reshape(-1, *[1] * len(shape))
    assert torch.allclose(xt, (1 - time) * x0 + time * data[cells], atol=1e-6)


def test_their_example_learns_with_one_line_changed():
    """Eight Gaussians to moons. Needs the extra "torchcfm"."""
    matching = pytest.importorskip("torchcfm.conditional_flow_matching")
    models = pytest.importorskip("torchcfm.models.models")
    moons = torch.from_numpy(make_moons(400, noise=0.2, random_state=0)[0]).float() * 3 - 1

    def gaussians(n, generator=None):
        angle = torch.randint(8, (n,), generator=generator) * (torch.pi / 4)
        centre = 5 * torch.stack([angle.cos(), angle.sin()], 1)
        return centre + 0.1**0.5 * torch.randn(n, 2, generator=generator)

    source = aeot.Sampler(gaussians, dim=2)
    solution = aeot.solve_semidiscrete(source, moons, tol=0.1, method="newton")

    def trained(sampler):
        with aeot._rng.forked(0):
            model = models.MLP(dim=2, time_varying=True, w=32)
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            FM = matching.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)  # noqa: N806
            FM.ot_sampler = sampler or FM.ot_sampler  # the one line
            losses = []
            for _ in range(150):
                optimizer.zero_grad()
                x0, x1 = gaussians(128), moons[torch.randint(400, (128,))]
                t, xt, ut = FM.sample_location_and_conditional_flow(x0, x1)
                vt = model(torch.cat([xt, t[:, None]], dim=-1))
                loss = torch.mean((vt - ut) ** 2)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            with torch.no_grad():
                x0 = gaussians(400)
                end = x0 + model(torch.cat([x0, torch.zeros(400, 1)], 1))
        return np.mean(losses[-50:]), sliced_wasserstein(end, moons)

    ours, theirs = trained(aeot.coupling(solution, moons)), trained(None)
    assert ours[0] < theirs[0]  # what the noise does not say of its datum
    assert ours[1] < theirs[1]  # after a single step


def by_class(found, labels, noise, wanted):
    """The cells among the sites of a class, by all scores, numbered among all sites."""
    cells = torch.empty(len(noise), dtype=torch.int64)
    for label in found.classes:
        own, part = (labels == label).nonzero()[:, 0], found.of(label)
        scores = noise.double() @ part.sites.double().T + part.heights
        cells = torch.where(wanted == label, own[scores.argmax(1)], cells)
    return cells


@pytest.fixture(scope="module")
def of_classes():
    labels = torch.tensor([7, 3, 7, 7, 3] * 8)
    source = aeot.Gaussian(dim=3)
    return labels, aeot.solve_conditional(source, normal(40, 3), labels, tol=0.03)


def test_classes_with_maps_of_their_own_are_coupled_each_by_its_map(of_classes, tmp_path):
    labels, found = of_classes
    pairs = aeot.coupling(found, batch_size=20, seed=4)
    assert same(pairs.batch(3), aeot.coupling(found.map(), batch_size=20, seed=4).batch(3))
    noise, index, data, label = joined([pairs.batch(k) for k in range(80)])  # 40 epochs
    for epoch in index.split(40):
        assert epoch.bincount().tolist() == [1] * 40
    assert torch.equal(label, labels[index])
    assert torch.equal(data, normal(40, 3)[index])
    assert torch.equal(by_class(found, labels, noise, label), index)
    for name in (3, 7):  # noise of a class is the source's, up to the map's error and chance
        own = noise[label == name]
        assert float(own.mean(0).abs().max()) < 0.03 * 3 + 4 / len(own) ** 0.5
        assert float((own.square().mean(0) - 1).abs().max()) < 0.03 * 9 + 4 * (2 / len(own)) ** 0.5
    pairs.save_pairs(tmp_path / "pairs", epochs=2)
    assert same(pairs.load_pairs(tmp_path / "pairs").batch(1), pairs.batch(1))
    other = aeot.solve_semidiscrete(found.source, normal(40, 3), tol=0.1)
    with pytest.raises(ValueError, match="path must hold pairs of this map"):
        aeot.coupling(other, seed=4).load_pairs(tmp_path / "pairs")
    named = aeot.solve_conditional(found.source, normal(40, 3), ["b", "a"] * 20, tol=0.1)
    assert aeot.coupling(named).labels.tolist() == [1, 0] * 20
    told = aeot.coupling(found, torch.arange(40.0), labels=torch.arange(40))
    assert torch.equal(told.labels, torch.arange(40))


def test_a_plan_for_labels_takes_the_maps_of_their_classes(of_classes):
    labels, found = of_classes
    x0, x1, y1 = normal(64, 3, "noise"), torch.zeros(64, 3), labels[torch.arange(64) % 40]
    pairs = aeot.coupling(found)
    noise, data, _, label = pairs.sample_plan_with_labels(x0, x1, None, y1.int())
    assert noise is x0
    assert torch.equal(label, y1.int())
    assert torch.equal(data, normal(40, 3)[by_class(found, labels, x0, y1)])
    finer = aeot.coupling(found, labels=torch.arange(40))
    assert torch.equal(finer.sample_plan_with_labels(x0, x1, None, torch.arange(64) % 40)[1], data)
    with pytest.raises(ValueError, match="y1 must say the class of each row.*guided_sample"):
        pairs.sample_plan(x0, x1)
    with pytest.raises(ValueError, match=r"y1 must be labels among \[3, 7\], got [48]; "):
        pairs.sample_plan_with_labels(x0, x1, None, y1 + 1)
    with pytest.raises(ValueError, match="y1 must be 64 labels, one per row, got "):
        pairs.sample_plan_with_labels(x0, x1, None, y1[:5])
    coarse = aeot.coupling(found, labels=torch.zeros(40, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels must differ from class to class"):
        coarse.sample_plan_with_labels(x0, x1, None, 0 * y1)


def test_labels_do_not_contradict_the_classes_of_the_map(of_classes):
    labels, found = of_classes
    assert torch.equal(aeot.coupling(found, labels=labels).labels, labels)
    with pytest.raises(ValueError, match="labels must be the classes that the map was solved for"):
        aeot.coupling(found, labels=10 - labels)  # 7 for 3, 3 for 7
    with pytest.raises(ValueError, match="labels must be the classes that the map was solved for"):
        aeot.coupling(found, labels=labels.roll(1))
    below = aeot.solve_conditional(found.source, normal(40, 3), [-3, 7] * 20, tol=0.1)
    assert aeot.coupling(below).labels.tolist() == [-3, 7] * 20


def test_more_epochs_than_memory_holds_are_refused_by_name(of_classes, tmp_path):
    with pytest.raises(ValueError, match="epochs must be at most .*, got 1000000000000"):
        aeot.coupling(of_classes[1]).save_pairs(tmp_path / "pairs", epochs=10**12)


def test_guided_loops_of_torchcfm_keep_the_classes(of_classes):
    """Needs the extra "torchcfm"."""
    matching = pytest.importorskip("torchcfm.conditional_flow_matching")
    labels, found = of_classes
    flow = matching.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    flow.ot_sampler = aeot.coupling(found)  # the one line
    x0, y1 = normal(40, 3, "cfm"), labels.flip(0)
    _, _, ut, _, label = flow.guided_sample_location_and_conditional_flow(
        x0, torch.zeros(40, 3), y1=y1
    )
    assert torch.equal(label, y1)
    assert torch.allclose(ut, normal(40, 3)[by_class(found, labels, x0, y1)] - x0)


class Endless(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"transport": "map"},
            "transport must be a Solution or a BrenierMap, or those of classes, got 'map'",
        ),
        ({"data": torch.zeros(29, 3)}, "data must hold 30 rows, got 29; one for each site"),
        ({"data": 3.0}, "data must hold 30 rows, got"),
        ({"data": normal(30, 3).flip(0)}, "data must have the order of the sites, got the sites"),
        ({"data": Endless()}, "data must be a map-style data set"),
        ({"data": "x"}, "data must be a numeric array"),
        ({"labels": torch.arange(29)}, "labels must be 30 whole numbers >= 0, one per row"),
        ({"labels": torch.arange(30.0) / 2}, "labels must be whole numbers or texts, got 0.5"),
        ({"labels": -torch.arange(30)}, "labels must be 30 whole numbers"),
        ({"transform": 3}, "transform must be callable or None, got 3"),
        ({"flips": 1}, "flips must be True or False, got 1"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"epoch_size": 2.5}, "epoch_size must be a whole number >= 1, got 2.5"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"start": -1}, "start must be a whole number >= 0 and <= 4294967296, got -1"),
        ({"rank": 0}, "rank must be given together with world_size"),
        ({"rank": 2, "world_size": 2}, "rank must be a whole number >= 0 and <= 1, got 2"),
    ],
)
def test_wrong_arguments_are_named(solution, arguments, message):
    arguments = {"transport": solution, **arguments}
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        aeot.coupling(**arguments)


@pytest.mark.filterwarnings("ignore:mass error")
def test_cells_that_hold_no_noise_are_named_and_poor_solutions_told_of(solution):
    heights = solution.heights.clone()
    heights[4] -= 100
    pairs = aeot.coupling(aeot.BrenierMap(solution.source, solution.sites, heights), batch_size=1)
    with pytest.raises(ValueError, match=r"transport must .* got 0 of \d+ for site 4"):
        pairs.batch(0)
    with pytest.raises(ValueError, match="batch_size must be given"):
        aeot.coupling(solution).batch(0)
    sites = normal(200, 6, "poor")
    poor = aeot.solve_semidiscrete(aeot.Gaussian(dim=6), sites, tol=1e-3, max_samples=3e4)
    if bool((poor.cell_masses > 0).all()):
        with pytest.warns(UserWarning, match="transport has not converged, its error is"):
            aeot.coupling(poor)


def test_numbers_of_keys_are_those_of_splitmix():
    """The generator written as its authors do: one state that is added to."""
    from aeot.maps.coupling import _uniform

    state, found = 12345, []
    for _ in range(8):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        found.append((((z ^ (z >> 31)) >> 12) + 0.5) / 2**52)
    assert np.array_equal(_uniform(12345, np.arange(4), 2).ravel(), found)
