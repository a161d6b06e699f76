"""The command `aeot compare`: generators trained under one budget and measured alike."""

from __future__ import annotations

import glob
import inspect
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aeot
from aeot import _check, _io, _loop, _ranks
from aeot.commands.directory import RunDirectory, load_model, passed_over, read_options
from aeot.commands.fit import open_data, split_rows
from aeot.comparison import budget
from aeot.comparison.compare import compare as _compare
from aeot.comparison.compare import default_features
from aeot.comparison.contestants import Contestant, check_name, opened
from aeot.comparison.result import Comparison, check_metrics
from aeot.data import Dataset
from aeot.data.named import NAMES
from aeot.features import Classifier, extract
from aeot.plotting import comparison as pictures
from aeot.report.build import write_page

_LOG = logging.getLogger(__name__)
TRAINABLE = (  # the public generators of images
    "AEOT",
    "ALI",
    "BEGAN",
    "ConditionalWGANGP",
    "DRAGAN",
    "GAN",
    "GLANN",
    "GLO",
    "LSGAN",
    "PacGAN",
    "VAE",
    "WGAN",
    "WGANGP",
)
_LONGEST = 200  # a file's name has at most 255 bytes, and more than the label goes into it


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
    latent_dim: int = 128,
    size: int | None = None,
    root: str | None = None,
    out: str = "runs/comparison",
    seed: int = 0,
    strict: bool = False,
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
            of a published set; of other data what the runs named here have kept out, and without
            such runs a fifth.
        seconds: Wall-clock budget of each training; 120 if neither it nor images_seen is given.
            In all it takes classes x seeds x seconds, and some minutes of measuring.
        images_seen: Budget in training images instead: the same result on any machine.
        seeds: Trainings of each class; with 3 or more the tables have standard errors.
        repeats: Sets of samples of each model, for standard errors of runs and saved models.
        n_samples: Images on either side; by default as many as there are, at most 10000. Compare
            numbers of one n_samples only.
        metrics: Which, as in --metrics fd recall; by default all that can be computed.
        features: A saved classifier to measure with; by default one is trained.
        latent_dim: Latent size of the models trained here; runs keep their own.
        size: Height and width of the images in pixels; by default as in aeot fit.
        root: Folder where published data lie; not for data of your own.
        out: Where everything is kept.
        seed: Of everything random; trainings take it and the following ones.
        strict: Refuse data in a folder in which a file cannot be read, instead of skipping it.

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
    with _ranks.launched(), _ranks.together("aeot compare"):
        if not _ranks.is_writer() and _ranks.size() == 1:
            return ""
        with _ranks.alone():
            plan = _planned(models)
            classes = {label: thing for label, thing in plan.items() if isinstance(thing, type)}
            if not classes:
                idle: dict[str, Any] = {"seconds": (seconds, None)}
                idle["images_seen"] = images_seen, None
                usual = inspect.signature(compare).parameters
                trained = {"seeds": seeds, "latent_dim": latent_dim}
                idle |= {name: (value, usual[name].default) for name, value in trained.items()}
                _check.unused("where no class is named to be trained", **idle)
            training, reference = _data(data, size, root, seed, strict, plan)
        folder = _check.path("out", out).absolute() / "models"
        places = {
            label: [folder / f"{label}-{seed + k}" for k in range(seeds)] for label in classes
        }
        jobs = [
            (place, partial(classes[label], latent_dim=latent_dim, seed=seed + k))
            for label, group in places.items()
            for k, place in enumerate(group)
        ]
        if not _ranks.is_writer():
            _train(jobs, training, limit)
            return ""
        with _ranks.alone():
            if n_samples is not None and _check.integer("n_samples", n_samples) > len(reference):
                must = f"keep {n_samples} images apart to compare with"
                way_out = f"pass n_samples={len(reference)} or less"
                raise _check.fail("data", must, str(len(reference)), way_out)
            given = None if features is None else load_model("features", Classifier, features)
            contestants: dict[str, Any] = {k: v for k, v in plan.items() if k not in classes}
            if contestants:
                contestants = opened(contestants, reference, n_samples)
            _rehearse(classes, training, latent_dim, images_seen)
            options = {"data": data, **limit, "latent_dim": latent_dim, "size": size, "seed": seed}
            options["images"] = _digest(training, reference)
            run = RunDirectory(out, options, record="compare.json")
        with run:
            with _ranks.alone():
                _check_labels(plan, folder)
                _check_kept(places, reference, n_samples)
                classifier = run.path / "classifier"
                extractor = given or _extractor(training, reference, classifier, seed)
                if extractor is not None:
                    extract(extractor, reference.subset(slice(2)))  # fits images of this size
                how: dict[str, Any] = {"metrics": metrics, "features": extractor}
                how |= {"training": training, "seed": seed, "n_samples": n_samples}
                if metrics or n_samples:  # what cannot be measured is said before training
                    some = training.subset(slice(n_samples or min(10_000, len(reference))))
                    _compare({"training images, as a trial": some}, reference, **how)
                run.begin()
                if features is None and extractor is not None and not _io.holds_save(classifier):
                    extractor.save(classifier)
            _train(jobs, training, limit)
            with _ranks.alone():
                facts = {
                    label: _mean([_kept(_costs(place)) for place in group])
                    for label, group in places.items()
                }
                for label in plan.keys() - classes.keys():
                    if known := _costs_of_run(Path(plan[label])):
                        facts[label] = known
                contestants = {label: places.get(label, contestants.get(label)) for label in plan}
                found = _compare(contestants, reference, repeats=repeats, facts=facts, **how)
                if classes:
                    told = f"{images_seen} images"
                    if images_seen is None:
                        told = f"{limit['seconds']:g} s of wall clock"
                    told += " for each training; what it took is in its row of costs"
                    found.protocol["budget"] = told
                found.protocol.update(passed_over(training))
                return _reported(found, training.name, run.path)


