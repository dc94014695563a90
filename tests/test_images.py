"""Photos as exact levels: every kind of file is read as upright RGB or refused in two lines; PNGs lose nothing."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latcli.engine.images import (
    decode_photo,
    decode_png,
    encode_png,
    read_photo,
    sha256_of,
    to_levels,
    to_unit,
)
from latcli.errors import ImageError

ORIENTATION = 0x0112


def noise(height: int = 24, width: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int = 24, width: int = 32) -> Image.Image:
    """Colours that JPEG keeps to within a few levels."""
    rows, columns = np.mgrid[0:height, 0:width]
    levels = np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], axis=2)
    return Image.fromarray(levels.astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_photo(data, "photo.jpg")
    assert "photo.jpg" in caught.value.message
    assert caught.value.hint
    return caught.value


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_that_claims(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


def png_of_16_bit_rgb(levels_HWC: np.ndarray) -> bytes:
    """PIL cannot write such a file: each row is a filter byte of 0 and big-endian 16-bit samples."""
    height, width, _ = levels_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels_HWC)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


# Files that are refused


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such file: .*nowhere.jpg"):
        read_photo(tmp_path / "nowhere.jpg")


def test_a_folder_in_place_of_a_photo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read .*[Ii]s a directory"):
        read_photo(tmp_path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(noise(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(ImageError, match=r"cannot read .*[Pp]ermission"):
        read_photo(path)


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"").message == "photo.jpg is empty (0 bytes)"


@pytest.mark.parametrize("data", [b"hello, I am text\n", b"\0" * 1000, b"%PDF-1.4\n", bytes(range(256))])
def test_a_file_that_is_no_image_is_refused(data: bytes) -> None:
    error = refusal(data)
    assert error.message == "photo.jpg is not an image that can be read"
    assert "PNG" in error.hint


def test_a_file_that_would_start_another_program_is_refused() -> None:
    """PIL hands EPS files to Ghostscript."""
    assert refusal(encoded(noise(), "EPS")).message == "photo.jpg is not an image that can be read"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(file_format: str, share: float) -> None:
    data = encoded(noise(64, 64), file_format)
    refusal(data[: int(len(data) * share)])


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 1), (12_248, 12_248)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(image: Image.Image) -> None:
        raise AssertionError("the bomb was decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", explode)
    error = refusal(png_that_claims(width, height))
    assert f"claims {width}x{height} pixels, more than 150 megapixels" in error.message
    assert "bomb" in error.hint


def test_the_limit_of_pil_is_neither_in_the_way_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_photo(encoded(noise(), "PNG"), "photo.png").size == (24, 32)
    refusal(b"no image")
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_image_without_pixels_is_refused() -> None:
    assert refusal(png_that_claims(0, 0)).message
    empty_gif = (
        b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 0, 0, 0) + b"\2\0;"
    )
    refusal(empty_gif)


def test_floating_point_pixels_are_refused_not_clipped() -> None:
    assert "floating-point" in refusal(encoded(Image.new("F", (8, 6), 0.5), "TIFF")).message


@pytest.mark.slow
def test_a_file_that_is_no_image_installs_nothing_where_ultralytics_is_loaded() -> None:
    """ultralytics replaces PIL's `open` by one that installs a package for files that PIL does not know."""
    code = (
        "import os\n"
        "os.environ['YOLO_AUTOINSTALL'] = '0'\n"
        "from latcli.engine.images import decode_photo\n"
        "from latcli.engine.vision import import_torchvision\n"
        "from latcli.errors import ImageError\n"
        "import_torchvision()\n"
        "import PIL.Image, ultralytics.utils.patches\n"
        "assert PIL.Image.open is ultralytics.utils.patches.image_open\n"
        "try:\n"
        "    decode_photo(b'no image', 'photo.jpg')\n"
        "except ImageError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "photo.jpg is not an image that can be read\n", done.stderr


# Files of every kind that are read


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_files_keep_every_level(file_format: str, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    noise().save(path, format=file_format)
    photo = read_photo(path)
    assert photo.name == str(path)
    assert photo.size == (24, 32)
    assert photo.levels_HWC.dtype == np.uint8
    np.testing.assert_array_equal(photo.levels_HWC, np.asarray(noise()))
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)
    assert photo.notes == ()
    np.testing.assert_array_equal(np.asarray(photo.image), photo.levels_HWC)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_noted(file_format: str) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    photo = decode_photo(encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options), "a")
    assert photo.size == (7, 9)
    assert (photo.levels_HWC == (255, 0, 0)).all()
    assert photo.notes == ("first of several frames",)


