"""Trackers get a run's numbers through their own clients: the real ones offline where installed, else stand-ins."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from latcli.engine import loggers
from latcli.engine.loggers import LoggedRun, Loggers
from latcli.errors import UsageError

CONFIG = {"epsilon": 0.3, "regime": "background"}
COLUMNS, ROWS = ("model", "accuracy"), [("a|b", 0.5), ("natural", None)]


def logged(folder, done=0):
    return LoggedRun("20261126-101500-train-7f3a", "mine", "train", folder, CONFIG, done, offline=True)


def log(name, folder, done=0):
    """Two steps and a table through a logger; what it had to say."""
    notes = []
    with Loggers([name], logged(folder, done), notes.append) as trackers:
        for step in (done + 1, done + 2):
            trackers.scalars({"loss": 1.0 / step, "timm:x/accuracy": 0.5}, step)
        trackers.table("Loss matrix", COLUMNS, ROWS)
    return notes


def stand_in(monkeypatch, name, **members):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


class FakeWandb:
    def __init__(self, **about):
        self.about, self.logged, self.ended = about, [], None

    def log(self, values, step=None):
        self.logged.append((values, step))

    def finish(self, exit_code):
        self.ended = exit_code


def test_wandb_gets_steps_and_tables_under_the_id_of_the_run(monkeypatch, tmp_path):
    made = []
    table = SimpleNamespace
    stand_in(
        monkeypatch,
        "wandb",
        init=lambda **about: made.append(FakeWandb(**about)) or made[-1],
        Settings=SimpleNamespace,
        Table=table,
    )

    assert log("wandb", tmp_path) == []
    (run,) = made
    assert (run.about["id"], run.about["mode"], run.about["config"]) == (logged(tmp_path).id, "offline", CONFIG)
    assert [step for _, step in run.logged] == [1, 2, None]
    assert run.logged[-1][0]["Loss matrix"].data == [["a|b", 0.5], ["natural", None]]
    assert run.ended == 0


class FakeMlflow:
    """The few calls of MlflowClient that are made, on runs in memory."""

    runs: list[Any]

    def __init__(self):
        self.runs = FakeMlflow.runs

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return name

    def search_runs(self, places, query, max_results):
        return [run for run in self.runs if run.tags["latcli.run"] in query]

    def create_run(self, place, run_name, tags):
        about = SimpleNamespace(run_id=str(len(self.runs)))
        self.runs.append(SimpleNamespace(info=about, tags=tags, metrics=[], params={}, texts={}, status="RUNNING"))
        return self.runs[-1]

    def update_run(self, run, status):
        self.runs[int(run)].status = status

    set_terminated = update_run

    def log_batch(self, run, metrics=(), params=()):
        self.runs[int(run)].metrics += [(one.key, one.step) for one in metrics]
        self.runs[int(run)].params |= {one.key: one.value for one in params}

    def log_text(self, run, text, name):
        self.runs[int(run)].texts[name] = text


def test_mlflow_gets_one_run_however_often_ours_is_resumed(monkeypatch, tmp_path):
    FakeMlflow.runs = []
    stand_in(monkeypatch, "mlflow", MlflowClient=FakeMlflow)
    stand_in(
        monkeypatch,
        "mlflow.entities",
        Metric=lambda key, value, now, step: SimpleNamespace(key=key, step=step),
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
    )
    assert log("mlflow", tmp_path) == log("mlflow", tmp_path, done=2) == []
    (run,) = FakeMlflow.runs
    assert [step for key, step in run.metrics if key == "loss"] == [1, 2, 3, 4]
    assert {key for key, _ in run.metrics} == {"loss", "timm_x/accuracy"}
    assert (run.params["regime"], run.status) == ("background", "FINISHED")
    assert run.texts["loss-matrix.md"].splitlines()[2:] == [r"| a\|b | 0.5 |", "| natural |  |"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_client_writes_offline(name, monkeypatch, tmp_path):
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert log(name, tmp_path) == log(name, tmp_path, done=2) == []
    if name == "wandb":
        assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) >= 1
    else:
        client = importlib.import_module("mlflow").MlflowClient()
        (run,) = client.search_runs([client.get_experiment_by_name("latcli").experiment_id])
        steps = [one.step for one in client.get_metric_history(run.info.run_id, "loss")]
        assert (steps, run.data.params["epsilon"], run.info.status) == ([1, 2, 3, 4], "0.3", "FINISHED")


def test_a_logger_that_is_unknown_or_not_installed_is_refused_first(monkeypatch):
    with pytest.raises(UsageError, match="no logger called 'wandbb'"):
        loggers.check(["wandbb"])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as raised:
        loggers.check(["mlflow"])
    assert raised.value.hint == "pip install mlflow"


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(monkeypatch, tmp_path):
    class Failing:
        def __init__(self, run): ...

        def scalars(self, values, step):
            raise OSError(28, "No space left on device")

    def made(kind, name):
        return Failing

    monkeypatch.setattr(loggers.registry, "load", made)
    (note,) = log("full", tmp_path)
    assert note.startswith("warning: no longer logging to full: ")
    assert "No space left" in note
