"""A clock that is set back, and a store that belongs to another user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from soundness import assert_sound

from latcli.store import run
from latcli.store.store import Store

PLAIN: dict[str, Any] = {"argv": [], "config": {}, "seed": 0, "device": "cpu"}


def test_a_clock_that_is_set_back_hides_no_run_and_ends_none_before_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path / "runs") as store:
        with store.start_run("attack", **PLAIN) as first:
            monkeypatch.setattr(run, "utc_now", lambda: "2001-01-01T00:00:00.000Z")
            first.record_metric("loss", 1, 0.5)
        with store.start_run("attack", **PLAIN) as second:
            pass

        assert store.find_run("latest").id == second.id
        assert [row.id for row in store.runs()] == [second.id, first.id]
        assert [row.seconds for row in store.runs()] == [0.0, 0.0]
    assert_sound(tmp_path / "runs")


AS_ANOTHER = """
import os, sys
from pathlib import Path
from latcli.commands.runs import list_runs, verify_runs
from latcli.errors import StoreError
from latcli.store.store import Store

folder = Path(sys.argv[1])
os.setgid(65534); os.setuid(65534)
print(len(list_runs(folder).runs), int(verify_runs(folder).exit_code))
try:
    Store.open(folder)
except StoreError as error:
    print(error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_may_read_a_store_and_is_refused_for_writing(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with Store.open(folder) as store, store.start_run("attack", **PLAIN) as stored:
        stored.write_artifact("hen.png", b"x", "mask")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o005 != 0o005:  # pytest's own folders
            parent.chmod(parent.stat().st_mode | 0o055)

    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout.splitlines()[0:1], done.stderr) == (["1 0"], "")
    assert "--store DIR" in done.stdout.splitlines()[1]
    assert_sound(folder)
