"""How long the tests of reliability run, and what they note for the table at the end of the session."""

from __future__ import annotations

import os
from collections.abc import Callable

#: The fixture `figures`: notes a line, which is shown with the others at the end.
Figures = Callable[[str], None]


def full() -> bool:
    """Whether the long form was asked for."""
    return os.environ.get("LATCLI_RELIABILITY") == "full"
