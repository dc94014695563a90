"""How much a classifier leans on the background, without any attack: photos on backgrounds of other photos.

Source: the Backgrounds Challenge (Xiao, Engstrom, Ilyas and Madry, "Noise or Signal: The Role of Image Backgrounds in
Object Recognition", ICLR'21), whose section 2 has the variants of ImageNet-9 by the names that the functions have here.
There the labels are nine coarse classes; here they are the ones given, so figures compare with the paper's only on its
own nine. object_HW is bool: True on the object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.photo_folder import PhotoFolder, read_object
from latcli.engine.images import Photo, read_photo
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.noise import derive_seed
from latcli.engine.scoring import judge
from latcli.errors import LatcliError, UsageError
from latcli.results import BackgroundGap, LeftOut, RelianceGroup, RelianceRow, VariantMean

Window = tuple[slice, slice]


def only_fg(levels_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Only-FG: the object on black."""
    return np.where(object_HW[:, :, None], levels_HWC, np.uint8(0))


def only_bg_b(levels_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Only-BG-B: the object's bounding box is black, so that not even its outline is left."""
    filled_HWC = levels_HWC.copy()
    filled_HWC[bounding_box(object_HW)] = 0
    return filled_HWC


def only_bg_t(levels_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """Only-BG-T: the object's bounding box is filled with the background beside it, tiled.

    What is tiled is the largest of the four strips above, below, left and right of the box. Tiling is the paper's way
    and keeps the background's own texture. Inpainting would grow inwards from the box's edge, smear large boxes, and
    carry colours of an object whose mask is a little too small back in. Raises ValueError where the box leaves no strip
    (see `largest_strip`).
    """
    box, strip = bounding_box(object_HW), largest_strip(object_HW)
    if strip is None:
        raise ValueError("the object's box leaves no background to tile")
    around = [(part.start, side - part.stop) for part, side in zip(strip, object_HW.shape, strict=True)]
    filled_HWC = levels_HWC.copy()
    filled_HWC[box] = np.pad(levels_HWC[strip], (*around, (0, 0)), mode="wrap")[box]
    return filled_HWC


def mixed(levels_HWC: np.ndarray, object_HW: np.ndarray, background_HWC: np.ndarray) -> np.ndarray:
    """Mixed: the object on another photo's background (its Only-BG-T), which takes this photo's size."""
    H, W = object_HW.shape
    background = Image.fromarray(background_HWC)
    if background.size != (W, H):
        background = background.resize((W, H), Image.Resampling.BICUBIC)
    return np.where(object_HW[:, :, None], levels_HWC, np.asarray(background))


def bounding_box(object_HW: np.ndarray) -> Window:
    """The rows and columns that hold the whole object. Raises ValueError where there is none."""
    rows, columns = (np.flatnonzero(object_HW.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("the mask holds no object")
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def largest_strip(object_HW: np.ndarray) -> Window | None:
    """The largest rectangle above, below, left or right of the object's box, as long as the photo; None without one."""
    H, W = object_HW.shape
    rows, columns = bounding_box(object_HW)
    sized = [
        (rows.start * W, (slice(0, rows.start), slice(0, W))),
        ((H - rows.stop) * W, (slice(rows.stop, H), slice(0, W))),
        (columns.start * H, (slice(0, H), slice(0, columns.start))),
        ((W - columns.stop) * H, (slice(0, H), slice(columns.stop, W))),
    ]
    area, strip = max(sized, key=lambda one: one[0])
    return strip if area else None


Variant = Literal["original", "only_fg", "only_bg_b", "only_bg_t", "mixed_same", "mixed_rand"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
_MIXED: tuple[Variant, ...] = ("mixed_same", "mixed_rand")


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo, the index of its right class, and object_HW: bool of the photo's size, True on the object."""

    photo: Photo
    label: int
    object_HW: np.ndarray


class FolderPhotos(Sequence[LabelledPhoto]):
    """A folder's test photos with their masks, each read when it is asked for, so that memory stays flat."""

    def __init__(self, data: PhotoFolder) -> None:
        self._files = data.folders.test

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """One photo. Raises ImageError where photo or mask cannot be read."""
        file = self._files[index]
        photo = read_photo(file.path)
        return LabelledPhoto(photo, file.label, read_object(file.mask, photo.size) > 0)


def photos_of(data: TrainingData) -> FolderPhotos:
    """The test photos that backgrounds can be cut from. Raises UsageError for a set without photos or without masks."""
    if not isinstance(data, PhotoFolder):
        raise UsageError(f"--reliance needs photos, and {data.name} has none", "give --dataset folder:PHOTOS")
    if data.mask_fingerprint is None:
        raise UsageError(
            "--reliance needs to know the objects of the photos", "choose --mask-from detector, or give --masks DIR"
        )
    return FolderPhotos(data)


class Survey:
    """Which photos are measured, and who may lend a background: of every photo, read once, only what that needs.

    `usable` are positions in the sequence, `left_out` the photos that tell nothing. A photo that is there twice lends
    once.
    """

    def __init__(self, photos: Sequence[LabelledPhoto], preprocessing: Preprocessing) -> None:
        self.usable: list[int] = []
        self.left_out: list[LeftOut] = []
        #: The photos of each class by their sha256, and where each first stands.
        self._lenders: dict[int, set[str]] = {}
        self._positions: dict[str, int] = {}
        for position in range(len(photos)):
            one = photos[position]
            seen_hw = one.object_HW[preprocessing.visible(one.photo.size)]
            if not seen_hw.any():
                self.left_out.append(LeftOut(one.photo.name, "no object where the classifier looks"))
            elif seen_hw.all() or largest_strip(one.object_HW) is None:
                self.left_out.append(LeftOut(one.photo.name, "no background beside the object's box"))
            else:
                self.usable.append(position)
                self._lenders.setdefault(one.label, set()).add(one.photo.sha256)
                self._positions.setdefault(one.photo.sha256, position)

    def lender(self, variant: Variant, sha256: str, label: int, seed: int) -> int | None:
        """The position of another photo of the class, for mixed_rand of another class, by a hash of seed and photo.

        None where there is none.
        """
        if variant == "mixed_rand":
            others = [other for other in sorted(self._lenders) if other != label]
            if not others:
                return None
            label = others[derive_seed(seed, sha256, "mixed_rand class") % len(others)]
        candidates = sorted(self._lenders.get(label, set()) - {sha256})
        if not candidates:
            return None
        return self._positions[candidates[derive_seed(seed, sha256, variant) % len(candidates)]]


@dataclass(frozen=True)
class Outcome:
    """The classifier's answers to one variant of a photo, as means over the donor seeds.

    right: the label is the top guess (a tie is not); confidence: the label's own softmax value.
    """

    right: float
    confidence: float


@dataclass(frozen=True)
class PhotoReliance:
    """One photo in every variant that it has; `lent_by` names the photos of each background, one a donor seed.

    `background_share`: the share, in [0, 1], of the pixels that reach the classifier which are not the object.
    """

    name: str
    sha256: str
    label: int
    background_share: float
    outcomes: Mapping[Variant, Outcome]
    lent_by: Mapping[Variant, tuple[str, ...]]


def background_reliance(
    model: str,
    classifier: Classifier,
    photos: Sequence[LabelledPhoto],
    seeds: Sequence[int] = (0,),
    groups: int = 4,
    watch: Callable[[PhotoReliance], None] = lambda _: None,
) -> RelianceRow:
    """Accuracy on Original, Only-FG, Only-BG-B, Only-BG-T, Mixed-Same and Mixed-Rand, and the background gap.

    `model` is the classifier's name in the row. `photos` is asked for one photo at a time and each is asked for several
    times, so a sequence that reads its photos when asked keeps memory flat. Every photo gets the backgrounds that each
    of `seeds` chooses; `watch` is shown each photo's result at once. No result depends on the order. The row has all
    photos together, and `groups` groups of equal count (to one photo) by share of background: their edges are the
    shares found, so that each mean rests on as many photos.

    Raises LatcliError where no photo can be measured, or a label is none of the classifier's.
    """
    survey, results = Survey(photos, classifier.preprocessing), []
    for position in survey.usable:
        results.append(measure_photo(classifier, photos, survey, position, seeds))
        watch(results[-1])
    if not results:
        raise LatcliError(
            f"no photo is left to measure, {len(survey.left_out)} were left out",
            "a photo needs an object that the classifier sees, and background beside it",
        )
    ordered = sorted(results, key=lambda one: (one.background_share, one.sha256))
    count = min(groups, len(ordered))
    edges = [len(ordered) * index // count for index in range(count + 1)]
    by_share = tuple(summarize(ordered[start:stop]) for start, stop in pairwise(edges))
    without_same = sum("mixed_same" not in one.outcomes for one in results)
    return RelianceRow(model, len(seeds), summarize(ordered), by_share, without_same, tuple(survey.left_out))


def measure_photo(
    classifier: Classifier, photos: Sequence[LabelledPhoto], survey: Survey, position: int, seeds: Sequence[int]
) -> PhotoReliance:
    """One photo in all the variants that it has, the mixed ones once for each seed.

    Seeds choose backgrounds and no photos. So a photo stays one sample, whatever the number of seeds, and the standard
    error of the gap is that of the photos.
    """
    one = photos[position]
    levels_HWC, object_HW, sha256 = one.photo.levels_HWC, one.object_HW, one.photo.sha256
    pictures: list[tuple[Variant, np.ndarray]] = [
        ("original", levels_HWC),
        ("only_fg", only_fg(levels_HWC, object_HW)),
        ("only_bg_b", only_bg_b(levels_HWC, object_HW)),
        ("only_bg_t", only_bg_t(levels_HWC, object_HW)),
    ]
    lent_by: dict[Variant, tuple[str, ...]] = {}
    for variant in _MIXED:
        for seed in seeds:
            position_of_lender = survey.lender(variant, sha256, one.label, seed)
            if position_of_lender is not None:
                lender = photos[position_of_lender]
                background_HWC = only_bg_t(lender.photo.levels_HWC, lender.object_HW)
                pictures.append((variant, mixed(levels_HWC, object_HW, background_HWC)))
                lent_by[variant] = (*lent_by.get(variant, ()), lender.photo.name)
    share = float(1.0 - object_HW[classifier.preprocessing.visible(one.photo.size)].mean())
    x_BChw = torch.stack([classifier.preprocessing.read(Image.fromarray(picture_HWC)) for _, picture_HWC in pictures])
    label_B = torch.full((len(pictures),), one.label)
    judged = judge(classifier, x_BChw.to(classifier.device), label_B, classifier.name)
    scored: dict[Variant, list[tuple[bool, float]]] = {}
    confidence_B = judged.loss_B.neg().exp()
    for (variant, _), right, confidence in zip(pictures, judged.right_B.tolist(), confidence_B.tolist(), strict=True):
        scored.setdefault(variant, []).append((right, confidence))
    outcomes = {variant: Outcome(*map(fmean, zip(*found, strict=True))) for variant, found in scored.items()}
    return PhotoReliance(one.photo.name, sha256, one.label, share, outcomes, lent_by)


def summarize(photos: Sequence[PhotoReliance]) -> RelianceGroup:
    """The means of some photos, and the gap between the two mixed variants, of those that have both."""
    means: dict[str, VariantMean] = {}
    for variant in VARIANTS:
        found = [one.outcomes[variant] for one in photos if variant in one.outcomes]
        average = (_average([one.right for one in found]), _average([one.confidence for one in found]))
        means[variant] = VariantMean(len(found), *average)
    both = [one.outcomes for one in photos if set(_MIXED) <= one.outcomes.keys()]
    same, rand = ([outcomes[variant].right for outcomes in both] for variant in _MIXED)
    differences = [s - r for s, r in zip(same, rand, strict=True)]
    error = stdev(differences) / math.sqrt(len(both)) if len(both) > 1 else None
    gap = BackgroundGap(len(both), _average(same), _average(rand), _average(differences), error)
    shares = [one.background_share for one in photos]
    return RelianceGroup(len(photos), min(shares), max(shares), means, gap)


def _average(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
