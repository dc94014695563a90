"""What the commands find out, in plain values: one dataclass for each result and each row.

The same names stand in the JSON documents, in the columns of the database, and in what the tables are built from. Every
part of latcli may import this module; it imports none of them, and nothing heavy.

Shares are in [0, 1] unless a name ends in `_percent`; times are seconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_type_hints

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


# attacked photos


class _OfLabel(Protocol):
    """What a prediction says of its label."""

    @property
    def confidence(self) -> float: ...
    @property
    def rank(self) -> int: ...


class _Attacked(Protocol):
    """A photo that was scored before and after an attack."""

    @property
    def clean(self) -> _OfLabel: ...
    @property
    def adversarial(self) -> _OfLabel: ...
    @property
    def altered_percent(self) -> float: ...


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


def is_fooled(photo: _Attacked) -> bool:
    """Whether the top guess was the right class before the attack and is another one after it."""
    return photo.clean.rank == 1 and photo.adversarial.rank > 1


def photo_summary(photos: Sequence[_Attacked]) -> PhotoSummary:
    """Counts and averages over photos, as in the last rows of the paper's tables."""
    if not photos:
        return PhotoSummary(n=0)
    right = sum(photo.clean.rank == 1 for photo in photos)
    return PhotoSummary(
        n=len(photos),
        right_before=right,
        fooled=sum(map(is_fooled, photos)),
        wrong_before=len(photos) - right,
        altered_percent=statistics.fmean(photo.altered_percent for photo in photos),
        clean=_averages([photo.clean for photo in photos]),
        adversarial=_averages([photo.adversarial for photo in photos]),
    )


def _averages(predictions: Sequence[_OfLabel]) -> PhotoAverages:
    right, top5, top10 = (sum(one.rank <= last for one in predictions) for last in (1, 5, 10))
    confidences = [one.confidence for one in predictions]
    return PhotoAverages(right, top5, top10, statistics.fmean(confidences), statistics.median(confidences))


# intervals


def wilson_interval(right: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy of which `right` of `n` images were seen to be right.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    z, share = 1.959964, right / n
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))
