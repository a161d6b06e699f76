"""The data set all models share: uint8 images or float vectors, and endless batches."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from aeot import _check, _io
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot._rng import generator
from aeot.data.stored import StoredRows

_WIDE = 64  # bytes of a row, beyond which a digest stands for it
_BLOCK = 1 << 24  # bytes that are looked at together


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images or vectors; indexing gives what networks take.

    ``data[i]`` and ``data[index]`` (slice, list or tensor) return float32: images in [-1, 1],
    vectors as they are. Build one with `tensors`, `images`, `dataset` or `toy`.

    Attributes:
        values: Images (n, C, H, W), uint8 or float32 in [-1, 1], or vectors (n, d), float32; in
            memory, mapped into it, or images in a file (`aeot.data.stored.StoredRows`).
        name: What it is called in reports.
        labels: Class of each row (n,), int64, or None.
        classes: What the labels mean, or empty.
        info: Further facts. Toy sets: ``modes`` (k, 2), ``std`` and ``scale``. Folders:
            ``files`` and ``skipped``.
    """

    values: torch.Tensor | StoredRows
    name: str = "tensors"
    labels: torch.Tensor | None = None
    classes: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        kind = "images" if len(self.shape) == 3 else "vectors"
        told = f"{self.name!r}: {len(self)} {kind} of shape {self.shape}, "
        told += str(self.values.dtype).removeprefix("torch.")
        if isinstance(self.values, StoredRows):
            told += f" in {self.values.path}"
        elif len(self):
            low, high = self.values.aminmax()
            told += f" from {low:g} to {high:g}"
        if self.labels is not None:
            told += f", {len(self.classes) or len(self.labels.unique())} classes"
        return f"{type(self).__name__}({told})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: (C, H, W) or (d,)."""
        return tuple(self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int | slice | Sequence[int] | torch.Tensor) -> torch.Tensor:
        rows = self.values[index]
        return rows.to(torch.float32).div_(127.5).sub_(1) if rows.dtype == torch.uint8 else rows

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))

    def subset(self, index: slice | Sequence[int] | torch.Tensor) -> Dataset:
        """Return the rows `index` as a data set with the same name, classes and facts."""
        labels = None if self.labels is None else self.labels[index]
        info = {key: value for key, value in self.info.items() if key != "files"}
        values = self.values
        some = values.only(index) if isinstance(values, StoredRows) else values[index]
        return replace(self, values=some, labels=labels, info=info)

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data set with its values and labels on `device`."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, values=self.values.to(device), labels=labels)


