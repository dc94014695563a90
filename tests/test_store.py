"""The store keeps what it is given, whatever happens: other processes, kills, full disks, read-only media."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latcli.errors import (
    ExitCode,
    LatcliError,
    NoObjectError,
    StoreError,
    Terminated,
    UsageError,
)
from latcli.store import locks, run
from latcli.store.database import DATABASE, Store
from latcli.store.files import artifact_path, is_temporary
from latcli.store.provenance import checkout, devices, environment, fingerprint, packages
from latcli.store.run import RUN_ID, Run
from latcli.store.values import canonical_json, plain

SETTINGS = {"argv": ["latcli", "attack", "hen.jpg"], "config": {"epsilon": 8 / 255}, "seed": 0, "device": "cpu"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "runs") as opened:
        yield opened


def begin(store: Store, command: str = "attack", **changes: object) -> Run:
    return store.start_run(command, **(SETTINGS | changes))  # type: ignore[arg-type]


def columns_of(store: Store, run_id: str) -> dict[str, object]:
    """The row as it lies in the file, without what the store knows better."""
    with closing(sqlite3.connect(store.path)) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute("SELECT * FROM runs WHERE id = ?", [run_id]).fetchone())


def document_of(run: Run) -> dict[str, object]:
    return json.loads((run.folder / "run.json").read_text(encoding="utf-8"))


# ---- other processes ----


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs the code; it may print lines, and read lines from this one."""
    head = (
        "import sys, os, time, signal\n"
        "from pathlib import Path\n"
        "from latcli.store.database import Store\n"
        "SETTINGS = {'argv': [], 'config': {}, 'seed': 0, 'device': 'cpu'}\n"
        "def wait():\n    print('ready', flush=True)\n    sys.stdin.readline()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def all_at_once(processes: list[subprocess.Popen[str]]) -> None:
    """Let processes that said `ready` go on at the same moment; each must end well."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert ends == [("", 0)] * len(processes)


@contextmanager
def a_run_elsewhere(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that is in the middle of a run, and the run's id."""
    code = (
        "with Store.open(Path(sys.argv[1])) as store, store.start_run('attack', **SETTINGS) as run:\n"
        "    print(run.id, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with python(code, folder) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_eight_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = "wait()\nwith Store.open(Path(sys.argv[1])) as store:\n    store.record_image(sys.argv[2])\n"
    all_at_once([python(code, tmp_path / "fresh", number) for number in range(8)])
    with Store.open_existing(tmp_path / "fresh") as store, store.reading() as db:
        assert {row["sha256"] for row in db.query("SELECT sha256 FROM images")} == {str(n) for n in range(8)}


def test_readers_and_writers_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    writer = "wait()\nStore.open(Path(sys.argv[1])).close()\n"
    reader = (
        "from latcli.errors import StoreError\n"
        "wait()\n"
        "for _ in range(50):\n"
        "    try:\n"
        "        with Store.open_existing(Path(sys.argv[1])) as store:\n"
        "            assert store.runs() == []\n"
        "    except StoreError as error:\n"
        "        assert 'no runs' in error.message, error.message\n"
    )
    all_at_once([python(code, tmp_path / "fresh") for code in (writer, reader) * 3])


@pytest.mark.slow
def test_six_writers_at_once_lose_nothing(store: Store) -> None:
    code = (
        "with Store.open(Path(sys.argv[1])) as store, store.start_run('train', **SETTINGS) as run:\n"
        "    wait()\n"
        "    for step in range(40):\n"
        "        run.record_metric('loss', step, step / 2)\n"
        "        run.record_attack({'image': f'image {step}', 'name': 'hen.jpg', 'position': step})\n"
        "        run.write_artifact(f'{step}.png', b'x', 'adversarial')\n"
        "        store.save_detection('one image', 'yolo', '', f'[{step}]')\n"
        "        assert store.find_detection('one image', 'yolo') is not None\n"
    )
    all_at_once([python(code, store.folder) for _ in range(6)])
    runs = store.runs()
    assert [row.status for row in runs] == ["completed"] * 6
    for row in runs:
        assert [metric["value"] for metric in store.rows_of(row.id, "metrics")] == [step / 2 for step in range(40)]
        assert [attack["position"] for attack in store.rows_of(row.id, "attacks")] == list(range(40))
        assert len(store.rows_of(row.id, "artifacts")) == 40
    with store.reading() as db:
        assert db.table("detections").count == 1
        assert db.table("images").count == 41
    assert store.database_faults() == []


def test_runs_that_begin_in_the_same_second_are_apart(store: Store) -> None:
    code = (
        "with Store.open(Path(sys.argv[1])) as store:\n"
        "    wait()\n"
        "    for _ in range(20):\n"
        "        store.start_run('attack', **SETTINGS).__exit__(None, None, None)\n"
    )
    all_at_once([python(code, store.folder) for _ in range(3)])
    rows = store.runs()
    assert len({row.id for row in rows}) == 60
    assert all(row.path.is_dir() for row in rows)


def test_a_killed_run_is_crashed_and_a_living_one_stays_running(store: Store) -> None:
    with (
        a_run_elsewhere(store.folder) as (killed, dead),
        a_run_elsewhere(store.folder) as (_, living),
        begin(store) as own,
    ):
        killed.kill()
        killed.wait()
        assert store.find_run(dead).status == "crashed"  # seen at once, by a reader too
        with Store.open_existing(store.folder) as reader:
            assert reader.find_run(dead).status == "crashed"
            assert [row.id for row in reader.runs(status="crashed")] == [dead]
            assert {row.id for row in reader.runs(status="running")} == {living, own.id}
        assert columns_of(store, dead)["status"] == "running"  # readers write nothing
        with Store.open(store.folder) as writer:
            assert {row.id: row.status for row in writer.runs()} == {
                dead: "crashed",
                living: "running",
                own.id: "running",
            }
        assert columns_of(store, dead)["status"] == "crashed"
        crashed = json.loads((store.folder / dead / "run.json").read_text(encoding="utf-8"))
        assert (crashed["status"], crashed["error"]) == ("crashed", "the process ended without closing the run")
        assert columns_of(store, living)["status"] == "running"
    assert columns_of(store, own.id)["status"] == "completed"


def test_own_runs_keep_their_lock_however_often_the_store_is_opened_and_read(store: Store) -> None:
    code = "with Store.open(Path(sys.argv[1])) as store:\n    print([row.status for row in store.runs()], flush=True)\n"
    with begin(store):
        for _ in range(2):
            with Store.open(store.folder) as again:
                assert again.runs()[0].status == "running"
            with Store.open_existing(store.folder) as again:
                assert again.runs()[0].status == "running"
        assert python(code, store.folder).communicate()[0] == "['running']\n"


def test_a_run_of_another_machine_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_run_elsewhere(store.folder) as (process, run_id):
        process.kill()
        process.wait()
    monkeypatch.setattr("latcli.store.database.host", lambda: "another machine")
    assert store.reconcile() == []
    assert store.find_run(run_id).status == "running"


def test_a_worker_that_outlives_its_run_does_not_keep_it_alive(store: Store) -> None:
    code = (
        "store = Store.open(Path(sys.argv[1]))\n"
        "run = store.start_run('train', **SETTINGS)\n"
        "worker = os.fork()\n"
        "if worker == 0:\n"
        "    time.sleep(600)\n"
        "print(run.id, worker, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with python(code, store.folder) as process:
        assert process.stdout is not None
        run_id, worker = process.stdout.readline().split()
        try:
            process.wait()
            assert store.find_run(run_id).status == "crashed"
        finally:
            os.kill(int(worker), signal.SIGKILL)


def test_a_forked_worker_that_ends_does_not_end_its_parents_run(store: Store) -> None:
    code = (
        "store = Store.open(Path(sys.argv[1]))\n"
        "with store.start_run('train', **SETTINGS) as run:\n"
        "    worker = os.fork()\n"
        "    if worker == 0:\n"
        "        sys.exit(5)\n"
        "    os.waitpid(worker, 0)\n"
        "    print(run.id, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    run.record_metric('loss', 1, 0.5)\n"
    )
    with python(code, store.folder) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert store.find_run(run_id).status == "running"
        assert process.communicate("\n") == ("", "")
    assert store.find_run(run_id).status == "completed"
    assert store.rows_of(run_id, "metrics") == [{"run": run_id, "name": "loss", "step": 1, "value": 0.5}]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_the_run_as_interrupted(store: Store, number: signal.Signals, code: int) -> None:
    script = (
        "from latcli.errors import Terminated\n"
        "def terminate(*_): raise Terminated\n"
        "signal.signal(signal.SIGTERM, terminate)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with Store.open(Path(sys.argv[1])) as store, store.start_run('attack', **SETTINGS) as run:\n"
        "    print(run.id, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with python(script, store.folder) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        process.send_signal(number)
        process.communicate()
    row = store.find_run(run_id)
    assert (row.status, row.exit_code, row.error) == ("interrupted", code, None)
    assert row.finished is not None


# ---- one run ----


def test_a_run_that_ends_well_is_completed_in_the_database_and_in_its_folder(store: Store) -> None:
    with begin(store, model="efficientnet_lite0", dataset="mnist") as opened:
        assert RUN_ID.fullmatch(opened.id)
        assert opened.folder == store.folder / opened.id
        assert document_of(opened)["status"] == "running"
    row = store.find_run(opened.id)
    document = document_of(opened)
    assert (row.status, row.exit_code, row.error) == ("completed", 0, None)
    assert (row.argv, row.config) == (SETTINGS["argv"], SETTINGS["config"])
    assert row.seconds is not None
    assert row.seconds >= 0
    assert (row.model, row.dataset, row.path) == ("efficientnet_lite0", "mnist", opened.folder)
    for name in ("id", "status", "exit_code", "started", "finished", "argv", "config", "config_hash", "pid", "host"):
        assert document[name] == getattr(row, name)
    assert {path.name for path in opened.folder.iterdir()} == {"run.json", "lock"}


@pytest.mark.parametrize(
    ("raised", "status", "code", "error"),
    [
        (KeyboardInterrupt(), "interrupted", 130, None),
        (Terminated(), "interrupted", 143, None),
        (LatcliError("the disk is on fire", "put it out"), "failed", 1, "the disk is on fire"),
        (NoObjectError("nothing found", "try --box"), "failed", 3, "nothing found"),
        (ZeroDivisionError("division by zero"), "failed", 1, "ZeroDivisionError: division by zero"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_ends_a_run_is_written_down_and_raised_again(
    store: Store, raised: BaseException, status: str, code: int, error: str | None
) -> None:
    with pytest.raises(type(raised)) as caught, begin(store) as opened:
        raise raised
    assert caught.value is raised
    row = store.find_run(opened.id)
    assert (row.status, row.exit_code, row.error) == (status, code, error)
    document = document_of(opened)
    assert (document["status"], document["exit_code"], document["error"]) == (status, code, error)
    assert not locks.is_held(opened.folder / "lock")


def test_a_completed_run_keeps_the_exit_code_it_was_given(store: Store) -> None:
    with begin(store) as opened:
        opened.set_exit_code(ExitCode.NOT_FOOLED)
    row = store.find_run(opened.id)
    assert (row.status, row.exit_code) == ("completed", 4)


def test_no_two_runs_end_in_the_same_digits_and_a_taken_folder_is_passed_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(["0000", "0000", "0000", "1111", "2222"])
    monkeypatch.setattr(run.secrets, "token_hex", lambda size: next(drawn) if size == 2 else os.urandom(size).hex())
    with begin(store) as first, begin(store) as second:
        assert (first.id[-4:], second.id[-4:]) == ("0000", "1111")


def test_a_run_that_cannot_begin_leaves_nothing(store: Store) -> None:
    with pytest.raises(UsageError, match="there is no run 'ffff'"):
        begin(store, parent="ffff")
    with pytest.raises(UsageError, match="too large"):
        begin(store, seed=2**63)
    with pytest.raises(TypeError, match="cannot be stored"):
        begin(store, config={"what": object()})
    assert store.runs() == []
    assert [path for path in store.folder.iterdir() if path.is_dir()] == []


def test_the_heartbeat_moves_but_not_at_every_call(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin(store) as opened:
        before = columns_of(store, opened.id)["heartbeat"]
        time.sleep(0.01)
        opened.heartbeat()
        assert columns_of(store, opened.id)["heartbeat"] == before
        monkeypatch.setattr(run, "_HEARTBEAT_SECONDS", 0)
        opened.heartbeat()
        assert str(columns_of(store, opened.id)["heartbeat"]) > str(before)


def test_the_log_has_a_line_for_each_call(store: Store) -> None:
    with begin(store) as opened:
        opened.log("Fräulein 漢字")
        opened.log("two\nlines, and a name that is no UTF-8: \udcff")
    lines = (opened.folder / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "Fräulein 漢字",
        "two lines, and a name that is no UTF-8: \\udcff",
    ]


# ---- what a run keeps ----


def test_an_artifact_is_written_whole_and_recorded(store: Store) -> None:
    with begin(store) as opened:
        path = opened.write_artifact("masks/hen.png", b"first", "mask")
        opened.write_artifact("masks/hen.png", b"second!", "mask")
        assert path == opened.folder / "masks" / "hen.png"
        assert path.read_bytes() == b"second!"
        (row,) = store.rows_of(opened.id, "artifacts")
    assert (row["name"], row["kind"], row["size"]) == ("masks/hen.png", "mask", 7)
    assert row["sha256"] == "d8470465f9e7614921a043dd05deb31e1f8926c516afc00432359aa2ebb07d30"
    assert [file.name for file in path.parent.iterdir()] == ["hen.png"]


ESCAPES = [
    *("", ".", "..", "/", "/etc/passwd", "../x", "a/../../x", "a/..", "a/", "x\0y"),
    *("run.json", "lock", "Lock", "log.txt", "./run.json", ".latcli-0123.tmp", "lock/x"),
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leads_elsewhere_is_refused(store: Store, name: str) -> None:
    with begin(store) as opened:
        with pytest.raises(StoreError, match="cannot be the name of a file of the run"):
            opened.write_artifact(name, b"x", "mask")
        assert store.rows_of(opened.id, "artifacts") == []
        assert {path.name for path in opened.folder.iterdir()} == {"run.json", "lock"}


def test_a_link_that_leads_out_of_the_folder_is_not_followed(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    with begin(store) as opened:
        (opened.folder / "folder").symlink_to(outside)
        (opened.folder / "file").symlink_to(outside / "precious")
        (opened.folder / "loop").symlink_to("loop")
        for name in ("folder/new", "folder/precious", "file", "loop/x"):
            with pytest.raises(StoreError):
                opened.write_artifact(name, b"x", "mask")
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"precious": "mine"}


@given(
    name=st.lists(st.sampled_from(["..", ".", "/", "a", "é", " ", "\\", "~", "\n", "lock"]), max_size=8).map("".join)
)
@settings(max_examples=300, deadline=None)
def test_every_name_that_is_taken_stays_inside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "run"
    try:
        path = artifact_path(folder, name)
    except StoreError:
        return
    inside = Path(os.path.normpath(path)).relative_to(folder)
    assert inside.parts
    assert inside.parts[0] not in ("..", "lock")


@pytest.mark.parametrize("folder", ["with spaces", "Käse 漢字 Ελλάδα", "a?b#c%20d&e=f", "'quoted' \"twice\""])
def test_a_store_may_lie_under_any_name(tmp_path: Path, folder: str) -> None:
    with Store.open(tmp_path / folder) as store, begin(store) as opened:
        opened.write_artifact("Fräulein 漢字.png", b"x", "mask")
    with Store.open_existing(tmp_path / folder) as store:
        assert store.find_run("latest").path == tmp_path / folder / opened.id
        assert store.rows_of(opened.id, "artifacts")[0]["name"] == "Fräulein 漢字.png"


def test_names_that_are_no_utf8_are_kept_legibly(store: Store) -> None:
    name = os.fsdecode(b"hen-\xff.jpg")
    with begin(store, argv=[name], config={"photo": Path(name)}) as opened:
        opened.record_attack({"image": "00", "name": name})
        path = opened.write_artifact(f"{name}.png", b"x", "mask")
    assert store.find_run(opened.id).argv == ["hen-\\udcff.jpg"]
    assert store.rows_of(opened.id, "attacks")[0]["name"] == "hen-\\udcff.jpg"
    assert store.rows_of(opened.id, "artifacts")[0]["name"] == path.name == "hen-\\udcff.jpg.png"


def test_a_diverging_run_is_kept_with_null(store: Store) -> None:
    with begin(store) as opened:
        opened.record_metrics([("loss", 1, 0.5), ("loss", 2, math.nan), ("loss", 3, math.inf), ("loss", 4, None)])
        opened.record_metric("loss", 1, 0.25)
        opened.record_attack({"name": "hen.jpg", "clean_confidence": math.nan, "boxes_json": [[0, 0, 1, math.nan]]})
        opened.record_cell({"model": "m", "input": "natural", "n": 10, "loss": math.nan, "accuracy": 0.1})
        values = [row["value"] for row in store.rows_of(opened.id, "metrics")]
        (attack,) = store.rows_of(opened.id, "attacks")
        (cell,) = store.rows_of(opened.id, "cells")
    assert values == [0.25, None, None, None]
    assert attack["clean_confidence"] is None
    assert json.loads(attack["boxes_json"]) == [[0, 0, 1, None]]
    assert (cell["loss"], cell["accuracy"]) == (None, 0.1)


def test_numbers_of_numpy_are_stored_as_numbers(store: Store) -> None:
    row = {
        "name": "hen.jpg",
        "clean_confidence": np.float32(0.5),
        "clean_rank": np.int64(3),
        "position": np.bool_(True),
    }
    with begin(store, config={"epsilon": np.float64(0.25)}) as opened:
        opened.record_attack(row)
        (attack,) = store.rows_of(opened.id, "attacks")
    assert (attack["clean_confidence"], attack["clean_rank"], attack["position"]) == (0.5, 3, 1)
    assert store.find_run(opened.id).config == {"epsilon": 0.25}


def test_a_column_that_does_not_exist_is_an_error(store: Store) -> None:
    with begin(store) as opened:
        with pytest.raises(sqlite3.OperationalError, match="confidance"):
            opened.record_attack({"name": "hen.jpg", "confidance": 0.5})
        assert store.rows_of(opened.id, "attacks") == []


def test_latest_metrics_are_those_of_the_last_step(store: Store) -> None:
    with begin(store) as opened:
        opened.record_metrics([("loss", 10, 0.1), ("loss", 2, 9.0), ("accuracy", 1, 0.5)])
        latest = store.rows_of(opened.id, "latest_metrics")
    assert [(row["name"], row["step"], row["value"]) for row in latest] == [("accuracy", 1, 0.5), ("loss", 10, 0.1)]


def test_the_loss_matrix_averages_over_seeds_and_counts_those_that_diverged(store: Store) -> None:
    cell = {"model": "cnn", "regime": "background", "input": "standard", "epsilon": 0.3, "steps": 100, "n": 1000}
    with begin(store, command="eval", dataset="mnist") as opened:
        for seed, loss in enumerate([2.0, 4.0, math.nan]):
            opened.record_cell(cell | {"seed": seed, "loss": loss, "accuracy": 0.5})
        opened.record_cell({"model": "cnn", "regime": "background", "input": "natural", "n": 1000, "loss": 1.0})
        matrix = {row["input"]: row for row in store.rows_of(opened.id, "loss_matrix")}
    assert set(matrix) == {"natural", "standard"}
    averaged = matrix["standard"]
    assert (averaged["loss"], averaged["accuracy"], averaged["seeds"], averaged["diverged"]) == (3.0, 0.5, 3, 1)
    assert (averaged["dataset"], averaged["regime"], averaged["epsilon"], averaged["n"]) == (
        *("mnist", "background"),
        *(0.3, 1000),
    )


def test_cells_recorded_together_replace_the_runs_own_and_no_others(store: Store) -> None:
    cell = {"model": "cnn", "input": "natural", "n": 10, "loss": 1.0, "accuracy": 0.5}
    with begin(store) as other, begin(store) as opened:
        other.record_cell(cell)
        opened.record_cells([cell, cell | {"input": "standard"}])
        opened.record_cells([cell | {"loss": 2.0}, cell | {"input": "standard", "model": "resnet"}])
        kept = [(row["model"], row["input"], row["loss"]) for row in store.rows_of(opened.id, "cells")]
        assert len(store.rows_of(other.id, "cells")) == 1
    assert kept == [("cnn", "natural", 2.0), ("resnet", "standard", 1.0)]


def test_a_detection_is_found_again_only_by_its_whole_key(store: Store) -> None:
    store.save_detection("image", "yolo@1", "hen", "[[0, 0, 1, 1]]", b"\x89PNG\0")
    store.save_detection("image", "yolo@1", "", "[]")
    store.save_detection("image", "yolo@1", "", "[1]")
    with_target = store.find_detection("image", "yolo@1", "hen")
    without = store.find_detection("image", "yolo@1")
    assert with_target is not None
    assert (with_target.boxes_json, with_target.segmentations) == ("[[0, 0, 1, 1]]", b"\x89PNG\0")
    assert without is not None
    assert (without.boxes_json, without.segmentations) == ("[1]", None)
    assert store.find_detection("image", "yolo@2", "hen") is None
    assert store.find_detection("another", "yolo@1", "hen") is None


def test_what_is_known_of_an_image_is_not_forgotten(store: Store) -> None:
    store.save_detection("00", "yolo", "", "[]")
    store.record_image("00", "hen.jpg", 640, 480)
    store.record_image("00")
    store.record_image("00", name="copy.jpg")
    with store.reading() as db:
        assert list(db.query("SELECT * FROM images")) == [
            {"sha256": "00", "name": "copy.jpg", "width": 640, "height": 480}
        ]
    assert store.find_detection("00", "yolo") is not None


def test_models_and_datasets_are_told_apart_by_their_contents(store: Store) -> None:
    first = store.record_model("cnn", weights_sha256="a" * 64, regime="natural")
    second = store.record_model("cnn", weights_sha256="b" * 64)
    dataset = store.record_dataset("mnist", split="test", fingerprint="c" * 64)
    assert store.record_model("cnn", weights_sha256="a" * 64) == first != second
    assert (first, dataset) == ("cnn@aaaaaaaa", "mnist/test@cccccccc")
    with begin(store, model=first, dataset=dataset):
        pass
    with store.reading() as db:
        assert db.table("models").get(first)["regime"] == "natural"
        assert db.table("models").count == 2
        assert db.table("datasets").get(dataset)["split"] == "test"


# ---- finding runs ----


def test_a_run_is_found_by_any_ending_that_only_it_has(store: Store) -> None:
    opened = []
    for command in ("attack", "train", "attack"):
        with begin(store, command=command) as one:
            opened.append(one.id)
    for run_id in opened:
        for length in range(4, len(run_id) + 1):
            assert store.find_run(run_id[-length:]).id == run_id
    assert store.find_run("latest").id == opened[-1]
    assert [row.id for row in store.runs()] == opened[::-1]
    assert [row.id for row in store.runs(command="attack", limit=1)] == [opened[2]]


def test_an_ending_that_fits_none_or_several_runs_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no run 'latest'"):
        store.find_run("latest")
    drawn = iter(["aaa1", "bbb1"])
    monkeypatch.setattr(run.secrets, "token_hex", lambda size: next(drawn) if size == 2 else os.urandom(size).hex())
    with begin(store) as first, begin(store) as second:
        pass
    with pytest.raises(UsageError, match="'1' fits 2 runs") as caught:
        store.find_run("1")
    assert first.id in caught.value.message
    assert second.id in caught.value.message
    for missing in ("ffff", "", "%", "' OR 1=1 --", first.id + "x", "x" + first.id):
        with pytest.raises(UsageError, match="there is no run"):
            store.find_run(missing)


def test_a_parent_is_linked(store: Store) -> None:
    with begin(store, command="train") as parent, begin(store, command="eval", parent=parent.id[-4:]) as child:
        pass
    assert store.find_run(child.id).parent == parent.id


def test_ids_that_no_run_can_have_lead_nowhere(store: Store) -> None:
    with begin(store) as opened:
        pass
    with store.writing() as db:
        db.execute("UPDATE runs SET id = '../../precious' WHERE id = ?", [opened.id])
    with pytest.raises(StoreError, match="which no run can be called"):
        store.runs()


# ---- trouble ----


def test_a_file_in_the_way_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for opened in (Store.open, Store.open_existing):
        with pytest.raises(StoreError, match="not a folder") as caught:
            opened(tmp_path / "file")
        assert "--store DIR" in caught.value.hint
    with pytest.raises(StoreError, match="not a folder"):
        Store.open(tmp_path / "file" / "runs")


@pytest.mark.parametrize("name", ["missing", "empty", "half made"])
def test_reading_a_store_that_is_not_there_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half made").mkdir()
    (tmp_path / "half made" / DATABASE).touch()
    with pytest.raises(StoreError, match="there are no runs in") as caught:
        Store.open_existing(tmp_path / name)
    assert "latcli attack PHOTO" in caught.value.hint
    assert not (tmp_path / "missing").exists()


def garbage(path: Path) -> None:
    path.write_bytes(b"this was never a database " * 500)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(4000))


@pytest.mark.parametrize("damage", [garbage, truncated, overwritten])
@pytest.mark.parametrize("opened", [Store.open, Store.open_existing])
def test_a_damaged_database_is_two_lines_and_left_alone(tmp_path: Path, damage, opened) -> None:
    with Store.open(tmp_path) as store:
        for _ in range(3):
            with begin(store) as one:
                one.write_artifact("x.png", b"x", "mask")
    damage(tmp_path / DATABASE)
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreError, match="is damaged") as caught:
        opened(tmp_path).runs()
    assert "\n" not in caught.value.message + caught.value.hint
    assert "run.json" in caught.value.hint
    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_store_opened_for_reading_cannot_be_written(store: Store) -> None:
    with Store.open_existing(store.folder) as reader, pytest.raises(RuntimeError, match="reading only"):
        reader.record_image("00")


def test_a_write_that_fails_halfway_is_undone(store: Store) -> None:
    with suppress(ZeroDivisionError), store.writing() as db:
        db.table("images").insert({"sha256": "00"})
        raise ZeroDivisionError
    store.record_image("11")
    with store.reading() as db:
        assert [row["sha256"] for row in db.query("SELECT sha256 FROM images")] == ["11"]


def test_a_file_larger_than_the_system_allows_leaves_nothing_behind(store: Store) -> None:
    code = (
        "import resource\n"
        "from latcli.errors import StoreError\n"
        "with Store.open(Path(sys.argv[1])) as store, store.start_run('attack', **SETTINGS) as run:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "    try:\n"
        "        run.write_artifact('big.png', bytes(400_000), 'mask')\n"
        "    except StoreError as error:\n"
        "        print(error.message, '|', error.hint)\n"
        "    run.write_artifact('small.png', bytes(4), 'mask')\n"
        "    print(sorted(path.name for path in run.folder.iterdir()))\n"
    )
    out, err = python(code, store.folder).communicate()
    assert err == ""
    message, listing = out.splitlines()
    assert "big.png cannot be read or written: file too large | free some space" in message
    assert listing == "['lock', 'run.json', 'small.png']"
    assert store.find_run("latest").status == "completed"
    assert [row["name"] for row in store.rows_of(store.find_run("latest").id, "artifacts")] == ["small.png"]


def test_a_write_that_fails_keeps_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with begin(store) as opened:
        path = opened.write_artifact("hen.png", b"first", "mask")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            with pytest.raises(StoreError, match="input/output error"):
                opened.write_artifact("hen.png", b"second", "mask")
        assert path.read_bytes() == b"first"
        assert not any(is_temporary(file.name) for file in opened.folder.iterdir())


ON_A_SMALL_DISK = """
import errno, os, subprocess, sys
from pathlib import Path
from latcli.errors import StoreError
from latcli.store.database import Store

folder = Path(sys.argv[1])
SETTINGS = {'argv': [], 'config': {}, 'seed': 0, 'device': 'cpu'}

def remount(options):
    subprocess.run(['mount', '-o', f'remount,bind,{options}', str(folder)], check=True)

def refused(action, *arguments):
    try:
        action(*arguments)
    except StoreError as error:
        assert '\\n' not in error.message + error.hint
        return error
    raise SystemExit(f'{action} was not refused')
"""


@pytest.fixture
def small_disk(tmp_path: Path):
    """Run code with its own file system of one megabyte, which it may fill or make read-only."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1"'
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        able = subprocess.run([*unshare, mount, "sh", disk], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this system lets no one mount a file system of his own")

    def run_code(code: str) -> None:
        command = [*unshare, mount + ' && exec "$2" -c "$3" "$1"', "sh", disk, sys.executable, ON_A_SMALL_DISK + code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    return run_code


def test_a_disk_that_fills_up_is_two_lines_and_leaves_nothing_half_written(small_disk) -> None:
    small_disk(
        """
with Store.open(folder) as store, store.start_run('attack', **SETTINGS) as run:
    error = refused(run.write_artifact, 'big.png', bytes(2_000_000), 'mask')
    assert 'no space left on device' in error.message and 'free some space' in error.hint, error
    assert sorted(p.name for p in run.folder.iterdir()) == ['lock', 'run.json']
    run.write_artifact('small.png', b'x', 'mask')
    assert [row['name'] for row in store.rows_of(run.id, 'artifacts')] == ['small.png']
assert Store.open(folder).find_run('latest').status == 'completed'
"""
    )


def test_a_run_on_a_full_disk_fails_with_the_error_that_stopped_it(small_disk) -> None:
    small_disk(
        """
store = Store.open(folder)
def fill():
    with (folder / 'ballast').open('ab', buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
def attack():
    with store.start_run('attack', **SETTINGS) as run:
        fill()
        for number in range(10_000):
            run.record_metrics([(f'loss {number}', step, 0.5) for step in range(50)])
error = refused(attack)
assert 'no space left' in error.message and 'free some space' in error.hint, error
assert any('could not be closed' in note for note in error.__notes__), error.__notes__
refused(lambda: store.start_run('attack', **SETTINGS))
assert sum(path.is_dir() for path in folder.iterdir()) == 1
(folder / 'ballast').unlink()
assert [row.status for row in Store.open(folder).runs()] == ['crashed']
assert store.database_faults() == []
with store.start_run('attack', **SETTINGS):
    pass
assert store.find_run('latest').status == 'completed'
"""
    )


def test_a_read_only_store_is_refused_for_writing_and_can_be_read(small_disk) -> None:
    small_disk(
        """
from latcli.commands.runs import list_runs, remove_runs, show_run, verify_runs
with Store.open(folder) as store, store.start_run('attack', **SETTINGS) as run:
    run.write_artifact('hen.png', b'x', 'mask')
remount('ro')
for error in (refused(Store.open, folder), refused(Store.open, folder / 'new'), refused(remove_runs, folder, [run.id])):
    assert 'read-only' in error.message and '--store DIR' in error.hint, error
assert [row.id for row in list_runs(folder).runs] == [run.id]
assert show_run(folder, 'latest').artifacts[0]['name'] == 'hen.png'
assert verify_runs(folder).exit_code == 0
"""
    )


def test_a_run_whose_disk_becomes_read_only_fails_in_two_lines(small_disk) -> None:
    small_disk(
        """
store = Store.open(folder)
run = store.start_run('attack', **SETTINGS)
subprocess.run(['mount', '--bind', run.folder, run.folder], check=True)
subprocess.run(['mount', '-o', 'remount,bind,ro', run.folder], check=True)
error = refused(run.write_artifact, 'hen.png', b'x', 'mask')
assert 'read-only' in error.message and '--store DIR' in error.hint, error
refused(run.log, 'hello')
error = refused(run.__exit__, None, None, None)
assert 'run.json' in error.message, error
assert store.find_run(run.id).status == 'completed'
"""
    )


def test_a_read_only_store_is_read_with_its_last_changes_or_not_at_all(small_disk) -> None:
    small_disk(
        """
code = 'import sys, os; from pathlib import Path; from latcli.store.database import Store\\n' \\
    'Store.open(Path(sys.argv[1])).record_image("in the log only"); os._exit(0)'
Store.open(folder).close()
subprocess.run([sys.executable, '-c', code, str(folder)], check=True)
assert (folder / 'latcli.db-wal').stat().st_size > 0
remount('ro')
with Store.open_existing(folder) as store, store.reading() as db:
    assert [row['sha256'] for row in db.query('SELECT sha256 FROM images')] == ['in the log only']
remount('rw')
(folder / 'latcli.db-shm').unlink()
remount('ro')
error = refused(Store.open_existing, folder)
assert 'latcli.db-wal' in error.message and 'copy the whole folder' in error.hint, error
"""
    )


# ---- where it was made ----


def test_runs_of_one_environment_share_its_row(store: Store) -> None:
    with begin(store) as first, begin(store):
        pass
    with store.reading() as db:
        (row,) = db.query("SELECT * FROM environments")
    assert row["python"] == ".".join(map(str, sys.version_info[:3]))
    assert row["torch"] == packages()["torch"] == json.loads(row["packages_json"])["torch"]
    assert store.find_run(first.id).environment == row["id"]
    assert document_of(first)["environment"]["id"] == row["id"]  # type: ignore[index]


def test_asking_for_the_environment_does_not_import_torch() -> None:
    code = "from latcli.store.provenance import environment\nenvironment()\nprint('torch' in sys.modules)\n"
    assert python(code).communicate()[0] == "False\n"
    assert all(devices())


def test_the_commit_is_that_of_the_checkout_the_code_comes_from(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / "latcli"
    installed = tmp_path / "venv" / "site-packages" / "latcli"
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


def test_equal_settings_have_equal_hashes() -> None:
    assert fingerprint({"a": 1, "b": [Path("x"), (1, 2)]}) == fingerprint({"b": ["x", [1, 2]], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert environment() == environment()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
@settings(deadline=None)
def test_anything_plain_becomes_json_that_reads_back_the_same(value: object) -> None:
    assert json.loads(canonical_json(value)) == plain(value)


# ---- locks ----


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "from latcli.store import locks\nprint(locks.is_held(Path(sys.argv[1])), locks.acquire(Path(sys.argv[1])))\n"
    held = locks.acquire(path)
    assert held is not None
    assert locks.acquire(path) is None
    assert locks.is_held(path)
    assert python(code, path).communicate()[0] == "True None\n"
    held.release()
    held.release()
    assert not locks.is_held(path)
    again = locks.acquire(path)
    assert again is not None
    again.release()


def test_waiting_for_a_store_that_stays_locked_ends_in_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(tmp_path).close()
    monkeypatch.setattr("latcli.store.database._OPENING_SECONDS", 0.1)
    code = (
        "from latcli.store import locks\n"
        "with locks.exclusive(Path(sys.argv[1]), 1):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with python(code, tmp_path / "latcli.lock") as process:
        assert process.stdout is not None
        process.stdout.readline()
        for opened in (Store.open, Store.open_existing):
            with pytest.raises(StoreError, match=r"locked for 0\.1 s") as caught:
                opened(tmp_path)
            assert "--store DIR" in caught.value.hint
        process.communicate("\n")
    Store.open(tmp_path).close()


# ---- runs that are taken up again ----


def test_a_run_that_failed_is_taken_up_under_its_id_and_completed(store: Store) -> None:
    with suppress(ValueError), begin(store, "train") as first:
        first.record_metric("loss", 1, 2.5)
        raise ValueError("cut off")

    with store.resume_run(first.id[-4:], argv=["latcli", "train", "--resume"]) as again:
        assert (again.id, again.folder) == (first.id, first.folder)
        assert (store.find_run(first.id).status, store.find_run(first.id).error) == ("running", None)
        assert store.is_alive(first.id)
        again.record_metric("loss", 2, 1.5)

    row = store.find_run(first.id)
    assert (row.status, row.exit_code, row.error) == ("completed", 0, None)
    assert (row.config, row.argv) == (SETTINGS["config"], ["latcli", "train", "--resume"])
    assert [metric["value"] for metric in store.rows_of(first.id, "metrics")] == [2.5, 1.5]
    document = document_of(again)
    assert (document["status"], document["started"], document["config"]) == ("completed", row.started, row.config)


def test_a_run_at_work_is_not_taken_up_by_another_process(store: Store) -> None:
    with a_run_elsewhere(store.folder) as (_process, run_id):
        with pytest.raises(StoreError, match="is at work in another process"):
            store.resume_run(run_id, argv=[])
        assert store.find_run(run_id).status == "running"


def test_a_run_whose_document_is_damaged_is_not_taken_up_and_its_lock_is_free(store: Store) -> None:
    with begin(store) as ended:
        pass
    (ended.folder / "run.json").write_text("{")

    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        store.resume_run(ended.id, argv=[])
    assert not store.is_alive(ended.id)


def test_a_removed_artifact_is_gone_from_folder_and_database(store: Store) -> None:
    with begin(store) as run_:
        path = run_.write_artifact("state.bin", b"x", "state")
        run_.remove_artifact("state.bin")
        run_.remove_artifact("state.bin")

    assert not path.exists()
    assert store.rows_of(run_.id, "artifacts") == []
