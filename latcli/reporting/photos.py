"""Attacked photos, planned attacks and found objects as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from latcli.reporting.table import NONE, Cell, Column, Row, Table, Value, rows_of, text_table
from latcli.reporting.text import base_name, counted, from_here, number_text, probability

Document = Mapping[str, Any]

#: Photos that a terminal shows at most where they stand beside other tables.
PHOTOS = 20


def attack(document: Document) -> list[Table]:
    """The attacked photos, or what a dry run would attack; what failed; and where the pictures are."""
    planned, images = document.get("planned") or (), document.get("images") or ()
    if planned:
        found = [_plan(planned)]
    elif images:
        regions = _regions(document.get("regions") or ())
        found = [*regions, photo_table(document, PHOTOS if regions else None)]
    else:
        found = [text_table("", "no photo was attacked")]
    lines = [*_failures(document), *(f"warning: {text}" for text in document.get("warnings") or ())]
    if document["run"] is not None:
        files = [from_here(path) for image in images[:1] for path in image["files"].values()]
        lines += [f"run {document['run']}", *(files if len(images) == 1 else folder_line(document))]
    return [*found, *([text_table("", *lines)] if lines else [])]


def mask(document: Document) -> list[Table]:
    """The object of each photo: who found it, how surely, and where its mask is."""
    columns = (
        Column("photo", "photo", "name", stack="photo"),
        Column("label", "class", "name", stack="photo"),
        Column("detector", "object found by", "name", stack="detector"),
        Column("localized_by", "", "name", stack="detector"),
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
        Column("region", "altered", "name"),
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


def photo_table(document: Document, most: int | None = None) -> Table:
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
    against = f"{counted(len(images), 'photo')} against {document.get('classifier') or 'a classifier'}"
    return Table(
        f"{against}: {changed_words(document)}",
        columns, tuple(shown), tuple(notes), kind="photo", about=about,
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
        Column("photo", "photo", "name", stack="photo"),
        Column("label", "right class", "name", stack="photo"),
    ]
    targeted = any(image.get("target") is not None for image in images)
    for side, group, prefix in (("clean", "before", ""), ("adversarial", "after", "-> ")):
        about = {"input": side}
        columns += [
            Column(f"{side}_guess", "guess", group=group, stack="guess", prefix=prefix, format="name",
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
    searched = any(image.get("smallest_epsilon") is not None for image in images)
    if len({image.get("epsilon") for image in images}) > 1 and not searched:
        columns.append(Column("epsilon", "epsilon", "epsilon"))
    columns.append(Column("altered", "altered", "percent", figure="altered"))
    if searched:
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
    done = [f"object from {document['detector']}"] if document.get("detector") else []
    done += [document["attack"]] if document.get("attack") else []
    done += [f"{document['steps']} steps"] if document.get("steps") else []
    done += [counted(document["restarts"], "random start")] if (document.get("restarts") or 1) > 1 else []
    done += [f"norm {document['norm']}"] if document.get("norm") else []
    notes = [*([", ".join(done)] if done else []), success_words(images)]
    if len(images) > 1 and summary.get("clean"):
        notes += _rank_words(document, images, summary)
    if document.get("smallest_epsilon_max") is not None:
        most = number_text(document["smallest_epsilon_max"])
        notes.append(f"smallest epsilon: the least that fools, none where {most} does not")
    if any(map(_is_assumed, images)):
        notes.append("* no label was given: the clean prediction was taken for the right class")
    inside = max((image["linf_inside"] or 0 for image in images), default=0)
    notes.append(f"change where none is allowed: {inside:g}; predictions are of the saved files, in fp32")
    return notes + _image_notes(images)


def _image_notes(images: Sequence[Document]) -> list[str]:
    notes = (f"{base_name(image['image'])}: {note}" for image in images for note in image.get("notes") or ())
    return list(dict.fromkeys(notes))


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


def folder_line(document: Document) -> list[str]:
    """Where the pictures are; no line without photos."""
    return [f"pictures in {from_here(document['dir'])}"] if document.get("images") else []


def _plan(planned: Sequence[Document]) -> Table:
    columns = (
        Column("photo", "photo", "name"),
        Column("size", "size"),
        Column("label", "class", "name"),
        Column("how", "object from", "name"),
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
