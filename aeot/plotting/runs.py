"""The pictures of a run: what a fitted model restores, generates and comes near to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from aeot import _check
from aeot._environment import plain_torch
from aeot._rng import generator
from aeot.data import Dataset
from aeot.maps.brenier import BrenierMap
from aeot.maps.conditional import ConditionalMap
from aeot.models.aeot import AEOT
from aeot.plotting import images as pictures
from aeot.plotting.singular import crossing
from aeot.search.nearest import nearest

_SHOWN = 100  # rows whose nearest training row is looked for


@plain_torch()
def draw_run(
    folder: Path,
    model: AEOT,
    training: Dataset,
    held_out: Dataset,
    generated: torch.Tensor,
    losses: Sequence[tuple[float, float]] = (),
) -> dict[str, float]:
    """Draw all there is to see of a fitted model.

    Args:
        folder: Where the pictures go.
        model: The fitted model.
        training: What it was fitted to.
        held_out: Rows it has not seen; may be empty.
        generated: Rows it generated.
        losses: (step, loss) of every training step; the steps of the second phase start anew.

    Returns:
        How near the generated rows lie to the training rows: the ``smallest`` and the ``median``
        root mean square distance, of images in [0, 1] units, and ``median_held_out``.
    """
    distances, found = nearest_rows(generated, training)
    near = {"smallest": float(distances.min()), "median": float(distances.median())}
    unseen = held_out[:_SHOWN]
    if len(unseen):
        near["median_held_out"] = float(nearest_rows(unseen, training)[0].median())
    _draw_training(folder / "training.png", model, losses)
    if len(training.shape) != 3:
        pictures.point_clouds(
            {"data": training[:2000], "generated": model.sample(2000, seed=model.seed)},
            path=folder / "generated.png",
        )
        return near
    pictures.image_grid(generated, columns=10, path=folder / "generated.png")
    shown = held_out if len(held_out) else training
    real = shown[:36]
    pictures.side_by_side(
        {
            "real, not trained on" if len(held_out) else "real": real,
            "reconstructed": model.decode(model.encode(real)),
            "generated": generated[:36],
        },
        columns=6,
        path=folder / "compared.png",
    )
    pictures.nearest_images(
        generated[:20],
        training[found[:20]],
        distances=distances[:20].tolist(),
        path=folder / "nearest.png",
    )
    strips = [model.interpolate(start, end, 11) for start, end in _ends(model, shown)]
    if strips:
        pictures.image_grid(
            torch.cat(strips),
            columns=11,
            title="straight lines in the source, from one image to another",
            path=folder / "paths.png",
        )
    return near


@plain_torch()
def draw_codes(path: Path, model: AEOT, training: Dataset) -> None:
    """Draw the codes of the data in the plane, with classes and modes where there are any.

    Args:
        path: Where to write the figure.
        model: The fitted model.
        training: What it was fitted to.
    """
    cut, modes = model.singular_, None
    if not isinstance(cut, tuple) and len(cut.components) == len(training):  # none was merged
        modes = cut.components
    codes, labels = model.encode(training), training.labels
    pictures.embedding(
        codes, labels, modes=modes, names=training.classes, seed=model.seed, path=path
    )


@plain_torch()
def nearest_rows(rows: torch.Tensor, data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the nearest row of `data` for each of `rows`, block by block.

    Args:
        rows: (m, C, H, W) in [-1, 1], or (m, d).
        data: Rows of the same shape.

    Returns:
        Root mean square distances (m,), of images in [0, 1] units, and row numbers (m,).
    """
    flat = rows.flatten(1)
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), dtype=torch.int64)
    few = max(256, min(4096, 2**24 // flat.shape[1]))  # bounds the memory
    for start in range(0, len(data), few):
        gaps, found = nearest(flat, data[start : start + few].flatten(1))
        closer = gaps[:, 0] < best
        best = torch.where(closer, gaps[:, 0], best)
        index = torch.where(closer, found[:, 0] + start, index)
    unit = 0.5 if rows.ndim == 4 else 1.0
    return best * unit / flat.shape[1] ** 0.5, index


@plain_torch()
def by_class(
    model: AEOT,
    data: Dataset,
    *,
    seed: int = 0,
    columns: int = 12,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw generated images in one row for each class of the training image nearest to them.

    Args:
        model: The fitted model.
        data: What it was fitted to, with labels.
        seed: Of the generated images.
        columns: Images a row; the first so many of each class, in the order they came.
        path: Where to write the figure as well.

    Returns:
        The figure.

    Raises:
        ValueError: If `data` has no labels.
    """
    _check.instance("model", model, AEOT)
    columns = _check.integer("columns", columns)
    if not isinstance(data, Dataset) or data.labels is None:
        got = "none" if isinstance(data, Dataset) else _check.shown(data)
        raise _check.fail("data", "be a Dataset with labels", got)
    generated = model.sample(columns * 40, seed=seed)
    if data.shape != generated.shape[1:]:
        must = f"have rows of shape {tuple(generated.shape[1:])}"
        raise _check.fail("data", must, f"{data.shape}")
    labels = data.labels[nearest_rows(generated, data)[1]]
    rows = [generated[labels == k][:columns] for k in range(int(data.labels.max()) + 1)]
    blank = torch.ones(1, *data.shape)
    full = [torch.cat([r, blank.expand(columns - len(r), *data.shape)]) for r in rows]
    return pictures.image_grid(
        torch.cat(full),
        columns=columns,
        title="generated; a row for each class of the nearest training image, as they came",
        path=path,
    )


@plain_torch()
def longest_jump(
    model: AEOT,
    data: Dataset,
    *,
    seed: int = 0,
    lines: int = 100,
    path: str | os.PathLike | None = None,
) -> str:
    """Draw the farthest jump of the map between two classes, along random lines in the source.

    Args:
        model: The fitted model, of images.
        data: What it was fitted to, with labels.
        seed: Of the lines.
        lines: How many are followed.
        path: Where to write the figure: images of the map on both sides of the jump, and below
            them images of the straight line between the two codes.

    Returns:
        A sentence about it.

    Raises:
        ValueError: If `data` has no labels, or the model a map for each class.
    """
    if data.labels is None:
        raise _check.fail("data", "have labels", "none")
    if isinstance(model.brenier_, ConditionalMap):
        raise _check.fail("model", "have one map for all classes", "one for each", "see by_class")
    brenier, singular = model.brenier_, model.singular_
    if not isinstance(brenier, BrenierMap) or isinstance(singular, tuple):
        got, way_out = "one map for each class", "no map leads from one class to another"
        raise _check.fail("model", "have one map for all classes", got, way_out)
    sites = brenier.sites
    labels = data.labels[nearest(sites, model.encode(data).to(sites))[1][:, 0]]
    ends = brenier.source.sample(2 * lines, generator=generator(seed, "jump")).to(sites)
    best = -1.0
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        found = singular.crossings(start, end)
        between = labels[found.pairs[:, 0]] != labels[found.pairs[:, 1]]
        jumps = torch.where(between, found.jumps, -torch.inf)
        if len(jumps) > 2 and float(jumps[1:-1].max()) > best:
            row = int(jumps[1:-1].argmax()) + 1
            best, kept, line = float(jumps[row]), (found, row), (start, end)
    if best < 0:
        return "no line between two classes was found"
    (found, row), (start, end) = kept, line
    i, j = found.pairs[row].tolist()
    before, at, after = found.positions[row - 1 : row + 2].tolist()
    t = torch.linspace(0, 1, 12).to(sites)[:, None]
    half = 0.999 * min(at - before, after - at)  # inside the two cells
    points = start + (at - half + 2 * half * t) * (end - start)
    codes = brenier.extend(points, singular, model.extension, generator=generator(seed, "path"))
    blended = model.decode(sites[i] + t * (sites[j] - sites[i]))
    crossing(model.decode(codes), blended, breaks=[0.5], path=path)
    first, second = (data.classes[labels[k]] for k in (i, j))
    share = float((singular.facets.jumps < best).double().mean())
    cut = "cut" if bool(found.singular[row]) else "not cut by the default rule"
    return (
        f"the map's farthest on {lines} lines, {first} to {second}: longer than {share:.1%} of all "
        f"jumps, {cut}"
    )


def _ends(model: AEOT, shown: Dataset) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return six pairs of rows, of one class each where the model has classes."""
    if not isinstance(model.brenier_, ConditionalMap):
        rows = shown[:12]
        return list(zip(rows[:-1:2], rows[1::2], strict=True))
    rows = shown[:60]
    cells = nearest(model.encode(rows), model.brenier_.sites.cpu())[1][:, 0]
    labels = model.brenier_.labels.cpu()[cells]
    own = [rows[labels == k] for k in labels.unique()]
    return [(few[0], few[1]) for few in own if len(few) > 1][:6]


def _draw_training(path: Path, model: AEOT, losses: Sequence[tuple[float, float]]) -> None:
    ends = {record["phase"]: record["step"] for record in model.history_["autoencoder"]}
    if len(losses) != sum(ends.values()):  # a resumed run saw its last steps only
        losses = [(record["step"], record["loss"]) for record in model.history_["autoencoder"]]
    steps, values = np.array(losses, dtype=float).T
    breaks = np.flatnonzero(np.diff(steps) <= 0)
    total = steps.copy()
    if len(breaks):
        total[breaks[0] + 1 :] = total[breaks[0]] + steps[breaks[0] + 1 :]
    bins = np.array_split(np.arange(len(total)), min(len(total), 150))
    pictures.training_curves(
        {"training": ([total[b].mean() for b in bins], [values[b].mean() for b in bins])},
        marks={"encoder frozen": float(total[breaks[0]])} if len(breaks) else None,
        path=path,
    )
