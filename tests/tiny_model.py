"""A classifier so small that an attack takes milliseconds, and photos for it; `--classifier tiny_model:tiny`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from latcli.engine.models.preprocessing import Preprocessing

CLASSES = 16
RESIZE, CROP = 24, 20


class TinyNet(nn.Module):
    """Colours and edges to 16 classes with fixed random weights."""

    preprocessing = Preprocessing(RESIZE, CROP, "bilinear")
    class_names = tuple(f"class {index}" for index in range(CLASSES))

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 12, 3, padding=1, stride=2)
        self.head = nn.Linear(12 * 25, CLASSES)
        generator = torch.Generator().manual_seed(3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        spatial = torch.nn.functional.avg_pool2d(torch.relu(self.features(x_BCHW - 0.5)), 2)
        return self.head(spatial.flatten(1))


def tiny() -> nn.Module:
    return TinyNet()


def blobs(height: int = 40, width: int = 44, seed: int = 0) -> np.ndarray:
    """levels_HWC of soft blobs of colour, away from black and white."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(40, 216, (5, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def save_photo(path: Path, height: int = 40, width: int = 44, seed: int = 0) -> Path:
    """Write such a photo as a file, in folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blobs(height, width, seed)).save(path)
    return path


def save_photos(folder: Path, count: int) -> None:
    """Write so many photos, 0.png and so on."""
    for seed in range(count):
        save_photo(folder / f"{seed}.png", seed=seed)
