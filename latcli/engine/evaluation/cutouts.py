"""A photo taken apart along its object and put together anew.

Source: Xiao, Engstrom, Ilyas and Madry, "Noise or Signal: The Role of Image Backgrounds in Object Recognition"
(ICLR'21), section 2: the variants of ImageNet-9, whose names these functions have.

Legend: H, W a photo's pixels, C = 3 colour channels. Levels are uint8, object_HW is bool: True on the object.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

Window = tuple[slice, slice]


def only_fg(levels_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Only-FG: the object on black."""
    return np.where(object_HW[:, :, None], levels_HWC, np.uint8(0))


def only_bg_b(levels_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Only-BG-B: the object's bounding box is black, so that not even its outline is left."""
    filled_HWC = levels_HWC.copy()
    filled_HWC[bounding_box(object_HW)] = 0
    return filled_HWC


def only_bg_t(levels_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Only-BG-T: the object's bounding box is filled with the background beside it, tiled.

    What is tiled is the largest of the four strips above, below, left and right of the box. Tiling is the paper's way
    and keeps the background's own texture. Inpainting would grow inwards from the box's edge, smear large boxes, and
    carry colours of an object whose mask is a little too small back in. Raises ValueError where the box leaves no strip
    (see `largest_strip`).
    """
    box = bounding_box(object_HW)
    strip = largest_strip(object_HW)
    if strip is None:
        raise ValueError("the object's box leaves no background to tile")
    rows, columns = (_wrapped(side, part) for side, part in zip(object_HW.shape, strip, strict=True))
    filled_HWC = levels_HWC.copy()
    filled_HWC[box] = levels_HWC[rows[box[0]]][:, columns[box[1]]]
    return filled_HWC


def mixed(levels_HWC: np.ndarray, object_HW: np.ndarray, background_HWC: np.ndarray) -> np.ndarray:
    """Mixed: the object on another photo's background (its Only-BG-T), which takes this photo's size."""
    H, W = object_HW.shape
    background = Image.fromarray(background_HWC)
    if background.size != (W, H):
        background = background.resize((W, H), Image.Resampling.BICUBIC)
    return np.where(object_HW[:, :, None], levels_HWC, np.asarray(background))


def bounding_box(object_HW: np.ndarray) -> Window:
    """The rows and columns that hold the whole object. Raises ValueError where there is none."""
    rows, columns = (np.flatnonzero(object_HW.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("the mask holds no object")
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def largest_strip(object_HW: np.ndarray) -> Window | None:
    """The largest rectangle above, below, left or right of the object's box, as long as the photo; None without one."""
    H, W = object_HW.shape
    rows, columns = bounding_box(object_HW)
    sized = [
        (rows.start * W, (slice(0, rows.start), slice(0, W))),
        ((H - rows.stop) * W, (slice(rows.stop, H), slice(0, W))),
        (columns.start * H, (slice(0, H), slice(0, columns.start))),
        ((W - columns.stop) * H, (slice(0, H), slice(columns.stop, W))),
    ]
    area, strip = max(sized, key=lambda one: one[0])
    return strip if area else None


def _wrapped(side: int, part: slice) -> np.ndarray:
    """For each pixel of a side, the one of `part` that stands there once `part` is repeated both ways."""
    places: np.ndarray = part.start + (np.arange(side) - part.start) % (part.stop - part.start)
    return places
