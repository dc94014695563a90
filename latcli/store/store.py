"""The store: one SQLite file, a folder for each run, many processes at once; and a run, from its start to its end."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from filelock import FileLock, Timeout

from latcli.errors import ExitCode, LatcliError, StoreError, Terminated, UsageError
from latcli.results import SUMMED, Status, columns, legible, to_json
from latcli.store.files import (
    LOCK,
    LOG,
    RUN_JSON,
    StagedFile,
    artifact_path,
    is_locked,
    put_in_place,
    remove_unfinished,
    stage,
    storage_errors,
    write_whole,
)
from latcli.store.schema import RunRow as RunRow
from latcli.store.schema import (
    complete,
    connect_for_reading,
    connect_for_writing,
    damaged,
    database,
    environment,
    fingerprint,
    lacking,
    sqlite_errors,
    utc_now,
)

if TYPE_CHECKING:
    from sqlite_utils.db import Database

DATABASE = "latcli.db"
STORE_LOCK = "latcli.lock"

#: Tables and views whose rows belong to one run.
RunTable = Literal["attacks", "artifacts", "cells", "metrics", "latest_metrics", "loss_matrix", "attack_results"]

#: UTC time, command and four random hex digits: `20261122-141503-attack-7f3a`.
RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z][a-z0-9-]{0,40}-[0-9a-f]{4}")

#: Seconds to wait for another process that is creating the database, and for one that has just ended a run.
_OPENING_SECONDS, _ENDING_SECONDS = 60.0, 1.0
_SHOWN = 5
_LARGEST_SEED = 2**63 - 1
_CRASHED = "the process ended without closing the run"

#: By the order in which they were written: a clock that is set back must not hide the latest.
_NEWEST = "rowid DESC"
_ENDS_WITH = "substr(id, -length(:name)) = :name"
_AMONG = "IN (SELECT value FROM json_each(:runs))"
_ORDER = {"attacks": "id", "cells": "id", "attack_results": "id", "artifacts": "rowid", "metrics": "name, step"}
_FIRST_ATTACKED = """
    WITH grouped AS (
        SELECT id, region, iif(smallest_epsilon_max IS NULL, epsilon, NULL) AS tried FROM attacks WHERE run = :run
    ), placed AS (
        SELECT id, row_number() OVER (PARTITION BY region, tried ORDER BY id) AS place FROM grouped
    )
    SELECT * FROM attacks
    WHERE id IN (SELECT id FROM placed ORDER BY place, id LIMIT :most) OR id IN (SELECT id FROM placed WHERE place = 1)
    ORDER BY id
