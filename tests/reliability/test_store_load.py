"""One store and many processes: nothing is lost, nobody is turned away, and who looks on sees no fault."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import assert_sound, statuses

from latcli.store.store import Store

WORKER = Path(__file__).with_name("store_worker.py")
WRITERS = 8


@pytest.mark.parametrize("writes", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_eight_write_while_one_reads_and_one_verifies(tmp_path, writes):
    folder = tmp_path / "Läufe und 写真 with spaces #1?"
    roles = [("write", number) for number in range(WRITERS)] + [("read", 0), ("verify", 0)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [
        subprocess.Popen([sys.executable, WORKER, role, folder, str(number), str(writes)], text=True, **pipes)
        for role, number in roles
    ]
    for process in workers:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    begun = time.monotonic()
    for process in workers:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(*process.communicate(timeout=300), process.returncode) for process in workers[:WRITERS]]
    seconds = time.monotonic() - begun
    folder.with_name("stop").touch()
    looks = [(*process.communicate(timeout=300), process.returncode) for process in workers[WRITERS:]]

    assert ends == [("", "", 0)] * WRITERS
    assert [(err, code) for _, err, code in looks] == [("", 0)] * 2
    assert all(int(out) > 0 for out, _, _ in looks), looks  # a fault would stand before the number
    assert_sound(folder)
    assert statuses(folder) == ["completed"] * WRITERS
    each = writes // 5
    with Store.open_existing(folder) as store:
        for run in store.runs():
            counts = [len(store.rows_of(run.id, table)) for table in ("metrics", "attacks", "cells", "artifacts")]
            assert counts == [each, each, each, each + 1]
    print(
        f"{WRITERS} x {writes} writes in {seconds:.1f} s; read and verified {[int(out) for out, _, _ in looks]} times"
    )
