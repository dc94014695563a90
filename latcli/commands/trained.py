"""From the id of a training run to the model that it left; must not know how either was made."""

from __future__ import annotations

import re
from pathlib import Path

from latcli.errors import UsageError
from latcli.store.files import artifact_path
from latcli.store.store import DATABASE, Store

#: The model that a run of `latcli train` leaves in its folder.
CHECKPOINT = "checkpoint.safetensors"

#: What can only be meant as a run: its whole id, or the four digits that it ends with.
_RUN = re.compile(r"(\d{8}-\d{6}-train-)?[0-9a-f]{4}")


def means_a_run(name: str) -> bool:
    """Whether a model's name can only be meant as the id of a training run."""
    return _RUN.fullmatch(name) is not None


def classifier_path(name: str, store: Path) -> str:
    """The name as it is, or, where it is the id of a training run of the store, the path of that run's model.

    Raises UsageError for a run that is none of train or has not come to its end, StoreError where the store fails.
    """
    if not means_a_run(name) or not (store / DATABASE).exists():
        return name
    with Store.open_existing(store) as opened:
        row = opened.find_run(name)
    path = artifact_path(row.path, CHECKPOINT)
    if row.command != "train":
        raise UsageError(f"{row.id} is a run of {row.command}, not of train", "`latcli runs list --command train`")
    if not path.exists():
        raise UsageError(
            f"the run {row.id} has left no model: it is {row.status}",
            f"let it come to its end: latcli train --resume {row.id.rpartition('-')[2]}",
        )
    return str(path)
