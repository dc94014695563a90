"""Results of attacks as tables for a terminal, from their JSON documents; must not know store, engine or commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latcli.reporting.text import printable

Side = Literal["clean", "adversarial"]


def attack(document: Mapping[str, Any]) -> RenderableType:
    """What `attack --json` gives: the paper's Tables 1 and 2, what failed, and where the pictures are."""
    if "planned" in document:
        parts: list[RenderableType] = [_plan(document)]
    elif document["images"]:
        parts = [_photos(document, "clean"), _photos(document, "adversarial"), *_remarks(document)]
    else:
        parts = [Text("no photo was attacked")]
    for failure in document["failures"]:
        parts.append(Text(f"{'skipped' if failure['skipped'] else 'failed'}: {printable(failure['error'])}"))
    if document["run"] is not None:
        parts.append(_whereabouts(document))
    return Group(*parts)


def _photos(document: Mapping[str, Any], side: Side) -> Table:
    images, averages = document["images"], document["summary"][side]
    n = len(images)
    title = {
        "clean": "Clean photos",
        "adversarial": f"Adversarial photos: {document['region']} altered by at most {_epsilon(document['epsilon'])}",
    }[side]
    table = _table(title, with_footer=n > 1)
    _add_name_column(table, "class", f"{n} photos", 20)
    if side == "adversarial":
        table.add_column("altered", f"{document['summary']['altered_percent']:.1f} %", justify="right", no_wrap=True)
    for heading, count in (("right?", "right"), ("top 5?", "top5"), ("top 10?", "top10")):
        table.add_column(heading, f"{averages[count]}/{n}", justify="center", no_wrap=True)
    _add_name_column(table, "guess", "", 20)
    table.add_column("p(class)", confidence_text(averages["confidence"]), justify="right", no_wrap=True)
    for image in images:
        cells: list[str | Text] = [_text(image["label"]["name"] + (" *" if _assumed(image) else ""))]
        if side == "adversarial":
            cells.append(f"{image['altered_percent']:.1f} %")
        said = image[side]
        cells += ["yes" if said["rank"] <= rank else "no" for rank in (1, 5, 10)]
        table.add_row(*cells, _text(said["prediction"]), confidence_text(said["confidence"]))
    return table


def _remarks(document: Mapping[str, Any]) -> list[RenderableType]:
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
    _add_name_column(table, "photo", f"{len(planned)} photos", 16)
    table.add_column("size", no_wrap=True)
    _add_name_column(table, "class", "", 14)
    _add_name_column(table, "object from", "", 12)
    table.add_column("may change", justify="right", no_wrap=True)
    table.add_column("time", f"{sum(one['seconds'] for one in planned):.0f} s", justify="right", no_wrap=True)
    for one in planned:
        table.add_row(
            _text(PurePath(one["image"]).name),
            f"{one['width']}x{one['height']}",
            _text(one["label"]["name"]),
            _text(one["how"]),
            f"{one['background_percent']:.1f} %",
            f"{one['seconds']:.1f} s",
        )
    return table


def _whereabouts(document: Mapping[str, Any]) -> Text:
    lines = [f"run {document['run']}"]
    if len(document["images"]) == 1:
        lines += [f"  {kind}: {path}" for kind, path in document["images"][0]["files"].items()]
    else:
        lines.append(f"  pictures: {document['dir']}")
    return Text("\n".join(map(printable, lines)), overflow="fold", no_wrap=True)


def _table(title: str, *, with_footer: bool) -> Table:
    return Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", show_footer=with_footer, pad_edge=False
    )


def _add_name_column(table: Table, heading: str, footer: str, width: int) -> None:
    table.add_column(heading, footer, overflow="ellipsis", no_wrap=True, max_width=width)


def confidence_text(confidence: float) -> str:
    """A confidence in at most seven characters, with three digits that count."""
    return f"{confidence:.3f}" if confidence >= 0.001 else f"{confidence:.1e}"


def _epsilon(epsilon: float) -> str:
    levels = epsilon * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-3 else f"{epsilon:g}"


def _assumed(image: Mapping[str, Any]) -> bool:
    return bool(image["label"]["source"] == "prediction")


def _text(value: Sequence[str] | str) -> Text:
    return Text(printable(str(value)))
