"""CIFAR-10 from the files that torchvision keeps, under `FOLDER/cifar-10-batches-py`; must not know training."""

from __future__ import annotations

from typing import Any

import torch

from latcli.engine.datasets.base import Dataset, DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.fetching import download, md5_of
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError

#: The literature's 8/255; the paper's figures point to a middle of about three quarters of the side.
CIFAR_DEFAULTS = Defaults(epsilon=8 / 255, center=0.75, architecture="resnet18", augment="crop-flip")


def cifar10(source: DatasetSource) -> Dataset:
    """The 50,000 + 10,000 colour images (Krizhevsky, 2009).

    Its files are pickles, which can run code: one whose checksum is not the published one is never opened. Raises
    LatcliError for files that are damaged, or missing and not to be had.
    """
    theirs = import_torchvision().datasets.CIFAR10
    folder = source.folder / theirs.base_folder
    checksums = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
    missing = [file for file in checksums if not (folder / file).is_file()]
    if missing:
        download(theirs, theirs.url, "cifar10", f"{folder / missing[0]} (md5 {checksums[missing[0]]})", source)
    for file, md5 in checksums.items():
        if md5_of(folder / file) != md5:
            raise LatcliError(
                f"{folder / file} is damaged: its md5 is not {md5}",
                f"get {theirs.filename} again (md5 {theirs.tgz_md5}) and unpack it in {source.folder}",
            )
    train, test = (theirs(str(source.folder), train=part) for part in (True, False))
    return make_dataset("cifar10", _tensors(train), _tensors(test), train.classes, CIFAR_DEFAULTS)


def _tensors(split: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x_NHWC = torch.from_numpy(split.data)
    return x_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets)
