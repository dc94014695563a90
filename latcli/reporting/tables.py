"""Results of commands as tables for a terminal, from their JSON documents; must not know store, engine or commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latcli.reporting.console import RULED
from latcli.reporting.text import printable

Side = Literal["clean", "adversarial"]

#: Columns that a name gets, and one of a plan, which has three.
_NAME = 17
_PLAN_NAME = 14


def attack(document: Mapping[str, Any]) -> RenderableType:
    """What `attack --json` gives: the paper's Tables 1 and 2, what failed, and where the pictures are."""
    if document["dry_run"]:
        parts: list[RenderableType] = [_plan(document)]
    elif document["images"] and document["summary"] is not None:
        parts = [*photo_tables(document), *photo_remarks(document)]
    elif document["images"]:
        parts = [_regions(document), *photo_remarks(document)]
    else:
        parts = [Text("no photo was attacked")]
    for failure in document["failures"]:
        parts.append(Text(f"{'skipped' if failure['skipped'] else 'failed'}: {printable(failure['error'])}"))
    if document["run"] is not None:
        parts.append(_whereabouts(document))
    return Group(*parts)


def masks(document: Mapping[str, Any]) -> RenderableType:
    """What `mask --json` gives: each photo's object, who found it, and where its mask is."""
    table = _table("Objects, white in their masks", with_footer=False)
    for heading in ("photo", "object", "found by"):
        table.add_column(heading, no_wrap=True)
    for heading in ("of photo", "evidence"):
        _add_number_column(table, heading, "")
    for image in document["images"]:
        evidence = image["evidence_inside"]
        table.add_row(
            _text(PurePath(image["image"]).name, 24),
            _text(image["label"]["name"], _NAME),
            _text(image["localized_by"], 24),
            f"{image['object_percent']:.1f} %",
            "" if evidence is None else f"{100 * evidence:.0f} %",
        )
    failed = [f"{'skipped' if one['skipped'] else 'failed'}: {one['error']}" for one in document["failures"]]
    lines = [*failed, f"run {document['run']}", f"masks in {from_here(document['out'])}"]
    return Group(table, "", Text("\n".join(map(printable, lines)), overflow="fold"))


def _regions(document: Mapping[str, Any]) -> Table:
    table = _table("All photos by region and epsilon", with_footer=False)
    table.add_column("region", no_wrap=True)
    for heading in ("epsilon", "median smallest", "fooled", "right before", "p(class)"):
        _add_number_column(table, heading, "")
    for one in document["regions"]:
        found, smallest = one["summary"], one["smallest_epsilon"]
        table.add_row(
            one["region"],
            "" if one["epsilon"] is None else epsilon_text(one["epsilon"]),
            "" if smallest is None else epsilon_text(smallest),
            str(found["fooled"]),
            str(found["right_before"]),
            "" if found["adversarial"] is None else confidence_text(found["adversarial"]["confidence"]),
        )
    return table


def train(document: Mapping[str, Any]) -> RenderableType:
    """What `train --json` gives: loss and accuracy on the test images, what to know of them, where the model is."""
    title = f"{document['regime']} training on {document['dataset']}, {document['steps']:,} steps"
    table = _table("", with_footer=False)
    table.title = None  # rich would wrap it to the width of the table
    table.add_column("test images", no_wrap=True)
    for heading in ("n", "loss", "accuracy"):
        _add_number_column(table, heading, "")
    for name, score in (("natural", document["final"]), (document["attack"], document["adversarial"])):
        if score is not None:
            accuracy = f"{100 * score['accuracy']:.2f} %"
            table.add_row(_text(name, 50), f"{score['n']:,}", f"{score['loss']:.4f}", accuracy)
    lines = [
        *document["notes"],
        f"{document['seconds']:.0f} s, {document['images_per_second']:,.0f} images/s, gradients in {document['form']}",
        f"run {document['run']}",
        from_here(document["checkpoint"]),
    ]
    return Group(Text(printable(title), "bold"), table, "", Text("\n".join(map(printable, lines)), overflow="fold"))


def photo_tables(document: Mapping[str, Any]) -> list[RenderableType]:
    """The paper's Table 1 and Table 2 of attacked photos, a blank line after each; below them what `summary` says."""
    return [_photos(document, "clean"), "", _photos(document, "adversarial"), ""]


