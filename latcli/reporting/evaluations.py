"""The loss matrix and what is measured beside it as tables, from the documents of evaluations and reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from latcli.reporting.table import Cell, Column, Row, Table, Value, rows_of, text_table
from latcli.reporting.text import counted, number_text
from latcli.results import starts_text, steps_taken

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
    run = text_table("", f"run {document['run']}")
    return [matrix(matrix_of(document)), *comparisons(document), *further(document), run]


def further(document: Document) -> list[Table]:
    """Transfer, curves and reliance of one evaluation, as far as they were measured."""
    return [*transfer(document), *curves(document), *reliance(document)]


def matrix(document: Document) -> Table:
    """A loss matrix of a report's document: models down, inputs across, for each a loss and an accuracy."""
    columns = [Column("model", "model", "name")]
    for name in document["inputs"]:
        counts = {row["cells"][name]["n"] for row in document["rows"] if name in row["cells"]}
        n = (f"n = {min(counts):,}",) if len(counts) == 1 else ()
        scale = _scale(document, name)
        about = {"input": name, "epsilon": None if name.startswith("natural") else document["epsilon"]}
        heading = "natural, same images" if name == "natural-attacked" else name.replace("-", " ")
        columns += [
            Column(f"{name} loss", "loss", "number", heading, name, figure="loss", about=about,
                   notes=(*([f"x{scale:,}"] if scale != 1 else []), *n)),
            Column(f"{name} accuracy", "accuracy", "percent", heading, name, figure="accuracy", about=about,
                   notes=n, counts=len(counts) > 1),
        ]  # fmt: skip
    losses = [cell["loss"] for row in document["rows"] for cell in row["cells"].values()]
    logs = [_log(loss) for loss in losses if loss is not None] or [0.0]
    rows = [_matrix_row(row, document, min(logs), max(logs)) for row in document["rows"]]
    about = {"run": " ".join(document["runs"]), "dataset": document["dataset"], "at": document["id"]}
    title, notes = f"Loss matrix on {document['dataset']}", _matrix_notes(document)
    return Table(title, tuple(columns), tuple(rows), tuple(notes), "matrix", about)


def _scale(document: Document, name: str) -> int:
    return int(document["natural_scale"]) if name.startswith("natural") else 1


def _log(loss: float) -> float:
    return math.log(max(loss, 1e-6))


def _matrix_row(row: Document, document: Document, low: float, high: float) -> Row:
    """A row whose shades go from 0 for the lowest loss of the matrix to 1 for the highest, by their logarithms."""
    count = row["model_count"]
    cells = [Cell(row["label"] + (f", {counted(count, 'seed')}" if count > 1 else ""))]
    for name in document["inputs"]:
        known = row["cells"].get(name, {})
        shade = None if known.get("loss") is None else (_log(known["loss"]) - low) / ((high - low) or 1.0)
        for kind, scale in (("loss", _scale(document, name)), ("accuracy", 1)):
            cells.append(replace(figure(known, kind, scale), shade=shade))
    about = {"model": row["label"], "regime": row["regime"], "models": count, "trained": " ".join(row["train_runs"])}
    return Row(tuple(cells), about=about)


def _matrix_notes(document: Document) -> list[str]:
    cells = [cell for row in document["rows"] for cell in row["cells"].values()]
    scale = document["natural_scale"]
    lines = ["loss is mean cross entropy" + (f"; on natural inputs times {scale:,}, as in the paper" * (scale != 1))]
    lines.append(protocol_words(document))
    lines.append(f"object: {object_words(document['mask_from'], document['center'])}")
    if any(cell.get("accuracy_low") is not None for cell in cells):
        over_seeds = any("models" in (cell.get("interval"), cell.get("loss_interval")) for cell in cells)
        wider = "; over training seeds, Student's, where that is wider" * over_seeds
        lines.append(f"[ ] 95 % intervals over images: Wilson's for accuracies, by bootstrap for losses{wider}")
    if document["strong"]:
        made_with = f" of {document['strong_attack']}" if document.get("strong_attack") else ""
        lines.append(f"strong: the strong suite's worst case{made_with}, {document['strong']} budget")
    over = {cell["spread_over"] for cell in cells}
    lines += [f"± {words}" for kind, words in _SPREADS.items() if kind in over]
    return lines + [f"note: {note}" for note in document["notes"]] + [f"warning: {one}" for one in document["warnings"]]


