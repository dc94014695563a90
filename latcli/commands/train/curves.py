"""A training run's numbers for TensorBoard, where the extra is installed; must not know what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latcli.errors import StoreError

#: The folder inside the run's that `tensorboard --logdir` is pointed at, or at any folder above it.
FOLDER = "tensorboard"


class Curves:
    """Event files in the run's folder; nothing at all where the package `tensorboard` is not there.

    What a killed process wrote beyond step `done`, from which the run goes on, TensorBoard is told to forget.
    """

    def __init__(self, run_folder: Path, done: int) -> None:
        self._folder = run_folder / FOLDER
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._writer = SummaryWriter(str(self._folder), purge_step=done + 1 if done else None)
            except OSError as error:
                raise self._failed(error) from error

    def add(self, values: Iterable[tuple[str, int, float]]) -> None:
        """Write (name, step, value) triples. Raises StoreError where the disk does not take them."""
        if self._writer is None:
            return
        try:
            for name, step, value in values:
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Write what is left. Raises StoreError."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                raise self._failed(error) from error

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write {self._folder}: {(error.strerror or str(error)).lower()}", "make room, then resume the run"
        )
