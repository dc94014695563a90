"""`latcli reproduce`: what is done, cut off or missing, and that it is neither done twice nor taken for another."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from conftest import RunLatcli, StartLatcli
from PIL import Image

from latcli.cli import app
from latcli.commands.attack import run as attack
from latcli.commands.package_photos import package_photos
from latcli.commands.report import MATRIX
from latcli.commands.reproduce.command import MARKDOWN, run
from latcli.commands.reproduce.findings import Found, Values, find
from latcli.commands.reproduce.ledger import Ledger, Standing
from latcli.commands.reproduce.parts import parts_of
from latcli.commands.reproduce.result import ReproduceResult
from latcli.commands.reproduce.steps import Evaluation, PhotoAttack, Training, command_line, command_of
from latcli.commands.reproduce.times import Times
from latcli.commands.runs import list_runs, remove_runs, verify_runs
from latcli.commands.train.command import run as train
from latcli.commands.trained import CHECKPOINT
from latcli.engine.datasets.base import Dataset, DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.localize import middle_pixels
from latcli.engine.training.regimes import Regime
from latcli.errors import ExitCode, LatcliError, UsageError
from latcli.options import AttackOptions, EvalOptions, ReproduceOptions, TrainOptions
from latcli.options import parse_shares as parse_centers
from latcli.reporting.console import console_for
from latcli.reporting.terminal import shown
from latcli.session import Session
from latcli.store.store import DATABASE, Store

SMALL: dict[str, Any] = {"budget": "quick", "steps": 2, "images": 6, "attack_steps": 2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits of 12 pixels a side, in a folder."""
    folder = tmp_path_factory.mktemp("digits")
    whole = open_dataset("mnist-5k", DatasetSource(folder))
    for split, x_NCHW, y_N, count in (
        ("train", whole.x_train, whole.y_train, 30),
        ("test", whole.x_test, whole.y_test, 4),
    ):
        for digit in range(3):
            place = folder / split / str(digit)
            place.mkdir(parents=True)
            for index, x_CHW in enumerate(x_NCHW[y_N == digit][:count]):
                Image.fromarray(x_CHW[0].numpy()).resize((12, 12)).save(place / f"{index}.png")
    return folder


def session_of(store: Path, **changed: Any) -> Session:
    given: dict[str, Any] = {"data": store.parent / "data", "precision": "fp32", "offline": True, "quiet": True}
    return Session(store=store, stdout=io.StringIO(), stderr=io.StringIO(), **given | changed)


@pytest.fixture(scope="module")
def made(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReproduceOptions, Session, ReproduceResult]:
    """Figure 2 on two seeds, made once; tests only look at it."""
    options = ReproduceOptions("figure2", dataset=f"folder:{digits}", like="mnist", seeds=2, **SMALL)
    session = session_of(tmp_path_factory.mktemp("made") / "runs")
    return options, session, run(options, session)


def states(options: ReproduceOptions, session: Session) -> list[str]:
    return [row.state for row in run(replace(options, plan=True), session).steps]


# what is done


def test_every_step_is_a_run_of_its_own_below_the_reproduction(
    made: tuple[ReproduceOptions, Session, ReproduceResult],
) -> None:
    _, session, result = made
    runs = {row.id: row for row in list_runs(session.store).runs}

    assert Counter(row.command for row in runs.values()) == {"train": 6, "eval": 1, "reproduce": 1}
    assert {row.status for row in runs.values()} == {"completed"}
    assert {row.parent for row in runs.values()} == {None, result.run}
    assert [row.run for row in result.steps] == [row.id for row in reversed(runs.values()) if row.id != result.run]
    assert [runs[str(row.run)].config_hash for row in result.steps] == [row.config_hash for row in result.steps]
    assert verify_runs(session.store).exit_code == ExitCode.OK


