"""The command `aeot fit`: one model fitted on one data set, in a run directory.

It holds ``config.yaml`` (the options, to be used again with ``--config``), ``environment.json``,
``log.jsonl`` (one line a record), ``model/``, ``pictures/*.png`` and, at last, ``summary.json``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aeot import _check, _environment, _loop, _ranks
from aeot._rng import generator
from aeot.commands.directory import RunDirectory, passed_over
from aeot.data import Dataset, dataset, images, tensors
from aeot.data.named import NAMES
from aeot.data.stored import StoredRows
from aeot.models.aeot import AEOT
from aeot.plotting.runs import draw_codes, draw_run

_LOG = logging.getLogger(__name__)
_DRAWN = 100  # samples of the finished model, for its pictures
_HELD = 1 << 29  # bytes of images that are held in memory
_MEASURED = 2000  # rows that their variance is measured on
_UNTRAINED = 0.5  # of the variance: an error of more is said to be one
_TIMED = 10  # steps, after which it is said how long training will take


def open_data(
    data: str,
    *,
    split: str = "train",
    size: int | None = None,
    root: str | None = None,
    download: bool = False,
    strict: bool = False,
    white: float | None = None,
    max_pixels: int | None = None,
    store: Path | None = None,
) -> Dataset:
    """Open what a user named: a published set, a folder of images or a NumPy file.

    Args:
        data: One of the names `aeot.dataset` knows, a folder, or a .npy file: images as bytes or
            in [-1, 1], or vectors (n, d).
        split: "train" or "test", of a published set.
        size: Height and width of the images; None keeps a published set's own, and makes those
            of a folder 64.
        root: Where the published sets lie.
        download: Let a missing published set be fetched.
        strict: Let no file of a folder be skipped.
        white: What white is in a folder's floats and integers of 32 bits.
        max_pixels: Files of a folder with more are skipped.
        store: A new file for the images of a folder that would take more than half a GiB of memory.

    Returns:
        The data.

    Raises:
        ValueError: If it is none of these, or damaged, or an option is of another kind of data.

    Example:
        >>> open_data("digits").shape
        (1, 28, 28)
    """
    of_set, of_folder = "unless data is a published set", "unless data is a folder of images"
    published: dict[str, Any] = {"root": (root, None), "download": (download, False)}
    folder: dict[str, Any] = {"strict": (strict, False), "white": (white, None)}
    folder["max_pixels"] = max_pixels, None
    if data in NAMES:
        _check.unused(of_folder, **folder)
        return dataset(data, root, split=split, size=size, download=download)
    path = _check.path("data", data)
    if path.is_dir():
        _check.unused(of_set, **published)
        given: dict[str, Any] = {k: v for k, (v, default) in folder.items() if v != default}
        files = sum(len(names) for _, _, names in os.walk(path))
        if 3 * files * (64 if size is None else size) ** 2 > _HELD:
            given["store"] = store
        with _check.renamed("folder", "data"):
            return images(path, size=64 if size is None else size, **given)
    if path.is_file() and path.suffix == ".npy":
        _check.unused(of_set, **published)
        _check.unused(of_folder, **folder)
        _check.unused(f"{of_folder} or a published set", size=(size, None))
        if path.stat().st_size > _HELD:
            with contextlib.suppress(ValueError):  # what is no images is read whole
                return Dataset(StoredRows(path), path.stem)
        with _check.renamed(path.stem, "data"):
            return tensors(_array("data", path), name=path.stem)
    names = ", ".join(NAMES)
    got = f"{data!r}, which " + ("is another file" if path.exists() else "does not exist")
    way_out = _check.meant(data, NAMES) or "aeot doctor lists the published sets found here"
    must = f"be one of {names}, a folder of images or a .npy file"
    raise _check.fail("data", must, got, way_out)


class Summary(dict):
    """What came of a run: plain values by name, as in summary.json; printed, plain lines.

    Args:
        values: The values; none where another process did the work.
        path: The run directory.
    """

    def __init__(self, values: dict[str, Any] | None = None, path: Path | None = None) -> None:
        super().__init__(values or {})
        self.path = path

    def __str__(self) -> str:
        if not self:
            return ""
        losses, certificate, seconds = (
            self[name] for name in ("reconstruction", "certificate", "seconds")
        )
        merged, drawn, near = self["merged"], self["sampled"], self["nearest"]
        errors = [f"training {losses['train_joint']:.4f} -> {losses['train']:.4f}"]
        if "held_out" in losses:
            errors.append(f"held out {losses['held_out_joint']:.4f} -> {losses['held_out']:.4f}")
        far = f"median {near['median']:.3f}, smallest {near['smallest']:.3f}"
        if "median_held_out" in near:
            far += f"; of held-out rows {near['median_held_out']:.3f}"
        shape = "x".join(map(str, self["shape"]))
        state = "converged" if certificate["converged"] else "NOT CONVERGED"
        parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        lines = {
            "data": f"{self['data']}: {self['rows']} rows of {shape}",
            "latent size": str(self["latent_dim"]),
            "duplicates": f"{merged['images']} equal rows, {merged['codes']} equal codes merged",
            "error": "; ".join(errors) + " (mean squared; before -> after refining the decoder)",
            **({"warning": told} if (told := _untrained(losses, self.get("variance"))) else {}),
            **({"sharpening": _sharpened(self["sharpening"])} if self.get("sharpening") else {}),
            "transport": f"{state}: {certificate['message']}",
            "singular set": f"{self['singular_facets']} facets cut, {_modes(self['modes'])}",
            "acceptance": f"{drawn['acceptance']:.1%} of the points drawn for {_DRAWN} samples",
            "nearest": f"{far} (RMS distance of the samples to the training data)",
            "seconds": f"{sum(seconds.values()):.0f}: {parts}",
            "memory": f"{self['peak_memory_gib']:.2f} GiB at the peak",
            "files": f"{self.path}: pictures, model, summary.json, log.jsonl, config.yaml",
            "next": f"aeot sample {self.path}; aeot report {self.path}; aeot runs",
        }
        if "report" in self:
            lines["jump"] = self["jump"]
            lines["report"] = f"{self['report']}: open it in a browser"
        return "\n".join(f"{name:<13}{text}" for name, text in lines.items())


def _untrained(losses: dict[str, float], variance: float | None) -> str:
    """Say that codes tell little of the rows, where the error is near their variance."""
    share = losses.get("held_out", losses["train"]) / variance if variance else 0.0
    if share < _UNTRAINED:
        return ""
    told = f"the error is {share:.0%} of the data's variance, that of one answer for all rows"
    return f"{told}: train longer (--steps) or with a larger --latent_dim"


def _variance(data: Dataset, seed: int) -> float:
    """Return the mean squared error of the mean row, for images in [0, 1] units."""
    most = max(2, min(_MEASURED, 2**23 // math.prod(data.shape)))  # bounds the memory
    some = torch.randperm(len(data), generator=generator(seed, "variance"))[:most]
    rows = data.subset(some.sort().values)[:].double()
    return float((rows - rows.mean(0)).square().mean()) * (0.25 if rows.ndim == 4 else 1.0)


def _modes(count: int) -> str:
    return f"{count} mode{'s' * (count != 1)} left"


def _sharpened(did: dict[str, Any]) -> str:
    (before, after), (flat, flat_after) = did["error"], did["flat_error"]
    told = f"error {before:.4f} -> {after:.4f}, in flat areas {flat:.5f} -> {flat_after:.5f}"
    return f"{told}; {did['limited']:.0%} of the frequencies at the limit of the gain"


def fit(
    model: AEOT,
    data: str = "digits",
    *,
    out: str | None = None,
    steps: int | None = None,
    rows: int | None = None,
    embedding: bool = False,
    masses: str | None = None,
    size: int | None = None,
    root: str | None = None,
    download: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    white: float | None = None,
    max_pixels: int | None = None,
) -> Summary:
    """Fit a model, draw from it, and write a run directory.

    A run that was stopped goes on where it was when it is started again with the same options.

    Args:
        model: The estimator, not fitted yet.
        data: What to learn: digits, mnist, fashion-mnist, cifar10, celeba, a folder of images, or a
            .npy file of images or of vectors (rows, numbers).
        out: The run directory; by default runs/ with a name that says data, latent size and seed.
        steps: Training steps of the autoencoder in all; by default 48 passes over the data, at
            least 2400 steps (24 and 1200 for other networks than "residual"). Fewer are quicker
            and blurrier.
        rows: Learn from so many rows, drawn by the seed, instead of all; the rest is not used.
        embedding: Draw the codes in the plane by t-SNE, too, in pictures/embedding.png; it takes
            some ten seconds.
        masses: A .npy file with one number for each row of the data, summing to 1: how often it
            shall come; by default all equally often.
        size: Height and width in pixels; by default a published set's own, and 64 for a folder.
            Twice the size takes about four times as long.
        root: Folder where the published sets lie; not for data of your own.
        download: Fetch a missing published set from the network; without it nothing is.
        overwrite: Replace the run that the directory holds; refused if it holds other files too.
        strict: Refuse a folder in which a file cannot be read, instead of skipping the file.
        white: What white is in a folder's images of floats or of 32 bits, such as 4095 for 12 bits;
            by default found from the brightest.
        max_pixels: Skip files of a folder with more pixels than this; by default some 67 million,
            about a GiB while one is read.

    Returns:
        The summary, as written to summary.json; printed, it is plain lines.

    Raises:
        ValueError: If anything given is unusable; then nothing was written.
    """
    usual = f"runs/{Path(data).stem}-z{model.latent_dim}-seed{model.seed}"
    path = _check.path("out", usual if out is None else out)
    options = {"data": data, "steps": steps, "masses": masses, "size": size, "root": root}
    limits: dict[str, Any] = {"white": white, "max_pixels": max_pixels}
    if rows is not None:
        limits["rows"] = _check.integer("rows", rows, minimum=2)
    options |= {name: value for name, value in limits.items() if value is not None}
    kept = {**options, "out": str(path), **model.arguments()}
    del kept["autoencoder"]  # no option
    limits |= {"download": download, "strict": strict}
    with _ranks.launched(), _ranks.together("aeot fit"):
        if not _ranks.is_writer():
            if _ranks.size() > 1:
                if download:
                    _ranks.pause()  # until it is there
                chosen = _read(path.absolute().parent, options, model.seed, **limits)
                _learn(model, chosen, path / "checkpoint", None, steps)
            return Summary()
        with RunDirectory(path, kept, last="summary.json", overwrite=overwrite) as run:
            begun = time.perf_counter()
            chosen = _read(path.absolute().parent, options, model.seed, **limits)
            if download:
                _ranks.pause()
            if overwrite:  # else its training would go on
                shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
            read = time.perf_counter() - begun
            return run_fit(model, chosen, run, steps, read, embedding=embedding)


def run_fit(
    model: AEOT,
    rows: tuple[Dataset, Dataset, torch.Tensor | None],
    run: RunDirectory,
    steps: int | None,
    read: float,
    *,
    embedding: bool = False,
) -> Summary:
    """Fit, draw and write what `fit` says.

    Args:
        model: The estimator, not fitted yet.
        rows: What to fit to, what to keep from it, and how often each row shall come.
        run: The run directory, entered.
        steps: Training steps of the autoencoder; None: the model chooses.
        read: Seconds that reading the data took.
        embedding: Whether to draw the codes in the plane.

    Returns:
        The summary.
    """
    losses = _learn(model, rows, run.path / "checkpoint", run, steps)
    with _ranks.alone():
        return _written(model, rows, run, losses, read, embedding=embedding)


def _learn(
    model: AEOT,
    rows: tuple[Dataset, Dataset, torch.Tensor | None],
    place: Path,
    run: RunDirectory | None,
    steps: int | None,
) -> list[tuple[int, float]]:
    """Fit, together with other ranks if there are; return the losses by step.

    Args:
        model: The estimator, not fitted yet.
        rows: See `run_fit`.
        place: Where checkpoints are.
        run: The run directory; None where another rank writes.
        steps: Training steps of the autoencoder; None: the model chooses.
    """
    training, held_out, nu = rows
    beside = held_out if len(held_out) else 0.0
    model._classes(training, None)  # what has no classes is refused before training, not after it
    if run is None:
        model.fit_autoencoder(training, steps=steps, held_out=beside, checkpoint=place)
        model.fit_transport(training, nu, checkpoint=place / "transport")
        return []
    losses: list[tuple[int, float]] = []
    clock = [time.perf_counter()]  # of the first steps, to foretell the rest

    def on_step(step: int, record: dict[str, float]) -> None:
        losses.append((step, record["loss"]))
        if len(losses) == 1:
            _LOG.info("%s: %s", training.name, _split_told(training, held_out))
        if len(clock) <= _TIMED:
            clock.append(time.perf_counter())
            planned = model.planned_steps(len(training), training.shape) if steps is None else steps
            if len(clock) > _TIMED and planned > step:
                pace = statistics.median(b - a for a, b in pairwise(clock))
                foretold = _loop.duration(pace * (planned - step))
                told = "training: %d steps, about %s; then the transport of its codes"
                _LOG.info(told, planned, foretold)
        run.begin()
        if not (run.path / "environment.json").is_file():
            run.write("environment.json", _environment.environment(model.device or "auto"))

    def on_solver_step(record: dict[str, Any]) -> None:
        run.log("transport", record)

    model.fit_autoencoder(
        training,
        steps=steps,
        held_out=beside,
        checkpoint=place,
        log=run.path / "log.jsonl",
        on_step=on_step,
    )
    model.fit_transport(training, nu, checkpoint=place / "transport", on_step=on_solver_step)
    if model.certificate_["method"] == "exact":  # reports all its steps at the end
        for record in model.history_["transport"]:
            run.log("transport", record)
    return losses


def _written(
    model: AEOT,
    rows: tuple[Dataset, Dataset, torch.Tensor | None],
    run: RunDirectory,
    losses: list[tuple[int, float]],
    read: float,
    *,
    embedding: bool,
) -> Summary:
    """Draw and write what `fit` says of a fitted model."""
    training, held_out, _ = rows
    begun = time.perf_counter()
    generated = model.sample(_DRAWN, seed=model.seed)
    sampled = time.perf_counter() - begun
    model.save(run.path / "model", overwrite=True)
    near = draw_run(run.path / "pictures", model, training, held_out, generated, losses)
    if embedding:
        draw_codes(run.path / "pictures" / "embedding.png", model, training)
    summary: dict[str, Any] = {"data": training.name, "rows": len(training)}
    summary |= {"held_out_rows": len(held_out), "shape": list(training.shape)}
    summary |= passed_over(training)
    summary |= {"latent_dim": model.latent_dim, **model.summary()}
    summary["variance"] = _variance(training, model.seed)
    summary["seconds"] = {"reading": read, **summary["seconds"], "sampling": sampled}
    summary["seconds"]["pictures"] = time.perf_counter() - begun - sampled
    summary |= {"nearest": near, "peak_memory_gib": _environment.peak_memory()}
    run.write("summary.json", summary)
    shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
    return Summary(summary, run.path)


def _split_told(training: Dataset, held_out: Dataset) -> str:
    """Say which rows are kept from training, and what for."""
    if not len(held_out):
        return f"{len(training)} rows to learn from; none are kept out, there are too few"
    kept = f"{len(held_out)} others are kept out, to measure with"
    return f"{len(training)} rows to learn from; {kept}"


def _read(
    folder: Path,
    options: dict[str, Any],
    seed: int,
    **how: Any,  # noqa: ANN401 - of `open_data`
) -> tuple[Dataset, Dataset, torch.Tensor | None]:
    """Return what `rows_of_run` does, what memory does not hold in an open file without a name."""
    beside = folder if folder.is_dir() else None
    with tempfile.TemporaryDirectory(
        prefix=".images-", dir=beside, ignore_cleanup_errors=True
    ) as place:
        return rows_of_run(options, seed, store=Path(place) / "images.npy", **how)


def rows_of_run(
    options: dict[str, Any],
    seed: int,
    *,
    rows: int | None = None,
    **how: Any,  # noqa: ANN401 - of `open_data`
) -> tuple[Dataset, Dataset, torch.Tensor | None]:
    """Return what to fit to, what to keep from it, and the masses."""
    training, held_out, nu = _all_rows(options, seed, **how)
    if rows is None:
        return training, held_out, nu
    if rows > len(training):
        must = f"be at most {len(training)}, the rows to learn from"
        raise _check.fail("rows", must, rows, "leave it out to use all")
    order = torch.randperm(len(training), generator=generator(seed, "subset of rows"))
    kept = order[:rows].sort().values
    return training.subset(kept), held_out, None if nu is None else nu[kept] / nu[kept].sum()


def _all_rows(
    options: dict[str, Any],
    seed: int,
    **how: Any,  # noqa: ANN401 - of `open_data`
) -> tuple[Dataset, Dataset, torch.Tensor | None]:
    where: dict[str, Any] = {"size": options["size"], "root": options["root"], **how}
    training = open_data(options["data"], **where)
    nu = None
    if options["masses"] is not None:
        nu = _check.masses(_array("masses", Path(options["masses"])), len(training))
    if options["data"] in NAMES:
        return training, open_data(options["data"], split="test", **where), nu
    if len(training) < 2:
        raise _check.fail("data", "hold at least 2 rows", str(len(training)))
    kept, apart = split_rows(len(training), seed)
    if nu is not None:
        nu = nu[kept] / nu[kept].sum()
    return training.subset(kept), training.subset(apart), nu


def split_rows(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of n rows of one's own data a run learns from, and which it keeps out."""
    count = min(n // 10, 2000)
    order = torch.randperm(n, generator=generator(seed, "held out rows"))
    return order[count:].sort().values, order[:count]


def _array(name: str, path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as error:  # what a damaged header can say ends in many ways
        got = f"{path}: {error or type(error).__name__}"
        raise _check.fail(name, "be a NumPy file of numbers", got) from error
    if not isinstance(found, np.ndarray):
        got, way_out = f"{path}, an archive", "save one array with numpy.save"
        raise _check.fail(name, "be a NumPy file of numbers", got, way_out)
    return found
