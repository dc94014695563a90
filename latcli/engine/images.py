"""Photos as exact 8-bit levels: read anything, write PNG, go between levels and [0, 1].

Knows files and pixels; must not know classifiers, detectors or attacks.

Legend: H height, W width, C = 3 colour channels, B photos of a batch. `levels` are uint8, `x` is float in [0, 1].
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from latcli.errors import ImageError

#: Largest photo that is decoded. A header may promise any size; decoding is where the memory goes.
MAX_PIXELS = 150_000_000

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

#: The EXIF tag of the camera's orientation, and what turns the pixels upright.
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
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"no such file: {path}", "check the path; folders are searched recursively") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error
    return decode_photo(data, str(path))


def photo_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as its header says, before any rotation. Raises ImageError."""
    with _damage_as_errors(str(path)):
        image = _open_unlimited(path.read_bytes())
    return image.height, image.width


def decode_photo(data: bytes, name: str) -> Photo:
    """Decode the bytes of an image file; `name` is what errors and results call it. Raises ImageError."""
    with _damage_as_errors(name):
        image, notes = _decode(data, name)
        image, more = _as_upright_rgb(image)
        levels_HWC = np.array(image, dtype=np.uint8)
    return Photo(name, levels_HWC, hashlib.sha256(data).hexdigest(), (*notes, *more))


def read_mask(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """Read a mask file as mask_1HW in [0, 1]: white protects (the object), black may change.

    `size` is the (height, width) of the photo that it belongs to. Raises ImageError where the sizes differ.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot read the mask {path}: {error.strerror or error}", "give the path of a grey image"
        ) from error
    with _damage_as_errors(str(path)):
        image, _ = _decode(data, str(path))
        if image.mode in _TRANSPARENT_MODES:
            image = image.convert("RGBA").getchannel("A") if _is_blank(image) else image.convert("RGB")
        grey_HW = _sixteen_bit_levels(image) if image.mode in _SIXTEEN_BIT_MODES else np.array(image.convert("L"))
    if grey_HW.shape != size:
        raise ImageError(
            f"the mask {path} is {grey_HW.shape[1]}x{grey_HW.shape[0]}, its photo {size[1]}x{size[0]}",
            "a mask needs the photo's own size (after the camera's rotation is applied)",
        )
    return torch.from_numpy(grey_HW.astype(np.float32) / 255.0)[None]


def encode_png(levels_HWC: np.ndarray) -> bytes:
    """Lossless PNG bytes of uint8 levels, RGB (H, W, 3) or grey (H, W). The same levels give the same bytes."""
    buffer = io.BytesIO()
    # Higher levels cost seconds on large photos and save a few per cent on adversarial noise.
    Image.fromarray(levels_HWC).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """A PNG of ours, read back as any program would read it, but for PIL's warning of large ones."""
    image = _open_unlimited(data)
    image.load()
    return image


def to_unit(levels_HWC: np.ndarray) -> torch.Tensor:
    """Levels (H, W, C) to x_CHW float32 in [0, 1]: level / 255."""
    return torch.from_numpy(np.ascontiguousarray(levels_HWC.transpose(2, 0, 1))).float().div_(255.0)


def to_levels(x_CHW: torch.Tensor) -> np.ndarray:
    """x_CHW in [0, 1] to the nearest uint8 levels (H, W, C); rounds, never truncates."""
    levels_CHW = x_CHW.detach().mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels_CHW.cpu().numpy().transpose(1, 2, 0))


def _decode(data: bytes, name: str) -> tuple[Image.Image, list[str]]:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)", "copy or download the file again")
    image = _open_unlimited(data)
    _check_size(image, name)
    frames = getattr(image, "n_frames", 1)
    image.load()
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point numbers, not levels", "save it with 8 or 16 bits a channel")
    return image, [f"first of {frames} frames"] if frames > 1 else []


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


def _open_unlimited(data: bytes) -> Image.Image:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return _pil_open(io.BytesIO(data), formats=_FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} claims {width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels",
            "scale the photo down first; a small file that claims so much may be a decompression bomb",
        )
    if width * height == 0:
        raise ImageError(f"{name} has no pixels ({width}x{height})", "copy or download the file again")


def _as_upright_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    notes: list[str] = []
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        notes.append("rotated as the camera noted")
    if image.mode in _SIXTEEN_BIT_MODES:
        image = Image.fromarray(_sixteen_bit_levels(image))
        notes.append("16-bit grey reduced to 8 bits")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        notes.append("transparency laid on white")
    elif image.mode == "CMYK":
        notes.append("CMYK turned into RGB")
    return image.convert("RGB"), notes


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
