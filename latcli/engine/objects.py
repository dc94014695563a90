"""Where the object of a photo is: given by its user, or found by a detector, or by several, photo by photo.

Legend: H, W a photo's own size. mask_1HW is 1 on the object; levels_HW is the same as uint8, 255 on the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from latcli.engine import localize, registry
from latcli.engine.detectors.agreement import WhichBoxes, agreeing_boxes, surest_box
from latcli.engine.detectors.base import ANY_CLASS, Box, Detection, Detector, DetectorContext, Target
from latcli.engine.detectors.saliency import SaliencyDetector, inside_box
from latcli.engine.images import Photo, read_mask
from latcli.errors import NoObjectError, UsageError, WeightsError
from latcli.results import DocumentError, read

#: Share of the side that stands for the object where a detector misses it: the middle quarter of the area.
MISS_CENTER = 0.5

#: `auto` takes no salient object that is smaller than this share of the photo.
_SMALLEST_SALIENT = 0.01

Refinement = Literal["none", "grabcut", "saliency"]
OnMiss = Literal["fail", "skip", "center"]


@dataclass(frozen=True)
class ObjectSettings:
    """How the object of a photo is found. At most one of `boxes`, `mask` and `center` takes the place of the detector.

    detector: a registered name, or "auto". values: settings of detectors by name, such as "confidence" for any that has
    it, or "cam_threshold" for one. boxes: rectangles in pixels. mask: a file (white protects), or a folder of files
    that lie below it as the photos do. center: the middle, as a share of the sides. which: all boxes that agree with
    the label, or the best one. refine: turns boxes into silhouettes. soft: masks keep values between 0 and 1. on_miss:
    what to do with a photo in which nothing is found.
    """

    detector: str = "auto"
    values: Mapping[str, Any] = field(default_factory=dict)
    boxes: tuple[localize.Rectangle, ...] = ()
    mask: Path | None = None
    center: float | None = None
    which: WhichBoxes = "all"
    refine: Refinement = "none"
    soft: bool = False
    on_miss: OnMiss = "fail"

    def __post_init__(self) -> None:
        given = [name for name in ("boxes", "mask", "center") if getattr(self, name) not in ((), None)]
        if len(given) > 1:
            options = " and ".join("--box" if name == "boxes" else f"--{name}" for name in given)
            raise UsageError(f"{options} cannot be used together", "each says on its own where the object is")
        if self.center is not None and not 0.0 <= self.center < 1.0:
            raise UsageError(f"the center share is {self.center:g}, not from 0 to below 1", "for example --center 0.25")


@dataclass(frozen=True, eq=False)
class FoundObject:
    """The object of a photo, and who says so.

    detector: a detector's name, or "box", "mask" or "center"; weights: name and hash of its weights; how: in words.
    """

    mask_1HW: torch.Tensor
    detector: str
    how: str
    boxes: tuple[Box, ...] = ()
    weights: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def confidence(self) -> float | None:
        """The best score of its boxes; None without boxes."""
        return max((box.score for box in self.boxes), default=None)


class DetectionCache(Protocol):
    """Where detections are kept between runs; handed in by whoever has such a place."""

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        """The stored detection, if any."""
        ...

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        """Keep one."""
        ...


class ObjectFinder:
    """Finds the object of one photo after the other. `about` is a line that says by what."""

    def __init__(self, settings: ObjectSettings, context: DetectorContext, cache: DetectionCache | None = None) -> None:
        """Open the detectors. Raises UsageError for an unknown one and WeightsError for weights that cannot be used."""
        self.settings, self.cache = settings, cache
        self._detectors: list[Detector] = []
        self._saliency: SaliencyDetector | None = None
        self.about = "given by the user"
        if not (settings.boxes or settings.mask or settings.center is not None):
            if settings.detector == "auto":
                self.about = self._open_all(context)
            else:
                self._detectors = [open_detector(settings.detector, settings.values, context)]
                self.about = _described(self._detectors[0])
        if settings.refine == "saliency" and self._saliency is None:
            own = settings.values if settings.detector == "saliency" else {}
            self._saliency = open_detector("saliency", own, context)

    def find(self, photo: Photo, target: Target) -> FoundObject:
        """The object that the target names. Raises NoObjectError where nothing is found and that is to fail or skip.

        ImageError and UsageError for a mask or box that does not fit the photo.
        """
        if (given := self._given(photo, target)) is not None:
            return given
        for detector in self._detectors:
            if (found := self._found_by(detector, photo, target)) is not None:
                return found
        name = self.settings.detector
        if self.settings.on_miss == "center":
            mask_1HW = localize.center_mask(photo.size, MISS_CENTER)
            return FoundObject(mask_1HW, "center", f"middle {MISS_CENTER:g}, {name} missed")
        raise NoObjectError(
            f"{name} found no object in {photo.name}",
            "give --box or --mask, choose another --detector, or say --on-miss center or skip",
        )

    def _given(self, photo: Photo, target: Target) -> FoundObject | None:
        where = self.settings
        if where.mask is not None:
            return FoundObject(read_mask(mask_file(where.mask, photo.name), photo.size), "mask", "mask file")
        if where.center is not None:
            mask_1HW = localize.center_mask(photo.size, where.center)
            return FoundObject(mask_1HW, "center", f"middle {where.center:g} of the sides")
        if where.boxes:
            given = localize.user_boxes(where.boxes, photo.size)
            boxes = tuple(Box(*box, score=1.0, name=target.name) for box in given)
            levels_HW, how = self._silhouette(photo, target, Detection(boxes), where.refine)
            return FoundObject(self._mask(levels_HW), "box", f"given boxes{how}", boxes)
        return None

    def _found_by(self, detector: Detector, photo: Photo, target: Target) -> FoundObject | None:
        """What one detector finds; by `auto`, only what agrees with the target and is no speck."""
        auto = self.settings.detector == "auto"
        detection = self._detect(detector, photo, target)
        found, notes = agreeing_boxes(detection, target, self.settings.which), ()
        if not found.boxes and detection.boxes and not auto:
            found = surest_box(detection)
            notes = (f"no box agrees with '{target.name}': the surest one is protected, '{found.boxes[0].name}'",)
        if not found.boxes and detector.name != "none":
            return None
        refine = self.settings.refine
        if auto and refine == "none" and self._saliency is not None and detector.name in _BOX_DETECTORS:
            refine = "saliency"
        levels_HW, how = self._silhouette(photo, target, found, refine)
        salient = any(box.name == ANY_CLASS for box in found.boxes)
        if auto and salient and np.mean(levels_HW >= 128) < _SMALLEST_SALIENT:
            return None
        weights = getattr(detector, "weights", None)
        return FoundObject(self._mask(levels_HW), detector.name, detector.name + how, found.boxes, weights, notes)

    def _silhouette(self, photo: Photo, target: Target, found: Detection, refine: Refinement) -> tuple[np.ndarray, str]:
        """levels_HW of a detection, and how its boxes became silhouettes, in words.

        The model's own silhouettes where all boxes have one, else the boxes, refined if that is asked for.
        """
        silhouettes = [box.segmentation for box in found.boxes if box.segmentation is not None]
        if found.segmentations_NHW is not None and len(silhouettes) == len(found.boxes) > 0:
            own = "" if found.boxes[0].name == ANY_CLASS else ", silhouettes"
            return found.segmentations_NHW[silhouettes].amax(dim=0).numpy(), own
        rectangles = [(box.x0, box.y0, box.x1, box.y1) for box in found.boxes]
        if refine == "grabcut" and rectangles:
            return _levels(localize.grabcut_mask(photo.levels_HWC, rectangles)), ", grabcut"
        if refine == "saliency" and rectangles and self._saliency is not None:
            return self._salient_parts(self._saliency, photo, target, rectangles)
        return _levels(localize.boxes_mask(rectangles, photo.size)), ""

    def _salient_parts(
        self, saliency: SaliencyDetector, photo: Photo, target: Target, rectangles: Sequence[localize.Rectangle]
    ) -> tuple[np.ndarray, str]:
        """The salient part of each box; a box of which too little is salient stays whole."""
        soft_NHW = self._detect(saliency, photo, target).segmentations_NHW
        soft_HW = np.zeros(photo.size, dtype=np.uint8) if soft_NHW is None else soft_NHW[0].numpy()
        levels_HW = np.zeros(photo.size, dtype=np.uint8)
        refined = 0
        for rectangle in rectangles:
            box_HW = localize.boxes_mask([rectangle], photo.size)[0].numpy() > 0
            part_HW = inside_box(soft_HW, box_HW)
            refined += part_HW is not None
            levels_HW = np.maximum(levels_HW, 255 * box_HW.astype(np.uint8) if part_HW is None else part_HW)
        return levels_HW, ", salient part" if refined else ""

    def _mask(self, levels_HW: np.ndarray) -> torch.Tensor:
        """mask_1HW of levels, cut at one half unless it is to be soft."""
        values_HW = (
            levels_HW.astype(np.float32) / 255.0 if self.settings.soft else (levels_HW >= 128).astype(np.float32)
        )
        return torch.from_numpy(values_HW)[None]

    def _detect(self, detector: Detector, photo: Photo, target: Target) -> Detection:
        """The detection, from the cache where it has it."""
        if self.cache is None or detector.fingerprint is None:
            return detector.detect(photo, target)
        name = target.name if detector.depends_on_target else ""
        detection = self.cache.get(photo, detector.fingerprint, name)
        if detection is None:
            detection = detector.detect(photo, target)
            self.cache.put(photo, detector.fingerprint, name, detection)
        return detection

    def _open_all(self, context: DetectorContext) -> str:
        """Open what `auto` asks, one after the other, and say what that is.

        Boxes of YOLO, or of MobileNet where YOLO cannot be had; the salient object; the activation map. Weights that
        the user names go to the first detector that can use them: leaving them out would answer another question.
        """
        passed_over: list[str] = []
        named = self.settings.values.get("weights")
        with_weights: Detector | None = None
        if named is not None:
            for name in (*_BOX_DETECTORS, "saliency"):
                with_weights = with_weights or self._opened(name, self.settings.values, context, passed_over)
            if with_weights is None:
                raise WeightsError(
                    f"no detector can use {named}; {'; '.join(passed_over)}",
                    "give YOLO weights (.pt), SSDLite weights or a saliency network (.onnx), or leave the option out",
                )
            passed_over.clear()
        values = {name: value for name, value in self.settings.values.items() if name != "weights"}
        boxes = next((name for name in _BOX_DETECTORS if with_weights and with_weights.name == name), None)
        for name in (*_BOX_DETECTORS, "saliency", "cam"):
            if name in _BOX_DETECTORS and boxes not in (None, name):
                continue
            detector = with_weights if with_weights and with_weights.name == name else None
            detector = detector or self._opened(name, values, context, passed_over)
            if detector is not None:
                self._detectors.append(detector)
                boxes = name if name in _BOX_DETECTORS else boxes
        self._saliency = next((one for one in self._detectors if isinstance(one, SaliencyDetector)), None)
        return "; not ".join([", else ".join(map(_described, self._detectors)), *passed_over])

    @staticmethod
    def _opened(
        name: str, values: Mapping[str, Any], context: DetectorContext, passed_over: list[str]
    ) -> Detector | None:
        try:
            return open_detector(name, values, context)
        except WeightsError as error:
            passed_over.append(f"{name}: {error.message}")
            return None


#: Detectors of boxes with classes, the surer ones first.
_BOX_DETECTORS = ("yolo", "mobilenet")


def open_detector(name: str, values: Mapping[str, Any], context: DetectorContext) -> Any:
    """The detector of that name.

    Its settings are its own dataclass `Settings`: a field F is filled by the value called `NAME_F`, else by the one
    called F; None leaves the default. Raises UsageError for an unknown name and values that do not fit, WeightsError
    where weights cannot be had or used.
    """
    kind = registry.load("detector", name)
    settings = getattr(kind, "Settings", None)
    if settings is None:
        return kind(context)
    chosen = {one.name: values.get(f"{name}_{one.name}", values.get(one.name)) for one in fields(settings)}
    given = {
        key: str(value) if isinstance(value, Path) else value for key, value in chosen.items() if value is not None
    }
    try:
        return kind(read(settings, given), context)
    except DocumentError as error:
        raise UsageError(f"a setting of the detector {name} does not fit: {error}", "see its Settings") from error


def check_values(detector: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that no setting of the detector (of any, for "auto") takes its value from."""
    names = (*_BOX_DETECTORS, "saliency", "cam") if detector == "auto" else (detector,)
    known: set[str] = set()
    for name in names:
        settings = getattr(registry.load("detector", name), "Settings", None)
        own = {one.name for one in fields(settings)} if settings is not None else set()
        known |= own | {f"{name}_{one}" for one in own}
    for value in values:
        if value not in known:
            raise registry.unknown_name(f"setting of the detector {detector}", value, sorted(known))


