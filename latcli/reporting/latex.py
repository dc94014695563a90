"""A report as a LaTeX document with booktabs tables, from the document of `report --json`; must not know the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from latcli.reporting.sheets import Entry, Sheet, left_out, sheets
from latcli.reporting.text import printable

_BEGINNING = r"""% Compiles as it is with pdflatex. In a paper: \usepackage{booktabs}, and the table environments below.
\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
"""

#: Letters of a first column beyond which it breaks its lines.
_BREAKS = 40
#: Lines of a table that fit on a page with its caption and its notes; a table is never broken by LaTeX itself.
_LINES = 40

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"''{}",
    "'": r"'{}",
    "`": r"\`{}",
    # Behind the end of a row these two would begin its options.
    "[": "{[}",
    "*": "{*}",
    # Ligatures: two hyphens would become a dash, and so on.
    "-": r"-{}",
    ",": r",{}",
    "!": r"!{}",
    "?": r"?{}",
}
#: Letters beyond ASCII that every LaTeX can set; of others the code point is printed.
_LATIN = frozenset(letter for letter in map(chr, range(0xC0, 0x100)) if letter.isalpha()) - frozenset("ÐÞðþ")


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """The report as a document of its own, a table after the other."""
    yield _BEGINNING
    count = 0
    for sheet in (part for whole in sheets(document) for part in _parts(whole)):
        yield from _sheet(sheet)
        count += 1
        if count % 12 == 0:  # LaTeX holds but so many tables at once
            yield "\\clearpage\n"
    told = left_out(document)
    if told or not count:
        yield "\n\\paragraph{Not in the tables.}\n"
        yield "".join(f"{escape(line)}\\par\n" for line in told) or "Nothing was measured yet.\n"
    yield "\\end{document}\n"


def escape(text: str) -> str:
    """The text as it is, whatever it holds: no command, no formula, no comment."""
    return "".join(_letter(letter) for letter in printable(text))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii() or letter in _LATIN:
        return letter
    return f"{{[}}U+{ord(letter):04X}]"


def _parts(sheet: Sheet) -> Iterator[Sheet]:
    """The sheet in tables that fit on a page each; the notes stand below the last."""
    parts: list[list[tuple[Entry, ...]]] = [[]]
    lines = 0
    for row in sheet.rows:
        height = max(1, -(-len(row[0].text) // _BREAKS))
        if lines + height > _LINES and parts[-1]:
            parts.append([])
            lines = 0
        parts[-1].append(row)
        lines += height
    for place, rows in enumerate(parts):
        title = sheet.title if place == 0 else f"{sheet.title} (continued)"
        last = place == len(parts) - 1
        yield replace(sheet, title=title, rows=tuple(rows), notes=sheet.notes if last else ())


def _sheet(sheet: Sheet) -> Iterator[str]:
    yield f"\n\\begin{{table}}[htbp]\n\\centering\n{_size(sheet)}\\caption{{{escape(sheet.title)}}}\n"
    yield f"\\begin{{tabular}}{{{_columns(sheet)}}}\n\\toprule\n"
    yield from _head(sheet)
    yield "\\midrule\n"
    for row in sheet.rows:
        yield _row([_entry(entry) for entry in row])
    yield "\\bottomrule\n\\end{tabular}\n"
    if sheet.notes:
        yield "\\par\\medskip\n\\parbox{0.9\\linewidth}{\\footnotesize\\raggedright\n"
        yield "".join(f"{escape(note)}.\\\\\n" for note in sheet.notes[:-1]) + f"{escape(sheet.notes[-1])}.}}\n"
    yield "\\end{table}\n"


def _widths(sheet: Sheet) -> list[int]:
    """Letters that each column takes, at most those of a line in the first, whose texts may break."""
    lines = [sheet.headings, *([entry.text + (entry.spread or "") for entry in row] for row in sheet.rows)]
    first, *others = (max(len(line[index]) for line in lines) for index in range(len(sheet.headings)))
    return [min(first, _BREAKS), *others]


def _size(sheet: Sheet) -> str:
    """Smaller letters, and less between columns, for a table that would be wider than the page."""
    letters = sum(_widths(sheet)) + 2 * len(sheet.headings)
    if letters <= 84:
        return ""
    return "\\small\n" if letters <= 94 else "\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"


def _columns(sheet: Sheet) -> str:
    """Names flush left, figures flush right; a first column that is long text breaks its lines."""
    longest = max((len(row[0].text) for row in sheet.rows), default=0)
    first = "p{0.4\\linewidth}" if longest > _BREAKS else "l"
    return first + "".join(_alignment(sheet, index) for index in range(1, len(sheet.headings)))


def _alignment(sheet: Sheet, index: int) -> str:
    return "r" if any(character.isdigit() for row in sheet.rows for character in row[index].text[:1]) else "l"


def _head(sheet: Sheet) -> Iterator[str]:
    """The headings; those that share what stands before a colon, as a column's loss and accuracy, stand below it."""
    parts = [heading.partition(": ") for heading in sheet.headings]
    if not any(colon for _, colon, _ in parts):
        yield _row([escape(heading) for heading in sheet.headings])
        return
    groups: list[tuple[str, int]] = []
    for name, colon, _ in parts:
        if colon and groups and groups[-1][0] == name:
            groups[-1] = (name, groups[-1][1] + 1)
        else:
            groups.append((name if colon else "", 1))
    yield _row([f"\\multicolumn{{{count}}}{{c}}{{{escape(name)}}}" for name, count in groups])
    first = 1
    for name, count in groups:
        if name:
            yield f"\\cmidrule(lr){{{first}-{first + count - 1}}}\n"
        first += count
    yield _row([escape(below if colon else name) for name, colon, below in parts])


def _row(fields: list[str]) -> str:
    return " & ".join(fields) + " \\\\\n"


def _entry(entry: Entry) -> str:
    text = escape(entry.text)
    # A figure's own minus sign is no hyphen.
    text = f"${entry.text}$" if _is_negative_number(entry.text) else text
    if entry.spread is not None:
        text += f" $\\pm$ {escape(entry.spread)}"
    return f"\\textbf{{{text}}}" if entry.best else text


def _is_negative_number(text: str) -> bool:
    return text[:1] in ("-", "+") and text[1:].replace(".", "", 1).isdecimal()
