"""Tables as Markdown, as a LaTeX document and as CSV; whatever names hold, they stay names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latcli.reporting import documents
from latcli.reporting.table import Cell, Column, Row, Table, printed
from latcli.reporting.text import printable

# Markdown, with tables as GitHub draws them

#: What Markdown or the HTML inside it could take for markup.
_MARKUP = re.compile(r"([\\`*_\[\]#~$])")
#: At the beginning of a line, a list, a heading or a rule.
_LEADING = re.compile(r"^(\s*\d*)([-+=.)])")


def markdown(document: Mapping[str, Any]) -> Iterator[str]:
    """A report as Markdown."""
    yield f"# Report of {markdown_text(document['store'])}\n"
    for table in documents.report(document):
        yield from markdown_table(table)


def markdown_text(text: str) -> str:
    """The text as it is, whatever it holds: no markup, no HTML, no link, on one line."""
    harmless = _MARKUP.sub(r"\\\1", printable(text))
    harmless = harmless.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    # GitHub makes links of bare addresses and of names behind an @.
    return harmless.replace("://", "&#58;//").replace("@", "&#64;").replace("www.", "www&#46;")


def markdown_table(table: Table) -> Iterator[str]:
    """One table below its heading, and its notes."""
    yield f"\n## {markdown_text(table.title)}\n\n" if table.title else "\n"
    if table.columns:
        yield _line([markdown_text(column.full_heading) for column in table.columns])
        yield _line([":--" if column.is_text else "--:" for column in table.columns])
        for row in table.rows:
            yield _line([_markdown_cell(*pair) for pair in zip(row.cells, table.columns, strict=True)])
        yield "\n" if table.notes else ""
    yield from map(markdown_item, table.footnotes("bold:"))


def markdown_item(text: str) -> str:
    """One item of a list."""
    harmless = _LEADING.sub(r"\1\\\2", markdown_text(text))
    return f"- {harmless}\n"


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |\n"


def _markdown_cell(cell: Cell, column: Column) -> str:
    shown = printed(cell, column)
    text = markdown_text(shown.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} {markdown_text(shown.interval)}" if shown.interval else text


def reproduction(document: Mapping[str, Any]) -> Iterator[str]:
    """A finished reproduction as Markdown: what it shows, pictures, every step with its run and command, the report."""
    options = document["options"]
    what = f"{options['what']}, budget {options['budget']}, seed {options['seed']}"
    yield f"# Reproduction: {markdown_text(what)}\n\n"
    yield from map(markdown_item, document["notes"])
    for table in documents.reproduced(document):
        yield from markdown_table(table)
    for one in document["tables"]:
        yield f"\n![{markdown_text(one['title'])}]({one['name']}.png)\n" if one["drawn"] else ""
    if document["files"]:
        yield "\n## Pictures: photo, background black, attacked\n\n"
        yield from map(markdown_item, document["files"])
    yield from markdown_table(documents.steps(document))
    yield "\n## Commands\n\n```sh\n"
    yield "".join(f"{printable(row['command_line'])}\n" for row in document["steps"])
    yield "```\n"
    if document["report"]:
        yield "\n# Report of the runs that the paper's own figures are made of\n"
        for table in documents.report({**document["report"], "paper": None}):
            yield from markdown_table(table)


# LaTeX, with booktabs

_BEGINNING = r"""% Compiles as it is with pdflatex. For a paper: packages booktabs and graphicx, and the tables below.
\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""
#: Shrinks a table that is wider than the page, and no other.
_FITTING = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
#: Letters of a text beyond which it breaks its lines; lines of a table on one page, since LaTeX never breaks a table.
_BREAKS, _DOWN = 28, 40

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"''{}", "'": r"'{}", "`": r"\`{}",
    # Behind the end of a row these two would begin its options.
    "[": "{[}", "*": "{*}",
    # Ligatures: two hyphens would become a dash, and so on.
    "-": r"-{}", ",": r",{}", "!": r"!{}", "?": r"?{}",
    "±": r"$\pm$",
}  # fmt: skip
#: Letters beyond ASCII that every LaTeX can set; of others the code point is printed.
_LATIN = frozenset(letter for letter in map(chr, range(0xC0, 0x100)) if letter.isalpha()) - frozenset("ÐÞðþ")


def latex(document: Mapping[str, Any]) -> Iterator[str]:
    """A report as a LaTeX document, a table after the other."""
    yield _BEGINNING
    parts = [part for whole in documents.report(document) for part in latex_pages(whole)]
    for count, table in enumerate(parts, start=1):
        yield from latex_table(table)
        if count % 12 == 0:  # LaTeX holds but so many tables at once
            yield "\\clearpage\n"
    yield "\\end{document}\n"


def latex_text(text: str) -> str:
    """The text as it is, whatever it holds: no command, no formula, no comment."""
    return "".join(
        _SPECIAL.get(one, one if one.isascii() or one in _LATIN else f"{{[}}U+{ord(one):04X}]")
        for one in printable(text)
    )


