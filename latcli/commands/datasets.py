"""The data set that `latcli train` and `latcli eval` work on, with its objects: files, or what a detector finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from latcli.commands.classifiers import classifier_source
from latcli.commands.detection_cache import StoredDetections
from latcli.commands.photos import detector_values
from latcli.engine.datasets.base import DatasetSource, MaskSource, TrainingData
from latcli.engine.datasets.catalog import open_training_data
from latcli.engine.datasets.photo_folder import PhotoFolder, detected_masks
from latcli.engine.detectors.base import DetectorContext
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier
from latcli.engine.objects import ObjectSettings, open_finder
from latcli.errors import UsageError
from latcli.options import ClassifierOptions, ObjectOptions, given
from latcli.results import read, to_json
from latcli.session import Session
from latcli.store.store import Store

#: What stands for the object where it is not the middle, in words.
OBJECTS: dict[MaskSource, str] = {
    "otsu": "otsu silhouettes",
    "detector": "what a detector finds",
    "folder": "masks from files",
}
#: Options that only a detector reads.
DETECTING = tuple(field.name for field in fields(ObjectOptions) if field.name not in ("trust_weights", "soft"))


@dataclass(frozen=True, kw_only=True)
class DataObjects(ClassifierOptions, ObjectOptions):
    """Where the objects of a data set come from, and what the user says of the classifier."""

    masks: Path | None = None

    @classmethod
    def of(cls, options: Any, config: Mapping[str, Any] | None = None) -> DataObjects:
        """From the options that were given, else from a run's configuration, else the defaults.

        Permission to run code in weights is never a run's: it is given anew each time. Raises DocumentError.
        """
        values = {**(config or {}), **given_plainly(options), "trust_weights": options.trust_weights}
        return read(cls, {field.name: values[field.name] for field in fields(cls) if field.name in values})

    def to_config(self) -> dict[str, Any]:
        """As a run's configuration holds it, with absolute paths, which hold in any working directory."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "trust_weights"}
        return {name: to_json(_plain(value)) for name, value in values.items()}


def given_plainly(options: Any) -> dict[str, Any]:
    """The options that were given, by the name and in the form that a run's configuration has: paths are absolute."""
    return {name: to_json(_plain(value)) for name, value in given(options).items()}


def _plain(value: Any) -> Any:
    """A path that is there as an absolute one; the name of a detector's weights stays a name."""
    return value.absolute() if isinstance(value, Path) and value.exists() else value


def check_object_options(given: Mapping[str, Any], mask_from: MaskSource, detecting: Sequence[str] = DETECTING) -> None:
    """Raise UsageError where masks are missing, and for options of `detecting` that have no effect."""
    if mask_from == "folder" and "masks" not in given:
        raise UsageError("--mask-from folder needs the folder", "give --masks DIR, with train/CLASS/NAME.png in it")
    if mask_from != "folder" and "masks" in given:
        raise UsageError(f"--masks is not used with --mask-from {mask_from}", "leave one of them out")
    if "soft" in given:
        raise UsageError("--soft is for attack and mask: masks of data sets have sharp edges", "leave it out")
    idle = [f"--{name.replace('_', '-')}" for name in detecting if name in given]
    if idle and mask_from != "detector":
        raise UsageError(
            f"{idle[0]} is not used where no detector looks for objects", "add --mask-from detector, or leave it out"
        )


def open_data(
    name: str, architecture: str | None, objects: DataObjects | None, device: torch.device, session: Session
) -> TrainingData:
    """The data set on the device, with the masks in their folder; its notes are shown. Raises as `open_training_data`.

    An architecture of None is the data set's own.
    """
    source = DatasetSource(session.data, session.offline, session.shows_progress)
    objects = objects or DataObjects()
    data = open_training_data(name, architecture, source, objects.masks, classifier_source(objects, session))
    for note in data.notes:
        session.note(f"note: {note}")
    return data.to(device)


def with_objects(
    data: TrainingData,
    architecture: str | None,
    mask_from: MaskSource,
    objects: DataObjects,
    device: torch.device,
    store: Store | None,
    session: Session,
) -> TrainingData:
    """The data with the masks that a detector finds, where they come from one.

    Detections are kept in the store, if there is one, so that the same photos are searched once. Raises WeightsError,
    UsageError and ImageError where classifier, detector or a photo cannot be used.
    """
    if mask_from != "detector" or architecture is None or not isinstance(data, PhotoFolder):
        return data
    classifier = open_pretrained(architecture, objects, session).to(device)
    settings = ObjectSettings(
        detector=objects.detector, values=detector_values(objects), which=objects.boxes, refine=objects.refine
    )
    context = DetectorContext(classifier, device, session.offline, session.shows_progress, objects.trust_weights)
    finder, about = open_finder(settings, context, None if store is None else StoredDetections(store))
    session.note(f"objects are found by {about}")
    with session.progress("objects", data.train_count + data.test_count) as tick:
        masks = detected_masks(data.folders, finder, classifier, tick)
    for note in masks.notes:
        session.note(f"note: {note}")
    return data.with_masks(masks)


def open_pretrained(architecture: str, objects: DataObjects, session: Session) -> Classifier:
    """The classifier that is fine-tuned, as it was published or as a file has it; on the CPU."""
    return open_classifier(architecture, classifier_source(objects, session), torch.device("cpu"))
