"""Pictures of translators: there and back in rows, the curves of the instruments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from matplotlib.figure import Figure

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.plotting.images import as_tiles, mosaic, show_pixels
from aeot.plotting.style import COLOURS, GRAY, INK, literal, save


class Translates(Protocol):
    """Anything with ``translate``."""

    def translate(self, x: torch.Tensor, *, to: str) -> torch.Tensor:
        """Translate images to the domain `to`."""
        ...


@plain_torch()
def image_rows(
    rows: Mapping[str, torch.Tensor],
    *,
    title: str = "",
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw batches of images as labelled rows; a name that starts with a blank opens a gap above.

    Args:
        rows: Label -> images (B, C, H, W), floats in [-1, 1], the same B and size in each.
        title: Written above.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no row or their shapes differ.

    Example:
        >>> x = torch.zeros(5, 1, 8, 8)
        >>> figure = image_rows({"x": x, "translated": -x})
    """
    _check.text("title", title)
    batches = _check.mapping("rows", rows, "batches of images")
    tiles = {name: as_tiles(f"rows[{name!r}]", images) for name, images in batches.items()}
    sizes = {tuple(images.shape) for images in tiles.values()}
    if len(sizes) > 1:
        raise _check.fail("rows", "be as many images of one size", sorted(sizes))
    count, _, height, width = sizes.pop()
    zoom = max(1, round(56 / height))
    gap, margin, head = 2 * zoom, 10, 34 if title else 10
    label = 20 + 7 * max(len(name.strip()) for name in rows)  # about 7 pixels a letter
    cell = height * zoom + gap
    opened = [name.startswith(" ") for name in rows]
    tops = [head + k * cell + 12 * sum(opened[1 : k + 1]) for k in range(len(rows))]
    total = (label + count * (width * zoom + gap) + margin, tops[-1] + cell + margin)
    figure = Figure(figsize=(total[0] / 100, total[1] / 100), dpi=100, facecolor="white")
    if title:
        y = 1 - 20 / total[1]
        literal(figure.text(margin / total[0], y, title, color=INK, fontsize=11, va="center"))
    for (name, images), top in zip(tiles.items(), tops, strict=True):
        strip = mosaic(images, len(images), gap=2)
        show_pixels(figure, strip, (label, top), zoom)
        at = ((label - 8) / total[0], 1 - (top + height * zoom / 2) / total[1])
        said = figure.text(*at, name.strip(), color=INK, fontsize=9, ha="right", va="center")
        literal(said)
    return save(figure, path, dpi=None)


@plain_torch()
def translations(
    model: Translates,
    a: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    title: str = "",
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw images, their translations and the way back, from both domains.

    Args:
        model: A fitted translator.
        a: (B, C, H, W) images of domain A.
        b: As many of domain B; None to show one direction only.
        names: What the domains are called.
        title: Written above.
        path: Where to write the figure as well.

    Returns:
        The figure.
    """
    _check_translator(model, a, b)
    if not isinstance(names, (tuple, list)) or len(names) != 2:
        raise _check.fail("names", "be two names", _check.shown(names))
    for name in names:
        _check.text("names", name)
    there = model.translate(a, to="b")
    rows = {f"real {names[0]}": a, f"to {names[1]}": there}
    if b is not None:
        back = model.translate(b, to="a")
        rows["and back"] = model.translate(there, to="a")
        rows |= {f" real {names[1]}": b, f"to {names[0]}": back}
        rows["and back "] = model.translate(back, to="b")
    return image_rows(rows, title=title, path=path)


@plain_torch()
def snapshots(
    model: Translates,
    a: torch.Tensor,
    b: torch.Tensor | None,
    folder: str | os.PathLike,
    *,
    every: int = 500,
) -> Callable[[int, dict[str, float]], None]:
    """Return an ``on_step`` for `fit` that saves a grid of translations now and then.

    Args:
        model: The translator that is being fitted.
        a: (B, C, H, W) images of domain A to translate.
        b: The same of domain B, or None.
        folder: Where ``step-000500.png`` and so on go.
        every: Steps between two grids.

    Returns:
        The function.
    """
    _check_translator(model, a, b)
    every = _check.integer("every", every)
    folder = _check.path("folder", folder)

    def on_step(step: int, record: dict[str, float]) -> None:
        if step % every == 0:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"step-{step:06d}.png"
            translations(model, a, b, title=f"step {step}", path=path)

    return on_step


def _check_translator(model: object, a: ArrayLike, b: ArrayLike | None) -> None:
    if isinstance(model, (str, bytes)) or not callable(getattr(model, "translate", None)):
        raise _check.fail("model", "have translate(x, *, to)", _check.shown(model))
    as_tiles("a", a)
    if b is not None:
        as_tiles("b", b)


@plain_torch()
def hiding(
    reports: Mapping[str, Mapping[str, dict]],
    *,
    title: str = "Does the translator hide its input?",
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw what `aeot.gan_diagnostics.steganography.examine` found, for several translators.

    Args:
        reports: Name -> what `examine` returned.
        title: Written above.
        path: Where to write the figure as well.

    Returns:
        The figure: cycle error after handling, sensitivity to noise, the low-pass curve and the
        swap test.
    """
    reports = _check.mapping("reports", reports, "what examine returned")
    parts = {"drops", "sensitivity", "low_pass", "swap"}
    for name, report in reports.items():
        if not isinstance(report, Mapping) or not parts <= report.keys():
            must, way_out = "be what examine returned", "pass examine(...) itself"
            raise _check.fail(f"reports[{name!r}]", must, _check.shown(report), way_out)
    figure = Figure(figsize=(11, 3.4), dpi=100, facecolor="white", layout="constrained")
    bars, noise, curve = figure.subplots(1, 3)
    kinds = ("clean", "8-bit", "jpeg", "blur")
    width = 0.8 / len(reports)
    for k, (name, report) in enumerate(reports.items()):
        colour = COLOURS[k % len(COLOURS)]
        drops = report["drops"]
        places = np.arange(len(kinds)) + (k - (len(reports) - 1) / 2) * width
        bars.bar(places, [drops[kind] for kind in kinds], width, color=colour)
        found = report["sensitivity"]
        label = f"{name} (leak {report['swap']['leak']:.2f})"
        noise.plot(found["levels"], found["curve"], "o-", color=colour, markersize=3)
        low = report["low_pass"]
        curve.plot(low["cutoffs"], low["cycle"], "o-", color=colour, markersize=3, label=label)
    chance = float(np.mean([report["drops"]["chance"] for report in reports.values()]))
    for axes in (bars, curve):
        axes.axhline(chance, color=GRAY, linestyle=":", linewidth=1)
    bars.annotate("mean image", (0.02, chance), (0, 3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", color=GRAY, fontsize=8)  # fmt: skip
    for axes in (bars, curve):
        axes.set_ylim(bottom=0)
    bars.set_xticks(range(len(kinds)), kinds)
    bars.set_title("cycle error after handling", fontsize=10, color=INK)
    noise.set_title("change by noise on the translation", fontsize=10, color=INK)
    noise.set_xlabel("noise, 8-bit levels")
    noise.set_yscale("log")
    curve.set_title("cycle error behind a low-pass", fontsize=10, color=INK)
    curve.set_xlabel("cut-off, cycles per pixel")
    curve.legend(frameon=False, fontsize=8)
    for text in curve.get_legend().get_texts():
        literal(text)
    for axes in (bars, noise, curve):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
    _check.text("title", title)
    figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    return save(figure, path, dpi=None)
