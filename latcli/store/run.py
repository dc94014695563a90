"""One run: its folder, its lock, its status and what it leaves behind; must not know what it computes."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from latcli.documents import DocumentError, read_json
from latcli.errors import ExitCode, LatcliError, StoreError, Terminated, UsageError
from latcli.store import artifacts, locks
from latcli.store.files import (
    LOCK,
    LOG,
    RUN_JSON,
    artifact_path,
    open_plainly,
    read_plainly,
    require_own_folder,
    storage_error,
    write_whole,
)
from latcli.store.provenance import Environment, environment, fingerprint, host
from latcli.store.records import RunRow, Status
from latcli.store.values import columns, legible, plain, utc_now

if TYPE_CHECKING:
    from latcli.store.database import Store
    from latcli.store.sqlite import Database

#: UTC time, command and four random hex digits: `20261122-141503-attack-7f3a`.
RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z][a-z0-9-]{0,40}-[0-9a-f]{4}")

_CRASHED = "the process ended without closing the run"
_HEARTBEAT_SECONDS = 5.0
_LARGEST_SEED = 2**63 - 1
_TRIES = 64
#: What is written anew when a run is taken up again.
_REOPENED = ("status", "heartbeat", "finished", "exit_code", "error", "pid", "host")


class Run:
    """A run that has begun. Leaving its `with` block closes it: completed, failed or interrupted, with an exit code.

    Its lock is held until then, so that a killed process leaves a run that can be told from a living one.
    """

    def __init__(self, store: Store, document: dict[str, object], folder: Path, lock: locks.HeldLock) -> None:
        """Use `Store.start_run`."""
        self.id = str(document["id"])
        self.folder = folder
        self._store = store
        self._document = document
        self._lock = lock
        self._pid = os.getpid()
        self._exit_code = int(ExitCode.OK)
        self._last_heartbeat = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:  # a forked worker that unwinds must not end its parent's run
            return
        try:
            self._end(error)
        except StoreError as failure:
            if error is None:
                raise
            error.add_note(f"besides, the run {self.id} could not be closed: {failure.message}")
        finally:
            self._lock.release()

    def _end(self, error: BaseException | None) -> None:
        try:
            self._settle_and_close(error)
        except (KeyboardInterrupt, Terminated) as interruption:  # it is closed all the same, as what the user will see
            self._settle_and_close(interruption)
            raise

    def _settle_and_close(self, error: BaseException | None) -> None:
        if error is not None:  # a signal may have come where a write cleans up after itself
            with suppress(StoreError):
                artifacts.settle(self._store, self.folder)
        self._close(*_outcome(error, self._exit_code))

    def write_artifact(self, name: str, data: bytes, kind: str) -> Path:
        """Keep a file in the run's folder and note its kind, size and sha256; an earlier one of that name is replaced.

        `name` may lead into subfolders, which are made. Raises StoreError for a name that leads out of the folder, and
        where it cannot be written; then nothing half-written stays.
        """
        return artifacts.keep(self._store, self.folder, name, data, kind)

    def remove_artifact(self, name: str) -> None:
        """Remove a file that `write_artifact` kept, and its row; nothing happens where there is none.

        Raises StoreError where it cannot be removed.
        """
        path = artifact_path(self.folder, legible(name))
        with self._store.writing() as db:
            db.execute("DELETE FROM artifacts WHERE run = ? AND name = ?", [self.id, str(PurePosixPath(legible(name)))])
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error

    def record_attack(self, row: Mapping[str, object]) -> None:
        """Add what an attack did to one image: the columns of the table `attacks`, without `id` and `run`.

        `image` is its sha256, `name` its path as given; columns that end in `_json` take lists and mappings.
        Raises StoreError.
        """
        with self._store.writing() as db:
            if row.get("image") is not None:
                db.table("images").insert(columns({"sha256": row["image"], "name": row["name"]}), ignore=True)
            db.table("attacks").insert(columns({"run": self.id} | dict(row)))
            self._touch(db)

    def record_metric(self, name: str, step: int, value: float | None) -> None:
        """Add one number over time; NaN and infinities are kept as NULL. Raises StoreError."""
        self.record_metrics([(name, step, value)])

    def record_metrics(self, values: Iterable[tuple[str, int, float | None]]) -> None:
        """Add many numbers, each as name, step, value, in one transaction; a step recorded again is replaced."""
        rows = [columns({"run": self.id, "name": name, "step": step, "value": value}) for name, step, value in values]
        with self._store.writing() as db:
            db.table("metrics").insert_all(rows, replace=True)
            self._touch(db)

    def record_cell(self, row: Mapping[str, object]) -> None:
        """Add one cell of the loss matrix: the columns of the table `cells`, without `id` and `run`.

        `model` is an id from `Store.record_model`, or a plain name. Raises StoreError.
        """
        with self._store.writing() as db:
            db.table("models").insert(columns({"id": row["model"], "name": row["model"]}), ignore=True)
            db.table("cells").insert(columns({"run": self.id} | dict(row)))
            self._touch(db)

    def record_cells(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Make these, as `record_cell` takes them, the cells of the run in place of any it had. Raises StoreError."""
        with self._store.writing() as db:
            db.execute("DELETE FROM cells WHERE run = ?", [self.id])
            for row in rows:
                db.table("models").insert(columns({"id": row["model"], "name": row["model"]}), ignore=True)
            db.table("cells").insert_all([columns({"run": self.id} | dict(row)) for row in rows])
            self._touch(db)

    def log(self, line: str) -> None:
        """Append a line to the run's log, with the time before it. Raises StoreError.

        It is one line of the file, whatever it holds: what is not printable is written as escapes.
        """
        require_own_folder(self.folder)
        path = self.folder / LOG
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(line.splitlines()))
        try:
            with open(path, "a", encoding="utf-8", opener=open_plainly) as file:
                file.write(f"{utc_now()} {text}\n")
        except OSError as error:
            raise storage_error(error, path) from error

    def heartbeat(self) -> None:
        """Note that the run is at work; cheap enough for every step, as most calls do nothing. Raises StoreError."""
        if time.monotonic() - self._last_heartbeat >= _HEARTBEAT_SECONDS:
            with self._store.writing() as db:
                self._touch(db)

    def made_model(self, model: str) -> None:
        """Say which model the run has made: an id from `Store.record_model`. Raises StoreError."""
        with self._store.writing() as db:
            db.table("runs").update(self.id, columns({"model": model}))
        self._document["model"] = model

    def set_exit_code(self, code: int) -> None:
        """What the run will have ended with if nothing is raised, say because one photo of a folder failed."""
        self._exit_code = int(code)

    def _touch(self, db: Database) -> None:
        db.execute("UPDATE runs SET heartbeat = ? WHERE id = ?", [utc_now(), self.id])
        self._last_heartbeat = time.monotonic()

    def _close(self, status: Status, exit_code: int, error: str | None) -> None:
        now = utc_now()
        finished = max(now, str(self._document["started"]))  # the clock may have been set back
        end = {"status": status, "heartbeat": now, "finished": finished, "exit_code": exit_code, "error": error}
        self._document |= end
        try:
            _write_json(self.folder, self._document)
        finally:  # last: as long as the row says that it runs, the next process tidies up after a kill
            with self._store.writing() as db:
                db.table("runs").update(self.id, columns(end))


