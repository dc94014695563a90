"""Which boxes show the labelled object: COCO class names against ImageNet classes."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Literal

from latcli.engine.detectors.base import ANY_CLASS, Box, Detection, Target
from latcli.engine.vision import import_torchvision

#: COCO class -> the ImageNet classes (indices, both ends included) whose objects an annotator of COCO would call so.
#: COCO classes without such a class are left out: fire hydrant, giraffe, suitcase, frisbee, snowboard, baseball bat,
#: baseball glove, skateboard, surfboard, fork, carrot, donut, cake, scissors, toothbrush, and kite (ImageNet's is a
#: bird).
_COCO_TO_IMAGENET = {
    "person": "981-983",
    "bicycle": "444 671",
    "car": "407 436 468 511 609 627 656 661 717 734 751 817",
    "motorcycle": "665 670",
    "airplane": "404 895",
    "bus": "654 779 874",
    "train": "466 547 565 705 820 829",
    "truck": "407 555 569 609 656 675 717 734 757 864 867",
    "boat": "403 472 484 510 554 576 625 628 724 780 814 871 914",
    "traffic light": "920",
    "stop sign": "919",
    "parking meter": "704",
    "bench": "703",
    "bird": "7-24 80-100 127-146",
    "cat": "281-285",
    "dog": "151-268",
    "horse": "339",
    "sheep": "348-349",
    "cow": "345-346",
    "elephant": "101 385-386",
    "bear": "294-297",
    "zebra": "340",
    "backpack": "414",
    "umbrella": "879",
    "handbag": "636 748",
    "tie": "457 906",
    "skis": "795",
    "sports ball": "429-430 522 574 722 768 805 852 890",
    "tennis racket": "752",
    "bottle": "440 720 737 898 901 907",
    "wine glass": "572 966",
    "cup": "441 504 572 967-968",
    "knife": "499 623",
    "spoon": "618 910",
    "bowl": "659 809",
    "banana": "954",
    "apple": "948",
    "sandwich": "933",
    "orange": "950",
    "broccoli": "937",
    "hot dog": "934",
    "pizza": "963",
    "chair": "423 559 765 857",
    "couch": "831",
    "potted plant": "738",
    "bed": "520 564",
    "dining table": "532",
    "toilet": "861",
    "tv": "664 782 851",
    "laptop": "620 681",
    "mouse": "673",
    "remote": "761",
    "keyboard": "508 878",
    "cell phone": "487",
    "microwave": "651",
    "oven": "827",
    "toaster": "859",
    "sink": "896",
    "refrigerator": "760",
    "book": "917 921",
    "clock": "409 530 892",
    "vase": "883",
    "teddy bear": "850",
    "hair drier": "589",
}


WhichBoxes = Literal["all", "best"]


def agreeing_boxes(detection: Detection, target: Target, which: WhichBoxes) -> Detection:
    """The boxes that agree with the target's class, by falling confidence, or the best one of them; none if none does.

    Silhouettes are carried along, and only those of the boxes that remain.
    """
    boxes = sorted((box for box in detection.boxes if agrees(box.name, target)), key=lambda box: -box.score)
    return _only(detection, boxes if which == "all" else boxes[:1])


def surest_box(detection: Detection) -> Detection:
    """The box of the largest confidence, whatever its class."""
    return _only(detection, sorted(detection.boxes, key=lambda box: -box.score)[:1])


def _only(detection: Detection, kept: list[Box]) -> Detection:
    used = [box.segmentation for box in kept if box.segmentation is not None]
    boxes = (
        box if box.segmentation is None else replace(box, segmentation=used.index(box.segmentation)) for box in kept
    )
    silhouettes_NHW = detection.segmentations_NHW
    return Detection(tuple(boxes), silhouettes_NHW[used] if used and silhouettes_NHW is not None else None)


def agrees(box_name: str, target: Target) -> bool:
    """Whether boxes of that class are to be taken for the target's object; those of `ANY_CLASS` always are.

    Between a COCO name and an ImageNet class the table decides; all other names agree where they are equal, whatever
    their case and whether they are written with spaces, `_` or `-`.
    """
    if box_name == ANY_CLASS:
        return True
    name = _plain(box_name)
    if name in _coco_names() and _is_imagenet(target):
        return target.index in imagenet_indices(name)
    return name == _plain(target.name)


@cache
def imagenet_indices(coco_name: str) -> frozenset[int]:
    """Indices of the ImageNet classes that a COCO class covers; empty where there is none."""
    spans = (span.partition("-") for span in _COCO_TO_IMAGENET.get(coco_name, "").split())
    return frozenset(index for first, _, last in spans for index in range(int(first), int(last or first) + 1))


def _is_imagenet(target: Target) -> bool:
    # A class 7 of another model is no cock. Libraries spell ImageNet's names differently, so one common word is enough.
    names = _imagenet_names()
    return target.index < len(names) and not _words(target.name).isdisjoint(_words(names[target.index]))


@cache
def _imagenet_names() -> tuple[str, ...]:
    return tuple(import_torchvision().models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def _coco_names() -> frozenset[str]:
    detection = import_torchvision().models.detection
    return frozenset(detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"])


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip())).casefold()


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.casefold().replace("_", " ")))
