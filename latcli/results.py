"""What the commands find out, in plain values: one dataclass for each result and each row.

The same names stand in the JSON documents, in the columns of the database, and in what the tables are built from. Every
part of latcli may import this module; it imports none of them but `errors`, and nothing heavy.

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
from types import UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from latcli.errors import ExitCode

T = TypeVar("T")
Column: TypeAlias = int | float | str | bytes | None

_COLLECTIONS = (tuple, list, dict)

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


def columns(row: Any) -> dict[str, Column]:
    """A dataclass or a mapping as columns of a table.

    `clean.rank` is `clean_rank`; a list, tuple or mapping is JSON text in `NAME_json`. The columns of a dataclass
    depend on its fields' types alone: what is None is NULL in each of its columns.
    """
    if not dataclasses.is_dataclass(row):
        return {_named(name, value): _column(value) for name, value in row.items()}
    found: dict[str, Column] = {}
    for name, kind in _fields(type(row)):
        value = getattr(row, name)
        if dataclasses.is_dataclass(kind):
            inner = dict.fromkeys(column_names(kind)) if value is None else columns(value)
            found |= {f"{name}_{column}": item for column, item in inner.items()}
        else:
            found[f"{name}_json" if kind in _COLLECTIONS else name] = _column(value)
    return found


def column_names(kind: Any) -> list[str]:
    """The columns that `columns` makes of a dataclass of this kind."""
    names: list[str] = []
    for name, inner in _fields(kind):
        if dataclasses.is_dataclass(inner):
            names += [f"{name}_{column}" for column in column_names(inner)]
        else:
            names.append(f"{name}_json" if inner in _COLLECTIONS else name)
    return names


def _fields(kind: Any) -> list[tuple[str, Any]]:
    """Each field and what matters of its type: a dataclass, tuple, list, dict, or anything else; None aside."""
    hints = get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        choices = [part for part in get_args(hint) if part is not type(None)] if _is_union(hint) else [hint]
        found.append((field.name, get_origin(choices[0]) or choices[0]))
    return found


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _named(name: str, value: Any) -> str:
    holds_many = isinstance(value, Mapping | Sequence | set | frozenset) and not isinstance(value, str | bytes)
    return f"{name}_json" if holds_many and not name.endswith("_json") else name


def _column(value: Any) -> Column:
    if isinstance(value, bytes):
        return value
    plain = to_json(value)
    if isinstance(plain, list | dict):
        return canonical_json(plain)
    return int(plain) if isinstance(plain, bool) else plain


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
    for name, inner in _fields(kind):
        column = prefix + name
        if dataclasses.is_dataclass(inner):
            found = _nested(inner, row, f"{column}_")
            values[name] = found if any(value is not None for value in found.values()) else None
        elif inner in _COLLECTIONS:
            text = row.get(f"{column}_json")
            try:
                values[name] = None if text is None else json.loads(text)
            except (ValueError, RecursionError, TypeError) as error:
                raise DocumentError(f"{column}_json is not JSON") from error
        else:
            values[name] = row.get(column)
    missing = dataclasses.MISSING
    needed = {f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing}
    return {name: value for name, value in values.items() if value is not None or name in needed}


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


# attacked photos, and the objects in them

#: Left, top, right, bottom in pixels (right and bottom exclusive), score, class name.
BoxRow = tuple[float, float, float, float, float, str]


@dataclass(frozen=True, kw_only=True)
class LocatedPhoto:
    """A photo, what the classifier says of it, and its object: who found it, on which weights, and how surely.

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
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlannedPhoto(LocatedPhoto):
    """One photo of a dry run; `seconds` is what its attack will take, estimated from measured steps."""

    background_percent: float
    visible_background_percent: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MaskedPhoto(LocatedPhoto):
    """One photo of `latcli mask`; `files` are the paths of its mask and of the overlay that shows it."""

    files: Mapping[str, str]


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


@dataclass(frozen=True, kw_only=True)
class RegionSummary:
    """The photos attacked on one region with one epsilon, summed up.

    epsilon is None where the smallest one was searched for; smallest_epsilon is then the median over all photos that
    were right before, None where half of them or more withstood every epsilon.
    """

    region: str
    epsilon: float | None
    smallest_epsilon: float | None = None
    summary: Any = None


@dataclass(frozen=True, kw_only=True)
class AttackResult(AttackProtocol):
    """The document of `latcli attack`. `run` and `dir` are None for a dry run; `detector` is the one that was named."""

    run: str | None = None
    dir: Path | None = None
    detector: str
    dry_run: bool = False
    check_success: bool = False
    images: tuple[AttackedPhoto, ...] = ()
    planned: tuple[PlannedPhoto, ...] = ()
    failures: tuple[Failure, ...] = ()
    summary: Any = None
    regions: tuple[RegionSummary, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Failures first, then, with --check-success, photos that were not fooled (or did not reach the target)."""
        if any(not failure.skipped for failure in self.failures):
            return exit_code_of(self.failures)
        succeeded = (photo.fooled if photo.reached is None else photo.reached for photo in self.images)
        return ExitCode.NOT_FOOLED if self.check_success and not all(succeeded) else ExitCode.OK


@dataclass(frozen=True, kw_only=True)
class MaskResult:
    """The document of `latcli mask`."""

    run: str | None = None
    dir: Path | None = None
    out: Path
    classifier: str
    detector: str
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
