"""What every detector takes and returns, and what the built-in ones share.

Legend: H, W are the photo's own height and width; boxes are in its pixels, x to the right, y downwards; N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Protocol

import torch
from PIL import Image

from latcli.engine.images import Photo
from latcli.errors import UsageError

#: Detectors see photos at 320 to 1280 pixels a side; larger ones only cost memory, gigabytes at 100 megapixels.
MAX_DETECTOR_PIXELS = 4_000_000

#: How a user goes on without the weights that a detector misses.
WITHOUT_WEIGHTS = "or choose --detector cam, which needs none"

#: The name of a box that stands for no class in particular: it agrees with every label.
ANY_CLASS = "salient object"


@dataclass(frozen=True)
class Box:
    """One object: left, top, right, bottom in pixels (right and bottom exclusive), confidence, class name."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    name: str
    #: Index into the detection's segmentations, or None where the model gives boxes only.
    segmentation: int | None = None


@dataclass(frozen=True)
class Detection:
    """What a detector found: boxes by falling confidence, and their silhouettes where the model has some.

    `segmentations_NHW[box.segmentation]` is the silhouette of a box, uint8: 255 on the object, 0 beside it, and values
    between where the model is unsure.
    """

    boxes: tuple[Box, ...]
    segmentations_NHW: torch.Tensor | None = None


@dataclass(frozen=True)
class Target:
    """The object that is looked for: the classifier's class index and name."""

    index: int
    name: str


@dataclass(frozen=True)
class DetectorContext:
    """What a detector may use besides its own settings.

    classifier: the model under attack. offline: download nothing. progress: show downloads on stderr. trust_weights:
    run the code that a weights file holds.
    """

    classifier: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    offline: bool = False
    progress: bool = False
    trust_weights: bool = False


class Detector(Protocol):
    """Finds objects in one photo.

    A class that is called with a `DetectorContext`; with an instance of its own dataclass `Settings` before that, if it
    has one, whose fields the options fill in by name (see `latcli.engine.objects.open_detector`).

    fingerprint names everything that a detection depends on besides the photo and the target: detector, weights' hash,
    settings. Equal fingerprints mean equal detections, so it is the key of the cache; None keeps them out of it.
    depends_on_target says whether `detect` looks at the target (an activation map does, YOLO does not). weights names
    the file of its weights and their hash, for a reader of results; None where there are none.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """The key of the cache; None for a detection that is not kept."""
        ...

    @property
    def depends_on_target(self) -> bool:
        """Whether `detect` looks at the target."""
        ...

    def detect(self, photo: Photo, target: Target) -> Detection:
        """Return every box above the detector's confidence threshold; an empty tuple where there is none."""
        ...


def check_share(what: str, value: float, most: float = 1.0) -> None:
    """Raise UsageError unless 0 <= value <= most: for the settings of detectors."""
    if not 0.0 <= value <= most:
        raise UsageError(f"{what} is {value:g}, not between 0 and {most:g}", "leave it out for the default")


class NoDetector:
    """Finds nothing on purpose: the control that attacks every pixel."""

    name = "none"
    fingerprint = None
    depends_on_target = False

    def __init__(self, context: DetectorContext | None = None) -> None:
        """Nothing to open."""

    def detect(self, photo: Photo, target: Target) -> Detection:
        """No boxes."""
        return Detection(())


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
