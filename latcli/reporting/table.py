"""A table of typed cells: made once from a document, drawn by every renderer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple

from latcli.reporting.text import base_name, decimals_of, duration, number, number_text, probability, short, size

Value = str | int | float | None
About = Mapping[str, Value]
Format = Literal[
    "text", "name", "run", "file", "number", "short", "percent", "points", "p", "count", "duration", "size", "epsilon"
]

#: What stands where there is no figure.
NONE = "-"
#: Background and ink of a heat map where there is no loss, then from the lowest to the highest: on white, on black.
SHADES = (
    ("#f1f2f3", "#56606a", "#22272b", "#a2acb5"), ("#eef5fb", "#1b1f23", "#1b2a38", "#e4e8eb"),
    ("#d5e6f4", "#1b1f23", "#1f3a53", "#e4e8eb"), ("#b0d1ea", "#1b1f23", "#234b6f", "#eef3f7"),
    ("#82b5dc", "#10151a", "#285c8a", "#ffffff"), ("#2f6fa8", "#ffffff", "#5f9dcd", "#0b1117"),
    ("#20568a", "#ffffff", "#8fc0e8", "#0b1117"), ("#113a66", "#ffffff", "#c2e0f8", "#0b1117"),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One field. A share of 1 is shown in per cent where its column says so.

    spread: stands behind a plus-minus sign. low, high: the ends of a 95 % interval. n: of how many images the value is.
    best: the best of its column, or within chance of the best. style: "good", "bad", "doubtful" or "quiet". shade:
    its colour in a heat map, from 0 to 1. scale: the value is multiplied by it when it is printed.
    """

    value: Value = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    best: bool = False
    style: str = ""
    shade: float | None = None
    scale: float = 1.0

    @property
    def step(self) -> int:
        """Its place in SHADES."""
        return 0 if self.shade is None else 1 + min(len(SHADES) - 2, int(self.shade * (len(SHADES) - 1)))


@dataclass(frozen=True)
class Column:
    """A column: a `key`, a heading and how its values are printed.

    key: where the value stands in a record, `clean.rank` for the rank in its part `clean`.
    group: a heading over several columns. stack: on a terminal, columns of one stack are lines of one column. prefix:
    stands before its values there. notes: further lines of the heading.
    optional: left out where a terminal is too narrow. counts: cells show
    their n. figure: what a CSV file calls its values, empty for what is no figure; about: further facts about them.
    """

    key: str
    heading: str
    format: Format = "text"
    group: str = ""
    stack: str = ""
    prefix: str = ""
    notes: tuple[str, ...] = ()
    optional: bool = False
    counts: bool = False
    figure: str = ""
    about: About = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether it has texts; names and files may be folded."""
        return self.format in ("text", "name", "run", "file")

    @property
    def full_heading(self) -> str:
        """The heading on one line, with its group and its note."""
        name = f"{self.group}: {self.heading}" if self.group else self.heading
        return f"{name} ({', '.join(self.notes)})" if self.notes else name


@dataclass(frozen=True)
class Row:
    """A row. total: it sums up those above it. about: what a CSV file says of its figures."""

    cells: tuple[Cell, ...]
    total: bool = False
    about: About = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A titled table and what must be known to read it; without columns, only text.

    kind: what a CSV file calls its lines; about: what it says of all of them. facts: names and values without heading.
    """

    title: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    kind: str = ""
    about: About = field(default_factory=dict)
    facts: bool = False

    @property
    def stacks(self) -> list[list[int]]:
        """Positions of the columns, those of one stack together."""
        keys = [column.stack or str(place) for place, column in enumerate(self.columns)]
        return [[place for place, key in enumerate(keys) if key == name] for name in dict.fromkeys(keys)]

    def heading(self, places: Sequence[int]) -> tuple[list[str], list[str]]:
        """What stands above the columns of a stack, and their notes."""
        columns = [self.columns[place] for place in places]
        groups, headings = (list(dict.fromkeys(getattr(one, name) for one in columns)) for name in ("group", "heading"))
        if len(columns) > 1:  # one group says what they are; of several each has its line
            groups, headings = (groups, []) if len(groups) == 1 and groups[0] else ([], headings)
        lines = [line for line in (*groups, *headings) if line]
        return lines, list(dict.fromkeys(note for one in columns for note in one.notes))

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over the columns, and how many columns each is over."""
        return [(name, len(list(columns))) for name, columns in groupby(self.columns, key=lambda one: one.group)]

    def footnotes(self, mark: str) -> list[str]:
        """What stands below it: its notes, and what the mark of the best cells means where there are any."""
        best = f"{mark} best of its column, shared where the difference is within chance"
        return [*self.notes, *([best] if any(cell.best for row in self.rows for cell in row.cells) else [])]


class Printed(NamedTuple):
    """A cell as text: its value, with its spread and n, and its interval."""

    text: str
    interval: str = ""


def printed(cell: Cell, column: Column) -> Printed:
    """The cell in its column's format."""
    value, form = cell.value, column.format
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Printed("" if column.is_text else NONE)
    n = f" ({cell.n:,})" if column.counts and cell.n is not None else ""
    if isinstance(value, str) or column.is_text:
        return Printed(_TEXTS.get(form, str)(str(value)) + n)
    if form not in ("number", "percent", "points"):
        spread = "" if cell.spread is None else f" ± {cell.spread * cell.scale:.2g}"
        return Printed(_FORMATS[form](value * cell.scale) + spread + n)
    scale = cell.scale * (1 if form == "number" else 100)
    unit = {"percent": " %", "points": " points"}.get(form, "")
    places = 2 if unit else None if cell.spread is None else decimals_of(value * scale)
    text = f"{value * scale:+.2f}" if form == "points" else number(value * scale, places)
    spread = "" if cell.spread is None else f" ± {number(cell.spread * scale, places)}"
    return Printed(text + spread + unit + n, _interval(cell, scale, unit))


