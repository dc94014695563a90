"""Whether the store is as it was written: every run's files, and the database itself. Nothing is repaired."""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from pathlib import Path

from latcli.errors import StoreError
from latcli.results import Problem, Verification
from latcli.store.files import artifact_path, sha256_of_file
from latcli.store.store import RunRow, Store

#: What is wrong with a file, as `results.Problem` has it, and in words.
Fault = tuple[str, str]

#: A file is in place some milliseconds before its row: how often, and how long apart, a run at work is looked at again.
_LOOKS, _LOOK_SECONDS = 20, 0.1


def verify(store: Store, runs: Sequence[RunRow]) -> Verification:
    """Check the files of these runs, and the database itself. Raises StoreError."""
    problems: list[Problem] = []
    checked = 0
    for run in runs:
        if not run.path.is_dir():
            problems.append(Problem(run.id, ".", "missing", "the run's folder is gone"))
        for row in store.rows_of(run.id, "artifacts"):
            checked += 1
            if (fault := _lasting_fault(store, run, row["name"])) is not None:
                problems.append(Problem(run.id, row["name"], *fault))
    faults = database_faults(store)
    ids = tuple(run.id for run in runs)
    return Verification(store.folder, not problems and not faults, ids, checked, tuple(problems), tuple(faults))


def _lasting_fault(store: Store, run: RunRow, name: str) -> Fault | None:
    """What is wrong with a file; of a run at work, which may be replacing it at this moment, what stays wrong."""
    fault = None
    for look in range(_LOOKS if run.status == "running" else 1):
        time.sleep(_LOOK_SECONDS if look else 0.0)
        rows = store.query("SELECT * FROM artifacts WHERE run = :run AND name = :name", {"run": run.id, "name": name})
        fault = fault_of(run.path, name, rows[0]["size"], rows[0]["sha256"]) if rows else None
        if fault is None:
            break
    return fault


def fault_of(folder: Path, name: str, size: int, sha256: str | None) -> Fault | None:
    """What is wrong with a file of a run's folder, and in words; None where it is as it was written.

    With a `sha256` of None it is not read: only that it is there and has its size is checked.
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


def database_faults(store: Store) -> list[str]:
    """What SQLite's own check finds wrong with the database; empty for a sound one. Raises StoreError."""
    with store.reading() as db:
        damage = [str(row[0]) for row in db.execute("PRAGMA quick_check").fetchall() if row[0] != "ok"]
        dangling = db.execute("PRAGMA foreign_key_check").fetchall()
    return damage + [f"row {row[1]} of {row[0]} points to no row of {row[2]}" for row in dangling]
