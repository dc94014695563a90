"""Ctrl-C, kills and failures at random moments: commands end soon and in order, and what they leave is sound."""

import random
import re
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import helpers
import pytest
import torch
from helpers import FULL, assert_sound, statuses

from latcli.engine.attacks import pgd

pytestmark = pytest.mark.slow

#: Two seconds are promised of a machine that does nothing else; one that tests run on in pairs is given more.
LIMIT = 2.0 if FULL else 20.0
TIMES = 10 if FULL else 2
#: What Python itself says of a Ctrl-C that comes before it has found latcli, whose first line is yet to be run.
_TOO_EARLY = re.compile(r"Traceback [^\n]*\n(  File \"<frozen [^\n]*\n)+KeyboardInterrupt\n")


@pytest.fixture
def work(tmp_path):
    helpers.photos(tmp_path / "photos", 12)
    return tmp_path


@pytest.mark.parametrize("name", ["attack", "train"])
def test_an_interrupt_at_a_random_moment_ends_soon(work, caches, name):
    chosen, longest, ends = random.Random(name), 0.0, []
    for number in range(TIMES):
        arguments = helpers.attack(Path("photos")) if name == "attack" else helpers.train()
        before = len(statuses(work / "runs"))
        process = helpers.latcli(arguments, work, caches)
        if number % 2 == 0:  # often while modules are imported
            time.sleep(chosen.uniform(0.0, 4.0))
        else:
            helpers.wait_for_run(process, work / "runs", before)
            time.sleep(chosen.uniform(0.0, 2.0))
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        longest = max(longest, time.monotonic() - pressed)
        if "Fatal Python error: init_" in stderr:  # Python itself was still starting
            continue
        assert process.returncode in (0, 130, -signal.SIGINT), stderr
        assert "Traceback" not in _TOO_EARLY.sub("", stderr)
        assert "error:" not in stderr
        if (work / "runs").exists():
            assert_sound(work / "runs")
            found = statuses(work / "runs")[before:]
            assert found in ([], ["interrupted"], ["completed"])
            ends += found or ["not begun"]

    counted = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
    print(f"{TIMES} interrupts of {name}: {counted}; the slowest took {longest:.2f} s")
    assert longest < LIMIT


def test_a_long_step_of_training_is_given_up_and_the_last_one_kept(work, caches):
    """A step of minutes: the state is that of the step before it, and the run can be resumed."""
    long = ("--attack", "pgd", "--attack-steps", "20000", "--steps", "3")
    process = helpers.latcli(helpers.train(*long), work, caches)
    helpers.wait_for_run(process, work / "runs", 0)
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
    print(f"an interrupt in a step of minutes took {seconds:.2f} s")
    assert seconds < LIMIT


def test_kills_at_random_moments_leave_a_sound_store(work, caches):
    typed = {"train": helpers.train(), "attack": helpers.attack(Path("photos")), "eval": helpers.evaluate()}
    assert helpers.latcli(helpers.train("--steps", "3"), work, caches).wait(timeout=300) == 0  # for eval
    chosen, runs, outcomes, kills = random.Random(0), work / "runs", Counter(), 50 if FULL else 6
    for number in range(kills):
        name = list(typed)[number % len(typed)]
        before = len(statuses(runs))
        process = helpers.latcli(typed[name], work, caches)
        if chosen.random() < 0.2:  # from the start on, else from where the run has begun, oftener near the beginning
            time.sleep(chosen.uniform(0.0, 6.0))
        else:
            helpers.wait_for_run(process, runs, before)
            time.sleep(chosen.uniform(0.0, 3.0) ** 2 / 3)
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), stderr
        assert_sound(runs, killed=True)
        found = statuses(runs)[before:]
        assert found in ([], ["crashed"], ["completed"])
        outcomes[f"{name} {found[0] if found else 'not begun'}"] += 1
    print(f"{kills} kills: " + ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items())))


def torch_refuses():
    torch.empty(1 << 60)  # more than any machine has


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("failure", "said", "advised"),
    [
        (torch_refuses, "not enough memory", "--batch"),
        (
            lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")),
            "the device has not enough memory",
            "--device cpu",
        ),
        (
            lambda: fail(torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might\n")),
            "the device failed: CUDA error: unspecified launch failure",
            "--resume",
        ),
    ],
)
def test_a_machine_that_fails_in_the_third_step_ends_the_run_with_the_reason(
    work, latcli, monkeypatch, failure, said, advised
):
    gradient, calls = pgd.input_gradient, []

    def third(*arguments):
        calls.append(1)
        if len(calls) >= 3:
            failure()
        return gradient(*arguments)

    monkeypatch.setattr(pgd, "input_gradient", third)
    done = latcli(*helpers.attack(work / "photos"), "--no-figures", "--store", work / "runs")

    assert (done.code, done.error[0], advised in done.error[1]) == (1, said, True)
    with closing(sqlite3.connect(work / "runs" / "latcli.db")) as db:
        assert db.execute("SELECT status, exit_code, error FROM runs").fetchall() == [("failed", 1, said)]
    assert_sound(work / "runs")
