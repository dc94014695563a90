"""Images in class folders; photos of any size among them and their masks, read by further processes while one computes.

Squares are uint8, and so is mask_HW: 1 on the object.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from latcli.engine.datasets.base import Augmentation, Defaults, FindObjects, Images, Request, SplitName, TrainingData
from latcli.engine.detectors.base import Target
from latcli.engine.images import photo_size, read_photo, sha256_of
from latcli.engine.labels import known_class
from latcli.engine.localize import center_mask
from latcli.engine.models.classifier import Classifier, class_rows, predict
from latcli.engine.models.preprocessing import FILTERS, Preprocessing
from latcli.engine.noise import uniform_noise
from latcli.engine.objects import MISS_CENTER, ObjectFinder
from latcli.engine.photo_files import MaskFolder, as_given, composed, is_folder, listed, photos_below, read_mask
from latcli.errors import ImageError, LatcliError, NoObjectError, UsageError

#: Sets of larger images would not fit into memory as a whole.
LARGEST_SIDE = 96

_LAYOUT = "a folder data set has train/CLASS/*.png and test/CLASS/*.png, with the same classes in both"


#: Where the object of a photo is: a mask file, or a mask in memory, eight pixels a byte and compressed.
ObjectMask = Path | bytes


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An image file, the number of the class whose folder it lies in, and its object, where that is known."""

    path: Path
    label: int
    mask: ObjectMask | None = None


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

    @property
    def files(self) -> tuple[LabelledFile, ...]:
        """The files of both splits."""
        return self.train + self.test

    def with_masks(self, masks: Sequence[ObjectMask]) -> ClassFolders:
        """The same files with these masks, which are in the order of `files`."""
        files = tuple(replace(file, mask=mask) for file, mask in zip(self.files, masks, strict=True))
        return replace(self, train=files[: len(self.train)], test=files[len(self.train) :])

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


def mask_files(folders: ClassFolders, masks: Path) -> list[Path]:
    """The mask of each image: of train/CLASS/NAME.jpg it is MASKS/train/CLASS/NAME.png.

    Raises UsageError where one is missing or two images share one, naming the images.
    """
    folder = MaskFolder(masks)
    photos = [folders.relative(file) for file in folders.files]
    folder.refuse_shared(photos)
    return [folder.mask_of(photo) for photo in photos]


def mask_notes(notes: Iterable[str], of: int) -> tuple[str, ...]:
    """Notes on how single masks were read, each once, with how many of the masks that were looked at it is about."""
    return tuple(f"of {count} of {of} masks: {note}" for note, count in Counter(notes).items())


#: What training takes on photos. Epsilon is what `latcli attack` takes; the middle stands in where no object is known.
_DEFAULTS = Defaults(
    epsilon=8 / 255, center=0.5, architecture="efficientnet_lite0", augment="crop-flip", mask_from="detector"
)
#: More processes than this only wait for each other's disk.
_MOST_WORKERS = 8
#: Masks in files that are read when they are opened; the others are read with their photos.
_LOOKED_AT = 20

#: Share of the photo's area that a random crop keeps at least, and how far its sides may differ (Szegedy et al.,
#: CVPR'15, who keep 0.08: too little for the object and its background to both be there).
_LEAST_AREA = 0.35
_MOST_RATIO = 4 / 3

#: Tensors by name, or what is wrong with a file.
_Batch = dict[str, torch.Tensor] | ImageError
#: A photo's number in its split, and the seed of its augmentation, None for none.
_Wanted = tuple[int, int | None]


# masks


def read_object(mask: ObjectMask, size: tuple[int, int]) -> np.ndarray:
    """mask_HW for a photo of that size; grey is cut at one half.

    Raises ImageError for a file that is damaged or of another size.
    """
    if isinstance(mask, Path):
        return (read_mask(mask, size)[0][0].numpy() >= 0.5).astype(np.uint8)
    H, W = size
    return np.unpackbits(np.frombuffer(zlib.decompress(mask), dtype=np.uint8), count=H * W).reshape(H, W)


def detected_masks(
    folders: ClassFolders, finder: ObjectFinder, classifier: Classifier, tick: Callable[[], None]
) -> tuple[list[ObjectMask], tuple[str, ...]]:
    """The masks of all photos, and notes for a reader of results; `tick` is called after each photo.

    Where the detector misses, the middle is the object.

    What is looked for is what shows the photo's class, or else the classifier's top guess. Raises ImageError for a
    photo that cannot be read, UsageError where the detector cannot work on this classifier.
    """
    missed = 0
    masks: list[ObjectMask] = []
    for file in folders.files:
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
        # Cut at one half, a box takes some hundred bytes of a photo of any size.
        masks.append(zlib.compress(np.packbits(mask_1HW[0].numpy() >= 0.5).tobytes(), 1))
        tick()
    note = (
        f"{finder.settings.detector} found no object in {missed} of {len(masks)} photos, "
        f"where the middle {MISS_CENTER:g} of the sides stands for it"
    )
    return masks, (note,) if missed else ()


