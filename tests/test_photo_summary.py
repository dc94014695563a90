"""What results promise in plain values: counts and averages over photos, intervals of accuracies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from latcli.results import photo_summary, to_json, wilson_interval


def attacked(before: int, after: int, p_before: float, p_after: float) -> Any:
    clean, adversarial = (
        SimpleNamespace(rank=rank, confidence=p) for rank, p in ((before, p_before), (after, p_after))
    )
    counted = {"was_right": before == 1, "fooled": before == 1 and after > 1, "altered_percent": 40.0 + before}
    return SimpleNamespace(clean=clean, adversarial=adversarial, **counted)


def test_photos_are_summed_up_with_those_that_were_wrong_before_counted_apart() -> None:
    photos = [attacked(1, 20, 0.9, 0.1), attacked(1, 1, 0.8, 0.6), attacked(1, 4, 0.7, 0.3), attacked(7, 300, 0.0, 0.0)]
    averages = {"right": 3, "top5": 3, "top10": 4, "confidence": 0.6, "median_confidence": 0.75}
    after = {"right": 1, "top5": 2, "top10": 2, "confidence": 0.25, "median_confidence": 0.2}
    found = to_json(photo_summary(photos))
    for side in ("clean", "adversarial"):
        found[side] = pytest.approx(found[side])
    counts = {"n": 4, "right_before": 3, "fooled": 2, "wrong_before": 1, "altered_percent": 42.5}
    assert found == counts | {"clean": averages, "adversarial": after}
    assert photo_summary([]).n == 0


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (5, 10, 0.23659, 0.76341), (88, 200, 0.37298, 0.50928)],
)
def test_wilson_s_interval_of_an_accuracy(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-5)
