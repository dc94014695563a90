"""What holds for every detector: which boxes agree with a label and are chosen, and how photos reach a detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latcli.engine.detectors import base
from latcli.engine.detectors.base import (
    _COCO_TO_IMAGENET,
    ANY_CLASS,
    Box,
    Detection,
    Target,
    agreeing_boxes,
    agrees,
    for_detector,
    imagenet_indices,
    scaled_corners,
    surest_box,
)
from latcli.engine.images import Photo
from latcli.engine.vision import import_torchvision

CATEGORIES: list[str] = import_torchvision().models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"]
HEN = Target(8, "hen")


def _photo(height: int, width: int) -> Photo:
    return Photo("grey", np.full((height, width, 3), 128, dtype=np.uint8), "0")


# Which COCO names stand for which ImageNet classes

#: COCO class -> names of ImageNet classes, as torchvision spells them; "a … b" is the run from a to b.
EXPECTED = {
    "person": ["ballplayer … scuba diver"],
    "bicycle": ["bicycle-built-for-two", "mountain bike"],
    "car": [
        *("ambulance", "beach wagon", "cab", "convertible", "jeep", "limousine", "minivan", "Model T", "pickup"),
        *("police van", "racer", "sports car"),
    ],
    "motorcycle": ["moped", "motor scooter"],
    "airplane": ["airliner", "warplane"],
    "bus": ["minibus", "school bus", "trolleybus"],
    "train": [
        *("bullet train", "electric locomotive", "freight car", "passenger car", "steam locomotive", "streetcar"),
    ],
    "truck": [
        *("ambulance", "fire engine", "garbage truck", "jeep", "minivan", "moving van", "pickup", "police van"),
        *("recreational vehicle", "tow truck", "trailer truck"),
    ],
    "boat": [
        *("aircraft carrier", "canoe", "catamaran", "container ship", "fireboat", "gondola", "lifeboat", "liner"),
        *("pirate", "schooner", "speedboat", "trimaran", "yawl"),
    ],
    "traffic light": ["traffic light"],
    "stop sign": ["street sign"],
    "parking meter": ["parking meter"],
    "bench": ["park bench"],
    "bird": ["cock … great grey owl", "black grouse … black swan", "white stork … albatross"],
    "cat": ["tabby … Egyptian cat"],
    "dog": ["Chihuahua … Mexican hairless"],
    "horse": ["sorrel"],
    "sheep": ["ram", "bighorn"],
    "cow": ["ox", "water buffalo"],
    "elephant": ["tusker", "Indian elephant", "African elephant"],
    "bear": ["brown bear … sloth bear"],
    "zebra": ["zebra"],
    "backpack": ["backpack"],
    "umbrella": ["umbrella"],
    "handbag": ["mailbag", "purse"],
    "tie": ["bow tie", "Windsor tie"],
    "skis": ["ski"],
    "sports ball": [
        *("baseball", "basketball", "croquet ball", "golf ball", "ping-pong ball", "rugby ball", "soccer ball"),
        *("tennis ball", "volleyball"),
    ],
    "tennis racket": ["racket"],
    "bottle": ["beer bottle", "pill bottle", "pop bottle", "water bottle", "whiskey jug", "wine bottle"],
    "wine glass": ["goblet", "red wine"],
    "cup": ["beer glass", "coffee mug", "goblet", "espresso", "cup"],
    "knife": ["cleaver", "letter opener"],
    "spoon": ["ladle", "wooden spoon"],
    "bowl": ["mixing bowl", "soup bowl"],
    "banana": ["banana"],
    "apple": ["Granny Smith"],
    "sandwich": ["cheeseburger"],
    "orange": ["orange"],
    "broccoli": ["broccoli"],
    "hot dog": ["hotdog"],
    "pizza": ["pizza"],
    "chair": ["barber chair", "folding chair", "rocking chair", "throne"],
    "couch": ["studio couch"],
    "potted plant": ["pot"],
    "bed": ["crib", "four-poster"],
    "dining table": ["dining table"],
    "toilet": ["toilet seat"],
    "tv": ["monitor", "screen", "television"],
    "laptop": ["laptop", "notebook"],
    "mouse": ["mouse"],
    "remote": ["remote control"],
    "keyboard": ["computer keyboard", "typewriter keyboard"],
    "cell phone": ["cellular telephone"],
    "microwave": ["microwave"],
    "oven": ["stove"],
    "toaster": ["toaster"],
    "sink": ["washbasin"],
    "refrigerator": ["refrigerator"],
    "book": ["comic book", "book jacket"],
    "clock": ["analog clock", "digital clock", "wall clock"],
    "vase": ["vase"],
    "teddy bear": ["teddy"],
    "hair drier": ["hand blower"],
}


def _indices(names: list[str]) -> set[int]:
    found: set[int] = set()
    for name in names:
        first, _, last = name.partition(" … ")
        found |= set(range(CATEGORIES.index(first), CATEGORIES.index(last or first) + 1))
    return found


def test_the_table_of_indices_means_these_classes_and_has_names_that_detectors_give() -> None:
    coco = import_torchvision().models.detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
    assert {name: imagenet_indices(name) for name in _COCO_TO_IMAGENET} == {n: _indices(v) for n, v in EXPECTED.items()}
    assert _COCO_TO_IMAGENET.keys() <= set(coco)


@pytest.mark.parametrize(
    ("box_name", "index", "agreed"),
    [
        ("dog", CATEGORIES.index("golden retriever"), True),
        ("Dog", CATEGORIES.index("golden retriever"), True),
        ("cat", CATEGORIES.index("golden retriever"), False),
        ("dog", CATEGORIES.index("timber wolf"), False),
        ("bird", CATEGORIES.index("hen"), True),
        ("bird", CATEGORIES.index("kite"), True),
        ("kite", CATEGORIES.index("kite"), False),  # COCO's is a toy
        ("airplane", CATEGORIES.index("plane"), False),  # a carpenter's
        ("giraffe", CATEGORIES.index("zebra"), False),
        ("Golden-Retriever", CATEGORIES.index("golden retriever"), True),
        ("retriever", CATEGORIES.index("golden retriever"), False),
    ],
)
def test_boxes_agree_with_imagenet_classes(box_name: str, index: int, agreed: bool) -> None:
    assert agrees(box_name, Target(index, CATEGORIES[index])) is agreed


def test_other_spellings_of_imagenets_names_are_known() -> None:
    assert agrees("bird", Target(8, "hen, female chicken"))
    assert agrees("cat", Target(281, "tabby_cat"))


@pytest.mark.parametrize(
    ("box_name", "target", "agreed"),
    [
        ("horse", Target(7, "horse"), True),
        ("bird", Target(7, "horse"), False),  # ImageNet's 7 is a cock
        ("cat", Target(281, "class 281"), False),
        ("Traffic Light", Target(0, "traffic_light"), True),
        ("dog", Target(5000, "dog"), True),
        ("dog", Target(5000, "cat"), False),
    ],
)
def test_boxes_agree_with_classes_of_other_models_by_name(box_name: str, target: Target, agreed: bool) -> None:
    assert agrees(box_name, target) is agreed


# Which boxes are chosen

_box = st.builds(
    Box,
    *(st.floats(0, 9) for _ in range(4)),
    score=st.floats(0, 1),
    name=st.sampled_from(["bird", "dog", "hen", "person", ANY_CLASS]),
)


@given(st.lists(_box, min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_agreeing_boxes_are_chosen_with_their_silhouettes(boxes: list[Box], masked: list[bool]) -> None:
    boxes = [Box(b.x0, b.y0, b.x1, b.y1, b.score, b.name, i if masked[i] else None) for i, b in enumerate(boxes)]
    detection = Detection(tuple(boxes), torch.arange(len(boxes))[:, None, None])
    agreeing = sorted((b for b in boxes if b.name in {"bird", "hen", ANY_CLASS}), key=lambda b: -b.score)
    for chosen, expected in (
        (agreeing_boxes(detection, HEN, "all"), agreeing),
        (agreeing_boxes(detection, HEN, "best"), agreeing[:1]),
        (surest_box(detection), [max(boxes, key=lambda b: b.score)]),
    ):
        assert [_place(b) for b in chosen.boxes] == [_place(b) for b in expected]
        kept = [] if chosen.segmentations_NHW is None else chosen.segmentations_NHW.flatten().tolist()
        assert kept == [b.segmentation for b in expected if b.segmentation is not None]
        assert [b.segmentation for b in chosen.boxes if b.segmentation is not None] == list(range(len(kept)))


def _place(box: Box) -> tuple[object, ...]:
    return box.x0, box.y0, box.x1, box.y1, box.score, box.name


def test_nothing_found_stays_nothing() -> None:
    assert agreeing_boxes(Detection(()), HEN, "all") == surest_box(Detection(())) == Detection(())


# How photos reach a detector


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 2000))
def test_photos_are_reduced_only_above_the_limit_and_keep_their_shape(height: int, width: int, limit: int) -> None:
    photo = _photo(height, width)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base, "MAX_DETECTOR_PIXELS", limit)
        image = for_detector(photo)
    scale = 1.0 if height * width <= limit else (limit / (height * width)) ** 0.5
    assert image.size == (max(1, round(width * scale)), max(1, round(height * scale)))


@given(st.tuples(*(st.floats(-50, 150) for _ in range(4))))
def test_corners_are_scaled_into_the_photo(corners: tuple[float, float, float, float]) -> None:
    seen, photo = _photo(40, 80).image, _photo(100, 100)
    inside = scaled_corners(corners, seen, photo)
    expected = [
        min(max(corner * factor, 0), 100) for corner, factor in zip(corners, (1.25, 2.5, 1.25, 2.5), strict=True)
    ]
    if expected[0] < expected[2] and expected[1] < expected[3]:
        assert inside == pytest.approx(expected)
    else:
        assert inside is None
