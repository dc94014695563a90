"""From a photo to what a classifier reads: resize, crop or pad, levels to [0, 1]; as PIL does it, and as matrices.

Legend: H, W are the photo's own pixels, h, w those of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import nn

from latcli.errors import ImageError, UsageError

#: A photo much longer than it is wide would be enlarged along with its short side.
MAX_RESIZED_SIDE = 50_000

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

#: PIL's filter of each name.
FILTERS: Mapping[str, Image.Resampling] = {
    name: getattr(Image.Resampling, name.upper()) for name in get_args(Interpolation)
}

#: How far each filter reaches, in pixels of the smaller picture, and its value there (Pillow's `Resample.c`).
_KERNELS: Mapping[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "box": (0.5, lambda x: ((x > -0.5) & (x <= 0.5)).astype(np.float64)),
    "bilinear": (1.0, lambda x: np.maximum(1.0 - np.abs(x), 0.0)),
    "hamming": (1.0, lambda x: np.where(np.abs(x) < 1.0, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)),
    "bicubic": (2.0, lambda x: _cubic(np.abs(x))),
    "lanczos": (3.0, lambda x: np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3.0), 0.0)),
}


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, of distances."""
    inner, outer = (1.5 * x - 2.5) * x * x + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


@dataclass(frozen=True)
class Preprocessing:
    """The ordinary pipeline: resize with PIL's antialiased filter, take the middle, levels / 255.

    resize: pixels of the short side; (height, width) where the network's input is not square. crop: pixels of the
    input's side, or (height, width). mode: "crop" keeps the aspect ratio and cuts off what is left of the long side;
    "squash" makes every photo `resize` high and wide; "border" keeps the aspect ratio and fits the long side. What a
    crop lacks is filled with `fill` (levels of red, green and blue).
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    interpolation: Interpolation = "bilinear"
    mode: Literal["crop", "squash", "border"] = "crop"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if min(*self._target, *self.size) < 1:
            raise ValueError(f"a photo cannot be resized to {self._target} and cropped to {self.size}")

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the network's input."""
        return _pair(self.crop)

    @property
    def _target(self) -> tuple[int, int]:
        return _pair(self.resize)

    def prepare(self, image: Image.Image) -> Image.Image:
        """What the network sees, as PIL makes it: resized (8 bit), cropped or padded."""
        height, width, top, left = self._window((image.height, image.width))
        resized = image.resize((width, height), FILTERS[self.interpolation])
        (h, w), offset = self.size, (-left, -top)
        if any(self.fill) and (top < 0 or left < 0):
            canvas = Image.new("RGB", (w, h), self.fill)
            canvas.paste(resized, offset)
            return canvas
        return resized.crop((left, top, left + w, top + h))

    def read(self, image: Image.Image) -> torch.Tensor:
        """x_Chw in [0, 1] of an RGB photo: how every score of latcli is taken."""
        return square_to_unit(self.prepare(image))

    def matrices(self, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """`read` as a linear map: rows_hH and columns_wW such that rows_hH @ x_HW @ columns_wW.T is what `read` gives.

        `size` is (H, W). PIL does the columns first, then the rows, and rounds to 8 bits and clips after each; with the
        clipping, the two agree to about one level. Rows of zeros are what is filled: see `padding`.
        """
        height, width, top, left = self._window(size)
        rows_hH = _resize_matrix(size[0], height, top, self.size[0], self.interpolation)
        return rows_hH, _resize_matrix(size[1], width, left, self.size[1], self.interpolation)

    def padding(self, size: tuple[int, int]) -> torch.Tensor | None:
        """x_Chw in [0, 1] of what is filled around a photo of `size` (H, W), to be added; None where nothing is."""
        if not any(self.fill):
            return None
        rows_h, columns_w = (matrix.sum(dim=1).round() for matrix in self.matrices(size))
        return torch.tensor(self.fill)[:, None, None] / 255.0 * (1.0 - rows_h[:, None] * columns_w)

    def visible(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of a photo of `size` (H, W) that reach the network; the rest is cropped away."""
        rows, columns = (matrix.any(dim=0).nonzero()[:, 0] for matrix in self.matrices(size))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def _window(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Height, width of the resized photo, and top, left of the crop, by torchvision's and timm's rounding rules.

        Top and left are negative where the crop is larger than the resized photo.
        """
        (H, W), (target_h, target_w) = size, self._target
        if self.mode == "squash":
            height, width = target_h, target_w
        elif self.mode == "crop" and target_h == target_w:  # torchvision's Resize
            short = target_h
            height, width = (short, int(short * W / H)) if H <= W else (int(short * H / W), short)
        else:  # timm's ResizeKeepRatio
            ratios = (H / target_h, W / target_w)
            ratio = max(ratios) if self.mode == "border" else min(ratios)
            height, width = round(H / ratio), round(W / ratio)
        if max(height, width) > MAX_RESIZED_SIDE or min(height, width) < 1:
            raise ImageError(f"a photo of {W}x{H} pixels is too narrow to classify", "cut a squarer part out of it")
        return height, width, _first(height, self.size[0]), _first(width, self.size[1])

    def described(self) -> str:
        """One line for a user: what of a photo the network sees, and how it is resized."""
        (h, w), (resize_h, resize_w) = self.size, self._target
        seen = f"{h}" if h == w else f"{w}x{h}"
        if self.mode == "crop":
            return f"the middle {seen} of a photo resized to {min(resize_h, resize_w)} ({self.interpolation})"
        return f"the whole photo {'squashed' if self.mode == 'squash' else 'with borders'} to {seen} ({self.interpolation})"


class Normalize(nn.Module):
    """(x - mean) / std for each channel, inside the model, where nobody can forget it or do it twice."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to what the network was trained on."""
        return (x_BCHW - self.mean) / self.std


def interpolation_called(name: str, where: str) -> Interpolation:
    """The filter that a library names. Raises UsageError for one that is not PIL's."""
    name = {"nearest-exact": "nearest"}.get(name, name)
    if name not in FILTERS:
        raise UsageError(f"{where} resizes with the filter '{name}', which latcli does not have", _OTHER_CLASSIFIER)
    return name  # type: ignore[return-value]


_OTHER_CLASSIFIER = "choose another classifier, or say how photos are prepared: --input-size, --resize"


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _first(resized: int, count: int) -> int:
    """Where `count` pixels of the middle start."""
    return -((count - resized) // 2) if count > resized else round((resized - count) / 2.0)


@lru_cache(maxsize=16)
def _resize_matrix(side: int, resized: int, first: int, count: int, interpolation: Interpolation) -> torch.Tensor:
    """What PIL's filter does to one axis, cropped: (count, side); each row sums to 1, or to 0 beside the photo."""
    matrix = np.zeros((count, side), dtype=np.float32)
    scale = side / resized
    for row, place in enumerate(range(first, first + count)):
        if not 0 <= place < resized:
            continue
        center = (place + 0.5) * scale
        if side == resized:
            matrix[row, place] = 1.0
        elif interpolation == "nearest":
            matrix[row, min(int(center), side - 1)] = 1.0
        else:
            reach, kernel = _KERNELS[interpolation]
            reach, stretch = reach * max(scale, 1.0), max(scale, 1.0)
            start, stop = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), side)
            weights = kernel((np.arange(start, stop) - center + 0.5) / stretch)
            matrix[row, start:stop] = weights / weights.sum()
    return torch.from_numpy(matrix)


def square_to_unit(image: Image.Image) -> torch.Tensor:
    """An RGB image of the network's own size to x_Chw in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1).contiguous().div_(255.0)
