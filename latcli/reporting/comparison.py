"""Two runs side by side for a terminal, from the document of `report --compare --json`; must not know the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latcli.reporting.console import RULED
from latcli.reporting.text import printable


def comparison(document: Mapping[str, Any]) -> RenderableType:
    """What the two were told differently, and what came of it."""
    a, b = document["runs"]
    parts: list[RenderableType] = []
    for name, run in (("A", a), ("B", b)):
        parts.append(Text(printable(f"{name}: {run['run']}, {run['status']}")))
    equal = f"{document['equal']} other options are equal"
    if document["configuration"]:
        told = [(row["name"], _value(row["a"]), _value(row["b"])) for row in document["configuration"]]
        parts += ["", Text("Told differently", "bold"), _table(("option", "A", "B"), told, numbers=0), Text(equal)]
    else:
        parts += ["", Text("both were told the same")]
    if document["results"]:
        rows = [_result(row) for row in document["results"]]
        parts += ["", Text("Results", "bold"), _table(("figure", "A", "B", "B - A"), rows, numbers=3)]
    else:
        parts += ["", Text("neither has results")]
    return Group(*parts)


def _result(row: Mapping[str, Any]) -> tuple[str, ...]:
    difference = "" if row["difference"] is None else f"{row['difference']:+.4g}"
    return row["name"], _value(row["a"]), _value(row["b"]), difference


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]], *, numbers: int) -> Table:
    """A table whose last `numbers` columns are flush right; long texts go on in the next line."""
    names = list(headings)
    table = Table(box=RULED, show_edge=False, padding=(0, 1, 0, 0))
    for position, name in enumerate(names):
        right = position >= len(names) - numbers
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(Text(printable(text)) for text in row))
    return table


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
