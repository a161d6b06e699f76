import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import aeot
from aeot import BrenierMap, UniformBox, find_singularities, generator
from aeot.singular import scores

D = 12


def bridged(n=400, d=D, seed=0):
    """Two clusters fourteen standard deviations apart, and a row of forty codes that joins them."""
    draw = generator(seed, "bridged")
    codes = torch.randn(n, d, generator=draw, dtype=torch.float64)
    side = torch.arange(n) % 2
    codes[:, 0] += 14.0 * side - 7
    some = 40
    codes[:some, 0] = torch.linspace(-7, 7, some, dtype=torch.float64)
    side[:some] = 2
    return codes, side


def cut(codes, **kwargs):
    brenier = BrenierMap(UniformBox(dim=codes.shape[1]), codes, -(codes**2).sum(1) / 2)
    return find_singularities(brenier, n_points=4000, **kwargs)


@pytest.fixture(scope="module")
def thin():
    codes, side = bridged()
    return cut(codes), side


def any_pairs(n, count=3000):
    pairs = torch.randint(n, (count, 2), generator=generator(3))
    return pairs[pairs[:, 0] != pairs[:, 1]].T


def test_a_thin_bridge_joins_two_modes_and_scores_tell_them_apart(thin):
    singular, side = thin
    assert singular.n_components == 1  # the old rule sees one cloud
    i, j = any_pairs(len(side))
    ends = (side[i] < 2) & (side[j] < 2)
    across, score = (side[i] != side[j])[ends], singular.score(i, j)[ends]
    assert roc_auc_score(across, score) > 0.99
    assert float((score[across] > 0.5).double().mean()) > 0.95
    assert float((score[~across] < 0.5).double().mean()) > 0.95
    assert torch.equal(singular.crosses(i, j)[ends], score >= 0.5)


@pytest.mark.parametrize("d", [8, 16, 48])
def test_middles_of_a_convex_cloud_lie_on_the_data(d):
    codes = torch.randn(500, d, generator=generator(1), dtype=torch.float64)
    singular = cut(codes)
    assert float(singular.score(*any_pairs(500)).max()) < 0.5
    assert float(singular.scores.mean()) < 0.15
    assert len(singular.pairs) == 0


def test_shift_rotation_and_unit_change_no_score(thin):
    codes, side = bridged()
    pairs = thin[0].facets.pairs
    plain = scores.chances(codes, pairs, seed=0, engine="auto")
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=generator(2), dtype=torch.float64))
    i, j = any_pairs(len(side))
    for moved in (codes * 1e-4, codes * 1e4, codes + 30.0, codes @ turn):
        again = scores.chances(moved, pairs, seed=0, engine="auto")
        assert torch.allclose(again.of(i, j), plain.of(i, j), atol=1e-6)


def test_scores_do_not_depend_on_how_many_codes_there_are():
    # Of clusters that nothing joins, by the curve alone: across the gap, and on one side.
    told = []
    for n in (400, 1200):
        codes, side = bridged(n)
        codes, side = codes[40:], side[40:]
        i, j = any_pairs(n - 40)
        some = torch.stack([i, j], 1)[:1000]
        chance = scores.chances(codes, some, seed=0, engine="auto").of(i, j)
        across = side[i] != side[j]
        told.append((float(chance[across].median()), float(chance[~across].median())))
    assert told[0][0] > 0.8
    assert told[0][1] < 0.2
    assert told[0] == pytest.approx(told[1], abs=0.1)


def test_a_score_is_the_share_of_middles_that_are_lonely(thin):
    # Counted anew: places by sorting all distances, loneliness by its definition, other pairs.
    singular, side = thin
    codes = singular.brenier.sites.numpy()
    n = len(codes)
    order = np.argsort(np.linalg.norm(codes[:, None] - codes, axis=2), axis=1)
    places = codes[order[:, :21]].mean(1)
    away = places - places.mean(0)
    length = (away**2).sum(1, keepdims=True)
    directions = away / np.sqrt(length + length.mean() / 16)
    assert np.allclose(directions, singular.chances.directions.numpy())
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    near = np.argsort(apart, axis=1)
    alone = np.sqrt((np.take_along_axis(apart, near, 1)[:, 1:4] ** 2).mean(1))
    usual = alone / alone[near[:, 1:6]].mean(1)
    i, j = (part.numpy() for part in any_pairs(n, 1500))
    off = []
    for a, b in zip(i, j, strict=True):
        away = np.linalg.norm(places - (places[a] + places[b]) / 2, axis=1)
        found = [k for k in np.argsort(away) if k not in (a, b)]
        lonely = np.sqrt((away[found[:3]] ** 2).mean()) / alone[found[:5]].mean()
        off.append((usual < lonely).mean() > 0.95)
    score, off = singular.score(i, j).numpy(), np.array(off)
    assert score.mean() == pytest.approx(off.mean(), abs=0.05)
    assert off[score > 0.6].mean() > 0.6
    assert off[score < 0.1].mean() < 0.2


