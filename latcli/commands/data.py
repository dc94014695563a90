"""The data set that `latcli train` and `latcli eval` work on, with its objects: files, or what a detector finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from latcli.commands.classifiers import classifier_source
from latcli.commands.photos import DETECTING, StoredDetections, finder_of, object_settings
from latcli.commands.resume import contents_of, plainly
from latcli.engine.datasets.base import DatasetSource, MaskSource, TrainingData
from latcli.engine.datasets.catalog import open_training_data
from latcli.engine.datasets.photo_folder import PhotoFolder, detected_masks
from latcli.engine.evaluation.matrix import EvalSettings
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.training.settings import TrainSettings
from latcli.errors import UsageError
from latcli.options import ClassifierOptions, EvalOptions, ObjectOptions, TrainOptions, given
from latcli.results import to_json
from latcli.session import Session
from latcli.store.store import RunRow, Store

_OF_OBJECTS = tuple(field.name for field in fields(ObjectOptions) if field.name != "trust_weights")


def config_of(
    name: str,
    data: TrainingData,
    settings: TrainSettings | EvalSettings,
    options: TrainOptions | EvalOptions,
    session: Session,
) -> dict[str, Any]:
    """What a run's configuration has of its data set, which is called so, its settings, its classifier and objects."""
    names = (*(field.name for field in fields(ClassifierOptions)), *_OF_OBJECTS, "masks")
    return {
        "dataset": name,
        "dataset_fingerprint": data.fingerprint,
        "mask_fingerprint": data.mask_fingerprint,
        **contents_of(options),
        "notes": list(data.notes),
        "precision": session.precision,
        **to_json(settings),
        **plainly({name: getattr(options, name) for name in names}),
    }


def load_data(
    name: str,
    architecture: str | None,
    session: Session,
    options: TrainOptions | EvalOptions | None = None,
    preprocessing: Preprocessing | None = None,
) -> TrainingData:
    """The data set on the CPU, with the masks in their folder; its notes are shown. Raises as `open_training_data`.

    An architecture of None is the data set's own.
    """
    source = DatasetSource(session.data, session.offline, session.shows_progress)
    options = options or TrainOptions()
    of_classifier = classifier_source(options, session)
    data = open_training_data(name, architecture, source, options.masks, of_classifier, preprocessing)
    for note in data.notes:
        session.note(f"note: {note}")
    return data


def open_data(
    name: str,
    architecture: str | None,
    options: TrainOptions | EvalOptions,
    device: torch.device,
    session: Session,
    row: RunRow | None = None,
    preprocessing: Preprocessing | None = None,
) -> TrainingData:
    """The data set on the device, without what a detector would find in it.

    `row` is the run to be resumed. `preprocessing` takes the place of the architecture's own. Raises UsageError for
    other data than the run's; else as `open_training_data`.
    """
    data: TrainingData = load_data(name, architecture, session, options, preprocessing).to(device)
    if isinstance(options, TrainOptions) and options.validation is not None:
        held = data.split(options.validation, session.seed if row is None else row.seed or 0)
        note = f"scored on {held.test_count:,} training images that are held out; the test set is not looked at"
        session.note(f"note: {note}")
        data = replace(held, notes=(*data.notes, note))
    if row is not None and row.config.get("dataset_fingerprint") != data.fingerprint:
        raise UsageError(
            f"the data set {data.name} is not the one that the run {row.id} was started with: its contents differ",
            "if it was moved, name its new place with --dataset or --data; or start a new run",
        )
    return data


def with_objects(
    data: TrainingData,
    mask_from: MaskSource,
    architecture: str | None,
    options: TrainOptions | EvalOptions,
    store: Store | None,
    session: Session,
    row: RunRow | None,
) -> TrainingData:
    """The data set with its objects, and with the classes of the classifier where those are kept.

    Masks that a detector finds are kept in the store, if there is one, so that the same photos are searched once.
    Raises UsageError for options that do not go together and for other masks than the run's; WeightsError and
    ImageError where classifier, detector or a photo cannot be used.
    """
    architecture = architecture or data.defaults.architecture
    _check_object_options(given(options), mask_from)
    if mask_from == "detector":
        if not isinstance(data, PhotoFolder):
            raise UsageError(
                "--mask-from detector needs photos, which a small network cannot take",
                "give a classifier, and --dataset folder:PATH; or choose another --mask-from",
            )
        classifier = open_pretrained(architecture, options, session).to(data.device)
        cache = None if store is None else StoredDetections(store)
        finder, about = finder_of(object_settings(options), options, session, classifier, cache)
        session.note(f"objects are found by {about}")
        with session.progress("objects", data.train_count + data.test_count) as tick:
            masks, notes = detected_masks(data.folders, finder, classifier, tick)
        for note in notes:
            session.note(f"note: {note}")
        data = data.with_masks(masks, notes)
    if isinstance(options, TrainOptions) and options.keep_classes:
        if not isinstance(data, PhotoFolder):
            raise UsageError(
                "--keep-classes needs a classifier that is fine-tuned on photos",
                "give --dataset folder:PATH and a classifier as the --architecture; or leave it out",
            )
        data = data.with_classes_of(open_pretrained(architecture, options, session))
    if row is not None and row.config.get("mask_fingerprint") != data.mask_fingerprint:
        raise UsageError(
            f"the masks of {data.name} are not those that the run {row.id} was started with",
            "put the same masks, photos and weights back, or start a new run",
        )
    return data


def _check_object_options(given: Mapping[str, Any], mask_from: MaskSource) -> None:
    """Raise UsageError where masks are missing, and for options that have no effect."""
    if mask_from == "folder" and "masks" not in given:
        raise UsageError("--mask-from folder needs the folder", "give --masks DIR, with train/CLASS/NAME.png in it")
    if mask_from != "folder" and "masks" in given:
        raise UsageError(f"--masks is not used with --mask-from {mask_from}", "leave one of them out")
    if mask_from != "center" and "center" in given:
        raise UsageError(f"--center is not used with --mask-from {mask_from}", "leave one of them out")
    if "soft" in given:
        raise UsageError("--soft is for attack and mask: masks of data sets have sharp edges", "leave it out")
    idle = [f"--{name.replace('_', '-')}" for name in DETECTING if name in given]
    if idle and mask_from != "detector":
        raise UsageError(
            f"{idle[0]} is not used where no detector looks for objects", "add --mask-from detector, or leave it out"
        )


def open_pretrained(architecture: str, options: ClassifierOptions, session: Session) -> Classifier:
    """The classifier that is fine-tuned, as it was published or as a file has it; on the CPU."""
    return open_classifier(architecture, classifier_source(options, session), torch.device("cpu"))
