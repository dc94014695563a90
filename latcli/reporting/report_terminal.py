"""A store's report for a terminal, from the document of `report --json`; must not know engine, store or commands.

What would be many screens is cut to the newest, and the cut is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from latcli.reporting.blocks import blocks, unique_labels
from latcli.reporting.comparison import comparison
from latcli.reporting.further_tables import curves, transfer
from latcli.reporting.listing import written
from latcli.reporting.matrix_table import Figure, heading, matrix_blocks, object_words, seeds
from latcli.reporting.paper_tables import paper
from latcli.reporting.reliance_table import reliance
from latcli.reporting.tables import epsilon_text, from_here, photo_remarks, photo_tables
from latcli.reporting.text import printable

#: How many attack runs the terminal shows; more need not be gathered for it.
ATTACKS = 2
#: How many of each other kind.
_MATRICES, _PHOTOS, _EVALUATIONS, _TRAINED, _NAMED = 4, 20, 1, 8, 8


_NONE_COMPLETED = "no figures yet: none of these runs is completed"


def shown(document: Mapping[str, Any]) -> RenderableType | None:
    """What `report --json` gives, drawn; of files the list of them, of a comparison its tables."""
    if "configuration" in document:
        return comparison(document)
    if "written" in document:
        return None if document["printed"] else written(document)
    return report(document)


def report(document: Mapping[str, Any]) -> RenderableType:
    """What `report --json` gives: matrices, photos, what was measured beside them, and what cannot be shown."""
    parts: list[RenderableType] = []
    if document["paper"] is not None:
        parts += paper(document["paper"])
    parts += _matrices(document["matrices"])
    parts += _training(document)
    parts += _attacks(document)
    parts += _further(document)
    if not parts:
        ended = any(run["status"] == "completed" for run in document["runs"])
        parts += [_lines(["these runs have no figures" if ended else _NONE_COMPLETED, ""])]
    parts += _told(document)
    return Group(*parts)


def matrix_caption(matrix: Mapping[str, Any]) -> list[str]:
    """What must be known to read a matrix, a line each; without warnings and notes."""
    natural = max((row["cells"]["natural"]["n"] for row in matrix["rows"] if "natural" in row["cells"]), default=0)
    scale = matrix["natural_scale"]
    counted = [f"n = {matrix['images']:,} attacked images"] + ([f"{natural:,} natural ones"] if natural else [])
    lines = [
        "mean cross entropy above accuracy" + (f"; losses on natural inputs times {scale:,}" if scale != 1 else ""),
        ", ".join(counted),
        _protocol(matrix),
        f"object: {object_words(matrix['mask_from'], matrix['center'])}",
    ]
    lines += ["* best of the column"] if len(matrix["rows"]) > 1 else []
    lines += [f"strong: the strong suite's worst case, {matrix['strong']} budget"] if matrix["strong"] else []
    return lines + [f"+- {words}" for words in spread_words(matrix)]


def spread_words(matrix: Mapping[str, Any]) -> list[str]:
    """What stands behind a plus-minus sign in a matrix, to be read on after the sign; nothing where none has one."""
    over = {cell.get("spread_over") for row in matrix["rows"] for cell in row["cells"].values()}
    words = {
        "models": "is the sample standard deviation over training seeds",
        "seeds": "of a single model is the sample standard deviation over evaluation seeds",
    }
    return [text for kind, text in words.items() if kind in over]


def scaled_cell(matrix: Mapping[str, Any], name: str, cell: Mapping[str, Any] | None) -> Figure:
    """A cell as it is printed: the loss on natural inputs multiplied as the matrix says."""
    if cell is None:
        return Figure(None, None)
    scale = matrix["natural_scale"] if name == "natural" else 1
    return Figure(
        loss=None if cell["loss"] is None else scale * cell["loss"],
        accuracy=cell["accuracy"],
        loss_spread=None if cell["loss_spread"] is None else scale * cell["loss_spread"],
        accuracy_spread=cell["accuracy_spread"],
        best_loss=cell["best_loss"],
        best_accuracy=cell["best_accuracy"],
        digits=4 if scale == 1 else 2,
    )


def further_of(document: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """One evaluation's models, transfer, curves and reliance, as `eval --json` has them."""
    parts = {
        name: [row for row in document[name] if row["run"] == evaluation["run"]]
        for name in ("transfer", "curves", "reliance")
    }
    return {"models": evaluation["models"], **parts}


def _protocol(matrix: Mapping[str, Any]) -> str:
    if matrix["epsilon"] is None:
        return "no attack"
    starts = "1 random start" if matrix["restarts"] == 1 else f"{matrix['restarts']} random starts"
    attack = f"{matrix['attack'] or 'attack'}, {matrix['steps']} steps, {starts}"
    drawn = ", ".join(map(str, matrix["seeds"]))
    return f"{attack}; epsilon {epsilon_text(matrix['epsilon'])}; evaluation seed {drawn or 'unknown'}"


