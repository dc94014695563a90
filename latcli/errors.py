"""Exit codes, and the errors that a user sees as two lines; imports no other module of latcli."""

from __future__ import annotations

import copyreg
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What a process of latcli ends with."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NO_OBJECT = 3
    NOT_FOOLED = 4
    INTERRUPTED = 130
    TERMINATED = 143


class LatcliError(Exception):
    """An error that the user can act on: one line with the cause, and a hint with the remedy.

    Anything else that is raised is a defect of latcli and is shown as such.
    """

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, hint: str, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle makes it anew from, on its way from one process to another."""
        return copyreg.__newobj__, (type(self), self.message), self.__dict__  # type: ignore[attr-defined]


class UsageError(LatcliError):
    """An option or argument that is invalid."""

    exit_code = ExitCode.USAGE


class ImageError(LatcliError):
    """A file that should hold a photo or a mask and cannot be used as one."""


class WeightsError(LatcliError):
    """Weights that are missing, unreachable, or not what they claim to be."""


class NoObjectError(LatcliError):
    """A detector that looked and found nothing."""

    exit_code = ExitCode.NO_OBJECT


class ContractError(LatcliError):
    """An adversarial image that breaks the epsilon contract: a defect of the attack that made it."""


class StoreError(LatcliError):
    """A store that cannot be opened, read or written."""


class MachineError(LatcliError):
    """A machine that runs short of memory, or loses a device, while it computes."""


class Terminated(BaseException):
    """Raised in the main thread by SIGTERM, so that a run is closed as carefully as on Ctrl-C."""


def first_line(error: BaseException, longest: int = 160) -> str:
    """What an error of another package says in its first line, else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]
