"""Text from outside made harmless for a terminal; must not know where the text came from."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with control, invisible and unencodable characters written as escapes (`\n`, `\x1b`, `\udcff`).

    File names and messages of other programs may hold anything; on a terminal they stay on their line and colour
    nothing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
