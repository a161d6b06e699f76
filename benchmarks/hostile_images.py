"""Image files that are damaged, hostile or merely odd, made of nothing: for tests and benchmarks.

`spoilt` gives files none of which can be read, `odd` files whose pictures are whole, and `special`
makes what is no regular file. Nothing here is larger than a megabyte, though some of it says so.
"""

import contextlib
import io
import os
import pickle
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, features

SIDE = 8


def picture(mode="L"):
    """A picture whose left half is dark and right half light, so that a turn shows."""
    levels = np.full((SIDE, SIDE), 40, np.uint8)
    levels[:, SIDE // 2 :] = 200
    return Image.fromarray(levels).convert(mode)


def saved(kind, mode="L", **options):
    """The bytes of that picture as a file."""
    file = io.BytesIO()
    picture(mode).save(file, kind, **options)
    return file.getvalue()


def chunk(name, body):
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, bits, colour, rows, extra=b"", *, end=True):
    """A PNG file of these rows, each with its filter byte in front; `extra` chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    body += chunk(b"IDAT", zlib.compress(rows, 9))
    return body + chunk(b"IEND", b"") if end else body


def tiff(width, height, bits, photometric, data, *, order="<", samples=1, form=1, **tags):
    """A TIFF file of one strip; `form` 1 unsigned, 2 signed, 3 float; tags as t284=("H", [2])."""
    fields = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * samples),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [0]),
        277: ("H", [samples]),
        278: ("I", [height]),
        279: ("I", [len(data)]),
        339: ("H", [form] * samples),
    }
    fields |= {int(name[1:]): value for name, value in tags.items()}
    fields = {number: field for number, field in sorted(fields.items()) if field is not None}
    place = 8 + 2 + 12 * len(fields) + 4
    later = b""
    entries = []
    for number, (code, values) in fields.items():
        raw = struct.pack(f"{order}{len(values)}{code}", *values)
        kind = {"B": 1, "H": 3, "I": 4, "b": 6, "f": 11}[code]
        if len(raw) > 4:
            later += raw
            raw = struct.pack(f"{order}I", place + len(later) - len(raw))
        entries.append([number, kind, len(values), raw.ljust(4, b"\0")])
    for entry in entries:
        if entry[0] == 273 and fields[273] == ("I", [0]):
            entry[3] = struct.pack(f"{order}I", place + len(later))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    head += struct.pack(f"{order}H", len(entries))
    head += b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + bytes(4) + later + data


def exif(*entries, order="<"):
    """An EXIF block of raw entries (tag, type, count, four bytes)."""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, raw in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + raw.ljust(4, b"\0")[:4]
    head = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + head + struct.pack(f"{order}I", 8) + body + bytes(4)


def jpeg_with(marker, body):
    """A JPEG file with one more segment."""
    plain = saved("JPEG", quality=95)
    return plain[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + plain[2:]


def spoilt():
    """Return name -> bytes of files that cannot be read, or must not be."""
    gray = b"".join(b"\0" + bytes(SIDE) for _ in range(SIDE))
    good_png, good_jpeg = saved("PNG"), saved("JPEG")
    good_gif, good_bmp = saved("GIF"), saved("BMP", "RGB")
    data = bytes(range(SIDE * SIDE))
    floats = np.full((SIDE, SIDE), 0.5, np.float32)

    def float_tiff(value):
        values = floats.copy()
        values[2, 3] = value
        return tiff(SIDE, SIDE, 32, 1, values.tobytes(), form=3)

    def header(kind, place, code, value):
        whole = bytearray(kind)
        struct.pack_into(code, whole, place, value)
        return bytes(whole)

    frame = good_jpeg.index(b"\xff\xc0")
    image = good_gif.index(b"\x2c")
    files = {
        "empty.png": b"",
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "header-cut.png": good_png[:20],
        "cut.png": good_png[:-30],
        "header-checksum.png": header(good_png, 29, ">I", 1),
        "no-width.png": png(0, 8, 8, 0, gray),
        "bomb.png": png(20_000, 20_000, 1, 0, bytes(200_000)),
        "bomb-of-pillow.png": png(60_000, 60_000, 1, 0, b""),
        "largest.png": png(2**31 - 1, 2**31 - 1, 16, 6, b""),
        "text-bomb.png": png(
            8, 8, 8, 0, gray, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))
        ),
        "text-bomb-2.png": png(
            8, 8, 8, 0, gray, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**26)))
        ),
        "texts.png": png(
            8, 8, 8, 0, gray, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))) * 80
        ),
        "profile-bomb.png": png(
            8, 8, 8, 0, gray, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26)))
        ),
        "no-data.png": good_png[:33] + chunk(b"IEND", b""),
        "no-zlib.png": good_png[:33]
        + chunk(b"IDAT", b"\x78\x9c\xff\xff\xff")
        + chunk(b"IEND", b""),
        "unknown-filter.png": png(8, 8, 8, 0, gray.replace(b"\0", b"\x09", 1)),
        "few-rows.png": png(8, 8, 8, 0, gray[:30]),
        "three-bits.png": png(8, 8, 3, 0, gray),
        "colour-5.png": png(8, 8, 8, 5, gray),
        "short-transparency.png": png(8, 8, 8, 0, gray, chunk(b"tRNS", b"\0")),
        "unknown-chunk.png": good_png[:33] + b"\0\0\0\4\x01\x02\x03\x04ABCD....",
        "two-bytes.jpg": b"\xff\xd8",
        "cut.jpg": good_jpeg[: len(good_jpeg) // 3],
        "cut-scan.jpg": good_jpeg[:-12],
        "no-height.jpg": header(good_jpeg, frame + 5, ">H", 0),
        "largest.jpg": header(header(good_jpeg, frame + 5, ">H", 65_500), frame + 7, ">H", 65_500),
        "noise-behind.jpg": b"\xff\xd8\xff" + bytes(range(255)),
        "segment-beyond.jpg": good_jpeg[:2] + b"\xff\xe2\xff\xff" + b"x" * 100,
        "nine-components.jpg": header(good_jpeg, frame + 9, ">B", 9),
        "twelve-bits.jpg": header(good_jpeg, frame + 4, ">B", 12),
        "signature.gif": b"GIF89a",
        "no-frame.gif": good_gif[:image] + b"\x3b",
        "largest.gif": header(header(good_gif, 6, "<H", 65_535), 8, "<H", 65_535),
        "cut.gif": good_gif[: image + 12],
        "frame-cut.gif": good_gif[: image + 6],
        "code-size.gif": header(good_gif, image + 10, "<B", 99),
        "header-cut.bmp": good_bmp[:20],
        "cut.bmp": good_bmp[:-40],
        "largest.bmp": header(header(good_bmp, 18, "<i", 2**30), 22, "<i", 2**30),
        "seven-bits.bmp": header(good_bmp, 28, "<H", 7),
        "compression-9.bmp": header(good_bmp, 30, "<I", 9),
        "header-size.bmp": header(good_bmp, 14, "<I", 2**31),
        "signature.tif": b"II*\0",
        "beyond.tif": b"II*\0" + struct.pack("<I", 2**31),
        "no-size.tif": tiff(8, 8, 8, 1, data, t256=None),
        "size-of-text.tif": tiff(8, 8, 8, 1, data, t256=("f", [8.5])),
        "largest.tif": tiff(2**31, 2**31, 8, 1, data),
        "largest-tile.tif": tiff(
            8,
            8,
            8,
            1,
            data,
            t322=("I", [2**20]),
            t323=("I", [2**20]),
            t324=("I", [8]),
            t325=("I", [64]),
        ),
        "compression.tif": tiff(8, 8, 8, 1, data, t259=("H", [60_001])),
        "no-deflate.tif": tiff(8, 8, 8, 1, data, t259=("H", [8])),
        "strip-beyond.tif": tiff(8, 8, 8, 1, data, t273=("I", [2**31])),
        "no-strips.tif": tiff(8, 8, 8, 1, data, t273=None),
        "60000-samples.tif": tiff(8, 8, 8, 1, data, t277=("H", [60_000])),
        "five-bits.tif": tiff(8, 8, 5, 1, data),
        "tags-beyond.tif": b"II*\0" + struct.pack("<IH", 8, 60_000),
        "huge-tag.tif": b"II*\0" + struct.pack("<IHHHII", 8, 1, 258, 3, 2**31, 8) + bytes(4),
        "signed-bytes.tif": tiff(8, 8, 8, 1, data, form=2),
        "planes-16.tif": tiff(8, 8, 16, 2, bytes(384), samples=3, t284=("H", [2])),
        "nan.tif": float_tiff(np.nan),
        "infinite.tif": float_tiff(np.inf),
        "negative.tif": float_tiff(-0.5),
        "too-bright.tif": float_tiff(1e30),
        "some-light.tif": float_tiff(3.5),
        "negative-integers.tif": tiff(8, 8, 32, 1, np.full(64, -9, "<i4").tobytes(), form=2),
        "no-pixels.ppm": b"P6 8 8 255\n",
        "largest.ppm": b"P6 60000 60000 255\n" + bytes(99),
        "no-maximum.pgm": b"P5 8 8 0\n" + bytes(64),
        "letters.pgm": b"P2 8 8 255\n" + b"ten " * 64,
        "no-scale.pfm": b"Pf 8 8 0.0\n" + bytes(256),
        "long-number.ppm": b"P6 " + b"9" * 5000 + b" 8 255\n",
        "text.png": b"no picture\n" * 30,
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
        "archive.png": b"PK\x03\x04" + bytes(60),
        "pickle.png": pickle.dumps({"a": 1}),
        "noise.jpg": np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes(),
        "zeros.tif": bytes(4000),
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(12),
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
        "layers.psd": b"8BPS\0\1" + bytes(20),
        "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
        "camera.NEF": b"MM\0*" + bytes(100),
        "line\nbreak.png": b"x",
    }
    for kind, suffix, mode in (
        ("WEBP", "webp", "RGB"),
        ("JPEG2000", "jp2", "L"),
        ("AVIF", "avif", "RGB"),
    ):
        if not features.check({"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}[kind]):
            continue
        whole = saved(kind, mode)
        files[f"cut.{suffix}"] = whole[: len(whole) // 2]
        files[f"head.{suffix}"] = whole[:16]
        files[f"noise.{suffix}"] = whole[:-30] + b"\xff" * 30 if suffix != "jp2" else whole[:-8]
        if suffix == "jp2":
            codes = whole.index(b"\xff\x4f\xff\x51")
            big = header(header(whole, codes + 8, ">I", 2**31 - 1), codes + 12, ">I", 2**31 - 1)
            files["largest.jp2"] = big
            files["components.jp2"] = header(whole, codes + 40, ">H", 16_384)
        if suffix == "webp":
            canvas = struct.pack("<I", 0x10) + (16_382).to_bytes(3, "little") * 2
            body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + whole[12:]
            files["largest.webp"] = b"RIFF" + struct.pack("<I", len(body)) + body
    return files


def special(folder):
    """Make in a folder what is no regular file of an image; return the names."""
    names = ["pipe.png", "nowhere.png", "itself.png", "folder.png", "endless.png"]
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "folder.png").mkdir()
    (folder / "endless.png").symlink_to("/dev/zero")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:  # of a short path only
        end.bind(os.path.relpath(folder / "socket.png"))
        names.append("socket.png")
    with contextlib.suppress(OSError):  # where names are bytes
        strange = os.path.join(os.fsencode(folder), b"bytes-\xff\xfe.png")
        with open(strange, "wb") as file:
            file.write(b"x")
        names.append(os.fsdecode(b"bytes-\xff\xfe.png"))
    return names


def odd():
    """Return name -> bytes of files whose picture is whole, whatever else is in them."""
    turned = (0x0112, 3, 1, struct.pack("<H", 1))
    blocks = {
        "short": b"Exif\0\0II*\0\x08\0\0\0\x05",
        "not-tiff": b"Exif\0\0" + b"x" * 40,
        "only-name": b"Exif\0\0",
        "beyond": b"Exif\0\0II*\0" + struct.pack("<I", 2**31),
        "zero-fraction": exif(turned, (0x011A, 5, 1, struct.pack("<I", 38))) + bytes(8),
        "text-of-numbers": exif((0x0112, 2, 4, b"abc\0")),
        "orientation-9": exif((0x0112, 3, 1, struct.pack("<H", 9))),
        "orientation-list": exif((0x0112, 3, 2, struct.pack("<HH", 1, 6))),
        "orientation-fraction": exif((0x0112, 5, 1, struct.pack("<I", 26))) + bytes(8),
        "unknown-type": exif((0x0112, 77, 1, b"\1"), (0x8769, 99, 9, b"\1")),
        "huge-count": exif((0x0112, 3, 2**31, b"\1"), (0x927C, 7, 2**32 - 1, b"\1")),
        "loop": exif((0x8769, 4, 1, struct.pack("<I", 8)), (0x8825, 4, 1, struct.pack("<I", 8))),
        "place-of-text": exif((0x8769, 2, 3, b"ab\0"), (0x8825, 12, 1, b"\1"), turned),
        "signed": exif((0x0112, 8, 1, struct.pack("<h", -3))),
        "big-endian": exif((0x0112, 3, 1, struct.pack(">H", 1)), order=">"),
        "thousand-entries": exif(*[(k, 3, 1, b"\1") for k in range(1000)]),
    }
    files = {f"exif-{name}.jpg": jpeg_with(0xE1, block) for name, block in blocks.items()}
    good = saved("PNG")
    files |= {
        f"exif-{name}.png": good[:33] + chunk(b"eXIf", block[6:]) + good[33:]
        for name, block in blocks.items()
        if len(block) > 6
    }
    data = picture().tobytes()
    files |= {
        "behind.png": good + b"more" * 500,
        "end-missing.png": good[:-12],
        "text.png": good[:33] + chunk(b"tEXt", b"name\0text") + good[33:],
        "profile.png": good[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(b"none")) + good[33:],
        "really-png.jpg": good,
        "really-jpeg.png": saved("JPEG", quality=95),
        "comment.jpg": jpeg_with(0xFE, bytes(60_000)),
        "pictures-beyond.jpg": jpeg_with(0xE2, b"MPF\0II*\0" + struct.pack("<I", 2**31)),
        "photoshop.jpg": jpeg_with(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0" + b"\xff" * 9),
        "adobe.jpg": jpeg_with(0xEE, b"Adob"),
        "pages-of-exif.tif": tiff(SIDE, SIDE, 8, 1, data, t34665=("I", [2**31])),
        "exif-loop.tif": tiff(SIDE, SIDE, 8, 1, data, t34665=("I", [8])),
        "resolution.tif": tiff(SIDE, SIDE, 8, 1, data, t282=("f", [0.0]), t283=("B", [0])),
        "\U0001f600 \u00e9.png": good,
        "tab\tname.png": good,
    }
    return files


def write(folder, files):
    """Write name -> bytes into a folder; return the names."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (Path(folder) / name).write_bytes(body)
    return list(files)
