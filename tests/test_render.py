"""Reports as Markdown, LaTeX and CSV: whatever names hold, they stay names, and figures are those of the document."""

import csv
import io
import re
import shutil
import subprocess

import pytest
import sample_documents as sample
from hypothesis import given, settings
from hypothesis import strategies as st
from report_store import WILD

from latcli.reporting import render
from latcli.reporting.text import printable


def plain_lines(text):
    return all(line.isprintable() for line in text.splitlines())


def test_markdown_tables_are_whole_whatever_names_hold():
    text = "".join(render.markdown(sample.wild_report()))
    assert not re.search("<[a-zA-Z/!]", text)
    assert plain_lines(text)
    for table in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert not re.search(r"(?<!\\)\[link|(?<!\\)`|://|@someone", text)


def test_a_name_in_markdown_is_one_line_without_markup():
    for text in WILD:
        escaped = render.markdown_text(text)
        assert "\n" not in escaped
        assert not re.search(r"(?<!\\)[|*_`\[\]$~]|[<>]", escaped)
        assert not re.match(r"- \s*\d*[-+=.)]", render.markdown_item(text))


def test_no_field_of_a_csv_is_a_formula_or_breaks_a_line():
    text = "".join(render.csv_lines(sample.wild_report()))
    assert plain_lines(text)
    for row in csv.reader(io.StringIO(text, newline="")):
        assert len(row) == len(render.COLUMNS)
        for value in row:
            assert not value.lstrip().startswith(("=", "@", "|", "%"))
            assert not value.startswith(("+", "-")) or re.fullmatch(r"-\d+(\.\d+)?(e-?\d+)?", value)


@given(st.text(max_size=60) | st.sampled_from(WILD))
@settings(deadline=None)
def test_any_text_is_letters_in_latex_and_a_harmless_field_in_csv(text):
    escaped, field = render.latex_text(text.replace("±", "")), str(render.csv_field(text))
    known = r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}|\\`\{\}|\\[{}$&#%_]"
    assert not re.search(r"[\\$&#%_^~]", re.sub(known, "", escaped))
    assert not re.search(r"(?<!\{)[\[*]", escaped)  # an option of the row before it
    assert not field.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    assert field.removeprefix("'") == printable(text).removeprefix("'")
    assert all(letter.isascii() or 0xC0 <= ord(letter) <= 0xFF for letter in escaped)
    assert escaped.count("{") - escaped.count(r"\{") == escaped.count("}") - escaped.count(r"\}")


@pytest.mark.parametrize(("length", "most"), [(5, 40), (60, 20)], ids=["short", "folded"])
def test_a_long_table_in_latex_goes_on_in_another(length, most):
    training = [sample.trained(seed=1000 + place, regime="x" * length) for place in range(150)]
    text = "".join(render.latex(sample.nothing(sample.report(), training=training)))
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, flags=re.DOTALL)
    seeds = [re.findall(r"& (1\d{3}) &", table) for table in tables]
    assert [seed for table in seeds for seed in table] == [str(1000 + place) for place in range(150)]
    assert max(map(len, seeds)) <= most
    assert ["(continued)" in table for table in tables] == [False] + [True] * (len(tables) - 1)


@pytest.mark.slow
def test_latex_compiles_whatever_names_hold(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here: the LaTeX report was not compiled")
    document = sample.wild_report()
    many = document | {"training": document["training"] * 40, "attacks": sample.report()["attacks"] * 2}
    (tmp_path / "report.tex").write_text("".join(render.latex(many)), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "report.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert "Float too large" not in log
