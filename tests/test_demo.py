"""`latcli demo`: the whole story, from packages alone, into one store and one page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latcli.commands import demo


@pytest.mark.slow
def test_it_attacks_trains_evaluates_and_ends_with_a_page(
    latcli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object]
) -> None:
    monkeypatch.setattr(demo, "_REGIMES", (("natural", 6), ("standard", 2), ("background", 2)))
    for name, few in (("_IMAGES", 20), ("_STEPS", 2), ("_PHOTO_STEPS", 2)):
        monkeypatch.setattr(demo, name, few)
    store = tmp_path / "a store"
    done = latcli("demo", "--json", "--quiet", "--store", store)
    document = done.json

    assert done.code == 0
    runs = latcli("runs", "list", "--json", "--store", store).json["runs"]
    assert [run["command"] for run in runs] == ["eval", "train", "train", "train", "attack"]
    assert {run["status"] for run in runs} == {"completed"}
    shown = latcli("runs", "show", document["evaluation"]["run"], "--json", "--store", store).json
    models = [one["run"] for one in document["trained"]]
    assert (shown["argv"][:5], shown["argv"][-1]) == (["latcli", "eval", *models], "--offline")
    assert latcli("runs", "verify", "--store", store).code == 0
    page = Path(document["page"]).read_text()
    assert document["page"] == str(store / demo.PAGE)
    assert all(name in page for name in ("bus.jpg", "grace_hopper.jpg", "mnist-5k", document["evaluation"]["run"]))
    assert {cell["regime"] for cell in document["evaluation"]["cells"]} == {"natural", "standard", "background"}
    assert no_network == []
    for command in ("eval --strong", "report", f"runs show {document['attack']['run'][-4:]}"):
        assert f"latcli {command} --store '{store}'" in document["next"]
