"""Documents of commands, as `--json` gives them, as tables: one function for each kind of document."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latcli.reporting.table import NONE, Cell, Column, Format, Row, Table, Value, facts, rows_of, seeds, text_table
from latcli.reporting.text import (
    base_name,
    counted,
    duration,
    from_here,
    number_text,
    percent,
    plain,
    printable,
    probability,
    short,
    size,
)

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
#: What a report on a terminal shows at most: photos of an attack, matrices, training runs, and so on.
PHOTOS, MATRICES, TRAINED, EVALUATIONS, NAMED = 20, 4, 8, 1, 8


def tables(command: str, document: Document) -> list[Table] | str | None:
    """What a command puts on a terminal: tables, a text that is printed as it is, or nothing."""
    return DOCUMENTS[command](document)


# attacks


def attack(document: Document) -> list[Table]:
    """The attacked photos, or what a dry run would attack; what failed; and where the pictures are."""
    planned, images = document.get("planned") or (), document.get("images") or ()
    if planned:
        found = [_plan(planned)]
    elif images:
        regions = _regions(document.get("regions") or ())
        found = [*regions, photos(document, PHOTOS if regions else None)]
    else:
        found = [text_table("", "no photo was attacked")]
    lines = [*_failures(document), *(f"warning: {text}" for text in document.get("warnings") or ())]
    if document["run"] is not None:
        files = [from_here(path) for image in images[:1] for path in image["files"].values()]
        lines += [f"run {document['run']}", *(files if len(images) == 1 else _folder(document))]
    return [*found, *([text_table("", *lines)] if lines else [])]


def mask(document: Document) -> list[Table]:
    """The object of each photo: who found it, how surely, and where its mask is."""
    columns = (
        Column("photo", "photo", folds=True, stack="photo"),
        Column("label", "class", folds=True, stack="photo"),
        Column("detector", "object found by", folds=True, stack="detector"),
        Column("localized_by", "", folds=True, stack="detector"),
        Column("detector_confidence", "score", "p"),
        Column("object", "object", "percent"),
        Column("evidence_inside", "evidence inside", "percent"),
        Column("evidence_lift", "lift", "number", optional=True),
    )
    records = [
        {**one, "photo": base_name(one["image"]), "label": one["label"]["name"], "object": one["object_percent"] / 100}
        for one in document["images"]
    ]
    lines = [*_failures(document), *([f"run {document['run']}"] if document.get("run") else [])]
    lines += [f"masks in {from_here(document['out'])}"] if document["images"] else ["no object was found"]
    tables = [Table("Objects", columns, rows_of(columns, records), tuple(_image_notes(document["images"])))]
    return [*(tables if records else []), text_table("", *lines)]


def _failures(document: Document) -> list[str]:
    return [f"{'skipped' if one['skipped'] else 'failed'}: {one['error']}" for one in document["failures"]]


def _regions(summaries: Sequence[Document]) -> list[Table]:
    """The photos summed up, a line for each region and epsilon, where there are several."""
    if len(summaries) < 2:
        return []
    columns = [
        Column("region", "altered", folds=True),
        Column("epsilon", "epsilon", "epsilon"),
        Column("n", "photos", "count"),
        Column("fooled", "fooled"),
        Column("before", "p(right class) before", "p"),
        Column("after", "p(right class) after", "p"),
        Column("altered", "pixels altered", "percent"),
    ]
    if any(one.get("smallest_epsilon") is not None for one in summaries):
        columns.append(Column("smallest", "median smallest epsilon", "epsilon"))
    records = []
    for one in summaries:
        known = one.get("summary") or {}
        record = {"region": one["region"], "epsilon": one["epsilon"], "smallest": one.get("smallest_epsilon")}
        if known.get("clean"):
            record |= {"fooled": f"{known['fooled']} of {known['right_before']}", "n": known["n"]}
            record |= {"before": known["clean"]["confidence"], "after": known["adversarial"]["confidence"]}
            record["altered"] = known["altered_percent"] / 100
        records.append(record)
    return [Table("All photos by region and epsilon", tuple(columns), rows_of(columns, records))]


def photos(document: Document, most: int | None = None) -> Table:
    """Each photo before and after the attack: the guess, p(guess), and p and rank of the right class.

    Of more than `most` photos, only the first are shown; the last row and the notes are of all.
    """
    images = document["images"]
    columns = _photo_columns(images)
    shown = [_photo(image, columns) for image in images[:most]]
    summary = document.get("summary") or {}
    if len(images) > 1 and summary.get("clean"):
        shown.append(_photo_total(summary, columns))
    notes = _photo_notes(document, images, summary)
    if most is not None and len(images) > most:
        notes.append(f"the first {most} of {len(images):,} photos; the last row and the counts are of all")
    about = {"run": document["run"], "model": document.get("classifier"), "epsilon": document.get("epsilon")}
    return Table(
        f"{counted(len(images), 'photo')} against {document.get('classifier') or 'a classifier'}",
        columns, tuple(shown), tuple(notes), kind="photo", about=about, id=f"attack-{document['run']}",
        runs=(document["run"],) if document["run"] else (),
    )  # fmt: skip


def changed_words(document: Document) -> str:
    """What an attack may change, and by how much."""
    region = "image" if document.get("detector") == "none" else document.get("region") or "background"
    words = f"{region} altered"
    return words if document.get("epsilon") is None else f"{words} by at most {number_text(document['epsilon'])}"


def p_guess(side: Document) -> float | None:
    """The probability of the top guess, where it is known."""
    top = side.get("top") or [{}]
    known: float | None = side.get("p_prediction", top[0].get("p", top[0].get("confidence")))
    if known is None and side["rank"] == 1:
        known = side["confidence"]
    return known


def _photo_columns(images: Sequence[Document]) -> tuple[Column, ...]:
    columns = [
        Column("photo", "photo", folds=True, stack="photo"),
        Column("label", "right class", folds=True, stack="photo"),
    ]
    targeted = any(image.get("target") is not None for image in images)
    for side, group, prefix in (("clean", "before", ""), ("adversarial", "after", "-> ")):
        about = {"input": side}
        columns += [
            Column(f"{side}_guess", "guess", group=group, stack="guess", prefix=prefix, folds=True,
                   figure="guess", about=about),
            Column(f"{side}_p_guess", "p(guess)", "p", group, "p(guess)", figure="p_prediction", about=about),
            Column(f"{side}_p", "p(right class)", "p", group, "p(right)", figure="confidence", about=about),
            Column(f"{side}_rank", "rank", "count", group, "rank", figure="rank", about=about),
        ]  # fmt: skip
        if targeted and side == "adversarial":
            columns += [
                Column("reached", "target", stack="target"),
                Column("p_target", "p(target)", "p", stack="target", figure="p_target", about=about),
            ]
    if len({image.get("region") for image in images}) > 1:
        columns.append(Column("region", "region"))
    if len({image.get("epsilon") for image in images}) > 1:
        columns.append(Column("epsilon", "epsilon", "epsilon"))
    columns.append(Column("altered", "altered", "percent", figure="altered"))
    if any(image.get("smallest_epsilon") is not None for image in images):
        columns.append(Column("smallest", "smallest epsilon", "epsilon", figure="smallest_epsilon"))
    if any(image.get("evidence_inside") is not None for image in images):
        columns.append(
            Column("evidence", "evidence inside", "percent", optional=True, figure="evidence_inside")
        )  # fmt: skip
    return tuple(columns)


def _photo(image: Document, columns: tuple[Column, ...]) -> Row:
    name, label = base_name(image["image"]), image["label"]["name"] or NONE
    values: dict[str, Value | Cell] = {"photo": name, "label": label + (" *" if _is_assumed(image) else "")}
    for side in ("clean", "adversarial"):
        known = image[side]
        fell = "bad" if side == "adversarial" and is_fooled(image) else "doubtful" if known["rank"] != 1 else "good"
        values[f"{side}_guess"] = Cell(known["prediction"] or NONE, style=fell)
        values[f"{side}_p_guess"] = p_guess(known)
        values[f"{side}_p"] = Cell(known["confidence"], style="bad" if fell == "bad" else "")
        values[f"{side}_rank"] = known["rank"]
    values["altered"] = None if image["altered_percent"] is None else image["altered_percent"] / 100
    values |= {"smallest": image.get("smallest_epsilon"), "evidence": image.get("evidence_inside")}
    values |= {"region": image.get("region"), "epsilon": image.get("epsilon")}
    if image.get("target") is not None:
        reached = bool(image.get("reached"))
        values |= {"reached": Cell("reached" if reached else "not reached", style="bad" if reached else "")}
        values |= {"p_target": image.get("p_target")}
    (row,) = rows_of(columns, [values])
    of_photo = {"epsilon": image["epsilon"]} if image.get("epsilon") is not None else {}
    return Row(row.cells, about={"image": name, "label": label, "at": image.get("region"), **of_photo})


def is_fooled(image: Document) -> bool:
    """Whether the photo was right before the attack and is wrong after it."""
    before, after = image["clean"]["rank"], image["adversarial"]["rank"]
    return before == 1 and after is not None and after > 1


def _photo_total(summary: Document, columns: tuple[Column, ...]) -> Row:
    n = summary["n"]
    values: dict[str, Value | Cell] = {"photo": f"{n:,} photos", "altered": summary["altered_percent"] / 100}
    for side in ("clean", "adversarial"):
        values |= {f"{side}_guess": f"{summary[side]['right']} of {n} right", f"{side}_p": summary[side]["confidence"]}
    (row,) = rows_of(columns, [{column.key: values.get(column.key, "") for column in columns}])
    return Row(row.cells, total=True)


def _photo_notes(document: Document, images: Sequence[Document], summary: Document) -> list[str]:
    done = [changed_words(document)] + ([f"object from {document['detector']}"] if document.get("detector") else [])
    done += [f"{document['steps']} steps"] if document.get("steps") else []
    done += [f"norm {document['norm']}"] if document.get("norm") else []
    notes = [", ".join(done), success_words(images)]
    if len(images) > 1 and summary.get("clean"):
        notes += _rank_words(document, images, summary)
    if any(map(_is_assumed, images)):
        notes.append("* no label was given: the clean prediction was taken for the right class")
    inside = max((image["linf_inside"] or 0 for image in images), default=0)
    notes.append(f"change where none is allowed: {inside:g}; predictions are of the saved files, in fp32")
    return notes + _image_notes(images)


def _image_notes(images: Sequence[Document]) -> list[str]:
    return [f"{base_name(image['image'])}: {note}" for image in images for note in image.get("notes") or ()]


def success_words(images: Sequence[Document]) -> str:
    """How many photos were fooled of those that were right before; with targets, how many reached them."""
    known = [image for image in images if image["adversarial"]["rank"] is not None]
    right = sum(image["clean"]["rank"] == 1 for image in known)
    words = f"fooled {sum(map(is_fooled, known))} of {right} that were right"
    words += f", {len(known) - right} wrong before" if right < len(known) else ""
    aimed = [image for image in images if image.get("target") is not None]
    reached = sum(bool(image.get("reached")) for image in aimed)
    return f"{words}; target reached {reached} of {len(aimed)}" if aimed else words


def _rank_words(document: Document, images: Sequence[Document], summary: Document) -> list[str]:
    classes = document.get("classes") or math.inf
    clean, adversarial = summary["clean"], summary["adversarial"]
    n = len(images)
    parts = [
        f"in the top {last}: {clean[f'top{last}']} of {n} before, {adversarial[f'top{last}']} after"
        for last in (5, 10)
        if classes > last
    ]
    words = [f"right class {'; '.join(parts)}"] if parts else []
    if clean.get("median_confidence") is not None:
        medians = [probability(side["median_confidence"]) for side in (clean, adversarial)]
        words.append(f"median p(right class): {medians[0]} before, {medians[1]} after")
    return words


def _is_assumed(image: Document) -> bool:
    return bool(image["label"].get("source") == "prediction")


def _folder(document: Document) -> list[str]:
    return [f"pictures in {from_here(document['dir'])}"] if document.get("images") else []


def _plan(planned: Sequence[Document]) -> Table:
    columns = (
        Column("photo", "photo", folds=True),
        Column("size", "size"),
        Column("label", "class", folds=True),
        Column("how", "object from", folds=True),
        Column("share", "may change", "percent"),
        Column("seconds", "time", "duration"),
    )
    records: list[dict[str, Value | Cell]] = [
        {
            "photo": base_name(one["image"]),
            "size": f"{one['width']}x{one['height']}",
            "label": one["label"]["name"],
            "how": one.get("localized_by", one.get("how")),
            "share": one["background_percent"] / 100,
            "seconds": one["seconds"],
        }
        for one in planned
    ]
    rows = rows_of(columns, records)
    if len(planned) > 1:
        total = dict.fromkeys(records[0], "") | {"photo": f"{len(planned):,} photos"}
        (row,) = rows_of(columns, [total | {"seconds": sum(one["seconds"] for one in planned)}])
        rows += (Row(row.cells, total=True),)
    return Table("Nothing was attacked; this is what would be", columns, rows)


# training


def train(document: Document) -> list[Table]:
    """Loss and accuracy on the test images, what to know of them, where the model is and what to do with it."""
    columns = (
        Column("images", "test images", folds=True),
        Column("n", "n", "count"),
        Column("loss", "loss", "number"),
        Column("accuracy", "accuracy", "percent"),
    )
    scores = (("natural", document["final"]), (document["attack"], document["adversarial"]))
    records: list[dict[str, Value | Cell]] = [
        {"images": name, "n": score["n"], "loss": figure(score, "loss"), "accuracy": figure(score, "accuracy")}
        for name, score in scores
        if score is not None
    ]
    title = f"{document['regime']} training on {document['dataset']}, {document['steps']:,} steps"
    speed = f"{document['images_per_second']:,.0f} images/s" + (
        f", gradients in {document['form']}" if document.get("form") else ""
    )
    lines = [*document["notes"], f"{duration(document['seconds'])}, {speed}", f"run {document['run']}"]
    return [
        Table(title, columns, rows_of(columns, records)),
        text_table("", *lines, from_here(document["checkpoint"])),
        *_following(document),
    ]


def training(rows: Sequence[Document], best: Sequence[Document] = (), most: int | None = None) -> Table:
    """Training runs with what they ended with; of more than `most` the first."""
    columns = (
        Column("run", "run"),
        Column("regime", "regime", folds=True),
        Column("dataset", "data set", folds=True),
        Column("seed", "seed"),
        Column("loss", "loss", "number", "natural", figure="loss", optional=True),
        Column("accuracy", "accuracy", "percent", "natural", figure="accuracy"),
        Column("adversarial_loss", "loss", "number", "own attack", figure="adversarial_loss", optional=True),
        Column("adversarial_accuracy", "accuracy", "percent", "own attack", figure="adversarial_accuracy"),
    )
    found = []
    for row in rows[:most]:
        final = row.get("final") or {}
        values = {name: row.get(name) for name in ("regime", "dataset")} | {"run": short(row["run"])}
        values |= {"seed": None if row.get("seed") is None else str(row["seed"])}
        values |= {column.key: figure(final, column.key) for column in columns if column.figure}
        about = {name: row.get(name) for name in ("run", "dataset", "regime", "epsilon", "seed")}
        found.append(Row(rows_of(columns, [values])[0].cells, about=about, id=row["run"]))
    notes = [_best_words(one) for one in best]
    notes += _more(len(rows), most, "training run", "training runs", "--best")
    return Table("Training runs, on test images", columns, tuple(found), tuple(notes), kind="training")


def _best_words(one: Document) -> str:
    value = f"{percent(one['value'])} {one['figure'].replace('_', ' ')}"
    return f"best of {one['of']} {one['regime']} on {one['dataset']}: {short(one['run'])}, {value}"


def figure(values: Document, name: str, scale: float = 1.0) -> Cell:
    """A loss or an accuracy of a document with its spread, interval and number of images, as far as they are known."""
    return Cell(
        values.get(name), values.get(f"{name}_spread"), values.get(f"{name}_low"), values.get(f"{name}_high"),
        values.get("n"), bool(values.get(f"best_{name}")), scale=scale,
    )  # fmt: skip


# evaluations


def evaluation(document: Document) -> list[Table]:
    """The loss matrix, paired comparisons, what was measured beside them, and the run."""
    return [matrix(_matrix_of(document)), *further(document), text_table("", f"run {document['run']}")]


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
    columns, counts = [Column("model", "model", folds=True)], {}
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
        kind="matrix", about=about, id=document.get("id", "matrix"), runs=tuple(document.get("runs") or ()),
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
        lines.append("[ ] 95 % intervals over images: Wilson's for accuracies, by bootstrap for losses")
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
    parts += [counted(document["restarts"], "random start")] if document.get("restarts") else []
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


def _matrix_of(document: Document) -> dict[str, Any]:
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
        Column("input", "input", folds=True),
        Column("models", "models a / b", folds=True),
        Column("n", "n", "count"),
        Column("only_a", "only a right", "count", "accuracy", figure="only_a"),
        Column("only_b", "only b right", "count", "accuracy", figure="only_b"),
        Column("p_value", "p", "p", "accuracy", figure="p_value"),
        Column("loss_difference", "a - b", "number", "loss", figure="loss_difference"),
        Column("loss_p_value", "p", "p", "loss", figure="loss_p_value"),
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
        columns = [Column("source", "made on", folds=True)]
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
        columns = [Column("model", axis, folds=True)] + [
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
        columns = [Column("variant", "photo shown as", folds=True)]
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


# reports


def report(document: Document, *, cut: bool = False) -> list[Table]:
    """All tables of a report: paper, matrices, training, photos, what was measured beside them, what is left out.

    cut: as for a terminal, only the newest of each kind, and how to get at the others.
    """
    found = paper(document["paper"]) if document["paper"] is not None else []
    matrices = document["matrices"]
    found += [matrix(one) for one in (matrices[:MATRICES] if cut else matrices)]
    found += _more_table(cut, len(matrices), MATRICES, "loss matrix", "loss matrices", "--dataset, --since")
    if document["training"]:
        found.append(training(document["training"], document["best"], TRAINED if cut else None))
    found += _attacks(document, cut=cut)
    measured = [(one, further_of(document, one)) for one in document["evaluations"]]
    measured = [(one, parts) for one, parts in measured if further(parts)]
    for one, parts in measured[:EVALUATIONS] if cut else measured:
        place = f"{one['dataset']}, run {short(one['run'])}"
        found += [replace(table, title=f"{table.title} ({place})") for table in further(parts)]
    found += _more_table(cut, len(measured), EVALUATIONS, "evaluation", "evaluations", "run ids")
    if not found:
        ended = any(run["status"] == "completed" for run in document["runs"])
        none = "these runs have no figures" if ended else "no figures yet: none of these runs is completed"
        found.append(text_table("", none))
    found += _not_shown(document, NAMED if cut else None)
    return [*found, text_table("", "try: latcli report --html report.html")] if cut else found


def further_of(document: Document, one: Document) -> dict[str, Any]:
    """What a report has of one evaluation, as `eval --json` has it."""
    names = ("transfer", "curves", "reliance", "comparisons")
    parts = {name: [row for row in document.get(name) or () if row["run"] == one["run"]] for name in names}
    return {"run": one["run"], "dataset": one["dataset"], "models": one["models"], **parts}


def _attacks(document: Document, *, cut: bool) -> list[Table]:
    shown = document["attacks"]
    found = []
    for one in shown:
        table = photos(one, PHOTOS if cut else None)
        title = f"{table.title}, run {short(one['run'])}"
        found.append(replace(table, title=title, notes=(*table.notes, *_folder(one))))
    total = sum(run["command"] == "attack" and run["status"] == "completed" for run in document["runs"])
    return found + _more_table(cut and bool(shown), total, len(shown), "attack run", "attack runs", "run ids")


def _not_shown(document: Document, most: int | None) -> list[Table]:
    left_out = [({"run": one["run"]}, (one["run"], one["why"])) for one in document["left_out"]]
    faults = [
        ({"run": one["run"], "image": one["name"]}, (one["run"], f"{one['name'] or 'folder'}: {one['detail']}"))
        for one in document["faults"]
    ]
    columns = (Column("run", "run", folds=True), Column("why", "why", folds=True, figure="why"))
    kinds = (("Left out", "left out", left_out), ("Not as it was written, and not shown", "fault", faults))
    return [
        Table(title, columns, tuple(Row(tuple(map(Cell, cells)), about=about) for about, cells in rows[:most]),
              tuple(_more(len(rows), most, "run", "runs", "latcli report --json")), kind)
        for title, kind, rows in kinds
        if rows
    ]  # fmt: skip


def _more(count: int, most: int | None, one: str, several: str, how: str) -> list[str]:
    cut = 0 if most is None else count - most
    return [f"and {cut:,} more {one if cut == 1 else several}: choose with {how}"] if cut > 0 else []


def _more_table(cut: bool, count: int, most: int, one: str, several: str, how: str) -> list[Table]:
    return [text_table("", *lines) for lines in [_more(count, most, one, several, how)] if cut and lines]


def paper(document: Document) -> list[Table]:
    """The paper's Figure 2 and photo tables beside ours, each with the verdicts on its claims."""
    found = []
    for one in document["figure2"]:
        title = f"The paper beside ours: {one['source']}"
        if one["matrix"] is None:
            hint = f"train and evaluate: latcli train --dataset {one['dataset']}, then latcli eval"
            found.append(text_table(title, f"not measured; {hint}"))
        else:
            found.append(_figure_2(one, title))
            found += claims(one["claims"], one["source"], one["dataset"])
    for one in document["tables"]:
        title = f"The paper beside ours: {one['source']}, photos"
        if one["run"] is None:
            found.append(
                text_table(title, "not measured; attack photos: latcli attack PHOTOS --labels labels.csv")
            )  # fmt: skip
        else:
            found.append(_photo_figures(one, title))
            found += claims(one["claims"], one["source"], "photos")
    return found


