"""sqlite-utils without what the store has no use for; must not know what is kept in the database.

On import it looks for pandas and numpy, to learn the types of their scalars. Where they are installed that takes
several times as long as all else, in every command; the store hands out and takes plain values alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _out_of_sight(*modules: str) -> Iterator[None]:
    """Make modules that are not imported yet look as if they were not installed."""
    hidden = [name for name in modules if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _out_of_sight("pandas", "numpy"):
    from sqlite_utils.db import Database

__all__ = ["Database"]