@dataclass(frozen=True, eq=False)
class Domains:
    """Two data sets side by side: `paired` row by row, or two independent collections.

    Attributes:
        a: The first domain.
        b: The second domain.
        paired: Whether row i of `a` belongs to row i of `b`.
    """

    a: Dataset
    b: Dataset
    paired: bool

    @property
    def name(self) -> str:
        """The names of both domains."""
        return f"{self.a.name} / {self.b.name}"

    def __len__(self) -> int:
        return max(len(self.a), len(self.b))

    def __getitem__(
        self, index: int | slice | Sequence[int] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.paired:
            raise TypeError("unpaired domains have no common index; index .a and .b")
        return self.a[index], self.b[index]


@plain_torch()
def tensors(
    array: ArrayLike,
    labels: Any = None,  # noqa: ANN401 - numbers or names
    *,
    classes: Sequence[str] = (),
    value_range: tuple[float, float] = (-1.0, 1.0),
    name: str = "tensors",
) -> Dataset:
    """Make a data set of an array or tensor.

    Args:
        array: Images (n, H, W), (n, C, H, W) or (n, H, W, C) with C = 1 or 3, the first where
            both fit, or vectors (n, d). uint8 images are taken as they are, bool ones as black and
            white; others must lie in `value_range`, up to rounding. Double precision ends here:
            rows are float32. What needs no conversion is not copied: the data set then changes with
            the array.
        labels: Class of each row (n,), whole numbers from 0 or names, or None.
        classes: Names of the classes, in the order of the numbers; None given, names among the
            labels are sorted.
        value_range: What black and white are in images that are neither uint8 nor bool; in uint8
            images, too, if it is neither the default nor (0, 255). Vectors have none.
        name: What it is called in reports.

    Returns:
        The data set.

    Raises:
        ValueError: If the shape is none of the above, a value is not finite or out of range, the
            range has no width, float32 would merge vectors, or labels or classes do not fit.

    Example:
        >>> tensors([[0.0, 1.0], [2.0, 3.0]], labels=[0, 1])
        Dataset('tensors': 2 vectors of shape (2,), float32 from 0 to 3, 2 classes)
        >>> gray = tensors(torch.zeros(5, 8, 8), value_range=(0, 1))
        >>> gray.shape, float(gray[0].max())
        ((1, 8, 8), -1.0)
    """
    name, classes = _check.text("name", name), _classes(classes)
    argument = "array" if name == "tensors" else name  # as the caller spells it
    if isinstance(array, (str, os.PathLike)):
        way_out = "aeot.images(folder), numpy.load(file) or aeot.dataset(name) read it"
        raise _check.fail(argument, "be rows, not where they lie", _check.shown(array), way_out)
    black, white = _edges(value_range)
    values = _check.tensor(argument, array).detach()
    if values.dtype not in (torch.uint8, torch.bool):
        values = _check.array(argument, values)
    if values.ndim and len(values) == 0:
        raise _check.fail(argument, "hold at least one row", f"shape {tuple(values.shape)}")
    if values.ndim not in (2, 3, 4) or 0 in values.shape:
        requirement = "have shape (n, d), (n, H, W), (n, C, H, W) or (n, H, W, C)"
        raise _check.fail(argument, requirement, f"shape {tuple(values.shape)}")
    if values.ndim == 2:
        way_out = "vectors are taken in their own units"
        _check.unused("for vectors (n, d)", way_out, value_range=((black, white), (-1.0, 1.0)))
        given, values = values, values.to(torch.float32)
        if not bool(torch.isfinite(values).all()):
            largest = f"{float(given.abs().max()):g}"
            raise _check.fail(argument, "hold values below 3.4e38 (float32)", largest)
        if given.dtype == torch.float64:
            _check_rounding(argument, given, values)
    else:
        values = _channels_first(argument, values)
        if values.dtype == torch.bool:
            values = values.to(torch.uint8) * 255
        elif values.dtype != torch.uint8 or (black, white) not in ((-1, 1), (0, 255)):
            values = _to_unit(argument, values, black, white)
    return Dataset(values.contiguous(), name, *_labels(labels, len(values), classes))


def _classes(classes: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(classes, (list, tuple, np.ndarray)) or np.ndim(classes) != 1:
        raise _check.fail("classes", "be a list of names", _check.shown(classes))
    return tuple(
        _check.text("classes", name, "give names, in the order of the labels") for name in classes
    )


def rows_of(
    name: str, value: Dataset | ArrayLike, shape: tuple[int, ...]
) -> Dataset | torch.Tensor:
    """Return rows of this shape for an encoder: a data set as it is, uint8 images as one.

    Raises:
        ValueError: If the shape is another, or images are neither uint8 nor in [-1, 1].
    """
    if not isinstance(value, Dataset):
        value = _check.tensor(name, value).detach()
        if len(shape) == 3 and value.dtype == torch.uint8:
            value = tensors(value, name=name)
        else:
            value = _check.array(name, value)
            if len(shape) == 3:
                check_range(name, value)
    found = value.shape if isinstance(value, Dataset) else value.shape[1:]
    if tuple(found) != shape:
        whole = found if isinstance(value, Dataset) else value.shape
        raise _check.fail(name, f"hold rows of shape {shape}", f"shape {tuple(whole)}")
    return value


def check_range(name: str, images: torch.Tensor) -> None:
    """Raise an error if images are not in [-1, 1], up to rounding."""
    if images.numel() and float(images.abs().max()) > 1.001:
        got = f"values from {float(images.min()):g} to {float(images.max()):g}"
        way_out = f"aeot.tensors({name}, value_range=(black, white)) brings images there"
        raise _check.fail(name, "lie in [-1, 1]", got, way_out)


def _channels_first(argument: str, values: torch.Tensor) -> torch.Tensor:
    if values.ndim == 3:
        n, height, width = values.shape
        if width == 3 < min(n, height):
            _check.warn(
                f"{argument} of shape {(n, height, width)} is read as {n} gray images of "
                f"{height} x {width}; pass {argument}[None] if it is one image in colour"
            )
        return values[:, None]
    if values.shape[1] not in (1, 3) and values.shape[3] in (1, 3):
        values = values.permute(0, 3, 1, 2)
    if values.shape[1] not in (1, 3):
        raise _check.fail(argument, "have 1 or 3 channels", f"shape {tuple(values.shape)}")
    return values


def _check_rounding(argument: str, given: torch.Tensor, rounded: torch.Tensor) -> None:
    """Refuse vectors of which float32 keeps less than three digits of what tells rows apart."""
    size = max(abs(float(edge)) for edge in given.aminmax())
    spread = float(given.var(0, correction=0).mean().sqrt())
    # A constant has a spread, too, of its own rounding.
    if 1e-12 * size < spread < 1e-4 * size and float((given - rounded).abs().max()) > 1e-3 * spread:
        got = f"values up to {size:.10g} that vary by {spread:.3g}"
        way_out = f"subtract their mean: {argument} - {argument}.mean(0)"
        raise _check.fail(argument, "keep its differences in float32", got, way_out)


def _edges(value_range: tuple[float, float]) -> tuple[float, float]:
    try:
        black, white = (_check.real("value_range", edge) for edge in value_range)
    except (TypeError, ValueError):
        black = white = 0.0
    # 2 / width has to be finite, and the width, too
    if not sys.float_info.min <= white - black < math.inf:
        must = "be two finite numbers, black below white"
        way_out = "pass (0, 1), (0, 65535) or what black and white are"
        raise _check.fail("value_range", must, _check.shown(value_range), way_out)
    return black, white


def _to_unit(argument: str, values: torch.Tensor, black: float, white: float) -> torch.Tensor:
    low, high = float(values.min()), float(values.max())
    margin = (white - black) * 5e-4  # as in `check_range`
    if low < black - margin or high > white + margin:
        got = f"values from {low:.7g} to {high:.7g}"
        way_out = "say what black and white are with value_range=(black, white)"
        raise _check.fail(argument, f"lie in [{black:g}, {white:g}]", got, way_out)
    if (black, white) == (-1, 1) and low >= 0 and high > 0:
        _check.warn(
            "no image value is negative although black is -1; pass value_range=(0, 1) if black is 0"
        )
    out = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    for start in range(0, len(values), 1024):  # blocks bound the memory of the float64 copy
        block = values[start : start + 1024].double() - black
        out[start : start + 1024] = block.mul_(2 / (white - black)).sub_(1).clamp_(-1, 1)
    return out


def _labels(
    labels: Any,  # noqa: ANN401
    n: int,
    classes: tuple[str, ...],
) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    if labels is None:
        _check.unused("without labels", "pass labels, too", classes=(classes, ()))
        return None, classes
    requirement = f"be {n} whole numbers >= 0 or names, one per row"
    device = labels.device if isinstance(labels, torch.Tensor) else torch.device("cpu")
    table = _check.labels("labels", labels)
    if table.shape != (n,):
        raise _check.fail("labels", requirement, f"shape {table.shape}")
    if table.dtype.kind == "U":
        names, numbers = np.unique(table, return_inverse=True)
        if not classes:
            return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())
        known = {name: k for k, name in enumerate(classes)}
        if missing := [name for name in names.tolist() if name not in known]:
            way_out = _check.meant(missing[0], classes) or "name it in classes, too"
            must = f"be names of classes={_check.shown(classes)}"
            raise _check.fail("labels", must, repr(missing[0]), way_out)
        return torch.tensor([known[name] for name in table.tolist()]), classes
    if int(table.min()) < 0:
        raise _check.fail("labels", requirement, str(int(table.min())), "count classes from 0")
    if classes and (last := int(table.max())) >= len(classes):
        must = f"name every label from 0 to {last}"
        raise _check.fail("classes", must, f"{len(classes)} names")
    return torch.from_numpy(table).to(device), classes


def domain(name: str, value: Dataset | ArrayLike) -> Dataset:
    """Return a data set as it is, anything else through `tensors`."""
    if isinstance(value, Dataset):
        return value
    return tensors(value, name=name)


def digest(data: Dataset) -> dict[str, Any]:
    """Return what tells this data set from others: its rows, and a hash of some of them."""
    some = torch.linspace(0, len(data) - 1, min(len(data), 256)).long().to(data.values.device)
    parts = {"values": data.values[some]}
    if data.labels is not None:
        parts["labels"] = data.labels[some]
    return {"rows": len(data), "data": _io.digest(parts)[:16]}


def facts_of(data: Dataset) -> dict[str, Any]:
    """Return what a saved model says of what it was fitted to, as plain values."""
    found = digest(data)
    facts = {"name": data.name, "rows": found["rows"], "shape": list(data.shape)}
    return facts | {"classes": list(data.classes)[:100], "hash_of_some_rows": found["data"]}


@plain_torch()
def unpaired(a: Dataset | ArrayLike, b: Dataset | ArrayLike) -> Domains:
    """Put two independent collections side by side, for translation without pairs.

    Args:
        a: A `Dataset`, or anything `tensors` takes.
        b: The same; it may be longer or shorter.

    Returns:
        The two domains; `loader` draws from each in its own order.

    Raises:
        ValueError: If their rows differ in shape or one is empty.

    Example:
        >>> len(unpaired(torch.zeros(4, 2), torch.ones(6, 2)))
        6
    """
    a, b = domain("a", a), domain("b", b)
    if a.shape != b.shape:
        raise _check.fail("b", f"have rows of shape {a.shape} like a", str(b.shape))
    return Domains(a, b, paired=False)


def pairs(a: Dataset, b: Dataset) -> Domains:
    """Put two data sets side by side whose rows belong together (`paired` is the public face)."""
    if len(a) != len(b):
        raise _check.fail("b", f"have {len(a)} rows like a", str(len(b)))
    small, large = a.shape[-2:], b.shape[-2:]
    times = large[0] // small[0]  # images may be larger in b, as a generator that enlarges wants
    if large != (small if len(b.shape) < 3 else tuple(times * side for side in small)):
        must = f"have rows of size {small} like a, or a whole number of times as large"
        raise _check.fail("b", must, str(b.shape))
    return Domains(a, b, paired=True)


def indices(
    n: int, batch_size: int, *, seed: int = 0, start: int = 0, key: str = "batches"
) -> Iterator[torch.Tensor]:
    """Yield row numbers of shuffled batches without end.

    The batches cut one endless row of permutations of ``range(n)``, one permutation per epoch,
    so every row comes once an epoch and no batch is short. Batch k depends on (seed, k) alone.

    Args:
        n: Number of rows.
        batch_size: Rows per batch, B.
        seed: Of the permutations.
        start: The first batch to yield.
        key: Names an independent order for the same seed.

    Yields:
        Row numbers (B,), int64.

    Example:
        >>> batches = indices(6, 3)
        >>> sorted(torch.cat([next(batches), next(batches)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    n = _check.integer("n", n)
    batch_size = _check.rows("batch_size", batch_size, 2, way_out="choose a smaller one")
    position = _check.integer("start", start, minimum=0) * batch_size
    epoch, order = -1, torch.empty(0, dtype=torch.int64, device="cpu")
    while True:
        parts, missing = [], batch_size
        while missing:
            if position // n != epoch:
                epoch = position // n
                stream = generator(seed, key, epoch)
                order = torch.randperm(n, generator=stream, device="cpu")
            parts.append(order[position % n :][:missing])
            position += len(parts[-1])
            missing -= len(parts[-1])
        yield torch.cat(parts)


@plain_torch()
def loader(
    data: Dataset | Domains | ArrayLike, batch_size: int, *, seed: int = 0, start: int = 0
) -> Iterator[Any]:
    """Yield shuffled batches without end; batch k depends on (seed, k) alone.

    Training that stopped after k batches goes on exactly where it was with ``start=k``.

    Args:
        data: What to draw from: a `Dataset`, anything `tensors` takes, or `Domains`.
        batch_size: Rows per batch, B.
        seed: Of the order.
        start: The first batch to yield.

    Yields:
        Float32 rows (B, C, H, W) or (B, d); for `Domains` two of them, of the same rows when
        paired, each in an order of its own when not.

    Raises:
        ValueError: If `batch_size` or `start` is not a whole number in range.

    Example:
        >>> data = tensors(torch.arange(10.0)[:, None])
        >>> third = [b for b, _ in zip(loader(data, 4), range(3))][2]
        >>> bool((next(loader(data, 4, start=2)) == third).all())
        True
    """
    if not isinstance(data, Domains):
        data = domain("data", data)
    elif not data.paired:
        first = indices(len(data.a), batch_size, seed=seed, start=start, key="a")
        second = indices(len(data.b), batch_size, seed=seed, start=start, key="b")
        return ((data.a[i], data.b[j]) for i, j in zip(first, second, strict=True))
    return (data[i] for i in indices(len(data), batch_size, seed=seed, start=start))


@plain_torch()
def to_uint8(images: ArrayLike) -> torch.Tensor:
    """Turn images in [-1, 1] into bytes: the one way out, for files and metrics.

    Args:
        images: Any shape; values beyond [-1, 1] are clipped, and bytes stay what they are.

    Returns:
        uint8, the same shape.

    Raises:
        ValueError: If a value is NaN or infinite.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0, 2.0])).tolist()
        [0, 128, 255, 255]
    """
    found = _check.tensor("images", images).detach()
    if found.dtype == torch.uint8:
        return found
    return found.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@plain_torch()
def resize(images: ArrayLike, size: int) -> torch.Tensor:
    """Crop uint8 images to the centred square and resize them, antialiased bicubic.

    Every image in the package is resized here and nowhere else, because the way it is done moves
    Frechet distances.

    Args:
        images: (n, C, H, W), uint8.
        size: The new height and width.

    Returns:
        (n, C, size, size), uint8.

    Example:
        >>> resize(torch.zeros(1, 3, 20, 30, dtype=torch.uint8), 16).shape
        torch.Size([1, 3, 16, 16])
    """
    images = _check.tensor("images", images)
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise _check.fail("images", "be uint8 of shape (n, C, H, W)", _check.shown(images))
    return _resized(images, _check.integer("size", size))


def resize_one(image: torch.Tensor, size: int) -> torch.Tensor:
    """Do to one image (C, H, W) what `resize` does, in a thread of readers.

    Settings of torch are a thread's own, or set aside for all of them: it has none to put back.
    """
    return _resized(image[None], size)[0]


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images.contiguous()
    planes = images.flatten(0, 1)[:, None]
    out = torch.empty(len(planes), 1, size, size, dtype=torch.uint8)
    few = max(1, 2**24 // side**2)  # blocks bound the memory of the float copy
    for start in range(0, len(planes), few):
        block = planes[start : start + few].float()
        block = F.interpolate(block, (size, size), mode="bicubic", antialias=True)
        out[start : start + few] = block.round_().clamp_(0, 255).to(torch.uint8)
    return out.view(*images.shape[:2], size, size)


@plain_torch()
def low_high(data: Dataset | ArrayLike, factor: int = 2, *, enlarge: bool = True) -> Domains:
    """Make pairs for super-resolution: images with detail taken away beside the images themselves.

    Args:
        data: Images, as a `Dataset` or anything `tensors` takes, sides divisible by `factor`.
        factor: How many pixels along each side become one, at least 2. They are averaged.
        enlarge: Bring the small images back to the old size by bicubic interpolation, for networks
            that keep the size; False leaves them small, for ``Pix2Pix(generator="upscale")``.

    Returns:
        Paired domains: ``a`` blurred or small, ``b`` as given.

    Raises:
        ValueError: If `data` holds no images or `factor` does not divide their sides.

    Example:
        >>> low, high = low_high(torch.zeros(4, 1, 8, 8), factor=4)[:]
        >>> low.shape == high.shape
        True
    """
    data = domain("data", data)
    factor = _check.integer("factor", factor, minimum=2)
    _check.flag("enlarge", enlarge)
    if len(data.shape) != 3:
        raise _check.fail("data", "hold images (C, H, W)", f"rows of shape {data.shape}")
    if any(side % factor for side in data.shape[1:]):
        must = f"divide the sides of the images, {data.shape[1]} x {data.shape[2]}"
        raise _check.fail("factor", must, factor)
    parts = []
    for start in range(0, len(data), 1024):
        small = F.avg_pool2d(data[start : start + 1024], factor)
        if enlarge:
            small = F.interpolate(small, data.shape[1:], mode="bicubic").clamp_(-1, 1)
        parts.append(small)
    low = Dataset(torch.cat(parts), f"{data.name} at 1/{factor}", data.labels, data.classes)
    return pairs(low, data)


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the gray image of each in colour, (..., 3, H, W) to (..., 1, H, W), float32.

    That is ITU-R 601 luma, as Pillow converts.
    """
    red, green, blue = images.float().split(1, -3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@plain_torch()
def gray_colour(data: Dataset | ArrayLike) -> Domains:
    """Make pairs for colourisation: gray images beside the same in colour.

    Args:
        data: Images in colour, as a `Dataset` or anything `tensors` takes.

    Returns:
        Paired domains: ``a`` with one channel (ITU-R 601 luma), ``b`` as given.

    Raises:
        ValueError: If `data` holds no images in colour.

    Example:
        >>> gray, colour = gray_colour(torch.zeros(4, 3, 8, 8))[:]
        >>> gray.shape, colour.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4, 3, 8, 8]))
    """
    data = domain("data", data)
    if len(data.shape) != 3 or data.shape[0] != 3:
        must = "hold images in colour, (3, H, W)"
        raise _check.fail("data", must, f"rows of shape {data.shape}")
    parts = [luma(data[start : start + 1024]) for start in range(0, len(data), 1024)]
    gray = Dataset(torch.cat(parts).clamp_(-1, 1), f"gray {data.name}", data.labels, data.classes)
    return pairs(gray, data)


@plain_torch()
def distinct(rows: torch.Tensor | StoredRows) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the rows that are exactly equal.

    Of wide rows digests of 16 bytes are compared, block by block, so that none is copied whole.

    Args:
        rows: (n, ...), of any dtype; compared number by number.

    Returns:
        The first row of each kind, (k,) in rising order, and the kind of every row, (n,): row i
        equals row ``first[kind[i]]``.

    Example:
        >>> first, kind = distinct(torch.tensor([[1.0], [2.0], [1.0], [-0.0], [0.0]]))
        >>> first.tolist(), kind.tolist()
        ([0, 1, 3], [0, 1, 0, 2, 2])
    """
    width = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    few = max(1, _BLOCK // max(width, 1))
    tables = [_table(rows[k : k + few], width) for k in range(0, max(len(rows), 1), few)]
    table = np.concatenate(tables)
    keys = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))[:, 0]
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(first[order]), torch.from_numpy(rank[kind.reshape(-1)])


def _table(rows: torch.Tensor, width: int) -> np.ndarray:
    """Return numbers (m, k) that are equal where rows are: themselves, or digests of wide ones."""
    flat = rows.detach().cpu().flatten(1)
    flat = flat + 0.0 if flat.is_floating_point() else flat  # -0.0 equals 0.0
    table = np.ascontiguousarray(flat.numpy())
    if width <= _WIDE:
        return table
    digests = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in table)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)
