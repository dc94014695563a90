"""Photos of any mix of sizes as one batch for an attack, and the attack's result as exact levels of each photo.

A canvas is as large as the largest photo of the batch; what lies beyond a smaller photo has epsilon 0 and no part in
anything. A photo of many megapixels is attacked on a coarser grid whose cells change as one, so that time and memory
follow the grid and not the camera; its result still has every pixel of its own.

Legend: H, W the canvas; HH, WW a photo's own size where it differs from its grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from latcli.engine.attacks.contract import ROUNDING
from latcli.engine.attacks.settings import Model
from latcli.engine.attacks.threat import largest_scale
from latcli.engine.cuda_graph import Recordings
from latcli.engine.images import to_unit
from latcli.engine.models.preprocessing import LinearResize, Preprocessing
from latcli.errors import ContractError

#: Photos of more pixels than this are attacked on a coarser grid.
MAX_GRID_PIXELS = 4_000_000

#: Rows of a large photo that are worked on at a time.
_STRIP = 512

#: How far a window of structural similarity reaches from its middle.
_REACH = 5


@dataclass(frozen=True, eq=False)
class Grid:
    """A photo as an attack sees it: `levels_HWC` and `allowed_HW` (whole levels, uint8) on the attack's grid.

    `rows` and `columns` are the row and column of the grid that each row and column of the photo belongs to.
    """

    levels_HWC: np.ndarray
    allowed_HW: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @property
    def cell_areas(self) -> np.ndarray:
        """How many pixels of the photo each cell contains: (H, W, 1)."""
        return np.outer(np.bincount(self.rows), np.bincount(self.columns))[:, :, None].astype(np.float64)


def make_grid(levels_HWC: np.ndarray, allowed_HW: np.ndarray, max_pixels: int = MAX_GRID_PIXELS) -> Grid:
    """The photo itself, or a grid of about `max_pixels` cells, as equal as whole pixels allow.

    A cell has the mean colour of its pixels and the smallest allowance of any of them, so that no cell that touches a
    protected pixel changes at all.
    """
    HH, WW = allowed_HW.shape
    factor = math.ceil(math.sqrt(HH * WW / max_pixels))
    H, W = math.ceil(HH / factor), math.ceil(WW / factor)
    rows, columns = np.arange(HH) * H // HH, np.arange(WW) * W // WW
    if factor == 1:
        return Grid(levels_HWC, allowed_HW, rows, columns)
    small_HWC = cv2.resize(levels_HWC, (W, H), interpolation=cv2.INTER_AREA)
    first_row, first_column = np.searchsorted(rows, np.arange(H)), np.searchsorted(columns, np.arange(W))
    strictest_HW = np.minimum.reduceat(np.minimum.reduceat(allowed_HW, first_row, axis=0), first_column, axis=1)
    return Grid(small_HWC, strictest_HW, rows, columns)


@dataclass(frozen=True, eq=False)
class Canvas:
    """x_BCHW in [0, 1] and eps_B1HW of a batch of grids; epsilon is whole 8-bit levels, so rounding cannot leave it."""

    x_BCHW: torch.Tensor
    eps_B1HW: torch.Tensor
    sizes: tuple[tuple[int, int], ...]


def make_canvas(grids: Sequence[Grid], device: torch.device) -> Canvas:
    """Lay grids onto one canvas, each in the upper left corner."""
    sizes = tuple(grid.allowed_HW.shape for grid in grids)
    H, W = max(h for h, _ in sizes), max(w for _, w in sizes)
    x_BCHW = torch.zeros(len(grids), 3, H, W)
    eps_B1HW = torch.zeros(len(grids), 1, H, W)
    for index, (grid, (h, w)) in enumerate(zip(grids, sizes, strict=True)):
        x_BCHW[index, :, :h, :w] = to_unit(grid.levels_HWC)
        eps_B1HW[index, 0, :h, :w] = torch.from_numpy(grid.allowed_HW).float() / 255.0
    return Canvas(x_BCHW.to(device), eps_B1HW.to(device), sizes)


class CanvasView:
    """The model that an attack on a canvas climbs: round to 8 bits, read each photo as the classifier does, classify.

    `resizes` is the classifier's preprocessing for each photo. Rounding is inside, with a straight-through gradient, so
    that the attack sees what will be saved.
    """

    def __init__(self, classify: Model, resizes: Sequence[LinearResize]) -> None:
        self.classify, self.resizes = classify, tuple(resizes)
        self.recordings: Recordings = {}

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK of the photos on a canvas."""
        with torch.no_grad():
            rounding_BCHW = x_BCHW.mul(255.0).round_().div_(255.0).sub_(x_BCHW)
        # Each photo by a product of its own: one product over a canvas sums in an order that depends on its size.
        photos = zip((x_BCHW + rounding_BCHW).unbind(), self.resizes, strict=True)
        return self.classify(torch.stack([resize(x_CHW) for x_CHW, resize in photos]))

    def narrowed(self, kept_b: torch.Tensor) -> CanvasView:
        """The view of some of the photos."""
        return CanvasView(self.classify, [self.resizes[kept] for kept in kept_b.tolist()])


