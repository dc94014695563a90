"""From the name that a user types to a data set, small or of photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latcli.engine import registry
from latcli.engine.datasets.base import Dataset, DatasetSource
from latcli.engine.datasets.folders import ClassFolders, class_folders, image_folder
from latcli.engine.datasets.photo_folder import PhotoFolder, holds_photos, photo_folder, read_masks
from latcli.engine.models.classifier import AS_PUBLISHED, ClassifierSource
from latcli.engine.models.finetuning import is_classifier_name, preprocessing_of
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.photo_files import as_given
from latcli.errors import UsageError

#: What is fine-tuned on photos where nobody says what: its weights are at hand on every machine.
_FOR_PHOTOS = "efficientnet_lite0"


def open_training_data(
    name: str,
    architecture: str | None,
    source: DatasetSource,
    masks: Path | None = None,
    described: ClassifierSource = AS_PUBLISHED,
    preprocessing: Preprocessing | None = None,
) -> Dataset | PhotoFolder:
    """What `architecture`, or where it is None the set's own, is trained on; on the CPU.

    A classifier's name as the architecture makes a photo folder of `folder:PATH`; so do images that are large or of
    several sizes where none is named. `masks` is a folder of masks that lie as the images do; `preprocessing` takes the
    place of the classifier's own. Raises UsageError where that does not go together, else as `open_dataset` and
    `open_folder` do.
    """
    tuned = architecture is not None and is_classifier_name(architecture)
    if not name.startswith("folder:"):
        if tuned:
            raise UsageError(
                f"{architecture} needs photos, and {name} has none",
                "give a folder of photos: --dataset folder:PATH",
            )
        if masks is not None:
            raise UsageError(f"--masks cannot be used with {name}", "masks are only read for --dataset folder:PATH")
        return open_dataset(name, source)
    folders = class_folders(Path(name.removeprefix("folder:")))
    if not tuned and (architecture is not None or not holds_photos(folders)):
        return open_folder(folders, None, masks)
    preprocessing = preprocessing or preprocessing_of(architecture or _FOR_PHOTOS, described)
    data = open_folder(folders, preprocessing, masks)
    if architecture is None:
        note = f"{name} holds photos: {_FOR_PHOTOS} is fine-tuned on them; --architecture names another classifier"
        data = replace(data, notes=(note.removeprefix("folder:"), *data.notes))
    return data


def open_folder(
    folders: ClassFolders, preprocessing: Preprocessing | None, masks: Path | None
) -> Dataset | PhotoFolder:
    """A folder's photos as a classifier of that preprocessing sees them; without one, its small images; on the CPU.

    Raises as `image_folder` and `photo_folder` do, and UsageError where a mask is missing.
    """
    if preprocessing is None:
        return image_folder(folders, masks)
    photos = photo_folder(folders, preprocessing)
    return photos if masks is None else photos.with_masks(read_masks(folders, masks))


def open_dataset(name: str, source: DatasetSource) -> Dataset:
    """A registered name or `folder:PATH`, on the CPU.

    Raises UsageError for an unknown name or an unusable folder, LatcliError for files that are damaged or missing.
    """
    family, colon, path = name.partition(":")
    if colon and family == "folder":
        return image_folder(class_folders(Path(path)))
    if colon:
        raise UsageError(f"there is no kind of data set called '{family}:'", "folder:PATH, or a name such as mnist")
    dataset: Dataset = registry.load("dataset", name)(source)
    return dataset


def full_name(name: str) -> str:
    """The name by which a data set is known in every folder: that of `folder:PATH` has the absolute path."""
    folder = name.startswith("folder:")
    return f"folder:{as_given(Path(name.removeprefix('folder:')))}" if folder else name
