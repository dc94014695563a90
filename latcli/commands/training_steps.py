"""The steps of a training run: its state is kept, the test set scored, signals wait for their end, progress is shown.

Progress is a bar, lines, numbers in the database and in trackers.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from types import FrameType
from typing import Any

from latcli.engine.distributed import Ranks
from latcli.engine.loggers import Loggers
from latcli.engine.scoring import score_point
from latcli.engine.training.loop import StepReport, Trainer, train
from latcli.engine.training.state import pack_state
from latcli.errors import ExitCode
from latcli.reporting.text import rough_duration
from latcli.results import ScorePoint
from latcli.session import Session, Tick
from latcli.store.store import Run

#: All that is needed to resume a run, in its folder.
STATE = "state.safetensors"

#: Without --checkpoint-every, the state is kept this often.
_STATE_SECONDS = 60.0
#: A signal that has waited so long for the end of a step is let through in the middle of its inner attack.
_PATIENCE_SECONDS = 0.5
#: Numbers are recorded at about so many steps of a run.
_MEASUREMENTS = 200

#: The first steps are slower than the rest; the duration is estimated once these, and this many seconds, are behind.
_FIRST_STEPS = 3
_FIRST_SECONDS = 3.0
#: Off a terminal a line is written at each such share of the steps.
_LINE_SHARE = 0.1
#: Numbers are written together: a transaction takes as long as a small step.
_WRITE_SECONDS = 2.0


# the steps


def keep_state(stored: Run, trainer: Trainer) -> None:
    """Keep all that is needed to resume the run; the state before stays until the new one is whole."""
    stored.write_artifact(STATE, pack_state(trainer), "state")


def take_steps(
    trainer: Trainer, checkpoint_every: int | None, test_every: int | None, stored: Run | None, log: TrainingLog | None
) -> None:
    """All steps that are left, with the state kept and the test set scored when it is time.

    A signal is acted on after the step in progress, or within it, once its state is kept. A rank other than 0 has no
    run and no log: it keeps nothing, and where all stop on a signal its process ends.
    """
    settings = trainer.settings
    kept_at, kept_step = time.monotonic(), trainer.done
    with postponed() as pending, trainer.ranks.watched():  # inside the run, which the loss of a rank must fail

        def keep() -> None:
            nonlocal kept_at, kept_step
            if stored is not None and log is not None:
                log.flush()
                keep_state(stored, trainer)
            kept_at, kept_step = time.monotonic(), trainer.done

        def stop(number: int) -> None:
            if stored is None:
                sys.exit(ExitCode.OK)
            keep()
            pending.deliver(number)

        def between_pieces(images: int = 0) -> None:
            """Give up a long step or score for a signal: the weights are still those of the last step."""
            if pending.number and pending.has_waited(_PATIENCE_SECONDS) and trainer.ranks.size == 1:
                stop(pending.number)

        def score_test_set(step: int) -> None:
            if test_every and step and (step % test_every == 0 or step == settings.steps):
                started, point = time.monotonic(), score_point(trainer, between_pieces)
                left = -(-settings.steps // test_every) - step // test_every if step < settings.steps else 0
                if log is not None:
                    log.on_point(point, time.monotonic() - started, left)

        def after_step(step: int) -> None:
            if number := _common_signal(pending, trainer.ranks):
                stop(number)
            if checkpoint_every is None:
                is_due = time.monotonic() - kept_at >= _STATE_SECONDS
            else:
                is_due = step - kept_step >= checkpoint_every
            if is_due or step == settings.steps:
                keep()
            score_test_set(step)

        if next(trainer.net.parameters()).device.type != "cuda":
            trainer.between = between_pieces
        score_test_set(trainer.done)  # it may have been cut off before this was done
        on_step = log.on_step if log is not None else lambda _: None
        train(trainer, on_step=on_step, after_step=after_step, measure_every=max(1, settings.steps // _MEASUREMENTS))


def _common_signal(pending: PendingSignal, ranks: Ranks) -> int | None:
    """The signal to stop at after this step, the same on all ranks: one that any of them has caught by now."""
    if ranks.size == 1:
        return pending.number
    numbers = (signal.SIGINT, signal.SIGTERM)
    caught = ranks.mean([float(pending.number == number) for number in numbers])
    return next((int(number) for number, share in zip(numbers, caught, strict=True) if share), None)


# signals


class PendingSignal:
    """A signal that came while it was put off; `number` is None while there is none."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._came = 0.0
        self._handlers: dict[int, Any] = {}

    def has_waited(self, seconds: float) -> bool:
        """Whether a signal came at least so long ago."""
        return self.number is not None and time.monotonic() - self._came >= seconds

    def deliver(self, number: int | None) -> None:
        """Do now what the signal of that number does where it is not put off: raise, as a rule."""
        if number in self._handlers:
            self._handlers[number](number, None)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self._handlers[number](number, frame)
        self.number, self._came = number, time.monotonic()


@contextmanager
def postponed() -> Iterator[PendingSignal]:
    """Remember the first SIGINT or SIGTERM of the block instead of acting on it; a second one acts at once.

    The block looks at the yielded object between two pieces of work and calls `deliver`; where it ends without, the
    signal is delivered then. Outside the main thread, where no handler can be set, nothing is put off.
    """
    pending = PendingSignal()
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        pending._handlers = {n: handler for n, handler in handlers.items() if callable(handler)}  # ignored ones stay so
    remember = pending._remember
    for number in pending._handlers:
        signal.signal(number, remember)
    try:
        yield pending
    finally:
        for number, handler in pending._handlers.items():
            if signal.getsignal(number) == remember:  # not where a second signal has reset it
                signal.signal(number, handler)
    pending.deliver(pending.number)


# what is reported


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
        loss, clean, adversarial = f"loss {report.loss:.3f}", report.clean_accuracy, report.adversarial_accuracy
        # In few letters, so that 80 columns have room for the bar, the steps and the time left as well.
        short, long = f"{loss}, clean {100 * clean:.0f} %", f"{loss}, clean {100 * clean:.1f} %"
        if adversarial is not None:
            short, long = f"{short}, adv. {100 * adversarial:.0f} %", f"{long}, adversarial {100 * adversarial:.1f} %"
        if self.images_per_second:
            speed = f"{self.images_per_second:,.0f}"
            short, long = f"{short}, {speed} img/s", f"{long}, {speed} images/s"
        self._tick(text=short)
        names = ("loss", "rate", "epsilon", "clean_accuracy", "adversarial_accuracy")
        self._add(report.step, {name: getattr(report, name) for name in names})
        self._add(report.step, {"images_per_second": self.images_per_second})
        if report.step == self._steps or time.monotonic() - self._written_at >= _WRITE_SECONDS:
            self.flush()
        if report.step - self._last_line >= _LINE_SHARE * self._steps or report.step == self._steps:
            self._last_line = report.step
            self._line(f"step {report.step:,} of {self._steps:,}: {long}")

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
            cost = f"scoring the test set took {rough_duration(seconds)}; {points_left} more"
            self._session.note(f"{cost} will take about {rough_duration(points_left * seconds)}")

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
            line = f"{self._steps - step:,} steps to go, about {rough_duration((self._steps - step) * a_step)}"
            self._run.log(line)
            self._session.note(line)
