"""Links in a store lead nowhere: what they point to is neither read, nor locked, nor written, nor removed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from latcli.commands.report import EVERYTHING, gather
from latcli.commands.runs import remove_runs, verify_runs
from latcli.commands.trained import CHECKPOINT, classifier_path
from latcli.errors import LatcliError, StoreError
from latcli.options import ReportOptions
from latcli.session import Session
from latcli.store.store import Store, mark_crashed

pytestmark = pytest.mark.reliability

SECRET = b"nobody's business"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "runs") as opened:
        yield opened


@pytest.fixture
def run(store: Store) -> str:
    with store.start_run("train", argv=[], config={"regime": "natural"}, seed=0, device="cpu") as begun:
        begun.write_artifact(CHECKPOINT, SECRET, "checkpoint")
        begun.log("begun")
    return begun.id


def _snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file of a folder, with its time and contents."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _replaced_by_link(store: Store, run: str, tmp_path: Path) -> Path:
    """The run's folder, moved out of the store, with a link to it in its place: all is there, and of the right hash."""
    outside = tmp_path / "outside"
    shutil.move(store.folder / run, outside)
    (store.folder / run).symlink_to(outside, target_is_directory=True)
    return outside


def test_a_folder_that_is_a_link_is_a_fault_and_is_not_looked_into(store: Store, run: str, tmp_path: Path) -> None:
    _replaced_by_link(store, run, tmp_path)
    found = verify_runs(store.folder)
    assert [(one.name, one.fault) for one in found.runs[0].problems] == [(".", "outside")]
    assert found.runs[0].checked == 0
    report = gather(ReportOptions(), Session(store=store.folder, quiet=True), EVERYTHING).to_json()
    assert [fault["fault"] for fault in report["faults"]] == ["outside"]


def test_nothing_is_resumed_opened_or_closed_through_a_link(store: Store, run: str, tmp_path: Path) -> None:
    outside = _replaced_by_link(store, run, tmp_path)
    before = _snapshot(outside)
    with pytest.raises(StoreError, match="is a link"):
        store.resume_run(run, argv=[])
    with pytest.raises(LatcliError):
        classifier_path(run, store.folder)
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE runs SET status = 'running'")
    mark_crashed(store, run)
    assert store.find_run(run).status == "crashed"
    assert _snapshot(outside) == before


def test_a_run_whose_folder_becomes_a_link_while_it_works_writes_nothing_there(store: Store, tmp_path: Path) -> None:
    begun = store.start_run("train", argv=[], config={}, seed=0, device="cpu")
    outside = _replaced_by_link(store, begun.id, tmp_path)
    before = _snapshot(outside)
    with pytest.raises(StoreError, match="is a link"):
        begun.log("on")
    with pytest.raises(StoreError, match="cannot be the name"):
        begun.write_artifact("a.png", b"a", "picture")
    with pytest.raises(StoreError, match="is a link"):
        begun.__exit__(None, None, None)
    assert _snapshot(outside) == before


@pytest.mark.parametrize("name", ["run.json", "log.txt", "lock"])
def test_files_of_a_run_that_are_links_are_not_followed(store: Store, run: str, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(json.dumps({"id": run}).encode() if name == "run.json" else SECRET)
    before = outside.read_bytes()
    (store.folder / run / name).unlink()
    (store.folder / run / name).symlink_to(outside)
    assert (name, "outside") in [(one.name, one.fault) for one in verify_runs(store.folder).runs[0].problems]
    with pytest.raises(StoreError), store.resume_run(run, argv=[]) as again:
        again.log("on")
    assert outside.read_bytes() == before


def test_an_artifact_that_is_a_link_is_a_fault_and_its_target_stays(store: Store, run: str, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(SECRET)  # the very bytes that the database expects
    (store.folder / run / CHECKPOINT).unlink()
    (store.folder / run / CHECKPOINT).symlink_to(outside)
    assert [(one.name, one.fault) for one in verify_runs(store.folder).runs[0].problems] == [(CHECKPOINT, "outside")]
    with pytest.raises(LatcliError):
        classifier_path(run, store.folder)
    remove_runs(store.folder, [run])
    assert outside.read_bytes() == SECRET


def test_a_removed_run_that_was_a_link_leaves_what_it_pointed_to(store: Store, run: str, tmp_path: Path) -> None:
    outside = _replaced_by_link(store, run, tmp_path)
    before = _snapshot(outside)
    remove_runs(store.folder, [run])
    assert not (store.folder / run).is_symlink()
    assert _snapshot(outside) == before


@pytest.mark.parametrize("name", ["log.txt", "lock"])
def test_a_pipe_in_a_runs_folder_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from latcli.errors import LatcliError\n"
        "from latcli.store.store import Store\n"
        "with Store.open(Path(sys.argv[1])) as store:\n"
        "    with store.start_run('attack', argv=[], config={}, seed=0, device='cpu') as run:\n"
        "        path = run.folder / sys.argv[2]\n"
        "        path.unlink(missing_ok=True)\n"
        "        os.mkfifo(path)\n"
        "        try:\n"
        "            run.log('a line')\n"
        "        except LatcliError as error:\n"
        "            print(error.message)\n"
        "with Store.open(Path(sys.argv[1])) as store:\n"
        "    store.reconcile()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "runs"), name], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("log.txt" in done.stdout) == (name == "log.txt")
