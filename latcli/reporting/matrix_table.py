"""The loss matrix as a table for a terminal, from the JSON document of `eval`; must not know engine or commands.

Models stand below each other, inputs side by side; a cell has the loss above the accuracy, the best of a column a star.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks, unique_labels
from latcli.reporting.text import printable

_BEST = "*"


@dataclass(frozen=True)
class _Figure:
    """A cell of the document or of its groups. Best is what `sign` times the value is largest of."""

    loss: float | None
    accuracy: float | None
    loss_spread: float | None = None
    accuracy_spread: float | None = None


def matrix(document: Mapping[str, Any]) -> RenderableType:
    """What `eval --json` gives: the matrix in as many blocks as the width asks for, its caption, what is doubtful."""
    rows = _rows(document)
    inputs = list(dict.fromkeys(cell["input"] for cell in document["cells"]))
    best = {name: _best([figures[name] for figures in rows.values()]) for name in inputs}
    texts = {label: {name: _cell(figures[name], best[name]) for name in inputs} for label, figures in rows.items()}
    title = Text(printable(f"Loss matrix on {document['dataset']}"), "bold")
    remarks = Text("\n".join(map(printable, _remarks(document, len(rows)))), overflow="fold")
    return Group(title, *blocks("model", texts, {name: _heading(name) for name in inputs}), remarks)


def _rows(document: Mapping[str, Any]) -> dict[str, dict[str, _Figure]]:
    rows: dict[str, dict[str, _Figure]] = {}
    if document["groups"]:
        for group in document["groups"]:
            label = f"{group['regime']} ({group['models']} seed{'' if group['models'] == 1 else 's'})"
            spreads = (group["loss_spread"], group["accuracy_spread"])
            rows.setdefault(label, {})[group["input"]] = _Figure(group["loss"], group["accuracy"], *spreads)
        return rows
    labels = unique_labels((cell["model_id"], cell["label"]) for cell in document["cells"])
    for cell in document["cells"]:
        rows.setdefault(labels[cell["model_id"]], {})[cell["input"]] = _Figure(cell["loss"], cell["accuracy"])
    return rows


def _heading(name: str) -> str:
    base, dash, strong = name.partition("-")
    return f"{base}, \n{strong} " if dash else f"{name} "


def _best(figures: Sequence[_Figure]) -> _Figure:
    """The lowest loss and the highest accuracy; None where there is nothing to compare."""
    if len(figures) < 2:
        return _Figure(None, None)
    losses = [figure.loss for figure in figures if figure.loss is not None]
    accuracies = [figure.accuracy for figure in figures if figure.accuracy is not None]
    return _Figure(min(losses, default=None), max(accuracies, default=None))


def _cell(figure: _Figure, best: _Figure) -> str:
    loss = _number(figure.loss, figure.loss_spread, 4, "")
    accuracy = _number(_percent(figure.accuracy), _percent(figure.accuracy_spread), 2, " %")
    return "\n".join(
        text + (_BEST if value is not None and value == top else " ")
        for text, value, top in ((loss, figure.loss, best.loss), (accuracy, figure.accuracy, best.accuracy))
    )


def _number(value: float | None, spread: float | None, digits: int, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if spread is None else f" +-{spread:.{digits}f}") + unit


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _remarks(document: Mapping[str, Any], rows: int) -> list[str]:
    settings = document["settings"]
    silhouette = {
        "otsu": "otsu silhouettes",
        "detector": "what a detector finds",
        "folder": "masks from files",
        "center": f"a middle of {settings['center']:g} of the side",
    }
    natural = max(cell["n"] for cell in document["cells"])
    lines = [
        "mean cross entropy above accuracy",
        f"n = {document['n']:,} attacked images, {natural:,} natural ones",
        f"{document['attack']}; epsilon {settings['epsilon']:.4g}; seed {settings['seed']}",
        f"object: {silhouette.get(settings['mask_from'], settings['mask_from'])}",
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
