"""The store keeps what it is given, whatever happens: other processes, kills, full disks, read-only media."""

import errno
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import sample_documents

from latcli.errors import ExitCode, LatcliError, NoObjectError, StoreError, Terminated, UsageError
from latcli.results import AttackedPhoto, Cell, columns, from_columns
from latcli.store import schema, store
from latcli.store.files import is_locked
from latcli.store.schema import checkout, devices, fingerprint, packages
from latcli.store.store import DATABASE, RUN_ID, Store

PLAIN = {"argv": ["latcli"], "config": {"epsilon": 8 / 255}, "seed": 0, "device": "cpu"}
PHOTO = sample_documents.photo(
    "hen.jpg", files={"adversarial": "hen-adversarial.png"}, sha256="a" * 64, width=40, height=30
)
CELL = Cell(
    **dict.fromkeys(one.name for one in fields(Cell) if one.default is MISSING)
    | {"model": "7f3a", "label": "natural 7f3a", "model_id": "cnn@1", "regime": "natural", "train_seed": 0}
    | {"input": "natural", "n": 10, "loss": 0.5, "loss_low": 0.4, "loss_high": 0.6, "seed": 0, "seconds": 1.5}
    | {"accuracy": 0.9, "accuracy_low": 0.6, "accuracy_high": 0.98}
)


@pytest.fixture
def opened(tmp_path):
    with Store.open(tmp_path / "runs") as found:
        yield found


def start(opened, command="attack", **changes):
    return opened.start_run(command, **(PLAIN | changes))


def cell(**changes):
    return replace(CELL, **changes)


# other processes


def python(code, *arguments):
    """A process that runs the code; `wait()` in it says `ready` and waits for a line."""
    head = (
        "import sys, os, time, signal\nfrom pathlib import Path\nfrom latcli.store.store import Store\n"
        "PLAIN = {'argv': [], 'config': {}, 'seed': 0, 'device': 'cpu'}\n"
        "def wait(text='ready'):\n    print(text, flush=True)\n    sys.stdin.readline()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", head + code, *map(str, arguments)], text=True, **pipes)


@contextmanager
def run_elsewhere(folder, inside="wait(run.id)"):
    """A process that is in the middle of a run, and the words of the first line that it prints."""
    code = f"with Store.open(Path(sys.argv[1])) as store, store.start_run('train', **PLAIN) as run:\n    {inside}\n"
    with python(code, folder) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


def test_a_killed_run_reads_as_crashed_and_a_living_one_as_running(opened, monkeypatch):
    def in_the_file(run):
        with closing(sqlite3.connect(opened.path)) as connection:
            return str(connection.execute("SELECT status FROM runs WHERE id = ?", [run]).fetchone()[0])

    with run_elsewhere(opened.folder) as (killed, [dead]), run_elsewhere(opened.folder) as (_, [living]):
        with start(opened) as own:
            killed.kill()
            killed.wait()
            (opened.folder / dead / ".latcli-0123.tmp").write_bytes(b"half")
            with monkeypatch.context() as patched:
                patched.setattr(socket, "gethostname", lambda: "another machine")
                Store.open(opened.folder).close()  # what another machine does, nobody here can know
                assert opened.find_run(dead).status == "running"
            with Store.open_existing(opened.folder) as reader:
                assert [row.id for row in reader.runs(status="crashed")] == [dead]
                assert {row.id for row in reader.runs(status="running")} == {living, own.id}
            assert in_the_file(dead) == "running"  # readers write nothing
            Store.open(opened.folder).close()
            assert (in_the_file(dead), in_the_file(living), in_the_file(own.id)) == ("crashed", "running", "running")
            assert not (opened.folder / dead / ".latcli-0123.tmp").exists()
        assert in_the_file(own.id) == "completed"


