"""How well the ways of finding an object agree with its true mask, on composed photos, and how long each takes.

Twenty photos whose salient masks were looked at and found right give their objects; each is pasted, where it
was and as large as it was, on the background of another of the twenty (its own object's box tiled over, as in
Mixed-Rand of "Noise or Signal"). So the truth is known to the pixel. What is easy about them: one object, cut sharply,
from photos in which saliency had found it before, so saliency's figure is an upper one; the labels are right. The true
box is what a careful user would draw.
Usage: `python -m benchmarks.mask_agreement --photos FOLDER [--keep DIR]`. Photos are known by how their names end
(`n01944390_snail.jpg`), and the class by how they begin.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import torch

from benchmarks.photos import photo_files
from benchmarks.record import Options, begin
from latcli.engine.detectors.base import DetectorContext, Target
from latcli.engine.detectors.cam import evidence_inside
from latcli.engine.devices import open_device
from latcli.engine.evaluation.reliance import bounding_box, mixed, only_bg_t
from latcli.engine.evaluation.statistics import bootstrap_means, percentile_interval
from latcli.engine.images import Photo, encode_png, read_photo
from latcli.engine.labels import parse_label
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.objects import ObjectFinder, ObjectSettings, open_finder
from latcli.errors import NoObjectError

#: Photos whose object the salient mask holds as a whole, and nothing else: looked at one by one.
OBJECTS = (
    "triceratops",
    "tarantula",
    "snail",
    "hen",
    "iPod",
    "house_finch",
    "Labrador_retriever",
    "Bouvier_des_Flandres",
    "Great_Dane",
    "meerkat",
    "llama",
    "dining_table",
    "drum",
    "golf_ball",
    "harvester",
    "limousine",
    "oscilloscope",
    "throne",
    "water_bottle",
    "pizza",
)


@dataclass(frozen=True, eq=False)
class Cut:
    """A photo, its object and the class of it; object_HW is bool."""

    photo: Photo
    object_HW: np.ndarray
    target: Target


def composed(objects: Sequence[Cut], shift: int = 7) -> list[Cut]:
    """Each object on the background of the one `shift` places further on (of the next ones, where that has none)."""
    found = []
    backgrounds = [background_of(one) for one in objects]
    for place, one in enumerate(objects):
        further = ((place + shift + step) % len(objects) for step in range(len(objects)))
        background_HWC = next(
            backgrounds[other] for other in further if other != place and backgrounds[other] is not None
        )
        assert background_HWC is not None
        levels_HWC = mixed(one.photo.levels_HWC, one.object_HW, background_HWC)
        found.append(Cut(Photo(one.photo.name, levels_HWC, f"{place:064}"), one.object_HW, one.target))
    return found


def background_of(one: Cut) -> np.ndarray | None:
    """The photo without its object, levels_HWC; None where the object's box leaves nothing to tile."""
    try:
        return only_bg_t(one.photo.levels_HWC, one.object_HW)
    except ValueError:
        return None


