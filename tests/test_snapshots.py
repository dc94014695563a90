"""Every document as it is shown, whole. `LATCLI_SNAPSHOTS=write pytest tests/test_snapshots.py` writes them anew."""

import io
import os
from pathlib import Path

import pytest
import sample_documents as sample

from latcli.cli import COMMANDS
from latcli.reporting import documents, render
from latcli.reporting.terminal import PlainConsole, shown

FOLDER = Path(__file__).parent / "snapshots"

KITE = sample.photo("photos/kite.jpg", "kite", ("hip", 0.5, 0.1, 3), ("hip", 0.9, 0.01, 30), "prediction")
COMPARED = {
    "runs": [{"run": "a", "status": "completed"}, {"run": "b", "status": "failed"}],
    "configuration": [{"name": "regime", "a": "standard", "b": None}, {"name": "epsilon", "a": 8 / 255, "b": 0.3}],
    "equal": 12,
    "results": [{"name": "test_loss", "a": 0.1, "b": 0.25, "difference": 0.15}, {"name": "fooled", "a": 3, "b": None}],
}
STEP = {"number": 1, "step": "train natural, seed 0", "config_hash": "e94bf52429b3d8dd", "seconds": 23.8}
STEP |= {"command_line": "latcli train --regime natural --dataset mnist-5k --preset quick --store 'my runs' --seed 0"}
REPRODUCED = {
    "run": sample.RUN, "options": {"what": "figure2", "budget": "quick", "seed": 0}, "planned": False,
    "notes": ["a note"], "files": ["/store/hen-figure.png"],
    "steps": [STEP | {"state": "done", "run": "20261126-025345-train-2be2"}],
    "report": sample.nothing(sample.report(), paper=sample.paper()[:1], store="/store"),
    "tables": [{"name": "hole", "title": "How large the middle is", "heading": "middle", "notes": ["n = 200"],
                "columns": {"accuracy": "percent", "loss ratio": "short", "distance": "short"}, "drawn": ["accuracy"],
                "rows": [{"name": "0.25 (3 px)", "x": 0.25, "means": {
                              "accuracy": {"value": 0.3333, "spread": 0.1},
                              "loss ratio": {"value": 0.9, "spread": None},
                              "distance": {"value": 0.412, "spread": None}}},
                         {"name": "paper", "x": None, "means": {
                              "accuracy": {"value": 0.0008, "spread": None},
                              "loss ratio": {"value": 0.906, "spread": None}}}]}],
}  # fmt: skip
PLANNED = REPRODUCED | {
    "planned": True,
    "steps": [*REPRODUCED["steps"], STEP | {"state": "missing", "run": None, "seconds": None}],
}
SCORE = {"n": 1000, "loss": 0.2255, "accuracy": 0.941}
TRAINED = {
    "run": sample.RUN, "checkpoint": "/store/checkpoint.safetensors", "regime": "background", "dataset": "mnist-5k",
    "steps": 60, "final": SCORE, "adversarial": SCORE | {"n": 200, "accuracy": 0.345}, "attack": "background attack",
    "seconds": 4.8, "images_per_second": 856.5, "form": "fp32", "notes": ["a note"], "next_commands": ["latcli eval"],
}  # fmt: skip
DETAILS = sample.run_row(
    note=None, environment={"latcli": "0.1.0", "torch": "2.13.0"}, images=[sample.attack(KITE)["images"][0]],
    cells=sample.evaluation()["cells"][:4], metrics=[{"name": "loss", "step": 7, "value": 0.5}], resume="latcli train",
    artifacts=[{"name": "a.png", "kind": "figure", "size": 3000}],
)  # fmt: skip
TWO_REGIONS = [
    {"region": region, "epsilon": 1 / 255, "smallest_epsilon": None, "summary": sample.attack(KITE, KITE)["summary"]}
    for region in ("background", "image")
]
AIMED = sample.photo(target=sample.Label(3, "dog", "given"), reached=True, p_target=0.9, smallest_epsilon=2 / 255)
CASES = {
    "attack": ("attack", sample.attack(sample.photo(), KITE, failures=sample.failures(("a.jpg is empty", True)))),
    "attack-target": ("attack", sample.attack(AIMED)),
    "attack-regions": ("attack", sample.attack(KITE, KITE) | {"regions": TWO_REGIONS}),
    "attack-plan": ("attack", sample.plan(("photos/hen.jpg", "hen"), ("photos/kite.jpg", "kite"))),
    "attack-nothing": ("attack", sample.attack(run=None, failures=sample.failures(("a.jpg is empty", False)))),
    "mask": ("mask", sample.attack(KITE) | {"out": "/masks", "masked": 1}),
    "train": ("train", TRAINED),
    "eval": ("eval", sample.evaluation()),
    "eval-strong": ("eval", sample.evaluation({"natural": ((0.1, 0.9), (None, 0.5))}, ("natural", "standard-strong"))),
    "report": ("report", sample.report()),
    "report-files": ("report", {"written": [{"path": "a.html", "size": 5000}, {"path": "-", "size": 1}]}),
    "report-compare": ("report", COMPARED),
    "reproduce": ("reproduce", REPRODUCED),
    "reproduce-plan": ("reproduce", PLANNED),
    "demo": ("demo", {"attack": sample.attack(sample.photo()), "evaluation": sample.evaluation(), "page": "/demo.html",
                      "next": ["latcli doctor"]}),
    "doctor": ("doctor", {"checks": [{"name": "torch", "state": "ok", "detail": "2.13", "hint": None},
                                     {"name": "yolo", "state": "missing", "detail": "no file", "hint": "give one"}]}),
    "runs-list": ("runs list", {"runs": [sample.run_row(), sample.run_row(
        run="20261122-1-train-00bb", command="train", seconds=7384, status="crashed", dataset="mnist-5k@6dbef627")]}),
    "runs-list-none": ("runs list", {"runs": []}),
    "runs-show": ("runs show", DETAILS | {"totals": {"images": 1, "artifacts": 1}}),
    "runs-verify": ("runs verify", {"ok": False, "problems": [
        {"run": "a", "name": "b.png", "fault": "changed", "detail": "other bytes"}], "database": ["row 3 is damaged"]}),
    "runs-verify-ok": ("runs verify", {"ok": True, "checked": 1, "runs": ["a", "b"]}),
    "runs-rm": ("runs rm", {"removed": ["a", "b"]}),
}  # fmt: skip


def drawn(command, document, width=80):
    result = shown(command, document)
    stream = io.StringIO()
    PlainConsole(file=stream, force_terminal=False, color_system=None, width=width).print(result)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def is_as_kept(name, text):
    file = FOLDER / name
    if os.environ.get("LATCLI_SNAPSHOTS") == "write":
        file.write_text(text, encoding="utf-8")
    return text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_document_on_a_terminal_of_80_columns(name):
    text = drawn(*CASES[name])
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    assert is_as_kept(f"{name}.txt", text)


@pytest.mark.parametrize(
    ("name", "write"), [("report.md", render.markdown), ("report.tex", render.latex), ("report.csv", render.csv_lines)]
)
def test_a_report_in_a_file(name, write):
    assert is_as_kept(name, "".join(write(sample.report())))


def test_a_reproduction_in_a_file():
    assert is_as_kept("reproduction.md", "".join(render.reproduction(REPRODUCED)))


def test_every_command_can_show_its_document():
    assert {" ".join(path) for path in COMMANDS} <= documents.DOCUMENTS.keys()
    assert shown("runs path", {"path": "/store/a b"}) == "/store/a b"
    assert shown("report", {"written": [{"path": "-", "size": 1}]}) is None
