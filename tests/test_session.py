"""What an invocation says, and where: stdout for results, stderr for the rest."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any, TextIO

import pytest
from rich.table import Table

from latcli.reporting.console import console_for
from latcli.session import Session


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown_on(stream: TextIO) -> str:
    table = Table("name", "share")
    table.add_row("hen", "[red]49 %[/red]")
    Session(stdout=stream).print(table)
    return stream.getvalue()  # type: ignore[attr-defined]


def test_a_note_is_one_line_on_stderr() -> None:
    session = Session(stdout=io.StringIO(), stderr=io.StringIO())

    session.note("took yolo: its weights are here")

    assert session.stderr.getvalue() == "took yolo: its weights are here\n"  # type: ignore[attr-defined]
    assert session.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_a_note_stays_one_harmless_line() -> None:
    session = Session(stderr=io.StringIO())

    session.note("read evil\n\x1b[31m.jpg \udcff [bold]")

    assert session.stderr.getvalue() == "read evil\\n\\x1b[31m.jpg \\udcff [bold]\n"  # type: ignore[attr-defined]


def test_quiet_silences_notes_and_progress() -> None:
    session = Session(stdout=Terminal(), stderr=Terminal(), quiet=True)

    session.note("nobody reads this")
    with session.progress("attack", 2) as tick:
        tick()

    assert session.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_progress_off_a_terminal_writes_nothing() -> None:
    session = Session(stderr=io.StringIO())

    with session.progress("attack", 2) as tick:
        tick()
        tick(1)

    assert session.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_progress_on_a_terminal_counts_and_lets_notes_through() -> None:
    session = Session(stdout=Terminal(), stderr=Terminal())

    with session.progress("attack [x]", 3) as tick:
        tick(2)
        session.note("broken.jpg is damaged [see]")
        tick()

    written = session.stderr.getvalue()  # type: ignore[attr-defined]
    assert "broken.jpg is damaged [see]\n" in written.replace("\r", "")
    assert "attack [x]" in written
    assert "3/3" in written
    assert session.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_progress_ends_with_an_error_and_notes_go_on() -> None:
    session = Session(stderr=Terminal())

    with pytest.raises(KeyboardInterrupt), session.progress("attack", None):
        raise KeyboardInterrupt
    session.note("closed")

    assert session.stderr.getvalue().endswith("closed\n")  # type: ignore[attr-defined]


def test_a_pipe_gets_ascii_without_colour_80_columns_wide() -> None:
    written = shown_on(io.StringIO())

    assert written.isascii()
    assert "\x1b" not in written
    assert console_for(io.StringIO()).width == 80


def test_columns_widens_what_goes_into_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")

    assert console_for(io.StringIO()).width == 132


def test_a_terminal_gets_boxes_and_colour() -> None:
    written = shown_on(Terminal())

    assert not written.isascii()
    assert "\x1b[31m49 %" in written


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_none_gets_neither(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    written = shown_on(Terminal())

    assert written.isascii()
    assert "\x1b" not in written


def test_json_is_one_document_with_null_for_what_is_no_number() -> None:
    session = Session(stdout=io.StringIO())
    document: dict[str, Any] = {"loss": float("nan"), "cells": [(1, float("inf"))], "name": "é\n\udcff", "n": 3}

    session.print_json(document)

    read = json.loads(session.stdout.getvalue())  # type: ignore[attr-defined]
    assert read == {"loss": None, "cells": [[1, None]], "name": "é\n\udcff", "n": 3}


@pytest.fixture
def pseudo_terminal() -> Iterator[TextIO]:
    parent, child = os.openpty()
    with os.fdopen(child, "w") as stream:
        yield stream
    os.close(parent)


def test_a_real_terminal_is_known_as_one(pseudo_terminal: TextIO) -> None:
    assert Session(stderr=pseudo_terminal).stderr_is_terminal
    assert not Session(stderr=io.StringIO()).stderr_is_terminal
