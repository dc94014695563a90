"""The database: its tables and views, the connections to it, and SQLite's errors as a user should read them.

The tables `attacks` and `cells` are made from the dataclasses of their rows, as `results.columns` lays them out, and
get a new column where a class has a new field. Any other change of the schema is a further function in `MIGRATIONS`;
one that has been released is not edited. JSON columns end in `_json`, times are UTC in ISO 8601.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from latcli.errors import StoreError
from latcli.results import AttackedPhoto, AttackProtocol, Cell, column_types

if TYPE_CHECKING:
    from sqlite_utils.db import Database

#: Seconds that a connection waits for another one's write transaction.
TIMEOUT = 30.0

_TYPES: dict[Any, str] = {bool: "INTEGER", int: "INTEGER", float: "REAL"}
#: What the rows of a table are made of, and which of their columns point to another table.
_ROWS: dict[str, tuple[tuple[type, ...], dict[str, str]]] = {
    "attacks": ((AttackProtocol, AttackedPhoto), {"sha256": "images(sha256)"}),
    "cells": ((Cell,), {"model_id": "models(id)"}),
}


def m001_tables(db: Database) -> None:
    """Runs, what they share, what they found, and the views that join these."""
    db.executescript(_TABLES)
    for table in _ROWS:
        db.executescript(
            f"""
            CREATE TABLE {table} (
                id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE
            ) STRICT;
            CREATE INDEX {table}_run ON {table}(run);
            """
        )
    add_new_columns(db)
    db.executescript(_VIEWS)


MIGRATIONS: tuple[Callable[[Database], None], ...] = (m001_tables,)


def add_new_columns(db: Database) -> None:
    """Give the tables of results a column for each field that their rows' dataclasses have got since."""
    for table, (kinds, references) in _ROWS.items():
        there = db.table(table).columns_dict
        wanted = {name: python_type for kind in kinds for name, python_type in column_types(kind).items()}
        for name, python_type in wanted.items():
            if name not in there:
                target = f" REFERENCES {references[name]}" if name in references else ""
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {_TYPES.get(python_type, 'TEXT')}{target}")


_TABLES = """
CREATE TABLE environments (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    git_sha TEXT,
    git_dirty INTEGER,
    latcli TEXT NOT NULL,
    python TEXT NOT NULL,
    torch TEXT,
    platform TEXT NOT NULL,
    devices_json TEXT NOT NULL,
    packages_json TEXT NOT NULL
) STRICT;

CREATE TABLE datasets (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    fingerprint TEXT
) STRICT;

CREATE TABLE models (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    architecture TEXT,
    weights_sha256 TEXT,
    regime TEXT,
    run TEXT REFERENCES runs(id) ON DELETE SET NULL
) STRICT;
CREATE INDEX models_run ON models(run);

CREATE TABLE images (
    sha256 TEXT PRIMARY KEY NOT NULL,
    name TEXT,
    width INTEGER,
    height INTEGER
) STRICT;

CREATE TABLE detections (
    image TEXT NOT NULL REFERENCES images(sha256) ON DELETE CASCADE,
    detector TEXT NOT NULL,
    target TEXT NOT NULL,
    boxes_json TEXT NOT NULL,
    segmentations BLOB,
    created TEXT NOT NULL,
    PRIMARY KEY (image, detector, target)
) STRICT;

CREATE TABLE runs (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT UNIQUE,
    tags_json TEXT NOT NULL,
    command TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'interrupted', 'crashed')),
    parent TEXT REFERENCES runs(id) ON DELETE SET NULL,
    started TEXT NOT NULL,
    finished TEXT,
    exit_code INTEGER,
    error TEXT,
    argv_json TEXT NOT NULL,
    config_json TEXT NOT NULL,
    config_hash TEXT NOT NULL,
    seed INTEGER,
    device TEXT,
    dataset TEXT REFERENCES datasets(id),
    model TEXT REFERENCES models(id),
    environment TEXT NOT NULL REFERENCES environments(id),
    pid INTEGER NOT NULL,
    host TEXT NOT NULL
) STRICT;
CREATE INDEX runs_status ON runs(status);
CREATE INDEX runs_parent ON runs(parent);

CREATE TABLE artifacts (
    run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    image TEXT REFERENCES images(sha256),
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (run, name)
) STRICT;

CREATE TABLE metrics (
    run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    step INTEGER NOT NULL,
    value REAL,
    PRIMARY KEY (run, name, step)
) STRICT;
"""

