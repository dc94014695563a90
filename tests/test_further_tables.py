"""Transfer, curves and background reliance as tables: what stands in them, within 80 columns, in ASCII."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Group

from latcli.reporting.console import console_for
from latcli.reporting.further_tables import curves, transfer
from latcli.reporting.reliance_table import reliance

MODELS = [{"id": "1", "label": "natural 00aa"}, {"id": "2", "label": "background 00cc"}]


def drawn(parts: list[Any]) -> list[str]:
    stream = io.StringIO()
    console_for(stream).print(Group(*parts))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_transfer_has_sources_down_and_targets_across() -> None:
    figures = {(None, "1"): (0.05, 0.99), (None, "2"): (0.06, 0.98), ("1", "1"): (12.5, 0.0), ("1", "2"): (0.5, 0.75)}
    figures |= {("2", "1"): (1.0, 0.5), ("2", "2"): (2.0, 0.25)}
    rows = [
        {"input": "background", "source": source, "target": target, "n": 1000, "loss": loss, "accuracy": accuracy}
        for (source, target), (loss, accuracy) in figures.items()
    ]

    assert drawn(transfer({"models": MODELS, "transfer": rows})) == [
        "Transfer of background examples, n = 1,000",
        "made on             natural 00aa  background 00cc",
        "--------------------------------------------------",
        "(no attack)             0.0500           0.0600",
        "                         99.00 %          98.00 %",
        "natural 00aa           12.5000           0.5000",
        "                          0.00 %          75.00 %",
        "background 00cc         1.0000           2.0000",
        "                         50.00 %          25.00 %",
        "",
    ]
    assert transfer({"models": MODELS, "transfer": []}) == []


def test_a_curve_has_its_points_across() -> None:
    points = [{"value": value, "n": 40, "accuracy": accuracy} for value, accuracy in ((0.0, 0.975), (8 / 255, 0.5))]
    rows = [
        {"model": model, "input": given, "axis": axis, "points": points}
        for model in ("1", "2")
        for given in ("standard", "background")
        for axis in ("epsilon", "steps")
    ]
    lines = drawn(curves({"models": MODELS, "curves": rows}))

    assert lines[:6] == [
        "Accuracy in % against epsilon, standard, n = 40",
        "epsilon                0  0.03137",
        "----------------------------------",
        "natural 00aa       97.50    50.00",
        "background 00cc    97.50    50.00",
        "",
    ]
    assert [line for line in lines if line.startswith("Accuracy")] == [
        f"Accuracy in % against {axis}, {given}, n = 40"
        for axis in ("epsilon", "steps")
        for given in ("standard", "background")
    ]


def test_many_models_of_long_names_stay_within_80_columns() -> None:
    models = [{"id": str(k), "label": f"standard of a very long name, {k}"} for k in range(7)]
    rows = [
        {"input": "standard", "source": source, "target": str(k), "n": 5, "loss": 123.4567, "accuracy": 1.0}
        for source in (None, *map(str, range(7)))
        for k in range(7)
    ]
    lines = drawn(transfer({"models": models, "transfer": rows}))

    assert max(map(len, lines)) <= 80
    assert sum(line.count("100.00 %") for line in lines) == 8 * 7


def test_reliance_has_variants_down_and_shares_across() -> None:
    variants = ("original", "only_fg", "only_bg_b", "only_bg_t", "mixed_same", "mixed_rand")

    def group(n: int, low: float, high: float, value: float | None, error: float | None) -> dict[str, Any]:
        means = {name: {"n": n, "accuracy": 0.5} for name in variants} | {"mixed_same": {"n": 0, "accuracy": None}}
        return {"n": n, "low": low, "high": high, "means": means, "gap": {"value": value, "standard_error": error}}

    row = {"model": "1", "donor_seeds": 3, "without_same": 2, "left_out": [{"name": "a", "why": "b"}]}
    row |= {"overall": group(1000, 0.5, 0.9, 0.125, 0.0123), "by_share": [group(1, 0.5, 0.6, None, None)]}
    lines = drawn(reliance({"models": MODELS, "reliance": [row]}))

    assert lines == [
        "Background reliance of natural 00aa",
        "                             all     background",
        "accuracy in % (n)         photos        50-60 %",
        "------------------------------------------------",
        "Original           50.00 (1,000)      50.00 (1)",
        "Only-FG            50.00 (1,000)      50.00 (1)",
        "Only-BG-B          50.00 (1,000)      50.00 (1)",
        "Only-BG-T          50.00 (1,000)      50.00 (1)",
        "Mixed-Same                     -              -",
        "Mixed-Rand         50.00 (1,000)      50.00 (1)",
        "background gap      12.50 +-1.23              -",
        "",
        "gap: Mixed-Same - Mixed-Rand +- its standard error; means over 3 donor seeds",
        "2 photos are alone in their class: no Mixed-Same, no part in the gap",
        "1 photos are left out: no object, or no background beside it",
        "",
    ]
    assert reliance({"models": MODELS, "reliance": []}) == []
