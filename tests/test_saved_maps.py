"""Saved solutions, maps and transports: loaded they are the same bits, and nothing is replaced."""

import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import aeot
from aeot import _io
from aeot._rng import generator
from aeot.measures import restored, stored
from tests.test_hostile_saves import error_of, forge, put, shaped

SOURCES = {
    "box": lambda: aeot.UniformBox(dim=5),
    "corners": lambda: aeot.UniformBox(low=[0, 0.5], high=[2, 3]),
    "doubles": lambda: aeot.UniformBox(low=np.zeros(2), high=np.ones(2)),
    "ball": lambda: aeot.UniformBall(dim=2, center=[1, 0], radius=0.3),
    "normal": lambda: aeot.Gaussian(mean=[0.1, 3], covariance=[[2, 0.3], [0.3, 1]]),
    "points": lambda: aeot.Empirical(torch.rand(900, 2, generator=generator(1))),
    "polygon": lambda: aeot.Polygon([[0, 0], [0, 2], [1, 2], [1, 1], [2, 1], [2, 0]]),
    "convex": lambda: aeot.ConvexPolygon([[0, 0], [0, 2], [1, 1]]),
    "picture": lambda: aeot.GridDensity(torch.rand(3, 4, generator=generator(2)), high=3.0),
    "bilinear": lambda: aeot.GridDensity([[0, 1], [1, 3]], interpolation="linear"),
}


def sites_for(source, n=24, dtype=torch.float32):
    return torch.randn(n, source.dim, generator=generator(3, n)).to(dtype)


def solved(source, **options):
    return aeot.solve_semidiscrete(source, sites_for(source), tol=0.2, **options)


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_made_again(name, tmp_path):
    source = SOURCES[name]()
    tensors, skeleton = _io.pack(stored(source))
    _io.save(tmp_path / "m", tensors, skeleton, kind="Source")
    back = restored(_io.unpack(*_io.load(tmp_path / "m", kind="Source")))
    assert type(back) is type(source)
    here, there = (s.sample(500, generator=generator(4)) for s in (source, back))
    assert here.dtype == there.dtype
    assert torch.equal(here, there)
    assert torch.equal(source.mean, back.mean)
    assert torch.equal(source.covariance, back.covariance)


def same(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, field.name
            assert torch.equal(a, b), field.name
        elif field.name != "source":
            assert a == b, field.name


@pytest.mark.parametrize("name", SOURCES)
def test_solutions_and_their_maps_keep_every_bit(name, tmp_path):
    solution = solved(SOURCES[name]())
    solution.save(tmp_path / "s")
    back = aeot.Solution.load(tmp_path / "s", device="cpu")
    same(solution, back)
    first, second = solution.map(), back.map()
    assert torch.equal(first.masses, second.masses)
    second.save(tmp_path / "m")
    third = aeot.BrenierMap.load(tmp_path / "m", device="cpu")
    x = solution.source.sample(700, generator=generator(5))
    drawn = [m.draw(50, generator=generator(6)) for m in (first, second, third)]
    for other, draw in ((second, drawn[1]), (third, drawn[2])):
        assert torch.equal(first.cell(x), other.cell(x))
        assert torch.equal(first.potential(x), other.potential(x))
        assert torch.equal(drawn[0].codes, draw.codes)


def test_any_masses_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(200):  # sums of rounded quotients are one, or a rounding unit away
        weights = rng.exponential(size=3 + k)
        once = aeot.BrenierMap(
            aeot.UniformBox(dim=2),
            torch.rand(3 + k, 2),
            torch.zeros(3 + k),
            masses=weights / weights.sum(),
        )
        twice = aeot.BrenierMap.from_state(once.state(), device="cpu")
        assert torch.equal(once.masses, twice.masses)


def test_a_source_that_is_a_function_is_given_again(tmp_path):
    def draw(n, generator):
        return torch.randn(n, 3, generator=generator) ** 3

    source = aeot.Sampler(draw, dim=3)
    solution = solved(source)
    solution.save(tmp_path / "s")
    told = error_of(lambda: aeot.Solution.load(tmp_path / "s"))
    assert "source must be given for a Sampler" in told
    assert "source=" in told
    same(solution, aeot.Solution.load(tmp_path / "s", device="cpu", source=source))
    other = aeot.Sampler(lambda n, g: 2 * draw(n, g), dim=3)
    told = error_of(lambda: aeot.Solution.load(tmp_path / "s", source=other))
    assert "source must be the Sampler that was saved" in told
    box = aeot.UniformBox(dim=2)
    with pytest.raises(ValueError, match=r"source must be the Sampler that was saved"):
        aeot.Solution.load(tmp_path / "s", source=box)


@pytest.mark.parametrize("random_state", [3, None, np.random.RandomState(0)])
def test_an_estimator_of_scikit_learn_keeps_every_bit(tmp_path, random_state):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["a", "b"])
    frame.loc[40] = frame.loc[3]  # equal rows
    weights = np.arange(41.0)
    model = aeot.SemiDiscreteOT(source="ball", random_state=random_state).fit(
        frame, sample_weight=weights
    )
    model.save(tmp_path / "m")
    back = aeot.SemiDiscreteOT.load(tmp_path / "m", device="cpu")
    for name in ("sites_", "masses_", "heights_", "centroids_", "site_of_row_"):
        assert np.array_equal(getattr(model, name), getattr(back, name)), name
        assert getattr(model, name).dtype == getattr(back, name).dtype
    assert list(back.feature_names_in_) == ["a", "b"]
    assert back.n_features_in_ == 2
    assert np.array_equal(model.transform(frame), back.transform(frame))
    assert np.array_equal(model.sample(9, 1), back.sample(9, 1))
    assert back.source == "ball"
    with pytest.raises(ValueError, match="feature names"):
        back.transform(frame.rename(columns={"a": "x"}))
    measured = aeot.SemiDiscreteOT(source=aeot.Gaussian(dim=2), tol=0.3).fit(frame)
    measured.save(tmp_path / "g")
    assert aeot.SemiDiscreteOT.load(tmp_path / "g").source.dim == 2


