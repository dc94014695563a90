"""Tables: figures are whole and mean what they say, names stay names, and every width is enough."""

import io
import re
from copy import deepcopy

import pytest
import sample_documents as sample
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from test_snapshots import CASES, drawn

from latcli.engine.evaluation.matrix import EvalSettings
from latcli.reporting import documents, evaluations
from latcli.reporting.photos import photo_table
from latcli.reporting.table import Cell, Column, Row, Table, printed
from latcli.reporting.terminal import Drawn, shown
from latcli.reporting.text import printable


def test_a_value_is_printed_in_its_columns_format():
    for cell, form, text in [
        (Cell(0.0414), "number", "0.0414"),
        (Cell(68.194), "number", "68.19"),
        (Cell(0.00004), "number", "4.0e-05"),
        (Cell(0.0414, scale=1000), "number", "41.40"),
        (Cell(0.04, spread=0.002), "number", "0.0400 ± 0.0020"),
        (Cell(0.99, spread=0.0012), "percent", "99.00 ± 0.12 %"),
        (Cell(0.93, low=0.912, high=0.955), "percent", "93.00 % [91.2, 95.5]"),
        (Cell(0.05, low=0.0373, high=0.1), "number", "0.0500 [0.037, 0.100]"),
        (Cell(60.0, low=55.6, high=68), "number", "60.00 [55.6, 68.0]"),
        (Cell(-0.0159), "points", "-1.59 points"),
        (Cell(1234567), "count", "1,234,567"),
        *((Cell(p), "p", text) for p, text in ((1, "1.000"), (0.001, "0.001"), (0.000169, "1.7e-04"), (0, "0.000"))),
        *((Cell(s), "duration", text) for s, text in ((59.94, "59.9 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"))),
        (Cell(None), "number", "-"),
        (Cell(None), "text", ""),
    ]:
        shown = printed(cell, Column("x", "x", form))
        assert f"{shown.text} {shown.interval}".rstrip() == text


HELD = sample.photo("b/cat.jpg", "cat", ("cat", 0.9, 0.9, 1), ("cat", 0.6, 0.6, 1), epsilon=1 / 255)


def test_paths_below_the_working_directory_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = sample.attack(HELD, HELD, dir=tmp_path / "runs" / "x")
    assert "pictures in runs/x" in drawn("attack", document)


def test_each_column_says_of_how_many_images_it_is_and_what_stands_behind_a_plus_minus_sign():
    document = sample.matrix()
    document["rows"][0]["cells"]["standard"] |= {"n": 200, "loss_spread": 0.1, "spread_over": "seeds"}
    table = evaluations.matrix(document)
    notes = {column.key: column.notes for column in table.columns}
    assert notes["natural loss"] == ("x1,000", "n = 10,000")
    assert (notes["natural-attacked accuracy"], notes["standard accuracy"]) == (("n = 1,000",), ())
    assert "0.00 % (200)" in drawn("report", sample.nothing(sample.report(), matrices=[document]))
    assert "± is the sample standard deviation over training seeds" in table.notes
    assert "± of a single model is the sample standard deviation over evaluation seeds" in table.notes


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"norm": "l2", "radius": 2.0}, "pgd, 100 steps, 1 random start, l2 radius 2; epsilon 0.3; evaluation seed 0"),
        ({"attack": "fgsm", "restarts": 5}, "fgsm; epsilon 0.3; evaluation seed 0"),
        ({"attack": "mi-fgsm", "restarts": 5}, "mi-fgsm, 100 steps; epsilon 0.3; evaluation seed 0"),
    ],
)
def test_a_matrix_names_what_its_attack_went_by_and_nothing_that_it_ignored(made, words):
    assert evaluations.protocol_words(sample.matrix(**made)) == words
    assert EvalSettings(epsilon=0.3, attack="fgsm", restarts=5).attack_name == "fgsm"


def test_photos_attacked_in_one_step_are_not_said_to_have_taken_forty():
    notes = photo_table(sample.attack(HELD, attack="fgsm", restarts=5)).notes
    assert "object found by saliency, fgsm, norm linf" in notes


def test_the_heat_maps_colours_go_by_the_logarithm_of_the_loss_before_it_is_scaled():
    rows = {f"model {loss}": ((loss, 0.5), (loss, 0.5)) for loss in (0.01, 0.1, 10.0, None)}
    table = evaluations.matrix(sample.matrix(rows, ("natural", "standard")))
    shades = [(row.cells[1].shade, row.cells[3].shade) for row in table.rows]
    assert shades == [(0.0, 0.0), (pytest.approx(1 / 3), pytest.approx(1 / 3)), (1.0, 1.0), (None, None)]
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=100)
    console.print(shown("eval", sample.evaluation()))
    assert "48;2;238;245;251" in stream.getvalue()  # the lightest, and the darkest
    assert "48;2;17;58;102" in stream.getvalue()


def test_models_of_one_label_are_two_rows():
    assert evaluations.unique_labels([("a", "x"), ("b", "x"), ("c", "y")]) == {"a": "x", "b": "b", "c": "y"}


def test_a_report_on_a_terminal_is_cut_to_the_newest_and_says_so():
    whole = sample.report()
    attacks = [sample.attack(sample.photo(), run=f"2026-attack-{place}") for place in range(2)]
    many = {"matrices": whole["matrices"] * 6, "training": whole["training"] * 9, "attacks": attacks}
    many["further_attacks"] = 3
    text = drawn("report", whole | many)
    for line in ("and 2 more loss matrices: ", "and 1 more training run: ", "and 3 more attack runs: "):
        assert line in text
    everything = documents.report(whole | many)
    assert sum(table.kind == "matrix" for table in everything) == 6
    assert not any("more" in note for table in everything for note in table.notes)


