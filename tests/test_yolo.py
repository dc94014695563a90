"""Detector yolo: finds what its weights know, in weights loaded as a user would; unsafe or broken files are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import TinyNet
from yolo_fixture import compose, overlap, yolo_segmentation_weights, yolo_weights

from latcli.engine.detectors import base as shared
from latcli.engine.detectors.base import Detection, DetectorContext, Target
from latcli.engine.detectors.yolo import DEFAULT_WEIGHTS, YoloDetector, YoloSettings
from latcli.engine.images import Photo, read_photo
from latcli.engine.models.classifier import Classifier
from latcli.engine.objects import FoundObject, ObjectSettings, open_finder
from latcli.engine.vision import import_torchvision
from latcli.errors import ExitCode, WeightsError

__all__ = ["yolo_segmentation_weights", "yolo_weights"]  # fixtures

TARGET = Target(0, "disc")
HELD_OUT = range(1000, 1020)


def _photo(levels_HWC: np.ndarray) -> Photo:
    return Photo("picture", levels_HWC, "0")


def opened(weights: Path | str, **settings: float) -> YoloDetector:
    return YoloDetector(YoloSettings(str(weights), **settings), DetectorContext())


def _noise(height: int, width: int) -> Photo:
    return _photo(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tiny_classifier() -> Classifier:
    return Classifier("tiny", TinyNet(), TinyNet.preprocessing, TinyNet.class_names, "a" * 64)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model name -> a weights file as ultralytics saves it, with random weights."""
    import_torchvision()
    opens = Image.open
    from ultralytics import YOLO

    Image.open = opens  # as latcli leaves it; ultralytics' own installs packages
    folder = tmp_path_factory.mktemp("untrained")
    files = {}
    for name in ("yolo26n", "yolo26n-seg", "yolo26n-cls", "yolo11n"):
        torch.manual_seed(0)
        files[name] = folder / f"{name}.pt"
        YOLO(f"{name}.yaml").save(files[name])
    return files


# What trained weights find


@pytest.mark.slow
def test_finds_the_known_boxes_of_pictures_it_was_not_trained_on(yolo_weights: Path, tmp_path: Path) -> None:
    detector = opened(yolo_weights)
    for seed in HELD_OUT:
        levels_HWC, shapes = compose(seed, enlarged=4)
        Image.fromarray(levels_HWC).save(tmp_path / "photo.png")
        boxes = detector.detect(read_photo(tmp_path / "photo.png"), TARGET).boxes
        for shape in shapes:
            assert any(b.name == shape.name and overlap((b.x0, b.y0, b.x1, b.y1), shape.box) > 0.6 for b in boxes)
        assert [b.score for b in boxes] == sorted((b.score for b in boxes), reverse=True)
        assert all(b.score >= 0.25 and b.segmentation is None for b in boxes)


@pytest.mark.slow
def test_confidence_is_the_least_one_of_a_box_and_noise_has_none(yolo_weights: Path) -> None:
    levels_HWC, shapes = compose(HELD_OUT[0])
    few, many = (opened(yolo_weights, confidence=c).detect(_photo(levels_HWC), TARGET).boxes for c in (0.3, 0.001))
    assert len(shapes) <= len(few) < len(many)
    assert 0.001 <= min(b.score for b in many) < 0.3 <= min(b.score for b in few)
    assert opened(yolo_weights, confidence=0.5).detect(_noise(96, 96), TARGET) == Detection(())


