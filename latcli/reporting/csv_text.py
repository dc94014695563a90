"""A report as CSV with one figure a line, from the document of `report --json`; must not know the store.

One header for everything, so that any program reads it as one table: what is not of a kind of line is empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from latcli.reporting.text import printable

COLUMNS = (
    "kind",
    "run",
    "dataset",
    "model",
    "regime",
    "input",
    "epsilon",
    "at",
    "image",
    "label",
    "figure",
    "value",
    "spread",
    "models",
    "n",
    "seed",
)

#: A spreadsheet takes a field that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """The header and the lines; figures in full, shares from 0 to 1, losses as they are, not scaled."""
    yield _line(dict(zip(COLUMNS, COLUMNS, strict=True)))
    for rows in (_matrices, _training, _photos, _curves, _transfer, _reliance, _paper, _left_out):
        for row in rows(document):
            yield _line(row)


def field(value: object) -> str | int | float | None:
    """A value as a field: numbers as they are, text on one line and never a formula."""
    if value is None or isinstance(value, int | float):
        return value
    text = printable(str(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _line(row: Mapping[str, Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([field(row.get(name)) for name in COLUMNS])
    return buffer.getvalue()


def _matrices(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for matrix in document["matrices"]:
        for row in matrix["rows"]:
            for name, cell in row["cells"].items():
                place = {"kind": "matrix", "run": " ".join(matrix["runs"]), "dataset": matrix["dataset"], "input": name}
                place |= {"model": row["label"], "regime": row["regime"], "at": matrix["id"]}
                place |= {"n": cell["n"], "models": cell["models"]}
                place |= {"epsilon": None if name == "natural" else matrix["epsilon"]}
                for figure in ("loss", "accuracy"):
                    yield place | {"figure": figure, "value": cell[figure], "spread": cell[f"{figure}_spread"]}


def _training(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in document["training"]:
        place = {"kind": "training", **{name: row[name] for name in ("run", "dataset", "regime", "epsilon", "seed")}}
        for figure, value in row["final"].items():
            yield place | {"figure": figure, "value": value}


def _photos(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for attack in document["attacks"]:
        place = {"kind": "photo", "run": attack["run"], "model": attack["classifier"], "epsilon": attack["epsilon"]}
        for image in attack["images"]:
            of_image = place | {"image": PurePath(image["image"]).name, "label": image["label"]["name"]}
            yield of_image | {"figure": "altered", "value": image["altered_percent"] / 100}
            for side in ("clean", "adversarial"):
                of_side = of_image | {"input": side}
                yield of_side | {"figure": "confidence", "value": image[side]["confidence"]}
                yield of_side | {"figure": "rank", "value": image[side]["rank"]}
                yield of_side | {"figure": "guess", "value": image[side]["prediction"]}


def _curves(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in document["curves"]:
        place = {"kind": "curve", "run": row["run"], "dataset": row["dataset"], "model": row["label"]}
        for point in row["points"]:
            at = {"input": row["input"], "at": f"{row['axis']}={point['value']:g}", "n": point["n"]}
            yield place | at | {"figure": "accuracy", "value": point["accuracy"]}


def _transfer(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in document["transfer"]:
        place = {"kind": "transfer", "run": row["run"], "dataset": row["dataset"], "model": row["target_label"]}
        place |= {"input": row["input"], "at": f"made on {row['source_label'] or 'none'}", "n": row["n"]}
        for figure in ("loss", "accuracy"):
            yield place | {"figure": figure, "value": row[figure]}


def _reliance(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in document["reliance"]:
        place = {"kind": "reliance", "run": row["run"], "dataset": row["dataset"], "model": row["label"]}
        for group in (row["overall"], *row["by_share"]):
            share = "all photos" if group is row["overall"] else f"background {group['low']:.3f} to {group['high']:.3f}"
            for variant, mean in group["means"].items():
                of_variant = {"input": variant, "at": share, "n": mean["n"]}
                yield place | of_variant | {"figure": "accuracy", "value": mean["accuracy"]}
            gap = group["gap"]
            yield place | {"at": share, "figure": "gap", "value": gap["value"], "spread": gap["standard_error"]}


def _paper(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if document["paper"] is None:
        return
    for figure in document["paper"]["figure2"]:
        for cell in figure["cells"]:
            scale = figure["natural_scale"] if cell["input"] == "natural" else 1
            place = {"kind": "paper", "dataset": figure["dataset"], "regime": cell["regime"], "input": cell["input"]}
            yield place | {"figure": "loss", "value": cell["paper"] / scale}
        for one in figure["accuracies"]:
            place = {"kind": "paper", "dataset": figure["dataset"], "regime": one["regime"], "input": one["input"]}
            yield place | {"figure": "accuracy", "value": one["paper"]}
    for claim in document["paper"]["claims"]:
        yield {"kind": "claim", "dataset": claim["of"], "label": claim["claim"], "figure": "verdict"} | {
            "value": claim["verdict"]
        }


def _left_out(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for one in document["left_out"]:
        yield {"kind": "left out", "run": one["run"], "figure": "why", "value": one["why"]}
    for fault in document["faults"]:
        yield {"kind": "fault", "run": fault["run"], "image": fault["name"], "figure": "why", "value": fault["detail"]}
