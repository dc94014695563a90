"""What an evaluation says of itself while it runs: bar, lines, the time it will take; must not evaluate."""

from __future__ import annotations

import time

from latcli.commands.training_log import duration_text
from latcli.engine.evaluation.matrix import Evaluation, Progress
from latcli.session import Session, Tick
from latcli.store.store import Run

#: The duration is told once this many seconds are behind.
_FIRST_SECONDS = 3.0


class Monitor:
    """Told of every batch; the bar counts attacked images, since natural ones take next to no time."""

    def __init__(self, session: Session, run: Run, tick: Tick, evaluation: Evaluation) -> None:
        self._session, self._run, self._tick, self._evaluation = session, run, tick, evaluation
        self._begun = time.monotonic()
        self._attacked = 0
        self._told = False
        tick(attacked_images(evaluation)[0])

    def after_batch(self, progress: Progress) -> None:
        """Take in a batch. Raises StoreError."""
        column = self._evaluation.columns[progress.subject][progress.column]
        if progress.column != "natural":
            self._attacked += progress.images
            self._tick(progress.images)
            self._tell_time()
        self._tick(0, text=f"{self._name(progress)} {column.done:,}/{len(column.right_N):,}")
        if column.done == len(column.right_N):
            self._tell(progress)

    def _tell_time(self) -> None:
        seconds = time.monotonic() - self._begun
        done, total = attacked_images(self._evaluation)
        if self._told or seconds < _FIRST_SECONDS or done == total:
            return
        self._told = True
        line = f"{total - done:,} images to attack, about {duration_text((total - done) * seconds / self._attacked)}"
        self._run.log(line)
        self._session.note(line)

    def _tell(self, progress: Progress) -> None:
        cell = self._evaluation.columns[progress.subject][progress.column].cell()
        loss = "" if cell.loss is None else f"loss {cell.loss:.4g}, "
        figures = f"{loss}accuracy {100 * cell.accuracy:.2f} %"
        line = f"{self._name(progress)}: {figures} ({cell.n:,} images, {duration_text(cell.seconds)})"
        self._run.log(line)
        if not self._session.shows_progress:
            self._session.note(line)

    def _name(self, progress: Progress) -> str:
        return f"{self._evaluation.subjects[progress.subject].name}, {progress.column}"


def attacked_images(evaluation: Evaluation) -> tuple[int, int]:
    """How many attacked images are done, and how many there are in all columns together."""
    columns = [column for one in evaluation.columns for name, column in one.items() if name != "natural"]
    return sum(column.done for column in columns), sum(len(column.right_N) for column in columns)
