"""What a training run says of itself while it runs: bar, lines, numbers in the database; must not train."""

from __future__ import annotations

import time

from latcli.commands.train.curves import Curves
from latcli.engine.training.loop import StepReport
from latcli.session import Session, Tick
from latcli.store.store import Run

#: The first steps are slower than the rest; the duration is told once these, and this many seconds, are behind.
_FIRST_STEPS = 3
_FIRST_SECONDS = 3.0
#: Off a terminal a line is written at each such share of the steps.
_LINE_SHARE = 0.1
#: Numbers are written together: a transaction takes as long as a small step.
_WRITE_SECONDS = 2.0


class Monitor:
    """Told of every step of a run of `steps` steps, of which `done` were done before; shows some, records some."""

    def __init__(self, session: Session, run: Run, tick: Tick, *, steps: int, done: int, batch: int) -> None:
        self._session, self._run, self._tick = session, run, tick
        self._curves = Curves(run.folder, done)
        self._steps, self._first, self._batch = steps, done, batch
        self._begun = time.monotonic()
        self._timed_from: tuple[float, int] | None = None
        self._told = False
        self._last_line = done
        self.images_per_second = 0.0
        self._unwritten: list[tuple[str, int, float]] = []
        self._written_at = self._begun

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
        text = self._text(report)
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
            self._run.log(text)
            if not self._session.shows_progress:
                self._session.note(text)

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

    def _measure_speed(self, step: int) -> None:
        now = time.monotonic()
        if self._timed_from is None:
            if step - self._first >= _FIRST_STEPS:
                self._timed_from = (now, step)
            return
        begun, first = self._timed_from
        self.images_per_second = (step - first) * self._batch / max(now - begun, 1e-9)
        if not self._told and (now - begun >= _FIRST_SECONDS or step - first >= 100):
            self._told = True
            left = (self._steps - step) * (now - begun) / (step - first)
            line = f"{self._steps - step:,} steps to go, about {duration_text(left)}"
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


def duration_text(seconds: float) -> str:
    """A duration as one says it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
