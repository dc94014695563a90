"""What every detector is constructed with, and what the built-in ones share; knows no particular detector."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from latcli.engine.images import Photo
from latcli.errors import UsageError

#: Detectors see photos at 320 to 1280 pixels a side; larger ones only cost memory, gigabytes at 100 megapixels.
MAX_DETECTOR_PIXELS = 4_000_000

#: How a user goes on without the weights that a detector misses.
WITHOUT_WEIGHTS = "or choose --detector cam, which needs none"


@dataclass(frozen=True)
class DetectorSettings:
    """What a detector is constructed with. Each takes what concerns it.

    `weights`: a file, an official name (yolo), or None for the default ones. `confidence` in [0, 1]: the least one of
    a box (yolo, mobilenet). `offline`: download nothing. `progress`: show downloads on stderr. `classifier`: the
    attacked model, and `threshold` in [0, 1): the share of its map's peak from which on a pixel counts (both cam).
    `trust_weights`: run what stands in the weights file (yolo), as its maker meant.
    Raises UsageError for a number outside its range.
    """

    weights: Path | str | None = None
    confidence: float = 0.25
    offline: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    classifier: Any = None
    threshold: float = 0.4
    progress: bool = False
    trust_weights: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise UsageError(f"a detector's confidence of {self.confidence} is not in [0, 1]", "0.25 is the default")
        if not 0 <= self.threshold < 1:
            raise UsageError(f"a map's threshold of {self.threshold} is not in [0, 1)", "0.4 is the default")


def for_detector(photo: Photo) -> Image.Image:
    """The photo as a detector gets it: itself, or reduced where it is far larger than any detector looks at."""
    height, width = photo.size
    if height * width <= MAX_DETECTOR_PIXELS:
        return photo.image
    scale = sqrt(MAX_DETECTOR_PIXELS / (height * width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return photo.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def scaled_corners(
    corners: tuple[float, float, float, float], seen: Image.Image, photo: Photo
) -> tuple[float, float, float, float] | None:
    """Corners found in the image that a detector saw, in the photo's pixels and inside it; None where nothing is left.

    `corners` are left, top, right, bottom, in pixels of `seen`.
    """
    height, width = photo.size
    across, down = width / seen.width, height / seen.height
    x0, x1 = (min(max(x * across, 0.0), float(width)) for x in corners[0::2])
    y0, y1 = (min(max(y * down, 0.0), float(height)) for y in corners[1::2])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
