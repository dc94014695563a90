"""What the commands find out, in plain values: one dataclass for each result and each row.

The same names stand in the JSON documents, in the columns of the database, and in what the tables are built from. Every
part of latcli may import this module; it imports none of them but `errors`, and nothing heavy.

Shares are in [0, 1] unless a name ends in `_percent`; times are seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from latcli.errors import ExitCode

T = TypeVar("T")
Column: TypeAlias = int | float | str | bytes | None

#: Types of fields that become JSON text in one column.
_COLLECTIONS = (tuple, list, dict, Mapping, Sequence)
_SEVERAL = (tuple, list, set, frozenset, Mapping)

# plain values: to JSON, to columns, and back


class DocumentError(ValueError):
    """What was read is not JSON, or not what it should be; its text is one line."""


def to_json(value: Any) -> Any:
    """The value in JSON's own types.

    A dataclass becomes an object of its fields, a path or an enum its text or value, a NumPy or torch scalar a number;
    NaN and infinities become null. Raises TypeError for what has no such form.
    """
    kind = type(value)  # a report has a million values: what most of them are is asked first
    if kind is str:
        return legible(value)
    if value is None or kind is int or kind is bool:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {legible(str(key)): to_json(item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return {name: to_json(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, int):
        return value
    if isinstance(value, str | Path):
        return legible(str(value))
    if isinstance(value, Sequence | set | frozenset):
        return [to_json(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    item = getattr(value, "item", None)
    if callable(item):
        return to_json(item())
    raise TypeError(f"a {type(value).__name__} has no form in JSON: {value!r}")


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def legible(text: str) -> str:
    """The text with whatever UTF-8 cannot hold written as escapes, as it may be in the name of a file."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def columns(row: Any) -> dict[str, Column]:
    """A dataclass or a mapping as columns of a table.

    `clean.rank` is `clean_rank`; a list, tuple or mapping is JSON text in `NAME_json`. The columns of a dataclass
    depend on its fields' types alone: what is None is NULL in each of its columns.
    """
    if not dataclasses.is_dataclass(row):
        return {f"{k}_json" if isinstance(v, _SEVERAL) and k[-5:] != "_json" else k: _column(v) for k, v in row.items()}
    found: dict[str, Column] = {}
    of_row: Any = type(row)
    for one in _fields(of_row):
        value = getattr(row, one.name)
        if one.is_nested:
            inner = dict.fromkeys(column_types(one.kind)) if value is None else columns(value)
            found |= {f"{one.name}_{column}": item for column, item in inner.items()}
        else:
            found[one.column] = _column(value)
    return found


def column_types(kind: Any) -> dict[str, Any]:
    """The columns that `columns` makes of a dataclass of this kind, and the type of each: str where it is JSON text."""
    found: dict[str, Any] = {}
    for one in _fields(kind):
        if one.is_nested:
            found |= {f"{one.name}_{column}": type_ for column, type_ in column_types(one.kind).items()}
        else:
            found[one.column] = str if one.is_json else one.kind
    return found


def _column(value: Any) -> Column:
    if isinstance(value, bytes):
        return value
    plain = to_json(value)
    if isinstance(plain, list | dict):
        return canonical_json(plain)
    return int(plain) if isinstance(plain, bool) else plain


@dataclass(frozen=True)
class _Field:
    """What matters of a field: its type, a dataclass, tuple, list, dict, or anything else, None aside; its column."""

    name: str
    kind: Any
    column: str
    is_nested: bool
    is_json: bool
    is_needed: bool


@functools.cache  # there may be a hundred thousand rows
def _fields(kind: Any) -> list[_Field]:
    hints, found = get_type_hints(kind), []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        first = next(part for part in parts if part is not type(None))
        inner, is_json = get_origin(first) or first, (get_origin(first) or first) in _COLLECTIONS
        is_needed = field.default is field.default_factory is dataclasses.MISSING
        column = f"{field.name}_json" if is_json else field.name
        found.append(_Field(field.name, inner, column, dataclasses.is_dataclass(inner), is_json, is_needed))
    return found


