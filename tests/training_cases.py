"""Short training runs: their settings, a folder of small digits, and Ctrl-C at a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from latcli.engine.datasets.base import DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.training.loop import StepReport, Trainer
from latcli.engine.training.settings import TrainSettings

BASE = TrainSettings(attack_steps=2, steps=4, batch=8, average=0.9, score_images=40, score_steps=2)


def write_digits(folder: Path, train: int = 30, test: int = 10) -> Path:
    """Real digits of three classes, 12 pixels a side, so many of each class."""
    digits = open_dataset("mnist-5k", DatasetSource(folder, offline=True))
    parts = {"train": (digits.x_train, digits.y_train, train), "test": (digits.x_test, digits.y_test, test)}
    for split, (x_NCHW, y_N, count) in parts.items():
        for digit in range(3):
            place = folder / split / str(digit)
            place.mkdir(parents=True)
            for index, x_CHW in enumerate(x_NCHW[y_N == digit][:count]):
                Image.fromarray(x_CHW[0].numpy()).resize((12, 12)).save(place / f"{index}.png")
    return folder


@contextmanager
def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Training in this block meets a Ctrl-C while it takes that step."""
    take = Trainer.step

    def interrupted(trainer: Trainer, *, measure: bool = False) -> StepReport:
        if trainer.done + 1 == step:
            signal.raise_signal(signal.SIGINT)
        return take(trainer, measure=measure)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        yield
