"""What `latcli eval` measures beside the matrix, part by part: options in, rows out; must not store or show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, Self, TypeVar

import torch

from latcli.commands.eval.models import Opened
from latcli.commands.eval.reliance import RelianceRow, photos_of, reliance_of
from latcli.documents import DocumentError, require_shape
from latcli.engine.attacks.pgd import pgd
from latcli.engine.datasets.base import Images, TrainingData
from latcli.engine.evaluation.curves import (
    CurvePoint,
    accuracy_against_epsilon,
    accuracy_against_steps,
    require_ascending,
)
from latcli.engine.evaluation.matrix import Evaluation
from latcli.engine.evaluation.settings import ATTACKED, InputType
from latcli.engine.evaluation.transfer import Contender, transfer_matrix
from latcli.errors import UsageError, WeightsError
from latcli.options import parse_epsilon
from latcli.session import Tick
from latcli.store.store import Run

#: As `--transfer`: every model of the evaluation.
ALL_MODELS = "all"

Axis = Literal["epsilon", "steps"]

_HINT = "for example --curve epsilon=0.1,0.2,0.3 or --curve steps=1,10,100"


@dataclass(frozen=True)
class Further:
    """What was asked for beside the matrix: examples of some models on each other, and the points of each curve.

    transfer: names of models with commas between, or `all`; empty where it was not asked for, as curves without points.
    donor_seeds: how many times backgrounds are lent out for the reliance; 0 where it was not asked for.
    """

    transfer: str = ""
    epsilons: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    donor_seeds: int = 0

    @classmethod
    def of(cls, transfer: str, curves: Iterable[str], donor_seeds: int = 0) -> Self:
        """From names, and `epsilon=E,E,...` and `steps=N,N,...`, each at most once. Raises UsageError."""
        points: dict[str, Sequence[float]] = {"epsilon": (), "steps": ()}
        for text in curves:
            axis, _, values = text.partition("=")
            if axis not in points:
                raise UsageError(f"there is no curve '{text}': it is epsilon=... or steps=...", _HINT)
            if points[axis]:
                raise UsageError(f"two curves against {axis} were asked for", f"give all its points at once, {_HINT}")
            points[axis] = [_point(axis, value) for value in values.split(",")]
            require_ascending(points[axis], f"values of '{text}'")
        asked = cls(transfer, tuple(points["epsilon"]), tuple(int(count) for count in points["steps"]), donor_seeds)
        if transfer and transfer != ALL_MODELS and len(asked.contenders) < 2:
            raise UsageError("--transfer needs two models at least", "for example --transfer 7f3a,81c2, or all")
        return asked

    @property
    def contenders(self) -> tuple[str, ...]:
        """The names that `--transfer` lists, each once; none where it says `all`."""
        if self.transfer == ALL_MODELS:
            return ()
        return tuple(dict.fromkeys(name.strip() for name in self.transfer.split(",") if name.strip()))

    def to_json(self) -> dict[str, Any]:
        """By the names of the options, in plain values; curves as they are typed."""
        curves = {"epsilon": self.epsilons, "steps": self.steps}
        texts = [f"{axis}={','.join(map(repr, points))}" for axis, points in curves.items() if points]
        lent = {"reliance": self.donor_seeds > 0, "donor_seeds": self.donor_seeds or None}
        return {"transfer": self.transfer or None, "curve": texts, **lent}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave; other keys are not looked at."""
        return cls.of(values.get("transfer") or "", values.get("curve", ()), values.get("donor_seeds") or 0)

    def check(self, contenders: int, data: TrainingData) -> None:
        """Raise UsageError where so many models for the transfer, or the data, are not enough for it."""
        if self.donor_seeds:
            photos_of(data)
        if self.transfer and contenders < 2:
            raise UsageError("--transfer needs two models at least", "name several models, or train another regime")

    @property
    def words(self) -> list[str]:
        """For a person, one entry for each."""
        curves = {"epsilon": self.epsilons, "steps": self.steps}
        told = ["transfer"] if self.transfer else []
        told += [f"curve against {axis}, {len(points)} points" for axis, points in curves.items() if points]
        return [*told, f"background reliance, donor seeds: {self.donor_seeds}"] if self.donor_seeds else told


