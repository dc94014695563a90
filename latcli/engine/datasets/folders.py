"""Data sets in a user's folder, `PATH/train/CLASS/*` and `PATH/test/CLASS/*`: their files, and small images read whole.

Legend: N images of a split, C channels, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch

from latcli.engine.datasets.base import Dataset, Defaults, make_dataset
from latcli.engine.images import read_photo
from latcli.engine.masks import MaskFolder, read_mask
from latcli.engine.photo_files import as_given, composed, is_folder, listed, photos_below
from latcli.errors import UsageError

SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, SplitName] = ("train", "test")

#: Sets of larger images would not fit into memory as a whole.
LARGEST_SIDE = 96

_LAYOUT = "a folder data set has train/CLASS/*.png and test/CLASS/*.png, with the same classes in both"
_GREY_DEFAULTS = Defaults(epsilon=0.3, center=0.18, architecture="paper-cnn")
_COLOUR_DEFAULTS = Defaults(epsilon=8 / 255, center=0.75, architecture="resnet18", augment="crop-flip")


@dataclass(frozen=True, slots=True)
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

    @property
    def name(self) -> str:
        """The data set's name: `folder:` and the absolute path."""
        return f"folder:{self.root}"

    def files(self, split: SplitName) -> tuple[LabelledFile, ...]:
        """Those of one split."""
        return self.train if split == "train" else self.test

    def relative(self, file: LabelledFile) -> PurePosixPath:
        """A file's path below the root, the same on every system."""
        return PurePosixPath(composed(file.path.relative_to(self.root).as_posix()))


def class_folders(root: Path) -> ClassFolders:
    """The files of `ROOT/train/CLASS` and `ROOT/test/CLASS`.

    Raises UsageError for another layout, classes that differ between splits, an empty class.
    """
    root = as_given(root)
    if root.is_file():
        raise UsageError(f"{root} is a file, not a folder", f"unpack an archive first; {_LAYOUT}")
    train, test = (_files(root / split) for split in SPLITS)
    for here, there, extra in (("train", "test", train.keys() - test), ("test", "train", test.keys() - train)):
        if extra:
            shown = ", ".join(sorted(extra)[:5]) + (" …" if len(extra) > 5 else "")
            raise UsageError(f"classes of {root / here} that are missing in {root / there}: {shown}", _LAYOUT)
    names = sorted(train)
    splits = [
        tuple(LabelledFile(file, label) for label, name in enumerate(names) for file in files[name])
        for files in (train, test)
    ]
    return ClassFolders(root, tuple(names), *splits)


def _files(split: Path) -> dict[str, list[Path]]:
    """The photos of each class folder, by its composed name."""
    try:
        folders = [entry for entry in listed(split) if is_folder(entry)]
    except OSError as error:
        raise UsageError(f"cannot read the folder {split}: {error.strerror or error}", _LAYOUT) from error
    files: dict[str, list[Path]] = {}
    for folder in folders:
        name = composed(folder.name)
        if name in files:
            raise UsageError(f"{split} has two folders called '{name}', in two Unicode forms", "merge them into one")
        files[name] = list(photos_below(Path(folder.path)))
        if not files[name]:
            raise UsageError(f"the class '{name}' in {split} has no image", "remove its folder, or put images there")
    if len(files) < 2:
        raise UsageError(f"{split} has {len(files)} class folders; at least two are needed", _LAYOUT)
    return files


def mask_files(folders: ClassFolders, masks: Path) -> tuple[list[Path], list[Path]]:
    """The mask of each image of both splits: of train/CLASS/NAME.jpg it is MASKS/train/CLASS/NAME.png.

    Raises UsageError where one is missing or two images share one, naming the images.
    """
    folder = MaskFolder(masks)
    photos = [[folders.relative(file) for file in folders.files(split)] for split in SPLITS]
    folder.refuse_shared([*photos[0], *photos[1]])
    return [folder.mask_of(photo) for photo in photos[0]], [folder.mask_of(photo) for photo in photos[1]]


def mask_notes(notes: Iterable[str], of: int) -> tuple[str, ...]:
    """Notes on how single masks were read, each once, with how many of the masks that were looked at it is about."""
    return tuple(f"of {count} of {of} masks: {note}" for note, count in Counter(notes).items())


# small images


def image_folder(folders: ClassFolders, masks: Path | None = None) -> Dataset:
    """A data set of small images, read whole; images without any colour are read as one channel.

    `masks` is a folder of masks that lie as the images do. Raises UsageError for a missing mask, and for images of
    several sizes or large ones; ImageError for a damaged image or mask.
    """
    (x_train, y_train), (x_test, y_test) = (_tensors(folders.files(split)) for split in SPLITS)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise UsageError(f"training and test images of {folders.root} differ in size", "resize them all to one size")
    defaults = _COLOUR_DEFAULTS
    if all(torch.equal(x_NCHW, x_NCHW[:, :1].expand_as(x_NCHW)) for x_NCHW in (x_train, x_test)):
        x_train, x_test, defaults = x_train[:, :1].contiguous(), x_test[:, :1].contiguous(), _GREY_DEFAULTS
    dataset = make_dataset(folders.name, (x_train, y_train), (x_test, y_test), folders.class_names, defaults)
    return dataset if masks is None else _with_masks(dataset, folders, masks)


def _with_masks(dataset: Dataset, folders: ClassFolders, masks: Path) -> Dataset:
    _, H, W = dataset.image_shape
    read = [[read_mask(file, (H, W)) for file in files] for files in mask_files(folders, masks)]
    mask_train, mask_test = (torch.stack([mask_1HW >= 0.5 for mask_1HW, _ in of_split]) for of_split in read)
    notes = [note for of_split in read for _, notes in of_split for note in notes]
    return replace(
        dataset,
        mask_train=mask_train,
        mask_test=mask_test,
        mask_fingerprint=hashlib.sha256(mask_train.numpy().tobytes() + mask_test.numpy().tobytes()).hexdigest(),
        notes=(*dataset.notes, *mask_notes(notes, len(mask_train) + len(mask_test))),
    )


def _tensors(files: Sequence[LabelledFile]) -> tuple[torch.Tensor, torch.Tensor]:
    """x_NCHW uint8 and y_N. Raises UsageError for images of several sizes, and for large or tiny ones."""
    images = [read_photo(file.path) for file in files]
    (H, W), _ = Counter(image.size for image in images).most_common(1)[0]
    or_tuned = "or fine-tune a classifier on them: --architecture efficientnet_lite0"
    for image in images:
        if image.size != (H, W):
            h, w = image.size
            raise UsageError(
                f"{image.name} has {w}x{h} pixels, others have {W}x{H}", f"resize all images to one size, {or_tuned}"
            )
    if max(H, W) > LARGEST_SIDE:
        raise UsageError(
            f"images of {W}x{H} pixels are too large for a small network",
            f"resize them to at most {LARGEST_SIDE} pixels a side, {or_tuned}",
        )
    if min(H, W) < 8:
        raise UsageError(f"images of {W}x{H} pixels are too small", "at least 8 pixels a side are needed")
    x_NHWC = torch.from_numpy(np.stack([image.levels_HWC for image in images]))
    return x_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor([file.label for file in files])
