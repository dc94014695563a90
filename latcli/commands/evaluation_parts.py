"""What an evaluation measures beside the matrix, part by part, and the file from which an interrupted one goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from latcli.commands.evaluated_models import LoadedModel
from latcli.engine.datasets.base import Images
from latcli.engine.evaluation.beyond import accuracy_against_epsilon, accuracy_against_steps, transfer_matrix
from latcli.engine.evaluation.matrix import Evaluation
from latcli.engine.evaluation.reliance import background_reliance, photos_of
from latcli.engine.evaluation.settings import ATTACKED, InputType
from latcli.engine.models.checkpoint import pack, unpack
from latcli.engine.models.classifier import Classifier
from latcli.errors import WeightsError
from latcli.results import AccuracyCurve, DocumentError, RelianceRow, TransferCell, read, to_json
from latcli.session import Tick
from latcli.store.store import Run

#: What was found out, image by image, and beside the matrix part by part.
SAMPLES = "samples.safetensors"

_KIND = "evaluation"
#: After the first batch the samples are kept, and then after each, but not more often than this.
_KEEP_SECONDS = 3.0

#: Rows of a part, by the first word of its name.
_ROWS: dict[str, type] = {"transfer": TransferCell, "curve": AccuracyCurve, "reliance": RelianceRow}


@dataclass(frozen=True)
class Part:
    """A stretch of the work of which nothing is kept before it is whole.

    name: unique, and its first word says what its rows are; images: what the bar counts; measure: gives its rows.
    """

    name: str
    images: int
    measure: Callable[[Tick], Sequence[TransferCell | AccuracyCurve | RelianceRow]]


class Findings:
    """The rows of the parts that are done, as plain values, by the parts' names."""

    def __init__(self, rows_of: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self.rows_of = rows_of or {}

    def keep(self, part: Part, rows: Sequence[TransferCell | AccuracyCurve | RelianceRow]) -> None:
        """Note what a part found."""
        self.rows_of[part.name] = to_json(rows)

    def rows(self, kind: str) -> tuple[Any, ...]:
        """All rows of the parts whose name begins so. Raises WeightsError where they hold something else."""
        kept = [rows for name, rows in self.rows_of.items() if name.partition(" ")[0] == kind]
        try:
            return tuple(row for rows in read(list[list[_ROWS[kind]]], kept) for row in rows)  # type: ignore[valid-type]
        except DocumentError as error:
            raise WeightsError(f"the run's {kind} cannot be read: {error}", "start a new evaluation") from error


def parts_of(
    models: Sequence[LoadedModel], contenders: Sequence[LoadedModel], evaluation: Evaluation
) -> Iterator[Part]:
    """The parts in their order: transfer between the contenders, then each model's curves, then each one's reliance.

    What they measure raises as the engine's functions of these names do.
    """
    settings, n = evaluation.settings, len(evaluation.chosen_N)
    for name in ATTACKED if contenders else ():
        yield Part(f"transfer {name}", n, partial(_transfer, contenders, name, evaluation))
    for one in models:
        for name in ATTACKED:
            for axis, values in (("epsilon", settings.curve_epsilons), ("steps", settings.curve_steps)):
                if values:
                    yield Part(f"curve {axis} {name} {one.entry.id}", n, partial(_curve, axis, one, name, evaluation))
    for one in models if settings.donor_seeds else ():
        yield Part(f"reliance {one.entry.id}", evaluation.data.test_count, partial(_reliance, one, evaluation))


def _ticked(batches: Iterable[tuple[Images, Tensor]], tick: Tick, text: str) -> Iterator[tuple[Images, Tensor]]:
    tick(0, text=text)
    for images, eps_B1HW in batches:
        yield images, eps_B1HW
        tick(len(images.y_B))


def _transfer(
    contenders: Sequence[LoadedModel], name: InputType, evaluation: Evaluation, tick: Tick
) -> list[TransferCell]:
    settings = evaluation.settings
    batches = _ticked(evaluation.attacked(name, settings.epsilon), tick, f"transfer, {name}")
    subjects = [replace(one.subject, name=one.entry.id) for one in contenders]
    how = (settings.attack_function(), settings.attack_settings(), settings.seed)
    return transfer_matrix(subjects, name, batches, *how)


def _curve(axis: str, one: LoadedModel, name: InputType, evaluation: Evaluation, tick: Tick) -> list[AccuracyCurve]:
    settings, subject, by_steps = evaluation.settings, one.subject, axis == "steps"
    batches = evaluation.attacked(name, settings.epsilon if by_steps else 1.0)
    ticked = _ticked(batches, tick, f"{subject.name}, {name}, {axis}")
    models, how = (subject.fast, subject.net), (settings.attack_settings(), settings.seed)
    attack = settings.attack_function()
    if by_steps:
        curve = accuracy_against_steps(attack, *models, ticked, settings.curve_steps, *how)
    else:
        curve = accuracy_against_epsilon(attack, *models, ticked, settings.curve_epsilons, *how)
    return [AccuracyCurve(one.entry.id, name, curve.axis, curve.points)]


def _reliance(one: LoadedModel, evaluation: Evaluation, tick: Tick) -> list[RelianceRow]:
    settings, classifier = evaluation.settings, one.subject.net
    assert isinstance(classifier, Classifier)  # on photos nothing stands before it
    tick(0, text=f"{one.subject.name}, background reliance")
    seeds = range(settings.seed, settings.seed + settings.donor_seeds)
    photos = photos_of(evaluation.data)
    return [background_reliance(one.entry.id, classifier, photos, seeds, watch=lambda photo: tick())]


class SampleKeeper:
    """Writes what was found out into the run now and then; the file before stays until the new one is whole."""

    def __init__(self, stored: Run, evaluation: Evaluation, findings: Findings) -> None:
        self._stored, self._evaluation, self._findings = stored, evaluation, findings
        self._saved_at = -math.inf

    def after_batch(self) -> None:
        """Keep it where some time has passed. Raises StoreError."""
        if time.monotonic() - self._saved_at >= _KEEP_SECONDS:
            self.save()

    def save(self) -> None:
        """Keep it now. Raises StoreError."""
        tensors = {
            f"{index}.{name}.{part}": tensor
            for index, columns in enumerate(self._evaluation.columns)
            for name, column in columns.items()
            for part, tensor in column.tensors().items()
        }
        tensors["chosen"] = self._evaluation.chosen_N
        description = {"settings": to_json(self._evaluation.settings), "findings": self._findings.rows_of}
        self._stored.write_artifact(SAMPLES, pack(_KIND, tensors, description), "samples")
        self._saved_at = time.monotonic()


def restore(evaluation: Evaluation, path: Path) -> Findings:
    """Fill the columns with what a file of `SampleKeeper` holds, and return what was measured beside them.

    Raises WeightsError where it is damaged or of other models, data or settings.
    """
    tensors, description = unpack(path, _KIND)
    for index, columns in enumerate(evaluation.columns):
        for name, column in columns.items():
            prefix = f"{index}.{name}."
            parts = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            column.restore(parts, str(path))
    findings = description.get("findings")
    if not isinstance(findings, dict):
        raise WeightsError(f"{path} does not fit the evaluation: findings", "start a new evaluation")
    return Findings(findings)
