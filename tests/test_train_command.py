"""`latcli train` in processes of its own: results, stored runs, and what is left after kill, signals and bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import RunLatcli, StartLatcli
from PIL import Image
from safetensors import safe_open

from latcli.engine.datasets.base import DatasetSource
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.models.checkpoint import unpack

#: The fixture `folder` puts a data set of very small images at this name.
TINY = ("--preset", "quick", "--dataset", "folder:tiny", "--architecture", "paper-cnn", "--precision", "fp32")
FAST = (*TINY, "--batch", "8")
LONG = (*FAST, "--regime", "natural", "--steps", "120", "--checkpoint-every", "8")


@pytest.fixture
def folder(tmp_path: Path, run_latcli: RunLatcli) -> Path:
    """Where commands run; it holds real digits of 12 pixels a side, 30 for training and 10 for testing a class."""
    digits = open_dataset("mnist-5k", DatasetSource(tmp_path))
    parts = {"train": (digits.x_train, digits.y_train, 30), "test": (digits.x_test, digits.y_test, 10)}
    for split, (x_NCHW, y_N, count) in parts.items():
        for digit in range(3):
            place = tmp_path / "work" / "tiny" / split / str(digit)
            place.mkdir(parents=True)
            for index, x_CHW in enumerate(x_NCHW[y_N == digit][:count]):
                Image.fromarray(x_CHW[0].numpy()).resize((12, 12)).save(place / f"{index}.png")
    return tmp_path / "work"


@pytest.fixture
def start(start_latcli: StartLatcli, folder: Path) -> StartLatcli:
    """`start_latcli`, once the data is in its place."""
    return start_latcli


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def weights(path: str | Path) -> str:
    """The digest of a finished run's weights."""
    return str(unpack(Path(path), "classifier")[1]["digest"])


def only_run(folder: Path) -> Path:
    return next(iter((folder / "runs").glob("*-train-*")))


