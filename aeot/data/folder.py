"""Folders of image files, converted in one documented way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.data.arrays import Dataset, Domains, domain, pairs, resize

_GRAY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_BROKEN = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)


@plain_torch()
def images(folder: str | os.PathLike, *, size: int = 64, channels: int | None = None) -> Dataset:
    """Read every image in a folder and its subfolders.

    The one way a file is converted: turned as its EXIF orientation says; transparency laid over
    white; 16-bit gray divided by 257 (more than 16 bits or floats: only if they fit that range or
    [0, 1]); palettes, CMYK and the like made RGB; cropped to the centred square; resized with
    antialiasing. Of an animation the first frame is taken. Files that cannot be read are named in
    a warning and skipped; files that are not images are passed over.

    Args:
        folder: Where to look. If every image lies in a subfolder, the first level of subfolders
            gives the labels.
        size: Height and width of the result in pixels.
        channels: 1 for gray, 3 for colour. None: gray if every file is.

    Returns:
        The images in the order of their paths; ``info["files"]`` names them and
        ``info["skipped"]`` the unreadable ones.

    Raises:
        ValueError: If the folder is missing, holds no image, or none can be read.
    """
    root = _folder(folder)
    size = _check.integer("size", size, minimum=4)
    if channels not in (None, 1, 3):
        raise _check.fail("channels", "be 1, 3 or None", _check.shown(channels))
    loaded, skipped = _read_all(_image_files(root), size)
    files = [path for path, _ in loaded]
    if channels is None:
        channels = max(pixels.shape[0] for _, pixels in loaded)
    values = torch.stack([_with_channels(pixels, channels) for _, pixels in loaded])
    tops = [path.relative_to(root).parts for path in files]
    labels: torch.Tensor | None = None
    classes: tuple[str, ...] = ()
    if all(len(parts) > 1 for parts in tops):
        classes = tuple(sorted({parts[0] for parts in tops}))
        number = {name: i for i, name in enumerate(classes)}
        labels = torch.tensor([number[parts[0]] for parts in tops])
    info = {
        "files": [str(path.relative_to(root)) for path in files],
        "skipped": [str(path.relative_to(root)) for path in skipped],
    }
    return Dataset(values, root.name, labels, classes, info)


@plain_torch()
def paired(
    a: str | os.PathLike | Dataset | ArrayLike,
    b: Dataset | ArrayLike | None = None,
    *,
    size: int = 256,
) -> Domains:
    """Put two collections side by side whose rows belong together, for translation with pairs.

    Args:
        a: A `Dataset` or anything `tensors` takes; or, without `b`, a folder: either with
            subfolders ``a`` and ``b`` that hold files of the same names (suffixes may differ), or
            with files that show a on their left half and b on their right half.
        b: As many rows, of the same height and width.
        size: Height and width to which files from a folder are brought.

    Returns:
        The two domains; ``pairs[i]`` is a row of each.

    Raises:
        ValueError: If the numbers of rows or their sizes differ, the folder is missing or empty,
            or a file has no partner.

    Example:
        >>> both = paired(torch.zeros(4, 2), torch.ones(4, 2))
        >>> [tuple(x.shape) for x in both[:3]]
        [(3, 2), (3, 2)]
    """
    if not isinstance(a, (str, os.PathLike)):
        if b is None:
            raise _check.fail("b", "be given unless a is a folder", f"a as {type(a).__name__}")
        return pairs(domain("a", a), domain("b", b))
    if b is not None:
        raise _check.fail("b", "be left out beside a folder", type(b).__name__)
    root, size = _folder(a), _check.integer("size", size, minimum=4)
    if (root / "a").is_dir() and (root / "b").is_dir():
        left, right = (_by_name(root / side) for side in ("a", "b"))
        alone = sorted(left.keys() ^ right.keys())
        if alone:
            got = f"no partner for {', '.join(alone[:5])}"
            raise _check.fail("folder", "hold the same names in a/ and b/", got)
        files = [(left[name], right[name]) for name in left]
    else:
        files = [(path, path) for path in _image_files(root)]
    halves = files[0][0] == files[0][1]
    rows = [_pair(first, second, halves, size) for first, second in files]
    channels = max(picture.shape[0] for row in rows for picture in row)
    sides = (
        Dataset(torch.stack([_with_channels(row[k], channels) for row in rows]), "ab"[k])
        for k in range(2)
    )
    return pairs(*sides)


def _by_name(side: Path) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in _image_files(side):
        other = named.setdefault(str(path.relative_to(side).with_suffix("")), path)
        if other is not path:
            got = f"{other.name} and {path.name} in {path.parent}"
            raise _check.fail("folder", "hold one file of each name", got, "remove one of them")
    return named


def _pair(first: Path, second: Path, halves: bool, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        left, right = _pixels(first), _pixels(second)
    except _BROKEN as error:
        raise ValueError(f"{first} cannot be read: {error}; remove that pair") from error
    if halves:
        half = left.shape[-1] // 2
        left, right = left[..., :half], right[..., right.shape[-1] - half :]
    return resize(left[None], size)[0], resize(right[None], size)[0]


def _folder(folder: str | os.PathLike) -> Path:
    root = Path(folder).expanduser()
    if not root.is_dir():
        got = f"{root}, a file" if root.exists() else f"{root}, which does not exist"
        raise _check.fail("folder", "be a folder of images", got)
    return root


def _image_files(root: Path) -> list[Path]:
    known = Image.registered_extensions()
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in known
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not files:
        raise _check.fail("folder", "hold images", f"none in {root}", "check the path")
    return files


def _read_all(files: list[Path], size: int) -> tuple[list[tuple[Path, torch.Tensor]], list[Path]]:
    def read(path: Path) -> torch.Tensor | str:
        try:
            return resize(_pixels(path)[None], size)[0]
        except _BROKEN as error:
            return str(error) or type(error).__name__

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        results = list(pool.map(read, files))
    loaded = [(p, r) for p, r in zip(files, results, strict=True) if isinstance(r, torch.Tensor)]
    broken = [(p, r) for p, r in zip(files, results, strict=True) if isinstance(r, str)]
    if broken:
        named = "; ".join(f"{path}: {reason}" for path, reason in broken[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        if not loaded:
            got = f"{len(broken)} unreadable file(s): {named}{more}"
            raise _check.fail("folder", "hold readable images", got)
        _check.warn(f"skipped {len(broken)} unreadable image(s): {named}{more}")
    return loaded, [path for path, _ in broken]


def _pixels(path: Path) -> torch.Tensor:
    """Read one file as uint8 (1 or 3, H, W)."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return torch.from_numpy(_deep_gray(np.asarray(picture)))[None]
        gray = picture.mode in _GRAY
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        pixels = torch.from_numpy(np.array(picture.convert("L" if gray else "RGB")))
    return pixels[None] if gray else pixels.permute(2, 0, 1).contiguous()


def _deep_gray(values: np.ndarray) -> np.ndarray:
    top = 1.0 if values.dtype.kind == "f" and values.max() <= 1 else 65535.0
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise ValueError("gray values beyond 16 bits")
    return np.rint(values * (255 / top)).astype(np.uint8)


def _with_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    if pixels.shape[0] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(3, -1, -1)
    red, green, blue = pixels.float()  # ITU-R 601 luma, as Pillow converts
    return (0.299 * red + 0.587 * green + 0.114 * blue).round().to(torch.uint8)[None]
