"""How much a classifier leans on the background, without any attack; must not know detectors, folders or the store.

Source: the Backgrounds Challenge (Xiao, Engstrom, Ilyas and Madry, "Noise or Signal", ICLR'21). There the labels are
nine coarse classes; here they are the ones given, so figures compare with the paper's only on its own nine.

Legend: H, W a photo's pixels, C = 3 colour channels, h = w the classifier's input size.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from latcli.engine.evaluation import cutouts
from latcli.engine.images import Photo
from latcli.engine.models.classifier import Classifier, predict
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.noise import derive_seed
from latcli.errors import LatcliError

Variant = Literal["original", "only_fg", "only_bg_b", "only_bg_t", "mixed_same", "mixed_rand"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: From this level on, a mask's pixel belongs to the object, as where a photo is shown with its background blacked out.
_OBJECT = 128


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo, the index of its right class, and mask_HW: uint8 of the photo's size, 255 on the object."""

    photo: Photo
    label: int
    mask_HW: np.ndarray

    @property
    def silhouette(self) -> np.ndarray:
        """object_HW, bool: True on the object. Raises LatcliError where the mask is not the photo's size."""
        if self.mask_HW.shape != self.photo.size:
            raise LatcliError(
                f"the mask of {self.photo.name} is {self.mask_HW.shape}, its photo {self.photo.size} (rows, columns)",
                "a mask needs the photo's own size",
            )
        object_HW: np.ndarray = self.mask_HW >= _OBJECT
        return object_HW


@dataclass(frozen=True)
class LeftOut:
    """A photo that cannot tell anything about backgrounds, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Survey:
    """Which photos are measured, and who may lend a background: all that is kept of the photos themselves.

    `usable` are positions in the sequence that was surveyed. `lenders` are the photos (sha256) of each class, sorted;
    `positions` finds them. A photo that is there twice lends once.
    """

    usable: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    lenders: Mapping[int, tuple[str, ...]]
    positions: Mapping[str, int]

    def same_class(self, sha256: str, label: int, seed: int) -> int | None:
        """The position of another photo of the class, by a hash of seed and photo; None where it has no other."""
        return self._pick(label, sha256, derive_seed(seed, sha256, "mixed_same"))

    def other_class(self, sha256: str, label: int, seed: int) -> int | None:
        """The position of a photo of another class: a class by a hash of seed and photo, then one of its photos.

        None where there is no other class.
        """
        others = [other for other in sorted(self.lenders) if other != label]
        if not others:
            return None
        chosen = others[derive_seed(seed, sha256, "mixed_rand class") % len(others)]
        return self._pick(chosen, sha256, derive_seed(seed, sha256, "mixed_rand"))

    def _pick(self, label: int, sha256: str, number: int) -> int | None:
        candidates = self.lenders.get(label, ())
        own = bisect_left(candidates, sha256)
        itself = own < len(candidates) and candidates[own] == sha256
        count = len(candidates) - itself
        if not count:
            return None
        index = number % count
        return self.positions[candidates[index + (itself and index >= own)]]


@dataclass(frozen=True)
class Outcome:
    """What the classifier says of one variant of a photo: whether the label is its top guess (a tie is not), and the
    label's own softmax value. Of several donor seeds both are means."""

    right: float
    confidence: float


@dataclass(frozen=True)
class PhotoReliance:
    """One photo in every variant that it has; `lent_by` names the photos whose backgrounds the mixed ones show.

    `background_share`: the share, in [0, 1], of the pixels that reach the classifier which are not the object.
    """

    name: str
    sha256: str
    label: int
    background_share: float
    outcomes: Mapping[Variant, Outcome]
    lent_by: Mapping[Variant, str]


@dataclass(frozen=True)
class Mean:
    """Means over n photos: the share (0 to 1) of right top guesses, and the label's confidence; None where n is 0."""

    n: int
    accuracy: float | None
    confidence: float | None


@dataclass(frozen=True)
class Gap:
    """The background gap: accuracy on Mixed-Same minus on Mixed-Rand, over the n photos that have both.

    `standard_error` is that of the mean of n paired differences: it says how far n photos can be trusted. Numbers are
    None where n is too small to have them: below 1, for the error below 2.
    """

    n: int
    mixed_same: float | None
    mixed_rand: float | None
    value: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Group:
    """n photos with a share of background from `low` to `high`, both included: means of each variant, and the gap."""

    n: int
    low: float
    high: float
    means: Mapping[Variant, Mean]
    gap: Gap


