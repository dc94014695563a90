"""How long `latcli report` takes on a large store, as a whole process: makes the store, prints the times.

    python -m benchmarks.report_speed [--runs 2000] [--metrics 200000] [--photos 100000] [--times 5] [--keep DIR]

Half of the runs are training runs, with all the metrics; a quarter are evaluations of their models, a quarter attacks
on four photos each. Every hundredth run has failed. The last run is an attack on `--photos` photos. The runs are made
as the tests of the report make theirs.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import Neighbours
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import spread
from latcli.store.store import Store

REGIMES = ("natural", "standard", "background")
METRICS = ("loss", "clean_accuracy", "adversarial_accuracy", "epsilon", "rate")
PHOTOS = [(f"photos/{index}.jpg", "hen", "cock") for index in range(4)]
COMMANDS = ("report", "report --paper", "report --best", "report --json", "report --markdown -", "report --csv -")


def fill(folder: Path, runs: int, metrics: int) -> None:
    """A store with so many runs and rows of metrics."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import report_store

    points = metrics // (runs // 2) // len(METRICS)
    trained = []
    with Store.open(folder) as store:
        for number in range(runs):
            if number % 100 == 99:
                report_store.crash(store)
            elif number % 4 < 2:
                more = {f"option_{index}": index for index in range(25)} | {"steps": (400, 1200)[number // 3 % 2]}
                run = report_store.train(store, REGIMES[number % 3], number // 6, **more)
                run.record_metrics((name, step, 1.0 / (1 + step)) for name in METRICS for step in range(points))
                trained.append(report_store.entry(store, run))
            elif number % 4 == 2:
                models = trained[-6:]
                losses = {one["id"]: (0.1,) * len(report_store.INPUTS) for one in models}
                report_store.evaluate(store, losses, models)
            else:
                report_store.attack(store, PHOTOS)


def add_photos(folder: Path, photos: int) -> None:
    """An attack on so many photos, whose rows differ in their names and contents."""
    import report_store

    with Store.open(folder) as store:
        run = report_store.attack(store, PHOTOS)
        kept = store.rows_of(run.id, "attacks")
        with store.writing() as db:
            rows = (
                {name: value for name, value in kept[number % 4].items() if name != "id"}
                | {"image": f"photos/{number}.jpg", "altered_percent": number % 100}
                for number in range(len(kept), photos)
            )
            db.table("attacks").insert_all(rows)
            files = store_rows(run.id, photos)
            db.table("artifacts").insert_all(files)


def store_rows(run: str, photos: int) -> Iterator[dict[str, object]]:
    """Rows of the files of so many photos; the files are not there."""
    about = {"run": run, "sha256": "0" * 64, "size": 5000, "created": "2026-11-26T12:00:00Z"}
    for number in range(4, photos):
        for kind in ("adversarial", "mask", "difference"):
            yield about | {"name": f"{number}-{kind}.png", "kind": kind, "image": None}


def taken(store: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU, of a whole process."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "latcli", *arguments, "--store", str(store)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begun, cpu


def measure(store: Path, times: int, record: Record) -> None:
    for name in (*COMMANDS, "runs list"):
        beside = Neighbours()
        clock, cpu = zip(*(taken(store, name.split()) for _ in range(times)), strict=True)
        found, busy = spread(clock, beside.busy()), statistics.median(cpu)
        print(f"{name:24} median {found.median:.2f} s ({busy:.2f} s of CPU), slowest {found.highest:.2f} s")
        record.add("report", command=name, **asdict(found), cpu=busy, disturbed=found.disturbed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    for option, full, quick in (
        ("runs", 2000, 40),
        ("metrics", 200_000, 2000),
        ("photos", 100_000, 200),
        ("times", 5, 1),
    ):
        parser.sized(option, full, quick)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the store there, or take the one that is")
    given = parser.read(arguments)
    record = begin("report_speed", given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary) / "runs"
        if not folder.exists():
            fill(folder, given.runs, given.metrics)
            add_photos(folder, given.photos)
        with Store.open_existing(folder) as store, store.reading() as db:
            counts = {table: db.table(table).count for table in ("runs", "metrics", "cells", "attacks", "artifacts")}
        print(", ".join(f"{count:,} {table}" for table, count in counts.items()))
        record.add("store", **counts)
        measure(folder, given.times, record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
