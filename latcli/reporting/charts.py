"""A report's figures: the loss matrix as a heat map, curves of training and of robustness, sweeps of a setting."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latcli.reporting.evaluations import matrix
from latcli.reporting.figures import INK, bytes_of, plain
from latcli.reporting.table import Column, Format, Table, printed, rows_of
from latcli.reporting.text import number, percent, short

#: Lines that differ without their colours, too.
_COLOURS = ("#3b6ea8", "#c8553d", "#2e9e4f", "#8c5fa8", "#b58900", "#52606d")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)))
_REGIMES = ("natural", "standard", "background", "foreground", "random")
#: Training runs in one plot; points in the table beside it.
_LINES, _POINTS = 12, 10
#: Figures of training and what their plots are called.
TRAINING = {
    "loss": "Training loss",
    "test_loss": "Test loss",
    "test_attacked_loss": "Test loss under attack",
    "clean_accuracy": "Accuracy on clean training batches",
    "adversarial_accuracy": "Accuracy on attacked training batches",
    "test_accuracy": "Accuracy on test images",
    "test_attacked_accuracy": "Accuracy on attacked test images",
}


@dataclass(frozen=True)
class Line:
    """One line: the regime that gives its colour, and points of x, y (None is a gap) and the spread of y."""

    label: str
    points: Sequence[tuple[float, float | None, float | None]]
    regime: str | None = None


@dataclass(frozen=True)
class Plot:
    """Lines against what `across` names: shares of 1, or `logarithmic`. paper: the paper's figure, where it has one."""

    title: str
    across: str
    lines: Sequence[Line]
    logarithmic: bool = False
    paper: float | None = None

    @property
    def description(self) -> str:
        """The lines in words, as the text of the picture."""
        show = number if self.logarithmic else percent
        last = {line.label: [y for _, y, _ in line.points if y is not None][-1:] for line in self.lines}
        ends = ", ".join(f"{label} {show(value)}" for label, values in last.items() for value in values)
        return f"{self.title} against {self.across}. At the end: {ends}."

    @property
    def table(self) -> Table:
        """A row for each line; of many points about `_POINTS`, with the last."""
        places = sorted({x for line in self.lines for x, _, _ in line.points})
        shown = sorted({*places[:: math.ceil(len(places) / _POINTS)], places[-1]})
        form: Format = "number" if self.logarithmic else "percent"
        columns = (Column("line", self.across, "name"), *(Column(f"{x:g}", f"{x:g}", form) for x in shown))
        rows = [{f"{x:g}": y for x, y, _ in line.points} | {"line": line.label} for line in self.lines]
        return Table(self.title, columns, rows_of(columns, rows))


