"""A table of models whose columns are too many for the width, as several that fit; must not know what is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from latcli.reporting.console import RULED, WIDTH
from latcli.reporting.text import printable

#: Columns that a model's name gets.
_NAME = 24


def blocks(
    corner: str, rows: Mapping[str, Mapping[str, str]], headings: Mapping[str, str], names: int = _NAME
) -> list[RenderableType]:
    """Tables below each other, a blank line after each; `rows` are cells by label and by a key of `headings`.

    A heading and a cell may have several lines, which are flush right. A label gets `names` columns at most.
    """
    texts = [*headings.values(), *(cell for cells in rows.values() for cell in cells.values())]
    widest = max(cell_len(line) for text in texts for line in text.split("\n"))
    labels = {label: name(label, names) for label in rows}
    taken = max(cell_len(text) for text in (corner, *labels.values()))
    fitting = max(1, (WIDTH - taken - 1) // (widest + 2))
    columns = list(headings)
    parts: list[RenderableType] = []
    for first in range(0, len(columns), fitting):
        shown = {column: headings[column] for column in columns[first : first + fitting]}
        parts += [_block(corner, [(labels[label], cells) for label, cells in rows.items()], shown, widest), ""]
    return parts


def unique_labels(models: Iterable[tuple[str, str]]) -> dict[str, str]:
    """One label for each id, from (id, label) pairs, even where two models have the same, as two files of one name."""
    labels: dict[str, str] = {}
    for model, label in models:
        taken = {other_label for other, other_label in labels.items() if other != model}
        labels.setdefault(model, label if label not in taken else model)
    return labels


def name(label: str, width: int = _NAME) -> str:
    """A name cut to a column's width; letters of some languages take two columns each."""
    shown = printable(label)
    return shown if cell_len(shown) <= width else f"{set_cell_size(shown, width - 3)}..."


def _block(
    corner: str, rows: Sequence[tuple[str, Mapping[str, str]]], headings: Mapping[str, str], widest: int
) -> Table:
    table = Table(box=RULED, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(corner), no_wrap=True)
    for heading in headings.values():
        table.add_column(_flush_right(heading, widest), no_wrap=True, min_width=widest)
    for label, cells in rows:
        table.add_row(Text(label), *(_flush_right(cells[column], widest) for column in headings))
    return table


def _flush_right(text: str, width: int) -> Text:
    """Lines padded on the left by hand: rich would strip the blank that stands where others have a star."""
    return Text("\n".join(" " * (width - cell_len(line)) + line for line in text.split("\n")))
