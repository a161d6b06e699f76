import math

import pytest
import torch

import aeot
from aeot.comparison.compare import compare
from aeot.features import Classifier, Pixels


@pytest.fixture(scope="module")
def sets():
    train, test = (aeot.dataset("digits", split=split) for split in ("train", "test"))
    return train, test, Classifier(channels=8, width=16, epochs=1).fit(train, test)


class Mirror:
    """An autoencoder alone."""

    def encode(self, data):
        return data

    def decode(self, codes):
        return codes


def refuse(model):
    raise AssertionError("measured before all models were tried")


class Once:
    """Can be asked for the two images of a trial only."""

    def sample(self, n, *, seed):
        return torch.zeros(n, 1, 28, 28) - 1 if n == 2 else refuse(self)


class Late(Mirror):
    """Fails when it is asked for more than the two images of a trial."""

    def decode(self, codes):
        return codes if len(codes) <= 2 else refuse(self)


BAD = {
    "unfitted": (
        {"models": {"y": Late(), "x": aeot.GAN()}},
        r"models\['x'\] must make images, got",
    ),
    "no seed": (
        {"models": {"x": type("S", (), {"sample": lambda self, n: None})()}},
        r"models\['x'\] must make images, got TypeError: .*unexpected keyword argument 'seed'",
    ),
    "surrogate": ({"models": {"\ud800": 3}}, "have names that are text"),
    "nameless": ({"models": {"x": ""}}, r"models\['x'\] must be a generator, .* an empty name"),
    "few for fd": (
        {"models": {"x": Once()}, "metrics": ["fd"], "n_samples": 16},
        "metrics must be computable of 16 images, got fd: generated must have more rows",
    ),
    "object facts": ({"facts": {"x": {"note": object()}}}, "facts must be values that JSON holds"),
    "one metric": ({"metrics": "fd"}, "metrics must be a list of names, got 'fd'; leave it out"),
    "no metric": ({"metrics": []}, r"metrics must be a list of names, got \[\]"),
    "unknown facts": ({"facts": {"y": {}}}, "facts must be about x, got 'y'"),
    "text facts": (
        {"facts": {"x": {"train_seconds": "long"}}},
        r"facts\['x'\]\['train_seconds'\] must be a finite number, got 'long'",
    ),
    "at full n": (
        {"models": {"x": Once()}, "metrics": ["sliced"]},
        r"models\['x'\] must make images, got AssertionError: measured before",
    ),
    "late": (
        {"models": {"y": Late(), "x": lambda n: torch.zeros(n, 1, 32, 32)}},
        r"samples of 'x' must have shape \(2, 1, 28, 28\)",
    ),
    "slightly": (
        {"models": {"x": lambda n: torch.full((n, 1, 28, 28), -1.6)}},
        r"lie in \[-1, 1\]",
    ),
    "metric": ({"metrics": ["fid"]}, "metrics must be one of 'fd'"),
    "training": (
        {"metrics": ["copied"]},
        "metrics must be without 'copied', got no training images",
    ),
    "labels": ({"metrics": ["classes"], "features": Pixels()}, "no Classifier as features"),
    "n": ({"n_samples": 400}, "data must hold 400 images, got 355; pass n_samples=355 or less"),
    "narrow": ({"n_samples": 16, "metrics": ["fd"]}, "more rows than its 16 columns"),
    "repeats": ({"repeats": 0}, "repeats must be a whole number >= 1"),
    "models": ({"models": {}}, "models must name at least one generator"),
    "number": (
        {"models": {"x": 3}},
        r"models\['x'\] must be a generator, a function, images or a folder, got int",
    ),
    "few": ({"models": {"x": torch.zeros(9, 1, 28, 28)}}, "hold 355 images, got 9"),
    "size": (
        {"models": {"x": lambda n: torch.zeros(n, 1, 32, 32)}},
        "samples of 'x' must have shape",
    ),
    "range": ({"models": {"x": lambda n: torch.full((n, 1, 28, 28), 255.0)}}, r"lie in \[-1, 1\]"),
    "nan": (
        {"models": {"x": lambda n: torch.full((n, 1, 28, 28), math.nan)}},
        "'x' must be finite",
    ),
    "none": ({"models": {"x": lambda n: None}}, "samples of 'x' must be an array of images"),
    "text": ({"models": {"x": lambda n, **_: "no"}}, "samples of 'x' must be an array of images"),
    "class": ({"models": {"x": Mirror}}, "got the class Mirror; pass a fitted instance"),
    "empty": ({"models": {"x": []}}, "hold at least one generator, got an empty list"),
    "mixed": (
        {"models": {"x": [lambda n: torch.zeros(n, 1, 28, 28), Mirror()]}},
        r"models\['x'\] must hold models of one kind, got some that can be drawn",
    ),
    "shape": (
        {"models": {"x": torch.zeros(400, 3, 28, 28)}},
        r"models\['x'\] must make images of shape \(1, 28, 28\), got \(3, 28, 28\)",
    ),
    "name": ({"models": {1: torch.zeros(400, 1, 28, 28)}}, "have names that are text, got 1"),
    "list": ({"models": [3]}, "models must map names to generators, got list"),
    "shadow": ({"models": {"real training images": 3}}, "leave the names of reference rows free"),
    "features": ({"features": "x"}, "features must be a fitted Classifier or a module, got 'x'"),
    "facts": ({"facts": {"x": 3}}, "facts must map names to dicts"),
    "folder": (
        {"models": {"x": "/nowhere"}},
        r"models\['x'\] must be a generator, .* an error: .*/nowhere, which does not exist",
    ),
    "sparse": (
        {"models": {"x": torch.zeros(400, 1, 28, 28).to_sparse()}},
        "must be a dense array",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case, sets):
    train, test, net = sets
    arguments, message = BAD[case]
    arguments = {"models": {"x": train}, "features": net, **arguments}
    with pytest.raises(ValueError, match=message):
        compare(arguments.pop("models"), test, **arguments)
