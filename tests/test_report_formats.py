"""What a report is written as: whatever names hold, they stay names, and the figures are those of the document."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_store import WILD, whole
from rich.cells import cell_len
from rich.console import RenderableType

from latcli.commands.compare import compare
from latcli.commands.report import EVERYTHING, gather
from latcli.options import ReportOptions
from latcli.reporting import charts, csv_text, latex, markdown, report_terminal
from latcli.reporting.comparison import comparison
from latcli.reporting.console import PlainConsole
from latcli.reporting.page.matrix import heat_map
from latcli.reporting.text import printable
from latcli.results import to_json
from latcli.session import Session


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("formats") / "runs"
    return folder, whole(folder)


@pytest.fixture(scope="module")
def document(stored: tuple[Path, dict[str, str]]) -> dict[str, Any]:
    """Everything, with a file that is gone, and the paper beside it."""
    folder, runs = stored
    (folder / runs["attack"] / "0-mask.png").unlink()
    return to_json(gather(ReportOptions(paper=True), Session(store=folder), EVERYTHING))


def shown(renderable: RenderableType) -> str:
    stream = io.StringIO()
    PlainConsole(file=stream, force_terminal=False, color_system=None, width=80).print(renderable)
    return stream.getvalue()


# ---- terminal ----


def test_the_terminal_stays_inside_80_columns_and_shows_no_control_character(document: dict[str, Any]) -> None:
    text = shown(report_terminal.report(document))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert all(character.isprintable() or character == "\n" for character in text)


def test_the_terminal_has_all_there_is_and_says_what_to_try(document: dict[str, Any]) -> None:
    text = shown(report_terminal.report(document))
    for heading in (
        "The paper beside ours: Figure 2, MNIST",
        "Loss matrix on mnist",
        "Training runs",
        "Clean photos",
        "Adversarial photos",
        "Transfer of standard examples",
        "Accuracy in % against epsilon",
        "Background reliance of",
        "Left out",
        "Not as it was written",
    ):
        assert heading in text
    assert text.rstrip().splitlines()[-1] == "try: latcli report --html report.html"


def test_the_matrix_is_scaled_marked_and_captioned(document: dict[str, Any]) -> None:
    text = shown(report_terminal.report({**document, "paper": None}))
    head = text[: text.index("Training runs")].splitlines()
    assert any(line.split() == ["model", "loss", "x1000", "standard", "background"] for line in head)
    assert any(line.split() == ["natural", "20.00*", "20.0000", "15.0000"] for line in head)
    assert any(
        line.split()
        == ["background", "(2", "seeds)", "40.00", "+-14.14*", "1.3000", "+-0.1414*", "0.3000", "+-0.1414*"]
        for line in head
    )
    for line in (
        "mean cross entropy above accuracy; losses on natural inputs times 1,000",
        "n = 1,000 attacked images, 10,000 natural ones",
        "pgd, 100 steps, 1 random start; epsilon 0.3; evaluation seed 0",
        "object: a middle of 0.25 of the side",
        "* best of the column",
        "+- is the sample standard deviation over training seeds",
        "warning: natural: differs",
    ):
        assert line in head


def test_rows_of_one_regime_can_be_told_apart(document: dict[str, Any]) -> None:
    (matrix,) = document["matrices"]
    natural = matrix["rows"][0]
    rows = [natural | {"label": f"natural ({text})", "differs": text} for text in ("steps 1", "steps 2" + "x" * 40)]
    text = shown(report_terminal.report({**document, "paper": None, "matrices": [matrix | {"rows": rows}]}))
    assert "natural [1]" in text
    assert "[1] steps 1\n" in text
    assert "[2] steps 2xxx" in text


def test_many_photos_are_cut_and_counted(document: dict[str, Any]) -> None:
    (attack,) = document["attacks"]
    many = attack | {"images": (attack["images"] * 10)[:150], "summary": attack["summary"] | {"n": 150}}
    text = shown(report_terminal.report({**document, "paper": None, "attacks": [many]}))
    assert "the first 20 of 150 photos; the last lines are of all" in text
    assert "150 photos" in text


def test_a_store_without_figures_says_so(document: dict[str, Any]) -> None:
    empty = {name: [] if isinstance(value, list) else value for name, value in document.items()}
    text = shown(report_terminal.report(empty | {"paper": None, "left_out": document["left_out"]}))
    assert text.startswith("no figures yet")
    assert "nothing to divide by" in text
    completed = shown(report_terminal.report(empty | {"paper": None, "runs": document["runs"]}))
    assert completed.startswith("these runs have no figures")


def test_two_runs_side_by_side_stay_inside_80_columns(stored: tuple[Path, dict[str, str]]) -> None:
    folder, runs = stored
    told = compare(ReportOptions(runs=(runs["standard"], runs["background"]), compare=True), Session(store=folder))
    text = shown(comparison(to_json(told)))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"regime +standard +background", text)
    assert re.search(r"test_loss +0.1 +0.1 +\+0", text)


# ---- Markdown ----


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_markdown_tables_are_whole_whatever_names_hold(document: dict[str, Any]) -> None:
    text = "".join(markdown.render(document))
    tags = Tags()
    tags.feed(text)
    assert tags.tags == []
    assert all(character.isprintable() or character == "\n" for character in text)
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) > 8
    for table in tables:
        columns = {line.count("|") for line in table.splitlines()}
        assert len(columns) == 1
    assert not re.search(r"(?<!\\)\[link|(?<!\\)`|://|@someone", text)
    assert "| **20.00** | **99.98 %** |" in text
    assert "1.3000 ± 0.1414" in text


@pytest.mark.parametrize("text", WILD)
def test_a_name_in_markdown_is_one_line_without_markup(text: str) -> None:
    escaped = markdown.escape(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[|*_`\[\]$~]|[<>]", escaped)


# ---- CSV ----


def rows_of(document: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(csv_text.render(document)), newline="")))


def test_csv_has_the_figures_of_the_document(document: dict[str, Any]) -> None:
    rows = rows_of(document)
    assert {row["kind"] for row in rows} == {
        *("matrix", "training", "photo", "curve", "transfer", "reliance", "paper", "claim", "left out", "fault")
    }
    (cell,) = [
        row
        for row in rows
        if (row["kind"], row["regime"], row["input"], row["figure"]) == ("matrix", "background", "standard", "loss")
    ]
    assert float(cell["value"]) == document["matrices"][0]["rows"][2]["cells"]["standard"]["loss"]
    assert (cell["models"], cell["n"], cell["epsilon"]) == ("2", "1000", "0.3")


def test_csv_has_seeds_of_training_runs_and_the_paper_s_accuracies(document: dict[str, Any]) -> None:
    rows = rows_of(document)
    trained = {(row["run"], row["seed"]) for row in rows if row["kind"] == "training"}
    assert trained == {(row["run"], str(row["seed"])) for row in document["training"]}
    paper = [
        (row["dataset"], row["regime"], row["input"], float(row["value"]))
        for row in rows
        if (row["kind"], row["figure"]) == ("paper", "accuracy")
    ]
    assert ("mnist", "natural", "natural", 0.9919) in paper
    assert len(paper) == sum(len(figure["accuracies"]) for figure in document["paper"]["figure2"])


def test_no_field_of_a_csv_is_a_formula_or_breaks_a_line(document: dict[str, Any]) -> None:
    text = "".join(csv_text.render(document))
    assert all(character.isprintable() or character == "\n" for character in text)
    for row in csv.reader(io.StringIO(text, newline="")):
        assert len(row) == len(csv_text.COLUMNS)
        for value in row:
            assert not value.lstrip().startswith(("=", "@", "|", "%"))
            assert not value.startswith(("+", "-")) or re.fullmatch(r"-\d+(\.\d+)?(e-?\d+)?", value)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_harmless_field(text: str) -> None:
    shown = csv_text.field(text)
    assert isinstance(shown, str)
    assert not shown.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    assert shown.removeprefix("'") == printable(text).removeprefix("'")


# ---- LaTeX ----


@pytest.mark.parametrize("text", WILD)
def test_a_name_in_latex_commands_nothing(text: str) -> None:
    escaped = latex.escape(text)
    known = r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}|\\`\{\}|\\[{}$&#%_]"
    assert not re.search(r"[\\$&#%_^~]", re.sub(known, "", escaped))


def test_a_name_in_latex_is_no_option_of_the_row_before_it() -> None:
    for text in WILD:
        assert not re.search(r"(?<!\{)[\[*]", latex.escape(text))


def test_a_long_table_in_latex_goes_on_in_another(document: dict[str, Any]) -> None:
    (one, *_) = document["training"]
    long = {name: [] if isinstance(value, list) else value for name, value in document.items()}
    long |= {"paper": None, "training": [one | {"seed": 1000 + seed} for seed in range(150)]}
    text = "".join(latex.render(long))
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, flags=re.DOTALL)
    seeds = [re.findall(r"& (1\d{3}) &", table) for table in tables]
    assert [seed for table in seeds for seed in table] == [str(1000 + seed) for seed in range(150)]
    assert max(map(len, seeds)) <= 40
    assert ["(continued)" in table for table in tables] == [False, True, True, True]


def test_rows_that_break_their_lines_take_more_of_a_page_of_latex(document: dict[str, Any]) -> None:
    empty = {name: [] if isinstance(value, list) else value for name, value in document.items()}
    claims = [one | {"claim": "words " * 15} for one in document["paper"]["claims"][:1] * 40]
    paper = {"figure2": [], "tables": [], "claims": claims}
    text = "".join(latex.render(empty | {"paper": paper}))
    assert [table.count("words words") > 0 for table in text.split(r"\end{table}")] == [True] * 4 + [False]


def test_latex_compiles_whatever_names_hold(document: dict[str, Any], tmp_path: Path) -> None:
    noted = [matrix | {"notes": WILD} for matrix in document["matrices"]]
    many = document | {"training": document["training"] * 40, "matrices": noted}
    (tmp_path / "report.tex").write_text("".join(latex.render(many)), encoding="utf-8")
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here: the LaTeX report was not compiled")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "report.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert "Float too large" not in log
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_in_latex_is_of_letters_that_it_has(text: str) -> None:
    escaped = latex.escape(text)
    assert all(letter.isascii() or 0xC0 <= ord(letter) <= 0xFF for letter in escaped)
    assert escaped.count("{") - escaped.count(r"\{") == escaped.count("}") - escaped.count(r"\}")


# ---- PNG ----


def test_every_format_says_what_stands_behind_the_plus_minus_sign(document: dict[str, Any]) -> None:
    (matrix,) = document["matrices"]
    assert "± is the sample standard deviation over training seeds" in charts.caption(matrix)
    cells = [cell | {"spread_over": "seeds"} for row in matrix["rows"] for cell in row["cells"].values()]
    single = matrix | {"rows": [{**matrix["rows"][0], "cells": {"standard": cells[1]}}]}
    words = "of a single model is the sample standard deviation over evaluation seeds"
    assert f"± {words}" in charts.caption(single)
    assert f"± {words}." in heat_map(single).caption
    assert f"the spread {words}" in "".join(markdown.render(document | {"matrices": [single], "paper": None}))
    assert f"+- {words}" in report_terminal.matrix_caption(single)


def test_pictures_of_matrix_training_and_curves(document: dict[str, Any]) -> None:
    drawn = dict(charts.charts(document))
    assert [name.partition("-")[0] for name in drawn] == ["matrix", "training", "curve"]
    for name, data in drawn.items():
        assert re.fullmatch(r"[\w.-]+\.png", name)
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG"
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert dict(charts.charts(document)) == drawn


def test_names_of_pictures_stay_in_their_folder(document: dict[str, Any]) -> None:
    matrix = document["matrices"][0] | {"dataset": "folder:../../$x^2$/..\n"}
    (name, _), *_ = charts.charts({**document, "matrices": [matrix], "training": [], "curves": []})
    assert re.fullmatch(r"matrix-1-[\w.-]+\.png", name)
