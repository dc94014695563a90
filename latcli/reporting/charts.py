"""A report's figures as PNG: the loss matrix as a heat map, training curves, robustness curves, sweeps of a setting."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from latcli.reporting.evaluations import matrix
from latcli.reporting.figures import INK, plain, png_of
from latcli.reporting.svg import TRAINING
from latcli.reporting.table import Table, printed
from latcli.reporting.text import short

#: Lines that differ without their colours, too.
_COLOURS = ("#3b6ea8", "#c8553d", "#2e9e4f", "#8c5fa8", "#b58900", "#52606d")
_DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (6, 2, 1, 2), (1, 1.5))
_REGIMES = ("natural", "standard", "background", "foreground", "random")
#: Training runs in one figure.
_LINES = 12


def charts(document: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """File names and PNG bytes of everything in a report's document that can be drawn."""
    for one in document["matrices"]:
        yield f"{one['id']}-{_stem(one['dataset'])}.png", heat_map(matrix(one))
    datasets = dict.fromkeys(row["dataset"] for row in document["training"] if row["series"])
    for number, dataset in enumerate(datasets, start=1):
        rows = [row for row in document["training"] if row["dataset"] == dataset and row["series"]]
        yield f"training-{number}-{_stem(dataset)}.png", training_curves(rows, f"Training on {dataset}")
    for run, axis in dict.fromkeys((row["run"], row["axis"]) for row in document["curves"]):
        rows = [row for row in document["curves"] if (row["run"], row["axis"]) == (run, axis)]
        yield f"curve-{axis}-{_stem(run)}.png", robustness_curves(rows)


