"""`latcli train`: results, stored runs, and what is left after kill, signals and bad input."""

import io
import json
import random
import shlex
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from training_cases import interrupted_at, write_digits

from latcli.commands import training_steps
from latcli.commands.training_steps import TrainingLog
from latcli.engine import scoring
from latcli.engine.loggers import LoggedRun, Loggers
from latcli.engine.models.small import PaperCNN, resnet56
from latcli.engine.models.weights import unpack
from latcli.engine.training.loop import StepReport
from latcli.results import comparable_config
from latcli.session import Session
from latcli.store.store import Store

TINY = ("--dataset", "folder:tiny", "--architecture", "paper-cnn", "--precision", "fp32", "--preset", "quick")
FAST = (*TINY, "--regime", "natural", "--batch", "8", "--steps", "6")


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "tiny")


@pytest.fixture
def work(work, digits):
    """The working folder, which holds the data set `folder:tiny`."""
    shutil.copytree(digits, work / "tiny")
    return work


@pytest.fixture
def train(work, latcli):
    return lambda *arguments: latcli("train", "--offline", *arguments)


def document(done):
    assert done.code == 0, done.err
    return done.json


def weights(result):
    return str(unpack(Path(result["checkpoint"]), "classifier")[1]["digest"])


def row_of(work, name="latest"):
    with Store.open_existing(work / "runs") as store:
        return store.find_run(name)


def metrics(work, name):
    with Store.open_existing(work / "runs") as store:
        rows = store.rows_of(store.find_run("latest").id, "metrics")
    return [(row["step"], row["value"]) for row in rows if row["name"] == name]


def step_of(state):
    """The step of a training state, from its header alone."""
    with safe_open(state, framework="pt") as file:
        return int(json.loads(file.metadata()["latcli"])["step"])


def test_a_run_gives_its_document_a_model_and_numbers(train, work, latcli):
    done = train(*TINY, "--batch", "8", "--epochs", "1", "--attack-steps", "1", "--test-every", "6", "--json")
    result, row = document(done), row_of(work)

    expected = {"regime": "background", "dataset": f"folder:{work / 'tiny'}", "architecture": "paper-cnn"}
    expected |= {"steps": 11, "epsilon": 0.3, "resumed_at": None, "devices": 1}
    expected |= {"attack": "background attack, pgd-10 at epsilon 0.3"}
    assert {name: result[name] for name in expected} == expected
    assert (result["final"]["n"], result["adversarial"]["n"]) == (30, 30)
    assert 0 <= result["adversarial"]["accuracy"] <= result["final"]["accuracy"] <= 1
    assert Path(result["checkpoint"]).is_relative_to(result["dir"])
    assert not (Path(result["dir"]) / "state.safetensors").exists()
    assert [one["step"] for one in result["tests"]] == [6, 11]
    for name in ("loss", "accuracy"):
        assert result["tests"][1][name] == result["final"][name]
    assert all(0 <= one["attacked_accuracy"] <= 1 for one in result["tests"])
    assert (row.status, row.exit_code, row.seed) == ("completed", 0, 0)
    assert row.config["dataset"] == f"folder:{work / 'tiny'}"
    assert {"steps", "epsilon", "rate", "dataset_fingerprint", "precision", "architecture"} <= row.config.keys()
    assert [step for step, _ in metrics(work, "loss")] == list(range(1, 12))
    assert metrics(work, "test_accuracy") == [(one["step"], one["accuracy"]) for one in result["tests"]]
    assert metrics(work, "test_adversarial_loss") == [(11, result["adversarial"]["loss"])]
    assert "11 of 11: loss" in done.err
    assert latcli("runs", "verify").code == 0
    for command in result["next_commands"]:
        words = shlex.split(command)
        assert (words[0], result["run"][-4:] in words) == ("latcli", True)


