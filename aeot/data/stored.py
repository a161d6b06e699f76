"""Images in a file, read row by row when they are asked for: for more of them than memory holds."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from aeot import _check, _io

_OFFSET = 128  # bytes of the header, for any number of images
_LONGEST = 1 << 26  # bytes of a record


class _Open(io.FileIO):
    """A file that is closed when nobody is left who reads from it."""

    def __del__(self) -> None:
        self.close()


class StoredRows:
    """Images, uint8, in a .npy file: what `Dataset.values` is where memory does not hold them.

    The file holds (n, H, W), (n, C, H, W) or (n, H, W, C), as `tensors` takes them. Indexing reads
    the rows that are asked for, and keeps nothing. `only` chooses rows without reading them. The
    file stays open: one that is deleted meanwhile can still be read.

    Args:
        path: Of the file.
        rows: Which rows of it these are (n,), int64; None: all.
        device: Where rows are put.

    Attributes:
        shape: (n, C, H, W).
        dtype: torch.uint8.
        device: Where rows are put.

    Raises:
        ValueError: If the file holds anything else.

    Example:
        >>> import aeot, numpy, os, tempfile
        >>> from aeot.data.stored import StoredRows
        >>> file = os.path.join(tempfile.mkdtemp(), "images.npy")
        >>> numpy.save(file, numpy.zeros((50, 8, 8), dtype="uint8"))
        >>> data = aeot.data.Dataset(StoredRows(file), "images")
        >>> data.shape, float(data[3:5].max())
        ((1, 8, 8), -1.0)
    """

    def __init__(
        self,
        path: str | os.PathLike,
        rows: torch.Tensor | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.path, self.device, self.dtype = Path(path), torch.device(device), torch.uint8
        self._file = _Open(self.path)
        shape = _shape(self._file, self.path)
        self._last = len(shape) == 4 and shape[1] not in (1, 3)  # channels come last
        self._stored = shape[1:]
        if len(shape) == 3:
            shape = (shape[0], 1, *shape[1:])
        elif self._last:
            shape = (shape[0], shape[3], *shape[1:3])
        self._start, self._lock = self._file.tell(), threading.Lock()
        self._rows = torch.arange(shape[0]) if rows is None else rows
        self.shape = torch.Size([len(self._rows), *shape[1:]])

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRows, (self.path, self._rows, self.device)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Sequence[int] | torch.Tensor) -> torch.Tensor:
        rows = self._rows[index.cpu() if isinstance(index, torch.Tensor) else index]
        flat, order = rows.flatten().sort()
        out = np.empty((len(flat), *self._stored), dtype=np.uint8)
        size = int(np.prod(self.shape[1:]))
        # Rows that follow each other are read together.
        ends = (flat.diff() != 1).nonzero()[:, 0].add(1).tolist()
        for first, last in zip([0, *ends], [*ends, len(flat)], strict=True):
            if first < last:
                body = self._read(self._start + int(flat[first]) * size, (last - first) * size)
                out[first:last] = np.frombuffer(body, np.uint8).reshape(out[first:last].shape)
        found = torch.empty(out.shape, dtype=torch.uint8)
        found[order] = torch.from_numpy(out)
        if self._last:
            found = found.permute(0, 3, 1, 2).contiguous()
        return found.view(*rows.shape, *self.shape[1:]).to(self.device)

    def only(self, index: slice | Sequence[int] | torch.Tensor) -> StoredRows:
        """Return some of the rows, which stay where they are."""
        return self._like(self._rows[index.cpu() if isinstance(index, torch.Tensor) else index])

    def to(self, device: str | torch.device) -> StoredRows:
        """Return the same rows, read to another device."""
        return self._like(self._rows, torch.device(device))

    def _like(self, rows: torch.Tensor, device: torch.device | None = None) -> StoredRows:
        other = object.__new__(StoredRows)
        vars(other).update(vars(self))
        other._rows, other.device = rows, device or self.device
        other.shape = torch.Size([len(rows), *self.shape[1:]])
        return other

    def _read(self, start: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            body = b""
            while len(body) < count:
                part = os.pread(self._file.fileno(), count - len(body), start + len(body))
                if not part:
                    break
                body += part
        else:
            with self._lock:
                self._file.seek(start)
                body = self._file.read(count)
        if len(body) != count:
            raise _io.Damaged(f"{self.path} has changed: it ends before row {self.shape[0]}")
        return body


def _shape(file: BinaryIO | io.FileIO, path: Path) -> tuple[int, ...]:
    """Return the shape of the images in an open .npy file, and go to the first of them."""
    try:
        version = np.lib.format.read_magic(file)
        older, newer = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, fortran, dtype = (older if version == (1, 0) else newer)(file)
    except ValueError as error:
        raise _check.fail("path", "be a .npy file", f"{path}: {error}") from error
    many = len(shape) == 4 and not {1, 3}.isdisjoint((shape[1], shape[3]))
    if dtype != np.uint8 or fortran or 0 in shape or not (many or len(shape) == 3):
        got = f"{path} with {dtype} of shape {shape}" + " in Fortran's order" * fortran
        must = "hold images (n, H, W), (n, C, H, W) or (n, H, W, C) as bytes, C = 1 or 3"
        raise _check.fail("path", must, got)
    return shape


def write_record(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Write plain values behind the images in a file, as an array of its own: bytes of JSON."""
    with open(path, "ab") as file:
        np.save(file, np.frombuffer(json.dumps(record).encode(), np.uint8))


