"""How long the tests of this folder run: LATCLI_RELIABILITY is `short` (the default) or `full`."""

from __future__ import annotations

import os


def full() -> bool:
    """Whether the long form was asked for."""
    return os.environ.get("LATCLI_RELIABILITY") == "full"
