"""`latcli runs`: what is listed, shown, verified and removed is what is there; a run at work is never touched."""

import io
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from report_store import WILD
from test_store import PHOTO, cell, run_elsewhere

from latcli.commands.runs import remove_runs
from latcli.errors import LatcliError, StoreError
from latcli.options import RunsRemoveOptions
from latcli.results import columns, to_json
from latcli.session import Session
from latcli.store.store import DATABASE, Store


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "my runs"


@pytest.fixture
def store(folder):
    with Store.open(folder) as opened:
        yield opened


@pytest.fixture
def runs(latcli, folder):
    """`latcli runs WORDS --store FOLDER`."""
    return lambda *words: latcli("runs", *words, "--store", folder)


def finished(store, command="attack", config=None, **changes):
    known = {"argv": ["latcli"], "config": config or {"epsilon": 0.25}, "seed": 7, "device": "cpu"}
    with store.start_run(command, **(known | changes)) as run:
        run.write_artifact("hen-adversarial.png", b"picture", "adversarial", image=PHOTO.sha256)
        run.write_artifact("masks/hen.png", b"mask", "mask")
        if command == "attack":
            run.insert("attacks", [{"classifier": "lite0"} | columns(PHOTO)])
        elif command == "eval":
            run.insert("cells", [cell(input=name) for name in ("natural", "background")])
        run.record_metrics(
            [("loss", 1, 2.0), ("loss", 2, 1.0), ("test_accuracy", 2, 0.986)][: 2 + (command == "train")]
        )
    return run


def cut_off(store, command="train"):
    with suppress(KeyboardInterrupt), store.start_run(command, argv=[], config={}, seed=0, device="cpu") as run:
        raise KeyboardInterrupt
    return run


def problems(outcome):
    assert outcome.code == 1
    return sorted((problem["name"], problem["fault"]) for problem in outcome.json["problems"])


def test_runs_are_listed_newest_first_with_what_came_of_them(store, runs):
    dataset = store.record_dataset("mnist", fingerprint="c" * 64)
    parent = finished(store, "reproduce", name="all-of-it")
    attacked = finished(store, config={"epsilon": 8 / 255, "region": "background"}, parent=parent.id)
    trained = finished(store, "train", {"epsilon": 0.3, "regime": "standard"}, dataset=dataset, tags=["a"])
    evaluated = finished(store, "eval", parent=parent.id)
    listed = runs("list", "--json").json["runs"]
    assert [(run["run"], run["result"]) for run in listed] == [
        (evaluated.id, "1 model, 2 inputs"),
        (trained.id, "98.6 % natural"),
        (attacked.id, "fooled 1 of 1"),
        (parent.id, "2 runs"),
    ]
    assert [(run["dataset"], run["regime"], run["epsilon"], run["name"]) for run in listed] == [
        (None, None, 0.25, None),
        (dataset, "standard", 0.3, None),
        (None, "background", 8 / 255, None),
        (None, None, 0.25, "all-of-it"),
    ]
    chosen = {("--command", "eval"): evaluated, ("--limit", 1): evaluated, ("--dataset", "mnist"): trained}
    for words, run in (chosen | {("--tag", "a"): trained}).items():
        assert [one["run"] for one in runs("list", "--json", *words).json["runs"]] == [run.id]
    assert runs("list", "--json", "--status", "failed").json["runs"] == []
    refused = runs("list", "--status", "complete")
    assert (refused.code, "'completed'" in refused.error[0]) == (2, True)


def test_attacks_on_one_photo_are_not_counted_as_photos(store, runs):
    config = {"region": "background", "regions": ["background", "all"]}
    with store.start_run("attack", argv=[], config=config, seed=0, device="cpu") as run:
        run.insert("attacks", [{"classifier": "lite0"} | columns(replace(PHOTO, epsilon=e)) for e in (0.1, 0.2)])
    (listed,) = runs("list", "--json").json["runs"]
    assert (listed["run"], listed["regime"], listed["result"]) == (run.id, None, "fooled in 2 of 2 attacks")


def test_a_run_is_shown_with_the_numbers_of_its_json(store, runs):
    run = finished(store, name="first", tags=["a"])
    document = runs("show", "first", "--json").json
    assert (document["run"], document["dir"], document["argv"]) == (run.id, str(run.folder), ["latcli"])
    assert (document["config"], document["tags"], document["resume"]) == ({"epsilon": 0.25}, ["a"], None)
    assert document["environment"]["packages"]["torch"] == document["environment"]["torch"]
    files = {"files": {"adversarial": str(run.folder / "hen-adversarial.png")}}
    assert document["images"] == [to_json(PHOTO) | files]
    assert document["metrics"] == [{"name": "loss", "step": 2, "value": 1.0}]
    assert [(file["name"], file["size"], file["image"]) for file in document["artifacts"]] == [
        ("hen-adversarial.png", 7, PHOTO.sha256),
        ("masks/hen.png", 4, None),
    ]
    assert all(Path(file["path"]).is_file() for file in document["artifacts"])
    assert runs("path", "latest").out == f"{run.folder}\n"
    assert Path(runs("path", run.id, "masks/hen.png", "--json").json["path"]).read_bytes() == b"mask"
    assert runs("path", run.id, "../../precious").code == 1
    cut = cut_off(store)
    command = f"latcli train --resume {cut.id[-4:]} --store '{store.folder}'"
    assert runs("show", cut.id, "--json").json["resume"] == command
    assert command in " ".join(runs("show", cut.id).out.split())
    assert runs("show", cut_off(store, "mask").id, "--json").json["resume"] is None


