"""The page put together from its templates, piece by piece; must not know the store, nor where the page goes."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from latcli import __version__
from latcli.reporting.page import formats
from latcli.reporting.page.comparison import comparisons
from latcli.reporting.page.further import curves, reliance, training, transfer
from latcli.reporting.page.matrix import STEPS, heat_map
from latcli.reporting.page.photos import attack
from latcli.reporting.page.pictures import FEW, LARGE_SIDE, SMALL_SIDE, Read
from latcli.reporting.text import printable

#: Pieces of the template that make one piece of what `render` yields.
_BUFFERED = 200


@dataclass(frozen=True)
class RunView:
    """A run as the page lists it: facts and configuration by name, and its command line."""

    id: str
    command: str
    summary: str
    facts: list[tuple[str, str]]
    config: list[tuple[str, str]]
    argv: str


def render(document: Mapping[str, Any], picture: Read) -> Iterator[str]:
    """The report's JSON document as an HTML page, in pieces to be written one after another as UTF-8.

    `picture` gives the bytes of a photo's file by the path that the document has for it, or None where it cannot be had
    as it was written. It is called while the pieces are taken, and photos are let go one by one, so that memory stays
    flat however many there are.
    """
    style, script = _source("page.css"), _source("page.js")
    page = (
        _environment()
        .get_template("page.html")
        .stream(
            **_content(document, picture), style=Markup(style), script=Markup(script), policy=_policy(style, script)
        )
    )
    page.enable_buffering(_BUFFERED)
    yield from page


def _content(document: Mapping[str, Any], picture: Read) -> dict[str, Any]:
    photos = sum(len(one["images"]) for one in document.get("attacks") or ())
    side = LARGE_SIDE if photos <= FEW else SMALL_SIDE
    runs = [_run(run) for run in document.get("runs") or ()]
    return {
        "created": formats.moment(document.get("created") or datetime.now(UTC).isoformat()),
        "version": document.get("latcli") or __version__,
        "store": document.get("store") or formats.NONE,
        "selection": _selection(document.get("selection") or {}),
        "matrices": [heat_map(one) for one in document.get("matrices") or ()],
        "heat_steps": STEPS,
        "comparisons": comparisons(document.get("paper")),
        "curves": curves(document),
        "transfer": transfer(document),
        "reliance": reliance(document),
        "training": training(document),
        "attacks": [attack(one, picture, side) for one in document.get("attacks") or () if one["images"]],
        "photos": photos,
        "side": side,
        "runs": runs,
        "run_ids": {run.id for run in runs},
        "left_out": list(document.get("left_out") or ()),
        "faults": list(document.get("faults") or ()),
    }


def _selection(selection: Mapping[str, Any]) -> str:
    parts = [f"runs {', '.join(map(str, selection['runs']))}"] if selection.get("runs") else []
    parts += [f"{name} {selection[name]}" for name in ("since", "dataset", "status") if selection.get(name)]
    parts += ["the best runs"] if selection.get("best") else []
    return "; ".join(parts)


def _run(run: Mapping[str, Any]) -> RunView:
    config = run.get("config") or {}
    argv = run.get("argv") or ()
    device, sha = run.get("device") or formats.NONE, run.get("git_sha") or formats.NONE
    return RunView(
        id=run["run"],
        command=run["command"],
        summary=", ".join(str(part) for part in (run.get("status"), run.get("dataset"), _seed(run)) if part),
        facts=[
            ("status", formats.plain(run.get("status"))),
            ("started", formats.moment(run.get("started"))),
            ("took", formats.seconds(run.get("seconds"))),
            ("data set", formats.plain(run.get("dataset"))),
            ("seed", formats.plain(run.get("seed"))),
            ("device", formats.plain(device)),
            ("git commit", formats.plain(sha)),
            ("configuration's hash", formats.plain(run.get("config_hash"))),
            ("folder", formats.plain(run.get("dir"))),
        ],
        config=[(str(name), formats.plain(value)) for name, value in sorted(config.items())],
        argv=argv if isinstance(argv, str) else " ".join(_word(str(word)) for word in argv),
    )


def _seed(run: Mapping[str, Any]) -> str | None:
    return None if run.get("seed") is None else f"seed {run['seed']}"


def _word(word: str) -> str:
    """A word of a command line as a POSIX shell would take it, on one line."""
    return shlex.quote(printable(word))


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


def _environment() -> Environment:
    """Templates that escape whatever they print; what is not printable becomes visible first."""
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"short": formats.short}
    return environment


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