_VIEWS = """
-- SQLite takes the other columns from the row that holds the maximum.
CREATE VIEW latest_metrics AS
SELECT run, name, max(step) AS step, value FROM metrics GROUP BY run, name;

-- avg() leaves NULL out, so the seeds that diverged are counted beside it.
CREATE VIEW loss_matrix AS
SELECT cells.run, runs.dataset, cells.model_id, cells.regime, cells.input, cells.epsilon, cells.steps, cells.n,
       count(*) AS seeds, count(*) - count(cells.loss) AS diverged,
       avg(cells.loss) AS loss, avg(cells.accuracy) AS accuracy
FROM cells JOIN runs ON runs.id = cells.run
GROUP BY cells.run, cells.model_id, cells.regime, cells.input, cells.epsilon, cells.steps, cells.n;

-- A photo's files are artifacts of its run, named in files_json by their kind.
CREATE VIEW attack_results AS
SELECT attacks.*, runs.name AS run_name, runs.command, runs.status, runs.started, runs.seed, runs.device,
       images.name AS first_seen_as,
       adversarial.name AS adversarial_file, adversarial.sha256 AS adversarial_sha256,
       mask.name AS mask_file, difference.name AS difference_file, figure.name AS figure_file
FROM attacks
JOIN runs ON runs.id = attacks.run
LEFT JOIN images ON images.sha256 = attacks.sha256
LEFT JOIN artifacts AS adversarial
    ON adversarial.run = attacks.run AND adversarial.name = attacks.files_json ->> '$.adversarial'
LEFT JOIN artifacts AS mask ON mask.run = attacks.run AND mask.name = attacks.files_json ->> '$.mask'
LEFT JOIN artifacts AS difference
    ON difference.run = attacks.run AND difference.name = attacks.files_json ->> '$.difference'
LEFT JOIN artifacts AS figure ON figure.run = attacks.run AND figure.name = attacks.files_json ->> '$.figure';
"""


def migrate(db: Database, path: Path) -> None:
    """Bring the database at `path` up to date, all of it or nothing; only one process may be in here at a time.

    Raises StoreError as `lacking` does.
    """
    steps = lacking(db, path)
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("CREATE TABLE IF NOT EXISTS _migrations (name TEXT PRIMARY KEY, applied TEXT NOT NULL) STRICT")
        for step in steps:
            step(db)
            db.execute("INSERT INTO _migrations VALUES (?, ?)", [step.__name__, utc_now()])
        add_new_columns(db)
        db.commit()
    finally:
        db.rollback()  # nothing to undo after the commit


def lacking(db: Database, path: Path) -> list[Callable[[Database], None]]:
    """The steps that a database still needs; `path` only names it in errors.

    Raises StoreError for another program's database, and for one with steps that this latcli does not know.
    """
    tables = db.table_names()
    applied = {row["name"] for row in db.query("SELECT name FROM _migrations")} if "_migrations" in tables else set()
    if tables and not applied:
        raise StoreError(f"{path} is a database of another program", "name another folder with --store DIR")
    if unknown := applied - {step.__name__ for step in MIGRATIONS}:
        raise StoreError(
            f"{path} was made by another version of latcli (its schema has {', '.join(sorted(unknown))})",
            "use that version, or keep new runs elsewhere with --store DIR",
        )
    return [step for step in MIGRATIONS if step.__name__ not in applied]


