"""A report's figures as PNG: the loss matrix as a heat map, training curves, robustness curves.

Takes the document of `report --json`; must not know the engine or the store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latcli.reporting.figures import INK, plain, png_of
from latcli.reporting.matrix_table import Figure as Cell
from latcli.reporting.matrix_table import number, object_words
from latcli.reporting.report_terminal import scaled_cell, spread_words
from latcli.reporting.sheets import row_label
from latcli.reporting.tables import epsilon_text

#: Lines that can be told apart without their colours, too.
_COLOURS = ("#3b6ea8", "#c8553d", "#2e9e4f", "#8c5fa8", "#b58900", "#52606d")
_DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (6, 2, 1, 2), (1, 1.5))
_REGIMES = ("natural", "standard", "background", "foreground", "random")
_SERIES = {"loss": "loss", "clean_accuracy": "clean accuracy", "adversarial_accuracy": "accuracy under attack"}
#: Training runs in one figure.
_LINES = 12


def charts(document: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """File names and PNG bytes of everything that can be drawn; nothing where there is nothing."""
    for matrix in document["matrices"]:
        yield f"{matrix['id']}-{_stem(matrix['dataset'])}.png", heat_map(matrix)
    datasets = dict.fromkeys(row["dataset"] for row in document["training"] if row["series"])
    for number_, dataset in enumerate(datasets, start=1):
        rows = [row for row in document["training"] if row["dataset"] == dataset and row["series"]]
        yield f"training-{number_}-{_stem(dataset)}.png", training_curves(rows, f"Training on {dataset}")
    places = dict.fromkeys((row["run"], row["axis"]) for row in document["curves"])
    for run, axis in places:
        rows = [row for row in document["curves"] if (row["run"], row["axis"]) == (run, axis)]
        yield f"curve-{axis}-{_stem(run)}.png", robustness_curves(rows)


def heat_map(matrix: Mapping[str, Any]) -> bytes:
    """Models down, inputs across: colour and number are the loss, on a logarithmic scale; below it the accuracy."""
    rows, inputs = matrix["rows"], matrix["inputs"]
    figure = Figure(figsize=(2.2 + 1.5 * len(inputs), 1.5 + 0.75 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shades = [[_shade(row["cells"].get(name)) for name in inputs] for row in rows]
    known = [shade for line in shades for shade in line if not math.isnan(shade)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    axes.imshow(shades, cmap="Blues", aspect="auto", vmin=low, vmax=high + 0.4 * (high - low) + 1e-9)
    for y, row in enumerate(rows):
        for x, name in enumerate(inputs):
            dark = not math.isnan(shades[y][x]) and shades[y][x] > low + 0.75 * (high - low)
            _write_cell(axes, x, y, scaled_cell(matrix, name, row["cells"].get(name)), dark=dark)
    scale = matrix["natural_scale"]
    headings = [f"{name}\nloss x{scale}" if name == "natural" and scale != 1 else name for name in inputs]
    axes.set_xticks(range(len(inputs)), [plain(text) if "\n" not in text else text for text in headings])
    axes.set_yticks(range(len(rows)), [plain(_wrapped(row_label(row))) for row in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[:].set_visible(False)
    figure.suptitle(plain(f"Loss matrix on {matrix['dataset']}"), fontsize=10, color=INK)
    figure.supxlabel("\n".join(map(plain, caption(matrix))), fontsize=7, color=INK)
    return png_of(figure)


def training_curves(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Loss and accuracies of training runs against their steps, a line a run; of many the newest."""
    names = [name for name in _SERIES if any(row["series"].get(name) for row in rows)]
    figure = Figure(figsize=(3.4 * max(1, len(names)), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for position, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), position + 1)
        for line, row in _numbered(rows[:_LINES]):
            points = row["series"].get(name, ())
            steps, values = [step for step, _ in points], [math.nan if v is None else v for _, v in points]
            if steps:
                (drawn,) = axes.plot(steps, values, label=_run_label(row), linewidth=1.1)
                _tell_apart(drawn, row["regime"], line)
        if name == "loss":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0.0, 1.02)
        _finish(axes, "step", _SERIES[name])
    if names:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    cut = f", the newest {_LINES} of {len(rows)} runs" if len(rows) > _LINES else ""
    figure.suptitle(plain(title + cut), fontsize=10, color=INK)
    return png_of(figure)


def robustness_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy against the attack's strength, a line a model, an axes an input."""
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    figure = Figure(figsize=(3.8 * len(inputs), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for position, given in enumerate(inputs):
        axes = figure.add_subplot(1, len(inputs), position + 1)
        for line, row in _numbered(row for row in rows if row["input"] == given):
            points = row["points"]
            places, heights = [p["value"] for p in points], [p["accuracy"] for p in points]
            (drawn,) = axes.plot(places, heights, label=plain(row["label"]), marker="o", markersize=3, linewidth=1.2)
            _tell_apart(drawn, row["regime"], line)
        axes.set_ylim(0.0, 1.02)
        axes.set_title(plain(f"{given} attack"), fontsize=9, color=INK)
        _finish(axes, rows[0]["axis"], "accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    title = f"Accuracy on {rows[0]['dataset']}, n = {rows[0]['points'][0]['n']:,}, run {rows[0]['run'][-4:]}"
    figure.suptitle(plain(title), fontsize=10, color=INK)
    return png_of(figure)


def _shade(cell: Mapping[str, Any] | None) -> float:
    loss = None if cell is None else cell["loss"]
    return math.nan if loss is None else math.log10(max(loss, 1e-6))


def _write_cell(axes: Axes, x: int, y: int, cell: Cell, *, dark: bool) -> None:
    percent = [None if value is None else 100 * value for value in (cell.accuracy, cell.accuracy_spread)]
    loss = number(cell.loss, cell.loss_spread, 2).replace("+-", "± ")
    accuracy = number(percent[0], percent[1], 1, " %").replace("+-", "± ")
    colour = "white" if dark else INK
    for text, height, best in ((loss, -0.16, cell.best_loss), (accuracy, 0.18, cell.best_accuracy)):
        shown = f"{text} *" if best else text
        weight = "bold" if best else "normal"
        axes.text(x, y + height, shown, ha="center", va="center", fontsize=8, color=colour, fontweight=weight)


def _wrapped(label: str) -> str:
    return label if len(label) <= 44 else f"{label[:41]}..."


def caption(matrix: Mapping[str, Any]) -> list[str]:
    """What must be known to read a heat map, in lines."""
    epsilon = "" if matrix["epsilon"] is None else f", epsilon {epsilon_text(matrix['epsilon'])}"
    told = f"mean cross entropy, below it accuracy; n = {matrix['images']:,}{epsilon}; * best of the column"
    place = f"{told}; object: {object_words(matrix['mask_from'], matrix['center'])}"
    return [place, *(f"± {words}" for words in spread_words(matrix))]


def _run_label(row: Mapping[str, Any]) -> str:
    return plain(f"{row['regime']} {row['run'][-4:]}, seed {row['seed']}")


def _tell_apart(drawn: Line2D, regime: str | None, line: int) -> None:
    """A colour for each regime, a line style for each run of it."""
    place = _REGIMES.index(regime) if regime in _REGIMES else len(_REGIMES)
    drawn.set_color(_COLOURS[place])
    drawn.set_dashes(_DASHES[line % len(_DASHES)])


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


def _stem(name: str | None) -> str:
    """What a file can be called after a data set, whose name may be a path."""
    return re.sub(r"[^\w.-]+", "_", (name or "unknown").rpartition("/")[2])[:60].strip("._") or "unknown"
