"""One image file as bytes: depth, transparency and colour by one set of rules, whatever the file.

Every file may be damaged or hostile: only `FORMATS` are tried, the size is checked before anything
is decoded, and of the metadata only what changes the picture is read.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

# Not all that Pillow knows: it would start Ghostscript for an .eps.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_SUFFIXES = (  # of the files that are tried; what they are, their first bytes say
    ".png .apng .jpg .jpeg .jpe .jfif .gif .bmp .dib .tif .tiff .webp .ppm .pgm .pbm .pnm .pfm"
    " .jp2 .j2k .j2c .jpc .jpf .jpx .mpo .avif .avifs"
)
SUFFIXES = frozenset(_SUFFIXES.split())
MAX_PIXELS = 2**26  # a camera's 60 megapixels; a pixel takes 10 to 20 bytes meanwhile

_STRIP = 2**18  # pixels
_NOWAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for
_GRAY = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _PLANES, _TILE, _SAMPLES = 258, 262, 284, (322, 323), 339  # tags of TIFF
# The raw mode that reads the other byte of 16 bits than this one
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_WHITES = {"f": (1.0, 255.0, 65535.0), "i": (255.0, 65535.0, 4294967295.0)}
_Read = TypeVar("_Read")
_ROUNDING = 1e-3  # of white: how far values may lie outside of [0, white]


class Unscaled(Exception):  # noqa: N818 - a question, not an error
    """A file of floats or long integers does not say what white is.

    Args:
        kind: "f" for floats, "i" for integers.
        largest: Its largest value.
    """

    def __init__(self, kind: str, largest: float) -> None:
        super().__init__(kind, largest)
        self.kind, self.largest = kind, largest


class Room:
    """Lets readers in while what they decode at once stays within a number of pixels.

    Args:
        pixels: That number; a larger image is refused.
    """

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    def check(self, width: int, height: int) -> int:
        """Return the pixels of an image of this size.

        Raises:
            ValueError: If there never is room for it.
        """
        if width * height > self._all:
            raise ValueError(f"{width} x {height} pixels, more than max_pixels={self._all}")
        return width * height

    @contextlib.contextmanager
    def of(self, width: int, height: int) -> Iterator[None]:
        """Wait for room for an image of this size, and keep it while it is read."""
        pixels = self.check(width, height)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def white_of(kind: str, largest: float) -> float | None:
    """Return what white is in floats or integers whose largest value is this one.

    It is the smallest of 1 (floats only), 255, 65535 and 4294967295 (integers only) that holds
    them; None if that would make all of them darker than a tenth of it, which may be another scale
    (12 bits, or more light than white), or if none does. Floats up to 1 may be as dark as they are.
    """
    for white in _WHITES[kind]:
        if largest <= white * (1 + _ROUNDING):
            return white if largest >= white / 10 or white == 1 or not largest else None
    return None


def read(
    path: Path, finish: Callable[[torch.Tensor], _Read], *, room: Room, white: float | None = None
) -> _Read:
    """Read one file, its first picture if it has several.

    Turned as its EXIF orientation says; transparency laid over white; 16 bits divided by 257;
    floats and integers of 32 bits by what white is; palettes, CMYK, YCbCr and LAB made RGB.

    Args:
        path: The file.
        finish: What to do with its pixels, uint8, (1, H, W) of gray files, else (3, H, W), while
            there is room for them.
        room: Where it waits until it may decode.
        white: What white is in floats and integers of 32 bits, or None if that is not known.

    Returns:
        What `finish` returns.

    Raises:
        Unscaled: If `white` is None and the file does not say it.
        Exception: Whatever Pillow raises for this file, or a ValueError of ours.
    """
    with _regular(path) as body, _opened(body) as file, room.of(*file.size):
        raw = _raw_mode(file)
        _check_layout(file, room)
        if file.mode in ("I", "F") or file.mode.startswith("I;16"):
            pixels = _deep_gray(file, white)
        elif raw == "LA;16B":  # of which Pillow would keep half, as colour
            pixels = _gray_with_alpha(file)
        elif raw.startswith(("RGB;16", "RGBX;16", "RGBA;16")):
            pixels = _deep_colour(body, file)
        else:
            pixels = _bytes(file, raw)
        file.close()  # frees what Pillow holds of it
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
        return finish(pixels)


def _regular(path: Path) -> BinaryIO:
    """Open a file, and nothing that could make a reader wait for ever."""
    # An open file rather than its name: Pillow would map it, and die if it shrinks meanwhile.
    body = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NOWAIT))  # noqa: SIM115
    status = os.fstat(body.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return body
    body.close()
    raise ValueError("an empty file" if stat.S_ISREG(status.st_mode) else "not a regular file")


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(body: BinaryIO) -> ImageFile.ImageFile:
    body.seek(0)
    try:
        return cast(ImageFile.ImageFile, Image.open(body, formats=_formats()))
    except UnidentifiedImageError as error:
        names = ", ".join(_formats())
        raise ValueError(f"damaged, or none of {names}") from error


def _raw_mode(file: ImageFile.ImageFile) -> str:
    """Return Pillow's name for how the samples lie in the file."""
    args = file.tile[0][3] if getattr(file, "tile", None) else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _check_layout(file: ImageFile.ImageFile, room: Room) -> None:
    """Refuse what Pillow would decode wrongly, or into more memory than the picture takes."""
    tags = getattr(file, "tag_v2", None)
    if tags is None:
        return
    if file.mode == "L" and _first(tags, _SAMPLES, 1) == 2:
        raise ValueError("signed bytes, which may mean anything; save it unsigned")
    if tags.get(_PLANES, 1) == 2 and file.tile[0][0] == "raw" and _first(tags, _BITS, 8) != 8:
        raise ValueError(f"planes of {_first(tags, _BITS, 8)} bits; save its samples together")
    room.check(*(int(tags.get(tag, 0)) for tag in _TILE))


