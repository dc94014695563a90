"""Where the object of a photo is: given by its user, or found by a detector, or by several, photo by photo."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

import torch

from latcli.engine import localize, registry
from latcli.engine.detectors import saliency
from latcli.engine.detectors.base import (
    ANY_CLASS,
    Box,
    Detection,
    Detector,
    DetectorContext,
    Target,
    WhichBoxes,
    agreeing_boxes,
    surest_box,
)
from latcli.engine.images import Photo, sha256_of
from latcli.engine.photo_files import MaskFolder, read_mask
from latcli.errors import ImageError, NoObjectError, UsageError, WeightsError
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
            raise UsageError(f"{options} cannot be used together", "each of them defines the object: give one")
        if self.center is not None and not 0.0 <= self.center < 1.0:
            raise UsageError(f"the center share is {self.center:g}, not from 0 to below 1", "for example --center 0.25")


@dataclass(frozen=True, eq=False)
class FoundObject:
    """The object of a photo, and who found it.

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
    """Where detections are kept between runs; handed in by the caller."""

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        """The stored detection, if any."""

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        """Keep one."""


class ObjectFinder:
    """Finds the object of one photo after the other, by the first of its detectors that finds it.

    refining: the detector `saliency`, which refines boxes where that is asked for. `open_finder` makes a finder of
    settings alone.
    """

    def __init__(
        self,
        settings: ObjectSettings,
        detectors: Sequence[Detector] = (),
        refining: Detector | None = None,
        cache: DetectionCache | None = None,
    ) -> None:
        self.settings, self.detectors, self.cache = settings, tuple(detectors), cache
        self._saliency = refining
        self.masks = MaskFolder(settings.mask) if settings.mask is not None and settings.mask.is_dir() else None

    def find(self, photo: Photo, target: Target) -> FoundObject:
        """The object that the target names. Raises NoObjectError where nothing is found and that is to fail or skip.

        ImageError and UsageError for a mask or box that does not fit the photo.
        """
        if (given := self._given(photo, target)) is not None:
            return given
        for detector in self.detectors:
            if (found := self._found_by(detector, photo, target)) is not None:
                return found
        name = self.settings.detector
        if self.settings.on_miss == "center":
            mask_1HW = localize.center_mask(photo.size, MISS_CENTER)
            return FoundObject(mask_1HW, "center", f"middle {MISS_CENTER:g}, {name} missed")
        raise NoObjectError(
            f"{name} found no object in {photo.name}",
            "give --box or --mask, choose another --detector, or use --on-miss center or skip",
        )

    def look_ahead(self, photo: Photo) -> None:
        """Detect what the first detector sees, whatever is looked for, so that `find` has it from the cache.

        On any thread; nothing where a detector cannot, or there is no cache. Raises WeightsError as `find` does.
        """
        first = self.detectors[0] if self.detectors else None
        if first is not None and self.cache is not None and getattr(first, "on_any_thread", False):
            self._detect(first, photo, Target(0, ""))

    @property
    def fingerprints(self) -> list[str | None]:
        """Those of the detectors, and of what refines boxes; None for one that has none."""
        refining = () if self._saliency is None else (self._saliency,)
        return [detector.fingerprint for detector in (*self.detectors, *refining)]

    def mask_fingerprint(self, photos: Iterable[str]) -> str | None:
        """A hash of the masks of these photos, wherever they lie; None where the user gives no masks."""
        if self.settings.mask is None:
            return None
        known: dict[Path, str] = {}
        digest = hashlib.sha256()
        for photo in photos:
            with suppress(ImageError, UsageError):  # reported with its photo
                file = self._mask_file(photo)
                sha256 = known.get(file) or known.setdefault(file, sha256_of(file))
                digest.update(f"{photo}\n{sha256}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _mask_file(self, photo: str) -> Path:
        """The mask of a photo. Raises UsageError where it has none."""
        assert self.settings.mask is not None
        return self.settings.mask if self.masks is None else self.masks.mask_of(PurePath(photo))

    def _given(self, photo: Photo, target: Target) -> FoundObject | None:
        where = self.settings
        if where.mask is not None:
            mask_1HW, notes = read_mask(self._mask_file(photo.name), photo.size)
            return FoundObject(mask_1HW, "mask", "mask file", notes=notes)
        if where.center is not None:
            mask_1HW = localize.center_mask(photo.size, where.center)
            return FoundObject(mask_1HW, "center", f"middle {where.center:g} of the sides")
        if where.boxes:
            given = localize.user_boxes(where.boxes, photo.size)
            boxes = tuple(Box(*box, score=1.0, name=target.name) for box in given)
            mask_1HW, how = self._silhouette(photo, target, Detection(boxes), where.refine)
            return FoundObject(self._mask(mask_1HW), "box", f"given boxes{how}", boxes)
        return None

    def _found_by(self, detector: Detector, photo: Photo, target: Target) -> FoundObject | None:
        """What one detector finds; by `auto`, only what agrees with the target and is no speck."""
        auto = self.settings.detector == "auto"
        detection = self._detect(detector, photo, target)
        found = agreeing_boxes(detection, target, self.settings.which)
        notes: tuple[str, ...] = ()
        if not found.boxes and detection.boxes and not auto:
            found = surest_box(detection)
            notes = (f"no box agrees with '{target.name}': the surest one is protected, '{found.boxes[0].name}'",)
        if not found.boxes and detector.name != "none":
            return None
        refine = self.settings.refine
        if auto and refine == "none" and self._saliency is not None and detector.name in _BOX_DETECTORS:
            refine = "saliency"
        mask_1HW, how = self._silhouette(photo, target, found, refine)
        salient = any(box.name == ANY_CLASS for box in found.boxes)
        if auto and salient and (mask_1HW > 0.5).double().mean() < _SMALLEST_SALIENT:
            return None
        weights = getattr(detector, "weights", None)
        return FoundObject(self._mask(mask_1HW), detector.name, detector.name + how, found.boxes, weights, notes)

    def _silhouette(
        self, photo: Photo, target: Target, found: Detection, refine: Refinement
    ) -> tuple[torch.Tensor, str]:
        """mask_1HW of a detection, and how its boxes became silhouettes, in words.

        The model's own silhouettes where all boxes have one, else the boxes, refined if that is asked for. A box of
        which too little is salient stays whole.
        """
        silhouettes = [box.segmentation for box in found.boxes if box.segmentation is not None]
        if found.segmentations_NHW is not None and len(silhouettes) == len(found.boxes) > 0:
            own = "" if found.boxes[0].name == ANY_CLASS else ", silhouettes"
            return found.segmentations_NHW[silhouettes].amax(dim=0, keepdim=True).float().div_(255.0), own
        rectangles = [(box.x0, box.y0, box.x1, box.y1) for box in found.boxes]
        if refine == "grabcut" and rectangles:
            return localize.grabcut_mask(photo.levels_HWC, rectangles), ", grabcut"
        if refine == "saliency" and rectangles and self._saliency is not None:
            soft_NHW = self._detect(self._saliency, photo, target).segmentations_NHW
            soft_1HW = torch.zeros(1, *photo.size) if soft_NHW is None else soft_NHW[:1].float().div_(255.0)
            boxes = [localize.boxes_mask([rectangle], photo.size) for rectangle in rectangles]
            parts = [saliency.inside_box(soft_1HW, box_1HW) for box_1HW in boxes]
            refined = any(part_1HW is not None for part_1HW in parts)
            chosen = [box_1HW if part_1HW is None else part_1HW for box_1HW, part_1HW in zip(boxes, parts, strict=True)]
            return torch.stack(chosen).amax(dim=0), ", salient part" if refined else ""
        return localize.boxes_mask(rectangles, photo.size), ""

    def _mask(self, mask_1HW: torch.Tensor) -> torch.Tensor:
        """The mask, cut at one half unless it is to be soft."""
        return mask_1HW if self.settings.soft else (mask_1HW > 0.5).float()

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


#: Detectors of boxes with classes, the surer ones first.
_BOX_DETECTORS = ("yolo", "mobilenet")
#: Detectors that give no boxes to choose among or to refine.
WITHOUT_BOXES = ("saliency", "none")


def open_finder(
    settings: ObjectSettings, context: DetectorContext, cache: DetectionCache | None = None
) -> tuple[ObjectFinder, str]:
    """What finds objects as the settings say, and which detectors, in words (weights: with each result).

    `auto` asks, one after the other: YOLO for boxes that agree with the label, or MobileNet where YOLO's weights cannot
    be had; saliency; the activation map. Raises UsageError for an unknown detector, WeightsError where a detector that
    is named, or weights that are, cannot be used.
    """
    detectors: list[Detector] = []
    passed_over: list[str] = []
    given = settings.boxes or settings.mask is not None or settings.center is not None
    if not given and settings.detector == "auto":
        detectors, passed_over = _open_all(settings.values, context)
    elif not given:
        detectors.append(open_detector(settings.detector, settings.values, context))
    refining = next((one for one in detectors if one.name == "saliency"), None)
    if settings.refine == "saliency" and refining is None:
        refining = open_detector("saliency", {}, context)
    described = ", else ".join(one.name for one in detectors) or "given by the user"
    if passed_over:
        described += f" (no weights for {', '.join(passed_over)}: --detector NAME says why)"
    return ObjectFinder(settings, detectors, refining, cache), described


def _open_all(values: Mapping[str, Any], context: DetectorContext) -> tuple[list[Detector], list[str]]:
    """The detectors of `auto`, and the names of those whose weights cannot be had.

    Weights that the user names go to the detector of their kind, which then has to open: leaving them out would answer
    another question than the one that was asked.
    """
    weights = values.get("weights")
    owner = None if weights is None else "yolo" if Path(weights).suffix.lower() == ".pt" else "mobilenet"
    if weights is not None and (Path(weights).suffix.lower() == ".onnx" or str(weights) in saliency.NETWORKS):
        owner = "saliency"
    others = {name: value for name, value in values.items() if name != "weights"}
    opened: list[Detector] = []
    passed_over: list[str] = []
    for name in (*((owner,) if owner in _BOX_DETECTORS else _BOX_DETECTORS), "saliency", "cam"):
        if name == "mobilenet" and opened:  # takes YOLO's place where that cannot be had
            continue
        try:
            opened.append(open_detector(name, values if name == owner else others, context))
        except WeightsError:
            if name == owner:
                raise
            passed_over.append(name)
    return opened, passed_over


def open_detector(name: str, values: Mapping[str, Any], context: DetectorContext) -> Detector:
    """The detector of that name.

    Its settings are its own dataclass `Settings`: a field F is filled by the value called `NAME_F`, else by the one
    called F; None leaves the default. Raises UsageError for an unknown name and values that do not fit, WeightsError
    where weights cannot be had or used.
    """
    kind = registry.load("detector", name)
    settings = getattr(kind, "Settings", None)
    if settings is None:
        plain: Detector = kind(context)
        return plain
    chosen = {one.name: values.get(f"{name}_{one.name}", values.get(one.name)) for one in fields(settings)}
    given = {
        key: str(value) if isinstance(value, Path) else value for key, value in chosen.items() if value is not None
    }
    try:
        detector: Detector = kind(read(settings, given), context)
    except DocumentError as error:
        raise UsageError(
            f"a setting of the detector {name} does not fit: {error}", "see the fields of its `Settings`"
        ) from error
    return detector


def known_values(detector: str) -> set[str]:
    """The names of the values that the settings of the detector (of any, for "auto") take. Raises UsageError."""
    names = (*_BOX_DETECTORS, "saliency", "cam") if detector == "auto" else (detector,)
    known: set[str] = set()
    for name in names:
        settings = getattr(registry.load("detector", name), "Settings", None)
        own = {one.name for one in fields(settings)} if settings is not None else set()
        known |= own | {f"{name}_{one}" for one in own}
    return known


def check_values(detector: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that no setting of the detector (of any, for "auto") takes its value from."""
    known = known_values(detector)
    for value in values:
        if value not in known:
            raise registry.unknown_name(f"setting of the detector {detector}", value, sorted(known))
