"""The command `aeot fit`: one model fitted on one data set, in a run directory.

It holds ``config.yaml`` (the options, to be used again with ``--config``), ``environment.json``,
``log.jsonl`` (one line a record), ``model/``, ``pictures/*.png`` and, at last, ``summary.json``.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aeot import _check, _environment
from aeot._rng import generator
from aeot.commands.directory import RunDirectory, passed_over
from aeot.data import Dataset, dataset, images, tensors
from aeot.data.named import NAMES
from aeot.models.aeot import AEOT
from aeot.plotting.runs import draw_run

_DRAWN = 100  # samples of the finished model, for its pictures


def open_data(
    data: str,
    *,
    split: str = "train",
    size: int | None = None,
    root: str | None = None,
    download: bool = False,
    strict: bool = False,
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

    Returns:
        The data.

    Raises:
        ValueError: If it is none of these, or damaged.

    Example:
        >>> open_data("digits").shape
        (1, 28, 28)
    """
    if data in NAMES:
        return dataset(data, root, split=split, size=size, download=download)
    path = _check.path("data", data)
    if path.is_dir():
        return images(path, size=64 if size is None else size, strict=strict)
    if path.is_file() and path.suffix == ".npy":
        return tensors(_array("data", path), name=path.stem)
    names = ", ".join(NAMES)
    got = f"{data!r}, which " + ("is another file" if path.exists() else "does not exist")
    raise _check.fail("data", f"be one of {names}, a folder of images or a .npy file", got)


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
            "transport": f"{state}: {certificate['message']}",
            "singular set": f"{self['singular_facets']} facets cut, {self['modes']} modes left",
            "acceptance": f"{drawn['acceptance']:.1%} of the points drawn for {_DRAWN} samples",
            "nearest": f"{far} (RMS distance of the samples to the training data)",
            "seconds": f"{sum(seconds.values()):.0f}: {parts}",
            "memory": f"{self['peak_memory_gib']:.2f} GiB at the peak",
            "files": f"{self.path}: pictures, model, summary.json, log.jsonl, config.yaml",
        }
        if "report" in self:
            lines["jump"] = self["jump"]
            lines["report"] = f"{self['report']}: open it in a browser"
        return "\n".join(f"{name:<13}{text}" for name, text in lines.items())


def fit(
    model: AEOT,
    data: str = "digits",
    *,
    out: str | None = None,
    steps: int | None = None,
    masses: str | None = None,
    size: int | None = None,
    root: str | None = None,
    download: bool = False,
    overwrite: bool = False,
    strict: bool = False,
) -> Summary:
    """Fit a model, draw from it, and write a run directory.

    A run that was stopped goes on where it was when it is started again with the same options.

    Args:
        model: The estimator, not fitted yet.
        data: digits, mnist, fashion-mnist, cifar10, celeba, a folder of images, or a .npy file.
        out: The run directory; by default its name says data, latent size and seed.
        steps: Training steps of the autoencoder in all; by default the model chooses.
        masses: A .npy file with one number for each row of the data, summing to 1: how often it
            shall come; by default all equally often.
        size: Height and width in pixels; by default a published set's own, and 64 for a folder.
        root: Folder where the published sets lie.
        download: Fetch a missing published set.
        overwrite: Replace the run that the directory holds; refused if it holds other files too.
        strict: Refuse a folder in which a file cannot be read, instead of skipping the file.

    Returns:
        The summary, as written to summary.json; printed, it is plain lines.

    Raises:
        ValueError: If anything given is unusable; then nothing was written.
    """
    if not _environment.is_writer():  # the computation is not split: one process does it all
        return Summary()
    path = Path(out or f"runs/{Path(data).stem}-z{model.latent_dim}-seed{model.seed}")
    options = {"data": data, "steps": steps, "masses": masses, "size": size, "root": root}
    kept = {**options, "out": str(path), **model.arguments()}
    with RunDirectory(path, kept, last="summary.json", overwrite=overwrite) as run:
        begun = time.perf_counter()
        rows = _rows(options, model.seed, download=download, strict=strict)
        if overwrite:  # else its training would go on
            shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
        return run_fit(model, rows, run, steps, time.perf_counter() - begun)


def run_fit(
    model: AEOT,
    rows: tuple[Dataset, Dataset, torch.Tensor | None],
    run: RunDirectory,
    steps: int | None,
    read: float,
) -> Summary:
    """Fit, draw and write what `fit` says.

    Args:
        model: The estimator, not fitted yet.
        rows: What to fit to, what to keep from it, and how often each row shall come.
        run: The run directory, entered.
        steps: Training steps of the autoencoder; None: the model chooses.
        read: Seconds that reading the data took.

    Returns:
        The summary.
    """
    training, held_out, nu = rows
    losses: list[tuple[int, float]] = []

    def on_step(step: int, record: dict[str, float]) -> None:
        losses.append((step, record["loss"]))
        run.begin()
        if not (run.path / "environment.json").is_file():
            run.write("environment.json", _environment.environment(model.device or "auto"))

    def on_solver_step(record: dict[str, Any]) -> None:
        run.log("transport", record)

    model.fit_autoencoder(
        training,
        steps=steps,
        held_out=held_out if len(held_out) else 0.0,
        checkpoint=run.path / "checkpoint",
        log=run.path / "log.jsonl",
        on_step=on_step,
    )
    place = run.path / "checkpoint" / "transport"
    model.fit_transport(training, nu, checkpoint=place, on_step=on_solver_step)
    if model.certificate_["method"] == "exact":  # reports all its steps at the end
        for record in model.history_["transport"]:
            run.log("transport", record)

    begun = time.perf_counter()
    generated = model.sample(_DRAWN, seed=model.seed)
    sampled = time.perf_counter() - begun
    model.save(run.path / "model", overwrite=True)
    near = draw_run(run.path / "pictures", model, training, held_out, generated, losses)
    summary: dict[str, Any] = {"data": training.name, "rows": len(training)}
    summary |= {"held_out_rows": len(held_out), "shape": list(training.shape)}
    summary |= passed_over(training)
    summary |= {"latent_dim": model.latent_dim, **model.summary()}
    summary["seconds"] = {"reading": read, **summary["seconds"], "sampling": sampled}
    summary["seconds"]["pictures"] = time.perf_counter() - begun - sampled
    summary |= {"nearest": near, "peak_memory_gib": _environment.peak_memory()}
    run.write("summary.json", summary)
    shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
    return Summary(summary, run.path)


def _rows(
    options: dict[str, Any], seed: int, **how: bool
) -> tuple[Dataset, Dataset, torch.Tensor | None]:
    """Return what to fit to, what to keep from it, and the masses."""
    where = {"size": options["size"], "root": options["root"], **how}
    training = open_data(options["data"], **where)
    nu = None
    if options["masses"] is not None:
        nu = _check.masses(_array("masses", Path(options["masses"])), len(training))
    if options["data"] in NAMES:
        return training, open_data(options["data"], split="test", **where), nu
    if len(training) < 2:
        raise _check.fail("data", "hold at least 2 rows", str(len(training)))
    count = min(len(training) // 10, 2000)
    order = torch.randperm(len(training), generator=generator(seed, "held out rows"))
    kept = order[count:].sort().values
    if nu is not None:
        nu = nu[kept] / nu[kept].sum()
    return training.subset(kept), training.subset(order[:count]), nu


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
