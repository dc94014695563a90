"""The benchmarks: what their figures mean, and that each of them still runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import report_store
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as runner
from benchmarks import background_search
from benchmarks.machine import Neighbours
from benchmarks.mask_agreement import Cut, composed, intersection_over_union, measured
from benchmarks.photo_tables import compared, count_text, median_interval, stored_photos
from benchmarks.photo_training import Found, GroupedSurvey
from benchmarks.rounds import Rounds, clocked, in_turn
from benchmarks.sweeps import fit
from latcli.engine.detectors.base import Target
from latcli.engine.evaluation.reliance import LabelledPhoto
from latcli.engine.images import Photo
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.objects import ObjectFinder, ObjectSettings
from latcli.store.store import Store

ROOT = Path(__file__).parent.parent


def test_contenders_are_timed_in_turn_and_a_ratio_is_of_each_round_by_itself():
    order = []
    in_turn([clocked(name, lambda name=name: order.append(name)) for name in ("a", "b")], 3)
    assert order == ["a", "b"] * 3
    ratio = Rounds({"latcli": [1.0, 2.0, 4.0], "peer": [3.0, 4.0, 4.0]}).ratio("peer", "latcli")
    assert (ratio.lowest, ratio.median, ratio.highest, ratio.n) == (1.0, 2.0, 3.0, 3)


def test_a_trained_classifier_is_told_by_photo_and_must_not_lose_natural_accuracy():
    def rows(regime, seed, right, inside):
        every = enumerate(right)
        return [
            {"regime": regime, "seed": seed, "photo": str(n), "right": one == "1", "evidence_inside": inside * n}
            for n, one in every
        ]

    models = [("published", 0, "1110", 1.0), ("natural", 0, "1110", 1.0), ("natural", 1, "1111", 1.0)]
    found = Found(
        row for model in [*models, ("random", 0, "0111", 2.0), ("random", 1, "0001", 2.0)] for row in rows(*model)
    )
    line = found.line("random", "right")

    assert (line["n"], line["mean"], line["seeds"]) == (4, 0.5, [0.75, 0.25])
    assert (line["only_here"], line["only_natural"]) == (1, 4)
    assert found.line("random", "evidence_inside")["difference"] == pytest.approx(1.5)
    assert [found.counting().seeds(name) for name in ("natural", "random")] == [[0, 1], [0]]


def test_photos_of_a_group_lend_to_each_other():
    def photo(name, label):
        object_HW = np.zeros((8, 8), dtype=bool)
        object_HW[2:6, 2:6] = True
        return LabelledPhoto(Photo(name, np.zeros((8, 8, 3), dtype=np.uint8), name), label, object_HW)

    names = ("n1_hen.jpg", "n2_kite.jpg", "n3_pizza.jpg", "n4_unheard_of.jpg")
    photos = [photo(name, 100 + number) for number, name in enumerate(names)]
    survey = GroupedSurvey(photos, Preprocessing(8, 8, "bilinear"))
    same = [survey.lender("mixed_same", name, 100 + number, 0) for number, name in enumerate(names)]

    assert same == [1, 0, None, None]
    assert {survey.lender("mixed_rand", names[0], 100, seed) for seed in range(20)} == {2, 3}


def test_settings_are_selected_by_validation_loss_among_those_that_keep_most_of_the_robustness():
    def row(name, regime, loss, accuracy, at_temperature=0.5):
        validation = {"loss": loss, "loss at T": at_temperature}
        attacked = {"center 0.1": {"accuracy": accuracy}}
        return {"name": name, "regime": regime, "threat": "center 0.1", "validation": validation, "attacked": attacked}

    rows = [
        row("natural", "natural", 0.1, 0.2),
        row("background center 0.1", "background", 0.4, 0.8),
        row("background center 0.1, weak", "background", 0.1, 0.4),
        row("background center 0.1, half", "background", 0.3, 0.6),
        row("background center 0.1, calibrated", "background", 0.9, 0.8, at_temperature=0.1),
    ]
    names = ["background center 0.1, half", "background center 0.1", "background center 0.1, calibrated"]
    assert background_search.selected(rows) == names
    assert background_search.selected(rows[1:]) == []  # nothing to compare with


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_cut_off_and_its_tables_are_those_of_all_parts(tmp_path, capsys):
    parts = [tmp_path / f"{part}.jsonl" for part in (1, 2)]
    shared = ["schedule", "--quick", "--dataset", "mnist-5k", "--cache", str(tmp_path / "cache")]
    for number in (1, 2, 2):
        background_search.main([*shared, "--part", f"{number}/2", "--out", str(parts[number - 1])])
    rows = background_search.read_rows(parts)
    assert [(row["name"], row["steps"]) for row in rows if "steps" in row] == [("background", 4), ("natural", 4)]
    assert len(parts[1].read_text().splitlines()) == 5  # two machines, two points on the way, and one model
    capsys.readouterr()
    background_search.main(["--merge", *map(str, parts)])
    shown = capsys.readouterr().out
    assert "schedule, mnist-5k: 2 models" in shown
    assert shown.count("not measured") == 3  # what the paper says of standard training


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.lists(st.integers(1, 500), min_size=2, max_size=9, unique=True))
def test_points_on_a_line_give_that_line(constant, slope, sizes):
    found = fit({size: constant + slope * size for size in sizes})
    assert found[0] == pytest.approx(constant, rel=1e-3, abs=1e-3 * slope * max(sizes))
    assert found[1] == pytest.approx(slope, rel=1e-4)
    assert found[2] < 1e-3


def test_others_are_whatever_was_busy_and_is_not_our_own(monkeypatch, tmp_path):
    clocks = {"_busy": iter([100.0, 112.0]), "_own": iter([5.0, 11.0]), "perf_counter": iter([50.0, 60.0])}
    with monkeypatch.context() as patched:
        for name, readings in clocks.items():
            patched.setattr(f"benchmarks.machine.{name}", lambda readings=readings: next(readings))
        assert Neighbours().busy() == pytest.approx((12 - 6) / 10)
    monkeypatch.setattr("benchmarks.machine._STAT", tmp_path / "none")
    assert Neighbours().busy() is None  # where the system does not tell, nobody knows


def drawn(name, colour, rectangle):
    """A grey photo of 40 rows and 60 columns with a rectangle (x0, y0, x1, y1) of one colour on it."""
    x0, y0, x1, y1 = rectangle
    object_HW = np.zeros((40, 60), dtype=bool)
    object_HW[y0:y1, x0:x1] = True
    grey = 10 * (ord(name) - ord("a"))
    levels_HWC = np.where(object_HW[..., None], np.array(colour), grey).astype(np.uint8)
    return Cut(Photo(name, levels_HWC, name * 64), object_HW, Target(0, name))


def test_a_composed_photo_is_one_object_on_the_background_of_another():
    shapes = [
        drawn("a", (255, 0, 0), (10, 5, 30, 25)),
        drawn("b", (0, 255, 0), (20, 10, 50, 35)),
        drawn("c", (0, 0, 255), (0, 0, 60, 40)),  # fills its photo: lends no background
    ]
    for own, one in zip(shapes, composed(shapes, shift=1), strict=True):
        assert (one.photo.levels_HWC[own.object_HW] == own.photo.levels_HWC[own.object_HW]).all()
        behind = one.photo.levels_HWC[~own.object_HW]
        lender = {"a": 10, "b": 0, "c": 0}[own.photo.name]
        assert behind.size == 0 or set(behind.flatten()) == {lender}
        assert one.object_HW is own.object_HW


def test_agreement_is_intersection_over_union_and_a_miss_agrees_with_nothing():
    cut = drawn("a", (255, 0, 0), (10, 0, 30, 40))
    half = ObjectFinder(ObjectSettings(boxes=((20.0, 0.0, 40.0, 40.0),)))
    assert measured(half, cut).iou == pytest.approx(1 / 3)
    miss = measured(ObjectFinder(ObjectSettings(detector="cam")), cut)
    assert (miss.iou, miss.missed) == (0.0, True)
    empty_HW = np.zeros((2, 2), dtype=bool)
    assert intersection_over_union(empty_HW, empty_HW) == 1.0


def test_the_interval_of_a_median_holds_it_in_nineteen_samples_of_twenty():
    generator = np.random.default_rng(0)
    for n in (9, 50):
        intervals = [median_interval(generator.normal(size=n).tolist()) for _ in range(2000)]
        held = sum(low <= 0.0 <= high for low, high in intervals) / len(intervals)
        assert 0.94 <= held <= 0.985
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert count_text([True] * 5 + [False] * 5).startswith("5 of 10 (24-76 %)")


def test_the_photos_of_several_runs_make_one_line_and_two_lines_are_compared_photo_by_photo(tmp_path):
    ranks = {"saliency": {"a": 1, "b": 20, "c": 3}, "cam": {"b": 1, "c": 2, "d": 1}}
    runs = []
    with Store.open(tmp_path) as store:
        for detector, found in ranks.items():
            for name, rank in found.items():
                with store.start_run("attack", argv=[], config={"detector": detector}, seed=0, device="cpu") as run:
                    row = report_store.photo(0, f"photos/{name}.png", "hen", "ram", adversarial_rank=rank)
                    run.insert("attacks", [row])
                runs.append(run.id)
    lines = stored_photos(tmp_path, runs, ["photos"])
    cam, saliency = lines["cam", "ce", 8 / 255], lines["saliency", "ce", 8 / 255]
    assert (len(cam), len(saliency)) == (3, 3)
    assert compared(cam, saliency, 10) == (2, 1, 0, 1.0)
    assert stored_photos(tmp_path, runs, ["others"]) == {}


def test_each_benchmark_is_a_module_and_another_name_is_refused(capsys):
    assert all((ROOT / "benchmarks" / f"{name}.py").exists() for name in runner.BENCHMARKS)
    with pytest.raises(SystemExit) as left:
        runner.main(["peers", "pears"])
    assert left.value.code == 2
    assert "there is no benchmark 'pears': peers" in capsys.readouterr().err


def test_a_benchmark_that_fails_does_not_keep_the_others_from_running(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    missing = runner.Benchmark("a module that is not there", 1)
    monkeypatch.setattr(runner, "BENCHMARKS", {"missing": missing, "report_speed": runner.BENCHMARKS["report_speed"]})
    out = tmp_path / "deep" / "found.json"
    code = runner.main(["--quick", "--out", str(out)])
    results = json.loads(out.read_text())["results"]
    assert code == 1
    assert "missing: failed with exit code 1" in capfd.readouterr().out
    assert results["report_speed"]["exit_code"] == 0
    assert {row["command"] for row in results["report_speed"]["rows"] if row["table"] == "report"} >= {"runs list"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("training_step", "", lambda found: [one["peer"] for one in found["ratios"]] == ["plain loop"]),
        ("robust_accuracy", "", lambda found: len(found["ratios"]) == 2),
        ("cold_start", "", lambda found: found["rows"][-1]["name"] == "latcli attack, whole process"),
        ("photo_folder", "--count 2", lambda found: all(one["mebibytes"] > 100 for one in found["rows"])),
        ("sweeps", "steps", lambda found: (found["rows"][-1]["linear"], found["rows"][-1]["flat"]) == (None, True)),
        # Each peer that is installed reaches as much as latcli does.
        (
            "peers",
            "cnn --rounds 1",
            lambda found: all(
                one["peer"] == "bare gradient" or abs(one["ours_reached"] - one["peer_reached"]) < 5
                for one in found["ratios"]
            ),
        ),
    ],
)
def test_each_benchmark_runs(tmp_path, name, options, told):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(out), *options.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert (found["benchmark"], found["machine"]["packages"]["torch"][:2]) == (name, "2.")
    assert told(found)