def _figure_2(one: Document, title: str) -> Table:
    columns = [Column("place", "model, inputs", folds=True)]
    forms: tuple[tuple[str, Format, Format], ...] = (("loss", "number", "number"), ("accuracy", "percent", "points"))
    for kind, form, difference in forms:
        columns += [
            Column(f"{kind} paper", "paper", form, kind, figure=kind),
            Column(f"{kind} ours", "ours", form, kind),
            Column(f"{kind} difference", "difference", difference, kind, optional=kind == "accuracy"),
        ]
    accuracies = {(row["regime"], row["input"]): row for row in one["accuracies"]}
    losses = {(row["regime"], row["input"]): row for row in one["cells"]}
    rows = []
    for place in dict.fromkeys([*losses, *accuracies]):
        regime, given = place
        scale = one["natural_scale"] if given == "natural" else 1
        loss, accuracy = losses.get(place, {}), accuracies.get(place, {})

        def scaled(name: str, spread: str = "", loss: Document = loss, scale: int = scale) -> Cell:
            value, beside = loss.get(name), loss.get(spread)
            return Cell(None if value is None else value / scale, None if beside is None else beside / scale,
                        scale=scale)  # fmt: skip

        cells = [Cell(f"{regime}, {given}"), scaled("paper"), scaled("ours", "ours_spread"), scaled("difference")]
        cells += [Cell(accuracy.get(name)) for name in ("paper", "ours", "difference")]
        rows.append(Row(tuple(cells), about={"regime": regime, "input": given}))
    scaled_words = f"losses on natural inputs times {one['natural_scale']:,}"
    notes = (scaled_words, *one["protocol"])
    return Table(title, tuple(columns), tuple(rows), notes, "paper", {"dataset": one["dataset"]})


