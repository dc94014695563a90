"""`latcli runs`: what the store holds, as result objects; must not print and must not know the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latcli.commands.report.photos import image_of, read_column
from latcli.engine.registry import unknown_name
from latcli.errors import ExitCode
from latcli.options import RunsListOptions, RunsPathOptions, RunsRemoveOptions, RunsShowOptions, RunsVerifyOptions
from latcli.session import Session
from latcli.store import remove
from latcli.store.database import Store, require
from latcli.store.files import artifact_path
from latcli.store.records import STATUSES, RunRow, Status
from latcli.store.verify import Verification, verify_run


@dataclass(frozen=True)
class RunsListed:
    """Runs, the newest first."""

    store: Path
    runs: list[RunRow]

    def to_json(self) -> dict[str, Any]:
        """`{"store": path, "runs": [run]}`."""
        return {"store": str(self.store), "runs": [_run_json(run) for run in self.runs]}


@dataclass(frozen=True)
class RunShown:
    """One run with all that the database knows of it; the lists hold rows of the tables they are called after."""

    run: RunRow
    environment: dict[str, Any]
    attacks: list[dict[str, Any]]
    cells: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The run as in a list, with `config`, `environment`, `images` (as `attack` gives them), `cells`, and so on."""
        return _run_json(self.run) | {
            "argv": self.run.argv,
            "config": self.run.config,
            "environment": _parsed(self.environment),
            "images": [image_of(row) for row in self.attacks],
            "cells": [_without_run(row) for row in self.cells],
            "metrics": [_without_run(row) for row in self.metrics],
            "artifacts": [_without_run(row) | {"path": str(self.run.path / row["name"])} for row in self.artifacts],
        }


@dataclass(frozen=True)
class RunsVerified:
    """What was found of each run's files, and what SQLite's own check says of the database."""

    store: Path
    runs: list[Verification]
    database_faults: list[str]

    @property
    def exit_code(self) -> ExitCode:
        """Failure where anything is wrong."""
        return ExitCode.FAILURE if self.database_faults or any(run.problems for run in self.runs) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """`{"store": path, "ok": bool, "checked": n, "problems": [{run, name, fault, detail}], "database": [text]}`."""
        return {
            "store": str(self.store),
            "ok": self.exit_code == ExitCode.OK,
            "runs": [run.run for run in self.runs],
            "checked": sum(run.checked for run in self.runs),
            "problems": [asdict(problem) for run in self.runs for problem in run.problems],
            "database": self.database_faults,
        }


@dataclass(frozen=True)
class RunsRemoved:
    """The runs that are gone."""

    store: Path
    runs: list[str]

    def to_json(self) -> dict[str, Any]:
        """`{"store": path, "removed": [id]}`."""
        return {"store": str(self.store), "removed": self.runs}


@dataclass(frozen=True)
class RunPath:
    """Where a run, or one of its files, lies."""

    run: str
    path: Path

    def to_json(self) -> dict[str, Any]:
        """`{"run": id, "path": path}`."""
        return {"run": self.run, "path": str(self.path)}


def list_runs(options: RunsListOptions, session: Session) -> RunsListed:
    """Runs of the store, the newest first. Raises StoreError, and UsageError for an unknown status."""
    wanted = None if options.status is None else _status(options.status)
    with Store.open_existing(session.store) as opened:
        found = opened.runs(command=options.command, status=wanted, limit=options.limit)
        return RunsListed(opened.folder, found)


def show_run(options: RunsShowOptions, session: Session) -> RunShown:
    """Everything about the one run whose id ends so, or `latest`; metrics at their last step.

    Raises StoreError, and UsageError where there is no such run or more than one.
    """
    with Store.open_existing(session.store) as opened:
        row = opened.find_run(options.run)
        return RunShown(
            run=row,
            environment=opened.environment(row.environment),
            attacks=opened.rows_of(row.id, "attacks"),
            cells=opened.rows_of(row.id, "cells"),
            metrics=opened.rows_of(row.id, "latest_metrics"),
            artifacts=opened.rows_of(row.id, "artifacts"),
        )


def verify_runs(options: RunsVerifyOptions, session: Session) -> RunsVerified:
    """Check the files of the runs named, or of all, and the database itself.

    A fault is a result, not an error. Raises StoreError, and UsageError where there is no such run.
    """
    with Store.open_existing(session.store) as opened:
        rows = _found(opened, options.runs) if options.runs else opened.runs()
        return RunsVerified(opened.folder, [verify_run(opened, row) for row in rows], opened.database_faults())


def remove_runs(options: RunsRemoveOptions, session: Session) -> RunsRemoved:
    """Remove runs, their files and their rows, or none of them.

    A run that is alive is refused; `force` is for one that a machine now gone left behind as running.
    Raises StoreError, and UsageError where there is no such run.
    """
    require(session.store)  # a mistyped folder must not become a store
    with Store.open(session.store) as opened:
        rows = _found(opened, options.runs)
        remove.remove_runs(opened, rows, other_hosts=options.force)
        return RunsRemoved(opened.folder, [row.id for row in rows])


def run_path(options: RunsPathOptions, session: Session) -> RunPath:
    """Where the run's folder lies, or one of its files, there or not.

    Raises StoreError, also for a file name that leads out of the folder, and UsageError where there is no such run.
    """
    with Store.open_existing(session.store) as opened:
        row = opened.find_run(options.run)
    return RunPath(row.id, row.path if options.file is None else artifact_path(row.path, options.file))


def _found(store: Store, names: Sequence[str]) -> list[RunRow]:
    rows = (store.find_run(name) for name in names)
    return list({row.id: row for row in rows}.values())


def _status(name: str) -> Status:
    for status in STATUSES:
        if status == name:
            return status
    raise unknown_name("status", name, STATUSES)


def _run_json(run: RunRow) -> dict[str, Any]:
    return {
        "run": run.id,
        "dir": str(run.path),
        "command": run.command,
        "status": run.status,
        "started": run.started,
        "finished": run.finished,
        "seconds": run.seconds,
        "exit_code": run.exit_code,
        "error": run.error,
        "seed": run.seed,
        "device": run.device,
        "dataset": run.dataset,
        "model": run.model,
        "parent": run.parent,
    }


def _without_run(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("run", "id")}


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its JSON columns read, under their names without `_json`. Raises StoreError."""
    return {
        key.removesuffix("_json"): read_column(key, value) if key.endswith("_json") else value
        for key, value in row.items()
    }
