"""Who may be the best of several models, when chance may have put some of them behind; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What is taken for chance happens by chance at least this often.
ALPHA = 0.05


def rejected(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several hypotheses fall, so that a true one falls at most so often (Holm, 1979)."""
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
