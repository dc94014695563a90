"""What files mean: which are photos, by which names and in which order; which are masks, and of which photo.

One rule for attack, train and eval. White is the object in a file; what cannot be read so with certainty is refused.
"""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image

from latcli.engine.images import (
    SIXTEEN_BIT_MODES,
    Photo,
    damage_as_errors,
    decode_image,
    decode_photo,
    is_transparent,
    read_bounded,
    read_bytes,
    read_photo,
    rgb_of,
)
from latcli.errors import ImageError, UsageError

#: File endings of photos, whatever their case.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

STDIN = "-"

#: Files that mark a folder as one that latcli wrote: a run's, and one of masks.
RUN_MARK, MASKS_MARK = "run.json", ".latcli-masks"  # the first as the store names it


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


def photos_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """The photos below a folder, in the order of their names.

    Links to files and folders are followed and keep the names that they have here; a link to a folder that it lies in
    is passed over, and so are pipes, devices, and folders below this one that latcli wrote. `above` are the folders
    that it lies in, as far as they were walked. Raises ImageError for a folder that cannot be read.
    """
    try:
        place = folder.stat()
        entries = [] if (place.st_dev, place.st_ino) in above else listed(folder)
    except OSError as error:
        raise ImageError(f"cannot read the folder {folder}: {error.strerror}", "check its permissions") from error
    if above and any((folder / mark).exists() for mark in (RUN_MARK, MASKS_MARK)):
        return
    for entry in entries:
        if is_folder(entry):
            yield from photos_below(folder / entry.name, above | {(place.st_dev, place.st_ino)})
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
        path = Path(argument)
        if argument == STDIN:
            found.setdefault(STDIN, PhotoSource(path))
            continue
        try:
            is_dir, there = path.is_dir(), path.exists()
        except OSError as error:
            raise ImageError(
                f"cannot read {argument}: {error.strerror}", "check the path and its permissions"
            ) from error
        if not there:
            raise ImageError(f"no such file: {argument}", "check the path; folders are searched recursively")
        photos = list(photos_below(path)) if is_dir else [path]
        if not photos:
            raise ImageError(f"no image below {path}", f"looked for {', '.join(sorted(SUFFIXES))}")
        for photo in photos:
            found.setdefault(str(as_given(photo)), PhotoSource(photo))
    return list(found.values())


# masks: files that say where the object of a photo is

#: The border between object and background in masks of Pascal VOC, which belongs to neither.
_VOC_BORDER = (224, 224, 192)
#: Channels of a grey picture differ by no more than this after JPEG.
_GREY_SPREAD = 32
#: A file of at most so many values, of which so large a share of what is not black is a small number, holds classes.
_FEW_VALUES, _SMALL_NUMBER, _SMALL_SHARE = 16, 20, 0.25

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def read_mask(path: Path, size: tuple[int, int] | None = None) -> tuple[torch.Tensor, tuple[str, ...]]:
    """A mask file as mask_1HW, and notes on how it was read where that is not plain black and white.

    `size` is the (height, width) of its photo, None where it is not known. Grey is a soft mask. A mask of black and one
    other value is black and white, whatever the value: 0 and 1, a class's colour, 16 bits. A cut-out is read by its
    alpha. Raises ImageError where the sizes differ, the mask is black everywhere, or it is no mask at all: classes as
    numbers, a coloured picture.
    """
    name = str(path)
    data = read_bytes(path)
    with damage_as_errors(name):
        image = decode_image(data, name)
        if size is not None and (image.height, image.width) != size:
            raise ImageError(
                f"the mask {name} is {image.width}x{image.height}, its photo {size[1]}x{size[0]}",
                "a mask needs the photo's own size (after the camera's rotation is applied)",
            )
        levels_HW, note = _levels(image, name)
    return torch.from_numpy(levels_HW.astype(np.float32) / 255.0)[None], (note,) if note else ()


