"""Photos as exact 8-bit levels: read any image file, write PNG, go between levels and [0, 1]."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from latcli.errors import ImageError, LatcliError

#: Largest photo that is decoded. A header may promise any size; decoding is where the memory goes.
MAX_PIXELS = 150_000_000
#: Fewer for these formats: their decoders take many times the memory of the pixels, or many times the seconds.
_MAX_PIXELS_OF = {"WEBP": 60_000_000, "AVIF": 40_000_000, "JPEG2000": 25_000_000, "GIF": 100_000_000}
#: Largest file that is read: nothing that may be decoded is longer, and a device has no end.
MAX_FILE_BYTES = 1 << 30

#: What PIL may take a file for. Of the rest, some would start other programs (EPS starts Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000")

#: PIL's own: ultralytics replaces it by one that wants to install packages where a file is no image.
_pil_open = Image.open

_TRANSPARENT_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


@dataclass(frozen=True, eq=False)
class Photo:
    """One decoded photo.

    `name` is its path as given; `levels_HWC` uint8 RGB, upright; `sha256` of the file's bytes; `notes` say in words
    what was done to make it plain RGB (rotated, flattened, reduced); `resized` where its pixels are not the file's.
    """

    name: str
    levels_HWC: np.ndarray
    sha256: str
    notes: tuple[str, ...] = ()
    resized: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.levels_HWC.shape[:2]
        return height, width

    @cached_property
    def image(self) -> Image.Image:
        """The same pixels as a PIL image in mode RGB."""
        return Image.fromarray(self.levels_HWC)


def read_photo(path: Path) -> Photo:
    """Read a photo file of any mode as upright 8-bit RGB.

    Raises ImageError for a file that is missing, unreadable, empty, truncated, too large or no image.
    """
    return decode_photo(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """All bytes of an image file. Raises ImageError for one that is missing, unreadable or longer than 1 GiB."""
    try:
        with path.open("rb") as file:
            return read_bounded(file, str(path))
    except FileNotFoundError:
        raise ImageError(f"no such file: {path}", "check the path; folders are searched recursively") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


def read_bounded(file: BinaryIO, name: str) -> bytes:
    """All of a file, which may be a device without an end. Raises ImageError where it is too long, and OSError."""
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB", "scale the photo down first")
    return data


def photo_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as its header says, before any rotation. Raises ImageError."""
    with damage_as_errors(str(path)), path.open("rb") as file:
        image = _open_unlimited(file)
        return image.height, image.width


def decode_photo(data: bytes, name: str) -> Photo:
    """Decode the bytes of an image file; `name` is what errors and results call it. Raises ImageError."""
    with damage_as_errors(name):
        image = decode_image(data, name)
        animated = getattr(_open_unlimited(io.BytesIO(data)), "is_animated", False)
        notes = ["first of several frames"] if animated else []
        with suppress(Exception):  # the pixels are sound, only what was noted about them is not
            if image.getexif().get(ExifTags.Base.Orientation) in range(2, 9):
                notes.append("rotated as the camera noted")
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in SIXTEEN_BIT_MODES:
            notes.append("16-bit grey reduced to 8 bits")
        elif is_transparent(image):
            notes.append("transparency laid on white")
        elif image.mode == "CMYK":
            notes.append("CMYK turned into RGB")
        levels_HWC = rgb_of(image)
    return Photo(name, levels_HWC, hashlib.sha256(data).hexdigest(), tuple(notes))


def decode_image(data: bytes, name: str) -> Image.Image:
    """The first picture in the bytes of a file, in whatever mode it has.

    Raises ImageError for one that is empty, too large or holds floating-point numbers; damage raises as PIL has it, to
    be caught by `damage_as_errors`.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)", "copy or download the file again")
    image = _open_unlimited(io.BytesIO(data))
    width, height = image.size
    most = _MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS)
    if width * height > most:
        of_format = "" if most == MAX_PIXELS else f" of {image.format}"
        raise ImageError(
            f"{name} claims {width}x{height} pixels, more than {most // 1_000_000} megapixels{of_format}",
            "scale the photo down first; a small file that claims so much may be a decompression bomb",
        )
    if width * height == 0:
        raise ImageError(f"{name} has no pixels ({width}x{height})", "copy or download the file again")
    image.load()
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point numbers, not levels", "save it with 8 or 16 bits a channel")
    return image


@contextmanager
def damage_as_errors(name: str) -> Iterator[None]:
    """Raise an ImageError for whatever PIL raises within the block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of what is no harm; its size limit is replaced by ours
            yield
    except LatcliError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that can be read", "JPEG, PNG, WebP, TIFF, BMP, GIF work") from None
    except Exception as error:  # what decoders raise on damaged files differs from format to format
        raise ImageError(f"{name} is damaged: {error}", "copy or download the file again") from error


class _Watched(io.BytesIO):
    """A buffer that calls `go_on`, which may raise, before each piece that is written."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        super().__init__()
        self._go_on = go_on

    def write(self, data: Any) -> int:
        self._go_on()
        return super().write(data)


def encode_png(levels_HWC: np.ndarray, go_on: Callable[[], None] = lambda: None) -> bytes:
    """Lossless PNG bytes of uint8 levels, RGB (H, W, 3) or grey (H, W). The same levels give the same bytes.

    `go_on` is called many times meanwhile, and may raise: large photos take seconds.
    """
    buffer = _Watched(go_on)
    # Higher levels cost seconds on large photos and save a few per cent on adversarial noise.
    Image.fromarray(levels_HWC).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """A PNG of ours, read back as any program would read it, but for PIL's warning of large ones."""
    image = _open_unlimited(io.BytesIO(data))
    image.load()
    return image


def to_unit(levels_HWC: np.ndarray | Image.Image) -> torch.Tensor:
    """Levels (H, W, C), or an RGB image of them, to x_CHW float32 in [0, 1]: level / 255."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(levels_HWC).transpose(2, 0, 1))).float().div_(255.0)


def rgb_of(image: Image.Image) -> np.ndarray:
    """levels_HWC of a picture in any mode: 16 bits scaled to 8 (one channel), transparency laid on white."""
    if image.mode in SIXTEEN_BIT_MODES:
        # PIL's own conversion clips at 255 instead of scaling. Mode I is 32 bits wide, but its files hold 16.
        levels_HW = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return np.repeat(((levels_HW + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if is_transparent(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def is_transparent(image: Image.Image) -> bool:
    """Whether it has an alpha channel, or a colour of its palette stands for nothing."""
    return image.mode in _TRANSPARENT_MODES or "transparency" in image.info


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, by which it is known again wherever it lies. Raises ImageError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error


_one_at_a_time = threading.Lock()


def _open_unlimited(file: BinaryIO) -> Image.Image:
    with _one_at_a_time:  # PIL's limit is one for all threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return _pil_open(file, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
