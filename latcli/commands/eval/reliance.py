"""`latcli eval --reliance`: a photo folder's test photos and a model in, its row out; must not store or show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from latcli.commands.eval.models import Opened
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.evaluation.reliance import (
    VARIANTS,
    Gap,
    Group,
    LabelledPhoto,
    LeftOut,
    Mean,
    PhotoReliance,
    averaged,
    measure_photo,
    summarize,
    survey_photos,
)
from latcli.engine.images import read_photo
from latcli.engine.models.classifier import Classifier
from latcli.errors import UsageError

#: How many times each photo gets other backgrounds where nobody says.
DONOR_SEEDS = 3


@dataclass(frozen=True)
class RelianceRow:
    """One model (its id) on all photos, and by share of background; mixed variants are means over `donor_seeds`.

    `without_same` photos are alone in their class and have no Mixed-Same. `left_out` tell nothing about backgrounds.
    """

    model: str
    donor_seeds: int
    overall: Group
    by_share: tuple[Group, ...]
    without_same: int
    left_out: tuple[LeftOut, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `asdict` gave. Raises KeyError or TypeError where it is not that."""
        read = {
            "overall": _group(values["overall"]),
            "by_share": tuple(map(_group, values["by_share"])),
            "left_out": tuple(LeftOut(**one) for one in values["left_out"]),
        }
        return cls(**{**values, **read})

    def metrics(self) -> list[tuple[str, int, float | None]]:
        """The numbers of all photos together, as the store keeps them: name, step, value."""
        values: dict[str, float | None] = {name: self.overall.means[name].accuracy for name in VARIANTS}
        gap = self.overall.gap
        values |= {"gap": gap.value, "gap_standard_error": gap.standard_error, "n": self.overall.n}
        return [(f"reliance/{self.model}/{name}", 0, value) for name, value in values.items()]


class FolderPhotos(Sequence[LabelledPhoto]):
    """A folder's test photos with their masks, each read when it is asked for, so that memory stays flat."""

    def __init__(self, data: PhotoFolder) -> None:
        assert data.masks is not None
        self._files, self._masks = data.folders.test, data.masks.test

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        """One photo. Raises ImageError where photo or mask cannot be read."""
        photo = read_photo(self._files[index].path)
        mask_HW = self._masks[index].read(photo.size)
        return LabelledPhoto(photo, self._files[index].label, mask_HW * np.uint8(255))


def photos_of(data: TrainingData) -> FolderPhotos:
    """The photos that backgrounds can be told from. Raises UsageError for a set without photos or without masks."""
    if not isinstance(data, PhotoFolder):
        raise UsageError(f"--reliance needs photos, which {data.name} has none of", "give --dataset folder:PHOTOS")
    if data.masks is None:
        raise UsageError(
            "--reliance needs to know the objects of the photos", "choose --mask-from detector, or give --masks DIR"
        )
    return FolderPhotos(data)


def reliance_of(one: Opened, data: TrainingData, seeds: Sequence[int], watch: Callable[[], None]) -> RelianceRow:
    """A model's reliance, every photo with the backgrounds that each seed chooses; `watch` is called after each.

    Raises as `photos_of` and `background_reliance` do.
    """
    photos = photos_of(data)
    classifier = one.subject.net
    assert isinstance(classifier, Classifier)  # on photos nothing stands before it
    survey = survey_photos(photos, classifier.preprocessing)
    passes: list[list[PhotoReliance]] = []
    for seed in seeds:
        passes.append([])
        for position in survey.usable:
            passes[-1].append(measure_photo(classifier, photos, survey, position, seed))
            watch()
    found = summarize(averaged(passes), survey, seeds[0])
    return RelianceRow(one.entry.id, len(seeds), found.overall, found.by_share, found.without_same, found.left_out)


def _group(values: Mapping[str, Any]) -> Group:
    means = {name: Mean(**mean) for name, mean in values["means"].items()}
    return Group(**{**values, "means": means, "gap": Gap(**values["gap"])})
