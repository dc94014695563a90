"""What holds for every detector: which boxes are chosen, which detector `auto` settles on, and settings."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latcli.engine import registry
from latcli.engine.detectors import settings as shared
from latcli.engine.detectors.agreement import _COCO_TO_IMAGENET, agrees, imagenet_indices
from latcli.engine.detectors.auto import open_detector
from latcli.engine.detectors.base import Box, Detection, Target
from latcli.engine.detectors.choose import choose_boxes
from latcli.engine.detectors.none import NoDetector
from latcli.engine.detectors.settings import DetectorSettings, for_detector, scaled_corners
from latcli.engine.images import Photo
from latcli.engine.vision import import_torchvision
from latcli.errors import UsageError, WeightsError

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


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() | _COCO_TO_IMAGENET.keys()))
def test_the_table_of_indices_means_these_classes(name: str) -> None:
    assert imagenet_indices(name) == _indices(EXPECTED[name])


def test_the_table_has_names_that_detectors_give() -> None:
    coco = import_torchvision().models.detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
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
    name=st.sampled_from(["bird", "dog", "hen", "person"]),
)


@given(st.lists(_box, min_size=1, max_size=6), st.booleans())
def test_agreeing_boxes_are_chosen_else_the_surest(boxes: list[Box], masked: bool) -> None:
    boxes = [Box(b.x0, b.y0, b.x1, b.y1, b.score, b.name, i if masked else None) for i, b in enumerate(boxes)]
    masks_NHW = torch.arange(len(boxes))[:, None, None] if masked else None
    detection = Detection(tuple(boxes), masks_NHW)
    agreeing = [b for b in boxes if b.name in {"bird", "hen"}]
    every, best = choose_boxes(detection, HEN, "all"), choose_boxes(detection, HEN, "best")
    assert [_place(b) for b in every.boxes] == [_place(b) for b in agreeing or [max(boxes, key=lambda b: b.score)]]
    assert len(best.boxes) == 1
    assert best.boxes[0].score == max(b.score for b in agreeing or boxes)
    for chosen in (every, best):
        if not masked:
            assert chosen.segmentations_NHW is None
            continue
        assert chosen.segmentations_NHW is not None
        assert len(chosen.segmentations_NHW) == len(chosen.boxes)
        for box in chosen.boxes:
            assert box.segmentation is not None
            original = boxes[int(chosen.segmentations_NHW[box.segmentation])]
            assert _place(original) == _place(box)


def _place(box: Box) -> tuple[object, ...]:
    return box.x0, box.y0, box.x1, box.y1, box.score, box.name


def test_boxes_with_and_without_silhouettes_may_be_mixed() -> None:
    masks_NHW = torch.tensor([[[True, False]], [[False, True]]])
    with_mask, without = Box(0, 0, 1, 1, 0.9, "hen", 1), Box(1, 0, 2, 1, 0.8, "hen")
    dog = Box(0, 0, 1, 1, 0.95, "dog", 0)
    chosen = choose_boxes(Detection((dog, with_mask, without), masks_NHW), HEN, "all")
    assert [b.segmentation for b in chosen.boxes] == [0, None]
    assert chosen.segmentations_NHW is not None
    assert chosen.segmentations_NHW.tolist() == [[[False, True]]]


def test_nothing_found_stays_nothing() -> None:
    assert choose_boxes(Detection(()), HEN, "all").boxes == choose_boxes(Detection(()), HEN, "best").boxes == ()


# Which detector is opened


class _Always:
    """A detector that needs nothing."""

    depends_on_target = True
    fingerprint = "always"
    name = "cam"
    given: ClassVar[list[DetectorSettings]] = []

    def __init__(self, settings: DetectorSettings) -> None:
        self.given.append(settings)


class _Never:
    def __init__(self, settings: DetectorSettings) -> None:
        raise WeightsError("no weights of that kind", "get some")


class _FromFile(_Always):
    def __init__(self, settings: DetectorSettings) -> None:
        self.source = settings.weights


def _register(monkeypatch: pytest.MonkeyPatch, **classes: type) -> None:
    for name, kind in classes.items():
        monkeypatch.setitem(registry.BUILT_IN["detector"], name, f"{__name__}:{kind.__name__}")


def test_auto_takes_yolo_before_mobilenet_before_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, yolo=_FromFile, mobilenet=_FromFile, cam=_Always)
    assert open_detector("auto", DetectorSettings(weights="a.pt"))[1] == "yolo with the weights a.pt"
    _register(monkeypatch, yolo=_Never)
    _, why = open_detector("auto", DetectorSettings(weights="a.pth"))
    assert why == "mobilenet with the weights a.pth; not yolo: no weights of that kind"


def test_auto_ends_at_cam_and_says_why_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, yolo=_Never, mobilenet=_Never, cam=_Always)
    settings = DetectorSettings(threshold=0.3)
    detector, why = open_detector("auto", settings)
    assert isinstance(detector, _Always)
    assert _Always.given[-1] is settings
    assert "cam" in why
    assert "not yolo: no weights of that kind; not mobilenet: no weights of that kind" in why
    assert "\n" not in why


def test_auto_without_weights_and_network_is_cam_without_asking_anybody_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *address: asked.append(address))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    _register(monkeypatch, cam=_Always)
    detector, why = open_detector("auto", DetectorSettings(offline=True))
    assert isinstance(detector, _Always)
    assert why.count("--offline") == 2
    assert asked == []


def test_auto_does_not_pass_over_a_file_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, yolo=_Never, mobilenet=_Never, cam=_Always)
    with pytest.raises(WeightsError, match=r"no detector can use mine\.pt; not yolo: .*; not mobilenet: "):
        open_detector("auto", DetectorSettings(weights="mine.pt"))


def test_a_named_detector_is_that_one_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, yolo=_Never)
    assert isinstance(open_detector("none", DetectorSettings())[0], NoDetector)
    with pytest.raises(WeightsError, match="no weights of that kind"):
        open_detector("yolo", DetectorSettings())
    with pytest.raises(UsageError, match="no detector called 'yola'") as unknown:
        open_detector("yola", DetectorSettings())
    assert "did you mean 'yolo'?" in unknown.value.hint


# What the built-in detectors share


def test_none_finds_nothing() -> None:
    detector = NoDetector(DetectorSettings())
    assert detector.detect(_photo(5, 7), HEN) == Detection(())
    assert not detector.depends_on_target


@pytest.mark.parametrize(
    "wrong", [{"confidence": 1.01}, {"confidence": -0.1}, {"confidence": float("nan")}, {"threshold": 1.0}]
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="is not in"):
        DetectorSettings(**wrong)  # type: ignore[arg-type]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 2000))
def test_photos_are_reduced_only_above_the_limit_and_keep_their_shape(height: int, width: int, limit: int) -> None:
    photo = _photo(height, width)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shared, "MAX_DETECTOR_PIXELS", limit)
        image = for_detector(photo)
    if height * width <= limit:
        assert image.size == (width, height)
    else:
        scale = (limit / (height * width)) ** 0.5
        assert image.width == max(1, round(width * scale))
        assert image.height == max(1, round(height * scale))


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
