"""Whether costs grow in a straight line or not at all; must not know what costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Share that a point may lie off the line, and that the highest may exceed the lowest where nothing should grow.
STRAIGHT = 0.15
FLAT = 0.1


@dataclass(frozen=True)
class Line:
    """constant + slope * size; `off` is the largest distance of a point from it, as a share of that point."""

    constant: float
    slope: float
    off: float

    @property
    def is_straight(self) -> bool:
        """Whether the points lie on it."""
        return self.off <= STRAIGHT


def fit(costs: Mapping[float, float]) -> Line:
    """The line through cost by size with the least sum of squared relative residuals.

    Relative, since clocks err in proportion: the largest point would decide alone otherwise. Needs two sizes, and costs
    above 0.
    """
    weights = {size: cost**-2 for size, cost in costs.items()}
    total = sum(weights.values())
    middle = sum(weights[size] * size for size in costs) / total
    level = sum(weights[size] * cost for size, cost in costs.items()) / total
    spread = sum(weights[size] * (size - middle) ** 2 for size in costs)
    slope = sum(weights[size] * (size - middle) * (cost - level) for size, cost in costs.items()) / spread
    constant = level - slope * middle
    off = max(abs(constant + slope * size - cost) / cost for size, cost in costs.items())
    return Line(constant, slope, off)


def growth(values: Mapping[float, float]) -> float:
    """How much the highest exceeds the lowest, as a share of that."""
    return max(values.values()) / min(values.values()) - 1.0