def test_its_next_commands_work_and_equal_seeds_give_equal_weights(train, latcli, work):
    one, other = (document(train(*FAST, "--seed", "5", "--name", name, "--json")) for name in ("first", "second"))
    assert weights(one) == weights(other)
    configs = [comparable_config(row_of(work, name).config) for name in ("first", "second")]
    assert weights(document(train(*FAST, "--seed", "6", "--test-every", "3", "--json"))) != weights(one)
    configs.append(comparable_config(row_of(work).config))
    document(train(*FAST, "--rate", "0.001", "--json"))
    assert configs[0] == configs[1] == configs[2] != comparable_config(row_of(work).config)
    command = next(one for one in other["next_commands"] if " attack " in one).replace("PHOTO", "tiny/test/0/0.png")
    attacked = document(latcli(*shlex.split(command)[1:], "--steps", "2", "--no-figures", "--json"))
    assert attacked["images"][0]["linf_inside"] == 0
    assert "is a run of attack, not of train" in train("--resume", attacked["run"]).error[0]


def test_a_small_network_starts_from_weights(train, work):
    start = document(train(*FAST, "--json"))
    slow = ("--rate", "1e-9", "--steps", "1", "--classifier-weights", start["checkpoint"], "--json")
    result = document(train(*FAST[:-2], *slow))

    assert result["final"]["loss"] == pytest.approx(start["final"]["loss"], abs=1e-5)
    assert len(row_of(work).config["weights_fingerprint"]) == 64
    save_file(PaperCNN((1, 12, 12), 10).state_dict(), work / "ten.safetensors")
    refused = train(*FAST, "--classifier-weights", "ten.safetensors")
    assert refused.code == 1
    assert "ten.safetensors do not fit PaperCNN: of another shape: logits.weight (10, 1024)" in refused.error[0]
    save_file(resnet56((1, 12, 12), 3).state_dict(), work / "deep.safetensors")
    refused = train(
        "--dataset", "folder:tiny", "--architecture", "resnet20", "--classifier-weights", "deep.safetensors"
    )
    assert "deep.safetensors do not fit SmallResNet: left over: layer1.3" in refused.error[0]
    assert refused.error[1] == "they fit --architecture resnet56"
    assert len(list((work / "runs").glob("*-train-*"))) == 2


def test_a_model_is_scored_on_training_images_that_it_has_not_learnt(train, work, latcli, monkeypatch):
    held = ("--validation", "0.2", "--seed", "3", "--test-every", "4")
    whole = document(train(*FAST, *held, "--json"))
    with interrupted_at(monkeypatch, 3):
        assert train(*FAST, *held).code == 130
    resumed = document(train("--resume", "latest", "--json"))
    assert (whole["final"]["n"], len(whole["tests"])) == (18, 2)  # of the 90 training images; the test set has 30
    assert (weights(resumed), resumed["final"]) == (weights(whole), whole["final"])
    assert {row["dataset"] for row in latcli("report", "--json").json["training"]} == {
        f"folder:{work / 'tiny'}, 20 % held out"
    }
    evaluated = document(latcli("eval", whole["run"], "--images", "2", "--steps", "1", "--offline", "--json"))
    assert {cell["n"] for cell in evaluated["cells"] if cell["input"] == "natural"} == {30}


def test_an_interrupted_run_says_how_to_resume_it_and_ends_with_the_same_bits(train, latcli, work, monkeypatch):
    options = (*TINY, "--batch", "8", "--steps", "6", "--attack-steps", "1", "--test-every", "2")
    expected = document(train(*options, "--json", "--store", "elsewhere"))
    with interrupted_at(monkeypatch, 4):
        done = train(*options, "--store", work / "runs")
    row = row_of(work)

    assert done.code == 130
    assert (row.status, step_of(row.path / "state.safetensors")) == ("interrupted", 4)
    (line,) = [line for line in done.err.splitlines() if "to continue: " in line]
    assert row.id in line
    monkeypatch.chdir(work.parent)  # the data set was named by a relative path
    result = document(latcli(*shlex.split(line.partition("to continue: latcli ")[2]), "--json"))
    assert (result["run"], result["resumed_at"]) == (row.id, 4)
    assert weights(result) == weights(expected)
    for name in ("final", "adversarial", "tests"):
        assert result[name] == expected[name]
    assert [step for step, _ in metrics(work, "loss")] == [1, 2, 3, 4, 5, 6]
    assert "already completed" in latcli("train", "--resume", row.id, "--store", work / "runs").error[0]


