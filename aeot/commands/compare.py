"""The commands ``aeot compare`` and ``aeot report``."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import aeot
from aeot import _check, _io
from aeot.commands import plans
from aeot.commands.fit import open_data
from aeot.comparison import budget
from aeot.comparison.compare import compare as _compare
from aeot.comparison.compare import default_features
from aeot.comparison.contestants import opened
from aeot.comparison.result import Comparison, check_metrics
from aeot.data import Dataset
from aeot.data.named import NAMES
from aeot.features import Classifier, extract
from aeot.models.aeot import AEOT
from aeot.plotting import comparison as pictures
from aeot.report.build import write_page

_LOG = logging.getLogger(__name__)


def compare(
    models: list[str],
    *,
    data: str = "digits",
    seconds: float | None = None,
    images_seen: int | None = None,
    seeds: int = 1,
    repeats: int = 1,
    n_samples: int | None = None,
    metrics: list[str] | None = None,
    features: str | None = None,
    latent_dim: int = 64,
    size: int | None = None,
    root: str | None = None,
    out: str = "comparison",
    seed: int = 0,
) -> str:
    """Train generators under one budget, measure them under one protocol, and report.

    Everything is kept in `out`: the tables (comparison.json, comparison.md), the figures, the
    trained models, the classifier that was trained to measure them, and report.html. A comparison
    that was interrupted goes on where it stopped when the same command is given again.

    Args:
        models: What to compare: names of classes to be trained here (AEOT, WGANGP, ...), run
            directories, saved models or folders of images; label=thing names it, where a label has
            no "=" in it.
        data: What to train on and compare with, as in aeot fit. The reference is the test part
            of a published set; of other data a fifth is kept out.
        seconds: Wall-clock budget of each training; 120 if neither it nor images_seen is given.
        images_seen: Budget in training images instead.
        seeds: Trainings of each class, for standard errors.
        repeats: Sets of samples of each model.
        n_samples: Images on either side; by default as many as there are, at most 10000.
        metrics: Which, as in --metrics fd recall; by default all that can be computed.
        features: A saved classifier to measure with; by default one is trained.
        latent_dim: Latent size of the trained models.
        size: Height and width of the images.
        root: Where published data lie.
        out: Where everything is kept.
        seed: Of everything random.

    Returns:
        The tables, and where everything is.

    Raises:
        ValueError: If anything given is unusable; then nothing was written.
    """
    check_metrics(metrics)
    for name, value in {"seeds": seeds, "repeats": repeats, "latent_dim": latent_dim}.items():
        _check.integer(name, value)
    if images_seen is None:
        limit = {"seconds": _check.real("seconds", 120.0 if seconds is None else seconds, above=0)}
    elif seconds is not None:
        got = f"{seconds:g}, and {images_seen} images_seen"
        raise _check.fail("seconds", "be the only budget", got, "leave one of them out")
    else:
        limit = {"images_seen": _check.integer("images_seen", images_seen)}
    plan = plans.planned(models)
    training, reference = _data(data, size, root, seed)
    options = {"data": data, **limit, "latent_dim": latent_dim, "size": size, "seed": seed}
    options["images"] = plans.digest(training, reference)
    if n_samples is not None:
        _check.integer("n_samples", n_samples)
        if n_samples > len(reference):
            got, way_out = str(len(reference)), f"pass n_samples={len(reference)} or less"
            raise _check.fail(
                "data", f"keep {n_samples} images apart to compare with", got, way_out
            )
    entries: dict[str, Any] = {k: v for k, v in plan.items() if not isinstance(v, type)}
    if entries:
        entries = opened(entries, reference, n_samples)
    plans.rehearse(plan, training, latent_dim, images_seen)
    folder = Path(out).expanduser().absolute()
    empty = folder.is_dir()
    fresh = plans.begin(folder, options)
    plans.check_labels(plan, folder)
    plans.check_kept(plan, folder, reference, n_samples, range(seed, seed + seeds))
    try:
        extractor = _extractor(features, training, reference, folder / "classifier", seed)
        if extractor is not None:
            extract(extractor, reference.subset(slice(2)))  # fits images of this size
        if metrics or n_samples:  # what cannot be measured is said before training
            some = training.subset(slice(n_samples or min(10_000, len(reference))))
            real = {"training images, as a trial": some}
            how = {"metrics": metrics, "features": extractor, "training": training, "seed": seed}
            _compare(real, reference, n_samples=n_samples, **how)
    except ValueError:
        if fresh:
            shutil.rmtree(folder)
            if empty:
                folder.mkdir()
        raise
    facts: dict[str, dict[str, Any]] = {}
    for label, thing in plan.items():
        if not isinstance(thing, type):
            continue
        places = [folder / "models" / f"{label}-{seed + k}" for k in range(seeds)]
        try:
            costs = [
                _fitted(plans.untrained(thing, latent_dim, seed + k), training, limit, place)
                for k, place in enumerate(places)
            ]
        except KeyboardInterrupt:
            _LOG.warning("the models finished are kept: the same command goes on with %s", label)
            raise
        entries[label], facts[label] = places, _mean(costs)
    entries = {label: entries[label] for label in plan}
    found = _compare(
        entries,
        reference,
        metrics=metrics,
        features=extractor,
        training=training,
        n_samples=n_samples,
        repeats=repeats,
        facts=facts,
        seed=seed,
    )
    if facts:
        told = f"{images_seen} images" if images_seen else f"{limit['seconds']:g} s of wall clock"
        found.protocol["budget"] = f"{told} for each training; what it took is in its row of costs"
    found.save(folder)
    for old in folder.glob("*.png"):  # of an earlier call, perhaps of other models
        old.unlink()
    if any(row["curve"] for row in found.rows):
        pictures.prd_curves(found, path=folder / "prd.png")
    if {"f8", "f1_8"} <= set(found[next(iter(found))]):
        pictures.precision_recall(found, path=folder / "precision_recall.png")
    pictures.sample_rows(found, path=folder / "samples.png")
    write_page({f"comparison on {training.name}": found}, folder / "report.html")
    return f"{found.markdown()}\ntables, figures, models and report.html are in {folder}"


def report(
    runs: list[str],
    *,
    out: str = "report.html",
    data: str | None = None,
    picture: str = "tsne",
    shown: int = 900,
) -> str:
    """Write one self-contained HTML page about finished runs and comparisons.

    Args:
        runs: Run directories, saved `AEOT` models and directories of comparisons.
        out: The file to write; replaced if it is there.
        data: Training data of saved models, as in aeot fit; runs know theirs.
        picture: How codes are drawn in the plane: "tsne" or "pca".
        shown: Codes in the picture.

    Returns:
        Where the page is.

    Raises:
        ValueError: If one of `runs` is neither, or `out` cannot be written.
    """
    _check.integer("shown", shown)
    target = Path(out).expanduser()
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise _check.fail("out", "be a file in a folder that exists", str(target))
    sources: dict[str, AEOT | Comparison] = {}
    training: dict[str, Dataset] = {}
    for run in runs:
        source, rows = _read(Path(run).expanduser(), data)
        name = _unused(Path(run).absolute().name, sources)
        sources[name] = source
        if rows is not None:
            training[name] = rows
    write_page(sources, target, training=training, picture=picture, shown=shown)
    return f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)"


# ---- compare


def _data(data: str, size: int | None, root: str | None, seed: int) -> tuple[Dataset, Dataset]:
    every = open_data(data, size=size, root=root)
    if len(every.shape) != 3:
        raise _check.fail("data", "be images", f"rows of shape {every.shape}")
    if data in NAMES:
        return every, open_data(data, split="test", size=size, root=root)
    if len(every) < 10:
        raise _check.fail("data", "hold at least 10 images", str(len(every)))
    order = aeot.data.indices(len(every), len(every), seed=seed, key="reference")
    rows, cut = next(order), len(every) // 5
    return every.subset(rows[cut:]), every.subset(rows[:cut])


def _extractor(
    features: str | None, training: Dataset, reference: Dataset, place: Path, seed: int
) -> Classifier | None:
    if features is not None:
        return Classifier.load(features)
    if training.labels is None:
        return None
    if (place / "manifest.json").is_file():
        return Classifier.load(place)
    net = default_features(training, reference, seed=seed)
    net.save(place)
    return net


def _fitted(
    model: Any,  # noqa: ANN401 - an estimator
    training: Dataset,
    limit: dict[str, Any],
    place: Path,
) -> dict[str, Any]:
    """Train within the budget, keep the model and return its costs, unless that was done before.

    The model is let go, so that the memory of the next does not hold it, too.
    """
    costs = place.parent / f"{place.name}.json"
    if costs.is_file():
        return _io.read_json(costs)
    _LOG.info("training %s, %s", place.name, limit)
    cost = budget.train(model, training, **limit)
    place.parent.mkdir(parents=True, exist_ok=True)
    model.save(place)
    cost["class"] = type(model).__name__
    _io.write_text(costs, json.dumps(cost) + "\n")
    return cost


def _mean(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Average what the trainings of one model cost; keep whole numbers whole."""
    first = costs[0]
    numbers = {k: v for k, v in first.items() if isinstance(v, (int, float))}
    means = {k: sum(c[k] for c in costs) / len(costs) for k in numbers}
    return {**first, **{k: round(v) if isinstance(first[k], int) else v for k, v in means.items()}}