def _photo_figures(one: Document, title: str) -> Table:
    columns = (
        Column("figure", "mean over photos", folds=True),
        Column("paper", "paper", "short"),
        Column("ours", "ours", "short"),
        Column("difference", "difference", "short"),
    )
    used = one.get("classifier") or {}
    other = [f"classifier: the paper's {used['paper']}, ours {used['ours']}"] if used.get("ours") else []
    notes = (*other, *one["protocol"])
    return Table(title, columns, rows_of(columns, one["figures"]), notes)


def claims(found: Sequence[Document], title: str, dataset: str) -> list[Table]:
    """The paper's claims with a verdict on each; of several seeds, for how many each holds."""
    counted_seeds = any("seeds_holding" in one for one in found)
    columns = [Column("verdict", "verdict", figure="verdict")]
    columns += [Column("seeds", "seeds")] if counted_seeds else []
    columns += [Column(name, name, folds=True) for name in ("claim", "paper", "ours")]
    rows = []
    for one in found:
        style = {"holds": "good", "fails": "bad"}.get(one["verdict"], "quiet")
        values = {name: plain(one.get(name)) or NONE for name in ("claim", "paper", "ours")}
        known: dict[str, Value | Cell] = {**values, "verdict": Cell(one["verdict"], style=style)}
        if counted_seeds:
            known["seeds"] = f"{one['seeds_holding']} of {one['seeds']}"
        cells = rows_of(columns, [known])[0].cells
        rows.append(Row(cells, about={"label": one["claim"], "dataset": one.get("of", dataset)}))
    return [Table(f"Claims of {title}", tuple(columns), tuple(rows), kind="claim")] if rows else []


