"""Folders of image files: which files are read, what is said of the others, labels and pairs."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from aeot import __version__, _check, _io
from aeot._check import ArrayLike
from aeot._environment import plain_torch
from aeot.data import image_file
from aeot.data.arrays import Dataset, Domains, domain, luma, pairs, resize_one
from aeot.data.stored import RowWriter, StoredRows, read_record, write_record

# Images of formats that are not read: named, because their owner would miss them.
_UNREAD = (
    ".heic .heif .hif .svg .svgz .psd .psb .xcf .ai .eps .ps .jxl .jxr .wdp .hdp .exr .hdr .dds"
    " .tga .pcx .ico .icns .sgi .rgb .ras .xbm .xpm .fits .fit .dcm .nii .cr2 .cr3 .crw .nef .nrw"
    " .arw .srf .sr2 .orf .rw2 .raf .pef .dng .raw .3fr .erf .kdc .mrw .x3f .iiq .wmf .emf"
    " .cur .fli .flc .pcd .qoi .bpg .flif"
)
_FOREIGN = frozenset(_UNREAD.split())
_QUIET = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"))
_NAMED = 100  # files named in a warning; ``info`` names all
_Read = TypeVar("_Read")


@plain_torch()
def images(
    folder: str | os.PathLike,
    *,
    size: int = 64,
    channels: int | None = None,
    white: float | None = None,
    max_pixels: int = image_file.MAX_PIXELS,
    strict: bool = False,
    store: str | os.PathLike | None = None,
) -> Dataset:
    """Read every image in a folder and its subfolders.

    The one way a file is converted: turned as its EXIF orientation says; transparency laid over
    white; 16-bit samples divided by 257; palettes, CMYK and the like made RGB; cropped to the
    centred square; resized with antialiasing. Of an animation, and of several pages, the first is
    taken. PNG, JPEG, GIF, BMP, TIFF, WebP, PPM, JPEG 2000 and AVIF are read, whatever the name.

    Floats and integers of 32 bits do not say what white is. Unless `white` does, it is that of the
    brightest of them in the folder: the smallest of 1, 255 and 65535 (of integers 255, 65535 and
    4294967295) that holds its values up to a thousandth. Where that would leave the brightest
    below a tenth of white, it could be another scale: such files are skipped, and told why.

    One bad file does not end a folder: whatever is wrong with it, it is named in a warning and
    skipped, and images of other formats (.heic, .svg) are, too. Files that are no images are
    counted; hidden ones, and what desktops leave behind, are not. Links are followed; a file that
    is reached twice is taken once, under its own name rather than that of a link.

    Args:
        folder: Where to look. If every image lies in a subfolder, the first level of subfolders
            gives the labels.
        size: Height and width of the result in pixels.
        channels: 1 for gray, 3 for colour. None: gray if every file is.
        white: What white is in floats and integers of 32 bits; for instance 4095 of 12 bits.
        max_pixels: Files of more are skipped before they are decoded. All that is decoded at once
            has no more, either, at 10 to 20 bytes each: about a GiB by default.
        strict: Raise an error instead of skipping a file.
        store: A .npy file to keep the images in, for more of them than memory holds: they are
            written as they are read, and whatever is fitted to the data set reads the rows that it
            needs from there, with the same result. `numpy.load` reads it, too. One that the same
            call made before is taken up again, if no file's name, size or time has changed.

    Returns:
        The images in the order of their paths. ``info["files"]`` names them, ``info["skipped"]``
        the others and ``info["reasons"]`` why; ``info["repeated"]`` says which links lead to files
        taken already, and ``info["others"]`` counts files that are no images by suffix.

    Raises:
        ValueError: If the folder is missing, holds no image, or none can be read; with `strict`
            if one cannot; if `store` is another file.
    """
    root = _folder(folder)
    way_out = "choose a smaller one"
    size = _check.rows("size", size, 12 * _check.integer("size", size), minimum=4, way_out=way_out)
    strict = _check.flag("strict", strict)
    if channels is not None and _check.integer("channels", channels) not in (1, 3):
        raise _check.fail("channels", "be 1, 3 or None", _check.shown(channels))
    white, room = _limits(white, max_pixels)
    if store is not None:
        store = _store(store)
    found = _find(root)
    values: torch.Tensor | StoredRows
    loaded: dict[Path, Any]
    made_of: dict[str, Any] = {
        "size": size,
        "channels": channels,
        "white": white,
        "max_pixels": max_pixels,
    }
    if store is None:
        loaded = _read_all(found, lambda _, pixels: resize_one(pixels, size), white, room)
        _tell(found, len(loaded), strict)
        if channels is None:
            channels = max(pixels.shape[0] for pixels in loaded.values())
        values = torch.stack([_with_channels(pixels, channels) for pixels in loaded.values()])
    else:
        made_of |= {"version of aeot": __version__, "set of files": _digest(root, found.files)}
        if store.exists():
            loaded = _taken_up(store, found, made_of)
            _tell(found, len(loaded), strict)
        else:
            with _io.replacing(store) as fresh:
                loaded = _write_all(fresh, found, size, channels, white, room)
                _tell(found, len(loaded), strict)
                _note(fresh, found, made_of)
        values = StoredRows(store)
    tops = [path.relative_to(root).parts for path in loaded]
    labels: torch.Tensor | None = None
    classes: tuple[str, ...] = ()
    if all(len(parts) > 1 for parts in tops):
        classes = tuple(sorted({parts[0] for parts in tops}))
        number = {name: i for i, name in enumerate(classes)}
        labels = torch.tensor([number[parts[0]] for parts in tops])
    return Dataset(values, root.name, labels, classes, _info(root, found, list(loaded)))


def _store(store: str | os.PathLike) -> Path:
    """Return the path of a file that is new, or was made by `images`."""
    path = _check.path("store", store).absolute()
    if path.exists() and (path.is_dir() or read_record(path) is None):
        got = f"{path}, which is a folder" if path.is_dir() else f"{path}, which exists"
        way_out = "choose another name; aeot.data.stored.StoredRows reads what was stored before"
        raise _check.fail("store", "be a new file", got, way_out)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        there = "cannot be written" if path.parent.is_dir() else "does not exist"
        way_out = "make it, or choose another name"
        must = "lie in a folder that can be written"
        raise _check.fail("store", must, f"{path.parent}, which {there}", way_out)
    return path


def _digest(root: Path, files: list[Path]) -> str:
    """Return a hash of the names, sizes and times of files."""
    seen = hashlib.sha256()
    for path in files:
        told = path.stat() if path.exists() else None
        size, time = (told.st_size, told.st_mtime_ns) if told else (-1, -1)
        seen.update(os.fsencode(path.relative_to(root)) + f"\0{size} {time}\0".encode())
    return seen.hexdigest()


def _some(store: Path) -> str:
    """Return a hash of some of the images in a file."""
    rows = StoredRows(store)
    some = torch.linspace(0, len(rows) - 1, min(len(rows), 256)).long()
    return _io.digest({"rows": rows[some], "of": torch.tensor(len(rows))})


def _note(store: Path, found: _Found, made_of: dict[str, Any]) -> None:
    """Write behind the images what they were made of, and what was said of the others."""
    place = {path: k for k, path in enumerate(found.files)}
    reasons = {str(place[path]): why for path, why in found.skipped.items() if path in place}
    told = {"reasons": reasons, "notes": found.notes, "rows": _some(store)}
    write_record(store, {"made of": made_of, **told})


def _taken_up(store: Path, found: _Found, made_of: dict[str, Any]) -> dict[Path, None]:
    """Return which files the images in a store are of, and note what was said of the others.

    Raises:
        ValueError: If they are of other files, or were read in another way, or changed since.
    """
    known = read_record(store) or {}
    before: Any = known.get("made of")
    reasons: Any = known.get("reasons")
    notes: Any = known.get("notes")
    if not _io.fits(before, dict) or not _io.fits(reasons, dict[str, str]):
        raise _check.fail("store", "be whole", f"{store}, which is damaged", "delete it")
    if other := [name for name, value in made_of.items() if before.get(name) != value]:
        way_out = "choose another name, or delete it to read the images anew"
        must = "be new, or made of the same files in the same way"
        got = f"{store}, made with another {', another '.join(other)}"
        raise _check.fail("store", must, got, way_out)
    if known.get("rows") != _some(store):
        got, way_out = f"{store}, which has changed", "delete it to read the images anew"
        raise _check.fail("store", "hold what was written there", got, way_out)
    found.notes += notes if _io.fits(notes, list[str]) else []
    failed = {path: reasons.get(str(k)) for k, path in enumerate(found.files)}
    found.skipped |= {path: why for path, why in failed.items() if why is not None}
    return {path: None for path, why in failed.items() if why is None}


def _write_all(
    path: Path,
    found: _Found,
    size: int,
    channels: int | None,
    white: float | None,
    room: image_file.Room,
) -> dict[Path, int]:
    """Read what was found into a file; return how many channels each has that could be read."""
    wide = channels or 3
    writer = RowWriter(path, len(found.files), (wide, size, size))
    place = {file: k for k, file in enumerate(found.files)}

    def finish(file: Path, pixels: torch.Tensor) -> int:
        small = resize_one(pixels, size)
        writer.put(place[file], _with_channels(small, wide))
        return len(small)

    loaded = _read_all(found, finish, white, room)
    if writer.error is not None:  # else files would be skipped for it
        raise writer.error
    if channels is None:
        channels = max(loaded.values(), default=1)
    writer.close([place[file] for file in loaded], channels)
    return loaded


@plain_torch()
def paired(
    a: str | os.PathLike | Dataset | ArrayLike,
    b: Dataset | ArrayLike | None = None,
    *,
    size: int = 256,
    white: float | None = None,
    max_pixels: int = image_file.MAX_PIXELS,
    strict: bool = False,
) -> Domains:
    """Put two collections side by side whose rows belong together, for translation with pairs.

    Args:
        a: A `Dataset` or anything `tensors` takes; or, without `b`, a folder: either with
            subfolders ``a`` and ``b`` that hold files of the same names (suffixes may differ), or
            with files that show a on their left half and b on their right half. Files are read as
            by `images`; a pair of which one cannot be read is skipped and named. What follows is
            of folders alone.
        b: As many rows, of the same height and width; images may have both a whole number of times
            as large, for ``Pix2Pix(generator="upscale")``.
        size: Height and width to which files from a folder are brought.
        white: What white is in floats and integers of 32 bits, as in `images`; if None, each of
            the subfolders has its own.
        max_pixels: As in `images`.
        strict: Raise an error instead of skipping a pair.

    Returns:
        The two domains; ``pairs[i]`` is a row of each.

    Raises:
        ValueError: If the numbers of rows or their sizes differ, the folder is missing or empty,
            a file has no partner, or no pair can be read; with `strict` if one cannot.

    Example:
        >>> both = paired(torch.zeros(4, 2), torch.ones(4, 2))
        >>> [tuple(x.shape) for x in both[:3]]
        [(3, 2), (3, 2)]
    """
    if not isinstance(a, (str, os.PathLike)):
        if b is None:
            raise _check.fail("b", "be given unless a is a folder", f"a as {type(a).__name__}")
        given: dict[str, Any] = {
            "size": (size, 256),
            "white": (white, None),
            "strict": (strict, False),
        }
        given |= {"max_pixels": (max_pixels, image_file.MAX_PIXELS)}
        _check.unused("unless a is a folder", **given)
        return pairs(domain("a", a), domain("b", b))
    if b is not None:
        raise _check.fail("b", "be left out beside a folder", type(b).__name__)
    strict = _check.flag("strict", strict)
    root, size = _folder(a), _check.integer("size", size, minimum=4)
    white, room = _limits(white, max_pixels)
    if (root / "a").is_dir() and (root / "b").is_dir():
        found, rows = _sides(root, size, white, room)
    else:
        found = _find(root)
        halves = _read_all(found, lambda _, pixels: _halves(pixels, size), white, room)
        rows = {(path, path): row for path, row in halves.items()}
    _tell(found, len(rows), strict)
    channels = max(picture.shape[0] for row in rows.values() for picture in row)
    domains = (
        Dataset(
            torch.stack([_with_channels(row[k], channels) for row in rows.values()]),
            "ab"[k],
            info=_info(root, found, [files[k] for files in rows]),
        )
        for k in range(2)
    )
    return pairs(*domains)


def _sides(
    root: Path, size: int, white: float | None, room: image_file.Room
) -> tuple[_Found, dict[tuple[Path, Path], tuple[torch.Tensor, torch.Tensor]]]:
    """Read the subfolders a and b; return what was found, and files and images of each pair."""
    sides = [_find(root / side) for side in "ab"]
    first, second = (_by_name(root / k, side.files) for k, side in zip("ab", sides, strict=True))
    if alone := sorted(first.keys() ^ second.keys()):
        got = f"no partner for {', '.join(_shown(name) for name in alone[:5])}"
        raise _check.fail("folder", "hold the same names in a/ and b/", got)
    left, right = (
        _read_all(side, lambda _, pixels: resize_one(pixels, size), white, room) for side in sides
    )
    files = [(path, second[name]) for name, path in first.items()]
    rows = {(p, q): (left[p], right[q]) for p, q in files if p in left and q in right}
    found = _Found(
        skipped=sides[0].skipped | sides[1].skipped,
        repeated=sides[0].repeated | sides[1].repeated,
        others=sides[0].others + sides[1].others,
        notes=sides[0].notes + sides[1].notes,
    )
    return found, rows


def _by_name(side: Path, files: list[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(str(path.relative_to(side).with_suffix("")), path)
        if other is not path:
            got = f"{_shown(other.name)} and {_shown(path.name)} in {_shown(path.parent)}"
            raise _check.fail("folder", "hold one file of each name", got, "remove one of them")
    return named


def _halves(pixels: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    half = pixels.shape[-1] // 2
    left, right = pixels[..., :half], pixels[..., pixels.shape[-1] - half :]
    return resize_one(left, size), resize_one(right, size)


def _folder(folder: str | os.PathLike) -> Path:
    root = _check.path("folder", folder)
    if not root.is_dir():
        got = f"{root}, a file" if root.exists() else f"{root}, which does not exist"
        raise _check.fail("folder", "be a folder of images", got)
    return root


@dataclass
class _Found:
    """What lies in a folder.

    Attributes:
        files: What may be read, in the order of the paths.
        skipped: Images that are not read, and why.
        repeated: Links to what is there already, and under which name.
        others: How many other files there are of each suffix.
        notes: What else is to be said.
    """

    files: list[Path] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)
    repeated: dict[Path, Path] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def _find(root: Path) -> _Found:
    """Look through a folder and what links in it lead to, each file and folder once.

    Links are followed when all else has been seen, so that what is found both ways goes by its
    own name, and no loop is entered.
    """
    found = _Found()
    folders: dict[str, Path] = {}
    files: dict[str, Path] = {}
    linked: list[Path] = []

    def unopened(error: OSError) -> None:
        found.skipped[Path(error.filename)] = _reason(error)

    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            for place, inner, names in os.walk(start, onerror=unopened):
                here, real = Path(place), os.path.realpath(place)
                if real in folders:
                    found.repeated[here] = folders[real]
                    inner.clear()
                    continue
                folders[real] = here
                inner[:] = [name for name in inner if not _is_quiet(name)]
                links += [here / name for name in inner if (here / name).is_symlink()]
                for path in (here / name for name in names if not _is_quiet(name)):
                    suffix = path.suffix.lower()
                    if suffix in image_file.SUFFIXES:
                        if path.is_symlink():
                            linked.append(path)
                        else:
                            files[os.path.join(real, path.name)] = path
                    elif suffix in _FOREIGN:
                        found.skipped[path] = f"{suffix} is not read; save it as PNG"
                    else:
                        found.others[suffix or "no suffix"] += 1
        waiting = sorted(links)
    for path in sorted(linked):
        first = files.setdefault(os.path.realpath(path), path)
        if first is not path:
            found.repeated[path] = first
    found.files = sorted(files.values())
    parents = {parent for path in found.files for parent in path.parents}
    for path in folders.values():
        if path != root and path.suffix.lower() in image_file.SUFFIXES and path not in parents:
            found.skipped[path] = "a folder"
    if not found.files:
        named = [f"{count} {suffix}" for suffix, count in sorted(found.others.items())]
        named += [f"{_shown(path)}: {reason}" for path, reason in sorted(found.skipped.items())[:5]]
        got = f"none in {_shown(root)}" + (f" ({'; '.join(named)})" if named else "")
        raise _check.fail("folder", "hold images", got, "check the path")
    return found


def _is_quiet(name: str) -> bool:
    return name.startswith(".") or name.lower() in _QUIET


def _limits(white: float | None, max_pixels: int) -> tuple[float | None, image_file.Room]:
    white = None if white is None else _check.real("white", white, above=0)
    return white, image_file.Room(_check.integer("max_pixels", max_pixels))


def _read_all(
    found: _Found,
    finish: Callable[[Path, torch.Tensor], _Read],
    white: float | None,
    room: image_file.Room,
) -> dict[Path, _Read]:
    """Read what was found, hand each picture to `finish`, and note what could not be read."""

    def read(path: Path, white: float | None) -> _Read | image_file.Unscaled | str:
        try:
            return image_file.read(path, partial(finish, path), white=white, room=room)
        except image_file.Unscaled as question:
            return question
        except Exception as error:  # noqa: BLE001 - a file can be damaged in any way
            return _reason(error)

    results: dict[Path, Any] = {}
    # Pillow decodes outside the interpreter's lock. What it warns of is no error of a file, also
    # where warnings are errors.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        try:
            seen = pool.map(lambda path: read(path, white), found.files)
            results.update(zip(found.files, seen, strict=True))
            for kind in ("f", "i"):
                asked = {
                    path: result.largest
                    for path, result in results.items()
                    if isinstance(result, image_file.Unscaled) and result.kind == kind
                }
                scale = _scale(found, kind, asked)
                seen = pool.map(lambda path, scale=scale: read(path, scale), asked)
                results.update(zip(asked, seen, strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an interruption waits for no file
            raise
    for path, result in results.items():
        if isinstance(result, image_file.Unscaled):
            found.skipped[path] = (
                f"what is white cannot be told from values up to {result.largest:g}; "
                "pass white=, such as 1, 255 or 4095, to aeot.images"
            )
        elif isinstance(result, str):
            found.skipped[path] = result
    return {path: result for path, result in results.items() if path not in found.skipped}


def _scale(found: _Found, kind: str, largest: dict[Path, float]) -> float | None:
    """Return what is white in all these files, given the largest value of each."""
    own = {path: image_file.white_of(kind, value) for path, value in largest.items()}
    white = max((value for value in own.values() if value), default=None)
    darker = [path for path in own if own[path] not in (None, white) and largest[path] > 0]
    if white is not None and darker:
        brightest = max((p for p in own if own[p] == white), key=lambda path: largest[path])
        found.notes.append(
            f"white is {white:g} in all images of {'floats' if kind == 'f' else 'integers'}, as in "
            f"{_shown(brightest)}; {len(darker)} of them, such as {_shown(darker[0])}, have no "
            f"value above {own[darker[0]]:g}: pass white={own[darker[0]]:g} if that is white"
        )
    return white


def _reason(error: Exception) -> str:
    """Say in one line what is wrong with a file."""
    text = str(getattr(error, "strerror", None) or error)
    return " ".join(text.split())[:200] or type(error).__name__


def _shown(name: str | Path) -> str:
    """Return a name as it can be printed: any bytes may be in it."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _tell(found: _Found, loaded: int, strict: bool) -> None:
    """Warn of what was not read; raise an error if nothing was, or if nothing may be skipped."""
    lines = [f"{_shown(path)}: {reason}" for path, reason in sorted(found.skipped.items())]
    count = len(lines)
    told = "; ".join(lines[:_NAMED]) + (f"; and {count - _NAMED} more" * (count > _NAMED))
    if not loaded or (strict and lines):
        requirement = "hold readable images" if not loaded else "hold no other images if strict"
        got, way_out = f"{count} unreadable file(s): {told}", "repair or remove them"
        raise _check.fail("folder", requirement, got, way_out)
    if lines:
        _check.warn(f"skipped {count} unreadable image(s): {told}")
    if found.repeated:
        path, first = min(found.repeated.items())
        _check.warn(
            f"{len(found.repeated)} link(s) lead to what is in the folder already and is taken "
            f"once: {_shown(path)} is {_shown(first)}"
        )
    for note in found.notes:
        _check.warn(note)


def _info(root: Path, found: _Found, files: list[Path]) -> dict[str, Any]:
    def name(path: Path) -> str:
        return str(path.relative_to(root))

    reasons = {name(path): reason for path, reason in sorted(found.skipped.items())}
    return {
        "files": [name(path) for path in files],
        "skipped": list(reasons),
        "reasons": reasons,
        "repeated": {name(path): name(first) for path, first in sorted(found.repeated.items())},
        "others": dict(sorted(found.others.items())),
    }


def _with_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    if pixels.shape[0] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(3, -1, -1)
    return luma(pixels).round().to(torch.uint8)
