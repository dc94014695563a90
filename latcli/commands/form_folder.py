"""The user's files of the fastest forms of gradients, one a network; must not know how they are measured.

They lie in the user's cache: whoever removes them loses a few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from latcli.documents import DocumentError, read_json, require_shape
from latcli.engine.precision import FORMS, Form, Measured
from latcli.errors import StoreError
from latcli.store.files import write_whole


class _Row(TypedDict):
    form: Form
    seconds: dict[str, float]


@dataclass(frozen=True)
class FormFolder:
    """A `FormMemory` of one file a choice, so that processes that begin together do not undo each other's.

    A file that cannot be read holds nothing, one that cannot be written stays as it is.
    """

    path: Path

    @classmethod
    def of_user(cls) -> FormFolder:
        """In XDG_CACHE_HOME, else in ~/.cache."""
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(caches / "latcli" / "forms")

    def recall(self, key: str) -> Measured | None:
        """What was remembered under this key."""
        return _measured(_read(self._file(key)))

    def remember(self, key: str, measured: Measured, about: str) -> None:
        """Keep a choice beside those that are there."""
        row = {"form": measured.form, "seconds": dict(measured.seconds), "about": about}
        with contextlib.suppress(OSError, StoreError):  # then it is measured again next time
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self._file(key), json.dumps(row, indent=2).encode())

    def choices(self) -> list[tuple[str, Measured]]:
        """All that are kept, the oldest first: what was measured, in words, and the choice."""
        try:
            files = sorted(self.path.glob("*.json"), key=lambda file: (file.stat().st_mtime, file.name))
        except OSError:  # removed meanwhile
            return []
        rows = [_read(file) for file in files]
        return [(str(row.get("about")), measured) for row in rows if (measured := _measured(row)) is not None]

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        row: dict[str, Any] = read_json(file.read_bytes(), dict[str, Any])
    except (OSError, DocumentError):
        return {}
    return row


def _measured(row: dict[str, Any]) -> Measured | None:
    """A row as it was written; None where it is anything else, or of a form that this version does not know."""
    try:
        require_shape(row, _Row)
    except DocumentError:
        return None
    return Measured(row["form"], row["seconds"]) if set(row["seconds"]) <= set(FORMS) else None