@dataclass(frozen=True)
class Reliance:
    """How a classifier did on a set of photos: together, by share of background, and photo by photo.

    `without_same` photos are the only ones of their class: they have no Mixed-Same, and no part in the gap.
    """

    seed: int
    overall: Group
    by_share: tuple[Group, ...]
    photos: tuple[PhotoReliance, ...]
    without_same: int
    left_out: tuple[LeftOut, ...]


def background_reliance(
    classifier: Classifier,
    photos: Sequence[LabelledPhoto],
    seed: int = 0,
    groups: int = 4,
    watch: Callable[[PhotoReliance], None] = lambda _: None,
) -> Reliance:
    """Accuracy on Original, Only-FG, Only-BG-B, Only-BG-T, Mixed-Same and Mixed-Rand, and the background gap.

    `photos` is asked for one photo at a time and each is asked for several times, so a sequence that reads its photos
    when asked keeps memory flat. `watch` is shown each photo's result at once. No result depends on the order.

    Raises LatcliError for an empty set, a mask of another size, or a label that the classifier does not have.
    """
    survey = survey_photos(photos, classifier.preprocessing)
    results = []
    for position in survey.usable:
        results.append(measure_photo(classifier, photos, survey, position, seed))
        watch(results[-1])
    return summarize(results, survey, seed, groups)


def survey_photos(photos: Sequence[LabelledPhoto], preprocessing: Preprocessing) -> Survey:
    """Read every photo once, and keep of it only what the choice of backgrounds needs."""
    usable: list[int] = []
    left_out: list[LeftOut] = []
    lenders: dict[int, set[str]] = {}
    positions: dict[str, int] = {}
    for position in range(len(photos)):
        one = photos[position]
        why = _tells_nothing(one, preprocessing)
        if why:
            left_out.append(LeftOut(one.photo.name, why))
            continue
        usable.append(position)
        lenders.setdefault(one.label, set()).add(one.photo.sha256)
        positions.setdefault(one.photo.sha256, position)
    in_order = {label: tuple(sorted(names)) for label, names in lenders.items()}
    return Survey(tuple(usable), tuple(left_out), in_order, positions)


def measure_photo(
    classifier: Classifier, photos: Sequence[LabelledPhoto], survey: Survey, position: int, seed: int
) -> PhotoReliance:
    """One photo in all the variants that it has. See `background_reliance` for what is raised."""
    one = photos[position]
    if not 0 <= one.label < len(classifier.class_names):
        raise LatcliError(
            f"{one.photo.name} has the label {one.label}, {classifier.name} the classes 0 to "
            f"{len(classifier.class_names) - 1}",
            "choose the labels that belong to the classifier",
        )
    levels_HWC, object_HW, sha256 = one.photo.levels_HWC, one.silhouette, one.photo.sha256
    pictures: dict[Variant, np.ndarray] = {
        "original": levels_HWC,
        "only_fg": cutouts.only_fg(levels_HWC, object_HW),
        "only_bg_b": cutouts.only_bg_b(levels_HWC, object_HW),
        "only_bg_t": cutouts.only_bg_t(levels_HWC, object_HW),
    }
    chosen: dict[Variant, int | None] = {
        "mixed_same": survey.same_class(sha256, one.label, seed),
        "mixed_rand": survey.other_class(sha256, one.label, seed),
    }
    lent_by: dict[Variant, str] = {}
    for variant, lender_at in chosen.items():
        if lender_at is not None:
            lender = photos[lender_at]
            background_HWC = cutouts.only_bg_t(lender.photo.levels_HWC, lender.silhouette)
            pictures[variant] = cutouts.mixed(levels_HWC, object_HW, background_HWC)
            lent_by[variant] = lender.photo.name
    share = _background_share(object_HW, classifier.preprocessing)
    return PhotoReliance(one.photo.name, sha256, one.label, share, _score(classifier, pictures, one.label), lent_by)


