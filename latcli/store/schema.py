"""The database: tables, views, connections, SQLite's errors as a user should read them; where a run is made.

A table's columns are the fields of its rows' dataclass, as `results.columns` lays them out; a field that a class gets
later becomes a column of the stores that there are. JSON columns end in `_json`, times are UTC in ISO 8601.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import latcli
from latcli.errors import StoreError
from latcli.results import (
    AttackedPhoto,
    AttackProtocol,
    Cell,
    LastValue,
    Status,
    StoredFile,
    canonical_json,
    column_types,
)

if TYPE_CHECKING:
    from sqlite_utils.db import Database

#: Seconds that a connection waits for another one's write transaction.
TIMEOUT = 30.0


@dataclass(frozen=True)
class RunRow:
    """One run. `path` is its folder; times are UTC ISO 8601; `exit_code` and `finished` are None while it runs.

    `status` is what holds now: a run whose process is gone is `crashed`, whatever the database still says.
    """

    id: str
    path: Path
    name: str | None
    tags: list[str]
    command: str
    status: Status
    parent: str | None
    started: str
    finished: str | None
    exit_code: int | None
    error: str | None
    argv: list[str]
    config: dict[str, Any]
    config_hash: str
    seed: int | None
    device: str | None
    dataset: str | None
    model: str | None
    environment: str
    pid: int
    host: str

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where it has not ended."""
        if self.finished is None:
            return None
        return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()


def _of(*kinds: type, **definitions: str) -> dict[str, str]:
    """Columns of rows that are made of these dataclasses, with what SQL says of each; files' paths are not kept."""
    types = {bool: "INTEGER", int: "INTEGER", float: "REAL"}
    found = {name: types.get(kind, "TEXT") for each in kinds for name, kind in column_types(each).items()}
    return {name: sql for name, sql in (found | definitions).items() if name != "path"}


def _texts(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "TEXT")


_KEY = "TEXT PRIMARY KEY NOT NULL"
_OF_RUN = {"run": "TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE"}
_IMAGE = "TEXT REFERENCES images(sha256)"

#: Tables, their columns, and SQL's definition of each.
TABLES: dict[str, dict[str, str]] = {
    "environments": {
        "id": _KEY,
        **_texts("name git_sha"),
        "git_dirty": "INTEGER",
        **_texts("latcli python torch platform devices_json packages_json"),
    },
    "datasets": {"id": _KEY, **_texts("name fingerprint")},
    "models": {
        "id": _KEY,
        **_texts("name architecture weights_sha256 regime"),
        "run": "TEXT REFERENCES runs(id) ON DELETE SET NULL",
    },
    "images": {"sha256": _KEY, "name": "TEXT", "width": "INTEGER", "height": "INTEGER"},
    "detections": {
        "image": f"{_IMAGE} ON DELETE CASCADE",
        **_texts("detector target boxes_json created"),
        "segmentations": "BLOB",
    },
    "runs": _of(
        RunRow,
        id=_KEY,
        name="TEXT UNIQUE",
        parent="TEXT REFERENCES runs(id) ON DELETE SET NULL",
        dataset="TEXT REFERENCES datasets(id)",
        model="TEXT REFERENCES models(id)",
        environment="TEXT NOT NULL REFERENCES environments(id)",
    ),
    "artifacts": _OF_RUN | _of(StoredFile, image=_IMAGE),
    "attacks": {"id": "INTEGER PRIMARY KEY"} | _OF_RUN | _of(AttackProtocol, AttackedPhoto, sha256=_IMAGE),
    "cells": {"id": "INTEGER PRIMARY KEY"} | _OF_RUN | _of(Cell, model_id="TEXT REFERENCES models(id)"),
    "metrics": _OF_RUN | _of(LastValue),
}

_INDEXES = """
CREATE UNIQUE INDEX IF NOT EXISTS detections_key ON detections(image, detector, target);
CREATE UNIQUE INDEX IF NOT EXISTS artifacts_key ON artifacts(run, name);
CREATE UNIQUE INDEX IF NOT EXISTS metrics_key ON metrics(run, name, step);
CREATE INDEX IF NOT EXISTS attacks_run ON attacks(run);
CREATE INDEX IF NOT EXISTS cells_run ON cells(run);
CREATE INDEX IF NOT EXISTS models_run ON models(run);
CREATE INDEX IF NOT EXISTS runs_parent ON runs(parent);
"""

VIEWS = {
    # SQLite takes the other columns from the row that holds the maximum.
    "latest_metrics": "SELECT run, name, max(step) AS step, value FROM metrics GROUP BY run, name",
    # avg() leaves NULL out, so the seeds that diverged are counted beside it.
    "loss_matrix": """
SELECT cells.run, runs.dataset, cells.model_id, cells.regime, cells.input, cells.epsilon, cells.steps, cells.n,
       count(*) AS seeds, count(*) - count(cells.loss) AS diverged,
       avg(cells.loss) AS loss, avg(cells.accuracy) AS accuracy
FROM cells JOIN runs ON runs.id = cells.run
GROUP BY cells.run, cells.model_id, cells.regime, cells.input, cells.epsilon, cells.steps, cells.n""",
    # A photo's files are artifacts of its run, named in files_json by their kind.
    "attack_results": """
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
LEFT JOIN artifacts AS figure ON figure.run = attacks.run AND figure.name = attacks.files_json ->> '$.figure'""",
}


