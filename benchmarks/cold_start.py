"""Where the time of `latcli attack photo.jpg` goes, from a cold start: stages of fresh processes, medians and spread.

    python -m benchmarks.cold_start [PHOTO] [--runs 5] [--steps 40]

Each run is a new process that does what the command does, stage by stage; the last row times the command itself, whole.
The photo is one that matplotlib carries unless another is named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.photos import carried
from benchmarks.record import Options, begin
from benchmarks.rounds import in_turn


def stages(photo: Path, steps: int) -> dict[str, float]:
    """Seconds of each stage in this process, which must have imported nothing yet."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with stage("import torch"):
        import torch  # noqa: F401
    with stage("import the rest"):
        from latcli.commands.photos import drawing
        from latcli.engine.api import open_attacker
        from latcli.engine.attacks.settings import AttackSettings
        from latcli.engine.images import read_photo
        from latcli.engine.objects import ObjectSettings
        from latcli.engine.photos import PhotoSettings
        from latcli.store.store import Store
    with stage("build classifier, load weights"):
        attacker = open_attacker(
            PhotoSettings(attack=AttackSettings(steps=steps)), ObjectSettings(detector="cam"), device="cpu"
        )
    with stage("read, classify, localize"):
        threat = attacker.threat(attacker.locate(read_photo(photo)))
    with stage("bring into gradient form"):
        form = attacker.gradients.form
    with stage(f"{steps} steps, encode, score"):
        result = attacker.attack_batch([threat])[0]
    with (
        stage("pictures and store"),
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder)) as store,
        store.start_run("attack", argv=[], config={"form": form}, seed=0, device="cpu") as run,
        drawing(attacker, run.write_artifact, figures=True) as pictures,
    ):
        run.write_artifact("photo-adversarial.png", result.adversarial_png, "adversarial")
        pictures.ask(result, "photo")
    return seconds


def one_run(photo: Path, steps: int) -> dict[str, float]:
    """The stages of one fresh process, and the wall time of the command in another."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # as `latcli.process` has it
    run = partial(subprocess.run, check=True, capture_output=True, env=environment)
    arguments = [sys.executable, "-m", "benchmarks.cold_start", str(photo), "--steps", str(steps), "--stages"]
    seconds: dict[str, float] = json.loads(run(arguments).stdout)
    seconds["sum of the stages"] = sum(seconds.values())
    with tempfile.TemporaryDirectory() as folder:
        command = ["attack", str(photo), "--detector", "cam", "--steps", str(steps), "--store", folder, "--quiet"]
        start = time.perf_counter()
        run([sys.executable, "-m", "latcli", *command])
        seconds["latcli attack, whole process"] = time.perf_counter() - start
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("photo", type=Path, nargs="?", default=carried()[0])
    parser.sized("runs", 5, 1)
    parser.sized("steps", 40, 2)
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    given = parser.read(arguments)
    if given.stages:
        print(json.dumps(stages(given.photo, given.steps)))
        return
    record = begin("cold_start", given)
    if not given.quick:
        one_run(given.photo, given.steps)  # fills the disk's cache
    found = in_turn([lambda: one_run(given.photo, given.steps)], given.runs)
    print(f"{given.photo.name}, {given.steps} steps, {given.runs} runs")
    print(f"{'stage':32} {'median':>8} {'min':>8} {'max':>8}")
    for name in found.seconds:
        taken = found.time(name)
        print(f"{name:32} {taken.median:7.2f}s {taken.lowest:7.2f}s {taken.highest:7.2f}s")
        record.add("stages", name=name, **asdict(taken), disturbed=taken.disturbed)
    record.finish(given.out)


if __name__ == "__main__":
    main()
