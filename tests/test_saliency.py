"""Detector saliency: silhouettes of what stands out, by real weights; weights from anywhere are checked."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.mask_agreement import intersection_over_union
from latcli.commands.photos import package_photos
from latcli.engine.detectors import saliency as module
from latcli.engine.detectors.base import ANY_CLASS, DetectorContext, Target
from latcli.engine.detectors.saliency import SaliencyDetector, SaliencySettings, inside_box, weights_at_hand
from latcli.engine.images import Photo, read_photo
from latcli.errors import WeightsError

TARGET = Target(0, "thing")
OFFLINE = DetectorContext(offline=True)


@pytest.fixture(scope="module")
def weights():
    """The weights that a package carries, or rembg's own."""
    found = weights_at_hand()
    if found is None:
        pytest.skip(f"no weights: {module.INSTALL_WEIGHTS}")
    return found


@pytest.fixture(scope="module")
def detector(weights):
    return SaliencyDetector(SaliencySettings(str(weights)), OFFLINE)


def photo_of(levels_HWC):
    return Photo("photo", levels_HWC.astype(np.uint8), "0" * 64)


def disc(size=(240, 320), radius=60):
    """A red disc on a ground of soft grass, and where it is."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside_HW = (rows - size[0] // 2) ** 2 + (columns - size[1] // 2) ** 2 < radius**2
    ground = np.random.default_rng(0).normal(0, 12, (*size, 3)) + np.array((70, 120, 60))
    return photo_of(np.where(inside_HW[:, :, None], (200, 40, 40), ground).clip(0, 255)), inside_HW


def test_the_silhouette_of_what_stands_out(detector):
    photo, inside_HW = disc()
    found = detector.detect(photo, TARGET)
    (box,) = found.boxes
    assert (box.name, box.segmentation) == (ANY_CLASS, 0)
    assert 0.5 < box.score <= 1
    assert found.segmentations_NHW is not None
    assert found.segmentations_NHW.shape == (1, *photo.size)
    assert found.segmentations_NHW.dtype == torch.uint8
    object_HW = found.segmentations_NHW[0].numpy() >= 128
    assert intersection_over_union(object_HW, inside_HW) > 0.85
    rows, columns = np.nonzero(object_HW)
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert (box.x0, box.y0, box.x1, box.y1) == corners
    assert torch.equal(found.segmentations_NHW, detector.detect(photo, TARGET).segmentations_NHW)


def test_it_is_prepared_as_rembg_prepares_it(detector, weights):
    """An own pass through the network: Lanczos to 320, the maximum, ImageNet's mean and deviation, min-max."""
    photo = read_photo(package_photos()[1])
    pixels = np.asarray(photo.image.resize((320, 320), Image.Resampling.LANCZOS)) / 1.0
    pixels = (pixels / pixels.max() - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    net = cv2.dnn.readNetFromONNX(str(weights))
    net.setInput(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    out = net.forward(net.getUnconnectedOutLayersNames()[0])[0, 0]
    expected = (255 * (out - out.min()) / (out.max() - out.min())).astype(np.uint8)
    expected_HW = np.asarray(Image.fromarray(expected).resize(photo.image.size, Image.Resampling.LANCZOS))
    assert np.abs(detector.saliency(photo).astype(int) - expected_HW).max() <= 3


@pytest.mark.parametrize("colour", [0, 255])
def test_in_a_flat_photo_nothing_stands_out(colour, detector):
    found = detector.detect(photo_of(np.full((60, 80, 3), colour)), TARGET)
    assert found.boxes == ()


def test_small_pieces_are_dropped_and_what_covers_everything_is_a_miss(detector, monkeypatch):
    soft_HW = np.zeros((100, 100), dtype=np.uint8)
    soft_HW[10:60, 10:60], soft_HW[80:84, 80:84], soft_HW[70:90, 10:30], soft_HW[60, 10:60] = 255, 255, 200, 90
    monkeypatch.setattr(detector, "saliency", lambda photo: soft_HW)
    found = detector.detect(photo_of(np.zeros((100, 100, 3))), TARGET)
    assert found.segmentations_NHW is not None
    kept_HW = found.segmentations_NHW[0].numpy()
    assert kept_HW[80:84, 80:84].max() == 0  # 16 pixels beside 2,500
    assert (kept_HW[70:90, 10:30] == 200).all()
    assert (kept_HW[60, 10:60] == 90).all()  # the soft edge
    for everywhere in (0, 255):
        monkeypatch.setattr(detector, "saliency", lambda photo, value=everywhere: np.full((100, 100), value, np.uint8))
        assert detector.detect(photo_of(np.zeros((100, 100, 3))), TARGET).boxes == ()


def test_the_salient_part_of_a_box_where_there_is_enough_of_it():
    soft_1HW, box_1HW = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    soft_1HW[:, :5], box_1HW[:, 3:9] = 0.8, 1.0
    part_1HW = inside_box(soft_1HW, box_1HW)
    assert part_1HW is not None
    assert (part_1HW[:, 3:5] == 0.8).all()
    assert part_1HW.sum() == pytest.approx(0.8 * 20)
    assert inside_box(soft_1HW, box_1HW, least=0.5) is None
    assert inside_box(soft_1HW, torch.zeros_like(box_1HW)) is None


def test_weights_are_looked_for_in_rembgs_folder_then_in_the_package(weights, tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_in_package", lambda name: None)
    with pytest.raises(WeightsError, match="--offline") as missing:
        SaliencyDetector(SaliencySettings(), OFFLINE)
    assert module.INSTALL_WEIGHTS in missing.value.hint
    shutil.copy(weights, tmp_path / "u2netp.onnx")
    detector = SaliencyDetector(SaliencySettings(), OFFLINE)
    assert detector.weights == "u2netp.onnx sha256:309c8469258dda74"
    assert no_network == []
    with pytest.raises(WeightsError, match="does not answer") as unreachable:
        SaliencyDetector(SaliencySettings("u2net"), DetectorContext())
    assert "u2net.onnx" in unreachable.value.hint
    assert no_network


def test_weights_of_the_wrong_checksum_damaged_or_of_another_network_are_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    (tmp_path / "u2netp.onnx").write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(WeightsError, match="is not u2netp as it was published"):
        SaliencyDetector(SaliencySettings(), OFFLINE)
    for name, content, message in (
        ("cut.onnx", weights.read_bytes()[: 1 << 20], "damaged or no ONNX"),
        ("empty.onnx", b"", "damaged or no ONNX"),
        ("text.onnx", b"<html>404</html>", "damaged or no ONNX"),
        ("gone.onnx", None, "no such weights file"),
        ("other.pt", b"", "saliency weights"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            SaliencyDetector(SaliencySettings(str(tmp_path / name)), OFFLINE)
