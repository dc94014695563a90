"""`latcli runs`: what the store holds, checked, shown and removed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from latcli.commands.resume import resume_command
from latcli.errors import LatcliError
from latcli.options import (
    EvalOptions,
    RunsListOptions,
    RunsPathOptions,
    RunsRemoveOptions,
    RunsShowOptions,
    RunsVerifyOptions,
)
from latcli.results import (
    MOST_RESULTS,
    AttackedPhoto,
    Cell,
    DocumentError,
    LastValue,
    Problem,
    RemovedRuns,
    RunDetails,
    RunList,
    RunPath,
    RunSummary,
    StoredFile,
    Verification,
    from_columns,
)
from latcli.session import Session
from latcli.store.files import Fault, artifact_path, fault_of
from latcli.store.schema import damaged
from latcli.store.store import RunRow, Store, no_runs, require

T = TypeVar("T")

_SHOWN = 5
#: A file is in place some milliseconds before its row: how often, and how long apart, a run at work is looked at again.
_LOOKS, _LOOK_SECONDS = 20, 0.1
#: Files of a run in its document: of more, the first.
_MOST_FILES = 4 * MOST_RESULTS


def list_runs(options: RunsListOptions, session: Session) -> RunList:
    """Runs of the store, the newest first. Raises StoreError."""
    with Store.open_existing(session.store) as store:
        rows = store.runs(
            command=options.command,
            status=options.status,
            dataset=options.dataset,
            tag=options.tag,
            limit=options.limit,
        )
        if not rows and not store.runs(limit=1):
            raise no_runs(store.folder)
        results = _results(store, rows)
        return RunList(store.folder, tuple(RunSummary(**_summary(row, results)) for row in rows))


def show_run(options: RunsShowOptions, session: Session) -> RunDetails:
    """Everything about one run; metrics at their last step.

    Raises StoreError, and UsageError where there is no such run or more than one.
    """
    with Store.open_existing(session.store) as store:
        row = store.find_run(options.run)
        is_resumable = row.command in ("train", "eval", "attack") and row.status not in ("completed", "running")
        return RunDetails(
            **_summary(row, _results(store, [row])),
            argv=tuple(row.argv),
            config=row.config,
            environment=store.environment(row.environment),
            images=tuple(
                _read(AttackedPhoto, store, one).in_folder(row.path)
                for one in store.rows_of(row.id, "attacks", MOST_RESULTS)
            ),
            cells=tuple(_read(Cell, store, one) for one in store.rows_of(row.id, "cells")),
            metrics=tuple(_read(LastValue, store, one) for one in store.rows_of(row.id, "latest_metrics")),
            artifacts=tuple(
                _read(StoredFile, store, one | {"path": row.path / one["name"]})
                for one in store.rows_of(row.id, "artifacts", _MOST_FILES)
            ),
            totals={"images": store.count(row.id, "attacks"), "artifacts": store.count(row.id, "artifacts")},
            resume=resume_command(row, session) if is_resumable and row.path.is_dir() else None,
        )


def verify_runs(options: RunsVerifyOptions, session: Session) -> Verification:
    """Check the files of the runs named, or of all, and the database itself.

    A fault is a result, not an error. Raises StoreError, and UsageError where there is no such run.
    """
    with Store.open_existing(session.store) as store:
        rows = _found(store, options.runs) if options.runs else store.runs()
        found = verify(store, rows)
        if found.ok and not rows:
            raise no_runs(store.folder)
        return found


def verify(store: Store, runs: Sequence[RunRow]) -> Verification:
    """Check the files of these runs, and the database itself; nothing is repaired. Raises StoreError."""
    problems: list[Problem] = []
    checked = 0
    for run in runs:
        if not run.path.is_dir():
            problems.append(Problem(run.id, ".", "missing", "the run's folder is gone"))
        for row in store.rows_of(run.id, "artifacts"):
            checked += 1
            if (fault := _lasting_fault(store, run, row["name"])) is not None:
                problems.append(Problem(run.id, row["name"], *fault))
    faults = store.faults()
    ids = tuple(run.id for run in runs)
    return Verification(store.folder, not problems and not faults, ids, checked, tuple(problems), tuple(faults))


def _lasting_fault(store: Store, run: RunRow, name: str) -> Fault | None:
    """What is wrong with a file; of a run at work, which may be replacing it at this moment, what stays wrong."""
    fault = None
    for look in range(_LOOKS if run.status == "running" else 1):
        time.sleep(_LOOK_SECONDS if look else 0.0)
        rows = store.query("SELECT * FROM artifacts WHERE run = :run AND name = :name", {"run": run.id, "name": name})
        fault = fault_of(run.path, name, rows[0]["size"], rows[0]["sha256"]) if rows else None
        if fault is None:
            break
    return fault


def remove_runs(options: RunsRemoveOptions, session: Session) -> RemovedRuns:
    """Remove runs, their files and their rows, or none of them.

    Raises StoreError for a run at work, UsageError where there is no such run, and LatcliError where other runs depend
    on them and nobody agrees.
    """
    require(session.store)  # a mistyped folder must not become a store
    with Store.open(session.store) as store:
        rows = _found(store, options.runs)
        others = store.dependents(row.id for row in rows)
        if others and not options.force:
            _ask(others, session)
        store.remove_runs(rows, other_hosts=options.force)
        return RemovedRuns(store.folder, tuple(row.id for row in rows))


def run_path(options: RunsPathOptions, session: Session) -> RunPath:
    """Where the run's folder lies, or one of its files, there or not.

    Raises StoreError, also for a file name that leads out of the folder, and UsageError where there is no such run.
    """
    with Store.open_existing(session.store) as store:
        row = store.find_run(options.run)
    return RunPath(row.id, row.path if options.file is None else artifact_path(row.path, options.file))


def _found(store: Store, names: Sequence[str]) -> list[RunRow]:
    return list({row.id: row for row in map(store.find_run, names)}.values())


def _ask(others: Sequence[str], session: Session) -> None:
    """Name the runs that depend on those to be removed, and go on if the user agrees."""
    shown = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")
    depend = f"{len(others)} {'run depends' if len(others) == 1 else 'runs depend'} on what would be removed: {shown}"
    if not (sys.stdin.isatty() and session.stderr_is_terminal):
        raise LatcliError(depend, "remove these, too, or keep them and add --force")
    print(f"{depend}\nRemove anyway? [y/N] ", end="", file=session.stderr, flush=True)
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        raise LatcliError("nothing was removed", "answer y to remove, or add --force")


def _summary(row: RunRow, results: dict[str, str]) -> dict[str, Any]:
    """The fields of a RunSummary."""
    other = {
        "run": row.id,
        "dir": row.path,
        "regime": _one_of(row.config.get("regime", row.config.get("regions") or row.config.get("region"))),
        "epsilon": _one_of(row.config.get("epsilon")),
        "result": results.get(row.id),
    }
    return other | {field.name: getattr(row, field.name) for field in fields(RunSummary) if field.name not in other}


def _one_of(value: Any) -> Any:
    """An option that may have several values as a list has it: the one, or None where there are several."""
    if isinstance(value, list):
        return value[0] if len(value) == 1 else None
    return value


def _results(store: Store, rows: Iterable[RunRow]) -> dict[str, str]:
    """What came of each run in a few words: photos fooled, test accuracy, size of the loss matrix, number of parts."""
    found = store.query(_RESULTS, {"runs": json.dumps([row.id for row in rows])})
    return {row["run"]: row["result"] for row in found}  # of a run that has several, the last


_RESULTS = """
    WITH asked AS (SELECT value AS run FROM json_each(:runs))
    SELECT parent AS run, count(*) || iif(count(*) = 1, ' run', ' runs') AS result
    FROM runs WHERE parent IN asked GROUP BY parent
    UNION ALL SELECT run, iif(count(DISTINCT image) = count(*), 'fooled ' || sum(fooled) || ' of ' || sum(was_right),
        'fooled in ' || sum(fooled) || ' of ' || sum(was_right) || ' attacks')
    FROM attacks WHERE run IN asked AND fooled IS NOT NULL GROUP BY run
    UNION ALL SELECT run, format('%.1f %% natural', 100 * value)
    FROM latest_metrics WHERE run IN asked AND name = 'test_accuracy' AND value IS NOT NULL
    UNION ALL SELECT run, count(DISTINCT model_id) || iif(count(DISTINCT model_id) = 1, ' model, ', ' models, ')
        || count(DISTINCT input) || ' inputs'
    FROM cells WHERE run IN asked GROUP BY run
"""


def _read(kind: type[T], store: Store, row: dict[str, Any]) -> T:
    """A row as the dataclass that it was made of. Raises StoreError where it is damaged."""
    try:
        return from_columns(kind, row)
    except DocumentError as error:
        raise damaged(store.path, str(error)) from error


def require_models(options: EvalOptions, session: Session) -> None:
    """Raise StoreError where the newest models are to be evaluated and the store has no run at all.

    Of several processes only rank 0 need see the store.
    """
    follows = any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
    if not options.models and not follows:
        require(session.store)
