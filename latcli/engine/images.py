"""Photos as exact 8-bit levels: read anything, write PNG, go between levels and [0, 1].

Knows files and pixels; must not know classifiers, detectors or attacks.

Legend: H height, W width, C = 3 colour channels, B photos of a batch. `levels` are uint8, `x` is float in [0, 1].
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from latcli.errors import ImageError

#: Largest photo that is decoded. A header may promise any size; decoding is where the memory goes.
MAX_PIXELS = 150_000_000

#: Of these formats less: their decoders take many times the memory of the pixels, or of the time.
_MAX_PIXELS_OF = {"WEBP": 60_000_000, "AVIF": 40_000_000, "JPEG2000": 25_000_000, "GIF": 100_000_000}
#: Largest file that is read: nothing that may be decoded is longer.
MAX_FILE_BYTES = 1 << 30
#: A progressive JPEG is gone over once for each scan, however little is in it.
_MAX_SCANNED_PIXELS = 4_000_000_000
#: A JPEG's markers that begin a segment, or end the picture; within a scan, their first byte is told apart by what
#: follows it.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_START_OF_SCAN, _END_OF_PICTURE = b"\xff\xda", b"\xff\xd9"
#: Frames are counted in files up to here: the count walks through all of them.
_COUNTED_BYTES = 1 << 20
#: Largest picture of silhouettes, all of them below each other.
_MAX_SILHOUETTE_PIXELS = 500_000_000
#: Pixels that are turned from one kind into another at a time: several kinds of all of them would fill the memory.
_AT_ONCE = 4_000_000

#: File endings that a folder is searched for.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jfif"})

#: What PIL may take a file for. Of the rest, some would start other programs (EPS starts Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000")

#: What PIL's decoders raise on damaged files differs from format to format.
_DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)

#: The EXIF tag of the camera's orientation, and what turns the pixels (H, W, C) upright.
_ORIENTATION = 0x0112
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda levels: levels[:, ::-1],
    3: lambda levels: levels[::-1, ::-1],
    4: lambda levels: levels[::-1],
    5: lambda levels: levels.swapaxes(0, 1),
    6: lambda levels: np.rot90(levels, -1),
    7: lambda levels: levels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda levels: np.rot90(levels),
}

#: PIL's own: ultralytics puts another in its place, which wants to install packages where a file is no image.
_pil_open = Image.open

_TRANSPARENT_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_SIXTEEN_BIT_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I"}


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
    try:
        with path.open("rb") as file:
            data = read_bounded(file, str(path))
    except FileNotFoundError:
        raise ImageError(f"no such file: {path}", "check the path; folders are searched recursively") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error
    return decode_photo(data, str(path))


def read_bounded(file: BinaryIO, name: str) -> bytes:
    """All of a file that may have no end, as a device. Raises ImageError where it is too long, and OSError."""
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name} is longer than {MAX_FILE_BYTES >> 20} MiB", "scale the photo down first")
    return data


def photo_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as its header says, before any rotation. Raises ImageError."""
    with _damage_as_errors(str(path)), path.open("rb") as file:
        image = _open_unlimited(file)
        return image.height, image.width


def decode_photo(data: bytes, name: str) -> Photo:
    """Decode the bytes of an image file; `name` is what errors and results call it. Raises ImageError."""
    with _damage_as_errors(name):
        image, notes = _decode(data, name)
        orientation, more = _orientation(image), _changes(image)
        levels_HWC = _rgb_levels(image)
        del image
        if turn := _TURNS.get(orientation):
            levels_HWC = np.ascontiguousarray(turn(levels_HWC))
            more.insert(0, "rotated as the camera noted")
    return Photo(name, levels_HWC, hashlib.sha256(data).hexdigest(), (*notes, *more))


def read_mask(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """Read a mask file as mask_1HW in [0, 1]: white protects (the object), black may change.

    `size` is the (height, width) of the photo that it belongs to. Raises ImageError where the sizes differ.
    """
    try:
        with path.open("rb") as file:
            data = read_bounded(file, str(path))
    except OSError as error:
        raise ImageError(
            f"cannot read the mask {path}: {error.strerror or error}", "give the path of a grey image"
        ) from error
    with _damage_as_errors(str(path)):
        image, _ = _decode(data, str(path), size)
        if image.mode in _TRANSPARENT_MODES:
            image = image.convert("RGBA").getchannel("A") if _is_blank(image) else image.convert("RGB")
        grey_HW = _grey_levels(image)
    return torch.from_numpy(grey_HW.astype(np.float32) / 255.0)[None]


def encode_png(levels_HWC: np.ndarray) -> bytes:
    """Lossless PNG bytes of uint8 levels, RGB (H, W, 3) or grey (H, W). The same levels give the same bytes."""
    buffer = io.BytesIO()
    # Higher levels cost seconds on large photos and save a few per cent on adversarial noise.
    Image.fromarray(levels_HWC).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """A PNG of ours, read back as any program would read it, but for PIL's warning of large ones."""
    image = _open_unlimited(io.BytesIO(data))
    image.load()
    return image


def read_silhouettes(data: bytes, name: str, width: int) -> np.ndarray:
    """The grey levels (H, W) of a PNG of that width that `encode_png` made. Raises ImageError where it is another."""
    with _damage_as_errors(name):
        image = _open_unlimited(io.BytesIO(data))
        if (image.format, image.mode, image.width) != (
            "PNG",
            "L",
            width,
        ) or image.height > _MAX_SILHOUETTE_PIXELS // width:
            raise ImageError(f"{name} are not as they were kept", "look for the object again")
        return np.array(image)


def to_unit(levels_HWC: np.ndarray) -> torch.Tensor:
    """Levels (H, W, C) to x_CHW float32 in [0, 1]: level / 255."""
    return torch.from_numpy(np.ascontiguousarray(levels_HWC.transpose(2, 0, 1))).float().div_(255.0)


def to_levels(x_CHW: torch.Tensor) -> np.ndarray:
    """x_CHW in [0, 1] to the nearest uint8 levels (H, W, C); rounds, never truncates."""
    levels_CHW = x_CHW.detach().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels_CHW.cpu().numpy().transpose(1, 2, 0))


