"""What `latcli report` can be told, and which runs that means; must not gather results or write files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latcli.engine.registry import unknown_name
from latcli.errors import UsageError
from latcli.options import ReportOptions
from latcli.store.store import STATUSES, RunRow, Store

#: In place of a file name: standard output.
STDOUT = Path("-")


def texts(options: ReportOptions) -> dict[str, Path]:
    """The formats that are one text each, and where they go."""
    given = {"html": options.html, "markdown": options.markdown, "csv": options.csv, "latex": options.latex}
    return {name: path for name, path in given.items() if path is not None}


def check(options: ReportOptions, *, json: bool) -> None:
    """Raise UsageError for options that do not go together."""
    printed = [f"--{name} -" for name, path in texts(options).items() if path == STDOUT] + ["--json"] * json
    if len(printed) > 1:
        raise UsageError(f"{' and '.join(printed)} would both be on stdout", "write one of them into a file")
    if options.png == STDOUT:
        raise UsageError("--png makes several files, which stdout cannot hold", "name a folder: --png DIR")
    if options.open and options.html in (None, STDOUT):
        raise UsageError("--open needs a page to open", "write one: --html report.html --open")
    files: dict[Path, str] = {}
    for name, path in texts(options).items():
        if path != STDOUT and files.setdefault(path.absolute(), name) != name:
            raise UsageError(
                f"--{files[path.absolute()]} and --{name} name the same file", "give each a file of its own"
            )
    if options.compare:
        _check_comparison(options)


def _check_comparison(options: ReportOptions) -> None:
    if len(options.runs) != 2:
        raise UsageError(
            f"--compare needs two runs, not {len(options.runs)}", "give the ends of their ids: --compare 7f3a 81c2"
        )
    others = {
        "--since": options.since,
        "--dataset": options.dataset,
        "--status": options.status,
        "--best": options.best,
        "--paper": options.paper,
        "--png": options.png,
        **{f"--{name}": path for name, path in texts(options).items()},
    }
    mixed = [name for name, value in others.items() if value]
    if mixed:
        raise UsageError(f"--compare does not go with {mixed[0]}", "leave one of them out; --json does go with it")


@dataclass(frozen=True)
class Selection:
    """The runs that a report is of, the newest first, and how they were chosen.

    trained: every training run of the store by its id; an evaluation may be of models whose runs were not asked for.
    """

    rows: list[RunRow]
    document: dict[str, Any]
    trained: dict[str, RunRow]


def select(store: Store, options: ReportOptions) -> Selection:
    """The runs that were asked for, all where nobody asked. Raises StoreError, and UsageError where there is none."""
    since = None if options.since is None else moment(options.since)
    if options.status is not None and options.status not in STATUSES:
        raise unknown_name("status", options.status, STATUSES)
    everything = store.runs()
    rows = _named(store, options.runs) if options.runs else everything
    if not rows:
        raise UsageError(
            f"there are no runs in {store.folder} yet",
            "run latcli attack PHOTO, or latcli train and then latcli eval; --store DIR names another store",
        )
    names = {row["id"]: row["name"] for row in store.rows("datasets")}
    known = {dataset_name(row, names) for row in rows}
    if options.dataset is not None and options.dataset not in known:
        raise unknown_name("data set among the runs", options.dataset, sorted(name for name in known if name))
    chosen = [
        row
        for row in rows
        if (since is None or _started(row) >= since)
        and options.dataset in (None, dataset_name(row, names))
        and options.status in (None, row.status)
    ]
    if not chosen:
        raise UsageError(f"none of the {len(rows)} runs is as asked for", "leave out --since, --dataset or --status")
    document = {
        "runs": [row.id for row in rows] if options.runs else [],
        "since": None if since is None else since.isoformat().replace("+00:00", "Z"),
        "dataset": options.dataset,
        "status": options.status,
        "best": options.best,
    }
    return Selection(chosen, document, {row.id: row for row in everything if row.command == "train"})


def dataset_name(row: RunRow, names: Mapping[str, str]) -> str | None:
    """The name of a run's data set, without what tells its contents apart; `names` are those of the data sets' ids."""
    return None if row.dataset is None else names.get(row.dataset, row.dataset)


def moment(text: str) -> datetime:
    """A date, or a date and a time of day, UTC unless it says otherwise. Raises UsageError."""
    try:
        value = datetime.fromisoformat(text)
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: in UTC it would be before the year 1, or after 9999
        raise UsageError(f"'{text}' is no date", "a date is 2026-11-22, or 2026-11-22T18:30 (UTC)") from None


def _started(row: RunRow) -> datetime:
    return moment(row.started)


def _named(store: Store, names: Iterable[str]) -> list[RunRow]:
    found = {row.id: row for row in (store.find_run(name) for name in names)}
    return sorted(found.values(), key=lambda row: row.started, reverse=True)
