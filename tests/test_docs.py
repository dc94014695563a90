"""The docs say what the program does: docs/cli.md is current, and every documented command is one that can be typed."""

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing

from conftest import ROOT, code_blocks

from latcli import cli
from latcli.store.store import Store

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


#: The lines of each page's shell blocks, without prompts and line continuations.
LINES = [
    (page.name, line.removeprefix("$ ").strip())
    for page in PAGES
    for block in code_blocks(str(page), "sh", "bash", "shell", "console")
    for line in block.replace("\\\n", " ").splitlines()
]


def test_the_page_of_the_command_line_is_current_whoever_writes_it(tmp_path):
    script = tmp_path / "generate_cli.py"
    script.write_bytes((ROOT / "docs" / "generate_cli.py").read_bytes())
    noise = {"FORCE_COLOR": "1", "COLUMNS": "200", "LATCLI_STORE": "/elsewhere", "TERMINAL_WIDTH": "40"}
    environment = os.environ | noise | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "cli.md").write_text("yesterday's")
    stale = subprocess.run([sys.executable, script, "--check"], env=environment, capture_output=True, check=False)
    subprocess.run([sys.executable, script], env=environment, check=True)
    assert stale.returncode == 1
    assert (tmp_path / "cli.md").read_text() == (ROOT / "docs" / "cli.md").read_text()


def test_the_readme_is_short_and_has_commands_to_try():
    lines = [line for page, line in LINES if page == "README.md"]
    assert {"make demo", "make test"} <= set(lines)
    assert sum(line.startswith("latcli ") for line in lines) >= 3
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_documented_command_can_be_typed(latcli, monkeypatch):
    monkeypatch.setattr(cli, "_imported", lambda target: lambda options, session: {})
    monkeypatch.setattr("latcli.session.Session.show", lambda *_: 0)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page, line in LINES:
        words = shlex.split(line.removeprefix(".venv/bin/"), comments=True)
        words = words[: min((words.index(sign) for sign in ("|", ">", "&&") if sign in words), default=len(words))]
        if words[:1] == ["latcli"]:
            assert latcli(*words[1:]).code == 0, f"{page}: {line}"
        elif words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, f"{page}: {line}"


def test_every_link_between_pages_leads_somewhere():
    pattern = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
    texts = {page: re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES}
    for page, target in [(page, target) for page, text in texts.items() for target in pattern.findall(text)]:
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} points to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} points to {target}"


def test_the_questions_to_the_database_are_answered(stored):
    questions = code_blocks("report.md", "sql")
    with closing(sqlite3.connect(stored[0] / "latcli.db")) as connection:
        answers = [connection.execute(question).fetchall() for question in questions]
    assert len(questions) >= 3
    assert all(answers)
    assert not any(None in row for rows in answers for row in rows)


def test_every_reference_between_tables_is_declared(tmp_path):
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "latcli.db")) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}
        keys = {table: {row[3] for row in connection.execute(f"PRAGMA foreign_key_list({table})")} for table in tables}
    referring = {"run", "model_id", "dataset", "environment", "parent"}
    undeclared = {table: referring & set(names) - keys[table] for table, names in columns.items()}
    assert {table: names for table, names in undeclared.items() if names} == {}
    assert ("model" in keys["runs"], "sha256" in keys["attacks"], "image" in keys["artifacts"]) == (True, True, True)