def start(
    store: Store,
    command: str,
    *,
    argv: list[str],
    config: dict[str, object],
    seed: int | None,
    device: str | None,
    parent: str | None,
    dataset: str | None,
    model: str | None,
) -> Run:
    """Make a run's folder, take its lock, and only then add its row: see `Store.start_run`."""
    if seed is not None and abs(seed) > _LARGEST_SEED:
        raise UsageError(f"the seed {seed} is too large to be kept", f"choose one from 0 to {_LARGEST_SEED}")
    found = environment()
    given = {"parent": parent, "seed": seed, "device": device, "dataset": dataset, "model": model}
    given |= {"config_hash": fingerprint(config), "environment": found.id}
    folder, lock = _new_folder(store, command)
    try:
        row = _first_row(folder, command) | given
        document = row | {"argv": argv, "config": config, "environment": _details(found)}
        _write_json(folder, document)
        store.insert_run(row | {"argv_json": argv, "config_json": config}, found)
        return Run(store, document, folder, lock)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(StoreError):
            store.delete_run(folder.name)  # a signal may come when the row is there already
        lock.release()
        raise


def reopen(store: Store, row: RunRow, *, argv: list[str]) -> Run:
    """Take up a run that has ended, one way or another, under its own id: see `Store.resume_run`."""
    require_own_folder(row.path)
    try:
        lock = locks.acquire(row.path / LOCK)
    except OSError as error:
        raise storage_error(error, row.path) from error
    if lock is None:
        raise StoreError(f"the run {row.id} is at work in another process", "wait for its end, or stop it first")
    try:
        artifacts.settle(store, row.path)
        document = _read_json(row.path)
        fresh = _first_row(row.path, row.command) | {"started": row.started, "argv": argv}
        document |= {key: value for key, value in fresh.items() if key != "folder"}
        _write_json(row.path, document)
        with store.writing() as db:
            db.table("runs").update(row.id, columns({key: document[key] for key in _REOPENED} | {"argv_json": argv}))
    except BaseException:
        lock.release()
        raise
    return Run(store, document, row.path, lock)


