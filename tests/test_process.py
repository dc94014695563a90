"""How a process ends: exit codes, two lines for every error, signals, a reader that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# A program of latcli's making with commands that misbehave on demand.
PROGRAM = textwrap.dedent(
    """
    import signal, sys, time
    from dataclasses import dataclass
    import typer
    from latcli import cli, options, process
    from latcli.errors import NoObjectError

    @dataclass(kw_only=True)
    class Nothing:
        'Take no argument.'

    @dataclass(kw_only=True)
    class Word(Nothing):
        word: str = options.argument("WORD", "Any word.")

    def refuse(given, session):
        raise NoObjectError(f"no object on {given.word}", "try --center")

    def fail(given, session):
        raise ValueError("first line\\nsecond \\x1b[31mline")

    def bring(given, session):
        sys.path.insert(0, given.word)
        import greedy

    def end(given, session):
        raise typer.Exit(int(given.word))

    def talk(given, session):
        for number in range(int(given.word)):
            print("line", number, file=session.stdout)
        raise typer.Exit

    def wait(given, session):
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("closing", flush=True)
            time.sleep(float(given.word))
            print("closed", flush=True)

    for function in (refuse, fail, bring, end, talk, wait):
        command = cli.Command(Nothing if function is fail else Word, f"__main__:{function.__name__}")
        cli.COMMANDS[function.__name__,] = command
        cli.add_command((function.__name__,), command)
    if sys.argv[-1] == "ignore":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.argv.pop()
    sys.exit(process.run(cli.app, sys.argv[1:]))
    """
)


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return [sys.executable, str(file)]


def run(program: list[str], *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    pipe = subprocess.PIPE
    return subprocess.run([*program, *arguments], stdout=stdout, stderr=pipe, text=True, timeout=60, check=False)


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["refuse", "a\x1b[2J\r\n\u202eb.jpg"], 3, "no object on a\\x1b[2J\\r\\n\\u202eb.jpg"),
        (["fail"], 1, "unexpected ValueError: first line"),
    ],
)
def test_an_error_is_two_lines_and_its_exit_code_and_debug_adds_the_traceback(
    program: list[str], arguments: list[str], code: int, error: str, debug: list[str]
) -> None:
    done = run(program, *arguments, *debug)

    *above, told, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout, told) == (code, "", f"error: {error}")
    assert hint.startswith("hint: ")
    assert "--center" in hint if code == 3 else "report" in hint
    assert bool(above) == bool(debug) == ("Traceback" in done.stderr)
    assert all(line.isprintable() for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["refsue"], "no such command 'refsue'", "did you mean 'refuse'?"),
        (["refuse"], "missing argument 'WORD'", "see 'latcli refuse --help'"),
        (["refuse", "--sed", "1", "a"], "no such option: --sed", "did you mean --seed?"),
        (["refuse", "a", "--seed", "-1"], "invalid value for '--seed'", "see 'latcli refuse --help'"),
        (
            ["refuse", "a", "--precision", "fp23"],
            "invalid value for '--precision': 'fp23' is not",
            "did you mean fp32?",
        ),
        (["\x1b[31mred"], "no such command '\\x1b[31mred'", "see 'latcli --help'"),
    ],
)
def test_a_slip_on_the_command_line_is_two_lines(
    program: list[str], arguments: list[str], error: str, hint: str
) -> None:
    done = run(program, *arguments)

    told, advice = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert told.startswith(f"error: {error}")
    assert advice.startswith("hint: ")
    assert hint in advice


@pytest.mark.parametrize(
    ("sent", "more", "code", "out", "err"),
    [
        ([signal.SIGINT], ["0"], 130, "closing\nclosed\n", "interrupted\n"),
        ([signal.SIGTERM], ["0"], 143, "closing\nclosed\n", "terminated\n"),
        ([signal.SIGINT, signal.SIGTERM], ["0", "ignore"], 143, "closing\nclosed\n", "terminated\n"),
        ([signal.SIGINT, signal.SIGINT], ["60"], -signal.SIGINT, "closing\n", ""),  # the second ends it at once
        ([signal.SIGINT, signal.SIGTERM], ["60"], -signal.SIGTERM, "closing\n", ""),
    ],
)
def test_a_signal_closes_what_is_open_a_second_ends_at_once_and_what_is_ignored_stays_so(
    program: list[str], sent: list[signal.Signals], more: list[str], code: int, out: str, err: str
) -> None:
    process = subprocess.Popen(
        [*program, "wait", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    begun = ""
    for number in sent:
        process.send_signal(number)
        if more == ["60"] and not begun:
            begun = process.stdout.readline()
    found = process.communicate(timeout=30)

    assert (process.returncode, begun + found[0], found[1]) == (code, out, err)


def test_a_signal_that_an_import_swallows_comes_again(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(10)\n"
        "except BaseException:\n    pass\n"
        "time.sleep(600)\n"
    )
    done = run(program, "bring", str(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("lines", ["1", "100000"])
def test_a_reader_that_goes_away_is_no_news(program: list[str], lines: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(program, "talk", lines, stdout=writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_device_is_two_lines(program: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(program, "talk", "1", stdout=full.fileno())

    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert "No space left" in done.stderr
