"""Activation maps: Zhou's formula, boxes around planted evidence, and what lies on the object."""

import numpy as np
import pytest
import torch
from torch import nn

from latcli.engine.detectors.base import DetectorContext, Target
from latcli.engine.detectors.cam import CamDetector, CamSettings, activation_map, evidence_inside
from latcli.engine.images import Photo, to_unit
from latcli.engine.localize import boxes_mask
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Normalize, Preprocessing
from latcli.errors import UsageError

RED, GREEN = Target(0, "red"), Target(1, "green")


class Colours(nn.Module):
    """Global average pooling over red minus the rest, and green minus the rest, and one linear layer.

    `channels_last`: the map is handed on as (B, u, v, c), as in timm's Swin.
    """

    def __init__(self, channels_last=False):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.ReLU())
        self.last = nn.Identity()
        self.classify = nn.Linear(2, 3)
        self.channels_last = channels_last
        with torch.no_grad():
            weight_22 = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]])
            self.features[0].weight.copy_(weight_22[:, :, None, None].expand(2, 3, 4, 4) / 16)
            self.features[0].bias.zero_()
            self.classify.weight.copy_(torch.tensor([[2.0, -1.0], [-1.0, 3.0], [-1.0, -1.0]]))

    def forward(self, x_BCHW):
        map_Bcuv = self.features(x_BCHW)
        if self.channels_last:
            return self.classify(self.last(map_Bcuv.permute(0, 2, 3, 1)).mean(dim=(1, 2)))
        return self.classify(self.last(map_Bcuv).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Attention of two heads over 8 x 8 tokens: its last four-dimensional output is (B, heads, tokens, d).

    `weights`: it is (B, heads, tokens, tokens), as square as a map.
    """

    def __init__(self, weights):
        super().__init__()
        torch.manual_seed(0)
        self.cut = nn.Conv2d(3, 16, 8, stride=8)
        self.last = nn.Identity()
        self.classify = nn.Linear(16, 3)
        self.weights = weights

    def forward(self, x_BCHW):
        tokens_BhNd = self.cut(x_BCHW).flatten(2).unflatten(1, (2, 8)).transpose(2, 3)
        attention_BhNN = (tokens_BhNd @ tokens_BhNd.transpose(2, 3)).softmax(dim=3)
        if self.weights:
            mixed_BhNd = self.last(attention_BhNN) @ tokens_BhNd
        else:
            mixed_BhNd = attention_BhNN @ self.last(tokens_BhNd)
        return self.classify(mixed_BhNd.mean(dim=2).flatten(1))


def classifier_of(net, fingerprint="f00"):
    classifier = Classifier("colours", net, Preprocessing(64, 64, "bilinear"), ["red", "green", "none"])
    classifier.fingerprint = fingerprint
    return classifier


def cam_of(net, threshold=0.4):
    return CamDetector(CamSettings(threshold), DetectorContext(classifier_of(net)))


def photo_of(**blobs):
    """A grey photo of 120 x 200 pixels with coloured rectangles (x0, y0, x1, y1)."""
    levels_HWC = np.full((120, 200, 3), 90, dtype=np.uint8)
    for colour, (x0, y0, x1, y1) in blobs.items():
        levels_HWC[y0:y1, x0:x1] = {"red": (255, 0, 0), "green": (0, 255, 0)}[colour.rstrip("2")]
    return Photo("photo", levels_HWC, "0" * 64)


def overlap(box, wanted):
    width = min(box[2], wanted[2]) - max(box[0], wanted[0])
    height = min(box[3], wanted[3]) - max(box[1], wanted[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, wanted))
    return shared / (areas - shared)


def test_the_box_lies_around_the_evidence_for_the_class_that_is_asked_for():
    for target in [RED, GREEN]:
        for channels_last in [False, True]:
            places = {"red": (20, 10, 80, 60), "green": (110, 50, 190, 110)}
            (box,) = cam_of(Colours(channels_last)).detect(photo_of(**places), target).boxes
            assert overlap((box.x0, box.y0, box.x1, box.y1), places[target.name]) > 0.8
            assert (box.name, box.segmentation) == (target.name, None)
            assert 0.7 < box.score <= 1


def test_of_two_parts_the_larger_one_is_boxed_and_a_lower_threshold_gives_no_smaller_box():
    photo = photo_of(red=(10, 10, 90, 90), red2=(150, 10, 170, 30))
    (box,) = cam_of(Colours()).detect(photo, RED).boxes
    assert overlap((box.x0, box.y0, box.x1, box.y1), (10, 10, 90, 90)) > 0.8
    areas = []
    for threshold in (0.1, 0.4, 0.8):
        (box,) = cam_of(Colours(), threshold).detect(photo, RED).boxes
        areas.append((box.x1 - box.x0) * (box.y1 - box.y0))
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[2]


def test_the_map_is_that_of_zhou_for_global_average_pooling():
    """The weights of the class times the activations, up to the mean's 1/256."""
    net, photo = Colours(), photo_of(red=(20, 10, 80, 60), green=(110, 50, 190, 110))
    x_1Chw = to_unit(photo.image.resize((64, 64)))[None]
    with torch.no_grad():
        expected_uv = torch.einsum("c,cuv->uv", net.classify.weight[1], net.features(x_1Chw)[0]) / 256
    map_uv = activation_map(classifier_of(net), photo, 1)
    assert map_uv.shape == (16, 16)
    torch.testing.assert_close(map_uv, expected_uv)
    torch.testing.assert_close(activation_map(classifier_of(Colours(channels_last=True)), photo, 1), expected_uv)


def test_a_network_without_a_map_of_the_image_is_refused():
    for net in [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3)),
        lambda: nn.Sequential(Normalize((0.5,) * 3, (0.5,) * 3), nn.Flatten(), nn.Linear(3 * 64 * 64, 3)),
        lambda: Tokens(weights=False),
        lambda: Tokens(weights=True),
    ]:
        with pytest.raises(UsageError, match="no spatial layer"):
            cam_of(net()).detect(photo_of(), RED)
        assert evidence_inside(classifier_of(net()), photo_of(), 0, torch.ones(1, 120, 200)) is None


