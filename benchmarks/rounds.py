"""Contenders timed in turn, and what their times come to beside one of them; must not know what is timed.

In turn, so that whatever else the machine does hits all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.machine import Neighbours

#: A measurement: seconds by name.
Measure = Callable[[], Mapping[str, float]]

#: Processors that others may keep busy, and share of a median that rounds may spread over, before a ratio is marked.
QUIET = 0.5
STEADY = 0.2


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of n measurements, and how many processors others kept busy meanwhile."""

    median: float
    lowest: float
    highest: float
    n: int
    others: float | None

    @property
    def disturbed(self) -> str:
        """Why this should be measured again; empty where nothing speaks against it."""
        wide = (self.highest - self.lowest) / self.median if self.median else 0.0
        reasons = []
        if (self.others or 0.0) > QUIET:
            reasons.append(f"others kept {self.others:.1f} processors busy")
        if wide > STEADY:
            reasons.append(f"rounds spread over {100 * wide:.0f} %")
        return ", ".join(reasons)

    @property
    def range(self) -> str:
        """Lowest to highest, as tables show it."""
        return f"{self.lowest:.2f}-{self.highest:.2f}"


@dataclass(frozen=True)
class Rounds:
    """Seconds by name, one of each round."""

    seconds: Mapping[str, list[float]]
    others: float | None = None

    def time(self, name: str) -> Spread:
        """Seconds of one contender."""
        return spread(self.seconds[name], self.others)

    def ratio(self, name: str, base: str) -> Spread:
        """How many times as long `name` takes as `base`, each round by itself."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return spread([one / other for one, other in pairs], self.others)


def spread(values: Iterable[float], others: float | None = None) -> Spread:
    """What a list of measurements comes to."""
    found = list(values)
    return Spread(median(found), min(found), max(found), len(found), others)


def clocked(name: str, work: Callable[[], object]) -> Measure:
    """A measurement of how long `work` takes, which must not return before it is done."""

    def measure() -> dict[str, float]:
        begun = perf_counter()
        work()
        return {name: perf_counter() - begun}

    return measure


def finished(work: Callable[[], object], device: Any) -> Callable[[], None]:
    """The work, and waiting until the torch device has done it."""

    def run() -> None:
        work()
        if device.type == "cuda":
            import torch  # not above: parents of processes stay small

            torch.cuda.synchronize(device)

    return run


def in_turn(measures: Iterable[Measure], rounds: int) -> Rounds:
    """Each measurement once a round. Nothing is warmed up here."""
    measures = list(measures)
    seconds: dict[str, list[float]] = {}
    beside = Neighbours()
    for _ in range(rounds):
        for measure in measures:
            for name, taken in measure().items():
                seconds.setdefault(name, []).append(taken)
    return Rounds(seconds, beside.busy())