def test_a_run_of_several_epsilons_is_one_on_a_terminal_with_its_sums_and_its_photos_in_turn():
    names, epsilons = ("a/cat.jpg", "b/cat.jpg"), (1 / 255, 2 / 255, 4 / 255)
    groups = [
        sample.attack(*(sample.photo(name, epsilon=epsilon) for name in names), epsilon=epsilon) for epsilon in epsilons
    ]
    other = sample.attack(sample.photo(), run="20261122-1-attack-0b1d")
    document = sample.nothing(sample.report(), attacks=[*groups, other], further_attacks=1)
    sums, photos, single, more, _ = documents.report(document, cut=True)
    assert [row.cells[1].value for row in sums.rows] == list(epsilons)
    assert [row.about["epsilon"] for row in photos.rows] == [*epsilons, *epsilons]
    assert "fooled in 6 of 6 attacks on photos that were right" in photos.notes
    assert ("7f3a" in sums.title, "7f3a" in photos.title, "0b1d" in single.title) == (True, True, True)
    assert more.notes == ("and 1 more attack run: choose with run ids",)
    assert [table.about.get("epsilon") for table in documents.report(document)][:3] == list(epsilons)


def test_a_title_names_only_what_is_true_of_all_photos():
    def title(*photos, **config):
        run = sample.run_row(images=sample.attack(*photos)["images"], totals={"images": len(photos), "artifacts": 0})
        run |= {"environment": {}, "cells": [], "metrics": [], "artifacts": [], "resume": None, "note": None}
        run["config"] |= config
        return next(table.title for table in documents.run(run) if table.kind == "photo")

    one, inside = sample.photo(epsilon=1 / 255), sample.photo(region="foreground", epsilon=1 / 255)
    assert title(one).endswith("background altered by at most 1/255")
    assert title(one, sample.photo("kite.jpg", epsilon=2 / 255)).endswith("background altered")
    assert title(one, smallest_epsilon=8 / 255).endswith("background altered")
    assert title(inside, regions=["foreground"]).endswith("foreground altered by at most 1/255")
    assert title(one, inside, regions=["background", "foreground"]).endswith("2 regions altered by at most 1/255")


@pytest.mark.parametrize(
    ("status", "words"), [("completed", "these runs have no figures"), ("failed", "no figures yet")]
)
def test_a_store_without_figures_says_so(status, words):
    document = sample.nothing(sample.report(), runs=[sample.run_row(status=status)])
    assert drawn("report", document).startswith(words)


def test_a_finished_reproduction_has_nothing_left_to_do():
    _, planned = CASES["reproduce-plan"]
    done = planned | {"steps": [row | {"state": "done", "run": "2-train-a"} for row in planned["steps"]]}
    assert "all steps are done" in drawn("reproduce", done)
    assert "1 of 2 steps to do\n" in drawn("reproduce", planned)


def test_no_figure_is_cut_at_any_width():
    for name in ["attack", "attack-target", "eval", "report", "runs-list", "runs-show", "reproduce"]:
        for width in [40, 60, 100, 200]:
            command, document = CASES[name]
            figures = re.findall(r"-?\d[\d,]*\.\d+(?:e-\d+)?", drawn(command, document, 200))
            text = drawn(command, document, width)
            assert max(map(cell_len, text.splitlines())) <= width
            optional = {cell for table in documents.DOCUMENTS[command](document) or () if isinstance(table, Table)
                        for row in table.rows for cell, column in zip(row.cells, table.columns, strict=True)
                        if column.optional for cell in [printed(cell, column).text]}  # fmt: skip
            kept = {figure for figure in figures if not any(figure in one for one in optional)}
            assert kept <= set(re.findall(r"-?\d[\d,]*\.\d+(?:e-\d+)?", text.replace("\n", " ")))


def test_columns_that_do_not_fit_stand_below_with_the_names_again():
    columns = (Column("name", "name"), *(Column(str(k), f"column {k}", "number") for k in range(9)))
    rows = tuple(Row((Cell(f"row {k}"), *(Cell(1000.5 + place) for place in range(9)))) for k in range(2))
    stream = io.StringIO()
    Console(file=stream, width=50).print(Drawn([Table("t", columns, rows)]))
    assert stream.getvalue().count("row 1") == 2
    for place in range(9):
        assert stream.getvalue().count(f"{1000.5 + place:,.1f}") == 2


def test_wild_names_stay_in_their_lines_and_are_not_obeyed():
    document = sample.wild_report()
    before = deepcopy(document)
    text = drawn("report", document)
    assert document == before
    assert max(map(cell_len, text.splitlines())) <= 80
    assert all(line.isprintable() for line in text.splitlines())
    assert "\x1b" not in text


@settings(max_examples=25, deadline=None)
@given(name=st.text(max_size=60), label=st.text(max_size=60), count=st.integers(1, 2))
def test_no_name_breaks_a_table(name, label, count):
    assert printable(printable(name)) == printable(name)
    photos = [sample.photo(name, label, (label, 0.931, 0.931, 1), (label, 0.5, 0.25, 2))] * count
    texts = [drawn("attack", document) for document in (sample.attack(*photos), sample.plan((name, label)))]
    assert all(cell_len(line) <= 80 and line.isprintable() for text in texts for line in text.splitlines())
    assert texts[0].count("0.931") >= 2 * count
