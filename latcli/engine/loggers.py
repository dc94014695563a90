"""Experiment trackers: a run's numbers and tables in TensorBoard, W&B or MLflow, through the tracker's own client.

A logger is made by a function that takes a LoggedRun and is registered under a name; another package adds one by an
entry point in the group `latcli.loggers`. Clients are imported when a run starts to log. The store has every number as
well, so a tracker that fails is reported once and left out, and the run goes on.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from latcli.engine import registry
from latcli.errors import UsageError, first_line

Value = str | float | int | None


@dataclass(frozen=True)
class LoggedRun:
    """The run as a tracker sees it.

    `folder` is where it may write. `done` steps were logged before the run was resumed. `offline` asks it to send
    nothing.
    """

    id: str
    name: str
    command: str
    folder: Path
    config: Mapping[str, Any]
    done: int = 0
    offline: bool = False


class Logger(Protocol):
    """One tracker's view of one run. Its methods may raise anything."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step, which never decreases."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Log a table of results."""

    def close(self, completed: bool) -> None:
        """Send what is left."""


def check(names: Sequence[str]) -> None:
    """Raise UsageError for a logger that is unknown or whose client is not installed."""
    for name in names:
        registry.load("logger", name)
        if name in registry.BUILT_IN["logger"] and find_spec(name) is None:
            raise UsageError(f"--logger {name} needs the package {name}", f"pip install {name}")


def installed() -> tuple[str, ...]:
    """The logger that is used if none is named: TensorBoard, which only writes files, if it is installed."""
    return ("tensorboard",) if find_spec("tensorboard") is not None else ()


class Loggers(AbstractContextManager["Loggers"]):
    """Several loggers as one. A context: leaving it closes them.

    One that raises is left out from then on, with a warning to `note`.
    """

    def __init__(self, names: Sequence[str], run: LoggedRun, note: Callable[[str], None]) -> None:
        self._note = note
        self._open: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = registry.load("logger", name)(run)
            except Exception as error:
                self._drop(name, error)

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self._each("close", kind is None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step."""
        self._each("scalars", values, step)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Log a table of results."""
        self._each("table", title, columns, rows)

    def _each(self, method: str, *arguments: object) -> None:
        for name, logger in list(self._open.items()):
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        self._note(f"warning: no longer logging to {name}: {first_line(error)}")


class TensorBoard:
    """Event files in the run's folder, for `tensorboard --logdir runs`."""

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard ignores what a killed process wrote after the step that the run resumes from.
        self._writer: Any = SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=run.done + 1 if run.done else None
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point on each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """A Markdown table among the texts."""
        self._writer.add_text(title, markdown(columns, rows))

    def close(self, completed: bool) -> None:
        """Close the event file."""
        self._writer.close()


class Wandb:
    """A W&B run with the id of ours, in the project of WANDB_PROJECT, else `latcli`."""

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self._client: Any = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "latcli"),
            id=run.id,
            name=run.name,
            job_type=run.command,
            dir=str(run.folder),
            config=dict(run.config),
            resume="allow",
            mode="offline" if run.offline else None,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point on each curve."""
        self._run.log(dict(values), step=step)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """A W&B table."""
        self._run.log({title: self._client.Table(columns=list(columns), data=[list(row) for row in rows])})

    def close(self, completed: bool) -> None:
        """Wait until all is sent, or written where offline."""
        self._run.finish(exit_code=0 if completed else 1)


class Mlflow:
    """An MLflow run with our run's name, at MLFLOW_TRACKING_URI, in the experiment `latcli` unless one is set."""

    def __init__(self, run: LoggedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "latcli")
        known = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if known is None else known.experiment_id
        found = self._client.search_runs([place], f"tags.`latcli.run` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        made = self._client.create_run(place, run_name=run.name, tags={"latcli.run": run.id})
        self._id = made.info.run_id
        self._client.log_batch(self._id, params=[Param(name, str(value)[:500]) for name, value in run.config.items()])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point on each curve."""
        now = int(1000 * time.time())
        metrics = [self._metric(re.sub(r"[^\w\-. /]", "_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """A Markdown file among the artifacts."""
        self._client.log_text(self._id, markdown(columns, rows), f"{re.sub(r'[^a-z0-9]+', '-', title.lower())}.md")

    def close(self, completed: bool) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._id, "FINISHED" if completed else "FAILED")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """A table in Markdown; None is an empty cell."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [["" if value is None else str(value).replace("|", "\\|") for value in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"
