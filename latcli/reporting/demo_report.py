"""What the demo did, for a terminal, from its JSON document; must not know engine or commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from latcli.reporting.matrix_table import matrix
from latcli.reporting.tables import attack, from_here
from latcli.reporting.text import printable


def demo(document: Mapping[str, Any]) -> RenderableType:
    """What `demo --json` gives: the attack and its pictures, the matrix, the page, and what to try next."""
    pictures = [f"  {from_here(image['files']['figure'])}" for image in document["attack"]["images"]]
    page = ["", "all of it, with the pictures, on one page:", f"  {from_here(document['page'])}"]
    following = ["", "try next:", *(f"  {command}" for command in document["next"])]
    return Group(
        attack(document["attack"]), _lines([*pictures, ""]), matrix(document["evaluation"]), _lines([*page, *following])
    )


def _lines(lines: list[str]) -> Text:
    return Text("\n".join(map(printable, lines)), overflow="fold")
