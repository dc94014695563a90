"""Numbers, times and names as the page prints them; must not know what they are figures of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from latcli.reporting.text import printable

#: Stands where there is no figure.
NONE = "–"  # noqa: RUF001 - the dash is what is printed
_MINUS = "−"  # noqa: RUF001


def number(value: float | None, scale: float = 1.0) -> str:
    """A loss or the like with four digits that count, as far as these are no more than four decimals."""
    if value is None or not math.isfinite(value):
        return NONE
    value *= scale
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    decimals = 4 if abs(value) < 1 else 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:,.{decimals}f}"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return NONE if value is None else f"{_MINUS if value < 0 else '+'}{number(abs(value))}"


def points(difference: float | None) -> str:
    """A difference of two shares of 1, in percentage points with its sign."""
    if difference is None:
        return NONE
    sign = "" if round(100 * difference, 2) == 0 else _MINUS if difference < 0 else "+"
    return f"{sign}{abs(100 * difference):.2f} points"


def percent(share: float | None, decimals: int = 2) -> str:
    """A share of 1, in per cent."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.{decimals}f} %"


def spread(value: float | None, scale: float = 1.0) -> str:
    """What stands behind a mean: nothing where there is no spread."""
    return "" if value is None else f"± {number(value, scale)}"


def percent_spread(value: float | None) -> str:
    """The same for a share of 1, in per cent."""
    return "" if value is None else f"± {100 * value:.2f}"


def seconds(value: float | None) -> str:
    """A duration in the two largest units that it has."""
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(iso: str | None) -> str:
    """An ISO time in UTC to the minute; what is not one stays as it is."""
    if not iso:
        return NONE
    day, t, time = iso.partition("T")
    return f"{day} {time[:5]} UTC" if t else iso


def short(run: str) -> str:
    """The end of a run's id, by which one names it."""
    return run.rpartition("-")[2] or run


def base_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def plain(value: Any) -> str:
    """A value of a configuration on one line."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(inner)}" for key, inner in value.items()) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or NONE
    return printable(str(value)) or NONE
