"""Pictures of pictures: grids, comparisons side by side, latent paths, training curves.

Every function returns the matplotlib figure, and writes it as well when `path` is given. Image
pixels are placed on whole screen pixels, so that what one sees is what the model drew.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.spatial import ConvexHull
from sklearn.manifold import TSNE

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot._rng import generator
from aeot.data import Dataset, to_uint8
from aeot.plotting.style import CHART, COLOURS, GRAY, INK, LINE, add_legend, literal, panel, save

_DPI = 100
_MARGIN = 12  # pixels around and between blocks
_CAPTION = 22  # pixels above each block


@plain_torch()
def image_grid(
    images: torch.Tensor,
    *,
    columns: int | None = None,
    title: str = "",
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw images as one grid, in reading order.

    Args:
        images: (B, C, H, W), floats in [-1, 1], one or three channels.
        columns: Images a row; None makes the grid about square.
        title: Written above the grid.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If `images` has another shape or holds no image.

    Example:
        >>> figure = image_grid(torch.zeros(9, 1, 8, 8), title="nine black squares")
    """
    title = _check.text("title", title)
    return side_by_side({title: as_tiles("images", images)}, columns=columns, path=path)


@plain_torch()
def side_by_side(
    groups: Mapping[str, torch.Tensor],
    *,
    columns: int | None = None,
    across: int | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw one grid of images for each group, next to each other.

    Images at the same place of two grids belong together, as a picture and its reconstruction do.

    Args:
        groups: Caption -> images (B, C, H, W), floats in [-1, 1].
        columns: Images a row in each grid; None makes the grids about square.
        across: Grids side by side before the next row of grids; None: all.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no group, or one is not a batch of images.

    Example:
        >>> real = torch.zeros(4, 1, 8, 8)
        >>> figure = side_by_side({"real": real, "reconstructed": real + 0.1})
    """
    if columns is not None:
        columns = _check.integer("columns", columns)
    if across is not None:
        across = _check.integer("across", across)
    batches = _check.mapping("groups", groups, "batches of images")
    tiles = {name: as_tiles(f"groups[{name!r}]", images) for name, images in batches.items()}
    blocks = [
        (name, mosaic(group, columns or math.ceil(math.sqrt(len(group)))))
        for name, group in tiles.items()
    ]
    return _canvas(blocks, _scale(next(iter(tiles.values()))), path, across)


@plain_torch()
def nearest_images(
    generated: torch.Tensor,
    nearest: torch.Tensor,
    *,
    distances: Sequence[float] | None = None,
    columns: int = 10,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw each generated image above the training image it is nearest to.

    Args:
        generated: (B, C, H, W), floats in [-1, 1].
        nearest: The nearest training image of each, same shape.
        distances: How far apart they are, for the caption: root mean square in [0, 1] units.
        columns: Pairs a row.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If the two batches differ in shape.
    """
    columns = _check.integer("columns", columns)
    above, below = as_tiles("generated", generated), as_tiles("nearest", nearest)
    if above.shape != below.shape:
        shapes = f"{tuple(below.shape)} and {tuple(above.shape)} in colour"
        raise _check.fail("nearest", "have the shape of generated", shapes)
    seam = torch.full_like(above[:, :, :1], 255)
    pairs = torch.cat([above, seam, below], dim=2)
    caption = "generated, and under each its nearest training image"
    if distances is not None:
        gaps = _check.array("distances", distances)
        if gaps.ndim != 1 or len(gaps) == 0:
            raise _check.fail("distances", "have shape (B,)", f"shape {tuple(gaps.shape)}")
        caption += f"   (RMS distance {float(gaps.min()):.3f} to {float(gaps.max()):.3f})"
    block = mosaic(pairs, columns, gap=max(3, above.shape[2] // 5))
    return _canvas([(caption, block)], _scale(above), path)


@plain_torch()
def training_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    marks: Mapping[str, float] | None = None,
    levels: Mapping[str, float] | None = None,
    xlabel: str = "training step",
    ylabel: str = "mean squared error",
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw losses against training steps, on a logarithmic scale.

    Args:
        curves: Name -> (steps, values); values that are not positive are left out.
        marks: Name -> step: vertical lines, such as the step at which the encoder was frozen.
        levels: Name -> value > 0: horizontal lines, such as a tolerance.
        xlabel: What is counted.
        ylabel: What the values are.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Example:
        >>> figure = training_curves({"training": ([0, 1, 2], [0.2, 0.1, 0.05])})
    """
    for name, label in (("xlabel", xlabel), ("ylabel", ylabel)):
        _check.text(name, label)
    read = {
        name: _curve(f"curves[{name!r}]", curve)
        for name, curve in _check.mapping("curves", curves, "(steps, values)", empty=True).items()
    }
    if marks is not None:
        marks = {
            name: _check.real(f"marks[{name!r}]", step)
            for name, step in _check.mapping("marks", marks, "steps", empty=True).items()
        }
    if levels is not None:
        levels = {
            name: _check.real(f"levels[{name!r}]", value, above=0)
            for name, value in _check.mapping("levels", levels, "values", empty=True).items()
        }
    figure, axes = panel(size=CHART, equal=False)
    lines = {}
    for name, curve in read.items():
        known = [(s, v) for s, v in curve if v > 0 and math.isfinite(v)]
        if known:
            few = "o" if len(known) < 40 else ""
            (lines[name],) = axes.plot(*zip(*known, strict=True), marker=few, markersize=3)
    axes.set(yscale="log", xlabel=xlabel, ylabel=ylabel)
    if any(lines):
        add_legend(axes, list(lines.values()), list(lines))
    for name, step in (marks or {}).items():
        axes.axvline(step, color=LINE, linewidth=1, linestyle="--")
        note = axes.annotate(
            name,
            (step, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
            color=GRAY,
            fontsize=9,
        )
        literal(note)
    for name, value in (levels or {}).items():
        axes.axhline(value, color=LINE, linewidth=1, linestyle="--")
        note = axes.annotate(
            name,
            (0.99, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=GRAY,
            fontsize=9,
        )
        literal(note)
    return save(figure, path)


def _curve(name: str, value: object) -> list[tuple[float, float]]:
    """Return the points of a curve given as (steps, values); values may be NaN."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise _check.fail(name, "be (steps, values)", _check.shown(value))
    steps, values = (_check.tensor(name, side).cpu() for side in value)
    if steps.ndim != 1 or steps.shape != values.shape:
        got = f"shapes {tuple(steps.shape)} and {tuple(values.shape)}"
        raise _check.fail(name, "be two lists of one length", got)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


@plain_torch()
def point_clouds(
    groups: Mapping[str, torch.Tensor], *, path: str | os.PathLike | None = None
) -> Figure:
    """Draw sets of vectors by their first two coordinates, next to each other on equal axes.

    Args:
        groups: Caption -> points (n, d) with d >= 2.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no group, or the points have fewer than two coordinates.
    """
    clouds = {
        name: _check.points(f"groups[{name!r}]", points).detach().cpu()
        for name, points in _check.mapping("groups", groups, "sets of points").items()
    }
    narrow = [name for name, points in clouds.items() if points.shape[1] < 2]
    if narrow:
        raise _check.fail(f"groups[{narrow[0]!r}]", "have at least two columns", "one")
    figure = Figure(figsize=(3.4 * len(clouds), 3.6), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, points) in zip(axes, clouds.items(), strict=True):
        ax.scatter(points[:, 0], points[:, 1], s=4, linewidths=0, alpha=0.6, color=COLOURS[0])
        literal(ax.set_title(name, fontsize=10, loc="left", color=INK))
        ax.set_aspect("equal")
        ax.tick_params(labelsize=8)
    return save(figure, path, dpi=None)


@plain_torch()
def embedding(
    data: Dataset | ArrayLike,
    labels: ArrayLike | None = None,
    *,
    modes: ArrayLike | None = None,
    names: Sequence[str] = (),
    most: int = 2000,
    seed: int = 0,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw images or codes in the plane such that neighbours stay neighbours, by t-SNE.

    Distances between clusters, their sizes and densities mean nothing in such a picture.

    Args:
        data: A data set, images (n, C, H, W) or codes (n, d), with at least 4 rows.
        labels: Class of each row (n,), which sets its colour; None: those of a data set.
        modes: Mode of each row (n,), such as ``components`` of a singular set: the convex hull of
            each mode with three rows or more is outlined.
        names: What the classes are called; those of a data set if left out.
        most: Rows drawn, chosen by the seed: the time grows as their number.
        seed: Of rows and start.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If there are too few rows, or labels or modes do not fit.

    References:
        L. van der Maaten, G. Hinton, "Visualizing data using t-SNE", 2008. N. Lei et al., "A
        geometric understanding of deep learning", Engineering 6 (2020), figure 1.

    Example:
        >>> codes = torch.cat([torch.randn(20, 5), torch.randn(20, 5) + 10])
        >>> figure = embedding(codes, torch.arange(40) // 20)
    """
    if isinstance(data, Dataset):
        labels, names = (data.labels if labels is None else labels), names or data.classes
        data = data[:].flatten(1)
    else:
        data = _check.tensor("data", data)
        data = data.flatten(1) if data.ndim == 4 else data
    points = _check.points("data", data, min_rows=4).detach().cpu()
    n = len(points)
    kinds = torch.zeros(n, dtype=torch.int64) if labels is None else _whole("labels", labels, n)
    groups = None if modes is None else _whole("modes", modes, n)
    most, seed = _check.integer("most", most, minimum=4), _check.seed("seed", seed)
    if labels is None:
        _check.unused("without labels", "pass labels, too", names=(tuple(names), ()))
    if names and int(kinds.max()) >= len(names):
        must = f"name every class from 0 to {int(kinds.max())}"
        raise _check.fail("names", must, f"{len(names)} names")
    some = torch.randperm(n, generator=generator(seed, "embedding"))[:most].sort().values
    rows, classes = points[some].double().numpy(), kinds[some].numpy()
    perplexity = min(30.0, (len(rows) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(rows)
    figure, axes = panel(size=(6.2, 5.2))
    present = np.unique(classes).tolist()
    hues = [COLOURS[k % len(COLOURS)] for k in range(len(present))]
    dots = [
        axes.scatter(
            plane[classes == kind, 0], plane[classes == kind, 1], s=9, lw=0, alpha=0.75, color=hue
        )
        for kind, hue in zip(present, hues, strict=True)
    ]
    if groups is not None:
        for mode in groups[some].unique():
            inside = plane[(groups[some] == mode).numpy()]
            if len(inside) > 2:
                corners = inside[ConvexHull(inside).vertices]
                axes.fill(*corners.T, fill=False, edgecolor=LINE, lw=0.8, zorder=0)
    if labels is not None and len(present) <= 20:
        told = [str(names[kind]) if names else str(kind) for kind in present]
        inches = 0.6 + 0.08 * max(map(len, told))  # of a dot and the longest name
        fitting = max(1, int(figure.get_figwidth() / inches))
        columns = math.ceil(len(told) / math.ceil(len(told) / fitting))  # lines of one length
        add_legend(figure, dots, told, loc="outside lower center", columns=columns)
    return save(figure, path)


def _whole(name: str, value: ArrayLike, n: int) -> torch.Tensor:
    """Return whole numbers >= 0, one for each of n rows."""
    found = _check.tensor(name, value).detach().cpu()
    if found.shape != (n,) or found.is_floating_point() or bool((found < 0).any()):
        got = f"{found.dtype} of shape {tuple(found.shape)}"
        raise _check.fail(name, f"be {n} whole numbers >= 0, one per row", got)
    return found.to(torch.int64)


def as_tiles(name: str, images: ArrayLike) -> torch.Tensor:
    """Return images as bytes in colour (B, 3, H, W)."""
    found = _check.tensor(name, images).detach().cpu()
    if found.ndim != 4 or found.shape[1] not in (1, 3) or found.numel() == 0:
        shape = f"shape {tuple(found.shape)}"
        raise _check.fail(name, "have shape (B, C, H, W) with 1 or 3 channels", shape)
    if found.dtype != torch.uint8:
        low, high = (float(bound) for bound in _check.array(name, found).aminmax())
        if low >= 0 and high > 2:  # overshooting generators are clipped; these are bytes
            way_out = "images.to(torch.uint8) if they are bytes"
            got = f"floats from {low:g} to {high:g}"
            raise _check.fail(name, "be uint8 or floats in [-1, 1]", got, way_out)
    return to_uint8(found).expand(-1, 3, -1, -1)


def mosaic(tiles: torch.Tensor, columns: int, gap: int = 1) -> np.ndarray:
    """Lay tiles (B, C, H, W) out row by row on white, `gap` pixels apart: (rows, columns, C)."""
    # Not by torchvision's make_grid: importing that takes longer than all of aeot.
    count, channels, height, width = tiles.shape
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    grid = tiles.new_full((rows * columns, channels, height + gap, width + gap), 255)
    grid[:count, :, :height, :width] = tiles
    sheet = grid.view(rows, columns, channels, height + gap, width + gap).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap].cpu().numpy()


def show_pixels(figure: Figure, block: np.ndarray, at: tuple[int, int], scale: int) -> None:
    """Show bytes (H, W, 3) with their corner `at` pixels from the left and from the top."""
    width, height = figure.get_size_inches() * figure.dpi
    high, wide = block.shape[0] * scale, block.shape[1] * scale
    place = (at[0] / width, 1 - (at[1] + high) / height, wide / width, high / height)
    axes = figure.add_axes(place)
    axes.imshow(block, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _scale(tiles: torch.Tensor) -> int:
    """Screen pixels for one image pixel: small images are enlarged to about 56 pixels."""
    return max(1, round(56 / tiles.shape[3]))


def _canvas(
    blocks: Sequence[tuple[str, np.ndarray]],
    scale: int,
    path: str | os.PathLike | None,
    across: int | None = None,
) -> Figure:
    """Place captioned pixel blocks in rows, each image pixel on `scale` x `scale` pixels."""
    caption = _CAPTION if any(name for name, _ in blocks) else 0
    step = across or len(blocks)
    lines = [blocks[first : first + step] for first in range(0, len(blocks), step)]
    width = max(
        _MARGIN + sum(block.shape[1] * scale + _MARGIN for _, block in line) for line in lines
    )
    tall = [caption + max(block.shape[0] for _, block in line) * scale + _MARGIN for line in lines]
    height = _MARGIN + sum(tall)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    top = _MARGIN
    for line, down in zip(lines, tall, strict=True):
        left = _MARGIN
        for name, block in line:
            show_pixels(figure, block, (left, top + caption), scale)
            at = (left / width, 1 - (top + caption - 7) / height)
            literal(figure.text(*at, name, fontsize=9, color=INK, va="bottom"))
            left += block.shape[1] * scale + _MARGIN
        top += down
    return save(figure, path, dpi=None)
