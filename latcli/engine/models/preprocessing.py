"""From a photo to what a classifier reads: resize, crop, levels to [0, 1]; twice, for PIL images and for gradients.

Knows sizes and filters; must not know networks or attacks.

Legend: H, W are the photo's own pixels, R is the short side after resizing, h = w the crop that the network takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from latcli.errors import ImageError

#: A photo much longer than it is wide would be enlarged along with its short side.
MAX_RESIZED_SIDE = 50_000

Interpolation = Literal["bilinear", "bicubic"]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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
        resized = image.resize((width, height), _FILTERS[self.interpolation])
        return resized.crop((left, top, left + self.crop, top + self.crop))

    def read(self, image: Image.Image) -> torch.Tensor:
        """x_Chw in [0, 1] of an RGB photo: how every score of latcli is taken."""
        return square_to_unit(self.prepare(image))

    def view(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The same as `read`, differentiable: x_BCHW in [0, 1] at photo size to x_BChw.

        Agrees with PIL's pipeline up to the 8-bit rounding that PIL does between and after its two passes.
        """
        top, left, height, width = self._window((x_BCHW.shape[2], x_BCHW.shape[3]))
        resized = interpolate(x_BCHW, (height, width), mode=self.interpolation, antialias=True)
        return resized[:, :, top : top + self.crop, left : left + self.crop].clamp(0.0, 1.0)

    def visible(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of a photo of `size` (H, W) that reach the network; the rest is cropped away."""
        H, W = size
        top, left, height, width = self._window(size)
        rows = slice(int(top * H / height), math.ceil((top + self.crop) * H / height))
        return rows, slice(int(left * W / width), math.ceil((left + self.crop) * W / width))

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


def square_to_unit(image: Image.Image) -> torch.Tensor:
    """An RGB image of the network's own size to x_Chw in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1).contiguous().div_(255.0)
