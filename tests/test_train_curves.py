"""Training's numbers as TensorBoard reads them: whole after a resume, and none where the extra is not installed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from latcli.commands.train import curves as train_curves
from latcli.commands.train.curves import Curves
from latcli.errors import StoreError

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(run_folder: Path, name: str) -> list[tuple[int, float]]:
    events = accumulator.EventAccumulator(str(run_folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_number_arrives(tmp_path: Path) -> None:
    curves = Curves(tmp_path, 0)
    curves.add([("loss", 1, 0.5), ("rate", 1, 0.25)])
    curves.add([("loss", 2, 0.125)])
    curves.close()

    assert read(tmp_path, "loss") == [(1, 0.5), (2, 0.125)]
    assert read(tmp_path, "rate") == [(1, 0.25)]


def test_what_was_written_beyond_the_kept_state_is_forgotten_on_resume(tmp_path: Path) -> None:
    before = Curves(tmp_path, 0)
    before.add([("loss", step, 1.0) for step in range(1, 6)])  # killed here; the state is of step 3
    time.sleep(1.1)  # files are read in the order of the seconds in which they were begun
    after = Curves(tmp_path, 3)
    after.add([("loss", step, 2.0) for step in range(4, 8)])
    before.close(), after.close()

    assert read(tmp_path, "loss") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0)]


def test_without_the_extra_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_curves, "find_spec", lambda _name: None)
    curves = Curves(tmp_path, 0)
    curves.add([("loss", 1, 0.5)])
    curves.close()

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")

    with pytest.raises(StoreError, match=r"cannot write .*tensorboard: "):
        Curves(tmp_path, 0)
