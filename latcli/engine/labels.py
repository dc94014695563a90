"""Which class a photo shows: from names, indices, WordNet ids, CSV files and folders to a class of a classifier.

Knows class names and paths; knows no networks.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from latcli.engine.photo_files import PhotoSource, as_given, composed
from latcli.engine.registry import unknown_name
from latcli.errors import UsageError
from latcli.results import Label

_CSV_HINT = "a CSV with the columns file and index or name is needed, in UTF-8 or UTF-16"


class Classes(Protocol):
    """What is needed of a classifier."""

    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]


def parse_label(text: str, classes: Classes, source: str = "given") -> Label:
    """The class that a text names: its name (case, spaces, _ and - do not matter), its WordNet id or its index.

    A name of the classifier's own comes before an index: `10` is the class called 10, where there is one. Raises
    UsageError for a text that names no class, or several.
    """
    text = composed(text.strip())
    found = _named(text, classes)
    if len(found) > 1:
        places = " or ".join(map(str, found))
        raise UsageError(f"'{text}' is the name of {len(found)} classes", f"give the index instead: {places}")
    if not found and text.isdecimal() and text.isascii():
        found = [_index(text, classes)]
    if not found:
        raise unknown_name("class", text, classes.class_names)
    return Label(found[0], classes.class_names[found[0]], source)


def known_class(name: str, classes: Classes) -> Label | None:
    """The one class that another set's class shares its name or WordNet id (also as id_name) with; None without one.

    Indices are not looked up: class 7 of another data set is another class.
    """
    found = _named(_without_gloss(composed(name), classes), classes)
    return Label(found[0], classes.class_names[found[0]], "folder") if len(found) == 1 else None


def folder_label(photo: Path, classes: Classes) -> Label:
    """The label that a photo's parent folder names: a class name, a WordNet id (also as id_name), or an index.

    The folder is the one of the path as it was given, not that of a link's target. Raises UsageError where it names no
    class.
    """
    return parse_label(_without_gloss(composed(as_given(photo).parent.name), classes), classes, "folder")


def _named(text: str, classes: Classes) -> list[int]:
    """The classes of that name or WordNet id."""
    if text in classes.class_ids:
        return [classes.class_ids.index(text)]
    wanted = _plain(text)
    found = [index for index, name in enumerate(classes.class_names) if _plain(name) == wanted]
    # Of two names that only case tells apart, as ImageNet's Cardigan (a dog) and cardigan, the one as written is taken.
    return [index for index in found if composed(classes.class_names[index]) == text] or found


@lru_cache(maxsize=1 << 16)
def _plain(name: str) -> str:
    plain = re.sub(r"[\s_\-]+", " ", composed(name)).strip().casefold()
    return (plain.lstrip("0") or "0") if plain.isdigit() else plain  # 007 is the class called 7


def _index(text: str, classes: Classes) -> int:
    if len(text) > 9 or int(text) >= len(classes.class_names):
        known = f"this classifier has the classes 0 to {len(classes.class_names) - 1}"
        raise UsageError(f"there is no class {text[:9]}", known)
    return int(text)


def _without_gloss(folder: str, classes: Classes) -> str:
    word_net_id = re.match(r"n\d{8}(?=$|[_\- ])", folder)
    return word_net_id[0] if word_net_id and classes.class_ids else folder


LabelOf = Callable[[PhotoSource], Label | None]


def labeller(classes: Classes, label: str | None, labels: Path | None, labels_from: str | None) -> LabelOf:
    """How a photo gets its label: one for all, a CSV file, the folder it lies in, or None for the clean prediction.

    Raises UsageError for more than one of them, and for a label or file that is no good.
    """
    options = {"--label": label, "--labels": labels, "--labels-from": labels_from}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be used together", "give one of them")
    if label is not None:
        one = parse_label(label, classes)
        return lambda source: one
    if labels is not None:
        file = LabelFile(labels)
        return lambda source: file.label_of(source.path, classes)
    if labels_from is not None:
        return lambda source: folder_label(source.path, classes)
    return lambda source: None


class LabelFile:
    """A CSV of labels: a column of files, and one of indices or names, separated by commas, semicolons or tabs.

    A header row is recognised by its words (file, path, image; index, label, class, name). Files are taken relative to
    the CSV's own folder; a photo that is nowhere so named is looked up by its bare file name, if that is unique.
    Raises UsageError for a file that cannot be read as such.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: File, index and name of each row; and the rows by one of `_KEYS`, made when that is first asked for.
        self._rows = _labelled_files(path)
        self._labels: list[dict[str, tuple[tuple[str, str], ...]]] = []

    def label_of(self, photo: Path, classes: Classes) -> Label:
        """The label of one photo. Raises UsageError where the file names it not at all, or not uniquely."""
        found = next((found for number in range(len(_KEYS)) if (found := self._by_key(number, photo))), ())
        if not found:
            raise UsageError(f"{self.path} has no label for {photo}", "add a row, or leave the photo out")
        if len(found) > 1:
            raise UsageError(
                f"{self.path} has {len(found)} different labels for files called {photo.name}",
                "name them with their folders, relative to the CSV",
            )
        ((index, name),) = found
        if not (index.isdecimal() and index.isascii()):
            return parse_label(index or name, classes, "file")
        number = _index(index, classes)
        named = _named(composed(name), classes) if name else []
        if named and number not in named:
            raise UsageError(
                f"{self.path}: index {index} is '{classes.class_names[number]}', but the row's name is '{name}'",
                "correct the one that is wrong, or remove its column",
            )
        return Label(number, classes.class_names[number], "file")

    def _by_key(self, number: int, photo: Path) -> tuple[tuple[str, str], ...]:
        """The labels of the rows whose file has the same key of that number."""
        if number == len(self._labels):
            self._labels.append({})
            for file, label in self._rows:
                key = _KEYS[number](self.path.parent / file)
                there = self._labels[number].get(key, ())
                self._labels[number][key] = there if label in there else (*there, label)
        return self._labels[number].get(_KEYS[number](photo), ())