def models():
    rows = torch.randn(30, 3, generator=generator(7))
    solution = solved(aeot.UniformBox(dim=2))
    small = {"latent_dim": 2, "batch_size": 8}
    return {
        "Solution": solution,
        "BrenierMap": solution.map(),
        "SemiDiscreteOT": aeot.SemiDiscreteOT(tol=0.2).fit(rows.numpy()),
        "Autoencoder": aeot.Autoencoder(**small).fit(rows, steps=2),
        "AEOT": aeot.AEOT(tol=0.5, **small).fit(rows, steps=2),
        "GAN": aeot.GAN(hidden=8, **small).fit(rows, steps=1),
    }


def test_no_save_is_replaced_unless_asked_for_and_each_says_what_it_is(tmp_path):
    for name, model in models().items():
        place = tmp_path / name
        model.save(place)
        before = {file.name: file.read_bytes() for file in place.iterdir()}
        told = error_of(lambda model=model, place=place: model.save(place))
        assert "path must be new or empty" in told
        assert "overwrite=True" in told
        assert {file.name: file.read_bytes() for file in place.iterdir()} == before
        with pytest.raises(ValueError, match="overwrite must be True or False, got 1"):
            model.save(place, overwrite=1)
        page = (place / "README.md").read_text()
        assert f"aeot.{name}.load(" in page
        assert "## Data" in page
        (place / "README.md").write_text("my own words")  # is for people
        type(model).load(place, device="cpu")
        model.save(place, overwrite=True)
        assert (place / "README.md").read_text() == page
        for file in place.iterdir():
            with pytest.raises(Exception, match=r"."):
                pickle.loads(file.read_bytes())
    card = (tmp_path / "AEOT" / "README.md").read_text()
    assert "mass error upper" in card
    assert "rows: 30" in card
    with pytest.raises(ValueError, match="an earlier save of a 'GAN', got .* with a 'AEOT'"):
        models()["GAN"].save(tmp_path / "AEOT", overwrite=True)


def test_marks_in_a_name_do_not_become_markup(tmp_path):
    named = aeot.tensors(torch.rand(9, 3), name="<b>x</b>\n# [a](http://b)")
    model = aeot.Autoencoder(latent_dim=2, batch_size=4).fit(named, steps=2)
    model.save(tmp_path / "m")
    page = (tmp_path / "m" / "README.md").read_text()
    assert "\\<b\\>" in page
    assert "\n# [" not in page


