"""The benchmarks: what their figures mean, and that each of them still runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as runner
from benchmarks.background_gap import GROUPS, make_folds, pooled, pooled_error
from benchmarks.machine import Neighbours, machine
from benchmarks.photos import carried, copies
from benchmarks.record import Options, Record, numbers, table
from benchmarks.rounds import Rounds, clocked, in_turn, spread
from benchmarks.sweeps import fit

ROOT = Path(__file__).parent.parent


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def found_by(module: str, out: Path, *arguments: str) -> dict[str, Any]:
    """The document of a benchmark that must have come to its end."""
    done = run(f"benchmarks.{module}", "--quick", "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["benchmark"] == module
    return found


# What the figures mean


def test_contenders_are_timed_in_turn() -> None:
    order: list[str] = []
    measures = [clocked(name, lambda name=name: order.append(name)) for name in ("a", "b")]
    found = in_turn(measures, 3)
    assert order == ["a", "b"] * 3
    assert [len(seconds) for seconds in found.seconds.values()] == [3, 3]


def test_every_photo_is_tested_in_the_fold_that_has_not_learnt_it(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, name in enumerate(name for names in GROUPS.values() for name in names):
        (photos / f"n{number:08}_{name}.jpg").write_bytes(b"")
    folds = make_folds(photos.iterdir(), tmp_path)
    splits = {
        (number, split): {path.name for path in (fold / split).rglob("*.jpg")}
        for number, fold in enumerate(folds)
        for split in ("train", "test")
    }
    assert splits[0, "train"] == splits[1, "test"]
    assert splits[1, "train"] == splits[0, "test"]
    assert splits[0, "test"] | splits[1, "test"] == {path.name for path in photos.iterdir()}
    assert not splits[0, "test"] & splits[1, "test"]
    assert all(len(list(group.iterdir())) >= 2 for fold in folds for group in (fold / "test").iterdir())


def test_folds_are_pooled_as_what_they_are_together() -> None:
    first, second = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    shares = [(len(one), sum(one) / len(one), stdev(one) / len(one) ** 0.5) for one in (first, second)]
    assert pooled(shares) == pytest.approx(4 / 10)
    # The mean of 10 of which 4 vary as the first and 6 as the second.
    assert pooled_error(shares) == pytest.approx((4 * stdev(first) ** 2 + 6 * stdev(second) ** 2) ** 0.5 / 10)


def test_a_ratio_is_of_each_round_by_itself() -> None:
    found = Rounds({"latcli": [1.0, 2.0, 4.0], "peer": [3.0, 4.0, 4.0]})
    ratio = found.ratio("peer", "latcli")
    assert (ratio.lowest, ratio.median, ratio.highest, ratio.n) == (1.0, 2.0, 3.0, 3)


@pytest.mark.parametrize(
    ("values", "others", "said"),
    [
        ([1.0, 1.0, 1.1], 0.4, ""),
        ([1.0, 1.0, 1.1], None, ""),
        ([1.0, 1.0, 1.3], 0.0, "rounds spread over 30 %"),
        ([1.0, 1.0, 1.0], 0.6, "others kept 0.6 processors busy"),
    ],
)
def test_other_work_and_uneven_rounds_are_said(values: list[float], others: float | None, said: str) -> None:
    assert spread(values, others).disturbed == said


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.lists(st.integers(1, 500), min_size=2, max_size=9, unique=True))
def test_points_on_a_line_give_that_line(constant: float, slope: float, sizes: list[int]) -> None:
    found = fit({size: constant + slope * size for size in sizes})
    assert found[0] == pytest.approx(constant, rel=1e-3, abs=1e-3 * slope * max(sizes))
    assert found[1] == pytest.approx(slope, rel=1e-4)
    assert found[2] < 1e-3


def test_each_point_counts_by_its_own_size_and_a_square_is_no_line() -> None:
    constant, slope, _ = fit({1: 1.2, 2: 2.0, 4: 4.0, 100: 100.0, 200: 240.0})
    assert slope * 2 + constant == pytest.approx(2.0, rel=0.15)  # the largest does not decide alone
    assert fit({size: float(size * size) for size in (1, 2, 4, 8, 16)})[2] > 0.5


def test_the_table_fits_80_columns_and_marks_what_was_disturbed() -> None:
    record = Record("peers", {})
    record.add_ratio("EfficientNet-Lite0, 224 px, batch 8", "torchattacks", spread([1.9, 1.92, 1.94]), (100.0, 100.0))
    record.add_ratio("natural model, background inputs", "bare gradient", spread([10.1, 12.0, 15.0]))
    lines = list(table(record.ratios))
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[-4:] == ["torchattacks", "1.92", "1.90-1.94", "100.0/100.0"]
    assert "12.00*" in lines[2]
    assert lines[-1].startswith("* disturbed")


def test_quick_makes_defaults_smaller_and_nothing_that_was_given() -> None:
    parser = Options("about")
    parser.sized("rounds", 5, 1)
    parser.sized("sizes", [1, 2, 4], [1], numbers)
    assert vars(parser.read([])) | {"out": None} == {"quick": False, "out": None, "rounds": 5, "sizes": [1, 2, 4]}
    assert parser.read(["--quick"]).sizes == [1]
    assert parser.read(["--quick", "--rounds", "7", "--sizes", "3,4"]).rounds == 7
    assert parser.read(["--quick", "--sizes", "3,4"]).sizes == [3, 4]


def test_a_record_says_where_it_was_made() -> None:
    found = machine()
    assert {"date", "git", "devices", "cores", "threads", "units", "packages", "load"} <= found.keys()
    assert found["packages"]["torch"].startswith("2.")


def test_others_are_whatever_was_busy_and_is_not_our_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clocks = {"_busy": iter([100.0, 112.0]), "_own": iter([5.0, 11.0]), "perf_counter": iter([50.0, 60.0])}
    with monkeypatch.context() as patched:
        for name, readings in clocks.items():
            patched.setattr(f"benchmarks.machine.{name}", lambda readings=readings: next(readings))
        assert Neighbours().busy() == pytest.approx((12 - 6) / 10)
    monkeypatch.setattr("benchmarks.machine._STAT", tmp_path / "none")
    assert Neighbours().busy() is None  # where the system does not tell, nobody knows


def test_copies_differ_in_their_bytes_and_are_as_many_as_wanted(tmp_path: Path) -> None:
    folder = copies(carried()[:1], 3, tmp_path / "photos")
    assert len({file.read_bytes() for file in folder.iterdir()}) == 3


# One command for all


def test_each_benchmark_is_a_module_and_another_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert all((ROOT / "benchmarks" / f"{name}.py").exists() for name in runner.BENCHMARKS)
    with pytest.raises(SystemExit) as left:
        runner.main(["peers", "pears"])
    assert left.value.code == 2
    assert "there is no benchmark 'pears': peers" in capsys.readouterr().err


def test_a_benchmark_that_fails_does_not_keep_the_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
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


def test_nothing_that_measures_the_memory_of_its_children_imports_torch() -> None:
    code = "import sys, benchmarks.__main__, benchmarks.sweeps, benchmarks.photo_folder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Each of them runs


@pytest.mark.slow
def test_training_step(tmp_path: Path) -> None:
    found = found_by("training_step", tmp_path / "out.json")
    assert [ratio["peer"] for ratio in found["ratios"]] == ["plain loop"]
    assert found["ratios"][0]["n"] == 3


@pytest.mark.slow
def test_peers_says_what_each_reached_beside_each_ratio(tmp_path: Path) -> None:
    found = found_by("peers", tmp_path / "out.json", "cnn", "--rounds", "1")
    attacks = [ratio for ratio in found["ratios"] if ratio["peer"] != "bare gradient"]
    assert "torchattacks" in [ratio["peer"] for ratio in attacks]
    assert all(abs(ratio["ours_reached"] - ratio["peer_reached"]) < 5 for ratio in attacks)
    assert len(found["notes"]) + len(attacks) == 3


@pytest.mark.slow
def test_robust_accuracy_trains_what_it_compares(tmp_path: Path) -> None:
    found = found_by("robust_accuracy", tmp_path / "out.json")
    assert [ratio["problem"] for ratio in found["ratios"]] == [
        "natural model, standard inputs",
        "natural model, background inputs",
    ]
    assert all(0 <= ratio["ours_reached"] <= 100 for ratio in found["ratios"])


@pytest.mark.slow
def test_cold_start(tmp_path: Path) -> None:
    names = [row["name"] for row in found_by("cold_start", tmp_path / "out.json")["rows"]]
    assert names[0] == "import torch"
    assert names[-1] == "latcli attack, whole process"


@pytest.mark.slow
def test_photo_folder(tmp_path: Path) -> None:
    found = found_by("photo_folder", tmp_path / "out.json", "--count", "2")
    assert [row["how"] for row in found["rows"]] == ["together", "one by one", "no figures", "process each"]
    assert all(row["mebibytes"] > 100 for row in found["rows"])


@pytest.mark.slow
def test_a_sweep_says_whether_cost_is_linear_and_memory_flat(tmp_path: Path) -> None:
    found = found_by("sweeps", tmp_path / "out.json", "steps")
    verdict = found["rows"][-1]
    assert [row["steps"] for row in found["rows"][:-1]] == [1, 4]
    assert (verdict["linear"], verdict["flat"]) == (None, True)