def _interval(cell: Cell, scale: float, unit: str) -> str:
    if cell.low is None or cell.high is None:
        return ""
    low, high = cell.low * scale, cell.high * scale
    decimals = 1 if unit or 10 <= high < 100 else 4 if high < 0.01 else 3 if high < 1 else 2 if high < 10 else 0
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


_TEXTS: dict[str, Callable[[str], str]] = {"run": short, "file": base_name}
_FORMATS: dict[str, Callable[[float], str]] = {
    "short": lambda value: f"{value:.3g}",
    "p": probability,
    "count": lambda value: f"{value:,.0f}",
    "duration": duration,
    "size": size,
    "epsilon": number_text,
}


def text_table(title: str, *lines: str) -> Table:
    """Lines below a heading, which may be empty."""
    return Table(title, notes=lines)


def facts(values: Mapping[str, Value], title: str = "") -> Table:
    """Names and values, those that are known."""
    rows = tuple(Row((Cell(name), Cell(value))) for name, value in values.items() if value not in (None, ""))
    return Table(title, (Column("name", ""), Column("value", "", "name")), rows, facts=True)


def rows_of(
    columns: Sequence[Column], records: Sequence[Mapping[str, Any]], about: Sequence[str] = ()
) -> tuple[Row, ...]:
    """A row for each record, with what stands at the places that the columns are named after.

    about: the fields of a record that a CSV file gives with the row's figures.
    """
    return tuple(
        Row(tuple(_cell(record, column.key) for column in columns), about={name: record[name] for name in about})
        for record in records
    )


def _cell(record: Mapping[str, Any], key: str) -> Cell:
    value: Any = record
    for part in [key] if key in record else key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, Cell) else Cell(value)


def listed(
    title: str,
    records: Sequence[Mapping[str, Any]],
    *columns: Column,
    notes: Sequence[str] = (),
    kind: str = "",
    about: Sequence[str] = (),
) -> Table:
    """A row for each record, as `rows_of` makes them."""
    return Table(title, columns, rows_of(columns, records, about), tuple(notes), kind)