def _first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _upright(file: ImageFile.ImageFile) -> Image.Image:
    """Turn a picture as its EXIF orientation says; a damaged one says nothing."""
    file.load()
    try:
        turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - of struct, arithmetic, types: as many as there are tags
        turn = None
    return file if turn is None else file.transpose(turn)


def _bytes(file: ImageFile.ImageFile, raw: str) -> torch.Tensor:
    gray = file.mode in _GRAY
    picture = _upright(file)
    if raw in ("L;2", "L;4") and "transparency" in picture.info:  # in the file's levels, not bytes
        levels = 3 if raw == "L;2" else 15
        picture.info["transparency"] = picture.info["transparency"] * 255 // levels
    transparent = picture.has_transparency_data

    def opaque(strip: Image.Image) -> Image.Image:
        if transparent:
            # Pillow turns no La into RGBA, but drops its transparency.
            strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        return strip.convert("L" if gray else "RGB")

    return torch.from_numpy(_samples(picture, opaque))


def _samples(
    picture: Image.Image, change: Callable[[Image.Image], Image.Image] = lambda strip: strip
) -> np.ndarray:
    """Return the samples of a picture, changed a strip at a time: Pillow copies them twice."""
    width, height = picture.size
    rows = max(1, _STRIP // width)
    samples: np.ndarray | None = None
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        strip = np.asarray(change(picture if rows >= height else picture.crop(box)))
        if samples is None:
            samples = np.empty((height, *strip.shape[1:]), strip.dtype)
        samples[top : top + rows] = strip
    assert samples is not None
    return samples


def _deep_gray(file: ImageFile.ImageFile, white: float | None) -> torch.Tensor:
    tags = getattr(file, "tag_v2", {})
    if file.mode.startswith("I;16"):
        white = 2.0 ** (_first(tags, _BITS, 16)) - 1
    elif file.format in ("PNG", "PPM") and file.mode == "I":
        white = 65535.0
    samples = _samples(_upright(file))
    if samples.dtype == np.int32 and tags and _first(tags, _SAMPLES, 1) == 1:
        samples = samples.view(np.uint32)
    if not np.isfinite(samples).all():
        raise ValueError("values that are NaN or infinite")
    low, high = float(samples.min()), float(samples.max())
    kind = "f" if samples.dtype.kind == "f" else "i"
    least = white or next((w for w in _WHITES[kind] if high <= w * (1 + _ROUNDING)), None)
    if least is None or high > least * (1 + _ROUNDING) or low < -least * _ROUNDING:
        limit = least or _WHITES[kind][-1]
        raise ValueError(f"values from {low:g} to {high:g}, not between 0 and {limit:g}")
    if white is None:
        raise Unscaled(kind, high)
    clear = file.info.get("transparency")
    opaque = None if clear is None else samples != clear
    # Of deep gray, Pillow leaves it to us that 0 may be white.
    inverted = bool(tags) and _first(tags, _PHOTOMETRIC, 1) == 0
    return _on_paper(white - samples if inverted else samples, white, opaque)


def _gray_with_alpha(file: ImageFile.ImageFile) -> torch.Tensor:
    # Read as four bytes a pixel: gray and alpha, the higher byte first.
    _set_raw_mode(file, "RGBA")
    samples = _samples(_upright(file)).view(">u2")
    return _on_paper(samples[..., 0], 65535, samples[..., 1])


def _deep_colour(body: BinaryIO, file: ImageFile.ImageFile) -> torch.Tensor:
    samples = _samples(_upright(file)).astype(np.uint16)
    samples <<= 8
    with _opened(body) as again:  # Pillow keeps one byte of two: the other one is read now
        raw = _raw_mode(again)
        _set_raw_mode(again, raw[:-1] + _OTHER[raw[-1]])
        samples |= _samples(_upright(again))
    alpha = samples[..., 3] if samples.shape[-1] == 4 else None
    if "transparency" in file.info:
        alpha = (samples != np.array(file.info["transparency"], np.uint16)).any(-1)
    return _on_paper(samples[..., :3], 65535, alpha)


def _set_raw_mode(file: ImageFile.ImageFile, raw: str) -> None:
    tiles: list[Any] = list(file.tile)  # tuples; named ones since Pillow 11
    for k, tile in enumerate(tiles):
        args = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        tiles[k] = tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)
    file.tile = tiles


def _on_paper(samples: np.ndarray, white: float, alpha: np.ndarray | None) -> torch.Tensor:
    """Bring samples to bytes, laid over white as transparent as alpha says; rounded once.

    Args:
        samples: (H, W) or (H, W, 3) in [0, white], up to rounding.
        white: What white is.
        alpha: (H, W), bool or uint16: the largest is opaque. None: all is.
    """
    pixels = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), 64):  # bounds the memory of the floats
        rows = slice(top, top + 64)
        light = samples[rows].astype(np.float64) / white
        if alpha is not None:
            cover = alpha[rows] / (1.0 if alpha.dtype == bool else 65535.0)
            cover = cover[..., None] if light.ndim == 3 else cover
            light = light * cover + (1 - cover)
        pixels[rows] = np.rint(light * 255).clip(0, 255)
    return torch.from_numpy(pixels)
