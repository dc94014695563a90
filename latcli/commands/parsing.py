"""Option values that need more than a type: text in, a checked value out; must not know Typer."""

from __future__ import annotations

from latcli.errors import UsageError


def parse_epsilon(text: str | float) -> float:
    """The largest change of a pixel as a share of [0, 1], from `8/255` or `0.031`.

    Raises UsageError for what is no number, not over 0, or over 1.
    """
    hint = "epsilon is a share of the full brightness, over 0 and at most 1: 8/255 or 0.031"
    try:
        above, slash, below = str(text).partition("/")
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"epsilon '{text}' is not a number", hint) from None
    if not 0 < value <= 1:  # also true of nan
        raise UsageError(f"epsilon '{text}' is not over 0 and at most 1", hint)
    return value
