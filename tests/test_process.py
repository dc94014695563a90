"""How a process ends: exit codes, two lines for every error, signals, a reader that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

# A program of latcli's making with commands that misbehave on demand.
PROGRAM = textwrap.dedent(
    """
    import sys, time
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
    sys.exit(process.run(cli.app, sys.argv[1:]))
    """
)


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return [sys.executable, str(file)]


def run(program: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_an_error_is_two_lines_and_its_exit_code(program: list[str]) -> None:
    done = run(program, "refuse", "a.jpg")

    assert done.returncode == 3
    assert lines_of(done) == ["error: no object on a.jpg", "hint: try --center"]


def test_debug_adds_the_traceback_above(program: list[str]) -> None:
    done = run(program, "refuse", "a.jpg", "--debug")

    assert done.returncode == 3
    assert done.stderr.startswith("Traceback")
    assert lines_of(done)[-2:] == ["error: no object on a.jpg", "hint: try --center"]


@pytest.mark.parametrize("more", [[], ["--debug"]])
def test_control_characters_are_shown_harmlessly(program: list[str], more: list[str]) -> None:
    done = run(program, "refuse", "a\x1b[2J\r\n\x07\u202eb.jpg", *more)

    assert lines_of(done)[-2:] == ["error: no object on a\\x1b[2J\\r\\n\\x07\\u202eb.jpg", "hint: try --center"]
    assert all(line.isprintable() for line in done.stderr.splitlines())


def test_a_defect_is_two_lines_that_ask_for_a_report(program: list[str]) -> None:
    done = run(program, "fail")

    assert done.returncode == 1
    error, hint = lines_of(done)
    assert error == "error: unexpected ValueError: first line"
    assert "--debug" in hint
    assert "report" in hint


def test_a_defect_under_debug_shows_where(program: list[str]) -> None:
    done = run(program, "fail", "--debug")

    assert done.returncode == 1
    assert "in fail" in done.stderr
    assert lines_of(done)[-2] == "error: unexpected ValueError: first line"


def test_debug_from_a_file_counts_as_well(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "debug.toml").write_text("debug = true")

    assert run(program, "fail", "--config", str(tmp_path / "debug.toml")).stderr.startswith("Traceback")


@pytest.mark.parametrize("code", [0, 1, 4])
def test_a_command_chooses_its_exit_code(program: list[str], code: int) -> None:
    done = run(program, "end", str(code))

    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["refsue"], "no such command 'refsue'", "did you mean 'refuse'?"),
        (["refuse"], "missing argument 'WORD'", "see 'latcli refuse --help'"),
        (["refuse", "a", "b"], "got unexpected extra argument(s) (b)", "see 'latcli refuse --help'"),
        (["refuse", "--sed", "1", "a"], "no such option: --sed", "did you mean --seed?"),
        (["refuse", "a", "--seed"], "option '--seed' requires an argument", "see 'latcli refuse --help'"),
        (["refuse", "a", "--seed", "x"], "invalid value for '--seed'", "see 'latcli refuse --help'"),
        (["refuse", "a", "--seed", "-1"], "invalid value for '--seed'", "see 'latcli refuse --help'"),
        (["refuse", "a", "--precision", "fp8"], "invalid value for '--precision'", "see 'latcli refuse --help'"),
        (["refuse", "a", "--json=1"], "option '--json' does not take a value", "see 'latcli refuse --help'"),
        (["\x1b[31mred"], "no such command '\\x1b[31mred'", "see 'latcli --help'"),
    ],
)
def test_a_slip_on_the_command_line_is_two_lines(
    program: list[str], arguments: list[str], error: str, hint: str
) -> None:
    done = run(program, *arguments)

    assert done.returncode == 2
    told = lines_of(done)
    assert len(told) == 2
    assert told[0].startswith(f"error: {error}")
    assert told[1].startswith("hint: ")
    assert hint in told[1]


@pytest.fixture
def waiting(program: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*program, "wait", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_closes_what_is_open_and_says_one_line(
    waiting: subprocess.Popen[str], number: signal.Signals, code: int, word: str
) -> None:
    waiting.send_signal(number)
    out, err = waiting.communicate(timeout=30)

    assert waiting.returncode == code
    assert out == "closing\nclosed\n"
    assert err == f"{word}\n"


def test_a_signal_that_an_import_swallows_comes_again(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(10)\n"
        "except BaseException:\n"
        "    pass\n"
        "time.sleep(600)\n"
    )
    done = run(program, "bring", str(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(program: list[str], second: signal.Signals) -> None:
    process = subprocess.Popen([*program, "wait", "60"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(second)
    out, _ = process.communicate(timeout=30)

    assert out == ""
    assert process.returncode == -second  # which a shell shows as 128 more


def test_an_ignored_interrupt_stays_ignored(program: list[str]) -> None:
    process = subprocess.Popen(
        [*program, "wait", "0"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert process.returncode == 143


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_is_no_news(program: list[str], lines: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*program, "talk", str(lines)], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_device_is_two_lines(program: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*program, "talk", "1"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )

    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert "No space left" in done.stderr
