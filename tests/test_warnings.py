"""One warning per fact, of a category that can be filtered, at the caller's own line."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aeot

CODES = np.random.default_rng(0).normal(size=(60, 4))


def folder(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG and nothing more")
    return aeot.images(tmp_path)


def near_duplicates(_):
    sites = torch.rand(100, 2, dtype=torch.float64, generator=aeot.generator(1))
    sites[7] = sites[3] + torch.tensor([6e-10, 8e-10])
    return aeot.solve_exact(aeot.UniformBox(dim=2), sites)


def copies(_):
    rows = torch.randn(20, 3, generator=aeot.generator(0))[[*range(20), 0, 0]]
    model = aeot.AEOT(latent_dim=2, tol=0.5, precision="float32", device="cpu")
    return model.fit(rows, steps=2, held_out=0)


WARNS = {  # what is warned of: (call, category, words)
    "a folder with a broken image": (folder, UserWarning, "skipped 1 unreadable"),
    "images without negative values": (
        lambda _: aeot.tensors(np.full((2, 4, 4), 0.5)),
        UserWarning,
        "value_range=",
    ),
    "an exhausted budget": (
        lambda _: aeot.solve_semidiscrete(
            aeot.UniformBox(dim=4), CODES, tol=1e-3, max_samples=5000
        ),
        ConvergenceWarning,
        "raise max_samples",
    ),
    "the same through scikit-learn": (
        lambda _: aeot.SemiDiscreteOT(tol=1e-3, max_samples=5000).fit(CODES),
        ConvergenceWarning,
        "raise max_samples",
    ),
    "the same in a pipeline": (
        lambda _: make_pipeline(
            StandardScaler(), aeot.SemiDiscreteOT(tol=1e-3, max_samples=5000)
        ).fit_transform(CODES),
        ConvergenceWarning,
        "raise max_samples",
    ),
    "sites too near for float64": (near_duplicates, ConvergenceWarning, "its site lies"),
    "copied rows": (copies, UserWarning, "2 of 22 rows are exact copies"),
}


@pytest.mark.parametrize("case", WARNS)
def test_one_warning_at_the_callers_line(case, tmp_path):
    call, category, words = WARNS[case]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(tmp_path)
    told = [(w.category, w.filename) for w in caught]
    assert told == [(category, __file__)], [str(w.message) for w in caught]
    assert words in str(caught[0].message)
