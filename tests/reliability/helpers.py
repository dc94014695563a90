"""Commands begun as a user begins them, what must hold of a store after them, and the long form of these tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from PIL import Image

from latcli.commands.photos import package_photos
from latcli.commands.runs import verify
from latcli.store.store import DATABASE, Store

#: Whether the long form was asked for.
FULL = os.environ.get("LATCLI_RELIABILITY") == "full"

FEW = ("--device", "cpu", "--precision", "fp32", "--offline")


def photos(folder: Path, count: int) -> Path:
    """Photos that installed packages carry, small, under as many names."""
    folder.mkdir(parents=True)
    for number in range(count):
        with Image.open(package_photos()[number % 2]) as photo:
            photo.convert("RGB").resize((160 + number, 160)).save(folder / f"{number:03}.png")
    return folder


def attack(folder: Path, *more: str) -> list[str]:
    """An attack of five steps on all photos of a folder."""
    return ["attack", str(folder), "--center", "0.4", "--steps", "5", "--batch", "2", *FEW, *more]


def train(*more: str) -> list[str]:
    """A training of few steps that keeps its state after each."""
    given = ["--preset", "quick", "--regime", "background", "--attack", "fgsm-rs", "--batch", "4"]
    return ["train", "--dataset", "mnist-5k", *given, "--checkpoint-every", "1", "--steps", "200", *FEW, *more]


def evaluate(*more: str) -> list[str]:
    """An evaluation of the newest model of each regime."""
    return ["eval", "--dataset", "mnist-5k", "--images", "60", "--steps", "10", "--batch", "5", *FEW, *more]


def latcli(arguments: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Begin `latcli ARGUMENTS` in a folder, on one thread."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    known = os.environ | environment | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "latcli", *arguments], cwd=cwd, env=known, text=True, **pipes)


def wait_for_run(process: subprocess.Popen[str], runs: Path, before: int) -> None:
    """Until the store has more than so many folders of runs, or the process has ended."""
    end = time.monotonic() + 300
    while process.poll() is None and len(list(runs.glob("*/run.json"))) <= before:
        assert time.monotonic() < end, "no run was begun"
        time.sleep(0.01)


def statuses(folder: Path) -> list[str]:
    """The statuses in the database itself, the oldest run's first."""
    if not folder.exists():
        return []
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        return [row[0] for row in db.execute("SELECT status FROM runs ORDER BY rowid")]


def assert_sound(folder: Path, *, killed: bool = False) -> None:
    """Database and files agree, no run that is dead is running, nothing unfinished lies about.

    Opens the store for writing first, as any command that writes does. Where a run was `killed`, a file that was just
    being replaced may be newer than its row, and is named.
    """
    with Store.open(folder) as store:
        found = verify(store, store.runs())
        ids = {row.id for row in store.runs()}
    assert found.database == ()
    assert [problem for problem in found.problems if not (killed and problem.fault == "changed")] == []
    assert "running" not in statuses(folder)
    assert list(folder.rglob(".latcli-*")) == []
    without_row = {path for path in folder.iterdir() if path.is_dir() and path.name not in ids}
    assert all([file.name for file in path.iterdir()] in ([], ["lock"]) for path in without_row)
