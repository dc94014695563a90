"""How a process of latcli starts and ends: signals, two-line errors, exit codes."""

from __future__ import annotations

import difflib
import io
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import typer

from latcli.engine.devices import explained
from latcli.engine.registry import nearest
from latcli.errors import ExitCode, LatcliError, Terminated
from latcli.options import RefusedValue
from latcli.reporting.text import printable

#: Under this key a context's `meta` says which file set a parameter.
ORIGINS = "latcli.origins"

_LAST_WORDS: dict[int, str] = {ExitCode.INTERRUPTED: "interrupted", ExitCode.TERMINATED: "terminated"}
#: How long a signal waits for the import in which it came, and how often it looks whether that has ended.
_IMPORT_SECONDS, _LOOK_AGAIN_SECONDS = 1.5, 0.02
_SHOW_CURSOR = b"\x1b[?25h"
#: What pydantic says of a value that it refuses, in plainer words.
_PLAINER = {
    r"Value error, ": "",
    r"Input should be a valid integer.*": "this is not a whole number",
    r"Input should be a valid number.*": "this is not a number",
    r"Input should be greater than or equal to ": "the least is ",
    r"Input should be less than or equal to ": "the most is ",
}


@dataclass
class Invocation:
    """What is needed of a command line even if it fails."""

    debug: bool = False


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run one command line and return its exit code; every error is printed to stderr as `error: …` and `hint: …`.

    An exception that is neither a LatcliError nor Typer's is a defect: it is left to the interpreter, which calls the
    hook that is installed here and ends with exit code 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no letter of a file's name may end a run
    # By default torch's threads spin while they wait for each other, and on a machine that others use too they spin
    # away the time of the one they wait for: three to eight times as long. Only heeded before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    invocation = Invocation(debug="--debug" in arguments)
    sys.excepthook = lambda _type, error, _traceback: _tell_defect(error, invocation.debug)
    code = _code_of(app, arguments, invocation)
    if code in _LAST_WORDS:
        print(_LAST_WORDS[code], file=sys.stderr)
    return _after_flushing(code)


def _code_of(app: typer.Typer, arguments: list[str], invocation: Invocation) -> int:
    command = typer.main.get_command(app)
    try:
        with _signals_as_exceptions(), explained():
            # Returns what the command returned, the code of a typer.Exit, or 130 after a KeyboardInterrupt.
            code = command.main(arguments, prog_name="latcli", standalone_mode=False, obj=invocation)
            return int(code or ExitCode.OK)
    except LatcliError as error:
        _complain(error.message, error.hint, error if invocation.debug else None)
        return error.exit_code
    except typer.TyperException as error:
        ctx = getattr(error, "ctx", None)
        hint = f"see '{ctx.command_path if ctx else 'latcli'} --help'"
        _complain(*_message_and_hint(error, hint), error if invocation.debug else None)
        return error.exit_code
    except typer.Abort as abort:
        if abort.__cause__ is not None:  # Typer's guess at an EOFError that was no refused prompt
            raise abort.__cause__ from None
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Terminated:
        return ExitCode.TERMINATED


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into an exception that closes what is open; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def close(number: int, frame: FrameType | None) -> None:
        for caught in before:
            signal.signal(caught, signal.SIG_DFL)
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)  # a progress bar hides it, and may not live to show it again
        _raise_after_imports(number, frame, time.monotonic() + _IMPORT_SECONDS)

    # A signal that the caller had ignored, as nohup and a shell's & do, stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, close) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_after_imports(number: int, frame: FrameType | None, deadline: float) -> None:
    """Raise the exception of a signal, but not inside an import: libraries swallow exceptions while they load.

    An import that has not ended by `deadline` ends with the process.
    """
    if not _is_importing(frame):
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated
    if time.monotonic() >= deadline:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        os.write(2, f"{_LAST_WORDS[code]}\n".encode())
        os._exit(code)
    signal.signal(signal.SIGALRM, lambda _alarm, later: _raise_after_imports(number, later, deadline))
    signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_SECONDS)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _message_and_hint(error: typer.TyperException, hint: str) -> tuple[str, str]:
    """Typer's error about a command line as message and hint; `hint` is where to read more."""
    if isinstance(error, RefusedValue):
        return error.message, error.hint + _origin_of(error)
    possibilities = getattr(error, "possibilities", None)
    if possibilities:
        typed = str(getattr(error, "option_name", ""))
        closest = difflib.get_close_matches(typed, possibilities, n=1, cutoff=0.0)[0]
        return _tidy(error.message), f"did you mean {closest}? {hint}"
    text = error.format_message()
    for pattern, words in _PLAINER.items():
        text = re.sub(pattern, words, text)
    message, _, suggestion = _tidy(text).partition(". Did you mean ")
    typed, _, choices = message.partition(" is not one of ")
    if suggestion:
        hint = f"did you mean {suggestion} {hint}"
    elif close := nearest(_quoted(typed)[-1], _quoted(choices), 1) if choices else []:
        hint = f"did you mean {close[0]}? {hint}"
    return message, hint + _origin_of(error)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _origin_of(error: typer.TyperException) -> str:
    """Where a refused value was set, where that is not the command line itself."""
    ctx, param = getattr(error, "ctx", None), getattr(error, "param", None)
    if ctx is None or param is None:
        return ""
    source = ctx.get_parameter_source(param.name)
    if source is not None and source.name == "DEFAULT_MAP":
        return f" (it is set in {ctx.meta[ORIGINS][param.name]})"
    if source is not None and source.name == "ENVIRONMENT":
        return f" (it is set by {param.envvar} in the environment)"
    return ""


def _tidy(message: str) -> str:
    message = " ".join(message.split()).rstrip(".")
    return message[:1].lower() + message[1:]


def _complain(message: str, hint: str, traced: BaseException | None) -> None:
    if traced is not None:
        for line in "".join(traceback.format_exception(traced)).splitlines():
            print(printable(line), file=sys.stderr)
    print(f"error: {printable(message)}\nhint: {printable(hint)}", file=sys.stderr)


def _tell_defect(error: BaseException, debug: bool) -> None:
    if isinstance(error, KeyboardInterrupt):
        print(_LAST_WORDS[ExitCode.INTERRUPTED], file=sys.stderr)
        return
    first_line = str(error).strip().partition("\n")[0]
    advice = "report it with the traceback" if debug else "rerun with --debug for the traceback, and report it"
    message = f"unexpected {type(error).__name__}: {first_line}"
    _complain(message, f"this is a defect of latcli: {advice}", error if debug else None)


def _after_flushing(code: int) -> int:
    """The exit code, once what was written to stdout has left; a reader that has gone away is ignored."""
    try:
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        pass
    except OSError as error:
        _complain(f"cannot write the output: {error.strerror}", "make room, or write it elsewhere", None)
    # What is left in the buffer would be written, and fail, once more when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code or ExitCode.FAILURE
