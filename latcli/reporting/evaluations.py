"""The loss matrix and what is measured beside it as tables, from the documents of evaluations and reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latcli.reporting.table import Cell, Column, Row, Table, Value, rows_of, seeds, text_table
from latcli.reporting.text import counted, number_text
from latcli.results import starts_text

Document = Mapping[str, Any]

#: The variants of a photo by their names in the Backgrounds Challenge.
VARIANTS = {
    "original": "Original",
    "only_fg": "Only-FG",
    "only_bg_b": "Only-BG-B",
    "only_bg_t": "Only-BG-T",
    "mixed_same": "Mixed-Same",
    "mixed_rand": "Mixed-Rand",
}


def evaluation(document: Document) -> list[Table]:
    """The loss matrix, paired comparisons, what was measured beside them, and the run."""
    return [matrix(matrix_of(document)), *further(document), text_table("", f"run {document['run']}")]


def further(document: Document) -> list[Table]:
    """Comparisons, transfer, curves and reliance of one evaluation; nothing of what was not asked for."""
    labels = labels_of(document)
    return [
        *comparisons(document, labels),
        *transfer(document, labels),
        *curves(document, labels),
        *reliance(document, labels),
    ]


def matrix(document: Document) -> Table:
    """A loss matrix of a report's document: models down, inputs across, for each a loss and an accuracy."""
    inputs, known_rows = document["inputs"], document["rows"]
    columns, counts = [Column("model", "model", "name")], {}
    for name in inputs:
        cells = [row["cells"][name] for row in known_rows if name in row["cells"]]
        counts[name] = {cell["n"] for cell in cells if cell.get("n") is not None}
        scale = _scale(document, name)
        n = (f"n = {min(counts[name]):,}",) if len(counts[name]) == 1 else ()
        about = {"input": name, "epsilon": None if name.startswith("natural") else document.get("epsilon")}
        heading = "natural, same images" if name == "natural-attacked" else name.replace("-", " ")
        columns += [
            Column(f"{name} loss", "loss", "number", heading, name, figure="loss", about=about,
                   notes=(*([f"x{scale:,}"] if scale != 1 else []), *n)),
            Column(f"{name} accuracy", "accuracy", "percent", heading, name, figure="accuracy", about=about,
                   notes=n, counts=len(counts[name]) > 1),
        ]  # fmt: skip
    shades = _shades(known_rows)
    rows = [_matrix_row(row, document, shades) for row in known_rows]
    about = {"run": " ".join(document.get("runs") or ()), "dataset": document["dataset"], "at": document.get("id")}
    return Table(
        f"Loss matrix on {document['dataset']}", tuple(columns), tuple(rows), tuple(_matrix_notes(document)),
        kind="matrix", about=about, runs=tuple(document.get("runs") or ()),
    )  # fmt: skip


def _scale(document: Document, name: str) -> int:
    return int(document.get("natural_scale") or 1) if name.startswith("natural") else 1


def _shades(rows: Sequence[Document]) -> Callable[[float | None], float | None]:
    """Where a loss lies between the lowest and the highest of a matrix, by its logarithm, from 0 to 1."""
    losses = [cell["loss"] for row in rows for cell in row["cells"].values()]
    found = [_logarithm(loss) for loss in losses if loss is not None and math.isfinite(loss)]
    low, high = min(found, default=0.0), max(found, default=0.0)

    def shade(loss: float | None) -> float | None:
        if loss is None or not math.isfinite(loss):
            return None
        return (_logarithm(loss) - low) / (high - low) if high > low else 0.0

    return shade


def _logarithm(loss: float) -> float:
    return math.log(max(loss, 1e-6))


