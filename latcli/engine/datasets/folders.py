"""The layout of a data set of the user's own: `PATH/train/CLASS/*`, `PATH/test/CLASS/*`; must not know pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latcli.engine.images import SUFFIXES, comes_to_an_end
from latcli.errors import UsageError

SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, SplitName] = ("train", "test")

_LAYOUT = "a folder data set has train/CLASS/*.png and test/CLASS/*.png, with the same classes in both"


@dataclass(frozen=True)
class LabelledFile:
    """An image file, and the number of the class whose folder it lies in."""

    path: Path
    label: int


@dataclass(frozen=True)
class ClassFolders:
    """The files of both splits, by class and then by name; classes in the order of their names."""

    root: Path
    class_names: tuple[str, ...]
    train: tuple[LabelledFile, ...]
    test: tuple[LabelledFile, ...]

    def files(self, split: SplitName) -> tuple[LabelledFile, ...]:
        """Those of one split."""
        return self.train if split == "train" else self.test

    def relative(self, file: LabelledFile) -> str:
        """A file's path below the root, in the same words on every system."""
        return file.path.relative_to(self.root).as_posix()


def class_folders(root: Path) -> ClassFolders:
    """The folder's files. Raises UsageError for another layout, classes that differ between splits, an empty class."""
    train, test = (_files(root / split) for split in SPLITS)
    _check_same_classes(root, train, test)
    names = sorted(train)
    splits = [
        tuple(LabelledFile(file, label) for label, name in enumerate(names) for file in files[name])
        for files in (train, test)
    ]
    return ClassFolders(root, tuple(names), *splits)


def mask_files(folders: ClassFolders, masks: Path, split: SplitName) -> list[Path]:
    """The mask of each image of a split: of train/CLASS/NAME.jpg it is MASKS/train/CLASS/NAME.png.

    Raises UsageError where one is missing, naming the image.
    """
    found = []
    for file in folders.files(split):
        path = (masks / folders.relative(file)).with_suffix(".png")
        if not path.is_file():
            raise UsageError(
                f"{folders.relative(file)} has no mask: {path} is missing",
                "masks lie as the images do, train/CLASS/NAME.png, white on the object",
            )
        found.append(path)
    return found


def _files(split: Path) -> dict[str, list[Path]]:
    try:
        folders = sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        files = {folder.name: sorted(file for file in folder.rglob("*") if _is_image(file)) for folder in folders}
    except OSError as error:
        raise UsageError(f"cannot read the folder {split}: {error.strerror or error}", _LAYOUT) from error
    for name, found in files.items():
        if not found:
            raise UsageError(f"the class '{name}' in {split} has no image", "remove its folder, or put images there")
    if len(files) < 2:
        raise UsageError(f"{split} has {len(files)} class folders; at least two are needed", _LAYOUT)
    return files


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and comes_to_an_end(file)


def _check_same_classes(path: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> None:
    for here, there, one, other in (("train", "test", train, test), ("test", "train", test, train)):
        extra = sorted(set(one) - set(other))
        if extra:
            shown = ", ".join(extra[:5]) + (" …" if len(extra) > 5 else "")
            raise UsageError(f"classes of {path / here} that are missing in {path / there}: {shown}", _LAYOUT)
