"""Where the object of a photo is: given by its user, by one detector, or decided by `auto` photo by photo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from photo_set import save
from tiny_model import blobs

from latcli.commands.photos import object_settings
from latcli.engine import registry
from latcli.engine.detectors.base import ANY_CLASS, Box, Detection, DetectorContext, Target
from latcli.engine.images import Photo
from latcli.engine.objects import ObjectFinder, ObjectSettings, check_values, open_detector, open_finder
from latcli.errors import ExitCode, NoObjectError, UsageError, WeightsError
from latcli.options import ObjectOptions

SIZE = (40, 44)
HAMMER = Target(3, "hammer")


def photo_of(name="0.png"):
    return Photo(name, blobs(*SIZE), "0" * 64)


class Fake:
    """A detector that finds what it was given, and counts how often it is asked."""

    depends_on_target = False

    def __init__(self, name, *boxes, silhouettes=None, weights="w"):
        self.name = self.fingerprint = name
        self.weights = weights
        levels_NHW = None if silhouettes is None else torch.from_numpy(np.asarray(silhouettes, dtype=np.uint8))
        self.detection = Detection(boxes, levels_NHW)
        self.asked = 0

    def detect(self, photo, target):
        self.asked += 1
        return self.detection


def levels(*rectangles, value=255):
    """levels_HW with rectangles x0, y0, x1, y1."""
    found = np.zeros(SIZE, dtype=np.uint8)
    for x0, y0, x1, y1 in rectangles:
        found[y0:y1, x0:x1] = value
    return found


def salient(*rectangles, value=255):
    """A saliency detector that finds these rectangles."""
    box = Box(0, 0, 44, 40, 0.8, ANY_CLASS, 0)
    return Fake("saliency", box, silhouettes=levels(*rectangles, value=value)[None])


NOTHING_SALIENT = Fake("saliency")
CAM = Fake("cam", Box(1, 2, 11, 12, 0.6, "hammer"))
PERSON = Box(2, 2, 22, 32, 0.9, "person")
IN_BOX = Box(20, 10, 40, 30, 0.7, "hammer")
CORNER = (0, 0, 9, 9)
SEGMENTED = Fake("yolo", replace(IN_BOX, segmentation=0), silhouettes=levels((25, 12, 30, 25))[None])


def find(settings, *detectors, saliency=None):
    chosen = saliency or next((one for one in detectors if one.name == "saliency"), None)
    return ObjectFinder(settings, detectors, chosen).find(photo_of(), HAMMER)


def protected(found):
    return found.mask_1HW[0].numpy()


AUTO = ObjectSettings()


def test_auto_is_decided_photo_by_photo():
    for detectors, by, how, expected in [
        # a box that agrees, with its own silhouette
        ([SEGMENTED, salient()], *("yolo", "yolo, silhouettes", levels((25, 12, 30, 25)))),
        # without one: the salient part inside it
        (
            [Fake("yolo", PERSON, IN_BOX), salient((0, 0, 30, 40))],
            *("yolo", "yolo, salient part", levels((20, 10, 30, 30))),
        ),
        # unless too little in it is salient
        ([Fake("mobilenet", IN_BOX), salient((0, 0, 21, 40))], "mobilenet", "mobilenet", levels((20, 10, 40, 30))),
        ([Fake("yolo", IN_BOX), CAM], "yolo", "yolo", levels((20, 10, 40, 30))),
        # a box of another thing is never protected
        ([Fake("yolo", PERSON), salient((5, 5, 15, 15)), CAM], "saliency", "saliency", levels((5, 5, 15, 15))),
        # nothing salient, or a speck below one per cent of the photo: the activation map
        ([Fake("yolo", PERSON), NOTHING_SALIENT, CAM], "cam", "cam", levels((1, 2, 11, 12))),
        ([salient((5, 5, 9, 9)), CAM], "cam", "cam", levels((1, 2, 11, 12))),
        ([salient((5, 5, 10, 9)), CAM], "saliency", "saliency", levels((5, 5, 10, 9))),
    ]:
        found = find(AUTO, *detectors)
        assert (found.detector, found.how, found.weights) == (by, how, "w")
        np.testing.assert_array_equal(protected(found) * 255, expected)
        assert found.notes == ()
        assert found.confidence == max(box.score for box in found.boxes)


def test_auto_misses_where_nobody_finds_anything():
    detectors = [Fake("yolo", PERSON), NOTHING_SALIENT, Fake("cam")]
    with pytest.raises(NoObjectError, match=r"auto found no object in 0\.png") as missed:
        find(AUTO, *detectors)
    assert missed.value.exit_code == ExitCode.NO_OBJECT
    assert "--on-miss" in missed.value.hint
    found = find(ObjectSettings(on_miss="center"), *detectors)
    assert (found.detector, found.how, found.boxes) == ("center", "middle 0.5, auto missed", ())
    np.testing.assert_array_equal(protected(found) * 255, levels((11, 10, 33, 30)))


class Opens:
    """A detector of any name that needs nothing; as saliency, it takes weights called *.onnx."""

    depends_on_target, fingerprint = False, None
    opened: ClassVar[list[str]] = []

    @dataclass(frozen=True)
    class Settings:
        weights: str | None = None
        threshold: float = 0.4

    def __init__(self, settings, context):
        self.settings = settings
        self.weights = settings.weights


OpensYolo, OpensSaliency, OpensCam = (
    type(f"Opens{name}", (Opens,), {"name": name.lower()}) for name in ("Yolo", "Saliency", "Cam")
)


class Closed:
    """One whose weights cannot be had."""

    def __init__(self, context):
        raise WeightsError("no weights of that kind", "get some")


def register(monkeypatch, **kinds):
    for name, kind in kinds.items():
        monkeypatch.setitem(registry.BUILT_IN["detector"], name, f"{__name__}:{kind.__name__}")


def test_auto_opens_what_it_can_and_says_so_in_one_line(monkeypatch):
    register(monkeypatch, yolo=OpensYolo, mobilenet=Closed, saliency=OpensSaliency, cam=OpensCam)
    finder, about = open_finder(ObjectSettings(), DetectorContext())
    assert [one.name for one in finder.detectors] == ["yolo", "saliency", "cam"]
    assert about == "yolo, else saliency, else cam"
    register(monkeypatch, yolo=Closed)
    _, about = open_finder(ObjectSettings(), DetectorContext())
    assert about == "saliency, else cam (no weights for yolo, mobilenet: --detector NAME says why)"


def test_auto_does_not_pass_over_weights_that_were_named(monkeypatch):
    register(monkeypatch, yolo=Closed, mobilenet=Closed, saliency=OpensSaliency, cam=OpensCam)
    finder, _ = open_finder(ObjectSettings(values={"weights": "mine.onnx"}), DetectorContext())
    assert [getattr(one, "weights") for one in finder.detectors] == ["mine.onnx", None]  # noqa: B009
    register(monkeypatch, saliency=Closed)
    for weights in ("mine.pt", "mine.pth", "mine.onnx", "u2net"):
        with pytest.raises(WeightsError, match="no weights of that kind"):
            open_finder(ObjectSettings(values={"weights": weights}), DetectorContext())


def test_a_named_detector_protects_the_surest_box_where_none_agrees_and_says_so():
    found = find(ObjectSettings(detector="yolo"), Fake("yolo", PERSON, Box(0, 0, 5, 5, 0.3, "dog")))
    assert found.boxes == (PERSON,)
    assert found.notes == ("no box agrees with 'hammer': the surest one is protected, 'person'",)
    agreeing = find(ObjectSettings(detector="yolo"), Fake("yolo", PERSON, IN_BOX))
    assert (agreeing.boxes, agreeing.notes) == ((IN_BOX,), ())


@pytest.mark.parametrize(("which", "kept"), [("all", 2), ("best", 1)])
def test_all_boxes_that_agree_are_protected_or_the_best(which, kept):
    boxes = [Box(0, 0, 4, 4, 0.6, "hammer"), Box(8, 8, 12, 12, 0.5, "Hammer"), Box(20, 20, 40, 40, 0.9, "dog")]
    found = find(ObjectSettings(detector="fake", which=which), Fake("fake", *boxes))
    assert found.boxes == tuple(boxes[:kept])
    assert protected(found).sum() == 16 * kept


def test_silhouettes_take_the_place_of_boxes_where_all_have_one():
    silhouettes = np.stack([levels((5, 5, 8, 8)), levels((20, 20, 21, 21))])
    one, other = Box(4, 4, 9, 9, 0.9, "hammer", 0), Box(19, 19, 30, 30, 0.8, "hammer", 1)
    found = find(ObjectSettings(detector="fake"), Fake("fake", one, other, silhouettes=silhouettes))
    np.testing.assert_array_equal(protected(found) * 255, silhouettes.max(axis=0))
    without = Box(19, 19, 30, 30, 0.8, "hammer")
    found = find(ObjectSettings(detector="fake"), Fake("fake", one, without, silhouettes=silhouettes))
    assert protected(found).sum() == 25 + 121


def test_none_protects_nothing_and_is_no_miss():
    finder, _ = open_finder(ObjectSettings(detector="none"), DetectorContext())
    found = finder.find(photo_of(), HAMMER)
    assert (found.detector, found.boxes, float(found.mask_1HW.max())) == ("none", (), 0.0)


@pytest.mark.parametrize("soft", [False, True])
def test_silhouettes_are_cut_at_one_half_unless_they_are_to_be_soft(soft):
    edge = levels((5, 5, 15, 15)) + levels((15, 5, 20, 15), value=127) + levels((20, 5, 25, 15), value=128)
    box = Box(0, 0, 44, 40, 0.8, ANY_CLASS, 0)
    found = find(ObjectSettings(detector="saliency", soft=soft), Fake("saliency", box, silhouettes=edge[None]))
    expected = edge / np.float32(255) if soft else edge >= 128
    np.testing.assert_allclose(protected(found), expected)


class Cache:
    """A cache in memory."""

    def __init__(self):
        self.kept: dict[tuple[str, str, str], Detection] = {}

    def get(self, photo, fingerprint, target):
        return self.kept.get((photo.sha256, fingerprint, target))

    def put(self, photo, fingerprint, target, detection):
        self.kept[photo.sha256, fingerprint, target] = detection


@pytest.mark.parametrize(
    ("depends_on_target", "fingerprint", "asked"), [(False, "f", 1), (True, "f", 2), (False, None, 4)]
)
def test_a_photo_is_detected_once_for_each_target_that_matters(depends_on_target, fingerprint, asked):
    detector = Fake("fake", IN_BOX)
    detector.depends_on_target, detector.fingerprint = depends_on_target, fingerprint
    finder = ObjectFinder(ObjectSettings(detector="fake"), [detector], cache=Cache())
    for target in (HAMMER, Target(4, "saw"), HAMMER, Target(4, "saw")):
        finder.find(photo_of(), target)
    assert detector.asked == asked


def test_settings_reach_the_detector_that_has_them(monkeypatch):
    register(monkeypatch, cam=OpensCam)

    def threshold(**values):
        detector = open_detector("cam", values, DetectorContext())
        return float(detector.settings.threshold)

    assert threshold() == threshold(cam_threshold=None, confidence=0.1) == 0.4
    assert threshold(threshold="0.3") == threshold(cam_threshold=0.3, threshold=0.2) == 0.3
    with pytest.raises(UsageError, match=r"the detector cam does not fit: threshold: "):
        threshold(threshold="much")
    check_values("cam", {"threshold": "0.3", "cam_threshold": 0.2})
    with pytest.raises(UsageError, match="no setting of the detector cam called 'treshold'") as unknown:
        check_values("cam", {"treshold": "0.3"})
    assert "did you mean 'threshold'" in unknown.value.hint


def test_options_that_change_where_the_object_is_are_taken():
    of_boxes = {"boxes": "best", "refine": "grabcut"}
    for options, more in [
        ({"detector_weights": Path("a.pt"), "detector_confidence": 0.5, "cam_threshold": 0.2} | of_boxes, {}),
        ({"detector": "mobilenet", "detector_confidence": 0.5} | of_boxes, {}),
        ({"detector": "saliency", "detector_weights": Path("u2net"), "soft": True}, {}),
        ({"refine": "saliency", "soft": True}, {"boxes": ((0, 0, 9, 9),)}),
    ]:
        assert object_settings(ObjectOptions(**options), **more).refine == options.get("refine", "none")


def test_given_boxes_ask_no_detector_and_are_united():
    finder, about = open_finder(
        ObjectSettings(detector="yolo", boxes=((0, 0, 10, 10), (5, 5, 20, 12))), DetectorContext()
    )
    found = finder.find(photo_of(), HAMMER)
    assert (about, finder.detectors, found.detector) == ("given by the user", (), "box")
    assert protected(found).sum() == 100 + 105 - 25
    assert [(box.score, box.name) for box in found.boxes] == [(1.0, "hammer")] * 2


def test_settings_that_say_nothing_clear_are_refused():
    for share in (1.0, -0.5, float("nan")):
        with pytest.raises(UsageError, match="center"):
            ObjectSettings(center=share)
    with pytest.raises(UsageError, match="--box and --mask"):
        ObjectSettings(boxes=((0, 0, 1, 1),), mask=Path("mask.png"))
    with pytest.raises(UsageError, match="no detector called 'yola'") as unknown:
        open_finder(ObjectSettings(detector="yola"), DetectorContext())
    assert "did you mean 'yolo'" in unknown.value.hint


def test_a_mask_file_is_taken_as_it_is_and_grey_is_soft(tmp_path):
    grey = levels((0, 0, 10, 40)) + levels((10, 0, 20, 40), value=128)
    save(tmp_path / "1.png", grey)
    found = find(ObjectSettings(mask=tmp_path / "1.png"))
    np.testing.assert_allclose(protected(found), grey / np.float32(255))
    assert (found.detector, found.how, found.boxes) == ("mask", "mask file", ())


def test_boxes_from_anywhere_are_refined_where_that_is_asked_for():
    for settings, expected in [
        (ObjectSettings(boxes=((20, 10, 40, 30),), refine="saliency"), levels((20, 10, 30, 30))),
        (ObjectSettings(boxes=((31, 10, 40, 30), CORNER), refine="saliency"), levels((31, 10, 40, 30), CORNER)),
        (ObjectSettings(detector="cam", refine="saliency"), levels((1, 2, 11, 12))),
        (ObjectSettings(detector="cam"), levels((1, 2, 11, 12))),
    ]:
        found = find(settings, CAM, saliency=salient((0, 0, 30, 40)))
        np.testing.assert_array_equal(protected(found) * 255, expected)