def test_a_worker_keeps_no_killed_run_alive(opened):
    outliving = (
        "worker = os.fork()\n    if worker == 0:\n        time.sleep(600)\n"
        "    print(run.id, worker, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    with run_elsewhere(opened.folder, outliving) as (process, [run, worker]):
        try:
            process.wait()
            patience = time.monotonic() + 20.0  # until the worker has let go of the lock that it was forked with
            while opened.find_run(run).status == "running" and time.monotonic() < patience:
                time.sleep(0.05)
            assert opened.find_run(run).status == "crashed"
        finally:
            os.kill(int(worker), signal.SIGKILL)


# one run


def test_a_run_that_ends_well_is_completed_in_the_database_and_in_its_folder(opened):
    with start(opened, model="lite0", dataset="mnist", name="first", tags=["a", "b"]) as run:
        assert RUN_ID.fullmatch(run.id)
        assert json.loads((run.folder / "run.json").read_text())["status"] == "running"
        for _ in range(2):  # its lock stays its own however often the store is opened beside it
            with Store.open(opened.folder) as again:
                assert again.runs()[0].status == "running"
    row, document = opened.find_run(run.id), json.loads((run.folder / "run.json").read_text())
    assert (row.status, row.exit_code, row.error, row.path) == ("completed", 0, None, opened.folder / run.id)
    assert (row.argv, row.config, row.tags) == (PLAIN["argv"], PLAIN["config"], ["a", "b"])
    assert (row.model, row.dataset) == ("lite0", "mnist")
    assert 0 <= (row.seconds or 0) < 60
    same = [field.name for field in fields(row) if field.name not in ("path", "environment")]
    assert {name: document[name] for name in same} == {name: getattr(row, name) for name in same}
    assert document["environment"]["packages"]["torch"] == document["environment"]["torch"] == packages()["torch"]
    assert {path.name for path in run.folder.iterdir()} == {"run.json", "lock"}
    assert not is_locked(run.folder / "lock")


def test_how_a_run_ended_is_kept(opened):
    for raised, status, code, error in [
        (KeyboardInterrupt(), "interrupted", 130, None),
        (Terminated(), "interrupted", 143, None),
        (LatcliError("the disk is on fire", "put it out"), "failed", 1, "the disk is on fire"),
        (NoObjectError("nothing found", "try --box"), "failed", 3, "nothing found"),
        (ZeroDivisionError("by zero"), "failed", 1, "ZeroDivisionError: by zero"),
        (None, "completed", 4, None),
    ]:
        caught = nullcontext() if raised is None else pytest.raises(type(raised))
        with caught, start(opened) as run:
            run.set_exit_code(ExitCode.NOT_FOOLED)
            if raised is not None:
                raise raised
        row, document = opened.find_run(run.id), json.loads((run.folder / "run.json").read_text())
        for found in (asdict(row), document):
            assert (found["status"], found["exit_code"], found["error"]) == (status, code, error)
        assert not opened.is_alive(run.id)


def test_a_run_that_failed_is_resumed_under_its_id(opened):
    with suppress(ValueError), start(opened, "train", name="old", tags=["a"]) as run:
        run.record_metrics([("loss", 1, 2.5)])
        raise ValueError("cut off")
    with opened.resume_run(run.id[-4:], argv=["latcli", "--resume"], tags=["b"]) as again:
        assert (again.id, again.folder) == (run.id, run.folder)
        assert (opened.find_run(run.id).status, opened.find_run(run.id).error) == ("running", None)
        with pytest.raises(StoreError, match="still running"):
            opened.resume_run(run.id, argv=[])
        again.record_metrics([("loss", 2, 1.5)])
    row = opened.find_run(run.id)
    assert (row.status, row.exit_code, row.error, row.argv) == ("completed", 0, None, ["latcli", "--resume"])
    assert (row.config, row.name, row.tags) == (PLAIN["config"], "old", ["b"])
    assert [metric["value"] for metric in opened.rows_of(run.id, "metrics")] == [2.5, 1.5]


def test_a_run_that_cannot_start_leaves_nothing(opened):
    with start(opened, name="mine") as run:
        pass
    for changes, message in (
        ({"parent": "ffff"}, "there is no run 'ffff'"),
        ({"seed": 2**63}, "too large"),
        ({"name": "mine"}, f"{run.id} already has the name 'mine'"),
    ):
        with pytest.raises(UsageError, match=message):
            start(opened, **changes)
    with pytest.raises(TypeError):
        start(opened, config={"what": object()})
    assert [path.name for path in opened.folder.iterdir() if path.is_dir()] == [run.id]
    assert [row.id for row in opened.runs()] == [run.id]


# artifacts


def test_an_artifact_is_written_whole_recorded_replaced_and_removed(opened):
    with start(opened) as run:
        path = run.write_artifact("masks/hen.png", b"first", "mask", image="a" * 64)
        run.write_artifact("masks/hen.png", b"second!", "mask", image="a" * 64)
        assert path.read_bytes() == b"second!"
        (row,) = opened.rows_of(run.id, "artifacts")
        assert row == {
            "run": run.id,
            "name": "masks/hen.png",
            "kind": "mask",
            "image": "a" * 64,
            "sha256": "d8470465f9e7614921a043dd05deb31e1f8926c516afc00432359aa2ebb07d30",
            "size": 7,
            "created": row["created"],
        }
        assert [file.name for file in path.parent.iterdir()] == ["hen.png"]
        for _ in range(2):
            run.remove_artifact("masks/hen.png")
    assert not path.exists()
    assert opened.rows_of(run.id, "artifacts") == []


ESCAPES = ["", ".", "..", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "x\0y"]
ESCAPES += ["run.json", "lock", "log.txt", "./run.json", ".latcli-0123.tmp", "lock/x"]


def test_a_name_that_leads_elsewhere_is_refused(opened):
    with start(opened) as run:
        for name in ESCAPES:
            with pytest.raises(StoreError, match="cannot be the name of a file of the run"):
                run.write_artifact(name, b"x", "mask")
        assert opened.rows_of(run.id, "artifacts") == []


def test_names_that_are_no_utf8_are_kept_legibly(opened):
    name = os.fsdecode(b"hen-\xff.jpg")
    with start(opened, argv=[name], config={"photo": Path(name)}) as run:
        run.insert("attacks", [{"image": name}])
        path = run.write_artifact(f"{name}.png", b"x", "mask")
    assert opened.find_run(run.id).argv == ["hen-\\udcff.jpg"]
    assert opened.rows_of(run.id, "attacks")[0]["image"] == "hen-\\udcff.jpg"
    assert opened.rows_of(run.id, "artifacts")[0]["name"] == path.name == "hen-\\udcff.jpg.png"


def test_a_write_that_fails_keeps_what_was_there(opened, monkeypatch):
    def fails(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with start(opened) as run:
        path = run.write_artifact("hen.png", b"first", "mask")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            with pytest.raises(StoreError, match="input/output error"):
                run.write_artifact("hen.png", b"second", "mask")
        assert path.read_bytes() == b"first"
        assert sorted(file.name for file in run.folder.iterdir()) == ["hen.png", "lock", "run.json"]


# rows


def test_a_new_field_of_a_row_becomes_a_column_of_a_store_that_is_there_and_views_are_made_anew(opened, monkeypatch):
    with start(opened) as run:
        run.insert("cells", [cell()])
    monkeypatch.setitem(schema.VIEWS, "latest_metrics", "SELECT 1 AS run")
    with pytest.raises(StoreError, match="older latcli"):
        Store.open_existing(opened.folder)
    with Store.open(opened.folder) as again:
        assert again.query("SELECT * FROM latest_metrics") == [{"run": 1}]
    monkeypatch.setitem(schema.TABLES, "cells", schema.TABLES["cells"] | {"hue": "REAL", "parts_json": "TEXT"})
    with pytest.raises(StoreError, match="older latcli"):
        Store.open_existing(opened.folder)
    with Store.open(opened.folder) as again, start(again) as later:
        later.insert("cells", [columns(CELL) | {"hue": 0.25, "parts": [1, 2]}])
        assert [(row["hue"], row["parts_json"]) for row in again.rows_of(later.id, "cells")] == [(0.25, "[1,2]")]
        assert again.rows_of(run.id, "cells")[0]["hue"] is None


def test_an_attacked_photo_is_one_row_and_the_view_joins_its_files(opened):
    with start(opened, name="first") as run:
        run.write_artifact("hen-adversarial.png", b"picture", "adversarial", image=PHOTO.sha256)
        run.insert("attacks", [{"classifier": "lite0", "steps": 40} | columns(PHOTO)])
        (row,) = opened.rows_of(run.id, "attacks")
        (joined,) = opened.rows_of(run.id, "attack_results")
    assert {name: row[name] for name in columns(PHOTO)} == columns(PHOTO)
    assert from_columns(AttackedPhoto, row) == PHOTO
    assert (row["classifier"], row["target_name"], row["fooled"]) == ("lite0", None, 1)
    names = (joined["adversarial_file"], joined["mask_file"], joined["run_name"])
    assert names == ("hen-adversarial.png", None, "first")
    assert opened.rows("images") == [{"sha256": "a" * 64, "name": "hen.jpg", "width": 40, "height": 30}]


def test_numbers_of_numpy_are_numbers_and_what_is_none_is_null(opened):
    with start(opened, config={"epsilon": np.float64(0.25)}) as run:
        run.insert(
            "attacks",
            [{"image": "hen.jpg", "clean_confidence": np.float32(0.5), "clean_rank": np.int64(3), "psnr": math.inf}],
        )
        run.record_metrics([("loss", 1, 0.5), ("loss", 2, math.nan), ("loss", 3, math.inf), ("loss", 4, None)])
        run.record_metrics([("loss", 1, 0.25)])
        (row,) = opened.rows_of(run.id, "attacks")
        values = [one["value"] for one in opened.rows_of(run.id, "metrics")]
    assert (row["clean_confidence"], row["clean_rank"], row["psnr"]) == (0.5, 3, None)
    assert values == [0.25, None, None, None]
    assert opened.find_run(run.id).config == {"epsilon": 0.25}


def test_rows_are_added_all_or_none_and_in_place_of_the_runs_own(opened):
    with start(opened) as other, start(opened) as run:
        other.insert("cells", [cell()])
        run.insert("cells", [cell(), cell(input="standard")])
        with pytest.raises(StoreError, match="accurracy"):
            run.insert("cells", [cell(), columns(CELL) | {"accurracy": 1.0}])
        assert len(opened.rows_of(run.id, "cells")) == 2
        run.insert("cells", [cell(loss=2.0), cell(model_id="resnet")], instead=True)
        kept = [(row["model_id"], row["input"], row["loss"]) for row in opened.rows_of([run.id, other.id], "cells")]
    assert sorted(kept) == [("cnn@1", "natural", 0.5), ("cnn@1", "natural", 2.0), ("resnet", "natural", 0.5)]
    assert {row["id"] for row in opened.rows("models")} == {"cnn@1", "resnet"}


def test_the_views_average_over_seeds_and_take_last_steps(opened):
    with start(opened, "eval", dataset="mnist") as run:
        attacked = {"regime": "background", "input": "standard", "epsilon": 0.3, "steps": 100, "n": 1000}
        run.insert("cells", [cell(**attacked, seed=n, loss=loss) for n, loss in enumerate([2.0, 4.0, math.nan])])
        run.record_metrics([("loss", 10, 0.1), ("loss", 2, 9.0), ("accuracy", 1, 0.5)])
        (row,) = opened.rows_of(run.id, "loss_matrix")
        latest = [(one["name"], one["step"], one["value"]) for one in opened.rows_of(run.id, "latest_metrics")]
    assert (row["loss"], row["accuracy"], row["seeds"], row["diverged"]) == (3.0, 0.9, 3, 1)
    assert (row["dataset"], row["regime"], row["epsilon"], row["n"]) == ("mnist", "background", 0.3, 1000)
    assert latest == [("accuracy", 1, 0.5), ("loss", 10, 0.1)]


# finding runs


def test_a_run_is_found_by_its_name_and_any_ending_that_only_it_has(opened, monkeypatch):
    with pytest.raises(StoreError, match="there are no runs"):
        opened.find_run("latest")
    drawn = iter(("aaa1", "aaa1", "bbb1", "ccc2"))  # a second aaa1 is passed over
    monkeypatch.setattr(store.secrets, "token_hex", lambda size: next(drawn) if size == 2 else os.urandom(size).hex())
    known = {"command": "train", "dataset": opened.record_dataset("mnist", fingerprint="c" * 64)}
    with start(opened, name="bbb1") as first, start(opened, **known) as second, start(opened, tags=["x"]) as third:
        pass
    for run in (first, second, third):
        for length in range(5, len(run.id) + 1):
            assert opened.find_run(run.id[-length:]).id == run.id
    assert [opened.find_run(name).id for name in ("latest", "bbb1", "aaa1")] == [third.id, first.id, first.id]
    with pytest.raises(UsageError, match="'1' matches 2 runs") as caught:
        opened.find_run("1")
    assert first.id in caught.value.message
    assert second.id in caught.value.message
    for missing in ("ffff", "", "%", "' OR 1=1 --", f"{first.id}x", f"x{first.id}"):
        with pytest.raises(UsageError, match="there is no run"):
            opened.find_run(missing)
    chosen = [{"command": "train"}, {"dataset": "mnist"}, {"dataset": known["dataset"]}, {"tag": "x"}, {"limit": 1}]
    assert [[row.id for row in opened.runs(**one)] for one in chosen] == [[second.id]] * 3 + [[third.id]] * 2


# trouble


def test_a_file_in_the_way_and_a_store_that_is_not_there_are_two_lines(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half made").mkdir()
    (tmp_path / "half made" / DATABASE).touch()
    for open_store, name in ((Store.open, "file"), (Store.open_existing, "file"), (Store.open, "file/runs")):
        with pytest.raises(StoreError, match="not a folder") as caught:
            open_store(tmp_path / name)
        assert "--store DIR" in caught.value.hint
    for name in ("missing", "empty", "half made"):
        with pytest.raises(StoreError, match="there are no runs in") as caught:
            Store.open_existing(tmp_path / name)
        assert "latcli attack PHOTO" in caught.value.hint
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "overwritten"])
def test_a_damaged_database_is_two_lines_and_left_alone(tmp_path, damage):
    with Store.open(tmp_path) as opened, start(opened) as run:
        run.write_artifact("x.png", b"x", "mask")
    sound = (tmp_path / DATABASE).read_bytes()
    bad = {
        "garbage": b"this was never a database " * 500,
        "truncated": sound[: len(sound) // 3],
        "overwritten": sound[:100] + bytes(range(250)) * 16 + sound[4100:],
    }[damage]
    (tmp_path / DATABASE).write_bytes(bad)
    for open_store in (Store.open, Store.open_existing):
        with pytest.raises(StoreError, match="is damaged") as caught:
            open_store(tmp_path).runs()
        assert "\n" not in caught.value.message + caught.value.hint
        assert "run.json" in caught.value.hint
        assert (tmp_path / DATABASE).read_bytes() == bad


@pytest.mark.parametrize("open_store", [Store.open, Store.open_existing])
def test_a_database_of_another_program_is_left_alone(tmp_path, open_store):
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.executescript("CREATE TABLE notes (text)")
        before = list(connection.iterdump())
        with pytest.raises(StoreError, match="another program") as caught:
            open_store(tmp_path)
        assert "--store DIR" in caught.value.hint
        assert list(connection.iterdump()) == before


def test_a_store_for_reading_is_not_written_and_a_write_that_fails_halfway_is_undone(opened):
    with Store.open_existing(opened.folder) as reader, pytest.raises(RuntimeError, match="reading only"):
        reader.record_model("cnn")
    with suppress(ZeroDivisionError), opened.writing() as db:
        db.table("images").insert({"sha256": "00"})
        raise ZeroDivisionError
    with pytest.raises(sqlite3.IntegrityError), opened.writing() as db:
        db.table("models").insert({"id": "x", "name": "x", "run": "no such run"})
    assert opened.rows("images") == opened.rows("models") == []


ON_A_SMALL_DISK = """
import errno, os, subprocess, sys
from pathlib import Path
from latcli.errors import StoreError
from latcli.store.store import Store
from latcli.commands.runs import verify

folder = Path(sys.argv[1])
PLAIN = {'argv': [], 'config': {}, 'seed': 0, 'device': 'cpu'}

def remount(options, path=folder):
    subprocess.run(['mount', '-o', f'remount,bind,{options}', str(path)], check=True)

def refused(action, *arguments):
    try:
        action(*arguments)
    except StoreError as error:
        assert '\\n' not in error.message + error.hint
        return error
    raise SystemExit(f'{action} was not refused')
"""

FULL = """
store = Store.open(folder)
with store.start_run('attack', **PLAIN) as run:
    error = refused(run.write_artifact, 'big.png', bytes(2_000_000), 'mask')
    assert 'no space left on device' in error.message and 'free some space' in error.hint, error
    assert sorted(p.name for p in run.folder.iterdir()) == ['lock', 'run.json']
    run.write_artifact('small.png', b'x', 'mask')
def attack():
    with store.start_run('attack', **PLAIN) as run, (folder / 'ballast').open('ab', buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        for number in range(10_000):
            run.record_metrics([(f'loss {number}', step, 0.5) for step in range(50)])
error = refused(attack)
assert 'full' in error.message and 'free some space' in error.hint, error
assert any('could not be closed' in note for note in error.__notes__), error.__notes__
refused(lambda: store.start_run('attack', **PLAIN))
assert sum(path.is_dir() for path in folder.iterdir()) == 2
(folder / 'ballast').unlink()
again = Store.open(folder)
assert [row.status for row in again.runs()] == ['crashed', 'completed']
assert verify(again, again.runs()).ok
"""

READ_ONLY = """
with Store.open(folder) as store, store.start_run('attack', **PLAIN) as run:
    run.write_artifact('hen.png', b'x', 'mask')
remount('ro')
for path in (folder, folder / 'new'):
    error = refused(Store.open, path)
    assert 'read-only' in error.message and '--store DIR' in error.hint, error
with Store.open_existing(folder) as store:
    assert [row.status for row in store.runs()] == ['completed']
    assert verify(store, store.runs()).ok
remount('rw')
run = (store := Store.open(folder)).start_run('attack', **PLAIN)
subprocess.run(['mount', '--bind', run.folder, run.folder], check=True)
remount('ro', run.folder)
error = refused(run.write_artifact, 'hen.png', b'x', 'mask')
assert 'read-only' in error.message and '--store DIR' in error.hint, error
refused(run.log, 'hello')
assert 'run.json' in refused(run.__exit__, None, None, None).message
assert store.find_run(run.id).status == 'completed'
"""


@pytest.mark.parametrize("code", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_small_or_read_only_disk_is_two_lines_and_leaves_nothing_half_written(tmp_path, code):
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1"'
    try:
        if subprocess.run([*unshare, mount, "sh", tmp_path], capture_output=True, check=False).returncode:
            raise FileNotFoundError
    except FileNotFoundError:
        pytest.skip("this system lets users mount no file system")
    command = [*unshare, mount + ' && exec "$2" -c "$3" "$1"', "sh", tmp_path, sys.executable, ON_A_SMALL_DISK + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# where it was made


def test_runs_of_one_environment_share_its_row_and_torch_is_not_imported_to_find_out(opened):
    with start(opened, config={"a": 1, "b": [Path("x"), (1, 2)]}) as first, start(opened):
        pass
    (row,) = opened.rows("environments")
    assert row["python"] == ".".join(map(str, sys.version_info[:3]))
    assert opened.find_run(first.id).environment == row["id"]
    assert opened.find_run(first.id).config_hash == fingerprint({"b": ["x", [1, 2]], "a": 1}) != fingerprint({"a": 1})
    code = "from latcli.store.schema import environment\nenvironment()\nprint('torch' in sys.modules)\n"
    assert python(code).communicate()[0] == "False\n"
    assert all(devices())


def test_the_commit_is_that_of_the_checkout_the_code_comes_from(tmp_path):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package, installed = tmp_path / "latcli", tmp_path / "venv" / "site-packages" / "latcli"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert checkout(package) == (None, None)
    git("init", "-q")
    git("add", "latcli")
    git("commit", "-q", "-m", "first")
    sha = git("rev-parse", "HEAD")
    assert checkout(package) == (sha, False)
    (package / "__init__.py").write_text("changed")
    assert checkout(package) == (sha, True)
    assert checkout(installed) == (None, None)


def test_a_store_that_is_being_made_is_empty_to_a_reader_and_not_an_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    folder.mkdir()
    schema.connect_for_writing(folder / DATABASE).close()
    look = store.lacking

    def made_meanwhile(db, path):
        monkeypatch.setattr(store, "lacking", look)
        Store.open(folder).close()
        return look(db, path)

    monkeypatch.setattr(store, "lacking", made_meanwhile)
    with pytest.raises(StoreError, match="there are no runs"):
        Store.open_existing(folder)
    Store.open_existing(folder).close()
