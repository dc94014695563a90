"""How long `latcli report` takes on a large store, as a whole process: makes the store, prints the times.

    python -m benchmarks.report_speed [--runs 2000] [--metrics 200000] [--times 5] [--keep DIR]

Half of the runs are training runs, with all the metrics; a quarter are evaluations of their models, a quarter attacks
on photos, four each. Every hundredth run has crashed.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import Neighbours
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import spread
from latcli.results import AttackedPhoto, Guess, Label, Prediction, columns
from latcli.store.provenance import environment, fingerprint, host
from latcli.store.store import Store

REGIMES = ("natural", "standard", "background")
#: Of every photo.
SHA256 = "0" * 64
METRICS = ("loss", "clean_accuracy", "adversarial_accuracy", "epsilon", "rate")
ASKED = {
    "report": [],
    "report --paper": ["--paper"],
    "report --best": ["--best"],
    "report --json": ["--json"],
    "report --markdown -": ["--markdown", "-"],
    "report --csv -": ["--csv", "-"],
    "runs list": None,
}


def run_row(number: int, command: str, config: dict[str, Any], seed: int, status: str) -> dict[str, Any]:
    started = f"2026-11-{1 + number // 1440 % 28:02}T{number // 60 % 24:02}:{number % 60:02}:00.000Z"
    day = started[:10].replace("-", "") + "-" + started[11:19].replace(":", "")
    return {
        "id": f"{day}-{command}-{number % 65536:04x}",
        "command": command,
        "status": status,
        "started": started,
        "finished": None if status == "crashed" else started,
        "exit_code": None if status == "crashed" else 0,
        "argv_json": ["latcli", command],
        "config_json": config,
        "config_hash": fingerprint(config),
        "seed": seed,
        "device": "cpu",
        "dataset": None if command == "attack" else "mnist@00000000",
        "environment": environment()["id"],
        "pid": 1,
        "host": host(),
        "tags_json": [],
    }


def training_config(number: int) -> dict[str, Any]:
    """Three regimes, two lengths of training, seeds beyond that; with as many options as a real run has."""
    options = {f"option_{index}": index for index in range(25)}
    told = {"regime": REGIMES[number % 3], "steps": (400, 1200)[number // 3 % 2], "architecture": "paper-cnn"}
    return {"dataset": "mnist", "attack_steps": 7, "epsilon": 0.3, "seed": number // 6, **told, **options}


def metric_rows(run: str, count: int) -> Iterator[dict[str, Any]]:
    for name in METRICS:
        for step in range(count // len(METRICS)):
            yield {"run": run, "name": name, "step": step, "value": 1.0 / (1 + step)}
    for name in ("test_loss", "test_accuracy", "test_adversarial_loss", "test_adversarial_accuracy"):
        yield {"run": run, "name": name, "step": count, "value": 0.5}


def cell_rows(run: str, entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        for given in REGIMES:
            attacked = given != "natural"
            yield {
                "run": run,
                "model": entry["name"],
                "label": entry["label"],
                "model_id": entry["id"],
                "regime": entry["regime"],
                "input": given,
                "epsilon": 0.3 if attacked else None,
                "steps": 100 if attacked else None,
                "restarts": 1 if attacked else None,
                "attack": "pgd" if attacked else None,
                "mask_from": "center" if attacked else None,
                "center": 0.25 if attacked else None,
                "seed": 0,
                "n": 1000 if attacked else 10000,
                "loss": 0.1,
                "accuracy": 0.9,
                "accuracy_low": 0.88,
                "accuracy_high": 0.92,
                "seconds": 1.0,
            }


def photo_row(run: str, position: int) -> dict[str, Any]:
    files = {kind: f"{position}-{kind}.png" for kind in ("adversarial", "mask", "difference", "figure")}
    photo = AttackedPhoto(
        image=f"photos/{position}.jpg",
        sha256=SHA256,
        height=300,
        width=400,
        label=Label(8, "hen", "given"),
        clean=Prediction("hen", 8, 0.9, 0.9, 1, 0.1, (Guess(8, "hen", 0.9), Guess(7, "cock", 0.1))),
        adversarial=Prediction("cock", 7, 0.9, 0.1, 2, 2.3, (Guess(7, "cock", 0.9), Guess(8, "hen", 0.1))),
        was_right=True,
        fooled=True,
        detector="cam",
        localized_by="the classifier's map",
        object_percent=50.0,
        region="background",
        epsilon=8 / 255,
        background_percent=50.0,
        visible_background_percent=50.0,
        altered_percent=40.0,
        linf_inside=0.0,
        linf_outside=8 / 255,
        l2=1.0,
        files=files,
    )
    protocol = {"classifier": "efficientnet_lite0", "attack": "pgd", "norm": "linf", "steps": 40, "restarts": 1}
    return {"run": run, **protocol, "objective": "ce", **columns(photo)}


def fill(folder: Path, runs: int, metrics: int) -> None:
    """A store with so many runs and rows of metrics."""
    with Store.open(folder) as store, store.writing() as db:
        db.table("environments").insert(columns(environment()), ignore=True)
        db.table("datasets").insert({"id": "mnist@00000000", "name": "mnist", "fingerprint": "0" * 64})
        db.table("images").insert({"sha256": SHA256})
        trained: list[dict[str, Any]] = []
        for number in range(runs):
            status = "crashed" if number % 100 == 99 else "completed"
            if number % 4 < 2:
                trained.append(add_training(db, folder, number, status, metrics // (runs // 2)))
            elif number % 4 == 2:
                add_evaluation(db, folder, number, status, trained[-6:])
            else:
                add_attack(db, folder, number, status)


def add_training(db: Any, folder: Path, number: int, status: str, metrics: int) -> dict[str, Any]:
    """Its entry among the models of an evaluation."""
    config = training_config(number)
    row = run_row(number, "train", config, number // 6, status)
    db.table("runs").insert(columns(row))
    db.table("metrics").insert_all(metric_rows(row["id"], metrics))
    model = {"id": f"paper-cnn@{number:08x}", "name": "paper-cnn", "regime": config["regime"]}
    db.table("models").insert(columns(model | {"run": row["id"]}))
    db.table("runs").update(row["id"], {"model": model["id"]})
    (folder / row["id"]).mkdir()
    known = {"label": f"{config['regime']} {row['id'][-4:]}", "train_run": row["id"], "name": row["id"]}
    return model | known | {"source": row["id"], "fingerprint": model["id"], "form": "plain"}


def add_evaluation(db: Any, folder: Path, number: int, status: str, entries: list[dict[str, Any]]) -> None:
    row = run_row(number, "eval", {"entries": entries, "strong": None}, 0, status)
    db.table("runs").insert(columns(row))
    db.table("cells").insert_all(columns(cell) for cell in cell_rows(row["id"], entries))
    document = {"run": row["id"], "dir": "", "dataset": "mnist", "n": 1000, "attack": "pgd-100", "settings": {}}
    write(folder, row, {"matrix.json": json.dumps(document | {"models": entries, "cells": []}).encode()}, db)


def add_attack(db: Any, folder: Path, number: int, status: str) -> None:
    row = run_row(number, "attack", {"classifier": "efficientnet_lite0", "region": "background"}, 0, status)
    db.table("runs").insert(columns(row))
    db.table("attacks").insert_all(columns(photo_row(row["id"], index)) for index in range(4))
    kinds = ("adversarial", "mask", "difference", "figure")
    write(folder, row, {f"{i}-{kind}.png": b"x" * 1000 for i in range(4) for kind in kinds}, db)


def write(folder: Path, row: dict[str, Any], files: dict[str, bytes], db: Any) -> None:

    (folder / row["id"]).mkdir()
    for name, data in files.items():
        (folder / row["id"] / name).write_bytes(data)
        kind = name.removesuffix(".png").rpartition("-")[2] if name.endswith(".png") else "matrix"
        known = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "created": row["started"]}
        db.table("artifacts").insert({"run": row["id"], "name": name, "kind": kind, **known})


def taken(store: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU, of a whole process."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "latcli", *arguments, "--store", str(store)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begun, cpu


def measure(store: Path, times: int, record: Record) -> None:
    for name, arguments in ASKED.items():
        asked = name.split() if arguments is None else ["report", *arguments]
        beside = Neighbours()
        clock, cpu = zip(*(taken(store, asked) for _ in range(times)), strict=True)
        found, busy = spread(clock, beside.busy()), statistics.median(cpu)
        print(f"{name:24} median {found.median:.2f} s ({busy:.2f} s of CPU), slowest {found.highest:.2f} s")
        record.add("report", command=name, **asdict(found), cpu=busy, disturbed=found.disturbed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    for option, full, quick in (("runs", 2000, 40), ("metrics", 200_000, 2000), ("times", 5, 1)):
        parser.sized(option, full, quick)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the store there, or take the one that is")
    given = parser.read(arguments)
    record = begin("report_speed", given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary) / "runs"
        if not folder.exists():
            fill(folder, given.runs, given.metrics)
        with Store.open_existing(folder) as store, store.reading() as db:
            counts = {table: db.table(table).count for table in ("runs", "metrics", "cells", "attacks", "artifacts")}
        print(", ".join(f"{count:,} {table}" for table, count in counts.items()))
        record.add("store", **counts)
        measure(folder, given.times, record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
