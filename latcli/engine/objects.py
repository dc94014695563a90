"""From a photo and a detector to the mask of its object, for attacks and training alike; must not know either.

Legend: H, W a photo's own size. mask_1HW is 1 on the object.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from latcli.engine import localize
from latcli.engine.detectors.base import Detection, Detector, Target
from latcli.engine.detectors.choose import choose_boxes
from latcli.engine.images import Photo

#: Share of the side that stands for the object where a detector misses it: the middle quarter of the area.
MISS_CENTER = 0.5

WhichBoxes = Literal["all", "best"]
Refinement = Literal["none", "grabcut"]


class DetectionCache(Protocol):
    """Where detections are kept between runs; handed in by whoever has such a place."""

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        """The stored detection, if any."""
        ...

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        """Keep one."""
        ...


def find_object(
    detector: Detector, photo: Photo, target: Target, which: WhichBoxes, cache: DetectionCache | None
) -> Detection:
    """The boxes that are taken for the target's object, from the cache where it has them; none where it was missed."""
    return choose_boxes(_detect(detector, photo, target, cache), target, which)


def detection_mask(photo: Photo, found: Detection, refine: Refinement) -> torch.Tensor:
    """mask_1HW of a detection: the silhouettes where all boxes have one, else the boxes, refined if that is asked."""
    rectangles = [(box.x0, box.y0, box.x1, box.y1) for box in found.boxes]
    silhouettes = [box.segmentation for box in found.boxes if box.segmentation is not None]
    if found.segmentations_NHW is not None and len(silhouettes) == len(rectangles) > 0:
        return localize.silhouettes_mask(found.segmentations_NHW[silhouettes])
    if refine == "grabcut" and rectangles:
        return localize.grabcut_mask(photo.levels_HWC, rectangles)
    return localize.boxes_mask(rectangles, photo.size)


def _detect(detector: Detector, photo: Photo, target: Target, cache: DetectionCache | None) -> Detection:
    name = target.name if detector.depends_on_target else ""
    if cache and (known := cache.get(photo, detector.fingerprint, name)) is not None:
        return known
    detection = detector.detect(photo, target)
    if cache:
        cache.put(photo, detector.fingerprint, name, detection)
    return detection
