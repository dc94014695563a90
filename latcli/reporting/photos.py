"""Attacked photos, planned attacks and found objects as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from latcli.reporting.table import Cell, Column, Row, Table, Value, listed, rows_of, text_table
from latcli.reporting.text import base_name, counted, from_here, number_text, probability
from latcli.results import starts_text, steps_taken

Document = Mapping[str, Any]

#: Photos that a terminal shows at most where they stand beside other tables, or are more than MANY.
PHOTOS, MANY = 20, 100


def attack(document: Document) -> list[Table]:
    """The attacked photos, or what a dry run would attack; what failed; and where the pictures are."""
    images = document["images"]
    if document["planned"]:
        found = [_plan(document["planned"])]
    elif images:
        summed = regions(document["regions"])
        found = [*summed, photo_table(document, PHOTOS if summed or len(images) > MANY else None)]
    else:
        found = [text_table("", "no photo was attacked")]
    lines = [*_failures(document), *(f"warning: {text}" for text in document["warnings"])]
    if document["run"] is not None:
        files = [from_here(path) for image in images[:1] for path in image["files"].values()]
        lines += [f"run {document['run']}", *(files if len(images) == 1 else folder_line(document))]
    return [*found, *([text_table("", *lines)] if lines else [])]


def mask(document: Document) -> list[Table]:
    """The object of each photo: who found it, how surely, and where its mask is."""
    images = document["images"][: PHOTOS if len(document["images"]) > MANY else None]
    total = max(document["masked"], len(images))
    cut = [f"the first {len(images)} of {total:,} photos"] if len(images) < total else []
    found = listed(
        "Objects",
        [{**one, "object": one["object_percent"] / 100} for one in images],
        Column("image", "photo", "file", stack="photo"),
        Column("label.name", "class", "name", stack="photo"),
        Column("detector", "object found by", "name", stack="detector"),
        Column("localized_by", "", "name", stack="detector"),
        Column("detector_confidence", "score", "p"),
        Column("object", "object", "percent"),
        Column("evidence_inside", "evidence inside", "percent"),
        Column("evidence_lift", "lift", "number", optional=True),
        notes=[*_image_notes(images), *cut],
    )
    lines = [*_failures(document), *([f"run {document['run']}"] if document["run"] else [])]
    lines += [f"masks in {from_here(document['out'])}"] if images else ["no object was found"]
    return [*([found] if images else []), text_table("", *lines)]


def _failures(document: Document) -> list[str]:
    return [f"{'skipped' if one['skipped'] else 'failed'}: {one['error']}" for one in document["failures"]]


def whole_runs(attacks: Sequence[Document]) -> list[Document]:
    """A report's attacks with those of one run as one, as `latcli attack` itself shows a run: photo by photo."""
    of_runs: dict[str, list[Document]] = {}
    for one in attacks:
        of_runs.setdefault(one["run"], []).append(one)
    found = []
    for first, *others in of_runs.values():
        if not others:
            found.append(first)
            continue
        groups = [first, *others]
        names = ("region", "epsilon", "smallest_epsilon", "summary")
        images = [image for of_one in zip_longest(*(one["images"] for one in groups)) for image in of_one if image]
        whole = {"region": None, "epsilon": None, "summary": None, "images": images}
        found.append({**first, **whole, "regions": [{name: one.get(name) for name in names} for one in groups]})
    return found


def regions(summaries: Sequence[Document]) -> list[Table]:
    """The photos summed up, a line for each region and epsilon, where there are several."""
    if len(summaries) < 2:
        return []
    columns = [
        Column("region", "altered", "name"),
        Column("epsilon", "epsilon", "epsilon"),
        Column("summary.n", "photos", "count"),
        Column("fooled", "fooled"),
        Column("summary.clean.confidence", "p(right class) before", "p"),
        Column("summary.adversarial.confidence", "p(right class) after", "p"),
        Column("altered", "pixels altered", "percent"),
    ]
    if any(one["smallest_epsilon"] is not None for one in summaries):
        columns.append(Column("smallest_epsilon", "median smallest epsilon", "epsilon"))
    records = []
    for one in summaries:
        known = one["summary"]
        fooled = {"fooled": f"{known['fooled']} of {known['right_before']}"} if known else {}
        records.append({**one, **fooled, "altered": known["altered_percent"] / 100 if known else None})
    return [listed("All photos by region and epsilon", records, *columns)]


