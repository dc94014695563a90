"""Locks on files that end with the process that holds them; must not know what they protect.

A link in the place of a lock file is not followed: what it points to may be anybody's.

POSIX record locks (`lockf`) belong to a process: a forked worker does not keep them, and they are lost as soon as the
holder closes *any* descriptor of the file. So every lock taken here is remembered, and a file that this process has
locked is never opened a second time.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Device and inode of each file locked here, and the process that did it (a fork copies this table, not the locks).
_held: dict[tuple[int, int], int] = {}
#: Guards `_held`, and keeps the threads of this process apart, which record locks do not.
_opening = threading.RLock()

_POLL_SECONDS = 0.02


class HeldLock:
    """An exclusive lock that lasts until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._key = _key(os.fstat(descriptor))
        self._pid = os.getpid()
        _held[self._key] = self._pid

    def release(self) -> None:
        """Give the lock up; a second call, or a call in a forked child, does nothing."""
        with _opening:
            if self._descriptor >= 0 and self._pid == os.getpid():
                _held.pop(self._key, None)
                os.close(self._descriptor)
                self._descriptor = -1


def acquire(path: Path) -> HeldLock | None:
    """Lock the file, making it where there is none; None where this or another process holds it. Raises OSError."""
    with _opening:
        if _held_here(path):
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if _try(descriptor, fcntl.LOCK_EX) and _is_still(path, descriptor):
            return HeldLock(descriptor)
        os.close(descriptor)
        return None


def is_held(path: Path) -> bool:
    """Whether a living process, this one included, holds the file's lock. Raises OSError where it cannot be opened."""
    with _opening:
        if _held_here(path):
            return True
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return not _try(descriptor, fcntl.LOCK_SH)  # a shared lock is enough to tell, and works on read-only media
        finally:
            os.close(descriptor)


@contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold the file alone for the length of the block. Raises TimeoutError after `timeout` seconds, and OSError."""
    with _waiting(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX, timeout):
        yield


@contextmanager
def shared(path: Path, timeout: float) -> Iterator[None]:
    """Keep exclusive holders of an existing file out for the length of the block. Raises TimeoutError and OSError."""
    with _waiting(path, os.O_RDONLY, fcntl.LOCK_SH, timeout):
        yield


@contextmanager
def _waiting(path: Path, flags: int, operation: int, timeout: float) -> Iterator[None]:
    with _opening:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # a pipe would keep it waiting
        try:
            deadline = time.monotonic() + timeout
            while not _try(descriptor, operation):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} stayed locked for {timeout:g} s")
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _try(descriptor: int, operation: int) -> bool:
    try:
        fcntl.lockf(descriptor, operation | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either for "somebody else has it"
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file was not removed, or put in another's place, between opening and locking it."""
    try:
        return _key(path.stat()) == _key(os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _held_here(path: Path) -> bool:
    try:
        key = _key(path.stat())
    except FileNotFoundError:
        return False
    return _held.get(key) == os.getpid()


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