#: By what a photo's row is found, the most exact first: its path, that of a link's target, its bare name.
_KEYS: tuple[Callable[[Path], str], ...] = (
    lambda file: composed(str(as_given(file))),
    lambda file: composed(os.path.realpath(file)),  # unlike Path.resolve, it bears links that lead in circles
    lambda file: composed(file.name),
)


#: What headers call the columns of files, indices and names.
_WORDS = (
    {"file", "filename", "path", "image", "photo"},
    {"index", "imagenet_index", "label_index", "class_index", "id"},
    {"name", "label", "class", "class_name", "label_name"},
)


def _labelled_files(path: Path) -> list[tuple[str, tuple[str, str]]]:
    """File, index and name of each row of a CSV that is not blank, split where its first line says."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if "\0" in text:
            raise ValueError("it is a binary file")
        first = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
        separator = max(",;\t", key=lambda one: len(next(csv.reader([first], delimiter=one), [])))
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        filled = [row for row in rows if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"cannot read the labels file {path}: {error}", _CSV_HINT) from error
    if not filled:
        raise UsageError(f"the labels file {path} is empty", _CSV_HINT)
    header = [cell.strip().lower() for cell in filled[0]]
    columns = [next((i for i, word in enumerate(header) if word in words), None) for words in _WORDS]
    if columns[0] is None and len(header) < 2:
        raise UsageError(f"the labels file {path} has only one column: '{filled[0][0][:60]}'", _CSV_HINT)
    if columns[0] is not None and columns[1:] == [None, None]:
        raise UsageError(f"the labels file {path} has no column of classes", "call one of them 'index' or 'name'")
    columns, filled = ([0, None, 1], filled) if columns[0] is None else (columns, filled[1:])
    found = []
    for row in filled:
        cells = (row[column].strip() if column is not None and column < len(row) else "" for column in columns)
        file, index, name = cells
        if not file or not (index or name):
            raise UsageError(f"{path}: a file and a label are needed, not '{','.join(row)[:60]}'", _CSV_HINT)
        found.append((file.replace("\\", "/"), (index, name)))  # the first as Windows writes it
    return found
