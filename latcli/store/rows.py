"""Rows of many runs at once, for reports: one query each, however many runs there are; must not know what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from latcli.errors import StoreError
from latcli.store.database import Store
from latcli.store.migrations import require_types

#: Tables whose rows belong to runs, in the order in which they were written.
_ORDERS: dict[str, str] = {"attacks": "run, id", "artifacts": "run, rowid", "cells": "run, id"}

_AMONG = "run IN (SELECT value FROM json_each(:runs))"
_NAMED = "name IN (SELECT value FROM json_each(:names))"


def rows_of_runs(
    store: Store, table: Literal["attacks", "artifacts", "cells"], runs: Iterable[str]
) -> list[dict[str, Any]]:
    """The rows of a table that belong to any of the runs, run by run, each run's as they were written.

    Raises StoreError.
    """
    asked = list(runs)
    query = f"SELECT * FROM {table} WHERE {_AMONG} ORDER BY {_ORDERS[table]}"
    rows = _query(store, query, {"runs": json.dumps(asked)})
    require_types(table, rows, store.path)
    if not {row["run"] for row in rows} <= set(asked):
        hint = "move it away to start a new one; each run's folder keeps its run.json"
        raise StoreError(f"{store.path} is damaged: an index of {table} leads to other runs' rows", hint)
    return rows


def last_values(store: Store, runs: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """For each run that has any of these metrics, their values at the last step; NULL is None. Raises StoreError."""
    # SQLite takes the value from the row that holds the maximum.
    query = f"SELECT run, name, max(step) AS step, value FROM metrics WHERE {_AMONG} AND {_NAMED} GROUP BY run, name"
    values: dict[str, dict[str, float | None]] = {}
    for row in _query(store, query, {"runs": json.dumps(list(runs)), "names": json.dumps(list(names))}):
        values.setdefault(row["run"], {})[row["name"]] = row["value"]
    return values


def series(
    store: Store, runs: Iterable[str], names: Sequence[str], *, points: int | None = None
) -> dict[str, dict[str, list[list[Any]]]]:
    """For each run and each of these metrics, `[step, value]` in the order of steps; NULL is None.

    `points`: about so many of each, evenly spread, the first and the last among them; None for all. SQLite thins them
    out, so that a long run costs no more memory than a short one. Raises StoreError.
    """
    query = f"""
        SELECT run, name, step, value FROM (
            SELECT run, name, step, value,
                   row_number() OVER (PARTITION BY run, name ORDER BY step) AS place,
                   count(*) OVER (PARTITION BY run, name) AS n
            FROM metrics WHERE {_AMONG} AND {_NAMED}
        )
        WHERE :points IS NULL OR place = n OR (place - 1) % max(1, (n + :points - 1) / :points) = 0
        ORDER BY run, name, step
    """
    told = {"runs": json.dumps(list(runs)), "names": json.dumps(list(names)), "points": points}
    found: dict[str, dict[str, list[list[Any]]]] = {}
    for row in _query(store, query, told):
        found.setdefault(row["run"], {}).setdefault(row["name"], []).append([row["step"], row["value"]])
    return found


def names_of(store: Store, table: Literal["datasets", "models"]) -> dict[str, str]:
    """The name behind each id of a table. Raises StoreError."""
    return {row["id"]: row["name"] for row in _query(store, f"SELECT id, name FROM {table}", {})}


def git_revisions(store: Store) -> dict[str, str | None]:
    """The git sha of each environment that runs were in. Raises StoreError."""
    return {row["id"]: row["git_sha"] for row in _query(store, "SELECT id, git_sha FROM environments", {})}


def makers_of_models(store: Store) -> dict[str, str]:
    """The training run behind each model that has one. Raises StoreError."""
    return {row["id"]: row["run"] for row in _query(store, "SELECT id, run FROM models WHERE run IS NOT NULL", {})}


def _query(store: Store, query: str, told: dict[str, Any]) -> list[dict[str, Any]]:
    with store.reading() as db:
        return list(db.query(query, told))
