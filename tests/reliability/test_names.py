"""Names with escape codes, line breaks or markup do no harm where a command speaks: errors, notes, logs, tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from conftest import Outcome
from report_store import WILD
from test_store import PHOTO, start

from latcli.results import columns
from latcli.store.store import Store

NAMES = [*WILD, "[red]bold[/red]", "[/]", "\x9b31m", "a\x00b", "\udcff\udc80", "\u2028\u2029\u200f"]


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_runs_are_shown_as_text_whatever_they_hold(tmp_path: Path, latcli: Callable[..., Outcome]) -> None:
    attack = {"attack": "pgd", "steps": 5, "restarts": 1, "norm": "linf", "detector": "cam", "region": "background"}
    with Store.open(tmp_path / "runs") as store:
        known = {"device": NAMES[0], "model": store.record_model(NAMES[-2]), "tags": NAMES}
        with start(store, argv=["latcli", *NAMES], config={name: name for name in NAMES} | attack, **known) as run:
            for name in NAMES:
                run.insert("attacks", [columns(PHOTO) | {"image": name, "label_name": name, "clean_prediction": name}])
                safe = "".join(c for c in name if c not in "/\0").strip(". ")[:40] or "x"
                run.write_artifact(f"{safe}.png", b"1", name).write_bytes(b"2")
                run.log(f"photo {name}")
            run.record_metrics([(name, 0, 1.0) for name in NAMES])
    lines = (run.folder / "log.txt").read_text(encoding="utf-8").split("\n")
    assert (len(lines), harmless("\n".join(lines))) == (len(NAMES) + 1, True)
    assert json.loads((run.folder / "run.json").read_bytes())["argv"][0] == "latcli"
    for words in (("list",), ("verify",), ("show", run.id), ("show", "\x1b]0;owned\x07\n[red]"), ("rm", run.id)):
        outcome = latcli("runs", *words, "--store", tmp_path / "runs")
        assert harmless(outcome.out + outcome.err), words
        assert outcome.out or len(outcome.err.splitlines()) == 2
