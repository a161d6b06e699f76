"""The command `aeot translate`: a translator between two collections of images."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path, PurePosixPath
from typing import Any

from aeot import _check
from aeot._environment import environment, resolve_device
from aeot.commands.directory import RunDirectory, passed_over
from aeot.data import Dataset, Domains, dataset, images, paired, unpaired
from aeot.data.named import NAMES
from aeot.gan.cyclegan import CycleGAN
from aeot.gan.pix2pix import Pix2Pix
from aeot.plotting import translation as pictures

_LOG = logging.getLogger(__name__)


def translate(
    model: CycleGAN,
    a: str,
    b: str,
    *,
    out: str = "runs/translation",
    size: int = 128,
    steps: int | None = None,
    every: int = 500,
    root: str | None = None,
    strict: bool = False,
    paired: bool = False,
    l1: float | None = None,
) -> str:
    """Train a translator between two collections of images; write the model and sample grids.

    A run that was stopped goes on where it was when it is started again with the same options.
    Where one collection is gray and the other in colour, the gray one is used as coloured.

    Args:
        model: The estimator, not fitted yet.
        a: A folder of images, or one class of a published set such as fashion-mnist:1.
        b: The other collection, named in the same way.
        out: The run directory: model/, checkpoint/, pictures/, config.yaml, log.jsonl,
            run.json. New, empty, or with an unfinished run of the same options.
        size: Height and width in pixels, a multiple of 4; 128 or 256 for photographs. Twice the
            size takes about four times as long.
        steps: Batches in all, at least 1; by default 200 passes over the larger collection.
        every: Training steps between two grids of translations in pictures/.
        root: Folder where published sets lie; not for folders of your own.
        strict: Refuse a folder in which a file cannot be read, instead of skipping the file.
        paired: Files of the same name in a and b belong together: train Pix2Pix, from a to b,
            instead of CycleGAN. Options that are not its own are refused.
        l1: Of Pix2Pix, the weight of the difference from the partner; by default 100.

    Returns:
        One line that says where everything is.

    Raises:
        ValueError: If anything given is unusable; then nothing was written.
    """
    translator = _with_pairs(model, l1) if paired else model
    if l1 is not None and not paired:
        raise _check.fail("l1", "be left out of a run that is not paired", l1, "pass --paired")
    resolve_device(model.device)
    if steps is not None:
        _check.integer("steps", steps)
    _check.integer("every", every)
    if _check.integer("size", size, minimum=4) % 4 and model.crop is None:
        raise _check.fail("size", "be a multiple of 4", size)
    folders = [Path(place).is_dir() for place in (a, b)]
    if all(folders):
        _check.unused("beside folders of your own", root=(root, None))
    if not any(folders):
        _check.unused("unless a or b is a folder", strict=(strict, False))
    first, second = (
        _collection(name, place, size, root, strict) for name, place in (("a", a), ("b", b))
    )
    if paired:
        data = _partners(first, second)
        first, second = data.a, data.b
    else:
        if first.shape[0] != second.shape[0]:  # gray photographs among coloured ones
            _LOG.info("one collection is gray and one in colour: both are used as coloured")
            first, second = _colour(first), _colour(second)
        data = unpaired(first, second)
    options = {"a": a, "b": b, "size": size, "root": root, **translator.arguments()}
    del options["device"]
    if model.decay:  # a constant rate can be prolonged; a falling one depends on the steps
        options["steps"] = steps
    with RunDirectory(out, options) as run:
        low = (size - (model.crop or size)) // 2
        inside = slice(low, low + (model.crop or size))  # of images loaded larger, the middle
        sides = [side[:8][..., inside, inside] for side in (first, second)]
        shown = (sides[0], None if paired else sides[1])
        grids = pictures.snapshots(translator, *shown, run.path / "pictures", every=every)

        def on_step(step: int, record: dict[str, float]) -> None:
            run.begin()
            grids(step, record)

        places: dict[str, Any] = {
            "checkpoint": run.path / "checkpoint",
            "log": run.path / "log.jsonl",
        }
        translator.fit(data, steps=steps, on_step=on_step, **places)
        translator.save(run.path / "model", overwrite=True)
        pictures.translations(translator, *shown, path=run.path / "pictures" / "final.png")
        facts = {"a": a, "b": b, "size": size, "steps": steps, "rows": [len(first), len(second)]}
        facts["passed over"] = [passed_over(first), passed_over(second)]
        facts |= {
            "environment": environment(resolve_device(model.device)),
            "history": translator.history_,
        }
        run.write("run.json", facts)
    where = f"{out}: the model in model/, grids of translations in pictures/"
    kind = type(translator).__name__
    return f"{where}\nnext: aeot.{kind}.load({str(out)!r}).translate(images, to='b'); aeot runs"


def _with_pairs(model: CycleGAN, l1: float | None) -> Pix2Pix:
    """Return the Pix2Pix of the options that were given for a CycleGAN."""
    defaults = {field.name: field.default for field in dataclasses.fields(CycleGAN)}
    given = {k: v for k, v in model.arguments().items() if v != defaults[k]}
    known = {field.name for field in dataclasses.fields(Pix2Pix)}
    for name, value in given.items():
        if name not in known:
            raise _check.fail(name, "be left out beside paired", value, "Pix2Pix has none")
    if l1 is not None:
        given["l1"] = l1
    translator = Pix2Pix(**given)
    if translator.upsampling != "transposed" or translator.n_blocks is not None:
        translator.generator = "resnet"
    return translator


def _partners(a: Dataset, b: Dataset) -> Domains:
    """Put images of the same name side by side."""
    rows = []
    for name, side in (("a", a), ("b", b)):
        if "files" not in side.info:
            raise _check.fail(name, "be a folder beside paired", "a class of a published set")
        files = (PurePosixPath(file).with_suffix("").as_posix() for file in side.info["files"])
        rows.append({file: row for row, file in enumerate(files)})
    for name, other, (mine, theirs) in (("a", "b", rows), ("b", "a", rows[::-1])):
        lonely = sorted(mine.keys() - theirs.keys())
        if lonely:
            must = f"hold a partner in {other} for each image"
            raise _check.fail(name, must, f"none for {lonely[0]!r}", "name both files alike")
    order = sorted(rows[0])
    sides = (side.subset([at[k] for k in order]) for side, at in zip((a, b), rows, strict=True))
    return paired(*sides)


def _collection(name: str, place: str, size: int, root: str | None, strict: bool) -> Dataset:
    if Path(place).is_dir():
        return images(place, size=size, strict=strict)
    known, colon, label = place.rpartition(":")
    if not colon or known not in NAMES:
        got, way_out = repr(place), "write a class of a published set as digits:3"
        raise _check.fail(name, "be a folder of images that exists", got, way_out)
    data = dataset(known, root=root, size=size)
    if not label.isdigit() or data.labels is None or not bool((data.labels == int(label)).any()):
        requirement = f"name a folder, or a class of {known} as {known}:0"
        raise _check.fail(name, requirement, repr(place))
    return data.subset((data.labels == int(label)).nonzero()[:, 0])


def _colour(side: Dataset) -> Dataset:
    if side.shape[0] == 3:
        return side
    values = side.values[:].expand(-1, 3, -1, -1).contiguous()
    return Dataset(values, side.name, side.labels, side.classes, side.info)