# ---- report


def _unused(name: str, taken: dict[str, Any]) -> str:
    return name if name not in taken else _unused(f"{name}'", taken)


def _read(path: Path, data: str | None) -> tuple[AEOT | Comparison, Dataset | None]:
    """Open a run, a saved model or a comparison, and the training data if they can be found."""
    if (path / "data" / "manifest.json").is_file():
        return Comparison.load(path), None
    if not any((p / "manifest.json").is_file() for p in (path, path / "model")):
        got = f"{path}, which " + ("holds neither" if path.is_dir() else "is no directory")
        raise _check.fail("runs", "be runs, saved models or comparisons", got)
    model = AEOT.load(path)
    options = _options(path / "config.yaml")
    name = data or options.get("data")
    if name is None:
        _LOG.warning("%s does not say what it was fitted to; pass --data for real images", path)
        return model, None
    try:
        rows = open_data(name, size=options.get("size"), root=options.get("root"))
    except ValueError as error:
        _LOG.warning("without the training data of %s: %s", path, error)
        return model, None
    return model, rows


def _options(path: Path) -> dict[str, Any]:
    """Read ``name: value`` lines whose values are JSON, as runs write them."""
    if not path.is_file():
        return {}
    pairs = (line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
    return {name: json.loads(value) for name, value in pairs}
