"""`latcli reproduce`: what is done, cut off or missing, that nothing is done twice, and what is read off the runs."""

import io
import json
import shlex
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from training_cases import write_digits

from latcli.cli import COMMANDS, app
from latcli.commands import attack
from latcli.commands.classifiers import CHECKPOINT
from latcli.commands.gathering import MATRIX
from latcli.commands.photos import package_photos
from latcli.commands.reproduce import MARKDOWN, command_line, run
from latcli.commands.reproduction_parts import steps_of
from latcli.commands.runs import list_runs, verify_runs
from latcli.engine.datasets.base import Defaults, make_dataset
from latcli.engine.localize import middle_pixels
from latcli.engine.models.small import PaperCNN
from latcli.errors import LatcliError, UsageError, WeightsError
from latcli.options import (
    AttackOptions,
    ReproduceOptions,
    RunsListOptions,
    RunsVerifyOptions,
    TrainOptions,
    parse_shares,
)
from latcli.results import to_json
from latcli.session import Session
from latcli.store.store import DATABASE

SMALL = {"budget": "quick", "steps": 2, "images": 6, "attack_steps": 2}


def options_of(what, **changed):
    return ReproduceOptions(**{"what": what} | SMALL | changed)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits in a folder."""
    return write_digits(tmp_path_factory.mktemp("digits"), train=45, test=4)


def session_of(store, **changed):
    given = {"data": store.parent / "data", "precision": "fp32", "offline": True, "quiet": True}
    return Session(store=store, stdout=io.StringIO(), stderr=io.StringIO(), **given | changed)


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """Figure 2 on two seeds, made once; tests add runs of other parts to its store, and change none."""
    options = options_of("figure2", dataset=f"folder:{digits}", like="mnist", seeds=2)
    session = session_of(tmp_path_factory.mktemp("made") / "runs")
    return options, session, run(options, session)


def states(options, session):
    return [row.state for row in run(replace(options, plan=True), session).steps]


def runs_in(session):
    return list_runs(RunsListOptions(), session).runs


def query(session, sql):
    with sqlite3.connect(session.store / DATABASE) as connection:
        return connection.execute(sql).fetchall()


# what is done


def test_every_step_is_a_run_of_its_own_and_nothing_is_done_twice(made):
    options, session, result = made
    own = [str(row.run) for row in result.steps]
    before = runs_in(session)
    runs = {row.run: row for row in before if row.run in own or row.run == result.run}
    assert Counter(row.command for row in runs.values()) == {"train": 6, "eval": 1, "reproduce": 1}
    assert {row.status for row in runs.values()} == {"completed"}
    assert {runs[run_id].parent for run_id in own} == {result.run}
    assert {(row.state, row.seconds is not None) for row in result.steps} == {("done", True)}
    assert verify_runs(RunsVerifyOptions(), session).exit_code == 0

    assert states(options, session) == ["done"] * 7
    assert runs_in(session) == before
    again = run(options, session)
    assert {row.run for row in runs_in(session)} - {row.run for row in before} == {again.run}
    assert [row.run for row in again.steps] == own
    assert (again.tables, again.claims) == (result.tables, result.claims)


def test_what_was_computed_otherwise_is_missing(made):
    for changed, done in [
        ({}, {"train": 6, "eval": 1}),
        ({"images": 7}, {"train": 6}),
        ({"attack_steps": 3}, {"train": 6}),
        ({"steps": 3}, {}),
        ({"architecture": "paper-cnn"}, {"train": 6, "eval": 1}),  # what the data set has anyway
        ({"architecture": "resnet18"}, {}),
        ({"center": 0.5}, {"train": 4}),  # only the background models depend on a middle
        ({"epsilon": 0.2}, {"train": 2}),  # the natural ones have no epsilon
        ({"budget": "standard"}, {}),
        ({"seeds": 1}, {"train": 3}),  # an evaluation of other models is another one
        ({"seeds": 3}, {"train": 6}),
        ({"seed": 7}, {}),
        ({"seed": 1}, {"train": 3}),  # one of the two seeds
        ({"precision": "bf16"}, {}),
    ]:
        options, session, _ = made
        of_session = {name: changed[name] for name in ("seed", "precision") if name in changed}
        options = replace(
            options, plan=True, **{name: value for name, value in changed.items() if name not in of_session}
        )
        rows = run(options, replace(session, **of_session)).steps

        assert Counter(row.command for row in rows if row.state == "done") == done
        assert {row.state for row in rows} <= {"done", "missing"}


def test_other_regimes_go_on_from_weights_fine_tuned_on_natural_images(digits, tmp_path):
    for seed, name in enumerate(("start", "other")):
        torch.manual_seed(seed)
        save_file(PaperCNN((1, 12, 12), 3).state_dict(), tmp_path / f"{name}.safetensors")
    given = {"dataset": f"folder:{digits}", "seeds": 1, "classifier_weights": tmp_path / "start.safetensors"}
    options, session = options_of("figure2", **given), session_of(tmp_path / "runs")
    planned = run(replace(options, plan=True), session).steps
    assert [row.command for row in planned] == ["train"] * 3 + ["eval"]
    assert all(f"--classifier-weights STEP1/{CHECKPOINT}" in row.command_line for row in planned[1:3])

    result = run(options, session)
    start, *regimes, _ = (str(row.run) for row in result.steps)
    rows = {row.run: row for row in runs_in(session)}
    fine_tuned = query(session, f"SELECT weights_sha256 FROM models WHERE run = '{start}'")[0][0]
    found = query(session, f"SELECT id, config_json FROM runs WHERE id IN {tuple(regimes)}")
    assert {json.loads(config)["weights_fingerprint"] for _, config in found} == {fine_tuned}
    assert len(rows) == 5
    assert states(options, session) == ["done"] * 4
    assert set(states(replace(options, classifier_weights=None), session)) == {"missing"}
    assert set(states(replace(options, classifier_weights=tmp_path / "other.safetensors"), session)) == {"missing"}
    for bad in ({"architecture": "resnet20"}, {"classifier_weights": tmp_path / "absent.safetensors"}):
        with pytest.raises(WeightsError):
            run(replace(options, **bad), session)
    with pytest.raises(UsageError, match="--budget paper trains fresh networks"):
        replace(options, budget="paper")


def test_other_data_and_a_training_whose_model_is_gone_are_missing(made, digits):
    options, session, result = made
    picture, model = digits / "train" / "0" / "0.png", session.store / str(result.steps[1].run) / CHECKPOINT
    before, aside = picture.read_bytes(), model.with_suffix(".aside")
    try:
        Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90).save(picture)
        assert set(states(options, session)) == {"missing"}
    finally:
        picture.write_bytes(before)
    model.rename(aside)
    try:
        assert states(options, session) == ["done", "missing", *["done"] * 4, "missing"]
    finally:
        aside.rename(model)


# what was cut off


class Interrupted(io.StringIO):
    """A terminal at which Ctrl-C is pressed as soon as it shows a text, once another has been shown."""

    def __init__(self, first, when):
        super().__init__()
        self.armed, self.first, self.when = False, first, when

    def write(self, text):
        self.armed = self.armed or self.first in text
        if self.armed and self.when in text:
            raise KeyboardInterrupt
        return super().write(text)


@pytest.mark.parametrize(
    ("first", "when", "cut"),
    [
        ("step 2 of 4: train standard", "step 2 of 2: loss", "train standard, seed 0"),
        ("", ", background: loss", "evaluate the loss matrix"),
    ],
)
def test_after_ctrl_c_it_is_continued_where_it_was(digits, tmp_path, first, when, cut):
    options, session = options_of("figure2", dataset=f"folder:{digits}"), session_of(tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt):
        run(options, replace(session, quiet=False, stderr=Interrupted(first, when)))
    (interrupted,) = [row for row in run(replace(options, plan=True), session).steps if row.state == "interrupted"]
    assert interrupted.step.startswith(cut)
    own = next(row for row in runs_in(session) if row.command == "reproduce")
    assert own.status == "interrupted"
    result = run(options, session)
    assert interrupted.run in [row.run for row in result.steps]
    assert {row.state for row in result.steps} == {"done"}
    assert result.run == own.run
    assert Counter(row.command for row in runs_in(session)) == {"train": 3, "eval": 1, "reproduce": 1}
    # The same models and settings, and yet not all that the transfer asks for.
    assert states(replace(options, what="transfer"), session) == ["done"] * 3 + ["missing"]


# which steps


def images_of(side, center=0.3):
    """A set of two black images."""
    x_NCHW, y_N = torch.zeros(2, 1, side, side, dtype=torch.uint8), torch.tensor([0, 1])
    return make_dataset("black", (x_NCHW, y_N), (x_NCHW, y_N), ("a", "b"), Defaults(0.3, center, "paper-cnn"))


def parts_of(options, session, data):
    return {name: steps_of(name, options, session, data) for name in options.parts}


@pytest.mark.parametrize("budget", ["quick", "standard", "paper"])
def test_the_command_line_of_a_step_gives_exactly_its_options(budget, tmp_path):
    options = options_of("all", budget=budget, architecture="resnet18", center=0.5, epsilon=0.2, photos=tmp_path)
    session = Session(store=tmp_path / "a store", seed=3, offline=True)
    steps = {step for steps in parts_of(options, session, images_of(28)).values() for step in steps}
    commands = typer.main.get_command(app).commands
    for step in steps:
        models = tuple(f"{number:04x}" for number, _ in enumerate(step.models))
        program, name, *words = shlex.split(command_line(step, session, models))
        given = commands[name].make_context(name, words).params
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        kind = COMMANDS[(name,)].options
        options_given = kind(**{key: given[key] for key in kind.__dataclass_fields__})
        assert (program, name) == ("latcli", step.command)
        assert options_given == (replace(step.options, models=models) if name == "eval" else step.options)
        assert (given["seed"], given["store"], given["offline"]) == (step.seed, session.store, True)


def test_all_shares_what_its_parts_have_in_common():
    options = options_of("all", budget="standard", photos=Path("x"))
    parts = parts_of(options, Session(), images_of(28))
    steps = {step for steps in parts.values() for step in steps}
    chosen = [one.options for one in steps if isinstance(one.options, TrainOptions)]
    regimes = ("natural", "standard", "background", "foreground", "random")
    expected = {(regime, None): 3 for regime in regimes} | {("background", "otsu"): 3}
    assert Counter((one.regime, one.mask_from) for one in chosen) == expected
    assert parts["figure1"] == parts["table2"]
    assert set(parts["table2"]) < set(parts["photos-epsilon"])
    assert sum(one.command == "attack" for one in steps) == 15


def test_the_middle_that_hole_tries_is_even_pixels_of_the_side_and_the_default_by_its_own_number():
    def centers(data):
        steps = parts_of(options_of("hole"), Session(), data)["hole"]
        return [step.options.center for step in steps if step.command == "eval"]

    assert [32 * center for center in centers(images_of(32))] == [16, 20, 24, 26, 28, 29, 30]
    of_28 = centers(images_of(28, center=0.18))
    assert [middle_pixels(28, center) for center in of_28] == [4, 5, 6, 8, 10, 12, 14]
    assert of_28[1] == 0.18


# what the runs show


def shown(table):
    """The means of a table by row and column."""
    return {row.name: {column: mean.value for column, mean in row.means.items()} for row in table.rows}


def test_figures_are_those_of_the_evaluation_and_verdicts_those_of_the_report(made):
    _, session, result = made
    sql = "SELECT regime, input, avg(loss), avg(accuracy), max(loss) - min(loss) FROM cells"
    found = query(session, f"{sql} WHERE run = '{result.steps[-1].run}' GROUP BY regime, input")
    cells = {
        (regime, given): {"loss": loss, "accuracy": right, "apart": apart}
        for regime, given, loss, right, apart in found
    }
    assert result.report is not None
    assert result.report.paper is not None
    (paper,) = [part for part in result.report.paper if part.ours is not None]

    assert (paper.of, len(paper.figures)) == ("mnist", 11)
    for one in paper.figures:
        cell = cells[one.regime, one.input]
        assert one.ours == pytest.approx(cell[one.figure])
        if one.figure == "loss":
            assert one.ours_spread == pytest.approx(cell["apart"] / 2**0.5)  # of two values
    assert result.claims == paper.claims
    assert {one.seeds for one in result.claims} == {2}
    document = to_json(result)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def renumbered(session, evaluation, more):
    """Give an evaluation accuracies that say where they come from: the model in tens, the input in ones, in percent."""
    with sqlite3.connect(session.store / DATABASE) as connection:
        models = connection.execute("SELECT DISTINCT model_id FROM cells WHERE run = ?", [evaluation]).fetchall()
        for place, (model,) in enumerate(models):
            for number, given in enumerate(_INPUTS):
                values = [(10 * place + number) / 100 + more, evaluation, model, given]
                connection.execute("UPDATE cells SET accuracy = ? WHERE run = ? AND model_id = ? AND input = ?", values)


_INPUTS = ("natural", "standard", "background", "foreground", "random", "standard-strong", "background-strong")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["controls", "strong", "masks"])
def test_a_table_has_every_figure_in_its_place(made, what):
    options, session = replace(made[0], what=what, seeds=1), made[1]
    result = run(options, session)
    for place, row in enumerate(one for one in result.steps if one.command == "eval"):
        renumbered(session, str(row.run), place / 2)

    (table,) = run(options, session).tables
    if what == "masks":
        columns = ("natural", "outside the middle", "outside the silhouette", "everywhere")
        models = ["standard", "background, middle", "background, silhouettes"]
        numbers = [[0, 2, 52, 1], [10, 12, 62, 11], [20, 22, 72, 21]]
    else:
        models = ["natural", "standard", "background", "foreground", "random"][: 5 if what == "controls" else 3]
        columns = tuple(table.columns)
        assert set(columns) == set(_INPUTS[:5] if what == "controls" else (*_INPUTS[:3], *_INPUTS[5:]))
        numbers = [[10 * place + _INPUTS.index(given) for given in columns] for place in range(len(models))]
    assert shown(table) == {
        model: {column: pytest.approx(number / 100) for column, number in zip(columns, row, strict=True)}
        for model, row in zip(models, numbers, strict=True)
    }


def test_the_tables_of_transfer_have_every_figure_in_its_place(made):
    options, session = replace(made[0], what="transfer", seeds=1), made[1]
    result = run(options, session)
    document = json.loads((session.store / str(result.steps[-1].run) / MATRIX).read_bytes())
    regimes = {one["id"]: one["regime"] for one in document["models"]} | {None: "(no attack)"}
    found = {}
    for row in document["transfer"]:
        of_input = found.setdefault(f"transfer-{row['input']}", {})
        of_input.setdefault(regimes[row["source"]], {})[regimes[row["target"]]] = row["accuracy"]
    assert {table.name: shown(table) for table in result.tables} == found
    assert found.keys() == {"transfer-standard", "transfer-background"}


def test_the_size_of_the_middle_is_the_one_nearest_to_the_papers_two_figures(made):
    options = replace(made[0], what="hole", like="cifar10", centers=(0.0, 0.5, 0.9), seeds=1)
    session = made[1]
    result = run(options, session)
    evaluations = ", ".join(f"'{row.run}'" for row in result.steps if row.command == "eval")
    sql = f"SELECT center, input, loss, accuracy FROM cells WHERE epsilon IS NOT NULL AND run IN ({evaluations})"
    cells = {(center, given): (loss, right) for center, given, loss, right in query(session, sql)}
    ratios = {share: cells[share, "background"][0] / cells[share, "standard"][0] for share in options.centers}
    apart = {share: abs(cells[share, "background"][1] - 0.5926) + abs(r - 2.96 / 54.0) for share, r in ratios.items()}
    closest = min(apart, key=lambda share: apart[share])
    (table,) = result.tables
    *rows, paper = table.rows

    assert table.notes[0].startswith(f"closest to the paper: {closest:.4g} of the side")
    assert {row.x: row.means["distance"].value for row in rows} == pytest.approx(apart)
    assert {row.x: row.means["loss ratio"].value for row in rows} == pytest.approx(ratios)
    assert {name: mean.value for name, mean in paper.means.items()} == {
        "accuracy": 0.5926, "loss ratio": pytest.approx(2.96 / 54.0)
    }  # fmt: skip
    folder = session.store / str(result.run)
    assert (folder / "hole.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / MARKDOWN).read_text()
    assert all(str(row.run) in text and str(row.config_hash)[:12] in text for row in result.steps)


# photos


@pytest.mark.slow
def test_photos_that_cannot_be_attacked_or_have_no_label_are_named(tmp_path):
    """And Figure 1 is drawn, though the same attack was made before without figures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    carried = next(path for path in package_photos() if path.name == "grace_hopper.jpg")
    (photos / "a.jpg").write_bytes(carried.read_bytes())
    (photos / "b.jpg").write_bytes(carried.read_bytes()[:9000])
    session = session_of(tmp_path / "runs")
    options = ReproduceOptions(what="figure1", budget="quick", attack_steps=1, photos=photos)
    attack.run(AttackOptions(photos=(str(photos),), steps=1, no_figures=True), session)

    assert [path.name for path in run(options, session).files] == [MARKDOWN, "a-figure.png"]

    result = run(replace(options, what="photos-epsilon"), session)
    (table,) = result.tables
    sql = "SELECT epsilon, clean_confidence, adversarial_confidence FROM attacks WHERE files_json LIKE '%figure%'"
    epsilons = {round(255 * epsilon): figures for epsilon, *figures in query(session, sql)}
    assert {name: means["confidence"] for name, means in shown(table).items()} == {
        "clean": epsilons[8][0],
        **{f"{levels}/255": epsilons[levels][1] for levels in (1, 2, 4, 8, 16)},
        "paper": 0.000169,
    }
    assert "1 of 2 photos could not be attacked, and are not counted" in table.notes
    assert "the right class of 1 of 1 photos is the clean guess: see --labels" in table.notes
    assert (result.claims, result.report) == ((), None)  # verdicts are on the paper's own figures alone


