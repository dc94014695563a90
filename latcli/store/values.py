"""Python values as SQLite and JSON keep them: times, text, numbers, canonical JSON; must not know tables or files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
Column: TypeAlias = int | float | str | bytes | None


def utc_now() -> str:
    """The time now, as ISO 8601 in UTC with milliseconds: `2026-11-22T14:15:03.120Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def legible(text: str) -> str:
    """The text with whatever UTF-8 cannot hold written as escapes.

    A file name that is not UTF-8 reaches Python as lone surrogates, which neither SQLite nor a text file accepts.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: object) -> Json:
    """The value in JSON's own types: NaN and infinities become None, paths text, NumPy and torch scalars numbers.

    Raises TypeError for what has no such form.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | Path):
        return legible(str(value))
    if isinstance(value, Mapping):
        return {legible(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return plain(_scalar(value))


def canonical_json(value: object) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def column(value: object) -> Column:
    """The value as one column of a STRICT table keeps it; NaN and infinities become NULL, lists and mappings JSON."""
    if isinstance(value, bytes):
        return value
    kept = plain(value)
    if isinstance(kept, list | dict):
        return canonical_json(kept)
    return int(kept) if isinstance(kept, bool) else kept


def columns(row: Mapping[str, object]) -> dict[str, Column]:
    """`column` for every value of a row."""
    return {name: column(value) for name, value in row.items()}


def _scalar(value: object) -> bool | int | float | str:
    item = getattr(value, "item", None)
    number = item() if callable(item) else value
    if isinstance(number, bool | int | float | str):
        return number
    raise TypeError(f"a {type(value).__name__} cannot be stored: {value!r}")