def test_cmyk_jpeg_becomes_rgb_and_is_noted() -> None:
    photo = decode_photo(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), "a")
    assert photo.notes == ("CMYK turned into RGB",)
    red, green, blue = photo.levels_HWC.mean(axis=(0, 1))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(file_format: str) -> None:
    wide = np.array([[0, 128, 129, 257, 32_768, 65_407, 65_535]], dtype=np.uint16)
    photo = decode_photo(encoded(Image.fromarray(wide), file_format), "a")
    np.testing.assert_array_equal(photo.levels_HWC[0, :, 0], [0, 0, 1, 1, 128, 255, 255])
    np.testing.assert_array_equal(photo.levels_HWC, photo.levels_HWC[:, :, :1].repeat(3, axis=2))
    assert photo.notes == ("16-bit grey reduced to 8 bits",)


def test_big_endian_16_bit_tiff_is_scaled_too() -> None:
    wide = np.arange(0, 65_536, 257, dtype=np.uint16).reshape(16, 16)
    photo = decode_photo(encoded(Image.fromarray(wide.astype(">u2")), "TIFF"), "a")
    np.testing.assert_array_equal(photo.levels_HWC[:, :, 0].ravel(), np.arange(256))


def test_16_bit_rgb_png_is_scaled() -> None:
    wide = np.random.default_rng(1).integers(0, 65_536, (5, 6, 3), dtype=np.uint16)
    photo = decode_photo(png_of_16_bit_rgb(wide), "a")
    # PIL keeps the upper byte, which is at most one level from the nearest.
    assert np.abs(photo.levels_HWC - wide / 257.0).max() <= 1.0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBX"])
def test_other_modes_become_rgb(mode: str) -> None:
    white = Image.new("RGB", (5, 4), "white").convert(mode)
    photo = decode_photo(encoded(white, "TIFF"), "a")
    assert (photo.levels_HWC == 255).all()


