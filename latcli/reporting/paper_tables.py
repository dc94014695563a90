"""The paper's figures beside ours for a terminal, from the report's document; must not know where they are from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks
from latcli.reporting.console import WIDTH
from latcli.reporting.matrix_table import number
from latcli.reporting.text import printable


def paper(document: Mapping[str, Any]) -> list[RenderableType]:
    """Figure 2 of each data set and the photo tables: theirs, ours, the difference, and a verdict on each claim."""
    parts: list[RenderableType] = []
    for figure in document["figure2"]:
        parts += _figure(figure)
    for tables in document["tables"]:
        parts += _photos(tables)
    return parts


def _figure(figure: Mapping[str, Any]) -> list[RenderableType]:
    title = Text(printable(f"The paper beside ours: {figure['source']}"), "bold")
    if figure["matrix"] is None:
        hint = f"train and evaluate: latcli train --dataset {figure['dataset']}, then latcli eval"
        return [title, Text(f"not measured; {hint}", overflow="fold"), ""]
    inputs = list(dict.fromkeys(cell["input"] for cell in figure["cells"]))
    headings = {given: given for given in inputs}
    headings["natural"] = f"natural\nloss x{figure['natural_scale']}"
    rows: dict[str, dict[str, str]] = {}
    for cell in figure["cells"]:
        for name, text in _lines_of(cell).items():
            rows.setdefault(f"{cell['regime']}, {name}", {})[cell["input"]] = text
    return [title, *blocks("model, loss", rows, headings), *_accuracies(figure), *_claims(figure)]


def _lines_of(cell: Mapping[str, Any]) -> dict[str, str]:
    difference = "-" if cell["difference"] is None else f"{cell['difference']:+.2f}"
    return {
        "paper": f"{cell['paper']:.2f}",
        "ours": number(cell["ours"], cell["ours_spread"], 2),
        "difference": difference,
    }


def _accuracies(figure: Mapping[str, Any]) -> list[RenderableType]:
    lines = []
    for one in figure["accuracies"]:
        ours = "not measured" if one["ours"] is None else f"{100 * one['ours']:.2f} % ({100 * one['difference']:+.2f})"
        place = f"{one['regime']} model, {one['input']} inputs"
        lines.append(f"accuracy of the {place}: paper {100 * one['paper']:.2f} %, ours {ours}")
    return [Text("\n".join(map(printable, lines)), overflow="fold"), ""] if lines else []


def _photos(tables: Mapping[str, Any]) -> list[RenderableType]:
    title = Text(printable(f"The paper beside ours: {tables['source']}, photos"), "bold")
    if tables["run"] is None:
        return [title, Text("not measured; attack photos: latcli attack PHOTOS --labels labels.csv"), ""]
    rows = {
        one["figure"]: {
            "paper": f"{one['paper']:.3g}",
            "ours": f"{one['ours']:.3g}",
            "difference": f"{one['difference']:+.3g}",
        }
        for one in tables["figures"]
    }
    headings = {"paper": "paper", "ours": "ours", "difference": "difference"}
    parts: list[RenderableType] = [title]
    parts += blocks("mean over photos", rows, headings, names=46)
    return [*parts, *_claims(tables)]


def _claims(part: Mapping[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for claim in part["claims"]:
        line = f"{claim['verdict']}: {claim['claim']} (paper {claim['paper']}; ours {claim['ours']})"
        parts.append(_hanging(line))
    if part["protocol"]:
        parts += ["", Text("How ours was made:"), *(_hanging(line) for line in part["protocol"])]
    return [*parts, ""]


def _hanging(line: str) -> RenderableType:
    """A line whose continuation is indented."""
    return Text(textwrap.fill(printable(line), WIDTH, initial_indent="  ", subsequent_indent="    "))
