"""Every kind of file gives the bytes worked out by hand beside it."""

import io
import struct
import zlib

import numpy as np
import pytest
from hostile_images import chunk, exif, png, saved, tiff
from PIL import Image, ImageOps, features

import aeot

ORIENTATION_3 = exif((0x0112, 3, 1, struct.pack("<H", 3)))[6:]  # half a turn


def rows(left, right, *, filtered=True):
    """Eight rows, each four times the bytes of one pixel and four times those of another."""
    return ((b"\0" if filtered else b"") + left * 4 + right * 4) * 8


def gray16(*values, order=">"):
    return struct.pack(f"{order}{len(values)}H", *values)


def a_png(bits, colour, left, right, extra=b""):
    return png(8, 8, bits, colour, rows(left, right), extra)


def a_tiff(bits, photometric, left, right, **how):
    return tiff(8, 8, bits, photometric, rows(left, right, filtered=False), **how)


def floats(left, right, photometric=1, **how):
    values = np.repeat(np.array([[left] * 4 + [right] * 4], np.float32), 8, axis=0)
    return tiff(8, 8, 32, photometric, values.tobytes(), form=3, **how)


def trns(*values):
    return chunk(b"tRNS", gray16(*values))


def deflated(bits, left, right, **how):
    data = zlib.compress(rows(left, right, filtered=False))
    return tiff(8, 8, bits, 2, data, t259=("H", [8]), **how)


PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
ABOVE_1 = np.nextafter(np.float32(1), np.float32(2))

