"""Pictures of results by matplotlib: the paper's Figure 1, the loss matrix as a heat map, curves and sweeps.

Legend: H height, W width, C = 3; levels are uint8.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from latcli.reporting.documents import training_curves
from latcli.reporting.evaluations import curves, matrix
from latcli.reporting.table import Cell, Column, Row, Table, printed
from latcli.reporting.text import printable, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG, INK = "#2e9e4f", "#9aa3ad", "#1f2933"

#: Longer side of a photo inside a figure, in pixels.
_PANEL_PIXELS = 640


@dataclass(frozen=True)
class Guess:
    """One bar: a class, how sure the classifier is of it (0 to 1), and whether it is the right one."""

    name: str
    confidence: float
    right: bool


@dataclass(frozen=True, eq=False)
class Panel:
    """One photo of a figure: its title, its levels_HWC and its guesses, best first."""

    title: str
    levels_HWC: np.ndarray
    guesses: Sequence[Guess]


def triptych(panels: Sequence[Panel], caption: str) -> bytes:
    """The paper's Figure 1 as PNG: photos side by side, under each the bars of its guesses, the right one in green.

    The main thread must have entered `without_glyph_warnings`.
    """
    from matplotlib.figure import Figure

    height, width = panels[0].levels_HWC.shape[:2]
    photo_inches = 3.0 * min(1.6, max(0.5, height / width))
    bars = max(len(panel.guesses) for panel in panels)
    figure = Figure(figsize=(3.2 * len(panels), photo_inches + 0.24 * bars + 0.8), layout="constrained")
    grid = figure.add_gridspec(2, len(panels), height_ratios=(photo_inches, 0.24 * bars + 0.1))
    for column, panel in enumerate(panels):
        _draw_photo(figure.add_subplot(grid[0, column]), panel)
        _draw_guesses(figure.add_subplot(grid[1, column]), panel.guesses, bars)
    figure.supxlabel(plain(caption), fontsize=8, color=INK)
    return _saved(figure)


def bytes_of(figure: Figure, kind: str = "png") -> bytes:
    """The figure as "png" or "svg"; equal figures give equal bytes."""
    import matplotlib

    with without_glyph_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "latcli"}):
        return _saved(figure, kind)


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """No warning of letters that the font lacks: a name may be of any language.

    For the main thread, since the filters of warnings are the whole process's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _saved(figure: Figure, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    # Without versions and dates in its metadata the same result gives the same bytes.
    metadata = {"Software": None} if kind == "png" else {"Creator": None, "Date": None}
    figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()


def difference_gain(linf: float) -> float:
    """By how much a difference is amplified, so that the photo's largest change (0 to 1) is the largest shown."""
    return 127.0 / max(1.0, 255.0 * linf)


def amplified_difference(levels_HWC: np.ndarray, adversarial_HWC: np.ndarray, gain: float) -> np.ndarray:
    """What was added, times `gain`, around mid-grey: uint8 (H, W, C). Grey means unchanged."""
    table = np.clip(np.rint(128.0 + gain * np.arange(-255, 256)), 0, 255).astype(np.uint8)
    shown_HWC = np.empty_like(levels_HWC)
    for row, (before_WC, after_WC) in enumerate(zip(levels_HWC, adversarial_HWC, strict=True)):
        shown_HWC[row] = table[after_WC.astype(np.int16) - before_WC + 255]
    return shown_HWC


def _draw_photo(axes: Axes, panel: Panel) -> None:
    image = Image.fromarray(panel.levels_HWC)
    image.thumbnail((_PANEL_PIXELS, _PANEL_PIXELS))
    axes.imshow(np.asarray(image), interpolation="nearest" if max(image.size) < 200 else "antialiased")
    axes.set_title(plain(panel.title), fontsize=10, color=INK)
    axes.axis("off")


def _draw_guesses(axes: Axes, guesses: Sequence[Guess], rows: int) -> None:
    places = range(len(guesses))
    axes.barh(places, [guess.confidence for guess in guesses], color=[_RIGHT if g.right else _WRONG for g in guesses])
    for place, guess in zip(places, guesses, strict=True):
        text = f"{plain(guess.name)}  {guess.confidence:.3g}"
        axes.text(0.02, place, text, va="center", fontsize=7.5, color=INK, clip_on=True)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks([0.0, 0.5, 1.0])
    axes.tick_params(labelsize=7, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def plain(text: str) -> str:
    """Text that a figure shows as it is."""
    # A dollar sign would start a formula.
    return printable(text).replace("$", r"\$")


# matrices and curves


#: Lines that differ without their colours, too.
_COLOURS = ("#3b6ea8", "#c8553d", "#2e9e4f", "#8c5fa8", "#b58900", "#52606d")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)))
_REGIMES = ("natural", "standard", "background", "foreground", "random")


