"""Whether a run that was cut off may be gone on with, and as what; must not know what any command computes."""

from __future__ import annotations

from typing import Any

from latcli.errors import UsageError
from latcli.session import Session
from latcli.store.database import Store
from latcli.store.records import RunRow


def resumable_run(store: Store, name: str, command: str, given: dict[str, Any], session: Session) -> RunRow:
    """The run of that name, which is one of `command`, was cut off, and was begun with the same options.

    Raises UsageError where it is not, listing the differences, and StoreError where the store fails.
    """
    row = store.find_run(name)
    if row.command != command:
        raise UsageError(
            f"{row.id} is a run of {row.command}, not of {command}", f"`latcli runs list --command {command}`"
        )
    if row.status == "completed":
        raise UsageError(
            f"{row.id} has come to its end already", f"`latcli runs show {row.id[-4:]}` shows what it left"
        )
    if row.status == "running" and store.is_alive(row.id):
        raise UsageError(f"{row.id} is at work in another process", "wait for its end, or stop it first")
    _check_unchanged(given | _said(session), row)
    return row


def _said(session: Session) -> dict[str, Any]:
    """What the session holds and decides what is computed, where it was said: its defaults cannot be told from none."""
    said: dict[str, Any] = {} if session.precision == "auto" else {"precision": session.precision}
    return said | ({"seed": session.seed} if session.seed else {})


def _check_unchanged(said: dict[str, Any], row: RunRow) -> None:
    differences = [
        f"--{name.replace('_', '-')} {_shown(value)} (was {_shown(row.config.get(name))})"
        for name, value in said.items()
        if row.config.get(name) != value
    ]
    if differences:
        raise UsageError(
            f"the run {row.id} was begun otherwise: {', '.join(differences)}",
            "resume it without these options, or start a new run with them",
        )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
