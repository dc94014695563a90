"""From a photo to what a classifier reads: resize, crop or pad, levels to [0, 1]; as PIL does it, and as matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import nn

from latcli.engine.images import to_unit
from latcli.errors import ImageError, UsageError

#: A photo much longer than it is wide would be enlarged along with its short side.
MAX_RESIZED_SIDE = 50_000

#: The hint where a library's preparation cannot be had as matrices.
OTHER_CLASSIFIER = "choose another classifier, or say how photos are prepared: --input-size, --resize"

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

#: PIL's filter of each name.
FILTERS: Mapping[str, Image.Resampling] = {
    name: getattr(Image.Resampling, name.upper()) for name in get_args(Interpolation)
}

#: Lanczos reaches furthest: so many pixels of the smaller picture to either side.
_REACH = 3.0


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
        if min(*self.target, *self.size) < 1:
            raise ValueError(f"a photo cannot be resized to {self.target} and cropped to {self.size}")

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the network's input."""
        return _pair(self.crop)

    @property
    def target(self) -> tuple[int, int]:
        """(height, width) that photos are resized to; in mode "crop", a square's side is that of the short side."""
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
        return to_unit(self.prepare(image))

    def matrices(self, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """rows_hH and columns_wW such that rows_hH @ x_HW @ columns_wW.T is what `read` gives for a photo (H, W).

        Rows of zeros are what is filled.
        """
        height, width, top, left = self._window(size)
        rows_hH = _resize_matrix(size[0], height, top, self.size[0], self.interpolation)
        return rows_hH, _resize_matrix(size[1], width, left, self.size[1], self.interpolation)

    def linear(self, size: tuple[int, int]) -> LinearResize:
        """`read` as a linear map of photos of `size` (H, W): with its clipping, the two agree to about one level."""
        rows_hH, columns_wW = self.matrices(size)
        height, width, _, _ = self._window(size)
        padding_Chw = None
        if any(self.fill):
            beside_hw = 1.0 - rows_hH.sum(dim=1).round()[:, None] * columns_wW.sum(dim=1).round()
            padding_Chw = torch.tensor(self.fill)[:, None, None] / 255.0 * beside_hw
        return LinearResize(rows_hH, columns_wW, padding_Chw, _rows_first(size, (height, width), self.interpolation))

    def visible(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of a photo of `size` (H, W) that reach the network; the rest is cropped away."""
        rows, columns = (matrix.any(dim=0).nonzero()[:, 0] for matrix in self.matrices(size))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def _window(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Height, width of the resized photo, and top, left of the crop, by torchvision's and timm's rounding rules.

        Top and left are negative where the crop is larger than the resized photo.
        """
        (H, W), (target_h, target_w) = size, self.target
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
            raise ImageError(f"a photo of {W}x{H} pixels is too narrow to classify", "crop it to a squarer shape")
        return height, width, _first(height, self.size[0]), _first(width, self.size[1])

    def described(self) -> str:
        """One line for a user: what of a photo the network sees, and how it is resized."""
        (h, w), (resize_h, resize_w) = self.size, self.target
        seen = f"{h}" if h == w else f"{w}x{h}"
        if self.mode == "crop":
            return f"the middle {seen} of a photo resized to {min(resize_h, resize_w)} ({self.interpolation})"
        how = "squashed" if self.mode == "squash" else "with borders"
        return f"the whole photo {how} to {seen} ({self.interpolation})"


#: What float32 sums of weights may miss 1 by.
_SLACK = 1e-5

#: On a CPU the matrix of a resize is multiplied so many rows at a time, each time without the columns that are zero in
#: all of them: a quarter of the time for photos of twice the network's size. On a GPU more kernels would take longer.
_BAND = 16


@dataclass(frozen=True, eq=False)
class LinearResize:
    """Resize and crop as products; padding_Chw is what is added beside the photo, where something is filled.

    rows_first: whether the rows are resized before the columns, which decides where PIL clips.
    """

    rows_hH: torch.Tensor
    columns_wW: torch.Tensor
    padding_Chw: torch.Tensor | None = None
    rows_first: bool = False

    @cached_property
    def _bands(self) -> tuple[Bands, Bands]:
        return _bands(self.rows_hH), _bands(self.columns_wW)

    def to(self, device: torch.device) -> LinearResize:
        """The same on another device."""
        padding_Chw = None if self.padding_Chw is None else self.padding_Chw.to(device)
        return LinearResize(self.rows_hH.to(device), self.columns_wW.to(device), padding_Chw, self.rows_first)

    def __call__(self, x_CHW: torch.Tensor) -> torch.Tensor:
        """x_Chw in [0, 1] of a photo, or of the one in the upper left corner of a canvas; clipped after each pass."""
        # A copy, so that the product never sees how wide the canvas is.
        read_CHW = x_CHW[:, : self.rows_hH.shape[1], : self.columns_wW.shape[1]].contiguous()
        for by_rows in (self.rows_first, not self.rows_first):
            if by_rows:
                read_CHW = _cut_off(_banded(read_CHW, self.rows_hH, self._bands[0]))
            else:
                read_CHW = _cut_off(_banded(read_CHW.mT, self.columns_wW, self._bands[1]).mT)
        return read_CHW if self.padding_Chw is None else read_CHW + self.padding_Chw


#: Rows of a matrix, and the columns beside which these rows are zero; none where the matrix is multiplied as a whole.
Bands = tuple[tuple[slice, slice], ...]


def _bands(matrix_hH: torch.Tensor) -> Bands:
    if matrix_hH.device.type != "cpu":
        return ()
    found = []
    for top in range(0, len(matrix_hH), _BAND):
        rows = slice(top, top + _BAND)
        seen = matrix_hH[rows].any(dim=0).nonzero()[:, 0].tolist() or [0]
        found.append((rows, slice(seen[0], seen[-1] + 1)))
    return tuple(found)


class _BandProduct(torch.autograd.Function):
    """matrix_hH @ x_CHW, with a gradient with respect to x_CHW alone."""

    @staticmethod
    def forward(ctx: Any, x_CHW: torch.Tensor, matrix_hH: torch.Tensor, bands: Bands) -> torch.Tensor:
        ctx.save_for_backward(matrix_hH)
        ctx.set_materialize_grads(False)
        ctx.bands, ctx.shape = bands, x_CHW.shape
        return torch.cat([matrix_hH[rows, seen] @ x_CHW[:, seen] for rows, seen in bands], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient_ChW: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        if gradient_ChW is None:  # a network that has none must not seem to have one of zeros
            return None, None, None
        (matrix_hH,) = ctx.saved_tensors
        of_x_CHW = gradient_ChW.new_zeros(ctx.shape)
        for rows, seen in ctx.bands:
            of_x_CHW[:, seen] += matrix_hH[rows, seen].T @ gradient_ChW[:, rows]
        return of_x_CHW, None, None


def _banded(x_CHW: torch.Tensor, matrix_hH: torch.Tensor, bands: Bands) -> torch.Tensor:
    if not bands:
        return matrix_hH @ x_CHW
    product_ChW: torch.Tensor = _BandProduct.apply(x_CHW, matrix_hH, bands)  # type: ignore[no-untyped-call]
    return product_ChW


def _cut_off(x_CHW: torch.Tensor) -> torch.Tensor:
    """Clamped to [0, 1], but for rounding: weights add up to 1 and a little, and white areas must keep a gradient."""
    return x_CHW.clamp(-_SLACK, 1.0 + _SLACK)


class Normalize(nn.Module):
    """(x - mean) / std for each channel, inside the model, so that it cannot be forgotten or done twice."""

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
        raise UsageError(f"{where} resizes with the filter '{name}', which latcli does not support", OTHER_CLASSIFIER)
    return name  # type: ignore[return-value]


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


def _first(resized: int, count: int) -> int:
    """Where `count` pixels of the middle start."""
    return -((count - resized) // 2) if count > resized else round((resized - count) / 2.0)


@lru_cache(maxsize=16)
def _resize_matrix(side: int, resized: int, first: int, count: int, interpolation: Interpolation) -> torch.Tensor:
    """What PIL's filter does to one axis, cropped: (count, side); each row sums to 1, or to 0 beside the photo."""
    # PIL resizes single bright pixels, many in one column, so far apart that none of its sums holds two of them.
    scale = side / resized
    apart = math.ceil(2.0 * _REACH * max(scale, 1.0)) + 2
    pixels_H = np.arange(side)
    comb_HA = np.zeros((side, apart), dtype=np.float32)
    comb_HA[pixels_H, pixels_H % apart] = 1.0
    weights_hA = np.asarray(Image.fromarray(comb_HA).resize((apart, resized), FILTERS[interpolation]))
    matrix = np.zeros((count, side), dtype=np.float32)
    for row, place in enumerate(range(first, first + count)):
        if 0 <= place < resized:
            start = max(0, int((place + 0.5) * scale - apart / 2))
            seen = pixels_H[start : start + apart]
            matrix[row, seen] = weights_hA[place, seen % apart]
    return torch.from_numpy(matrix)


@lru_cache(maxsize=256)
def _rows_first(size: tuple[int, int], resized: tuple[int, int], interpolation: Interpolation) -> bool:
    """Whether this PIL resizes the rows first, which newer versions do where that is less work; found by trying.

    Only filters with negative weights tell: a product of black and white noise leaves [0, 1] and is clipped.
    """
    if interpolation not in ("bicubic", "lanczos") or not resized[0] < size[0]:
        return False
    H, W = size
    noise_HW = np.random.default_rng(0).integers(0, 2, (H, W), dtype=np.uint8)
    height, width = resized
    found = np.asarray(Image.fromarray(noise_HW * np.uint8(255)).resize((width, height), FILTERS[interpolation]))
    found_hw = torch.from_numpy(found.astype(np.float32) / 255.0)
    rows_hH = _resize_matrix(H, height, 0, height, interpolation)
    columns_wW = _resize_matrix(W, width, 0, width, interpolation)
    x_1HW = torch.from_numpy(noise_HW).float()[None]
    errors = [
        float((LinearResize(rows_hH, columns_wW, None, first)(x_1HW)[0] - found_hw).abs().mean())
        for first in (False, True)
    ]
    return errors[1] < errors[0]
