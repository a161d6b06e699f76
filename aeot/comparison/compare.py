"""Compare generators under one protocol, whatever they are and however they were trained."""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from aeot import _check, _environment
from aeot._environment import plain_torch
from aeot._rng import generator, stream_seed
from aeot.comparison import contestants
from aeot.comparison.budget import Peak
from aeot.comparison.result import COSTS, METRICS, REAL, RESTORED, Comparison, check_metrics
from aeot.data import Dataset, to_uint8
from aeot.features import Classifier, Pixels, describe, extract
from aeot.metrics import formulas, precision_recall
from aeot.search.nearest import nearest

_LOG = logging.getLogger(__name__)
_SHOWN = 64  # samples kept for pictures


@plain_torch(grad=True)
def compare(
    models: Mapping[str, Any],
    data: Dataset,
    *,
    metrics: Sequence[str] | None = None,
    features: nn.Module | Classifier | None = None,
    training: Dataset | None = None,
    n_samples: int | None = None,
    repeats: int = 1,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> Comparison:
    """Measure generators against held-out images: same features, same numbers of images.

    Every image, real or generated, is rounded to 8 bits first. Beside the generators stand the
    baselines that give numbers a meaning: real training images (the best value a generator can
    have, so the noise of the protocol), and the reconstructions of every model that has ``encode``
    and ``decode`` (the best value its decoder allows).

    Args:
        models: Name -> a generator, or a list of them trained with different seeds. A generator is
            anything with ``sample(n, seed=...)``; a function ``f(n, seed=...)`` or ``f(n)``; or
            images: a `Dataset`, a tensor, a folder of images, a directory that a model was saved
            to. Generators return (n, C, H, W) in [-1, 1] or uint8. Of an autoencoder alone, with
            ``encode`` and ``decode`` but no ``sample``, the reconstructions are measured. All are
            opened, and asked for two images, before any is measured.
        data: Reference images, which no model was trained on.
        metrics: Names out of `result.METRICS`; None: all that can be computed, and the
            protocol says why others cannot.
        features: What measures images, a fitted `Classifier` or a module; see `aeot.features`.
            None: a classifier trained on `training` if that has labels, with at most a tenth as
            many features as `data` has images, else small pixels.
        training: The images the models were trained on: for memorisation, the row of real images
            and the nearest training image of each sample shown.
        n_samples: Images on either side; None: as many as `data` has, at most 10 000.
        repeats: Sets of samples per model. The standard error of the mean is over the models of a
            list, each the mean of its sets; for a single model it is over its sets. Sets that are
            drawn from given images overlap unless these are many more than `n_samples`, and their
            errors are then too small.
        facts: Name -> further facts; those in `result.COSTS`, such as ``train_seconds``,
            are numbers and stand in the table of costs.
        device: Where images are measured; None: the first GPU, else the CPU. Generators compute
            where they are, all of them on one device, which the protocol names.
        seed: Of all draws. Those of a row depend on its name too: called otherwise, a model is
            measured on other samples.

    Returns:
        A mapping of model to metric to mean, with errors, costs and pictures.

    Raises:
        ValueError: If a metric is unknown or cannot be computed, there are too few images, a model
            returns something else than images like `data`, or models compute on several devices.

    Example:
        >>> import aeot
        >>> train, test = aeot.dataset("digits"), aeot.dataset("digits", split="test")
        >>> noisy = lambda n, seed: (train[:n] + 0.3 * torch.randn(train[:n].shape)).clamp(-1, 1)
        >>> found = compare({"copies": train, "noisy copies": noisy}, test,
        ...                 features=aeot.features.Pixels(4), metrics=["fd", "recall"])
        >>> found["copies"]["fd"] < found["noisy copies"]["fd"]
        True
    """
    repeats, facts = _check.integer("repeats", repeats), {} if facts is None else facts
    if not isinstance(facts, Mapping) or not all(isinstance(f, Mapping) for f in facts.values()):
        raise _check.fail("facts", "map names to dicts of facts", _check.shown(facts))
    check_metrics(metrics)
    if not isinstance(features, (nn.Module, Classifier, type(None))):
        must = "be a fitted Classifier or a module"
        raise _check.fail("features", must, _check.shown(features), "leave it out for the usual")
    _image_shape("data", data)
    if n_samples is not None:
        _check.integer("n_samples", n_samples)
    try:
        json.dumps(facts, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise _check.fail("facts", "be values that JSON holds", str(error)) from error
    where = _environment.resolve_device(device)
    groups = contestants.opened(models, data, n_samples)
    for name, known in facts.items():
        if name not in groups:
            raise _check.fail("facts", f"be about {', '.join(groups)}", repr(name))
        for key in known.keys() & COSTS.keys():
            _check.real(f"facts[{name!r}][{key!r}]", known[key])
    machine = contestants.one_device(groups, facts)
    data = data.to(where)
    training = None if training is None else training.to(where)
    judge = _Judge(data, metrics, features, training, n_samples, seed)
    protocol = {**judge.protocol, "repeats": repeats, "device": machine}
    protocol["errors"] = "standard errors over the models of a row if it has several, else its sets"
    result = Comparison([], protocol, _environment.environment(where))
    if training is not None and len(training) >= judge.n:
        _add(result, judge, REAL, "real", [training], repeats, {})
    elif training is not None:
        judge.left_out[REAL] = f"{len(training)} of them"
    if metrics and not result.rows:  # too few images, for one, are known before a model is asked
        judge(to_uint8(judge.reference[:]))
    for name, group in groups.items():
        kind = type(group[0]).__name__
        extra = {**contestants.size(group[0]), **facts.get(name, {})}
        if (own := contestants.device_of(group[0])) is not None:
            extra = {"device": own, **extra}
        _LOG.info("measuring %s", name)
        if contestants.samples(group[0]):
            _add(result, judge, name, kind, group, repeats, extra)
            extra = {}
        if contestants.codes(group[0]):
            restored = [contestants.Reconstructions(model, data) for model in group]
            _add(result, judge, name + RESTORED, "reconstructions", restored, 1, extra)
    if judge.left_out:
        protocol["left out"] = judge.left_out
    return result


def _add(
    result: Comparison,
    judge: _Judge,
    name: str,
    kind: str,
    group: list[Any],
    repeats: int,
    facts: dict[str, Any],
) -> None:
    """Measure one row, several sets of samples of each model in the group."""
    sets: list[dict[str, list[float]]] = []  # of each model
    seconds, curve = [], None
    memory = Peak(contestants.device_of(group[0]) or "cpu")
    for model in group:
        values: dict[str, list[float]] = {}
        fixed = isinstance(model, Dataset) and len(model) == judge.n  # every set would be the same
        for repeat in range(1 if fixed else repeats):
            begun = time.perf_counter()
            draw_seed = stream_seed(judge.seed, name, repeat) % 2**31
            batch = contestants.made(name, model, judge.n, draw_seed, judge.shape)
            seconds.append(time.perf_counter() - begun)
            if repeat == 0 and "peak_gib" not in facts:
                facts = {**facts, "peak_gib": memory.gib()}
            measured, drawn, alike = judge(batch)
            for metric, value in measured.items():
                values.setdefault(metric, []).append(value)
            if curve is None:
                curve = drawn
                result.shown[name], result.nearest[name] = batch[:_SHOWN].cpu(), alike
        sets.append(values)
    table = {
        metric: _summary([values[metric] for values in sets])
        for metric in sets[0]
        if all(metric in values for values in sets)
    }
    if not isinstance(group[0], Dataset):
        facts = {"sample_seconds": min(seconds), **facts}  # the first may have to compile
    facts = {"models": len(group), "sets": len(seconds), **facts}
    row = {"model": name, "kind": kind, "metrics": table, "facts": facts, "curve": curve}
    result.rows.append(row)


def _summary(sets: list[list[float]]) -> dict[str, Any]:
    """Return the mean of all models and sets, and its error: models differ more than sets do."""
    units = [statistics.fmean(values) for values in sets] if len(sets) > 1 else sets[0]
    error = statistics.stdev(units) / math.sqrt(len(units)) if len(units) > 1 else None
    return {"mean": statistics.fmean(units), "error": error, "values": sum(sets, [])}


class _Judge:
    """The reference side of a comparison, computed once."""

    def __init__(
        self,
        data: Dataset,
        chosen: Sequence[str] | None,
        features: nn.Module | Classifier | None,
        training: Dataset | None,
        n_samples: int | None,
        seed: int,
    ) -> None:
        self.shape, self.seed = _image_shape("data", data), _check.seed("seed", seed)
        if training is not None and _image_shape("training", training) != self.shape:
            raise _check.fail("training", f"have images of shape {self.shape}", str(training.shape))
        self.n = (
            min(10_000, len(data)) if n_samples is None else _check.integer("n_samples", n_samples)
        )
        if self.n > len(data):
            way_out = f"pass n_samples={len(data)} or less"
            raise _check.fail("data", f"hold {self.n} images", str(len(data)), way_out)
        known = training is not None and training.labels is not None
        missing = (
            {}
            if training is not None
            else dict.fromkeys(("memorisation", "copied"), "training images")
        )
        if not (isinstance(features, Classifier) or (features is None and known)):
            missing["classes"] = "Classifier as features"
        for name in chosen or ():
            if name in missing:
                raise _check.fail("metrics", f"be without {name!r}", f"no {missing[name]}")
        self.names = [
            name for name in METRICS if name not in missing and (not chosen or name in chosen)
        ]
        self.chosen = bool(chosen)
        self.left_out = {} if chosen else {name: f"no {what}" for name, what in missing.items()}
        if features is None:
            features = default_features(training, data, seed=seed)
        self.extractor = features
        rows = torch.randperm(len(data), generator=generator(seed, "reference"))[: self.n]
        reference = data.subset(rows.sort().values)
        self.reference, self.features = reference, extract(features, reference)
        self.training, self.known, self.known_features = training, reference, self.features
        if training is not None:
            self.known, self.known_features = training, extract(features, training)
        self.protocol = {
            "data": f"{data.name}, {self.n} of {len(data)} images {_by(self.shape)}",
            "training": "none" if training is None else f"{training.name}, {len(training)} images",
            "features": describe(features),
            "width": self.features.shape[1],
            "n_samples": self.n,
            "rounding": "8 bits, no resizing",
            "seed": seed,
        }

    def __call__(
        self, batch: torch.Tensor
    ) -> tuple[dict[str, float], dict[str, list[float]], torch.Tensor]:
        """Return metrics, PRD curve, and the known images nearest to the first of the batch."""
        ours, theirs = extract(self.extractor, batch), self.features
        found: dict[str, float] = {}
        curve: dict[str, list[float]] = {}

        def prd() -> tuple[float, float]:
            precision, recall = precision_recall.prd_curve(ours, theirs, seed=self.seed)
            every = slice(None, None, 10)  # 101 of 1001 points draw the same curve
            curve.update(precision=precision[every].tolist(), recall=recall[every].tolist())
            return precision_recall.prd_scores(precision, recall)

        def classes() -> float:  # of both sides as the classifier sees them: its errors cancel
            assert isinstance(self.extractor, Classifier)
            ours_seen, theirs_seen = (self.extractor.predict_from(x) for x in (ours, theirs))
            count = len(self.extractor.classes_)
            return formulas.class_divergence(ours_seen, theirs_seen, classes=count)

        work: dict[tuple[str, ...], Callable[[], Any]] = {
            ("fd",): lambda: formulas.frechet_distance(ours, theirs),
            ("kid",): lambda: formulas.kernel_distance(ours, theirs),
            ("precision", "recall", "density", "coverage"): lambda: precision_recall.prdc(
                ours, theirs
            ).values(),
            ("sliced",): lambda: formulas.sliced_wasserstein(ours, theirs, seed=self.seed),
            ("memorisation", "copied"): lambda: formulas.memorisation(
                ours, self.known_features, theirs
            ).values(),
            ("classes",): classes,
            ("f8", "f1_8"): prd,
        }
        for names, measured in work.items():
            if not set(names) & set(self.names):
                continue
            try:
                value = measured()
            except ValueError as error:
                if self.chosen:
                    missing = ", ".join(name for name in names if name in self.names)
                    must = f"be computable of {self.n} images"
                    raise _check.fail("metrics", must, f"{missing}: {error}") from error
                self.left_out = dict.fromkeys(names, str(error)) | self.left_out
                continue
            found |= zip(names, value if len(names) > 1 else (value,), strict=True)
        _, rows = nearest(ours[:_SHOWN], self.known_features)
        alike = to_uint8(self.known[rows[:, 0]]).cpu()
        return {name: found[name] for name in self.names if name in found}, curve, alike


def default_features(
    training: Dataset | None, reference: Dataset, *, seed: int
) -> nn.Module | Classifier:
    """Return what measures if nothing is given: a classifier where there are labels, or pixels."""
    if training is None or training.labels is None:
        _LOG.warning("no labelled training images: measuring by small pixels, a last resort")
        return Pixels()
    _LOG.info("training a classifier of %s to measure with", training.name)
    # Narrow enough that the reference holds several times more images than features.
    width = max(8, min(128, len(reference) // 10))
    return Classifier(width=width, seed=seed).fit(training, reference)


def _image_shape(name: str, data: Dataset) -> tuple[int, int, int]:
    if not isinstance(data, Dataset) or len(data.shape) != 3:
        got = f"rows of shape {data.shape}" if isinstance(data, Dataset) else type(data).__name__
        raise _check.fail(name, "be a Dataset of images", got, "aeot.tensors makes one of an array")
    return data.shape


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(edge) for edge in shape)
