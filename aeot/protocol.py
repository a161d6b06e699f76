"""Compare generators under one protocol, whatever they are and however they were trained."""

from __future__ import annotations

import inspect
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import aeot
from aeot import _check, _environment, metrics, precision_recall
from aeot._rng import generator, stream_seed
from aeot.budget import Peak
from aeot.comparison import METRICS, Comparison
from aeot.data import Dataset, images, tensors, to_uint8
from aeot.features import Classifier, Pixels, describe, extract

_LOG = logging.getLogger(__name__)
_SHOWN = 64  # samples kept for pictures


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
            ``encode`` and ``decode`` but no ``sample``, the reconstructions are measured.
        data: Reference images, which no model was trained on.
        metrics: Names out of `aeot.comparison.METRICS`; None: all that can be computed.
        features: What measures images, a fitted `Classifier` or a module; see `aeot.features`.
            None: a classifier trained on `training` if that has labels, else small pixels.
        training: The images the models were trained on: for memorisation, the row of real images
            and the nearest training image of each sample shown.
        n_samples: Images on either side; None: as many as `data` has, at most 10 000.
        repeats: Sets of samples per model. With several sets (of one or of several models) the
            standard error of the mean is given.
        facts: Name -> further facts for the table of costs, such as ``train_seconds``.
        seed: Of all draws.

    Returns:
        A mapping of model to metric to mean, with errors, costs and pictures.

    Raises:
        ValueError: If a metric is unknown or cannot be computed, there are too few images, or a
            model returns something else than images like `data`.

    Example:
        >>> import aeot
        >>> train, test = aeot.dataset("digits"), aeot.dataset("digits", split="test")
        >>> noisy = lambda n, seed: (train[:n] + 0.3 * torch.randn(train[:n].shape)).clamp(-1, 1)
        >>> found = compare({"copies": train, "noisy copies": noisy}, test,
        ...                 features=aeot.features.Pixels(4), metrics=["fd", "recall"])
        >>> found["copies"]["fd"] < found["noisy copies"]["fd"]
        True
    """
    judge = _Judge(data, metrics, features, training, n_samples, seed)
    repeats = _check.integer("repeats", repeats)
    if not models:
        raise _check.fail("models", "name at least one generator", "none")
    protocol = {**judge.protocol, "repeats": repeats}
    result = Comparison([], protocol, _environment.environment(data.values.device))
    if training is not None and len(training) >= judge.n:
        _add(result, judge, "real training images", "real", [training], repeats, {})
    for name, entry in models.items():
        group = list(entry) if isinstance(entry, (list, tuple)) else [entry]
        group = [_opened(name, model, data) for model in group]
        kind = type(group[0]).__name__
        extra = {**_size(group[0]), **(facts or {}).get(name, {})}
        _LOG.info("measuring %s", name)
        if all(_samples(model) for model in group):
            _add(result, judge, name, kind, group, repeats, extra)
            extra = {}
        if all(_codes(model) for model in group):
            restored = [_Reconstructions(model, data) for model in group]
            _add(result, judge, f"{name}: reconstructions", "reconstructions", restored, 1, extra)
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
    values: dict[str, list[float]] = {}
    seconds, curve = [], None
    memory = Peak()
    for model in group:
        fixed = isinstance(model, Dataset) and len(model) == judge.n  # every set would be the same
        for repeat in range(1 if fixed else repeats):
            begun = time.perf_counter()
            batch = _draw(name, model, judge.n, stream_seed(judge.seed, name, repeat) % 2**31)
            seconds.append(time.perf_counter() - begun)
            if repeat == 0 and "peak_gib" not in facts:
                facts = {**facts, "peak_gib": memory.gib()}
            batch = _checked(name, batch, judge)
            measured, drawn, nearest = judge(batch)
            for metric, value in measured.items():
                values.setdefault(metric, []).append(value)
            if curve is None:
                curve = drawn
                result.shown[name], result.nearest[name] = batch[:_SHOWN].cpu(), nearest
    table = {}
    for metric, found in values.items():
        error = torch.tensor(found).std().item() / math.sqrt(len(found)) if len(found) > 1 else None
        table[metric] = {"mean": sum(found) / len(found), "error": error, "values": found}
    if not isinstance(group[0], Dataset):
        facts = {"sample_seconds": sum(seconds) / len(seconds), **facts}
    facts = {"models": len(group), "sets": len(seconds), **facts}
    row = {"model": name, "kind": kind, "metrics": table, "facts": facts, "curve": curve}
    result.rows.append(row)


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
        self.shape, self.seed = _image_shape("data", data), _check.integer("seed", seed, minimum=0)
        if training is not None and _image_shape("training", training) != self.shape:
            raise _check.fail("training", f"have images of shape {self.shape}", str(training.shape))
        self.n = (
            min(10_000, len(data)) if n_samples is None else _check.integer("n_samples", n_samples)
        )
        if self.n > len(data):
            way_out = f"pass n_samples={len(data)} or less"
            raise _check.fail("data", f"hold {self.n} images", str(len(data)), way_out)
        labelled = (
            (isinstance(features, Classifier) or features is None)
            and data.labels is not None
            and (features is not None or (training is not None and training.labels is not None))
        )
        missing = (
            {}
            if training is not None
            else dict.fromkeys(("memorisation", "copied"), "training images")
        )
        if not labelled:
            missing["classes"] = "labelled data and a Classifier as features"
        for name in chosen or ():
            _check.choice("metrics", name, METRICS)
            if name in missing:
                raise _check.fail("metrics", f"be without {name!r}", f"no {missing[name]}")
        self.names = [
            name for name in METRICS if name not in missing and (not chosen or name in chosen)
        ]
        if features is None:
            features = _default_features(training)
        self.extractor = features
        rows = torch.randperm(len(data), generator=generator(seed, "reference"))[: self.n]
        reference = data.subset(rows.sort().values)
        self.features = extract(features, reference)
        self.labels = reference.labels
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
        ours, theirs, names = extract(self.extractor, batch), self.features, set(self.names)
        found: dict[str, float] = {}
        if "fd" in names:
            found["fd"] = metrics.frechet_distance(ours, theirs)
        if "kid" in names:
            found["kid"] = metrics.kernel_distance(ours, theirs)
        if names & {"precision", "recall", "density", "coverage"}:
            found |= precision_recall.prdc(ours, theirs)
        if "sliced" in names:
            found["sliced"] = metrics.sliced_wasserstein(ours, theirs, seed=self.seed)
        if names & {"memorisation", "copied"}:
            copying = metrics.memorisation(ours, self.known_features, theirs)
            found |= {"memorisation": copying["ratio"], "copied": copying["copied"]}
        if "classes" in names:
            labels = self.extractor.predict_from(ours)
            count = len(self.extractor.classes_)
            found["classes"] = metrics.class_divergence(labels, self.labels.cpu(), classes=count)
        curve = {}
        if names & {"f8", "f1_8"}:
            precision, recall = precision_recall.prd_curve(ours, theirs, seed=self.seed)
            found["f8"], found["f1_8"] = precision_recall.prd_scores(precision, recall)
            every = slice(None, None, 10)  # 101 of 1001 points draw the same curve
            curve = {"precision": precision[every].tolist(), "recall": recall[every].tolist()}
        _, rows = metrics.nearest(ours[:_SHOWN], self.known_features)
        nearest = to_uint8(self.known[rows[:, 0]]).cpu()
        return {name: found[name] for name in self.names}, curve, nearest


def _default_features(training: Dataset | None) -> nn.Module | Classifier:
    if training is None or training.labels is None:
        _LOG.warning("no labelled training images: measuring by small pixels, a last resort")
        return Pixels()
    _LOG.info("training a classifier of %s to measure with", training.name)
    return Classifier().fit(training)


def _image_shape(name: str, data: Dataset) -> tuple[int, int, int]:
    if not isinstance(data, Dataset) or len(data.shape) != 3:
        got = f"rows of shape {data.shape}" if isinstance(data, Dataset) else type(data).__name__
        raise _check.fail(name, "be a Dataset of images", got, "aeot.tensors makes one of an array")
    return data.shape


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(edge) for edge in shape)


class _Reconstructions:
    """Decoded codes of the reference images, in place of samples."""

    def __init__(self, model: Any, data: Dataset) -> None:  # noqa: ANN401
        self.model, self.data = model, data

    def sample(self, n: int, *, seed: int) -> torch.Tensor:
        rows = torch.randperm(len(self.data), generator=generator(seed, "reconstructions"))[:n]
        parts = (self.model.decode(self.model.encode(self.data[part])) for part in rows.split(500))
        return torch.cat([to_uint8(part) for part in parts])


def _samples(model: Any) -> bool:  # noqa: ANN401
    return isinstance(model, Dataset) or hasattr(model, "sample") or callable(model)


def _codes(model: Any) -> bool:  # noqa: ANN401
    return hasattr(model, "encode") and hasattr(model, "decode")


def _opened(name: str, model: Any, data: Dataset) -> Any:  # noqa: ANN401
    """Return a generator or a data set for whatever the caller named."""
    if isinstance(model, (torch.Tensor,)):
        return tensors(model, name=name)
    if not isinstance(model, (str, Path)):
        if _samples(model) or _codes(model):
            return model
        got = f"{type(model).__name__} for {name!r}"
        raise _check.fail("models", "be generators, functions, images or folders", got)
    folder = Path(model)
    for place in (folder, folder / "model"):
        if (place / "manifest.json").is_file():
            kind = json.loads((place / "config.json").read_text()).get("kind")
            if kind not in aeot.__all__:
                raise _check.fail("models", "be generators", f"a saved {kind!r} at {place}")
            return getattr(aeot, kind).load(place)
    return images(folder, size=data.shape[-1], channels=data.shape[0])


def _size(model: Any) -> dict[str, int]:  # noqa: ANN401
    """Count trainable parameters, and the other numbers that a fitted generator keeps."""
    held = [model] if isinstance(model, nn.Module) else _modules(model, depth=2)
    parameters = {id(p): p.numel() for module in held for p in module.parameters()}
    buffers = {id(b): b.numel() for module in held for b in module.buffers()}
    if not held:
        return {}
    return {"parameters": sum(parameters.values()), "stored": sum(buffers.values())}


def _modules(model: Any, depth: int) -> list[nn.Module]:  # noqa: ANN401
    found = []
    for value in vars(model).values() if hasattr(model, "__dict__") else ():
        if isinstance(value, nn.Module):
            found.append(value)
        elif depth > 1 and type(value).__module__.startswith("aeot"):
            found += _modules(value, depth - 1)
    return found


def _draw(name: str, model: Any, n: int, seed: int) -> Any:  # noqa: ANN401
    if isinstance(model, Dataset):
        if len(model) < n:
            way_out = f"pass n_samples={len(model)} or less"
            raise _check.fail(f"models[{name!r}]", f"hold {n} images", str(len(model)), way_out)
        rows = torch.randperm(len(model), generator=generator(seed, "rows"))[:n]
        return model.values[rows] if model.values.dtype == torch.uint8 else model[rows]
    if hasattr(model, "sample"):
        return model.sample(n, seed=seed)
    seeded = "seed" in inspect.signature(model).parameters
    return model(n, seed=seed) if seeded else model(n)


def _checked(name: str, batch: Any, judge: _Judge) -> torch.Tensor:  # noqa: ANN401
    """Return what a model drew as uint8 images, or say what is wrong with it."""
    who = f"samples of {name!r}"
    expected = (judge.n, *judge.shape)
    batch = torch.as_tensor(batch)
    if batch.shape != expected:
        raise _check.fail(who, f"have shape {expected}", str(tuple(batch.shape)))
    if batch.dtype == torch.uint8:
        return batch.cpu()
    batch = _check.array(who, batch)
    if float(batch.abs().max()) > 1.5:
        got = f"values from {float(batch.min()):.3g} to {float(batch.max()):.3g}"
        raise _check.fail(who, "lie in [-1, 1] or be uint8", got)
    if float(batch.min()) >= 0:
        _LOG.warning("%s have no value below 0: black is -1 here, is it 0 there?", who)
    return to_uint8(batch).cpu()
