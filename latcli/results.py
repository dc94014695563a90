"""What the commands find out, in plain values: one dataclass for each result and each row.

The same names stand in the JSON documents, in the columns of the database, and in what the tables are built from. Every
part of latcli may import this module; it imports none of them, and nothing heavy.

Shares are in [0, 1] unless a name ends in `_percent`; times are seconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

# plain values: to JSON, to columns, and back


class DocumentError(ValueError):
    """What was read is not JSON, or not what it should be; its text is one line."""


def to_json(value: Any) -> Any:
    """The value in JSON's own types.

    A dataclass becomes an object of its fields, a path or an enum its text or value, a NumPy or torch scalar a number;
    NaN and infinities become null. Raises TypeError for what has no such form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | Path):
        return legible(str(value))
    if isinstance(value, Mapping):
        return {legible(str(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [to_json(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    item = getattr(value, "item", None)
    if callable(item):
        return to_json(item())
    raise TypeError(f"a {type(value).__name__} has no form in JSON: {value!r}")


def legible(text: str) -> str:
    """The text with whatever UTF-8 cannot hold written as escapes, as it may be in the name of a file."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def columns(row: Any) -> dict[str, int | float | str | bytes | None]:
    """A dataclass or mapping as columns of a table: `clean.rank` is `clean_rank`, a list or mapping is `NAME_json`."""
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)} if dataclasses.is_dataclass(row) else row
    found: dict[str, int | float | str | bytes | None] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            found |= {f"{name}_{inner}": item for inner, item in columns(value).items()}
        elif isinstance(value, bytes):
            found[name] = value
        elif isinstance(plain := to_json(value), list | dict):
            found[name if name.endswith("_json") else f"{name}_json"] = canonical_json(plain)
        else:
            found[name] = int(plain) if isinstance(plain, bool) else plain
    return found


def read(kind: type[T], document: Any) -> T:
    """The object that `to_json` made this document of; a field that is missing has its default.

    `document` may be JSON text. Further keys are ignored. Raises DocumentError.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        plain = json.loads(document) if isinstance(document, str | bytes) else document
        return TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise DocumentError(f"{place}: {first['msg'].lower()}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DocumentError(f"it is not JSON: {reason}") from error


def from_columns(kind: type[T], row: Mapping[str, Any]) -> T:
    """The object that `columns` made this row of. Raises DocumentError."""
    return read(kind, _nested(kind, row))


def _nested(kind: Any, row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        inner = [part for part in _parts(hints[field.name]) if dataclasses.is_dataclass(part)]
        if name in row:
            values[field.name] = row[name]
        elif f"{name}_json" in row:
            text = row[f"{name}_json"]
            if text is not None:
                try:
                    values[field.name] = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise DocumentError(f"{name}_json is not JSON") from error
        elif inner:
            found = _nested(inner[0], row, f"{name}_")
            known = any(value is not None for value in found.values())
            values[field.name] = found if known else None
    return {name: value for name, value in values.items() if value is not None or name in _required(kind)}


def _parts(hint: Any) -> Sequence[Any]:
    return getattr(hint, "__args__", ()) or (hint,)


def _required(kind: Any) -> set[str]:
    missing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing}


# images and predictions


@dataclass(frozen=True)
class Label:
    """A class, and where it came from: "given", "file", "folder" or "prediction"."""

    index: int
    name: str
    source: str


@dataclass(frozen=True)
class Guess:
    """One class that a classifier proposes, and the probability (softmax) that it gives to it."""

    index: int
    name: str
    p: float


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image, and of one label of it.

    prediction, index, p_prediction: the top guess and its probability, p(guess). confidence: the probability of the
    label, p(right class). rank: the label's place, 1 for the top guess; a tie counts against the label. loss: the
    label's cross entropy. top: the first guesses, best first.
    """

    prediction: str
    index: int
    p_prediction: float
    confidence: float
    rank: int
    loss: float
    top: tuple[Guess, ...] = ()


# evaluation: cells of the loss matrix, and what is measured beside them


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of an evaluation, as the run's configuration holds it.

    source: what opens it again: a path or a name. name: the training run, or the name that was given. label: in tables.
    id: in the store. regime, train_run, train_seed: None where it is not a training run's. fingerprint: what the
    network computes. form: of its gradients.
    """

    source: str
    name: str
    label: str
    id: str
    fingerprint: str
    form: str
    regime: str | None = None
    train_run: str | None = None
    train_seed: int | None = None


@dataclass(frozen=True)
class Cell:
    """One model on one input: mean cross entropy and accuracy over n images, with 95 % intervals.

    model: the training run or the model's name; model_id: in the store. input: "natural", "natural-attacked" (natural
    on the images that the attacked columns have, where those are fewer), "standard", "background", "foreground",
    "random", or an attacked one with "-strong". loss is None where it was not measured, epsilon to radius and
    mask_from where nothing was attacked; center where the mask does not come from it. Intervals: Wilson's for the
    accuracy, percentiles of a bootstrap over images for the loss. seed: of random starts and random regions.

    best_accuracy, best_loss: no other model of the column is better beyond chance (see `Comparison`); False where there
    is no other.
    """

    model: str
    label: str
    model_id: str
    regime: str | None
    train_seed: int | None
    input: str
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    epsilon: float | None
    steps: int | None
    restarts: int | None
    attack: str | None
    norm: str | None
    radius: float | None
    mask_from: str | None
    center: float | None
    seed: int
    seconds: float
    best_accuracy: bool = False
    best_loss: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two models (ids) on the same n images of an input.

    only_a: images that a alone has right. p_value: exact McNemar test, two-sided, that both are right equally often.
    loss_difference: mean loss of a minus that of b, with the two-sided p-value of a paired bootstrap; None where no
    loss was measured. No p-value is adjusted for the number of comparisons.
    """

    input: str
    a: str
    b: str
    n: int
    only_a: int
    only_b: int
    p_value: float
    loss_difference: float | None = None
    loss_p_value: float | None = None


@dataclass(frozen=True)
class SeedGroup:
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
    best_accuracy: bool = False
    best_loss: bool = False


@dataclass(frozen=True)
class TransferCell:
    """One target on n examples that were made on the source, both by their ids; a source of None: not attacked."""

    input: str
    source: str | None
    target: str
    n: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy over all n images at one epsilon or number of steps; `attacked` of them were attacked there."""

    value: float
    n: int
    accuracy: float
    attacked: int


@dataclass(frozen=True)
class AccuracyCurve:
    """A model's (id) accuracy on one input against "epsilon" or "steps", from the point without any attack on."""

    model: str
    input: str
    axis: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class VariantMean:
    """Means over n photos: share of right top guesses, and the label's confidence; None where n is 0."""

    n: int
    accuracy: float | None
    confidence: float | None


@dataclass(frozen=True)
class BackgroundGap:
    """Accuracy on Mixed-Same minus that on Mixed-Rand, over the n photos that have both.

    standard_error: of the mean of n paired differences. Numbers are None where n is too small: below 1, for the error
    below 2.
    """

    n: int
    mixed_same: float | None
    mixed_rand: float | None
    value: float | None
    standard_error: float | None


@dataclass(frozen=True)
class RelianceGroup:
    """n photos with a share of background from `low` to `high`, both included: means of each variant, and the gap."""

    n: int
    low: float
    high: float
    means: Mapping[str, VariantMean]
    gap: BackgroundGap


@dataclass(frozen=True)
class LeftOut:
    """A photo that tells nothing about backgrounds, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class RelianceRow:
    """One model (id) on all photos, and by share of background; mixed variants are means over `donor_seeds`.

    without_same: how many photos are alone in their class and have no Mixed-Same.
    """

    model: str
    donor_seeds: int
    overall: RelianceGroup
    by_share: tuple[RelianceGroup, ...]
    without_same: int
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class EvalWarning:
    """One reason not to believe the figures of a model, on an input or on all (None). value: what was measured."""

    model: str
    label: str
    input: str | None
    check: str
    value: float
    text: str

    @property
    def line(self) -> str:
        """The warning as one line."""
        return f"{self.label}{f', {self.input}' if self.input else ''}: {self.text}"


@dataclass(frozen=True)
class EvalResult:
    """A finished evaluation. n: attacked images of each column; attack: as captions call it; settings: all of them.

    groups: only where seeds were asked for. transfer, curves, reliance: empty where they were not asked for.
    """

    run: str
    dir: Path
    dataset: str
    n: int
    attack: str
    settings: Mapping[str, Any]
    models: tuple[EvaluatedModel, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...] = ()
    groups: tuple[SeedGroup, ...] = ()
    transfer: tuple[TransferCell, ...] = ()
    curves: tuple[AccuracyCurve, ...] = ()
    reliance: tuple[RelianceRow, ...] = ()
    warnings: tuple[EvalWarning, ...] = ()
    notes: tuple[str, ...] = ()
