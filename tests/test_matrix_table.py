"""The loss matrix as a table: what stands in it, stars on the best, within 80 columns, in ASCII."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len

from latcli.reporting.console import console_for
from latcli.reporting.matrix_table import matrix

SETTINGS = {"epsilon": 0.3, "seed": 4, "mask_from": "center", "center": 0.25, "strong": None}

#: The paper's Figure 2 for MNIST; accuracies are made up.
PAPER = {
    "natural 00aa": {"natural": (0.0414, 0.9919), "standard": (68.19, 0.0), "background": (61.80, 0.0008)},
    "standard 00bb": {"natural": (0.0579, 0.983), "standard": (0.27, 0.92), "background": (0.21, 0.93)},
    "background 00cc": {"natural": (0.0396, 0.99), "standard": (0.55, 0.81), "background": (0.23, 0.93)},
}


def document(rows: dict[str, dict[str, tuple[float | None, float]]], **more: Any) -> dict[str, Any]:
    cells = [
        {"model": label, "model_id": label, "label": label, "regime": label.split()[0], "input": name}
        | {"loss": loss, "accuracy": accuracy, "n": 10_000 if name == "natural" else 1000, "attack": "pgd"}
        for label, inputs in rows.items()
        for name, (loss, accuracy) in inputs.items()
    ]
    fixed = {"run": "20261122-000000-eval-1234", "dataset": "mnist", "n": 1000, "attack": "pgd-100, 1 random start"}
    return fixed | {"settings": SETTINGS, "cells": cells, "groups": [], "warnings": [], "notes": []} | more


def drawn(document: dict[str, Any]) -> str:
    stream = io.StringIO()
    console_for(stream).print(matrix(document))
    return stream.getvalue()


def test_the_papers_figure_reads_as_in_the_paper() -> None:
    text = drawn(document(PAPER))

    assert [line.rstrip() for line in text.splitlines()[:9]] == [
        "Loss matrix on mnist",
        "model               natural     standard   background",
        "-------------------------------------------------------",
        "natural 00aa         0.0414      68.1900      61.8000",
        "                    99.19 %*      0.00 %       0.08 %",
        "standard 00bb        0.0579       0.2700*      0.2100*",
        "                    98.30 %      92.00 %*     93.00 %*",
        "background 00cc      0.0396*      0.5500       0.2300",
        "                    99.00 %      81.00 %      93.00 %*",
    ]
    assert "n = 1,000 attacked images, 10,000 natural ones" in text
    assert "pgd-100, 1 random start; epsilon 0.3; seed 4" in text
    assert "a middle of 0.25 of the side" in text


def test_it_stays_within_80_columns_of_ascii_whatever_is_asked_for() -> None:
    wide = {
        f"background {index:04x} of a very long name, ü 犬": {
            name: (None if "strong" in name else 12.3456, 0.5)
            for name in ("natural", "standard", "background", "foreground", "random", "standard-strong")
        }
        for index in range(3)
    }
    for one in wide:  # rich pads, so that a line's length is the table's width
        assert cell_len(one) > 24
    text = drawn(document(wide, settings=SETTINGS | {"strong": "full"}))

    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= 80
    for name in ("natural", "standard,", "strong", "random"):
        assert name in text
    names = drawn(document({"natural a": PAPER["natural 00aa"], "standard b": PAPER["standard 00bb"]}))
    assert names.isascii()


def test_several_seeds_show_mean_and_spread() -> None:
    group = {"regime": "natural", "models": 3, "n": 1000, "loss": 0.04, "loss_spread": 0.002, "accuracy": 0.99}
    groups = [
        group | {"input": "natural", "accuracy_spread": 0.0012},
        group | {"input": "standard", "accuracy_spread": 0.0},
        group | {"input": "background", "accuracy_spread": 0.0},
    ]
    text = drawn(document({"natural 00aa": PAPER["natural 00aa"]}, groups=groups))

    assert "natural (3 seeds)" in text
    assert "0.0400 +-0.0020" in text
    assert "99.00 +-0.12 %" in text
    assert "sample standard deviation" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_one_model_alone_is_the_best_of_nothing() -> None:
    assert "*" not in drawn(document({"natural 00aa": PAPER["natural 00aa"]}))


def test_what_was_not_measured_and_what_is_doubtful_are_told() -> None:
    warned = {
        "label": "natural 00aa",
        "input": "standard",
        "check": "vanishing-gradients",
        "value": 1.0,
        "text": "gone",
    }
    text = drawn(document({"natural 00aa": {"natural": (0.1, 0.9), "standard": (None, 0.5)}}, warnings=[warned]))

    assert [line.split() for line in text.splitlines()[3:5]] == [
        ["natural", "00aa", "0.1000", "-"],
        ["90.00", "%", "50.00", "%"],
    ]
    assert "warning: natural 00aa, standard: gone" in text


@pytest.mark.parametrize("label", ["[bold]x[/bold]", "a\x1b[31mb"])
def test_a_name_is_shown_as_text(label: str) -> None:
    text = drawn(document({label: {"natural": (0.1, 0.9)}}))

    assert "\x1b" not in text
    assert label.replace("\x1b", "\\x1b") in text or "[bold]x[/bold]" in text
