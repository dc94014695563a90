"""`latcli report` into files: every format asked for, its path checked before the work; must not lay out any."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from latcli.commands.report.command import EVERYTHING, PAGE, PICTURES, TABLES, TERMINAL, Needs, gather
from latcli.commands.report.compare import Comparison, compare
from latcli.commands.report.options import STDOUT, check, texts
from latcli.commands.report.outputs import check_file, check_folder, write
from latcli.commands.report.result import FilesWritten, ReportResult, Written
from latcli.options import ReportOptions
from latcli.session import Session

Document = Mapping[str, Any]


def run(options: ReportOptions, session: Session) -> ReportResult | FilesWritten | Comparison:
    """The report; where files were asked for, what was written, and `-` is on stdout already.

    Raises UsageError and LatcliError before the work where options or paths are unusable, and StoreError.
    """
    check(options, json=session.json)
    if options.compare:
        return compare(options, session)
    for path in texts(options).values():
        check_file(path, session.store)
    if options.png is not None:
        check_folder(options.png, session.store)
    result = gather(options, session, _needs(options, json=session.json))
    if not texts(options) and options.png is None:
        return result
    document = result.to_json()
    written = [_write_text(name, path, document, session) for name, path in texts(options).items()]
    written += _write_charts(options.png, document, session) if options.png is not None else []
    if options.open and options.html is not None and not webbrowser.open(options.html.absolute().as_uri()):
        session.note(f"no browser could be opened; the page is {options.html}")
    return FilesWritten(result, tuple(written), STDOUT in texts(options).values())


def _needs(options: ReportOptions, *, json: bool) -> Needs:
    """Everything that any of the formats will look at."""
    asked = [EVERYTHING] if json else []
    asked += [PAGE if name == "html" else TABLES for name in texts(options)]
    asked += [PICTURES] if options.png is not None else []
    return Needs.joined(asked) if asked else TERMINAL


def _write_text(name: str, path: Path, document: Document, session: Session) -> Written:
    return Written(name, path, write(path, _writer(name)(document), session.stdout))


def _writer(name: str) -> Callable[[Document], Iterable[str]]:
    """Only what was asked for is imported: a page needs more than a terminal."""
    if name == "html":
        return _page
    from latcli.reporting import render

    return {"markdown": render.markdown, "csv": render.csv_lines, "latex": render.latex}[name]


def _page(document: Document) -> Iterable[str]:
    from latcli.reporting.page import render

    return render(document, _picture)


def _picture(path: str) -> bytes | None:
    """A picture that was sound when the report was gathered; None where it is gone since."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _write_charts(folder: Path, document: Document, session: Session) -> list[Written]:
    from latcli.reporting.charts import charts

    return [
        Written("png", folder / name, write(folder / name, [data], session.stdout)) for name, data in charts(document)
    ]