def _decode(data: bytes, name: str, size: tuple[int, int] | None = None) -> tuple[Image.Image, list[str]]:
    """The first picture of a file, and what there is besides; `size` is the (height, width) that a mask must have."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)", "copy or download the file again")
    image = _open_unlimited(io.BytesIO(data))
    _check_size(image, name)
    _check_scans(image, data, name)
    if size is not None and (image.height, image.width) != size:
        raise ImageError(
            f"the mask {name} is {image.width}x{image.height}, its photo {size[1]}x{size[0]}",
            "a mask needs the photo's own size (after the camera's rotation is applied)",
        )
    notes = _frames(image, data)
    image.load()
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point numbers, not levels", "save it with 8 or 16 bits a channel")
    return image, notes


def _frames(image: Image.Image, data: bytes) -> list[str]:
    """A note where there are several pictures in a file."""
    if len(data) <= _COUNTED_BYTES:
        frames = getattr(image, "n_frames", 1)
        return [f"first of {frames} frames"] if frames > 1 else []
    other = _open_unlimited(io.BytesIO(data))
    try:
        other.seek(1)
    except EOFError:
        return []
    return ["first of several frames"]


@contextmanager
def _damage_as_errors(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of what is no harm; its size limit is replaced by ours
            yield
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that can be read", "JPEG, PNG, WebP, TIFF, BMP, GIF work") from None
    except _DAMAGE_ERRORS as error:
        raise ImageError(f"{name} is damaged: {error}", "copy or download the file again") from error


def _open_unlimited(file: BinaryIO) -> Image.Image:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return _pil_open(file, formats=_FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, name: str) -> None:
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


def _check_scans(image: Image.Image, data: bytes, name: str) -> None:
    if image.format not in {"JPEG", "MPO"}:
        return
    scans = _scans(data)
    if scans * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise ImageError(
            f"{name} has {image.width}x{image.height} pixels in {scans} scans, which would take minutes",
            "save it as an ordinary JPEG; so many scans serve no purpose but to keep programs busy",
        )


def _scans(data: bytes) -> int:
    """How many scans a decoder of this JPEG goes through: up to the picture's end, behind which a video may follow."""
    scans, found = 0, _MARKER.search(data)
    while found is not None and found.group() != _END_OF_PICTURE:
        scans += found.group() == _START_OF_SCAN
        length = int.from_bytes(data[found.end() : found.end() + 2])  # of the segment, itself included
        found = _MARKER.search(data, found.end() + length)
    return scans


def _changes(image: Image.Image) -> list[str]:
    """What has to be done to the image to make it RGB of 8 bits."""
    if image.mode in _SIXTEEN_BIT_MODES:
        return ["16-bit grey reduced to 8 bits"]
    if _is_transparent(image):
        return ["transparency laid on white"]
    return ["CMYK turned into RGB"] if image.mode == "CMYK" else []


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in _TRANSPARENT_MODES or "transparency" in image.info


def _rgb_levels(image: Image.Image) -> np.ndarray:
    """levels_HWC, some rows at a time."""
    levels_HWC = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows, strip in _strips(image):
        levels_HWC[rows] = _rgb_of(strip)
    return levels_HWC


def _rgb_of(image: Image.Image) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT_MODES:
        return _sixteen_bit_levels(image)[..., None]
    if _is_transparent(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def _grey_levels(image: Image.Image) -> np.ndarray:
    """levels_HW, some rows at a time."""
    grey_HW = np.empty((image.height, image.width), dtype=np.uint8)
    for rows, strip in _strips(image):
        deep = strip.mode in _SIXTEEN_BIT_MODES
        grey_HW[rows] = _sixteen_bit_levels(strip) if deep else np.asarray(strip.convert("L"))
    return grey_HW


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    step = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE_ERRORS:
        return 1  # the pixels are there, only what was noted about them is not


def _sixteen_bit_levels(image: Image.Image) -> np.ndarray:
    # PIL's own conversion clips at 255 instead of scaling.
    levels = np.array(image).astype(np.int64)
    # Mode I is 32 bits wide, but its files hold 16; what lies outside is no brightness.
    return ((levels.clip(0, 65535) + 128) // 257).astype(np.uint8)


def _is_blank(image: Image.Image) -> bool:
    extrema = image.convert("RGB").getextrema()
    return all(low == high for low, high in extrema)  # type: ignore[misc]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def comes_to_an_end(path: Path) -> bool:
    """Whether reading it comes to an end, as it may not for a pipe; what is wrong with it is told when it is read."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def find_photos(folder: Path) -> list[Path]:
    """Every image file below a folder, by name, in a stable order; hidden files and folders are passed over.

    Raises ImageError for a folder that cannot be read or holds no image.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"cannot read the folder {error.filename}: {error.strerror}", "check its permissions")

    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in sorted(files)
            if not name.startswith(".")
            and Path(name).suffix.lower() in SUFFIXES
            and comes_to_an_end(Path(parent, name))
        ]
    if not found:
        raise ImageError(f"no image below {folder}", f"looked for {', '.join(sorted(SUFFIXES))}")
    return found
