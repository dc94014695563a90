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
from latcli.errors import LatcliError, UsageError

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


def class_folders(root: Path | ClassFolders) -> ClassFolders:
    """The folder's files, listed where that has not been done yet.

    Raises UsageError for another layout, classes that differ between splits, an empty class.
    """
    if isinstance(root, ClassFolders):
        return root
    root = as_given(root)
    train, test = (_files(root / split) for split in SPLITS)
    for here, there, one, other in (("train", "test", train, test), ("test", "train", test, train)):
        extra = sorted(set(one) - set(other))
        if extra:
            shown = ", ".join(extra[:5]) + (" …" if len(extra) > 5 else "")
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


def image_folder(path: Path | ClassFolders, masks: Path | None = None) -> Dataset:
    """A data set of the user's own; images without any colour are read as one channel.

    `masks` is a folder of masks that lie as the images do. Raises UsageError for another layout, classes that differ
    between train and test, an empty class, a missing mask, and images of several sizes or large ones; ImageError for a
    damaged image or mask.
    """
    folders = class_folders(path)
    train, test = (_tensors(folders.files(split)) for split in SPLITS)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise UsageError(f"training and test images of {folders.root} differ in size", "resize them all to one size")
    grey = all(_is_grey(x_NCHW) for x_NCHW, _ in (train, test))
    if grey:
        train, test = ((x_NCHW[:, :1].contiguous(), y_N) for x_NCHW, y_N in (train, test))
    defaults = _GREY_DEFAULTS if grey else _COLOUR_DEFAULTS
    dataset = make_dataset(folders.name, train, test, folders.class_names, defaults)
    return dataset if masks is None else _with_masks(dataset, folders, masks)


def _with_masks(dataset: Dataset, folders: ClassFolders, masks: Path) -> Dataset:
    _, H, W = dataset.image_shape
    digest = hashlib.sha256()
    found: list[torch.Tensor] = []
    notes: list[str] = []
    for files in mask_files(folders, masks):
        read = [read_mask(file, (H, W)) for file in files]
        mask_N1HW = torch.stack([mask_1HW >= 0.5 for mask_1HW, _ in read])
        notes += [note for _, of_one in read for note in of_one]
        digest.update(mask_N1HW.numpy().data)
        found.append(mask_N1HW)
    return replace(
        dataset,
        mask_train=found[0],
        mask_test=found[1],
        mask_fingerprint=digest.hexdigest(),
        notes=(*dataset.notes, *mask_notes(notes, sum(map(len, found)))),
    )


def _tensors(files: Sequence[LabelledFile]) -> tuple[torch.Tensor, torch.Tensor]:
    images = [(read_photo(file.path).levels_HWC, file.path) for file in files]
    sizes = Counter(image.shape for image, _ in images)
    (usual, _), *others = sizes.most_common()
    if others:
        odd = next((file, image.shape) for image, file in images if image.shape != usual)
        raise UsageError(
            f"{odd[0]} has {odd[1][1]}x{odd[1][0]} pixels, others have {usual[1]}x{usual[0]}",
            "resize all images to one size, or fine-tune a classifier on them: --architecture efficientnet_lite0",
        )
    if max(usual[:2]) > LARGEST_SIDE:
        raise UsageError(
            f"images of {usual[1]}x{usual[0]} pixels are too large for a small network",
            f"resize them to at most {LARGEST_SIDE} pixels a side, or fine-tune a classifier on them: "
            "--architecture efficientnet_lite0",
        )
    if min(usual[:2]) < 8:
        raise LatcliError(
            f"images of {usual[1]}x{usual[0]} pixels are too small", "at least 8 pixels a side are needed"
        )
    x_NHWC = torch.from_numpy(np.stack([image for image, _ in images]))
    return x_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor([file.label for file in files])


def _is_grey(x_NCHW: torch.Tensor) -> bool:
    return bool((x_NCHW[:, 0] == x_NCHW[:, 1]).all() and (x_NCHW[:, 0] == x_NCHW[:, 2]).all())
