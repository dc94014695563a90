"""Masks of a folder's photos, found by a detector or read from files.

Legend: H, W a photo's own size. mask_HW is uint8, 1 on the object.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from latcli.engine.datasets.folders import SPLITS, ClassFolders, SplitName, mask_files, mask_notes
from latcli.engine.detectors.base import Target
from latcli.engine.images import read_photo, sha256_of
from latcli.engine.labels import known_class
from latcli.engine.localize import center_mask
from latcli.engine.masks import read_mask
from latcli.engine.models.classifier import Classifier, predict
from latcli.engine.objects import MISS_CENTER, ObjectFinder
from latcli.errors import NoObjectError

#: Masks in files that are read when they are opened; the others are read with their photos.
_LOOKED_AT = 20


@dataclass(frozen=True)
class PackedMask:
    """A mask in memory, eight pixels a byte and compressed: a box takes some hundred bytes of a photo of any size."""

    size: tuple[int, int]
    packed: bytes

    @classmethod
    def of(cls, mask_1HW: torch.Tensor) -> Self:
        """The mask, cut at one half."""
        bits_HW = mask_1HW[0].numpy() >= 0.5
        H, W = bits_HW.shape
        return cls((H, W), zlib.compress(np.packbits(bits_HW).tobytes(), 1))

    @property
    def digest(self) -> str:
        """Of the size and the pixels."""
        return hashlib.sha256(f"{self.size}".encode() + zlib.decompress(self.packed)).hexdigest()

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """mask_HW; `size` is the one that it was found on."""
        H, W = self.size
        bits = np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8)
        return np.unpackbits(bits, count=H * W).reshape(H, W)


@dataclass(frozen=True)
class MaskFile:
    """A mask file, read with its photo; grey is cut at one half."""

    path: Path

    @property
    def digest(self) -> str:
        """Of the file."""
        return sha256_of(self.path)

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """mask_HW. Raises ImageError for a file that is damaged or of another size."""
        return (read_mask(self.path, size)[0][0].numpy() >= 0.5).astype(np.uint8)


#: Where the object of one photo is.
PhotoMask = PackedMask | MaskFile


@dataclass(frozen=True)
class PhotoMasks:
    """A mask for each photo of both splits, in their order, and what a reader of results must know of them."""

    train: tuple[PhotoMask, ...]
    test: tuple[PhotoMask, ...]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """A sha256 of all of them. Raises ImageError where a file cannot be read."""
        digests = "\n".join(mask.digest for mask in (*self.train, *self.test))
        return hashlib.sha256(digests.encode()).hexdigest()


def detected_masks(
    folders: ClassFolders, finder: ObjectFinder, classifier: Classifier, tick: Callable[[], None]
) -> PhotoMasks:
    """The masks of all photos; `tick` is called after each. Where the detector misses, the middle is the object.

    What is looked for is what shows the photo's class, or else the classifier's top guess. Raises ImageError for a
    photo that cannot be read, UsageError where the detector cannot work on this classifier.
    """
    missed = 0
    masks: dict[SplitName, list[PhotoMask]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for file in folders.files(split):
            photo = read_photo(file.path)
            label = known_class(folders.class_names[file.label], classifier)
            if label is None:
                x_1Chw = classifier.preprocessing.read(photo.image)[None].to(classifier.device)
                guess = predict(classifier, x_1Chw, [None])[0]
                target = Target(guess.index, guess.prediction)
            else:
                target = Target(label.index, label.name)
            try:
                mask_1HW = finder.find(photo, target).mask_1HW
            except NoObjectError:
                missed += 1
                mask_1HW = center_mask(photo.size, MISS_CENTER)
            masks[split].append(PackedMask.of(mask_1HW))
            tick()
    note = (
        f"{finder.settings.detector} found no object in {missed} of {len(folders.train) + len(folders.test)} photos, "
        f"where the middle {MISS_CENTER:g} of the sides stands for it"
    )
    return PhotoMasks(tuple(masks["train"]), tuple(masks["test"]), (note,) if missed else ())


def read_masks(folders: ClassFolders, masks: Path) -> PhotoMasks:
    """The masks of all photos as files that lie as the photos do; some are looked at for notes on how they are read.

    Raises UsageError where one is missing or belongs to two photos, ImageError where one that is looked at is no mask.
    """
    train, test = mask_files(folders, masks)
    files = [*train, *test]
    looked_at = files[:: max(1, len(files) // _LOOKED_AT)]
    notes = mask_notes([note for file in looked_at for note in read_mask(file)[1]], len(looked_at))
    return PhotoMasks(tuple(map(MaskFile, train)), tuple(map(MaskFile, test)), notes)
