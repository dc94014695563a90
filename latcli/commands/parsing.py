"""Option values that need more than a type: text in, a checked value out; must not know Typer."""

from __future__ import annotations

import math

from latcli.errors import UsageError


def parse_epsilon(text: str | float, what: str = "epsilon") -> float:
    """The largest change of a pixel as a share of [0, 1], from `8/255` or `0.031`; `what` the errors call it.

    Raises UsageError for what is no number, not over 0, or over 1.
    """
    hint = f"{what} is a share of the full brightness, over 0 and at most 1: 8/255 or 0.031"
    try:
        above, slash, below = str(text).partition("/")
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{what} '{text}' is not a number", hint) from None
    if not 0 < value <= 1:  # also true of nan
        raise UsageError(f"{what} '{text}' is not over 0 and at most 1", hint)
    return value


def parse_box(text: str) -> tuple[float, float, float, float]:
    """A rectangle in pixels from `x0,y0,x1,y1`: left, top, right, bottom, right and bottom exclusive.

    Raises UsageError for anything but four finite numbers.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in str(text).split(","))
    except ValueError:
        raise UsageError(
            f"the box '{text}' is not four numbers", "a box is x0,y0,x1,y1 in pixels: 40,30,200,180"
        ) from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise UsageError(
            f"the box '{text}' is not four finite numbers", "a box is x0,y0,x1,y1 in pixels: 40,30,200,180"
        )
    return x0, y0, x1, y1
