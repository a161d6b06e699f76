import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import aeot
from aeot._environment import environment
from aeot.search import kdtree_engine, numba_engine, torch_engine
from aeot.solvers.estimator import SemiDiscreteOT, merge_duplicates


@parametrize_with_checks([SemiDiscreteOT(tol=0.3)])
def test_scikit_learn_checks(estimator, check):
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


def test_transform_sends_equal_shares_to_all_sites():
    x = np.random.default_rng(0).normal(size=(20, 5))
    model = SemiDiscreteOT(source="gaussian", tol=0.05, random_state=3).fit(x)
    points = np.random.default_rng(1).normal(size=(20_000, 5))
    counts = np.bincount(model.predict(points), minlength=20)
    assert counts.sum() == 20_000
    assert np.abs(counts / 20_000 - 0.05).sum() / 2 < 0.05 + 0.4 * (20 / 20_000) ** 0.5
    images = model.transform(points)
    assert np.array_equal(images, model.sites_[model.predict(points)])
    drawn, sent = model.pairs(100, seed=2)
    assert np.array_equal(model.transform(drawn), sent)


def test_errors_name_the_argument():
    with pytest.raises(NotFittedError):
        SemiDiscreteOT().transform([[0.0]])
    with pytest.raises(ValueError, match="source must be one of"):
        SemiDiscreteOT(source="sphere").fit([[0.0], [1.0]])
    with pytest.raises(ValueError, match="sample_weight"):
        SemiDiscreteOT().fit([[0.0], [1.0]], sample_weight=[-1, 2])


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
        assert set(asked) == {name}


def test_the_recorded_version_is_that_of_the_code():
    assert environment()["versions"]["aeot"] == aeot.__version__
