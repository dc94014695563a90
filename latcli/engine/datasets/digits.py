"""MNIST and Fashion-MNIST from the files that torchvision keeps; must not know training.

The files are IDX (big-endian header, then bytes), plain or gzipped, under `FOLDER/MNIST/raw` or
`FOLDER/FashionMNIST/raw`.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latcli.documents import DocumentError, gunzip
from latcli.engine.datasets.base import Dataset, DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.fetching import download, md5_of
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError

#: The paper's section 5: epsilon .3. With a middle of 5 of 28 pixels, a natural model's losses under the background and
#: under the standard attack are to each other as the paper's are.
MNIST_DEFAULTS = Defaults(epsilon=0.3, center=0.18, architecture="paper-cnn")
#: Epsilon .1 is what the literature attacks Fashion-MNIST with: .3 hides a shirt's folds from people too.
FASHION_DEFAULTS = Defaults(epsilon=0.1, center=0.5, architecture="paper-cnn")

DIGIT_NAMES = tuple(str(digit) for digit in range(10))

#: The largest of the files unpacks to 47 MB; one that goes on and on would fill the memory.
_MOST_BYTES = 1 << 28

_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049


def mnist(source: DatasetSource) -> Dataset:
    """The 60,000 + 10,000 handwritten digits (LeCun, Cortes, Burges).

    Raises LatcliError for files that are damaged, or missing and not to be had.
    """
    return _read("mnist", "MNIST", DIGIT_NAMES, MNIST_DEFAULTS, source)


def fashion_mnist(source: DatasetSource) -> Dataset:
    """The 60,000 + 10,000 articles of clothing (Xiao, Rasul, Vollgraf, 2017). Raises LatcliError as `mnist` does."""
    names = tuple(import_torchvision().datasets.FashionMNIST.classes)
    return _read("fashion-mnist", "FashionMNIST", names, FASHION_DEFAULTS, source)


def mnist_files(folder: Path) -> list[Path]:
    """Those of MNIST's files that are under the data folder, damaged or not."""
    found = (_present(folder / "MNIST" / "raw", name) for name, _ in import_torchvision().datasets.MNIST.resources)
    return [path for path in found if path is not None]


def _read(name: str, theirs: str, class_names: tuple[str, ...], defaults: Defaults, source: DatasetSource) -> Dataset:
    torchvision_class = getattr(import_torchvision().datasets, theirs)
    raw = source.folder / theirs / "raw"
    checksums: dict[str, str] = dict(torchvision_class.resources)
    missing = [file for file in checksums if _present(raw, file) is None]
    if missing:
        what = f"{raw / missing[0]} (md5 {checksums[missing[0]]})"
        download(torchvision_class, torchvision_class.mirrors[0] + missing[0], name, what, source)
    splits: list[tuple[torch.Tensor, torch.Tensor]] = []
    notes: list[str] = []
    for split in ("train", "t10k"):
        images, labels = f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"
        x_NHW = _read_idx(_found(raw, images), _IMAGES_MAGIC, checksums[images])
        y_N = _read_idx(_found(raw, labels), _LABELS_MAGIC, checksums[labels])
        splits.append((x_NHW[:, None], y_N.long()))
        notes += _deviations([_found(raw, images), _found(raw, labels)], checksums)
    return make_dataset(name, splits[0], splits[1], class_names, defaults, notes)


def _present(raw: Path, name: str) -> Path | None:
    """The gzipped file, or the one unpacked beside it, whichever is there."""
    return next((path for path in (raw / name, raw / name.removesuffix(".gz")) if path.is_file()), None)


def _found(raw: Path, name: str) -> Path:
    path = _present(raw, name)
    if path is None:
        raise LatcliError(f"{raw / name} is missing after its download", "try again, or put the file there by hand")
    return path


def _read_idx(path: Path, magic: int, md5: str) -> torch.Tensor:
    """The uint8 tensor of an IDX file. Raises LatcliError for one that is damaged, with the checksum of a sound one."""
    published = path.name if path.suffix == ".gz" else f"{path.name}.gz"
    hint = f"get {published} again (md5 {md5}), or remove it to have it downloaded"
    try:
        data = gunzip(path.read_bytes(), _MOST_BYTES) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, DocumentError) as error:
        raise LatcliError(f"{path} is damaged: {error}", hint) from error
    dimensions = magic & 0xFF
    header = 4 + 4 * dimensions
    if len(data) < header or struct.unpack(">I", data[:4])[0] != magic:
        raise LatcliError(f"{path} is no IDX file of {dimensions}-dimensional bytes", hint)
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if math.prod(shape) != len(data) - header:
        raise LatcliError(f"{path} is damaged: {len(data) - header} bytes for a shape of {shape}", hint)
    values: np.ndarray[Any, Any] = np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy()
    return torch.from_numpy(values)


def _deviations(paths: list[Path], checksums: dict[str, str]) -> list[str]:
    """A note on each gzipped file that is sound and yet not the published one; an unpacked one cannot be compared."""
    return [
        f"{path.name} is sound but not the published file (md5 {checksums[path.name]})"
        for path in paths
        if path.suffix == ".gz" and md5_of(path) != checksums[path.name]
    ]
