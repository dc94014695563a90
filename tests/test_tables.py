"""Results of attacks as tables: the paper's columns, inside 80 columns of any terminal, harmless whatever is shown."""

from __future__ import annotations

import io
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from latcli.reporting import tables
from latcli.reporting.console import PlainConsole

WILD = "[red]très 貓貓貓貓貓貓貓貓貓貓貓貓貓貓貓貓貓貓貓貓\x1b[31m\n$x$ <b>" + "long " * 20


def prediction(name: str, confidence: float, rank: int) -> dict[str, Any]:
    return {"prediction": name, "index": 1, "confidence": confidence, "rank": rank, "loss": 1.0}


def image_of(
    name: str = "photos/hen.jpg",
    label: str = "hen",
    clean: tuple[str, float, int] = ("hen", 0.931, 1),
    adversarial: tuple[str, float, int] = ("cock", 0.000169, 11),
    source: str = "given",
) -> dict[str, Any]:
    kinds = ("adversarial", "mask", "difference", "figure")
    return {
        "image": name,
        "label": {"index": 8, "name": label, "source": source},
        "clean": prediction(*clean),
        "adversarial": prediction(*adversarial),
        "fooled": adversarial[2] > 1,
        "altered_percent": 49.14,
        "background_percent": 60.0,
        "linf_inside": 0.0,
        "linf_outside": 8 / 255,
        "notes": [],
        "files": {kind: f"/store/20261122-141503-attack-7f3a/hen-{kind}.png" for kind in kinds},
    }


def document_of(*images: dict[str, Any], **more: Any) -> dict[str, Any]:
    def averages(side: str) -> dict[str, Any]:
        ranks = [image[side]["rank"] for image in images]
        counts = {
            key: sum(rank <= limit for rank in ranks) for key, limit in (("right", 1), ("top5", 5), ("top10", 10))
        }
        return counts | {"confidence": sum(image[side]["confidence"] for image in images) / len(images)}

    summary = {"n": 0}
    if images:
        summary = {"n": len(images), "altered_percent": 49.1} | {
            side: averages(side) for side in ("clean", "adversarial")
        }
    return {
        "run": "20261122-141503-attack-7f3a",
        "dir": "/store/20261122-141503-attack-7f3a",
        "classifier": "efficientnet_lite0",
        "detector": "cam",
        "epsilon": 8 / 255,
        "region": "background",
        "images": list(images),
        "summary": summary,
        "failures": [],
    } | more


def planned_of(name: str = "photos/hen.jpg", label: str = "hen", how: str = "cam", size: int = 400) -> dict[str, Any]:
    return {
        "image": name,
        "label": {"index": 8, "name": label, "source": "given"},
        "height": size,
        "width": size,
        "how": how,
        "background_percent": 57.25,
        "visible_background_percent": 40.0,
        "seconds": 12.3,
    }


def plan_of(*planned: dict[str, Any]) -> dict[str, Any]:
    document = document_of(run=None, dir=None, planned=list(planned))
    del document["images"]
    return document


def drawn(document: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    PlainConsole(file=stream, force_terminal=False, color_system=None, width=width).print(tables.attack(document))
    return stream.getvalue()


def rows_of(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def is_harmless(text: str, width: int = 80) -> bool:
    return all(cell_len(line) <= width and line.isprintable() for line in text.splitlines())


def test_the_columns_are_those_of_the_papers_tables() -> None:
    text = drawn(document_of(image_of(), image_of("kite.jpg", "kite", ("kite", 0.5, 1), ("kite", 0.25, 1))))
    assert rows_of(text)[:12] == [
        ["Clean photos"],
        ["class", "right?", "top 5", "top 10", "guess", "p(class)"],
        [rows_of(text)[2][0]],
        ["hen", "yes", "yes", "yes", "hen", "0.931"],
        ["kite", "yes", "yes", "yes", "kite", "0.500"],
        [rows_of(text)[5][0]],
        ["2 photos", "2/2", "2/2", "2/2", "0.716"],
        [""],
        ["Adversarial photos: background altered by at most 8/255"],
        ["class", "altered", "right?", "top 5", "top 10", "guess", "p(class)"],
        [rows_of(text)[10][0]],
        ["hen", "49.1 %", "no", "no", "no", "cock", "1.7e-04"],
    ]
    assert set(rows_of(text)[2][0]) == {"-"}
    assert ["2 photos", "49.1 %", "1/2", "1/2", "1/2", "0.125"] in rows_of(text)
    assert text.isascii()


def test_one_photo_has_no_averages() -> None:
    assert "1 photos" not in drawn(document_of(image_of()))
    assert "2 photos" in drawn(document_of(image_of(), image_of()))


@pytest.mark.parametrize(
    ("rank", "answers"),
    [
        (1, ["yes", "yes", "yes"]),
        (2, ["no", "yes", "yes"]),
        (5, ["no", "yes", "yes"]),
        (6, ["no", "no", "yes"]),
        (10, ["no", "no", "yes"]),
        (11, ["no", "no", "no"]),
    ],
)
def test_the_rank_decides_right_top_5_and_top_10(rank: int, answers: list[str]) -> None:
    rows = rows_of(drawn(document_of(image_of(adversarial=("cock", 0.01, rank)))))
    assert ["hen", "49.1 %", *answers, "cock", "0.010"] in rows


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(1.0, "1.000"), (0.7124, "0.712"), (0.001, "0.001"), (0.000169, "1.7e-04"), (1e-30, "1.0e-30"), (0.0, "0.0e+00")],
)
def test_small_confidences_keep_their_digits(confidence: float, text: str) -> None:
    assert tables.confidence_text(confidence) == text
    assert len(text) <= 7


