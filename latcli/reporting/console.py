"""Rich consoles on a stream, with colour only where it is wanted."""

from __future__ import annotations

import os
from typing import TextIO

from rich.box import Box
from rich.console import Console

#: A rule below the heading and one before the last rows, and no frame; in letters that every stream takes, so that a
#: terminal and a file show the same table.
RULED = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)

#: Columns of what is written into a file or a pipe, unless COLUMNS says otherwise.
WIDTH = 80


class PlainConsole(Console):
    """A console without colour; rich draws boxes in ASCII for one that claims to know no other letters."""

    @property
    def encoding(self) -> str:
        """What rich asks before it draws a box; the text itself is written as it is."""
        return "ascii"


def console_for(stream: TextIO) -> Console:
    """A console that draws in colour only on a terminal, and not under NO_COLOR or TERM=dumb."""
    if not stream.isatty():
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) > 0 else WIDTH
        return PlainConsole(file=stream, force_terminal=False, color_system=None, width=width)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") in {"dumb", "unknown"}:
        return PlainConsole(file=stream, force_terminal=True, color_system=None)
    return Console(file=stream)
