"""Data sets by name: scikit-learn's digits, Fashion-MNIST and MNIST files, torchvision's sets."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from aeot import _check
from aeot._environment import plain_torch
from aeot.data import image_file
from aeot.data.arrays import Dataset, resize, resize_one

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "celeba")
_LARGEST = 2**30  # bytes of a set; all of EMNIST are fewer
_DEBIAN = Path("/usr/share/datasets")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGITS = tuple(str(digit) for digit in range(10))


@plain_torch()
def dataset(
    name: str = "digits",
    root: str | os.PathLike | None = None,
    *,
    split: str = "train",
    size: int | None = None,
    download: bool = False,
) -> Dataset:
    """Load a published data set; nothing is downloaded unless asked for.

    Args:
        name: "digits" (scikit-learn's 1 797 scans of 8 x 8 pixels, enlarged; always there),
            "mnist", "fashion-mnist", "cifar10" or "celeba".
        root: Folder to look in, laid out as torchvision does or holding the files themselves.
            None: ``$AEOT_DATA``, then ``./data``, then ``~/.cache/aeot``, and for Fashion-MNIST
            ``/usr/share/datasets/fashion-mnist``, where Debian's `dataset-fashion-mnist` puts it.
        split: "train" or "test". For digits the test part is every fifth scan of each class.
        size: Height and width in pixels. None: as published; 28 for digits (24 pixels in a margin
            of 2, as in MNIST), 64 for CelebA (its centred square).
        download: Let torchvision fetch a missing set into `root`.

    Returns:
        The split, with labels and class names where there are any.

    Raises:
        ValueError: If the name or split is unknown, the set is not there (the message says where
            it looked) or a file is damaged.

    Example:
        >>> data = dataset("digits")
        >>> len(data), data.shape, len(dataset("digits", split="test"))
        (1442, (1, 28, 28), 355)
    """
    _check.choice("name", name, NAMES)
    _check.choice("split", split, ["train", "test"])
    size = None if size is None else _check.integer("size", size, minimum=4)
    download = _check.flag("download", download)
    root = None if root is None else _check.path("root", root)
    roots = _roots(root)
    if name == "digits":
        return _digits(split, 28 if size is None else size)
    if name in ("mnist", "fashion-mnist"):
        images, labels = _idx_set(name, roots, split, download)
        classes = _FASHION if name == "fashion-mnist" else _DIGITS
    elif name == "cifar10":
        found = _open_published("cifar10", roots, download, train=split == "train")
        images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        labels, classes = torch.tensor(found.targets), tuple(found.classes)
    else:
        images, labels = _celeba(roots, split, 64 if size is None else size, download), None
        classes = ()
    images = images if size is None else resize(images, size)
    return Dataset(images, name, labels, classes)


def _roots(root: str | os.PathLike | None) -> list[Path]:
    if root is not None:
        path = _check.path("root", root)
        if not path.is_dir():
            raise _check.fail("root", "be a folder", str(path), "create it or leave root out")
        return [path]
    named = os.environ.get("AEOT_DATA")
    home = Path(os.path.expanduser("~"))  # stays ~ where nobody knows whose process this is
    kept = [home / ".cache" / "aeot"] if home.is_absolute() else []
    return [*([Path(named)] if named else []), Path("data"), *kept]


def _missing(name: str, looked: list[Path]) -> ValueError:
    places = ", ".join(dict.fromkeys(str(path) for path in looked))
    return ValueError(
        f"data set {name!r} was not found; looked in {places}; pass root=FOLDER, or download=True"
    )


def _digits(split: str, size: int) -> Dataset:
    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    margin = 2 if size >= 16 else 0
    images = torch.zeros(len(pixels), 1, size, size, dtype=torch.uint8)
    inner = slice(margin, size - margin)
    images[:, :, inner, inner] = resize(pixels, size - 2 * margin)
    rank = torch.zeros_like(labels)  # how many of the same class came before
    for digit in range(10):
        rank[labels == digit] = torch.arange(int((labels == digit).sum()))
    keep = (rank % 5 == 4) == (split == "test")
    return Dataset(images[keep], "digits", labels[keep], _DIGITS)


def _idx_set(
    name: str, roots: list[Path], split: str, download: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    folder = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name]
    places = [p for root in roots for p in (root, root / folder / "raw", root / name)]
    places.append(_DEBIAN / name)
    prefix = "train" if split == "train" else "t10k"
    for attempt in range(2):
        for place in places:
            pictures = _either(place, f"{prefix}-images-idx3-ubyte")
            kinds = _either(place, f"{prefix}-labels-idx1-ubyte")
            if pictures is not None and kinds is not None:
                images, labels = _read_idx(pictures, 3), _read_idx(kinds, 1)
                if len(images) != len(labels) or int(labels.max()) > 9:
                    got = f"{len(images)} images, {len(labels)} labels up to {int(labels.max())}"
                    raise ValueError(f"{place} is damaged: {got}; fetch it again")
                return images[:, None], labels.to(torch.int64)
        if attempt or not download:
            break
        getattr(_published(), folder)(roots[0], download=True)
    raise _missing(name, places)


def _either(place: Path, name: str) -> Path | None:
    return next((p for p in (place / name, place / f"{name}.gz") if p.is_file()), None)


def _read_idx(path: Path, ndim: int) -> torch.Tensor:
    """Read an IDX file of unsigned bytes: magic 0 0 8 ndim, sizes as big-endian int32, bytes."""
    start, sizes, body = 4 + 4 * ndim, [0], b""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            head = file.read(start)
            if len(head) == start and head[:4] == bytes([0, 0, 8, ndim]):
                sizes = np.frombuffer(head, dtype=">i4", offset=4).tolist()
            if min(sizes) > 0 and math.prod(sizes) <= _LARGEST:
                body = file.read(math.prod(sizes) + 1)  # a file of zeros unpacks without end
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from error
    if not body or len(body) != math.prod(sizes):
        what = f"it is no complete IDX file of {ndim} dimensions"
        raise ValueError(f"{path} is damaged: {what}; fetch it again")
    return torch.from_numpy(np.frombuffer(body, dtype=np.uint8).reshape(sizes).copy())


def _published() -> ModuleType:
    # Imported late: torchvision brings half of torch's compiler along, and digits need none of it.
    from torchvision import datasets

    return datasets


def _open_published(name: str, roots: list[Path], download: bool, **part: Any) -> Any:  # noqa: ANN401
    kind = getattr(_published(), {"cifar10": "CIFAR10", "celeba": "CelebA"}[name])
    damaged: list[Path] = []
    for root in roots:
        if root.is_dir():
            try:
                return kind(root, **part)  # which unpickles only files of the published MD5
            except RuntimeError:  # torchvision: not found or corrupted
                damaged += [path for path in [root / kind.base_folder] if path.exists()]
    if download:
        return kind(roots[0], download=True, **part)
    if damaged:
        way_out = "fetch it again, or pass download=True"
        raise ValueError(f"{damaged[0]} is not the whole published set {name!r}; {way_out}")
    raise _missing(name, roots)


def _celeba(roots: list[Path], split: str, size: int, download: bool) -> torch.Tensor:
    found = _open_published("celeba", roots, download, split=split)
    folder = Path(found.root) / found.base_folder / "img_align_celeba"
    room = image_file.Room(image_file.MAX_PIXELS)
    images = torch.empty(len(found), 3, size, size, dtype=torch.uint8)
    for image, name in zip(images, found.filename, strict=True):
        try:
            image[:] = image_file.read(folder / name, lambda x: resize_one(x, size), room=room)
        except Exception as error:  # a file can be damaged in any way
            raise ValueError(f"{folder / name} is damaged: {error}; fetch it again") from error
    return images