@pytest.mark.slow
@pytest.mark.parametrize("largest_photo", [shared.MAX_DETECTOR_PIXELS, 30_000])
def test_segmentation_weights_give_silhouettes_at_the_photos_own_size(
    yolo_segmentation_weights: Path, largest_photo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_DETECTOR_PIXELS", largest_photo)  # the smaller one: the photo is reduced first
    detector = opened(yolo_segmentation_weights)
    for seed in HELD_OUT:
        levels_HWC, shapes = compose(seed, enlarged=3)
        detection = detector.detect(_photo(levels_HWC), TARGET)
        silhouettes_NHW = detection.segmentations_NHW
        assert silhouettes_NHW is not None
        assert set(silhouettes_NHW.unique().tolist()) <= {0, 255}
        assert silhouettes_NHW.shape == (len(detection.boxes), *levels_HWC.shape[:2])
        for shape in shapes:
            box = max(detection.boxes, key=lambda b: overlap((b.x0, b.y0, b.x1, b.y1), shape.box))
            assert box.segmentation is not None
            found_HW = silhouettes_NHW[box.segmentation].numpy() > 0
            shared_pixels = (found_HW & shape.silhouette_HW).sum()
            assert shared_pixels / (found_HW | shape.silhouette_HW).sum() > 0.6


@pytest.mark.slow
def test_auto_takes_its_boxes_where_they_agree_and_never_where_they_do_not(
    yolo_weights: Path, yolo_segmentation_weights: Path
) -> None:
    levels_HWC, shapes = next((levels, found) for levels, found in map(compose, HELD_OUT) if len(found) == 2)
    photo, shape = _photo(levels_HWC), shapes[0]

    def found(weights: Path, name: str, **settings: Any) -> FoundObject:
        objects = ObjectSettings(values={"weights": weights}, on_miss="center", **settings)
        finder, _ = open_finder(objects, DetectorContext(offline=True, classifier=tiny_classifier()))
        return finder.find(photo, Target(3, name))

    def agreement(one: FoundObject, silhouette_HW: np.ndarray) -> float:
        mask_HW = one.mask_1HW[0].numpy() > 0
        return float((mask_HW & silhouette_HW).sum() / (mask_HW | silhouette_HW).sum())

    boxed = found(yolo_weights, shape.name)
    assert boxed.detector == "yolo"
    assert {box.name for box in boxed.boxes} == {shape.name}
    assert boxed.weights is not None
    assert boxed.weights.startswith("last.pt sha256:")
    same = np.any([one.silhouette_HW for one in shapes if one.name == shape.name], axis=0)
    segmented = found(yolo_segmentation_weights, shape.name)
    assert (segmented.detector, segmented.how) == ("yolo", "yolo, silhouettes")
    assert agreement(segmented, same) > 0.5
    other = found(yolo_weights, "hammer")  # neither of the two: whatever is protected, it is no box of YOLO's
    assert other.detector in ("saliency", "cam", "center")
    named = found(yolo_weights, "hammer", detector="yolo")
    assert named.detector == "yolo"
    assert "no box agrees with 'hammer'" in named.notes[0]
    assert found(yolo_weights, shape.name, detector="yolo", refine="grabcut").how == "yolo, grabcut"


@pytest.mark.slow
def test_silhouettes_beyond_the_memory_for_them_are_left_out_and_their_boxes_kept(
    yolo_segmentation_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels_HWC, shapes = next(scene for scene in map(compose, HELD_OUT) if len(scene[1]) == 2)
    monkeypatch.setattr("latcli.engine.detectors.yolo._MAX_MASK_PIXELS", 96 * 96)
    detection = opened(yolo_segmentation_weights).detect(_photo(levels_HWC), TARGET)
    assert [b.segmentation for b in detection.boxes] == [0] + [None] * (len(detection.boxes) - 1)
    assert len(detection.boxes) >= len(shapes)
    assert detection.segmentations_NHW is not None
    assert len(detection.segmentations_NHW) == 1


@pytest.mark.slow
def test_neither_prints_nor_writes_nor_changes_the_process_nor_asks_the_network(
    yolo_weights: Path, tmp_path: Path
) -> None:
    program = """
import os, socket, sys, threading
import cv2, torch
import PIL.Image
def refuse(*_): print("asked the network"); raise OSError
socket.socket.connect = socket.getaddrinfo = refuse
torch.set_num_threads(2); cv2.setNumThreads(2)
before = dict(os.environ), torch.get_num_threads(), cv2.getNumThreads(), PIL.Image.open
import numpy as np
from latcli.engine.detectors.base import DetectorContext, Target
from latcli.engine.detectors.yolo import YoloDetector, YoloSettings
from latcli.engine.images import Photo
detector = YoloDetector(YoloSettings(sys.argv[1]), DetectorContext())
detector.detect(Photo("noise", np.zeros((60, 80, 3), dtype=np.uint8), "0"), Target(0, "disc"))
assert (dict(os.environ), torch.get_num_threads(), cv2.getNumThreads(), PIL.Image.open) == before
assert threading.active_count() == 1
"""
    home, current = tmp_path / "home", tmp_path / "current"
    home.mkdir()
    current.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", program, str(yolo_weights)],
        cwd=current,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(current.iterdir()) == []


# Any size, any weights


@pytest.mark.parametrize("name", ["yolo26n", "yolo26n-seg", "yolo11n"])
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (300, 7), (37, 53)])
def test_boxes_lie_inside_photos_of_any_size(untrained: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    height, width = size
    detection = opened(untrained[name], confidence=0.0).detect(_noise(*size), TARGET)
    assert detection.boxes
    for box in detection.boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    if detection.segmentations_NHW is not None:
        assert detection.segmentations_NHW.shape[1:] == size


def test_equal_weights_give_equal_detections_and_fingerprints(untrained: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copy(untrained["yolo26n"], tmp_path / "copy.pt")
    one, other = (opened(w, confidence=0.0) for w in (untrained["yolo26n"], copy))
    assert one.fingerprint == other.fingerprint
    assert one.detect(_noise(64, 48), TARGET) == other.detect(_noise(64, 48), TARGET)


def test_fingerprint_and_weights_name_what_was_opened(untrained: dict[str, Path]) -> None:
    detectors = [
        opened(untrained["yolo26n"]),
        opened(untrained["yolo11n"]),
        opened(untrained["yolo26n"], confidence=0.4),
    ]
    assert len({detector.fingerprint for detector in detectors}) == 3
    assert [detector.weights.partition(" ")[0] for detector in detectors] == ["yolo26n.pt", "yolo11n.pt", "yolo26n.pt"]


# Files that are refused


class _Payload:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(
    untrained: dict[str, Path], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    checkpoint = torch.load(untrained["yolo26n"], weights_only=False)
    torch.save(checkpoint | {"date": _Payload(marker)}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"contains code .*system") as refused:
        opened(tmp_path / "evil.pt")
    assert "\n" not in refused.value.message
    assert not marker.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # the file does what it is accused of
    assert marker.exists()


def test_safe_mode_is_ours_only_while_we_load(untrained: dict[str, Path], tmp_path: Path) -> None:
    from ultralytics.nn import tasks

    before, allowed = tasks.SAFE_LOAD, set(torch.serialization.get_safe_globals())  # torch's list has no fixed order
    opened(untrained["yolo26n"])
    (tmp_path / "bad.pt").write_bytes(b"not weights")
    with pytest.raises(WeightsError):
        opened(tmp_path / "bad.pt")
    assert before == tasks.SAFE_LOAD
    assert allowed == set(torch.serialization.get_safe_globals())  # or else other files might hold networks, too


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9999])
def test_a_truncated_file_is_refused_wherever_it_ends(untrained: dict[str, Path], tmp_path: Path, share: float) -> None:
    data = untrained["yolo26n"].read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match="damaged") as refused:
        opened(tmp_path / "cut.pt")
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zeros.pt", b"\0" * 100, "damaged, or not a weights file"),
        ("pickle.pt", b"\x80\x02}q\x00.", "damaged, or not a weights file"),
        ("page.pt", b"<html>404</html>", "damaged, or not a weights file"),
        ("empty.pt", b"", "is empty"),
        ("model.onnx", b"onnx", "not a YOLO weights file"),
        ("missing.pt", None, "no such weights file"),
        ("dict.pt", {"weight": torch.ones(2)}, "dict.pt"),
        ("list.pt", [torch.ones(2)], "list.pt"),
        ("net.pt", {"model": torch.nn.Linear(2, 2)}, "net.pt"),
        ("nothing.pt", {}, "nothing.pt"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=message) as refused:
        opened(tmp_path / name)
    assert "\n" not in refused.value.message + refused.value.hint


