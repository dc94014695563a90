"""What tests of reliability share: how long they run, and a table of what they counted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

Figures = Callable[[str], None]


def full() -> bool:
    """Whether the long form was asked for."""
    return os.environ.get("LATCLI_RELIABILITY") == "full"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("reliability")


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Note a line of figures, shown with the others at the end of the session."""

    def note(line: str) -> None:
        request.node.user_properties.append(("figures", line))
        print(line)

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    rows = [
        (report.nodeid.rpartition("::")[2], line)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == "figures"
    ]
    if rows:
        terminalreporter.section(f"reliability, the {'full' if full() else 'short'} form")
        for test, line in rows:
            terminalreporter.write_line(test)
            terminalreporter.write_line(f"    {line}")
