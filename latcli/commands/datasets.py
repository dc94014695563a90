"""The data set that `latcli train` and `latcli eval` work on, with its objects: files, or what a detector finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch

from latcli.commands.detection_cache import StoredDetections
from latcli.engine.datasets.base import DatasetSource, MaskSource, TrainingData
from latcli.engine.datasets.catalog import open_training_data
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.datasets.photo_masks import ObjectSearch, detected_masks
from latcli.engine.detectors.auto import open_detector
from latcli.engine.detectors.settings import DetectorSettings
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.imagenet import ClassifierSource
from latcli.engine.objects import Refinement, WhichBoxes
from latcli.errors import UsageError
from latcli.options import given
from latcli.session import Session
from latcli.store.store import Store

#: What stands for the object where it is not the middle, in words.
OBJECTS: dict[MaskSource, str] = {
    "otsu": "otsu silhouettes",
    "detector": "what a detector finds",
    "folder": "masks from files",
}
#: Options that only a detector reads.
DETECTING = ("detector", "detector_weights", "detector_confidence", "cam_threshold", "boxes", "refine")


@dataclass(frozen=True)
class PhotoOptions:
    """Where the objects of photos and the weights of their classifier come from, as a run's configuration holds it.

    Paths are absolute, so that they hold in any working directory. `detector` may be auto; the one that was chosen then
    is `found_by`, which a resumed run uses again.
    """

    classifier_weights: str | None = None
    masks: str | None = None
    detector: str = "auto"
    detector_weights: str | None = None
    detector_confidence: float = 0.25
    cam_threshold: float = 0.4
    boxes: WhichBoxes = "all"
    refine: Refinement = "none"
    found_by: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From options that were given, or from a run's configuration; what is not there has its default."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @property
    def masks_path(self) -> Path | None:
        """The folder of masks."""
        return None if self.masks is None else Path(self.masks)

    @property
    def weights_path(self) -> Path | None:
        """The file of the classifier's weights."""
        return None if self.classifier_weights is None else Path(self.classifier_weights)


def given_plainly(options: Any) -> dict[str, Any]:
    """The options that were given, by the name and in the form that a run's configuration has: paths are absolute."""
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in given(options).items()}


def check_object_options(given: Mapping[str, Any], mask_from: MaskSource, detecting: Sequence[str]) -> None:
    """Raise UsageError where masks are missing, and for options of `detecting` that are given but read by nobody."""
    if mask_from == "folder" and "masks" not in given:
        raise UsageError("--mask-from folder needs the folder", "give --masks DIR, with train/CLASS/NAME.png in it")
    if mask_from != "folder" and "masks" in given:
        raise UsageError(f"--masks is not used with --mask-from {mask_from}", "leave one of them out")
    idle = [f"--{name.replace('_', '-')}" for name in detecting if name in given]
    if idle and mask_from != "detector":
        raise UsageError(
            f"{idle[0]} is not used where no detector looks for objects", "add --mask-from detector, or leave it out"
        )


def open_data(
    name: str, architecture: str | None, photos: PhotoOptions, device: torch.device, session: Session
) -> TrainingData:
    """The data set on the device, with the masks that files hold; its notes are shown. Raises as `open_training_data`.

    An architecture of None is the data set's own.
    """
    source = DatasetSource(session.data, session.offline, session.shows_progress)
    data = open_training_data(name, architecture, source, photos.masks_path)
    for note in data.notes:
        session.note(f"note: {note}")
    return data.to(device)


def with_objects(
    data: TrainingData,
    architecture: str,
    mask_from: MaskSource,
    photos: PhotoOptions,
    device: torch.device,
    store: Store | None,
    session: Session,
) -> tuple[TrainingData, PhotoOptions]:
    """The data with the masks that a detector finds, where they come from one; and which detector it was.

    Detections are kept in the store, if there is one, so that the same photos are searched once. Raises WeightsError,
    UsageError and ImageError where classifier, detector or a photo cannot be used.
    """
    if mask_from != "detector" or not isinstance(data, PhotoFolder):
        return data, photos
    classifier = open_pretrained(architecture, photos, session).to(device)
    settings = DetectorSettings(
        weights=None if photos.detector_weights is None else Path(photos.detector_weights),
        confidence=photos.detector_confidence,
        offline=session.offline,
        device=device,
        classifier=classifier,
        threshold=photos.cam_threshold,
        progress=session.shows_progress,
        trust_weights=session.trust_weights,
    )
    detector, why = open_detector(photos.found_by or photos.detector, settings)
    session.note(f"objects are found by {why}")
    cache = None if store is None else StoredDetections(store)
    search = ObjectSearch(detector, classifier, photos.boxes, photos.refine, cache)
    with session.progress("objects", data.train_count + data.test_count) as tick:
        masks = detected_masks(data.folders, search, tick)
    for note in masks.notes:
        session.note(f"note: {note}")
    return data.with_masks(masks), replace(photos, found_by=detector.name)


def open_pretrained(architecture: str, photos: PhotoOptions, session: Session) -> Classifier:
    """The classifier that is fine-tuned, as it was published or as a file has it; on the CPU."""
    source = ClassifierSource(photos.weights_path, session.offline, session.shows_progress)
    return open_classifier(architecture, source, torch.device("cpu"))
