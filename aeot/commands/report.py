"""The command `aeot report`: one HTML page about finished runs and comparisons."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from aeot import _check
from aeot.commands.directory import check_page, read_options
from aeot.commands.fit import open_data, rows_of_run
from aeot.comparison.result import Comparison
from aeot.data import Dataset
from aeot.models.aeot import AEOT
from aeot.report.build import write_page

_LOG = logging.getLogger(__name__)


def report(
    runs: list[str],
    *,
    out: str | None = None,
    data: str | None = None,
    picture: str = "tsne",
    shown: int = 900,
) -> str:
    """Write one self-contained HTML page about finished runs and comparisons.

    Args:
        runs: Run directories, saved `AEOT` models and directories of comparisons; several stand
            side by side on the page.
        out: The file to write; replaced if it is there. By default report.html in the run, or in
            runs/ if there are several.
        data: Training data of saved models, as in aeot fit; runs know theirs.
        picture: How codes are drawn in the plane: "tsne" keeps neighbours together, "pca" takes
            less time.
        shown: Codes in the picture; more take longer, 900 some seconds.

    Returns:
        Where the page is.

    Raises:
        ValueError: If one of `runs` is neither, or `out` cannot be written.
    """
    _check.integer("shown", shown)
    _check.choice("picture", picture, ("tsne", "pca"))
    if out is None:
        folder = _check.path("runs", runs[0]) if len(runs) == 1 else Path("runs")
        saved = (folder / "manifest.json").exists()  # which holds nothing else
        target = (Path("runs") if saved else folder) / "report.html"
    else:
        target = check_page(out)
    sources: dict[str, AEOT | Comparison] = {}
    training: dict[str, Dataset] = {}
    for run in runs:
        source, rows = _read(_check.path("runs", run), data)
        name = _unused(Path(run).absolute().name, sources)
        sources[name] = source
        if rows is not None:
            training[name] = rows
    if all(isinstance(source, Comparison) for source in sources.values()):
        _check.unused("without a model", data=(data, None))
    if out is None:
        with contextlib.suppress(OSError):  # said below
            target.parent.mkdir(parents=True, exist_ok=True)
        check_page(target)
    write_page(sources, target, training=training, picture=picture, shown=shown)
    return f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)"


def _unused(name: str, taken: dict[str, Any]) -> str:
    return name if name not in taken else _unused(f"{name}'", taken)


def _read(path: Path, data: str | None) -> tuple[AEOT | Comparison, Dataset | None]:
    """Open a run, a saved model or a comparison, and the training data if they can be found."""
    if (path / "data" / "manifest.json").is_file():
        return Comparison.load(path), None
    if not any((p / "manifest.json").is_file() for p in (path, path / "model")):
        got = f"{path}, which " + ("holds neither" if path.is_dir() else "is no directory")
        must = "be runs, saved models or comparisons"
        raise _check.fail("runs", must, got, "aeot runs lists those that are there")
    model = AEOT.load(path)
    options = read_options(path / "config.yaml") or {}
    name = data or options.get("data")
    if name is None:
        _LOG.warning("%s does not say what it was fitted to; pass --data for real images", path)
        return model, None
    try:
        known: dict[str, Any] = {key: options.get(key) for key in ("white", "max_pixels")}
        if data is None:  # a run knows which rows it kept out
            where = {key: options.get(key) for key in ("data", "masses", "size", "root")}
            return model, rows_of_run(where, model.seed, rows=options.get("rows"), **known)[0]
        rows = open_data(name, size=options.get("size"), root=options.get("root"), **known)
    except ValueError as error:
        if data is not None:
            raise
        _LOG.warning("without the training data of %s: %s", path, error)
        return model, None
    return model, rows
