"""Links in a store lead nowhere: what they point to is neither read, nor locked, nor written, nor removed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from latcli.commands.classifiers import CHECKPOINT, classifier_path
from latcli.commands.runs import remove_runs
from latcli.errors import LatcliError, StoreError
from latcli.options import RunsRemoveOptions
from latcli.session import Session
from latcli.store.store import Run, Store
from latcli.store.verify import verify

SECRET = b"nobody's business"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "runs") as opened:
        yield opened


def start(store: Store) -> Run:
    return store.start_run("train", argv=[], config={"regime": "natural"}, seed=0, device="cpu")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_folder_that_is_a_link_is_neither_looked_into_nor_written(store: Store, tmp_path: Path) -> None:
    with start(store) as done:
        done.write_artifact(CHECKPOINT, SECRET, "checkpoint")
    running, outside = start(store), tmp_path / "outside"
    for run in (done, running):  # all is there, and of the right hash
        shutil.move(run.folder, outside / run.id)
        run.folder.symlink_to(outside / run.id, target_is_directory=True)
    before = contents(outside)
    found = verify(store, store.runs())
    assert [(one.name, one.fault) for one in found.problems] == [(".", "outside")] * 2
    assert found.checked == 0
    for refused in (
        lambda: store.resume_run(done.id, argv=[]),
        lambda: classifier_path(done.id, store.folder),
        lambda: running.write_artifact("a.png", b"a", "picture"),
    ):
        with pytest.raises(LatcliError):
            refused()
    Store.open(store.folder).close()
    remove_runs(RunsRemoveOptions(runs=(done.id,)), Session(store=store.folder))
    assert not done.folder.is_symlink()
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["log.txt", "lock", CHECKPOINT])
def test_a_file_of_a_run_that_is_a_link_is_not_followed(store: Store, tmp_path: Path, name: str) -> None:
    with start(store) as run:
        run.write_artifact(CHECKPOINT, SECRET, "checkpoint")
        run.log("begun")
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)  # of the checkpoint the very bytes that the database expects
    (run.folder / name).unlink()
    (run.folder / name).symlink_to(secret)
    if name == CHECKPOINT:
        assert [(one.name, one.fault) for one in verify(store, store.runs()).problems] == [(CHECKPOINT, "outside")]
        with pytest.raises(LatcliError):
            classifier_path(run.id, store.folder)
    else:
        with pytest.raises(StoreError), store.resume_run(run.id, argv=[]) as again:
            again.log("on")
    assert secret.read_bytes() == SECRET


def test_a_pipe_in_a_runs_folder_keeps_nobody_waiting(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from latcli.errors import LatcliError
from latcli.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    with store.start_run('attack', argv=[], config={}, seed=0, device='cpu') as run:
        for name in ('log.txt', 'lock'):
            (run.folder / name).unlink(missing_ok=True)
            os.mkfifo(run.folder / name)
        try:
            run.log('a line')
        except LatcliError as error:
            print(error.message)
    store.is_alive(run.id)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "runs")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "log.txt" in done.stdout