def comparison(document: Document) -> list[Table]:
    """Two runs side by side: options that differ, and results."""
    a, b = document["runs"]
    lines = [f"{name}: {run['run']}, {run['status']}" for name, run in (("A", a), ("B", b))]
    differing = [Column("name", "option", folds=True), Column("a", "A", folds=True), Column("b", "B", folds=True)]
    results = (
        Column("name", "figure", folds=True),
        *(Column(name, heading, "short") for name, heading in (("a", "A"), ("b", "B"), ("difference", "B - A"))),
    )
    found = [text_table("", *lines)]
    equal = f"{document['equal']} other options are equal"
    if document["configuration"]:
        values = [{name: plain(value) or NONE for name, value in row.items()} for row in document["configuration"]]
        found.append(Table("Options that differ", tuple(differing), rows_of(differing, values), (equal,)))
    else:
        found.append(text_table("", "both were started with the same options"))
    if document["results"]:
        found.append(Table("Results", results, rows_of(results, document["results"])))
    else:
        found.append(text_table("", "neither has results"))
    return found


def shown_report(document: Document) -> list[Table] | None:
    """What `report` puts on a terminal: a comparison, the files that were written, or the report itself."""
    if "configuration" in document:
        return comparison(document)
    if "written" in document:
        lines = [f"wrote {one['path']} ({size(one['size'])})" for one in document["written"]]
        none = "nothing to draw: no run has a matrix, a series or a curve"
        return None if document["printed"] else [text_table("", *(lines or [none]))]
    return report(document, cut=True)


