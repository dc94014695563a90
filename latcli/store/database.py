"""The store: one SQLite file and a folder for each run, safe for many processes; must not know what runs compute."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latcli.errors import StoreError, UsageError
from latcli.store import leftovers, locks
from latcli.store.connect import connect_for_reading, connect_for_writing, sqlite_errors
from latcli.store.files import LOCK, storage_error
from latcli.store.migrations import apply, migrate, pending, require_schema, require_types
from latcli.store.provenance import Environment, host
from latcli.store.records import CachedDetection, RunRow, RunTable, Status
from latcli.store.run import RUN_ID, Run, mark_crashed, reopen, start
from latcli.store.sqlite import Database
from latcli.store.values import columns, utc_now

DATABASE = "latcli.db"
STORE_LOCK = "latcli.lock"

#: Seconds to wait for another process that is creating or migrating the database.
_OPENING_SECONDS = 60.0
_SHOWN = 5


class Store:
    """An open store. Its methods may be called from any thread; a forked child must open its own."""

    def __init__(self, folder: Path, db: Database, *, read_only: bool) -> None:
        """Use `open` or `open_existing`."""
        self.folder = folder
        self.path = folder / DATABASE
        self.read_only = read_only
        self._db = db
        self._turn = threading.RLock()

    # opening and closing

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open for writing; make the folder and the database where there are none, and migrate an older one.

        Runs of this machine whose process is gone become `crashed`. Raises StoreError.
        """
        folder = folder.absolute()
        path = folder / DATABASE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locks.exclusive(folder / STORE_LOCK, _OPENING_SECONDS), sqlite_errors(path):
                store = cls(folder, _database(connect_for_writing(path)), read_only=False)
                try:
                    migrate(store._db, path)
                    require_schema(store._db, path)
                    store.reconcile()
                    store._clear_leftovers()
                except BaseException:
                    store.close()
                    raise
        except (FileExistsError, NotADirectoryError) as error:
            raise _not_a_folder(folder) from error
        except TimeoutError as error:
            raise _stays_locked(folder) from error
        except OSError as error:
            raise storage_error(error, folder) from error
        return store

    @classmethod
    def open_existing(cls, folder: Path) -> Self:
        """Open for reading only: nothing is made, migrated or written, so it may lie on read-only media.

        An older database is read through a migrated copy in memory. Raises StoreError, also where there is no store.
        """
        folder = folder.absolute()
        require(folder)
        try:
            with _kept_from_writers(folder / STORE_LOCK), sqlite_errors(folder / DATABASE):
                db = _database(connect_for_reading(folder / DATABASE))
                try:
                    return cls(folder, _up_to_date(db, folder / DATABASE), read_only=True)
                except BaseException:
                    db.close()
                    raise
        except TimeoutError as error:
            raise _stays_locked(folder) from error
        except OSError as error:
            raise storage_error(error, folder) from error

    def close(self) -> None:
        """Close the database; runs must have ended."""
        with self._turn:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # transactions

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The database for queries. Raises StoreError where the file fails."""
        with self._turn, sqlite_errors(self.path):
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[Database]:
        """The database inside one write transaction: all of the block is kept, or none of it. Not to be nested.

        The transaction takes its lock at once: one that reads first and writes later would fail among other writers
        instead of waiting for them. Raises StoreError where the file fails.
        """
        if self.read_only:
            raise RuntimeError("this store was opened for reading only")
        with self._turn, sqlite_errors(self.path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.commit()
            finally:
                self._db.rollback()  # nothing to undo after the commit

    # runs

    def start_run(
        self,
        command: str,
        *,
        argv: list[str],
        config: dict[str, object],
        seed: int | None,
        device: str | None,
        parent: str | None = None,
        dataset: str | None = None,
        model: str | None = None,
    ) -> Run:
        """Begin a run and its folder; use it as a context manager, which closes it whatever happens.

        `parent` is any name that `find_run` takes; `dataset` and `model` are ids from `record_dataset` and
        `record_model`, or plain names. Raises StoreError, and UsageError for an unknown parent or too large a seed.
        """
        return start(
            self,
            command,
            argv=argv,
            config=config,
            seed=seed,
            device=device,
            parent=None if parent is None else self.find_run(parent).id,
            dataset=dataset,
            model=model,
        )

    def resume_run(self, name: str, *, argv: list[str]) -> Run:
        """Take up the run that `find_run` finds, with its folder, its numbers and its id; use it as a context manager.

        What it was told and where it began stay as they were. Raises StoreError where a process is at work on it or its
        folder is damaged, and UsageError for an unknown name.
        """
        return reopen(self, self.find_run(name), argv=argv)

    def insert_run(self, row: dict[str, object], environment: Environment) -> None:
        """Add a run's row and whatever it points to. Raises StoreError."""
        with self.writing() as db:
            db.table("environments").insert(columns(environment.to_row()), ignore=True)
            for table in ("dataset", "model"):
                if row[table] is not None:
                    db.table(f"{table}s").insert(columns({"id": row[table], "name": row[table]}), ignore=True)
            db.table("runs").insert(columns(row))

    def has_run_ending(self, suffix: str) -> bool:
        """Whether some run's id ends so."""
        with self.reading() as db:
            return db.table("runs").count_where(_ENDS_WITH, {"suffix": suffix}) > 0

    def find_run(self, suffix: str) -> RunRow:
        """The run whose id ends so; `latest` is the one that started last.

        Raises UsageError where there is none, or more than one.
        """
        if suffix == "latest":
            found = self.runs(limit=1)
        else:
            with self.reading() as db:
                rows = list(db.table("runs").rows_where(_ENDS_WITH, {"suffix": suffix}, order_by=_NEWEST))
            found = [self._run_row(row) for row in rows]
        if not found:
            raise UsageError(f"there is no run '{suffix}' in {self.folder}", "`latcli runs list` shows those there are")
        if len(found) > 1:
            shown = ", ".join(row.id for row in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
            raise UsageError(f"'{suffix}' fits {len(found)} runs: {shown}", "give more of the end of the id")
        return found[0]

    def runs(
        self, *, command: str | None = None, status: Status | None = None, limit: int | None = None
    ) -> list[RunRow]:
        """Runs, the newest first; `status` is compared with what holds now. Raises StoreError."""
        with self.reading() as db:
            where = None if command is None else "command = :command"
            most = limit if status is None else None  # the status that holds now is not in the database
            rows = list(db.table("runs").rows_where(where, {"command": command}, order_by=_NEWEST, limit=most))
        found = (self._run_row(row) for row in rows)
        return list(islice((row for row in found if status in (None, row.status)), limit))

    def rows_of(self, run_id: str, table: RunTable) -> list[dict[str, Any]]:
        """The rows of a table or view that belong to the run, in the order they were written. Raises StoreError."""
        with self.reading() as db:
            rows = list(db.query(f"SELECT * FROM {table} WHERE run = ? {_ORDER.get(table, '')}", [run_id]))
        require_types(table, rows, self.path)
        return rows

    def environment(self, environment_id: str) -> dict[str, Any]:
        """The row of `environments`. Raises StoreError."""
        with self.reading() as db:
            return db.table("environments").get(environment_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run's row and those that belong to it; its files must be gone already. Raises StoreError."""
        with self.writing() as db:
            db.execute("DELETE FROM runs WHERE id = ?", [run_id])

    def is_alive(self, run_id: str) -> bool:
        """Whether a process of this machine still holds the run's lock; where that cannot be told, True."""
        try:
            return locks.is_held(self.folder_of(run_id) / LOCK)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def folder_of(self, run_id: str) -> Path:
        """The run's folder. Raises StoreError for an id that no run could have, lest it lead out of the store."""
        if not RUN_ID.fullmatch(run_id):
            raise StoreError(
                f"{self.path} names a run '{run_id}', which no run can be called",
                "move the database away to start a new one; each run's folder keeps its run.json",
            )
        return self.folder / run_id

    def reconcile(self) -> list[str]:
        """Mark runs of this machine whose process is gone as `crashed`; returns their ids. Raises StoreError."""
        with self.reading() as db:
            running = list(db.query("SELECT id FROM runs WHERE status = 'running' AND host = ?", [host()]))
        dead = [row["id"] for row in running if not self.is_alive(row["id"])]
        for run_id in dead:
            mark_crashed(self, run_id)
        return dead

    def _clear_leftovers(self) -> None:
        names = (path.name for path in self.folder.iterdir() if RUN_ID.fullmatch(path.name) and path.is_dir())
        found = list(names)  # before the ids, lest a run that begins meanwhile be taken for one without a row
        with self.reading() as db:
            known = {row["id"] for row in db.query("SELECT id FROM runs")}
        leftovers.clear(self.folder, [name for name in found if name not in known])

    # what runs share

    def record_image(
        self, sha256: str, name: str | None = None, width: int | None = None, height: int | None = None
    ) -> None:
        """Remember an image by its hash; what is None leaves what is known. Width and height in pixels."""
        known = {"name": name, "width": width, "height": height}
        row = {"sha256": sha256} | {key: value for key, value in known.items() if value is not None}
        with self.writing() as db:
            db.table("images").upsert(columns(row), pk="sha256")

    def record_dataset(self, name: str, *, split: str | None = None, fingerprint: str | None = None) -> str:
        """Remember a dataset; returns its id, which differs where split or contents differ."""
        known = dataset_id(name, fingerprint, split)
        row = {"id": known, "name": name, "split": split, "fingerprint": fingerprint}
        with self.writing() as db:
            db.table("datasets").upsert(columns(row), pk="id")
        return known

    def record_model(
        self,
        name: str,
        *,
        architecture: str | None = None,
        weights_sha256: str | None = None,
        regime: str | None = None,
        run: str | None = None,
    ) -> str:
        """Remember a model; returns its id, which differs where the weights differ. `run` trained it."""
        model_id = name + (f"@{weights_sha256[:8]}" if weights_sha256 else "")
        known = {"architecture": architecture, "weights_sha256": weights_sha256, "regime": regime, "run": run}
        row = {"id": model_id, "name": name} | {key: value for key, value in known.items() if value is not None}
        with self.writing() as db:
            db.table("models").upsert(columns(row), pk="id")
        return model_id

    def find_detection(self, image: str, detector: str, target: str = "") -> CachedDetection | None:
        """What is remembered for an image's sha256, a detector's fingerprint and a target's name. Raises StoreError."""
        with self.reading() as db:
            found = db.query(
                "SELECT boxes_json, segmentations FROM detections WHERE image = ? AND detector = ? AND target = ?",
                [image, detector, target],
            )
            return next((CachedDetection(**row) for row in found), None)

    def save_detection(
        self, image: str, detector: str, target: str, boxes_json: str, segmentations: bytes | None = None
    ) -> None:
        """Remember a detection, in place of an earlier one with the same key. Raises StoreError."""
        row = {
            "image": image,
            "detector": detector,
            "target": target,
            "boxes_json": boxes_json,
            "segmentations": segmentations,
            "created": utc_now(),
        }
        with self.writing() as db:
            db.table("images").insert({"sha256": image}, ignore=True)
            db.table("detections").upsert(columns(row), pk=("image", "detector", "target"))

    def database_faults(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; empty for a sound one. Raises StoreError."""
        with self.reading() as db:
            damage = [str(row[0]) for row in db.execute("PRAGMA quick_check").fetchall() if row[0] != "ok"]
            dangling = db.execute("PRAGMA foreign_key_check").fetchall()
        return damage + [f"row {row[1]} of {row[0]} points to no row of {row[2]}" for row in dangling]

    def _run_row(self, row: dict[str, Any]) -> RunRow:
        require_types("runs", [row], self.path)
        dead = row["status"] == "running" and row["host"] == host() and not self.is_alive(row["id"])
        return RunRow.from_columns(row, self.folder_of(row["id"]), "crashed" if dead else row["status"])


def dataset_id(name: str, fingerprint: str | None, split: str | None = None) -> str:
    """What the store calls a dataset: the same where name, split and contents are."""
    return name + (f"/{split}" if split else "") + (f"@{fingerprint[:8]}" if fingerprint else "")


_ENDS_WITH = "substr(id, -length(:suffix)) = :suffix"
#: By the order in which they were written: a clock that is set back must not hide the latest.
_NEWEST = "rowid DESC"
_ORDER: dict[RunTable, str] = {
    "attacks": "ORDER BY id",
    "artifacts": "ORDER BY rowid",
    "cells": "ORDER BY id",
    "metrics": "ORDER BY name, step",
}


def require(folder: Path) -> None:
    """Raise StoreError unless the folder holds a store."""
    try:
        if folder.exists() and not folder.is_dir():
            raise _not_a_folder(folder)
        if not (folder / DATABASE).exists():
            raise _no_store(folder)
    except OSError as error:
        raise storage_error(error, folder) from error


def _database(connection: sqlite3.Connection) -> Database:
    return Database(connection, execute_plugins=False)  # what a user has plugged into sqlite-utils is not our business


def _up_to_date(db: Database, path: Path) -> Database:
    if not db.table_names():
        raise _no_store(path.parent)
    steps = pending(db, path)
    if not steps:
        require_schema(db, path)
        return db
    copy = _database(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
    db.conn.backup(copy.conn)
    db.close()
    apply(copy, steps)
    require_schema(copy, path)
    return copy


@contextmanager
def _kept_from_writers(path: Path) -> Iterator[None]:
    """Wait for a process that is creating or migrating the database; without its lock file there is none."""
    if not path.exists():
        yield
        return
    with locks.shared(path, _OPENING_SECONDS):
        yield


def _no_store(folder: Path) -> StoreError:
    return StoreError(
        f"there are no runs in {folder} yet",
        "`latcli attack PHOTO` makes the first one; --store DIR names another store",
    )


def _not_a_folder(folder: Path) -> StoreError:
    return StoreError(f"{folder} is not a folder that could hold runs", "name a folder with --store DIR")


def _stays_locked(folder: Path) -> StoreError:
    return StoreError(
        f"another process has kept the store {folder} locked for {_OPENING_SECONDS:g} s",
        "let it end first, or keep the runs elsewhere with --store DIR",
    )
