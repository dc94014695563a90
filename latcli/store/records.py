"""What the store hands out: rows as typed values; must not know how they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

from latcli.documents import read_json
from latcli.errors import StoreError

Status = Literal["running", "completed", "failed", "interrupted", "crashed"]
STATUSES: tuple[Status, ...] = get_args(Status)

#: Tables and views whose rows belong to one run.
RunTable = Literal["attacks", "artifacts", "cells", "metrics", "latest_metrics", "loss_matrix"]


@dataclass(frozen=True)
class RunRow:
    """One run. `path` is its folder; times are UTC ISO 8601; `exit_code` and `finished` are None while it runs.

    `status` is what holds now: a run whose process is gone is `crashed`, whatever the database still says.
    """

    id: str
    path: Path
    command: str
    status: Status
    parent: str | None
    started: str
    heartbeat: str
    finished: str | None
    exit_code: int | None
    error: str | None
    argv: list[str]
    config: dict[str, Any]
    config_hash: str
    seed: int | None
    device: str | None
    dataset: str | None
    model: str | None
    environment: str
    pid: int
    host: str

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], path: Path, status: Status) -> Self:
        """A row of the table `runs`, with its folder and the status that holds now. Raises StoreError."""
        kept = {name: columns[name] for name in cls.__dataclass_fields__ if name in columns}
        try:
            read = {
                "argv": read_json(columns["argv_json"], list[str]),
                "config": read_json(columns["config_json"], dict[str, Any]),
            }
            for name in ("started", "finished"):
                if columns[name] is not None:
                    _moment(columns[name])
        except ValueError as error:
            hint = "move the database away to start a new one; each run's folder keeps its run.json"
            raise StoreError(f"what the database has of the run {path.name} is damaged: {error}", hint) from error
        return cls(**kept | {"path": path, "status": status} | read)

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where it never came to its end."""
        if self.finished is None:
            return None
        return (_moment(self.finished) - _moment(self.started)).total_seconds()


def _moment(text: str) -> datetime:
    """Raises ValueError for a text that is no time, or does not say where."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"'{text}' is no time in UTC")
    return moment


@dataclass(frozen=True)
class CachedDetection:
    """What a detector found on an image: a JSON list of boxes and, where it has them, PNG bytes of silhouettes."""

    boxes_json: str
    segmentations: bytes | None