# reproductions and the demo


def reproduction(document: Document) -> list[Table]:
    """The steps that were planned, or what was found and where it lies."""
    if document["planned"]:
        return _planned_steps(document)
    found = [_given_table(one) for one in document["tables"]]
    found += claims(document["claims"], "the paper", "")
    if document["report"]:
        compared = document["report"]["paper"] or {"figure2": [], "tables": []}
        figures = [{**one, "claims": []} for one in compared["figure2"] if one["matrix"] is not None]
        photo_tables = [{**one, "claims": []} for one in compared["tables"] if one["run"] is not None]
        found += paper({"figure2": figures, "tables": photo_tables})
    return [*found, text_table("", *map(from_here, document["files"]), f"run {document['run']}")]


def reproduction_file(document: Document) -> list[Table]:
    """All tables of a finished reproduction, for a file: verdicts, figures, and every step with its run."""
    found = claims(document["claims"], "the paper", "") + [_given_table(one) for one in document["tables"]]
    columns = (
        Column("step", "step", folds=True),
        Column("run", "run"),
        Column("configuration", "configuration"),
        Column("seconds", "took", "duration"),
    )
    records = [{**row, "configuration": (row.get("config_hash") or "")[:12]} for row in document["steps"]]
    return [*found, Table("Runs", columns, rows_of(columns, records))]