def _levels(image: Image.Image, name: str) -> tuple[np.ndarray, str | None]:
    if is_transparent(image):
        rgba = image.convert("RGBA")
        alpha, image = rgba.getchannel("A"), rgba.convert("RGB")
        if alpha.getextrema() != (255, 255):
            alpha_HW = np.asarray(alpha)
            if _colours(image) == {_BLACK, _WHITE} and ((alpha_HW > 0) != (np.asarray(image)[..., 0] > 0)).any():
                raise _unclear(name, "its alpha and its black and white contradict each other")
            return _checked(alpha_HW, name), "a cut-out, read by its alpha"
    if image.mode in SIXTEEN_BIT_MODES:
        values_HW, white = np.asarray(image), 65535
    else:
        if image.mode not in ("1", "L"):
            rgb = image.convert("RGB")
            rgb_HWC = np.asarray(rgb)
            if int((rgb_HWC.max(axis=2) - rgb_HWC.min(axis=2)).max()) > _GREY_SPREAD:
                colours = _colours(rgb) - {_VOC_BORDER}
                if len(colours) != 2 or _BLACK not in colours:
                    raise _unclear(name, "it has several colours")
                return _white(np.asarray(rgb.convert("L")) > 0), "its one colour besides black is white"
        values_HW, white = np.asarray(image.convert("L")), 255
    highest = int(values_HW.max())
    if 0 < highest < white and ((values_HW == 0) | (values_HW == highest)).all():
        return _white(values_HW > 0), f"its largest value, {highest}, is white"
    return _checked(values_HW if white == 255 else rgb_of(image)[..., 0], name), None


def _white(object_HW: np.ndarray) -> np.ndarray:
    """Levels of a mask: 255 on the object, 0 elsewhere."""
    return np.where(object_HW, np.uint8(255), np.uint8(0))


def _colours(image: Image.Image) -> set[tuple[int, int, int]]:
    """The colours of a picture in mode RGB; none where there are more than three."""
    found = image.getcolors(3)
    return set() if found is None else {colour for _, colour in found}  # type: ignore[misc]


def _checked(levels_HW: np.ndarray, name: str) -> np.ndarray:
    """The levels as they are. Raises ImageError where they protect nothing, or are classes and no brightness."""
    counts = np.asarray(Image.fromarray(levels_HW).histogram())
    highest = int(np.flatnonzero(counts)[-1])
    if highest == 0:
        raise ImageError(
            f"the mask {name} is black everywhere: it protects nothing",
            "paint the object white; to change the whole photo, give --region all instead of a mask",
        )
    if highest < 128:
        raise _unclear(name, f"nothing in it is white, its largest value is {highest} of 255")
    small = counts[1 : _SMALL_NUMBER + 1].sum() > _SMALL_SHARE * counts[1:].sum()
    if small and np.count_nonzero(counts) <= _FEW_VALUES:
        raise _unclear(name, "it holds numbers of classes, not brightness")
    return levels_HW


def _unclear(name: str, why: str) -> ImageError:
    return ImageError(f"{name} cannot be read as a mask: {why}", "save it as a grey picture, white on the object")


class MaskFolder:
    """The masks below a folder, which lie as their photos do.

    The mask of the photo `photos/hen/1.jpg` is `photos/hen/1.png`, else `hen/1.png`, else `1.png`, with any ending: the
    longest end of the photo's path that is there. Raises ImageError where the folder cannot be read, UsageError for
    two masks that differ in their endings alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[str, ...], Path] = {}
        for file in photos_below(folder):
            first = self._files.setdefault(_key(file.relative_to(folder)), file)
            if first is not file:
                raise UsageError(f"{first} and {file} are masks of one photo", "remove one of them")

    def find(self, photo: PurePath) -> Path | None:
        """The mask of a photo, None where it has none."""
        key = _key(as_given(photo))
        return next((self._files[key[start:]] for start in range(len(key)) if key[start:] in self._files), None)

    def mask_of(self, photo: PurePath) -> Path:
        """The mask of a photo. Raises UsageError where it has none."""
        found = self.find(photo)
        if found is None:
            raise UsageError(
                f"{photo} has no mask: there is no {photo.stem}.* below {self.folder}",
                f"masks lie as the photos do: {self.folder}/{'/'.join(photo.parts[-2:-1])}/{photo.stem}.png",
            )
        return found

    def refuse_shared(self, photos: Iterable[PurePath]) -> None:
        """Raise UsageError where two of the photos have the same mask."""
        taken: dict[Path, PurePath] = {}
        for photo in photos:
            mask = self.find(photo)
            if mask is not None and (other := taken.setdefault(mask, photo)) != photo:
                raise UsageError(
                    f"{other} and {photo} would both have the mask {mask}",
                    "put masks in folders that are called as those of their photos: MASKS/FOLDER/NAME.png",
                )


def _key(path: PurePath) -> tuple[str, ...]:
    return tuple(composed(part) for part in path.with_suffix("").parts)
