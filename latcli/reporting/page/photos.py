"""Attacked photos as cards: pictures, bars of guesses, facts; must not know how photos are attacked or stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latcli.reporting.page.formats import NONE, base_name, percent
from latcli.reporting.page.pictures import Pictures, Read, pictures
from latcli.reporting.tables import confidence_text, epsilon_text

Side = Literal["clean", "adversarial"]


@dataclass(frozen=True)
class Bar:
    """One guess: `width` of 100 is its confidence; `place` is its rank where it is not among the first guesses."""

    name: str
    width: float
    confidence: str
    right: bool
    place: int | None = None


@dataclass(frozen=True)
class Card:
    """One photo. `without` says in words what of it cannot be shown; empty where all can."""

    id: str
    name: str
    path: str
    verdict: str
    kind: str
    pictures: Pictures | None
    without: str
    bars: Mapping[Side, Sequence[Bar]]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    files: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class PhotoRow:
    """One line of an attack's table: the paper's Tables 1 and 2 in one."""

    id: str
    name: str
    label: str
    clean: tuple[str, str, str]
    adversarial: tuple[str, str, str]
    altered: str


@dataclass(frozen=True)
class Attack:
    """An attack run. `cards` are made one by one while the page is written, and only once."""

    run: str
    title: str
    protocol: str
    rows: Sequence[PhotoRow]
    averages: Sequence[tuple[str, str, str]]
    cards: Iterator[Card]


def attack(document: Mapping[str, Any], read: Read, side: int) -> Attack:
    """An attack run of the report's document; pictures are at most `side` pixels long."""
    images = document["images"]
    return Attack(
        run=document["run"],
        title=f"{len(images)} photo{'' if len(images) == 1 else 's'} against {document['classifier']}",
        protocol=_protocol(document),
        rows=[_row(document["run"], number, image) for number, image in enumerate(images)],
        averages=_averages(document.get("summary") or {}),
        cards=(_card(document, number, image, read, side) for number, image in enumerate(images)),
    )


def _protocol(document: Mapping[str, Any]) -> str:
    parts = [f"{document['region']} altered"] if document.get("region") else []
    if document.get("epsilon") is not None:
        parts.append(f"by at most {epsilon_text(document['epsilon'])}")
    parts += [f"norm {document['norm']}"] if document.get("norm") else []
    parts += [f"{document['steps']} steps"] if document.get("steps") else []
    parts += [f"{document['restarts']} restarts"] if (document.get("restarts") or 1) > 1 else []
    parts += [f"object from {document['detector']}"] if document.get("detector") else []
    return ", ".join(parts)