def test_no_digit_of_a_run_is_cut_and_nothing_is_interpreted(store, runs):
    names = [*WILD, "[/]", "\x9b31m", "a\x00b", "\udcff\udc80", "\u2028\u2029\u200f"]
    config = {"photos": ["some/[red]hen\x07\n\x1b[2J.jpg"]} | {name: name for name in names}
    run = finished(store, "eval", config, argv=names, tags=names, device=names[0])
    more = cell(input="standard", n=1000, loss=1.25, label="[b]cock")
    run.insert("cells", [more])
    for name in names:
        run.insert("attacks", [columns(PHOTO) | {"image": name, "label_name": name, "clean_prediction": name}])
        run.log(f"photo {name}")
    text = runs("show", run.id).out
    told = [text, (run.folder / "log.txt").read_text(encoding="utf-8"), runs("show", "\x1b]0;owned\x07\n[red]").err]
    told += [runs(word).out for word in ("list", "verify")]
    assert all(line.isprintable() for one in told for line in one.split("\n"))
    for words in ("1000", "1.25", "[b]cock", "[red]hen\\x07\\n\\x1b[2J.jpg"):
        assert words in "".join(text.split()).replace(",", "")
    assert runs("show", run.id, "--json").json["cells"][-1] == to_json(more)


def test_without_a_store_none_is_made_and_without_the_run_it_is_said(runs, folder):
    for words in (("list",), ("verify",), ("show", "ffff"), ("path", "ffff"), ("rm", "ffff")):
        missing = runs(*words)
        assert (missing.code, "there are no runs" in missing.error[0], folder.exists()) == (1, True, False)
        with Store.open(folder) as store:
            assert runs(*words).error == missing.error
            finished(store)
        if words[1:]:
            unknown = runs(*words)
            assert (unknown.code, "there is no run 'ffff'" in unknown.error[0]) == (2, True)
        shutil.rmtree(folder)


def test_a_name_is_checked_before_anything_is_done(latcli, store, folder):
    taken = finished(store, name="mine")
    for name in ("latest", "7f3a", "a b", "../x", ""):
        refused = latcli("attack", "no-such.jpg", "--name", name, "--store", folder)
        assert (refused.code, "cannot be called" in refused.error[0]) == (2, True)
    for words in (("train", "--dataset", "no-such"), ("eval", "no-such")):
        refused = latcli(*words, "--name", "mine", "--store", folder)
        assert (refused.code, refused.error[0]) == (2, f"the run {taken.id} already has the name 'mine'")


def test_untouched_runs_verify_and_a_row_that_points_nowhere_is_a_fault(store, runs, folder):
    first, second = finished(store), finished(store)
    expected = {"store": str(folder), "ok": True, "runs": [second.id, first.id], "checked": 4}
    expected |= {"problems": [], "database": []}
    assert runs("verify", "--json").json == expected
    assert runs("verify", first.id, first.id[-4:], "--json").json["runs"] == [first.id]
    assert "4 files of 2 runs" in runs("verify").out
    store.close()
    with closing(sqlite3.connect(folder / DATABASE)) as connection:  # foreign keys are off unless asked for
        connection.execute("DELETE FROM runs WHERE id = ?", [first.id])
        connection.commit()
    found = runs("verify", "--json")
    assert found.code == 1
    assert any("of artifacts points to no row of runs" in fault for fault in found.json["database"])


def test_each_fault_is_found_and_named(store, runs):
    names = ("good", "gone", "longer", "other", "a pipe", "deep/gone", "zero", "out/hen.png")
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        for name in names:
            run.write_artifact(name, b"0123", "mask")
    for name in ("gone", "a pipe", "zero", "out/hen.png", "deep/gone"):
        (run.folder / name).unlink()
    for name in ("deep", "out"):
        (run.folder / name).rmdir()
    (run.folder / "longer").write_bytes(b"01234")
    (run.folder / "other").write_bytes(b"0124")
    (run.folder / "deep").write_text("a file now")
    (run.folder / "notes of mine.txt").write_text("these are welcome")
    os.mkfifo(run.folder / "a pipe")
    (run.folder / "zero").symlink_to("/dev/zero")
    outside = run.folder.parent.parent / "outside"
    outside.mkdir()
    (outside / "hen.png").write_bytes(b"0123")  # what the artifact was: following the link would find no fault
    (run.folder / "out").symlink_to(outside)
    with store.writing() as db:
        db.execute(
            "INSERT INTO artifacts SELECT run, '../../passwd', kind, image, sha256, 4, created FROM artifacts LIMIT 1"
        )
    found = runs("verify", "--json")
    assert problems(found) == [
        ("../../passwd", "outside"),
        ("a pipe", "changed"),
        ("deep/gone", "missing"),
        ("gone", "missing"),
        ("longer", "changed"),
        ("other", "changed"),
        ("out/hen.png", "outside"),
        ("zero", "outside"),
    ]
    assert {"run": run.id, "name": "longer", "fault": "changed", "detail": "it has 5 bytes instead of 4"} in found.json[
        "problems"
    ]
    text = runs("verify").out
    assert all(words in text for words in (run.id[-4:], "longer", "changed", "missing"))
    shutil.rmtree(run.folder)
    assert (".", "missing") in problems(runs("verify", "--json"))


