"""How a photo and its mask become the squares that a network is trained and scored on; must not know files or sets.

Legend: H, W the photo's own size, h = w the classifier's input size; squares are uint8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from latcli.engine.images import Photo
from latcli.engine.models.preprocessing import FILTERS, Preprocessing
from latcli.engine.noise import uniform_noise

#: Share of the photo's area that a random crop keeps at least, and how far its sides may differ (Szegedy et al.,
#: CVPR'15, who keep 0.08: too little for the object and its background to both be there).
_LEAST_AREA = 0.35
_MOST_RATIO = 4 / 3


@dataclass(frozen=True)
class RandomCrop:
    """A part of a photo, left, top, right, bottom in pixels, and whether it is mirrored."""

    box: tuple[float, float, float, float]
    mirrored: bool


def random_crop(size: tuple[int, int], seed: int) -> RandomCrop:
    """A crop of a photo of `size` (H, W) that depends on the seed alone."""
    H, W = size
    area, ratio, across, down, mirror = uniform_noise(torch.tensor([seed]), (1, 1, 5)).flatten().tolist()
    area = H * W * (_LEAST_AREA + (1.0 - _LEAST_AREA) * area)
    stretch = math.exp((2.0 * ratio - 1.0) * math.log(_MOST_RATIO) / 2.0)
    height, width = min(H, math.sqrt(area) / stretch), min(W, math.sqrt(area) * stretch)
    left, top = (W - width) * across, (H - height) * down
    return RandomCrop((left, top, left + width, top + height), mirror < 0.5)


def photo_square(photo: Photo, preprocessing: Preprocessing, crop: RandomCrop | None) -> np.ndarray:
    """levels_hwC: the crop at the network's size, or without one what the classifier's own preprocessing gives.

    Raises ImageError for a photo that is too narrow for that.
    """
    return np.asarray(_square(photo.image, preprocessing, crop))


def mask_square(mask_HW: np.ndarray, preprocessing: Preprocessing, crop: RandomCrop | None) -> np.ndarray:
    """mask_hw, 0 or 1, of a mask uint8 0 or 1: by the photo's own geometry, and still one or the other.

    A pixel is the object's where the object covers at least half of what the pixel is made of (bilinear, antialiased).
    """
    image = Image.fromarray(mask_HW * np.uint8(255))
    square_hw = np.asarray(_square(image, replace(preprocessing, interpolation="bilinear"), crop))
    return (square_hw >= 128).astype(np.uint8)


def _square(image: Image.Image, preprocessing: Preprocessing, crop: RandomCrop | None) -> Image.Image:
    if crop is None:
        return preprocessing.prepare(image)
    side = preprocessing.crop
    square = image.resize((side, side), FILTERS[preprocessing.interpolation], box=crop.box)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else square
