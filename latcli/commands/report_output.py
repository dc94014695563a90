"""The files that a report is written to: checked before the work, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from latcli.errors import LatcliError, UsageError
from latcli.options import ReportOptions
from latcli.results import WrittenFile
from latcli.store.files import RUN_JSON, write_whole
from latcli.store.store import DATABASE, STORE_LOCK

#: In place of a file name: standard output.
STDOUT = Path("-")


def texts_of(options: ReportOptions) -> dict[str, Path]:
    """The formats that are one text each, and where they go."""
    given = {"html": options.html, "markdown": options.markdown, "csv": options.csv, "latex": options.latex}
    return {name: path for name, path in given.items() if path is not None}


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
    names: dict[Path, str] = {}
    for name, path in texts.items():
        if path != STDOUT and names.setdefault(path.absolute(), name) != name:
            raise UsageError(f"--{names[path.absolute()]} and --{name} name the same file", "give each its own file")
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
    for path in texts.values():
        if path != STDOUT:
            _check_path(path, store)
    if options.png is not None:
        _check_path(options.png / "figure.png", store, make_folder=True)


def _check_path(path: Path, store: Path, *, make_folder: bool = False) -> None:
    """Raise UsageError for a file of the store, for its database or anything in a run's folder, and for a folder.

    Raises LatcliError where a file could not be written there. make_folder: its folder is made where there is none.
    """
    resolved, root = Path(os.path.realpath(path)), Path(os.path.realpath(store))
    is_database = resolved.parent == root and resolved.name.startswith((DATABASE, STORE_LOCK))
    of_run = [one for one in resolved.parents if root in one.parents and (one / RUN_JSON).exists()]
    if is_database or of_run:
        raise UsageError(f"{path} belongs to the store", "write the report somewhere else")
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder", f"name a file in it: {path / 'report'}")
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() or not path.exists():  # a pipe or a device needs no room beside it
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise _unwritable(path.parent if make_folder else path, error) from error


def write(options: ReportOptions, document: Mapping[str, Any], stdout: TextIO) -> tuple[WrittenFile, ...]:
    """Write the report in every format that was asked for. Raises LatcliError."""
    written = [
        WrittenFile(name, path, _write(path, _writer(name)(document), stdout))
        for name, path in texts_of(options).items()
    ]
    if options.png is not None:
        from latcli.reporting.charts import charts

        for name, data in charts(document):
            written.append(WrittenFile("png", options.png / name, _write(options.png / name, [data], stdout)))
    return tuple(written)


def _writer(name: str) -> Callable[[Mapping[str, Any]], Iterable[str]]:
    """Only what was asked for is imported: a page needs more than a terminal."""
    if name == "html":
        from latcli.reporting.page import render

        return lambda document: render(document, _picture)
    from latcli.reporting import render as files

    return {"markdown": files.markdown, "csv": files.csv_lines, "latex": files.latex}[name]


def _picture(path: str) -> bytes | None:
    """A picture that was sound when the report was gathered; None where it is gone since."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _write(path: Path, pieces: Iterable[str | bytes], stdout: TextIO) -> int:
    """Write pieces one after another, text as UTF-8; returns their size in bytes. The file is whole or as it was.

    Raises LatcliError where it cannot be written.
    """
    size = 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for piece in pieces:
            data = piece.encode("utf-8", "backslashreplace") if isinstance(piece, str) else piece
            size += len(data)
            yield data

    if path == STDOUT:
        for data in counted():
            stdout.write(data.decode("utf-8"))
        return size
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written into, never replaced
            with path.open("wb") as stream:
                stream.writelines(counted())
        else:
            write_whole(path, counted())
    except OSError as error:
        raise _unwritable(path, error) from error
    return size


def _unwritable(path: Path, error: OSError) -> LatcliError:
    reason = (error.strerror or str(error)).lower()
    return LatcliError(f"{path} cannot be written: {reason}", "name a file in a folder that you can write to")
