"""Whether a run can be resumed with these options, for training and evaluation, and the command that resumes it.

A run is resumed with the options that it was started with. Where its data, masks and weights lie may change: that they
are the same is a matter of fingerprints, which are compared once the files are open.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from latcli.engine import registry
from latcli.errors import UsageError
from latcli.options import Computing
from latcli.session import Session
from latcli.store.store import RunRow, Store

#: Options that say where files lie. Their contents are compared by fingerprint, so a moved folder may be named anew.
PLACES = ("masks", "classifier_weights", "detector_weights")
_FOLDER = "folder:"


def resumable_run(store: Store, name: str, command: str, given: Mapping[str, Any], session: Session) -> RunRow:
    """The run of that name, if it is one of `command`, has not finished, and was started with the `given` options.

    Raises UsageError otherwise, with all differences, and StoreError where the store fails.
    """
    row = store.find_run(name)
    if row.command != command:
        raise UsageError(
            f"{row.id} is a run of {row.command}, not of {command}", f"`latcli runs list --command {command}`"
        )
    if row.status == "completed":
        raise UsageError(f"{row.id} is already completed", f"`latcli runs show {row.id[-4:]}` shows what it left")
    if row.status == "running" and store.is_alive(row.id):
        raise UsageError(f"{row.id} is running in another process", "wait for its end, or stop it first")
    asked = dict(given)
    if session.precision != "auto":
        asked["precision"] = session.precision
    if session.seed:
        asked["seed"] = session.seed
    was = row.config | {"seed": row.seed}
    differences = [
        f"--{name.replace('_', '-')} {_text(value)} (was {_text(was.get(name))})"
        for name, value in asked.items()
        if not _agree(name, value, was.get(name))
    ]
    if differences:
        raise UsageError(
            f"the run {row.id} was started with different options: {', '.join(differences)}",
            "resume it without these options, or start a new run with them",
        )
    return row


class Configured(Protocol):
    """A run's id and configuration."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration in plain values."""


def dataset_of(row: Configured, given: str | None) -> str:
    """The name that opens the run's data set: the one `given` now, else where the run found it.

    A run keeps its folder's absolute path as `dataset_folder`, so that it is found from any working directory. Raises
    UsageError where that folder is gone.
    """
    if given is not None:
        return given
    name, folder = str(row.config.get("dataset", "")), row.config.get("dataset_folder")
    if not folder:
        return name
    if not Path(folder).is_dir():
        raise UsageError(
            f"the folder {folder} of the run {row.id} no longer exists",
            f"if it was moved, add --dataset {_FOLDER}NEW_PATH",
        )
    return f"{_FOLDER}{folder}"


def check_same_data(row: Configured, name: str, fingerprint: str) -> None:
    """Raise UsageError where the data set is not the one that the run was started with, whatever it is called."""
    known = row.config.get("dataset_fingerprint")
    if known != fingerprint:
        raise UsageError(
            f"the data set {name} is not the one that the run {row.id} was started with: its contents differ",
            "if it was moved, name its new place with --dataset or --data; or start a new run",
        )


def folder_of(dataset: str) -> str | None:
    """The absolute path of `folder:PATH`; None for a named data set."""
    return str(Path(dataset.removeprefix(_FOLDER)).absolute()) if dataset.startswith(_FOLDER) else None


def resume_command(command: str, run: str, session: Session, names: Iterable[str] = ()) -> str:
    """What a user types to resume the run from the same working directory; `names` have to be named again."""
    words = ["latcli", command, *names, "--resume", run.rpartition("-")[2], *_where(session)]
    return shlex.join(words)


def classifier_again(classifier: str) -> list[str]:
    """The option that names a run's classifier again where it is code: no stored configuration may run it by itself."""
    return ["--classifier", classifier] if registry.names_code(classifier) else []


def next_command(words: str, session: Session) -> str:
    """`latcli WORDS` on this session's store and data."""
    return " ".join(["latcli", words, shlex.join(_where(session))]).strip()


def _where(session: Session) -> list[str]:
    """The options of the session that say where and how it runs, without those of its output."""
    words = [
        word
        for name in ("store", "data", "device")
        if getattr(session, name) != getattr(Computing, name)
        for word in (f"--{name}", str(getattr(session, name)))
    ]
    return [*words, "--offline"] if session.offline else words


def _agree(name: str, asked: Any, was: Any) -> bool:
    if name in PLACES:
        return (asked is None) == (was is None)
    if name == "dataset" and str(asked).startswith(_FOLDER) and str(was).startswith(_FOLDER):
        return True
    return bool(asked == was)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
