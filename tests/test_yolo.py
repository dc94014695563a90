"""Detector yolo: finds what ultralytics finds, in weights read as a user would; unsafe or broken files are refused."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import save_photo

from latcli.engine.detectors import base as shared
from latcli.engine.detectors.base import DetectorContext, Target
from latcli.engine.detectors.yolo import DEFAULT_WEIGHTS, YoloDetector, YoloSettings
from latcli.engine.images import Photo, read_photo
from latcli.engine.vision import import_torchvision
from latcli.errors import WeightsError

TARGET = Target(0, "disc")


def opened(weights, **settings):
    return YoloDetector(YoloSettings(str(weights), **settings), DetectorContext())


def noise(height, width):
    return Photo("noise", np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), "0")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
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


@pytest.mark.parametrize("name", ["yolo26n", "yolo26n-seg", "yolo11n"])
def test_it_finds_what_ultralytics_finds_in_the_same_file(name, untrained, tmp_path, monkeypatch):
    from ultralytics import YOLO

    path = save_photo(tmp_path / "photo.png", 150, 190)
    monkeypatch.setattr(Image, "open", Image.open)
    (theirs,) = YOLO(untrained[name]).predict(str(path), conf=0.0, retina_masks=True, save=False, verbose=False)
    corners_N4, scores_N = theirs.boxes.xyxy, theirs.boxes.conf
    kept = [row for row, (x0, y0, x1, y1) in enumerate(corners_N4.tolist()) if x0 < x1 and y0 < y1]

    found = opened(untrained[name], confidence=0.0).detect(read_photo(path), TARGET)
    assert len(found.boxes) == len(kept) > 0
    assert [box.score for box in found.boxes] == sorted(scores_N[kept].tolist(), reverse=True)
    for box in found.boxes:
        here = torch.tensor([box.x0, box.y0, box.x1, box.y1])
        row = int((corners_N4 - here).abs().sum(dim=1).argmin())
        torch.testing.assert_close(corners_N4[row], here)
        assert box.name in {theirs.names[int(kind)] for kind in theirs.boxes.cls}
        if name.endswith("-seg"):
            assert found.segmentations_NHW is not None
            assert box.segmentation is not None
            silhouettes_NHW = theirs.masks.data.bool() * 255
            assert any(torch.equal(found.segmentations_NHW[box.segmentation], one.byte()) for one in silhouettes_NHW)
        else:
            assert box.segmentation is None


@pytest.mark.parametrize("largest_photo", [shared.MAX_DETECTOR_PIXELS, 500])
@pytest.mark.parametrize("size", [(1, 400), (37, 53)])
def test_boxes_and_silhouettes_lie_inside_photos_of_any_size(size, largest_photo, untrained, monkeypatch):
    monkeypatch.setattr(shared, "MAX_DETECTOR_PIXELS", largest_photo)
    height, width = size
    detection = opened(untrained["yolo26n-seg"], confidence=0.0).detect(noise(*size), TARGET)
    assert detection.boxes
    for box in detection.boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    assert detection.segmentations_NHW is not None
    assert detection.segmentations_NHW.shape[1:] == size
    assert set(detection.segmentations_NHW.unique().tolist()) <= {0, 255}


def test_a_confidence_is_the_least_one_of_a_box(untrained):
    every = opened(untrained["yolo11n"], confidence=0.0).detect(noise(64, 64), TARGET).boxes
    least = every[len(every) // 2].score
    some = opened(untrained["yolo11n"], confidence=least).detect(noise(64, 64), TARGET).boxes
    assert 0 < len(some) < len(every)
    assert min(box.score for box in some) >= least


def test_fingerprint_and_weights_name_what_was_opened(untrained, tmp_path):
    files = [untrained["yolo26n"], untrained["yolo11n"], shutil.copy(untrained["yolo26n"], tmp_path / "copy.pt")]
    detectors = [*map(opened, files), opened(untrained["yolo26n"], confidence=0.4)]
    assert len({detector.fingerprint for detector in detectors}) == 3
    names = ["yolo26n.pt", "yolo11n.pt", "copy.pt", "yolo26n.pt"]
    assert [detector.weights.partition(" ")[0] for detector in detectors] == names


@pytest.mark.slow
def test_neither_prints_nor_writes_nor_changes_the_process_nor_asks_the_network(untrained, tmp_path):
    program = """