def charts(document: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """File names and PNG bytes of everything in a report's document that can be drawn."""
    for one in document["matrices"]:
        yield f"{one['id']}-{_stem(one['dataset'])}.png", heat_map(matrix(one))
    datasets = dict.fromkeys(row["dataset"] for row in document["training"] if row["series"])
    for count, dataset in enumerate(datasets, start=1):
        rows = [row for row in document["training"] if row["dataset"] == dataset]
        yield f"training-{count}-{_stem(dataset)}.png", drawn(f"Training on {dataset}", training_plots(rows))
    for (run, axis), (title, plots) in curve_plots(document["curves"]).items():
        yield f"curve-{axis}-{_stem(run)}.png", drawn(title, plots)


def training_plots(rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Losses and accuracies of training runs against their steps, a line for each of the newest runs."""
    rows = [row for row in rows if row["series"]][:_LINES]
    found = []
    for name, title in TRAINING.items():
        series = [(row, row["series"].get(name) or ()) for row in rows]
        lines = [
            Line(f"{row['regime']} {short(row['run'])}", [(x, y, None) for x, y in points], row["regime"])
            for row, points in series
            if len(points) > 1
        ]
        if lines:
            found.append(Plot(title, "step", lines, logarithmic=name.endswith("loss")))
    return found


def curve_plots(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[str, list[Plot]]]:
    """For each run and axis a title, and accuracy against the attack's strength, a plot for each input."""
    found: dict[tuple[str, str], tuple[str, list[Plot]]] = {}
    for run, axis, given in dict.fromkeys((row["run"], row["axis"], row["input"]) for row in rows):
        chosen = [row for row in rows if (row["run"], row["axis"], row["input"]) == (run, axis, given)]
        lines = [
            Line(row["label"], [(one["value"], one["accuracy"], None) for one in row["points"]], row["regime"])
            for row in chosen
        ]
        title = f"Accuracy on {chosen[0]['dataset']}, n = {chosen[0]['points'][0]['n']:,}, run {short(run)}"
        found.setdefault((run, axis), (title, []))[1].append(Plot(f"{given} attack", axis, lines))
    return found


def sweep(document: Mapping[str, Any]) -> bytes:
    """Figures against one setting as PNG, from one of the `sweeps` of a reproduction's document."""
    plots = [
        Plot(panel["title"], document["across"], [Line(**line) for line in panel["lines"]], panel["decades"],
             panel["paper"])
        for panel in document["panels"]
    ]  # fmt: skip
    return drawn(document["title"], plots)


def drawn(title: str, plots: Sequence[Plot], kind: str = "png") -> bytes:
    """Plots below a title, two in a row, with one legend, as "png" or "svg"."""
    columns = min(len(plots), 2)
    rows = math.ceil(len(plots) / 2)
    figure = Figure(figsize=(3.8 * max(1, columns), 0.4 + 3.0 * max(1, rows)), layout="constrained")
    for place, plot in enumerate(plots):
        _draw(figure.add_subplot(rows, columns, place + 1), plot, with_title=len(plots) > 1)
    shown = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if shown:
        figure.legend(
            shown.values(),
            shown,
            loc="outside lower center",
            ncols=min(len(shown), 2 * columns),
            fontsize=7,
            frameon=False,
        )
    figure.suptitle(plain(title), fontsize=10, color=INK)
    return bytes_of(figure, kind)


def _draw(axes: Axes, plot: Plot, *, with_title: bool) -> None:
    """A colour for each regime, a line style for each line of it."""
    counts: Counter[str | None] = Counter()
    for line in plot.lines:
        points = [(x, math.nan if y is None else y, beside or 0.0) for x, y, beside in line.points]
        if not points:
            continue
        x, y, beside = zip(*points, strict=True)
        style: dict[str, Any] = {"color": _COLOURS[_REGIMES.index(line.regime) if line.regime in _REGIMES else -1]}
        style |= {"linestyle": _DASHES[counts[line.regime] % len(_DASHES)], "marker": "o" if len(x) < 12 else ""}
        style |= {"yerr": beside, "capsize": 2} if any(beside) else {}
        axes.errorbar(x, y, label=plain(line.label), markersize=3, linewidth=1.1, **style)
        counts[line.regime] += 1
    if plot.paper is not None:
        axes.axhline(plot.paper, color=_COLOURS[1], linewidth=1, linestyle="--", label="paper")
    if plot.logarithmic:
        axes.set_yscale("log", nonpositive="clip")
    else:
        axes.set_ylim(-0.02, 1.02)
    if with_title:
        axes.set_title(plain(plot.title), fontsize=9, color=INK)
    axes.set_xlabel(plain(plot.across), fontsize=8, color=INK)
    axes.tick_params(which="both", labelsize=7, colors=INK)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def heat_map(table: Table) -> bytes:
    """A loss matrix: models down, inputs across; each cell has the lines of its columns, and the shade of its loss."""
    label, *stacks = table.stacks
    lines = 1 + any(cell.low is not None for row in table.rows for cell in row.cells)
    figure = Figure(figsize=(2.4 + 1.5 * len(stacks), 1.9 + (0.25 + 0.5 * lines) * len(table.rows)),
                    layout="constrained")  # fmt: skip
    axes = figure.add_subplot()
    known = [[row.cells[places[0]].shade for places in stacks] for row in table.rows]
    shades = [[math.nan if shade is None else shade for shade in row] for row in known]
    axes.imshow(shades, cmap="Blues", aspect="auto", vmin=0.0, vmax=1.4)
    for y, row in enumerate(table.rows):
        for x, places in enumerate(stacks):
            shown = [(printed(row.cells[place], table.columns[place]), row.cells[place].best) for place in places]
            parts = [part for one, best in shown for part in ((one.joined(), best), (one.interval, False)) if part[0]]
            for line, (text, bold) in enumerate(parts):
                offset = (line - (len(parts) - 1) / 2) * 0.8 / max(2, len(parts))
                ink, weight = "white" if shades[y][x] > 0.75 else INK, "bold" if bold else "normal"
                axes.text(x, y + offset, plain(text), ha="center", va="center", fontsize=8, color=ink, weight=weight)
    headings = [(column.group, *column.notes) for column in (table.columns[places[0]] for places in stacks)]
    axes.set_xticks(range(len(stacks)), ["\n".join(map(plain, lines)) for lines in headings])
    axes.set_yticks(range(len(table.rows)), [plain(_cut(str(row.cells[label[0]].value))) for row in table.rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[:].set_visible(False)
    figure.suptitle(plain(table.title), fontsize=10, color=INK)
    best = ["bold: best of its column, shared where the difference is within chance"] if table.has_best else []
    figure.supxlabel("\n".join(plain(_cut(note, 110)) for note in [*table.notes, *best]), fontsize=7, color=INK)
    return bytes_of(figure)


def _cut(text: str, width: int = 44) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _stem(name: str | None) -> str:
    """What a file can be called after a data set, whose name may be a path."""
    return re.sub(r"[^\w.-]+", "_", (name or "unknown").rpartition("/")[2])[:60].strip("._") or "unknown"
