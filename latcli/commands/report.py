"""`latcli report`: the report or a comparison of two runs, and the files that it is written to, each whole or not."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from latcli.commands.gathering import EVERYTHING, TABLES, TERMINAL, Needs, gather
from latcli.errors import LatcliError, UsageError
from latcli.options import ReportOptions
from latcli.reporting.text import number_text
from latcli.results import (
    MOST_RESULTS,
    ComparedRuns,
    ReportResult,
    WrittenFile,
    WrittenReport,
    median_smallest_epsilon,
    photo_summary,
    to_json,
)
from latcli.session import Session
from latcli.store.files import RUN_JSON, write_whole
from latcli.store.store import DATABASE, STORE_LOCK, RunRow, Store

Row = dict[str, Any]

#: In place of a file name: standard output.
STDOUT = Path("-")
#: Points of a training series that a picture can show.
_DRAWN_POINTS = 200
#: What is summed up of a photo.
_SUMMED = (
    *("was_right", "fooled", "altered_percent"),
    *("clean_rank", "clean_confidence", "adversarial_rank", "adversarial_confidence"),
)


def run(options: ReportOptions, session: Session) -> ReportResult | WrittenReport | ComparedRuns:
    """The report, written where files were asked for; `-` is printed at once.

    Raises UsageError and LatcliError before the work where options or paths are unusable, and StoreError.
    """
    check(options, session.store, json=session.json)
    if options.compare:
        return compare(options, session)
    needs = TABLES if texts_of(options) else TERMINAL
    if options.html is not None or options.png is not None:
        most = None if options.html is None else MOST_RESULTS
        needs = Needs(photos=most, hashed=options.html is not None, points=_DRAWN_POINTS)
    result = gather(options, session, EVERYTHING if session.json else needs)
    if not texts_of(options) and options.png is None:
        return result
    written = tuple(_write(options, to_json(result), session.stdout))
    if options.open and options.html is not None and not webbrowser.open(options.html.absolute().as_uri()):
        session.note(f"no browser could be opened; the page is {options.html}")
    return replace(result, written=written) if session.json else WrittenReport(written)


def texts_of(options: ReportOptions) -> dict[str, Path]:
    """The formats that are one text each, and where they go."""
    given = {"html": options.html, "markdown": options.markdown, "csv": options.csv, "latex": options.latex}
    return {name: path for name, path in given.items() if path is not None}


# files


def check(options: ReportOptions, store: Path, *, json: bool) -> None:
    """Raise UsageError for options that do not go together, and LatcliError for paths that cannot be written."""
    texts = texts_of(options)
    printed = [f"--{name} -" for name, path in texts.items() if path == STDOUT] + ["--json"] * json
    if len(printed) > 1:
        raise UsageError(f"{' and '.join(printed)} would both be on stdout", "write one of them into a file")
    if options.png == STDOUT:
        raise UsageError("--png makes several files, which stdout cannot hold", "name a folder: --png DIR")
    if options.open and options.html in (None, STDOUT):
        raise UsageError("--open needs a page to open", "write one: --html report.html --open")
    files = [path.absolute() for path in texts.values() if path != STDOUT]
    if len(set(files)) < len(files):
        raise UsageError("two formats name the same file", "give each its own file")
    if options.compare:
        if len(options.runs) != 2:
            raise UsageError(
                f"--compare needs two runs, not {len(options.runs)}", "give the ends of their ids: 7f3a 81c2"
            )
        others = ("since", "dataset", "status", "best", "paper", "png", *texts)
        if mixed := [name for name in others if getattr(options, name)]:
            raise UsageError(
                f"--compare cannot be used with --{mixed[0]}", "leave one of them out; --compare works with --json"
            )
    for path in files:
        _check_path(path, store)
    if options.png is not None:
        _check_path(options.png / "figure.png", store, make_folder=True)


def _check_path(path: Path, store: Path, *, make_folder: bool = False) -> None:
    """Raise UsageError for a folder, the store's database and anything in a run's folder, LatcliError if unwritable."""
    resolved, root = Path(os.path.realpath(path)), Path(os.path.realpath(store))
    is_database = resolved.parent == root and resolved.name.startswith((DATABASE, STORE_LOCK))
    if is_database or any(root in one.parents and (one / RUN_JSON).exists() for one in resolved.parents):
        raise UsageError(f"{path} belongs to the store", "write the report somewhere else")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", f"name a file in it: {path / 'report'}")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() or not path.exists():  # a pipe or a device needs no room beside it
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise _unwritable(path.parent if make_folder else path, error) from error


def _write(options: ReportOptions, document: Mapping[str, Any], stdout: TextIO) -> Iterator[WrittenFile]:
    """Write the report in every format that was asked for. Raises LatcliError."""
    for name, path in texts_of(options).items():
        yield WrittenFile(name, path, _write_one(path, _pieces(name, document), stdout))
    if options.png is not None:
        from latcli.reporting.figures import charts

        for name, data in charts(document):
            path = options.png / name
            yield WrittenFile("png", path, _write_one(path, [data], stdout))


def _pieces(name: str, document: Mapping[str, Any]) -> Iterable[str]:
    """Only what was asked for is imported: a page needs more than a terminal."""
    if name == "html":
        from latcli.reporting.page import render

        return render(document, _picture)
    from latcli.reporting import render as files

    return {"markdown": files.markdown, "csv": files.csv_lines, "latex": files.latex}[name](document)


def _picture(path: str) -> bytes | None:
    """A picture that was sound when the report was gathered; None where it is gone since."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _write_one(path: Path, pieces: Iterable[str | bytes], stdout: TextIO) -> int:
    """Write pieces one after another, text as UTF-8; returns their size in bytes. The file is whole or as it was.

    Raises LatcliError where it cannot be written.
    """
    whole = (one.encode("utf-8", "backslashreplace") if isinstance(one, str) else one for one in pieces)
    if path == STDOUT:
        size = 0
        for data in whole:
            stdout.write(data.decode("utf-8"))
            size += len(data)
        return size
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written into, never replaced
            with path.open("wb") as stream:
                return sum(map(stream.write, whole))
        return write_whole(path, whole)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> LatcliError:
    reason = (error.strerror or str(error)).lower()
    return LatcliError(f"{path} cannot be written: {reason}", "name a file in a folder that you can write to")


