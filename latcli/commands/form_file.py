"""The user's file of the fastest forms of gradients, a choice for each network; must not know how they are measured.

It lies in the user's cache: whoever removes it loses a few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latcli.engine.precision import FORMS, Measured
from latcli.errors import StoreError
from latcli.store.files import write_whole


@dataclass(frozen=True)
class FormFile:
    """A `FormMemory` in a file. One that cannot be read holds nothing, one that cannot be written stays as it is."""

    path: Path

    @classmethod
    def of_user(cls) -> FormFile:
        """In XDG_CACHE_HOME, else in ~/.cache."""
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(caches / "latcli" / "forms.json")

    def recall(self, key: str) -> Measured | None:
        """What was remembered under this key."""
        kept = self._kept().get(key)
        return None if kept is None else _measured(kept)

    def remember(self, key: str, measured: Measured, about: str) -> None:
        """Keep a choice beside those that are there."""
        row = {"form": measured.form, "seconds": dict(measured.seconds), "about": about}
        content = json.dumps(self._kept() | {key: row}, indent=2)
        with contextlib.suppress(OSError, StoreError):  # then it is measured again next time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, content.encode())

    def choices(self) -> list[tuple[str, Measured]]:
        """All that are kept: what was measured, in words, and the choice."""
        read = ((str(kept.get("about")), _measured(kept)) for kept in self._kept().values())
        return [(about, measured) for about, measured in read if measured is not None]

    def _kept(self) -> dict[str, dict[str, Any]]:
        try:
            kept = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict):
            return {}
        return {key: row for key, row in kept.items() if isinstance(row, dict)}


def _measured(kept: dict[str, Any]) -> Measured | None:
    """A row as it was written; None where it is anything else, or of a form that this version does not know."""
    form, seconds = kept.get("form"), kept.get("seconds")
    if not isinstance(form, str) or form not in FORMS:
        return None
    if not isinstance(seconds, dict) or not set(seconds) <= set(FORMS):
        return None
    if not all(isinstance(value, int | float) for value in seconds.values()):
        return None
    return Measured(form, seconds)
