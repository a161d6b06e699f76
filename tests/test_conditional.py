"""Transports with classes: what is drawn for a class comes from its sites, always."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import aeot
from aeot._rng import generator
from aeot.commands.sample import sample
from tests.test_hostile_saves import error_of, forge, put, shaped

BOX = aeot.UniformBox(dim=4)
SITES = torch.randn(60, 4, generator=generator(0, "sites"))
NAMES = ["heavy"] * 40 + ["light"] * 19 + ["one"]
MIXED = torch.randperm(60, generator=generator(1))


@pytest.fixture(scope="module")
def found():
    labels = [NAMES[k] for k in MIXED.tolist()]
    return labels, aeot.solve_conditional(BOX, SITES[MIXED], labels, tol=0.1)


def test_each_class_is_the_problem_of_its_sites_alone(found):
    labels, solution = found
    assert solution.classes == ("heavy", "light", "one")
    assert solution.shares.tolist() == pytest.approx([40 / 60, 19 / 60, 1 / 60])
    assert solution.converged
    for label in ("heavy", "light", "one"):
        own = [k for k, name in enumerate(labels) if name == label]
        alone = aeot.solve_semidiscrete(BOX, SITES[MIXED][own], tol=0.1)
        assert torch.equal(alone.heights, solution.of(label).heights)
        assert solution.of(label).mass_error_upper == alone.mass_error_upper <= 0.1
    assert {record["class"] for record in solution.history} >= {"heavy", "light"}


def test_what_is_drawn_for_a_class_comes_from_its_sites(found):
    labels, solution = found
    brenier, table = solution.map(), np.array(labels)
    assert torch.equal(brenier.sites, SITES[MIXED])
    for label in solution.classes:
        draw = brenier.draw(50, labels=label, generator=generator(2))
        assert set(table[draw.owners]) == {label}
    wanted = np.array(["one", "heavy", "light", "heavy"] * 20)
    draw = brenier.draw(80, labels=wanted, generator=generator(3))
    assert (table[draw.owners] == wanted).all()
    assert (np.array(brenier.classes)[draw.labels] == wanted).all()
    alone = solution.of("light").map().cell(draw.points)
    own = np.flatnonzero(table == "light")
    at = wanted == "light"
    assert (own[alone[at]] == draw.owners.numpy()[at]).all()
    points = torch.rand(80, 4, generator=generator(4))
    assert (table[brenier.cell(points, wanted)] == wanted).all()
    assert torch.equal(brenier(points, "one"), brenier.sites[[labels.index("one")] * 80])


def test_without_labels_classes_come_as_often_as_their_masses(found):
    _, solution = found
    brenier = solution.map()
    counts = np.zeros(3)
    for seed in range(40):
        draw = brenier.draw(30, generator=generator(seed))
        own = np.bincount(draw.labels, minlength=3)
        assert (np.abs(own - 30 * solution.shares.numpy()) < 1).all()  # stratified
        counts += own
    # 1 200 draws at 1/60: 20 expected; each of 40 has 0 or 1, a binomial of spread 3.2.
    assert abs(counts[2] - 20) < 13
    order = brenier.draw(30, generator=generator(0)).labels.tolist()
    assert order != sorted(order)


def test_masses_of_sites_make_those_of_classes():
    weights = torch.arange(1.0, 61, dtype=torch.float64)
    masses = weights / weights.sum()
    labels = torch.arange(60) % 3
    solution = aeot.solve_conditional(BOX, SITES, labels, masses, tol=0.2)
    assert solution.classes == (0, 1, 2)
    for k in range(3):
        assert float(solution.shares[k]) == pytest.approx(float(masses[labels == k].sum()))
        own = masses[labels == k] / masses[labels == k].sum()
        assert torch.allclose(solution.of(k).masses, own)
    assert torch.allclose(solution.map().masses, masses)


KINDS = {
    "list of ints": [7, 3] * 5,
    "tensor": torch.tensor([7, 3] * 5),
    "small tensor": torch.tensor([7, 3] * 5, dtype=torch.uint8),
    "floats that are whole": np.array([7.0, 3.0] * 5),
    "objects": np.array([7, 3] * 5, dtype=object),
    "column": pd.Series([7, 3] * 5, index=range(5, 15)),
    "nullable column": pd.Series([7, 3] * 5, dtype="Int64"),
}
TEXTS = {
    "list": ["b", "a"] * 5,
    "array": np.array(["b", "a"] * 5),
    "column": pd.Series(["b", "a"] * 5),
    "category": pd.Series(["b", "a"] * 5, dtype="category"),
    "string column": pd.Series(["b", "a"] * 5, dtype="string"),
}


@pytest.mark.parametrize("given", [*KINDS.values(), *TEXTS.values()])
def test_labels_of_any_kind(given):
    plane = torch.rand(10, 2, generator=generator(5))
    found = aeot.solve_conditional(aeot.UniformBox(dim=2), plane, given)
    assert found.classes in ((3, 7), ("a", "b"))
    assert found.labels.tolist() == [1, 0] * 5
    assert all(type(c) in (int, str) for c in found.classes)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1], "labels must be 60 classes, whole numbers or texts, one per row, got shape (2,)"),
        (None, "labels must be whole numbers or texts, got None"),
        ([0.5] * 60, "labels must be whole numbers or texts, got 0.5"),
        ([float("nan")] + [1.0] * 59, "labels must be whole numbers or texts, got nan"),
        (["a", None] * 30, "labels must be whole numbers or texts, got None"),
        (["a", 1] * 30, "labels must be whole numbers or texts, got both"),
        (pd.Series([1, None] * 30, dtype="Int64"), "labels must be whole numbers or texts"),
        ([[1], [2, 3]], "labels must be whole numbers or texts"),
        (np.zeros((60, 2), int), "shape (60, 2)"),
        (np.zeros(60, complex), "labels must be whole numbers or texts"),
    ],
)
def test_labels_that_are_none(labels, told):
    assert told in error_of(lambda: aeot.solve_conditional(BOX, SITES, labels))


def test_wrong_arguments_are_named_before_any_work(found):
    _, solution = found
    brenier = solution.map()
    calls = {
        "labels must be among the classes 'heavy', 'light', 'one', got 'lihgt'; did you mean "
        "'light'?": lambda: brenier.draw(3, labels="lihgt"),
        "labels must be one class or 3 classes, got shape (2,)": lambda: brenier.draw(
            3, labels=["one", "one"]
        ),
        "label must be among": lambda: solution.of("two"),
        "singular must be 3 singular sets": lambda: brenier.draw(3, singular=[1]),
        "n must be a whole number": lambda: brenier.draw(-1),
        "sites must be distinct, got sites 0 and 59": lambda: aeot.solve_conditional(
            BOX, torch.cat([SITES[:59], SITES[:1]]), [0] * 60
        ),
        "tol must be": lambda: aeot.solve_conditional(BOX, SITES, NAMES, tol=0),
        "progress must be": lambda: aeot.solve_conditional(BOX, SITES, NAMES, progress=1),
        "on_step must be": lambda: aeot.solve_conditional(BOX, SITES, NAMES, on_step=1),
        "source must be": lambda: aeot.solve_conditional(3, SITES, NAMES),
        "masses must sum": lambda: aeot.solve_conditional(BOX, SITES, NAMES, [1.0] * 60),
    }
    for told, call in calls.items():
        assert told in error_of(call)


def test_equal_sites_may_be_of_two_classes():
    twice = torch.cat([SITES[:5], SITES[:5]])[:, :2]
    found = aeot.solve_conditional(aeot.UniformBox(dim=2), twice, [0] * 5 + [1] * 5)
    assert torch.equal(found.of(0).heights, found.of(1).heights)


def test_a_solve_that_is_stopped_and_goes_on_has_the_same_bits(tmp_path):
    straight = aeot.solve_conditional(BOX, SITES, NAMES, tol=0.1)

    def stop(record):
        if record["class"] == "light":
            raise KeyboardInterrupt

    options = {"tol": 0.1, "checkpoint": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        aeot.solve_conditional(BOX, SITES, NAMES, on_step=stop, **options)
    resumed = aeot.solve_conditional(BOX, SITES, NAMES, **options)
    for one, other in zip(straight.solutions, resumed.solutions, strict=True):
        assert torch.equal(one.heights, other.heights)
    stopped = aeot.solve_conditional(BOX, SITES, NAMES, tol=0.1, on_step=lambda record: True)
    assert not stopped.converged or stopped.n_samples <= straight.n_samples


def test_saved_and_loaded_they_are_the_same_bits(found, tmp_path):
    labels, solution = found
    solution.save(tmp_path / "s")
    back = aeot.ConditionalSolution.load(tmp_path / "s", device="cpu")
    assert back.classes == solution.classes
    assert torch.equal(back.shares, solution.shares)
    for one, other in zip(solution.solutions, back.solutions, strict=True):
        assert torch.equal(one.heights, other.heights)
        assert torch.equal(one.masses, other.masses)
        assert one.history == other.history
    solution.map().save(tmp_path / "m")
    loaded = aeot.ConditionalMap.load(tmp_path / "m", device="cpu")
    draws = [m.draw(40, generator=generator(6)) for m in (solution.map(), back.map(), loaded)]
    for draw in draws[1:]:
        assert torch.equal(draws[0].codes, draw.codes)
        assert torch.equal(draws[0].owners, draw.owners)
    assert "light" in (tmp_path / "s" / "README.md").read_text()


FORGED = [
    ("s", put(["a"], "classes"), ""),
    ("s", put([1, "a", 2], "classes"), "classes"),
    ("s", put([], "solutions"), ""),
    ("s", put([1], "solutions"), "solutions"),
    ("s", shaped("labels", torch.zeros(60, dtype=torch.int64)), "labels"),
    ("s", shaped("shares", torch.ones(3, dtype=torch.float64)), "shares"),
    ("m", put(["a", "a", "b"], "classes"), "classes"),
    ("m", put("magic", "engine"), "engine"),
    ("m", put([], "maps"), ""),
    ("m", shaped("labels", torch.full((60,), -1)), "labels"),
    ("m", shaped("labels", torch.zeros(60)), "labels"),
    ("m", shaped("maps.0.heights", torch.zeros(3)), "heights"),
]


@pytest.mark.parametrize("k", range(len(FORGED)))
def test_saves_that_were_never_made(found, tmp_path, k):
    name, change, word = FORGED[k]
    saved = found[1] if name == "s" else found[1].map()
    saved.save(tmp_path / "m")
    forge(tmp_path / "m", change)
    assert word in error_of(lambda: type(saved).load(tmp_path / "m", device="cpu"))


def test_scikit_learn_estimator_with_classes(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"])
    y = pd.Series(np.where(np.arange(50) % 5 == 0, "rare", "often"))
    frame.loc[50], y.loc[50] = frame.loc[0], "often"  # equal rows of two classes
    frame.loc[51], y.loc[51] = frame.loc[1], "often"  # and of one
    model = aeot.SemiDiscreteOT(conditional=True).fit(frame, y)
    assert model.classes_.tolist() == ["often", "rare"]
    assert len(model.sites_) == 51
    assert (model.class_of_site_[model.site_of_row_] == y).all()
    assert np.array_equal(model.sites_[model.site_of_row_], frame)
    assert model.masses_.sum() == pytest.approx(1)
    assert model.masses_[model.class_of_site_ == "rare"].sum() == pytest.approx(10 / 52)
    rare = {tuple(row) for row in frame[y == "rare"].to_numpy()}
    assert {tuple(row) for row in model.sample(60, 1, y="rare")} <= rare
    counts = Counter(tuple(row) in rare - {tuple(frame.loc[0])} for row in model.sample(52, 2))
    assert 7 <= counts[True] <= 10
    points = model.transform(frame, y)
    assert np.array_equal(model.inverse_transform(points, y), frame)
    assert (model.predict(points, y) == model.site_of_row_).all()
    for label in ("often", "rare"):  # ranks within a class fill the square evenly
        assert model.transform(frame, y)[y == label].mean(0) == pytest.approx([0.5, 0.5], abs=0.03)
    model.save(tmp_path / "m")
    back = aeot.SemiDiscreteOT.load(tmp_path / "m")
    assert np.array_equal(back.sample(20, 3), model.sample(20, 3))
    assert np.array_equal(back.transform(frame, y), points)
    unlabelled = aeot.SemiDiscreteOT().fit(frame, y)  # as pipelines pass y to every step
    assert np.array_equal(unlabelled.heights_, aeot.SemiDiscreteOT().fit(frame).heights_)
    for told, call in {
        "y must hold the class of every row": lambda: aeot.SemiDiscreteOT(conditional=True).fit(
            frame
        ),
        "y must say the class": lambda: model.inverse_transform(points),
        "y must be among the classes": lambda: model.sample(3, y="seldom"),
        "conditional=True": lambda: unlabelled.sample(3, y="rare"),
        "conditional must be": lambda: aeot.SemiDiscreteOT(conditional=1).fit(frame, y),
    }.items():
        assert told in error_of(call)


def rows_of_three():
    means = torch.tensor([[0.0, 0, 0, 0, 0], [6, 0, 0, 0, 0], [0, 6, 0, 0, 0]])
    labels = torch.tensor([0] * 60 + [1] * 20 + [2])
    noise = torch.randn(81, 5, generator=generator(7))
    return means[labels] + noise, labels


@pytest.fixture(scope="module")
def model():
    rows, labels = rows_of_three()
    data = aeot.tensors(rows, labels, classes=("cat", "dog", "emu"))
    made = aeot.AEOT(latent_dim=2, batch_size=20, tol=0.2, conditional=True)
    return data, made.fit(data, steps=40)


def test_aeot_generates_the_class_that_it_is_asked_for(model):
    data, fitted = model
    assert fitted.classes_ == ("cat", "dog", "emu")
    assert set(fitted.certificate_["classes"]) == {"cat", "dog", "emu"}
    for label in ("cat", "dog", "emu"):
        draw = fitted.draw(30, labels=label, seed=3)
        own = data.labels[draw.owners]
        assert [data.classes[k] for k in own.tolist()] == [label] * 30
        assert fitted.sample(30, labels=label, seed=3).shape == (30, 5)
    each = torch.tensor([2, 0, 1, 1])
    draw = fitted.draw(4, labels=each)
    assert data.labels[draw.owners].tolist() == [2, 0, 1, 1]
    counts = np.bincount(fitted.draw(81, seed=5).labels, minlength=3)
    assert (np.abs(counts - [60, 20, 1]) <= 1).all()
    assert fitted.summary()["targets"] == 81
    assert sum(fitted.sampled_[k] for k in ("accepted",)) > 0


def test_an_aeot_with_classes_is_saved(model, tmp_path):
    data, fitted = model
    fitted.save(tmp_path / "m")
    back = aeot.AEOT.load(tmp_path / "m", device="cpu")
    assert back.classes_ == fitted.classes_
    assert torch.equal(back.sample(20, seed=1), fitted.sample(20, seed=1))
    assert torch.equal(
        back.sample(20, seed=1, labels="dog"), fitted.sample(20, seed=1, labels="dog")
    )
    back.save(tmp_path / "again")
    rows = fitted.interpolate(data[0], data[1], 5)
    assert torch.equal(rows, back.interpolate(data[0], data[1], 5))
    told = error_of(lambda: fitted.interpolate(data[0], data[65], 5))
    assert "start and end must lie in one class, got 'cat' and 'dog'" in told
    for change in (
        put({}, "learned", "brenier_"),
        put({"classes": []}, "learned", "singular_"),
        put({"$tuple": ["x"]}, "learned", "classes_"),
        put(None, "learned", "brenier_", "shares"),
    ):
        back.save(tmp_path / "m", overwrite=True)
        forge(tmp_path / "m", change)
        error_of(lambda: aeot.AEOT.load(tmp_path / "m", device="cpu"))


def test_labels_may_be_given_to_a_fitted_autoencoder(model):
    data, fitted = model
    made = aeot.AEOT(latent_dim=2, batch_size=20, tol=0.2)
    made.autoencoder_ = fitted.autoencoder_
    made.fit_transport(data)
    assert made.classes_ == ()
    assert "conditional=True" in error_of(lambda: made.sample(3, labels="cat"))
    names = pd.Series(["left", "right", "left"] * 27)
    made.fit_transport(data, labels=names)
    assert made.classes_ == ("left", "right")
    draw = made.draw(40, labels="right")
    assert set(names[draw.owners.tolist()]) == {"right"}
    assert "labels must be among the classes" in error_of(lambda: made.sample(3, labels="cat"))
    assert "labels must be 81 classes" in error_of(lambda: made.fit_transport(data, labels=[1]))
    bare = aeot.tensors(data.values)
    told = error_of(lambda: aeot.AEOT(latent_dim=2, conditional=True).fit(bare))
    assert "data must have labels for a conditional model" in told


def test_equal_rows_are_merged_within_a_class_only(model):
    _, fitted = model
    rows, labels = rows_of_three()
    rows, labels = torch.cat([rows, rows[:2]]), torch.cat([labels, torch.tensor([0, 1])])
    fitted = aeot.AEOT(latent_dim=2, batch_size=20, tol=0.2)
    fitted.autoencoder_ = model[1].autoencoder_
    with pytest.warns(UserWarning, match="1 of 83 rows are exact copies"):
        fitted.fit_transport(rows, labels=labels)
    counts = torch.bincount(fitted.brenier_.labels)
    assert counts.tolist() == [60, 21, 1]
    assert fitted.brenier_.shares.tolist() == pytest.approx([61 / 83, 21 / 83, 1 / 83])


def test_the_command_draws_a_class(model, tmp_path):
    _, fitted = model
    fitted.save(tmp_path / "run" / "model")
    assert "5 samples in" in sample(str(tmp_path / "run"), n=5, seed=1, label="dog", device="cpu")
    rows = np.load(tmp_path / "run" / "samples-dog-1" / "samples.npy")
    assert np.array_equal(rows, fitted.sample(5, seed=1, labels="dog").numpy())
    told = error_of(lambda: sample(str(tmp_path / "run"), n=5, label="cow", device="cpu"))
    assert "label must be among the classes 'cat', 'dog', 'emu', got 'cow'" in told


def test_folders_are_classes(tmp_path):
    grays = np.random.default_rng(0).integers(0, 60, size=(2, 6, 16, 16), dtype=np.uint8)
    for name, light, images in zip(("dark", "light"), (0, 190), grays, strict=True):
        (tmp_path / name).mkdir()
        for k, image in enumerate(images):
            Image.fromarray(image + np.uint8(light)).save(tmp_path / name / f"{k}.png")
    data = aeot.images(tmp_path, size=16)
    made = aeot.AEOT(latent_dim=2, batch_size=6, conditional=True).fit(data, steps=2, held_out=0.0)
    assert made.classes_ == ("dark", "light")
    for number, name in enumerate(made.classes_):
        for asked in (name, number):
            draw = made.draw(9, labels=asked, seed=2)
            assert (data.labels[draw.owners] == number).all()