# What stands in the left and in the right half: one number of gray files, three of colour.
CASES = {
    "1 bit": (png(8, 8, 1, 0, b"\0\x0f" * 8), 0, 255),
    "1 bit, black transparent": (png(8, 8, 1, 0, b"\0\x0f" * 8, trns(0)), 255, 255),
    # 1 of 3 is 85; its transparent value counts in threes, too
    "2 bits": (png(8, 8, 2, 0, b"\0\x55\xaa" * 8), 85, 170),
    "2 bits, 1 transparent": (png(8, 8, 2, 0, b"\0\x55\xaa" * 8, trns(1)), 255, 170),
    "4 bits, 5 transparent": (png(8, 8, 4, 0, b"\0\x55\x55\x33\x33" * 8, trns(5)), 255, 51),
    "8 bits, 64 transparent": (a_png(8, 0, b"\x40", b"\x41", trns(64)), 255, 65),
    # 64 x 257 = 16448; 16639 / 257 = 64.7
    "16 bits": (a_png(16, 0, gray16(16448), gray16(16639)), 64, 65),
    "16 bits, transparent": (a_png(16, 0, gray16(16448), gray16(16449), trns(16448)), 255, 64),
    # a fifth of 64 over white: 12.8 + 204 = 216.8
    "16 bits with alpha": (
        a_png(16, 4, gray16(16448, 65535), gray16(16448, 13107)),
        64,
        217,
    ),
    "8 bits with alpha": (a_png(8, 4, b"\x40\xff", b"\x40\x33"), 64, 217),
    "16 bits of colour": (
        a_png(16, 2, gray16(16639, 0, 65535), gray16(257, 514, 771)),
        (65, 0, 255),
        (1, 2, 3),
    ),
    "16 bits of colour, one transparent": (  # the other differs from it in the last bit
        a_png(16, 2, gray16(257, 514, 771), gray16(257, 514, 770), trns(257, 514, 771)),
        (255, 255, 255),
        (1, 2, 3),
    ),
    "16 bits of colour with alpha": (
        a_png(16, 6, gray16(16448, 0, 0, 65535), gray16(16448, 0, 65535, 13107)),
        (64, 0, 0),
        (217, 204, 255),
    ),
    "8 bits of colour, one transparent": (
        a_png(8, 2, b"\1\2\3", b"\1\2\4", trns(1, 2, 3)),
        (255, 255, 255),
        (1, 2, 4),
    ),
    "palette": (a_png(8, 3, b"\0", b"\1", PALETTE), (10, 20, 30), (200, 100, 50)),
    "palette, one transparent": (
        a_png(8, 3, b"\0", b"\1", PALETTE + chunk(b"tRNS", b"\0")),
        (255, 255, 255),
        (200, 100, 50),
    ),
    "palette, half transparent": (  # a fifth of (10, 20, 30): 2 + 204, ...
        a_png(8, 3, b"\0", b"\1", PALETTE + chunk(b"tRNS", b"\x33\xff")),
        (206, 208, 210),
        (200, 100, 50),
    ),
    "TIFF, 16 bits": (a_tiff(16, 1, gray16(16448, order="<"), gray16(16639, order="<")), 64, 65),
    "TIFF, 16 bits, big-endian": (
        a_tiff(16, 1, gray16(16448), gray16(16639), order=">"),
        64,
        65,
    ),
    "TIFF, 16 bits, 0 is white": (
        a_tiff(16, 0, gray16(0, order="<"), gray16(16448, order="<")),
        255,
        191,
    ),
    "TIFF, 8 bits, 0 is white": (a_tiff(8, 0, b"\0", b"\x40"), 255, 191),
    # 2056 and 4095 of 4095: 128.03 and 255; two pixels in three bytes
    "TIFF, 12 bits": (tiff(8, 8, 12, 1, (b"\x80\x88\x08" * 2 + b"\xff" * 6) * 8), 128, 255),
    "TIFF, gray with alpha": (
        a_tiff(8, 1, b"\x40\xff", b"\x40\x33", samples=2, t338=("H", [2])),
        64,
        217,
    ),
    # 13 is a fifth of 65 already
    "TIFF, gray multiplied by alpha": (
        a_tiff(8, 1, b"\x40\xff", b"\x0d\x33", samples=2, t338=("H", [1])),
        64,
        217,
    ),
    "TIFF, 16 bits of colour": (
        a_tiff(16, 2, gray16(16639, 0, 65535), gray16(257, 514, 771), order=">", samples=3),
        (65, 0, 255),
        (1, 2, 3),
    ),
    "TIFF, 16 bits of colour, deflated": (
        deflated(16, gray16(16639, 0, 65535, order="<"), gray16(1, 2, 3, order="<"), samples=3),
        (65, 0, 255),
        (0, 0, 0),
    ),
    "TIFF, 16 bits of colour with alpha": (
        a_tiff(
            16,
            2,
            gray16(16448, 0, 0, 65535, order="<"),
            gray16(16448, 0, 65535, 13107, order="<"),
            samples=4,
            t338=("H", [2]),
        ),
        (64, 0, 0),
        (217, 204, 255),
    ),
    "TIFF, CMYK": (  # 255 - 191 = 64
        a_tiff(8, 5, b"\0\0\0\xbf", b"\xff\0\0\0", samples=4),
        (64, 64, 64),
        (0, 255, 255),
    ),
    "TIFF, YCbCr": (
        a_tiff(8, 6, b"\x40\x80\x80", b"\xff\x80\x80", samples=3),
        (64, 64, 64),
        (255, 255, 255),
    ),
    # L* = 100 x 128 / 255 = 50.2 is 0.186 of the light, 0.469 in sRGB: 119.6
    "TIFF, LAB": (
        a_tiff(8, 8, b"\x80\0\0", b"\xff\0\0", samples=3),
        (119.5, 119.5, 119.5),
        (255, 255, 255),
    ),
    "TIFF, 32 bits": (
        tiff(8, 8, 32, 1, rows(b"\x40" * 4, b"\xff" * 4, filtered=False)),
        64,
        255,
    ),
    "TIFF, 16 bits in 32": (
        tiff(8, 8, 32, 1, rows(b"\x40\x40\0\0", b"\xff\xff\0\0", filtered=False), form=2),
        64,
        255,
    ),
    "TIFF, 8 bits in 32": (
        tiff(8, 8, 32, 1, rows(b"\x40\0\0\0", b"\xff\0\0\0", filtered=False), form=2),
        64,
        255,
    ),
    "TIFF, black in 32 bits": (tiff(8, 8, 32, 1, bytes(256)), 0, 0),
    "TIFF, 16 bits, signed": (
        a_tiff(16, 1, gray16(16448, order="<"), gray16(8224, order="<"), form=2),
        64,
        32,
    ),
    "floats to 1": (floats(0.25, 1), 64, 255),
    "floats to one rounding unit above 1": (floats(0.25, ABOVE_1), 64, 255),
    "floats to a thousandth above 1": (floats(0.25, 1.0005), 64, 255),
    "dark floats": (floats(0.25, 0.01), 64, 3),
    "black floats": (floats(0, 0), 0, 0),
    "floats to 255": (floats(64, 255), 64, 255),
    "floats to a rounding unit above 255": (floats(64, 255.00002), 64, 255),
    "floats to 65535": (floats(16448, 65535), 64, 255),
    "negative zero and tiny negatives": (floats(-0.0, -1e-6), 0, 0),
    "floats to 255 with a tiny negative": (floats(-0.1, 200), 0, 200),
    "floats, 0 is white": (floats(0, 0.25, photometric=0), 255, 191),
    "PFM": (
        b"Pf 8 8 -1.0\n" + rows(struct.pack("<f", 0.25), struct.pack("<f", 1), filtered=False),
        64,
        255,
    ),
    "PGM to 65535": (
        b"P5 8 8 65535\n" + rows(gray16(16448), gray16(65535), filtered=False),
        64,
        255,
    ),
    "PGM to 1023": (b"P5 8 8 1023\n" + rows(gray16(257), gray16(1023), filtered=False), 64, 255),
    "PBM": (b"P4 8 8\n" + b"\xf0" * 8, 0, 255),
}


