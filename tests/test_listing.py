"""Tables of runs and checks: inside their width, and harmless whatever a disk holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from latcli.commands.runs import list_runs, remove_runs, show_run, verify_runs
from latcli.reporting import listing
from latcli.reporting.console import PlainConsole
from latcli.store.store import Store

EVIL = "some/[red]hen\x07\n\x1b[2J.jpg"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one completed run of everything, and one that was interrupted."""
    with Store.open(tmp_path / "runs") as opened:
        model = opened.record_model("efficientnet_lite0", weights_sha256="ab" * 32)
        command_line = ["latcli", "attack", EVIL]
        with opened.start_run(
            "attack",
            argv=command_line,
            config={"epsilon": 8 / 255, "photos": [EVIL]},
            seed=3,
            device="cpu",
            model=model,
        ) as run:
            run.write_artifact("adversarial[1].png", b"x" * 3000, "adversarial")
            run.record_attack(
                {"name": EVIL, "label_name": "hen", "altered_percent": 48.34}
                | {"clean_prediction": "hen", "clean_confidence": 0.93, "clean_rank": 1}
                | {"adversarial_prediction": "[b]cock", "adversarial_confidence": 1.2e-5, "adversarial_rank": 101}
            )
            run.record_metric("loss", 7, 0.5)
            run.record_cell({"model": model, "input": "background", "n": 100, "loss": 0.04, "accuracy": 0.99})
        with pytest.raises(KeyboardInterrupt), opened.start_run("train", argv=[], config={}, seed=0, device="cpu"):
            raise KeyboardInterrupt
    return tmp_path / "runs"


def drawn(result: RenderableType, width: int = 80) -> str:
    stream = io.StringIO()
    PlainConsole(file=stream, color_system=None, width=width).print(result)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert all(line.isprintable() for line in text.splitlines())
    return text


def joined(text: str) -> str:
    """A table's text without the frame and the breaks that its width made."""
    return "".join(c for c in text if c not in "|+-\n ")


def test_the_list_names_every_run_whole(store: Path) -> None:
    listed = list_runs(store)
    text = drawn(listing.runs(listed.to_json()))

    assert len(listed.runs) == 2
    assert all(run.id in text for run in listed.runs)
    assert "completed" in text
    assert "interrupted" in text


def test_an_empty_list_says_so(store: Path) -> None:
    assert drawn(listing.runs(list_runs(store, command="eval").to_json())) == "no runs\n"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_run_is_shown_with_all_it_has_and_nothing_is_interpreted(store: Path, width: int) -> None:
    run = list_runs(store, command="attack").runs[0]
    text = joined(drawn(listing.run(show_run(store, run.id).to_json()), width))

    assert "[red]hen\\x07\\n\\x1b[2J.jpg" in text
    assert "adversarial[1].png" in text
    assert "[b]cock" in text
    for known in ("2.9KiB", "48.3%", "1.2e05", "rank101", "background", "0.99", "loss", "0.03137"):
        assert known in text


def test_sound_files_are_one_line(store: Path) -> None:
    text = drawn(listing.verification(verify_runs(store).to_json()))

    assert text == "1 files of 2 runs are as they were written\n"


def test_a_damaged_file_is_named_with_its_run(store: Path) -> None:
    run = list_runs(store, command="attack").runs[0]
    (run.path / "adversarial[1].png").write_bytes(b"other")
    text = joined(drawn(listing.verification(verify_runs(store).to_json())))

    assert run.id.replace("-", "") in text
    assert "adversarial[1].p" in text
    assert "changed" in text


def test_what_is_wrong_with_the_database_is_told() -> None:
    document = {"ok": False, "runs": [], "checked": 0, "problems": [], "database": ["row 3 of runs [x]\x1b"]}

    assert "row3ofruns[x]\\x1b" in joined(drawn(listing.verification(document)))


def test_removed_runs_are_named(store: Path) -> None:
    run = list_runs(store, command="train").runs[0]

    assert drawn(listing.removal(remove_runs(store, [run.id]).to_json())) == f"removed {run.id}\n"


@given(st.text(), st.text(), st.none() | st.text())
def test_a_check_of_any_text_stays_in_its_table(name: str, detail: str, hint: str | None) -> None:
    check: dict[str, Any] = {"name": name[:20], "state": "ok", "detail": detail, "hint": hint}

    drawn(listing.checks({"ok": True, "checks": [check]}))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"), (7384, "2 h 03 min")],
)
def test_a_duration_is_short(seconds: float, shown: str) -> None:
    run = {"run": "r", "status": "completed", "seconds": seconds, "model": None}

    assert shown in drawn(listing.runs({"runs": [run]}))
