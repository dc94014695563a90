"""Whether a run's files are still those that were recorded; must not repair, and must not read outside the folder."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latcli.errors import StoreError
from latcli.store.artifacts import is_being_replaced, temporaries_in
from latcli.store.database import Store
from latcli.store.files import LOCK, LOG, RUN_JSON, artifact_path, sha256_of_file
from latcli.store.provenance import host
from latcli.store.records import RunRow

Fault = Literal["missing", "changed", "unreadable", "outside", "stray"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a run's files.

    `missing`, `changed` and `unreadable` speak for themselves; `outside` is a path that leads out of the run's folder
    and was not followed; `stray` is a temporary file of a write that never ended. `name` is relative to the folder.
    """

    run: str
    name: str
    fault: Fault
    detail: str


@dataclass(frozen=True)
class Verification:
    """What a run's files were found to be; `checked` counts the artifacts looked at."""

    run: str
    checked: int
    problems: tuple[Problem, ...]


def verify_run(store: Store, run: RunRow) -> Verification:
    """Compare every artifact of a run with its recorded size and sha256. Raises StoreError where the database fails."""
    artifacts = store.rows_of(run.id, "artifacts")
    problems = []
    if run.path.is_symlink():
        problems.append(Problem(run.id, ".", "outside", "a link stands in the folder's place, and was not followed"))
        return Verification(run.id, 0, tuple(problems))
    if not run.path.is_dir():
        problems.append(Problem(run.id, ".", "missing", "the run's folder is gone"))
    for row in artifacts:
        found = _fault_now(store, run, row)
        if found is not None:
            problems.append(Problem(run.id, row["name"], *found))
    problems += [
        Problem(run.id, name, "outside", "it is a link, which is not followed")
        for name in (RUN_JSON, LOG, LOCK)
        if (run.path / name).is_symlink()
    ]
    problems += [
        Problem(run.id, str(path.relative_to(run.path)), "stray", "a temporary file of a write that never ended")
        for path in _strays(store, run)
    ]
    return Verification(run.id, len(artifacts), tuple(problems))


def _strays(store: Store, run: RunRow) -> list[Path]:
    """Temporary files that nobody is writing: a run is at work until its lock is free, whatever its row says."""
    found = list(temporaries_in(run.path))
    if not found or store.is_alive(run.id) or (run.status == "running" and run.host != host()):
        return []
    return [path for path in found if path.exists()]


def _fault_now(store: Store, run: RunRow, row: dict[str, Any] | None) -> tuple[Fault, str] | None:
    """As `fault_of`, for a file that its run may be writing anew or removing at this moment."""
    while row is not None:
        found = fault_of(run.path, row["name"], row["size"], row["sha256"])
        if found is None or found[0] == "outside":
            return found
        if run.status == "running" and is_being_replaced(run.path / row["name"], row["size"], row["sha256"]):
            return None
        again = next((one for one in store.rows_of(run.id, "artifacts") if one["name"] == row["name"]), None)
        if again == row:
            return found
        row = again
    return None


def fault_of(folder: Path, name: str, size: int, sha256: str | None) -> tuple[Fault, str] | None:
    """What is wrong with a file of a run's folder, and in words; None where it is as it was written.

    With a `sha256` of None it is not read: that it is there and has its size is all that is asked.
    """
    try:
        path = artifact_path(folder, name)
    except StoreError:
        return "outside", "it leads out of the run's folder, and was not followed"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            return "changed", "it is no longer a plain file"
        if found.st_size != size:
            return "changed", f"it has {found.st_size} bytes instead of {size}"
        if sha256 is not None and sha256_of_file(path) != sha256:
            return "changed", "its sha256 is another"
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "it is gone"
    except OSError as error:
        return "unreadable", (error.strerror or str(error)).lower()
    return None
