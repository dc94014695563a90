"""Which files are photos, by which names they are known, and in which order: one rule for attack, train and eval."""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from latcli.engine.images import Photo, decode_photo, read_bounded, read_photo
from latcli.errors import ImageError, UsageError

#: File endings of photos, whatever their case.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

STDIN = "-"


def composed(name: str) -> str:
    """The name in Unicode's form NFC, in which names are compared: macOS writes `é` as two characters."""
    return unicodedata.normalize("NFC", name)


def as_given(path: PurePath) -> Path:
    """The absolute path with the names that it was given by: links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve follows links


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, ordered by composed name; hidden files and folders are passed over. Raises OSError."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(seen, key=lambda entry: (composed(entry.name), entry.name))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def photos_below(folder: Path) -> Iterator[Path]:
    """The photos below a folder, in the order of their names.

    Links to files and folders are followed and keep the names that they have here; a link to a folder that it lies in
    is passed over, and so are pipes and devices. Raises ImageError for a folder that cannot be read.
    """
    return _photos(folder, frozenset())


def _photos(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        place = folder.stat()
        entries = [] if (place.st_dev, place.st_ino) in above else listed(folder)
    except OSError as error:
        raise ImageError(f"cannot read the folder {folder}: {error.strerror}", "check its permissions") from error
    for entry in entries:
        if is_folder(entry):
            yield from _photos(folder / entry.name, above | {(place.st_dev, place.st_ino)})
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            try:
                ends = stat.S_ISREG(entry.stat().st_mode)  # reading a pipe may not end
            except OSError:  # refused when it is read
                ends = True
            if ends:
                yield folder / entry.name


@dataclass(frozen=True, slots=True)
class PhotoSource:
    """A photo that is yet to be read: a path, or `-` for standard input."""

    path: Path

    @property
    def is_stdin(self) -> bool:
        """Whether the bytes come from standard input."""
        return str(self.path) == STDIN

    @property
    def name(self) -> str:
        """What results call it; no two sources of one invocation have the same."""
        if self.is_stdin:
            return "stdin"
        return "./stdin" if str(self.path) == "stdin" else str(self.path)

    def read(self) -> Photo:
        """Decode it. Raises ImageError."""
        if self.is_stdin:
            return decode_photo(read_bounded(sys.stdin.buffer, self.name), self.name)
        return replace(read_photo(self.path), name=self.name)


def find_sources(arguments: Sequence[str]) -> list[PhotoSource]:
    """Files as they are, folders searched recursively, `-` for standard input; each path once, in the order given.

    Two links to one file are two photos: each may have another label. Raises ImageError for a path that does not exist
    or a folder without photos, UsageError for no argument at all.
    """
    if not arguments:
        raise UsageError("no photo was given", "name a photo, several, a folder, or - for standard input")
    found: dict[str, PhotoSource] = {}
    for argument in arguments:
        for source in _sources(argument):
            found.setdefault(STDIN if source.is_stdin else str(as_given(source.path)), source)
    return list(found.values())


def _sources(argument: str) -> Iterator[PhotoSource]:
    path = Path(argument)
    try:
        is_dir, there = path.is_dir(), argument == STDIN or path.exists()
    except OSError as error:
        raise ImageError(f"cannot read {argument}: {error.strerror}", "check the path and its permissions") from error
    if not there:
        raise ImageError(f"no such file: {argument}", "check the path; folders are searched recursively")
    if not is_dir or argument == STDIN:
        yield PhotoSource(path)
        return
    photo = None
    for photo in photos_below(path):
        yield PhotoSource(photo)
    if photo is None:
        raise ImageError(f"no image below {path}", f"looked for {', '.join(sorted(SUFFIXES))}")
