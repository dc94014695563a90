"""Detector mobilenet: torchvision's SSDLite with weights from a file, as a user would give them."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latcli.engine.detectors.base import DetectorContext, Target
from latcli.engine.detectors.mobilenet import MobilenetDetector, MobilenetSettings
from latcli.engine.images import Photo
from latcli.engine.vision import import_torchvision
from latcli.errors import WeightsError

TARGET = Target(207, "golden retriever")
#: With random weights all 91 classes are about as likely: a confidence below 1/91 lets boxes through.
LOW = 0.0105
DOG = 18


def _noise(height, width):
    return Photo("noise", np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), "0")


@pytest.fixture(scope="module")
def random_weights():
    """The state dict of an untrained SSDLite."""
    models = import_torchvision().models.detection
    torch.manual_seed(0)
    model = models.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def file(random_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "ssdlite.pth"
    torch.save(random_weights, path)
    return path


@pytest.fixture(scope="module")
def dogs_everywhere(random_weights, tmp_path_factory):
    """Weights that see a dog in every one of the network's default boxes, whatever the photo shows."""
    path = tmp_path_factory.mktemp("weights") / "dogs.safetensors"
    weights = {name: value.clone() for name, value in random_weights.items()}
    for name, value in weights.items():
        if re.fullmatch(r"head\.\w+\.module_list\.\d\.1\.(weight|bias)", name):  # the last layers
            value.zero_()
            if "classification" in name and name.endswith("bias"):
                value.view(-1, 91)[:, DOG] = 10.0
    save_file(weights, path)
    return path


def opened(weights, **settings):
    return MobilenetDetector(MobilenetSettings(weights, **settings), DetectorContext())


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (37, 53)])
def test_boxes_lie_inside_photos_of_any_size(file, size, no_network):
    height, width = size
    detection = opened(file, confidence=LOW).detect(_noise(*size), TARGET)
    assert detection.boxes
    assert detection.segmentations_NHW is None
    assert [b.score for b in detection.boxes] == sorted((b.score for b in detection.boxes), reverse=True)
    for box in detection.boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
        assert box.score >= LOW
    assert no_network == []


def test_classes_have_their_coco_names_and_boxes_their_place(dogs_everywhere):
    detector = opened(dogs_everywhere)
    square, wide = (detector.detect(_noise(*size), TARGET).boxes for size in ((320, 320), (160, 640)))
    assert {box.name for box in square} == {"dog"}
    assert max(box.score for box in square) > 0.99
    # What it sees does not depend on the pixels, so the boxes are the same shares of every photo.
    np.testing.assert_allclose(_shares(square, 320, 320), _shares(wide, 160, 640), atol=1e-4)
    assert _shares(square, 320, 320).min() < 0.01  # the default boxes tile the photo from edge to edge
    assert _shares(square, 320, 320).max() > 0.99


def _shares(boxes, height, width):
    return np.array([(box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height) for box in boxes])


def test_fingerprint_and_weights_name_what_was_opened(file, dogs_everywhere):
    detectors = [opened(file), opened(dogs_everywhere), opened(file, confidence=0.5)]
    assert len({detector.fingerprint for detector in detectors}) == 3
    assert len({detector.weights for detector in detectors}) == 2
    assert detectors[0].weights.startswith("ssdlite.pth sha256:")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth do not fit SSD: missing: .*; left over: weight"):
        opened(tmp_path / "other.pth")
