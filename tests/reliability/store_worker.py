"""One of many processes at one store: python store_worker.py ROLE STORE NUMBER COUNT. It waits for a line on stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from latcli.commands.runs import list_runs, show_run, verify_runs
from latcli.errors import StoreError, UsageError
from latcli.store.store import Run, Store

PLAIN = {"argv": [], "config": {}, "seed": 0, "device": "cpu"}


def write(folder: Path, number: int, count: int) -> None:
    """`count` writes of five kinds, all of one run; every artifact of a name is replaced by the next of it."""
    with Store.open(folder) as store, store.start_run("attack", **PLAIN) as run:  # type: ignore[arg-type]
        for index in range(count):
            _WRITES[index % len(_WRITES)](store, run, number, index)


def _metric(_: Store, run: Run, number: int, index: int) -> None:
    run.record_metric("loss", index, float(number))


def _artifact(_: Store, run: Run, number: int, index: int) -> None:
    run.write_artifact(f"{number}-{index}.png", os.urandom(2_000), "mask")


def _replaced(_: Store, run: Run, number: int, index: int) -> None:
    run.write_artifact("state.safetensors", os.urandom(20_000), "state")


def _attack(_: Store, run: Run, number: int, index: int) -> None:
    run.record_attack({"image": f"{number}-{index}", "name": "hen.jpg", "position": index, "epsilon": 0.03})


def _cell(_: Store, run: Run, number: int, index: int) -> None:
    run.record_cell({"model": f"model {index}", "input": "natural", "n": index, "loss": 0.5, "accuracy": 1.0})


_WRITES = (_metric, _artifact, _replaced, _attack, _cell)


def read(folder: Path, number: int, count: int) -> None:
    """List and show runs until told to stop; prints how often."""
    _until_stopped(folder, lambda: (list_runs(folder), show_run(folder, "latest")))


def verify(folder: Path, number: int, count: int) -> None:
    """Verify all runs until told to stop; prints how often, and every fault that it sees."""

    def look() -> None:
        found = verify_runs(folder)
        for run in found.runs:
            for problem in run.problems:
                print("fault:", problem, flush=True)
        for fault in found.database_faults:
            print("fault:", fault, flush=True)

    _until_stopped(folder, look)


def _until_stopped(folder: Path, look: Callable[[], object]) -> None:
    looked = 0
    stop = folder.with_name("stop")
    while not stop.exists():
        try:
            look()
            looked += 1
        except (StoreError, UsageError) as error:
            if "there are no runs in" not in error.message and "there is no run 'latest'" not in error.message:
                raise  # only that the writers have not begun is no fault
    print(looked, flush=True)


if __name__ == "__main__":
    role, folder, number, count = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    {"write": write, "read": read, "verify": verify}[role](Path(folder), int(number), int(count))
