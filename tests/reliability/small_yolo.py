"""A detector of ultralytics' own kind, with two layers instead of twenty."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from latcli.engine.vision import import_torchvision


def small_yolo(path: Path) -> Path:
    """Write its weights, always the same."""
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
