"""The command line as its user has it: fresh processes, their streams and exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from latcli import __version__
from latcli.cli import app
from latcli.store.database import Store

RunLatcli = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = ("torch", "torchvision", "numpy", "ultralytics", "timm", "PIL", "sqlite_utils", "matplotlib", "cv2")


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or typer.main.get_command(app)
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The error and the hint of a process that wrote nothing else."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"]
    return lines


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    with Store.open(folder) as opened:
        for command in ("attack", "train"):
            with opened.start_run(command, argv=["latcli", command], config={}, seed=0, device="cpu") as run:
                run.write_artifact("result.png", command.encode(), "adversarial")
    return folder


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_imports_nothing_heavy(path: tuple[str, ...], latcli_environment: dict[str, str]) -> None:
    code = (
        "import sys; from latcli import process; from latcli.cli import app;"
        f"assert process.run(app, [*{path!r}, '--help']) == 0;"
        f"sys.stderr.write(' '.join(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=latcli_environment, timeout=60, check=True
    )

    assert "Usage: latcli" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [[], ["runs"]])
def test_without_a_command_there_is_help(run_latcli: RunLatcli, arguments: list[str]) -> None:
    done = run_latcli(*arguments)

    assert done.returncode == 0
    assert done.stdout.strip() == run_latcli(*arguments, "--help").stdout.strip()
    assert done.stderr == ""


def test_the_version(run_latcli: RunLatcli) -> None:
    done = run_latcli("--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"latcli {__version__}\n", "")


def test_the_console_script_is_the_same_program(latcli_environment: dict[str, str]) -> None:
    script = Path(sys.executable).with_name("latcli")
    done = subprocess.run([script, "rnus"], capture_output=True, text=True, env=latcli_environment, check=False)

    assert done.returncode == 2
    assert told(done)[1] == "hint: did you mean 'runs'? see 'latcli --help'"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["rnus"], 2, "no such command 'rnus'"),
        (["runs", "lst"], 2, "no such command 'lst'"),
        (["runs", "list", "--limt", "3"], 2, "no such option: --limt"),
        (["runs", "list", "--limit", "0"], 2, "invalid value for '--limit'"),
        (["runs", "show"], 2, "missing argument 'RUN'"),
        (["runs", "rm"], 2, "missing argument 'RUN'"),
        (["runs", "list", "--config", "absent.toml"], 2, "no such file: absent.toml"),
        (["runs", "list"], 1, "there are no runs in"),
        (["runs", "verify", "--store", "/dev/null"], 1, "/dev/null is not a folder"),
        (["doctor", "--device", "tpu"], 2, "there is no device called 'tpu'"),
        (["doctor", "--precision", "fp8"], 2, "invalid value for '--precision'"),
    ],
)
def test_a_slip_is_two_lines(run_latcli: RunLatcli, arguments: list[str], code: int, error: str) -> None:
    done = run_latcli(*arguments)

    assert done.returncode == code
    assert told(done)[0].startswith(f"error: {error}")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show", "ffffff"], "there is no run 'ffffff'"),
        (["rm", "ffffff"], "there is no run 'ffffff'"),
        (["list", "--status", "complete"], "there is no status called 'complete'"),
    ],
)
def test_a_run_that_cannot_be_meant_is_two_lines(
    run_latcli: RunLatcli, store: Path, arguments: list[str], error: str
) -> None:
    done = run_latcli("runs", *arguments, "--store", store)

    assert done.returncode == 2
    assert told(done)[0].startswith(f"error: {error}")


@pytest.mark.parametrize("command", [("runs", "list"), ("runs", "show", "latest"), ("runs", "verify")])
def test_json_is_all_there_is_on_stdout(run_latcli: RunLatcli, store: Path, command: tuple[str, ...]) -> None:
    done = run_latcli(*command, "--store", store, "--json")

    assert done.returncode == 0
    assert done.stderr == ""
    assert isinstance(json.loads(done.stdout), dict)


@pytest.mark.slow
def test_doctor_gives_json_of_its_own(run_latcli: RunLatcli) -> None:
    done = run_latcli("doctor", "--json", "--device", "cpu")

    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["ok"] is True


@pytest.mark.slow
def test_doctor_is_a_plain_table_in_a_pipe(run_latcli: RunLatcli) -> None:
    done = run_latcli("doctor", "--device", "cpu")

    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_run_is_listed_found_and_removed(run_latcli: RunLatcli, store: Path) -> None:
    listed = json.loads(run_latcli("runs", "list", "--store", store, "--json").stdout)["runs"]
    assert [run["command"] for run in listed] == ["train", "attack"]

    folder = Path(run_latcli("runs", "path", "latest", "--store", store).stdout.removesuffix("\n"))
    assert folder == Path(listed[0]["dir"])
    assert folder.is_dir()
    file = run_latcli("runs", "path", folder.name, "result.png", "--store", store).stdout.removesuffix("\n")
    assert Path(file).read_bytes() == b"train"

    done = run_latcli("runs", "rm", folder.name[-4:], "--store", store)
    assert (done.returncode, done.stdout) == (0, f"removed {folder.name}\n")
    assert not folder.exists()
    assert folder.name not in run_latcli("runs", "list", "--store", store).stdout


def test_verify_fails_where_a_file_was_changed(run_latcli: RunLatcli, store: Path) -> None:
    assert run_latcli("runs", "verify", "--store", store).returncode == 0

    next(store.glob("*-attack-*/result.png")).write_bytes(b"other")

    done = run_latcli("runs", "verify", "--store", store)
    assert done.returncode == 1
    assert "changed" in done.stdout
    assert done.stderr == ""


def test_the_store_comes_from_the_nearest_source(run_latcli: RunLatcli, store: Path, tmp_path: Path) -> None:
    def used(*flags: str, environment: dict[str, str] | None = None) -> str:
        return run_latcli("runs", "list", *flags, environment=environment).stderr.split(" yet")[0].rpartition("/")[2]

    user = tmp_path / "home" / ".config" / "latcli"
    user.mkdir(parents=True)
    assert used() == "runs"
    (user / "config.toml").write_text('store = "of-the-user"')
    assert used() == "of-the-user"
    (tmp_path / "work" / "latcli.toml").write_text('[runs.list]\nstore = "of-the-project"')
    assert used() == "of-the-project"
    assert used(environment={"LATCLI_STORE": "of-the-environment"}) == "of-the-environment"
    assert used("--store", "of-the-flag", environment={"LATCLI_STORE": "of-the-environment"}) == "of-the-flag"
    assert run_latcli("runs", "list", "--store", store).returncode == 0


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a command writes on a terminal of its own."""
    parent, child = pty.openpty()
    process = subprocess.Popen(command, stdout=child, stderr=child, stdin=child, env=environment)
    os.close(child)
    written = b""
    try:
        while piece := os.read(parent, 65536):
            written += piece
    except OSError:  # the way in which Linux says that the other end is closed
        pass
    os.close(parent)
    assert process.wait(timeout=60) == 0
    return written.decode()