def make_view(classify: Model, canvas: Canvas, preprocessing: Preprocessing | None) -> CanvasView:
    """The view of a canvas by a classifier's preprocessing; None where photos have its size already."""
    found = [
        LinearResize(torch.eye(size[0]), torch.eye(size[1])) if preprocessing is None else preprocessing.linear(size)
        for size in canvas.sizes
    ]
    return CanvasView(classify, [resize.to(canvas.x_BCHW.device) for resize in found])


def adversarial_levels(
    levels_HWC: np.ndarray, allowed_HW: np.ndarray, grid: Grid, adv_CHW: torch.Tensor, radius: float | None
) -> np.ndarray:
    """The adversarial photo as uint8 levels (H, W, C) at its own size, from an attack's result on its grid.

    `allowed_HW` are the whole levels each pixel of the photo may move; `radius` the l2 radius in image scale, if any.
    Changes are rounded to the nearest level and stay inside both; checked before they are returned (ContractError).
    """
    h, w = grid.allowed_HW.shape
    unit_hwC = adv_CHW[:, :h, :w].detach().cpu().permute(1, 2, 0).numpy()
    change_hwC = np.rint(unit_hwC * 255.0 - grid.levels_HWC).astype(np.int16)
    if radius is not None:
        change_hwC = _inside_radius(unit_hwC * 255.0 - grid.levels_HWC, grid.cell_areas, radius * 255.0)
    adversarial_HWC = np.empty_like(levels_HWC)
    for strip in _strips(len(levels_HWC)):
        change = change_hwC[grid.rows[strip]][:, grid.columns]
        bound = allowed_HW[strip][:, :, None].astype(np.int16)
        change = np.clip(change, -bound, bound)
        adversarial_HWC[strip] = np.clip(levels_HWC[strip] + change, 0, 255)
    check_levels(levels_HWC, adversarial_HWC, allowed_HW, radius)
    return adversarial_HWC


def _inside_radius(change_hwC: np.ndarray, areas_hw1: np.ndarray, radius_levels: float) -> np.ndarray:
    """Whole-level changes whose l2 norm keeps the radius: the change is scaled down until its rounding fits."""
    change = torch.from_numpy(change_hwC).double()[None]
    areas = torch.from_numpy(areas_hw1)

    def fits(scale_1: torch.Tensor) -> torch.Tensor:
        squares: torch.Tensor = (change * float(scale_1)).round().square().mul(areas).sum()
        return squares.sqrt()[None] <= radius_levels

    scale = float(largest_scale(fits, change))
    return np.rint(change_hwC.astype(np.float64) * scale).astype(np.int16)


@dataclass(frozen=True)
class Change:
    """How much of a photo changed, and how visibly.

    altered: share of pixels in [0, 1]. linf_inside, linf_outside: the largest change, in image scale, where nothing may
    change and where something may; l2 in image scale. psnr in dB (infinite where nothing changed) and ssim are taken
    over the pixels that may change, since the others are equal by design.
    """

    altered: float
    linf_inside: float
    linf_outside: float
    l2: float
    psnr: float
    ssim: float


