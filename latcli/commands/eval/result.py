"""What `latcli eval` comes to, in plain values, and its JSON document; must not know how it came about."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latcli.commands.eval.further import CurveRow, TransferRow
from latcli.commands.eval.models import Entry
from latcli.commands.eval.reliance import RelianceRow
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.evaluation.settings import EvalSettings
from latcli.results import spread


@dataclass(frozen=True)
class CellRow:
    """One model on one input. loss: None where it was not measured; epsilon, steps: None for natural inputs.

    model: the training run or the model's name; seed: of random starts and controls.
    """

    model: str
    label: str
    model_id: str
    regime: str | None
    train_seed: int | None
    input: str
    loss: float | None
    accuracy: float
    n: int
    epsilon: float | None
    steps: int | None
    restarts: int | None
    attack: str | None
    seed: int
    seconds: float


@dataclass(frozen=True)
class Group:
    """One regime on one input: mean and sample standard deviation over `models` training runs.

    A deviation is None for a single run, a loss where it was not measured in all of them.
    """

    regime: str
    input: str
    models: int
    n: int
    loss: float | None
    loss_spread: float | None
    accuracy: float
    accuracy_spread: float | None


@dataclass(frozen=True)
class Warned:
    """One reason not to believe the figures of a model, on an input or on all (None)."""

    model: str
    label: str
    input: str | None
    doubt: Doubt

    @property
    def line(self) -> str:
        """For a person."""
        return f"{self.label}{f', {self.input}' if self.input else ''}: {self.doubt.text}"

    def to_json(self) -> dict[str, Any]:
        """Its place and the doubt."""
        return {"model": self.model, "label": self.label, "input": self.input, **asdict(self.doubt)}


@dataclass(frozen=True)
class EvalResult:
    """A finished evaluation. n: attacked images of each column; groups: only where seeds were asked for.

    transfer, curves, reliance: empty where they were not asked for.
    """

    run: str
    dir: Path
    dataset: str
    n: int
    settings: EvalSettings
    models: tuple[Entry, ...]
    cells: tuple[CellRow, ...]
    groups: tuple[Group, ...]
    transfer: tuple[TransferRow, ...]
    curves: tuple[CurveRow, ...]
    reliance: tuple[RelianceRow, ...]
    warnings: tuple[Warned, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "run": self.run,
            "dir": str(self.dir),
            "dataset": self.dataset,
            "n": self.n,
            "attack": self.settings.attack_name,
            "settings": self.settings.to_json(),
            "models": [entry.to_json() for entry in self.models],
            "cells": [asdict(cell) for cell in self.cells],
            "groups": [asdict(group) for group in self.groups],
            "transfer": [asdict(row) for row in self.transfer],
            "curves": [asdict(row) for row in self.curves],
            "reliance": [asdict(row) for row in self.reliance],
            "warnings": [warned.to_json() for warned in self.warnings],
            "notes": list(self.notes),
        }


def grouped(cells: Sequence[CellRow]) -> tuple[Group, ...]:
    """Cells of the same regime and input as one, in the order in which they first come."""
    members: dict[tuple[str, str], list[CellRow]] = {}
    for cell in cells:
        members.setdefault((cell.regime or cell.label, cell.input), []).append(cell)
    return tuple(_group(*place, of_group) for place, of_group in members.items())


def _group(regime: str, name: str, cells: Sequence[CellRow]) -> Group:
    losses = [cell.loss for cell in cells if cell.loss is not None]
    accuracies = [cell.accuracy for cell in cells]
    whole = len(losses) == len(cells)
    return Group(
        regime=regime,
        input=name,
        models=len(cells),
        n=cells[0].n,
        loss=statistics.fmean(losses) if whole else None,
        loss_spread=spread(losses) if whole else None,
        accuracy=statistics.fmean(accuracies),
        accuracy_spread=spread(accuracies),
    )