def can_be_resumed(row: RunRow) -> bool:
    """Whether the document that a resumed run goes on with is there and whole."""
    try:
        _read_json(row.path)
    except StoreError:
        return False
    return True


def _read_json(folder: Path) -> dict[str, object]:
    path = folder / RUN_JSON
    try:
        document: dict[str, object] = read_json(read_plainly(path), dict[str, Any])
    except OSError as error:
        raise storage_error(error, path) from error
    except DocumentError as error:
        raise StoreError(f"{path} is damaged: {error}", "the run cannot be resumed; start a new one") from error
    if "id" not in document:
        raise StoreError(f"{path} is damaged", "the run cannot be resumed; start a new one")
    return document


def mark_crashed(store: Store, run_id: str) -> None:
    """Write down that the run's process is gone, unless the run has come to its end or was taken up meanwhile.

    Its files are settled first: a process that is killed in here leaves all of this to the next. Raises StoreError.
    """
    folder = store.folder_of(run_id)
    with _kept_to_oneself(folder) as alone:
        if not alone:
            return
        artifacts.settle(store, folder)
        with store.writing() as db:
            marked = db.execute(
                "UPDATE runs SET status = 'crashed', error = ? WHERE id = ? AND status = 'running'", [_CRASHED, run_id]
            )
            if marked.rowcount == 0:
                return
        with suppress(OSError, ValueError, StoreError):  # the folder may be damaged; the database has the last word
            require_own_folder(folder)
            document = read_json(read_plainly(folder / RUN_JSON), dict[str, Any])
            _write_json(folder, document | {"status": "crashed", "error": _CRASHED})


@contextmanager
def _kept_to_oneself(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run that seemed dead; False where a process has taken it up. A folder may be gone."""
    try:
        lock = locks.acquire(folder / LOCK) if _is_own(folder) else None
    except OSError:
        lock = None
    else:
        if lock is None and _is_own(folder):
            yield False
            return
    try:
        yield True
    finally:
        if lock is not None:
            lock.release()


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()


def _new_folder(store: Store, command: str) -> tuple[Path, locks.HeldLock]:
    """A folder that is new, under an id whose last four digits no other run has, as long as there are any left."""
    path = store.folder
    try:
        for attempt in range(2 * _TRIES):
            suffix = secrets.token_hex(2)
            if attempt < _TRIES and store.has_run_ending(suffix):
                continue
            path = store.folder_of(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{command}-{suffix}")
            with suppress(FileExistsError, FileNotFoundError):  # also gone at once, as what a killed process left
                path.mkdir()
                lock = locks.acquire(path / LOCK)
                if lock is not None:
                    return path, lock
    except OSError as error:
        raise storage_error(error, path) from error
    raise StoreError(f"{store.folder} holds too many runs of this second", "wait a moment and try again")


def _first_row(folder: Path, command: str) -> dict[str, object]:
    now = utc_now()
    return {
        "id": folder.name,
        "command": command,
        "status": "running",
        "started": now,
        "heartbeat": now,
        "finished": None,
        "exit_code": None,
        "error": None,
        "pid": os.getpid(),
        "host": host(),
        "folder": folder.name,
    }


def _details(found: Environment) -> dict[str, object]:
    """The environment as a person reads it in run.json: lists and mappings instead of columns with JSON."""
    row = found.to_row()
    return {
        name.removesuffix("_json"): json.loads(str(value)) if name.endswith("_json") else value
        for name, value in row.items()
    }


def _write_json(folder: Path, document: Mapping[str, object]) -> None:
    require_own_folder(folder)
    text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(folder / RUN_JSON, f"{text}\n".encode())


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