def heat_map(table: Table) -> bytes:
    """A loss matrix: models down, inputs across; each cell has the lines of its columns, and the shade of its loss."""
    label, *stacks = table.stacks
    lines = 1 + any(cell.low is not None for row in table.rows for cell in row.cells)
    height = 0.25 + 0.5 * lines
    figure, axes = _figure(2.4 + 1.5 * len(stacks), 1.9 + height * len(table.rows))
    shades = [[_or_nan(row.cells[places[0]].shade) for places in stacks] for row in table.rows]
    axes.imshow(shades, cmap="Blues", aspect="auto", vmin=0.0, vmax=1.4)
    for y in range(len(table.rows)):
        for x, places in enumerate(stacks):
            parts = [part for place in places for part in _texts(table, y, place)]
            ink = "white" if shades[y][x] > 0.75 else INK
            for line, (text, bold) in enumerate(parts):
                offset = (line - (len(parts) - 1) / 2) * 0.8 / max(2, len(parts))
                weight = "bold" if bold else "normal"
                axes.text(x, y + offset, plain(text), ha="center", va="center", fontsize=8, color=ink, weight=weight)
    headings = ["\n".join((column.group, *column.notes)) for column in (table.columns[p[0]] for p in stacks)]
    axes.set_xticks(range(len(stacks)), list(map(_lines_plain, headings)))
    axes.set_yticks(range(len(table.rows)), [plain(_cut(str(row.cells[label[0]].value))) for row in table.rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[:].set_visible(False)
    figure.suptitle(plain(table.title), fontsize=10, color=INK)
    best = ["bold: best of its column, shared where the difference is within chance"] if table.has_best else []
    figure.supxlabel("\n".join(plain(_cut(note, 110)) for note in [*table.notes, *best]), fontsize=7, color=INK)
    return png_of(figure)


def _texts(table: Table, y: int, place: int) -> Iterator[tuple[str, bool]]:
    """The lines of a cell, and whether they are bold."""
    cell = table.rows[y].cells[place]
    shown = printed(cell, table.columns[place])
    yield shown.joined(), cell.best
    if shown.interval:
        yield shown.interval, False


def training_curves(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Loss and accuracies of training runs against their steps, a line a run; of many the newest."""
    names = [name for name in TRAINING if any(len(row["series"].get(name) or ()) > 1 for row in rows)]
    figure, *panels = _figure(3.4 * max(1, len(names)), 3.4, max(1, len(names)))
    for name, axes in zip(names, panels, strict=False):
        for line, row in _numbered(rows[:_LINES]):
            points = row["series"].get(name) or ()
            label = f"{row['regime']} {short(row['run'])}, seed {row['seed']}"
            values = [(step, math.nan if value is None else value) for step, value in points]
            _draw_line(axes, values, label, row["regime"], line, "")
        if name.endswith("loss"):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0.0, 1.02)
        _finish(axes, "step", TRAINING[name])
    cut = f", the newest {_LINES} of {len(rows)} runs" if len(rows) > _LINES else ""
    return _with_legend(figure, title + cut, columns=4)


def robustness_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy against the attack's strength, a line a model, an axes an input."""
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    figure, *panels = _figure(3.8 * len(inputs), 3.4, len(inputs))
    for given, axes in zip(inputs, panels, strict=True):
        for line, row in _numbered(row for row in rows if row["input"] == given):
            points = [(point["value"], point["accuracy"]) for point in row["points"]]
            _draw_line(axes, points, row["label"], row["regime"], line, "o")
        axes.set_ylim(0.0, 1.02)
        axes.set_title(plain(f"{given} attack"), fontsize=9, color=INK)
        _finish(axes, rows[0]["axis"], "accuracy")
    n = rows[0]["points"][0]["n"]
    title = f"Accuracy on {rows[0]['dataset']}, n = {n:,}, run {short(rows[0]['run'])}"
    return _with_legend(figure, title, columns=3)


def sweep(document: Mapping[str, Any]) -> bytes:
    """A figure against one setting, from one of the `sweeps` of a reproduction's document.

    `panels` have `title`, `lines` of `[x, mean, spread]`, `paper`, a number or None, and `decades`, whether figures are
    drawn by their logarithms.
    """
    figure, *panels = _figure(3.8 * len(document["panels"]), 3.2, len(document["panels"]))
    for panel, axes in zip(document["panels"], panels, strict=True):
        for line in panel["lines"]:
            points = [(x, mean, spread or 0.0) for x, mean, spread in line["points"] if mean is not None]
            if points:
                style = {"color": _COLOURS[0], "marker": "o", "markersize": 3, "capsize": 2}
                axes.errorbar(*zip(*points, strict=True), label=plain(line["label"]), **style)
        if panel["paper"] is not None:
            axes.axhline(panel["paper"], color=_COLOURS[1], linewidth=1, linestyle="--", label="paper")
        if panel["decades"]:
            axes.set_yscale("log", nonpositive="clip")
            axes.set_ylim(top=1.5)
        else:
            axes.set_ylim(-0.02, 1.02)
        axes.set_title(plain(panel["title"]), fontsize=9, color=INK)
        axes.legend(fontsize=7, frameon=False)
        _finish(axes, document["across"], "")
    figure.suptitle(plain(document["title"]), fontsize=10, color=INK)
    return png_of(figure)


def _figure(width: float, height: float, panels: int = 1) -> tuple[Any, ...]:
    """A figure with axes side by side; first the figure, then its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, *(figure.add_subplot(1, panels, place + 1) for place in range(panels))


def _draw_line(
    axes: Axes, points: Sequence[tuple[float, float]], label: str, regime: str | None, line: int, marker: str
) -> None:
    """A colour for each regime, a line style for each run of it."""
    if not points:
        return
    places, heights = zip(*points, strict=True)
    (drawn,) = axes.plot(places, heights, label=plain(label), marker=marker, markersize=3, linewidth=1.1)
    drawn.set_color(_COLOURS[_REGIMES.index(regime) if regime in _REGIMES else len(_REGIMES)])
    drawn.set_dashes(_DASHES[line % len(_DASHES)])


def _with_legend(figure: Figure, title: str, columns: int) -> bytes:
    if figure.axes and figure.axes[0].get_legend_handles_labels()[0]:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    figure.suptitle(plain(title), fontsize=10, color=INK)
    return png_of(figure)


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each row with how many of its regime came before it."""
    counts: dict[str | None, int] = {}
    for row in rows:
        counts[row["regime"]] = counts.get(row["regime"], -1) + 1
        yield counts[row["regime"]], row


def _finish(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(plain(across), fontsize=8, color=INK)
    axes.set_ylabel(plain(up), fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _lines_plain(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _cut(text: str, width: int = 44) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _stem(name: str | None) -> str:
    """What a file can be called after a data set, whose name may be a path."""
    return re.sub(r"[^\w.-]+", "_", (name or "unknown").rpartition("/")[2])[:60].strip("._") or "unknown"