@pytest.fixture
def cut_off(train, work, monkeypatch):
    with interrupted_at(monkeypatch, 2):
        assert train(*FAST).code == 130
    return row_of(work)


def test_other_options_are_refused_with_all_differences(train, cut_off):
    resume = ("--resume", cut_off.id)
    error = train(*resume, "--steps", "99", "--rate", "0.5", "--seed", "3", "--regime", "natural").error[0]
    assert all(one in error for one in ("--steps 99 (was 6)", "--rate 0.5 (was 0.002)", "--seed 3 (was 0)"))
    assert "--regime" not in error
    assert "there is no run 'ffff0'" in train("--resume", "ffff0").error[0]
    assert "--dataset mnist-5k " in train(*resume, "--dataset", "mnist-5k").error[0]
    state = cut_off.path / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-100])
    damaged = train(*resume)
    assert (damaged.code, "state.safetensors is damaged" in damaged.error[0]) == (1, True)
    state.write_bytes(whole)
    assert document(train(*resume, "--steps", "6", "--json"))["steps"] == 6


def test_options_without_an_effect_are_refused(train, work):
    for words in (("--architecture", "paper-cnn", "--mean", "0.5"), ("--beta", "3")):
        refused = train(*FAST, *words)
        assert refused.code == 2
        assert words[-2] in refused.error[0]
    assert not list((work / "runs").glob("*-train-*"))


def test_what_a_run_does_not_keep_is_given_again_where_it_is_resumed(train, work, monkeypatch):
    typed = ["train", *FAST, "--seed", "3", "--logger=tensorboard", "--devices", "1"]
    monkeypatch.setattr("sys.argv", ["latcli", *typed])
    with interrupted_at(monkeypatch, 2):
        done = train(*typed[1:])
    assert " --logger=tensorboard --devices 1" in done.err.partition("to continue: ")[2].splitlines()[0]
    monkeypatch.setattr("sys.argv", ["latcli", "train", "--resume", "latest", "--seed", "0"])
    assert "--seed 0 (was 3)" in train("--resume", "latest", "--seed", "0").error[0]


def test_a_moved_folder_is_named_and_found_by_its_contents(train, cut_off, work):
    shutil.move(work / "tiny", work / "moved")
    shutil.move(work / "runs", work / "archive")
    resume = ("--resume", cut_off.id, "--store", "archive")
    gone = train(*resume)
    assert (gone.code, f"the folder {work / 'tiny'}" in gone.error[0]) == (2, True)
    assert "--dataset folder:" in gone.error[1]
    shutil.copytree(work / "moved", work / "other")
    (work / "other" / "train" / "0" / "0.png").unlink()
    assert "its contents differ" in train(*resume, "--dataset", "folder:other").error[0]
    assert document(train(*resume, "--dataset", "folder:moved", "--json"))["resumed_at"] == 2


def test_a_long_score_of_the_test_set_is_given_up_for_a_signal(train, work, monkeypatch):
    """The point that was cut off is measured when the run is resumed."""
    monkeypatch.setattr("latcli.commands.training_steps._PATIENCE_SECONDS", 0.0)
    score = scoring.natural_score

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "natural_score", interrupted)
        assert train(*FAST, "--test-every", "3").code == 130
    assert step_of(row_of(work).path / "state.safetensors") == 3
    assert metrics(work, "test_loss") == []
    assert [one["step"] for one in document(train("--resume", "latest", "--json"))["tests"]] == [3, 6]


def test_a_diverging_run_names_its_step_and_keeps_its_last_good_state(train, work):
    options = ("--optimizer", "sgd", "--rate", "1e20", "--schedule", "constant", "--checkpoint-every", "1000")
    done = train(*FAST[:-2], "--steps", "50", *options)
    row = row_of(work)
    assert (done.code, row.status) == (1, "failed")
    assert "training diverged at step " in done.error[0]
    assert "diverged at step" in (row.error or "")
    assert step_of(row.path / "state.safetensors") == 0