_SPREADS = {
    "models": "is the sample standard deviation over training seeds",
    "seeds": "of a single model is the sample standard deviation over evaluation seeds",
}


def protocol_words(document: Document) -> str:
    """How the images of a matrix were attacked."""
    if document["epsilon"] is None:
        return "no attack"
    # An evaluation has one caption for its attack, a report's matrix the attack's parts.
    attack, steps = document["attack"], steps_taken(document["attack"], document["steps"])
    parts = [attack] + ([counted(steps, "step")] if steps else [])
    parts += [starts] if (starts := starts_text(attack, document["restarts"])) else []
    parts += [] if document["radius"] is None else [f"{document['norm']} radius {document['radius']:g}"]
    seeds = ", ".join(map(str, document["seeds"]))
    return f"{', '.join(parts)}; epsilon {number_text(document['epsilon'])}; evaluation seed {seeds}"


def object_words(mask_from: str | None, center: float | None) -> str:
    """Where the object was taken to be."""
    known = {
        "center": "the center, of unknown size",
        "otsu": "otsu silhouettes",
        "detector": "what a detector finds",
        "folder": "masks from files",
    }
    if mask_from == "center" and center is not None:
        return f"the center, {center:g} of each side"
    return known.get(mask_from or "", mask_from or "unknown")


