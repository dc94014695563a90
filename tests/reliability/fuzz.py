"""Feeds damaged files to one reader in a process of its own: `fuzz.py TARGET=COUNT,... SEED FOLDER [FIRST]`.

Prints a JSON line a target: cases, seconds, the slowest case, the most memory beyond the start, and what failed. A case
fails where anything but a LatcliError is raised, where it takes more than 5 s of processor time, or more than 2 GiB of
memory. Each failing case is left as a file in FOLDER/TARGET.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mutations import cases

MOST_SECONDS = 5.0
MOST_BYTES = 2 << 30
#: Where a call into C does not come back at all, the process ends and the case is still on the disk.
_GIVEN_UP_AFTER = 60
#: How much of one kind of failure is kept.
_KEPT = 3


class HangError(BaseException):
    """Raised by the alarm; no reader may take it for damage."""


@dataclass
class Report:
    """What came of the cases of one target."""

    target: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_case: int = 0
    peak_bytes: int = 0
    failures: dict[str, list[int]] = field(default_factory=dict)


def run(target: str, count: int, seed: int, folder: Path, first: int = 0) -> Report:
    """Try the cases `first` to `first + count` of a target; `folder` is where it works and leaves what fails."""
    from targets import TARGETS

    made = TARGETS[target](folder)
    made.read(made.seeds[0])  # imports and caches are no case's memory
    report = Report(target)
    _limit_memory()
    started = time.perf_counter()
    for number in range(first, first + count):
        data = cases(made.seeds, made.mutation, number, seed)
        (folder / "current").write_bytes(data)
        _try(made.read, data, number, report, folder)
    report.cases, report.seconds = count, time.perf_counter() - started
    return report


def _try(read: Callable[[bytes], None], data: bytes, number: int, report: Report, folder: Path) -> None:
    from latcli.errors import LatcliError

    failure = None
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    began = time.process_time()
    faulthandler.dump_traceback_later(_GIVEN_UP_AFTER, exit=True)
    signal.setitimer(signal.ITIMER_PROF, 2 * MOST_SECONDS)
    try:
        read(data)
    except LatcliError:
        report.refused += 1
    except (HangError, Exception) as error:
        failure = _described(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    seconds, peak = time.process_time() - began, _memory("VmHWM") - before
    if seconds > report.slowest:
        report.slowest, report.slowest_case = seconds, number
    report.peak_bytes = max(report.peak_bytes, peak)
    if failure is None and seconds > MOST_SECONDS:
        failure = "slow"
    if failure is None and peak > MOST_BYTES:
        failure = "memory"
    if failure is not None:
        known = report.failures.setdefault(failure, [])
        known.append(number)
        if len(known) <= _KEPT:
            (folder / f"{report.target}-{number}").write_bytes(data)


def _described(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/latcli/" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:100]}"


def _memory(name: str) -> int:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))


def _limit_memory() -> None:
    limit = _memory("VmSize") + 3 * MOST_BYTES
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _alarm(*_: object) -> None:
    raise HangError(f"more than {2 * MOST_SECONDS:g} s")


def main(told: str, seed: str, folder: str, first: str = "0") -> None:
    """`told` is TARGET=COUNT, or several with commas between: a line of JSON each."""
    warnings.simplefilter("ignore")
    os.fsync = lambda _descriptor: None  # the disk is not what is tried here
    signal.signal(signal.SIGPROF, _alarm)
    for one in told.split(","):
        target, _, count = one.partition("=")
        place = Path(folder, target)
        place.mkdir(parents=True, exist_ok=True)
        print(json.dumps(asdict(run(target, int(count), int(seed), place, int(first)))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