def averaged(passes: Sequence[Sequence[PhotoReliance]]) -> list[PhotoReliance]:
    """Photos that were measured under several seeds, in the same order each time, with the means of their outcomes.

    Seeds choose backgrounds and no photos. So a photo stays one sample, whatever the number of seeds, and the standard
    error of the gap is that of the photos.
    """
    return [_averaged(parts) for parts in zip(*passes, strict=True)]


def _averaged(parts: Sequence[PhotoReliance]) -> PhotoReliance:
    count = len(parts)
    outcomes = {
        variant: Outcome(
            math.fsum(part.outcomes[variant].right for part in parts) / count,
            math.fsum(part.outcomes[variant].confidence for part in parts) / count,
        )
        for variant in parts[0].outcomes
    }
    lent_by = {v: ", ".join(dict.fromkeys(part.lent_by[v] for part in parts)) for v in parts[0].lent_by}
    return replace(parts[0], outcomes=outcomes, lent_by=lent_by)


def summarize(results: Sequence[PhotoReliance], survey: Survey, seed: int, groups: int = 4) -> Reliance:
    """Results of all photos together, and in `groups` groups of equal count (to one photo) by share of background.

    The groups' edges are the shares found, so that each mean rests on as many photos. Raises LatcliError for no photo.
    """
    if not results:
        raise LatcliError(
            f"no photo is left to measure, {len(survey.left_out)} were left out",
            "a photo needs an object that the classifier sees, and background beside it",
        )
    ordered = sorted(results, key=lambda one: (one.background_share, one.sha256))
    count = min(groups, len(ordered))
    edges = [len(ordered) * index // count for index in range(count + 1)]
    by_share = tuple(_group(ordered[start:stop]) for start, stop in pairwise(edges))
    without_same = sum("mixed_same" not in one.outcomes for one in results)
    return Reliance(seed, _group(ordered), by_share, tuple(results), without_same, survey.left_out)


def _tells_nothing(one: LabelledPhoto, preprocessing: Preprocessing) -> str:
    """Why a photo cannot be taken apart in a way that the classifier sees; empty where it can."""
    object_HW = one.silhouette
    if not object_HW[preprocessing.visible(one.photo.size)].any():
        return "no object where the classifier looks"
    if not _background_share(object_HW, preprocessing) or cutouts.largest_strip(object_HW) is None:
        return "no background beside the object's box"
    return ""


def _background_share(object_HW: np.ndarray, preprocessing: Preprocessing) -> float:
    H, W = object_HW.shape
    return float(1.0 - object_HW[preprocessing.visible((H, W))].mean())


def _score(classifier: Classifier, pictures: Mapping[Variant, np.ndarray], label: int) -> dict[Variant, Outcome]:
    read = classifier.preprocessing.read
    x_BChw = torch.stack([read(Image.fromarray(levels_HWC)) for levels_HWC in pictures.values()])
    predictions = predict(classifier, x_BChw.to(classifier.device), [label] * len(pictures), shown=1)
    return {
        variant: Outcome(prediction.rank == 1, prediction.confidence)
        for variant, prediction in zip(pictures, predictions, strict=True)
    }


def _group(photos: Sequence[PhotoReliance]) -> Group:
    means = {v: _mean([one.outcomes[v] for one in photos if v in one.outcomes]) for v in VARIANTS}
    shares = [one.background_share for one in photos]
    return Group(len(photos), min(shares), max(shares), means, _gap(photos))


def _mean(outcomes: Sequence[Outcome]) -> Mean:
    right, confidence = ([getattr(o, name) for o in outcomes] for name in ("right", "confidence"))
    return Mean(len(outcomes), _average(right), _average(confidence))


def _gap(photos: Sequence[PhotoReliance]) -> Gap:
    both = [one.outcomes for one in photos if {"mixed_same", "mixed_rand"} <= one.outcomes.keys()]
    same, rand = ([outcomes[v].right for outcomes in both] for v in ("mixed_same", "mixed_rand"))
    differences = [float(s) - float(r) for s, r in zip(same, rand, strict=True)]
    n, value = len(both), _average(differences)
    error = None
    if value is not None and n > 1:
        error = math.sqrt(sum((d - value) ** 2 for d in differences) / (n - 1) / n)
    return Gap(n, _average(same), _average(rand), value, error)


def _average(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None