def read(folder, body, **how):
    (folder / "picture.png").write_bytes(body)  # what a file is, its first bytes say
    data = aeot.images(folder, size=8, **how)
    assert data.info["skipped"] == []
    return data.values[0].numpy().astype(int)


@pytest.mark.parametrize("case", CASES)
def test_bytes_are_those_worked_out(case, tmp_path):
    body, left, right = CASES[case]
    pixels = read(tmp_path, body)
    assert len(pixels) == np.size(left)
    close = {"TIFF, LAB": 1, "TIFF, gray multiplied by alpha": 1}.get(case, 0)
    for half, level in ((pixels[..., :4], left), (pixels[..., 4:], right)):
        expected = np.reshape(np.array(level, float), (-1, 1, 1))
        assert np.abs(half - expected).max() <= close, (half[:, 0], level)


@pytest.mark.parametrize("kind", ["JPEG2000", "WEBP", "AVIF", "GIF", "BMP"])
def test_other_formats(kind, tmp_path):
    module = {"JPEG2000": "jpg_2000", "WEBP": "webp", "AVIF": "avif"}.get(kind)
    if module and not features.check(module):
        pytest.skip("not in this Pillow")
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    pixels = read(tmp_path, saved(kind, "RGB" if kind in ("WEBP", "AVIF") else "L", **options))
    assert np.abs(pixels[..., :4] - 40).max() <= 2
    assert np.abs(pixels[..., 4:] - 200).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_pictures_is_taken(kind, tmp_path):
    frames = [Image.new("RGB", (8, 8), (k, k, k)) for k in (50, 150, 250)]
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
    assert (read(tmp_path, file.getvalue()) == 50).all()


@pytest.mark.parametrize("case", ["16 bits", "16 bits with alpha", "16 bits of colour", "palette"])
def test_deep_files_are_turned_as_exif_says(case, tmp_path):
    body = CASES[case][0]
    turned = body[:33] + chunk(b"eXIf", ORIENTATION_3) + body[33:]
    plain = read(tmp_path, body)
    np.testing.assert_array_equal(read(tmp_path, turned), plain[:, ::-1, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation, tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    picture, file = Image.fromarray(pixels), io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = orientation
    picture.save(file, "PNG", exif=tags)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    np.testing.assert_array_equal(read(tmp_path, file.getvalue())[0], upright)


# -- what white is


def test_floats_of_a_folder_have_one_white(tmp_path):
    (tmp_path / "bright.tif").write_bytes(floats(64, 200))
    (tmp_path / "dark.tif").write_bytes(floats(0.8, 0.2))
    (tmp_path / "deep.png").write_bytes(CASES["16 bits"][0])
    with pytest.warns(UserWarning, match=r"white is 255 in all images of floats, as in .*bright"):
        data = aeot.images(tmp_path, size=8)
    assert data.values[:, 0, 0, [0, 7]].tolist() == [[64, 200], [1, 0], [64, 65]]
    with pytest.warns(UserWarning, match=r"skipped 1 .*bright.tif: values from 64 to 200"):
        data = aeot.images(tmp_path, size=8, white=1)
    assert data.values[:, 0, 0, [0, 7]].tolist() == [[204, 51], [64, 65]]


def test_one_odd_float_costs_only_itself(tmp_path):
    (tmp_path / "a.tif").write_bytes(floats(0.25, 1))
    (tmp_path / "b.tif").write_bytes(floats(0.25, 1.5))
    with pytest.warns(UserWarning, match=r"b.tif: values from 0.25 to 1.5, not between 0 and 1"):
        data = aeot.images(tmp_path, size=8)
    assert data.values[:, 0, 0, [0, 7]].tolist() == [[64, 255]]


@pytest.mark.parametrize("largest", [1.5, 20, 300, 6000])
def test_an_unknown_white_is_asked_for(largest, tmp_path):
    (tmp_path / "a.tif").write_bytes(floats(0, largest))
    with pytest.raises(ValueError, match=rf"a.tif: what is white .* up to {largest}; pass white="):
        aeot.images(tmp_path, size=8)
    assert (read(tmp_path, floats(0, largest), white=largest)[..., 4:] == 255).all()


def test_twelve_bits_in_more(tmp_path):
    values = rows(struct.pack("<I", 1028), struct.pack("<I", 4095), filtered=False)
    body = tiff(8, 8, 32, 1, values)
    with pytest.raises(ValueError, match="pass white="):
        read(tmp_path, body)
    assert read(tmp_path, body, white=4095)[0, 0].tolist() == [64] * 4 + [255] * 4


@pytest.mark.parametrize("white", [0, -1, np.nan, np.inf, "1"])
def test_a_bad_white_is_named(white, tmp_path):
    with pytest.raises(ValueError, match="^white must be a finite number > 0"):
        aeot.images(tmp_path, white=white)
