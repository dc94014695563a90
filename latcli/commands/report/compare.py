"""`latcli report --compare A B`: two runs of one command in, what differs between them out; must not judge or draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from latcli.commands.report.files import lacking
from latcli.commands.report.matrix import entries
from latcli.commands.report.photos import image_of, summary
from latcli.errors import UsageError
from latcli.options import ReportOptions
from latcli.session import Session
from latcli.store.store import RunRow, Store

Values = dict[str, Any]

#: Parts of a configuration that are no choice, or stand elsewhere in the comparison.
_NOT_CHOSEN = frozenset({"entries", "notes"})


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side. configuration: only what differs; results: all that both or one of them has."""

    store: str
    runs: tuple[Values, Values]
    configuration: list[Values]
    equal: int
    results: list[Values]

    def to_json(self) -> dict[str, Any]:
        """`{"runs": [A, B], "configuration": [{name, a, b}], "equal": n, "results": [{name, a, b, difference}]}`."""
        return {
            "store": self.store,
            "runs": list(self.runs),
            "configuration": self.configuration,
            "equal": self.equal,
            "results": self.results,
        }


def compare(options: ReportOptions, session: Session) -> Comparison:
    """Raises StoreError, and UsageError for unknown runs, one run twice, or runs of two commands."""
    with Store.open_existing(session.store) as store:
        a, b = (store.find_run(name) for name in options.runs)
        if a.id == b.id:
            raise UsageError(f"both names are those of {a.id}", "name two runs: --compare 7f3a 81c2")
        if a.command != b.command:
            raise UsageError(
                f"{a.id} is a run of {a.command}, {b.id} one of {b.command}", "compare two runs of the same command"
            )
        chosen = [_configuration(store, row) for row in (a, b)]
        photos = [_photos_of(store, row) for row in (a, b)]
        names = _names_apart([*photos[0], *photos[1]])
        found = [_results(store, row, images, names) for row, images in zip((a, b), photos, strict=True)]
        differing = [row for row in _side_by_side(*chosen) if row["a"] != row["b"]]
        return Comparison(
            store=str(store.folder),
            runs=(_run(a), _run(b)),
            configuration=differing,
            equal=len(chosen[0].keys() | chosen[1].keys()) - len(differing),
            results=[row | {"difference": _difference(row["a"], row["b"])} for row in _side_by_side(*found)],
        )


def _run(row: RunRow) -> Values:
    return {"run": row.id, "command": row.command, "status": row.status, "started": row.started, "seconds": row.seconds}


def _configuration(store: Store, row: RunRow) -> Values:
    around = {
        "seed": row.seed,
        "device": row.device,
        "data": row.dataset,
        "git sha": {one["id"]: one["git_sha"] for one in store.rows("environments")}.get(row.environment),
        "status": row.status,
    }
    return around | {name: value for name, value in row.config.items() if name not in _NOT_CHOSEN}


def _photos_of(store: Store, row: RunRow) -> list[Values]:
    """The photos that a run attacked, but for those of which a figure is missing."""
    return [image_of(photo) for photo in store.rows_of(row.id, "attacks") if not lacking(photo)]


def _names_apart(images: Iterable[Values]) -> dict[str, str]:
    """What each photo is called, by `_identity`: as the first of the runs did; two of one name have their sha256, too.

    Photos are the same where their contents are, wherever they lay.
    """
    names: dict[str, str] = {}
    for image in images:
        names.setdefault(_identity(image), image["image"])
    counts = Counter(names.values())
    return {one: name if counts[name] == 1 else f"{name} {one[:8]}" for one, name in names.items()}


def _identity(image: Values) -> str:
    """The sha256 of a photo; rows that another program wrote may have the name alone."""
    return str(image["sha256"] or image["image"])


def _results(store: Store, row: RunRow, photos: list[Values], names: Mapping[str, str]) -> Values:
    numbers = {metric["name"]: metric["value"] for metric in store.rows_of(row.id, "latest_metrics")}
    cells = _cells(store.rows_of(row.id, "cells"), row)
    return numbers | cells | _photos(photos, names)


def _cells(cells: list[Values], row: RunRow) -> Values:
    """Means over the models of a regime, and how many they are, so that evaluations of other models can be compared."""
    known = entries(row)
    groups: dict[tuple[str, str], list[Values]] = {}
    for cell in cells:
        name = cell["regime"] or known.get(cell["model_id"], {}).get("label", cell["model_id"])
        groups.setdefault((name, cell["input"]), []).append(cell)
    found: Values = {}
    for (name, given), members in groups.items():
        found[f"{name}: models"] = len(members)
        for figure in ("loss", "accuracy"):
            values = [cell[figure] for cell in members]
            found[f"{name}, {given}: {figure}"] = None if None in values else fmean(values)
    return found


def _photos(images: list[Values], names: Mapping[str, str]) -> Values:
    if not images:
        return {}
    means = summary(images)
    found: Values = {"photos": means["n"], "fooled": means["fooled"], "altered, %": means["altered_percent"]}
    for side in ("clean", "adversarial"):
        found |= {f"{side}, {name}": means[side][name] for name in ("right", "top10", "confidence")}
    for image in images:
        found[f"{names[_identity(image)]}: confidence"] = image["adversarial"]["confidence"]
    return found


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Values]:
    return [{"name": name, "a": a.get(name), "b": b.get(name)} for name in dict.fromkeys([*a, *b])]


def _difference(a: object, b: object) -> float | None:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return b - a
    return None
