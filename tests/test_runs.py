"""`latcli runs`: what is listed, shown, verified and removed is what is there; a living run is never touched."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from latcli.commands.runs import list_runs, remove_runs, run_path, show_run, verify_runs
from latcli.errors import ExitCode, LatcliError, StoreError, UsageError
from latcli.store import remove
from latcli.store.store import DATABASE, Run, Store

ATTACK = {
    "image": "a" * 64,
    "position": 0,
    "name": "photos/hen.jpg",
    "label_index": 8,
    "label_name": "hen",
    "label_source": "given",
    "epsilon": 8 / 255,
    "norm": "linf",
    "steps": 40,
    "restarts": 1,
    "clean_prediction": "hen",
    "clean_confidence": 0.9,
    "clean_rank": 1,
    "adversarial_prediction": "boathouse",
    "adversarial_confidence": 1e-6,
    "adversarial_rank": 71,
    "altered_percent": 49.1,
    "background_percent": 50.0,
    "linf_inside": 0.0,
    "linf_outside": 8 / 255,
    "boxes_json": [[1, 2, 30, 40, 0.75, "hen"]],
    "clean_top_json": [["hen", 0.9]],
    "adversarial_top_json": [["boathouse", 1.0]],
    "notes_json": ["rotated"],
}

LIVING = """
import sys
from pathlib import Path
from latcli.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    with store.start_run('attack', argv=[], config={}, seed=0, device='cpu') as run:
        run.write_artifact('hen.png', b'x', 'adversarial')
        print(run.id, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "my runs"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.open(folder) as opened:
        yield opened


def begin(store: Store, command: str = "attack", parent: str | None = None) -> Run:
    return store.start_run(command, argv=["latcli"], config={"epsilon": 0.25}, seed=7, device="cpu", parent=parent)


def finished(store: Store, command: str = "attack", parent: str | None = None) -> Run:
    with begin(store, command, parent) as run:
        run.write_artifact("hen-adversarial.png", b"picture", "adversarial")
        run.write_artifact("masks/hen.png", b"mask", "mask")
        run.record_attack(ATTACK)
        run.record_metrics([("loss", 1, 2.0), ("loss", 2, 1.0)])
        run.record_cell(
            {"model": "cnn", "regime": "natural", "input": "natural", "n": 10, "loss": 0.5, "accuracy": 0.9}
        )
    return run


@pytest.fixture
def living(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process in the middle of a run, and the run's id."""
    command = [sys.executable, "-c", LIVING, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def rows_left(store: Store, run_id: str) -> dict[str, int]:
    with store.reading() as db:
        counts = {
            table: db.table(table).count_where("run = ?", [run_id])
            for table in ("attacks", "artifacts", "cells", "metrics")
        }
        return counts | {"runs": db.table("runs").count_where("id = ?", [run_id])}


def problems_of(folder: Path, *runs: str) -> list[tuple[str, str]]:
    return [(problem.name, problem.fault) for run in verify_runs(folder, runs).runs for problem in run.problems]


# ---- list, show, path ----


def test_runs_are_listed_newest_first(store: Store, folder: Path) -> None:
    first, second = finished(store), finished(store, "train")
    listed = list_runs(folder)
    assert [row.id for row in listed.runs] == [second.id, first.id]
    assert [row.id for row in list_runs(folder, command="attack").runs] == [first.id]
    assert [row.id for row in list_runs(folder, limit=1).runs] == [second.id]
    assert list_runs(folder, status="failed").runs == []
    document = listed.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["store"] == str(folder)
    assert document["runs"][1] == document["runs"][1] | {
        "run": first.id,
        "dir": str(first.folder),
        "command": "attack",
        "status": "completed",
        "exit_code": 0,
        "error": None,
        "seed": 7,
        "device": "cpu",
        "model": None,
        "parent": None,
    }


def test_an_unknown_status_is_refused_with_the_nearest(store: Store, folder: Path) -> None:
    with pytest.raises(UsageError, match="no status called 'complete'") as caught:
        list_runs(folder, status="complete")
    assert "'completed'" in caught.value.hint


def test_a_run_is_shown_with_all_that_is_known(store: Store, folder: Path) -> None:
    run = finished(store)
    document = show_run(folder, run.id[-4:]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["run"], document["dir"], document["argv"]) == (run.id, str(run.folder), ["latcli"])
    assert document["config"] == {"epsilon": 0.25}
    assert document["environment"]["packages"]["torch"] == document["environment"]["torch"]
    assert document["images"] == [
        {
            "image": "photos/hen.jpg",
            "sha256": "a" * 64,
            "label": {"index": 8, "name": "hen", "source": "given"},
            "clean": {"prediction": "hen", "confidence": 0.9, "rank": 1, "top": [["hen", 0.9]]},
            "adversarial": {
                "prediction": "boathouse",
                "confidence": 1e-6,
                "rank": 71,
                "top": [["boathouse", 1.0]],
            },
            "epsilon": 8 / 255,
            "norm": "linf",
            "steps": 40,
            "restarts": 1,
            "altered_percent": 49.1,
            "background_percent": 50.0,
            "linf_inside": 0.0,
            "linf_outside": 8 / 255,
            "boxes": [[1, 2, 30, 40, 0.75, "hen"]],
            "notes": ["rotated"],
        }
    ]
    assert document["metrics"] == [{"name": "loss", "step": 2, "value": 1.0}]
    assert [(cell["model"], cell["loss"]) for cell in document["cells"]] == [("cnn", 0.5)]
    assert [(file["name"], file["size"]) for file in document["artifacts"]] == [
        ("hen-adversarial.png", 7),
        ("masks/hen.png", 4),
    ]
    assert all(Path(file["path"]).is_file() for file in document["artifacts"])


def test_a_path_is_that_of_the_run_or_of_one_of_its_files(store: Store, folder: Path) -> None:
    run = finished(store)
    assert run_path(folder, "latest").to_json() == {"run": run.id, "path": str(run.folder)}
    assert run_path(folder, run.id, "masks/hen.png").path.read_bytes() == b"mask"
    with pytest.raises(StoreError):
        run_path(folder, run.id, "../../precious")


@pytest.mark.parametrize(
    "command",
    [
        lambda folder: show_run(folder, "ffff"),
        lambda folder: run_path(folder, "ffff"),
        lambda folder: verify_runs(folder, ["ffff"]),
        lambda folder: remove_runs(folder, ["ffff"]),
    ],
    ids=["show", "path", "verify", "rm"],
)
def test_an_unknown_run_is_two_lines(store: Store, folder: Path, command) -> None:
    with pytest.raises(UsageError, match="there is no run 'ffff'") as caught:
        command(folder)
    assert "latcli runs list" in caught.value.hint
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "command",
    [
        list_runs,
        verify_runs,
        lambda folder: show_run(folder, "latest"),
        lambda folder: run_path(folder, "latest"),
        lambda folder: remove_runs(folder, ["latest"]),
    ],
    ids=["list", "verify", "show", "path", "rm"],
)
def test_without_a_store_none_is_made(tmp_path: Path, command) -> None:
    with pytest.raises(LatcliError, match="there are no runs"):
        command(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


# ---- verify ----


def test_untouched_runs_verify(store: Store, folder: Path) -> None:
    first, second = finished(store), finished(store)
    result = verify_runs(folder)
    assert result.exit_code == ExitCode.OK
    assert result.to_json() == {
        "store": str(folder),
        "ok": True,
        "runs": [second.id, first.id],
        "checked": 4,
        "problems": [],
        "database": [],
    }
    assert verify_runs(folder, [first.id, first.id[-4:]]).to_json()["runs"] == [first.id]


def test_each_fault_is_found_and_named(store: Store, folder: Path) -> None:
    with begin(store) as run:
        for name in ("good", "gone", "longer", "other", "a pipe", "deep/gone"):
            run.write_artifact(name, b"0123", "mask")
    (run.folder / "gone").unlink()
    (run.folder / "longer").write_bytes(b"01234")
    (run.folder / "other").write_bytes(b"0124")
    (run.folder / "a pipe").unlink()
    os.mkfifo(run.folder / "a pipe")
    (run.folder / "deep" / "gone").unlink()
    (run.folder / "deep").rmdir()
    (run.folder / "deep").write_text("a file now")
    (run.folder / ".latcli-0123456789abcdef.tmp").write_bytes(b"half")
    (run.folder / "notes of mine.txt").write_text("these are welcome")
    result = verify_runs(folder)
    assert result.exit_code == ExitCode.FAILURE
    assert sorted(problems_of(folder)) == [
        (".latcli-0123456789abcdef.tmp", "stray"),
        ("a pipe", "changed"),
        ("deep/gone", "missing"),
        ("gone", "missing"),
        ("longer", "changed"),
        ("other", "changed"),
    ]
    document = result.to_json()
    assert not document["ok"]
    assert document["problems"][1] == {
        "run": run.id,
        "name": "longer",
        "fault": "changed",
        "detail": "it has 5 bytes instead of 4",
    }


def test_links_that_lead_out_of_the_run_are_not_followed(store: Store, folder: Path, tmp_path: Path) -> None:
    run = finished(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "hen.png").write_bytes(b"mask")  # what the artifact was, so that following it would find no fault
    (run.folder / "masks" / "hen.png").unlink()
    (run.folder / "masks").rmdir()
    (run.folder / "masks").symlink_to(outside)
    (run.folder / "hen-adversarial.png").unlink()
    (run.folder / "hen-adversarial.png").symlink_to("/dev/zero")
    assert sorted(problems_of(folder)) == [("hen-adversarial.png", "outside"), ("masks/hen.png", "outside")]


def test_a_name_in_the_database_that_leads_out_is_not_followed(store: Store, folder: Path) -> None:
    run = finished(store)
    with store.writing() as db:
        db.execute("UPDATE artifacts SET name = '../../../../etc/passwd' WHERE run = ? AND kind = 'mask'", [run.id])
        db.execute("UPDATE artifacts SET name = 'lock' WHERE run = ? AND kind = 'adversarial'", [run.id])
    assert sorted(problems_of(folder)) == [("../../../../etc/passwd", "outside"), ("lock", "outside")]


def test_a_folder_that_is_gone_is_said_so(store: Store, folder: Path) -> None:
    with begin(store) as run:
        pass
    (run.folder / "run.json").unlink()
    (run.folder / "lock").unlink()
    run.folder.rmdir()
    assert problems_of(folder) == [(".", "missing")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file, whatever its mode")
def test_a_file_that_may_not_be_read_is_said_so(store: Store, folder: Path) -> None:
    run = finished(store)
    (run.folder / "hen-adversarial.png").chmod(0)
    assert problems_of(folder) == [("hen-adversarial.png", "unreadable")]


def test_a_file_that_cannot_be_read_is_said_so(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    finished(store)
    monkeypatch.setattr("latcli.store.verify.sha256_of_file", fails)
    assert sorted(problems_of(folder)) == [("hen-adversarial.png", "unreadable"), ("masks/hen.png", "unreadable")]


def test_a_write_under_way_is_no_fault(folder: Path, living: tuple[subprocess.Popen[str], str]) -> None:
    process, run_id = living
    (folder / run_id / ".latcli-0123456789abcdef.tmp").write_bytes(b"half")
    assert problems_of(folder) == []
    process.kill()
    process.wait()
    assert problems_of(folder) == [(".latcli-0123456789abcdef.tmp", "stray")]


def test_a_row_that_points_nowhere_is_a_fault_of_the_database(store: Store, folder: Path) -> None:
    run = finished(store)
    store.close()
    with closing(sqlite3.connect(folder / DATABASE)) as connection:  # foreign keys are off unless asked for
        connection.execute("DELETE FROM runs WHERE id = ?", [run.id])
        connection.commit()
    result = verify_runs(folder)
    assert result.exit_code == ExitCode.FAILURE
    assert any("of artifacts points to no row of runs" in fault for fault in result.database_faults)


# ---- rm ----


def test_removed_runs_are_gone_with_files_and_rows_and_nothing_else_is(store: Store, folder: Path) -> None:
    kept, first, second = finished(store, "train"), finished(store), finished(store)
    child = finished(store, "eval", parent=first.id)
    result = remove_runs(folder, [first.id[-4:], second.id, first.id])
    assert result.to_json() == {"store": str(folder), "removed": [first.id, second.id]}
    for run in (first, second):
        assert not run.folder.exists()
        assert set(rows_left(store, run.id).values()) == {0}
    for run in (kept, child):
        assert run.folder.is_dir()
        assert rows_left(store, run.id) == {"attacks": 1, "artifacts": 2, "cells": 1, "metrics": 2, "runs": 1}
    assert store.find_run(child.id).parent is None
    assert verify_runs(folder).exit_code == ExitCode.OK


def test_a_living_run_is_refused_and_nothing_is_removed(
    store: Store, folder: Path, living: tuple[subprocess.Popen[str], str]
) -> None:
    process, run_id = living
    other = finished(store)
    for force in (False, True):
        with pytest.raises(StoreError, match="still running, as process") as caught:
            remove_runs(folder, [other.id, run_id], force=force)
        assert "stop it first" in caught.value.hint
    assert other.folder.is_dir()
    assert (folder / run_id / "hen.png").is_file()
    process.communicate("\n")
    assert store.find_run(run_id).status == "completed"
    assert remove_runs(folder, [other.id, run_id]).runs == [other.id, run_id]


def test_a_run_of_this_process_is_refused_and_keeps_its_lock(store: Store, folder: Path) -> None:
    with begin(store) as run:
        with pytest.raises(StoreError, match="still running"):
            remove_runs(folder, [run.id])
        verify_runs(folder)
        code = "import sys, pathlib; from latcli.store.locks import is_held; print(is_held(pathlib.Path(sys.argv[1])))"
        held = subprocess.run(
            [sys.executable, "-c", code, str(run.folder / "lock")], capture_output=True, text=True, check=True
        )
        assert held.stdout == "True\n"
    assert store.find_run(run.id).status == "completed"


def test_a_killed_run_can_be_removed(folder: Path, living: tuple[subprocess.Popen[str], str]) -> None:
    process, run_id = living
    process.kill()
    process.wait()
    assert remove_runs(folder, [run_id]).runs == [run_id]
    assert list_runs(folder).runs == []


def test_a_run_left_running_by_another_machine_needs_force(store: Store, folder: Path) -> None:
    run = finished(store)
    with store.writing() as db:
        db.execute("UPDATE runs SET status = 'running', host = 'elsewhere' WHERE id = ?", [run.id])
    with pytest.raises(StoreError, match="runs on another machine, elsewhere") as caught:
        remove_runs(folder, [run.id])
    assert "--force" in caught.value.hint
    assert run.folder.is_dir()
    assert remove_runs(folder, [run.id], force=True).runs == [run.id]
    assert not run.folder.exists()


def test_links_are_removed_and_what_they_point_to_stays(store: Store, folder: Path, tmp_path: Path) -> None:
    run, moved = finished(store), finished(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (run.folder / "link").symlink_to(outside)
    moved.folder.rename(tmp_path / "elsewhere")
    moved.folder.symlink_to(tmp_path / "elsewhere")
    remove_runs(folder, [run.id, moved.id])
    assert (outside / "precious").read_text() == "mine"
    assert (tmp_path / "elsewhere" / "hen-adversarial.png").is_file()
    assert not moved.folder.is_symlink()
    assert list_runs(folder).runs == []


def test_a_database_that_names_a_path_cannot_make_rm_leave_the_store(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    finished(store)
    (tmp_path / "precious").mkdir()
    with store.writing() as db:
        db.execute("PRAGMA defer_foreign_keys = ON")
        for table in ("attacks", "artifacts", "cells", "metrics"):
            db.execute(f"DELETE FROM {table}")
        db.execute("UPDATE runs SET id = '../precious', folder = '../precious'")
    with pytest.raises(StoreError, match="no run can be called"):
        remove_runs(folder, ["precious"])
    assert (tmp_path / "precious").is_dir()


def test_a_removal_that_was_cut_short_can_be_done_again(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(self: Store, run_id: str) -> None:
        raise KeyboardInterrupt

    run = finished(store)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete_run", cut_short)
        with pytest.raises(KeyboardInterrupt):
            remove_runs(folder, [run.id])
    assert [row.id for row in list_runs(folder).runs] == [run.id]
    assert remove_runs(folder, ["latest"]).runs == [run.id]
    assert list_runs(folder).runs == []


def test_files_that_cannot_be_removed_keep_the_row(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    run = finished(store)
    monkeypatch.setattr(remove.shutil, "rmtree", fails)
    with pytest.raises(StoreError, match="permission denied"):
        remove_runs(folder, [run.id])
    assert list_runs(folder).runs[0].id == run.id


def test_a_folder_that_somebody_removed_by_hand_is_no_obstacle(store: Store, folder: Path) -> None:
    run = finished(store)
    remove.shutil.rmtree(run.folder)
    assert remove_runs(folder, [run.id]).runs == [run.id]
    assert set(rows_left(store, run.id).values()) == {0}
