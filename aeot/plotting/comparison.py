"""Pictures of a comparison: precision against recall, PRD curves, samples row by row.

Every function returns the matplotlib figure, and writes it as well when `path` is given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from aeot import _check
from aeot._environment import plain_torch
from aeot.comparison.result import Comparison
from aeot.plotting import images
from aeot.plotting.style import COLOURS, GRAY, add_legend, panel, save

_DASHES = ("-", (0, (7, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)))
_BASELINES = {"real": "--", "reconstructions": (0, (1, 1))}  # no generator has these lines
_SIZE = (4.8, 3.7)  # inches, without the names


@plain_torch()
def precision_recall(found: Comparison, *, path: str | os.PathLike | None = None) -> Figure:
    """Draw every row at (F8, F1/8): recall to the right, precision up, best in the corner.

    Real images are a gray square, reconstructions hollow squares in the colour of their model. Bars
    are standard errors.

    Args:
        found: A comparison with the metrics "f8" and "f1_8".
        path: Where to write the figure as well.

    Raises:
        ValueError: If those metrics were not computed.

    References:
        Lei et al., "A geometric understanding of deep learning", 2020, figure 14.
    """
    _check.instance("found", found, Comparison, "aeot.compare makes one")
    rows = [r for r in found.rows if {"f8", "f1_8"} <= set(r["metrics"])]
    if not rows:
        raise _check.fail("found", "hold f8 and f1_8", ", ".join(found.protocol) or "nothing")
    figure, axes = panel(size=_SIZE, equal=False)
    xs = [r["metrics"]["f8"]["mean"] for r in rows]
    ys = [r["metrics"]["f1_8"]["mean"] for r in rows]
    places = found.contestants()
    dots = []
    for row, x, y in zip(rows, xs, ys, strict=True):
        colour, _ = _look(found, row)
        errors = [row["metrics"][name]["error"] or 0 for name in ("f8", "f1_8")]
        dot = axes.errorbar(
            x,
            y,
            xerr=errors[0],
            yerr=errors[1],
            fmt="s" if row["kind"] in _BASELINES else "o^Dv"[places[row["model"]] // 10 % 4],
            color=colour,
            markerfacecolor="none" if row["kind"] == "reconstructions" else colour,
            markersize=7,
            label=row["model"],
        )
        dots.append(dot)
    low = max(0.0, min([*xs, *ys]) - 0.05)
    axes.set(xlim=(low, 1.01), ylim=(low, 1.01), xlabel="F8 (recall)", ylabel="F1/8 (precision)")
    _name(figure, dots, rows)
    return save(figure, path)


@plain_torch()
def prd_curves(found: Comparison, *, path: str | os.PathLike | None = None) -> Figure:
    """Draw the precision-recall curve of every row.

    Args:
        found: A comparison with the metrics "f8" or "f1_8".
        path: Where to write the figure as well.

    Raises:
        ValueError: If no curve was computed.
    """
    _check.instance("found", found, Comparison, "aeot.compare makes one")
    rows = [r for r in found.rows if r["curve"]]
    if not rows:
        raise _check.fail("found", "hold PRD curves", "none; compare with the metric f8")
    figure, axes = panel(size=_SIZE, equal=False)
    lines = []
    for row in rows:
        colour, style = _look(found, row)
        lines += axes.plot(
            row["curve"]["recall"],
            row["curve"]["precision"],
            linestyle=style,
            linewidth=1 if row["kind"] == "reconstructions" else 1.5,
            color=colour,
            label=row["model"],
        )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    _name(figure, lines, rows)
    return save(figure, path)


@plain_torch()
def sample_rows(
    found: Comparison,
    *,
    models: Sequence[str] | None = None,
    columns: int = 8,
    rows: int = 4,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the first samples of every model, one block each, three blocks side by side, uncurated.

    Args:
        found: A comparison.
        models: Which, in what order; None: all.
        columns: Images a row in each block.
        rows: Rows in each block.
        path: Where to write the figure as well.

    Raises:
        ValueError: If a model is not in the comparison.
    """
    _check.instance("found", found, Comparison, "aeot.compare makes one")
    columns, rows = _check.integer("columns", columns), _check.integer("rows", rows)
    if models is not None and not isinstance(models, (list, tuple)):
        raise _check.fail("models", "be a list of names", _check.shown(models))
    names = [name for name in found if name in found.shown] if models is None else list(models)
    for name in names:
        _check.choice("models", name, found.shown)
    blocks = {}
    for name in names:
        tiles = found.shown[name][: columns * rows].to(torch.float32)
        blocks[name] = tiles / 127.5 - 1
    return images.side_by_side(blocks, columns=columns, across=3, path=path)


def _name(figure: Figure, artists: list[Any], rows: list[dict[str, Any]]) -> None:
    """Name the rows below the axes, which keep their size however many they are."""
    names = [row["model"] for row in rows]
    columns = 2 if max(map(len, names)) <= 30 else 1
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(rows) // columns))
    add_legend(figure, artists, names, loc="outside lower center", columns=columns)


def _look(found: Comparison, row: dict[str, Any]) -> tuple[str, Any]:
    """Return colour and line of a row: the same in both figures and in the HTML report."""
    place = found.place(row)
    colour = GRAY if place is None else COLOURS[place % 10]
    if place is None or row["kind"] in _BASELINES:
        return colour, _BASELINES[row["kind"]]
    return colour, _DASHES[(place + place // 10) % 4]