@pytest.mark.parametrize(
    ("wish", "plain"), [({}, False), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True)], ids=["none", "no", "dumb"]
)
def test_a_terminal_gets_colour_unless_it_wants_none(
    store: Path, latcli_environment: dict[str, str], wish: dict[str, str], plain: bool
) -> None:
    command = [sys.executable, "-m", "latcli", "runs", "list", "--store", str(store)]
    written = on_a_terminal(command, latcli_environment | {"TERM": "xterm-256color"} | wish)

    assert ("\x1b[" not in written) is plain
    assert written.isascii()  # rules are drawn in letters that every stream takes
    assert "completed" in written


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("latcli ", {"runs", "doctor"}),
        ("latcli runs ver", {"verify"}),
        ("latcli runs list --li", {"--limit"}),
        ("latcli runs list --precision ", {"auto", "fp32", "bf16"}),
    ],
)
def test_the_shell_completes(run_latcli: RunLatcli, words: str, offered: set[str]) -> None:
    environment = {
        "_LATCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = run_latcli(environment=environment)

    assert offered <= set(done.stdout.split())
    assert done.stderr == ""


def test_the_shell_completes_runs_by_either_end_of_their_id(run_latcli: RunLatcli, store: Path) -> None:
    run = next(store.glob("*-attack-*")).name

    def offered(word: str) -> list[str]:
        words = f"latcli runs show --store {store} {word}"
        environment = {"_LATCLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "5"}
        return run_latcli(environment=environment).stdout.split()

    assert offered(run[-4:-1]) == [run[-4:]]
    assert run in offered(run[:8])
    assert offered("nothing") == []
