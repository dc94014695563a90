"""Commands killed at random moments: what they leave is sound, and said to be what it is."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

import commands
import pytest
from form import Figures, full
from soundness import assert_sound, statuses

NAMES = ("train", "attack", "eval")
KILLS = 50 if full() else 6


@pytest.mark.slow
def test_kills_at_random_moments_leave_a_sound_store(tmp_path: Path, caches: dict[str, str], figures: Figures) -> None:
    commands.photos(tmp_path / "photos", 12)
    typed = {"train": commands.train(), "attack": commands.attack(Path("photos")), "eval": commands.evaluate()}
    assert commands.latcli(commands.train("--steps", "3"), tmp_path, caches).wait(timeout=300) == 0  # for eval
    chosen, runs, outcomes = random.Random(0), tmp_path / "runs", Counter[str]()
    for number in range(KILLS):
        name = NAMES[number % len(NAMES)]
        before = len(statuses(runs)) if runs.exists() else 0
        process = commands.latcli(typed[name], tmp_path, caches)
        if chosen.random() < 0.2:  # from the start on, else from where the run has begun, oftener near the beginning
            time.sleep(chosen.uniform(0.0, 6.0))
        else:
            commands.wait_for_run(process, runs, before)
            time.sleep(chosen.uniform(0.0, 3.0) ** 2 / 3)
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), stderr
        assert_sound(runs, killed=True)
        found = statuses(runs)[before:]
        assert found in ([], ["crashed"], ["completed"])
        outcomes[f"{name} {found[0] if found else 'not begun'}"] += 1
    figures(f"{KILLS} kills: " + ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items())))
