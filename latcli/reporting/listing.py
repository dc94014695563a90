"""Runs and checks as tables for a terminal, from their JSON documents; must not know store, engine or commands.

Whatever comes from a disk or a database is shown as text: no markup of rich's, no control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latcli.reporting.console import RULED
from latcli.reporting.text import printable

_STYLES = {
    "ok": "green",
    "completed": "green",
    "missing": "yellow",
    "running": "cyan",
    "interrupted": "yellow",
    "crashed": "red",
    "failed": "red",
    "broken": "red",
}

_IMAGE_COLUMNS = ("image", "label", "clean", "adversarial", "altered")


def runs(document: Mapping[str, Any]) -> RenderableType:
    """What `runs list --json` gives: a line a run."""
    columns = ("run", "command", "data set", "regime", "eps", "result", "status", "took", "name")
    rows = [
        (
            run["run"].rpartition("-")[2],
            run["command"],
            (run["dataset"] or "").partition("@")[0],
            run["regime"],
            None if run["epsilon"] is None else f"{run['epsilon']:.3g}",
            run["result"],
            _state(run["status"]),
            duration(run["seconds"]),
            run["name"],
        )
        for run in document["runs"]
    ]
    return _table(columns, rows, folds=("data set", "result", "name")) if rows else Text("no runs")


def run(document: Mapping[str, Any]) -> RenderableType:
    """What `runs show --json` gives: the run itself, its images, numbers and files."""
    environment = document["environment"]
    facts: dict[str, object] = {key: document[key] for key in ("run", "dir", "command")}
    facts |= {"status": _state(document["status"]), "started": document["started"]}
    facts |= {"took": duration(document["seconds"]), "exit code": document["exit_code"]}
    facts |= {key: document[key] for key in ("name", "tags", "error", "seed", "device", "dataset", "model", "parent")}
    facts |= {"resume with": document["resume"]}
    facts |= {"latcli": environment.get("latcli"), "torch": environment.get("torch")}
    facts |= {"command line": " ".join(map(str, document["argv"]))}
    parts: list[RenderableType] = [_facts(facts)]
    if document["config"]:
        parts += [_heading("configuration"), _facts(document["config"])]
    if document["images"]:
        rows = [_image(image) for image in document["images"]]
        parts += [_heading("images"), _table(_IMAGE_COLUMNS, rows, folds=_IMAGE_COLUMNS[:-1])]
    for name in ("cells", "metrics"):
        if document[name]:
            parts += [_heading(name), _numbers(document[name])]
    if document["artifacts"]:
        rows = [(file["name"], file["kind"], _size(file["size"])) for file in document["artifacts"]]
        parts += [_heading("files"), _table(("file", "kind", "size"), rows, folds=("file",))]
    return Group(*parts)


def verification(document: Mapping[str, Any]) -> RenderableType:
    """What `runs verify --json` gives: one line where all is well, else a line a problem."""
    if document["ok"]:
        count = len(document["runs"])
        return Text(
            f"{document['checked']} files of {count} {'run' if count == 1 else 'runs'} are as they were written"
        )
    rows = [(found["run"], found["name"], found["fault"], found["detail"]) for found in document["problems"]]
    rows += [("database", "", "damaged", fault) for fault in document["database"]]
    return _table(("run", "file", "fault", "detail"), rows, folds=("file", "detail"))


def path(document: Mapping[str, Any]) -> str:
    """What `runs path` prints, for use by a shell: as it is."""
    return str(document["path"])


def removal(document: Mapping[str, Any]) -> RenderableType:
    """What `runs rm --json` gives: a line a run that is gone."""
    return Text("\n".join(f"removed {printable(run)}" for run in document["removed"]))


def written(document: Mapping[str, Any]) -> RenderableType:
    """What `report` was written to: a line a file; a line where there was nothing to draw."""
    lines = [f"wrote {printable(file['path'])} ({_size(file['size'])})" for file in document["written"]]
    return Text("\n".join(lines) or "nothing to draw: no run has a matrix, a series or a curve", overflow="fold")


def checks(document: Mapping[str, Any]) -> RenderableType:
    """What `doctor --json` gives: a line a check, and its hint below."""
    rows = [(check["name"], _state(check["state"]), _with_hint(check)) for check in document["checks"]]
    return _table(("what", "state", "detail"), rows, folds=("detail",))


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], folds: Sequence[str]) -> Table:
    """A table that stays inside the width: where it is too narrow, the columns that fold go on in the next line."""
    table = Table(box=RULED, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(Text(column), no_wrap=column not in folds, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _numbers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of the database without the columns that are empty in all of them; the first column names the row."""
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return _table(columns, [[row[name] for name in columns] for row in rows], folds=columns[:1])


def _facts(facts: Mapping[str, object]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            table.add_row(_cell(name), _cell(value))
    return table


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _cell(value: object) -> Text:
    match value:
        case None:
            return Text()
        case Text():
            return value
        case float():
            return Text(f"{value:.4g}")
        case list():
            return Text(", ".join(printable(str(item)) for item in value))
        case _:
            return Text(printable(str(value)))


def _state(state: str) -> Text:
    return Text(printable(state), style=_STYLES.get(state, ""))


def _with_hint(check: Mapping[str, Any]) -> Text:
    text = _cell(check["detail"])
    return text.append(f"\n{printable(check['hint'])}", style="dim") if check["hint"] else text


def _image(image: Mapping[str, Any]) -> tuple[object, ...]:
    clean, adversarial = image["clean"], image["adversarial"]
    altered = image["altered_percent"]
    return (
        PurePath(image["image"]).name,
        image["label"]["name"],
        _guess(clean),
        _guess(adversarial),
        None if altered is None else f"{altered:.1f} %",
    )


def _guess(side: Mapping[str, Any]) -> str:
    confidence = side["confidence"]
    return f"{side['prediction']} ({'?' if confidence is None else f'{confidence:.3g}'}, rank {side['rank']})"


def duration(seconds: float | None) -> str | None:
    """How long a run took, to the second below a minute's tenths; None for None."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