def read_record(path: str | os.PathLike) -> dict[str, Any] | None:
    """Return the values that `write_record` wrote; None if there are none."""
    try:
        with open(path, "rb") as file:
            file.seek(int(np.prod(_shape(file, Path(path)))), os.SEEK_CUR)
            rest = io.BytesIO(file.read(_LONGEST))
        if np.lib.format.read_magic(rest) != (1, 0):
            return None
        np.lib.format.read_array_header_1_0(rest)
        return _io.parse_json(rest.read(), dict)
    except (OSError, ValueError):
        return None


class RowWriter:
    """A .npy file of images in the making; images may come in any order, from several threads.

    Args:
        path: The file.
        n: How many images there may be.
        shape: Of one of them, (C, H, W).

    Attributes:
        error: What the disk said, if it refused.
    """

    def __init__(self, path: Path, n: int, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.error: OSError | None = None
        self._row, self._lock = int(np.prod(shape)), threading.Lock()
        _io.check_space(path, n * self._row)
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by `close`

    def put(self, place: int, pixels: torch.Tensor) -> None:
        """Write an image (C, H, W), bytes, in its place."""
        try:
            with self._lock:
                self._file.seek(_OFFSET + place * self._row)
                self._write(pixels.contiguous().numpy().tobytes())
        except OSError as error:
            self.error = error
            raise

    def _write(self, body: bytes) -> None:
        """Write all of it: a disk that is nearly full takes a part, and refuses the next."""
        while body:
            body = body[self._file.write(body) :]

    def close(self, places: Sequence[int], channels: int) -> None:
        """Move the images at these places, rising, to the front, and write the header.

        Args:
            places: Where images were written that shall stay.
            channels: How many of their channels shall stay, from the first on.
        """
        one = self._row // self.shape[0] * channels
        for row, place in enumerate(places):
            if row != place or channels != self.shape[0]:
                self._file.seek(_OFFSET + place * self._row)
                body = self._file.read(one)
                self._file.seek(_OFFSET + row * one)
                self._write(body)
        self._file.truncate(_OFFSET + len(places) * one)
        self._file.seek(0)
        shape = (len(places), channels, *self.shape[1:])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        assert self._file.tell() == _OFFSET, "headers of images are of one length"
        self._file.close()