import os, socket, sys, threading
import cv2, torch
import PIL.Image
def refuse(*_): print("asked the network"); raise OSError
socket.socket.connect = socket.getaddrinfo = refuse
torch.set_num_threads(2); cv2.setNumThreads(2)
before = torch.get_num_threads(), cv2.getNumThreads(), PIL.Image.open
import numpy as np
from latcli.engine.detectors.base import DetectorContext, Target
from latcli.engine.detectors.yolo import YoloDetector, YoloSettings
from latcli.engine.images import Photo
detector = YoloDetector(YoloSettings(sys.argv[1]), DetectorContext())
detector.detect(Photo("noise", np.zeros((60, 80, 3), dtype=np.uint8), "0"), Target(0, "disc"))
assert (torch.get_num_threads(), cv2.getNumThreads(), PIL.Image.open) == before
assert threading.active_count() == 1
"""
    home, current = tmp_path / "home", tmp_path / "current"
    home.mkdir()
    current.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "ULTRALYTICS_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", program, str(untrained["yolo26n"])],
        cwd=current,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(current.iterdir()) == []


class _Made:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.made_by = function, arguments

    def __reduce__(self):
        return self.made_by


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(untrained, tmp_path):
    from ultralytics.nn import tasks
    from ultralytics.nn.modules.block import TorchVision

    before, allowed = tasks.SAFE_LOAD, set(torch.serialization.get_safe_globals())  # torch's list has no fixed order
    marker = tmp_path / "ran"
    checkpoint = torch.load(untrained["yolo26n"], weights_only=False)
    torch.save(checkpoint | {"date": _Made(os.system, f"touch '{marker}'")}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"contains code .*system") as refused:
        opened(tmp_path / "evil.pt")
    assert "\n" not in refused.value.message
    assert "--trust-weights" in refused.value.hint
    assert not marker.exists()
    YoloDetector(YoloSettings(str(tmp_path / "evil.pt")), DetectorContext(trust_weights=True))
    assert marker.exists()  # the file does what it is accused of
    # Layers are rebuilt and never constructed: some constructors download files or allocate memory.
    for made in ((TorchVision, "resnet18"), (tasks.DetectionModel, "/etc/passwd.yaml"), (torch.nn.Linear, 9, 9)):
        torch.save(checkpoint | {"date": _Made(*made)}, tmp_path / "made.pt")
        with pytest.raises(WeightsError, match="contains code"):
            opened(tmp_path / "made.pt")
    assert torch.nn.Linear(2, 2).weight.shape == (2, 2)  # elsewhere layers are made as before
    assert before == tasks.SAFE_LOAD  # safe mode is latcli's only while it reads
    assert allowed == set(torch.serialization.get_safe_globals())  # or else other files might hold networks, too


def test_a_file_that_holds_something_else_is_refused(untrained, tmp_path):
    for name, content, message in [
        ("cut.pt", 0.5, "damaged, or not a weights file"),
        ("cut.pt", 0.9999, "damaged, or not a weights file"),
        ("zeros.pt", b"\0" * 100, "damaged, or not a weights file"),
        ("page.pt", b"<html>404</html>", "damaged, or not a weights file"),
        ("empty.pt", b"", "damaged, or not a weights file"),
        ("model.onnx", b"onnx", "not a YOLO weights file"),
        ("missing.pt", None, "no such weights file"),
        ("dict.pt", {"weight": torch.ones(2)}, "dict.pt"),
        ("list.pt", [torch.ones(2)], "list.pt"),
        ("net.pt", {"model": torch.nn.Linear(2, 2)}, "net.pt"),
        ("nothing.pt", {}, "nothing.pt"),
    ]:
        if isinstance(content, float):
            data = untrained["yolo26n"].read_bytes()
            content = data[: int(content * len(data))]
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match=message) as refused:
            opened(tmp_path / name)
        assert "\n" not in refused.value.message + refused.value.hint


def test_what_finds_no_boxes_and_a_name_that_ultralytics_would_change_are_refused(untrained, tmp_path, no_network):
    with pytest.raises(WeightsError, match="task 'classify'"):
        opened(untrained["yolo26n-cls"])
    shutil.copy(untrained["yolo26n"], tmp_path / "it's mine.pt")
    with pytest.raises(WeightsError, match="ultralytics looks for"):
        opened(tmp_path / "it's mine.pt")
    assert no_network == []


@pytest.mark.parametrize("place", ["current", "cache"])
def test_default_weights_are_taken_from_the_disk(untrained, tmp_path, place, no_network):
    folder = tmp_path if place == "current" else tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(untrained["yolo26n"], folder / DEFAULT_WEIGHTS)
    detector = YoloDetector(YoloSettings(), DetectorContext(offline=True))
    assert detector.fingerprint == opened(untrained["yolo26n"]).fingerprint
    assert no_network == []
