"""The docs say what the program does: docs/cli.md is current, everything has help, the README's commands exist."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from report_store import whole

from latcli.cli import app
from latcli.cli_options import with_session
from latcli.session import Session
from latcli.store.database import DATABASE

ROOT = Path(__file__).parent.parent
COMMAND = typer.main.get_command(app)


def commands(command: Any = COMMAND, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    yield " ".join(("latcli", *path)), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands())
LEAVES = {name: command for name, command in COMMANDS.items() if not hasattr(command, "commands")}


def documented_commands(file: Path) -> list[str]:
    """The lines of a page's shell blocks, without prompts, comments and line continuations."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINES = [(page.name, line) for page in PAGES for line in documented_commands(page)]


def test_the_page_of_the_command_line_is_current() -> None:
    script = ROOT / "docs" / "generate_cli.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_does_not_depend_on_who_writes_it(tmp_path: Path) -> None:
    script = tmp_path / "generate_cli.py"
    script.write_bytes((ROOT / "docs" / "generate_cli.py").read_bytes())
    noise = {"FORCE_COLOR": "1", "COLUMNS": "200", "LATCLI_STORE": "/elsewhere", "TERMINAL_WIDTH": "40"}
    environment = os.environ | noise | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script], env=environment, check=True)

    assert (tmp_path / "cli.md").read_text() == (ROOT / "docs" / "cli.md").read_text()


def test_a_page_that_is_behind_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "generate_cli.py"
    script.write_bytes((ROOT / "docs" / "generate_cli.py").read_bytes())
    (tmp_path / "cli.md").write_text("yesterday's")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, "--check"], env=environment, capture_output=True, check=False)

    assert done.returncode == 1
    assert b"make docs" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]

    assert command.help
    assert [param.name for param in command.params if not param.help] == []


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_the_options_that_all_have(name: str) -> None:
    @with_session
    def bare(session: Session) -> None: ...

    probe = typer.Typer()
    probe.command()(bare)
    shared = {opt for param in typer.main.get_command(probe).params for opt in param.opts}

    assert shared - {"--install-completion", "--show-completion"} <= {
        opt for param in LEAVES[name].params for opt in param.opts
    }


def test_the_readme_has_commands_to_try() -> None:
    lines = [line for page, line in LINES if page == "README.md"]

    assert "make demo" in lines
    assert "make test" in lines
    assert any(line.startswith("latcli ") for line in lines)


@pytest.mark.parametrize(("page", "line"), [pair for pair in LINES if pair[1].startswith("latcli ")])
def test_a_documented_command_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    name = max((name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len)
    command = COMMANDS[name]
    known = {opt for param in command.params for opt in [*param.opts, *param.secondary_opts]} | {"--help", "-h"}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}

    after = words[len(name.split()) :]
    assert used <= known
    assert name in LEAVES or after[:1] == sorted(used)[:1], f"{page} names a command that does not exist: {line}"


@pytest.mark.parametrize(("page", "line"), [pair for pair in LINES if pair[1].startswith("make ")])
def test_a_documented_target_of_make_exists(page: str, line: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert {word for word in line.split()[1:] if "=" not in word} <= targets


QUESTIONS = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs" / "report.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def test_there_are_three_questions_to_the_database() -> None:
    assert len(QUESTIONS) == 3


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_to_the_database_is_answered(question: str, store_of_everything: Path) -> None:
    with closing(sqlite3.connect(store_of_everything / DATABASE)) as connection:
        rows = connection.execute(question).fetchall()

    assert rows
    assert all(None not in row for row in rows)


def test_every_reference_between_tables_is_declared(store_of_everything: Path) -> None:
    with closing(sqlite3.connect(store_of_everything / DATABASE)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}
        keys = {table: {row[3] for row in connection.execute(f"PRAGMA foreign_key_list({table})")} for table in tables}

    referring = {"run", "model", "dataset", "environment", "image", "parent"}
    assert {table: sorted(referring & set(names) - keys[table]) for table, names in columns.items()} == {
        table: [] for table in tables
    }
    assert all("name" in columns[table] for table in ("models", "datasets", "environments", "images"))


@pytest.fixture(scope="module")
def store_of_everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "runs"
    whole(folder)
    return folder