def photo_table(document: Document, most: int | None = None) -> Table:
    """Each photo before and after the attack: the guess, p(guess), and p and rank of the right class.

    Of more than `most` photos, only the first are shown; the last row and the notes are of all.
    """
    images, summary, total = document["images"], document.get("summary"), _total(document)
    photos = _photo_count(document)
    results = counted(total, "result" if photos < total else "photo")
    columns = _photo_columns(images)
    shown = [_photo(image, columns) for image in images[:most]]
    notes = _photo_notes(document)
    if len(shown) < total:
        notes.append(f"the first {len(shown):,} of {results}; totals are over all")
    if summary and total > 1:
        means: dict[str, Value] = {"image": results, "altered": summary["altered_percent"] / 100}
        for side in ("clean", "adversarial"):
            means[f"{side}_guess"] = f"{summary[side]['right']} of {summary['n']} right"
            means[f"{side}_p"] = summary[side]["confidence"]
        shown.append(Row(tuple(Cell(means.get(column.key, "")) for column in columns), total=True))
        notes += _summary_words(summary)
    title = f"{counted(photos, 'photo')} against {document['classifier']}: {changed_words(document)}"
    about = {"run": document["run"], "model": document["classifier"], "epsilon": document["epsilon"]}
    return Table(title, columns, tuple(shown), tuple(notes), "photo", about)


def _photo_count(document: Document) -> int:
    """How many photos there are: fewer than results if there are several regions or epsilons."""
    known = _summaries(document)
    return max((one["n"] for one in known), default=len({image["image"] for image in document["images"]}))


def _total(document: Document) -> int:
    """How many results there are, of which a document may have the first alone."""
    counts = [one["n"] for one in _summaries(document)] or [document.get("totals", {}).get("images", 0)]
    return int(max(sum(counts), len(document["images"])))


def _summaries(document: Document) -> list[Document]:
    """The counts of all results: of the whole, or of each region and epsilon."""
    parts = [document.get("summary"), *(one["summary"] for one in document.get("regions") or ())]
    known = [one for one in parts if one]
    return known[:1] if document.get("summary") else known


def changed_words(document: Document) -> str:
    """What an attack may change, and by how much."""
    several = {image["region"] for image in document["images"]}
    region = document["region"] or "background"
    if document["detector"] == "none":
        region = "image"
    elif several:
        region = several.pop() if len(several) == 1 else f"{len(several)} regions"
    within = "" if document["epsilon"] is None else f" by at most {number_text(document['epsilon'])}"
    return f"{region} altered{within}"


def found_by(detector: str) -> str:
    """Who decided where an object is, in words."""
    given = {name: f"object given by --{name}" for name in ("box", "mask", "center")}
    return (given | {"none": "no object was looked for"}).get(detector, f"object found by {detector}")


def _photo_columns(images: Sequence[Document]) -> tuple[Column, ...]:
    columns = [
        Column("image", "photo", "file", stack="photo"),
        Column("shown_label", "right class", "name", stack="photo"),
    ]
    targeted = _known(images, "target")
    for side, group, prefix in (("clean", "before", ""), ("adversarial", "after", "-> ")):
        about = {"input": side}
        columns += [
            Column(f"{side}_guess", "guess", "name", group, "guess", prefix, figure="guess", about=about),
            Column(f"{side}.p_prediction", "p(guess)", "p", group, "p(guess)", figure="p_prediction", about=about),
            Column(f"{side}_p", "p(right class)", "p", group, "p(right)", figure="confidence", about=about),
            Column(f"{side}.rank", "rank", "count", group, "rank", figure="rank", about=about),
        ]
        if targeted and side == "adversarial":
            columns += [
                Column("aimed", "target", stack="target"),
                Column("p_target", "p(target)", "p", stack="target", figure="p_target", about=about),
            ]
    searched, evident = (_known(images, name) for name in ("smallest_epsilon", "evidence_inside"))
    evidence = Column("evidence_inside", "evidence inside", "percent", optional=True, figure="evidence_inside")
    further = [
        (_differ(images, "region"), Column("region", "region")),
        (_differ(images, "epsilon") and not searched, Column("epsilon", "epsilon", "epsilon")),
        (True, Column("altered", "altered", "percent", figure="altered")),
        (searched, Column("smallest_epsilon", "smallest epsilon", "epsilon", figure="smallest_epsilon")),
        (_differ(images, "detector"), Column("detector", "object found by", "name", optional=True)),
        (evident, evidence),
    ]
    return (*columns, *(column for is_shown, column in further if is_shown))


def _known(images: Sequence[Document], name: str) -> bool:
    return any(image[name] is not None for image in images)


def _differ(images: Sequence[Document], name: str) -> bool:
    return len({image[name] for image in images}) > 1


