"""The schema is the one asserted here, from an empty and from an old database, and a migration is all or nothing."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils.db import Database

from latcli.errors import StoreError
from latcli.store import migrations
from latcli.store.store import DATABASE, Store

# A column: name, type, `!` for NOT NULL, `pk` for the primary key, what it refers to and what deleting that does.
SCHEMA = {
    "_migrations": ["name TEXT! pk", "applied TEXT!"],
    "artifacts": [
        "run TEXT! pk -> runs.id CASCADE",
        "name TEXT! pk",
        "kind TEXT!",
        "sha256 TEXT!",
        "size INTEGER!",
        "created TEXT!",
    ],
    "attacks": [
        "id INTEGER pk",
        "run TEXT! -> runs.id CASCADE",
        "image TEXT -> images.sha256 NO ACTION",
        "position INTEGER",
        "name TEXT!",
        "label_index INTEGER",
        "label_name TEXT",
        "label_source TEXT",
        "epsilon REAL",
        "norm TEXT",
        "steps INTEGER",
        "restarts INTEGER",
        "clean_prediction TEXT",
        "clean_confidence REAL",
        "clean_rank INTEGER",
        "adversarial_prediction TEXT",
        "adversarial_confidence REAL",
        "adversarial_rank INTEGER",
        "altered_percent REAL",
        "background_percent REAL",
        "linf_inside REAL",
        "linf_outside REAL",
        "boxes_json TEXT",
        "clean_top_json TEXT",
        "adversarial_top_json TEXT",
        "notes_json TEXT",
    ],
    "cells": [
        "id INTEGER pk",
        "run TEXT! -> runs.id CASCADE",
        "model TEXT! -> models.id NO ACTION",
        "regime TEXT",
        "input TEXT!",
        "epsilon REAL",
        "steps INTEGER",
        "seed INTEGER",
        "n INTEGER!",
        "loss REAL",
        "accuracy REAL",
        "attack TEXT",
        "restarts INTEGER",
        "mask_from TEXT",
        "center REAL",
        "seconds REAL",
    ],
    "datasets": ["id TEXT! pk", "name TEXT!", "split TEXT", "fingerprint TEXT"],
    "detections": [
        "image TEXT! pk -> images.sha256 CASCADE",
        "detector TEXT! pk",
        "target TEXT! pk",
        "boxes_json TEXT!",
        "segmentations BLOB",
        "created TEXT!",
    ],
    "environments": [
        "id TEXT! pk",
        "name TEXT!",
        "git_sha TEXT",
        "git_dirty INTEGER",
        "latcli TEXT!",
        "python TEXT!",
        "torch TEXT",
        "platform TEXT!",
        "devices_json TEXT!",
        "packages_json TEXT!",
    ],
    "images": ["sha256 TEXT! pk", "name TEXT", "width INTEGER", "height INTEGER"],
    "metrics": ["run TEXT! pk -> runs.id CASCADE", "name TEXT! pk", "step INTEGER! pk", "value REAL"],
    "models": [
        "id TEXT! pk",
        "name TEXT!",
        "architecture TEXT",
        "weights_sha256 TEXT",
        "regime TEXT",
        "run TEXT -> runs.id SET NULL",
    ],
    "runs": [
        "id TEXT! pk",
        "command TEXT!",
        "status TEXT!",
        "parent TEXT -> runs.id SET NULL",
        "started TEXT!",
        "heartbeat TEXT!",
        "finished TEXT",
        "exit_code INTEGER",
        "error TEXT",
        "argv_json TEXT!",
        "config_json TEXT!",
        "config_hash TEXT!",
        "seed INTEGER",
        "device TEXT",
        "dataset TEXT -> datasets.id NO ACTION",
        "model TEXT -> models.id NO ACTION",
        "environment TEXT! -> environments.id NO ACTION",
        "pid INTEGER!",
        "host TEXT!",
        "folder TEXT!",
    ],
}
VIEWS = {
    "latest_metrics": ["run", "name", "step", "value"],
    "loss_matrix": [
        *("run", "dataset", "model", "regime", "input", "epsilon", "steps", "n"),
        *("seeds", "diverged", "loss", "accuracy"),
    ],
}
INDEXED = {"runs": {"status", "parent"}, "models": {"run"}, "attacks": {"run", "image"}, "cells": {"run", "model"}}
STEPS = len(migrations.MIGRATIONS)

KILLED_WHILE_MIGRATING = """
import sys, time
from pathlib import Path
from latcli.store import migrations
from latcli.store.store import Store

def m999_slow(db):
    db.execute("CREATE TABLE half_made (id INTEGER)")
    print("half made", flush=True)
    time.sleep(600)

migrations.MIGRATIONS = (*migrations.MIGRATIONS, m999_slow)
Store.open(Path(sys.argv[1]))
"""


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    refers = {
        row[3]: f" -> {row[2]}.{row[4]} {row[6]}" for row in connection.execute(f"PRAGMA foreign_key_list({table})")
    }
    return [
        f"{name} {kind}{'!' * notnull}{' pk' * bool(key)}{refers.get(name, '')}"
        for _, name, kind, notnull, _, key in connection.execute(f"PRAGMA table_info({table})")
    ]


def names_of(connection: sqlite3.Connection, kind: str) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = ?", [kind])}


def check_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert {table: columns_of(connection, table) for table in names_of(connection, "table")} == SCHEMA
        views = names_of(connection, "view")
        assert {v: [c[1] for c in connection.execute(f"PRAGMA table_info({v})")] for v in views} == VIEWS
        strict = {row[1] for row in connection.execute("PRAGMA table_list") if row[5]}
        assert strict == set(SCHEMA)
        for table, expected in INDEXED.items():
            indexes = [row[1] for row in connection.execute(f"PRAGMA index_list({table})") if row[3] == "c"]
            assert {connection.execute(f"PRAGMA index_info({index})").fetchone()[2] for index in indexes} == expected
        done = [row[0] for row in connection.execute("SELECT name FROM _migrations ORDER BY rowid")]
        assert done == [step.__name__ for step in migrations.MIGRATIONS]


def old_store(folder: Path, steps: int) -> None:
    """A store as a version with only the first so many migrations left it, with one row in it."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        db = Database(connection, execute_plugins=False)
        migrations.apply(db, list(migrations.MIGRATIONS[:steps]))
        if steps:
            connection.execute("INSERT INTO datasets VALUES ('mnist', 'mnist', 'test', NULL)")


