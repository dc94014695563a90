"""The report as one HTML file that loads nothing, put together from its templates piece by piece."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from latcli import __version__
from latcli.reporting import documents, evaluations
from latcli.reporting.photos import p_guess, photo_table
from latcli.reporting.pictures import FEW, LARGE_SIDE, SMALL_SIDE, Pictures, Read, pictures
from latcli.reporting.svg import Chart, curve_charts, training_charts
from latcli.reporting.table import NONE, Cell, Table, printed
from latcli.reporting.text import (
    base_name,
    duration,
    moment,
    number_text,
    percent,
    plain,
    printable,
    probability,
    short,
)

Document = Mapping[str, Any]

#: Colours of a heat map; the style sheet has a class for each.
STEPS = 7
#: Pieces of the template that make one piece of what `render` yields.
_BUFFERED = 200


@dataclass(frozen=True)
class Bar:
    """One guess: `width` of 100 is its probability; `place` is its rank where it is not among the first guesses."""

    name: str
    width: float
    text: str
    right: bool = False
    place: int | None = None


@dataclass(frozen=True)
class Card:
    """One photo. `missing` says in words what of it cannot be shown; `sort` has what cards are sorted by."""

    id: str
    name: str
    path: str
    label: str
    verdict: str
    kind: str
    explanation: str
    pictures: Pictures | None
    missing: str
    bars: Sequence[tuple[str, Sequence[Bar]]]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    files: Sequence[tuple[str, str]]
    sort: Mapping[str, str]


@dataclass(frozen=True)
class Attack:
    """Attacked photos. `cards` are made one by one while the page is written, and only once."""

    id: str
    table: Table
    smallest: Sequence[Bar]
    labels: Sequence[str]
    cards: Iterator[Card]


@dataclass(frozen=True)
class RunView:
    """A run as the page lists it: facts and configuration by name, and the command that repeats it."""

    id: str
    command: str
    summary: str
    facts: Sequence[tuple[str, str]]
    config: Sequence[tuple[str, str]]
    command_line: str


def render(document: Document, picture: Read) -> Iterator[str]:
    """The report's JSON document as an HTML page, in pieces to be written one after another as UTF-8.

    `picture` gives the bytes of a photo's file by the path that the document has for it, or None where it cannot be had
    as it was written. It is called while the pieces are taken, and photos are let go one by one, so that memory stays
    flat however many there are.
    """
    style, script = _source("page.css"), _source("page.js")
    whole = _content(document, picture) | {
        "style": Markup(style),
        "script": Markup(script),
        "policy": _policy(style, script),
    }
    page = environment().get_template("page.html").stream(**whole)
    page.enable_buffering(_BUFFERED)
    yield from page


def _content(document: Document, picture: Read) -> dict[str, Any]:
    attacks = [one for one in document.get("attacks") or () if one["images"]]
    photos = sum(len(one["images"]) for one in attacks)
    side = LARGE_SIDE if photos <= FEW else SMALL_SIDE
    runs = [_run(run) for run in document.get("runs") or ()]
    measured = [documents.further_of(document, one) for one in document.get("evaluations") or ()]
    labels = [evaluations.labels_of(one) for one in measured]
    return {
        "created": moment(document.get("created") or datetime.now(UTC).isoformat()),
        "version": document.get("latcli") or __version__,
        "store": document.get("store") or NONE,
        "selection": _selection(document.get("selection") or {}),
        "matrices": [evaluations.matrix(one) for one in document.get("matrices") or ()],
        "comparisons": _tables(measured, labels, evaluations.comparisons),
        "paper": documents.paper(document["paper"]) if document.get("paper") else [],
        "curves": curve_charts(document),
        "transfer": _tables(measured, labels, evaluations.transfer),
        "reliance": _tables(measured, labels, evaluations.reliance),
        "training": _training(document),
        "attacks": [_attack(one, picture, side, f"{one['run']}-{place}") for place, one in enumerate(attacks, start=1)],
        "photos": photos,
        "side": side,
        "runs": runs,
        "run_ids": {run.id for run in runs},
        "left_out": list(document.get("left_out") or ()),
        "faults": list(document.get("faults") or ()),
    }


def _tables(measured: Sequence[Document], labels: Sequence[Mapping[str, str]], make: Any) -> list[Table]:
    return [table for one, names in zip(measured, labels, strict=True) for table in make(one, names)]


def _training(document: Document) -> list[tuple[str, list[Chart], Table]]:
    """For each data set the curves of its training runs, and what they ended with."""
    runs = document.get("training") or ()
    found = []
    for place, dataset in enumerate(dict.fromkeys(run.get("dataset") or NONE for run in runs), start=1):
        chosen = [run for run in runs if (run.get("dataset") or NONE) == dataset]
        found.append((dataset, training_charts(chosen, place), documents.training(chosen)))
    return found


def _selection(selection: Document) -> str:
    parts = [f"runs {', '.join(map(str, selection['runs']))}"] if selection.get("runs") else []
    parts += [f"{name} {selection[name]}" for name in ("since", "dataset", "status") if selection.get(name)]
    parts += ["the best runs"] if selection.get("best") else []
    return "; ".join(parts)


def _run(run: Document) -> RunView:
    seed = None if run.get("seed") is None else f"seed {run['seed']}"
    facts = {
        "status": run.get("status"),
        "started": moment(run["started"]) if run.get("started") else None,
        "took": None if run.get("seconds") is None else duration(run["seconds"]),
        "data set": run.get("dataset"),
        "seed": run.get("seed"),
        "device": run.get("device"),
        "git commit": run.get("git_sha"),
        "configuration's hash": run.get("config_hash"),
        "folder": run.get("dir"),
    }
    return RunView(
        id=run["run"],
        command=run["command"],
        summary=", ".join(str(part) for part in (run.get("status"), run.get("dataset"), seed) if part),
        facts=[(name, plain(value) or NONE) for name, value in facts.items()],
        config=[(str(name), plain(value) or NONE) for name, value in sorted((run.get("config") or {}).items())],
        command_line=documents.command_line(run),
    )


# photos


def _attack(document: Document, read: Read, side: int, id: str) -> Attack:
    images = document["images"]
    known = [image for image in images if image.get("smallest_epsilon") is not None]
    most = max((image["smallest_epsilon"] for image in known), default=1.0)
    smallest = [
        Bar(base_name(one["image"]), 100 * one["smallest_epsilon"] / most, number_text(one["smallest_epsilon"]))
        for one in sorted(known, key=lambda one: one["smallest_epsilon"])
    ]
    labels = sorted({image["label"]["name"] or NONE for image in images})
    cards = (_card(document, f"photo-{id}-{place}", one, read, side) for place, one in enumerate(images, start=1))
    return Attack(id, photo_table(document), smallest, labels, cards)


def _card(document: Document, id: str, image: Document, read: Read, side: int) -> Card:
    shown = pictures(image, read, side)
    verdict, kind = _verdict(image)
    name, after = base_name(image["image"]), image["adversarial"]
    return Card(
        id=id,
        name=name,
        path=image["image"],
        label=image["label"]["name"] or NONE,
        verdict=verdict,
        kind=kind,
        explanation=_explanation(document, image),
        pictures=shown,
        missing=_missing(shown),
        bars=[("Top guesses before", _bars(image, "clean")), ("Top guesses after", _bars(image, "adversarial"))],
        facts=_facts(document, image),
        notes=list(image.get("notes") or ()),
        files=[(kind, path) for kind, path in (image.get("files") or {}).items() if path],
        sort={"name": name, "after": str(after["confidence"] or 0), "altered": str(image["altered_percent"] or 0)},
    )


def _verdict(image: Document) -> tuple[str, str]:
    """In words, and which kind it is: fooled, held, wrong (before the attack, too), or open."""
    before, after = image["clean"]["rank"], image["adversarial"]["rank"]
    target = image.get("target")
    reached = "reached" if image.get("reached") else "not reached"
    beside = "" if target is None else f", target {target['name']} {reached}"
    if after is None:
        return f"not known{beside}", "open"
    if after == 1:
        return ("still right" if before == 1 else "right") + beside, "held"
    return (f"fooled{beside}", "fooled") if before == 1 else (f"wrong before, too{beside}", "wrong")


def _explanation(document: Document, image: Document) -> str:
    """Where the object was found, and what that says, in one sentence."""
    found_by = image.get("detector") or image.get("localized_by") or document.get("detector")
    parts = [f"object found by {found_by}"] if found_by and found_by != "none" else ["no object was looked for"]
    boxes = image.get("boxes") or ()
    parts += [", ".join(f"{box[5]} {box[4]:.2f}" for box in boxes)] if boxes else []
    if image.get("evidence_inside") is not None:
        parts.append(f"{percent(image['evidence_inside'], 0)} of the classifier's evidence inside")
    if image["background_percent"] is not None:
        parts.append(f"the background is {percent(image['background_percent'] / 100, 0)} of the photo")
    return "; ".join(parts)


def _missing(shown: Pictures | None) -> str:
    if shown is None:
        return "The adversarial photo is missing or was changed, so it is not shown."
    known = {"before": "the photo as it was", "mask": "the mask", "difference": "the difference"}
    words = [text for name, text in known.items() if name not in shown.webp]
    return f"Not shown, since it cannot be read: {', '.join(words)}." if words else ""


def _bars(image: Document, side: str) -> list[Bar]:
    known, label = image[side], image["label"]
    guesses = [
        (guess["index"], guess["name"], guess.get("p", guess.get("confidence"))) for guess in known.get("top") or ()
    ]
    guesses = guesses or [(known.get("index"), known["prediction"] or NONE, p_guess(known))]
    bars = []
    for place, (index, name, p) in enumerate(guesses, start=1):
        right = known["rank"] == place if index is None or label["index"] is None else index == label["index"]
        bars.append(_bar(name, p, right))
    if not any(bar.right for bar in bars):
        bars.append(_bar(label["name"] or NONE, known["confidence"], True, known["rank"]))
    return bars


def _bar(name: str, p: float | None, right: bool, place: int | None = None) -> Bar:
    return Bar(name, round(100 * min(1.0, max(0.0, p or 0.0)), 2), NONE if p is None else probability(p), right, place)


def _facts(document: Document, image: Document) -> list[tuple[str, str]]:
    clean, after, label = image["clean"], image["adversarial"], image["label"]
    source = ", taken from the clean prediction" if label.get("source") == "prediction" else ""

    def both(show: Any, *values: Any) -> str:
        before, then = (NONE if value is None else show(value) for value in values)
        return f"{before} before, {then} after"

    facts = {
        "right class": f"{label['name'] or NONE}{source}",
        "its rank": both("{:,}".format, clean["rank"], after["rank"]),
        "p(right class)": both(probability, clean["confidence"], after["confidence"]),
        "p(guess)": both(probability, p_guess(clean), p_guess(after)),
        "p(target)": _or_none(image.get("p_target"), probability),
        "epsilon": _or_none(document.get("epsilon"), number_text),
        "smallest epsilon that fools": _or_none(image.get("smallest_epsilon"), number_text),
        "pixels altered": _or_none(image["altered_percent"], lambda value: percent(value / 100, 1)),
        "largest change": _or_none(image["linf_outside"], _change),
        "where none is allowed": _or_none(image["linf_inside"], _change),
        "PSNR": _or_none(image.get("psnr"), lambda value: f"{value:.1f} dB"),
        "SSIM": _or_none(image.get("ssim"), lambda value: f"{value:.3f}"),
    }
    return [(name, text) for name, text in facts.items() if text]


def _or_none(value: Any, show: Any) -> str:
    return "" if value is None else str(show(value))


def _change(value: float) -> str:
    return "0" if value == 0 else number_text(value)


# templates


def environment() -> Environment:
    """Templates that escape whatever they print; what is not printable becomes visible first."""
    made = Environment(
        loader=PackageLoader("latcli.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters |= {"short": short, "step": heat_step}
    made.globals |= {"printed": printed, "heat_steps": STEPS}
    return made


def heat_step(cell: Cell) -> int:
    """A cell's colour: 1 for the lowest loss to STEPS, 0 where there is none."""
    return 0 if cell.shade is None else 1 + min(STEPS - 1, int(cell.shade * STEPS))


def _source(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8").strip()


def _policy(style: str, script: str) -> str:
    """What the page may load: its own style and script, known by their hashes, and pictures that it carries itself."""
    hashes = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        for kind, text in (("style", style), ("script", script))
    }
    return (
        f"default-src 'none'; img-src data:; style-src '{hashes['style']}'; script-src '{hashes['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )
