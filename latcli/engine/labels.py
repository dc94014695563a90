"""Which class a photo shows: names, indices, WordNet ids, CSV files and folders to a class index.

Knows class names and paths; must not know networks.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latcli.engine.registry import unknown_name
from latcli.errors import UsageError

#: A line for each of a million photos is shorter.
_MOST_BYTES = 1 << 27


class Classes(Protocol):
    """What is needed of a classifier."""

    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """A class, and where it came from: "given", "file", "folder" or "prediction"."""

    index: int
    name: str
    source: str


def parse_label(text: str, classes: Classes, source: str = "given") -> Label:
    """The class that a text names: its index, its name (case, spaces, _ and - do not matter) or its WordNet id.

    Raises UsageError for a text that names no class, or several.
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,9}", text):
        index = int(text)
        if index >= len(classes.class_names):
            raise UsageError(
                f"there is no class {index}", f"this classifier has the classes 0 to {len(classes.class_names) - 1}"
            )
        return Label(index, classes.class_names[index], source)
    if text in classes.class_ids:
        index = classes.class_ids.index(text)
        return Label(index, classes.class_names[index], source)
    wanted = _plain(text)
    found = [index for index, name in enumerate(classes.class_names) if _plain(name) == wanted]
    if not found:
        raise unknown_name("class", text, classes.class_names)
    # Of two names that only case tells apart, as ImageNet's Cardigan (a dog) and cardigan, the one as written is meant.
    found = [index for index in found if classes.class_names[index] == text] or found
    if len(found) > 1:
        places = " or ".join(map(str, found))
        raise UsageError(f"'{text}' is the name of {len(found)} classes", f"give the index instead: {places}")
    return Label(found[0], classes.class_names[found[0]], source)


class LabelFile:
    """A CSV of labels: a column of files, and one of indices or names (an index wins where both are there).

    A header row is recognised by its words (file, path, image; index, label, class, name). Files are taken relative to
    the CSV's own folder; a photo that is nowhere so named is looked up by its bare file name, if that is unique.
    Raises UsageError for a file that cannot be read as such.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = _start_of(path, _MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise csv.Error(f"it is longer than {_MOST_BYTES >> 20} MiB")
            lines = io.StringIO(content.decode("utf-8-sig"), newline="")
            rows = [row for row in csv.reader(_without_nul(lines)) if any(cell.strip() for cell in row)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(
                f"cannot read the labels {path}: {error}", "a CSV with the columns file and index or name is needed"
            ) from error
        file_column, index_column, name_column, body = _columns(rows, path)
        self._by_path: dict[str, str] = {}  # by real path; unlike Path.resolve it bears links that lead in circles
        self._by_name: dict[str, list[str]] = {}
        for number, row in enumerate(body, start=len(rows) - len(body) + 1):
            texts = [row[c].strip() for c in (index_column, name_column) if c is not None and c < len(row)]
            text = next((text for text in texts if text), None)
            if file_column >= len(row) or text is None:
                raise UsageError(f"{path}, row {number}: a file and a label are needed", "see the row above it")
            file_name = row[file_column].strip()
            self._by_path[os.path.realpath(path.parent / file_name)] = text
            self._by_name.setdefault(Path(file_name).name, []).append(text)

    def label_of(self, photo: Path, classes: Classes) -> Label:
        """The label of one photo. Raises UsageError where the file names it not at all, or not uniquely."""
        text = self._by_path.get(os.path.realpath(photo))
        if text is None:
            candidates = self._by_name.get(photo.name, [])
            if len(set(candidates)) > 1:
                raise UsageError(
                    f"{self.path} has {len(candidates)} different labels for files called {photo.name}",
                    "name them with their folders, relative to the CSV",
                )
            if not candidates:
                raise UsageError(f"{self.path} has no label for {photo}", "add a row, or leave the photo out")
            text = candidates[0]
        return parse_label(text, classes, "file")


def folder_label(photo: Path, classes: Classes) -> Label:
    """The label that a photo's parent folder names: a class name, an index, or a WordNet id, also as id_name.

    Raises UsageError where it names no class.
    """
    return parse_label(_without_gloss(photo.resolve().parent.name, classes), classes, "folder")


def known_class(name: str, classes: Classes) -> Label | None:
    """The one class that another set's class shares its name or WordNet id (also as id_name) with; None without one.

    A number is no name: another set's class 7 is nobody's class 7.
    """
    if name.strip().isdigit():
        return None
    try:
        return parse_label(_without_gloss(name, classes), classes, "folder")
    except UsageError:
        return None


def _without_gloss(folder: str, classes: Classes) -> str:
    word_net_id = re.match(r"n\d{8}(?=$|[_\- ])", folder)
    return word_net_id[0] if word_net_id and classes.class_ids else folder


_FILE_WORDS = {"file", "filename", "path", "image", "photo"}
_INDEX_WORDS = {"index", "imagenet_index", "label_index", "class_index", "id"}
_NAME_WORDS = {"name", "label", "class", "class_name", "label_name"}


def _columns(rows: Sequence[Sequence[str]], path: Path) -> tuple[int, int | None, int | None, Sequence[Sequence[str]]]:
    """Positions of the file, index and name columns, and the rows below the header."""
    if not rows:
        raise UsageError(f"the labels {path} are empty", "a CSV with the columns file and index or name is needed")
    header = [cell.strip().lower() for cell in rows[0]]
    if not _FILE_WORDS & set(header):
        return 0, None, 1, rows
    file_column = next(i for i, word in enumerate(header) if word in _FILE_WORDS)
    index_column = next((i for i, word in enumerate(header) if word in _INDEX_WORDS), None)
    name_column = next((i for i, word in enumerate(header) if word in _NAME_WORDS), None)
    if index_column is None and name_column is None:
        raise UsageError(f"the labels {path} have no column of classes", "call one of them 'index' or 'name'")
    return file_column, index_column, name_column, rows[1:]


def _start_of(path: Path, most: int) -> bytes:
    """At most so many bytes of a file, which may be a device without an end. Raises OSError."""
    with path.open("rb") as file:
        return file.read(most)


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise csv.Error("it is a binary file")
        yield line


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()