def intersection_over_union(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    """Of two bool masks, in [0, 1]; 1 for two empty ones."""
    union = np.count_nonzero(first_HW | second_HW)
    return np.count_nonzero(first_HW & second_HW) / union if union else 1.0


# ways of finding the object

Way = Callable[[Cut], ObjectFinder]


def ways(context: DetectorContext) -> dict[str, Way]:
    """By name: what finds the object of a photo. True boxes are the user's, so their finder is one for each photo."""

    def detector(**settings: str) -> Way:
        finder = open_finder(ObjectSettings(**settings), context)[0]  # type: ignore[arg-type]
        return lambda cut: finder

    def true_box(refine: str) -> Way:
        def finder(cut: Cut) -> ObjectFinder:
            rows, columns = bounding_box(cut.object_HW)
            box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            return open_finder(ObjectSettings(boxes=(box,), refine=refine), context)[0]  # type: ignore[arg-type]

        return finder

    return {
        "saliency": detector(detector="saliency"),
        "cam": detector(detector="cam"),
        "cam, grabcut": detector(detector="cam", refine="grabcut"),
        "cam, salient part": detector(detector="cam", refine="saliency"),
        "true box": true_box("none"),
        "true box, grabcut": true_box("grabcut"),
        "true box, salient part": true_box("saliency"),
    }


@dataclass(frozen=True)
class Agreement:
    """One way on one photo: intersection over union with the truth (0 for a miss), and its processor seconds."""

    iou: float
    seconds: float
    missed: bool


def measured(finder: ObjectFinder, cut: Cut) -> Agreement:
    """Find the object, and hold it against the truth."""
    started = process_time()
    try:
        found_HW = finder.find(cut.photo, cut.target).mask_1HW[0].numpy() >= 0.5
    except NoObjectError:
        return Agreement(0.0, process_time() - started, True)
    seconds = process_time() - started
    return Agreement(intersection_over_union(found_HW, cut.object_HW), seconds, False)


def line_of(results: Sequence[Agreement]) -> str:
    """Mean IoU with its interval, median, how many are above one half and missed, median seconds; as a Markdown row."""
    ious = [one.iou for one in results]
    low, high = percentile_interval(bootstrap_means(torch.tensor(ious, dtype=torch.float64)[:, None], seed=0)[:, 0])
    good, missed = sum(iou >= 0.5 for iou in ious), sum(one.missed for one in results)
    seconds = statistics.median(one.seconds for one in results)
    spread = f"{statistics.fmean(ious):.2f} ({low:.2f} to {high:.2f}) | {statistics.median(ious):.2f}"
    return f"{spread} | {good} of {len(ious)} | {missed} | {seconds:.2f}"


def opened(photos: Iterable[Path], context: DetectorContext) -> list[Cut]:
    """The photos of `OBJECTS` with their salient masks. Ends the program where one is missing."""
    named = {path.stem.partition("_")[2]: path for path in photos}
    if missing := [name for name in OBJECTS if name not in named]:
        sys.exit(f"no photo of {', '.join(missing)}")
    finder = open_finder(ObjectSettings(detector="saliency"), context)[0]
    cuts = []
    for name in OBJECTS:
        photo = read_photo(named[name])
        label = parse_label(named[name].stem.partition("_")[0], context.classifier)
        target = Target(label.index, label.name)
        cuts.append(Cut(photo, finder.find(photo, target).mask_1HW[0].numpy() >= 0.5, target))
    return cuts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the photos that were put together here")
    parser.sized("count", len(OBJECTS), 2)
    given = parser.read(arguments)
    record = begin("mask_agreement", given)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    device = open_device("cpu")
    classifier = open_classifier("efficientnet_lite0", ClassifierSource(offline=True), device)
    context = DetectorContext(classifier, device, offline=True)
    cuts = composed(opened(photo_files(given.photos), context))[: given.count]
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
        for cut in cuts:
            (given.keep / f"{Path(cut.photo.name).stem}.png").write_bytes(encode_png(cut.photo.levels_HWC))
    heads = ("mean IoU (95 %)", "median", "IoU of one half or more", "missed", "seconds a photo, one thread")
    print(f"\n| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name, way in ways(context).items():
        finders = [way(cut) for cut in cuts]
        results = [measured(finder, cut) for finder, cut in zip(finders, cuts, strict=True)]
        print(f"| {name} | {line_of(results)} |", flush=True)
        for cut, result in zip(cuts, results, strict=True):
            record.add(name, photo=cut.photo.name, iou=result.iou, seconds=result.seconds, missed=result.missed)
    shares = [
        found[0]
        for cut in cuts
        if (
            found := evidence_inside(
                classifier, cut.photo, cut.target.index, torch.from_numpy(cut.object_HW)[None].float()
            )
        )
    ]
    print(f"\nevidence inside the true mask: {statistics.fmean(shares):.2f} on average")
    record.finish(given.out)


if __name__ == "__main__":
    main()
