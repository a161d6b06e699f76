"""All estimators have one form: arguments as they came, a short repr, one way to save and load."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

import aeot
from aeot import _check, _io
from aeot._estimator import Estimator
from aeot.features import Classifier

ESTIMATORS = [
    kind
    for kind in [
        *(getattr(aeot, name) for name in aeot.__all__ if name != "__version__"),
        Classifier,
    ]
    if isinstance(kind, type) and issubclass(kind, Estimator)
]


def test_none_is_missing():
    assert Classifier in ESTIMATORS


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_arguments_are_keywords_stored_as_they_came(kind):
    names = inspect.signature(kind).parameters
    assert all(p.kind is p.KEYWORD_ONLY for p in names.values())
    odd = {name: object() for name in names}  # a constructor checks nothing, `fit` does
    model = kind(**odd)
    assert model.arguments() == odd
    assert list(model.arguments()) == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_repr_shows_what_differs_from_the_default(kind):
    assert repr(kind()) == f"{kind.__name__}()"
    assert repr(kind(seed=7)) == f"{kind.__name__}(seed=7)"


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_default_passes_its_check_and_a_list_passes_none(kind):
    kind()._check_arguments()
    for name in kind._checks:
        if name in inspect.signature(kind).parameters:
            with pytest.raises(ValueError, match=f"^{name} must .*, got "):
                kind(**{name: [None]})._check_arguments()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_unfitted_estimator_says_so_and_writes_nothing(kind, tmp_path):
    for call in (lambda: kind().save(tmp_path / "m"), lambda: kind().state()):
        with pytest.raises(NotFittedError, match=f"this {kind.__name__} is not fitted yet"):
            call()
    assert not (tmp_path / "m").exists()


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Line(Estimator):
    """One network, one plain value, one number that is not learned."""

    width: int = 2
    betas: tuple[float, float] = (0.5, 0.9)
    device: str | None = None

    _fitted_by = "line_"
    _checks = Estimator._checks | {"width": _check.integer}

    def fit(self):
        self._check_arguments()
        self.shape_ = (self.width,)
        self.line_ = self._build()["line_"]
        self.scratch = "not learned"
        return self

    def _build(self):
        return {"line_": torch.nn.Linear(*self.shape_, 1)}


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Pair(Estimator):
    """An estimator that holds two others."""

    _fitted_by = "lines_"

    def fit(self):
        self.lines_ = {"a": Line(width=3).fit(), "b": Line(betas=(0.0, 0.1)).fit()}
        return self

    def _restore(self, learned, device):
        lines = {k: Line.from_state(part, device=device) for k, part in learned["lines_"].items()}
        super()._restore({**learned, "lines_": lines}, device)


def test_what_was_learned_is_saved_and_nothing_else(tmp_path):
    model = Pair().fit()
    model.save(tmp_path / "m")
    back = Pair.load(tmp_path / "m", device="cpu")
    x = torch.rand(5, 3)
    assert torch.equal(back.lines_["a"].line_(x), model.lines_["a"].line_(x))
    assert back.lines_["a"].arguments() == {"width": 3, "betas": (0.5, 0.9), "device": "cpu"}
    assert back.lines_["b"].betas == (0.0, 0.1)
    assert back.lines_["b"].shape_ == (2,)
    assert not hasattr(back.lines_["b"], "scratch")
    with pytest.raises(ValueError, match="holds a 'Pair', not a 'Line'"):
        Line.load(tmp_path / "m")
    _io.save(tmp_path / "other", {}, {}, kind="Other")
    with pytest.raises(ValueError, match="an earlier save of a 'Pair', got .* with a 'Other'"):
        model.save(tmp_path / "other")


VECTORS = np.random.default_rng(0).normal(size=(12, 3))
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
FITTED_TO = {
    "CycleGAN": aeot.unpaired(PICTURES, PICTURES),
    "TransportTranslator": aeot.unpaired(PICTURES, PICTURES),
    "Pix2Pix": aeot.paired(PICTURES, PICTURES),
    "Classifier": aeot.tensors(PICTURES, labels=[0, 1, 0, 1]),
}
OF_NO_KIND = [object(), [], {}, b"x", (1,), np.zeros(3), 10**400, float("nan")]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_argument_of_no_kind_it_could_be_is_one_error_before_any_work(kind, monkeypatch):
    def never(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr(aeot.training, "run", never)
    data = FITTED_TO.get(kind.__name__, VECTORS)
    tried = 0
    for field in dataclasses.fields(kind):
        if field.type.startswith("Any"):
            continue
        for value in [*OF_NO_KIND, *([] if field.default is None else [None])]:
            if isinstance(value, int) and (field.type == "float" or field.name == "seed"):
                continue  # a seed may have any number of digits
            with pytest.raises(ValueError, match=rf"^{field.name} must ") as caught:
                kind(**{field.name: value}).fit(data)
            told = str(caught.value)
            assert ", got " in told, told
            assert "\n" not in told
            assert len(told) < 400
            tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        (aeot.VAE, "std", 1e-300),
        (aeot.VAE, "std", 10**30),
        (aeot.CycleGAN, "cycle", 10**30),
        (aeot.CycleGAN, "blur", 10**30),
        (aeot.Pix2Pix, "l1", 1e300),
        (aeot.WGANGP, "penalty", 10**30),
        (aeot.WGAN, "clip", 10**20),
        (aeot.BEGAN, "rate", 10**20),
    ],
)
def test_numbers_that_arithmetic_cannot_hold_are_refused(kind, argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be a finite number .*, got "):
        kind(**{argument: value}).fit(FITTED_TO.get(kind.__name__, VECTORS), steps=1)
