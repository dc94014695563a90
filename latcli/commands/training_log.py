"""What a training run reports while it runs: progress bar and lines, numbers in the database and for TensorBoard."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latcli.engine.training.loop import StepReport
from latcli.errors import StoreError
from latcli.results import ScorePoint
from latcli.session import Session, Tick
from latcli.store.store import Run

#: The folder inside the run's that `tensorboard --logdir` is pointed at, or at any folder above it.
TENSORBOARD = "tensorboard"

#: The first steps are slower than the rest; the duration is estimated once these, and this many seconds, are behind.
_FIRST_STEPS = 3
_FIRST_SECONDS = 3.0
#: Off a terminal a line is written at each such share of the steps.
_LINE_SHARE = 0.1
#: Numbers are written together: a transaction takes as long as a small step.
_WRITE_SECONDS = 2.0

Numbers = list[tuple[str, int, float]]


class TrainingLog:
    """Told of every step of a run of `steps` steps, of which `done` were done before, and of its scoring.

    scoring: the work of all scoring in units of a step's, so that bar and estimate end where the command does.
    """

    def __init__(
        self, session: Session, run: Run, tick: Tick, *, steps: int, done: int, batch: int, scoring: float
    ) -> None:
        self._session, self._run, self._tick = session, run, tick
        self._curves = TensorBoard(run.folder, done)
        self._steps, self._first, self._batch, self._scoring = steps, done, batch, scoring
        self._begun = time.monotonic()
        self._timed_from: tuple[float, int] | None = None
        self._estimated = self._cost_shown = False
        self._last_line = done
        self._scored = 0.0
        self._paused = 0.0
        self.images_per_second = 0.0
        self._unwritten: Numbers = []
        self._written_at = self._begun
        tick(done)

    @property
    def seconds(self) -> float:
        """Since the first step."""
        return time.monotonic() - self._begun

    def on_step(self, report: StepReport) -> None:
        """Take in a report. Raises StoreError."""
        self._measure_speed(report.step)
        if report.clean_accuracy is None:
            self._tick()
            return
        self._tick(text=self._beside_bar(report))
        values = {
            "loss": report.loss,
            "rate": report.rate,
            "epsilon": report.epsilon,
            "clean_accuracy": report.clean_accuracy,
            "adversarial_accuracy": report.adversarial_accuracy,
            "images_per_second": self.images_per_second,
        }
        self._unwritten += [(name, report.step, value) for name, value in values.items() if value is not None]
        if report.step == self._steps or time.monotonic() - self._written_at >= _WRITE_SECONDS:
            self.flush()
        if report.step - self._last_line >= _LINE_SHARE * self._steps or report.step == self._steps:
            self._last_line = report.step
            self._line(self._text(report))

    def on_scoring(self, steps: float) -> None:
        """Move the bar on by scoring that took as much work as so many steps."""
        before, self._scored = int(self._scored), self._scored + steps
        if int(self._scored) > before:
            self._tick(int(self._scored) - before)

    def on_point(self, point: ScorePoint, seconds: float, points_left: int) -> None:
        """Take in a score of the test set and how long it took; so many more will come. Raises StoreError."""
        self._paused += seconds
        values = {
            "test_loss": point.loss,
            "test_accuracy": point.accuracy,
            "test_attacked_loss": point.attacked_loss,
            "test_attacked_accuracy": point.attacked_accuracy,
        }
        self._unwritten += [(name, point.step, value) for name, value in values.items() if value is not None]
        self.flush()
        text = f"step {point.step:,}: test loss {point.loss:.4f}, accuracy {100 * point.accuracy:.2f} %"
        if point.attacked_loss is not None and point.attacked_accuracy is not None:
            text += f"; attacked {point.attacked_loss:.4f}, {100 * point.attacked_accuracy:.2f} %"
        self._line(text)
        if not self._cost_shown and points_left:
            self._cost_shown = True
            cost = f"scoring the test set took {duration_text(seconds)}; {points_left} more"
            self._session.note(f"{cost} will take about {duration_text(points_left * seconds)}")

    def flush(self) -> None:
        """Write the numbers that have gathered. Raises StoreError."""
        if self._unwritten:
            self._run.record_metrics(self._unwritten)
            self._curves.add(self._unwritten)
            self._unwritten = []
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Write what is left, once no more steps will come. Raises StoreError."""
        self.flush()
        self._curves.close()

    def _line(self, text: str) -> None:
        self._run.log(text)
        if not self._session.shows_progress:
            self._session.note(text)

    def _measure_speed(self, step: int) -> None:
        now = time.monotonic() - self._paused
        if self._timed_from is None:
            if step - self._first >= _FIRST_STEPS:
                self._timed_from = (now, step)
            return
        begun, first = self._timed_from
        a_step = max(now - begun, 1e-9) / (step - first)
        self.images_per_second = self._batch / a_step
        if not self._estimated and (now - begun >= _FIRST_SECONDS or step - first >= 100):
            self._estimated = True
            scoring = max(0.0, self._scoring - self._scored) * a_step
            left = (self._steps - step) * a_step + scoring
            line = f"{self._steps - step:,} steps to go, about {duration_text(left)}"
            line += f", of which scoring {duration_text(scoring)}" if scoring >= 0.1 * left else " with the scoring"
            self._run.log(line)
            self._session.note(line)

    def _beside_bar(self, report: StepReport) -> str:
        """In few letters, so that 80 columns have room for the bar, the steps and the time left as well."""
        parts = [f"loss {report.loss:.3f}", f"clean {100 * (report.clean_accuracy or 0.0):.0f} %"]
        if report.adversarial_accuracy is not None:
            parts.append(f"adv. {100 * report.adversarial_accuracy:.0f} %")
        return ", ".join([*parts, f"{self.images_per_second:,.0f} img/s"])

    def _text(self, report: StepReport) -> str:
        parts = [f"step {report.step:,} of {self._steps:,}: loss {report.loss:.3f}"]
        if report.clean_accuracy is not None:
            parts.append(f"clean {100 * report.clean_accuracy:.1f} %")
        if report.adversarial_accuracy is not None:
            parts.append(f"adversarial {100 * report.adversarial_accuracy:.1f} %")
        return ", ".join([*parts, f"{self.images_per_second:,.0f} images/s"])


class TensorBoard:
    """Event files in the run's folder; nothing at all where the package `tensorboard` is not installed.

    What a killed process wrote beyond step `done`, from which the run goes on, TensorBoard will leave out.
    """

    def __init__(self, run_folder: Path, done: int) -> None:
        self._folder = run_folder / TENSORBOARD
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._writer = SummaryWriter(str(self._folder), purge_step=done + 1 if done else None)
            except OSError as error:
                raise self._failed(error) from error

    def add(self, values: Numbers) -> None:
        """Write (name, step, value) triples. Raises StoreError where the disk does not take them."""
        if self._writer is not None:
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


def duration_text(seconds: float) -> str:
    """A duration in the largest unit that suits it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