def test_level_one_cuts_between_modes_only(thin):
    singular, _ = thin
    plain = cut(singular.brenier.sites, level=1.0)
    assert len(plain.pairs) == 0
    assert torch.equal(plain.components, singular.components)
    assert torch.allclose(plain.scores, singular.scores)  # they are learned when asked for
    low = float(singular.scores.median())
    strict = cut(singular.brenier.sites, level=low)
    assert len(strict.pairs) == int((singular.scores >= low).sum()) > 0
    i, j = any_pairs(len(plain.components))
    assert not bool(plain.crosses(i, j).any())
    assert bool(singular.crosses(i, j).any())


def test_paths_go_over_the_bridge(thin):
    singular, side = thin
    codes = singular.brenier.sites
    first = int((side == 0).nonzero()[0])
    last = int((side == 1).nonzero()[0])
    path = singular.path(first, last)
    assert int((side[path] == 2).sum()) >= 3
    steps = singular.score(path[:-1], path[1:])
    assert float(steps.max()) < 0.5 < float(singular.score(first, last))
    assert float((codes[path][1:] - codes[path][:-1]).norm(dim=1).max()) < 14


def test_groups_that_nothing_joins_score_one():
    codes, side = bridged()
    codes, side = codes[side < 2], side[side < 2]
    codes[side == 1, 0] += 40
    singular = cut(codes)
    assert singular.n_components == 2
    i, j = any_pairs(len(codes))
    differ = side[i] != side[j]
    score = singular.score(i, j)
    assert bool((score[differ] == 1).all())
    assert float(score[~differ].max()) < 1


def test_the_roll_keeps_its_own_rule_and_has_scores():
    sites = aeot.data.toy("swissroll", 256).values.double()
    singular = find_singularities(aeot.solve_exact(UniformBox(dim=2), sites).map())
    i, j = singular.pairs.T
    assert singular.sheets
    assert bool((singular.score(i, j) == 1).all())
    assert float(singular.scores.min()) < 0.5


def test_few_codes_score_zero_or_one():
    sites = torch.rand(5, 2, generator=generator(0), dtype=torch.float64)
    singular = find_singularities(aeot.solve_exact(UniformBox(dim=2), sites).map())
    assert singular.score([0, 1], [0, 2]).tolist() == [0.0, 1.0]
    assert bool((singular.scores == 1).all())


@pytest.mark.parametrize("n", [9, 12, 25])
def test_a_dozen_codes_have_scores(n):
    singular = cut(torch.randn(n, 6, generator=generator(n), dtype=torch.float64))
    assert bool(singular.scores.isfinite().all())
    assert float(singular.scores.min()) >= 0
    assert float(singular.scores.max()) <= 1


def test_codes_on_a_lattice_with_equal_distances_have_scores():
    codes = torch.eye(30, dtype=torch.float64)
    assert bool(cut(codes).scores.isfinite().all())


@pytest.mark.parametrize("share", ["50%", "90%", "99.5%"])
def test_an_angle_may_be_a_share_of_the_facets(share):
    codes = torch.randn(500, 8, generator=generator(1), dtype=torch.float64)
    singular = cut(codes, max_angle=share)
    kept = 1 - len(singular.pairs) / len(singular.facets.pairs)
    assert kept == pytest.approx(float(share[:-1]) / 100, abs=0.02)
    assert torch.equal(singular.pairs, cut(codes, max_angle=singular.max_angle).pairs)


def test_a_set_without_scores_learns_them_when_asked(thin):
    singular, side = thin
    old = dataclasses.replace(singular, chances=None, level=1.0)  # as one of an old save
    assert torch.allclose(old.scores, singular.scores)
    assert not bool(old.crosses(*any_pairs(len(side))).any())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"level": 0.0}, "level must be a finite number > 0 and <= 1"),
        ({"level": 1.5}, "level must be"),
        ({"level": "high"}, "level must be"),
        ({"max_angle": "90"}, "max_angle must be an angle, or a share between 0% and 100%"),
        ({"max_angle": "0%"}, "max_angle must be an angle, or a share between 0% and 100%"),
        ({"max_angle": "-3%"}, "max_angle must be an angle, or a share between 0% and 100%"),
        ({"max_angle": "nan%"}, "max_angle must be an angle, or a share between 0% and 100%"),
    ],
)
def test_bad_levels_and_shares_are_named(kwargs, words):
    with pytest.raises((ValueError, TypeError), match=words):
        cut(bridged(60)[0], **kwargs)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([0], [400], "second must be numbers of 400 cells"),
        ([-1], [0], "first must be numbers of 400 cells"),
        ([0.5], [1], "first must be numbers of 400 cells"),
        ([0, 1], [1], r"second must have the shape of first, got \(1,\) and \(2,\)"),
    ],
)
def test_bad_cells_are_named(thin, first, second, words):
    with pytest.raises(ValueError, match=words):
        thin[0].score(first, second)
