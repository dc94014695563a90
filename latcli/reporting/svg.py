"""Line charts as places on an SVG's canvas, for the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from latcli.reporting.evaluations import labels_of
from latcli.reporting.table import NONE
from latcli.reporting.text import number, number_text, percent, short

#: The canvas, and what axes and their words take of it, in units of the SVG (a CSS pixel at natural size).
WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44
#: Points of a line that the table beside a chart shows; lines that a description puts into words.
_TABLE_POINTS, _WORDS = 11, 12

#: Style numbers of the regimes, the same in every chart; others come after them.
REGIMES = ("natural", "standard", "background", "foreground", "random")
STYLES = 8

#: What a training run writes down that says nothing of the model.
_BOOKKEEPING = {"rate", "epsilon", "images_per_second"}
#: Figures of training and what their charts are called.
TRAINING = {
    "loss": "Training loss",
    "test_loss": "Test loss",
    "test_attacked_loss": "Test loss under attack",
    "clean_accuracy": "Accuracy on clean training batches",
    "adversarial_accuracy": "Accuracy on attacked training batches",
    "test_accuracy": "Accuracy on test images",
    "test_attacked_accuracy": "Accuracy on attacked test images",
}

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """One line: a name, the number of its style, and its points, ascending in x; None is a gap."""

    name: str
    style: int
    points: Points


@dataclass(frozen=True)
class Axis:
    """A direction of a chart: its name, its ends and ticks in values.

    logarithmic: by the logarithm of the value; bend: by that of 1 + value.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    bend: bool = False
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at the low to 1 at the high end."""
        low, high, value = map(self._bent, (self.low, self.high, value))
        return 0.5 if high == low else min(1.0, max(0.0, (value - low) / (high - low)))

    def across(self, value: float) -> float:
        """Its place from the left of the canvas."""
        return LEFT + self.share(value) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Its place from the top of the canvas."""
        return HEIGHT - BOTTOM - self.share(value) * (HEIGHT - TOP - BOTTOM)

    def _bent(self, value: float) -> float:
        if self.logarithmic:
            return math.log10(max(value, 1e-12))
        return math.log10(1 + value) if self.bend else value


@dataclass(frozen=True)
class Line:
    """A series on the canvas: `path` for an SVG's `d`, `dots` where there are few points."""

    name: str
    style: int
    path: str
    dots: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn. `description` says in words what the lines say; `legend` has names by style.

    x_ticks, y_ticks: places on the canvas, and words.
    """

    id: str
    title: str
    description: str
    x_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    legend: Sequence[tuple[int, str]]
    table_head: Sequence[str]
    table: Sequence[tuple[str, Sequence[str]]]


def chart(id: str, title: str, x: Axis, y: Axis, series: Sequence[Series], legend: Sequence[tuple[int, str]]) -> Chart:
    """Lines over x. Each series' last value is put into words for those who do not see the lines."""

    def value(found: float | None) -> str:
        return NONE if found is None else percent(found) if y.high == 1 and not y.logarithmic else number(found)

    ends = [f"{one.name} {value(_value_at(one.points, math.inf))}" for one in series[:_WORDS]]
    more = f" and {len(series) - _WORDS} more lines" if len(series) > _WORDS else ""
    places = sorted({place for one in series for place, _ in one.points})
    if len(places) > _TABLE_POINTS:
        places = [places[round(i * (len(places) - 1) / (_TABLE_POINTS - 1))] for i in range(_TABLE_POINTS)]
    return Chart(
        id=id,
        title=title,
        description=f"{y.label} against {x.label}, {len(series)} lines. At the end: {', '.join(ends)}{more}.",
        x_label=x.label,
        x_ticks=[(round(x.across(place), 1), text) for place, text in x.ticks],
        y_ticks=[(round(y.down(place), 1), text) for place, text in y.ticks],
        lines=[_line(x, y, one) for one in series],
        legend=legend,
        table_head=[f"{place:g}" for place in places],
        table=[(one.name, [value(_value_at(one.points, place)) for place in places]) for one in series],
    )


def _line(x: Axis, y: Axis, series: Series) -> Line:
    places = [
        None if value is None or not math.isfinite(value) else (round(x.across(at), 1), round(y.down(value), 1))
        for at, value in series.points
    ]
    pieces = (list(run) for known, run in groupby(places, key=lambda place: place is not None) if known)
    path = "".join("M" + "L".join(f"{place[0]} {place[1]}" for place in run if place) for run in pieces)
    return Line(series.name, series.style, path, [one for one in places if one] if len(places) <= 12 else ())


def _value_at(points: Points, place: float) -> float | None:
    """The last value at or before a place, since each run is written down at other steps."""
    found = [value for at, value in points if at <= place and value is not None]
    return found[-1] if found and (place <= points[-1][0] or place == math.inf) else None


