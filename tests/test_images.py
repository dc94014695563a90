"""Photos as exact levels: every kind of file is read as upright RGB or refused in two lines; PNGs lose nothing."""

import hashlib
import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latcli.engine.images import (
    MAX_FILE_BYTES,
    decode_photo,
    decode_png,
    encode_png,
    photo_size,
    read_photo,
    sha256_of,
    to_unit,
)
from latcli.errors import ImageError

ORIENTATION = 0x0112


def noise(height=24, width=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def decoded(image, file_format="PNG", **options):
    """What is read of the image written in that format."""
    return decode_photo(encoded(image, file_format, **options), "a")


def noted(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def refusal(data):
    with pytest.raises(ImageError) as caught:
        decode_photo(data, "photo.jpg")
    assert "photo.jpg" in caught.value.message
    assert caught.value.hint
    return caught.value


def png(width, height, rows=b"", *, depth=8, colour=2):
    """A PNG of that header and of rows, each a filter byte of 0 and big-endian samples, that PIL would not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere.jpg", r"no such file: .*nowhere"), (".", r"cannot read .*[Ii]s a directory")]
)
def test_what_is_no_file_is_refused(name, message, tmp_path):
    for read in (read_photo, sha256_of):
        with pytest.raises(ImageError, match=message if read is read_photo else "cannot read"):
            read(tmp_path / name)


def test_a_device_without_an_end_is_refused(monkeypatch):
    assert MAX_FILE_BYTES == 1 << 30
    monkeypatch.setattr("latcli.engine.images.MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="larger than 1 MiB"):
        read_photo(Path("/dev/zero"))


def test_what_is_no_photo_or_cut_off_is_refused_and_nothing_installed(monkeypatch):
    """ultralytics replaces PIL's `open` by one that installs a package for files that PIL does not know."""
    for data, message in [
        (b"", r"is empty \(0 bytes\)"),
        *((data, "is not an image") for data in (b"hello\n", b"\0" * 1000, b"%PDF-1.4\n", bytes(range(256)))),
        (encoded(noise(), "EPS"), "is not an image"),  # PIL would start Ghostscript
        (png(0, 0), "photo"),
        (encoded(Image.new("F", (8, 6), 0.5), "TIFF"), "floating-point"),
        *(
            (encoded(noise(64, 64), form)[: int(len(encoded(noise(64, 64), form)) * share)], "")
            for form in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
            for share in (0.1, 0.5, 0.9)
        ),
    ]:

        def install(*_, **__):
            raise AssertionError("PIL's replaced open was used")

        monkeypatch.setattr(Image, "open", install)
        assert re.search(message, refusal(data).message)


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 1), (12_248, 12_248)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width, height, monkeypatch):
    def explode(image):
        raise AssertionError("the bomb was decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", explode)
    error = refusal(png(width, height))
    assert f"claims {width}x{height} pixels, more than 150 megapixels" in error.message


