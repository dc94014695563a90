"""A run's files and the rows that vouch for them, in step whatever cuts a write short; must not know what they hold.

A file is there before its row. One that replaces another keeps that one under a temporary name until the row is
changed, so that a kill between the two leaves both, and `settle` can tell which of them the row speaks of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from latcli.errors import StoreError
from latcli.store.files import artifact_path, is_temporary, sha256_of_file, storage_error, temporary_beside, write_whole
from latcli.store.values import columns, legible, utc_now

if TYPE_CHECKING:
    from latcli.store.database import Store


def keep(store: Store, folder: Path, name: str, data: bytes, kind: str) -> Path:
    """Write a file of the run in `folder` and its row; see `Run.write_artifact`. Raises StoreError."""
    path = artifact_path(folder, legible(name))
    row = {
        "run": folder.name,
        "name": str(PurePosixPath(legible(name))),
        "kind": kind,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "created": utc_now(),
    }
    before = temporary_beside(path)
    known = True
    try:
        replaces = _prepared(path, before)
        try:
            write_whole(path, data)
            with store.writing() as db:
                db.table("artifacts").upsert(columns(row), pk=("run", "name"))
        except BaseException:
            known = _take_back(store, row, path, before, replaces)
            raise
    finally:
        if known:  # else both files stay, for `settle`
            with suppress(OSError):
                before.unlink()
    return path


def settle(store: Store, folder: Path) -> None:
    """Tidy up after a process that is gone: files are what their rows say again, and no temporary one stays.

    Nobody may be writing into the folder. Raises StoreError where the database fails; files that cannot be touched stay
    for `verify_run` to tell.
    """
    temporaries = [] if folder.is_symlink() else list(temporaries_in(folder))
    if not temporaries:
        return
    for row in store.rows_of(folder.name, "artifacts"):
        with suppress(OSError, StoreError):
            path = artifact_path(folder, row["name"])
            if not holds(path, row["size"], row["sha256"]):
                for beside in _replaced_by(path, row["size"], row["sha256"]):
                    beside.replace(path)
                    break
    for temporary in temporaries:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_being_replaced(path: Path, size: int, sha256: str) -> bool:
    """Whether what the row speaks of lies beside the file: a new one is in its place, and its row still to come."""
    try:
        return any(True for _ in _replaced_by(path, size, sha256))
    except OSError:
        return False


def temporaries_in(folder: Path) -> Iterator[Path]:
    """The files of unfinished writes in a run's folder and below."""
    for parent, _, names in os.walk(folder, followlinks=False):
        for name in sorted(names):
            if is_temporary(name):
                yield Path(parent, name)


def holds(path: Path, size: int, sha256: str) -> bool:
    """Whether there is a plain file of that size and hash. Raises OSError where it cannot be read."""
    return path.is_file() and path.stat().st_size == size and sha256_of_file(path) == sha256


def _replaced_by(path: Path, size: int, sha256: str) -> Iterator[Path]:
    for beside in path.parent.iterdir():
        if is_temporary(beside.name) and not beside.is_symlink():
            with suppress(FileNotFoundError):
                if holds(beside, size, sha256):
                    yield beside


def _prepared(path: Path, before: Path) -> bool:
    """Make the folder, and give a file that is already there its second name; whether there is one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return False
        with suppress(OSError):  # a file system without hard links: only a kill at the wrong moment is worse off
            os.link(path, before)
        return True
    except OSError as error:
        raise storage_error(error, path) from error


def _take_back(store: Store, row: dict[str, Any], path: Path, before: Path, replaces: bool) -> bool:
    """Undo the file, unless its row is there after all: a signal may come between the commit and the next line.

    Returns whether that is known. Where the database cannot be asked, a file that replaced another stays beside it.
    """
    try:
        with store.reading() as db:
            found = list(db.query("SELECT sha256 FROM artifacts WHERE run = ? AND name = ?", [row["run"], row["name"]]))
    except StoreError:
        if replaces:
            return False
        found = []
    if found and found[0]["sha256"] == row["sha256"]:
        return True
    with suppress(OSError):
        if replaces:
            before.replace(path)
        else:
            path.unlink()
    return True
