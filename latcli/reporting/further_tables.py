"""Transfer and curves of `eval --json` as tables for a terminal; must not know engine or commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks, name, unique_labels

_AS_THEY_ARE = "(no attack)"
#: Columns that a target's name gets at the top of its column.
_TARGET = 16


def transfer(document: Mapping[str, Any]) -> list[RenderableType]:
    """A table for each input: down whose examples, across who was tried on them; nothing where not asked for."""
    labels = _labels(document)
    parts: list[RenderableType] = []
    for given in dict.fromkeys(row["input"] for row in document["transfer"]):
        of_input = [row for row in document["transfer"] if row["input"] == given]
        rows: dict[str, dict[str, str]] = {}
        for row in of_input:
            source = _AS_THEY_ARE if row["source"] is None else labels[row["source"]]
            loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
            rows.setdefault(source, {})[row["target"]] = f"{loss}  \n{100 * row['accuracy']:.2f} %"
        headings = {row["target"]: name(labels[row["target"]], _TARGET) for row in of_input}
        parts.append(Text(f"Transfer of {given} examples, n = {of_input[0]['n']:,}", "bold"))
        parts += blocks("made on", rows, headings)
    return parts


def curves(document: Mapping[str, Any]) -> list[RenderableType]:
    """A table for each input and axis: models down, points across; nothing where not asked for."""
    labels = _labels(document)
    parts: list[RenderableType] = []
    tables = dict.fromkeys((row["axis"], row["input"]) for row in document["curves"])
    for axis, given in sorted(tables, key=lambda table: table[0]):
        chosen = [row for row in document["curves"] if (row["axis"], row["input"]) == (axis, given)]
        rows = {
            labels[row["model"]]: {value_text(p): f"{100 * p['accuracy']:.2f}" for p in row["points"]} for row in chosen
        }
        points = chosen[0]["points"]
        title = f"Accuracy in % against {axis}, {given}, n = {points[0]['n']:,}"
        parts.append(Text(title, "bold"))
        parts += blocks(axis, rows, {value_text(point): value_text(point) for point in points})
    return parts


def value_text(point: Mapping[str, Any]) -> str:
    """Where on its axis a point of a curve stands."""
    return f"{point['value']:.4g}"


def _labels(document: Mapping[str, Any]) -> dict[str, str]:
    return unique_labels((model["id"], model["label"]) for model in document["models"])
