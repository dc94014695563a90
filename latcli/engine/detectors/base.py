"""What every detector takes and returns; knows no particular detector.

Legend: H, W are the photo's own height and width; boxes are in its pixels, x to the right, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from latcli.engine.images import Photo


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
    """What a detector found: boxes by falling confidence, and a bool mask_NHW where the model has one.

    `segmentations_NHW[box.segmentation]` is the silhouette of a box.
    """

    boxes: tuple[Box, ...]
    segmentations_NHW: torch.Tensor | None = None


@dataclass(frozen=True)
class Target:
    """The object that is looked for: the classifier's class index and name."""

    index: int
    name: str


class Detector(Protocol):
    """Finds objects in one photo.

    `fingerprint` names everything a detection depends on besides the photo and the target: detector, weights hash and
    parameters. Equal fingerprints mean equal detections, so it is the key of the cache.
    `depends_on_target` says whether `detect` looks at the target (a class activation map does, YOLO does not).
    """

    name: str
    fingerprint: str
    depends_on_target: bool

    def detect(self, photo: Photo, target: Target) -> Detection:
        """Return every box above the detector's confidence threshold; an empty tuple where there is none."""
        ...
