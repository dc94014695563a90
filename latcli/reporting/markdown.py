"""A report as Markdown with tables as GitHub draws them, from its JSON document; must not know the store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from latcli.reporting.sheets import Entry, Sheet, left_out, sheets
from latcli.reporting.text import printable

#: What Markdown or the HTML inside it could take for markup; a name must stay a name.
_SPECIAL = re.compile(r"([\\`*_\[\]#~$])")
#: At the beginning of a line, a list, a heading or a rule.
_LEADING = re.compile(r"^(\s*\d*)([-+=.)])")


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """The report, a table after the other."""
    yield f"# Report of {escape(document['store'])}\n"
    for sheet in sheets(document):
        yield from table(sheet)
    told = left_out(document)
    if told:
        yield "\n## Not in the tables\n\n"
        yield "".join(map(item, told))


def escape(text: str) -> str:
    """The text as it is, whatever it holds: no markup, no HTML, no link, on one line."""
    harmless = _SPECIAL.sub(r"\\\1", printable(text))
    harmless = harmless.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    # GitHub makes links of bare addresses and of names behind an @.
    return harmless.replace("://", "&#58;//").replace("@", "&#64;").replace("www.", "www&#46;")


def table(sheet: Sheet) -> Iterator[str]:
    """One table below its heading, and its notes."""
    yield f"\n## {escape(sheet.title)}\n\n"
    yield _row([escape(heading) for heading in sheet.headings])
    yield _row([":--", *["--:"] * (len(sheet.headings) - 1)])
    for row in sheet.rows:
        yield _row([_entry(entry) for entry in row])
    if sheet.notes:
        yield "\n" + "".join(map(item, sheet.notes))


def item(text: str) -> str:
    """One item of a list."""
    harmless = _LEADING.sub(r"\1\\\2", escape(text))
    return f"- {harmless}\n"


def _row(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |\n"


def _entry(entry: Entry) -> str:
    text = escape(entry.text) + ("" if entry.spread is None else f" ± {escape(entry.spread)}")
    return f"**{text}**" if entry.best else text
