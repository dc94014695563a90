"""What tests share: a way to run latcli as its user does, and the real data where a machine has it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch is imported anywhere: several test processes at once must not each take every core.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else str(os.cpu_count() or 1))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell ignores Ctrl-C for what it runs in the background, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent

# The same commit gives the same verdict: what random examples find becomes a fixed one.
settings.register_profile("default", derandomize=True, max_examples=25, deadline=None)
settings.register_profile("random", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("LATCLI_HYPOTHESIS", "default"))


def code_blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page of the docs in these languages."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """Where libraries keep what they work out once, as matplotlib its fonts: outside the user's home."""
    folder = tmp_path_factory.mktemp("caches")
    return {"MPLCONFIGDIR": str(folder / "matplotlib"), "YOLO_CONFIG_DIR": str(folder / "ultralytics")}


@pytest.fixture
def latcli_environment(tmp_path, caches):
    """The environment of a user who has set nothing, with an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    dropped = {"XDG_CONFIG_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "TORCH_HOME", "GITHUB_ACTIONS"}
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("LATCLI_")}
    return kept | caches | {"HOME": str(home)}


@dataclass(frozen=True)
class Outcome:
    """What one command line came to: its exit code, and what it wrote on each stream."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> list[str]:
        """The error and the hint, which must be the end of stderr; stdout must be empty."""
        assert self.out == ""
        lines = self.err.splitlines()[-2:]
        assert [line.partition(": ")[0] for line in lines] == ["error", "hint"], self.err
        return [line.partition(": ")[2] for line in lines]


@pytest.fixture
def latcli(monkeypatch, tmp_path):
    """Run a command line in this process, as a user without a configuration file would."""
    from latcli import process
    from latcli.cli import app

    for name in [name for name in os.environ if name.startswith("LATCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-configuration"))

    def run(*words: object) -> Outcome:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "excepthook", sys.excepthook)
            patch.setenv("COLUMNS", "80")
            try:
                code = process.run(app, [str(word) for word in words])
            except SystemExit as left:  # as a completion does
                code = int(left.code or 0)
        return Outcome(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    return run


@pytest.fixture
def here(tmp_path, monkeypatch, latcli):
    """A working directory with nothing in it but small classifiers of the user's own, and no way to the network."""
    import odd_models
    import tiny_model

    folder = tmp_path / "here"
    folder.mkdir()
    for module in (odd_models, tiny_model):
        shutil.copy(module.__file__, folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LATCLI_OFFLINE", "1")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def sample_store(tmp_path_factory):
    """A store with one run of each command, made once: read it, or copy it, but leave it as it is.

    Two photos that packages carry, attacked in two steps; three regimes trained for six steps on 5,000 digits, and
    their evaluation on twenty.
    """
    from latcli import process
    from latcli.cli import app
    from latcli.commands.photos import package_photos

    folder = tmp_path_factory.mktemp("sample") / "runs"
    digits, where = ["--dataset", "mnist-5k"], ["--store", str(folder), "--quiet", "--device", "cpu"]
    lines = [["attack", *map(str, package_photos()), "--detector", "cam", "--steps", "2", "--no-figures"]]
    lines += [
        ["train", "--regime", regime, *digits, "--preset", "quick", "--steps", "6"]
        for regime in ("natural", "standard", "background")
    ]
    lines += [["eval", *digits, "--images", "20", "--steps", "2", "--curve", "steps=1,2", "--transfer", "all"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "no-configuration"))
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        patch.setattr(sys, "excepthook", sys.excepthook)
        for words in lines:
            assert process.run(app, [*words, *where]) == 0, words
    return folder


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real photos and MNIST: LATCLI_TEST_DATA, or beside the repository. Skips where there is none."""
    folder = Path(os.environ.get("LATCLI_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set LATCLI_TEST_DATA to a folder with photos/ and MNIST/")
    return folder


@pytest.fixture(scope="session")
def small_digits():
    """A small network trained for seconds on real digits, and 1,000 others to attack it with."""
    from small_digits import train_small_digits

    return train_small_digits()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache of weights, an empty current folder, and no way out; lists the attempts."""
    attempts: list[object] = []

    def refuse(*address: object) -> None:
        attempts.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    return attempts


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A store with something of everything, and its runs' ids by what they are; made once, nobody writes there."""
    from report_store import whole

    folder = tmp_path_factory.mktemp("stored") / "runs"
    return folder, whole(folder)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def start_latcli(work, latcli_environment):
    """Begin `latcli ARGUMENTS` beside the test, in a session of its own; what still runs at the end is killed."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "latcli", *map(str, arguments)]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen(command, cwd=work, env=latcli_environment, start_new_session=True, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