"""


class Store:
    """An open store. Its methods may be called from any thread; a forked child must open its own.

    Every method raises StoreError where the database cannot be read or written.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        """Use `open` or `open_existing`."""
        self.folder = folder
        self.path = folder / DATABASE
        self.read_only = read_only
        self._db = database(connection)
        self._turn = threading.RLock()

    # opening and closing

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open for writing; make the folder and the database where there are none.

        Runs of this machine whose process is gone become `crashed`. Raises StoreError.
        """
        folder = folder.absolute()
        with _folder_errors(folder), ExitStack() as failing:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / STORE_LOCK, timeout=_OPENING_SECONDS), sqlite_errors(folder / DATABASE):
                store = cls(folder, connect_for_writing(folder / DATABASE), read_only=False)
                failing.callback(store.close)
                if lacking(store._db, store.path):
                    with store.writing() as db:
                        complete(db, store.path)
                store._mark_crashed()
            failing.pop_all()
        return store

    @classmethod
    def open_existing(cls, folder: Path) -> Self:
        """Open for reading only: nothing is made or written, so it may lie on read-only media.

        Raises StoreError, also where there is no store.
        """
        folder = folder.absolute()
        require(folder)
        with _folder_errors(folder), sqlite_errors(folder / DATABASE), ExitStack() as failing:
            store = cls(folder, connect_for_reading(folder / DATABASE), read_only=True)
            failing.callback(store.close)
            store._db.execute("BEGIN")  # one look at all of it: another process may be making the tables just now
            is_empty, needs_more = not store._db.table_names(), lacking(store._db, store.path)
            store._db.rollback()
            if is_empty:
                raise no_runs(folder)
            if needs_more:
                hint = "any command that keeps a run brings it up to date"
                raise StoreError(f"{store.path} was made by an older latcli", hint)
            failing.pop_all()
        return store

    def close(self) -> None:
        """Close the database; runs must have ended."""
        with self._turn:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # transactions

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The database for queries."""
        with self._turn, sqlite_errors(self.path):
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[Database]:
        """The database inside one write transaction: all of the block is kept, or none of it. Not to be nested.

        The transaction takes its lock at once: one that reads first and writes later would fail among other writers
        instead of waiting for them.
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
        config: Mapping[str, object],
        seed: int | None,
        device: str | None,
        parent: str | None = None,
        dataset: str | None = None,
        model: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
    ) -> Run:
        """Start a run and its folder; use it as a context manager, which ends it whatever happens.

        `parent` is anything that `find_run` takes; `dataset` and `model` are ids from `record_dataset` and
        `record_model`, or plain names. Raises UsageError for an unknown parent, a name that another run has, or a seed
        too large to be kept.
        """
        if seed is not None and abs(seed) > _LARGEST_SEED:
            raise UsageError(f"the seed {seed} is too large to be kept", f"choose one from 0 to {_LARGEST_SEED}")
        found = environment()
        row: dict[str, Any] = {"command": command, "status": "running", "started": utc_now(), "argv": argv}
        row |= {"name": name, "tags": tuple(tags), "parent": None if parent is None else self.find_run(parent).id}
        row |= {"config": config, "config_hash": fingerprint(config), "seed": seed, "device": device}
        row |= {"dataset": dataset, "model": model, "environment": found["id"]} | _own_process()
        folder, lock = self._new_folder(command)
        try:
            with self.writing() as db:
                self.check_name(name)
                db.table("environments").insert(columns(found), ignore=True)
                for table in ("dataset", "model"):
                    if row[table] is not None:
                        db.table(f"{table}s").insert(columns({"id": row[table], "name": row[table]}), ignore=True)
                db.table("runs").insert(columns({"id": folder.name} | row))
            run = Run(self, folder, lock)
            run.write_provenance()
            return run
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(StoreError):
                self._delete_run(folder.name)  # a signal may come when the row is there already
            lock.release()
            raise

    def resume_run(self, run: str, *, argv: list[str], name: str | None = None, tags: Sequence[str] = ()) -> Run:
        """Continue the run that `find_run` finds, in its folder and under its id; use it as a context manager.

        Its configuration and its start stay as they were, and so do its name and tags unless there are new ones. Raises
        StoreError where a process is at work on it or its folder is gone, and UsageError for an unknown run.
        """
        row = self.find_run(run)
        lock = self._lock(row, _ENDING_SECONDS)
        if lock is None:
            raise StoreError(f"the folder of the run {row.id} is gone", "start a new run")
        try:
            remove_unfinished(row.path)
            now: dict[str, Any] = {"status": "running", "finished": None, "exit_code": None, "error": None}
            now |= {"argv": argv} | _own_process() | ({"name": name} if name else {}) | ({"tags": tags} if tags else {})
            with self.writing() as db:
                self.check_name(name, row.id)
                db.table("runs").update(row.id, columns(now))
            return Run(self, row.path, lock)
        except BaseException:
            lock.release()
            raise

    def check_name(self, name: str | None, own_id: str = "") -> None:
        """Raise UsageError where another run has the name already."""
        for row in self.query("SELECT id FROM runs WHERE name = :name AND id <> :id", {"name": name, "id": own_id}):
            raise UsageError(f"the run {row['id']} already has the name '{name}'", "choose another --name")

    def find_run(self, name: str) -> RunRow:
        """The run of that name, or whose id ends so; `latest` is the one that started last.

        Raises UsageError where there is none, or more than one, and StoreError where there are no runs at all.
        """
        if name == "latest":
            found = self.runs(limit=1)
        else:
            named = "SELECT * FROM runs WHERE name = :name"
            ending = f"SELECT * FROM runs WHERE {_ENDS_WITH} ORDER BY {_NEWEST}"
            rows = self.query(named, {"name": name}) or self.query(ending, {"name": name})
            found = [self._run_row(row) for row in rows]
        if not found and not self.query("SELECT 1 FROM runs LIMIT 1"):
            raise no_runs(self.folder)
        if not found:
            raise UsageError(f"there is no run '{name}' in {self.folder}", "`latcli runs list` lists the runs")
        if len(found) > 1:
            shown = ", ".join(row.id for row in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
            raise UsageError(f"'{name}' matches {len(found)} runs: {shown}", "give more of the end of the id")
        return found[0]

    def runs(
        self,
        *,
        command: str | None = None,
        status: Status | None = None,
        dataset: str | None = None,
        tag: str | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Runs, the newest first. `status` is compared with what holds now, `dataset` with its name and its id."""
        conditions = {
            "command = :command": command,
            "dataset IN (SELECT id FROM datasets WHERE :dataset IN (id, name))": dataset,
            "EXISTS (SELECT 1 FROM json_each(tags_json) WHERE value = :tag)": tag,
        }
        where = " AND ".join(condition for condition, value in conditions.items() if value is not None) or "1"
        most = -1 if limit is None or status is not None else limit  # the status that holds now is not in the database
        given = {"command": command, "dataset": dataset, "tag": tag}
        rows = self.query(f"SELECT * FROM runs WHERE {where} ORDER BY {_NEWEST} LIMIT {most}", given)
        found = (self._run_row(row) for row in rows)
        return list(islice((row for row in found if status in (None, row.status)), limit))

    def is_alive(self, run_id: str) -> bool:
        """Whether a process of this machine holds the run's lock; where that cannot be found out, True."""
        try:
            return is_locked(self.folder_of(run_id) / LOCK)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def folder_of(self, run_id: str) -> Path:
        """The run's folder. Raises StoreError for an id that no run can have, as it might lead out of the store."""
        if not RUN_ID.fullmatch(run_id):
            raise damaged(self.path, f"it has a run '{run_id}'")
        return self.folder / run_id

    def dependents(self, runs: Iterable[str]) -> list[str]:
        """Ids of other runs that are parts of these, or used models that these trained, in the order of their start."""
        asked = list(runs)
        made = f"SELECT id FROM models WHERE run {_AMONG}"
        found = self.query(
            f"SELECT id FROM runs WHERE parent {_AMONG} OR model IN ({made})"
            f" OR id IN (SELECT run FROM cells WHERE model_id IN ({made})) ORDER BY rowid",
            {"runs": json.dumps(asked)},
        )
        return [row["id"] for row in found if row["id"] not in asked]

    def remove_runs(self, runs: Sequence[RunRow], *, other_hosts: bool = False) -> None:
        """Remove the runs' folders and then their rows; runs that had one as their parent stay, without it.

        Nothing is removed unless all can be. The row goes last, so that a removal that was cut short can be repeated.
        `other_hosts` allows runs that another machine seems to be working on. Raises StoreError for runs at work.
        """
        with ExitStack() as held:
            for run in runs:
                if run.status == "running" and run.host != socket.gethostname() and not other_hosts:
                    raise StoreError(
                        f"{run.id} is running on another machine, {run.host}, or was when that machine went down",
                        "remove it there; if that machine is gone, --force removes it from here",
                    )
                if (lock := self._lock(run, 0.0)) is not None:
                    held.callback(lock.release)
            for run in runs:
                with storage_errors(run.path):
                    if run.path.is_symlink():
                        run.path.unlink()  # the link only, not what it points to
                    elif run.path.exists():
                        shutil.rmtree(run.path)
                self._delete_run(run.id)

    # rows

    def rows_of(self, runs: str | Iterable[str], table: RunTable, most: int | None = None) -> list[dict[str, Any]]:
        """The rows of a table or view that belong to a run, or to several, run by run in the order of their writing.

        Of more than `most` the first.
        """
        order = f"run, {_ORDER[table]}" if table in _ORDER else "run"
        given = {
            "runs": json.dumps([runs] if isinstance(runs, str) else list(runs)),
            "most": -1 if most is None else most,
        }
        return self.query(f"SELECT * FROM {table} WHERE run {_AMONG} ORDER BY {order} LIMIT :most", given)

    def attacked(self, run_id: str, most: int | None = None) -> list[dict[str, Any]]:
        """The run's rows of `attacks` in the order of their writing.

        Of more than `most` the first, of each region and epsilon about as many, and of each at least one. A search for
        the smallest epsilon counts as one.
        """
        if most is None:
            return self.rows_of(run_id, "attacks")
        return self.query(_FIRST_ATTACKED, {"run": run_id, "most": most})

    def count(self, run_id: str, table: RunTable) -> int:
        """How many rows of a table belong to the run."""
        return int(self.query(f"SELECT count(*) AS n FROM {table} WHERE run = :run", {"run": run_id})[0]["n"])

    def summed(self, run_id: str) -> list[dict[str, Any]]:
        """Of the run's attacked photos what `results.photo_summary` looks at, however many there are."""
        return self.query(f"SELECT {', '.join(SUMMED)} FROM attacks WHERE run = :run ORDER BY id", {"run": run_id})

    def rows(self, table: Literal["environments", "datasets", "models", "images"]) -> list[dict[str, Any]]:
        """All rows of a table that runs share."""
        return self.query(f"SELECT * FROM {table}")

    def environment(self, environment_id: str) -> dict[str, Any]:
        """A row of `environments`, with lists and mappings in place of their JSON."""
        (row,) = self.query("SELECT * FROM environments WHERE id = :id", {"id": environment_id})
        return self._readable(row)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows that a SELECT gives; `:runs` may be a JSON list of ids, as in `json_each(:runs)`."""
        with self.reading() as db:
            found = db.execute(sql, columns(parameters or {}))
            names = [column for column, *_ in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

    def series(
        self, runs: Iterable[str], names: Sequence[str], *, points: int | None = None
    ) -> dict[str, dict[str, list[list[Any]]]]:
        """For each run and each of these metrics, `[step, value]` in the order of steps; NULL is None.

        `points`: about so many of each, evenly spread, the first and the last among them; None for all. SQLite thins
        them out, so that a long run costs no more memory than a short one.
        """
        query = f"SELECT * FROM metrics WHERE run {_AMONG} AND name IN (SELECT value FROM json_each(:names))"
        if points is not None:
            query = f"""
                SELECT * FROM (
                    SELECT *, row_number() OVER (PARTITION BY run, name ORDER BY step) AS place,
                           count(*) OVER (PARTITION BY run, name) AS n
                    FROM ({query})
                )
                WHERE place = n OR (place - 1) % max(1, (n + :points - 1) / :points) = 0
            """
        query = f"SELECT run, name, step, value FROM ({query}) ORDER BY run, name, step"
        given = {"runs": json.dumps(list(runs)), "names": json.dumps(list(names)), "points": points}
        found: dict[str, dict[str, list[list[Any]]]] = {}
        with self.reading() as db:
            for run, name, step, value in db.execute(query, given):
                found.setdefault(run, {}).setdefault(name, []).append([step, value])
        return found

    def faults(self) -> list[str]:
        """What SQLite's own check finds wrong with the database; empty for a sound one."""
        with self.reading() as db:
            damage = [str(row[0]) for row in db.execute("PRAGMA quick_check").fetchall() if row[0] != "ok"]
            dangling = db.execute("PRAGMA foreign_key_check").fetchall()
        return damage + [f"row {row[1]} of {row[0]} points to no row of {row[2]}" for row in dangling]

    # what runs share

    def record_dataset(self, name: str, *, fingerprint: str | None = None) -> str:
        """Remember a data set; returns its id, which differs where contents differ."""
        return self._remember("datasets", name, fingerprint, fingerprint=fingerprint)

    def record_model(self, name: str, *, weights_sha256: str | None = None, **known: str | None) -> str:
        """Remember a model; returns its id, which differs where the weights differ.

        known: its `architecture`, its `regime`, and the `run` that trained it.
        """
        return self._remember("models", name, weights_sha256, weights_sha256=weights_sha256, **known)

    def _remember(self, table: str, name: str, contents: str | None, **known: str | None) -> str:
        row = {"id": legible(name) + (f"@{contents[:8]}" if contents else ""), "name": name}
        row |= {key: value for key, value in known.items() if value is not None}
        with self.writing() as db:
            db.table(table).upsert(columns(row), pk="id")
        return row["id"]

    # inside

    def _new_folder(self, command: str) -> tuple[Path, FileLock]:
        """A new folder and its lock, under an id whose last four digits no other run has, as long as any are left."""
        with storage_errors(self.folder):
            for attempt in count():
                suffix = secrets.token_hex(2)
                path = self.folder_of(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{command}-{suffix}")
                if attempt >= 64 or not self.query(f"SELECT 1 FROM runs WHERE {_ENDS_WITH}", {"name": suffix}):
                    with suppress(FileExistsError):
                        path.mkdir()
                        return path, _acquired(path, 0.0)
        raise AssertionError

    def _lock(self, run: RunRow, seconds: float) -> FileLock | None:
        """The lock of a run that is not at work, None where it has no folder. Raises StoreError where it is at work."""
        with storage_errors(run.path):
            try:
                return _acquired(run.path, seconds) if run.path.is_dir() else None
            except Timeout as error:
                raise StoreError(
                    f"{run.id} is still running, as process {run.pid}", "wait until it has ended, or stop it first"
                ) from error

    def _mark_crashed(self) -> None:
        """Mark the runs of this machine whose process is gone as crashed, and remove their unfinished files."""
        running = self.query(
            "SELECT * FROM runs WHERE status = 'running' AND host = :host", {"host": socket.gethostname()}
        )
        for run in [run for run in map(self._run_row, running) if run.status == "crashed"]:
            with suppress(StoreError), ExitStack() as held:  # one that has just been resumed is at work again
                if (lock := self._lock(run, 0.0)) is not None:
                    held.callback(lock.release)
                    remove_unfinished(run.path)
                with self.writing() as db:
                    db.execute(
                        "UPDATE runs SET status = 'crashed', error = ? WHERE id = ? AND status = 'running'",
                        [_CRASHED, run.id],
                    )

    def _delete_run(self, run_id: str) -> None:
        with self.writing() as db:
            db.execute("DELETE FROM runs WHERE id = ?", [run_id])

    def _run_row(self, row: dict[str, Any]) -> RunRow:
        dead = row["status"] == "running" and row["host"] == socket.gethostname() and not self.is_alive(row["id"])
        values = self._readable(row) | {"path": self.folder_of(row["id"])} | ({"status": "crashed"} if dead else {})
        return RunRow(**{field.name: values[field.name] for field in fields(RunRow)})

    def _readable(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with lists and mappings in place of the columns that hold them as JSON."""
        try:
            return {
                name.removesuffix("_json"): json.loads(value) if name.endswith("_json") else value
                for name, value in row.items()
            }
        except (TypeError, ValueError, RecursionError) as error:
            raise damaged(self.path, f"the row of {row['id']} holds something else than JSON") from error


class Run:
    """A run that has started. Leaving its `with` block ends it: completed, failed or interrupted, with an exit code.

    Its lock is held until then: where a running run's lock is free, its process was killed.
    """

    def __init__(self, store: Store, folder: Path, lock: FileLock) -> None:
        """Use `Store.start_run` or `Store.resume_run`."""
        self.id = folder.name
        self.folder = folder
        self.store = store
        self._lock = lock
        self._exit_code = int(ExitCode.OK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        cut_short = error is not None
        try:
            try:
                self._end(error)
            except (KeyboardInterrupt, Terminated) as interruption:  # it ends all the same, as what the user will see
                cut_short = True
                self._end(interruption)
                raise
        except StoreError as failure:
            if error is None:
                raise
            error.add_note(f"besides, the run {self.id} could not be closed: {failure.message}")
        finally:
            if cut_short:  # there may be files that were staged and are not kept
                remove_unfinished(self.folder)
            self._lock.release()

    @property
    def row(self) -> RunRow:
        """What the database has of it."""
        return self.store.find_run(self.id)

    def set_exit_code(self, code: int) -> None:
        """What the run ends with if nothing is raised, for instance because one photo of a folder failed."""
        self._exit_code = int(code)

    def write_artifact(self, name: str, data: bytes, kind: str, image: str | None = None) -> Path:
        """Keep a file in the run's folder and note its kind, size, sha256, and the sha256 of the image that it is of.

        `name` may lead into subfolders, which are made; an earlier file of that name is replaced. Raises StoreError for
        a name that leads out of the folder, and where the file cannot be written; then nothing half-written stays.
        """
        file = stage(self.folder, name, data, kind, image)
        self.keep([file])
        return artifact_path(self.folder, file.name)

    def keep(self, files: Sequence[StagedFile], attacks: Iterable[Any] = ()) -> None:
        """Put files that any process has written in their places and note them, and add rows of `attacks`.

        All or nothing is kept. Raises StoreError.
        """
        with self.store.writing() as db, put_in_place(self.folder, files):
            noted = [{name: value for name, value in asdict(file).items() if name != "temporary"} for file in files]
            self._insert(db, "artifacts", [row | {"created": utc_now()} for row in noted])
            self._insert(db, "attacks", attacks)

    def remove_artifact(self, name: str) -> None:
        """Remove a file that `write_artifact` kept, and its row; nothing happens where there is none."""
        path = artifact_path(self.folder, legible(name))
        with self.store.writing() as db:
            db.execute("DELETE FROM artifacts WHERE run = ? AND name = ?", [self.id, legible(name)])
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def insert(
        self, table: Literal["attacks", "cells", "metrics"], rows: Iterable[Any], *, instead: bool = False
    ) -> None:
        """Add rows of the run, all or none: dataclasses or mappings, whose columns are what `results.columns` makes.

        An image or a model that a row points to is remembered where it is new; a metric recorded again is replaced.
        `instead`: in place of all rows that the run has in the table.
        """
        with self.store.writing() as db:
            if instead:
                db.execute(f"DELETE FROM {table} WHERE run = ?", [self.id])
            self._insert(db, table, rows)

    def remove_attacks(self, ids: Iterable[int]) -> None:
        """Remove rows of `attacks` by their ids."""
        with self.store.writing() as db:
            db.execute("DELETE FROM attacks WHERE id IN (SELECT value FROM json_each(?))", [json.dumps(list(ids))])

    def record_metrics(self, values: Iterable[tuple[str, int, float | None]]) -> None:
        """Add numbers, each as name, step, value; NaN and infinities are kept as NULL."""
        self.insert("metrics", ({"name": name, "step": step, "value": value} for name, step, value in values))

    def log(self, line: str) -> None:
        """Append a line to the run's log, with the time before it; what is not printable is written as escapes."""
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(line.splitlines()))
        path = self.folder / LOG
        with storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{utc_now()} {text}\n")

    def made_model(self, model: str) -> None:
        """Say which model the run has made: an id from `Store.record_model`."""
        with self.store.writing() as db:
            db.table("runs").update(self.id, columns({"model": model}))

    def write_provenance(self, **changed: Any) -> None:
        """Write what the database has of the run into `run.json`, for readers of the folder alone."""
        row = asdict(self.row) | changed
        del row["path"]  # the folder may be moved
        row["environment"] = self.store.environment(row["environment"])
        text, path = json.dumps(to_json(row), indent=2, ensure_ascii=False), self.folder / RUN_JSON
        with storage_errors(path):
            write_whole(path, [f"{text}\n".encode()])

    def _insert(self, db: Database, table: str, rows: Iterable[Any]) -> None:
        found = [columns(row) | {"run": self.id} for row in rows]
        for row in found:
            if table == "cells":
                db.table("models").insert({"id": row["model_id"], "name": row["model_id"]}, ignore=True)
            elif table == "artifacts" and row["image"] is not None:
                db.table("images").insert({"sha256": row["image"]}, ignore=True)
            elif table == "attacks" and row.get("sha256") is not None:
                known = {"name": row.get("image"), "width": row.get("width"), "height": row.get("height")}
                db.table("images").upsert({"sha256": row["sha256"]} | known, pk="sha256")
        db.table(table).insert_all(found, replace=True)

    def _end(self, error: BaseException | None) -> None:
        status, exit_code, message = _outcome(error, self._exit_code)
        change = columns({"status": status, "finished": utc_now(), "exit_code": exit_code, "error": message})
        try:
            self.write_provenance(**change)
        finally:  # last: as long as the row says that it runs, the next process tidies up after a kill
            with self.store.writing() as db:
                db.table("runs").update(self.id, change)


def _own_process() -> dict[str, Any]:
    """By what this process is known again, as columns of its run."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def require(folder: Path) -> None:
    """Raise StoreError unless the folder holds a store."""
    with _folder_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError
        if not (folder / DATABASE).exists():
            raise no_runs(folder)


def no_runs(folder: Path) -> StoreError:
    """The error of a store that holds nothing yet."""
    return StoreError(
        f"there are no runs in {folder} yet",
        "start with latcli demo, latcli attack PHOTO or latcli train; --store DIR names another store",
    )


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals about a store's folder into StoreError."""
    with storage_errors(folder):
        try:
            yield
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"{folder} is not a folder", "name a folder with --store DIR") from error
        except Timeout as error:
            raise StoreError(
                f"another process has kept the store {folder} locked for {_OPENING_SECONDS:g} s",
                "let it end first, or keep the runs elsewhere with --store DIR",
            ) from error


def _acquired(folder: Path, seconds: float) -> FileLock:
    """The lock of a run's folder, held. Raises Timeout where another has it after so many seconds, and OSError."""
    lock = FileLock(folder / LOCK, timeout=seconds, thread_local=False)
    lock.acquire()
    return lock


def _outcome(error: BaseException | None, exit_code: int) -> tuple[Status, int, str | None]:
    match error:
        case None:
            return "completed", exit_code, None
        case KeyboardInterrupt():
            return "interrupted", ExitCode.INTERRUPTED, None
        case Terminated():
            return "interrupted", ExitCode.TERMINATED, None
        case LatcliError() as known:
            return "failed", known.exit_code, known.message
        case _:
            return "failed", ExitCode.FAILURE, f"{type(error).__name__}: {error}"