def measure_change(levels_HWC: np.ndarray, adversarial_HWC: np.ndarray, allowed_HW: np.ndarray) -> Change:
    """Compare two photos of the same size, level by level."""
    altered, inside, outside, squares, similar = 0, 0, 0, 0, 0.0
    free = max(1, int(np.count_nonzero(allowed_HW)))
    for strip in _strips(len(levels_HWC)):
        change_HWC = np.abs(adversarial_HWC[strip].astype(np.int16) - levels_HWC[strip])
        largest_HW, free_HW = change_HWC.max(axis=2), allowed_HW[strip] > 0
        altered += int(np.count_nonzero(largest_HW))
        inside = max(inside, int(largest_HW[~free_HW].max(initial=0)))
        outside = max(outside, int(largest_HW[free_HW].max(initial=0)))
        squares += int(np.square(change_HWC, dtype=np.int64).sum())
        # With the rows around it that its windows reach, so that no strip has an edge of its own.
        first, last = max(0, strip.start - _REACH), min(len(levels_HWC), strip.stop + _REACH)
        similarity_HW = structural_similarity(levels_HWC[first:last], adversarial_HWC[first:last])
        similar += float(similarity_HW[strip.start - first :][: len(free_HW)][free_HW].sum())
    psnr = 10.0 * math.log10(255.0**2 * 3 * free / squares) if squares else math.inf
    return Change(
        altered / allowed_HW.size, inside / 255.0, outside / 255.0, math.sqrt(squares) / 255.0, psnr, similar / free
    )


def structural_similarity(first_HWC: np.ndarray, second_HWC: np.ndarray) -> np.ndarray:
    """SSIM of two photos' brightness at each pixel, float32 (H, W): 1 where they are equal.

    Levels are uint8. Gaussian windows of 11 pixels (sigma 1.5), K1 = .01, K2 = .03. Source: Wang et al., "Image quality
    assessment: from error visibility to structural similarity", IEEE TIP 2004, equation 13.
    """
    x, y = (cv2.cvtColor(levels_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32) for levels_HWC in (first_HWC, second_HWC))

    def mean(values_HW: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(values_HW, (2 * _REACH + 1, 2 * _REACH + 1), 1.5))

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x * mean_x + mean(y * y) - mean_y * mean_y
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
    alike = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    similarity_HW: np.ndarray = alike / ((mean_x * mean_x + mean_y * mean_y + c1) * (variances + c2))
    return similarity_HW


def check_levels(
    levels_HWC: np.ndarray, adversarial_HWC: np.ndarray, allowed_HW: np.ndarray, radius: float | None = None
) -> None:
    """The contract on what is saved: every level within its allowance, protected ones equal, the l2 radius kept.

    Raises ContractError.
    """
    hint = "this is a defect of latcli, not of your input; nothing was kept"
    if adversarial_HWC.shape != levels_HWC.shape or adversarial_HWC.dtype != np.uint8:
        raise ContractError("the adversarial photo has another size or type than the photo", hint)
    for strip in _strips(len(levels_HWC)):
        change_HWC = np.abs(adversarial_HWC[strip].astype(np.int16) - levels_HWC[strip])
        excess = int((change_HWC.max(axis=2) - allowed_HW[strip].astype(np.int16)).max())
        if excess > 0:
            raise ContractError(f"a pixel of the saved photo changed by {excess} levels more than it may", hint)
    if radius is not None:
        length = measure_change(levels_HWC, adversarial_HWC, allowed_HW).l2
        if length > radius + ROUNDING:
            raise ContractError(f"the saved photo's l2 change is {length:.6g}, above the radius {radius:g}", hint)


def _strips(rows: int) -> list[slice]:
    return [slice(top, min(top + _STRIP, rows)) for top in range(0, rows, _STRIP)]