def _photos(document: Mapping[str, Any], side: Side) -> Table:
    images, averages = document["images"], document["summary"][side]
    n = document["summary"]["n"]
    most = epsilon_text(document["epsilon"])
    title = {
        "clean": "Clean photos",
        "adversarial": f"Adversarial photos: {document['region']} altered by at most {most}",
    }[side]
    table = _table(title, with_footer=n > 1)
    table.add_column("class", f"{n} photos", no_wrap=True)
    if side == "adversarial":
        _add_number_column(table, "altered", f"{document['summary']['altered_percent']:.1f} %")
    for heading, count in (("right?", "right"), ("top 5", "top5"), ("top 10", "top10")):
        _add_number_column(table, heading, f"{averages[count]}/{n}")
    table.add_column("guess", no_wrap=True)
    _add_number_column(table, "p(class)", confidence_text(averages["confidence"]))
    for image in images:
        cells: list[str | Text] = [_text(image["label"]["name"], _NAME).append(" *" if _assumed(image) else "")]
        if side == "adversarial":
            cells.append(f"{image['altered_percent']:.1f} %")
        said = image[side]
        cells += ["yes" if said["rank"] <= rank else "no" for rank in (1, 5, 10)]
        table.add_row(*cells, _text(said["prediction"], _NAME), confidence_text(said["confidence"]))
    return table


def photo_remarks(document: Mapping[str, Any]) -> list[RenderableType]:
    """What to know of attacked photos: assumed labels, that nothing else was changed, notes of single photos."""
    images = document["images"]
    remarks = []
    if any(_assumed(image) for image in images):
        remarks.append("* no label was given: the clean prediction was taken for the right class")
    inside = max(image["linf_inside"] for image in images)
    remarks.append(f"change where none is allowed: {inside:g}; predictions are of the saved files, in fp32")
    remarks += [f"{PurePath(image['image']).name}: {note}" for image in images for note in image["notes"]]
    return [Text(printable(remark)) for remark in remarks]


def _plan(document: Mapping[str, Any]) -> Table:
    planned = document["planned"]
    table = _table("Nothing was attacked; this is what would be", with_footer=len(planned) > 1)
    table.add_column("photo", f"{len(planned)} photos", no_wrap=True)
    table.add_column("size", no_wrap=True)
    table.add_column("class", no_wrap=True)
    table.add_column("object from", no_wrap=True)
    _add_number_column(table, "may change", "")
    _add_number_column(table, "time", f"{sum(one['seconds'] for one in planned):.0f} s")
    for one in planned:
        table.add_row(
            _text(PurePath(one["image"]).name, _PLAN_NAME),
            f"{one['width']}x{one['height']}",
            _text(one["label"]["name"], _PLAN_NAME),
            _text(one["localized_by"], _PLAN_NAME),
            f"{one['background_percent']:.1f} %",
            f"{one['seconds']:.1f} s",
        )
    return table


def _whereabouts(document: Mapping[str, Any]) -> Text:
    lines = [f"run {document['run']}"]
    if len(document["images"]) == 1:
        lines += [from_here(path) for path in document["images"][0]["files"].values()]
    else:
        lines.append(f"pictures in {from_here(document['dir'])}")
    return Text("\n".join(map(printable, lines)), overflow="fold")


def from_here(path: str) -> str:
    """A path as one would type it in the working directory."""
    return os.path.relpath(path) if PurePath(path).is_relative_to(Path.cwd()) else path


def _table(title: str, *, with_footer: bool) -> Table:
    return Table(
        box=RULED,
        title=title,
        title_justify="left",
        title_style="bold",
        show_footer=with_footer,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def _add_number_column(table: Table, heading: str, footer: str) -> None:
    table.add_column(heading, footer, justify="right", no_wrap=True, min_width=max(len(heading), len(footer)))


def confidence_text(confidence: float) -> str:
    """A confidence in at most seven characters, with three digits that count."""
    return f"{confidence:.3f}" if confidence >= 0.001 else f"{confidence:.1e}"


def epsilon_text(epsilon: float) -> str:
    """An epsilon or a change as one types it: in 255ths where it is a whole number of them."""
    levels = epsilon * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-3 else f"{epsilon:g}"


def _assumed(image: Mapping[str, Any]) -> bool:
    return bool(image["label"]["source"] == "prediction")


def _text(value: str, width: int) -> Text:
    """A name cut to a column's width; letters of some languages take two columns each."""
    shown = printable(value)
    return Text(shown if cell_len(shown) <= width else f"{set_cell_size(shown, width - 3)}...")
