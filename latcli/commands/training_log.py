"""What a training run reports while it runs: progress bar and lines, numbers in the database and in trackers."""

from __future__ import annotations

import time
from itertools import groupby

from latcli.engine.loggers import Loggers
from latcli.engine.training.loop import StepReport
from latcli.results import ScorePoint
from latcli.session import Session, Tick
from latcli.store.store import Run

#: The first steps are slower than the rest; the duration is estimated once these, and this many seconds, are behind.
_FIRST_STEPS = 3
_FIRST_SECONDS = 3.0
#: Off a terminal a line is written at each such share of the steps.
_LINE_SHARE = 0.1
#: Numbers are written together: a transaction takes as long as a small step.
_WRITE_SECONDS = 2.0


class TrainingLog:
    """Gets every step of a run of `steps` steps, of which `done` were done before, and the scores on the way."""

    def __init__(
        self, session: Session, run: Run, tick: Tick, loggers: Loggers, *, steps: int, done: int, batch: int
    ) -> None:
        self._session, self._run, self._tick, self._loggers = session, run, tick, loggers
        self._steps, self._first, self._batch = steps, done, batch
        self._begun = self._written_at = time.monotonic()
        self._timed_from: tuple[float, int] | None = None
        self._estimated = self._cost_shown = False
        self._last_line = done
        self._paused = self.images_per_second = 0.0
        self._unwritten: list[tuple[str, int, float]] = []
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
        # In few letters, so that 80 columns have room for the bar, the steps and the time left as well.
        short = [f"loss {report.loss:.3f}", f"clean {100 * report.clean_accuracy:.0f} %"]
        long = [
            f"step {report.step:,} of {self._steps:,}: loss {report.loss:.3f}",
            f"clean {100 * report.clean_accuracy:.1f} %",
        ]
        if report.adversarial_accuracy is not None:
            short.append(f"adv. {100 * report.adversarial_accuracy:.0f} %")
            long.append(f"adversarial {100 * report.adversarial_accuracy:.1f} %")
        if self.images_per_second:
            short.append(f"{self.images_per_second:,.0f} img/s")
            long.append(f"{self.images_per_second:,.0f} images/s")
        self._tick(text=", ".join(short))
        names = ("loss", "rate", "epsilon", "clean_accuracy", "adversarial_accuracy")
        self._add(report.step, {name: getattr(report, name) for name in names})
        self._add(report.step, {"images_per_second": self.images_per_second})
        if report.step == self._steps or time.monotonic() - self._written_at >= _WRITE_SECONDS:
            self.flush()
        if report.step - self._last_line >= _LINE_SHARE * self._steps or report.step == self._steps:
            self._last_line = report.step
            self._line(", ".join(long))

    def on_point(self, point: ScorePoint, seconds: float, points_left: int) -> None:
        """Take in a score of the test set and how long it took; so many more will come. Raises StoreError."""
        self._paused += seconds
        names = ("loss", "accuracy", "attacked_loss", "attacked_accuracy")
        self._add(point.step, {f"test_{name}": getattr(point, name) for name in names})
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
            for step, numbers in groupby(self._unwritten, key=lambda one: one[1]):
                self._loggers.scalars({name: value for name, _, value in numbers}, step)
            self._unwritten = []
        self._written_at = time.monotonic()

    def _add(self, step: int, values: dict[str, float | None]) -> None:
        self._unwritten += [(name, step, value) for name, value in values.items() if value is not None]

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
        started, first = self._timed_from
        a_step = max(now - started, 1e-9) / (step - first)
        self.images_per_second = self._batch / a_step
        if not self._estimated and (now - started >= _FIRST_SECONDS or step - first >= 100):
            self._estimated = True
            line = f"{self._steps - step:,} steps to go, about {duration_text((self._steps - step) * a_step)}"
            self._run.log(line)
            self._session.note(line)


def duration_text(seconds: float) -> str:
    """A duration in the largest unit that suits it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
