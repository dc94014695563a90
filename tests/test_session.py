"""What an invocation says, and where: stdout for results, stderr for the rest."""

import io

import pytest
from rich.table import Table

from latcli.reporting.terminal import console_for
from latcli.session import Session


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize("quiet", [False, True])
def test_notes_and_progress_are_on_stderr_and_only_as_far_as_they_are_wanted(stream, quiet):
    session = Session(stdout=stream(), stderr=stream(), quiet=quiet)

    session.note("read evil\n\x1b[31m.jpg \udcff [bold]")
    with session.progress("attack [x]", 3) as tick:
        tick(2)
        session.note("broken.jpg is damaged [see]")
        tick()
    with pytest.raises(KeyboardInterrupt), session.progress("attack", None):
        raise KeyboardInterrupt
    session.note("closed")

    written = session.stderr.getvalue()
    notes = ["read evil\\n\\x1b[31m.jpg \\udcff [bold]\n", "broken.jpg is damaged [see]\n", "closed\n"]
    if quiet or stream is io.StringIO:
        assert written == ("" if quiet else "".join(notes))
    else:
        assert all(words in written.replace("\r", "") for words in (*notes, "attack [x]", "3/3"))
        assert written.endswith("closed\n")
    assert session.stdout.getvalue() == ""


@pytest.mark.parametrize(
    ("stream", "environment", "boxes"),
    [
        (io.StringIO, {}, False),
        (io.StringIO, {"COLUMNS": "132"}, False),
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "dumb"}, False),
    ],
)
def test_boxes_and_colour_are_for_terminals_that_want_them(monkeypatch, stream, environment, boxes):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    table, stdout = Table("name", "share"), stream()
    table.add_row("hen", "[red]49 %[/red]")
    console_for(stdout).print(table)
    assert ("\x1b[31m49 %" in stdout.getvalue(), stdout.getvalue().isascii()) == (boxes, not boxes)
    assert "\x1b" not in stdout.getvalue() or boxes
    if stream is io.StringIO:
        assert console_for(stdout).width == int(environment.get("COLUMNS", 80))


def test_off_a_terminal_a_long_work_is_noted_with_its_rate_and_the_time_left(monkeypatch):
    clock = iter([0.0, 30.0, 60.0, 61.0, 150.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stderr = io.StringIO()
    with Session(stderr=stderr).progress("photos", 100, noted=True) as tick:
        for _ in range(4):
            tick(10)
    assert stderr.getvalue().splitlines() == [
        "photos: 20 of 100, 3 s each, about 4 min 00 s left",
        "photos: 40 of 100, 3.75 s each, about 3 min 45 s left",
    ]
