"""How a process ends: exit codes, two lines for every error, signals, a reader that goes away."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from latcli.commands.training_steps import postponed

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

    for function in (refuse, fail, bring, talk, wait):
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
def program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return [sys.executable, str(file)]


def run(program, *arguments, stdout=subprocess.PIPE):
    pipe = subprocess.PIPE
    return subprocess.run([*program, *arguments], stdout=stdout, stderr=pipe, text=True, timeout=60, check=False)


def test_an_error_is_two_lines_and_its_exit_code_and_debug_adds_the_traceback(program):
    for arguments, code, error in [
        (["refuse", "a\x1b[2J\r\n\u202eb.jpg"], 3, "no object on a\\x1b[2J\\r\\n\\u202eb.jpg"),
        (["fail"], 1, "unexpected ValueError: first line"),
    ]:
        for debug in [[], ["--debug"]]:
            done = run(program, *arguments, *debug)
            *above, told, hint = done.stderr.splitlines()
            assert (done.returncode, done.stdout, told) == (code, "", f"error: {error}")
            assert hint.startswith("hint: ")
            assert "--center" in hint if code == 3 else "report" in hint
            assert bool(above) == bool(debug) == ("Traceback" in done.stderr)
            assert all(line.isprintable() for line in done.stderr.splitlines())


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
    program, sent, more, code, out, err
):
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


def test_a_signal_that_an_import_swallows_comes_again(program, tmp_path):
    (tmp_path / "greedy.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(10)\n"
        "except BaseException:\n    pass\n"
        "time.sleep(600)\n"
    )
    done = run(program, "bring", str(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("lines", ["1", "100000"])
def test_a_reader_that_goes_away_is_no_news(program, lines):
    reader, writer = os.pipe()
    os.close(reader)
    done = run(program, "talk", lines, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_device_is_two_lines(program):
    with Path("/dev/full").open("w") as full:
        done = run(program, "talk", "1", stdout=full.fileno())
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert "No space left" in done.stderr


@pytest.mark.parametrize(
    ("times", "deliver", "expected"),
    [
        pytest.param(1, False, [0], id="it comes at the end"),
        pytest.param(1, True, [], id="it comes when it is asked for"),
        pytest.param(3, False, [0], id="a second one is not put off"),
    ],
)
def test_an_interrupt_is_put_off_until_it_suits(times, deliver, expected):
    reached = []
    terminate = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def work():
        with postponed() as pending:
            signal.raise_signal(signal.SIGTERM)  # what is ignored stays ignored
            assert pending.number is None
            for time in range(times):
                signal.raise_signal(signal.SIGINT)
                assert pending.has_waited(0.0)
                if deliver:
                    pending.deliver(pending.number)
                reached.append(time)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.signal(signal.SIGTERM, terminate) is signal.SIG_IGN
