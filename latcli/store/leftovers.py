"""What a killed process leaves in the store and no row speaks of; must not touch anything that was finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from latcli.errors import StoreError
from latcli.store import locks
from latcli.store.files import LOCK, RUN_JSON, is_temporary, read_plainly
from latcli.store.provenance import host


def clear(folder: Path, rowless: Sequence[str]) -> None:
    """Remove unfinished backups, and the folders of runs that were killed before they had a row.

    `rowless` are the folders of the store that are called as runs are, and have no row. To be called by one process at
    a time, before which no other can migrate. What cannot be removed stays.
    """
    for path in folder.glob(".latcli-*.tmp*"):  # with the log that SQLite keeps beside a copy
        with suppress(OSError):
            path.unlink()
    for name in rowless:
        with suppress(OSError):
            _remove_unless_begun(folder / name)


def _remove_unless_begun(folder: Path) -> None:
    """Raises OSError."""
    if folder.is_symlink() or not _is_empty(folder):
        return
    lock = locks.acquire(folder / LOCK)
    if lock is None:  # it is just beginning
        return
    try:
        if _is_empty(folder):
            shutil.rmtree(folder)
    finally:
        lock.release()


def _is_empty(folder: Path) -> bool:
    """Whether nothing has been done in it: a run whose database was moved away still has its document, and ended."""
    names = {path.name for path in folder.iterdir() if not is_temporary(path.name)}
    if not names <= {LOCK, RUN_JSON}:
        return False
    if RUN_JSON not in names:
        return True
    try:
        document = json.loads(read_plainly(folder / RUN_JSON))
    except (OSError, ValueError, StoreError):
        return False
    return isinstance(document, dict) and (document.get("status"), document.get("host")) == ("running", host())
