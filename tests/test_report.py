"""`latcli report`: which figures a report has, of which runs, and that what is not as it was written is not shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from report_store import WILD, attack, crash, entry, evaluate, photo, train, whole

from latcli.commands.report.command import EVERYTHING, TERMINAL, Needs, gather
from latcli.commands.report.compare import compare
from latcli.errors import LatcliError, StoreError, UsageError
from latcli.options import ReportOptions
from latcli.reporting.report_terminal import ATTACKS
from latcli.session import Session
from latcli.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "runs") as opened:
        yield opened


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("full") / "runs"
    return folder, whole(folder)


def document(folder: Path, *runs: str, needs: Needs = EVERYTHING, **options: Any) -> dict[str, Any]:
    found = gather(ReportOptions(runs=runs, **options), Session(store=folder), needs).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def one_row(store: Store, *evaluations: dict[str, Any]) -> list[dict[str, Any]]:
    """The matrices after evaluating one model once for each of these."""
    natural = train(store, "natural", 0)
    told = entry(store, natural)
    for settings in evaluations:
        evaluate(store, {told["id"]: settings.pop("losses", (0.1, 5.0, 4.0))}, [told], **settings)
    return document(store.folder)["matrices"]


# ---- matrices ----


def test_a_matrix_has_the_paper_s_rows_and_columns_with_seeds_averaged(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full
    (matrix,) = document(folder)["matrices"]
    assert [row["label"] for row in matrix["rows"]] == ["natural", "standard", "background"]
    assert matrix["inputs"] == ["natural", "standard", "background"]
    assert (matrix["natural_scale"], matrix["images"], matrix["seeds"]) == (1000, 1000, [0])
    assert matrix["runs"] == [runs["evaluation"]]
    background = matrix["rows"][2]
    assert background["train_runs"] == [runs["background"], runs["background 1"]]
    assert background["model_count"] == 2
    cell = background["cells"]["standard"]
    assert cell["loss"] == pytest.approx(fmean([1.2, 1.4]))
    assert cell["loss_spread"] == pytest.approx(stdev([1.2, 1.4]))
    assert cell["accuracy_spread"] == pytest.approx(stdev([0.988, 0.986]))
    assert matrix["rows"][0]["cells"]["standard"]["loss_spread"] is None
    best = {
        name: [row["label"] for row in matrix["rows"] if row["cells"][name]["best_loss"]] for name in matrix["inputs"]
    }
    assert best == {"natural": ["natural"], "standard": ["standard"], "background": ["standard"]}
    assert matrix["warnings"] == ["natural: differs"]


def test_a_later_evaluation_of_a_model_replaces_the_earlier(store: Store) -> None:
    (matrix,) = one_row(store, {"losses": (0.1, 5.0, 4.0)}, {"losses": (0.2, 6.0, 5.0)})
    assert [matrix["rows"][0]["cells"][name]["loss"] for name in matrix["inputs"]] == [0.2, 6.0, 5.0]
    assert len(matrix["runs"]) == 1
    assert matrix["rows"][0]["cells"]["standard"]["spread_over"] is None


def test_other_evaluation_seeds_are_averaged_and_told(store: Store) -> None:
    (matrix,) = one_row(store, {"losses": (0.1, 5.0, 4.0)}, {"losses": (0.1, 6.0, 5.0), "seed": 1})
    cell = matrix["rows"][0]["cells"]["standard"]
    assert (cell["loss"], cell["loss_spread"], cell["spread_over"]) == (5.5, pytest.approx(stdev([5.0, 6.0])), "seeds")
    assert matrix["seeds"] == [0, 1]


@pytest.mark.parametrize(
    "other", [{"epsilon": 0.2}, {"steps": 10}, {"restarts": 2}, {"center": 0.5}, {"n": 100}, {"dataset": "cifar10"}]
)
def test_what_was_measured_otherwise_is_another_matrix(store: Store, other: dict[str, Any]) -> None:
    first, second = one_row(store, {}, dict(other))
    assert [row["model_count"] for row in (*first["rows"], *second["rows"])] == [1, 1]
    assert first["natural_scale"] == (100 if "dataset" in other else 1000)


def test_training_that_was_told_something_else_is_never_averaged(store: Store) -> None:
    trained = [train(store, "background", 0), train(store, "background", 1), train(store, "background", 0, beta=2.5)]
    entries = [entry(store, run) for run in trained]
    losses = {one["id"]: (0.1, value, 1.0) for one, value in zip(entries, (1.0, 2.0, 30.0), strict=True)}
    evaluate(store, losses, entries)
    rows = document(store.folder)["matrices"][0]["rows"]
    assert {row["label"]: row["cells"]["standard"]["loss"] for row in rows} == {
        "background (beta unset)": 1.5,
        "background (beta 2.5)": 30.0,
    }


def test_a_seed_that_was_trained_again_is_not_another_seed(store: Store) -> None:
    trained = [train(store, "natural", 0, precision="fp32"), train(store, "natural", 0, precision="bf16")]
    trained.append(train(store, "natural", 1, devices="2"))
    entries = [entry(store, run) for run in trained]
    losses = {one["id"]: (0.1, value, 1.0) for one, value in zip(entries, (30.0, 1.0, 2.0), strict=True)}
    evaluate(store, losses, entries)
    (matrix,) = document(store.folder)["matrices"]
    (row,) = matrix["rows"]
    assert (row["train_runs"], row["train_seeds"]) == ([trained[1].id, trained[2].id], [0, 1])
    assert row["cells"]["standard"]["loss"] == 1.5
    assert matrix["notes"] == ["natural: 1 older training run(s) of the same seed left out"]


def test_an_option_that_is_unset_is_as_one_that_was_not_there_yet(store: Store) -> None:
    trained = [train(store, "natural", 0), train(store, "natural", 1, new=None), train(store, "natural", 2, new=3)]
    entries = [entry(store, run) for run in trained]
    evaluate(store, {one["id"]: (0.1, 1.0, 1.0) for one in entries}, entries)
    rows = document(store.folder)["matrices"][0]["rows"]
    assert {row["label"]: row["model_count"] for row in rows} == {"natural (new unset)": 2, "natural (new 3)": 1}


def test_a_model_from_elsewhere_has_a_row_of_its_own(store: Store) -> None:
    entries = [{"id": name, "label": name, "name": name, "regime": None} for name in ("timm:a", "timm:b")]
    evaluate(store, {"timm:a": (0.1, 1.0, 1.0), "timm:b": (0.2, 2.0, 2.0)}, entries)
    rows = document(store.folder)["matrices"][0]["rows"]
    assert [(row["label"], row["model_count"], row["regime"]) for row in rows] == [
        ("timm:a", 1, None),
        ("timm:b", 1, None),
    ]


def test_a_loss_that_diverged_leaves_no_mean_and_is_counted(store: Store) -> None:
    entries = [entry(store, train(store, "natural", seed)) for seed in (0, 1)]
    evaluate(store, {entries[0]["id"]: (0.1, None, 1.0), entries[1]["id"]: (0.2, 2.0, 2.0)}, entries)
    (matrix,) = document(store.folder)["matrices"]
    cell = matrix["rows"][0]["cells"]["standard"]
    assert (cell["loss"], cell["loss_spread"], cell["diverged"], cell["best_loss"]) == (None, None, 1, False)
    assert any("no finite loss" in note for note in matrix["notes"])


def test_evaluations_that_did_not_end_are_left_out_and_named(store: Store) -> None:
    failed = crash(store)
    train(store, "natural", 0)
    found = document(store.folder)
    assert [(one["run"], one["status"]) for one in found["left_out"]] == [(failed, "failed")]
    assert "nothing to divide by" in found["left_out"][0]["why"]
    assert failed not in [row["run"] for row in found["training"]]


# ---- files ----


def test_files_are_those_of_their_photo(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full
    (found,) = document(folder)["attacks"]
    assert (found["run"], found["summary"]["n"], found["summary"]["fooled"]) == (runs["attack"], len(WILD), len(WILD))
    for position, image in enumerate(found["images"]):
        for kind in ("adversarial", "mask", "difference", "figure"):
            assert Path(image["files"][kind]).read_bytes() == f"{position} {kind}".encode()
        assert image["files"]["original"] is None
        assert [guess["right"] for guess in image["adversarial"]["top"]] == [False, True]


def test_files_stay_those_of_their_photo_when_another_one_is_left_out(store: Store) -> None:
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        for position, altered in enumerate((None, 40.0)):
            run.write_artifact(f"{position}-mask.png", f"{position}".encode(), "mask")
            run.insert("attacks", [photo(position, f"{position}.jpg", "hen", "cock", altered_percent=altered)])
        run.insert("attacks", [photo(2, "from elsewhere.jpg", "hen", "cock") | {"files_json": None}])
    images = document(store.folder)["attacks"][0]["images"]
    files = [(one["image"], one["files"]["mask"] and Path(one["files"]["mask"]).name) for one in images]
    assert files == [("1.jpg", "1-mask.png"), ("from elsewhere.jpg", None)]


def test_a_photo_that_lies_beside_the_store_is_no_fault_for_another_of_its_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "hen.jpg").write_bytes(b"a photo")
    (tmp_path / "work" / "hen.jpg").write_bytes(b"another")
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        run.insert("attacks", [photo(0, "hen.jpg", "hen", "cock", sha256=sha256(b"a photo").hexdigest())])
    found = document(store.folder)
    assert found["attacks"][0]["images"][0]["files"]["original"] == str(tmp_path / "hen.jpg")
    assert found["faults"] == []


def test_the_terminal_has_the_newest_attacks_that_have_photos(store: Store) -> None:
    with_photos = [attack(store, [(f"{number}.jpg", "hen", "cock")]).id for number in range(3)]
    for _ in range(10):
        with store.start_run("attack", argv=[], config={}, seed=0, device="cpu"):
            pass
    found = document(store.folder, needs=TERMINAL)
    assert [one["run"] for one in found["attacks"]] == with_photos[:0:-1]
    assert len(found["attacks"]) == ATTACKS


def test_a_file_that_is_gone_or_changed_is_a_fault_and_not_shown(store: Store) -> None:
    run = attack(store, [("a.jpg", "hen", "cock"), ("b.jpg", "hen", "cock")])
    (run.folder / "0-mask.png").unlink()
    (run.folder / "1-adversarial.png").write_bytes(b"X adversarial")  # of the same size
    found = document(store.folder)
    first, second = (image["files"] for image in found["attacks"][0]["images"])
    assert (first["mask"], second["adversarial"]) == (None, None)
    assert first["adversarial"] is not None
    faults = [(fault["run"], fault["name"], fault["fault"]) for fault in found["faults"]]
    assert faults == [(run.id, "0-mask.png", "missing"), (run.id, "1-adversarial.png", "changed")]
    quick = document(store.folder, needs=TERMINAL)
    assert [fault["name"] for fault in quick["faults"]] == ["0-mask.png"]


def test_an_original_is_shown_only_while_it_is_the_photo_that_was_attacked(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "hen.jpg"
    path.write_bytes(b"a photo")
    row = photo(0, str(path), "hen", "cock", sha256=sha256(b"a photo").hexdigest())
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        run.insert("attacks", [row])
    assert document(store.folder)["attacks"][0]["images"][0]["files"]["original"] == str(path)
    path.write_bytes(b"another")
    found = document(store.folder)
    assert found["attacks"][0]["images"][0]["files"]["original"] is None
    assert [fault["fault"] for fault in found["faults"]] == ["changed"]
    path.unlink()
    assert document(store.folder)["faults"] == []


def test_a_run_that_vanished_from_disk_is_named_and_its_figures_stay(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    runs = whole(folder)
    shutil.rmtree(folder / runs["evaluation"])
    found = document(folder)
    assert [(fault["run"], fault["name"], fault["fault"]) for fault in found["faults"]] == [
        (runs["evaluation"], None, "missing")
    ]
    assert (len(found["matrices"]), found["curves"], found["evaluations"]) == (1, [], [])


def test_a_changed_evaluation_document_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    runs = whole(folder)
    (folder / runs["evaluation"] / "matrix.json").write_text('{"models": []}')
    found = document(folder)
    assert (found["curves"], found["transfer"], found["matrices"][0]["warnings"]) == ([], [], [])
    assert [fault["name"] for fault in found["faults"]] == ["matrix.json"]


def test_a_row_that_lacks_what_a_report_needs_is_a_fault(store: Store) -> None:
    with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
        run.insert("attacks", [{"image": "hen.jpg"}])
    found = document(store.folder)
    assert found["attacks"] == []
    assert [(fault["name"], fault["fault"]) for fault in found["faults"]] == [("hen.jpg", "incomplete")]


# ---- selection ----


def test_runs_are_chosen_by_name_status_data_set_and_date(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full

    def chosen(*names: str, **options: Any) -> set[str]:
        return {run["run"] for run in document(folder, *names, **options)["runs"]}

    assert chosen() == set(runs.values())
    assert chosen(runs["natural"][-4:], "latest") == {runs["natural"], runs["failed"]}
    assert chosen(status="failed") == {runs["failed"]}
    assert chosen(dataset="mnist") == set(runs.values()) - {runs["attack"], runs["failed"]}
    assert chosen(since="2000-01-01") == set(runs.values())
    with pytest.raises(UsageError, match="none of the 7 runs"):
        document(folder, since="2999-01-01T10:00")


def test_an_evaluation_alone_still_knows_how_its_models_were_trained(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full
    (matrix,) = document(folder, runs["evaluation"])["matrices"]
    assert [row["model_count"] for row in matrix["rows"]] == [1, 1, 2]


def test_the_best_are_chosen_by_their_own_last_figure(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full
    found = document(folder, best=True)
    assert {one["regime"]: (one["run"], one["of"], one["figure"]) for one in found["best"]} == {
        "natural": (runs["natural"], 1, "accuracy on natural images"),
        "standard": (runs["standard"], 1, "accuracy under its own attack"),
        "background": (runs["background 1"], 2, "accuracy under its own attack"),
    }
    assert runs["background"] not in [row["run"] for row in found["training"]]
    assert found["matrices"][0]["rows"][2]["train_runs"] == [runs["background 1"]]


def test_the_best_are_found_behind_an_evaluation_that_was_asked_for_alone(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full
    found = document(folder, runs["evaluation"], best=True)
    assert {one["regime"]: one["run"] for one in found["best"]} == {
        "natural": runs["natural"],
        "standard": runs["standard"],
        "background": runs["background 1"],
    }
    rows = found["matrices"][0]["rows"]
    assert [row["train_runs"] for row in rows] == [[runs["natural"]], [runs["standard"]], [runs["background 1"]]]
    assert [run["run"] for run in found["runs"]] == [runs["evaluation"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": "yesterday"}, "'yesterday' is no date"),
        ({"since": "0001-01-01T00:00+05:00"}, "is no date"),
        ({"status": "complete"}, "no status called 'complete'"),
        ({"dataset": "mnits"}, "no data set among the runs called 'mnits'"),
        ({"runs": ("zzzz",)}, "there is no run 'zzzz'"),
    ],
)
def test_what_cannot_be_chosen_is_said(
    full: tuple[Path, dict[str, str]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        gather(ReportOptions(**options), Session(store=full[0]), TERMINAL)


def test_an_empty_store_says_what_to_run_first(store: Store) -> None:
    with pytest.raises(UsageError, match="there are no runs") as caught:
        document(store.folder)
    assert "latcli attack" in caught.value.hint
    assert "latcli eval" in caught.value.hint


def test_a_database_of_a_newer_version_is_refused(store: Store) -> None:
    with store.writing() as db:
        db.execute("INSERT INTO _migrations VALUES ('m999_later', '')")
    store.close()
    with pytest.raises(StoreError, match="another version of latcli"):
        document(store.folder)


@pytest.mark.parametrize(
    "options",
    [
        {"html": Path("-"), "csv": Path("-")},
        {"png": Path("-")},
        {"open": True},
        {"open": True, "html": Path("-")},
        {"csv": Path("a"), "markdown": Path("a")},
        {"compare": True},
        {"compare": True, "runs": ("a",)},
        {"compare": True, "runs": ("a", "b"), "best": True},
        {"compare": True, "runs": ("a", "b"), "csv": Path("c")},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ReportOptions(**options).check(json=False)


def test_json_and_a_format_cannot_both_be_on_stdout() -> None:
    ReportOptions(csv=Path("-")).check(json=False)
    with pytest.raises(UsageError, match="both be on stdout"):
        ReportOptions(csv=Path("-")).check(json=True)


# ---- series ----


def test_a_series_is_thinned_to_about_so_many_points_with_both_ends(store: Store) -> None:
    with store.start_run("train", argv=[], config={}, seed=0, device="cpu") as run:
        run.record_metrics([("loss", step, float(step)) for step in range(1, 1001)])
        run.record_metrics([("rate", 1, None)])
    every = store.series([run.id], ["loss", "rate"])[run.id]
    assert (len(every["loss"]), every["rate"]) == (1000, [[1, None]])
    some = store.series([run.id], ["loss"], points=100)[run.id]["loss"]
    assert 100 <= len(some) <= 101
    assert (some[0], some[-1]) == ([1, 1.0], [1000, 1000.0])
    assert {after[0] - before[0] for before, after in pairwise(some[:-1])} == {10}
    assert store.last_values([run.id], ["loss", "other"]) == {run.id: {"loss": 1000.0}}
    assert store.series([], ["loss"]) == {}


# ---- comparison ----


def test_two_training_runs_side_by_side(full: tuple[Path, dict[str, str]]) -> None:
    folder, runs = full
    found = compare(ReportOptions(runs=(runs["standard"], runs["background 1"]), compare=True), Session(store=folder))
    told = {row["name"]: (row["a"], row["b"]) for row in found.to_json()["configuration"]}
    assert told == {"regime": ("standard", "background"), "seed": (0, 1)}
    results = {row["name"]: row for row in found.to_json()["results"]}
    assert results["test_accuracy"]["difference"] == pytest.approx(0.01)


def test_photos_side_by_side_are_the_same_photos(store: Store) -> None:
    def attacked(*photos: dict[str, Any]) -> str:
        with store.start_run("attack", argv=[], config={}, seed=0, device="cpu") as run:
            for row in photos:
                run.insert("attacks", [row])
        return run.id

    one, other, third = ("1" * 64, "2" * 64, "3" * 64)
    first = attacked(
        photo(0, "a/1.jpg", "hen", "cock", sha256=one, adversarial_confidence=0.1),
        photo(1, "b/1.jpg", "hen", "cock", sha256=other, adversarial_confidence=0.2),
        photo(2, "gone.jpg", "hen", "cock", altered_percent=None),
    )
    second = attacked(
        photo(0, "elsewhere/b.jpg", "hen", "cock", sha256=other, adversarial_confidence=0.4),
        photo(1, "a/1.jpg", "hen", "cock", sha256=third, adversarial_confidence=0.3),
    )
    found = compare(ReportOptions(runs=(first, second), compare=True), Session(store=store.folder)).to_json()
    told = {row["name"]: (row["a"], row["b"]) for row in found["results"]}
    assert {name: sides for name, sides in told.items() if ".jpg" in name} == {
        "a/1.jpg 11111111: confidence": (0.1, None),
        "b/1.jpg: confidence": (0.2, 0.4),
        "a/1.jpg 33333333: confidence": (None, 0.3),
    }
    assert told["photos"] == (2, 2)


@pytest.mark.parametrize(
    ("first", "second", "message"), [("natural", "evaluation", "a run of train"), ("natural", "natural", "both names")]
)
def test_what_cannot_be_compared_is_refused(
    full: tuple[Path, dict[str, str]], first: str, second: str, message: str
) -> None:
    folder, runs = full
    with pytest.raises(LatcliError, match=message):
        compare(ReportOptions(runs=(runs[first], runs[second]), compare=True), Session(store=folder))