def charts(document: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """File names and PNG bytes of everything in a report's document that can be drawn."""
    for one in document["matrices"]:
        yield f"{one['id']}-{_stem(one['dataset'])}.png", heat_map(matrix(one))
    for count, (dataset, tables) in enumerate(_together(training_curves(document["training"]), "dataset"), start=1):
        yield f"training-{count}-{_stem(dataset)}.png", drawn(f"Training on {dataset}", tables)
    for one in document["evaluations"]:
        for axis, tables in _together(curves(one), "axis"):
            title = f"Accuracy on {one['dataset']}, run {short(one['run'])}"
            yield f"curve-{axis}-{_stem(one['run'])}.png", drawn(title, tables)


def _together(tables: Sequence[Table], name: str) -> Iterator[tuple[Any, list[Table]]]:
    """Tables of the same value of a fact together."""
    for value in dict.fromkeys(table.about[name] for table in tables):
        yield value, [table for table in tables if table.about[name] == value]


def means(document: Mapping[str, Any]) -> bytes:
    """Figures of a reproduction against what was varied as PNG, beside the paper's."""
    return drawn(document["title"], [_means(document, name) for name in document["drawn"]])


def _means(document: Mapping[str, Any], name: str) -> Table:
    known = [row for row in document["rows"] if name in row["means"]]
    points = [(row["x"], row["means"][name]) for row in known if row["x"] is not None]
    columns = [Column(str(x), f"{x:g}", document["columns"][name]) for x, _ in points]
    ours = [Cell(math.nan if mean["value"] is None else mean["value"], mean["spread"]) for _, mean in points]
    papers = [Row((Cell("paper"), *[Cell(row["means"][name]["value"])] * len(points)), total=True)
              for row in known if row["name"] == "paper"]  # fmt: skip
    rows = (Row((Cell("ours"), *ours)), *papers)
    return Table(name, (Column("line", document["heading"], "name"), *columns), rows)


def in_words(table: Table) -> str:
    """The lines of a table of curves in words, as the text of its picture."""
    ends = []
    for row in table.rows:
        points = zip(row.cells, table.columns, strict=True)
        known = [one for one in points if isinstance(one[0].value, int | float) and math.isfinite(one[0].value)]
        ends += [f"{row.cells[0].value} {printed(*known[-1]).text}"] if known else []
    return f"{table.title}. At the end: {', '.join(ends)}."


def drawn(title: str, tables: Sequence[Table], kind: str = "png") -> bytes:
    """A plot for each table below a title, two in a row, with one legend, as "png" or "svg".

    Each row is a line, each column the place on the axis that its key is. A row that sums up is a line across.
    """
    from matplotlib.figure import Figure

    columns = min(len(tables), 2)
    rows = math.ceil(len(tables) / 2)
    figure = Figure(figsize=(3.8 * max(1, columns), 0.4 + 3.0 * max(1, rows)), layout="constrained")
    for place, table in enumerate(tables):
        _draw(figure.add_subplot(rows, columns, place + 1), table, with_title=bool(title))
    shown = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if shown:
        across = min(len(shown), 2 * columns)
        figure.legend(shown.values(), shown, loc="outside lower center", ncols=across, fontsize=7, frameon=False)
    figure.suptitle(plain(title), fontsize=10, color=INK)
    return bytes_of(figure, kind)


def _draw(axes: Axes, table: Table, *, with_title: bool) -> None:
    """A colour for each regime, a line style for each line of it; accuracies on a scale of their own."""
    counts: Counter[Any] = Counter()
    for row in table.rows:
        name, *cells = row.cells
        label = plain(str(name.value))
        points = [(float(column.key), cell.value, cell.spread or 0.0)
                  for cell, column in zip(cells, table.columns[1:], strict=True) if cell.value is not None]  # fmt: skip
        if not points:
            continue
        x, y, beside = zip(*points, strict=True)
        if row.total:
            axes.axhline(y[0], color=_COLOURS[1], linewidth=1, linestyle="--", label=label)
            continue
        regime = row.about.get("regime")
        style: dict[str, Any] = {"color": _COLOURS[_REGIMES.index(regime) if regime in _REGIMES else -1]}
        style |= {"linestyle": _DASHES[counts[regime] % len(_DASHES)], "marker": "o" if len(x) < 12 else ""}
        style |= {"yerr": beside, "capsize": 2} if any(beside) else {}
        axes.errorbar(x, y, label=label, markersize=3, linewidth=1.1, **style)
        counts[regime] += 1
    if any(column.format == "percent" for column in table.columns):
        axes.set_ylim(-0.02, 1.02)
    else:
        axes.set_yscale("log", nonpositive="clip")
    if with_title:
        axes.set_title(plain(_cut(table.title, 60)), fontsize=8, color=INK)
    axes.set_xlabel(plain(table.columns[0].heading), fontsize=8, color=INK)
    axes.tick_params(which="both", labelsize=7, colors=INK)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def heat_map(table: Table) -> bytes:
    """A loss matrix: models down, inputs across; each cell has the lines of its columns, and the shade of its loss."""
    from matplotlib.figure import Figure

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
            parts = [part for one, best in shown for part in ((one.text, best), (one.interval, False)) if part[0]]
            for line, (text, bold) in enumerate(parts):
                offset = (line - (len(parts) - 1) / 2) * 0.8 / max(2, len(parts))
                ink, weight = "white" if shades[y][x] > 0.75 else INK, "bold" if bold else "normal"
                axes.text(x, y + offset, plain(text), ha="center", va="center", fontsize=8, color=ink, weight=weight)
    headings = ["\n".join(map(plain, [*lines, *notes])) for lines, notes in map(table.heading, stacks)]
    axes.set_xticks(range(len(stacks)), headings)
    axes.set_yticks(range(len(table.rows)), [plain(_cut(str(row.cells[label[0]].value))) for row in table.rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[:].set_visible(False)
    figure.suptitle(plain(table.title), fontsize=10, color=INK)
    notes = "\n".join(plain(_cut(note, 110)) for note in table.footnotes("bold:"))
    figure.supxlabel(notes, fontsize=7, color=INK)
    return bytes_of(figure)


def _cut(text: str, width: int = 44) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _stem(name: str | None) -> str:
    """What a file can be called after a data set, whose name may be a path."""
    return re.sub(r"[^\w.-]+", "_", (name or "unknown").rpartition("/")[2])[:60].strip("._") or "unknown"