def _photo(image: Document, columns: tuple[Column, ...]) -> Row:
    label = image["label"]["name"]
    shown = {**image, "shown_label": label + " *" * _is_assumed(image), "altered": image["altered_percent"] / 100}
    for side in ("clean", "adversarial"):
        known = image[side]
        fell = "bad" if side == "adversarial" and image["fooled"] else "doubtful" if known["rank"] != 1 else "good"
        shown[f"{side}_guess"] = Cell(known["prediction"], style=fell)
        shown[f"{side}_p"] = Cell(known["confidence"], style="bad" if fell == "bad" else "")
    if image["target"] is not None:
        shown["aimed"] = Cell("reached", style="bad") if image["reached"] else Cell("not reached")
    about = {"image": base_name(image["image"]), "label": label, "at": image["region"], "epsilon": image["epsilon"]}
    return replace(rows_of(columns, [shown])[0], about=about)


def _photo_notes(document: Document) -> list[str]:
    images = document["images"]
    steps = steps_taken(document["attack"], document["steps"])
    radius = "" if document.get("radius") is None else f", radius {document['radius']:g}"
    done = [document["attack"], *([counted(steps, "step")] if steps else []), f"norm {document['norm']}{radius}"]
    if not _differ(images, "detector"):
        done.insert(0, found_by(images[0]["detector"]))
    if document["restarts"] > 1 and (starts := starts_text(document["attack"], document["restarts"])):
        done.append(starts)
    notes = [", ".join(done), success_words(document)]
    if document.get("smallest_epsilon_max") is not None:
        most = number_text(document["smallest_epsilon_max"])
        notes.append(f"smallest epsilon: searched up to {most}; empty if that does not fool")
    if any(map(_is_assumed, images)):
        notes.append("* no label given: the prediction before the attack counts as the right class")
    inside = max(image["linf_inside"] for image in images)
    notes.append(f"largest change of a protected pixel: {inside:g}; scored from the saved files in fp32")
    return notes + _image_notes(images)


def _image_notes(images: Sequence[Document]) -> list[str]:
    notes = (f"{base_name(image['image'])}: {note}" for image in images for note in image["notes"])
    return list(dict.fromkeys(notes))


def success_words(document: Document) -> str:
    """How many photos were fooled of those that were right before; with targets, how many reached them.

    Where each was attacked several times, in how many attacks.
    """
    images, counts = document["images"], ("n", "right_before", "fooled", "reached")
    # A run's own document has photos without their sums.
    alone = [{"n": 1, "right_before": one["was_right"], **one} for one in images]
    n, right, fooled, reached = (sum(one[key] or 0 for one in _summaries(document) or alone) for key in counts)
    if n > _photo_count(document):
        words = f"fooled in {fooled} of {right} attacks on photos that were right"
        words += f"; {counted(n - right, 'attack')} on photos already wrong before" if right < n else ""
    else:
        words = f"fooled {fooled} of {right} that were right"
        words += f"; {n - right} already wrong before" if right < n else ""
    return f"{words}; target reached {reached} of {n}" if _known(images, "target") else words


def _summary_words(summary: Document) -> list[str]:
    clean, adversarial = summary["clean"], summary["adversarial"]
    parts = [
        f"in the top {last}: {clean[f'top{last}']} of {summary['n']} before, {adversarial[f'top{last}']} after"
        for last in (5, 10)
    ]
    medians = [probability(side["median_confidence"]) for side in (clean, adversarial)]
    return [
        f"right class {'; '.join(parts)}",
        f"median p(right class): {medians[0]} before, {medians[1]} after",
    ]


def _is_assumed(image: Document) -> bool:
    return bool(image["label"]["source"] == "prediction")


def folder_line(document: Document) -> list[str]:
    """Where the pictures are; no line without photos."""
    return [f"pictures in {from_here(document['dir'])}"] if document["images"] else []


def _plan(planned: Sequence[Document]) -> Table:
    found = listed(
        "Dry run: nothing was attacked",
        [
            {**one, "size": f"{one['width']}x{one['height']}", "share": one["background_percent"] / 100}
            for one in planned
        ],
        Column("image", "photo", "file"),
        Column("size", "size"),
        Column("label.name", "class", "name"),
        Column("localized_by", "object from", "name"),
        Column("share", "may change", "percent"),
        Column("seconds", "time", "duration"),
    )
    if len(planned) < 2:
        return found
    seconds = sum(one["seconds"] for one in planned)
    total = (Cell(f"{len(planned):,} photos"), *(Cell("") for _ in found.columns[2:]), Cell(seconds))
    return replace(found, rows=(*found.rows, Row(total, total=True)))
