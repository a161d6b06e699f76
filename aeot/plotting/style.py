"""One look for all figures: colours, axes, legends, saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from aeot import _check, _io

INK = "#1f2933"
LINE = "#9aa5b1"
GRID = "#e4e7eb"
GRAY = "#66717d"
SINGULAR = "#c81e3a"
ACCENT = "#1d5c9c"
COLOURS = (  # of curves; all as dark as text must be on white
    "#0b62c4",
    "#c2571c",
    "#14804a",
    "#8a3ab9",
    "#a3202f",
    "#7a6100",
    "#0f7f8c",
    "#b02a7a",
    "#4d5a8a",
    "#566b1e",
)
CHART = (4.8, 3.2)  # inches; legible on a phone


def colour_sites(sites: np.ndarray, *, lightness: float = 0.86) -> np.ndarray:
    """A colour for every site by its place, so that a cell is recognised by its site: (n, 3).

    The angle about the mean sets the hue, the distance how strong it is; all are equally light to
    the eye but for the outermost, so lines and text can be read on top.
    """
    centred = sites[:, :2] - sites[:, :2].mean(axis=0)
    if sites.shape[1] == 1:
        centred = np.c_[centred, np.zeros(len(centred))]
    radius = np.linalg.norm(centred, axis=1)
    radius /= max(radius.max(initial=0.0), 1e-300)
    angle = np.arctan2(centred[:, 1], centred[:, 0])
    return _oklch(lightness - 0.12 * radius, 0.035 + 0.10 * radius, angle)


def _oklch(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Oklab's polar coordinates to sRGB (B. Ottosson, "A perceptual color space", 2020)."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    to_cones = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = ((lab @ to_cones.T) ** 3 @ to_linear.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def panel(
    ax: Axes | None = None, *, size: tuple[float, float] = (5.0, 5.0), equal: bool = True
) -> tuple[Figure, Axes]:
    """Return the axes given, or those of a new figure.

    Args:
        ax: Axes to draw on, or None.
        size: Of the new figure, in inches.
        equal: For pictures in the plane, without ticks; else for curves, on a faint grid.
    """
    if ax is not None and not isinstance(ax, Axes):
        raise _check.fail("ax", "be axes of matplotlib or None", _check.shown(ax))
    if ax is None:
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    if equal:
        ax.set_aspect("equal")
        ax.set_axis_off()
    else:
        ax.set_prop_cycle(color=COLOURS)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(visible=True, color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
    return cast(Figure, ax.get_figure(root=True)), ax


def add_legend(
    place: Figure | Axes,
    artists: Sequence[Any],
    names: Sequence[str],
    *,
    loc: Literal["best", "outside lower center"] = "best",
    columns: int = 1,
) -> None:
    """Add a legend with any names: dollars are no mathematics, and none is left out for its `_`."""
    blank = [" "] * len(names)
    legend = place.legend(artists, blank, loc=loc, ncols=columns, frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name if len(name) <= 60 else f"{name[:59]}…")
        literal(text)


def literal(text: Text) -> None:
    """Have a text shown as it is written: dollars in a caller's names are no mathematics."""
    text.set_parse_math(False)


def save(figure: Figure, path: str | os.PathLike | None, *, dpi: float | None = 130) -> Figure:
    """Write the figure if there is a path, making its folder; None: at the figure's own dpi."""
    if path is not None:
        path = _check.path("path", path)
        kind = path.suffix[1:].lower()
        if kind not in figure.canvas.get_supported_filetypes():
            must = "end in what matplotlib can write, such as .png, .svg or .pdf"
            raise _check.fail("path", must, repr(path.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _io.replacing(path) as fresh:
            figure.savefig(fresh, dpi=dpi or figure.dpi, format=kind)
    return figure
