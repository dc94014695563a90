"""From a photo to what a classifier reads: resize, crop, levels to [0, 1]; twice, for PIL images and for gradients.

Knows sizes and filters; must not know networks or attacks.

Legend: H, W are the photo's own pixels, R is the short side after resizing, h = w the crop that the network takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from latcli.errors import ImageError

#: A photo much longer than it is wide would be enlarged along with its short side.
MAX_RESIZED_SIDE = 50_000

Interpolation = Literal["bilinear", "bicubic"]

#: PIL's filter of each name.
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """The ordinary pipeline: short side to `resize`, middle square of `crop` pixels, levels / 255."""

    resize: int
    crop: int
    interpolation: Interpolation

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} does not fit a short side of {self.resize}")

    def prepare(self, image: Image.Image) -> Image.Image:
        """The square that the network sees, as PIL makes it: resized (antialiased, 8 bit), cropped."""
        top, left, height, width = self._window((image.height, image.width))
        resized = image.resize((width, height), FILTERS[self.interpolation])
        return resized.crop((left, top, left + self.crop, top + self.crop))

    def read(self, image: Image.Image) -> torch.Tensor:
        """x_Chw in [0, 1] of an RGB photo: how every score of latcli is taken."""
        return square_to_unit(self.prepare(image))

    def matrices(self, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """`read` as a linear map: rows_hH and columns_wW such that rows_hH @ x_HW @ columns_wW.T is what `read` gives.

        `size` is (H, W). Antialiased resizing is separable and linear, so the crop costs nothing and the gradient is
        the same product turned round. PIL does the columns first, then the rows, and rounds to 8 bits and clips after
        each; with the clipping, the two agree to about one level.
        """
        top, left, height, width = self._window(size)
        rows_hH = _resize_matrix(size[0], height, top, self.crop, self.interpolation)
        columns_wW = _resize_matrix(size[1], width, left, self.crop, self.interpolation)
        return rows_hH, columns_wW

    def visible(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of a photo of `size` (H, W) that reach the network; the rest is cropped away.

        The resize filter reaches a little across the crop's edge, and so do they.
        """
        top, left, height, width = self._window(size)
        rows = _reach(size[0], height, top, self.crop, self.interpolation)
        return rows, _reach(size[1], width, left, self.crop, self.interpolation)

    def _window(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left of the crop, and height, width of the resized photo, by torchvision's rounding rules."""
        H, W = size
        if H <= W:
            height, width = self.resize, int(self.resize * W / H)
        else:
            height, width = int(self.resize * H / W), self.resize
        if max(height, width) > MAX_RESIZED_SIDE:
            raise ImageError(f"a photo of {W}x{H} pixels is too narrow to classify", "cut a squarer part out of it")
        return round((height - self.crop) / 2.0), round((width - self.crop) / 2.0), height, width


def _reach(side: int, resized: int, first: int, count: int, interpolation: Interpolation) -> slice:
    """The pixels of a side of `side` that `count` pixels from `first` on are made of, once it is `resized`."""
    scale = side / resized
    margin = (2.0 if interpolation == "bicubic" else 1.0) * max(1.0, scale)
    start = math.floor((first + 0.5) * scale - margin)
    stop = math.ceil((first + count - 0.5) * scale + margin)
    return slice(max(0, start), min(side, stop))


@lru_cache(maxsize=16)
def _resize_matrix(side: int, resized: int, first: int, count: int, interpolation: Interpolation) -> torch.Tensor:
    """What PIL's and torch's antialiased filter does to one axis, cropped: (count, side); each row sums to 1."""
    # The filter itself is torch's: it is asked for the response to each single pixel within reach. Of a panorama
    # that is a small part; asked for all pixels, it would take gigabytes.
    within = _reach(side, resized, first, count, interpolation)
    reach = within.stop - within.start
    impulses = torch.zeros(side, reach)
    impulses[within] = torch.eye(reach)
    response = interpolate(impulses[None, None], (resized, reach), mode=interpolation, antialias=True)[0, 0]
    matrix = torch.zeros(count, side)
    matrix[:, within] = response[first : first + count]
    return matrix


def square_to_unit(image: Image.Image) -> torch.Tensor:
    """An RGB image of the network's own size to x_Chw in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1).contiguous().div_(255.0)
