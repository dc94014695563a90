"""Small images in class folders: `PATH/train/CLASS/*`, `PATH/test/CLASS/*`; must not know training.

Legend: C channels, H, W pixels.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from latcli.engine.datasets.base import Dataset, Defaults, make_dataset
from latcli.engine.images import read_photo
from latcli.errors import LatcliError, UsageError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
#: Sets of larger images would not fit into memory as a whole.
_LARGEST_SIDE = 96
_LAYOUT = "a folder data set has train/CLASS/*.png and test/CLASS/*.png, with the same classes in both"

_GREY_DEFAULTS = Defaults(epsilon=0.3, center=0.25, architecture="paper-cnn")
_COLOUR_DEFAULTS = Defaults(epsilon=8 / 255, center=0.75, architecture="resnet18", augment="crop-flip")


def image_folder(path: Path) -> Dataset:
    """A data set of the user's own; images without any colour are read as one channel.

    Raises UsageError for another layout, classes that differ between train and test, an empty class, and images of
    several sizes or large ones; ImageError for a damaged image.
    """
    files = {split: _files(path / split) for split in ("train", "test")}
    _check_same_classes(path, files["train"], files["test"])
    names = sorted(files["train"])
    train, test = (_tensors(files[split], names) for split in ("train", "test"))
    x_sizes = {tuple(x.shape[1:]) for x, _ in (train, test)}
    if len(x_sizes) > 1:
        raise UsageError(f"training and test images of {path} differ in size", "resize them all to one size")
    grey = all(_is_grey(x_NCHW) for x_NCHW, _ in (train, test))
    if grey:
        train, test = ((x_NCHW[:, :1].contiguous(), y_N) for x_NCHW, y_N in (train, test))
    return make_dataset(f"folder:{path}", train, test, names, _GREY_DEFAULTS if grey else _COLOUR_DEFAULTS)


def _files(split: Path) -> dict[str, list[Path]]:
    try:
        folders = sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        files = {
            folder.name: sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
            for folder in folders
        }
    except OSError as error:
        raise UsageError(f"cannot read the folder {split}: {error.strerror or error}", _LAYOUT) from error
    for name, found in files.items():
        if not found:
            raise UsageError(f"the class '{name}' in {split} has no image", "remove its folder, or put images there")
    if len(files) < 2:
        raise UsageError(f"{split} has {len(files)} class folders; at least two are needed", _LAYOUT)
    return files


def _check_same_classes(path: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> None:
    for here, there, one, other in (("train", "test", train, test), ("test", "train", test, train)):
        extra = sorted(set(one) - set(other))
        if extra:
            shown = ", ".join(extra[:5]) + (" …" if len(extra) > 5 else "")
            raise UsageError(f"classes of {path / here} that are missing in {path / there}: {shown}", _LAYOUT)


def _tensors(files: dict[str, list[Path]], names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    images = [(read_photo(file).levels_HWC, label, file) for label, name in enumerate(names) for file in files[name]]
    sizes = Counter(image.shape for image, _, _ in images)
    (usual, _), *others = sizes.most_common()
    if others:
        odd = next((file, image.shape) for image, _, file in images if image.shape != usual)
        raise UsageError(
            f"{odd[0]} has {odd[1][1]}x{odd[1][0]} pixels, others have {usual[1]}x{usual[0]}",
            "resize all images to one size",
        )
    if max(usual[:2]) > _LARGEST_SIDE:
        raise UsageError(
            f"images of {usual[1]}x{usual[0]} pixels are too large to be trained on as a whole set",
            f"resize them to at most {_LARGEST_SIDE} pixels a side",
        )
    if min(usual[:2]) < 8:
        raise LatcliError(
            f"images of {usual[1]}x{usual[0]} pixels are too small", "at least 8 pixels a side are needed"
        )
    x_NHWC = torch.from_numpy(np.stack([image for image, _, _ in images]))
    return x_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label, _ in images])


def _is_grey(x_NCHW: torch.Tensor) -> bool:
    return bool((x_NCHW[:, 0] == x_NCHW[:, 1]).all() and (x_NCHW[:, 0] == x_NCHW[:, 2]).all())