def step_of(state: Path) -> int:
    """The step of a training state, from its header alone."""
    with safe_open(state, framework="pt") as file:
        return int(json.loads(file.metadata()["latcli"])["step"])


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int = 1) -> Path:
    """Until a state of that step or a later one is kept; the run's folder."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        states = list((folder / "runs").glob("*-train-*/state.safetensors"))
        if states and step_of(states[0]) >= step:
            return states[0].parent
        time.sleep(0.05)
    raise AssertionError(f"no state came: {process.communicate() if process.poll() is not None else 'too slow'}")


def row(folder: Path, query: str) -> tuple[Any, ...]:
    connection = sqlite3.connect(folder / "runs" / "latcli.db")
    try:
        found = connection.execute(query).fetchone()
    finally:
        connection.close()
    assert found is not None
    return tuple(found)


def two_lines(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert [line.partition(":")[0] for line in lines[-2:]] == ["error", "hint"]
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in lines[-2] + lines[-1]


@contextmanager
def undisturbed(run_latcli: RunLatcli, tmp_path: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    yield document(run_latcli("train", *arguments, "--json", "--store", tmp_path / "undisturbed"))


# a whole run


def test_a_run_gives_its_document_a_model_and_numbers(run_latcli: RunLatcli, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    done = run_latcli(
        "train",
        "--preset",
        "quick",
        "--dataset",
        "mnist-5k",
        "--batch",
        "8",
        "--steps",
        "6",
        "--attack-steps",
        "1",
        "--json",
    )
    result = document(done)

    assert result["regime"] == "background"
    assert (result["dataset"], result["steps"]) == ("mnist-5k", 6)
    assert result["final"]["n"] == 1000
    assert 0 <= result["final"]["accuracy"] <= 1
    assert result["adversarial"]["n"] == 200
    assert result["adversarial"]["loss"] > 0
    assert Path(result["checkpoint"]).is_relative_to(result["dir"])
    assert not (Path(result["dir"]) / "state.safetensors").exists()
    assert row(folder, "SELECT status, exit_code, dataset FROM runs")[:2] == ("completed", 0)
    assert row(folder, "SELECT value FROM metrics WHERE name = 'test_accuracy'") == (result["final"]["accuracy"],)
    assert row(folder, "SELECT count(*) FROM metrics WHERE name = 'loss'") == (6,)
    trained = "SELECT architecture, regime, models.run = runs.id FROM runs JOIN models ON models.id = runs.model"
    assert row(folder, trained) == ("paper-cnn", "background", 1)
    assert "6 of 6: loss" in done.stderr
    assert run_latcli("runs", "verify").returncode == 0


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_the_model_is_a_classifier(run_latcli: RunLatcli, folder: Path) -> None:
    arguments = ("train", *FAST, "--regime", "natural", "--steps", "20", "--json")
    one, other = (document(run_latcli(*arguments, "--seed", "5")) for _ in range(2))
    assert weights(one["checkpoint"]) == weights(other["checkpoint"])

    photo = folder / "tiny" / "test" / "0" / "0.png"
    attack = ("attack", photo, "--center", "0.3", "--steps", "2", "--no-figures", "--json", "--classifier")
    by_run = document(run_latcli(*attack, one["run"][-4:]))
    by_path = document(run_latcli(*attack, one["checkpoint"]))
    assert by_run["images"][0]["clean"] == by_path["images"][0]["clean"]
    assert by_run["images"][0]["linf_inside"] == 0


def test_without_json_a_table_of_scores(run_latcli: RunLatcli, folder: Path) -> None:
    done = run_latcli("train", *FAST, "--regime", "natural", "--steps", "2")

    assert done.returncode == 0, done.stderr
    assert "natural training on folder:tiny, 2 steps" in done.stdout
    assert "accuracy" in done.stdout


def test_mnist_that_is_nowhere_is_replaced_loudly_and_the_run_remembers(run_latcli: RunLatcli, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    done = run_latcli("train", "--regime", "natural", "--steps", "2", "--batch", "8", "--offline", "--json")

    assert document(done)["dataset"] == "mnist-5k"
    assert "NOT MNIST" in done.stderr
    assert "NOT MNIST" in (only_run(folder) / "log.txt").read_text()
    assert row(folder, "SELECT name FROM datasets") == ("mnist-5k",)


# cut off and taken up again


def test_a_killed_run_is_resumed_to_the_same_bits(
    run_latcli: RunLatcli, start: StartLatcli, folder: Path, tmp_path: Path
) -> None:
    with undisturbed(run_latcli, tmp_path, *LONG) as expected:
        process = start("train", *LONG)
        cut_off = wait_for_step(process, folder)
        process.kill()
        process.communicate()
        first = run_latcli("runs", "show", "latest", "--json")
        assert json.loads(first.stdout)["status"] == "crashed"

        result = document(run_latcli("train", "--resume", cut_off.name[-4:], "--json"))

        assert result["run"] == cut_off.name
        assert 0 < result["resumed_at"] < 120
        assert weights(result["checkpoint"]) == weights(expected["checkpoint"])
        assert result["final"] == expected["final"]
        assert row(folder, "SELECT status, exit_code, error FROM runs") == ("completed", 0, None)
        assert row(folder, "SELECT count(*) FROM metrics WHERE name = 'loss'") == (120,)


@pytest.mark.slow
def test_twenty_kills_change_nothing(run_latcli: RunLatcli, start: StartLatcli, folder: Path, tmp_path: Path) -> None:
    # Long enough that no machine comes to the end between two kills.
    arguments = (*FAST, "--attack-steps", "2", "--steps", "900", "--checkpoint-every", "7")
    moments = random.Random(0)
    with undisturbed(run_latcli, tmp_path, *arguments) as expected:
        command: tuple[str, ...] = ("train", *arguments)
        reached = 1
        for _ in range(20):
            process = start(*command)
            cut_off = wait_for_step(process, folder, reached)
            time.sleep(moments.uniform(0.0, 0.2))
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            command = ("train", "--resume", cut_off.name)
            reached = step_of(cut_off / "state.safetensors") + 1
        result = document(run_latcli(*command, "--json"))

    assert reached <= result["resumed_at"] + 1 < 900
    assert weights(result["checkpoint"]) == weights(expected["checkpoint"])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_keeps_the_step_that_was_reached(
    run_latcli: RunLatcli, start: StartLatcli, folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = (*FAST, "--regime", "natural", "--steps", "600", "--checkpoint-every", "50")
    process = start("train", *arguments)
    cut_off = wait_for_step(process, folder, 50)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == code, stderr
    assert row(folder, "SELECT status, exit_code FROM runs") == ("interrupted", code)
    reached = step_of(cut_off / "state.safetensors")
    assert 50 <= reached < 600
    if number == signal.SIGTERM:
        with undisturbed(run_latcli, tmp_path, *arguments) as expected:
            result = document(run_latcli("train", "--resume", "latest", "--json"))
            assert result["resumed_at"] == reached
            assert weights(result["checkpoint"]) == weights(expected["checkpoint"])


def test_a_diverging_run_names_its_step_and_keeps_its_last_good_state(run_latcli: RunLatcli, folder: Path) -> None:
    options = ("--optimizer", "sgd", "--rate", "1e20", "--schedule", "constant", "--checkpoint-every", "1000")
    done = run_latcli("train", *FAST, "--regime", "natural", "--steps", "50", *options)

    two_lines(done, 1, "training diverged at step ", "the last good checkpoint is kept")
    status, error = row(folder, "SELECT status, error FROM runs")
    assert status == "failed"
    assert "diverged at step" in error
    assert step_of(only_run(folder) / "state.safetensors") == 0


def test_two_processes_cannot_work_on_one_run(run_latcli: RunLatcli, start: StartLatcli, folder: Path) -> None:
    process = start("train", *FAST, "--regime", "natural", "--steps", "100000", "--checkpoint-every", "20")
    cut_off = wait_for_step(process, folder)

    two_lines(run_latcli("train", "--resume", cut_off.name), 2, "is at work in another process")
    assert process.poll() is None
    process.kill()


@pytest.fixture
def cut_off_run(run_latcli: RunLatcli, start: StartLatcli, folder: Path) -> Path:
    process = start("train", *LONG)
    cut_off = wait_for_step(process, folder)
    process.kill()
    process.communicate()
    return cut_off


@pytest.mark.slow
def test_what_cannot_be_resumed_is_refused_with_the_reason(run_latcli: RunLatcli, cut_off_run: Path) -> None:
    resume = ("train", "--resume", cut_off_run.name)
    changed = run_latcli(*resume, "--steps", "99", "--rate", "0.5", "--seed", "3", "--regime", "natural")
    two_lines(changed, 2, "--steps 99 (was 120)", "--rate 0.5 (was 0.002)", "--seed 3 (was 0)")
    assert "--regime" not in changed.stderr
    two_lines(run_latcli("train", "--resume", "ffff0"), 2, "there is no run 'ffff0'")

    state = cut_off_run / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-100])
    two_lines(run_latcli(*resume), 1, "state.safetensors is truncated or damaged")
    state.write_bytes(whole)
    assert document(run_latcli(*resume, "--json", "--steps", "120"))["steps"] == 120
    two_lines(run_latcli(*resume), 2, "is already completed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_is_told_of(run_latcli: RunLatcli, tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)

    two_lines(run_latcli("train", *FAST, "--store", tmp_path / "sealed"), 1, "cannot be read or written")


# bad input


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--dataset", "minst"), 2, "there is no dataset called 'minst'"),
        (("--dataset", "fashion-mnist", "--offline"), 1, "(md5 8d4fb7e6c68d591d4c3dfef9ec88bf0d) is missing"),
        (("--dataset", "mnist-5k", "--batch", "4001"), 2, "larger than the 4000 training images"),
        (("--dataset", "mnist-5k", "--architecture", "vgg"), 2, "there is no architecture called 'vgg'"),
    ],
)
def test_bad_options_are_told_in_two_lines(
    run_latcli: RunLatcli, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    two_lines(run_latcli("train", *arguments), code, said)
    assert list((tmp_path / "work" / "runs").glob("*-train-*")) == []


@pytest.mark.slow
def test_a_run_of_another_command_is_no_classifier_and_not_resumed(run_latcli: RunLatcli, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(photo)
    attack = ("attack", photo, "--center", "0.3", "--steps", "1", "--no-figures", "--json")
    run = document(run_latcli(*attack))["run"]

    two_lines(run_latcli(*attack, "--classifier", run[-4:]), 2, "is a run of attack, not of train")
    two_lines(run_latcli("train", "--resume", run), 2, "is a run of attack, not of train")
