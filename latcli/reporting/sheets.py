"""A report's tables as plain text in rows and columns, for formats that lay them out themselves; must not escape.

Takes the document of `report --json`; must not know engine, store or commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from latcli.reporting.blocks import name as cut
from latcli.reporting.further_tables import value_text
from latcli.reporting.matrix_table import number, seeds
from latcli.reporting.reliance_table import VARIANT_NAMES, accuracy_text, gap_text
from latcli.reporting.report_terminal import further_of, matrix_caption, scaled_cell
from latcli.reporting.tables import Side, confidence_text, epsilon_text

T = TypeVar("T")

#: Letters of a class and of a photo's file.
_NAME, _FILE = 32, 60

#: Inputs, points or models beside each other in one table: what a page of a paper has room for.
_INPUTS, _POINTS, _TARGETS = 3, 8, 4


@dataclass(frozen=True)
class Entry:
    """One field: its text, what stands behind a plus-minus sign, and whether it is the best of its column."""

    text: str
    spread: str | None = None
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table: names in the first column, figures in the others. `notes` are what must be known to read it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


def sheets(document: Mapping[str, Any]) -> Iterator[Sheet]:
    """Every table of the report: paper, matrices, training, photos, and what was measured beside the matrix."""
    if document["paper"] is not None:
        yield from _paper(document["paper"])
    for matrix in document["matrices"]:
        yield from _matrix(matrix)
    if document["training"]:
        yield _training(document["training"])
    for attack in document["attacks"]:
        yield _photos(attack, "clean")
        yield _photos(attack, "adversarial")
    for evaluation in document["evaluations"]:
        rows = further_of(document, evaluation)
        labels = {model["id"]: model["label"] for model in evaluation["models"]}
        place = f"{evaluation['dataset']}, run {evaluation['run'][-4:]}"
        yield from _curves(rows["curves"], labels, place)
        yield from _transfer(rows["transfer"], labels, place)
        yield from _reliance(rows["reliance"], labels, place)


def left_out(document: Mapping[str, Any]) -> list[str]:
    """A line for each run without figures and each file that is not shown."""
    lines = [f"left out: {one['run']}: {one['why']}" for one in document["left_out"]]
    return lines + [
        f"not shown: {fault['run']}, {fault['name'] or 'folder'}: {fault['detail']}" for fault in document["faults"]
    ]


def _matrix(matrix: Mapping[str, Any]) -> Iterator[Sheet]:
    notes = [line.replace("* best", "bold: best").replace("+- ", "the spread ") for line in matrix_caption(matrix)]
    notes[0] = notes[0].replace("mean cross entropy above accuracy", "loss is mean cross entropy")
    notes += [*matrix["notes"], *(f"warning: {text}" for text in matrix["warnings"])]
    for inputs in _several(matrix["inputs"], _INPUTS):
        headings = ["model"]
        for name in inputs:
            scaled = name == "natural" and matrix["natural_scale"] != 1
            headings += [f"{name}: loss x{matrix['natural_scale']}" if scaled else f"{name}: loss", f"{name}: accuracy"]
        rows = [
            (Entry(row_label(row)), *(entry for name in inputs for entry in _figures(matrix, name, row)))
            for row in matrix["rows"]
        ]
        yield Sheet(f"Loss matrix on {matrix['dataset']}", tuple(headings), tuple(rows), tuple(notes))


def row_label(row: Mapping[str, Any]) -> str:
    """A matrix's row in words: its label, and of how many seeds it is."""
    return str(row["label"]) + (f", {seeds(row['model_count'])}" if row["model_count"] > 1 else "")