def test_a_model_that_finds_no_boxes_is_refused(untrained: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="task 'classify'"):
        opened(untrained["yolo26n-cls"])


def test_a_name_that_ultralytics_would_change_is_not_asked_of_the_network(
    untrained: dict[str, Path], tmp_path: Path, no_network: list[object]
) -> None:
    shutil.copy(untrained["yolo26n"], tmp_path / "it's mine.pt")
    with pytest.raises(WeightsError, match="ultralytics looks for"):
        opened(tmp_path / "it's mine.pt")
    assert no_network == []


# Weights that are not here


def test_offline_asks_nobody_and_says_what_to_do(no_network: list[object]) -> None:
    with pytest.raises(WeightsError, match="--offline") as missing:
        YoloDetector(YoloSettings(), DetectorContext(offline=True))
    assert missing.value.exit_code == ExitCode.FAILURE
    assert "--detector-weights FILE" in missing.value.hint
    assert "--detector cam" in missing.value.hint
    assert no_network == []


@pytest.mark.parametrize("name", [None, "yolo11s-seg.pt"])
def test_without_network_the_error_names_the_file_and_the_host(name: str | None, no_network: list[object]) -> None:
    with pytest.raises(WeightsError, match=r"github\.com does not answer") as missing:
        YoloDetector(YoloSettings(name or DEFAULT_WEIGHTS), DetectorContext())
    assert (name or DEFAULT_WEIGHTS) in missing.value.message
    assert no_network


@pytest.mark.parametrize("place", ["current", "cache"])
def test_default_weights_are_taken_from_the_disk(
    untrained: dict[str, Path], tmp_path: Path, place: str, no_network: list[object]
) -> None:
    folder = tmp_path if place == "current" else tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(untrained["yolo26n"], folder / DEFAULT_WEIGHTS)
    detector = YoloDetector(YoloSettings(), DetectorContext(offline=True))
    assert detector.fingerprint == opened(untrained["yolo26n"]).fingerprint
    assert no_network == []
