"""A line from rank 0 to every other rank, over which each learns that another failed or is gone; knows no training.

Collectives alone do not do: they cannot say whose fault it was, wait no longer than their time limit, and on GPUs do
not see that a process has died. Words are lines of JSON; the ranks know each other by a secret key.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from latcli.errors import ExitCode, LatcliError

#: Seconds that ranks have to come to rank 0, once they are known to live.
_COME_SECONDS = 300.0
#: Longest line that a stranger may send before he is shown out.
_LONGEST_GREETING = 200


@dataclass(frozen=True)
class Failure:
    """Why a rank is lost."""

    rank: int
    message: str
    hint: str

    def error(self) -> LatcliError:
        """The failure as the error that ends the run."""
        return LatcliError(f"rank {self.rank}: {self.message}", self.hint)


class Hub:
    """Rank 0's end: `size - 1` others come to `port` with `key`; from other machines, too, if `wide`."""

    def __init__(self, size: int, *, wide: bool) -> None:
        self.key = secrets.token_hex(16)
        self._server = socket.create_server(("" if wide else "127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lines: dict[int, socket.socket] = {}
        self._others = size - 1
        self._changed = threading.Condition()
        self._here = 0
        self._failure: Failure | None = None
        self._closing = False
        #: What is done, besides, as soon as a rank is lost: the main thread may wait where no exception wakes it.
        self.when_lost: Callable[[], None] = lambda: None

    def gather(self, check: Callable[[], None]) -> None:
        """Wait until all others have come. `check` raises where one of them cannot come any more.

        Raises LatcliError where they do not come in five minutes.
        """
        deadline = time.monotonic() + _COME_SECONDS
        self._server.settimeout(0.2)
        while len(self._lines) < self._others:
            if time.monotonic() > deadline:
                raise LatcliError("not all ranks have come within five minutes", "look at what they say on stderr")
            check()
            try:
                line, _ = self._server.accept()
            except TimeoutError:
                continue
            self._welcome(line)
        self._server.close()

    def meet(self) -> None:
        """Wait, for as long as it takes, until all ranks have come to this point. Raises LatcliError if one fails."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or self._here >= self._others)
            self._here -= self._others
        self.check()
        self._tell("go")

    def check(self) -> None:
        """Raise LatcliError where a rank is lost."""
        if self._failure is not None:
            raise self._failure.error()

    def wait_for_failure(self, seconds: float) -> None:
        """Raise LatcliError as soon as a rank is known to be lost; return where none is after so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, seconds)
        self.check()

    def close(self, *, done: bool) -> None:
        """Let all ranks go, who end; in peace if all is `done`."""
        self._closing = True
        self._server.close()
        if done:
            self._tell("end")
        for line in self._lines.values():
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # closing alone would not do while a thread reads from it
            line.close()

    def _welcome(self, line: socket.socket) -> None:
        line.settimeout(5.0)
        stream = line.makefile("rb")
        try:
            greeting = json.loads(stream.readline(_LONGEST_GREETING))
            known = secrets.compare_digest(str(greeting["key"]), self.key)
            rank = int(greeting["rank"])
        except (OSError, ValueError, KeyError, TypeError):
            known, rank = False, 0
        if not known:
            line.close()
            return
        line.settimeout(None)
        self._lines[rank] = line
        threading.Thread(target=self._listen, args=(rank, stream), daemon=True, name=f"rank-{rank}").start()

    def _listen(self, rank: int, stream: BinaryIO) -> None:
        for word in _words(stream):
            if word["word"] == "here":
                with self._changed:
                    self._here += 1
                    self._changed.notify_all()
            else:
                self._lose(Failure(rank, word["message"], word["hint"]))
        self._lose(Failure(rank, "its process has ended without a word", "see its node's log: it may have been killed"))

    def _lose(self, failure: Failure) -> None:
        with self._changed:
            if self._failure is not None or self._closing:
                return
            self._failure = failure
            self._changed.notify_all()
        self.when_lost()

    def _tell(self, word: str) -> None:
        for line in self._lines.values():
            _send(line, {"word": word})


class Spoke:
    """Another rank's end. Its process ends at once, without a word, when rank 0 is gone: it has nothing to keep."""

    def __init__(self, address: tuple[str, int], key: str, rank: int) -> None:
        self._line = socket.create_connection(address, timeout=60.0)
        self._line.settimeout(None)
        _send(self._line, {"key": key, "rank": rank})
        self._go = threading.Semaphore(0)
        self._end = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="rank-0").start()

    def meet(self) -> None:
        """Wait, for as long as it takes, until all ranks have come to this point."""
        _send(self._line, {"word": "here"})
        self._go.acquire()

    def fail(self, message: str, hint: str) -> None:
        """Tell rank 0 why this one ends."""
        _send(self._line, {"word": "failed", "message": message, "hint": hint})

    def wait_for_end(self, seconds: float | None = None) -> None:
        """Wait until rank 0 has done all that is left to do."""
        self._end.wait(seconds)

    def _listen(self) -> None:
        for word in _words(self._line.makefile("rb")):
            if word["word"] == "go":
                self._go.release()
            else:
                self._end.set()
        if not self._end.is_set():
            os._exit(ExitCode.FAILURE)  # the main thread may wait in a collective, from which no exception wakes it


def _words(stream: BinaryIO) -> Any:
    """What comes over a line until it is closed or breaks."""
    try:
        for line in stream:
            yield json.loads(line)
    except (OSError, ValueError):
        return


def _send(line: socket.socket, word: dict[str, Any]) -> None:
    try:
        line.sendall(f"{json.dumps(word)}\n".encode())
    except OSError:
        return  # the other end is gone, which whoever listens to it has learnt as well
