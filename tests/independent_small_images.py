"""Scores a CIFAR ResNet that latcli trained with torch, safetensors and PIL alone; nothing of latcli is used.

    python tests/independent_small_images.py CHECKPOINT DATA
    latcli attack IMAGES... --labels FILE --classifier CHECKPOINT --center 0.9 --json > attack.json
    python tests/independent_small_images.py CHECKPOINT DATA attack.json

Prints loss and accuracy on DATA/test/CLASS/*. With the document of an attack it also scores the saved adversarial
images, compares each with its original and mask, and its confidence with what the document says. Exit code 1 where
anything disagrees. The network is He et al.'s (CVPR'16, section 4.2) with shortcuts of option A, of any depth.

Legend: B images, C channels, H, W pixels, K classes, F feature channels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
TOGETHER = 500


def levels_of(path: Path | str) -> np.ndarray:
    """levels_HWC, uint8, of an image file."""
    return np.asarray(Image.open(path).convert("RGB"))


@torch.no_grad()
def logits_of(weights: dict[str, torch.Tensor], levels_BHWC: np.ndarray) -> torch.Tensor:
    """logits_BK of images as they are in their files."""
    x_BCHW = torch.from_numpy(levels_BHWC.astype(np.float32) / 255.0).permute(0, 3, 1, 2)
    x_BCHW = (x_BCHW - MEAN[:, None, None]) / STD[:, None, None]

    def normed(features_BFHW: torch.Tensor, name: str) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(features_BFHW, *(weights[f"{name}.{one}"] for one in names))

    features_BFHW = functional.relu(normed(functional.conv2d(x_BCHW, weights["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        blocks = [name for name in weights if name.startswith(f"layer{stage}.") and name.endswith("conv1.weight")]
        for block in range(len(blocks)):
            place, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = functional.conv2d(features_BFHW, weights[f"{place}.conv1.weight"], stride=stride, padding=1)
            inner = functional.relu(normed(inner, f"{place}.bn1"))
            inner = normed(functional.conv2d(inner, weights[f"{place}.conv2.weight"], padding=1), f"{place}.bn2")
            kept = features_BFHW[:, :, ::stride, ::stride]
            zeros = torch.zeros(len(kept), (inner.shape[1] - kept.shape[1]) // 2, *kept.shape[2:])
            features_BFHW = functional.relu(inner + torch.cat([zeros, kept, zeros], dim=1))
    return functional.linear(features_BFHW.mean(dim=(2, 3)), weights["linear.weight"], weights["linear.bias"])


def log_probabilities(weights: dict[str, torch.Tensor], files: list[Path | str]) -> torch.Tensor:
    """log_p_NK of the images in these files, in double precision from the logits on."""
    parts = [files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
    logits = [logits_of(weights, np.stack([levels_of(file) for file in part])) for part in parts]
    return torch.cat(logits).double().log_softmax(dim=1)


def scored(log_p_NK: torch.Tensor, label_N: torch.Tensor) -> str:
    """In words."""
    loss, right = functional.nll_loss(log_p_NK, label_N), int((log_p_NK.argmax(1) == label_N).sum())
    return f"n {len(label_N)}, loss {loss:.4f}, right {right}, accuracy {100 * right / len(label_N):.2f} %"


def check_change(image: dict[str, Any], epsilon: float) -> list[str]:
    """What is wrong with a saved adversarial image: inside its mask nothing may differ, outside at most epsilon."""
    original, changed = levels_of(image["image"]).astype(int), levels_of(image["files"]["adversarial"]).astype(int)
    change_HW = np.abs(changed - original).max(axis=2)
    inside_HW = np.asarray(Image.open(image["files"]["mask"])) > 0
    wrong = []
    if inside := change_HW[inside_HW].max(initial=0):
        wrong.append(f"a protected pixel changed by {inside} levels")
    if (outside := change_HW[~inside_HW].max(initial=0)) > 255 * epsilon + 1e-6:
        wrong.append(f"a pixel changed by {outside} levels")
    return wrong


def check_attack(weights: dict[str, torch.Tensor], document: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Lines that say what was found, and disagreements."""
    images, wrong, lines = document["images"], [], []
    label_N = torch.tensor([image["label"]["index"] for image in images])
    for side, files in (
        ("clean", [image["image"] for image in images]),
        ("adversarial", [image["files"]["adversarial"] for image in images]),
    ):
        log_p_NK = log_probabilities(weights, files)
        lines.append(f"{side}: {scored(log_p_NK, label_N)}")
        told = [image[side] for image in images]
        right = sum(one["rank"] == 1 for one in told)
        mean = np.mean([-np.log(one["confidence"]) for one in told])
        lines.append(f"{side}, by the document: loss {mean:.4f}, right {right}")
        for image, one, log_p in zip(images, told, log_p_NK[torch.arange(len(label_N)), label_N].tolist(), strict=True):
            # One per cent: the order of a sum differs between this network and latcli's.
            if abs(np.log(one["confidence"]) - log_p) > 0.01 * max(1.0, -log_p):
                wrong.append(f"{image['image']}: {side} confidence {one['confidence']:.6g}, found {np.exp(log_p):.6g}")
    for image in images:
        wrong += [f"{image['image']}: {one}" for one in check_change(image, document["epsilon"])]
    return lines, wrong


def main(checkpoint: str, data: str, attack: str | None = None) -> int:
    """Score, compare, tell."""
    weights = load_file(checkpoint)
    classes = sorted(folder for folder in (Path(data) / "test").iterdir() if folder.is_dir())
    files = [(file, label) for label, folder in enumerate(classes) for file in sorted(folder.iterdir())]
    natural = log_probabilities(weights, [file for file, _ in files])
    print(f"test images: {scored(natural, torch.tensor([label for _, label in files]))}")
    if attack is None:
        return 0
    lines, wrong = check_attack(weights, json.loads(Path(attack).read_text(encoding="utf-8")))
    print("\n".join([*lines, *wrong, f"{len(wrong)} disagreements"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
