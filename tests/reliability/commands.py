"""Small attacks, trainings and evaluations, begun as a user begins them, and what they are begun with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

FEW = ("--device", "cpu", "--precision", "fp32", "--offline")


def photos(folder: Path, count: int) -> Path:
    """Photos that installed packages carry, small, under as many names."""
    import matplotlib
    import ultralytics

    sources = [
        Path(ultralytics.__file__).parent / "assets" / "bus.jpg",
        Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg",
    ]
    folder.mkdir(parents=True)
    for number in range(count):
        with Image.open(sources[number % 2]) as photo:
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


def latcli(arguments: list[str], cwd: Path, environment: dict[str, str], **more: object) -> subprocess.Popen[str]:
    """Begin `latcli ARGUMENTS` in a folder, on one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "latcli", *arguments],
        cwd=cwd,
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


def wait_for_run(process: subprocess.Popen[str], runs: Path, before: int) -> None:
    """Until the store has more than so many folders of runs, or the process has ended."""
    end = time.monotonic() + 300
    while process.poll() is None and len(list(runs.glob("*/run.json"))) <= before:
        assert time.monotonic() < end, "no run was begun"
        time.sleep(0.01)