def _matrix_row(row: Document, document: Document, shade: Callable[[float | None], float | None]) -> Row:
    cells = [Cell(matrix_label(row))]
    for name in document["inputs"]:
        known = row["cells"].get(name) or {"loss": None, "accuracy": None}
        for kind in ("loss", "accuracy"):
            one = figure(known, kind, _scale(document, name) if kind == "loss" else 1)
            cells.append(replace(one, shade=shade(known["loss"])))
    about = {"model": row["label"], "regime": row.get("regime"), "models": row.get("model_count")}
    runs = " ".join(run for run in row.get("train_runs") or () if run)
    return Row(tuple(cells), about=about, id=runs)


def matrix_label(row: Document) -> str:
    """A matrix's row in words: its label, and of how many seeds it is."""
    count = row.get("model_count") or 1
    return str(row["label"]) + (f", {seeds(count)}" if count > 1 else "")


def _matrix_notes(document: Document) -> list[str]:
    cells = [(row["label"], name, cell) for row in document["rows"] for name, cell in row["cells"].items()]
    scale = document.get("natural_scale") or 1
    lines = ["loss is mean cross entropy" + (f"; on natural inputs times {scale:,}, as in the paper" * (scale != 1))]
    lines.append(protocol_words(document))
    lines.append(f"object: {object_words(document.get('mask_from'), document.get('center'))}")
    if any(cell.get("accuracy_low") is not None for _, _, cell in cells):
        over_seeds = any("models" in (cell.get("interval"), cell.get("loss_interval")) for _, _, cell in cells)
        wider = "; over training seeds, Student's, where that is wider" * over_seeds
        lines.append(f"[ ] 95 % intervals over images: Wilson's for accuracies, by bootstrap for losses{wider}")
    if document.get("strong"):
        made_with = f" of {document['strong_attack']}" if document.get("strong_attack") else ""
        lines.append(f"strong: the strong suite's worst case{made_with}, {document['strong']} budget")
    over = {cell.get("spread_over") for _, _, cell in cells}
    lines += [f"± {words}" for kind, words in _SPREADS.items() if kind in over]
    lines += [f"{label}, {name}: {cell['diverged']} without a loss" for label, name, cell in cells if _diverged(cell)]
    lines += [f"note: {note}" for note in document.get("notes") or ()]
    return lines + [f"warning: {text}" for text in document.get("warnings") or ()]


_SPREADS = {
    "models": "is the sample standard deviation over training seeds",
    "seeds": "of a single model is the sample standard deviation over evaluation seeds",
}


def _diverged(cell: Document) -> bool:
    return bool(cell.get("diverged"))


def protocol_words(document: Document) -> str:
    """How the images of a matrix were attacked."""
    if document.get("epsilon") is None:
        return "no attack"
    parts = [str(document.get("attack") or "attack")]
    parts += [f"{document['steps']} steps"] if document.get("steps") else []
    parts += [starts] if (starts := starts_text(parts[0], document.get("restarts"))) else []
    drawn = ", ".join(map(str, document.get("seeds") or ()))
    return f"{', '.join(parts)}; epsilon {number_text(document['epsilon'])}; evaluation seed {drawn or 'unknown'}"


def object_words(mask_from: str | None, center: float | None) -> str:
    """Where the object was taken to be."""
    known = {
        "center": "a middle of unknown size",
        "otsu": "otsu silhouettes",
        "detector": "what a detector finds",
        "folder": "masks from files",
    }
    if mask_from == "center" and center is not None:
        return f"a middle of {center:g} of the side"
    return known.get(mask_from or "", mask_from or "unknown")


