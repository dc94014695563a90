"""What the store hands out: rows as typed values; must not know how they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

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
        """A row of the table `runs`, with its folder and the status that holds now."""
        kept = {name: columns[name] for name in cls.__dataclass_fields__ if name in columns}
        return cls(
            **kept
            | {
                "path": path,
                "status": status,
                "argv": json.loads(columns["argv_json"]),
                "config": json.loads(columns["config_json"]),
            }
        )

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where it never came to its end."""
        if self.finished is None:
            return None
        return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()


@dataclass(frozen=True)
class CachedDetection:
    """What a detector found on an image: a JSON list of boxes and, where it has them, PNG bytes of silhouettes."""

    boxes_json: str
    segmentations: bytes | None
