import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import aeot
from aeot._environment import environment
from aeot.search import kdtree_engine, numba_engine, torch_engine
from aeot.solvers.estimator import SemiDiscreteOT, merge_duplicates


@parametrize_with_checks([SemiDiscreteOT(tol=0.3)])
@pytest.mark.filterwarnings("ignore:X has rows outside the source's support")  # any rows, there
def test_scikit_learn_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # or one of the checks is skipped
    check(estimator)


def test_duplicates_are_merged_and_their_masses_added():
    x = np.array([[0.0, 0], [1, 1], [0, 0], [2, 0], [0, 0]])
    model = SemiDiscreteOT().fit(x)
    assert model.sites_.tolist() == [[0, 0], [1, 1], [2, 0]]
    assert model.masses_ == pytest.approx([0.6, 0.2, 0.2])
    assert model.site_of_row_.tolist() == [0, 1, 0, 2, 0]
    assert np.array_equal(model.sites_[model.site_of_row_], x)
    weights = merge_duplicates(x, np.array([1.0, 0, 1, 2, 0]))
    assert weights[0].tolist() == [[0, 0], [2, 0]]
    assert weights[1] == pytest.approx([0.5, 0.5])
    assert weights[2].tolist() == [0, -1, 0, 1, 0]


def test_the_certificate_is_that_of_the_solution_as_of_every_estimator(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 4))
    model = SemiDiscreteOT(tol=0.1).fit(x)
    assert model.certificate_ == model.solution_.certificate
    assert model.certificate_["mass_error_upper"] == -model.score(x) <= 0.1
    model.save(tmp_path / "model")
    assert SemiDiscreteOT.load(tmp_path / "model").certificate_ == model.certificate_
    rows = aeot.tensors(x)
    other = aeot.AEOT(latent_dim=2, tol=0.3, precision="float32").fit(rows, steps=2)
    assert list(other.certificate_) == list(model.certificate_)
    classes = SemiDiscreteOT(tol=0.1, conditional=True).fit(x, ["a", "b"] * 20)
    bounds = classes.certificate_.pop("classes")
    assert bounds == {c: classes.solution_.of(c).mass_error_upper for c in "ab"}
    assert list(classes.certificate_) == list(model.certificate_)
    assert classes.certificate_["mass_error_upper"] == max(bounds.values())


def test_predict_gives_every_site_its_share_of_the_source():
    x = np.random.default_rng(0).normal(size=(20, 5))
    model = SemiDiscreteOT(source="gaussian", tol=0.05, random_state=3).fit(x)
    points = np.random.default_rng(1).normal(size=(20_000, 5))
    counts = np.bincount(model.predict(points), minlength=20)
    assert counts.sum() == 20_000
    assert np.abs(counts / 20_000 - 0.05).sum() / 2 < 0.05 + 0.4 * (20 / 20_000) ** 0.5
    images = model.inverse_transform(points)
    assert np.array_equal(images, model.sites_[model.predict(points)])
    drawn, sent = model.pairs(100, seed=2)
    assert np.array_equal(model.inverse_transform(drawn), sent)
    # Centroids, by another route: the mean of the points in each cell.
    means = np.stack([points[model.predict(points) == k].mean(0) for k in range(20)])
    assert model.centroids_ == pytest.approx(means, abs=6 / 1000**0.5)


def test_coordinates_on_the_line_are_the_ranks():
    x = np.random.default_rng(0).normal(size=(50, 1))
    model = SemiDiscreteOT().fit(x)
    ranks = (np.argsort(np.argsort(x[:, 0])) + 0.5) / 50
    assert model.transform(x)[:, 0] == pytest.approx(ranks, abs=1e-9)
    assert np.array_equal(model.inverse_transform(model.transform(x)), x)
    halfway = x[:1] + 1e-9  # a row that is no site has the rank of the nearest one
    assert model.transform(halfway) == pytest.approx(model.transform(x[:1]))