def matrix_of(document: Document) -> dict[str, Any]:
    """An evaluation's cells, or its groups over seeds, as a matrix of a report."""
    settings, grouped = document["settings"], bool(document["groups"])
    labels = unique_labels((cell["model_id"], cell["label"]) for cell in document["cells"])
    rows: dict[str, dict[str, Any]] = {}
    for cell in document["groups"] or document["cells"]:
        label = cell["regime"] if grouped else labels[cell["model_id"]]
        empty = {"label": label, "regime": cell["regime"], "model_count": cell.get("models", 1), "cells": {}}
        rows.setdefault(label, empty)["cells"][cell["input"]] = {**cell, "spread_over": "models" if grouped else None}
    strong = next((cell["attack"] for cell in document["cells"] if cell["input"].endswith("-strong")), None)
    return {
        "dataset": document["dataset"],
        "inputs": list(dict.fromkeys(cell["input"] for cell in document["groups"] or document["cells"])),
        "rows": list(rows.values()),
        "runs": [document["run"]],
        **{name: settings.get(name) for name in ("epsilon", "mask_from", "center", "strong")},
        "strong_attack": strong,
        "attack": document["attack"],
        "seeds": [settings["seed"]],
        "notes": document["notes"],
        "warnings": [
            f"{one['label']}, {one['input']}: {one['text']}" if one["input"] else f"{one['label']}: {one['text']}"
            for one in document["warnings"]
        ],
    }