def mask_file(masks: Path, photo: str) -> Path:
    """The file with a photo's mask: `masks` itself, or the file below it that lies where the photo does.

    For a photo a/b/1.jpg that is the first of masks/a/b/1.*, masks/b/1.* and masks/1.* that exists. Raises UsageError
    where there is none.
    """
    path = Path(photo)
    try:
        if not masks.is_dir():
            return masks
        parts = [part for part in path.parent.parts if part not in ("..", path.anchor)]
        for first in range(len(parts) + 1):
            folder = masks.joinpath(*parts[first:])
            if folder.is_dir():
                found = sorted(file for file in folder.iterdir() if file.stem == path.stem and file.is_file())
                if found:
                    return found[0]
    except OSError as error:
        raise UsageError(
            f"cannot read the masks {masks}: {error.strerror}", "give a grey image, or a folder of them"
        ) from error
    raise UsageError(
        f"the mask folder {masks} has no file called {path.stem}.*", "masks lie and are named like their photos"
    )


def _described(detector: Detector) -> str:
    weights = getattr(detector, "weights", None)
    return f"{detector.name} ({weights})" if weights else detector.name


def _levels(mask_1HW: torch.Tensor) -> np.ndarray:
    levels_HW: np.ndarray = mask_1HW[0].mul(255.0).round().to(torch.uint8).numpy()
    return levels_HW