def matrix_of(document: Document) -> dict[str, Any]:
    """An evaluation's cells, or its groups over seeds, as a matrix of a report."""
    settings, grouped = document["settings"], bool(document["groups"])
    cells = document["groups"] or document["cells"]
    labels = unique_labels((cell["model_id"], cell["label"]) for cell in document["cells"])
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        label = cell["regime"] if grouped else labels[cell["model_id"]]
        empty = {"label": label, "regime": cell["regime"], "model_count": cell.get("models", 1), "train_runs": []}
        row = rows.setdefault(label, empty | {"cells": {}})
        row["cells"][cell["input"]] = {"spread_over": None, **cell}
    return {
        "id": None,
        "dataset": document["dataset"],
        "inputs": list(dict.fromkeys(cell["input"] for cell in cells)),
        "rows": list(rows.values()),
        "runs": [document["run"]],
        **{name: settings[name] for name in ("epsilon", "mask_from", "center", "strong")},
        "strong_attack": next((one["attack"] for one in document["cells"] if one["input"].endswith("-strong")), None),
        **{"attack": document["attack"], "steps": None, "restarts": None, "seeds": [settings["seed"]]},
        **{"norm": None, "radius": None},  # the caption has them, too
        "natural_scale": 1,
        "notes": document["notes"],
        "warnings": [
            ", ".join(filter(None, (one["label"], one["input"]))) + f": {one['text']}" for one in document["warnings"]
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


def comparisons(document: Document) -> list[Table]:
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
    labels = labels_of(document)
    records = []
    for row in document["comparisons"]:
        a, b = labels[row["a"]], labels[row["b"]]
        records.append({**row, "models": f"{a} / {b}", "model": a, "at": f"against {b}"})
    rows = rows_of(columns, records, about=("input", "model", "at", "n"))
    notes = ("p: McNemar's exact test for accuracies, paired bootstrap for losses; not adjusted for how many they are",)
    title = "Models compared on the same images"
    return [Table(title, columns, rows, notes, "comparison", _place(document))] if rows else []


def transfer(document: Document) -> list[Table]:
    """A table for each input: down whose examples, across who was tried on them."""
    found, labels = [], labels_of(document)
    for given in dict.fromkeys(row["input"] for row in document["transfer"]):
        of_input = [row for row in document["transfer"] if row["input"] == given]
        cells = {(row["source"], row["target"]): row for row in of_input}
        columns = [Column("source", "made on", "name")]
        for target in dict.fromkeys(row["target"] for row in of_input):
            about = {"input": given, "model": labels[target]}
            columns += [
                Column(target, "loss", "number", labels[target], target, figure="loss", about=about),
                Column(target, "accuracy", "percent", labels[target], target, figure="accuracy", about=about),
            ]
        rows = []
        for source in dict.fromkeys(row["source"] for row in of_input):
            name = "(no attack)" if source is None else labels[source]
            figures = [figure(cells.get((source, column.key), {}), column.figure) for column in columns[1:]]
            at = f"made on {'none' if source is None else name}"
            rows.append(Row((Cell(name), *figures), about={"at": at}))
        title = f"Transfer of {given} examples, n = {of_input[0]['n']:,}"
        about = {**_place(document), "n": of_input[0]["n"]}
        found.append(Table(title, tuple(columns), tuple(rows), kind="transfer", about=about))
    return found


def curves(document: Document) -> list[Table]:
    """A table for each axis and input: models down, points across, each column with its point as the key."""
    found, rows, labels = [], document["curves"], labels_of(document)
    regimes = {model["id"]: model["regime"] for model in document["models"]}
    for axis, given in sorted({(row["axis"], row["input"]): None for row in rows}, key=lambda one: one[0]):
        chosen = [row for row in rows if (row["axis"], row["input"]) == (axis, given)]
        columns = [Column("model", axis, "name")]
        for x in (point["value"] for point in chosen[0]["points"]):
            at = {"at": f"{axis}={x:g}"}
            columns.append(Column(str(x), _axis_text(x), "percent", figure="accuracy", about=at))
        body = [
            Row((Cell(label := labels[row["model"]]), *(figure(point, "accuracy") for point in row["points"])),
                about={"model": label, "regime": regimes[row["model"]]})
            for row in chosen
        ]  # fmt: skip
        about = {**_place(document), "input": given, "axis": axis}
        title = f"Accuracy against {axis}, {given} attack, n = {chosen[0]['points'][0]['n']:,}"
        found.append(Table(title, tuple(columns), tuple(body), kind="curve", about=about))
    return found


def _axis_text(value: float) -> str:
    shown = number_text(value)
    return shown if "/" in shown else f"{value:.4g}"


def reliance(document: Document) -> list[Table]:
    """A table for each model: accuracy without attack, variants down, all photos and groups of them across."""
    found, labels = [], labels_of(document)
    for row in document["reliance"]:
        groups = [row["overall"], *row["by_share"]]
        columns = [Column("variant", "photo shown as", "name")]
        for place, group in enumerate(groups):
            heading = at = "all photos"
            if place:
                heading = f"background {100 * group['low']:.0f} to {100 * group['high']:.0f} %"
                at = f"background {group['low']:.3f} to {group['high']:.3f}"
            columns.append(Column(str(place), heading, "percent", counts=True, figure="accuracy", about={"at": at}))
        rows = [
            Row((Cell(name), *(figure(group["means"][variant], "accuracy") for group in groups)),
                about={"input": variant})
            for variant, name in VARIANTS.items()
        ]  # fmt: skip
        gaps = (Cell(group["gap"]["value"], group["gap"]["standard_error"]) for group in groups)
        rows.append(Row((Cell("background gap"), *gaps), total=True, about={"figure": "gap"}))
        label = labels[row["model"]]
        about: dict[str, Value] = {**_place(document), "model": label}
        notes, title = tuple(_reliance_notes(row)), f"Background reliance of {label}"
        found.append(Table(title, tuple(columns), tuple(rows), notes, "reliance", about))
    return found


def _reliance_notes(row: Document) -> list[str]:
    drawn = counted(row["donor_seeds"], "donor seed")
    lines = [
        "accuracy, and of how many photos",
        f"gap: Mixed-Same - Mixed-Rand ± its standard error; means over {drawn}",
    ]
    if row["without_same"]:
        lines.append(f"{counted(row['without_same'], 'photo')} alone in a class: no Mixed-Same, no part in the gap")
    if row["left_out"]:
        left_out = counted(len(row["left_out"]), "photo")
        lines.append(f"{left_out} left out: no object, or no background beside it")
    return lines


def _place(document: Document) -> dict[str, Value]:
    return {"run": document["run"], "dataset": document["dataset"]}


def figure(values: Document, name: str, scale: float = 1.0) -> Cell:
    """A loss or an accuracy of a document with its spread, interval and number of images, as far as they are known."""
    return Cell(
        values.get(name), values.get(f"{name}_spread"), values.get(f"{name}_low"), values.get(f"{name}_high"),
        values.get("n"), bool(values.get(f"best_{name}")), scale=scale,
    )  # fmt: skip