def unique_labels(models: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A label for each id, from (id, label) pairs; the id itself where two models have the same label."""
    labels: dict[str, str] = {}
    for model, label in models:
        taken = {other_label for other, other_label in labels.items() if other != model}
        labels.setdefault(model, label if label not in taken else model)
    return labels


def labels_of(document: Document) -> dict[str, str]:
    """A label for each model id of an evaluation."""
    return unique_labels((model["id"], model["label"]) for model in document["models"])


def comparisons(document: Document, labels: Mapping[str, str]) -> list[Table]:
    """Pairs of models on the same images: how many only one of them gets right, the difference of losses, p values."""
    columns = (
        Column("input", "input", "name"),
        Column("models", "models a / b", "name"),
        Column("n", "n", "count"),
        Column("only_a", "only a right", "count", figure="only_a"),
        Column("only_b", "only b right", "count", figure="only_b"),
        Column("p_value", "p", "p", figure="p_value"),
        Column("loss_difference", "loss a - b", "number", figure="loss_difference"),
        Column("loss_p_value", "p of loss", "p", figure="loss_p_value"),
    )
    found = []
    for row in document.get("comparisons") or ():
        a, b = (labels.get(row[name], row[name]) for name in ("a", "b"))
        cells = rows_of(columns, [{**row, "models": f"{a} / {b}"}])[0].cells
        found.append(Row(cells, about={"input": row["input"], "model": a, "at": f"against {b}", "n": row["n"]}))
    notes = ("p: McNemar's exact test for accuracies, paired bootstrap for losses; not adjusted for how many they are",)
    title = "Models compared on the same images"
    return [Table(title, columns, tuple(found), notes, "comparison", _place(document))] if found else []


def transfer(document: Document, labels: Mapping[str, str]) -> list[Table]:
    """A table for each input: down whose examples, across who was tried on them."""
    found = []
    for given in dict.fromkeys(row["input"] for row in document.get("transfer") or ()):
        of_input = [row for row in document["transfer"] if row["input"] == given]
        cells = {(row["source"], row["target"]): row for row in of_input}
        columns = [Column("source", "made on", "name")]
        for target in dict.fromkeys(row["target"] for row in of_input):
            about = {"input": given, "model": labels.get(target, target)}
            columns += [
                Column(target, "loss", "number", about["model"], target, figure="loss", about=about),
                Column(target, "accuracy", "percent", about["model"], target, figure="accuracy", about=about),
            ]
        rows = [
            Row(
                (
                    Cell("(no attack)" if source is None else labels.get(source, source)),
                    *(figure(cells.get((source, column.key), {}), column.figure) for column in columns[1:]),
                ),
                about={"at": f"made on {'none' if source is None else labels.get(source, source)}"},
            )
            for source in dict.fromkeys(row["source"] for row in of_input)
        ]
        title = f"Transfer of {given} examples, n = {of_input[0]['n']:,}"
        about = {**_place(document), "n": of_input[0]["n"]}
        found.append(Table(title, tuple(columns), tuple(rows), kind="transfer", about=about))
    return found


def curves(document: Document, labels: Mapping[str, str]) -> list[Table]:
    """A table for each axis and input: models down, points across."""
    found = []
    rows = document.get("curves") or ()
    for axis, given in sorted(dict.fromkeys((row["axis"], row["input"]) for row in rows), key=lambda one: one[0]):
        chosen = [row for row in rows if (row["axis"], row["input"]) == (axis, given)]
        first = chosen[0]["points"]
        columns = [Column("model", axis, "name")] + [
            Column(str(place), _axis_text(point["value"]), "percent", figure="accuracy",
                   about={"at": f"{axis}={point['value']:g}"})
            for place, point in enumerate(first)
        ]  # fmt: skip
        body = tuple(
            Row((Cell(label), *(figure(point, "accuracy") for point in row["points"])), about={"model": label})
            for row in chosen
            for label in [labels.get(row["model"], row["model"])]
        )
        title = f"Accuracy against {axis}, {given} attack, n = {first[0]['n']:,}"
        about = {**_place(document), "input": given}
        found.append(Table(title, tuple(columns), body, kind="curve", about=about))
    return found


def _axis_text(value: float) -> str:
    shown = number_text(value)
    return shown if "/" in shown else f"{value:.4g}"


def reliance(document: Document, labels: Mapping[str, str]) -> list[Table]:
    """A table for each model: accuracy without attack, variants down, all photos and groups of them across."""
    found = []
    for row in document.get("reliance") or ():
        groups = [row["overall"], *row["by_share"]]
        columns = [Column("variant", "photo shown as", "name")]
        for place, group in enumerate(groups):
            percents = f"{100 * group['low']:.0f} to {100 * group['high']:.0f} %"
            at = f"background {group['low']:.3f} to {group['high']:.3f}" if place else "all photos"
            heading = f"background {percents}" if place else "all photos"
            columns.append(Column(str(place), heading, "percent", counts=True, figure="accuracy", about={"at": at}))
        rows = [
            Row((Cell(name), *(figure(group["means"][variant], "accuracy") for group in groups)), False,
                {"input": variant})
            for variant, name in VARIANTS.items()
        ]  # fmt: skip
        gaps = (Cell(group["gap"]["value"], group["gap"]["standard_error"]) for group in groups)
        rows.append(Row((Cell("background gap"), *gaps), total=True, about={"figure": "gap"}))
        label = labels.get(row["model"], row["model"])
        about: dict[str, Value] = {**_place(document), "model": label}
        notes = tuple(_reliance_notes(row))
        title = f"Background reliance of {label}"
        found.append(Table(title, tuple(columns), tuple(rows), notes, "reliance", about))
    return found


def _reliance_notes(row: Document) -> list[str]:
    drawn = counted(row["donor_seeds"], "donor seed")
    lines = [
        "accuracy, and of how many photos",
        f"gap: Mixed-Same - Mixed-Rand ± its standard error; means over {drawn}",
    ]
    if row.get("without_same"):
        lines.append(f"{counted(row['without_same'], 'photo')} alone in a class: no Mixed-Same, no part in the gap")
    if row.get("left_out"):
        left_out = counted(len(row["left_out"]), "photo")
        lines.append(f"{left_out} left out: no object, or no background beside it")
    return lines


def _place(document: Document) -> dict[str, Value]:
    return {"run": document.get("run"), "dataset": document.get("dataset")}


def figure(values: Document, name: str, scale: float = 1.0) -> Cell:
    """A loss or an accuracy of a document with its spread, interval and number of images, as far as they are known."""
    return Cell(
        values.get(name), values.get(f"{name}_spread"), values.get(f"{name}_low"), values.get(f"{name}_high"),
        values.get("n"), bool(values.get(f"best_{name}")), scale=scale,
    )  # fmt: skip