def _train(
    jobs: Sequence[tuple[Path, Callable[..., Contestant]]],
    training: Dataset,
    limit: dict[str, Any],
) -> None:
    """Train models within the budget, one on each rank at a time.

    Ranks meet between two of them, where one that failed is heard of. The first rank comes when
    all is checked and begun, and the others wait for it.

    Args:
        jobs: Where each is kept, and what makes it.
        training: What it is fitted to.
        limit: The budget of each.
    """
    own = _ranks.rank()
    for first in range(0, len(jobs), _ranks.size()):
        _ranks.pause()
        for place, made in jobs[first + own :][:1]:
            try:
                with warnings.catch_warnings(), _ranks.alone():
                    if own:  # of what ranks share the first alone warns
                        warnings.simplefilter("default", UserWarning)
                    _fitted(made(), training, limit, place)
            except KeyboardInterrupt as error:
                anew = ", trained anew" if "seconds" in limit else ""
                told = "the models finished are kept: the same command goes on with "
                label = place.name.rpartition("-")[0]
                raise _loop.Stopped.of(error, told + label + anew) from None
    _ranks.pause()


def _reported(found: Comparison, data: str, out: Path) -> str:
    """Write tables, figures and page of a comparison; return what is printed.

    Args:
        found: The comparison.
        data: The name of what models were trained on.
        out: The folder.
    """
    found.save(out, overwrite=True)
    for old in out.glob("*.png"):  # of an earlier call, perhaps of other models
        old.unlink()
    if any(row["curve"] for row in found.rows):
        pictures.prd_curves(found, path=out / "prd.png")
    if {"f8", "f1_8"} <= set(found[next(iter(found))]):
        pictures.precision_recall(found, path=out / "precision_recall.png")
    pictures.sample_rows(found, path=out / "samples.png")
    write_page({f"comparison on {data}": found}, out / "report.html")
    where = f"tables, figures, models and report.html are in {out}"
    return f"{found.markdown()}\n{where}\nnext: open {out / 'report.html'}; aeot runs"


