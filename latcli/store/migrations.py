"""The database's schema, as the steps that make it; must not know how rows get in or out.

Append a function to change the schema; never edit or reorder one that has been released. A step's name is what the
database remembers it by. Names: a foreign key is called after what it points to, JSON columns end in `_json`.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from latcli.errors import StoreError
from latcli.store.files import storage_error, sync_folder, temporary_beside
from latcli.store.sqlite import Database
from latcli.store.values import utc_now

Migration = Callable[[Database], None]


def m001_runs(db: Database) -> None:
    """What was run, where, on what, with which result files."""
    db.executescript(
        """
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
            split TEXT,
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
        CREATE TABLE runs (
            id TEXT PRIMARY KEY NOT NULL,
            command TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'interrupted', 'crashed')),
            parent TEXT REFERENCES runs(id) ON DELETE SET NULL,
            started TEXT NOT NULL,
            heartbeat TEXT NOT NULL,
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
            host TEXT NOT NULL,
            folder TEXT NOT NULL
        ) STRICT;
        CREATE TABLE artifacts (
            run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            size INTEGER NOT NULL,
            created TEXT NOT NULL,
            PRIMARY KEY (run, name)
        ) STRICT;
        CREATE INDEX runs_status ON runs(status);
        CREATE INDEX runs_parent ON runs(parent);
        CREATE INDEX models_run ON models(run);
        """
    )


def m002_attacks(db: Database) -> None:
    """Photos, what detectors saw on them, and what attacks did to them."""
    db.executescript(
        """
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
        CREATE TABLE attacks (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
            image TEXT REFERENCES images(sha256),
            position INTEGER,
            name TEXT NOT NULL,
            label_index INTEGER,
            label_name TEXT,
            label_source TEXT,
            epsilon REAL,
            norm TEXT,
            steps INTEGER,
            restarts INTEGER,
            clean_prediction TEXT,
            clean_confidence REAL,
            clean_rank INTEGER,
            adversarial_prediction TEXT,
            adversarial_confidence REAL,
            adversarial_rank INTEGER,
            altered_percent REAL,
            background_percent REAL,
            linf_inside REAL,
            linf_outside REAL,
            boxes_json TEXT,
            clean_top_json TEXT,
            adversarial_top_json TEXT,
            notes_json TEXT
        ) STRICT;
        CREATE INDEX attacks_run ON attacks(run);
        CREATE INDEX attacks_image ON attacks(image);
        """
    )


def m003_evaluation(db: Database) -> None:
    """Numbers over time and the cells of the loss matrix. A value is NULL where a run diverged."""
    db.executescript(
        """
        CREATE TABLE metrics (
            run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            step INTEGER NOT NULL,
            value REAL,
            PRIMARY KEY (run, name, step)
        ) STRICT;
        CREATE TABLE cells (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
            model TEXT NOT NULL REFERENCES models(id),
            regime TEXT,
            input TEXT NOT NULL,
            epsilon REAL,
            steps INTEGER,
            seed INTEGER,
            n INTEGER NOT NULL,
            loss REAL,
            accuracy REAL
        ) STRICT;
        CREATE INDEX cells_run ON cells(run);
        CREATE INDEX cells_model ON cells(model);
        """
    )
    db.create_view(
        "latest_metrics",
        # SQLite takes the other columns from the row that holds the maximum
        "SELECT run, name, max(step) AS step, value FROM metrics GROUP BY run, name",
    )
    db.create_view(
        "loss_matrix",
        # avg() leaves NULL out, so the seeds that diverged are counted beside it
        "SELECT cells.run, runs.dataset, cells.model, cells.regime, cells.input, cells.epsilon, cells.steps, cells.n, "
        "count(*) AS seeds, count(*) - count(cells.loss) AS diverged, "
        "avg(cells.loss) AS loss, avg(cells.accuracy) AS accuracy "
        "FROM cells JOIN runs ON runs.id = cells.run "
        "GROUP BY cells.run, cells.model, cells.regime, cells.input, cells.epsilon, cells.steps, cells.n",
    )


def m004_cell_attacks(db: Database) -> None:
    """How a cell was made: with which attack, around which object, and in how long."""
    for column in ("attack TEXT", "restarts INTEGER", "mask_from TEXT", "center REAL", "seconds REAL"):
        db.execute(f"ALTER TABLE cells ADD COLUMN {column}")


MIGRATIONS: tuple[Migration, ...] = (m001_runs, m002_attacks, m003_evaluation, m004_cell_attacks)


def pending(db: Database, path: Path) -> list[Migration]:
    """The steps a database still lacks; `path` only names it in errors.

    Raises StoreError where it is not latcli's, or holds a step that this version does not know.
    """
    applied = _applied(db)
    if not applied and db.table_names():
        raise StoreError(
            f"{path} is a database of some other program",
            "name another folder with --store DIR",
        )
    unknown = applied - {migration.__name__ for migration in MIGRATIONS}
    if unknown:
        raise StoreError(
            f"{path} was written by a newer latcli (it knows {', '.join(sorted(unknown))})",
            "upgrade latcli, or keep new runs elsewhere with --store DIR",
        )
    return [migration for migration in MIGRATIONS if migration.__name__ not in applied]


def migrate(db: Database, path: Path) -> None:
    """Bring the database at `path` up to date, after a backup beside it where it already holds something.

    Each step is one transaction together with the row that says it was done. Only one process may be in here at a time.
    Raises StoreError as `pending` does, or where the backup cannot be written.
    """
    steps = pending(db, path)
    if steps and _applied(db):
        back_up(db.conn, path.with_name(f"{path.stem}-before-{steps[0].__name__}{path.suffix}"))
    apply(db, steps)


def apply(db: Database, steps: list[Migration]) -> None:
    """Run the steps in order, each in its own transaction. Raises sqlite3.Error; what went before stays."""
    for step in steps:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("CREATE TABLE IF NOT EXISTS _migrations (name TEXT PRIMARY KEY, applied TEXT NOT NULL) STRICT")
            step(db)
            db.execute("INSERT INTO _migrations VALUES (?, ?)", [step.__name__, utc_now()])
            db.commit()
        finally:
            db.rollback()  # nothing to undo after the commit


def back_up(connection: sqlite3.Connection, path: Path) -> None:
    """Write a copy of the open database, whole or not at all. Raises StoreError."""
    temporary = temporary_beside(path)
    try:
        with closing(sqlite3.connect(temporary)) as copy:
            connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _applied(db: Database) -> set[str]:
    if "_migrations" not in db.table_names():
        return set()
    return {str(row["name"]) for row in db.query("SELECT name FROM _migrations")}


def require_schema(db: Database, path: Path) -> None:
    """Raise StoreError where tables lack columns, or promise less of what is in them, than the steps here made.

    What comes from a file that names all steps as done is not therefore what they made.
    """
    lacking = _expected() - _declared(db)
    if lacking:
        table, column = min(lacking)[:2]
        raise StoreError(
            f"{path} is damaged: {table} has no {column} as latcli makes it",
            "move it away to start a new one; each run's folder keeps its run.json",
        )


def require_types(table: str, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Raise StoreError where a row of a table holds what its columns cannot: SQLite does not look at what it reads."""
    types = {column: _TYPES[type] for name, column, type, _ in _expected() if name == table and type in _TYPES}
    for row in rows:
        for column, value in row.items():
            if value is not None and not isinstance(value, types.get(column, object)):
                raise StoreError(
                    f"{path} is damaged: {table}.{column} holds a {type(value).__name__}",
                    "move it away to start a new one; each run's folder keeps its run.json",
                )


#: What Python gets of a column of that type.
_TYPES: dict[str, tuple[type, ...]] = {"TEXT": (str,), "INTEGER": (int,), "REAL": (float, int), "BLOB": (bytes,)}


@functools.cache
def _expected() -> frozenset[tuple[str, str, str, int]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        db = Database(connection, execute_plugins=False)
        apply(db, list(MIGRATIONS))
        return _declared(db)


def _declared(db: Database) -> frozenset[tuple[str, str, str, int]]:
    """Table, column, type, and whether SQLite keeps to the type; of views as well."""
    query = """
        SELECT tables.name, columns.name, columns.type, tables.strict
        FROM pragma_table_list AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.schema = 'main' AND tables.name NOT LIKE 'sqlite%'
    """
    return frozenset(db.execute(query).fetchall())
