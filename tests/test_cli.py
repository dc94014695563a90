"""The command line as its user has it: help, slips, completion, streams, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from latcli import __version__
from latcli.cli import COMMANDS, app
from latcli.options import BASIC, fields_of
from latcli.store.store import Store

HEAVY = ("torch", "torchvision", "numpy", "ultralytics", "timm", "PIL", "sqlite_utils", "matplotlib", "cv2", "mlxtend")


def test_no_help_imports_anything_heavy():
    paths = [(), ("runs",), *COMMANDS]
    code = (
        "import sys, latcli.results, latcli.session; from latcli import process; from latcli.cli import app\n"
        f"for path in {paths!r}: assert process.run(app, [*path, '--help']) == 0\n"
        f"sys.stderr.write(' '.join(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.count("Usage: latcli") == len(paths)
    assert done.stderr == ""


@pytest.mark.parametrize("path", [("attack",), ("train",), ("runs", "list")], ids=" ".join)
def test_help_shows_what_people_need_first_and_help_all_everything(latcli, path):
    command = COMMANDS[path]
    options = [one for one in [*fields_of(command.options), *fields_of(command.shared)] if not one.is_argument]
    short, long = latcli(*path, "--help"), latcli(*path, "--help-all")
    shown, all_shown = (
        {
            word
            for line in outcome.out.splitlines()
            for word in line.split()[1:2]
            if word[:2] == "--" and word[-1] != "."
        }
        for outcome in (short, long)
    )

    assert (short.code, long.code) == (0, 0)
    assert all_shown == {f"--{one.key}" for one in options} | {"--help", "--help-all"}
    assert shown == {f"--{one.key}" for one in options if BASIC in one.marks} | {"--help", "--help-all"}


def test_every_command_option_and_argument_has_help_and_few_are_shown_first():
    command = typer.main.get_command(app)
    for path, known in COMMANDS.items():
        inner = command
        for name in path:
            inner = inner.commands[name]
        assert inner.help
        assert [param.name for param in inner.params if not getattr(param, "help", None)] == []
        assert sum(BASIC in one.marks for one in [*fields_of(known.options), *fields_of(known.shared)]) <= 12, path


@pytest.mark.parametrize("words", [[], ["runs"]])
def test_without_a_command_there_is_help(latcli, words):
    assert latcli(*words).out.strip() == latcli(*words, "--help").out.strip()


def test_the_console_script_is_the_same_program(latcli_environment):
    script = Path(sys.executable).with_name("latcli")
    version = subprocess.run([script, "--version"], capture_output=True, text=True, env=latcli_environment, check=False)
    slip = subprocess.run([script, "rnus"], capture_output=True, text=True, env=latcli_environment, check=False)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"latcli {__version__}\n", "")
    assert (slip.returncode, slip.stdout) == (2, "")
    assert "'runs'" in slip.stderr.splitlines()[1]


def test_a_slip_is_two_lines(latcli):
    for words, code, error, hint in [
        (["rnus"], 2, "'rnus'", "'runs'"),
        (["\x1b[31mred"], 2, "'\\x1b[31mred'", "latcli --help"),
        (["train", "--validation", "nan"], 2, "--validation is nan", "finite number"),
        (["attack", "photo.jpg", "--radius=-inf"], 2, "--radius is -inf", "finite number"),
        (["doctor", "--precision", "fp23"], 2, "'fp23'", "did you mean fp32?"),
        (["runs", "show"], 2, "'RUN'", "latcli runs show --help"),
        (["runs", "lst"], 2, "'lst'", "'list'"),
        (["runs", "list", "--limt", "3"], 2, "--limt", "--limit"),
        (["attack", "a.jpg", "--epslon", "3"], 2, "--epslon", "--epsilon?"),
        (["runs", "list", "--config", "absent.toml"], 2, "absent.toml", "--config"),
        (["runs", "list", "--store", "absent"], 1, "absent", "latcli"),
        (["runs", "verify", "--store", "/dev/null"], 1, "/dev/null", "--store"),
        (["doctor", "--device", "tpu"], 2, "'tpu'", "cuda"),
        (["doctor", "--precision", "fp8"], 2, "'--precision'", "--help"),
        (["train", "--steps", "x"], 2, "this is not a whole number", "latcli train --help"),
        (["train", "--steps", "0"], 2, "the least is 1", "--help"),
        (["attack", "--detector-confidence", "3"], 2, "the most is 1", "--help"),
        (["attack", "--detector-confidence", "x"], 2, "this is not a number", "--help"),
        (["attack", "a.jpg", "--epsilon", "8"], 2, "'8'", "8/255"),
        (["reproduce", "figure9"], 2, "'figure9'", "figure2"),
        (["eval", "7f3a", "--seeds"], 2, "--seeds", "models"),
    ]:
        outcome = latcli(*words)

        assert outcome.code == code
        assert outcome.err.count("\n") == 2
        assert error in outcome.error[0]
        assert hint in outcome.error[1]


@pytest.fixture
def offered(latcli, monkeypatch):
    """What bash offers where a command line ends so."""

    def complete(words):
        asked = {"_LATCLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        with monkeypatch.context() as patch:
            for name, value in asked.items():
                patch.setenv(name, value)
            return set(latcli().out.split())

    return complete


def test_the_shell_completes(offered):
    for words, expected in {
        "latcli ": {"runs", "doctor"},
        "latcli attack --precision ": {"auto", "fp32", "bf16"},
        "latcli attack --detector ": {"auto", "yolo", "cam"},
        "latcli train --dataset m": {"mnist", "mnist-5k"},
    }.items():
        assert expected <= offered(words), words


def test_the_shell_completes_runs_by_either_end_of_their_id(offered, tmp_path):
    with Store.open(tmp_path) as store:
        run, _ = (store.start_run(name, argv=[], config={}, seed=0, device="cpu").id for name in ("train", "attack"))
    words = f"latcli runs show --store {tmp_path} "
    assert run[-4:] in offered(words + run[-4:-1])
    assert run in offered(words + run[:8])
    assert offered(f"{words}nothing") == set()
