"""The pictures of an attacked photo, small enough for a page of hundreds.

Legend: H height, W width, C = 3; levels are uint8.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

Read = Callable[[str], bytes | None]

#: Longer side of the shown pictures in pixels, where there are few photos and where there are many.
FEW, LARGE_SIDE, SMALL_SIDE = 40, 512, 320

#: The object's tint and outline: red, green, blue, and how much of them.
_TINT, _OUTLINE = (255, 176, 0, 84), (255, 176, 0, 255)


@dataclass(frozen=True)
class Pictures:
    """WebP as base64 by name (before, after, mask, difference), and the size of each, one for all."""

    width: int
    height: int
    webp: Mapping[str, str]


def pictures(image: Mapping[str, Any], read: Read, side: int) -> Pictures | None:
    """What can be shown of a photo of the document, at most `side` pixels long; None without the adversarial photo.

    The photo as it was follows from the adversarial one and the difference: both are of the file's own levels.
    """
    after = _opened(image, "adversarial", read, "RGB")
    if after is None:
        return None
    shrink = min(1.0, side / max(after.size))
    width, height = (max(1, round(length * shrink)) for length in after.size)
    shown = {"after": _photo(after, (width, height))}
    difference = _opened(image, "difference", read, "RGB", after.size)
    if difference is not None:
        change_HWC = change(np.asarray(difference), difference_gain(image["linf_outside"]))
        shown["difference"] = _strength(change_HWC, (width, height))
        shown["before"] = _photo(Image.fromarray(original(np.asarray(after), change_HWC)), (width, height))
    mask = _opened(image, "mask", read, "L", after.size)
    if mask is not None:
        shown["mask"] = _overlay(mask, (width, height))
    return Pictures(width, height, shown)


def difference_gain(linf: float) -> float:
    """By how much a run's difference picture is amplified, for the largest change of the photo (0 to 1)."""
    return 127.0 / max(1.0, 255.0 * linf)


def change(difference_HWC: np.ndarray, gain: float) -> np.ndarray:
    """The change in levels, int16 (H, W, C), that a difference picture shows; exact from a gain of 1 on."""
    change_HWC: np.ndarray = np.rint((difference_HWC.astype(np.float32) - 128.0) / gain).astype(np.int16)
    return change_HWC


def original(adversarial_HWC: np.ndarray, change_HWC: np.ndarray) -> np.ndarray:
    """The photo as it was, uint8 (H, W, C): exact, or to a level where the change is not."""
    photo_HWC: np.ndarray = np.clip(adversarial_HWC.astype(np.int16) - change_HWC, 0, 255).astype(np.uint8)
    return photo_HWC


def _opened(
    image: Mapping[str, Any], kind: str, read: Read, mode: str, size: tuple[int, int] | None = None
) -> Image.Image | None:
    """A file of a photo, decoded; None where it cannot be read, is no picture or of another size."""
    path = image["files"].get(kind)
    data = read(path) if path else None
    if data is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own files: any size was allowed
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return picture if size in (None, picture.size) else None


def _photo(photo: Image.Image, size: tuple[int, int]) -> str:
    return _webp(photo.resize(size, Image.Resampling.LANCZOS), quality=78)


def _strength(change_HWC: np.ndarray, size: tuple[int, int]) -> str:
    """The largest change of a pixel's channels, white for the photo's largest; signed noise would shrink to grey."""
    strength_HW = np.abs(change_HWC).max(axis=2).astype(np.float32)
    levels_HW = np.rint(strength_HW * (255.0 / max(1.0, float(strength_HW.max())))).astype(np.uint8)
    return _webp(Image.fromarray(levels_HW).resize(size, Image.Resampling.BOX), quality=50)


def _overlay(mask: Image.Image, size: tuple[int, int]) -> str:
    """The object tinted and outlined, all else transparent."""
    small = mask.resize(size, Image.Resampling.BOX).point(lambda level: 255 if level >= 128 else 0)
    overlay = Image.new("RGBA", size, (0, 0, 0, 0))
    overlay.paste(_TINT, mask=small)
    edge = Image.fromarray(np.asarray(small) - np.asarray(small.filter(ImageFilter.MinFilter(5))))
    overlay.paste(_OUTLINE, mask=edge)
    return _webp(overlay, lossless=True)


def _webp(picture: Image.Image, quality: int = 80, lossless: bool = False) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, lossless=lossless, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