def read(kind: type[T], document: Any) -> T:
    """The object that `to_json` made this document of; a field that is missing has its default.

    `document` may be JSON text. Further keys are ignored. Raises DocumentError.
    """
    from pydantic import ValidationError

    try:
        plain = json.loads(document) if isinstance(document, str | bytes) else document
        known: Any = kind
        found: T = _adapter(known).validate_python(plain)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise DocumentError(f"{place}: {first['msg'].removeprefix('Value error, ').lower()}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DocumentError(f"it is not JSON: {reason}") from error


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def from_columns(kind: type[T], row: Mapping[str, Any]) -> T:
    """The object that `columns` made this row of. Raises DocumentError."""
    return read(kind, _nested(kind, row))


def _nested(kind: Any, row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in _fields(kind):
        value = row.get(column := prefix + one.column)
        if one.is_nested:
            inner = _nested(one.kind, row, f"{column}_")
            value = inner if any(item is not None for item in inner.values()) else None
        elif one.is_json and value is not None:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError, TypeError) as error:
                raise DocumentError(f"{column} is not JSON") from error
        if value is not None or one.is_needed:
            values[one.name] = value
    return values


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
    """A classifier's prediction for one image, and for its label.

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


#: Attacks that start once, whatever number is given, and those of them that take one step, likewise.
_ONE_START, _ONE_STEP = ("fgsm", "mi-fgsm", "minimal"), ("fgsm",)


def steps_taken(attack: str | None, steps: int | None) -> int | None:
    """The number of steps as far as it says something of the attack: None where the attack ignores it."""
    return None if attack and attack.split()[0] in _ONE_STEP else steps


def starts_text(attack: str | None, restarts: int | None) -> str:
    """How often an attack began: of pgd its random starts, of any other more than one restart; else nothing."""
    if not restarts or not attack or attack.split()[0] in _ONE_START:
        return ""
    if attack.split()[0] == "pgd":
        return "1 random start" if restarts == 1 else f"{restarts} random starts"
    return f"{restarts} restarts" if restarts > 1 else ""


@dataclass(frozen=True, kw_only=True)
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
    epsilon: float | None = None
    steps: int | None = None
    restarts: int | None = None
    attack: str | None = None
    norm: str | None = None
    radius: float | None = None
    mask_from: str | None = None
    center: float | None = None
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
    """A photo that cannot be used to measure reliance on the background, and why."""

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


# attacked photos, and the objects in them

#: Left, top, right, bottom in pixels (right and bottom exclusive), score, class name.
BoxRow = tuple[float, float, float, float, float, str]


@dataclass(frozen=True, kw_only=True)
class LocatedPhoto:
    """A photo, its prediction, and its object: who found it, with which weights and confidence.

    image: the path as it was given. detector: what decided, a detector's name, or "box", "mask", "center" where the
    user did; detector_weights: name and hash of its weights; detector_confidence: the best score of its boxes;
    localized_by: how, in words. object_percent: the object's share of the photo. evidence_inside: the share of the
    classifier's positive activation map of the label that lies on the object, None for a network without such a map;
    evidence_lift: the same divided by the object's share of what the map covers, 1 for a map that ignores the object.
    """

    image: str
    sha256: str
    height: int
    width: int
    label: Label
    clean: Prediction
    was_right: bool
    detector: str
    detector_weights: str | None = None
    detector_confidence: float | None = None
    localized_by: str
    object_percent: float
    evidence_inside: float | None = None
    evidence_lift: float | None = None
    boxes: tuple[BoxRow, ...] = ()
    notes: tuple[str, ...] = ()


#: The document of a run has at most so many of its results: of more, those of the first photos. Totals are over all.
MOST_RESULTS = 1000


@dataclass(frozen=True, kw_only=True)
class AttackedPhoto(LocatedPhoto):
    """What an attack on one region with one epsilon did to a photo: a row of the table `attacks`.

    fooled: right before and wrong after. target, reached, p_target: of a targeted attack. smallest_epsilon: the least
    epsilon that fooled, where it was searched for and found; `epsilon` is then that one, else the largest tried.
    background_percent: the share of the photo that may change; visible_background_percent: the same of what the
    classifier sees; altered_percent: what did change. linf_inside, linf_outside, l2: the change where nothing may
    change and where something may, on the scale of [0, 1]. psnr (dB) and ssim compare the saved photo with the
    original over the pixels that may change; psnr is None where nothing changed. files: paths by kind.
    """

    region: str
    epsilon: float
    adversarial: Prediction
    fooled: bool
    target: Label | None = None
    p_target: float | None = None
    reached: bool | None = None
    smallest_epsilon: float | None = None
    background_percent: float
    visible_background_percent: float
    altered_percent: float
    linf_inside: float
    linf_outside: float
    l2: float
    psnr: float | None = None
    ssim: float | None = None
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def in_folder(self, folder: Path) -> AttackedPhoto:
        """The photo as JSON has it: its row names files relative to its run's folder."""
        return dataclasses.replace(self, files={kind: str(folder / name) for kind, name in self.files.items()})


@dataclass(frozen=True)
class PhotoAverages:
    """Photos before an attack, or after it.

    right, top5, top10: photos whose right class is among the first 1, 5, 10 guesses. confidence, median_confidence:
    mean and median of p(right class).
    """

    right: int
    top5: int
    top10: int
    confidence: float
    median_confidence: float


@dataclass(frozen=True)
class PhotoSummary:
    """Attacked photos together; without any, only the counts are known.

    fooled: right before the attack and wrong after it. altered_percent: mean share of pixels that were changed.
    """

    n: int
    right_before: int = 0
    fooled: int = 0
    wrong_before: int = 0
    altered_percent: float | None = None
    clean: PhotoAverages | None = None
    adversarial: PhotoAverages | None = None
    reached: int | None = None


#: The columns of `attacks` that the sums over photos below are made of.
SUMMED = (
    *("region", "epsilon", "smallest_epsilon", "was_right", "fooled", "target_index", "reached", "altered_percent"),
    *("clean_confidence", "clean_rank", "adversarial_confidence", "adversarial_rank"),
)


def photo_summary(rows: Sequence[Mapping[str, Any]]) -> PhotoSummary:
    """Counts and averages over rows of `attacks`, as in the last rows of the paper's tables."""
    if not rows:
        return PhotoSummary(n=0)
    right = sum(row["was_right"] for row in rows)
    return PhotoSummary(
        n=len(rows),
        right_before=right,
        fooled=sum(row["fooled"] for row in rows),
        wrong_before=len(rows) - right,
        altered_percent=statistics.fmean(row["altered_percent"] for row in rows),
        clean=_averages(rows, "clean"),
        adversarial=_averages(rows, "adversarial"),
        reached=sum(row["reached"] or 0 for row in rows) if rows[0]["target_index"] is not None else None,
    )


def median_smallest_epsilon(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The median over the photos that could be fooled, or had a target; None where half of them withstood them all."""
    possible = (row for row in rows if row["was_right"] or row["target_index"] is not None)
    found = [row["smallest_epsilon"] or math.inf for row in possible]
    middle = statistics.median(found) if found else math.inf
    return middle if math.isfinite(middle) else None


def _averages(rows: Sequence[Mapping[str, Any]], side: str) -> PhotoAverages:
    right, top5, top10 = (sum(row[f"{side}_rank"] <= last for row in rows) for last in (1, 5, 10))
    confidences = [row[f"{side}_confidence"] for row in rows]
    return PhotoAverages(right, top5, top10, statistics.fmean(confidences), statistics.median(confidences))


@dataclass(frozen=True, kw_only=True)
class PlannedPhoto(LocatedPhoto):
    """One photo of a dry run; `seconds` is what its attack will take, estimated from measured steps."""

    background_percent: float
    visible_background_percent: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MaskedPhoto(LocatedPhoto):
    """One photo of `latcli mask`; `files` are the paths of its mask and of the overlay that shows it."""

    files: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """A photo that was left out, and why. `skipped` where that was asked for."""

    image: str
    error: str
    hint: str
    exit_code: int
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class AttackProtocol:
    """What the photos of a run were attacked with: further columns of the table `attacks`.

    region and epsilon are None where a run has several: each photo's own row says which. smallest_epsilon_max: up to
    where the smallest epsilon that fools was searched for, None where it was not.
    """

    classifier: str
    region: str | None
    epsilon: float | None
    attack: str
    norm: str
    radius: float | None
    steps: int
    restarts: int
    objective: str
    smallest_epsilon_max: float | None = None


@dataclass(frozen=True)
class RegionSummary:
    """The photos attacked on one region with one epsilon, summed up.

    epsilon is None where the smallest one was searched for; smallest_epsilon is then the median over all photos that
    were right before, None where half of them or more withstood every epsilon.
    """

    region: str
    epsilon: float | None
    smallest_epsilon: float | None = None
    summary: PhotoSummary | None = None


@dataclass(frozen=True, kw_only=True)
class AttackResult(AttackProtocol):
    """The document of `latcli attack`. `run` and `dir` are None for a dry run; `detector` is the one that was named.

    Of more than MOST_RESULTS results `images` has those of the first photos; `summary` and `regions` are of all.
    """

    run: str | None = None
    dir: Path | None = None
    detector: str
    dry_run: bool = False
    check_success: bool = False
    images: tuple[AttackedPhoto, ...] = ()
    planned: tuple[PlannedPhoto, ...] = ()
    failures: tuple[Failure, ...] = ()
    summary: PhotoSummary | None = None
    regions: tuple[RegionSummary, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Failures first, then, with --check-success, photos that were not fooled (or did not reach the target)."""
        if any(not failure.skipped for failure in self.failures):
            return exit_code_of(self.failures)
        known = (one.summary for one in self.regions if one.summary is not None)
        succeeded = all(one.n == (one.fooled if one.reached is None else one.reached) for one in known)
        return ExitCode.OK if succeeded or not self.check_success else ExitCode.NOT_FOOLED


@dataclass(frozen=True, kw_only=True)
class MaskResult:
    """The document of `latcli mask`; of more than MOST_RESULTS photos `images` has the first, `masked` counts all."""

    run: str | None = None
    dir: Path | None = None
    out: Path
    classifier: str
    detector: str
    masked: int = 0
    images: tuple[MaskedPhoto, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """That of the failures."""
        return exit_code_of(self.failures)


def exit_code_of(failures: Sequence[Failure]) -> ExitCode:
    """The failures' own exit code where they all have the same, else 1; 0 without failures. Skipped ones are none."""
    codes = {failure.exit_code for failure in failures if not failure.skipped}
    if len(codes) == 1:
        return ExitCode(codes.pop())
    return ExitCode.FAILURE if codes else ExitCode.OK


# training


@dataclass(frozen=True)
class Score:
    """Means over n images: cross entropy, and the share of right top guesses."""

    n: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class ScorePoint:
    """A score of the whole test set in the course of training (`--test-every`).

    attacked_loss, attacked_accuracy: under the regime's own short attack; None for the natural regime.
    """

    step: int
    loss: float
    accuracy: float
    attacked_loss: float | None = None
    attacked_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The document of `latcli train`: a finished training run.

    final: the score on the natural test images; adversarial: under the regime's own attack, which `attack` names, None
    for the natural regime. tests: with --test-every. seconds, images_per_second and devices (the number of processes)
    are those of this invocation, which may have resumed the run. form: of the gradients of the inner attack.
    """

    run: str
    dir: Path
    checkpoint: Path
    regime: str
    dataset: str
    architecture: str
    steps: int
    epsilon: float | None
    form: str
    final: Score
    adversarial: Score | None
    attack: str | None
    resumed_at: int | None
    seconds: float
    images_per_second: float
    devices: int
    notes: tuple[str, ...] = ()
    tests: tuple[ScorePoint, ...] = ()
    next_commands: tuple[str, ...] = ()


#: Parts of a training run's configuration that say how often, where and how it ran, and how it was scored.
_NOT_COMPARED = frozenset(
    {
        *("seed", "notes", "precision", "devices", "nodes", "checkpoint_every", "test_every", "epochs", "preset"),
        *("score_images", "score_steps", "dataset", "dataset_folder", "masks", "detector_weights"),
        *("classifier_weights", "class_names"),
    }
)


def comparable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a training run's configuration that must be equal for runs to be one experiment with several seeds.

    Data, masks and weights count by their fingerprints, not by where they lie. What is unset is left out, so that a
    configuration that lacks an option is equal to one in which it has no value.
    """
    return {name: value for name, value in config.items() if name not in _NOT_COMPARED and value is not None}


# runs

Status = Literal["running", "completed", "failed", "interrupted", "crashed"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run in a list. result: its result in a few words, None where nothing is known.

    dir: its folder. status: as it is now. region: what an attack may change; regime: of a training run. epsilon: on the
    scale of [0, 1].
    """

    run: str
    dir: Path
    name: str | None
    tags: tuple[str, ...]
    command: str
    status: Status
    started: str
    finished: str | None
    seconds: float | None
    exit_code: int | None
    error: str | None
    seed: int | None
    device: str | None
    dataset: str | None
    regime: str | None
    epsilon: float | None
    model: str | None
    parent: str | None
    result: str | None


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a run; image: the sha256 of the photo that it is of; path: where it lies now."""

    name: str
    kind: str
    image: str | None
    sha256: str
    size: int
    created: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class LastValue:
    """A metric at its last step; None where it was not a finite number."""

    name: str
    step: int
    value: float | None


@dataclass(frozen=True, kw_only=True)
class RunDetails(RunSummary):
    """One run with what the store has of it. resume: the command that resumes it, None where none does.

    Of more than MOST_RESULTS `images` has the first, and of many files `artifacts`; `totals` has how many there are.
    """

    argv: tuple[str, ...]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    images: tuple[AttackedPhoto, ...]
    cells: tuple[Cell, ...]
    metrics: tuple[LastValue, ...]
    artifacts: tuple[StoredFile, ...]
    totals: Mapping[str, int]
    resume: str | None


@dataclass(frozen=True)
class RunList:
    """The document of `latcli runs list`: the newest first."""

    store: Path
    runs: tuple[RunSummary, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a run's files; `name` is relative to its folder.

    fault: "missing", "changed", "unreadable", or "outside": a path that leads out of the folder, not followed.
    """

    run: str
    name: str
    fault: str
    detail: str


@dataclass(frozen=True)
class Verification:
    """The document of `latcli runs verify`: what is wrong with files and database, and how many files were checked."""

    store: Path
    ok: bool
    runs: tuple[str, ...]
    checked: int
    problems: tuple[Problem, ...]
    database: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Failure where anything is wrong."""
        return ExitCode.OK if self.ok else ExitCode.FAILURE


@dataclass(frozen=True)
class RemovedRuns:
    """The document of `latcli runs rm`."""

    store: Path
    removed: tuple[str, ...]


@dataclass(frozen=True)
class RunPath:
    """The document of `latcli runs path`: where a run, or one of its files, lies."""

    run: str
    path: Path


# means over runs


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and their sample standard deviation, None for a single one."""

    value: float | None
    spread: float | None = None


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_of(values: Sequence[float | None]) -> Mean:
    """Mean and spread; None where a value is missing, since a mean over the others would hide that."""
    known = [value for value in values if value is not None]
    return Mean(statistics.fmean(known), spread(known)) if known and len(known) == len(values) else Mean(None)


# reports


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """A row of a loss matrix on one input: the mean over `models`, of each over its evaluation seeds, on n images.

    loss is None where any of them was not measured; diverged: how many of them have no finite one.
    Spreads are sample standard deviations over "models", or of a single model over evaluation "seeds" (spread_over).
    low and high: 95 % intervals, the wider of two, and which it is. Over the images: Wilson's ("wilson", accuracy) or a
    bootstrap's ("bootstrap", loss); over the trained models: Student's ("models").
    best_loss, best_accuracy: no other row is better beyond chance; False where there is no other row.
    losses, accuracies: of each model of the row, in their order; None where it has none.
    """

    loss: float | None
    loss_spread: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    loss_interval: str | None = None
    accuracy: float
    accuracy_spread: float | None = None
    accuracy_low: float
    accuracy_high: float
    interval: str
    n: int
    models: int
    spread_over: str | None = None
    diverged: int = 0
    best_loss: bool = False
    best_accuracy: bool = False
    losses: tuple[float | None, ...] = ()
    accuracies: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeedGroup(MatrixCell):
    """What the matrix of an evaluation of several seeds has of one regime on one input."""

    regime: str
    input: str


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """Models of one regime that were trained alike but for the seed, or one model from elsewhere; cells by input."""

    label: str
    regime: str | None
    models: tuple[str, ...]
    train_runs: tuple[str, ...]
    train_seeds: tuple[int | None, ...]
    model_count: int
    cells: dict[str, MatrixCell]


@dataclass(frozen=True, kw_only=True)
class LossMatrix:
    """Figures of one protocol, models down and inputs across.

    images: how many were attacked. strong: the budget of the strong suite. natural_scale: what the paper multiplies
    losses on natural inputs by. runs, seeds: of the evaluations.
    """

    id: str
    dataset: str
    epsilon: float | None
    attack: str | None
    norm: str | None
    radius: float | None
    steps: int | None
    restarts: int | None
    mask_from: str | None
    center: float | None
    images: int
    strong: str | None
    natural_scale: int
    inputs: tuple[str, ...]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[MatrixRow, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportedAttack(AttackProtocol):
    """The photos of an attack run on one region with one epsilon; a run of several has one of these for each.

    images: as `attack --json` has them, without those of their files that are not as they were written.
    """

    run: str
    dir: Path
    seed: int | None
    detector: str | None
    at_model_resolution: bool
    smallest_epsilon: float | None = None
    summary: PhotoSummary
    images: tuple[AttackedPhoto, ...]


@dataclass(frozen=True, kw_only=True)
class ReportedTraining:
    """A completed training run: what it was last measured at, by name, and series of `[step, value]`."""

    run: str
    regime: str | None
    dataset: str | None
    seed: int | None
    architecture: str | None
    steps: int | None
    epsilon: float | None
    final: Mapping[str, float | None]
    series: Mapping[str, Any]


@dataclass(frozen=True)
class BestRun:
    """The training run of a data set and regime with the best `value` of a figure, of so many runs."""

    dataset: str
    regime: str
    run: str
    of: int
    figure: str
    value: float


@dataclass(frozen=True)
class WrittenFile:
    """One file that a report was written to, `-` for standard output; size in bytes."""

    format: str
    path: Path
    size: int


@dataclass(frozen=True)
class WrittenReport:
    """The files that a report was written to, where its document is not wanted besides."""

    written: Sequence[WrittenFile]


@dataclass(frozen=True)
class ReportResult:
    """All that is to be reported, the newest run first; `paper` is None unless asked for.

    created: when it was gathered, UTC. further_attacks: how many attack runs with photos are not in `attacks`. best:
    which training runs were chosen as the best, and by what. left_out: runs that have no figures, and why. faults:
    files that are not shown, for they are not as they were written. written: None where no file was asked for.
    """

    store: Path
    created: str
    selection: Mapping[str, Any]
    matrices: Sequence[LossMatrix]
    attacks: Sequence[ReportedAttack]
    training: Sequence[ReportedTraining]
    best: Sequence[BestRun]
    evaluations: Sequence[EvalResult]
    runs: Sequence[Mapping[str, Any]]
    left_out: Sequence[Mapping[str, Any]]
    faults: Sequence[Mapping[str, Any]]
    paper: Sequence[PaperPart] | None
    latcli: str
    further_attacks: int = 0
    written: Sequence[WrittenFile] | None = None


@dataclass(frozen=True)
class ComparedRuns:
    """Two runs side by side: `{name, a, b}` of each option that differs, of how many that are equal, and of results.

    Rows of results have the difference b - a, too, where both are numbers.
    """

    store: Path
    runs: tuple[Mapping[str, Any], ...]
    configuration: tuple[Mapping[str, Any], ...]
    equal: int
    results: tuple[Mapping[str, Any], ...]


# the paper's figures beside ours


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper and ours: the loss or accuracy of a regime on an input, or a mean over photos, in words."""

    figure: str
    regime: str | None
    input: str | None
    paper: float
    ours: float | None = None
    ours_spread: float | None = None


@dataclass(frozen=True)
class PaperClaim:
    """A claim of the paper, both sides in words, and whether ours holds it: "holds", "fails" or "not measured".

    The verdict is on the means over seeds; of the `seeds` that have all of its figures, it holds for `seeds_holding`.
    """

    of: str
    claim: str
    paper: str
    ours: str
    verdict: str
    seeds_holding: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class PaperPart:
    """Figure 2 of a data set, or Tables 1 and 2, `of` photos, beside ours. Losses are not scaled.

    ours: the id of our matrix, or the newest of our runs, None where there is none. natural_scale: what the paper
    multiplies losses on natural inputs by. protocol: how ours was made, and what differs.
    """

    of: str
    source: str
    ours: str | None
    natural_scale: int
    figures: tuple[PaperFigure, ...]
    claims: tuple[PaperClaim, ...]
    protocol: tuple[str, ...]


# what this machine offers


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: "ok", "missing" where it is not needed, or "broken": latcli cannot work."""

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    hint: str | None = None


@dataclass(frozen=True)
class DoctorResult:
    """Everything that was looked at, in the order in which it is shown; `ok` where nothing is broken."""

    checks: tuple[Check, ...]
    ok: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ok", all(check.state != "broken" for check in self.checks))

    @property
    def exit_code(self) -> ExitCode:
        """Failure where something is broken."""
        return ExitCode.OK if self.ok else ExitCode.FAILURE


# reproductions, and the demo


@dataclass(frozen=True)
class StepRow:
    """One step. state: "done", "interrupted", "running" or "missing". seconds: it took, None where it is not done.

    command_line: what a user types for this step alone.
    """

    number: int
    step: str
    command: str
    state: str
    run: str | None
    config_hash: str | None
    seconds: float | None
    command_line: str


@dataclass(frozen=True)
class MeansRow:
    """Means by column; x: where the row stands in a plot, None where it does not."""

    name: str
    means: Mapping[str, Mean]
    x: float | None = None


@dataclass(frozen=True)
class MeansTable:
    """Means over seeds of what a reproduction varied, with the paper's own in a row "paper".

    heading: of the rows' names. columns: each with the format of its figures, "percent" for shares. drawn: the columns
    that the picture `name` has, against x.
    """

    name: str
    title: str
    heading: str
    columns: Mapping[str, str]
    rows: tuple[MeansRow, ...]
    notes: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReproduceResult:
    """A reproduction that was planned, or is finished: then with tables, claims and the report they are from.

    run, dir: None for a plan. options: as they were given, and the first seed. report: of the runs that the paper's own
    figures are made of, None where there are none. files: pictures, and all of this as Markdown.
    """

    options: Mapping[str, Any]
    run: str | None = None
    dir: Path | None = None
    planned: bool
    steps: tuple[StepRow, ...]
    tables: tuple[MeansTable, ...] = ()
    claims: tuple[PaperClaim, ...] = ()
    report: ReportResult | None = None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo did, the page that shows it, and commands to try next."""

    attack: AttackResult
    trained: tuple[TrainResult, ...]
    evaluation: EvalResult
    page: Path
    next: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """That of the attack."""
        return self.attack.exit_code


# classes of a classifier


@dataclass(frozen=True)
class FoundClass:
    """A class: its index among the logits, its name, and what WordNet says of it, where it is one of ImageNet's."""

    index: int
    name: str
    wordnet_id: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class ClassList:
    """Of a classifier of `count` classes those that were asked for, by index."""

    classifier: str
    count: int
    classes: tuple[FoundClass, ...]