def _planned(models: list[str]) -> dict[str, Any]:
    """Return label -> class to be trained, or path."""
    if not models:
        way_out = f"name {', '.join(TRAINABLE[:3])}, ... or a run"
        raise _check.fail("models", "name at least one generator", "none", way_out)
    plan: dict[str, Any] = {}
    for text in models:
        label, equals, thing = text.partition("=")
        thing = str(_check.path("models", thing or text))
        if not equals or _check.path("models", text).exists():
            thing = str(_check.path("models", text))
            label = Path(thing).absolute().name
        if not label or label in (".", "..") or "/" in label or "\\" in label:
            way_out = "write label=thing"
            raise _check.fail("models", "have labels that can name a folder", repr(label), way_out)
        if len(label.encode()) > _LONGEST:
            raise _check.fail("models", f"have labels of at most {_LONGEST} bytes", repr(label))
        check_name(label)
        if label in plan:
            got, way_out = f"{label!r} twice", "write another label=thing"
            raise _check.fail("models", "have different labels", got, way_out)
        if thing in TRAINABLE and Path(thing).exists():
            got, way_out = f"{thing!r}, a class and a path", f"write ./{thing} for the path"
            raise _check.fail("models", "be either", got, way_out)
        if Path(thing).exists():
            plan[label] = thing
        elif thing in TRAINABLE:
            plan[label] = getattr(aeot, thing)
        else:
            got = f"{thing!r}"
            meant = _check.meant(thing, TRAINABLE)
            way_out = f"{meant} classes are {', '.join(TRAINABLE)}".strip()
            raise _check.fail("models", "be classes, or paths that exist", got, way_out)
    return plan


def _data(
    data: str, size: int | None, root: str | None, seed: int, strict: bool, plan: dict[str, Any]
) -> tuple[Dataset, Dataset]:
    """Return what to train on and what to measure on, which no run named has learned from."""
    every = open_data(data, size=size, root=root, strict=strict)
    if len(every.shape) != 3:
        got, way_out = f"rows of shape {every.shape}", "aeot fit takes vectors, too"
        raise _check.fail("data", "be images", got, way_out)
    if data in NAMES:
        return every, open_data(data, split="test", size=size, root=root)
    if len(every) < 10:
        raise _check.fail("data", "hold at least 10 images", str(len(every)))
    seeds = _seeds_of_runs(plan, data, len(every))
    if len(seeds) > 1:
        got = ", ".join(f"{run} of seed {its}" for its, run in seeds.items())
        way_out = "fit them with one --seed, or pass --data that none of them has seen"
        raise _check.fail("models", f"have kept the same images of {data}", got, way_out)
    if seeds:
        kept, apart = split_rows(len(every), next(iter(seeds)))
        return every.subset(kept), every.subset(apart)
    order = aeot.data.indices(len(every), len(every), seed=seed, key="reference")
    rows, cut = next(order), len(every) // 5
    return every.subset(rows[cut:]), every.subset(rows[:cut])


def _seeds_of_runs(plan: dict[str, Any], data: str, n: int) -> dict[int, str]:
    """Return the seeds by which runs in the plan kept some of these n images out, and the runs.

    A model or samples inside a run are of that run.
    """
    seeds: dict[int, str] = {}
    for path in (Path(thing).absolute() for thing in plan.values() if not isinstance(thing, type)):
        run = path if (path / "config.yaml").is_file() else path.parent
        options: dict[str, Any] = read_options(run / "config.yaml") or {}
        used, seed = options.get("data", ""), options.get("seed", "")
        if not (isinstance(used, str) and _io.fits(seed, int)):
            continue
        here = _check.path("data", used)
        if not here.exists() or not here.samefile(_check.path("data", data)):
            continue
        summary: dict[str, Any] = read_options(run / "summary.json") or {}
        counts = [summary.get("rows", ""), summary.get("held_out_rows", "")]
        if options.get("rows") is None and _io.fits(counts, list[int]) and sum(counts) != n:
            must = f"be the {sum(counts)} images that {run.name} was fitted to"
            way_out = "fit it anew, or pass data that it has not seen"
            raise _check.fail("data", must, str(n), way_out)
        seeds[seed] = run.name
    return seeds


def _rehearse(
    classes: dict[str, type], training: Dataset, latent_dim: int, images_seen: int | None
) -> None:
    """Have every class that is to be trained build its networks for a few images."""
    few = training.subset(slice(min(len(training), 64)))
    for label, kind in classes.items():
        model = kind(latent_dim=latent_dim)
        try:
            if images_seen is not None:
                budget.steps(model, training, images_seen)
            fit = getattr(model, "fit_autoencoder", model.fit)
            fit(few, steps=0 if getattr(model, "_open_ended", False) else 2)
        except ValueError as error:
            got = f"{label!r}, {kind.__name__}, which says: {error}"
            raise _check.fail("models", "be trainable on these images", got) from error