def _figures(matrix: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> tuple[Entry, Entry]:
    figure = scaled_cell(matrix, name, row["cells"].get(name))
    loss = _entry(figure.loss, figure.loss_spread, figure.digits, best=figure.best_loss)
    percent = [None if value is None else 100 * value for value in (figure.accuracy, figure.accuracy_spread)]
    return loss, _entry(percent[0], percent[1], 2, " %", best=figure.best_accuracy)


def _entry(value: float | None, spread: float | None, digits: int, unit: str = "", best: bool = False) -> Entry:
    if value is None:
        return Entry("-")
    if spread is None:
        return Entry(number(value, None, digits, unit), best=best)
    return Entry(number(value, None, digits), number(spread, None, digits, unit), best)


def _training(trained: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = [
        (
            Entry(f"{row['regime']} {row['run'][-4:]}"),
            Entry(str(row["dataset"])),
            Entry(str(row["seed"])),
            Entry(_percent(row["final"]["accuracy"])),
            Entry(_percent(row["final"]["adversarial_accuracy"])),
        )
        for row in trained
    ]
    headings = ("run", "data set", "seed", "clean", "own attack")
    return Sheet("Training runs: accuracy on test images", headings, tuple(rows))


def _photos(attack: Mapping[str, Any], side: Side) -> Sheet:
    altered = side == "adversarial"
    what = f"{attack['region']} altered by at most {epsilon_text(attack['epsilon'])}" if altered else "clean"
    headings = ("class", *(["altered"] if altered else []), "right?", "top 5", "top 10", "guess", "p(class)")
    rows = [_photo(image, side) for image in attack["images"]]
    summary, n = attack["summary"], attack["summary"]["n"]
    mean = [f"{n} photos", *([f"{summary['altered_percent']:.1f} %"] if altered else [])]
    mean += [f"{summary[side][count]}/{n}" for count in ("right", "top5", "top10")]
    rows.append(tuple(map(Entry, [*mean, "", confidence_text(summary[side]["confidence"])])))
    names = ", ".join(cut(PurePath(image["image"]).name, _FILE) for image in attack["images"][:20])
    notes = (
        f"classifier {attack['classifier']}, object from {attack['detector']}",
        f"{attack['steps']} steps, {attack['norm']}",
        f"run {attack['run']}: {names}" + (", ..." if n > 20 else ""),
    )
    return Sheet(f"Photos, {what}", headings, tuple(rows), notes)


def _photo(image: Mapping[str, Any], side: Side) -> tuple[Entry, ...]:
    said = image[side]
    texts = [cut(image["label"]["name"], _NAME)]
    texts += [f"{image['altered_percent']:.1f} %"] if side == "adversarial" else []
    texts += ["yes" if said["rank"] <= rank else "no" for rank in (1, 5, 10)]
    return tuple(map(Entry, [*texts, cut(said["prediction"], _NAME), confidence_text(said["confidence"])]))


def _curves(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], place: str) -> Iterator[Sheet]:
    for axis, given in dict.fromkeys((row["axis"], row["input"]) for row in rows):
        chosen = [row for row in rows if (row["axis"], row["input"]) == (axis, given)]
        for points in _several(range(len(chosen[0]["points"])), _POINTS):
            headings = (axis, *(value_text(chosen[0]["points"][index]) for index in points))
            body = [
                (Entry(labels[row["model"]]), *(Entry(_percent(row["points"][i]["accuracy"])) for i in points))
                for row in chosen
            ]
            n = chosen[0]["points"][0]["n"]
            yield Sheet(f"Accuracy against {axis}, {given} attack, n = {n:,} ({place})", headings, tuple(body))


def _transfer(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], place: str) -> Iterator[Sheet]:
    for given in dict.fromkeys(row["input"] for row in rows):
        of_input = {(row["source"], row["target"]): row for row in rows if row["input"] == given}
        sources = dict.fromkeys(source for source, _ in of_input)
        n = next(iter(of_input.values()))["n"]
        for targets in _several(dict.fromkeys(target for _, target in of_input), _TARGETS):
            body = [
                (
                    Entry(labels.get(source, "(no attack)")),
                    *(Entry(_percent(of_input[source, target]["accuracy"])) for target in targets),
                )
                for source in sources
            ]
            headings = ("made on", *(labels[target] for target in targets))
            yield Sheet(f"Accuracy on {given} examples, n = {n:,} ({place})", headings, tuple(body))


def _reliance(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], place: str) -> Iterator[Sheet]:
    for row in rows:
        groups = [row["overall"], *row["by_share"]]
        shares = [f"background {100 * one['low']:.0f}-{100 * one['high']:.0f} %" for one in row["by_share"]]
        body = [
            (Entry(name), *(Entry(accuracy_text(group["means"][variant])) for group in groups))
            for variant, name in VARIANT_NAMES.items()
        ]
        body.append((Entry("background gap"), *(Entry(gap_text(group["gap"])) for group in groups)))
        headings = ("accuracy in % (n)", "all photos", *shares)
        title = f"Background reliance of {labels[row['model']]} ({place})"
        yield Sheet(title, headings, tuple(body), ("gap: Mixed-Same less Mixed-Rand, and its standard error",))


def _paper(paper: Mapping[str, Any]) -> Iterator[Sheet]:
    for figure in paper["figure2"]:
        scaled = f"losses on natural inputs times {figure['natural_scale']}"
        yield Sheet(
            f"The paper beside ours, loss: {figure['source']}",
            ("model", "inputs", "paper", "ours", "difference"),
            tuple(_paper_cell(cell) for cell in figure["cells"]),
            (scaled, *figure["protocol"]),
        )
    for tables in paper["tables"]:
        yield Sheet(
            f"The paper beside ours: {tables['source']}",
            ("mean over photos", "paper", "ours", "difference"),
            tuple(
                (Entry(one["figure"]), *(Entry(_number(one[name])) for name in ("paper", "ours", "difference")))
                for one in tables["figures"]
            ),
            tuple(tables["protocol"]),
        )
    headings = ("claim", "of", "paper", "ours", "verdict")
    yield Sheet("The paper's claims", headings, tuple(_claim(one) for one in paper["claims"]))


def _paper_cell(cell: Mapping[str, Any]) -> tuple[Entry, ...]:
    ours = _entry(cell["ours"], cell["ours_spread"], 2)
    difference = "-" if cell["difference"] is None else f"{cell['difference']:+.2f}"
    names = (Entry(f"{cell['regime']} model"), Entry(cell["input"]))
    return (*names, Entry(f"{cell['paper']:.2f}"), ours, Entry(difference))


def _claim(claim: Mapping[str, Any]) -> tuple[Entry, ...]:
    return tuple(Entry(claim[name]) for name in ("claim", "of", "paper", "ours", "verdict"))


def _several(items: Iterable[T], count: int) -> list[list[T]]:
    """The items in lists of so many, the last of which may be shorter."""
    whole = list(items)
    return [whole[first : first + count] for first in range(0, len(whole), count)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