def test_a_pipeline_transforms_rows_of_data():
    x = np.random.default_rng(0).gamma(2.0, size=(60, 2)) * [1.0, 100.0]
    steps = make_pipeline(StandardScaler(), SemiDiscreteOT(tol=0.1))
    ranks = steps.fit_transform(x)
    assert np.array_equal(steps.transform(x), ranks)
    assert ((ranks > 0) & (ranks < 1)).all()
    assert ranks.mean(0) == pytest.approx([0.5, 0.5], abs=1e-6)  # equal masses of the unit square
    scaled = steps[0].transform(x)
    assert np.array_equal(steps[1].inverse_transform(ranks), scaled)
    assert steps.inverse_transform(ranks) == pytest.approx(x)


@pytest.mark.parametrize(
    ("source", "inside"),
    [
        ("box", [[0.0, 1.0]]),
        ("ball", [[0.0, 1.0]]),
        (aeot.Radial(dim=2, radius=2.0, center=1.0), [[1.0, 3.0]]),
        ("gaussian", [[9.0, -9.0]]),
        (aeot.ConvexPolygon([[0.0, 0], [1, 0], [0, 1]]), [[0.5, 0.5]]),
        (aeot.Polygon([[0, 0], [4, 0], [4, 1], [1, 1], [1, 4], [0, 4]]), [[1.0, 4.0]]),
        (aeot.GridDensity(np.ones((2, 2)), low=-2, high=2), [[-2.0, 2.0]]),
    ],
)
def test_points_outside_the_support_are_no_points_of_the_source(source, inside):
    x = 10 + 30 * np.random.default_rng(0).normal(size=(12, 2))
    model = SemiDiscreteOT(source=source, tol=0.2).fit(x)
    assert model.inverse_transform(inside).shape == (1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(inside)
    if source == "gaussian":
        return
    with pytest.raises(ValueError, match=r"X must lie in the source's support.* use transform"):
        model.inverse_transform(x)
    with pytest.warns(UserWarning, match="X has rows outside the source's support") as caught:
        model.predict(x)
    assert caught[0].filename == __file__


def test_rows_are_drawn_by_their_masses():
    x = np.array([[0.0, 0], [1, 1], [0, 2]])
    model = SemiDiscreteOT().fit(x, sample_weight=[1, 2, 5])
    drawn = model.sample(4000, random_state=1)
    share = [(drawn == row).all(1).mean() for row in x]
    assert share == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=4 * 0.5 / 4000**0.5)
    assert np.array_equal(drawn, model.sample(4000, random_state=1))
    assert not np.array_equal(model.sample(99), model.sample(99))
    assert model.sample().shape == (1, 2)


def test_a_grid_search_over_tol_finds_the_least_error():
    x = np.random.default_rng(0).normal(size=(60, 4))
    search = GridSearchCV(SemiDiscreteOT(), {"tol": [0.3, 0.02]}, cv=2).fit(x)
    assert search.best_params_ == {"tol": 0.02}
    assert -0.02 <= search.best_score_ < 0
    assert search.best_estimator_.score(x) == -search.best_estimator_.solution_.mass_error_upper
    steps = make_pipeline(StandardScaler(), SemiDiscreteOT())
    grid = {"semidiscreteot__tol": [0.3, 0.02]}
    at_once = GridSearchCV(steps, grid, cv=2, n_jobs=2)
    with joblib.parallel_backend("threading"):
        at_once.fit(x)
    assert at_once.best_params_ == {"semidiscreteot__tol": 0.02}
    alone = GridSearchCV(steps, grid, cv=2).fit(x)
    for name in ("mean_test_score", "std_test_score"):
        assert np.array_equal(at_once.cv_results_[name], alone.cv_results_[name])
    assert np.array_equal(at_once.transform(x), alone.transform(x))


@pytest.mark.slow
def test_processes_of_joblib_find_the_same_scores():
    x = np.random.default_rng(0).normal(size=(60, 4))
    searches = [
        GridSearchCV(SemiDiscreteOT(tol=0.3), {"source": ["box", "ball"]}, cv=2, n_jobs=jobs).fit(x)
        for jobs in (None, 2)
    ]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    assert np.array_equal(*scores)