def latex_table(table: Table) -> Iterator[str]:
    """One table environment; text without a table is a paragraph."""
    if not table.columns:
        yield f"\n\\paragraph{{{latex_text(table.title)}}}\n"
        yield "".join(f"{latex_text(note)}\\par\n" for note in table.notes)
        return
    yield f"\n\\begin{{table}}[htbp]\n\\centering\n\\caption{{{latex_text(table.title)}}}\n{_FITTING}\n"
    aligned = "".join(_alignment(table, place) for place in range(len(table.columns)))
    yield f"\\begin{{tabular}}{{{aligned}}}\n\\toprule\n"
    yield from _latex_head(table)
    yield "\\midrule\n"
    for row in table.rows:
        yield "\\midrule\n" if row.total else ""
        yield _latex_row([_latex_cell(*pair) for pair in zip(row.cells, table.columns, strict=True)])
    yield "\\bottomrule\n\\end{tabular}}\n"
    if notes := table.footnotes("bold:"):
        yield "\\par\\medskip\n\\parbox{0.9\\linewidth}{\\footnotesize\\raggedright\n"
        yield "\\\\\n".join(f"{latex_text(note)}." for note in notes) + "}\n"
    yield "\\end{table}\n"


def _alignment(table: Table, place: int) -> str:
    """Figures to the right, texts to the left; long texts break their lines."""
    column = table.columns[place]
    if not column.is_text:
        return "r"
    longest = max((len(printed(row.cells[place], column).text) for row in table.rows), default=0)
    return "l" if longest < _BREAKS else f"p{{{0.5 * _BREAKS}em}}"


def latex_pages(table: Table) -> Iterator[Table]:
    """The table in tables that fit on a page each; the notes stand below the last."""
    parts: list[list[Row]] = [[]]
    lines = 0
    for row in table.rows:
        texts = [cell.value for cell, column in zip(row.cells, table.columns, strict=True) if column.is_text]
        height = max((-(-len(str(text or "")) // _BREAKS) for text in texts), default=1)
        if lines + height > _DOWN and parts[-1]:
            parts.append([])
            lines = 0
        parts[-1].append(row)
        lines += height
    for place, part in enumerate(parts):
        title = table.title if place == 0 else f"{table.title} (continued)"
        yield replace(table, title=title, rows=tuple(part), notes=table.notes if place == len(parts) - 1 else ())


def _latex_head(table: Table) -> Iterator[str]:
    if any(name for name, _ in table.groups):
        yield _latex_row([f"\\multicolumn{{{count}}}{{c}}{{{latex_text(name)}}}" for name, count in table.groups])
        first = 1
        for name, count in table.groups:
            yield f"\\cmidrule(lr){{{first}-{first + count - 1}}}\n" if name else ""
            first += count
    yield _latex_row([latex_text(column.heading) for column in table.columns])
    for line in range(max(len(column.notes) for column in table.columns)):
        yield _latex_row(
            [latex_text(column.notes[line]) if line < len(column.notes) else "" for column in table.columns]
        )


def _latex_row(fields: Sequence[str]) -> str:
    return f"{' & '.join(fields)} \\\\\n"


def _latex_cell(cell: Cell, column: Column) -> str:
    shown = printed(cell, column)
    sign, rest = shown.text[:1], shown.text[1:]
    # A figure's own minus sign is no hyphen.
    is_signed = isinstance(cell.value, int | float) and sign in ("-", "+") and "e" not in rest
    text = f"${sign}$" + latex_text(rest) if is_signed else latex_text(shown.text)
    text = f"\\textbf{{{text}}}" if cell.best else text
    return f"{text} {latex_text(shown.interval)}" if shown.interval else text


# CSV, one figure a line, with one header for everything, so that any program reads it as one table

COLUMNS = (
    *("kind", "run", "dataset", "model", "regime", "input", "epsilon", "at", "image", "label"),
    *("figure", "value", "spread", "low", "high", "models", "n", "seed"),
)
#: A spreadsheet takes a field that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")


def csv_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """A report's figures in full: shares from 0 to 1, losses as they are; what is not of a kind of line is empty."""
    buffer = io.StringIO()
    lines = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for table in documents.report(document):
        for figure in _figures(table) if table.kind else ():
            lines.writerow({name: csv_field(value) for name, value in figure.items()})
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _figures(table: Table) -> Iterable[Mapping[str, object]]:
    for row in table.rows:
        for cell, column in zip(row.cells, table.columns, strict=True):
            if column.figure and cell.value is not None and not (row.total and not row.about):
                values = {"value": cell.value, "spread": cell.spread, "low": cell.low, "high": cell.high}
                about = {"kind": table.kind, **table.about, **row.about, **column.about}
                n = {} if cell.n is None else {"n": cell.n}
                yield {"figure": column.figure, **about, **values, **n}


def csv_field(value: object) -> str | int | float | None:
    """A value as a field: numbers as they are, text on one line and never a formula."""
    if value is None or isinstance(value, int | float):
        return value
    text = printable(str(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
