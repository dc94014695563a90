"""One store and many processes: nothing is lost, nobody is turned away, and who looks on sees no fault."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from form import Figures, full
from soundness import assert_sound, statuses

from latcli.store.store import Store

WORKER = Path(__file__).with_name("store_worker.py")
WRITERS = 8


def worker(role: str, folder: Path, number: int = 0, count: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), role, str(folder), str(number), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["runs", "Läufe und 写真 with spaces #1?"])
def test_eight_write_while_one_reads_and_one_verifies(tmp_path: Path, name: str, figures: Figures) -> None:
    folder = tmp_path / name
    writes = 200 if full() else 25
    writers = [worker("write", folder, number, writes) for number in range(WRITERS)]
    watchers = [worker("read", folder), worker("verify", folder)]
    for process in writers + watchers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    begun = time.monotonic()
    for process in writers + watchers:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(*process.communicate(timeout=300), process.returncode) for process in writers]
    seconds = time.monotonic() - begun
    folder.with_name("stop").touch()
    seen = [(*process.communicate(timeout=300), process.returncode) for process in watchers]

    assert ends == [("", "", 0)] * WRITERS
    assert [(err, code) for _, err, code in seen] == [("", 0)] * 2
    assert all(int(out) > 0 for out, _, _ in seen), seen  # a fault would stand before the number
    assert_sound(folder)
    assert statuses(folder) == ["completed"] * WRITERS
    assert_all_there(folder, writes)
    looks = " and ".join(out.strip() for out, _, _ in seen)
    figures(
        f"{WRITERS} x {writes} writes in {seconds:.1f} s ({WRITERS * writes / seconds:.0f}/s); "
        f"read and verified {looks} times meanwhile"
    )


def assert_all_there(folder: Path, writes: int) -> None:
    each = writes // 5
    with Store.open_existing(folder) as store:
        for run in store.runs():
            counted = {
                table: len(store.rows_of(run.id, table))  # type: ignore[arg-type]
                for table in ("metrics", "attacks", "cells", "artifacts")
            }
            assert counted == {"metrics": each, "attacks": each, "cells": each, "artifacts": each + 1}