@pytest.mark.parametrize(
    ("mode", "clear", "half"),
    [("LA", (0, 0), (0, 128)), ("RGBA", (0, 0, 0, 0), (0, 0, 0, 128))],
)
def test_transparency_is_laid_on_white(mode: str, clear: tuple[int, ...], half: tuple[int, ...]) -> None:
    image = Image.new(mode, (3, 1), clear)
    image.putpixel((1, 0), half)
    image.putpixel((2, 0), (*half[:-1], 255))
    photo = decode_photo(encoded(image, "PNG"), "a")
    np.testing.assert_array_equal(photo.levels_HWC[0], [[255] * 3, [127] * 3, [0] * 3])
    assert photo.notes == ("transparency laid on white",)


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_laid_on_white(file_format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    photo = decode_photo(encoded(image, file_format, transparency=0), "a")
    np.testing.assert_array_equal(photo.levels_HWC[0], [[255, 255, 255], [0, 0, 255]])
    assert photo.notes == ("transparency laid on white",)


# Where the upper left, upper right, lower left and lower right quarter of the upright photo lie in the file.
UPRIGHT = {
    1: "ABCD",
    2: "BADC",
    3: "DCBA",
    4: "CDAB",
    5: "ACBD",
    6: "BDAC",
    7: "DBCA",
    8: "CADB",
}
COLOURS = {"A": (255, 0, 0), "B": (0, 255, 0), "C": (0, 0, 255), "D": (255, 255, 0)}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_what_the_camera_noted_turns_the_photo_upright(orientation: int, file_format: str) -> None:
    turned = orientation >= 5
    width, height = (32, 64) if turned else (64, 32)
    stored = Image.new("RGB", (width, height))
    for place, quarter in enumerate(UPRIGHT[orientation]):
        corner = (place % 2 * width // 2, place // 2 * height // 2)
        stored.paste(COLOURS[quarter], (*corner, corner[0] + width // 2, corner[1] + height // 2))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    photo = decode_photo(encoded(stored, file_format, exif=exif), "a")
    assert photo.size == (32, 64)
    for place, quarter in enumerate("ABCD"):
        found = photo.levels_HWC[8 + place // 2 * 16, 16 + place % 2 * 32].astype(int)
        assert np.abs(found - COLOURS[quarter]).max() <= 8, (quarter, found)
    if file_format != "TIFF":  # which PIL itself turns upright
        assert photo.notes == (() if orientation == 1 else ("rotated as the camera noted",))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    photo = decode_photo(encoded(noise(), "PNG", exif=exif), "a")
    np.testing.assert_array_equal(photo.levels_HWC, np.asarray(noise()))
    assert photo.notes == ()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_damaged_notes_of_the_camera_are_no_damage_of_the_photo(file_format: str) -> None:
    photo = decode_photo(encoded(smooth(), file_format, exif=b"Exif\0\0no TIFF header"), "a")
    assert np.abs(photo.levels_HWC.astype(int) - np.asarray(smooth())).mean() < 6


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_photo_of_one_pixel_is_read(file_format: str) -> None:
    photo = decode_photo(encoded(Image.new("RGB", (1, 1), "white"), file_format), "a")
    assert photo.size == (1, 1)
    assert photo.levels_HWC.min() >= 254


# Whatever the bytes, there is a photo or an ImageError


def real_files() -> dict[str, bytes]:
    image, other = noise(16, 20), noise(16, 20).transpose(Image.Transpose.ROTATE_180)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    return {
        "jpeg": encoded(image, "JPEG", exif=exif),
        "cmyk": encoded(image.convert("CMYK"), "JPEG", exif=exif),
        "png": encoded(image, "PNG", exif=exif),
        "apng": encoded(image, "PNG", save_all=True, append_images=[other]),
        "palette": encoded(image.convert("P"), "PNG", transparency=3),
        "16 bit": encoded(Image.fromarray(np.arange(320, dtype=np.uint16).reshape(16, 20) * 200), "PNG"),
        "gif": encoded(image, "GIF", save_all=True, append_images=[other]),
        "webp": encoded(image, "WEBP", exif=exif),
        "tiff": encoded(image, "TIFF", exif=exif),
        "tiff lzw": encoded(image, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(image, "BMP"),
        "avif": encoded(image, "AVIF"),
        "jpeg 2000": encoded(image, "JPEG2000"),
    }


REAL_FILES = real_files()


def photo_or_refusal(data: bytes) -> None:
    try:
        photo = decode_photo(data, "photo")
    except ImageError:
        return
    assert photo.levels_HWC.dtype == np.uint8
    assert photo.levels_HWC.ndim == 3
    assert photo.levels_HWC.shape[2] == 3


@settings(max_examples=300, deadline=None)
@given(
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0", b"BM"]),
    tail=st.binary(max_size=200),
)
def test_random_bytes_are_refused(head: bytes, tail: bytes) -> None:
    photo_or_refusal(head + tail)


@pytest.mark.parametrize("kind", REAL_FILES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_photo_or_a_refusal(kind: str, data: st.DataObject) -> None:
    content = bytearray(REAL_FILES[kind])
    within = data.draw(st.sampled_from([64, 256, len(content)]), label="damage within")
    for place in data.draw(st.lists(st.integers(0, min(within, len(content)) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))), label="cut at")
    photo_or_refusal(bytes(content[:cut]))


def test_a_damaged_avif_is_refused() -> None:
    """Its decoder raises RuntimeError, which the others do not."""
    data = bytearray(REAL_FILES["avif"])
    place = data.index(b"pitm")
    data[place : place + 4] = b"none"
    assert "photo.jpg is damaged" in refusal(bytes(data)).message


@pytest.mark.parametrize(
    "error",
    [OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, ZeroDivisionError, MemoryError, struct.error],
)
def test_whatever_a_decoder_raises_is_a_refusal(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise error("bad block")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert refusal(encoded(noise(), "PNG")).message.startswith("photo.jpg is damaged: ")


# PNGs and levels


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    grey=st.booleans(),
)
def test_a_png_keeps_every_level_and_is_the_same_each_time(height: int, width: int, seed: int, grey: bool) -> None:
    shape = (height, width) if grey else (height, width, 3)
    levels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(levels)
    assert data == encode_png(levels.copy())
    np.testing.assert_array_equal(np.asarray(decode_png(data)), levels)


def test_a_large_png_of_ours_is_read_back_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_png(encode_png(np.asarray(noise()))).size == (32, 24)


def test_a_png_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib, numpy as np\nfrom latcli.engine.images import encode_png\n"
        "levels = np.random.default_rng(7).integers(0, 256, (50, 40, 3), dtype=np.uint8)\n"
        "print(hashlib.sha256(encode_png(levels)).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    levels = np.random.default_rng(7).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    assert done.stdout.strip() == hashlib.sha256(encode_png(levels)).hexdigest()


def test_every_level_survives_the_way_to_the_unit_interval_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    x_CHW = to_unit(levels)
    assert x_CHW.shape == (3, 16, 16)
    assert x_CHW.dtype == torch.float32
    assert (float(x_CHW.min()), float(x_CHW.max())) == (0.0, 1.0)
    np.testing.assert_array_equal(to_levels(x_CHW), levels)


def test_levels_are_rounded_never_truncated() -> None:
    x_CHW = (torch.tensor([0.0, 0.49, 0.51, 9.49, 9.51, 254.51, 255.0]) / 255).expand(3, 1, 7)
    np.testing.assert_array_equal(to_levels(x_CHW)[0, :, 0], [0, 0, 1, 9, 10, 255, 255])


def test_colours_keep_their_places() -> None:
    levels = np.zeros((2, 3, 3), dtype=np.uint8)
    levels[1, 2] = (10, 20, 30)
    x_CHW = to_unit(levels)
    assert [round(255 * float(value)) for value in x_CHW[:, 1, 2]] == [10, 20, 30]
    assert float(x_CHW.sum()) == pytest.approx(60 / 255)
    np.testing.assert_array_equal(to_levels(x_CHW), levels)