def test_clones_and_copies_of_joblib_are_the_same_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4))
    model = SemiDiscreteOT(source="gaussian", tol=0.3, random_state=7).fit(x)
    again = clone(model)
    assert again.get_params() == model.get_params()
    assert not hasattr(again, "solution_")
    assert np.array_equal(again.fit(x).heights_, model.heights_)
    joblib.dump(model, tmp_path / "model")
    back = joblib.load(tmp_path / "model")
    points = np.random.default_rng(1).normal(size=(50, 4))
    assert np.array_equal(back.predict(points), model.predict(points))
    assert np.array_equal(back.transform(x), model.transform(x))
    assert np.array_equal(back.sample(9, 3), model.sample(9, 3))


def test_tables_keep_names_and_index():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"])
    table = table[table["a"] > -1]  # the index is no longer 0, 1, 2, ...
    weight = pd.Series(np.arange(30) + 1.0)[table.index]
    model = SemiDiscreteOT(tol=0.3).set_output(transform="pandas").fit(table, sample_weight=weight)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    assert model.get_feature_names_out().tolist() == ["semidiscreteot0", "semidiscreteot1"]
    ranks = model.transform(table)
    assert ranks.columns.tolist() == model.get_feature_names_out().tolist()
    assert ranks.index.tolist() == table.index.tolist()
    plain = SemiDiscreteOT(tol=0.3).fit(table.to_numpy(), sample_weight=weight.to_numpy())
    assert np.array_equal(ranks.to_numpy(), plain.transform(table.to_numpy()))
    frame = pl.DataFrame({"a": table["a"].to_numpy(), "b": table["b"].to_numpy()})
    model = SemiDiscreteOT(tol=0.3).set_output(transform="polars")
    assert np.array_equal(model.fit(frame, sample_weight=weight).transform(frame), ranks)


def test_random_state_may_be_any_that_scikit_learn_takes():
    x = np.random.default_rng(0).normal(size=(40, 4))
    heights = [
        SemiDiscreteOT(tol=0.2, random_state=state).fit(x).heights_
        for state in (None, None, 5, 5, np.random.RandomState(1), np.random.RandomState(1))
    ]
    assert not np.array_equal(heights[0], heights[1])
    assert np.array_equal(heights[2], heights[3])
    assert np.array_equal(heights[4], heights[5])
    np.random.seed(0)
    seeded = SemiDiscreteOT(tol=0.2, random_state=None).fit(x).heights_
    np.random.seed(0)
    assert np.array_equal(SemiDiscreteOT(tol=0.2, random_state=None).fit(x).heights_, seeded)
    assert clone(SemiDiscreteOT(random_state=None)).random_state is None


@pytest.mark.parametrize(
    "given",
    [
        lambda x: torch.from_numpy(x).requires_grad_(),
        lambda x: x.astype(">f8"),
        lambda x: np.asfortranarray(x)[::-1][::-1],
        lambda x: x.tolist(),
        lambda x: pd.DataFrame(x),
        lambda x: pl.DataFrame(x),
        lambda x: np.ma.MaskedArray(x),
    ],
)
def test_any_table_of_the_same_numbers_gives_the_same_heights(given):
    x = np.random.default_rng(0).normal(size=(20, 3))
    x.flags.writeable = False
    expected = SemiDiscreteOT(tol=0.2).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SemiDiscreteOT(tol=0.2).fit(given(x.copy()))
        ranks = model.transform(given(x.copy()))
    assert np.array_equal(model.heights_, expected.heights_)
    assert np.array_equal(ranks, expected.transform(x))


def test_weights_of_any_size_count_by_their_ratio():
    x = np.array([[0.0, 0], [1, 1], [0, 2]])
    expected = SemiDiscreteOT().fit(x, sample_weight=[1, 2, 1]).masses_
    for unit in (1e308, 1e-300, 3):
        weights = np.array([0.5, 1, 0.5]) * unit
        assert np.array_equal(SemiDiscreteOT().fit(x, sample_weight=weights).masses_, expected)


