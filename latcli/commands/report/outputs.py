"""Where a report is written to: checked before the work, whole or not at all; must not know what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from latcli.commands.report.options import STDOUT
from latcli.errors import LatcliError, UsageError
from latcli.store.files import RUN_JSON, whole_file
from latcli.store.store import DATABASE, STORE_LOCK


def check_file(path: Path, store: Path) -> None:
    """Raise LatcliError where a file of that name could not be written, UsageError where it is one of the store's."""
    if path == STDOUT:
        return
    _keep_off_store(path, store)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder", f"name a file in it: {path / 'report'}")
        if path.exists() and not path.is_file():  # a pipe or a device needs no room beside it
            return
        _try_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_folder(path: Path, store: Path) -> None:
    """Make a folder for files where there is none. Raises LatcliError where that fails or nothing can be written."""
    _keep_off_store(path / "figure.png", store)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _try_folder(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def write(path: Path, pieces: Iterable[str | bytes], stdout: TextIO) -> int:
    """Write pieces one after another, text as UTF-8; returns their size in bytes. The file is whole or as it was.

    Raises LatcliError where it cannot be written.
    """
    size = 0

    def counted() -> Iterable[bytes]:
        nonlocal size
        for piece in pieces:
            data = piece.encode("utf-8", "backslashreplace") if isinstance(piece, str) else piece
            size += len(data)
            yield data

    if path == STDOUT:
        for data in counted():
            stdout.write(data.decode("utf-8"))
        return size
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written into, never replaced
            with path.open("wb") as stream:
                stream.writelines(counted())
        else:
            with whole_file(path, counted()) as put_in_place:
                put_in_place()
    except OSError as error:
        raise _unwritable(path, error) from error
    return size


def _try_folder(folder: Path) -> None:
    with whole_file(folder / "report", []):  # not put in place: it is gone again
        pass


def _keep_off_store(path: Path, store: Path) -> None:
    """A report must not replace what it is made of: the database, or anything in a run's folder."""
    resolved, root = Path(os.path.realpath(path)), Path(os.path.realpath(store))
    own = resolved.parent == root and resolved.name.startswith((DATABASE, STORE_LOCK))
    inside = any(
        parent != root and (parent / RUN_JSON).exists() for parent in resolved.parents if root in parent.parents
    )
    if own or inside:
        raise UsageError(f"{path} belongs to the store", "write the report somewhere else")


def _unwritable(path: Path, error: OSError) -> LatcliError:
    reason = (error.strerror or str(error)).lower()
    return LatcliError(f"{path} cannot be written: {reason}", "name a file in a folder that you may write")