def utc_now() -> str:
    """The time now, as ISO 8601 in UTC with milliseconds: `2026-11-22T14:15:03.120Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# connections, and SQLite's errors as a user should read them


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """Open or create the file in WAL mode, in autocommit, with foreign keys enforced; usable from any thread.

    To be called by one process at a time: two that switch a fresh file to WAL at once fail whatever the timeout.
    Raises sqlite3.Error.
    """
    return _connect(str(path), "PRAGMA journal_mode = WAL", "PRAGMA foreign_keys = ON")


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open an existing file without ever writing to it, also on read-only media.

    Raises sqlite3.Error, and StoreError where the last changes still lie in a log that only a writer could read.
    """
    try:
        return _open_uri(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise StoreError(
            f"{path} cannot be read: its last changes are in {log.name}, and the folder is read-only",
            "copy the whole folder to a place where you can write, and name the copy with --store DIR",
        )
    return _open_uri(path, "immutable=1")  # without a log and without a writer the file alone is everything


def database(connection: sqlite3.Connection) -> Database:
    """The connection with sqlite-utils' helpers, which are imported without pandas and numpy.

    sqlite-utils imports both to learn the types of their scalars: half a second in every command, where pandas is
    installed. The store is given plain values alone.
    """
    hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # as if they were not installed
    try:
        from sqlite_utils.db import Database
    finally:
        for name in hidden:
            del sys.modules[name]
    return Database(connection, execute_plugins=False)  # nothing that a user has plugged into sqlite-utils


def _open_uri(path: Path, options: str) -> sqlite3.Connection:
    # Opening is lazy: touch the file.
    return _connect(f"file:{quote(os.fsencode(path.absolute()))}?{options}", "SELECT count(*) FROM sqlite_master")


def _connect(name: str, *statements: str) -> sqlite3.Connection:
    is_uri = name.startswith("file:")
    connection = sqlite3.connect(name, uri=is_uri, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        for statement in statements:
            connection.execute(statement).fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


_DAMAGED = "move it away to start a new one; each run's folder keeps its run.json"
_NAME_ANOTHER = "name a folder that you may write with --store DIR"
#: What to do about a primary result code; other codes are our own mistakes.
_HINTS: dict[int, str] = {
    sqlite3.SQLITE_FULL: "free some space, or keep the runs elsewhere with --store DIR",
    sqlite3.SQLITE_BUSY: "let the other process end first, or keep the runs elsewhere with --store DIR",
    sqlite3.SQLITE_IOERR: "check the device it lies on, or keep the runs elsewhere with --store DIR",
    **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN), _NAME_ANOTHER),
    **dict.fromkeys((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB), _DAMAGED),
}
#: How messages begin that speak of damage without a code of their own.
_DAMAGE = ("Could not decode to UTF-8", "no such", "malformed", "unrecognized token", "unsupported file format")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals about the file at `path` into StoreError; let errors in our own SQL through."""
    try:
        yield
    except UnicodeDecodeError as error:  # raised in place of SQLite's own where its message has such bytes in it
        raise damaged(path, error.reason) from error
    except sqlite3.Error as error:
        code = _code(error)
        if str(error).startswith(_DAMAGE) or _HINTS.get(code) is _DAMAGED:
            raise damaged(path, str(error)) from error
        if code not in _HINTS:
            raise
        raise StoreError(f"{path} cannot be used: {error}", _HINTS[code]) from error


def damaged(path: Path, why: str) -> StoreError:
    """The error of a database that holds what latcli would not have written."""
    return StoreError(f"{path} is damaged ({why})", _DAMAGED)


def _code(error: sqlite3.Error) -> int:
    """The primary result code; the upper bits only refine it."""
    extended: int = getattr(error, "sqlite_errorcode", 0)
    return extended & 0xFF
