"""Ctrl-C and SIGTERM deferred until the work in progress can be saved, such as the state of a training run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