def test_the_limit_of_pil_is_neither_in_the_way_nor_changed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(noise()).size == (24, 32)
        assert decode_png(encode_png(np.asarray(noise()))).size == (32, 24)
    refusal(b"no image")
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_files_keep_every_level(file_format, tmp_path):
    path = tmp_path / "photo"
    noise().save(path, format=file_format)
    photo = read_photo(path)
    assert (photo.name, photo.size, photo.notes, photo.levels_HWC.dtype) == (str(path), (24, 32), (), np.uint8)
    assert photo_size(path) == (24, 32)
    np.testing.assert_array_equal(photo.levels_HWC, np.asarray(noise()))
    np.testing.assert_array_equal(np.asarray(photo.image), photo.levels_HWC)
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_noted(file_format):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    photo = decoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert (photo.size, len(photo.notes)) == ((7, 9), 1)
    assert (photo.levels_HWC == (255, 0, 0)).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(file_format):
    wide = np.array([[0, 128, 129, 257, 32_768, 65_407, 65_535]], dtype=np.uint16)
    photo = decoded(Image.fromarray(wide), file_format)
    np.testing.assert_array_equal(photo.levels_HWC[0].T, [[0, 0, 1, 1, 128, 255, 255]] * 3)
    assert len(photo.notes) == 1
    big_endian = decoded(Image.fromarray(wide.astype(">u2")), "TIFF")
    np.testing.assert_array_equal(big_endian.levels_HWC, photo.levels_HWC)
    rgb = np.random.default_rng(1).integers(0, 65_536, (5, 6, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    # PIL keeps the upper byte of colours, which is at most one level from the nearest.
    assert np.abs(decode_photo(png(6, 5, rows, depth=16), "a").levels_HWC - rgb / 257.0).max() <= 1.0


def test_other_modes_become_rgb():
    for mode in ["1", "L", "P", "RGBX", "CMYK"]:
        image = Image.new("RGB", (5, 4), "white").convert(mode)
        photo = decoded(image, "TIFF")
        assert (photo.levels_HWC.min(), len(photo.notes)) == (255, mode == "CMYK")


def test_transparency_is_laid_on_white():
    black, alpha = Image.new("L", (3, 1)), Image.frombytes("L", (3, 1), b"\0\x80\xff")
    for photo in (decoded(Image.merge("LA", [black, alpha])), decoded(Image.merge("RGBA", [*[black] * 3, alpha]))):
        np.testing.assert_array_equal(photo.levels_HWC[0], [[255] * 3, [127] * 3, [0] * 3])
        assert len(photo.notes) == 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for photo in (decoded(palette, "PNG", transparency=0), decoded(palette, "GIF", transparency=0)):
        np.testing.assert_array_equal(photo.levels_HWC[0], [[255, 255, 255], [0, 0, 255]])


# Where the upper left, upper right, lower left and lower right quarter of the upright photo lie in the file.
UPRIGHT = {1: "ABCD", 2: "BADC", 3: "DCBA", 4: "CDAB", 5: "ACBD", 6: "BDAC", 7: "DBCA", 8: "CADB"}
COLOURS = {"A": (255, 0, 0), "B": (0, 255, 0), "C": (0, 0, 255), "D": (255, 255, 0)}


def test_what_the_camera_noted_turns_the_photo_upright():
    for orientation in UPRIGHT:
        for file_format in ["JPEG", "PNG", "WEBP", "TIFF"]:
            width, height = (32, 64) if orientation >= 5 else (64, 32)
            stored = Image.new("RGB", (width, height))
            for place, quarter in enumerate(UPRIGHT[orientation]):
                corner = (place % 2 * width // 2, place // 2 * height // 2)
                stored.paste(COLOURS[quarter], (*corner, corner[0] + width // 2, corner[1] + height // 2))
            photo = decoded(stored, file_format, exif=noted(orientation))
            assert photo.size == (32, 64)
            for place, quarter in enumerate("ABCD"):
                found = photo.levels_HWC[8 + place // 2 * 16, 16 + place % 2 * 32].astype(int)
                assert np.abs(found - COLOURS[quarter]).max() <= 8, (quarter, found)
            if file_format != "TIFF":  # which PIL itself turns upright
                assert len(photo.notes) == (orientation != 1)


def test_notes_of_the_camera_that_make_no_sense_turn_nothing():
    for exif in (noted(0), noted(9), noted(65_535), b"Exif\0\0no TIFF header"):
        photo = decoded(noise(), exif=exif)
        np.testing.assert_array_equal(photo.levels_HWC, np.asarray(noise()))
        assert photo.notes == ()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans())
def test_a_png_keeps_every_level_and_is_the_same_each_time(height, width, seed, grey):
    shape = (height, width) if grey else (height, width, 3)
    levels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(levels)
    assert data == encode_png(levels.copy())
    np.testing.assert_array_equal(np.asarray(decode_png(data)), levels)


def test_levels_become_the_unit_interval():
    levels = np.arange(256 * 3, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)
    x_CHW = to_unit(levels)
    assert (x_CHW.shape, x_CHW.dtype) == ((3, 16, 16), torch.float32)
    assert (float(x_CHW.min()), float(x_CHW.max())) == (0.0, 1.0)
    assert [255 * float(value) for value in x_CHW[:, 1, 2]] == pytest.approx(levels[1, 2].tolist())
