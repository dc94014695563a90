"""Line charts as places on an SVG's canvas; must not know what is drawn, nor how an SVG is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from latcli.reporting.page.formats import number, percent

#: The canvas, and what axes and their words take of it, in units of the SVG (a CSS pixel at natural size).
WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44

#: Points of a line that the table beside a chart shows.
TABLE_POINTS = 11

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Series:
    """One line: a name, the number of its style, and its points, ascending in x; None is a gap."""

    name: str
    style: int
    points: Points


@dataclass(frozen=True)
class Axis:
    """A direction of a chart: its name, its ends and ticks in values, and whether it is logarithmic (of 1 + x)."""

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
    """A chart ready to be drawn. `description` says in words what the lines say; `legend` has names by style."""

    id: str
    title: str
    description: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    legend: Sequence[tuple[int, str]]
    table_head: Sequence[str]
    table: Sequence[tuple[str, Sequence[str]]]

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Places from the left, and words."""
        return [(round(_across(self.x, value), 1), text) for value, text in self.x.ticks]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Places from the top, and words."""
        return [(round(_down(self.y, value), 1), text) for value, text in self.y.ticks]


def chart(id: str, title: str, x: Axis, y: Axis, series: Sequence[Series], legend: Sequence[tuple[int, str]]) -> Chart:
    """Lines over x. Each series' last value is put into words for those who do not see the lines."""
    lines = [
        Line(one.name, one.style, _path(x, y, one.points), _dots(x, y, one.points) if len(one.points) <= 12 else ())
        for one in series
    ]
    value = percent if y.high == 1 and not y.logarithmic else number
    ends = [f"{one.name} {value(_last(one.points))}" for one in series[:_WORDS]]
    more = f" and {len(series) - _WORDS} more lines" if len(series) > _WORDS else ""
    description = f"{y.label} against {x.label}, {len(series)} lines. At the end: {', '.join(ends)}{more}."
    places = _sampled(sorted({place for one in series for place, _ in one.points}))
    table = [(one.name, [value(_value_at(one.points, place)) for place in places]) for one in series]
    return Chart(id, title, description, x, y, lines, legend, [f"{place:g}" for place in places], table)


_WORDS = 12


def linear(label: str, values: Iterable[float], *, bend: bool = False) -> Axis:
    """An axis from the least to the largest value with round ticks, or a tick at each value where these are few."""
    found = sorted(set(values))
    low, high = found[0], found[-1]
    if len(found) <= 7:
        return Axis(label, low, high, [(value, f"{value:.4g}") for value in found], bend)
    low = 0.0 if 0 < low < 0.1 * high else low  # steps are counted from 0, where the first is written down at 1 or 6
    return Axis(label, low, high, [(value, f"{value:,.6g}") for value in _round_ticks(low, high)], bend)


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


def _across(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _down(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _places(x: Axis, y: Axis, points: Points) -> list[tuple[float, float] | None]:
    return [
        None if value is None or not math.isfinite(value) else (_across(x, place), _down(y, value))
        for place, value in points
    ]


def _path(x: Axis, y: Axis, points: Points) -> str:
    pieces = []
    for known, run in groupby(_places(x, y, points), key=lambda place: place is not None):
        if known:
            pieces.append("M" + "L".join(f"{place[0]:.1f} {place[1]:.1f}" for place in run if place))
    return "".join(pieces)


def _dots(x: Axis, y: Axis, points: Points) -> list[tuple[float, float]]:
    return [(round(place[0], 1), round(place[1], 1)) for place in _places(x, y, points) if place]


def _last(points: Points) -> float | None:
    return next((value for _, value in reversed(points) if value is not None), None)


def _sampled(places: Sequence[float]) -> list[float]:
    if len(places) <= TABLE_POINTS:
        return list(places)
    return [places[round(index * (len(places) - 1) / (TABLE_POINTS - 1))] for index in range(TABLE_POINTS)]


def _value_at(points: Points, place: float) -> float | None:
    """The last value at or before a place: runs are written at steps of their own."""
    found = [value for at, value in points if at <= place and value is not None]
    return found[-1] if found and place <= points[-1][0] else None