def _averages(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if not summary.get("n"):
        return []
    n, clean, adversarial = summary["n"], summary["clean"], summary["adversarial"]
    counts = [
        (name, f"{clean[key]} of {n}", f"{adversarial[key]} of {n}")
        for name, key in (("right class first", "right"), ("in the top 5", "top5"), ("in the top 10", "top10"))
    ]
    confidences = (confidence_text(clean["confidence"]), confidence_text(adversarial["confidence"]))
    return [
        *counts,
        ("mean confidence in it", *confidences),
        ("pixels altered", "0 %", percent(summary["altered_percent"] / 100, 1)),
    ]


def _id(run: str, number: int) -> str:
    return f"photo-{run}-{number + 1}"


def _row(run: str, number: int, image: Mapping[str, Any]) -> PhotoRow:
    clean, adversarial = (
        (said["prediction"] or NONE, _rank(said["rank"]), _confidence(said["confidence"]))
        for said in (image["clean"], image["adversarial"])
    )
    altered = _share(image["altered_percent"])
    return PhotoRow(
        _id(run, number), base_name(image["image"]), image["label"]["name"] or NONE, clean, adversarial, altered
    )


def _card(document: Mapping[str, Any], number: int, image: Mapping[str, Any], read: Read, side: int) -> Card:
    shown = pictures(image, read, side)
    verdict, kind = _verdict(image["clean"]["rank"], image["adversarial"]["rank"])
    return Card(
        id=_id(document["run"], number),
        name=base_name(image["image"]),
        path=image["image"],
        verdict=verdict,
        kind=kind,
        pictures=shown,
        without=_without(shown),
        bars={"clean": _bars(image, "clean"), "adversarial": _bars(image, "adversarial")},
        facts=_facts(document, image),
        notes=list(image.get("notes") or ()),
        files=[(kind, path) for kind, path in (image.get("files") or {}).items() if path],
    )


def _verdict(before: int | None, after: int | None) -> tuple[str, str]:
    """In words, and as the style sheet calls it. Nobody was fooled who was wrong before the attack."""
    if after is None:
        return "not known", "open"
    if after == 1:
        return "still right" if before == 1 else "right", "holds"
    return ("fooled", "fooled") if before == 1 else ("wrong before, too", "open")


def _without(shown: Pictures | None) -> str:
    if shown is None:
        return "The adversarial photo is not there as it was written, so nothing of it is shown."
    missing = {
        "before": "the photo as it was",
        "mask": "the mask",
        "difference": "the difference",
    }
    words = [text for name, text in missing.items() if name not in shown.webp]
    return f"Not to be had, so not shown: {', '.join(words)}." if words else ""


def _bars(image: Mapping[str, Any], side: Side) -> list[Bar]:
    said, label = image[side], image["label"]
    guesses = [(guess["index"], guess["name"], guess["p"]) for guess in said.get("top") or ()]
    if not guesses:
        guesses = [(None, said["prediction"], said["confidence"])] if said["rank"] == 1 else []
    bars = []
    for place, (index, name, confidence) in enumerate(guesses, start=1):
        right = said["rank"] == place if index is None or label["index"] is None else index == label["index"]
        bars.append(_bar(name, confidence, right))
    if not any(bar.right for bar in bars):
        bars.append(_bar(label["name"] or NONE, said["confidence"], True, said["rank"]))
    return bars


def _bar(name: str, confidence: float | None, right: bool, place: int | None = None) -> Bar:
    width = round(100 * min(1.0, max(0.0, confidence or 0.0)), 2)
    return Bar(name, width, _confidence(confidence), right, place)


def _rank(rank: int | None) -> str:
    return NONE if rank is None else f"{rank:,}"


def _confidence(confidence: float | None) -> str:
    """Rows that another program wrote may lack it."""
    return NONE if confidence is None else confidence_text(confidence)


def _levels(change: float | None) -> str:
    return NONE if change is None else epsilon_text(change)


def _share(value: float | None) -> str:
    return NONE if value is None else percent(value / 100, 1)


def _facts(document: Mapping[str, Any], image: Mapping[str, Any]) -> list[tuple[str, str]]:
    clean, adversarial, label = image["clean"], image["adversarial"], image["label"]
    source = {"prediction": ", taken from the clean prediction"}.get(str(label.get("source")), "")
    facts = [
        ("right class", f"{label['name'] or NONE}{source}"),
        ("its rank", f"{_rank(clean['rank'])} before, {_rank(adversarial['rank'])} after"),
        (
            "confidence in it",
            f"{_confidence(clean['confidence'])} before, {_confidence(adversarial['confidence'])} after",
        ),
    ]
    if document.get("epsilon") is not None:
        facts.append(("epsilon", epsilon_text(document["epsilon"])))
    facts += [
        ("pixels altered", _share(image["altered_percent"])),
        ("background", _share(image["background_percent"])),
        ("largest change", _levels(image["linf_outside"])),
        ("where none is allowed", _levels(image["linf_inside"])),
    ]
    boxes = image.get("boxes") or ()
    if boxes:
        facts.append(("object found", ", ".join(f"{box[5]} {box[4]:.2f}" for box in boxes)))
    return facts
