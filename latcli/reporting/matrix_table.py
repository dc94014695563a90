"""The loss matrix as a table for a terminal, from the JSON document of `eval`; must not know engine or commands.

Models stand below each other, inputs side by side; a cell has the loss above the accuracy, the best of a column a star.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks, unique_labels
from latcli.reporting.text import printable

_BEST = "*"


@dataclass(frozen=True)
class Figure:
    """A cell: loss and accuracy (0 to 1), None where not measured; digits: of the loss, behind the point."""

    loss: float | None
    accuracy: float | None
    loss_spread: float | None = None
    accuracy_spread: float | None = None
    best_loss: bool = False
    best_accuracy: bool = False
    digits: int = 4


def matrix(document: Mapping[str, Any]) -> RenderableType:
    """What `eval --json` gives: the matrix in as many blocks as the width asks for, its caption, what is doubtful."""
    rows = _rows(document)
    inputs = list(dict.fromkeys(cell["input"] for cell in document["cells"]))
    marked: dict[str, dict[str, Figure]] = {label: {} for label in rows}
    for name in inputs:
        column = _best_marked({label: figures[name] for label, figures in rows.items()})
        for label, figure in column.items():
            marked[label][name] = figure
    title = Text(printable(f"Loss matrix on {document['dataset']}"), "bold")
    remarks = Text("\n".join(map(printable, _remarks(document, len(rows)))), overflow="fold")
    return Group(title, *matrix_blocks(marked, {name: heading(name) for name in inputs}), remarks)


def matrix_blocks(rows: Mapping[str, Mapping[str, Figure]], headings: Mapping[str, str]) -> list[RenderableType]:
    """The matrix alone; `headings` by input, as `heading` gives them. A model may lack an input."""
    texts = {
        label: {name: _cell(figures.get(name, Figure(None, None))) for name in headings}
        for label, figures in rows.items()
    }
    return blocks("model", texts, headings)


def heading(name: str) -> str:
    """What stands over an input's column."""
    base, dash, strong = name.partition("-")
    return f"{base}, \n{strong} " if dash else f"{name} "


def object_words(mask_from: str | None, center: float | None) -> str:
    """Where the object was taken to be, for a caption."""
    known = {
        "center": "a middle of unknown size",
        "otsu": "otsu silhouettes",
        "detector": "what a detector finds",
        "folder": "masks from files",
    }
    if mask_from == "center" and center is not None:
        return f"a middle of {center:g} of the side"
    return known.get(mask_from or "", mask_from or "unknown")


def _rows(document: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    rows: dict[str, dict[str, Figure]] = {}
    if document["groups"]:
        for group in document["groups"]:
            label = f"{group['regime']} ({seeds(group['models'])})"
            spreads = (group["loss_spread"], group["accuracy_spread"])
            rows.setdefault(label, {})[group["input"]] = Figure(group["loss"], group["accuracy"], *spreads)
        return rows
    labels = unique_labels((cell["model_id"], cell["label"]) for cell in document["cells"])
    for cell in document["cells"]:
        rows.setdefault(labels[cell["model_id"]], {})[cell["input"]] = Figure(cell["loss"], cell["accuracy"])
    return rows


def seeds(count: int) -> str:
    """How many, in words."""
    return f"{count} seed{'' if count == 1 else 's'}"


def _best_marked(column: Mapping[str, Figure]) -> dict[str, Figure]:
    """The column with its lowest loss and its highest accuracy marked, where there is something to compare."""
    losses = [figure.loss for figure in column.values() if figure.loss is not None]
    accuracies = [figure.accuracy for figure in column.values() if figure.accuracy is not None]
    lowest, highest = min(losses, default=None), max(accuracies, default=None)
    return {
        label: replace(
            figure,
            best_loss=len(column) > 1 and figure.loss is not None and figure.loss == lowest,
            best_accuracy=len(column) > 1 and figure.accuracy is not None and figure.accuracy == highest,
        )
        for label, figure in column.items()
    }


def _cell(figure: Figure) -> str:
    loss = number(figure.loss, figure.loss_spread, figure.digits)
    accuracy = number(_percent(figure.accuracy), _percent(figure.accuracy_spread), 2, " %")
    lines = ((loss, figure.best_loss), (accuracy, figure.best_accuracy))
    return "\n".join(text + (_BEST if best else " ") for text, best in lines)


def number(value: float | None, spread: float | None, digits: int, unit: str = "") -> str:
    """A value and, where it has one, its spread, to so many digits behind the point; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if spread is None else f" +-{spread:.{digits}f}") + unit


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _remarks(document: Mapping[str, Any], rows: int) -> list[str]:
    settings = document["settings"]
    natural = max(cell["n"] for cell in document["cells"])
    lines = [
        "mean cross entropy above accuracy",
        f"n = {document['n']:,} attacked images, {natural:,} natural ones",
        f"{document['attack']}; epsilon {settings['epsilon']:.4g}; seed {settings['seed']}",
        f"object: {object_words(settings['mask_from'], settings['center'])}",
    ]
    lines += [f"{_BEST} best of the column"] if rows > 1 else []
    if settings["strong"]:
        made_with = next(cell["attack"] for cell in document["cells"] if cell["input"].endswith("-strong"))
        lines.append(f"strong: worst case of {made_with}, {settings['strong']} budget")
    if document["groups"]:
        lines.append("+- is the sample standard deviation over training runs")
    lines += [f"note: {note}" for note in document["notes"]]
    lines += [f"warning: {_place(warned)}: {warned['text']}" for warned in document["warnings"]]
    return lines


def _place(warned: Mapping[str, Any]) -> str:
    return f"{warned['label']}, {warned['input']}" if warned["input"] else str(warned["label"])