def test_bad_options_are_refused_before_a_run_is_started(train, work):
    for arguments, code, said in [
        (("--dataset", "minst"), 2, "there is no data set called 'minst'"),
        (("--dataset", "fashion-mnist"), 1, "(md5 8d4fb7e6c68d591d4c3dfef9ec88bf0d) is missing"),
        (("--dataset", "mnist-5k", "--batch", "4001"), 2, "larger than the 4000 training images"),
        (("--dataset", "mnist-5k", "--architecture", "vgg"), 2, "there is no architecture called 'vgg'"),
        (("--dataset", "mnist-5k", "--attack", "square"), 2, "does not declare that it can be used in training"),
        (("--dataset", "mnist-5k", "--validation", "0"), 2, "a validation share of 0 takes 0 of 4000 training images"),
        (("--dataset", "mnist-5k", "--validation", "1.5"), 2, "a validation share of 1.5 takes 6000 of 4000"),
        (("--dataset", "mnist-5k", "--mask-from", "detector"), 2, "--mask-from detector needs photos"),
        (("--dataset", "mnist-5k", "--mask-from", "folder", "--masks", "tiny"), 2, "--masks cannot be used"),
        (("--dataset", "zip:x"), 2, "no kind of data set called 'zip:'"),
    ]:
        done = train(*arguments)
        assert (done.code, said in done.error[0]) == (code, True), done.error
        assert list((work / "runs").glob("*-train-*")) == []


def wait_for_step(process, work, step=1):
    """Until a state of that step or a later one is kept; the run's folder."""
    while process.poll() is None:
        states = list((work / "runs").glob("*-train-*/state.safetensors"))
        if states and step_of(states[0]) >= step:
            return states[0].parent
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_kills_change_nothing(train, start_latcli, work):
    # Long enough that no machine comes to the end between two kills.
    arguments = (*TINY, "--batch", "8", "--attack-steps", "2", "--steps", "300", "--checkpoint-every", "7")
    moments, reached = random.Random(0), 1
    expected = document(train(*arguments, "--json", "--store", "undisturbed"))
    command = ("train", *arguments)
    for _ in range(4):
        process = start_latcli(*command)
        folder = wait_for_step(process, work, reached)
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert row_of(work).status == "crashed"
        command = ("train", "--resume", folder.name)
        reached = step_of(folder / "state.safetensors") + 1
    result = document(train(*command[1:], "--json"))

    assert reached <= result["resumed_at"] + 1 < 300
    assert weights(result) == weights(expected)


def test_tensorboard_forgets_what_a_kill_made_void_and_the_time_left_is_told_once(tmp_path, monkeypatch):
    """A step takes a second."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    clock, ticks, lines = [0.0], [], []
    monkeypatch.setattr(training_steps.time, "monotonic", lambda: clock[0])
    run = SimpleNamespace(folder=tmp_path, log=lines.append, record_metrics=lambda values: None)

    def steps(done, to, loss):
        trackers = Loggers(["tensorboard"], LoggedRun("7f3a", "7f3a", "train", tmp_path, {}, done), lines.append)
        log = TrainingLog(Session(stderr=io.StringIO()), run, tick, trackers, steps=100, done=done, batch=8)
        for step in range(done + 1, to + 1):
            clock[0] += 1.0
            log.on_step(StepReport(step, loss, 0.1, 0.3, 0.5 if step < 8 else None))
        log.flush()
        return log

    def tick(steps=1, /, *, text=None):
        ticks.append(steps)

    steps(0, 5, 1.0)  # killed here; the state is of step 3
    time.sleep(1.1)  # files are read in the order of the seconds in which they were begun
    lines.clear(), ticks.clear()
    log = steps(3, 100, 2.0)
    log.flush()

    assert lines == ["91 steps to go, about 2 min"]
    assert sum(ticks) == 100
    assert log.images_per_second == pytest.approx(8.0)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("loss")]
    assert curve == [(n, 1.0) for n in (1, 2, 3)] + [(n, 2.0) for n in (4, 5, 6, 7)]