def _planned_steps(document: Document) -> list[Table]:
    steps = document["steps"]
    columns = (
        Column("number", "", "count"),
        Column("step", "step", folds=True),
        Column("state", "state", folds=True),
        Column("seconds", "about", "duration"),
    )
    records = [
        {**row, "state": f"{row['state']}, run {short(row['run'])}" if row["run"] else row["state"]}
        | ({"seconds": None} if row["state"] == "done" else {})
        for row in steps
    ]
    waiting = [row for row in steps if row["state"] != "done"]
    known = [row["seconds"] for row in waiting if row.get("seconds") is not None]
    time = f", {'at least ' if len(known) < len(waiting) else ''}about {duration(sum(known))}" if known else ""
    left = f"{len(waiting)} of {counted(len(steps), 'step')} to do{time}" if waiting else "all steps are done"
    commands = [line for row in steps for line in continued(row["command_line"])]
    return [Table("Steps", columns, rows_of(columns, records), (left,)), text_table("Commands", *commands)]


def continued(command_line: str, width: int = 78) -> list[str]:
    """A command in lines that a shell takes together."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command_line)):
        if lines[-1].strip() and len(lines[-1]) + len(word) > width - 2:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {printable(word)}" if lines[-1] else printable(word)
    return lines


def _given_table(values: Document) -> Table:
    """A table of texts as a reproduction has them."""
    rows = values["rows"]

    def is_figure(place: int) -> bool:
        return any(row[place]["text"][:1].isdigit() for row in rows)

    columns = tuple(
        Column(str(place), heading, "number" if place and is_figure(place) else "text", folds=not place)
        for place, heading in enumerate(values["headings"])
    )
    body = tuple(Row(tuple(_given_cell(one) for one in row)) for row in rows)
    return Table(values["title"], columns, body, tuple(values["notes"]))


def _given_cell(one: Document) -> Cell:
    text = one["text"] if one["spread"] is None else f"{one['text']} ± {one['spread']}"
    return Cell(text, best=one["best"])


def demo(document: Document) -> list[Table]:
    """The attack and its pictures, the matrix, the page, and what to try next."""
    pictures = [from_here(image["files"]["figure"]) for image in document["attack"]["images"]]
    return [
        *attack(document["attack"]),
        text_table("", *pictures),
        matrix(_matrix_of(document["evaluation"])),
        text_table("", "all of it, with the pictures, on one page:", from_here(document["page"])),
        text_table("Try next", *document["next"]),
    ]


# runs and checks


_STATES = {
    "ok": "good",
    "completed": "good",
    "missing": "doubtful",
    "interrupted": "doubtful",
    "crashed": "bad",
    "failed": "bad",
    "broken": "bad",
}


def runs(document: Document) -> list[Table]:
    """A line a run: what it was, what came of it, and how it ended."""
    columns = (
        Column("run", "run"),
        Column("command", "command"),
        Column("dataset", "data set", folds=True),
        Column("regime", "regime", folds=True),
        Column("epsilon", "epsilon"),
        Column("result", "result", folds=True),
        Column("status", "status"),
        Column("took", "took", optional=True),
        Column("name", "name", folds=True),
        Column("tags", "tags", folds=True),
    )
    records = [
        {**run, "run": short(run["run"]), "status": _state(run["status"]), "tags": plain(run.get("tags"))}
        | {"dataset": _without_hash(plain(run["dataset"])), "epsilon": plain(run.get("epsilon"))}
        | {"took": None if run["seconds"] is None else duration(run["seconds"])}
        for run in document["runs"]
    ]
    known = tuple(one for one in columns if any(record.get(one.key) not in (None, "") for record in records))
    return [Table("", known, rows_of(known, records)) if records else text_table("", "no runs")]


def _without_hash(name: str) -> str:
    """A data set or a model as a list names it: `mnist-5k@6dbef627` is `mnist-5k`."""
    return re.sub(r"@[0-9a-f]{8}$", "", name)


def run(document: Document) -> list[Table]:
    """One run: itself, its configuration, photos, matrix, numbers and files, and what can be done with it."""
    environment = document["environment"]
    known: dict[str, Value] = {key: document[key] for key in ("run", "dir", "command", "status", "started")}
    known["took"] = None if document["seconds"] is None else duration(document["seconds"])
    known["exit code"] = None if document["exit_code"] is None else str(document["exit_code"])
    names = ("error", "name", "tags", "note", "seed", "device", "dataset", "model", "result", "parent")
    known |= {key: plain(document.get(key)) for key in names}
    known |= {key: environment.get(key) for key in ("latcli", "torch")}
    known["command line"] = command_line(document)
    found = [facts(known)]
    if document["config"]:
        found.append(facts({name: plain(value) for name, value in document["config"].items()}, "Configuration"))
    if document["images"]:
        attacked = {"classifier": document["model"], **document["config"], **document}
        found.append(photos({**attacked, "epsilon": document["images"][0].get("epsilon")}))
    found += [_cells(document["cells"])] if document["cells"] else []
    if document["metrics"]:
        columns = (Column("name", "metric", folds=True), Column("step", "step", "count"),
                   Column("value", "value", "short"))  # fmt: skip
        found.append(Table("Metrics", columns, rows_of(columns, document["metrics"])))
    if document["artifacts"]:
        columns = (Column("name", "file", folds=True), Column("kind", "kind", folds=True),
                   Column("size", "size", "size"))  # fmt: skip
        found.append(Table("Files", columns, rows_of(columns, document["artifacts"])))
    return [*found, *_following(document)]


def command_line(run: Document) -> str:
    """The command that repeats a run, as a shell takes it; empty where it is not known."""
    argv = run.get("argv") or ()
    words = ["latcli", *map(str, argv[1:])] if argv and not isinstance(argv, str) else []
    return run.get("command_line") or " ".join(shlex.quote(printable(word)) for word in words)


def _cells(cells: Sequence[Document]) -> Table:
    columns = (
        Column("model", "model", folds=True),
        Column("input", "input", folds=True),
        Column("n", "n", "count"),
        Column("loss", "loss", "number"),
        Column("accuracy", "accuracy", "percent"),
        Column("epsilon", "epsilon", "epsilon"),
        Column("attack", "attack", folds=True, optional=True),
        Column("steps", "steps", "count", optional=True),
        Column("restarts", "starts", "count", optional=True),
        Column("seconds", "took", "duration", optional=True),
    )
    records = [{**cell, "model": cell.get("label") or cell.get("model_id") or cell["model"]} for cell in cells]
    return Table("Cells", columns, rows_of(columns, records))


def _following(document: Document) -> list[Table]:
    """Commands that one may want next, where the document names some."""
    resume, following = document.get("resume"), document.get("next_commands") or document.get("next") or ()
    return ([text_table("Go on with", str(resume))] if resume else []) + (
        [text_table("Try next", *following)] if following else []
    )


def verification(document: Document) -> list[Table]:
    """One line where all is well, else a line a problem."""
    if document["ok"]:
        checked = f"{counted(document['checked'], 'file')} of {counted(len(document['runs']), 'run')}"
        return [text_table("", f"{checked} {'is' if document['checked'] == 1 else 'are'} as written")]
    columns = tuple(Column(name, name, folds=name != "fault") for name in ("run", "file", "fault", "detail"))
    records = [{**one, "file": one["name"]} for one in document["problems"]]
    records += [{"run": "database", "fault": "damaged", "detail": text} for text in document["database"]]
    return [Table("", columns, rows_of(columns, records))]


def removal(document: Document) -> list[Table]:
    """A line for each run that is gone."""
    return [text_table("", *(f"removed {one}" for one in document["removed"]))]


def path(document: Document) -> str:
    """A path for use by a shell, as it is."""
    return str(document["path"])


def classes(document: Document) -> list[Table]:
    """A line for each class: index, name, and what it is."""
    columns = (
        Column("index", "index"),
        Column("name", "class", folds=True),
        Column("wordnet_id", "WordNet id", optional=True),
        Column("description", "description", folds=True, optional=True),
    )
    records = [{**one, "description": Cell(one["description"] or "", style="quiet")} for one in document["classes"]]
    known = tuple(one for one in columns if any(plain(record[one.key]) for record in records))
    return [Table("", known, rows_of(known, records))]


def checks(document: Document) -> list[Table]:
    """A line for each check, and its hint below."""
    columns = (
        Column("name", "what", folds=True),
        Column("state", "state"),
        Column("detail", "detail", folds=True, stack="detail"),
        Column("hint", "", folds=True, stack="detail"),
    )
    records = [
        {"name": one["name"], "state": _state(one["state"]), "detail": one["detail"]}
        | {"hint": Cell(one["hint"], style="quiet")}
        for one in document["checks"]
    ]
    return [Table("", columns, rows_of(columns, records))]


def _state(state: str) -> Cell:
    return Cell(state, style=_STATES.get(state, ""))


DOCUMENTS: dict[str, Callable[[Document], list[Table] | str | None]] = {
    "attack": attack,
    "mask": mask,
    "train": train,
    "eval": evaluation,
    "report": shown_report,
    "reproduce": reproduction,
    "demo": demo,
    "doctor": checks,
    "classes": classes,
    "runs list": runs,
    "runs show": run,
    "runs verify": verification,
    "runs rm": removal,
    "runs path": path,
}
