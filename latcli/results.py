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
from types import UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

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
