"""The terminal: consoles with colour where it is wanted, and tables of any width, in which no figure is cut."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import zip_longest
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from latcli.reporting import documents
from latcli.reporting.table import SHADES, Table, printed
from latcli.reporting.text import printable

BEST = "*"
_STYLES = {"good": "green", "bad": "red", "doubtful": "yellow", "quiet": "dim"}
#: Widths to which the first and the other names are folded where there is no room.
_FIRST, _NAME = 16, 10
#: Between two columns.
_GAP = 2

#: Columns of what is written into a file or a pipe, unless COLUMNS says otherwise.
WIDTH = 80


class PlainConsole(Console):
    """A console without colour; rich draws boxes in ASCII for one that claims to know no other letters."""

    @property
    def encoding(self) -> str:
        """What rich asks before it draws a box; the text itself is written as it is."""
        return "ascii"


def console_for(stream: TextIO) -> Console:
    """A console that draws in colour only on a terminal, and not under NO_COLOR or TERM=dumb."""
    if not stream.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) > 0 else WIDTH
        return PlainConsole(file=stream, force_terminal=False, color_system=None, width=width)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") in {"dumb", "unknown"}:
        return PlainConsole(file=stream, force_terminal=True, color_system=None)
    return Console(file=stream)


def shown(command: str, document: Mapping[str, Any]) -> RenderableType | str | None:
    """A command's document as something that rich can print, as a text to be printed as it is, or None."""
    found = documents.DOCUMENTS[command](document)
    return Drawn(found) if isinstance(found, list) else found


class Drawn:
    """Tables below each other, with a blank line between them, in the width that there is."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tables

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """What rich calls to print this."""
        for place, table in enumerate(self.tables):
            if place:
                yield ""
            if table.title:
                yield Text(_plain(table.title), "bold", overflow="fold")
            for count, block in enumerate(_blocks(table, options.max_width)):
                yield from [""] if count else []
                yield from _drawn(table, block, console)
            if table.columns and table.notes:
                yield ""
            for note in table.footnotes(BEST):
                style = "yellow" if note.startswith("warning") else ""
                yield Text(_plain(note), style, overflow="fold")


class _Stack:
    """Columns that are one on a terminal: the lines of its heading and of each row, and how wide they are."""

    def __init__(self, table: Table, places: Sequence[int]) -> None:
        self.columns = [table.columns[place] for place in places]
        self.is_text = all(column.is_text for column in self.columns)
        columns = [list(_lines(table, place)) for place in places]
        self.rows = [list(cells) for cells in zip(*columns, strict=True)]
        values = max((cell_len(line.plain) for row in self.rows for lines in row for line in lines), default=0)
        lines, notes = table.heading(places)
        folded = [part for line in map(_plain, lines) for part in _wrapped(line, max(values, 6))]
        self.heading = [] if table.facts else [*folded, *map(_plain, notes)]
        self.width = max([values, *map(cell_len, self.heading), 1])
        names = all(column.format in ("name", "file") for column in self.columns)
        self.folds = self.is_text and (self.width > 40 or names)
        self.least = min(self.width, _NAME if places[0] else _FIRST) if self.folds else self.width
        self.optional = all(column.optional for column in self.columns)


def _lines(table: Table, place: int) -> Iterator[list[Text]]:
    """The text of each cell of a column, and its interval below it where the column has any."""
    column, cells = table.columns[place], [row.cells[place] for row in table.rows]
    marked, ranged = any(cell.best for cell in cells), any(cell.low is not None for cell in cells)
    for cell in cells:
        shown = printed(cell, column)
        text = column.prefix * bool(shown.text) + shown.text + (BEST if cell.best else " " if marked else "")
        ink = _STYLES.get(cell.style, "")
        if cell.shade is not None:
            background, ink, *_ = SHADES[cell.step]
            ink = f"{ink} on {background}"
        lines = [Text(_plain(text), f"bold {ink}" if cell.best or (not place and table.facts) else ink)]
        if ranged:
            lines.append(Text(shown.interval + " " * marked, ink or "dim"))
        yield lines if text or not column.stack else []


def _wrapped(text: str, width: int) -> list[str]:
    longest = max((len(word) for word in text.split()), default=1)
    return textwrap.wrap(text, max(width, min(longest, 16))) or [text]


def _blocks(table: Table, width: int) -> Iterator[list[_Stack]]:
    """The columns in as many blocks as the width asks for; each begins with the first column."""
    stacks = [_Stack(table, places) for places in table.stacks]
    optional = [one for one in stacks[1:] if one.optional]
    while optional and _across(one.width for one in stacks) > width:
        stacks.remove(optional.pop())
    first, others = stacks[:1], stacks[1:]
    while first:
        block = list(first)
        while others and (len(block) == 1 or _across(one.least for one in [*block, others[0]]) <= width):
            block.append(others.pop(0))
        yield _fitted(block, width)
        if not others:
            return


def _across(widths: Iterable[int]) -> int:
    """How wide columns are together."""
    found = list(widths)
    return sum(found) + _GAP * (len(found) - 1)


def _fitted(block: list[_Stack], width: int) -> list[_Stack]:
    """The block with its names folded as far as the width asks for, those with the most room to lose first."""
    block[0] = first = copy(block[0])
    while (excess := _across(one.width for one in block) - width) > 0:
        widest = max(block, key=lambda one: one.width - one.least)
        if widest.width == widest.least:
            first.width -= min(excess, first.width - 1) if first.folds else 0
            break
        widest.width -= 1
    return block


def _drawn(table: Table, block: Sequence[_Stack], console: Console) -> Iterator[Text]:
    """The heading, a rule below it, and the rows, with a rule before those that sum up; facts are rows alone.

    Line by line, since rich's own table takes a second for two thousand rows.
    """
    rule = Text("-" * _across(one.width for one in block), no_wrap=True, overflow="ignore")
    if not table.facts:
        headings = [
            [text for line in one.heading for text in _folded(Text(line, "bold"), one, console)] for one in block
        ]
        height = max(map(len, headings))
        yield from _beside(block, [[Text()] * (height - len(lines)) + lines for lines in headings])
        yield rule
    depth = max(len(one.columns) for one in block) if len(block[0].columns) > 1 else 1
    for place, row in enumerate(table.rows):
        if row.total and place and not table.facts:
            yield rule
        for level in range(depth):
            cells = []
            for one in block:
                lines = one.rows[place]
                chosen = lines[level : level + 1] if depth > 1 else lines
                cells.append([text for part in chosen for line in part for text in _folded(line, one, console)])
            if depth == 1 or any(line.plain.strip() for lines in cells for line in lines):
                yield from _beside(block, cells)


def _folded(line: Text, stack: _Stack, console: Console) -> Iterable[Text]:
    if cell_len(line.plain) <= stack.width:
        return [line]
    return line.wrap(console, stack.width, overflow="fold")


def _beside(block: Sequence[_Stack], cells: Sequence[Sequence[Text]]) -> Iterator[Text]:
    """The lines of cells that stand beside each other, texts to the left and figures to the right."""
    for lines in zip_longest(*cells, fillvalue=Text()):
        padded = []
        for one, line in zip(block, lines, strict=True):
            space = " " * (one.width - cell_len(line.plain))
            text = line.plain + space if one.is_text else space + line.plain
            padded.append(Text(text, line.style))
        yield Text(" " * _GAP, no_wrap=True, overflow="ignore").join(padded)


def _plain(text: str) -> str:
    """Text in letters that every terminal has, as far as names allow."""
    return printable(text).replace("±", "+-")