def lacking(db: Database, path: Path) -> Mapping[str, list[str]]:
    """The columns that a database still needs, by table, and its views that are not as they are now, without any.

    `path` only names it in errors. Raises StoreError for another program's database.
    """
    there = {table.name: table.columns_dict.keys() for table in db.tables}
    if there and not there.keys() & TABLES.keys():
        raise StoreError(f"{path} is a database of another program", "name another folder with --store DIR")
    needed = {name: [one for one in columns if one not in there.get(name, ())] for name, columns in TABLES.items()}
    made = {view.name: view.schema for view in db.views}
    views: dict[str, list[str]] = {name: [] for name, sql in VIEWS.items() if not made.get(name, "").endswith(sql)}
    return {name: columns for name, columns in needed.items() if columns} | views


def complete(db: Database, path: Path) -> None:
    """Make what a database still needs, inside the caller's transaction. Raises StoreError as `lacking` does."""
    for name, missing in lacking(db, path).items():
        if len(missing) == len(TABLES.get(name, ())) > 0:
            columns = ", ".join(f"{column} {sql}" for column, sql in TABLES[name].items())
            db.execute(f"CREATE TABLE {name} ({columns}) STRICT")
        else:
            for column in missing:
                db.execute(f"ALTER TABLE {name} ADD COLUMN {column} {TABLES[name][column]}")
    for statement in _INDEXES.strip().split(";\n"):
        db.execute(statement)
    for name, sql in VIEWS.items():
        db.create_view(name, sql, replace=True)


def utc_now() -> str:
    """The time now, as ISO 8601 in UTC with milliseconds: `2026-11-22T14:15:03.120Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# connections, and SQLite's errors as a user should read them


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """Open or create the file in WAL mode, in autocommit, with foreign keys enforced; usable from any thread.

    To be called by one process at a time: two that switch a fresh file to WAL at once fail whatever the timeout.
    Raises sqlite3.Error.
    """
    return _connect(path, "mode=rwc", "PRAGMA journal_mode = WAL", "PRAGMA foreign_keys = ON")


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open an existing file without ever writing to it, also on read-only media. Raises sqlite3.Error."""
    log = path.with_name(f"{path.name}-wal")
    # Without a log and without a writer the file alone is everything.
    is_still = not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
    return _connect(path, "immutable=1" if is_still else "mode=ro", "SELECT count(*) FROM sqlite_master")


def _connect(path: Path, how: str, *statements: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        for statement in statements:  # opening is lazy: they touch the file
            connection.execute(statement).fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


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


_OTHERWISE = "check the folder and its disk, or name one that you may write with --store DIR"
#: What to do about a primary result code that is not the database's own fault.
_HINTS: dict[int, str] = {
    sqlite3.SQLITE_FULL: "free some space, or keep the runs elsewhere with --store DIR",
    sqlite3.SQLITE_BUSY: "let the other process end first, or keep the runs elsewhere with --store DIR",
    **dict.fromkeys(
        (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN), _OTHERWISE
    ),
}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals about the file at `path` into StoreError; let misuse of it, a defect, through."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where its message has such bytes in it
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits only refine it
        if code in _HINTS:
            raise StoreError(f"{path} cannot be used: {error}", _HINTS[code]) from error
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> StoreError:
    """The error of a database that holds what latcli would not have written."""
    return StoreError(
        f"{path} is damaged ({why})", "move it away to start a new one; each run's folder keeps its run.json"
    )


# where and with what a run is made, found out without importing torch


def environment() -> dict[str, Any]:
    """Where and with what this process makes runs: code, packages, devices. Runs of equal ones share a row."""
    sha, is_dirty = _checkout(Path(latcli.__file__).parent)
    versions = packages()
    facts: dict[str, Any] = {
        "git_sha": sha,
        "git_dirty": is_dirty,
        "latcli": latcli.__version__,
        "python": platform.python_version(),
        "torch": versions.get("torch"),
        "platform": platform.platform(),
        "devices": devices(),
        "packages": versions,
    }
    code = f"{latcli.__version__}+{sha[:7]}{'*' if is_dirty else ''}" if sha else latcli.__version__
    name = f"latcli {code}, Python {facts['python']}, torch {facts['torch']}, {platform.system()}"
    return {"id": fingerprint(facts)[:16], "name": name} | facts


def fingerprint(config: object) -> str:
    """Hex sha256 of the canonical JSON of a configuration: equal settings, equal hash, whatever their order."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def checkout(package: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the git checkout that the package folder is the source of; (None, None) without one.

    A package that merely lies in someone's repository, say in its virtual environment, is not that repository's code.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or package.resolve().parent != Path(top).resolve():
        return None, None
    return _git(package, "rev-parse", "HEAD"), bool(_git(package, "status", "--porcelain", "--untracked-files=no"))


_checkout = functools.cache(checkout)  # what runs is what was there when the process began


def packages() -> dict[str, str]:
    """Installed versions of latcli's own requirements, by name, without importing them."""
    versions: dict[str, str] = {}
    try:
        requirements = metadata.requires("latcli") or []
    except metadata.PackageNotFoundError:  # a checkout that runs without being installed
        return {}
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        with suppress(metadata.PackageNotFoundError):
            if "extra ==" not in requirement:
                versions[name] = metadata.version(name)
    return versions


def devices() -> list[str]:
    """Names of the processor and of the accelerators that this process already uses.

    Torch is asked only where it is loaded, and CUDA only where it is in use: asking starts it, which costs seconds.
    """
    cpuinfo, torch = Path("/proc/cpuinfo"), sys.modules.get("torch")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    names = [model[1].strip() if model else platform.processor() or platform.machine()]
    if torch is not None and torch.cuda.is_initialized():
        names += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch is not None and torch.backends.mps.is_available():
        names.append("Apple MPS")
    return names


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    # a git hook sets GIT_DIR and its like, which would outrank the folder asked for
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, check=True, env=plain)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one that does not answer
        return None
    return os.fsdecode(done.stdout).strip()