def test_what_is_done_is_not_done_again(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    options, session, result = made
    before = {row.id for row in list_runs(session.store).runs}
    again = run(options, session)

    assert {row.id for row in list_runs(session.store).runs} - before == {again.run}
    assert [row.run for row in again.steps] == [row.run for row in result.steps]
    assert again.found == result.found
    remove_runs(session.store, [str(again.run)])


def test_a_plan_changes_nothing(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    options, session, _ = made
    runs = list_runs(session.store).runs

    assert states(options, session) == ["done"] * 7
    assert list_runs(session.store).runs == runs


def test_a_plan_without_a_store_leaves_none(digits: Path, tmp_path: Path) -> None:
    options = ReproduceOptions("figure2", dataset=f"folder:{digits}", **SMALL)

    assert states(options, session_of(tmp_path / "runs")) == ["missing"] * 4
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changed", "done"),
    [
        ({}, {"train": 6, "eval": 1}),
        ({"images": 7}, {"train": 6}),
        ({"attack_steps": 3}, {"train": 6}),
        ({"steps": 3}, {}),
        ({"architecture": "paper-cnn"}, {"train": 6, "eval": 1}),  # what the data set has anyway
        ({"architecture": "resnet18"}, {}),
        ({"center": 0.5}, {"train": 4}),  # only the background models know of a middle
        ({"epsilon": 0.2}, {"train": 2}),  # the natural ones know of no epsilon
        ({"budget": "standard"}, {}),
        ({"seeds": 1}, {"train": 3}),  # an evaluation of other models is another one
        ({"seeds": 3}, {"train": 6}),
    ],
)
def test_what_was_told_something_else_is_missing(
    made: tuple[ReproduceOptions, Session, ReproduceResult], changed: dict[str, Any], done: dict[str, int]
) -> None:
    options, session, _ = made
    rows = run(replace(options, plan=True, **changed), session).steps

    assert Counter(row.command for row in rows if row.state == "done") == done
    assert {row.state for row in rows} <= {"done", "missing"}


@pytest.mark.parametrize(("regime", "done"), [("natural", 1), ("standard", 1), ("background", 0)])
def test_a_middle_counts_where_training_looks_at_it(digits: Path, tmp_path: Path, regime: Regime, done: int) -> None:
    options = ReproduceOptions("figure2", dataset=f"folder:{digits}", seeds=1, plan=True, **SMALL)
    session = session_of(tmp_path / "runs")
    train(TrainOptions(regime, options.dataset, preset="quick", steps=2, center=0.7), session)

    assert states(options, session).count("done") == done


@pytest.mark.parametrize("changed", [{"seed": 7}, {"precision": "bf16"}])
def test_another_seed_or_precision_is_missing(
    made: tuple[ReproduceOptions, Session, ReproduceResult], changed: dict[str, Any]
) -> None:
    options, session, _ = made

    assert set(states(options, replace(session, **changed))) == {"missing"}


def test_a_seed_that_overlaps_is_done(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    options, session, _ = made

    assert states(options, replace(session, seed=1)) == ["done"] * 3 + ["missing"] * 4


def test_the_same_options_on_other_data_are_missing(
    made: tuple[ReproduceOptions, Session, ReproduceResult], digits: Path
) -> None:
    options, session, _ = made
    picture = digits / "train" / "0" / "0.png"
    before = picture.read_bytes()
    try:
        Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90).save(picture)
        assert set(states(options, session)) == {"missing"}
    finally:
        picture.write_bytes(before)


def test_a_training_whose_model_is_gone_is_missing(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    options, session, result = made
    model = session.store / str(result.steps[1].run) / CHECKPOINT
    aside = model.rename(model.with_suffix(".aside"))
    try:
        assert states(options, session) == ["done", "missing", *["done"] * 4, "missing"]
    finally:
        aside.rename(model)


# what was cut off


class Interrupted(io.StringIO):
    """A terminal at which Ctrl-C is pressed as soon as it shows a text."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def write(self, text: str) -> int:
        if self.when in text:
            raise KeyboardInterrupt
        return super().write(text)


@pytest.mark.parametrize(
    ("when", "cut"),
    [("step 2 of 2: loss", "train standard, seed 0"), (", background: loss", "evaluate the loss matrix")],
)
def test_after_ctrl_c_it_goes_on_where_it_was(digits: Path, tmp_path: Path, when: str, cut: str) -> None:
    options = ReproduceOptions("figure2", dataset=f"folder:{digits}", **SMALL)
    session = session_of(tmp_path / "runs")
    run_standard = "step 2 of 4: train standard" if cut.startswith("train") else ""
    with pytest.raises(KeyboardInterrupt):
        run(options, replace(session, quiet=False, stderr=_Late(run_standard, when)))
    rows = run(replace(options, plan=True), session).steps
    (interrupted,) = [row for row in rows if row.state == "interrupted"]
    assert interrupted.step.startswith(cut)
    own = next(row for row in list_runs(session.store).runs if row.command == "reproduce")
    assert own.status == "interrupted"

    result = run(options, session)

    assert interrupted.run in [row.run for row in result.steps]
    assert {row.state for row in result.steps} == {"done"}
    assert result.run == own.id
    runs = list_runs(session.store).runs
    assert Counter(row.command for row in runs) == {"train": 3, "eval": 1, "reproduce": 1}
    # The same models and settings, and yet not all that the transfer asks for.
    assert states(replace(options, what="transfer"), session) == ["done"] * 3 + ["missing"]


class _Late(Interrupted):
    """Looks for its text only once another has been shown."""

    def __init__(self, first: str, when: str) -> None:
        super().__init__(when)
        self.armed, self.first = not first, first

    def write(self, text: str) -> int:
        self.armed = self.armed or self.first in text
        return super().write(text) if self.armed else io.StringIO.write(self, text)


@pytest.mark.slow
def test_after_a_kill_it_goes_on_with_the_run_that_was_cut_off(
    run_latcli: RunLatcli, start_latcli: StartLatcli, digits: Path, tmp_path: Path
) -> None:
    asked = ["reproduce", "figure2", "--dataset", f"folder:{digits}", "--budget", "quick", "--steps", "60"]
    asked += ["--images", "4", "--attack-steps", "2", "--precision", "fp32"]
    process = start_latcli(*asked)
    _wait_for(process, tmp_path / "work" / "runs", "step 30 of 60", command="train")
    process.send_signal(signal.SIGKILL)
    process.wait()
    planned = json.loads(run_latcli(*asked, "--plan", "--json").stdout)
    cut = [row for row in planned["steps"] if row["state"] == "interrupted"]
    assert len(cut) == 1
    assert cut[0]["command"] == "train"

    done = run_latcli(*asked, "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert f"run {cut[0]['run']} resumed" in done.stderr
    assert cut[0]["run"] in [row["run"] for row in document["steps"]]
    assert Counter(run_["command"] for run_ in json.loads(run_latcli("runs", "list", "--json").stdout)["runs"]) == {
        "train": 3,
        "eval": 1,
        "reproduce": 1,
    }


def _wait_for(process: subprocess.Popen[str], store: Path, text: str, *, command: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(text in log.read_text() for log in store.glob(f"*-{command}-*/log.txt")):
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate() if process.poll() is not None else "too slow")


# which steps


def images_of(side: int, center: float = 0.3) -> Dataset:
    """A set of two black images."""
    x_NCHW, y_N = torch.zeros(2, 1, side, side, dtype=torch.uint8), torch.tensor([0, 1])
    return make_dataset("black", (x_NCHW, y_N), (x_NCHW, y_N), ("a", "b"), Defaults(0.3, center, "paper-cnn"))


def options_of(context: typer.Context) -> dict[str, Any]:
    lists = {name: tuple(value) for name, value in context.params.items() if isinstance(value, list)}
    return context.params | lists


@pytest.mark.parametrize("budget", ["quick", "standard", "paper"])
def test_the_command_that_is_told_is_the_step(budget: Any, tmp_path: Path) -> None:
    options = ReproduceOptions("all", budget=budget, architecture="resnet18", center=0.5, epsilon=0.2, photos=tmp_path)
    session = Session(store=tmp_path / "a store", seed=3, offline=True)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    steps = [step for part in parts_of(options, session, images_of(28)) for step in part.steps]

    for step in steps:
        models = (
            {one: f"{number:04x}" for number, one in enumerate(step.models)} if isinstance(step, Evaluation) else {}
        )
        words = shlex.split(command_line(step, session, models))
        assert words[:2] == ["latcli", command_of(step)]
        given = options_of(commands[words[1]].make_context(words[1], words[2:]))
        assert given["models"] == tuple(models.values()) if isinstance(step, Evaluation) else True
        told = {field.name: getattr(step.options, field.name) for field in fields(step.options)}
        assert {name: given[name] for name in told if name != "models"} == {
            name: pytest.approx(value) if isinstance(value, float) else value
            for name, value in told.items()
            if name != "models"
        }
        assert (given["seed"], given["store"], given["offline"]) == (step.seed, session.store, True)


def test_all_shares_what_its_parts_have_in_common() -> None:
    parts = {
        part.name: part.steps for part in parts_of(ReproduceOptions("all", photos=Path("x")), Session(), images_of(28))
    }
    steps = {step for steps in parts.values() for step in steps}

    trained = Counter((one.options.regime, one.options.mask_from) for one in steps if isinstance(one, Training))
    assert trained == {
        (regime, None): 3 for regime in ("natural", "standard", "background", "foreground", "random")
    } | {("background", "otsu"): 3}
    assert parts["figure1"] == parts["table2"]
    assert set(parts["table2"]) < set(parts["photos-epsilon"])
    assert sum(isinstance(one, PhotoAttack) for one in steps) == 15


def test_the_middle_that_hole_tries_is_even_pixels_of_the_side() -> None:
    (part,) = parts_of(ReproduceOptions("hole"), Session(), images_of(32))

    assert [32 * (one.options.center or 0) for one in part.evaluations] == [12, 16, 20, 22, 24, 26, 28]


def test_hole_tries_the_default_middle_as_the_default() -> None:
    data = images_of(28, center=0.18)
    (part,) = parts_of(ReproduceOptions("hole"), Session(), data)

    assert [middle_pixels(28, one.options.center or 0) for one in part.evaluations] == [4, 5, 6, 8, 10, 12, 14]
    assert part.evaluations[1].options.center == 0.18


# what it comes to


def test_figures_are_those_of_the_evaluation(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    _, session, result = made
    query = "SELECT regime, input, avg(loss), avg(accuracy), max(loss) - min(loss) FROM cells GROUP BY regime, input"
    with sqlite3.connect(session.store / DATABASE) as connection:
        cells = {(regime, given): rest for regime, given, *rest in connection.execute(query)}
    assert result.found is not None
    (sheet,) = result.found.sheets

    assert len(sheet.rows) == 9
    for name, paper, loss, accuracy in sheet.rows:
        regime, _, given = name.text.partition(", ")
        mean, right, apart = cells[regime, given]
        scale, digits = (1000, 2) if given == "natural" else (1, 4)
        assert loss.text == f"{scale * mean:.{digits}f}"
        assert loss.spread == f"{scale * apart / 2**0.5:.{digits}f}"  # of two values
        assert accuracy.text == f"{100 * right:.2f}"
        assert float(paper.text) > 0


def test_a_verdict_is_on_the_means_and_counts_seeds(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    _, session, result = made
    assert result.found is not None
    claims = {claim["claim"]: claim for claim in result.found.claims}
    tenfold = next(claim for text, claim in claims.items() if "tenfold" in text)
    query = "SELECT model, input, loss FROM cells WHERE regime = 'natural'"
    with sqlite3.connect(session.store / DATABASE) as connection:
        losses = {(model, given): loss for model, given, loss in connection.execute(query)}
    models = {model for model, _ in losses}
    holding = [losses[model, "background"] >= 10 * losses[model, "natural"] for model in models]

    assert len(claims) == 8
    assert (tenfold["seeds_holding"], tenfold["seeds"]) == (sum(holding), 2)
    assert {claim["verdict"] for claim in claims.values()} <= {"holds", "fails"}


@pytest.mark.parametrize(("losses", "said"), [((30.0, 1.0), "holds"), ((12.0, 1.0), "fails")])
def test_where_seeds_disagree_the_mean_decides(
    made: tuple[ReproduceOptions, Session, ReproduceResult], losses: tuple[float, float], said: str
) -> None:
    """The background attack is to raise the natural model's loss tenfold; natural losses are 1 here."""
    options, session, result = made
    natural = [row.run for row in result.steps if row.step.startswith("train natural")]

    def change(cells: dict[tuple[str, str], Any]) -> None:
        for run_, loss in zip(natural, losses, strict=True):
            cells[str(run_), "natural"]["loss"] = 1.0
            cells[str(run_), "background"]["loss"] = loss

    found = found_after(options, session, change)
    (claim,) = [claim for claim in found.claims if "tenfold" in claim["claim"]]
    assert (claim["verdict"], claim["seeds_holding"], claim["seeds"]) == (said, 1, 2)


def found_after(
    options: ReproduceOptions, session: Session, change: Callable[[dict[tuple[str, str], Any]], None]
) -> Found:
    """What is told where the cells of every evaluation, by model and input, are changed; then they are as before."""
    data = open_dataset(options.dataset, DatasetSource(Path()))
    with Store.open_existing(session.store) as store:
        ledger = Ledger.of(store, session, data)
        parts = parts_of(options, session, data)
        before = {}
        for step in (step for part in parts for step in part.evaluations):
            row = ledger.standing(step).run
            assert row is not None
            before[row.path / MATRIX] = (row.path / MATRIX).read_bytes()
            document = json.loads(before[row.path / MATRIX])
            change({(cell["model"], cell["input"]): cell for cell in document["cells"]})
            for number, cell in enumerate(document.get("transfer") or ()):
                cell["accuracy"] = number / 100
            (row.path / MATRIX).write_text(json.dumps(document))
        try:
            return find(parts, ledger, options)
        finally:
            for path, content in before.items():
                path.write_bytes(content)


def test_the_size_of_the_middle_is_the_one_nearest_to_the_papers_two_figures(digits: Path, tmp_path: Path) -> None:
    options = ReproduceOptions("hole", dataset=f"folder:{digits}", like="cifar10", centers=(0.0, 0.5, 0.9), **SMALL)
    session = session_of(tmp_path / "runs")
    result = run(options, session)
    query = "SELECT center, input, loss, accuracy FROM cells WHERE input != 'natural'"
    with sqlite3.connect(session.store / DATABASE) as connection:
        cells = {(center, given): (loss, right) for center, given, loss, right in connection.execute(query)}
    ratios = {share: cells[share, "background"][0] / cells[share, "standard"][0] for share in options.centers}
    apart = {
        share: abs(cells[share, "background"][1] - 0.5926) + abs(ratio - 2.96 / 54.0) for share, ratio in ratios.items()
    }
    closest = min(apart, key=lambda share: apart[share])
    assert result.found is not None
    (sheet,), (sweep,) = result.found.sheets, result.found.sweeps

    assert [row[3].text for row in sheet.rows] == [*(f"{apart[share]:.3f}" for share in options.centers), ""]
    assert sheet.notes[0].startswith(f"closest to the paper: {closest:.4g} of the side")
    assert [point[:2] for point in sweep["panels"][1]["lines"][0]["points"]] == [
        [share, pytest.approx(ratio)] for share, ratio in ratios.items()
    ]
    folder = session.store / str(result.run)
    assert (folder / "hole.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / MARKDOWN).read_text()
    assert "![Natural models against the size of the middle](hole.png)" in text
    assert all(str(row.run) in text and str(row.config_hash)[:12] in text for row in result.steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "models", "columns"),
    [
        (
            "controls",
            ("natural", "standard", "background", "foreground", "random"),
            ("natural", "standard", "background", "foreground", "random"),
        ),
        (
            "strong",
            ("natural", "standard", "background"),
            ("standard", "standard-strong", "background", "background-strong"),
        ),
    ],
)
def test_a_table_has_every_figure_in_its_place(
    what: str, models: tuple[str, ...], columns: tuple[str, ...], digits: Path, tmp_path: Path
) -> None:
    options = ReproduceOptions(what, dataset=f"folder:{digits}", **SMALL)
    session = session_of(tmp_path / "runs")
    (sheet,) = _found_of(run(options, session)).sheets
    assert all(entry.text not in ("", "-") for row in sheet.rows for entry in row)

    (sheet,) = found_after(options, session, _number).sheets
    assert sheet.headings == ("model", *columns)
    assert [[entry.text for entry in row] for row in sheet.rows] == [
        [model, *(f"{10 * place + _INPUTS.index(given)}.00 %" for given in columns)]
        for place, model in enumerate(models)
    ]


_INPUTS = (
    "natural",
    "standard",
    "background",
    "foreground",
    "random",
    "standard-strong",
    "background-strong",
)


def _found_of(result: ReproduceResult) -> Found:
    assert result.found is not None
    return result.found


def _number(cells: dict[tuple[str, str], Any], more: float = 0.0) -> None:
    """Accuracies that say where they come from: the model in tens, the input in ones, in percent."""
    models = list(dict.fromkeys(model for model, _ in cells))
    for (model, given), cell in cells.items():
        cell["accuracy"] = (10 * models.index(model) + _INPUTS.index(given)) / 100 + more


@pytest.mark.slow
def test_the_table_of_masks_has_every_figure_in_its_place(digits: Path, tmp_path: Path) -> None:
    options = ReproduceOptions("masks", dataset=f"folder:{digits}", **SMALL)
    session = session_of(tmp_path / "runs")
    (sheet,) = _found_of(run(options, session)).sheets
    assert all(entry.text not in ("", "-") for row in sheet.rows for entry in row)
    offsets = iter((0.0, 0.5))  # outside the middle, outside the silhouette

    (sheet,) = found_after(options, session, lambda cells: _number(cells, next(offsets))).sheets
    assert sheet.headings == ("model", "natural", "outside the middle", "outside the silhouette", "everywhere")
    assert [[entry.text for entry in row] for row in sheet.rows] == [
        ["standard", "0.00 %", "2.00 %", "52.00 %", "1.00 %"],
        ["background, middle", "10.00 %", "12.00 %", "62.00 %", "11.00 %"],
        ["background, silhouettes", "20.00 %", "22.00 %", "72.00 %", "21.00 %"],
    ]


@pytest.mark.slow
def test_the_tables_of_transfer_have_every_figure_in_its_place(digits: Path, tmp_path: Path) -> None:
    options = ReproduceOptions("transfer", dataset=f"folder:{digits}", **SMALL)
    session = session_of(tmp_path / "runs")
    result = run(options, session)
    (evaluation,) = [row for row in result.steps if row.command == "eval"]
    rows = json.loads((session.store / str(evaluation.run) / MATRIX).read_bytes())["transfer"]

    def regime(model: str | None) -> str:
        """Of paper-cnn-REGIME@WEIGHTS."""
        return "(no attack)" if model is None else model.removeprefix("paper-cnn-").partition("@")[0]

    numbers = {
        (row["input"], regime(row["source"]), regime(row["target"])): f"{number}.00 %"
        for number, row in enumerate(rows)
    }

    for given, sheet in zip(
        ("standard", "background"), found_after(options, session, lambda cells: None).sheets, strict=True
    ):
        assert given in sheet.title
        assert sheet.headings == ("made on", "natural", "standard", "background")
        assert [row[0].text for row in sheet.rows] == ["(no attack)", *sheet.headings[1:]]
        for row in sheet.rows:
            expected = [numbers[given, row[0].text, target] for target in sheet.headings[1:]]
            assert [entry.text for entry in row[1:]] == expected


@pytest.mark.slow
def test_photos_that_cannot_be_attacked_or_have_no_label_are_told(tmp_path: Path) -> None:
    """And Figure 1 is drawn, though the same attack was made before without figures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    carried = next(path for path in package_photos() if path.name == "grace_hopper.jpg")
    (photos / "a.jpg").write_bytes(carried.read_bytes())
    (photos / "b.jpg").write_bytes(carried.read_bytes()[:9000])
    session = session_of(tmp_path / "runs")
    options = ReproduceOptions("figure1", budget="quick", attack_steps=1, photos=photos)
    attack(AttackOptions((str(photos),), steps=1, detector="cam", no_figures=True), session)

    (sheet,) = _found_of(run(options, session)).sheets
    assert len(sheet.rows) == 1
    assert sheet.rows[0][0].text.endswith("a-figure.png")

    result = run(replace(options, what="photos-epsilon"), session)
    found = _found_of(result)
    (sheet,) = found.sheets
    epsilons = {}
    with sqlite3.connect(session.store / DATABASE) as connection:
        query = "SELECT epsilon, clean_confidence, adversarial_confidence FROM attacks JOIN artifacts USING (run)"
        for epsilon, clean, attacked in connection.execute(query):
            epsilons[round(255 * epsilon)] = (clean, attacked)
    assert [row[0].text for row in sheet.rows] == ["clean", "1/255", "2/255", "4/255", "8/255", "16/255"]
    assert [row[1].text for row in sheet.rows] == [
        f"{epsilons[8][0]:.3g}",
        *(f"{epsilons[levels][1]:.3g}" for levels in (1, 2, 4, 8, 16)),
    ]
    assert "1 of 2 photos could not be attacked, and are not counted" in sheet.notes
    assert "the right class of 1 of 1 photos is the clean guess: see --labels" in sheet.notes
    assert (found.claims, result.report) == ([], None)  # verdicts are on the paper's own figures alone
    assert "Claims" not in (session.store / str(result.run) / MARKDOWN).read_text()


def test_photos_of_which_none_can_be_attacked_end_it_with_a_reason(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"\xff\xd8 no picture")
    options = ReproduceOptions("table2", budget="quick", attack_steps=1, photos=photos)

    with pytest.raises(LatcliError, match="no photo could be attacked"):
        run(options, session_of(tmp_path / "runs"))


@pytest.mark.slow
def test_photos_of_packages_stand_in_and_are_known_again(tmp_path: Path) -> None:
    options = ReproduceOptions("table2", budget="quick", attack_steps=2)
    session = session_of(tmp_path / "runs")
    result = run(options, session)

    assert any("stand in" in note for note in result.notes)
    assert [row.state for row in result.steps] == ["done"]
    assert {(claim["of"], claim["seeds"]) for claim in result.found.claims} == {("Tables 1 and 2", 1)}  # type: ignore[union-attr]
    assert states(options, session) == ["done"]
    assert states(replace(options, attack_steps=3), session) == ["missing"]
    assert states(options, replace(session, seed=1)) == ["missing"]
    photos = [row["image"] for row in result.report["attacks"][0]["images"]]  # type: ignore[index]
    labels = tmp_path / "labels.csv"
    labels.write_text("file,name\nbus.jpg,hen\n")
    elsewhere = tmp_path / "bus.jpg"
    elsewhere.write_bytes(Path(photos[0]).read_bytes())
    assert states(replace(options, photos=elsewhere, labels=labels), session) == ["missing"]


def test_a_mean_has_a_spread_from_two_seeds_on() -> None:
    assert (Values((0.25,)).mean, Values((0.25,)).spread, Values(()).mean) == (0.25, None, None)
    assert Values((0.5, 0.7)).percent().text == "60.00"
    assert Values((0.5, 0.7)).percent().spread == "14.14 %"


def test_a_run_of_the_same_kind_says_how_long_a_step_will_take(
    made: tuple[ReproduceOptions, Session, ReproduceResult],
) -> None:
    options, session, _ = made
    (part,) = parts_of(replace(options, steps=20, seeds=1), session, None)
    background = next(step for step in part.steps if step.title == "train background, seed 0")
    data = open_dataset(options.dataset, DatasetSource(Path()))
    with Store.open_existing(session.store) as store:
        ledger = Ledger.of(store, session, data)
        ended = {"started": "2026-11-22T10:00:00.000Z", "finished": "2026-11-22T10:00:50.000Z"}
        ledger.rows = [replace(row, **ended) for row in ledger.rows]
        times = Times(ledger)

        assert times.expected(background, Standing("missing")) == pytest.approx(50 * 20 / 2)
        assert times.expected(background, Standing("done")) == 0.0
        evaluation = Evaluation(EvalOptions(dataset=options.dataset, images=12, steps=2), part.steps[:1], 0, "x")  # type: ignore[arg-type]
        assert times.expected(evaluation, Standing("missing")) == pytest.approx(50 * (1 * 12) / (6 * 6))
        ledger.rows = [row for row in ledger.rows if row.config.get("regime") == "natural"]
        # A natural step is 4 gradients; one under 5 steps of PGD, of which no run is left, 9.
        assert times.expected(background, Standing("missing")) == pytest.approx(50 * 20 / 2 * 9 / 4)
        ledger.rows, times = [], Times(ledger)
        measured = times.expected(background, Standing("missing"))
        assert measured is not None
        assert measured > 0


# the command line


def test_it_is_read_at_80_columns(made: tuple[ReproduceOptions, Session, ReproduceResult]) -> None:
    options, session, result = made
    for document in (result.to_json(), run(replace(options, plan=True, seeds=3), session).to_json()):
        text = io.StringIO()
        console_for(text).print(shown("reproduce", document))
        lines = text.getvalue().splitlines()
        assert max(len(line) for line in lines if str(session.store.parent) not in line) <= 80
        assert text.getvalue().isascii()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"what": "table3"}, "table3"),
        ({"what": "table2", "labels": Path("labels.csv")}, "--labels"),
    ],
)
def test_what_cannot_be_meant_is_refused(told: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ReproduceOptions(**told)


def test_a_network_that_nobody_knows_is_refused_before_a_run_is_begun(digits: Path, tmp_path: Path) -> None:
    options = ReproduceOptions("figure2", dataset=f"folder:{digits}", architecture="vgg7", **SMALL)

    with pytest.raises(UsageError, match="vgg7"):
        run(options, session_of(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "a", "0.5,0.2", "0.5,0.5", "1.0", "-0.1", "nan"])
def test_sizes_of_the_middle_ascend_below_one(text: str) -> None:
    with pytest.raises(UsageError):
        parse_centers(text)


def test_the_plan_is_told_as_json_and_nothing_is_left(run_latcli: RunLatcli, tmp_path: Path) -> None:
    done = run_latcli(
        "reproduce", "figure2", "--dataset", "mnist-5k", "--budget", "quick", "--plan", "--json", "--precision", "fp32"
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["planned"] is True
    assert [row["state"] for row in document["steps"]] == ["missing"] * 4
    assert all(row["seconds"] > 0 for row in document["steps"])
    assert document["steps"][3]["command_line"].startswith("latcli eval STEP1 STEP2 STEP3 --dataset mnist-5k")
    assert not (tmp_path / "work" / "runs").exists()


def test_a_run_without_its_folder_is_not_gone_on_with(digits: Path, tmp_path: Path) -> None:
    options = ReproduceOptions("figure2", dataset=f"folder:{digits}", seeds=1, plan=True, **SMALL)
    session = session_of(tmp_path / "runs")
    train(TrainOptions("natural", options.dataset, preset="quick", steps=2), session)
    with Store.open(session.store) as store:
        (row,) = store.runs()
        with store.writing() as db:
            db.table("runs").update(row.id, {"status": "crashed"})
    assert states(options, session).count("interrupted") == 1
    shutil.rmtree(row.path)
    assert states(options, session) == ["missing"] * 4
