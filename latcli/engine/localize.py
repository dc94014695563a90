"""Boxes, silhouettes, files or a center become a mask; a mask and a region become the epsilon matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn.functional import pad

from latcli.engine.noise import derive_seed
from latcli.errors import UsageError

Region = Literal["background", "foreground", "all", "random", "patch"]
REGIONS: tuple[Region, ...] = get_args(Region)

#: A patch covers this share of an image, as in LaVAN (Karmon et al., ICML'18).
PATCH_SHARE = 0.02

#: GrabCut has settled by then.
_ITERATIONS = 5

Rectangle = tuple[float, float, float, float]


def boxes_mask(boxes: Sequence[Rectangle], size: tuple[int, int]) -> torch.Tensor:
    """mask_1HW with 1 on every pixel that a box touches.

    `boxes` are (x0, y0, x1, y1) in pixels, right and bottom exclusive; parts outside the image are cut off.
    `size` is (H, W). No box at all gives an empty mask: everything is background.
    """
    H, W = size
    mask_1HW = torch.zeros(1, H, W)
    for x0, y0, x1, y1 in boxes:
        # An end below 0 would count from the far side.
        rows = slice(max(0, math.floor(y0)), max(0, math.ceil(y1)))
        columns = slice(max(0, math.floor(x0)), max(0, math.ceil(x1)))
        mask_1HW[:, rows, columns] = 1.0
    return mask_1HW


def user_boxes(boxes: Sequence[Rectangle], size: tuple[int, int]) -> list[Rectangle]:
    """Boxes given by a person, checked against a photo of `size` (H, W).

    Raises UsageError for a box that is empty or reaches outside the image.
    """
    H, W = size
    for x0, y0, x1, y1 in boxes:
        written = f"{x0:g},{y0:g},{x1:g},{y1:g}"
        if not (x0 < x1 and y0 < y1):
            raise UsageError(f"the box {written} is empty", "a box is x0,y0,x1,y1 with x0 < x1 and y0 < y1, in pixels")
        if x0 < 0 or y0 < 0 or x1 > W or y1 > H:
            raise UsageError(
                f"the box {written} reaches outside the photo of {W}x{H} pixels", "boxes are in the photo's own pixels"
            )
    return list(boxes)


def center_mask(size: tuple[int, int], share: float) -> torch.Tensor:
    """mask_1HW of the paper's middle pixels: a centred rectangle whose sides are `share` of the image's.

    Sides are whole pixels, the nearest to what was asked: of 28 px, a share of 0.25 protects 7. Where the margins
    cannot be equal, the first is the smaller by a pixel. Source: the paper's section 4 (the middle pixels stand for
    the object).
    """
    H, W = size
    h, w = middle_pixels(H, share), middle_pixels(W, share)
    top, left = (H - h) // 2, (W - w) // 2
    mask_1HW = torch.zeros(1, H, W)
    mask_1HW[:, top : top + h, left : left + w] = 1.0
    return mask_1HW


def middle_pixels(side: int, share: float) -> int:
    """How many of `side` pixels a middle of so large a share is: the nearest number, at least 1 unless it is 0."""
    return max(1, math.floor(side * share + 0.5 + 1e-9)) if share > 0.0 else 0


def grabcut_mask(levels_HWC: np.ndarray, boxes: Sequence[Rectangle]) -> torch.Tensor:
    """mask_1HW of the objects' silhouettes inside their boxes, by GrabCut (Rother et al., SIGGRAPH'04; OpenCV).

    A box in which GrabCut finds no object, or none but object, stays a box: there was no edge to follow. The same
    photo gives the same mask. Large photos are segmented at 1 megapixel and the mask is enlarged.
    """
    import cv2

    H, W = levels_HWC.shape[:2]
    scale = min(1.0, math.sqrt(1_000_000 / (H * W)))
    small = cv2.resize(levels_HWC, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else levels_HWC
    union_HW = np.zeros((H, W), dtype=bool)
    for box in boxes:
        box_HW = boxes_mask([box], (H, W))[0].numpy() > 0
        silhouette_hw = _grabcut_one(small, [scale * side for side in box])
        if silhouette_hw is not None:
            enlarged = cv2.resize(silhouette_hw.astype(np.uint8), (W, H), interpolation=cv2.INTER_NEAREST)
            box_HW &= enlarged > 0
        union_HW |= box_HW
    return torch.from_numpy(union_HW.astype(np.float32))[None]


def _grabcut_one(levels_HWC: np.ndarray, box: Sequence[float]) -> np.ndarray | None:
    """The silhouette, bool (H, W), inside a box; None where there was no edge to follow."""
    import cv2

    H, W = levels_HWC.shape[:2]
    (x0, y0), (x1, y1) = (max(0, round(side)) for side in box[:2]), (min(W, round(box[2])), min(H, round(box[3])))
    if x1 - x0 < 3 or y1 - y0 < 3 or (x1 - x0) * (y1 - y0) >= H * W:
        return None
    labels_HW = np.zeros((H, W), dtype=np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its k-means starts at random
    bgr_HWC, rectangle = np.ascontiguousarray(levels_HWC[:, :, ::-1]), (x0, y0, x1 - x0, y1 - y0)
    cv2.grabCut(bgr_HWC, labels_HW, rectangle, background, foreground, _ITERATIONS, cv2.GC_INIT_WITH_RECT)
    silhouette = (labels_HW == cv2.GC_FGD) | (labels_HW == cv2.GC_PR_FGD)
    share = silhouette[y0:y1, x0:x1].mean()
    return silhouette if 0.01 < share < 0.99 else None


def epsilon_matrix(
    mask_B1HW: torch.Tensor, epsilon: float, region: Region = "background", seeds: Sequence[int] | None = None
) -> torch.Tensor:
    """eps_B1HW: what may change, and by how much. This is the whole threat model of an attack.

    background: epsilon x (1 - mask), as in the paper's Algorithm 1. foreground: epsilon x mask. all: epsilon. random:
    the background's own shape, moved by a random offset (it wraps round), so that its area is the same to the pixel.
    patch: a square of `PATCH_SHARE` of the image, at a random place without object if there is one; object inside it
    stays protected. `epsilon` in (0, 1]; `seeds`, one for each image, are needed for random and patch alone.

    Raises UsageError for an epsilon outside (0, 1] or an unknown region.
    """
    if not 0.0 < epsilon <= 1.0:
        raise UsageError(f"epsilon is {epsilon:g}, not in (0, 1]", "it is in image scale: 8/255 or 0.0314")
    background_B1HW = 1.0 - mask_B1HW
    if region == "background":
        return background_B1HW.mul_(epsilon)
    if region == "foreground":
        return mask_B1HW * epsilon
    if region == "all":
        return torch.full_like(mask_B1HW, epsilon)
    if region not in REGIONS:
        raise UsageError(f"there is no region called '{region}'", f"known: {', '.join(REGIONS)}")
    if seeds is None or len(seeds) != len(mask_B1HW):
        raise ValueError(f"region '{region}' needs one seed for each image")
    place = _rolled if region == "random" else _patch
    placed = [place(one_1HW, seed) for one_1HW, seed in zip(background_B1HW, seeds, strict=True)]
    return torch.stack(placed).mul_(epsilon)


def _rolled(background_1HW: torch.Tensor, seed: int) -> torch.Tensor:
    _, H, W = background_1HW.shape
    rows, columns = derive_seed(seed, "rows") % H, derive_seed(seed, "columns") % W
    return torch.roll(background_1HW, shifts=(rows, columns), dims=(1, 2))


def _patch(background_1HW: torch.Tensor, seed: int) -> torch.Tensor:
    _, H, W = background_1HW.shape
    side = min(H, W, max(1, round(math.sqrt(PATCH_SHARE * H * W))))
    # How much object each square of that side holds: places with the least of it are as good as each other.
    sums_HW = pad((1.0 - background_1HW[0]).cpu().double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    object_hw = sums_HW[side:, side:] - sums_HW[:-side, side:] - sums_HW[side:, :-side] + sums_HW[:-side, :-side]
    places = (object_hw <= object_hw.min() + 1e-6).nonzero()
    top, left = places[derive_seed(seed, "patch") % len(places)].tolist()
    patch_1HW = torch.zeros_like(background_1HW)
    patch_1HW[:, top : top + side, left : left + side] = background_1HW[:, top : top + side, left : left + side]
    return patch_1HW