def _check_labels(plan: dict[str, Any], folder: Path) -> None:
    """Refuse a label under which an earlier call trained another class."""
    for label, thing in plan.items():
        now = thing.__name__ if isinstance(thing, type) else f"the path {thing}"
        for costs in folder.glob(f"{glob.escape(label)}-*.json"):
            before = _kept(costs)["class"]
            if before != now and costs.stem[len(label) + 1 :].isdigit():
                got = f"{label!r} for {now}, which was {before} before in {folder.parent}"
                way_out = "choose another label or another out"
                raise _check.fail("models", "keep their labels", got, way_out)


def _check_kept(places: dict[str, list[Path]], reference: Dataset, n: int | None) -> None:
    """Refuse models of an earlier call that have been damaged since."""
    for label, place in ((k, p) for k, group in places.items() for p in group):
        costs = _costs(place)
        try:
            if costs.is_file():
                opened({label: place}, reference, n)
        except ValueError as error:
            way_out = f"delete {costs} to have it trained again"
            raise _check.fail("out", "hold whole models", str(error), way_out) from error


def _costs(place: Path) -> Path:
    """The file beside a model that says what it cost; written last."""
    return place.with_name(f"{place.name}.json")


def _kept(costs: Path) -> dict[str, Any]:
    """Return what a training cost, from the file beside its model."""
    found = _io.read_json(costs, dict)
    for name, kind in {"class": str, "train_seconds": float, "images_seen": int}.items():
        if not _io.fits(found.get(name), kind):
            got = f"{costs} with {_check.shown(found.get(name))} as {name}"
            raise _check.fail("out", "hold whole models", got, f"delete {costs}")
    return found


def _digest(*sets: Dataset) -> str:
    """Return a hash of images and labels, to know them again."""
    parts = {f"values {k}": data.values[:] for k, data in enumerate(sets)}
    parts |= {f"labels {k}": data.labels for k, data in enumerate(sets) if data.labels is not None}
    return _io.digest(parts)[:16]


def _extractor(training: Dataset, reference: Dataset, place: Path, seed: int) -> Classifier | None:
    """Return the classifier an earlier call kept, or, with labels, a new one."""
    if training.labels is None:
        return None
    if _io.holds_save(place):
        return Classifier.load(place)
    trained = default_features(training, reference, seed=seed)
    assert isinstance(trained, Classifier)
    return trained


def _fitted(
    model: Contestant,
    training: Dataset,
    limit: dict[str, Any],
    place: Path,
) -> None:
    """Train within the budget and keep the model and its costs, unless that was done before.

    The model is let go, so that the memory of the next does not hold it, too.
    """
    costs = _costs(place)
    if costs.is_file():
        _kept(costs)
        return
    told = ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in limit.items())
    _LOG.info("training %s: %s", place.name, told)
    unfinished = place.with_name(f"{place.name}.checkpoint")
    cost = budget.train(model, training, checkpoint=unfinished, **limit)
    place.parent.mkdir(parents=True, exist_ok=True)
    model.save(place, overwrite=True)
    cost["class"] = type(model).__name__
    _io.write_text(costs, json.dumps(cost) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)


def _costs_of_run(path: Path) -> dict[str, Any]:
    """Return what a run directory says that its training cost, or nothing."""
    summary = read_options(path / "summary.json") or {}
    spent = summary.get("seconds")
    costs: dict[str, Any] = {}
    if _io.fits(spent, dict[str, float]) and spent:
        others = ("reading", "sampling", "pictures")
        costs["train_seconds"] = sum(v for k, v in spent.items() if k not in others)
    if _io.fits(summary.get("peak_memory_gib"), float):
        costs["peak_gib"] = summary["peak_memory_gib"]
    return costs


def _mean(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Average what the trainings of one model cost; keep whole numbers whole."""
    first = costs[0]
    numbers = {k for k in first if all(_io.fits(c.get(k), float) for c in costs)}
    means = {k: sum(c[k] for c in costs) / len(costs) for k in numbers}
    return {**first, **{k: round(v) if isinstance(first[k], int) else v for k, v in means.items()}}
