"""The loss matrix as a heat map table; must not know the store, nor how a table is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latcli.reporting.page.formats import number, percent, percent_spread, spread
from latcli.reporting.report_terminal import spread_words

#: Colours of the scale; the style sheet has a class for each.
STEPS = 7


@dataclass(frozen=True)
class Cell:
    """One model on one input as text. step: 1 (lowest loss) to STEPS, 0 where the loss was not measured."""

    step: int
    loss: str
    loss_spread: str
    accuracy: str
    accuracy_spread: str
    best_loss: bool
    best_accuracy: bool
    remark: str


@dataclass(frozen=True)
class Row:
    """One model, or one regime over its seeds."""

    label: str
    models: int
    train_runs: Sequence[str]
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class HeatMap:
    """A matrix ready to be drawn. low, high: the losses at the ends of the colour scale, not scaled; empty for none."""

    id: str
    dataset: str
    inputs: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Row]
    caption: str
    low: str
    high: str
    runs: Sequence[str]
    warnings: Sequence[str]
    notes: Sequence[str]


def heat_map(matrix: Mapping[str, Any]) -> HeatMap:
    """A matrix of the report's document. Colours go by the logarithm of the loss before natural losses are scaled."""
    inputs = list(matrix["inputs"])
    cells = [cell for row in matrix["rows"] for cell in row["cells"].values()]
    losses = [cell["loss"] for cell in cells if cell["loss"] is not None and math.isfinite(cell["loss"])]
    ends = (min(losses), max(losses)) if losses else None
    scales = {name: float(matrix.get("natural_scale") or 1) if name == "natural" else 1.0 for name in inputs}
    rows = [
        Row(
            label=row["label"],
            models=row.get("model_count", 1),
            train_runs=[run for run in row.get("train_runs") or () if run],
            cells=[_cell(row["cells"].get(name), scales[name], ends) for name in inputs],
        )
        for row in matrix["rows"]
    ]
    return HeatMap(
        id=matrix["id"],
        dataset=matrix["dataset"],
        inputs=inputs,
        headings=[_heading(name, scales[name]) for name in inputs],
        rows=rows,
        caption=_caption(matrix),
        low=number(ends[0]) if ends else "",
        high=number(ends[1]) if ends else "",
        runs=list(matrix.get("runs") or ()),
        warnings=list(matrix.get("warnings") or ()),
        notes=list(matrix.get("notes") or ()),
    )


def _cell(cell: Mapping[str, Any] | None, scale: float, ends: tuple[float, float] | None) -> Cell | None:
    if cell is None:
        return None
    diverged = cell.get("diverged") or 0
    return Cell(
        step=_step(cell["loss"], ends),
        loss=number(cell["loss"], scale),
        loss_spread=spread(cell.get("loss_spread"), scale),
        accuracy=percent(cell["accuracy"]),
        accuracy_spread=percent_spread(cell.get("accuracy_spread")),
        best_loss=bool(cell.get("best_loss")),
        best_accuracy=bool(cell.get("best_accuracy")),
        remark=f"{diverged} without a loss" if diverged else "",
    )


def _step(loss: float | None, ends: tuple[float, float] | None) -> int:
    if loss is None or ends is None or not math.isfinite(loss):
        return 0
    low, high = (math.log(max(end, 1e-6)) for end in ends)
    share = (math.log(max(loss, 1e-6)) - low) / (high - low) if high > low else 0.0
    return 1 + min(STEPS - 1, int(share * STEPS))


def _heading(name: str, scale: float) -> str:
    return name if scale == 1 else f"{name} ×{scale:g}"  # noqa: RUF001 - a times sign


def _caption(matrix: Mapping[str, Any]) -> str:
    scale = float(matrix.get("natural_scale") or 1)
    counts: dict[str, set[int]] = {"attacked": set(), "natural": set()}
    for row in matrix["rows"]:
        for name, cell in row["cells"].items():
            counts["natural" if name == "natural" else "attacked"].add(cell["n"])
    images = [f"{_counts(sorted(n))} {kind}" for kind, n in counts.items() if n]
    parts = ["mean cross entropy, accuracy below it"]
    parts += [f"losses on natural inputs times {scale:g}, as in the paper"] if scale != 1 else []
    parts += [f"n = {' and '.join(images)} images"] if images else []
    parts += [_protocol(matrix)] if matrix.get("attack") else []
    parts += [f"evaluation seed {', '.join(map(str, matrix['seeds']))}"] if matrix.get("seeds") else []
    parts += [f"± {words}" for words in spread_words(matrix)]
    return "; ".join(parts) + "."


def _counts(counts: Sequence[int]) -> str:
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _protocol(matrix: Mapping[str, Any]) -> str:
    parts = [f"{str(matrix['attack']).upper()}-{matrix['steps']}" if matrix.get("steps") else str(matrix["attack"])]
    if matrix.get("restarts"):
        parts.append(f"{matrix['restarts']} random start{'' if matrix['restarts'] == 1 else 's'}")
    if matrix.get("epsilon") is not None:
        parts.append(f"epsilon {matrix['epsilon']:.4g}")
    if matrix.get("mask_from") == "center" and matrix.get("center") is not None:
        parts.append(f"object: a middle of {matrix['center']:g} of the side")
    elif matrix.get("mask_from"):
        parts.append(f"object from {matrix['mask_from']}")
    return ", ".join(parts)
