"""Connections to a SQLite file and its errors as a user should read them; must not know the schema."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from latcli.errors import StoreError

#: Seconds that a connection waits for another one's write transaction.
TIMEOUT = 30.0

_ELSEWHERE = "keep the runs elsewhere with --store DIR"
_UNOPENED = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
#: What a primary result code means for a user: the message's second half, and the hint. Other codes are our defects.
_TROUBLES: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: ("cannot grow: no space left", f"free some space, or {_ELSEWHERE}"),
    sqlite3.SQLITE_READONLY: ("is read-only", "name a folder that you may write with --store DIR"),
    sqlite3.SQLITE_PERM: ("may not be opened", "name a folder that you may use with --store DIR"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "name a folder that you may use with --store DIR"),
    sqlite3.SQLITE_BUSY: (f"stayed locked by another process for {TIMEOUT:g} s", f"let it end first, or {_ELSEWHERE}"),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", f"let it end first, or {_ELSEWHERE}"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", f"check the device it lies on, or {_ELSEWHERE}"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "move it away to start a new one; each run's folder keeps its run.json"),
    sqlite3.SQLITE_NOTADB: (
        "is damaged or not a database",
        "move it away to start a new one; each run's folder keeps its run.json",
    ),
}


#: Told of bytes that are no text where text belongs, and of tables that are not as our own steps made them.
_NOT_OURS = ("Could not decode to UTF-8", "no such", "malformed", "unrecognized token", "unsupported file format")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals about the file at `path` into StoreError; let errors in our own SQL through."""
    try:
        yield
    except UnicodeDecodeError as error:  # raised in place of SQLite's own where its message has such bytes in it
        what, hint = _TROUBLES[sqlite3.SQLITE_CORRUPT]
        raise StoreError(f"{path} {what} ({error.reason})", hint) from error
    except sqlite3.Error as error:
        trouble = _TROUBLES.get(_code(error))
        if str(error).startswith(_NOT_OURS):
            trouble = _TROUBLES[sqlite3.SQLITE_CORRUPT]
        if trouble is None:
            raise
        what, hint = trouble
        raise StoreError(f"{path} {what} ({error})", hint) from error


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """Open or create the file in WAL mode, in autocommit, with foreign keys enforced; usable from any thread.

    To be called by one process at a time: two that switch a fresh file to WAL at once fail whatever the timeout.
    Raises sqlite3.Error.
    """
    connection = sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open an existing file without ever writing to it, also on read-only media.

    Raises sqlite3.Error, and StoreError where the last changes still lie in a log that only a writer could read.
    """
    try:
        return _open_uri(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if _code(error) not in _UNOPENED:
            raise
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size > 0:
        raise StoreError(
            f"{path} cannot be read where it lies: its last changes are in {log.name}, and the folder is read-only",
            "copy the whole folder to where you may write, and name the copy with --store DIR",
        )
    return _open_uri(path, "immutable=1")  # without a log and without a writer the file alone is everything


def _open_uri(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opening is lazy: touch the file
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _code(error: sqlite3.Error) -> int:
    """The primary result code; the upper bits only refine it."""
    extended: int = getattr(error, "sqlite_errorcode", 0)
    return extended & 0xFF