def test_photos_of_which_none_can_be_attacked_end_it_with_a_reason(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8 no picture")
    options = ReproduceOptions(what="table2", budget="quick", attack_steps=1, photos=tmp_path)
    with pytest.raises(LatcliError, match="no photo could be attacked"):
        run(options, session_of(tmp_path / "runs"))


@pytest.mark.slow
def test_an_attack_that_was_cut_off_is_resumed(tmp_path, monkeypatch):
    options = ReproduceOptions(what="table2", budget="quick", attack_steps=1)
    session = session_of(tmp_path / "runs")

    def interrupted(*_given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("latcli.engine.photos.run_attack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(options, session)
    assert states(options, session) == ["interrupted"]
    (begun,) = [row.run for row in runs_in(session) if row.command == "attack"]
    assert [row.run for row in run(options, session).steps] == [begun]
    assert Counter(row.command for row in runs_in(session)) == {"attack": 1, "reproduce": 1}


@pytest.mark.slow
def test_photos_of_packages_are_used_without_others_and_are_known_again(tmp_path):
    options = ReproduceOptions(what="table2", budget="quick", attack_steps=2)
    session = session_of(tmp_path / "runs")
    result = run(options, session)
    assert any("packages carry" in note for note in result.notes)
    assert {(claim.of, claim.seeds) for claim in result.claims} == {("photos", 1)}
    assert states(options, session) == ["done"]
    assert states(replace(options, attack_steps=3), session) == ["missing"]
    assert states(options, replace(session, seed=1)) == ["missing"]
    labels, elsewhere = tmp_path / "labels.csv", tmp_path / "bus.jpg"
    labels.write_text("file,name\nbus.jpg,hen\n")
    elsewhere.write_bytes(next(path for path in package_photos() if path.name == "bus.jpg").read_bytes())
    assert states(replace(options, photos=elsewhere, labels=labels), session) == ["missing"]


# the command line


def test_what_is_unusable_is_refused_before_a_run_is_started(digits, tmp_path):
    for given, message in (({"what": "table3"}, "table3"), ({"what": "table2", "labels": Path("a.csv")}, "--labels")):
        with pytest.raises(UsageError, match=message):
            ReproduceOptions(**given)
    for shares in ["", "a", "0.5,0.2", "0.5,0.5", "1.0", "-0.1", "nan"]:
        with pytest.raises(UsageError):
            parse_shares(shares)
    with pytest.raises(UsageError, match="vgg7"):
        run(options_of("figure2", dataset=f"folder:{digits}", architecture="vgg7"), session_of(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_plan_shows_the_command_of_each_step_and_leaves_nothing(latcli, tmp_path):
    words = [
        *["reproduce", "figure2", "--dataset", "mnist-5k", "--budget", "quick", "--plan", "--store"],
        tmp_path / "runs",
    ]
    document = latcli(*words, "--json").json
    assert document["planned"] is True
    assert [row["state"] for row in document["steps"]] == ["missing"] * 4
    assert document["steps"][3]["command_line"].startswith("latcli eval STEP1 STEP2 STEP3 --dataset mnist-5k")
    drawn = latcli(*words)
    assert (drawn.code, max(map(len, drawn.out.splitlines())) <= 80) == (0, True)
    assert not (tmp_path / "runs").exists()
