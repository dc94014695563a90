"""The data of an evaluation, in the form that its models take; must not evaluate.

Small images lie in memory as they are. Photos are handed out at a classifier's input size, which is why the models have
to be known before the data is opened, and why all of them must see the same square of a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from latcli.commands.train.options import PhotoOptions
from latcli.engine.datasets.base import DatasetSource, TrainingData
from latcli.engine.datasets.catalog import open_folder, open_training_data
from latcli.engine.datasets.photo_folder import holds_photos
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.checkpoint import read_info
from latcli.engine.models.finetuning import is_classifier_name, preprocessing_of
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.preprocessing import Preprocessing
from latcli.errors import UsageError
from latcli.session import Session

_FOLDER = "folder:"


@dataclass(frozen=True)
class PhotoWay:
    """How a model takes photos. `architecture` is the classifier's name without what it was fine-tuned to."""

    architecture: str
    preprocessing: Preprocessing


def folder_of(dataset: str) -> Path | None:
    """The folder that a data set's name stands for; None where it is no folder."""
    return Path(dataset.removeprefix(_FOLDER)) if dataset.startswith(_FOLDER) else None


def photo_way(path: Path, sources: Sequence[str], session: Session) -> PhotoWay | None:
    """How these models, paths of checkpoints or names, take a folder's photos; None where they take small images.

    Raises UsageError where they do not see the same square of a photo, or are unknown, and ImageError and WeightsError
    where a file cannot be read.
    """
    large = holds_photos(path)
    ways = {source: _way(source, session, large=large) for source in sources}
    first = next(iter(ways))
    for source, way in ways.items():
        if _seen(way) != _seen(ways[first]):
            raise UsageError(
                f"{first} takes {_seen(ways[first])}, {source} takes {_seen(way)}",
                "evaluate models that see the same images; the others in an evaluation of their own",
            )
    return ways[first]


def open_data(
    name: str, way: PhotoWay | None, photos: PhotoOptions, device: torch.device, session: Session
) -> TrainingData:
    """The data set on the device, with the masks that files hold; its notes are said. Raises as `open_training_data`.

    A folder is of photos where `way` says how models take them.
    """
    path = folder_of(name)
    source = DatasetSource(session.data, session.offline, session.shows_progress)
    if path is None:
        data = open_training_data(name, None, source, photos.masks_path)
    else:
        data = open_folder(path, way.preprocessing if way else None, photos.masks_path)
    for note in data.notes:
        session.note(f"note: {note}")
    return data.to(device)


def _way(source: str, session: Session, *, large: bool) -> PhotoWay | None:
    if source.endswith(".safetensors"):
        architecture = read_info(Path(source)).architecture
        return PhotoWay(architecture, preprocessing_of(architecture)) if is_classifier_name(architecture) else None
    if not large:
        return None
    if is_classifier_name(source):
        return PhotoWay(source, preprocessing_of(source))
    wanted = ClassifierSource(None, session.offline, session.shows_progress)
    return PhotoWay(source, open_classifier(source, wanted, torch.device("cpu")).preprocessing)


def _seen(way: PhotoWay | None) -> str:
    if way is None:
        return "small images as they are"
    seen = way.preprocessing
    return f"the middle {seen.crop} of a photo resized to {seen.resize} ({seen.interpolation})"
