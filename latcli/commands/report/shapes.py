"""What a report needs of the documents that runs left, as shapes to check them against; must not read or draw any.

A document may be another program's, or nobody's at all: what is not of its shape is a fault, and is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from latcli.documents import DocumentError, require_shape
from latcli.errors import StoreError
from latcli.store.store import RunRow


class _Entry(TypedDict):
    id: str


class _EntryTold(_Entry, total=False):
    name: str
    label: str
    regime: str | None
    train_run: str | None
    train_seed: int | None


class _Config(TypedDict, total=False):
    dataset: str | None
    regime: str | None
    architecture: str | None
    steps: int | None
    attack_steps: int | None
    epsilon: float | None
    entries: list[_EntryTold]
    mask_fingerprint: str | None
    strong: str | None
    classifier: str | None
    detector: str | None
    region: str | None
    at_model_resolution: bool | None


class _Model(TypedDict):
    id: str
    label: str


class _ModelTold(_Model, total=False):
    name: str | None
    regime: str | None


class _Warning(TypedDict):
    label: str
    input: str | None
    text: str


class _Point(TypedDict):
    value: float
    n: int
    accuracy: float


class _Curve(TypedDict):
    model: str
    input: str
    axis: str
    points: list[_Point]


class _Transfer(TypedDict):
    input: str
    source: str | None
    target: str
    n: int
    loss: float | None
    accuracy: float


class _Mean(TypedDict):
    n: int
    accuracy: float | None


class _Means(TypedDict):
    original: _Mean
    only_fg: _Mean
    only_bg_b: _Mean
    only_bg_t: _Mean
    mixed_same: _Mean
    mixed_rand: _Mean


class _Gap(TypedDict):
    value: float | None
    standard_error: float | None


class _Group(TypedDict):
    low: float
    high: float
    means: _Means
    gap: _Gap


class _Reliance(TypedDict):
    model: str
    donor_seeds: int
    overall: _Group
    by_share: list[_Group]
    without_same: int
    left_out: list[Any]


class _Evaluation(TypedDict):
    models: list[_ModelTold]


class Evaluation(_Evaluation, total=False):
    """matrix.json, which `latcli eval` leaves."""

    warnings: list[_Warning]
    notes: list[str]
    curves: list[_Curve]
    transfer: list[_Transfer]
    reliance: list[_Reliance]


def require_readable(rows: Iterable[RunRow]) -> None:
    """Raise StoreError where what a run was told is not what any run of latcli is told."""
    for row in rows:
        try:
            require_shape(row.config, _Config)
            _require_finite(row.config)
        except DocumentError as error:
            raise StoreError(
                f"what the database says that the run {row.id} was told is damaged: {error}",
                f"leave the run out, or remove it: latcli runs rm {row.id[-4:]}",
            ) from error


def require_consistent(document: Mapping[str, Any]) -> None:
    """Raise DocumentError where an evaluation's document speaks of models it does not have, or tables have holes."""
    _require_finite(document)
    known = {model["id"] for model in document["models"]}
    spoken = [row["model"] for kind in ("curves", "reliance") for row in document.get(kind, ())]
    transfer = document.get("transfer", ())
    spoken += [name for row in transfer for name in (row["source"], row["target"]) if name is not None]
    if unknown := [name for name in spoken if name not in known]:
        raise DocumentError(f"it has no model {unknown[0][:40]}")
    places: dict[tuple[str, str], list[float]] = {}
    for row in document.get("curves", ()):
        values = [point["value"] for point in row["points"]]
        if not values or places.setdefault((row["axis"], row["input"]), values) != values:
            raise DocumentError("its curves have no points, or other points than each other")
    for given in {row["input"] for row in transfer}:
        pairs = [(row["source"], row["target"]) for row in transfer if row["input"] == given]
        if len(set(pairs)) != len({one for one, _ in pairs}) * len({other for _, other in pairs}):
            raise DocumentError("its table of transfer has holes")


def _require_finite(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise DocumentError(f"{value} is no figure")
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inside:
        _require_finite(item)