def rows_left(store, run):
    tables = ("attacks", "artifacts", "cells", "metrics")
    return {table: len(store.rows_of(run.id, table)) for table in tables}


def test_removed_runs_are_gone_with_files_and_rows_and_nothing_else_is(store, runs, folder, tmp_path):
    kept, first, second, moved, gone = (finished(store) for _ in range(5))
    (tmp_path / "precious").mkdir()
    (first.folder / "link").symlink_to(tmp_path / "precious")
    moved.folder.rename(tmp_path / "elsewhere")
    moved.folder.symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(gone.folder)
    names = [first.id[-4:], second.id, first.id, moved.id, gone.id]
    assert runs("rm", *names, "--json").json == {
        "store": str(folder),
        "removed": [first.id, second.id, moved.id, gone.id],
    }
    for run in (first, second, moved, gone):
        assert not os.path.lexists(run.folder)
        assert set(rows_left(store, run).values()) == {0}
    assert rows_left(store, kept) == {"attacks": 1, "artifacts": 2, "cells": 0, "metrics": 2}
    assert (tmp_path / "precious").is_dir()
    assert (tmp_path / "elsewhere" / "hen-adversarial.png").is_file()
    assert runs("verify").code == 0


def test_what_depends_on_a_run_is_named_and_asked_about(store, runs, folder, monkeypatch):
    trained = finished(store, "train")
    trained_model = store.record_model("cnn", weights_sha256="d" * 64, run=trained.id)
    evaluated, part = finished(store, "eval"), finished(store, parent=trained.id)
    evaluated.insert("cells", [cell(model_id=trained_model)])
    attacked = finished(store, model=trained_model)
    refused = runs("rm", trained.id)
    assert refused.code == 1
    assert all(run.id in refused.error[0] for run in (evaluated, part, attacked))
    assert "--force" in refused.error[1]

    class Terminal(io.StringIO):
        isatty = lambda self: True  # noqa: E731

    def answered(answer):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        session = Session(store=folder, stderr=Terminal())
        return remove_runs(RunsRemoveOptions(runs=(trained.id,)), session).removed

    for no in ("n\n", "\n", ""):
        with pytest.raises(LatcliError, match="nothing was removed"):
            answered(no)
    assert trained.folder.is_dir()
    assert answered("y\n") == (trained.id,)
    assert store.find_run(part.id).parent is None
    assert runs("rm", evaluated.id, part.id, attacked.id, "--json").code == 0  # together they depend on nothing else
    assert "there are no runs" in runs("list").error[0]


def test_a_run_at_work_is_refused_whoever_is_at_work_and_a_killed_one_is_not(store, runs):
    other = finished(store)
    with run_elsewhere(store.folder) as (process, [living]):
        for force in ([], ["--force"]):
            refused = runs("rm", other.id, living, *force)
            assert refused.code == 1
            assert "still running, as process" in refused.error[0]
        assert other.folder.is_dir()
        process.kill()
        process.wait()
        assert runs("rm", living, "--json").json["removed"] == [living]
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as own:
        assert runs("rm", own.id).code == 1
        assert store.is_alive(own.id)
    with store.writing() as db:
        db.execute("UPDATE runs SET status = 'running', host = 'elsewhere' WHERE id = ?", [other.id])
    assert "on another machine, elsewhere" in runs("rm", other.id).error[0]
    assert runs("rm", other.id, "--force", "--json").json["removed"] == [other.id]


def test_a_removal_that_was_cut_short_can_be_repeated(store, runs, monkeypatch):
    def interrupted(self, run):
        raise KeyboardInterrupt

    run = finished(store)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_delete_run", interrupted)
        assert runs("rm", run.id).code == 130
    assert [one["run"] for one in runs("list", "--json").json["runs"]] == [run.id]
    assert runs("rm", "latest").out == f"removed {run.id}\n"


def test_a_database_that_names_a_path_cannot_make_rm_leave_the_store(store, tmp_path):
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu"):
        pass
    (tmp_path / "precious").mkdir()
    with store.writing() as db:
        db.execute("UPDATE runs SET id = '../precious'")
    with pytest.raises(StoreError, match="is damaged"):
        remove_runs(RunsRemoveOptions(runs=("precious",)), Session(store=store.folder))
    assert (tmp_path / "precious").is_dir()
