"""What must hold of a store at any time after a writing command has been there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from latcli.store.store import DATABASE, Store
from latcli.store.verify import verify


def statuses(folder: Path) -> list[str]:
    """The statuses in the database itself, the oldest run's first."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        return [row[0] for row in db.execute("SELECT status FROM runs ORDER BY rowid")]


def assert_sound(folder: Path, *, killed: bool = False) -> None:
    """Database and files agree, no run that is dead is running, nothing unfinished lies about.

    Opens the store for writing first, as any command that writes does. Where a run was `killed`, a file that was just
    being replaced may be newer than its row, and is named.
    """
    with Store.open(folder) as store:
        found = verify(store, store.runs())
        ids = {row.id for row in store.runs()}
    assert found.database == ()
    assert [problem for problem in found.problems if not (killed and problem.fault == "changed")] == []
    assert "running" not in statuses(folder)
    assert list(folder.rglob(".latcli-*")) == []
    without_row = {path for path in folder.iterdir() if path.is_dir() and path.name not in ids}
    assert all([file.name for file in path.iterdir()] in ([], ["lock"]) for path in without_row)
