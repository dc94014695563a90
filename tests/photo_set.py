"""Folders of photos for training: coloured squares on noise, of many sizes, with the masks of their squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

CLASSES = ("green", "red")
#: A classifier of timm's for its own tests: 160 px, half a million weights, ImageNet's classes.
SMALL = "timm:test_resnet"


def write_photos(root: Path, *, train: int = 4, test: int = 2, masks: Path | None = None) -> Path:
    """`train` and `test` photos a class; every one of another size, its object 255 in one channel, 0 elsewhere."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for channel, name in ((1, "green"), (0, "red")):
            for index in range(count):
                height, width = (int(side) for side in random.integers(170, 260, 2))
                top, left = int(random.integers(10, 60)), int(random.integers(10, 60))
                levels_HWC = random.integers(40, 100, (height, width, 3), dtype=np.uint8)
                levels_HWC[..., channel] = 0
                levels_HWC[top : top + 90, left : left + 90, channel] = 255
                mask_HW = np.zeros((height, width), dtype=np.uint8)
                mask_HW[top : top + 90, left : left + 90] = 255
                save(root / split / name / f"{index}.png", levels_HWC)
                if masks is not None:
                    save(masks / split / name / f"{index}.png", mask_HW)
    return root


def save(path: Path, levels: np.ndarray) -> None:
    """Write an image, in folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def save_weights(path: Path) -> Path:
    """Random weights of SMALL, always the same."""
    from latcli.engine.vision import import_timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(import_timm().create_model("test_resnet").state_dict(), path)
    return path
