"""Ctrl-C at random moments ends a command soon, in order, and at once when it is pressed again; so does a failure."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import commands
import pytest
from form import Figures, full
from soundness import assert_sound, statuses

#: Two seconds are promised of a machine that does nothing else; one that tests run on in pairs is given more.
LIMIT = 2.0 if full() else 20.0
TIMES = 10 if full() else 2
#: What Python itself says of a Ctrl-C that comes before it has found latcli, whose first line is yet to be run.
_TOO_EARLY = re.compile(r"Traceback [^\n]*\n(  File \"<frozen [^\n]*\n)+KeyboardInterrupt\n")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    commands.photos(tmp_path / "photos", 12)
    return tmp_path


@pytest.mark.parametrize("name", ["attack", "train"])
def test_an_interrupt_at_a_random_moment_ends_soon(
    work: Path, caches: dict[str, str], figures: Figures, name: str
) -> None:
    chosen, longest, ends = random.Random(name), 0.0, []
    for number in range(TIMES):
        arguments = commands.attack(Path("photos")) if name == "attack" else commands.train()
        before = len(statuses(work / "runs")) if (work / "runs").exists() else 0
        process = commands.latcli(arguments, work, caches)
        if number % 2 == 0:  # often while modules are imported
            time.sleep(chosen.uniform(0.0, 4.0))
        else:
            commands.wait_for_run(process, work / "runs", before)
            time.sleep(chosen.uniform(0.0, 2.0))
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        longest = max(longest, time.monotonic() - pressed)
        assert process.returncode in (0, 130, -signal.SIGINT), stderr
        assert "Traceback" not in _TOO_EARLY.sub("", stderr)
        assert "error:" not in stderr
        if (work / "runs").exists():
            assert_sound(work / "runs")
            found = statuses(work / "runs")[before:]
            assert found in ([], ["interrupted"], ["completed"])
            ends += found or ["not begun"]

    counted = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
    figures(f"{TIMES} interrupts of {name}: {counted}; the slowest took {longest:.2f} s")
    assert longest < LIMIT


def test_a_long_step_of_training_is_given_up_and_the_last_one_kept(
    work: Path, caches: dict[str, str], figures: Figures
) -> None:
    """A step of minutes: the state is that of the step before it, and the run can be resumed."""
    long = ("--attack", "pgd", "--attack-steps", "20000", "--steps", "3")
    process = commands.latcli(commands.train(*long), work, caches)
    commands.wait_for_run(process, work / "runs", 0)
    time.sleep(1.0)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    seconds = time.monotonic() - pressed

    assert process.returncode == 130, stderr
    assert stderr.endswith("interrupted\n")
    assert statuses(work / "runs") == ["interrupted"]
    assert len(list(work.glob("runs/*/state.safetensors"))) == 1
    assert_sound(work / "runs")
    figures(f"an interrupt in a step of minutes took {seconds:.2f} s")
    assert seconds < LIMIT


# ---- the machine fails ----

#: Runs latcli with the third gradient of an attack replaced by a failure of the machine.
FAILING = textwrap.dedent(
    """
    import sys
    import torch
    from latcli.engine.attacks import pgd

    def fail():
        match sys.argv[1]:
            case "memory":
                raise MemoryError
            case "torch-memory":
                torch.empty(1 << 60)  # more than any machine has: torch's own words
            case "device-memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\\nmore")
            case "lost":
                raise torch.AcceleratorError("CUDA error: unspecified launch failure\\nCUDA kernel errors might be\\n")
            case "limit":
                import resource
                resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
                torch.zeros(1 << 30)

    gradient, calls = pgd.input_gradient, 0

    def third(*arguments):
        global calls
        calls += 1
        if calls == 3:
            fail()
        return gradient(*arguments)

    pgd.input_gradient = third
    from latcli import process
    from latcli.cli import app
    sys.exit(process.run(app, sys.argv[2:]))
    """
)


@pytest.mark.parametrize(
    ("kind", "said", "advised"),
    [
        ("memory", "not enough memory", "--batch"),
        ("torch-memory", "not enough memory", "--batch"),
        ("limit", "not enough memory", "--batch"),
        ("device-memory", "the device has not enough memory", "--device cpu"),
        ("lost", "the device failed: CUDA error: unspecified launch failure", "--resume"),
    ],
)
def test_a_machine_that_fails_ends_the_run_with_the_reason(
    work: Path, caches: dict[str, str], kind: str, said: str, advised: str
) -> None:
    arguments = commands.attack(Path("photos"), "--no-figures")
    done = subprocess.run(
        [sys.executable, "-c", FAILING, kind, *arguments],
        cwd=work,
        env=os.environ | caches | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 1, done.stderr
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error", "hint"], done.stderr
    assert done.stderr.splitlines()[0] == f"error: {said}"
    assert advised in done.stderr.splitlines()[1]
    with closing(sqlite3.connect(work / "runs" / "latcli.db")) as db:
        assert db.execute("SELECT status, exit_code, error FROM runs").fetchall() == [("failed", 1, said)]
    assert_sound(work / "runs")
