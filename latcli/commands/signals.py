"""Ctrl-C and SIGTERM put off to a moment at which work can be laid down whole; must not know what the work is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from latcli.errors import raise_swallowed


class PendingSignal:
    """A signal that came while it was put off."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._came = 0.0
        self._handlers: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number is not None

    def waits(self, seconds: float) -> bool:
        """Whether a signal came so long ago, or longer."""
        return self.number is not None and time.monotonic() - self._came >= seconds

    def deliver(self, number: int | None = None) -> None:
        """Do now what the signal, or that of `number`, would have done when it came: raise, as a rule."""
        number = number or self.number
        if number is not None and callable(handler := self._handlers.get(number)):
            handler(number, None)


@contextmanager
def postponed() -> Iterator[PendingSignal]:
    """Remember the first SIGINT or SIGTERM of the block instead of acting on it; a second one acts at once.

    The block asks the yielded object between two pieces of work, and calls `deliver`; where it ends without doing so,
    the signal is delivered then. Outside the main thread, where no handler can be set, nothing is put off.
    """
    raise_swallowed()
    pending = PendingSignal()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return

    def remember(number: int, frame: FrameType | None) -> None:
        handler: Callable[[int, FrameType | None], Any] = pending._handlers[number]
        if pending.number is not None:
            handler(number, frame)
        pending.number, pending._came = number, time.monotonic()

    for caught in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(caught)
        if callable(before):  # what is ignored stays ignored
            pending._handlers[caught] = before
            signal.signal(caught, remember)
    try:
        yield pending
    finally:
        for put_off, handler in pending._handlers.items():
            if signal.getsignal(put_off) is remember:
                signal.signal(put_off, handler)
    pending.deliver()
