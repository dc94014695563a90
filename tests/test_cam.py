"""The class activation map as a detector: Zhou's formula, boxes around planted evidence, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latcli.engine.detectors.base import Target
from latcli.engine.detectors.cam import CamDetector
from latcli.engine.detectors.settings import DetectorSettings
from latcli.engine.images import Photo
from latcli.engine.models.classifier import Classifier, Normalize
from latcli.engine.models.preprocessing import Preprocessing, square_to_unit
from latcli.errors import UsageError

RED, GREEN = Target(0, "red"), Target(1, "green")


class Colours(nn.Module):
    """Global average pooling over red minus the rest, and green minus the rest, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.ReLU())
        self.classify = nn.Linear(2, 3)
        with torch.no_grad():
            weight_22 = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]])
            self.features[0].weight.copy_(weight_22[:, :, None, None].expand(2, 3, 4, 4) / 16)
            self.features[0].bias.zero_()
            self.classify.weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 3.0], [-1.0, -1.0]]))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(x_BCHW).mean(dim=(2, 3)))


@pytest.fixture
def classifier() -> Classifier:
    return Classifier("colours", Colours(), Preprocessing(64, 64, "bilinear"), ["red", "green", "none"], "f00")


def photo_of(**blobs: tuple[int, int, int, int]) -> Photo:
    """A grey photo of 120 x 200 pixels with coloured rectangles (x0, y0, x1, y1)."""
    levels_HWC = np.full((120, 200, 3), 90, dtype=np.uint8)
    for colour, (x0, y0, x1, y1) in blobs.items():
        levels_HWC[y0:y1, x0:x1] = {"red": (255, 0, 0), "green": (0, 255, 0)}[colour]
    return Photo("photo", levels_HWC, "0" * 64)


def overlap(box: tuple[float, ...], wanted: tuple[int, ...]) -> float:
    width = min(box[2], wanted[2]) - max(box[0], wanted[0])
    height = min(box[3], wanted[3]) - max(box[1], wanted[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, wanted))
    return shared / (areas - shared)


def test_the_box_lies_around_the_evidence_for_the_class_that_is_asked_for(classifier: Classifier) -> None:
    places = {"red": (20, 10, 80, 60), "green": (110, 50, 190, 110)}
    detector = CamDetector(DetectorSettings(classifier=classifier))
    for target in (RED, GREEN):
        (box,) = detector.detect(photo_of(**places), target).boxes
        assert overlap((box.x0, box.y0, box.x1, box.y1), places[target.name]) > 0.7
        assert box.name == target.name
        assert 0 < box.score <= 1


def test_of_two_parts_the_larger_one_is_boxed(classifier: Classifier) -> None:
    levels_HWC = photo_of(red=(20, 10, 90, 80)).levels_HWC.copy()
    levels_HWC[85:115, 150:190] = (255, 0, 0)
    (box,) = CamDetector(DetectorSettings(classifier=classifier)).detect(Photo("p", levels_HWC, ""), RED).boxes
    assert overlap((box.x0, box.y0, box.x1, box.y1), (20, 10, 90, 80)) > 0.7


def test_a_lower_threshold_gives_no_smaller_box(classifier: Classifier) -> None:
    photo = photo_of(red=(60, 40, 140, 90))
    areas = []
    for threshold in (0.1, 0.4, 0.8):
        (box,) = CamDetector(DetectorSettings(classifier=classifier, threshold=threshold)).detect(photo, RED).boxes
        areas.append((box.x1 - box.x0) * (box.y1 - box.y0))
    assert areas[0] >= areas[1] >= areas[2]
    assert areas[0] > areas[2]


def test_the_map_is_that_of_zhou_for_global_average_pooling(classifier: Classifier) -> None:
    photo = photo_of(red=(20, 10, 80, 60), green=(110, 50, 190, 110))
    net = classifier.net
    assert isinstance(net, Colours)
    x_1Chw = square_to_unit(photo.image.resize((64, 64)))[None]
    with torch.no_grad():
        features_cuv = net.features(x_1Chw)[0]
    for target in (RED, GREEN):
        weight_c = net.classify.weight[target.index]
        expected_uv = torch.einsum("c,cuv->uv", weight_c, features_cuv) / features_cuv[0].numel()
        found_uv = CamDetector(DetectorSettings(classifier=classifier)).activation_map(photo, target.index)
        torch.testing.assert_close(found_uv, expected_uv)


def test_no_evidence_is_no_box(classifier: Classifier) -> None:
    detector = CamDetector(DetectorSettings(classifier=classifier))
    assert detector.detect(photo_of(green=(20, 10, 80, 60)), RED).boxes == ()


def test_boxes_stay_inside_the_photo(classifier: Classifier) -> None:
    for corner in ((0, 0, 60, 40), (140, 80, 200, 120), (0, 0, 200, 120)):
        (box,) = CamDetector(DetectorSettings(classifier=classifier)).detect(photo_of(red=corner), RED).boxes
        assert 0 <= box.x0 < box.x1 <= 200
        assert 0 <= box.y0 < box.y1 <= 120


@pytest.mark.parametrize("first", [[], [Normalize((0.5,) * 3, (0.5,) * 3)]], ids=["plain", "normalised"])
def test_a_network_without_a_spatial_layer_is_refused(first: list[nn.Module]) -> None:
    net = nn.Sequential(*first, nn.Flatten(), nn.Linear(3 * 64 * 64, 3))
    flat = Classifier("flat", net, Preprocessing(64, 64, "bilinear"), ["a", "b", "c"], "")
    with pytest.raises(UsageError, match="flat has no spatial layer"):
        CamDetector(DetectorSettings(classifier=flat)).detect(photo_of(red=(0, 0, 50, 50)), RED)


def test_no_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a classifier"):
        CamDetector(DetectorSettings(classifier=None))


def test_nothing_is_left_behind_in_the_network(classifier: Classifier) -> None:
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    CamDetector(DetectorSettings(classifier=classifier)).detect(photo_of(red=(20, 10, 80, 60)), RED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert all(not module._forward_hooks for module in classifier.modules())
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())


def test_the_fingerprint_tells_apart_what_gives_other_boxes(classifier: Classifier) -> None:
    other = Classifier("colours", Colours(), Preprocessing(64, 64, "bilinear"), ["red", "green", "none"], "ba4")
    fingerprints = {
        CamDetector(DetectorSettings(classifier=c, threshold=threshold)).fingerprint
        for c in (classifier, other)
        for threshold in (0.2, 0.4)
    }
    assert len(fingerprints) == 4


def test_gradients_are_taken_where_the_caller_has_switched_them_off(classifier: Classifier) -> None:
    with torch.no_grad():
        found = CamDetector(DetectorSettings(classifier=classifier)).detect(photo_of(red=(20, 10, 80, 60)), RED)
    assert len(found.boxes) == 1
