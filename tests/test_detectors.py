"""What holds for every detector: which boxes agree with a label and are chosen, and how photos reach a detector."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latcli.engine.detectors import base
from latcli.engine.detectors.base import (
    ANY_CLASS,
    Box,
    Detection,
    DetectorContext,
    Target,
    _coco_to_imagenet,
    agreeing_boxes,
    agrees,
    for_detector,
    scaled_corners,
    surest_box,
)
from latcli.engine.detectors.mobilenet import MobilenetDetector, MobilenetSettings
from latcli.engine.detectors.yolo import DEFAULT_WEIGHTS, YoloDetector, YoloSettings
from latcli.engine.images import Photo
from latcli.engine.vision import import_torchvision
from latcli.errors import ExitCode, WeightsError

CATEGORIES = import_torchvision().models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"]
SSDLITE = import_torchvision().models.detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
HEN = Target(8, "hen")


def _photo(height, width):
    return Photo("grey", np.full((height, width, 3), 128, dtype=np.uint8), "0")


IMAGENET = [
    *[("dog", "golden retriever", True), ("Dog", "golden retriever", True), ("cat", "golden retriever", False)],
    *[("dog", "Chihuahua", True), ("dog", "Mexican hairless", True), ("dog", "timber wolf", False)],
    *[("bird", "cock", True), ("bird", "kite", True), ("bird", "albatross", True), ("kite", "kite", False)],  # a toy
    *[("airplane", "airliner", True), ("airplane", "plane", False)],  # a carpenter's
    *[("giraffe", "zebra", False), ("zebra", "zebra", True), ("bear", "sloth bear", True), ("cat", "tabby", True)],
    *[("car", "Model T", True), ("truck", "tow truck", True), ("bus", "trolleybus", True), ("boat", "yawl", True)],
    *[("sports ball", "volleyball", True), ("cup", "espresso", True), ("tv", "screen", True), ("oven", "stove", True)],
    *[("person", "groom", True), ("hair drier", "hand blower", True), ("potted plant", "pot", True)],
    *[("Golden-Retriever", "golden retriever", True), ("retriever", "golden retriever", False)],
]
OTHERS = [
    *[("bird", Target(8, "hen, female chicken"), True), ("cat", Target(281, "tabby_cat"), True)],  # another spelling
    *[("horse", Target(7, "horse"), True), ("bird", Target(7, "horse"), False)],  # ImageNet's 7 is a cock
    *[("cat", Target(281, "class 281"), False), ("Traffic Light", Target(0, "traffic_light"), True)],
    *[("dog", Target(5000, "dog"), True), ("dog", Target(5000, "cat"), False), (ANY_CLASS, HEN, True)],
]


def test_boxes_agree_with_imagenets_classes_by_a_table_and_with_others_by_name():
    assert _coco_to_imagenet().keys() == set(SSDLITE.meta["categories"]) - {"__background__", "N/A"}
    for box_name, name, agreed in IMAGENET:
        assert agrees(box_name, Target(CATEGORIES.index(name), name)) is agreed, (box_name, name)
    for box_name, target, agreed in OTHERS:
        assert agrees(box_name, target) is agreed, (box_name, target)


_box = st.builds(
    Box,
    *(st.floats(0, 9) for _ in range(4)),
    score=st.floats(0, 1),
    name=st.sampled_from(["bird", "dog", "hen", "person", ANY_CLASS]),
)


@given(st.lists(_box, min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_agreeing_boxes_are_chosen_with_their_silhouettes(boxes, masked):
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


def _place(box):
    return box.x0, box.y0, box.x1, box.y1, box.score, box.name


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 2000))
def test_photos_are_reduced_only_above_the_limit_and_keep_their_shape(height, width, limit):
    photo = _photo(height, width)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base, "MAX_DETECTOR_PIXELS", limit)
        image = for_detector(photo)
    scale = 1.0 if height * width <= limit else (limit / (height * width)) ** 0.5
    assert image.size == (max(1, round(width * scale)), max(1, round(height * scale)))


@given(st.tuples(*(st.floats(-50, 150) for _ in range(4))))
def test_corners_are_scaled_into_the_photo(corners):
    seen, photo = _photo(40, 80).image, _photo(100, 100)
    inside = scaled_corners(corners, seen, photo)
    expected = [
        min(max(corner * factor, 0), 100) for corner, factor in zip(corners, (1.25, 2.5, 1.25, 2.5), strict=True)
    ]
    if expected[0] < expected[2] and expected[1] < expected[3]:
        assert inside == pytest.approx(expected)
    else:
        assert inside is None


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        (MobilenetDetector, MobilenetSettings(), SSDLITE.url),
        *((YoloDetector, YoloSettings(name), name) for name in (DEFAULT_WEIGHTS, "yolo11s-seg.pt")),
    ],
)
@pytest.mark.parametrize(("offline", "message"), [(True, "--offline"), (False, "does not answer")])
def test_missing_weights_are_said_with_what_to_do(kind, settings, named, offline, message, no_network):
    with pytest.raises(WeightsError, match=message) as missing:
        kind(settings, DetectorContext(offline=offline))
    assert missing.value.exit_code == ExitCode.FAILURE
    assert named in missing.value.message + missing.value.hint
    assert "--detector-weights FILE" in missing.value.hint
    assert "--detector cam" in missing.value.hint
    assert bool(no_network) is not offline
