"""Small images in class folders: `PATH/train/CLASS/*`, `PATH/test/CLASS/*`; must not know training.

Legend: N images of a split, C channels, H, W pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from latcli.engine.datasets.base import Dataset, Defaults, make_dataset
from latcli.engine.datasets.folders import SPLITS, ClassFolders, LabelledFile, class_folders, mask_files
from latcli.engine.images import read_mask, read_photo
from latcli.errors import LatcliError, UsageError

#: Sets of larger images would not fit into memory as a whole.
LARGEST_SIDE = 96

_GREY_DEFAULTS = Defaults(epsilon=0.3, center=0.18, architecture="paper-cnn")
_COLOUR_DEFAULTS = Defaults(epsilon=8 / 255, center=0.75, architecture="resnet18", augment="crop-flip")


def image_folder(path: Path, masks: Path | None = None) -> Dataset:
    """A data set of the user's own; images without any colour are read as one channel.

    `masks` is a folder of masks that lie as the images do. Raises UsageError for another layout, classes that differ
    between train and test, an empty class, a missing mask, and images of several sizes or large ones; ImageError for a
    damaged image or mask.
    """
    folders = class_folders(path)
    train, test = (_tensors(folders.files(split)) for split in SPLITS)
    x_sizes = {tuple(x.shape[1:]) for x, _ in (train, test)}
    if len(x_sizes) > 1:
        raise UsageError(f"training and test images of {path} differ in size", "resize them all to one size")
    grey = all(_is_grey(x_NCHW) for x_NCHW, _ in (train, test))
    if grey:
        train, test = ((x_NCHW[:, :1].contiguous(), y_N) for x_NCHW, y_N in (train, test))
    name, names = f"folder:{path}", folders.class_names
    dataset = make_dataset(name, train, test, names, _GREY_DEFAULTS if grey else _COLOUR_DEFAULTS)
    return dataset if masks is None else _with_masks(dataset, folders, masks)


def _with_masks(dataset: Dataset, folders: ClassFolders, masks: Path) -> Dataset:
    _, H, W = dataset.image_shape
    digest = hashlib.sha256()
    read: list[torch.Tensor] = []
    for split in SPLITS:
        mask_N1HW = torch.stack([read_mask(file, (H, W)) >= 0.5 for file in mask_files(folders, masks, split)])
        digest.update(mask_N1HW.numpy().data)
        read.append(mask_N1HW)
    return replace(dataset, mask_train=read[0], mask_test=read[1], mask_fingerprint=digest.hexdigest())


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
            f"images of {usual[1]}x{usual[0]} pixels are too large to be trained on as a whole set",
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
