"""The report as one HTML file that loads nothing, put together from its templates piece by piece."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageFilter, ImageOps

from latcli.reporting import documents, evaluations, figures
from latcli.reporting.photos import found_by, photo_table
from latcli.reporting.table import SHADES, Table, printed
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
Read = Callable[[str], bytes | None]

#: Longer side of the shown pictures in pixels, where there are few photos and where there are many.
FEW, LARGE_SIDE, SMALL_SIDE = 40, 512, 320

#: The object's tint and outline: red, green, blue, and how much of them.
_TINT, _OUTLINE = (255, 176, 0, 84), (255, 176, 0, 255)

#: Pieces of the template that make one piece of what `render` yields.
_BUFFERED = 200


def render(document: Document, picture: Read) -> Iterator[str]:
    """The report's JSON document as an HTML page, in pieces to be written one after another as UTF-8.

    `picture` gives the bytes of a photo's file by the path that the document has for it, or None where it cannot be had
    as it was written. It is called while the pieces are taken, and photos are let go one by one, so that memory stays
    flat however many there are.
    """
    style, script = _style(), _source("page.js")
    attacks = [one for one in document["attacks"] if one["images"]]
    photos = sum(len(one["images"]) for one in attacks)
    side = LARGE_SIDE if photos <= FEW else SMALL_SIDE
    sections = _sections(document, attacks, picture, side)
    page = _environment().get_template("page.html")
    pieces = page.stream(
        document=document,
        created=moment(document["created"]),
        facts=_header(document, photos),
        side=side,
        sections={id: parts for id, parts in sections.items() if any(parts.values())},
        run_ids={run["run"] for run in document["runs"]},
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )
    pieces.enable_buffering(_BUFFERED)
    yield from pieces


def _sections(
    document: Document, attacks: Sequence[Document], picture: Read, side: int
) -> dict[str, dict[str, Sequence[Any]]]:
    """The parts of each section by what they are: charts, tables, attacks or runs."""
    measured = [table for one in document["evaluations"] for table in documents.beside_matrix(one)]
    curves, transfer, reliance = (
        [table for table in measured if table.kind == kind] for kind in ("curve", "transfer", "reliance")
    )
    trained = document["training"]
    training = [documents.training(trained, document["best"])] if trained else []
    photos = [_attack(one, picture, side, f"{one['run']}-{place}") for place, one in enumerate(attacks, start=1)]
    return {
        "matrix": {"tables": [evaluations.matrix(one) for one in document["matrices"]]},
        "paper": {"tables": documents.paper(document["paper"] or ())},
        "curves": {"charts": list(map(_chart, curves))},
        "transfer": {"tables": transfer},
        "reliance": {"tables": reliance},
        "photos": {"attacks": photos},
        "training": {"charts": list(map(_chart, documents.training_curves(trained))), "tables": training},
        "runs": {"runs": document["runs"]},
        "not-shown": {"tables": documents.not_shown(document)},
    }


#: Columns of the table beside a chart.
_POINTS = 10


def _chart(table: Table) -> dict[str, Any]:
    """The table as a picture, in words, and with about `_POINTS` of its columns, the last among them."""
    places = range(1, len(table.columns))
    kept = sorted({0, *places[:: math.ceil(len(places) / _POINTS)], places[-1]})
    rows = (replace(row, cells=tuple(row.cells[k] for k in kept)) for row in table.rows)
    few = replace(table, columns=tuple(table.columns[k] for k in kept), rows=tuple(rows))
    svg = base64.b64encode(figures.drawn("", [table], "svg")).decode("ascii")
    return {"table": few, "words": figures.in_words(table), "svg": svg}


def _header(document: Document, photos: int) -> list[tuple[str, str]]:
    """What the report is of, by name; empty where there is nothing to say."""
    selection, left_out = document["selection"], len(document["left_out"])
    selected = [f"runs {', '.join(selection['runs'])}"] if selection["runs"] else []
    selected += [f"{name} {selection[name]}" for name in ("since", "dataset", "status") if selection[name]]
    selected += ["the best runs"] if selection["best"] else []
    return [
        ("made", moment(document["created"])),
        ("runs", f"{len(document['runs'])}" + (f", {left_out} left out" if left_out else "")),
        ("results of photos", str(photos or "")),
        ("selected", "; ".join(selected)),
        ("store", document["store"]),
        ("latcli", document["latcli"]),
    ]


# photos


def _attack(document: Document, read: Read, side: int, id: str) -> dict[str, Any]:
    """Attacked photos. `cards` are made one by one while the page is written, and only once."""
    images = document["images"]
    known = ((one["smallest_epsilon"], base_name(one["image"])) for one in images)
    smallest = sorted((epsilon, name) for epsilon, name in known if epsilon)
    labels = sorted({image["label"]["name"] for image in images})
    cards = (_card(f"photo-{id}-{place}", one, read, side) for place, one in enumerate(images, start=1))
    return {"id": id, "table": photo_table(document), "smallest": smallest, "labels": labels, "cards": cards}


def _card(id: str, image: Document, read: Read, side: int) -> dict[str, Any]:
    """One photo. missing: in words what of it cannot be shown; sort: what cards are sorted by."""
    shown = pictures(image, read, side)
    verdict, kind = _verdict(image)
    name, after = base_name(image["image"]), image["adversarial"]
    return {
        "id": id,
        "name": name,
        "label": image["label"]["name"],
        "verdict": verdict,
        "kind": kind,
        "explanation": _explanation(image),
        "pictures": shown,
        "missing": _missing(shown),
        "image": image,
        "sort": {"name": name, "after": str(after["confidence"]), "altered": str(image["altered_percent"])},
    }


def _verdict(image: Document) -> tuple[str, str]:
    """In words, and which kind it is: fooled, held, or wrong (before the attack, too)."""
    before, after, target = image["clean"]["rank"], image["adversarial"]["rank"], image["target"]
    reached = "reached" if image["reached"] else "not reached"
    beside = "" if target is None else f", target {target['name']} {reached}"
    if after == 1:
        return ("still right" if before == 1 else "right") + beside, "held"
    return (f"fooled{beside}", "fooled") if before == 1 else (f"already wrong before{beside}", "wrong")


def _explanation(image: Document) -> str:
    """Where the object was found, and what that says, in one sentence."""
    parts = [found_by(image["detector"]), ", ".join(f"{box[5]} {box[4]:.2f}" for box in image["boxes"])]
    if image["evidence_inside"] is not None:
        parts.append(f"{percent(image['evidence_inside'], 0)} of the classifier's evidence inside")
    parts.append(f"the background is {percent(image['background_percent'] / 100, 0)} of the photo")
    return "; ".join(filter(None, parts))


#: A photo's pictures in words, those below first.
_PICTURES = {
    "after": "Adversarial photo",
    "before": "Photo as it was",
    "difference": "What was changed, amplified",
    "mask": "The object, tinted",
}


def _missing(shown: Pictures | None) -> str:
    if shown is None:
        return "The adversarial photo is missing or was changed, so it is not shown."
    known = {"before": "the photo as it was", "mask": "the mask", "difference": "the difference"}
    words = [text for name, text in known.items() if name not in shown.webp]
    return f"Not shown, since it cannot be read: {', '.join(words)}." if words else ""


# pictures, small enough for a page of hundreds; H height, W width, C = 3, levels are uint8


@dataclass(frozen=True)
class Pictures:
    """WebP as base64 by name (before, after, mask, difference), and the size of each, one for all."""

    width: int
    height: int
    webp: Mapping[str, str]


def pictures(image: Mapping[str, Any], read: Read, side: int) -> Pictures | None:
    """What can be shown of a photo of the document, at most `side` pixels long; None without the adversarial photo.

    The photo as it was follows from the adversarial one and the difference: both are of the file's own levels.
    """
    after = _opened(image, "adversarial", read, "RGB")
    if after is None:
        return None
    shrink = min(1.0, side / max(after.size))
    width, height = (max(1, round(length * shrink)) for length in after.size)
    small = (width, height)
    shown = {"after": _webp(after.resize(small, Image.Resampling.LANCZOS), quality=78)}
    difference = _opened(image, "difference", read, "RGB", after.size)
    if difference is not None:
        change_HWC = change(np.asarray(difference), figures.difference_gain(image["linf_outside"]))
        before = Image.fromarray(original(np.asarray(after), change_HWC))
        shown["before"] = _webp(before.resize(small, Image.Resampling.LANCZOS), quality=78)
        # The largest change of a pixel's channels, white for the photo's largest: signed noise would shrink to grey.
        strength_HW = np.abs(change_HWC).max(axis=2).astype(np.float32)
        levels_HW = np.rint(strength_HW * (255.0 / max(1.0, float(strength_HW.max())))).astype(np.uint8)
        shown["difference"] = _webp(Image.fromarray(levels_HW).resize(small, Image.Resampling.BOX), quality=50)
    mask = _opened(image, "mask", read, "L", after.size)
    if mask is not None:
        shown["mask"] = _webp(_overlay(mask.resize(small, Image.Resampling.BOX)), lossless=True)
    return Pictures(width, height, shown)


def change(difference_HWC: np.ndarray, gain: float) -> np.ndarray:
    """The change in levels, int16 (H, W, C), that a difference picture shows; exact from a gain of 1 on."""
    change_HWC: np.ndarray = np.rint((difference_HWC.astype(np.float32) - 128.0) / gain).astype(np.int16)
    return change_HWC


def original(adversarial_HWC: np.ndarray, change_HWC: np.ndarray) -> np.ndarray:
    """The photo as it was, uint8 (H, W, C): exact, or to a level where the change is not."""
    photo_HWC: np.ndarray = np.clip(adversarial_HWC.astype(np.int16) - change_HWC, 0, 255).astype(np.uint8)
    return photo_HWC


def _opened(
    image: Mapping[str, Any], kind: str, read: Read, mode: str, size: tuple[int, int] | None = None
) -> Image.Image | None:
    """A file of a photo, decoded; None where it cannot be read, is no picture or of another size."""
    path = image["files"].get(kind)
    data = read(path) if path else None
    if data is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own files: any size was allowed
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return picture if size in (None, picture.size) else None


def _overlay(mask: Image.Image) -> Image.Image:
    """The object tinted and outlined, all else transparent."""
    solid = mask.point(lambda level: 255 if level >= 128 else 0)
    overlay = Image.new("RGBA", mask.size, (0, 0, 0, 0))
    overlay.paste(_TINT, mask=solid)
    edge = Image.fromarray(np.asarray(solid) - np.asarray(solid.filter(ImageFilter.MinFilter(5))))
    overlay.paste(_OUTLINE, mask=edge)
    return overlay


def _webp(picture: Image.Image, quality: int = 80, lossless: bool = False) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, lossless=lossless, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# templates


def _environment() -> Environment:
    """Templates that escape whatever they print; what is not printable becomes visible first."""
    made = Environment(
        loader=PackageLoader("latcli.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters |= {name: _or_nothing(show) for name, show in _SHOWN.items()}
    made.globals |= {"printed": printed, "shades": SHADES, "picture_words": _PICTURES}
    return made


#: How values of the document are shown in a template.
_SHOWN: dict[str, Callable[..., str]] = {
    **{"short": short, "moment": moment, "duration": duration, "plain": plain, "command_line": documents.command_line},
    **{"probability": probability, "percent": percent, "epsilon": number_text},
}


def _or_nothing(show: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *more: "" if value is None else show(value, *more)


def _style() -> str:
    """The style sheet, with a class for each colour of a heat map."""
    heat = [
        f".heat.h{step} {{ background: light-dark({light}, {dark}); color: light-dark({ink}, {dark_ink}); }}"
        for step, (light, ink, dark, dark_ink) in enumerate(SHADES)
    ]
    return "\n".join([_source("page.css"), *heat])


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