def test_a_solution_takes_no_more_than_its_numbers(tmp_path):
    source = aeot.UniformBox(dim=8)
    solution = aeot.solve_semidiscrete(source, sites_for(source, 500), tol=0.2)
    solution.save(tmp_path / "s")
    numbers = sum(v.nbytes for v in vars(solution).values() if isinstance(v, torch.Tensor))
    total = sum(file.stat().st_size for file in (tmp_path / "s").iterdir())
    assert total < numbers + 40_000  # the history, the page, names and hashes


FORGED = [
    ("Solution", put("FINE", "outcome"), "outcome"),
    ("Solution", put(None, "outcome"), "outcome"),
    ("Solution", put([], "source"), "source"),
    ("Solution", put("os.system", "source", "kind"), "source"),
    ("Solution", put(7, "source", "dim"), ""),
    ("Solution", put("float99", "source", "dtype"), ""),
    ("Solution", put(1.5, "mass_error_upper"), "mass_error_upper"),
    ("Solution", put("0", "mass_error"), "mass_error"),
    ("Solution", put([1], "history"), "history"),
    ("Solution", put(-3, "n_samples"), "n_samples"),
    ("Solution", put("BrenierMap", "record"), "record"),
    ("Solution", shaped("heights", torch.zeros(3, dtype=torch.float64)), "heights"),
    ("Solution", shaped("heights", torch.zeros(24)), "heights"),
    ("Solution", shaped("heights", torch.full((24,), torch.nan, dtype=torch.float64)), "heights"),
    ("Solution", shaped("sites", torch.zeros(24, 9)), "sites"),
    ("Solution", shaped("sites", torch.zeros(24, 2, dtype=torch.int64)), "sites"),
    ("Solution", shaped("cell_centroids", torch.zeros(24, 9)), "cell_centroids"),
    ("Solution", shaped("cell_masses", torch.zeros(3)), "cell_masses"),
    ("Solution", put({"$tensor": "heights"}, "masses"), "masses"),
    ("Solution", shaped("source.low", torch.full((2,), 9.0)), "high"),
    ("BrenierMap", put("magic", "engine"), "engine"),
    ("BrenierMap", put([], "buffers"), "buffers"),
    ("BrenierMap", put(None, "source"), "source"),
    ("BrenierMap", shaped("buffers.heights", torch.zeros(1)), "heights"),
    ("BrenierMap", shaped("buffers.sites", torch.zeros(24, 5)), "sites"),
    ("BrenierMap", shaped("buffers.centroids", torch.zeros(2, 2)), "centroids"),
    ("SemiDiscreteOT", put(None, "arguments", "tol"), "arguments"),
    ("SemiDiscreteOT", put([], "arguments"), "arguments"),
    ("SemiDiscreteOT", put(["a"], "feature_names"), "feature_names"),
    ("SemiDiscreteOT", put("os", "arguments", "engine"), ""),
    ("SemiDiscreteOT", put({}, "solution"), "outcome"),
    ("SemiDiscreteOT", shaped("site_of_row", torch.tensor([900])), "site_of_row"),
    ("SemiDiscreteOT", shaped("site_of_row", torch.tensor([0.5])), "site_of_row"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    solution = solved(aeot.UniformBox(dim=2))
    solution.save(folder / "Solution")
    solution.map().save(folder / "BrenierMap")
    rows = sites_for(solution.source).numpy()
    aeot.SemiDiscreteOT(tol=0.2).fit(rows).save(folder / "SemiDiscreteOT")
    return folder


@pytest.mark.parametrize("k", range(len(FORGED)))
def test_maps_that_were_never_solved(store, tmp_path, k):
    name, change, word = FORGED[k]
    kind, place = getattr(aeot, name), tmp_path / "m"
    place.mkdir()
    for file in (store / name).iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    kind.load(place, device="cpu")
    forge(place, change)
    told = error_of(lambda: kind.load(place, device="cpu"))
    assert word in told


def test_a_changed_byte_is_seen(store, tmp_path):
    for name in ("Solution", "BrenierMap", "SemiDiscreteOT"):
        place = tmp_path / name
        place.mkdir()
        for file in (store / name).iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        body = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(body))
        told = error_of(lambda name=name, place=place: getattr(aeot, name).load(place))
        assert "SHA-256" in told
