"""Commands killed at random moments: what they leave is sound, and said to be what it is."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from form import Figures, full
from soundness import assert_sound, statuses

#: The first two in the short form: an evaluation needs a training that came to its end.
COMMANDS: dict[str, Callable[[], list[str]]] = {
    "attack": lambda: commands.attack(Path("photos")),
    "train": lambda: commands.train(),
    "eval": lambda: commands.evaluate(),
}
KILLS = 50 if full() else 2


@pytest.fixture
def work(tmp_path: Path, caches: dict[str, str]) -> Path:
    commands.photos(tmp_path / "photos", 12)
    if full():
        done = commands.latcli(commands.train("--steps", "3"), tmp_path, caches)
        done.communicate(timeout=300)
        assert done.returncode == 0
    return tmp_path


def test_kills_at_random_moments_leave_a_sound_store(work: Path, caches: dict[str, str], figures: Figures) -> None:
    chosen, runs, outcomes = random.Random(0), work / "runs", Counter[str]()
    begun = time.monotonic()
    for number in range(KILLS):
        name = list(COMMANDS)[number % (3 if full() else 2)]
        before = len(statuses(runs)) if runs.exists() else 0
        process = commands.latcli(COMMANDS[name](), work, caches)
        _wait(process, runs, before, chosen)
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), stderr
        assert_sound(runs)
        found = statuses(runs)[before:]
        assert found in ([], ["crashed"], ["completed"])
        outcomes[f"{name} {found[0] if found else 'not begun'}"] += 1

    counted = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
    figures(f"{KILLS} kills in {time.monotonic() - begun:.0f} s: {counted}")


def _wait(process: subprocess.Popen[str], runs: Path, before: int, chosen: random.Random) -> None:
    """Once in five times a few seconds from the start, else some moments from where the run has begun."""
    if chosen.random() < 0.2:
        time.sleep(chosen.uniform(0.0, 6.0))
        return
    commands.wait_for_run(process, runs, before)
    time.sleep(chosen.uniform(0.0, 3.0) ** 2 / 3)  # oftener near the beginning
