"""From the name a user types to a data set in memory; knows every kind of name, no file format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latcli.engine import registry
from latcli.engine.datasets.base import Dataset, DatasetSource
from latcli.engine.datasets.digits import mnist_files
from latcli.engine.datasets.fetching import MissingDatasetError
from latcli.engine.datasets.image_folder import image_folder
from latcli.errors import UsageError

DEFAULT_DATASET = "mnist"
_STAND_IN = "mnist-5k"


def open_dataset(name: str, source: DatasetSource) -> Dataset:
    """A registered name or `folder:PATH`, on the CPU.

    MNIST that is neither on disk nor to be had becomes mnist-5k, and a note of the set says so. Raises UsageError for
    an unknown name or an unusable folder, LatcliError for files that are damaged or cannot be had.
    """
    family, colon, path = name.partition(":")
    if colon and family == "folder":
        return image_folder(Path(path))
    if colon:
        raise UsageError(f"there is no kind of data set called '{family}:'", "folder:PATH, or a name such as mnist")
    try:
        dataset: Dataset = registry.load("dataset", name)(source)
    except MissingDatasetError as error:
        if name != "mnist" or mnist_files(source.folder):  # some of its files are there: that is for the user to mend
            raise
        stand_in: Dataset = registry.load("dataset", _STAND_IN)(source)
        note = f"NOT MNIST but the 5,000 digits of {_STAND_IN}, split 4,000/1,000: {error.message}"
        return replace(stand_in, notes=(note, *stand_in.notes))
    return dataset