def test_errors_name_the_argument():
    with pytest.raises(NotFittedError):
        SemiDiscreteOT().transform([[0.0]])
    with pytest.raises(ValueError, match="source must be one of"):
        SemiDiscreteOT(source="sphere").fit([[0.0], [1.0]])
    for weight, words in [
        ([1, -1] + [1] * 1000, "got shape"),
        ([1, -1], "be 2 numbers >= 0, got -1 at index 1$"),
        ([0, 0], "not be zero everywhere"),
        (["a", "b"], "numeric"),
        ([np.nan, 1], "finite"),
        (3, r"got shape \(\)"),
    ]:
        with pytest.raises(ValueError, match=f"sample_weight must .*{words}"):
            SemiDiscreteOT().fit([[0.0], [1.0]], sample_weight=weight)
    for state in (-1, 0.5, "x", True):
        with pytest.raises(ValueError, match=f"random_state must .* >= 0, got {state!r}"):
            SemiDiscreteOT(random_state=state).fit([[0.0], [1.0]])


def test_cells_are_found_by_the_engine_that_was_asked_for(monkeypatch):
    asked = []
    for module in (numba_engine, torch_engine, kdtree_engine):

        def counted(*args, own=module.top_k, name=module.NAME):
            asked.append(name)
            return own(*args)

        monkeypatch.setattr(module, "top_k", counted)
    codes = np.random.default_rng(0).normal(size=(40, 4))
    for name in ("kdtree", "torch"):
        model = SemiDiscreteOT(engine=name, tol=0.1).fit(codes)
        asked.clear()
        model.predict(np.full((3, 4), 0.5))
        model.solution_.map(engine=name).cell(torch.full((3, 4), 0.5))
        tree = aeot.solve_hierarchical(aeot.UniformBox(dim=4), codes, clusters=3, engine=name)
        tree(torch.rand(5, 4, dtype=torch.float64))
        assert name in asked
        assert set(asked) <= {name, "torch"}  # which decides where the tree's rounding may not


def test_the_recorded_version_is_that_of_the_code():
    assert environment()["versions"]["aeot"] == aeot.__version__


@pytest.mark.parametrize(("dim", "n"), [(2, 1500), (3, 400)])
def test_ranks_of_a_normal_sample_are_those_of_the_closed_form(dim, n):
    """From the ball to N(mu, s^2 I) the map is radial: it carries shares of mass to each other."""
    mean, spread = np.arange(dim), 1.7
    x = mean + spread * np.random.default_rng(0).normal(size=(n, dim))
    model = SemiDiscreteOT(source="ball").fit(x)
    radius = np.linalg.norm(x - mean, axis=1)
    share = chi2(dim).cdf((radius / spread) ** 2)
    exact = (x - mean) / radius[:, None] * share[:, None] ** (1 / dim)
    far = np.linalg.norm(model.transform(x) - exact, axis=1)
    # Half a cell is 0.023 wide in the plane and 0.11 in space; the share of a sample in any ball is
    # off by 0.5 / sqrt(n) at most on average.
    assert far.mean() < (0.04 if dim == 2 else 0.12)
    if dim == 3:  # cells at the border have their centroids well inside
        return
    depth = np.linalg.norm(model.transform(x), axis=1) ** dim
    for p in (0.25, 0.5, 0.9):  # the share p that lies deepest fills a ball of the share p
        assert np.mean(depth < p) == pytest.approx(p, abs=0.03)
        away = np.random.default_rng(1).normal(size=(300, dim))
        away *= spread * chi2(dim).ppf(p) ** 0.5 / np.linalg.norm(away, axis=1)[:, None]
        at = np.linalg.norm(model.transform(mean + away), axis=1) ** dim
        assert at.mean() == pytest.approx(p, abs=0.06)  # each lies within a cell of its site


def test_complex_rows_are_refused_without_being_printed():
    with pytest.raises(ValueError, match=r"^X: Complex data not supported$"):
        aeot.SemiDiscreteOT().fit(np.ones((40, 2), complex))
