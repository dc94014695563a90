"""Which runs are one experiment repeated, and mean and spread over them; must not know what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

#: Parts of a training run's config in which two seeds of one experiment may differ.
_FREE = frozenset({"seed", "notes", "checkpoint_every", "precision", "devices", "nodes"})


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a training run was told, without that in which its seeds may differ.

    What was left unset is as good as unknown: a version of latcli that did not have the option did the same.
    """
    return {name: value for name, value in config.items() if name not in _FREE and value is not None}


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None
