"""What must hold of a store at any time after a writing command has been there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from latcli.commands.runs import verify_runs
from latcli.store.store import DATABASE, Store


def statuses(folder: Path) -> list[str]:
    """The statuses in the database itself, the oldest run's first."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        return [row[0] for row in db.execute("SELECT status FROM runs ORDER BY rowid")]


def assert_sound(folder: Path) -> None:
    """Database and files agree, no run that is dead is running, nothing unfinished lies about.

    Opens the store for writing first, as any command that writes does.
    """
    Store.open(folder).close()
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        ids = {row[0] for row in db.execute("SELECT id FROM runs")}
    verified = verify_runs(folder)
    problems = [problem for run in verified.runs for problem in run.problems]
    assert not problems, (problems, statuses(folder))
    assert verified.database_faults == []
    assert "running" not in statuses(folder)
    assert list(folder.rglob(".latcli-*")) == []
    assert {path.name for path in folder.iterdir() if path.is_dir()} == ids
