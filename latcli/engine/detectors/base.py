"""What every detector takes and returns, and what the built-in ones share.

Boxes are in the photo's own pixels, x to the right, y downwards; N of them.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image

from latcli.engine.images import Photo
from latcli.engine.models.libraries import imagenet_names
from latcli.engine.models.weights import fetch
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

    def fetch(self, url: str, what: str, hint: str = "") -> Path:
        """The file of that URL from torch's cache, else downloaded. Raises WeightsError as `weights.fetch` does."""
        hint = hint or f"get {url} and give it with --detector-weights FILE, {WITHOUT_WEIGHTS}"
        return fetch(url, what=what, hint=hint, offline=self.offline, progress=self.progress)


class Detector(Protocol):
    """Finds objects in one photo.

    A class that is called with a `DetectorContext`; with an instance of its own dataclass `Settings` before that, if it
    has one, whose fields the options fill in by name (see `latcli.engine.objects.open_detector`).

    name: the registered one. fingerprint: everything that a detection depends on besides the photo and the target, that
    is, detector, weights' hash, settings: the key of the cache; None keeps its detections out of it. depends_on_target:
    whether `detect` looks at the target (an activation map does, YOLO does not). weights: the file of its weights and
    their hash, for a reader of results; None where there are none.
    """

    name: str
    fingerprint: str | None
    depends_on_target: bool

    def detect(self, photo: Photo, target: Target) -> Detection:
        """Return every box above the detector's confidence threshold; an empty tuple where there is none."""


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


WhichBoxes = Literal["all", "best"]


def agreeing_boxes(detection: Detection, target: Target, which: WhichBoxes) -> Detection:
    """The boxes that agree with the target's class, by falling confidence, or the best one of them; none if none does.

    Silhouettes are carried along, and only those of the boxes that remain.
    """
    boxes = sorted((box for box in detection.boxes if agrees(box.name, target)), key=lambda box: -box.score)
    return _only(detection, boxes if which == "all" else boxes[:1])


def surest_box(detection: Detection) -> Detection:
    """The box of the largest confidence, whatever its class."""
    return _only(detection, sorted(detection.boxes, key=lambda box: -box.score)[:1])


def _only(detection: Detection, kept: list[Box]) -> Detection:
    used = [box.segmentation for box in kept if box.segmentation is not None]
    boxes = (
        box if box.segmentation is None else replace(box, segmentation=used.index(box.segmentation)) for box in kept
    )
    silhouettes_NHW = detection.segmentations_NHW
    return Detection(tuple(boxes), silhouettes_NHW[used] if used and silhouettes_NHW is not None else None)


def agrees(box_name: str, target: Target) -> bool:
    """Whether boxes of that class are to be taken for the target's object; those of `ANY_CLASS` always are.

    Between a COCO name and an ImageNet class the table decides; all other names agree where they are equal, whatever
    their case and whether they are written with spaces, `_` or `-`.
    """
    if box_name == ANY_CLASS:
        return True
    name, covered, names = _plain(box_name), _coco_to_imagenet(), imagenet_names()
    # A class 7 of another model is no cock. Libraries spell ImageNet's names differently: one common word is enough.
    if name in covered and target.index < len(names) and _words(target.name) & _words(names[target.index]):
        spans = (span.partition("-") for span in covered[name].split())
        return any(int(first) <= target.index <= int(last or first) for first, _, last in spans)
    return name == _plain(target.name)


@cache
def _coco_to_imagenet() -> dict[str, str]:
    """Each COCO class, with the ImageNet classes whose objects an annotator of COCO would call so.

    As indices and spans of them, both ends included; none for a class such as kite (ImageNet's is a bird).
    """
    with Path(__file__).with_name("coco_to_imagenet.csv").open(encoding="utf-8", newline="") as file:
        return {row["coco"]: row["imagenet"] for row in csv.DictReader(file)}


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip())).casefold()


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.casefold().replace("_", " ")))
