"""What `latcli eval` measures beside the matrix, transfer and curves: options in, rows out; must not store or show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from latcli.commands.eval_models import Opened
from latcli.commands.eval_reliance import RelianceRow, photos_of, reliance_of
from latcli.commands.parsing import parse_epsilon
from latcli.commands.session import Tick
from latcli.engine.attacks.pgd import pgd
from latcli.engine.datasets.base import Images, TrainingData
from latcli.engine.evaluation.curves import (
    Curve,
    CurvePoint,
    accuracy_against_epsilon,
    accuracy_against_steps,
    require_ascending,
)
from latcli.engine.evaluation.matrix import Evaluation
from latcli.engine.evaluation.settings import ATTACKED, InputType
from latcli.engine.evaluation.transfer import Contender, transfer_matrix
from latcli.errors import UsageError
from latcli.store.run import Run

_HINT = "for example --curve epsilon=0.1,0.2,0.3 or --curve steps=1,10,100"


@dataclass(frozen=True)
class Further:
    """What was asked for beside the matrix: examples of each model on all, and the ascending points of each curve.

    donor_seeds: how many times backgrounds are lent out for the reliance; 0 where it was not asked for.
    """

    transfer: bool = False
    epsilons: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    donor_seeds: int = 0

    @classmethod
    def of(cls, transfer: bool, curves: Iterable[str], donor_seeds: int = 0) -> Self:
        """From `epsilon=E,E,...` and `steps=N,N,...`, each at most once. Raises UsageError."""
        points: dict[str, Sequence[float]] = {"epsilon": (), "steps": ()}
        for text in curves:
            axis, _, values = text.partition("=")
            if axis not in points:
                raise UsageError(f"there is no curve '{text}': it is epsilon=... or steps=...", _HINT)
            if points[axis]:
                raise UsageError(f"two curves against {axis} were asked for", f"give all its points at once, {_HINT}")
            points[axis] = [_point(axis, value) for value in values.split(",")]
            require_ascending(points[axis], f"values of '{text}'")
        return cls(transfer, tuple(points["epsilon"]), tuple(int(count) for count in points["steps"]), donor_seeds)

    def to_json(self) -> dict[str, Any]:
        """By the names of the options, in plain values; curves as they are typed."""
        curves = {"epsilon": self.epsilons, "steps": self.steps}
        texts = [f"{axis}={','.join(map(repr, points))}" for axis, points in curves.items() if points]
        lent = {"reliance": self.donor_seeds > 0, "donor_seeds": self.donor_seeds or None}
        return {"transfer": self.transfer, "curve": texts, **lent}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave; other keys are not looked at."""
        return cls.of(bool(values.get("transfer")), values.get("curve", ()), values.get("donor_seeds") or 0)

    def check(self, count: int, data: TrainingData) -> None:
        """Raise UsageError where so many models, or the data, are not enough for what was asked for."""
        if self.donor_seeds:
            photos_of(data)
        if self.transfer and count < 2:
            raise UsageError("--transfer needs two models at least", "name several models, or train another regime")

    def images(self, models: int, n: int, data: TrainingData) -> int:
        """How many images all of it asks for: n for each input, and for each model and curve; photos with each seed."""
        lent = models * self.donor_seeds * data.test_count
        return lent + n * len(ATTACKED) * (self.transfer + models * (bool(self.epsilons) + bool(self.steps)))

    @property
    def words(self) -> list[str]:
        """For a person, one entry for each."""
        return (
            (["transfer"] if self.transfer else [])
            + [f"curve {text}" for text in self.to_json()["curve"]]
            + ([f"background reliance, {self.donor_seeds} donor seeds"] if self.donor_seeds else [])
        )


@dataclass(frozen=True)
class TransferRow:
    """One target on the examples of one source, both by their ids in the store; a source of None: as they are."""

    input: InputType
    source: str | None
    target: str
    n: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class CurveRow:
    """One model's accuracy on one input against one axis, from the point without any attack on; model: id."""

    model: str
    input: InputType
    axis: Literal["epsilon", "steps"]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Watched:
    """Tells the bar and the store of each batch that is done."""

    run: Run
    tick: Tick

    def photo(self) -> None:
        """One photo is done. Raises StoreError."""
        self.tick()
        self.run.heartbeat()

    def __call__(
        self, batches: Iterable[tuple[Images, torch.Tensor]], text: str
    ) -> Iterator[tuple[Images, torch.Tensor]]:
        """The batches as they are. Raises StoreError."""
        self.tick(0, text=text)
        for images, eps_B1HW in batches:
            yield images, eps_B1HW
            self.tick(len(images.y_B))
            self.run.heartbeat()


def transfer_of(models: Sequence[Opened], evaluation: Evaluation, watched: Watched) -> tuple[TransferRow, ...]:
    """The matrix's attack on each model, tried on all, for standard and background. Raises as `transfer_matrix`."""
    settings = evaluation.settings
    contenders = [Contender(one.entry.id, one.subject.fast, one.subject.net) for one in models]
    rows: list[TransferRow] = []
    for name in ATTACKED:
        batches = watched(evaluation.attacked(name, settings.epsilon), f"transfer, {name}")
        cells = transfer_matrix(contenders, batches, pgd, settings.attack(), settings.seed)
        rows += [TransferRow(name, one.source, one.target, one.n, one.loss, one.accuracy) for one in cells]
    return tuple(rows)


def curves_of(
    models: Sequence[Opened], evaluation: Evaluation, further: Further, watched: Watched
) -> tuple[CurveRow, ...]:
    """Each model's curves, for standard and background, under the matrix's attack. Raises as the engine's curves do."""
    rows = []
    for one in models:
        for name in ATTACKED:
            curves = _curves(one, name, evaluation, further, watched)
            rows += [CurveRow(one.entry.id, name, curve.axis, curve.points) for curve in curves]
    return tuple(rows)


def lent_backgrounds(
    models: Sequence[Opened], evaluation: Evaluation, further: Further, watched: Watched
) -> tuple[RelianceRow, ...]:
    """Each model's reliance on the background, of all test photos. Raises as `reliance_of` does."""
    first = evaluation.settings.seed
    watched.tick(0, text="background reliance")
    return reliance_of(models, evaluation.data, range(first, first + further.donor_seeds), watched.photo)


def _curves(
    one: Opened, name: InputType, evaluation: Evaluation, further: Further, watched: Watched
) -> Iterator[Curve]:
    settings, fast, score = evaluation.settings, one.subject.fast, one.subject.net
    text = f"{one.entry.label}, {name}"
    told = (settings.attack(), settings.seed)
    if further.epsilons:
        batches = watched(evaluation.attacked(name, 1.0), f"{text}, epsilon")
        yield accuracy_against_epsilon(pgd, fast, score, batches, further.epsilons, *told)
    if further.steps:
        batches = watched(evaluation.attacked(name, settings.epsilon), f"{text}, steps")
        yield accuracy_against_steps(pgd, fast, score, batches, further.steps, *told)


def _point(axis: str, text: str) -> float:
    if axis == "epsilon":
        return parse_epsilon(text)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"'{text}' is no number of steps", _HINT) from None
