"""A reproduction for a terminal and as Markdown, from the document of `reproduce --json`; must not know any command."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks
from latcli.reporting.console import WIDTH
from latcli.reporting.listing import duration
from latcli.reporting.markdown import escape, item
from latcli.reporting.markdown import table as markdown_table
from latcli.reporting.paper_tables import paper
from latcli.reporting.sheets import Entry, Sheet, sheets
from latcli.reporting.tables import from_here
from latcli.reporting.text import printable


def shown(document: Mapping[str, Any]) -> RenderableType:
    """What `reproduce --json` gives: the steps that were planned, or what was found and where it lies."""
    return _plan(document) if document["planned"] else _found(document)


def markdown(document: Mapping[str, Any]) -> Iterator[str]:
    """All of a finished reproduction as Markdown: verdicts, tables, plots, and every step with its run and command."""
    yield f"# Reproduction: {escape(document['what'])}, budget {document['budget']}, seed {document['seed']}\n"
    yield from ("\n" + "".join(item(note) for note in document["notes"]),) if document["notes"] else ()
    if document["claims"]:
        yield from markdown_table(_verdicts(document["claims"]))
    for sheet in map(_sheet, document["tables"]):
        yield from markdown_table(sheet)
    for sweep in document["sweeps"]:
        yield f"\n![{escape(sweep['title'])}]({sweep['name']}.png)\n"
    yield from markdown_table(_runs(document["steps"]))
    yield "\n## Commands\n\n```sh\n"
    yield "".join(f"{printable(row['command_line'])}\n" for row in document["steps"])
    yield "```\n"
    if document["report"]:
        yield "\n# What `latcli report --paper` says of the runs that the paper's own figures are made of\n"
        for sheet in sheets(document["report"]):
            yield from markdown_table(sheet)


def _plan(document: Mapping[str, Any]) -> RenderableType:
    parts: list[RenderableType] = []
    for row in document["steps"]:
        told = f"{row['state']}, run {row['run'][-4:]}" if row["run"] else row["state"]
        time = "" if row["state"] == "done" else f", {_about(row['seconds'])}"
        parts.append(_hanging(f"{row['number']:>3}  {row['step']}: {told}{time}", "     "))
        parts.append(Text(_continued(row["command_line"]), "dim", overflow="fold"))
    return Group(*parts, "", Text(_left([row for row in document["steps"] if row["state"] != "done"], len(parts) // 2)))


def _left(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """What there is still to do, of so many steps."""
    if not rows:
        return "all steps are done"
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    least = "at least " if known and len(known) < len(rows) else ""
    return f"{len(rows)} of {count} steps to do, {least}{_about(sum(known) if known else None)}"


def _continued(command_line: str) -> str:
    """A command in lines that a shell takes together."""
    lines = ["    "]
    for word in map(shlex.quote, shlex.split(command_line)):
        if len(lines[-1]) + len(word) > WIDTH - 3 and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("      ")
        lines[-1] += f" {printable(word)}"
    return "\n".join(lines)


def _about(seconds: float | None) -> str:
    return "time not known yet" if seconds is None else f"about {duration(seconds)}"


def _found(document: Mapping[str, Any]) -> RenderableType:
    parts: list[RenderableType] = []
    for sheet in map(_sheet, document["tables"]):
        parts += [Text(printable(sheet.title), "bold"), *_blocks(sheet)]
        parts += [*(_hanging(note, "  ") for note in sheet.notes), ""]
    if document["claims"]:
        parts += [Text("Verdicts, on the means, and for how many seeds each holds", "bold")]
        parts += [_hanging(_line(claim), "    ") for claim in document["claims"]]
        parts += [""]
    if document["report"]:
        parts += paper(_measured(document["report"]["paper"]))
    parts += [Text(from_here(path), overflow="fold") for path in document["files"]]
    return Group(*parts, Text(printable(f"run {document['run']}"), overflow="fold"))


def _measured(compared: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of the paper beside ours, without the verdicts, which stand above with their seeds."""
    figures = [one | {"claims": []} for one in compared["figure2"] if one["matrix"] is not None]
    tables = [one | {"claims": []} for one in compared["tables"] if one["run"] is not None]
    return {"figure2": figures, "tables": tables}


def _line(claim: Mapping[str, Any]) -> str:
    figures = f"paper {claim['paper']}; ours {claim['ours']}"
    return f"  {claim['verdict']} ({_seeds(claim)}): {claim['claim']} ({figures})"


def _seeds(claim: Mapping[str, Any]) -> str:
    return f"{claim['seeds_holding']} of {claim['seeds']}"


def _verdicts(claims: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = tuple(
        (
            *(Entry(claim[name]) for name in ("claim", "of", "paper", "ours", "verdict")),
            Entry(_seeds(claim)),
        )
        for claim in claims
    )
    return Sheet("Claims", ("claim", "of", "paper", "ours", "verdict", "seeds for which it holds"), rows)


def _runs(steps: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = tuple(
        tuple(
            Entry(text or "-")
            for text in (row["step"], row["run"], (row["config_hash"] or "")[:12], duration(row["seconds"]))
        )
        for row in steps
    )
    return Sheet("Runs", ("step", "run", "configuration", "took"), rows)


def _sheet(values: Mapping[str, Any]) -> Sheet:
    rows = tuple(tuple(Entry(**entry) for entry in row) for row in values["rows"])
    return Sheet(values["title"], tuple(values["headings"]), rows, tuple(values["notes"]))


def _blocks(sheet: Sheet) -> list[RenderableType]:
    corner, *others = sheet.headings
    headings = {str(place): heading for place, heading in enumerate(others)}
    rows: dict[str, dict[str, str]] = {}
    for number_, row in enumerate(sheet.rows, start=1):
        label = row[0].text if row[0].text not in rows else f"{row[0].text} [{number_}]"
        rows[label] = {str(place): _text(entry) for place, entry in enumerate(row[1:])}
    return blocks(corner, rows, headings, names=46)


def _text(entry: Entry) -> str:
    return entry.text if entry.spread is None else f"{entry.text} +-{entry.spread}"


def _hanging(line: str, indent: str) -> RenderableType:
    """A line whose continuation is indented."""
    return Text(
        textwrap.fill(printable(line), WIDTH, subsequent_indent=indent, break_on_hyphens=False), overflow="fold"
    )
