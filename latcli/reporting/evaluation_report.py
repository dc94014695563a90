"""All that `eval` measured, for a terminal, from its JSON document; must not know engine or commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from latcli.reporting.further_tables import curves, transfer
from latcli.reporting.matrix_table import matrix
from latcli.reporting.reliance_table import reliance
from latcli.reporting.text import printable


def evaluation(document: Mapping[str, Any]) -> RenderableType:
    """What `eval --json` gives: the matrix, what was measured beside it, and the run."""
    further = [*transfer(document), *curves(document), *reliance(document)]
    return Group(matrix(document), "", *further, Text(printable(f"run {document['run']}"), overflow="fold"))