def linear(label: str, values: Iterable[float], *, bend: bool = False) -> Axis:
    """An axis from the least to the largest value with round ticks, or a tick at each value where these are few."""
    found = sorted(set(values))
    low, high = found[0], found[-1]
    if len(found) <= 7:
        return Axis(label, low, high, [(value, _tick(value)) for value in found], bend)
    low = 0.0 if 0 < low < 0.1 * high else low  # steps are counted from 0, where the first is written down at 1 or 6
    return Axis(label, low, high, [(value, f"{value:,.6g}") for value in _round_ticks(low, high)], bend)


def _tick(value: float) -> str:
    return number_text(value) if "/" in number_text(value) else f"{value:.4g}"


def shares(label: str) -> Axis:
    """An axis of shares, from 0 to 100 %."""
    return Axis(label, 0.0, 1.0, [(value / 4, f"{25 * value} %") for value in range(5)])


def losses(label: str, values: Iterable[float]) -> Axis:
    """An axis of losses: logarithmic where all are positive and far apart, else from 0."""
    found = [value for value in values if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if low > 0 and high / low > 20:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = [(10.0**power, f"{10.0**power:g}") for power in range(first, last + 1)]
        return Axis(label, 10.0**first, 10.0**last, ticks, logarithmic=True)
    top = high if high > 0 else 1.0
    ticks = [(value, f"{value:.4g}") for value in _round_ticks(0.0, top)]
    return Axis(label, min(low, 0.0), max(top, ticks[-1][0]), ticks)


def _round_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


# the report's charts


def curve_charts(document: Mapping[str, Any]) -> list[Chart]:
    """A chart for each run, axis and input: accuracy against epsilon or steps, a line for each model."""
    rows = document.get("curves") or ()
    labels = {id: label for one in document.get("evaluations") or () for id, label in labels_of(one).items()}
    found: list[Chart] = []
    for key in dict.fromkeys((row.get("run"), row["axis"], row["input"]) for row in rows):
        chosen = [row for row in rows if (row.get("run"), row["axis"], row["input"]) == key]
        names = [str(row.get("label") or labels.get(row["model"], row["model"])) for row in chosen]
        styles = _styles(names, [row.get("regime") for row in chosen])
        series = [
            Series(name, styles[name], [(point["value"], point["accuracy"]) for point in row["points"]])
            for name, row in zip(names, chosen, strict=True)
        ]
        _, axis, given = key
        x = linear(axis, (place for one in series for place, _ in one.points), bend=axis == "steps")
        place = f"{chosen[0].get('dataset') or ''} {given}".strip()
        title = f"{place} attack, accuracy against {axis}, n = {chosen[0]['points'][0]['n']:,}"
        legend = [(style, name) for name, style in styles.items()]
        found.append(chart(f"curve-{len(found) + 1}", title, x, shares("accuracy"), series, legend))
    return found


def training_charts(runs: Sequence[Mapping[str, Any]], place: int) -> list[Chart]:
    """A chart for each figure that training runs wrote down, a line for each run."""
    names = dict.fromkeys(key for run in runs for key, points in (run.get("series") or {}).items() if len(points) > 1)
    wanted = [name for name in TRAINING if name in names]
    wanted += [name for name in names if name not in TRAINING and name not in _BOOKKEEPING]
    return [_training_chart(name, runs, f"training-{place}-{count}") for count, name in enumerate(wanted, start=1)]


def _training_chart(name: str, runs: Sequence[Mapping[str, Any]], id: str) -> Chart:
    shown = [run for run in runs if len((run.get("series") or {}).get(name) or ()) > 1]
    regimes = [run.get("regime") or NONE for run in shown]
    styles = _styles(regimes, regimes)
    series = [
        Series(f"{regime} {short(run['run'])}", styles[regime], [(step, value) for step, value in run["series"][name]])
        for run, regime in zip(shown, regimes, strict=True)
    ]
    legend = [
        (style, regime if regimes.count(regime) == 1 else f"{regime} ({regimes.count(regime)} runs)")
        for regime, style in styles.items()
    ]
    x = linear("step", (step for one in series for step, _ in one.points))
    values = [value for one in series for _, value in one.points if value is not None]
    y = shares("accuracy") if name.endswith("accuracy") else losses(name.replace("_", " "), values)
    return chart(id, TRAINING.get(name, name.replace("_", " ")), x, y, series, legend)


def _styles(names: Sequence[str], regimes: Iterable[str | None]) -> dict[str, int]:
    """A style for each name: its regime's where it is the first of that regime, else the next that is free."""
    taken: dict[str, int] = {}
    for name, regime in zip(names, regimes, strict=True):
        own = REGIMES.index(regime) if regime in REGIMES else None
        if name not in taken:
            order = (*range(len(REGIMES), STYLES), *range(len(REGIMES)))
            free = (style for style in order if style not in taken.values())
            taken[name] = own if own is not None and own not in taken.values() else next(free, len(taken) % STYLES)
    return taken