def read_masks(folders: ClassFolders, masks: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The masks of all photos as files that lie as the photos do, and notes on how some of them are read.

    Raises UsageError where one is missing or belongs to two photos, ImageError where one that is looked at is no mask.
    """
    files = mask_files(folders, masks)
    looked_at = files[:: max(1, len(files) // _LOOKED_AT)]
    return files, mask_notes([note for file in looked_at for note in read_mask(file)[1]], len(looked_at))


# photos


@dataclass(frozen=True, kw_only=True)
class PhotoFolder(TrainingData):
    """Two splits of photos, handed out at a classifier's input size: the TrainingData that reads files as it goes.

    `workers` processes read ahead; what they read does not depend on how many they are. 0 reads in this one.
    """

    folders: ClassFolders
    preprocessing: Preprocessing
    workers: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, h, w."""
        return 3, *self.preprocessing.size

    def to(self, device: torch.device) -> PhotoFolder:
        """The same photos, to be handed out on `device`."""
        return replace(self, device=device)

    def with_masks(self, masks: Sequence[ObjectMask], notes: tuple[str, ...] = ()) -> PhotoFolder:
        """The same photos with these masks, training photos' first. Raises ImageError where a mask cannot be read."""
        digest = hashlib.sha256()
        for mask in masks:
            known = sha256_of(mask) if isinstance(mask, Path) else hashlib.sha256(zlib.decompress(mask)).hexdigest()
            digest.update(f"{known}\n".encode())
        folders = self.folders.with_masks(masks)
        return replace(self, folders=folders, mask_fingerprint=digest.hexdigest(), notes=(*self.notes, *notes))

    def with_classes_of(self, classifier: Classifier) -> PhotoFolder:
        """The same photos with the classifier's classes. Raises UsageError where a folder is none of them."""
        rows = class_rows(classifier, self.class_names, self.name)
        train, test = (
            tuple(replace(file, label=rows[file.label]) for file in files)
            for files in (self.folders.train, self.folders.test)
        )
        folders = replace(self.folders, class_names=classifier.class_names, train=train, test=test)
        return replace(self, class_names=classifier.class_names, folders=folders)

    def _files(self, split: SplitName) -> tuple[LabelledFile, ...]:
        return self.folders.train if split == "train" else self.folders.test

    def _count(self, split: SplitName) -> int:
        return len(self._files(split))

    def _parted(self, rest_N: torch.Tensor, held_N: torch.Tensor) -> PhotoFolder:
        train, test = (tuple(self.folders.train[n] for n in chosen_N.tolist()) for chosen_N in (rest_N, held_N))
        return replace(self, folders=replace(self.folders, train=train, test=test))

    def _read(
        self, split: SplitName, requests: Iterable[Request], augment: Augmentation, find: FindObjects | None
    ) -> Iterator[Images]:
        """Read ahead; for crop-flip a random part of each photo, mirrored every other time, else as `preprocessing`."""
        wanted: Iterator[list[_Wanted]] = (
            [
                (sample, seed if augment == "crop-flip" else None)
                for sample, seed in zip(one.samples_B.tolist(), one.seeds_B.tolist(), strict=True)
            ]
            for one in requests
        )
        for batch in _batches(_Photos(self._files(split), self.preprocessing), wanted, self.workers):
            if isinstance(batch, ImageError):
                raise batch
            on_device = {name: tensor.to(self.device) for name, tensor in batch.items()}
            x_BChw = on_device["levels_BhwC"].permute(0, 3, 1, 2).contiguous().float().div_(255.0)
            mask_Bhw = on_device.get("mask_Bhw")
            mask_B1hw = None if mask_Bhw is None else mask_Bhw[:, None].float()
            yield Images(x_BChw, on_device["label_B"], on_device["sample_B"], mask_B1hw)


def photo_folder(folders: ClassFolders, preprocessing: Preprocessing) -> PhotoFolder:
    """The folder's photos, none of them decoded yet, without masks, on the CPU.

    Half of the cores that this process may use read ahead: the network needs the others. Raises ImageError for a file
    that cannot be read.
    """
    digest = hashlib.sha256()
    for file in folders.files:
        digest.update(f"{folders.relative(file)}\n{sha256_of(file.path)}\n".encode("utf-8", "surrogateescape"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return PhotoFolder(
        name=folders.name,
        class_names=folders.class_names,
        defaults=_DEFAULTS,
        fingerprint=digest.hexdigest(),
        folders=folders,
        preprocessing=preprocessing,
        workers=max(1, min(_MOST_WORKERS, cores // 2)),
    )


def holds_photos(folders: ClassFolders) -> bool:
    """Whether a folder's images are too large, or too different in size, to be trained on as one small set.

    Raises ImageError for a file that is no image.
    """
    sizes = (photo_size(file.path) for file in folders.files)
    first = next(sizes)
    return max(first) > LARGEST_SIDE or any(size != first for size in sizes)


# what a process that reads does to one photo


#: A part of a photo, left, top, right, bottom in pixels, and whether it is mirrored.
Crop = tuple[tuple[float, float, float, float], bool]


def random_crop(size: tuple[int, int], seed: int) -> Crop:
    """A crop of a photo of `size` (H, W) that depends on the seed alone."""
    H, W = size
    area, ratio, across, down, mirror = uniform_noise(torch.tensor([seed]), (1, 1, 5)).flatten().tolist()
    area = H * W * (_LEAST_AREA + (1.0 - _LEAST_AREA) * area)
    stretch = math.exp((2.0 * ratio - 1.0) * math.log(_MOST_RATIO) / 2.0)
    height, width = min(H, math.sqrt(area) / stretch), min(W, math.sqrt(area) * stretch)
    left, top = (W - width) * across, (H - height) * down
    return (left, top, left + width, top + height), mirror < 0.5


def _square(image: Image.Image, preprocessing: Preprocessing, crop: Crop | None) -> np.ndarray:
    """The crop at the network's size, or without one what the classifier's own preprocessing gives. ImageError."""
    if crop is None:
        return np.array(preprocessing.prepare(image))
    (height, width), (box, mirrored) = preprocessing.size, crop
    square = image.resize((width, height), FILTERS[preprocessing.interpolation], box=box)
    return np.array(square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else square)


@dataclass(frozen=True)
class _Photos:
    """One split as a torch data set."""

    files: tuple[LabelledFile, ...]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, wanted: _Wanted) -> dict[str, Any] | ImageError:
        """A photo's levels, mask, label and number, by the names that they have in a batch.

        Or what is wrong with a file: an error that is raised in a worker loses its hint on the way.
        """
        sample, seed = wanted
        file = self.files[sample]
        try:
            photo = read_photo(file.path)
            crop = None if seed is None else random_crop(photo.size, seed)
            levels_hwC = _square(photo.image, self.preprocessing, crop)
            square = {"levels_BhwC": levels_hwC, "label_B": file.label, "sample_B": sample}
            if file.mask is not None:
                # By the photo's own geometry. A pixel is the object's where the object covers at least half of what
                # it is made of (bilinear, antialiased).
                mask = Image.fromarray(read_object(file.mask, photo.size) * np.uint8(255))
                square_hw = _square(mask, replace(self.preprocessing, interpolation="bilinear"), crop)
                square["mask_Bhw"] = (square_hw >= 128).astype(np.uint8)
        except LatcliError as error:
            named = error.message if str(file.path) in error.message else f"{file.path}: {error.message}"
            return ImageError(named, error.hint)
        return square


def _collate(squares: list[Any]) -> _Batch:
    fault = next((square for square in squares if isinstance(square, ImageError)), None)
    return fault or torch.utils.data.default_collate(squares)


def _batches(photos: _Photos, wanted: Iterator[list[_Wanted]], workers: int) -> Iterator[_Batch]:
    """What the loader's processes read, in the order in which it was asked for; their death is one clear error."""
    loader: Any = torch.utils.data.DataLoader(
        photos,  # type: ignore[arg-type]
        batch_sampler=wanted,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_the_parent,
        # Not pinned: levels are small, and a pinning thread would disturb the recording of a CUDA graph.
        generator=torch.Generator(),  # so that torch's own is not drawn from
    )
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not before:  # torch's would raise in the midst of anything
        signal.signal(signal.SIGCHLD, before)
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise LatcliError(
                "a process that reads photos has died",
                "usually memory ran out, or it was killed; --resume continues from the last checkpoint",
            ) from error
        if batch is None:
            return
        yield batch


def _leave_signals_to_the_parent(_worker: int) -> None:
    # Ctrl-C reaches every process of a terminal. The parent lays its work down whole, and for that it needs this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's handler, which fork has handed down
