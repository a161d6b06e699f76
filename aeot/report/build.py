"""Read finished runs and comparisons, and write the page."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from aeot import _check
from aeot.comparison import Comparison
from aeot.data import Dataset
from aeot.model import AEOT
from aeot.report.comparisons import add_comparison
from aeot.report.models import add_model
from aeot.report.page import Page
from aeot.runs import open_data

_LOG = logging.getLogger(__name__)


def report(
    runs: list[str],
    *,
    out: str = "report.html",
    data: str | None = None,
    picture: str = "tsne",
    shown: int = 900,
) -> None:
    """Write one self-contained HTML page about finished runs and comparisons.

    Args:
        runs: Run directories, saved models and directories of comparisons.
        out: The file to write; replaced if it is there.
        data: Training data of saved models, as in ``aeot fit``; runs know theirs.
        picture: How codes are drawn in the plane: "tsne" or "pca".
        shown: Codes in the picture.

    Raises:
        ValueError: If one of `runs` is neither, or `out` cannot be written.
    """
    target = Path(out).expanduser()
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise _check.fail("out", "be a file in a folder that exists", str(target))
    sources: dict[str, AEOT | Comparison] = {}
    training: dict[str, Dataset] = {}
    for run in runs:
        source, rows = _read(Path(run), data)
        name = _unused(Path(run).absolute().name, sources)
        sources[name] = source
        if rows is not None:
            training[name] = rows
    write_page(sources, target, training=training, picture=picture, shown=shown)
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")  # noqa: T201 - a command


def write_page(
    sources: dict[str, AEOT | Comparison],
    path: str | os.PathLike,
    *,
    training: dict[str, Dataset] | None = None,
    title: str | None = None,
    picture: str = "tsne",
    shown: int = 900,
) -> None:
    """Write the page of fitted models and comparisons.

    Args:
        sources: Name -> a fitted `AEOT` or a `Comparison`.
        path: The file.
        training: Name -> what the model was fitted to, for real images and classes.
        title: Heading of the page; None: the names.
        picture: "tsne" or "pca".
        shown: Codes in the picture of a latent space.

    Raises:
        ValueError: If there is nothing to write about.
    """
    if not sources:
        raise _check.fail("sources", "hold a fitted model or a comparison", "nothing")
    built = Page(title or " · ".join(sources), "quality, costs, transport and latent space")
    for name, source in sources.items():
        before = f"{name}: " if len(sources) > 1 else ""
        if isinstance(source, Comparison):
            add_comparison(built, before, source)
        else:
            add_model(built, before, source, (training or {}).get(name), picture, shown)
    Path(path).write_text(built.html(), encoding="utf-8")


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
