"""From the name of a training run to its model."""

from __future__ import annotations

import re
from pathlib import Path

from latcli.engine import registry
from latcli.errors import UsageError
from latcli.store.files import artifact_path
from latcli.store.store import DATABASE, RunRow, Store

#: The model that a run of `latcli train` leaves in its folder.
CHECKPOINT = "checkpoint.safetensors"

#: The id of a training run, or the four digits that it ends with.
_RUN = re.compile(r"(\d{8}-\d{6}-train-)?[0-9a-f]{4}")


def named_run(store: Store, name: str) -> RunRow | None:
    """The run that a model's name stands for, by its id, the end of its id, or its own name; None for other models.

    Raises UsageError for the id of a run that is not there.
    """
    if _RUN.fullmatch(name):
        return store.find_run(name)
    known = _may_be_a_run(name) and store.query("SELECT id FROM runs WHERE name = :name", {"name": name})
    return store.find_run(name) if known else None


def classifier_path(name: str, store: Path) -> str:
    """The name as it is, or, where it stands for a training run of the store, the path of that run's model.

    Raises UsageError for a run that is not of train or has not finished, StoreError where the store fails.
    """
    if not _may_be_a_run(name) or not (store / DATABASE).exists():
        return name
    with Store.open_existing(store) as opened:
        row = named_run(opened, name)
    if row is None:
        return name
    if row.command != "train":
        raise UsageError(f"{row.id} is a run of {row.command}, not of train", "`latcli runs list --command train`")
    path = artifact_path(row.path, CHECKPOINT)
    if not path.exists():
        raise UsageError(
            f"the run {row.id} has no model: it is {row.status}",
            f"let it finish first: latcli train --resume {row.id.rpartition('-')[2]}",
        )
    return str(path)


def _may_be_a_run(name: str) -> bool:
    if _RUN.fullmatch(name):
        return True
    return re.fullmatch(r"[\w.-]+", name) is not None and name not in registry.names("classifier")
