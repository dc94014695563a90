"""Data sets in a user's folder, `PATH/train/CLASS/*` and `PATH/test/CLASS/*`: their files, and small images read whole.

Legend: N images of a split, C channels, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from latcli.engine.datasets.base import Dataset, make_dataset
from latcli.engine.datasets.published import CIFAR_DEFAULTS, MNIST_DEFAULTS
from latcli.engine.images import read_photo
from latcli.engine.masks import MaskFolder, read_mask
from latcli.engine.photo_files import as_given, composed, is_folder, listed, photos_below
from latcli.errors import UsageError

#: Sets of larger images would not fit into memory as a whole.
LARGEST_SIDE = 96

_LAYOUT = "a folder data set has train/CLASS/*.png and test/CLASS/*.png, with the same classes in both"


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
    train, test = _files(root / "train"), _files(root / "test")
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
        files.setdefault(composed(folder.name), []).extend(photos_below(Path(folder.path)))
    for name, photos in files.items():
        if not photos:
            raise UsageError(f"the class '{name}' in {split} has no image", "remove its folder, or put images there")
    if len(files) < 2:
        raise UsageError(f"{split} has {len(files)} class folders; at least two are needed", _LAYOUT)
    return files


def mask_files(folders: ClassFolders, masks: Path) -> tuple[list[Path], list[Path]]:
    """The mask of each image of both splits: of train/CLASS/NAME.jpg it is MASKS/train/CLASS/NAME.png.

    Raises UsageError where one is missing or two images share one, naming the images.
    """
    folder = MaskFolder(masks)
    train, test = ([folders.relative(file) for file in files] for files in (folders.train, folders.test))
    folder.refuse_shared([*train, *test])
    return [folder.mask_of(photo) for photo in train], [folder.mask_of(photo) for photo in test]


def mask_notes(notes: Iterable[str], of: int) -> tuple[str, ...]:
    """Notes on how single masks were read, each once, with how many of the masks that were looked at it is about."""
    return tuple(f"of {count} of {of} masks: {note}" for note, count in Counter(notes).items())


# small images


def image_folder(folders: ClassFolders, masks: Path | None = None) -> Dataset:
    """A data set of small images, read whole; images without any colour are read as one channel.

    `masks` is a folder of masks that lie as the images do. Raises UsageError for a missing mask, and for images of
    several sizes or large ones; ImageError for a damaged image or mask.
    """
    x_NCHW = _images([*folders.train, *folders.test])
    y_N = torch.tensor([file.label for file in (*folders.train, *folders.test)])
    defaults = CIFAR_DEFAULTS
    if torch.equal(x_NCHW, x_NCHW[:, :1].expand_as(x_NCHW)):
        x_NCHW, defaults = x_NCHW[:, :1].contiguous(), MNIST_DEFAULTS
    n = len(folders.train)
    train, test = (x_NCHW[:n], y_N[:n]), (x_NCHW[n:], y_N[n:])
    dataset = make_dataset(folders.name, train, test, folders.class_names, defaults)
    if masks is None:
        return dataset
    train_files, test_files = mask_files(folders, masks)
    H, W = x_NCHW.shape[2:]
    read = [read_mask(file, (H, W)) for file in (*train_files, *test_files)]
    mask_N1HW = torch.stack([mask_1HW >= 0.5 for mask_1HW, _ in read])
    return replace(
        dataset,
        mask_train=mask_N1HW[:n],
        mask_test=mask_N1HW[n:],
        mask_fingerprint=hashlib.sha256(mask_N1HW.numpy().tobytes()).hexdigest(),
        notes=(*dataset.notes, *mask_notes([note for _, notes in read for note in notes], len(read))),
    )


def _images(files: Sequence[LabelledFile]) -> torch.Tensor:
    """x_NCHW uint8. Raises UsageError for images of several sizes, and for large or tiny ones."""
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
    return torch.from_numpy(np.stack([image.levels_HWC for image in images])).permute(0, 3, 1, 2).contiguous()