def _matrices(matrices: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for matrix in matrices[:_MATRICES]:
        parts += [Text(printable(f"Loss matrix on {matrix['dataset']}"), "bold"), *_matrix(matrix), ""]
    return parts + _cut(len(matrices) - _MATRICES, "loss matrix", "loss matrices", "--dataset, --since")


def _matrix(matrix: Mapping[str, Any]) -> list[RenderableType]:
    scale = matrix["natural_scale"]
    headings = {name: heading(name) for name in matrix["inputs"]}
    if scale != 1 and "natural" in headings:
        headings["natural"] = f"natural \nloss x{scale} "
    labels, legend = _short_labels(matrix["rows"])
    rows = {
        label: {name: scaled_cell(matrix, name, row["cells"].get(name)) for name in headings}
        for label, row in zip(labels, matrix["rows"], strict=True)
    }
    lines = matrix_caption(matrix) + legend
    lines += [f"note: {note}" for note in matrix["notes"]] + [f"warning: {text}" for text in matrix["warnings"]]
    return [*matrix_blocks(rows, headings), _lines(lines)]


def _short_labels(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """A label for each row that fits its column, and the lines below that say what a number in it stands for."""
    labels: list[str] = []
    legend: list[str] = []
    for row in rows:
        counted = seeds(row["model_count"]) if row["model_count"] > 1 else ""
        if row["differs"] is None:
            labels.append(row["label"] + (f" ({counted})" if counted else ""))
        else:
            legend.append(f"[{len(legend) + 1}] {row['differs']}" + (f"; {counted}" if counted else ""))
            labels.append(f"{row['regime'] or 'model'} [{len(legend)}]")
    named = unique_labels((str(place), label) for place, label in enumerate(labels))
    return [named[str(place)] for place in range(len(labels))], legend


def _training(document: Mapping[str, Any]) -> list[RenderableType]:
    trained = document["training"]
    if not trained:
        return []
    headings = {"accuracy": "natural", "adversarial_accuracy": "own attack"}
    rows = {
        f"{row['run'][-4:]}  {row['regime']}, seed {row['seed']}, {row['dataset']}": {
            figure: _percent(row["final"][figure]) for figure in headings
        }
        for row in trained[:_TRAINED]
    }
    parts: list[RenderableType] = [Text("Training runs: accuracy on test images in %", "bold")]
    parts += blocks("run", rows, headings, names=52)
    parts += [_lines([_best_line(one) for one in document["best"]] + [""])] if document["best"] else []
    return parts + _cut(len(trained) - _TRAINED, "training run", "training runs", "--best")


def _best_line(one: Mapping[str, Any]) -> str:
    value = f"{100 * one['value']:.2f} %"
    return f"best of {one['of']} {one['regime']} on {one['dataset']}: {one['run'][-4:]}, {value} {one['figure']}"


def _attacks(document: Mapping[str, Any]) -> list[RenderableType]:
    total = sum(run["command"] == "attack" and run["status"] == "completed" for run in document["runs"])
    parts: list[RenderableType] = []
    for attack in document["attacks"][:ATTACKS]:
        parts += _attack(attack)
    more = total - ATTACKS if len(document["attacks"]) >= ATTACKS else 0
    return parts + _cut(more, "attack run", "attack runs", "run ids")


def _attack(attack: Mapping[str, Any]) -> list[RenderableType]:
    images = attack["images"]
    title = f"Photos of run {attack['run'][-4:]}: {attack['classifier']}, object from {attack['detector']}"
    shown = {**attack, "images": images[:_PHOTOS]}
    parts: list[RenderableType] = [Text(printable(title), "bold", overflow="fold"), *photo_tables(shown)]
    parts += photo_remarks(shown if len(images) > _PHOTOS else attack)
    if len(images) > _PHOTOS:
        parts += [_lines([f"the first {_PHOTOS} of {len(images):,} photos; the last lines are of all"])]
    return [*parts, _lines([f"pictures in {from_here(attack['dir'])}"]), ""]


def _further(document: Mapping[str, Any]) -> list[RenderableType]:
    found = [(evaluation, further_of(document, evaluation)) for evaluation in document["evaluations"]]
    having = [(one, rows) for one, rows in found if rows["transfer"] or rows["curves"] or rows["reliance"]]
    parts: list[RenderableType] = []
    for evaluation, rows in having[:_EVALUATIONS]:
        title = f"Beside the matrix, on {evaluation['dataset']}, run {evaluation['run'][-4:]}"
        parts += [Text(printable(title), "bold", overflow="fold"), ""]
        parts += [*transfer(rows), *curves(rows), *reliance(rows)]
    return parts + _cut(len(having) - _EVALUATIONS, "evaluation", "evaluations", "run ids")


def _told(document: Mapping[str, Any]) -> list[RenderableType]:
    left_out = [f"{one['run']}: {one['why']}" for one in document["left_out"]]
    faults = [f"{fault['run']}, {fault['name'] or 'folder'}: {fault['detail']}" for fault in document["faults"]]
    parts = _list("Left out", left_out) + _list("Not as it was written, and not shown", faults)
    return [*parts, Text("try: latcli report --html report.html")]


def _list(title: str, lines: Sequence[str]) -> list[RenderableType]:
    if not lines:
        return []
    shown = list(lines[:_NAMED])
    if len(lines) > _NAMED:
        shown.append(f"and {len(lines) - _NAMED:,} more: latcli report --json")
    return [Text(title, "bold"), _lines(shown), ""]


def _cut(count: int, one: str, several: str, how: str) -> list[RenderableType]:
    if count < 1:
        return []
    return [_lines([f"and {count:,} more {one if count == 1 else several}: choose with {how}", ""])]


def _lines(lines: Iterable[str]) -> Text:
    return Text("\n".join(map(printable, lines)), overflow="fold")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