@pytest.mark.parametrize(
    ("epsilon", "text"), [(8 / 255, "8/255"), (1 / 255, "1/255"), (1.0, "255/255"), (0.031, "0.031"), (0.3, "0.3")]
)
def test_epsilon_is_told_as_it_is_written(epsilon: float, text: str) -> None:
    words = " ".join(drawn(document_of(image_of(), epsilon=epsilon)).split())
    assert f"background altered by at most {text} class" in words


def test_that_the_prediction_was_taken_for_the_label_is_told() -> None:
    text = drawn(document_of(image_of(source="prediction")))
    assert "hen *" in text
    assert "* no label was given" in text
    assert "*" not in drawn(document_of(image_of()))


def test_the_change_where_none_is_allowed_is_told_as_it_was_measured() -> None:
    broken = image_of()
    broken["linf_inside"] = 0.25
    assert "change where none is allowed: 0;" in drawn(document_of(image_of()))
    assert "change where none is allowed: 0.25;" in drawn(document_of(image_of(), broken))


def test_what_was_done_to_a_photo_is_told() -> None:
    noted = image_of("x/cmyk.jpg")
    noted["notes"] = ["CMYK turned into RGB"]
    assert "cmyk.jpg: CMYK turned into RGB" in drawn(document_of(noted))


def test_files_of_one_photo_are_named_and_of_several_their_folder() -> None:
    assert "/store/20261122-141503-attack-7f3a/hen-figure.png" in drawn(document_of(image_of())).splitlines()
    assert "pictures in /store/20261122-141503-attack-7f3a" in drawn(document_of(image_of(), image_of()))


def test_paths_below_the_working_directory_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = document_of(image_of(), image_of(), dir=str(tmp_path / "runs" / "x"))
    assert "pictures in runs/x" in drawn(document)


def test_failures_and_skipped_photos_are_told() -> None:
    failures = [
        {"image": "a", "error": "a is empty (0 bytes)", "hint": "", "exit_code": 1, "skipped": False},
        {"image": "b", "error": "cam found no object in b", "hint": "", "exit_code": 3, "skipped": True},
    ]
    lines = drawn(document_of(failures=failures)).splitlines()
    assert lines[:3] == ["no photo was attacked", "failed: a is empty (0 bytes)", "skipped: cam found no object in b"]
    assert "failed: a is empty (0 bytes)" in drawn(document_of(image_of(), failures=failures))


def test_a_plan_tells_object_share_and_cost() -> None:
    rows = rows_of(drawn(plan_of(planned_of(), planned_of("kite.jpg", "kite", "given boxes"))))
    assert ["photo", "size", "class", "object from", "may change", "time"] in rows
    assert ["hen.jpg", "400x400", "hen", "cam", "57.2 %", "12.3 s"] in rows
    assert ["2 photos", "25 s"] in rows


# Whatever things are called


@pytest.mark.parametrize("name", [WILD, "貓" * 17, "e\u0301" * 17])
@pytest.mark.parametrize("count", [1, 3])
def test_wild_names_stay_inside_80_columns_and_leave_the_numbers(count: int, name: str) -> None:
    wild = image_of(name, name, (name, 0.931, 1), (name, 0.000169, 11), "prediction")
    wild["notes"] = [WILD]
    wild["files"] = {kind: f"/store/{'x' * 200}-{kind}.png" for kind in wild["files"]}
    failures = [{"image": WILD, "error": WILD, "hint": WILD, "exit_code": 1, "skipped": False}]
    text = drawn(document_of(*[wild] * count, failures=failures, dir="/store/" + "y" * 300))
    assert is_harmless(text), text
    assert text.count("0.931") >= count
    assert text.count("1.7e-04") >= count
    assert text.count("49.1 %") >= count
    assert "[red]" in text


@pytest.mark.parametrize("name", [WILD, "貓" * 14, "x" * 40])
@pytest.mark.parametrize("count", [1, 3])
def test_a_wild_plan_stays_inside_80_columns_and_leaves_the_numbers(count: int, name: str) -> None:
    text = drawn(plan_of(*[planned_of(name, name, name, size=12_000)] * count))
    assert is_harmless(text), text
    assert text.count("12000x12000") == count
    assert text.count("57.2 %") == count
    assert text.count("12.3 s") == count


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=60), label=st.text(max_size=60), count=st.integers(1, 2), plan=st.booleans())
def test_no_name_breaks_a_table(name: str, label: str, count: int, plan: bool) -> None:
    document = document_of(*[image_of(name, label, (label, 0.5, 1), (label, 0.25, 2))] * count)
    if plan:
        document = plan_of(*[planned_of(name, label, label)] * count)
    before = deepcopy(document)
    assert is_harmless(drawn(document))
    assert document == before
