"""Chance in counts of images: intervals, comparisons, and which models may be the best; imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

#: What is taken for chance happens by chance at least this often.
ALPHA = 0.05

_Z = NormalDist().inv_cdf(0.975)


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of the share right/n (Wilson, 1927); it also holds at 0, at 1 and for few."""
    share, z2 = right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == n else middle + half
    return low, high


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value that two models are right equally often (McNemar, 1947).

    only_a, only_b: images that one of them alone has right; by chance each is as likely to be the one.
    """
    n = only_a + only_b
    ways, term = 0, 1
    for count in range(min(only_a, only_b) + 1):
        ways += term
        term = term * (n - count) // (count + 1)
    return float(min(1.0, 2 * ways / 2**n))


def rejected(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several hypotheses are rejected, at a family-wise error rate (Holm, 1979)."""
    found = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        found[index] = True
    return found


def not_beaten(values: Sequence[float], p_value: Callable[[int, int], float]) -> list[bool]:
    """Whether each of several models may be the best: that of the highest value, and who chance may have put behind.

    `p_value(first, other)` compares two by their positions. All are False where there is nothing to compare.
    """
    if len(values) < 2:
        return [False] * len(values)
    first = max(range(len(values)), key=values.__getitem__)
    others = [index for index in range(len(values)) if index != first]
    beaten = dict(zip(others, rejected([p_value(first, other) for other in others]), strict=True))
    return [not beaten.get(index, False) for index in range(len(values))]
