"""What `latcli train` trains on: opens the data, lets a detector find its objects; must not train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from latcli.commands.detection_cache import StoredDetections
from latcli.commands.train.options import PhotoOptions
from latcli.engine.datasets.base import DatasetSource, MaskSource, TrainingData
from latcli.engine.datasets.catalog import open_training_data
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.datasets.photo_masks import ObjectSearch, detected_masks
from latcli.engine.detectors.base import DetectorContext
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.source import ClassifierSource
from latcli.engine.objects import ObjectSettings, open_finder
from latcli.session import Session
from latcli.store.store import Store


def open_data(
    name: str, architecture: str | None, photos: PhotoOptions, device: torch.device, session: Session
) -> TrainingData:
    """The data set on the device, with the masks that files hold; its notes are said. Raises as `open_training_data`.

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
    store: Store,
    session: Session,
) -> tuple[TrainingData, PhotoOptions]:
    """The data with the masks that a detector finds, where they come from one; and which detector it was.

    Detections are kept in the store, so that the same photos are searched once. Raises WeightsError, UsageError and
    ImageError where classifier, detector or a photo cannot be used.
    """
    if mask_from != "detector" or not isinstance(data, PhotoFolder):
        return data, photos
    classifier = open_pretrained(architecture, photos, session).to(device)
    values = {
        "weights": photos.detector_weights,
        "confidence": photos.detector_confidence,
        "cam_threshold": photos.cam_threshold,
    }
    settings = ObjectSettings(
        detector=photos.found_by or photos.detector, values=values, which=photos.boxes, refine=photos.refine
    )
    context = DetectorContext(classifier, device, session.offline, session.shows_progress, session.trust_weights)
    finder, about = open_finder(settings, context, StoredDetections(store))
    session.note(f"objects are found by {about}")
    search = ObjectSearch(finder, classifier)
    with session.progress("objects", data.train_count + data.test_count) as tick:
        masks = detected_masks(data.folders, search, tick)
    for note in masks.notes:
        session.note(f"note: {note}")
    return data.with_masks(masks), replace(photos, found_by=settings.detector)


def open_pretrained(architecture: str, photos: PhotoOptions, session: Session) -> Classifier:
    """The classifier that is fine-tuned, as it was published or as a file has it; on the CPU."""
    weights = None if photos.classifier_weights is None else Path(photos.classifier_weights)
    source = ClassifierSource(weights, session.offline, session.shows_progress)
    return open_classifier(architecture, source, torch.device("cpu"))