def test_no_evidence_is_no_box_and_no_classifier_is_refused():
    assert cam_of(Colours()).detect(photo_of(green=(20, 10, 80, 60)), RED).boxes == ()
    with pytest.raises(UsageError, match="needs a classifier"):
        CamDetector(CamSettings(), DetectorContext())
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="threshold"):
            CamSettings(threshold)


def test_nothing_is_left_behind_in_the_network_and_gradients_are_taken_where_they_are_off():
    detector = cam_of(Colours())
    before = {name: value.clone() for name, value in detector.classifier.state_dict().items()}
    with torch.no_grad():
        assert detector.detect(photo_of(red=(20, 10, 80, 60)), RED).boxes
    assert all(torch.equal(value, before[name]) for name, value in detector.classifier.state_dict().items())
    assert all(not module._forward_hooks for module in detector.classifier.modules())
    assert all(p.grad is None and not p.requires_grad for p in detector.classifier.parameters())


def test_the_fingerprint_tells_apart_what_gives_other_boxes():
    found = [
        CamDetector(CamSettings(threshold), DetectorContext(classifier_of(Colours(), weights))).fingerprint
        for threshold, weights in ((0.4, "a" * 64), (0.5, "a" * 64), (0.4, "b" * 64))
    ]
    assert len(set(found)) == 3
    assert CamDetector(CamSettings(), DetectorContext(classifier_of(Colours(), ""))).fingerprint is None


def test_evidence_is_the_share_of_the_map_on_the_object_and_lift_compares_it_with_the_area():
    classifier, photo = classifier_of(Colours()), photo_of(red=(0, 0, 100, 120))
    left, right = (boxes_mask([box], photo.size) for box in ((0, 0, 100, 120), (100, 0, 200, 120)))
    share, lift = evidence_inside(classifier, photo, 0, left) or (0, 0)
    assert share == pytest.approx(0.98, abs=0.02)  # the map's places are eight pixels wide and blend at their borders
    assert lift == pytest.approx(2 * share)
    rest, _ = evidence_inside(classifier, photo, 0, right) or (0, 0)
    assert share + rest == pytest.approx(1)
    assert evidence_inside(classifier, photo, 0, torch.ones_like(left)) == (pytest.approx(1), pytest.approx(1))
    assert evidence_inside(classifier, photo, 0, torch.zeros_like(left)) is None
    assert evidence_inside(classifier, photo_of(green=(0, 0, 9, 9)), 0, left) is None
