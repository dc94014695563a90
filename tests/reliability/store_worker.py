"""One of many processes at one store: python store_worker.py ROLE STORE NUMBER COUNT. It waits for a line on stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from latcli.commands.runs import verify
from latcli.errors import StoreError, UsageError
from latcli.store.store import Store


def write(folder: Path, number: int, count: int) -> None:
    """`count` writes of five kinds, all of one run; every artifact of one name is replaced by the next of it."""
    with Store.open(folder) as store, store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        for index in range(count):
            match index % 5:
                case 0:
                    run.record_metrics([("loss", index, float(number))])
                case 1:
                    run.write_artifact(f"{number}-{index}.png", os.urandom(2_000), "mask")
                case 2:
                    run.write_artifact("state.safetensors", os.urandom(20_000), "state")
                case 3:
                    run.insert("attacks", [{"image": "hen.jpg", "sha256": f"{number}-{index}", "epsilon": 0.03}])
                case 4:
                    run.insert("cells", [{"model_id": f"model {index}", "input": "natural", "n": index, "loss": 0.5}])


def read(folder: Path, number: int, count: int) -> None:
    """List and show runs until told to stop; prints how often."""

    def look() -> None:
        with Store.open_existing(folder) as store:
            store.rows_of([row.id for row in store.runs()], "attack_results")
            store.find_run("latest")

    _until_stopped(folder, look)


def check(folder: Path, number: int, count: int) -> None:
    """Verify all runs until told to stop; prints how often, and every fault that it sees."""

    def look() -> None:
        with Store.open_existing(folder) as store:
            found = verify(store, store.runs())
        if not found.ok:
            print("fault:", found, flush=True)

    _until_stopped(folder, look)


def _until_stopped(folder: Path, look: Callable[[], object]) -> None:
    looked = 0
    while not folder.with_name("stop").exists():
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
    {"write": write, "read": read, "verify": check}[role](Path(folder), int(number), int(count))
