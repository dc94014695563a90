"""`latcli report --compare A B`: two runs of one command side by side: options that differ, and all results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from latcli.errors import UsageError
from latcli.options import ReportOptions
from latcli.reporting.text import number_text
from latcli.results import AttackedPhoto, ComparedRuns, DocumentError, from_columns, photo_summary
from latcli.session import Session
from latcli.store.store import RunRow, Store

Row = dict[str, Any]


def compare(options: ReportOptions, session: Session) -> ComparedRuns:
    """The comparison. Raises StoreError, and UsageError for unknown runs, one run twice, or runs of two commands."""
    with Store.open_existing(session.store) as store:
        a, b = (store.find_run(name) for name in options.runs)
        if a.id == b.id:
            raise UsageError(f"both names are those of {a.id}", "name two runs: --compare 7f3a 81c2")
        if a.command != b.command:
            raise UsageError(
                f"{a.id} is a run of {a.command}, {b.id} one of {b.command}", "compare two runs of the same command"
            )
        revisions = {row["id"]: row["git_sha"] for row in store.rows("environments")}
        photos = [_photos_of(store, row) for row in (a, b)]
        names = _names_apart([*photos[0], *photos[1]])
        everything = _side_by_side(*(_configuration(row, revisions.get(row.environment)) for row in (a, b)))
        results = _side_by_side(*(_results(store, *one, names) for one in zip((a, b), photos, strict=True)))
        differing = [row for row in everything if row["a"] != row["b"]]
        shown = ("command", "status", "started", "seconds")
        return ComparedRuns(
            store=store.folder,
            runs=tuple({"run": row.id} | {name: getattr(row, name) for name in shown} for row in (a, b)),
            configuration=tuple(differing),
            equal=len(everything) - len(differing),
            results=tuple(row | {"difference": _difference(row["a"], row["b"])} for row in results),
        )


def _configuration(row: RunRow, git_sha: str | None) -> Row:
    around = {"seed": row.seed, "device": row.device, "data": row.dataset, "git sha": git_sha, "status": row.status}
    return around | {name: value for name, value in row.config.items() if name not in ("entries", "notes")}


def _photos_of(store: Store, row: RunRow) -> list[AttackedPhoto]:
    """The photos that a run attacked, without those whose rows cannot be read."""
    found = []
    for columns in store.rows_of(row.id, "attacks"):
        try:
            found.append(from_columns(AttackedPhoto, columns))
        except DocumentError:
            continue
    return found


def _names_apart(photos: Iterable[AttackedPhoto]) -> dict[str, str]:
    """What each photo is called, by its sha256: as in the first of the runs; two of one name have their sha256, too.

    Photos are the same where their contents are, wherever they lay.
    """
    names: dict[str, str] = {}
    for photo in photos:
        names.setdefault(photo.sha256, photo.image)
    counts = Counter(names.values())
    return {one: name if counts[name] == 1 else f"{name} {one[:8]}" for one, name in names.items()}


def _results(store: Store, row: RunRow, photos: Sequence[AttackedPhoto], names: Mapping[str, str]) -> Row:
    found: Row = {metric["name"]: metric["value"] for metric in store.rows_of(row.id, "latest_metrics")}
    cells: dict[tuple[str, str], list[Row]] = {}
    for cell in store.rows_of(row.id, "cells"):
        cells.setdefault((cell["regime"] or cell["label"] or cell["model_id"], cell["input"]), []).append(cell)
    for (name, given), members in cells.items():  # over the models of a regime, of which the runs may have others
        found[f"{name}: models"] = len(members)
        for figure in ("loss", "accuracy"):
            values = [cell[figure] for cell in members]
            found[f"{name}, {given}: {figure}"] = None if None in values else fmean(values)
    groups: dict[tuple[str, float], list[AttackedPhoto]] = {}
    for photo in photos:
        groups.setdefault((photo.region, photo.epsilon), []).append(photo)
    for (region, epsilon), attacked in groups.items():
        place = f"{region}, epsilon {number_text(epsilon)}, " if len(groups) > 1 else ""
        found |= {f"{place}{name}": value for name, value in _photo_results(attacked, names).items()}
    return found


def _photo_results(photos: Sequence[AttackedPhoto], names: Mapping[str, str]) -> Row:
    means = photo_summary(photos)
    found: Row = {
        "photos": means.n,
        "right before": means.right_before,
        "fooled": means.fooled,
        "altered, %": means.altered_percent,
    }
    for side, averages in (("clean", means.clean), ("adversarial", means.adversarial)):
        found |= {f"{side}, {name}": getattr(averages, name) for name in ("right", "top10", "confidence")}
    return found | {f"{names[photo.sha256]}: confidence": photo.adversarial.confidence for photo in photos}


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    return [{"name": name, "a": a.get(name), "b": b.get(name)} for name in dict.fromkeys([*a, *b])]


def _difference(a: object, b: object) -> float | None:
    return b - a if isinstance(a, int | float) and isinstance(b, int | float) else None