# two runs side by side


def compare(options: ReportOptions, session: Session) -> ComparedRuns:
    """Two runs of one command: options that differ, and all results.

    Raises StoreError, and UsageError for unknown runs, one run twice, or runs of two commands.
    """
    with Store.open_existing(session.store) as store:
        a, b = (store.find_run(name) for name in options.runs)
        if a.id == b.id:
            raise UsageError(f"both names are those of {a.id}", "name two runs: --compare 7f3a 81c2")
        if a.command != b.command:
            raise UsageError(
                f"{a.id} is a run of {a.command}, {b.id} one of {b.command}", "compare two runs of the same command"
            )
        # Rows that lack anything are damaged, and take no part.
        rows = {run.id: store.rows_of(run.id, "attacks") for run in (a, b)}
        photos = {run: [row for row in rows[run] if None not in map(row.get, _SUMMED)] for run in rows}
        names = _names_apart([*photos[a.id], *photos[b.id]])
        groups = {run: _groups(found) for run, found in photos.items()}
        apart = any(len(of_run) > 1 for of_run in groups.values())
        everything = _side_by_side(*(_configuration(store, run) for run in (a, b)))
        results = _side_by_side(*(_results(store, run, groups[run.id], names, apart=apart) for run in (a, b)))
    differing = [row for row in everything if row["a"] != row["b"]]
    shown = ("command", "status", "started", "seconds")
    return ComparedRuns(
        store=session.store,
        runs=tuple({"run": run.id} | {name: getattr(run, name) for name in shown} for run in (a, b)),
        configuration=tuple(differing),
        equal=len(everything) - len(differing),
        results=tuple(row | {"difference": _difference(row["a"], row["b"])} for row in results),
    )


def _configuration(store: Store, run: RunRow) -> Row:
    sha = None if run.environment is None else store.environment(run.environment)["git_sha"]
    around = {"seed": run.seed, "device": run.device, "data": run.dataset, "git sha": sha, "status": run.status}
    return around | {name: value for name, value in run.config.items() if name not in ("entries", "notes")}


def _names_apart(photos: Iterable[Row]) -> dict[str, str]:
    """What each photo is called, by its sha256: as in the first of the runs; two of one name have their sha256, too.

    Photos are the same where their contents are, wherever they lay.
    """
    names: dict[str, str] = {}
    for photo in photos:
        names.setdefault(photo["sha256"], photo["image"])
    counts = Counter(names.values())
    return {one: name if counts[name] == 1 else f"{name} {one[:8]}" for one, name in names.items()}


def _groups(photos: Iterable[Row]) -> dict[tuple[str, float | None], list[Row]]:
    """Photos by region and epsilon; a search for the smallest epsilon, which each photo has its own of, is one."""
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for photo in photos:
        epsilon = photo["epsilon"] if photo["smallest_epsilon_max"] is None else None
        groups.setdefault((photo["region"], epsilon), []).append(photo)
    return groups


def _results(
    store: Store,
    run: RunRow,
    groups: Mapping[tuple[str, float | None], Sequence[Row]],
    names: Mapping[str, str],
    *,
    apart: bool,
) -> Row:
    """What came of a run, by name. apart: figures of photos have their region and epsilon in their names."""
    found: Row = {metric["name"]: metric["value"] for metric in store.rows_of(run.id, "latest_metrics")}
    cells: dict[tuple[str, str], list[Row]] = {}
    for cell in store.rows_of(run.id, "cells"):
        cells.setdefault((cell["regime"] or cell["label"] or cell["model_id"], cell["input"]), []).append(cell)
    for (name, given), members in cells.items():  # over the models of a regime, of which the runs may have others
        found[f"{name}: models"] = len(members)
        for figure in ("loss", "accuracy"):
            values = [cell[figure] for cell in members]
            found[f"{name}, {given}: {figure}"] = None if None in values else fmean(values)
    for (region, epsilon), attacked in groups.items():
        tried = "smallest epsilon" if epsilon is None else f"epsilon {number_text(epsilon)}"
        place = f"{region}, {tried}, " if apart else ""
        means = photo_summary(attacked)
        found |= {f"{place}photos": means.n, f"{place}right before": means.right_before, f"{place}fooled": means.fooled}
        if epsilon is None:
            found[f"{place}median smallest epsilon"] = median_smallest_epsilon(attacked)
        found[f"{place}altered, %"] = means.altered_percent
        for side, averages in (("clean", means.clean), ("adversarial", means.adversarial)):
            for name in ("right", "top10", "confidence"):
                found[f"{place}{side}, {name}"] = getattr(averages, name)
        found |= {f"{place}{names[one['sha256']]}: confidence": one["adversarial_confidence"] for one in attacked}
    return found


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    return [{"name": name, "a": a.get(name), "b": b.get(name)} for name in dict.fromkeys([*a, *b])]


def _difference(a: object, b: object) -> float | None:
    return b - a if isinstance(a, int | float) and isinstance(b, int | float) else None
