"""Text from outside made harmless for a terminal, and numbers as they are printed everywhere."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path, PurePath

_SHA256 = re.compile("[0-9a-f]{64}")


def printable(text: str) -> str:
    r"""The text with control, invisible and unencodable characters written as escapes (`\n`, `\x1b`, `\udcff`).

    File names and messages of other programs may hold anything; on a terminal they stay on their line and colour
    nothing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def number_text(value: float) -> str:
    """The shortest way to type a number without changing it: 8/255, 0.3, 0.031."""
    levels = round(value * 255)
    if 0 < value < 1 and levels / 255 == value:
        return min(repr(value), f"{levels}/255", key=len)
    return repr(value)


def decimals_of(value: float) -> int:
    """How many decimals a loss or the like is printed with: four digits that count, at most four decimals."""
    size = abs(value)
    return 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1


def number(value: float, decimals: int | None = None) -> str:
    """A loss or the like with four digits that count; with `decimals` given, with so many behind the point."""
    if decimals is None and value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{decimals_of(value) if decimals is None else decimals}f}"


def probability(value: float) -> str:
    """A probability in at most seven characters, with three digits that count."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def percent(share: float, decimals: int = 2) -> str:
    """A share of 1, in per cent."""
    return f"{100 * share:.{decimals}f} %"


def duration(seconds: float) -> str:
    """A time in the two largest units that it has."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def rough_duration(seconds: float) -> str:
    """A duration in the largest unit that suits it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rate(a_second: float) -> str:
    """How many a second, or how long one takes; nothing where nothing is known."""
    if a_second <= 0:
        return ""
    return f"{a_second:.3g}/s" if a_second >= 1 else f"{1 / a_second:.3g} s each"


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def moment(iso: str) -> str:
    """An ISO time in UTC to the minute; what is not one stays as it is."""
    day, t, time = iso.partition("T")
    return f"{day} {time[:5]} UTC" if t else iso


def plain(value: object) -> str:
    """A configuration value on one line, a sha256 shortened; empty for None and empty values."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number_text(value) if math.isfinite(value) else str(value)
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value[:12]
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(one, dict) for one in value) else ", ").join(map(plain, value))
    return str(value)


def counted(count: int, one: str) -> str:
    """`1 run`, `2 runs`, `1,000 runs`."""
    return f"{count:,} {one}" + "s" * (count != 1)


def short(run: str) -> str:
    """The end of a run's id, by which one names it."""
    return run.rpartition("-")[2] or run


def base_name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def from_here(path: str) -> str:
    """A path as one would type it in the working directory."""
    return os.path.relpath(path) if PurePath(path).is_relative_to(Path.cwd()) else path
