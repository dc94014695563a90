"""From the arguments of a command to photos and their labels; must not know attacks or results."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from latcli.engine.images import Photo, decode_photo, find_photos, read_bounded, read_photo
from latcli.engine.labels import Classes, Label, LabelFile, folder_label, parse_label
from latcli.errors import ImageError, UsageError

STDIN = "-"


@dataclass(frozen=True)
class PhotoSource:
    """A photo that is yet to be read: a path, or standard input."""

    path: Path

    @property
    def is_stdin(self) -> bool:
        """Whether the bytes come from standard input."""
        return str(self.path) == STDIN

    @property
    def name(self) -> str:
        """What results call it."""
        return "stdin" if self.is_stdin else str(self.path)

    def read(self) -> Photo:
        """Decode it. Raises ImageError."""
        if self.is_stdin:
            return decode_photo(read_bounded(sys.stdin.buffer, "stdin"), "stdin")
        return read_photo(self.path)


def find_sources(arguments: Sequence[str]) -> list[PhotoSource]:
    """Files as they are, folders searched recursively, `-` for standard input; each file once, in the order given.

    Raises ImageError for a path that does not exist or a folder without images, UsageError for no argument at all.
    """
    if not arguments:
        raise UsageError("no photo was given", "name a photo, several, a folder, or - for standard input")
    found: dict[str, PhotoSource] = {}
    for argument in arguments:
        # By real path, so that no file is attacked twice; unlike Path.resolve it bears links that lead in circles.
        found.update((STDIN if s.is_stdin else os.path.realpath(s.path), s) for s in _sources_below(argument))
    return list(found.values())


def _sources_below(argument: str) -> list[PhotoSource]:
    path = Path(argument)
    if argument == STDIN:
        return [PhotoSource(path)]
    try:
        if path.is_dir():
            return [PhotoSource(photo) for photo in find_photos(path)]
        if path.exists():
            return [PhotoSource(path)]
    except OSError as error:
        raise ImageError(f"cannot read {argument}: {error.strerror}", "check the path and its permissions") from error
    raise ImageError(f"no such file: {argument}", "check the path; folders are searched recursively")


def sha256_of(path: Path | None) -> str | None:
    """Of a file's bytes, by which it is known again wherever it lies; None for no file. Raises ImageError."""
    if path is None:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error


LabelOf = Callable[[PhotoSource], Label | None]


def labeller(classes: Classes, label: str | None, labels: Path | None, labels_from: str | None) -> LabelOf:
    """How a photo gets its label: one for all, a CSV file, the folder it lies in, or None for the clean prediction.

    Raises UsageError for more than one of them, and for a label or file that is no good.
    """
    given = [
        option
        for option, value in (("--label", label), ("--labels", labels), ("--labels-from", labels_from))
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be used together", "labels come from one place")
    if label is not None:
        one = parse_label(label, classes)
        return lambda source: one
    if labels is not None:
        file = LabelFile(labels)
        return lambda source: file.label_of(source.path, classes)
    if labels_from is not None:
        if labels_from != "folder":
            raise UsageError(f"labels cannot be taken from '{labels_from}'", "--labels-from takes the word folder")
        return lambda source: folder_label(source.path, classes)
    return lambda source: None