@dataclass(frozen=True)
class TransferRow:
    """One target on the examples of one source, both by their ids in the store; a source of None: as they are."""

    input: InputType
    source: str | None
    target: str
    n: int
    loss: float
    accuracy: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `asdict` gave. Raises TypeError where it is not that."""
        return cls(**values)


@dataclass(frozen=True)
class CurveRow:
    """One model's accuracy on one input against one axis, from the point without any attack on; model: id."""

    model: str
    input: InputType
    axis: Axis
    points: tuple[CurvePoint, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `asdict` gave. Raises KeyError or TypeError where it is not that."""
        return cls(**{**values, "points": tuple(CurvePoint(**point) for point in values["points"])})


@dataclass(frozen=True)
class Watched:
    """Tells the bar and the store of each batch that is done."""

    run: Run
    tick: Tick

    def photo(self) -> None:
        """One photo is done. Raises StoreError."""
        self.tick()

    def __call__(
        self, batches: Iterable[tuple[Images, torch.Tensor]], text: str
    ) -> Iterator[tuple[Images, torch.Tensor]]:
        """The batches as they are. Raises StoreError."""
        self.tick(0, text=text)
        for images, eps_B1HW in batches:
            yield images, eps_B1HW
            self.tick(len(images.y_B))


_Row = TypeVar("_Row", TransferRow, CurveRow, RelianceRow)
Rows = Sequence[TransferRow] | Sequence[CurveRow] | Sequence[RelianceRow]


@dataclass(frozen=True)
class Part:
    """A stretch of the work of which nothing is kept before it is whole. name: unique; images: what the bar counts."""

    name: str
    images: int
    measure: Callable[[Watched], Rows]


@dataclass
class Findings:
    """What the parts found, as plain values: all that an interrupted evaluation needs to go on with them."""

    rows_of: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def keep(self, part: Part, rows: Rows) -> None:
        """Note what a part found."""
        self.rows_of[part.name] = [asdict(row) for row in rows]

    def transfer(self) -> tuple[TransferRow, ...]:
        """Of all parts that are done. Raises WeightsError where they hold something else."""
        return self._read("transfer", TransferRow)

    def curves(self) -> tuple[CurveRow, ...]:
        """Of all parts that are done. Raises WeightsError where they hold something else."""
        return self._read("curve", CurveRow)

    def reliance(self) -> tuple[RelianceRow, ...]:
        """Of all parts that are done. Raises WeightsError where they hold something else."""
        return self._read("reliance", RelianceRow)

    def _read(self, kind: str, shape: type[_Row]) -> tuple[_Row, ...]:
        kept = [rows for name, rows in self.rows_of.items() if name.partition(" ")[0] == kind]
        try:
            require_shape(kept, list[list[shape]], kind)  # type: ignore[valid-type]
        except DocumentError as error:
            raise WeightsError(
                f"the run keeps no {kind} that can be read: {error}", "start a new evaluation"
            ) from error
        return tuple(shape.from_json(values) for rows in kept for values in rows)


def parts_of(
    models: Sequence[Opened], contenders: Sequence[Opened], evaluation: Evaluation, further: Further
) -> Iterator[Part]:
    """The parts in their order: transfer between the contenders, then each model's curves, then each one's reliance.

    What they measure raises as the engine's functions of these names do.
    """
    n = len(evaluation.chosen_N)
    for name in ATTACKED if further.transfer else ():
        yield Part(f"transfer {name}", n, partial(_transfer, contenders, name, evaluation))
    for one in models:
        for name in ATTACKED:
            of_model = (one, name, evaluation)
            if further.epsilons:
                measure = partial(_against_epsilon, *of_model, further.epsilons)
                yield Part(f"curve epsilon {name} {one.entry.id}", n, measure)
            if further.steps:
                yield Part(f"curve steps {name} {one.entry.id}", n, partial(_against_steps, *of_model, further.steps))
    lent = evaluation.data.test_count * further.donor_seeds
    for one in models if further.donor_seeds else ():
        yield Part(f"reliance {one.entry.id}", lent, partial(_reliance, one, evaluation, further.donor_seeds))


def _transfer(
    contenders: Sequence[Opened], name: InputType, evaluation: Evaluation, watched: Watched
) -> list[TransferRow]:
    settings = evaluation.settings
    named = [Contender(one.entry.id, one.subject.fast, one.subject.net) for one in contenders]
    batches = watched(evaluation.attacked(name, settings.epsilon), f"transfer, {name}")
    cells = transfer_matrix(named, batches, pgd, settings.attack(), settings.seed)
    return [TransferRow(name, one.source, one.target, one.n, one.loss, one.accuracy) for one in cells]


def _against_epsilon(
    one: Opened, name: InputType, evaluation: Evaluation, epsilons: Sequence[float], watched: Watched
) -> list[CurveRow]:
    settings, models = evaluation.settings, (one.subject.fast, one.subject.net)
    batches = watched(evaluation.attacked(name, 1.0), f"{one.entry.label}, {name}, epsilon")
    curve = accuracy_against_epsilon(pgd, *models, batches, epsilons, settings.attack(), settings.seed)
    return [CurveRow(one.entry.id, name, curve.axis, curve.points)]


def _against_steps(
    one: Opened, name: InputType, evaluation: Evaluation, steps: Sequence[int], watched: Watched
) -> list[CurveRow]:
    settings, models = evaluation.settings, (one.subject.fast, one.subject.net)
    batches = watched(evaluation.attacked(name, settings.epsilon), f"{one.entry.label}, {name}, steps")
    curve = accuracy_against_steps(pgd, *models, batches, steps, settings.attack(), settings.seed)
    return [CurveRow(one.entry.id, name, curve.axis, curve.points)]


def _reliance(one: Opened, evaluation: Evaluation, donor_seeds: int, watched: Watched) -> list[RelianceRow]:
    first = evaluation.settings.seed
    watched.tick(0, text=f"{one.entry.label}, background reliance")
    return [reliance_of(one, evaluation.data, range(first, first + donor_seeds), watched.photo)]


def _point(axis: str, text: str) -> float:
    if axis == "epsilon":
        return parse_epsilon(text)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"'{text}' is no number of steps", _HINT) from None
