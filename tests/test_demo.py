"""`latcli demo`: the whole story, from packages alone, into one store and one page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from latcli.commands import demo
from latcli.commands.runs import list_runs, verify_runs
from latcli.errors import ExitCode
from latcli.reporting.console import console_for
from latcli.reporting.terminal import shown as drawn
from latcli.session import Session


@pytest.mark.slow
def test_it_attacks_trains_evaluates_and_ends_with_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object]
) -> None:
    monkeypatch.setattr(demo, "_REGIMES", (("natural", 6), ("standard", 2), ("background", 2)))
    store = tmp_path / "a store"
    result = demo.run(Session(store=store, json=True, quiet=True, stderr=io.StringIO()))

    assert result.exit_code == ExitCode.OK
    assert [run.command for run in list_runs(store).runs] == ["eval", "train", "train", "train", "attack"]
    assert {run.status for run in list_runs(store).runs} == {"completed"}
    assert verify_runs(store).exit_code == ExitCode.OK
    page = (store / demo.PAGE).read_text()
    document = result.to_json()
    assert document["page"] == str(store / demo.PAGE)
    assert all(name in page for name in ("bus.jpg", "grace_hopper.jpg", "mnist-5k", result.evaluation.run))
    assert {cell["regime"] for cell in document["evaluation"]["cells"]} == {"natural", "standard", "background"}
    assert no_network == []

    shown = io.StringIO()
    console_for(shown).print(drawn("demo", document))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.strip().endswith("demo.html") for line in lines)
    for command in ("eval --strong", "report", f"runs show {(result.attack.run or '')[-4:]}"):
        assert f"latcli {command} --store '{store}'" in document["next"]
