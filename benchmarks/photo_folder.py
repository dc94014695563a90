"""Times `latcli attack` on folders of photos as whole processes: together, one by one, one process a photo, and shared
by two processes (`--devices 2`), each of which has half of the processors' threads.

Prints seconds a photo and the first process's peak memory, each in turn, so that ratios are of one run;
`benchmarks.sweeps` shows how both grow with the number of photos. Usage: `python -m benchmarks.photo_folder
[--photos FOLDER] [--count N] [--steps N] [--alone N]`; the photos, which must all leave something to change, are
repeated. Must not import torch: what a process has grown to would show in the peak memory of its children.

With `--device cuda` (or cpu) it times something else: photos a second in one process, with and without threads that
decode and encode beside the device. What the command takes for one photo, loading included, is not in them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.photos import add_photos, copies, given_photos
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import Measure, clocked, in_turn, spread

_TOGETHER = "together"


def timed(*arguments: str | Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of `latcli attack ARGUMENTS` as a process."""
    command = [sys.executable, "-m", "latcli", "attack", *map(str, arguments), "--detector", "cam", "--quiet"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"latcli attack failed: {' '.join(command)}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


class Timings:
    """Measurements of seconds a photo, each in a store of its own; keeps the peak memory of each."""

    def __init__(self, work: Path, steps: int) -> None:
        self.memory: dict[str, float] = {}
        self._work, self._steps, self._stores = work, steps, count()

    def of(self, name: str, folder: Path, *options: str) -> Measure:
        """All photos of a folder in one process."""

        def measure() -> dict[str, float]:
            seconds, memory = self._timed(folder, *options)
            self.memory[name] = max(memory, self.memory.get(name, 0.0))
            return {name: seconds / len(list(folder.iterdir()))}

        return measure

    def alone(self, name: str, photos: Sequence[Path]) -> Measure:
        """A process for each photo."""

        def measure() -> dict[str, float]:
            found = [self._timed(photo) for photo in photos]
            self.memory[name] = max(memory for _, memory in found)
            return {name: sum(seconds for seconds, _ in found) / len(found)}

        return measure

    def _timed(self, *arguments: str | Path) -> tuple[float, float]:
        store = self._work / f"store {next(self._stores)}"
        return timed(*arguments, "--steps", str(self._steps), "--store", store)


def beside_device(given: argparse.Namespace, photos: Sequence[Path], work: Path, record: Record) -> None:
    """Photos a second with and without threads beside the device, side by side."""
    from latcli.commands import attack
    from latcli.commands import photos as photo_work
    from latcli.options import AttackOptions
    from latcli.session import Session

    one, folder = copies(list(photos), 1, work / "one"), copies(list(photos), given.count, work / "photos")
    stores, shared = count(), {"detector": given.detector, "steps": given.steps, "no_figures": True}
    shared |= {"batch": given.batch} if given.batch else {}

    def attacked(folder: Path, threads: int) -> None:
        photo_work.threads_beside = lambda device: threads
        session = Session(store=work / f"store {next(stores)}", device=given.device, quiet=True)
        if attack.run(AttackOptions(photos=(str(folder),), **shared), session).exit_code:
            sys.exit("latcli attack failed")

    threads = min(8, os.cpu_count() or 1)
    attacked(folder, threads)  # warms up
    contenders = {"opening": (one, 0), "without threads": (folder, 0), f"{threads} threads": (folder, threads)}
    found = in_turn(
        [clocked(name, lambda how=how: attacked(*how)) for name, how in contenders.items()],
        given.rounds,
    )
    opening, plain, threaded = ([*found.seconds[name]] for name in contenders)
    for name, seconds in (("without threads", plain), (f"{threads} threads", threaded)):
        rate = spread((given.count - 1) / (whole - before) for whole, before in zip(seconds, opening, strict=True))
        print(f"{name:15} {rate.median:7.2f} photos/s ({rate.range}), whole {spread(seconds).median:.2f} s")
        record.add("beside a device", how=name, photos_a_second=rate.median, seconds=spread(seconds).median)
    print(f"{'one photo':15} {spread(opening).median:7.2f} s, loading included")


def whole_processes(given: argparse.Namespace, photos: Sequence[Path], work: Path, record: Record) -> None:
    """Seconds a photo and peak memory of processes, in turn."""
    folder = copies(list(photos), given.count, work / "photos")
    timings = Timings(work, given.steps)
    measures = [
        timings.of(_TOGETHER, folder),
        timings.of("one by one", folder, "--batch", "1"),
        timings.of("no figures", folder, "--no-figures"),
        timings.of("two processes", folder, "--devices", "2", "--device", "cpu"),
        timings.alone("process each", sorted(folder.iterdir())[: given.alone]),
    ]
    found = in_turn(measures, given.rounds)
    for how, memory in timings.memory.items():
        seconds = found.time(how)
        print(f"{how:13} {seconds.median:7.3f} s a photo ({seconds.range}) {memory:7.0f} MiB at most")
        record.add("photos", how=how, seconds_a_photo=seconds.median, mebibytes=memory)
        if how != _TOGETHER:
            record.add_ratio(f"{given.count} photos, {given.steps} steps", how, found.ratio(how, _TOGETHER))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    add_photos(parser)
    for name, full, quick in (("count", 16, 4), ("steps", 20, 2), ("rounds", 3, 1), ("alone", 4, 1)):
        parser.sized(name, full, quick)
    parser.add_argument("--device", help="time threads beside this device instead: cuda or cpu")
    parser.add_argument("--detector", default="cam", help="with --device; default: cam")
    parser.add_argument("--batch", type=int, help="with --device; default: latcli's own")
    given = parser.read(arguments)
    record = begin("photo_folder", given)
    with TemporaryDirectory() as name:
        measure = beside_device if given.device else whole_processes
        measure(given, given_photos(given.photos), Path(name), record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
