"""Writes docs/cli.md from the commands' own help; with --check, says whether it is current instead."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before Typer is imported: it looks at these once, and the page must not depend on who writes it.
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TERMINAL_WIDTH", "TYPER_USE_RICH"):
    os.environ.pop(name, None)
os.environ |= {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}

import typer  # noqa: E402

from latcli.cli import app  # noqa: E402

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """# Command line

Every command with all its options, as `--help-all` prints them. Written by `make docs`; a test keeps it current.
"""


def command_paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command below one, itself first, in the order of the help."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from command_paths(inner, (*path, name))


def help_of(command: Any, path: tuple[str, ...]) -> str:
    """What `latcli PATH --help-all` prints, without the blank ends of its lines; a group has --help alone."""
    inner: Any = command
    for name in path:
        inner = inner.commands[name]
    asked = "--help" if hasattr(inner, "commands") else "--help-all"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        command.main([*path, asked], prog_name="latcli", standalone_mode=False)
    return "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines()).strip("\n")


def page() -> str:
    """The whole of docs/cli.md."""
    command = typer.main.get_command(app)
    sections = [
        f"## {' '.join(('latcli', *path))}\n\n```text\n{help_of(command, path)}\n```\n"
        for path in command_paths(command)
    ]
    return "\n".join([INTRODUCTION, *sections])


def main(arguments: list[str]) -> int:
    """Write the page, or check it: 1 where it is out of date."""
    current = page()
    if arguments == ["--check"]:
        written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if written != current:
            print("docs/cli.md is out of date: run make docs", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print("usage: generate_cli.py [--check]", file=sys.stderr)
        return 2
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