def test_an_empty_folder_gets_the_whole_schema(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    check_schema(tmp_path / DATABASE)


@pytest.mark.parametrize("steps", range(STEPS))
def test_an_old_database_gets_the_same_schema_and_keeps_its_rows(tmp_path: Path, steps: int) -> None:
    old_store(tmp_path / "old", steps)
    with Store.open(tmp_path / "old") as store, store.reading() as db:
        kept = [row["split"] for row in db.query("SELECT * FROM datasets")]
    assert kept == (["test"] if steps else [])
    check_schema(tmp_path / "old" / DATABASE)


def test_a_backup_of_the_old_database_lies_beside_it(tmp_path: Path) -> None:
    old_store(tmp_path / "old", 1)
    Store.open(tmp_path / "old").close()
    backup = tmp_path / "old" / f"latcli-before-{migrations.MIGRATIONS[1].__name__}.db"
    with closing(sqlite3.connect(f"file:{backup}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT name, split FROM datasets").fetchall() == [("mnist", "test")]
        assert "attacks" not in names_of(connection, "table")
    assert {path.name for path in (tmp_path / "old").iterdir()} == {DATABASE, "latcli.lock", backup.name}


def test_neither_a_new_nor_an_up_to_date_database_is_backed_up(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    Store.open(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {DATABASE, "latcli.lock"}


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        before = list(connection.iterdump())
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert list(connection.iterdump()) == before


@pytest.mark.parametrize("opened", [Store.open, Store.open_existing])
def test_a_database_of_a_newer_latcli_is_refused_and_left_alone(tmp_path: Path, opened) -> None:
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("INSERT INTO _migrations VALUES ('m999_from_the_future', '2030-01-01T00:00:00Z')")
        connection.commit()
        before = list(connection.iterdump())
    with pytest.raises(StoreError, match=r"was written by a newer latcli.*m999_from_the_future") as caught:
        opened(tmp_path)
    assert "upgrade latcli" in caught.value.hint
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert list(connection.iterdump()) == before


@pytest.mark.parametrize("opened", [Store.open, Store.open_existing])
def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, opened) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("CREATE TABLE recipes (id INTEGER)")
        connection.commit()
    with pytest.raises(StoreError, match="some other program"):
        opened(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert names_of(connection, "table") == {"recipes"}


def test_an_old_database_is_read_without_being_written(tmp_path: Path) -> None:
    old_store(tmp_path / "old", 1)
    before = hashlib.sha256((tmp_path / "old" / DATABASE).read_bytes()).hexdigest()
    with Store.open_existing(tmp_path / "old") as store, store.reading() as db:
        assert list(db.query("SELECT * FROM attacks")) == []
        assert [row["name"] for row in db.query("SELECT name FROM datasets")] == ["mnist"]
    assert hashlib.sha256((tmp_path / "old" / DATABASE).read_bytes()).hexdigest() == before


def test_a_migration_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def m998_good(db: Database) -> None:
        db.execute("CREATE TABLE whole (id INTEGER)")

    def m999_bad(db: Database) -> None:
        db.execute("CREATE TABLE half_made (id INTEGER)")
        db.execute("INSERT INTO datasets VALUES ('x', 'x', NULL, NULL)")
        db.execute("CREATE TABLE runs (id INTEGER)")  # there is one

    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, m998_good, m999_bad))
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            Store.open(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert names_of(connection, "table") == set(SCHEMA) | {"whole"}
        assert connection.execute("SELECT count(*) FROM datasets").fetchone() == (0,)
        assert connection.execute("SELECT max(name) FROM _migrations").fetchone() == ("m998_good",)


def test_a_process_killed_in_the_middle_of_a_migration_leaves_no_trace(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_MIGRATING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half made\n"
        process.kill()
    Store.open(tmp_path).close()
    check_schema(tmp_path / DATABASE)


def test_steps_have_names_that_sort_in_their_order() -> None:
    names = [step.__name__ for step in migrations.MIGRATIONS]
    assert names == sorted(set(names))
    assert all(step.__doc__ for step in migrations.MIGRATIONS)


def test_what_a_key_points_to_has_a_name_to_be_shown_by() -> None:
    targets = {column.split(" -> ")[1].split(".")[0] for table in SCHEMA.values() for column in table if "->" in column}
    named = {table for table, columns in SCHEMA.items() if any(column.startswith("name ") for column in columns)}
    assert targets - named == {"runs"}  # whose ids are made to be read


def test_foreign_keys_are_enforced(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, pytest.raises(sqlite3.IntegrityError), store.writing() as db:
        db.execute("INSERT INTO metrics VALUES ('no such run', 'loss', 1, 0.5)")
