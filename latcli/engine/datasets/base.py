"""A data set for training and scoring."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch.nn import functional

from latcli.engine.noise import uniform_noise
from latcli.errors import LatcliError, UsageError

Augmentation = Literal["none", "crop-flip"]
SplitName = Literal["train", "test"]
MaskSource = Literal["center", "otsu", "detector", "folder"]

#: Finds the objects in x_BCHW in [0, 1]: mask_B1HW, 1 on the object.
FindObjects = Callable[[torch.Tensor], torch.Tensor]


def named_mask_source(given: Mapping[str, Any]) -> MaskSource | None:
    """Where objects come from by the options that were `given`; a folder or a middle says so itself. None: unsaid."""
    named: MaskSource | None = given.get("mask_from")
    return named or ("folder" if "masks" in given else "center" if "center" in given else None)


@dataclass(frozen=True)
class DatasetSource:
    """Where data sets are looked for, and whether a missing one may be downloaded there.

    `progress` shows a download on stderr.
    """

    folder: Path
    offline: bool = False
    progress: bool = False


@dataclass(frozen=True)
class Defaults:
    """Defaults for training.

    epsilon in [0, 1] image scale; center: side of the protected middle as a share of the image's (the paper's middle
    pixels, calibrated against its figures); mask_from: where the regimes that look at objects take them from.
    """

    epsilon: float
    center: float
    architecture: str
    augment: Augmentation = "none"
    mask_from: MaskSource = "center"


@dataclass(frozen=True)
class Request:
    """Which samples are wanted together: their numbers, and a seed for each one's augmentation; int64, on the CPU."""

    samples_B: torch.Tensor
    seeds_B: torch.Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images in [0, 1], with their numbers in the set, on the device that computes.

    `mask_B1HW` is 1 on the object, where the set knows its objects; None where it does not. `found_B1HW` is what was
    found in the images before they were augmented, and then moved with them; None where nothing was looked for.
    """

    x_BCHW: torch.Tensor
    y_B: torch.Tensor
    samples_B: torch.Tensor
    mask_B1HW: torch.Tensor | None = None
    found_B1HW: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingData(ABC):
    """Two splits of labelled images, of which any can be asked for by number.

    `class_names` are in the order of the labels; `fingerprint` is a sha256 of both splits' contents, `mask_fingerprint`
    of what is known of the objects in them; `notes` are what a reader of results must know.
    """

    name: str
    class_names: tuple[str, ...]
    defaults: Defaults
    fingerprint: str
    mask_fingerprint: str | None = None
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W of each image that is handed out."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same set, handed out on `device`."""

    @abstractmethod
    def _count(self, split: SplitName) -> int:
        """How many images a split has."""

    @abstractmethod
    def _read(
        self, split: SplitName, requests: Iterable[Request], augment: Augmentation, find: FindObjects | None
    ) -> Iterator[Images]:
        """The images of each request in turn; requests may be read ahead."""

    @abstractmethod
    def _parted(self, rest_N: torch.Tensor, held_N: torch.Tensor) -> Self:
        """With these of its training images as training images, and those as test images."""

    @property
    def train_count(self) -> int:
        """How many training images there are."""
        return self._count("train")

    @property
    def test_count(self) -> int:
        """How many test images there are."""
        return self._count("test")

    def training(
        self, requests: Iterable[Request], augment: Augmentation, find: FindObjects | None = None
    ) -> Iterator[Images]:
        """The images of each request in turn, augmented; requests may be read ahead.

        `find` looks for objects before that. A set whose augmentation adds no pixels leaves it to the receiver. Raises
        ImageError for a file that is damaged, LatcliError where a process that reads has died.
        """
        return self._read("train", requests, augment, find)

    def testing(self, requests: Iterable[torch.Tensor]) -> Iterator[Images]:
        """The test images of each list of numbers (int64, on the CPU) in turn, as they are. Raises as `training`."""
        return self._read("test", (Request(samples_B, samples_B) for samples_B in requests), "none", None)

    def split(self, share: float, seed: int) -> Self:
        """The same set with a share of its training images, drawn by the seed, in place of its test images.

        Raises UsageError where either part would be empty.
        """
        count = self.train_count
        held = round(count * share) if math.isfinite(share) else 0
        if not 0 < held < count:
            takes = f"takes {held} of {count} training images" if math.isfinite(share) else "is no share"
            raise UsageError(
                f"a validation share of {share:g} {takes}",
                "give a share at which images are left for both training and validation, such as 0.1",
            )
        order_N = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        parted = self._parted(order_N[held:].sort().values, order_N[:held].sort().values)
        known = f"{self.fingerprint} validation {share!r} {seed}"
        return replace(parted, fingerprint=hashlib.sha256(known.encode()).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Dataset(TrainingData):
    """Small images that lie on the device as a whole.

    x uint8 (N, C, H, W), y int64 (N,) with values below len(class_names), masks bool (N, 1, H, W), on the object.
    """

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    mask_train: torch.Tensor | None = None
    mask_test: torch.Tensor | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        _, C, H, W = self.x_train.shape
        return C, H, W

    def to(self, device: torch.device) -> Dataset:
        """The same set, its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        here: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **here)

    def _count(self, split: SplitName) -> int:
        return len(self.y_train if split == "train" else self.y_test)

    def _read(
        self, split: SplitName, requests: Iterable[Request], augment: Augmentation, find: FindObjects | None
    ) -> Iterator[Images]:
        of_split = (self.x_train, self.y_train, self.mask_train), (self.x_test, self.y_test, self.mask_test)
        x_NCHW, y_N, mask_N1HW = of_split[split == "test"]
        for request in requests:
            samples_B, seeds_B = request.samples_B.to(y_N.device), request.seeds_B.to(y_N.device)
            x_BCHW = x_NCHW[samples_B].float().div_(255.0)
            mask_B1HW = None if mask_N1HW is None else mask_N1HW[samples_B].float()
            found_B1HW = None if find is None else find(x_BCHW)
            if augment == "crop-flip":
                x_BCHW = crop_and_flip(x_BCHW, seeds_B)
                mask_B1HW, found_B1HW = (
                    None if one is None else crop_and_flip(one, seeds_B) for one in (mask_B1HW, found_B1HW)
                )
            yield Images(x_BCHW, y_N[samples_B], samples_B, mask_B1HW, found_B1HW)

    def _parted(self, rest_N: torch.Tensor, held_N: torch.Tensor) -> Dataset:
        rest_N, held_N, masks = rest_N.to(self.y_train.device), held_N.to(self.y_train.device), self.mask_train
        return replace(
            self,
            x_train=self.x_train[rest_N],
            y_train=self.y_train[rest_N],
            x_test=self.x_train[held_N],
            y_test=self.y_train[held_N],
            mask_train=None if masks is None else masks[rest_N],
            mask_test=None if masks is None else masks[held_N],
        )


def make_dataset(
    name: str,
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    class_names: Sequence[str],
    defaults: Defaults,
) -> Dataset:
    """A Dataset of its splits, each as (x_NCHW uint8, y_N int64), with its fingerprint.

    Raises LatcliError where a split is empty, its labels do not belong to the classes, or the splits' images differ in
    shape.
    """
    hint = "check the files that it was read from"
    for split, (x_NCHW, y_N) in {"training": train, "test": test}.items():
        if len(x_NCHW) == 0 or len(x_NCHW) != len(y_N):
            raise LatcliError(f"the {split} part of {name} has {len(x_NCHW)} images and {len(y_N)} labels", hint)
        if int(y_N.min()) < 0 or int(y_N.max()) >= len(class_names):
            raise LatcliError(f"the {split} part of {name} has labels that are not 0 to {len(class_names) - 1}", hint)
    if train[0].shape[1:] != test[0].shape[1:]:
        sizes = " and ".join("x".join(map(str, x.shape[1:])) for x, _ in (train, test))
        raise LatcliError(f"training and test images of {name} differ in shape: {sizes}", hint)
    digest = hashlib.sha256("\n".join(class_names).encode("utf-8", "backslashreplace"))
    for tensor in (*train, *test):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return Dataset(
        name=name,
        class_names=tuple(class_names),
        defaults=defaults,
        fingerprint=digest.hexdigest(),
        x_train=train[0],
        y_train=train[1],
        x_test=test[0],
        y_test=test[1],
    )


_PADDING = 4


def crop_and_flip(x_BCHW: torch.Tensor, seeds_B: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to 4 pixels either way (black comes in) and mirrored every other time.

    `seeds_B` int64, one an image. This is what CIFAR-10 is usually trained with.
    """
    _, _, H, W = x_BCHW.shape
    device = x_BCHW.device
    drawn_B3 = uniform_noise(seeds_B, (1, 1, 3))[:, 0, 0]
    offset_B2 = (drawn_B3[:, :2] * (2 * _PADDING + 1)).long()
    rows_BH = offset_B2[:, :1] + torch.arange(H, device=device)
    columns_BW = torch.arange(W, device=device).expand(len(x_BCHW), W)
    columns_BW = torch.where(drawn_B3[:, 2:] < 0.5, columns_BW, W - 1 - columns_BW) + offset_B2[:, 1:]
    padded_BCHW = functional.pad(x_BCHW, (_PADDING,) * 4)
    images_B11 = torch.arange(len(x_BCHW), device=device)[:, None, None]
    # Advanced indexing puts the three indexed axes first: (B, H, W, C).
    return padded_BCHW[images_B11, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2).contiguous()
