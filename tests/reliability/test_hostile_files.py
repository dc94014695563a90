"""Weights made to do harm: pickles that run code, names and networks without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from latcli.engine.detectors.base import DetectorContext
from latcli.engine.detectors.yolo import YoloDetector, YoloSettings
from latcli.engine.models.catalog import CheckpointInfo, open_checkpoint, pack_classifier
from latcli.engine.vision import import_torchvision
from latcli.errors import WeightsError


def write_small_yolo(path: Path) -> Path:
    """Write the weights of a detector of ultralytics' own kind, with two layers instead of twenty, always the same."""
    import_torchvision()
    opens = Image.open
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    Image.open = opens  # as latcli leaves it; ultralytics' own installs packages
    layers = {"nc": 2, "backbone": [[-1, 1, "Conv", [4, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]}
    layers |= {"head": [[[0, 1], 1, "Detect", ["nc"]]], "scales": {"n": [1.0, 1.0, 1024]}, "scale": "n"}
    model = YOLO("yolo26n.yaml")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.model = DetectionModel(layers, ch=3, verbose=False)
    model.model.args = dict(model.overrides)
    model.save(path)
    return path


class _Call:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made_by = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.made_by


@pytest.fixture(scope="module")
def small_yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_yolo(tmp_path_factory.mktemp("yolo") / "small.pt")


def opened(weights: Path, **context: bool) -> YoloDetector:
    return YoloDetector(YoloSettings(str(weights)), DetectorContext(**context))


def _with_call(weights: Path, to: Path, call: _Call) -> Path:
    torch.save(torch.load(weights, weights_only=False) | {"date": call}, to)
    return to


def test_weights_that_run_code_need_their_user_s_word(small_yolo: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = _with_call(small_yolo, tmp_path / "calls.pt", _Call(os.mkdir, str(marker)))
    with pytest.raises(WeightsError, match="contains code") as refused:
        opened(file)
    assert "--trust-weights" in refused.value.hint
    assert not marker.exists()
    opened(file, trust_weights=True)
    assert marker.is_dir()


def test_a_layer_of_yolo_is_rebuilt_and_never_constructed(
    small_yolo: Path, tmp_path: Path, no_network: list[object]
) -> None:
    from ultralytics.nn.modules.block import TorchVision
    from ultralytics.nn.tasks import DetectionModel

    calls = [_Call(TorchVision, "resnet18"), _Call(DetectionModel, "/etc/passwd.yaml"), _Call(torch.nn.Linear, 9, 9)]
    for call in calls:
        with pytest.raises(WeightsError, match="contains code"):
            opened(_with_call(small_yolo, tmp_path / "calls.pt", call))
    assert no_network == []
    assert torch.nn.Linear(2, 2).weight.shape == (2, 2)  # elsewhere layers are made as before
    assert opened(small_yolo).name == "yolo"


def test_a_checkpoint_that_names_a_huge_network_makes_none(tmp_path: Path) -> None:
    info = CheckpointInfo("paper-cnn", (3, 50_000, 50_000), ("a", "b"), "mnist", "0" * 64, "natural", 0.3, 1)
    (tmp_path / "huge.safetensors").write_bytes(pack_classifier({"weight": torch.zeros(1)}, info))
    with pytest.raises(WeightsError, match="cannot be made"):
        open_checkpoint(tmp_path / "huge.safetensors")
