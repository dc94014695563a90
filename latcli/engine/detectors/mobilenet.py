"""Detector `mobilenet`: torchvision's SSDLite320 on MobileNetV3, COCO classes, boxes only.

Source of architecture and weights: torchvision `ssdlite320_mobilenet_v3_large`, `COCO_V1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from latcli.engine.detectors.base import (
    Box,
    Detection,
    DetectorContext,
    Target,
    check_share,
    for_detector,
    scaled_corners,
)
from latcli.engine.images import Photo, to_unit
from latcli.engine.models.weights import load_into, read_weights, state_dict_sha256
from latcli.engine.vision import import_torchvision

WEIGHTS_URL = "https://download.pytorch.org/models/ssdlite320_mobilenet_v3_large_coco-a79551df.pth"


@dataclass(frozen=True)
class MobilenetSettings:
    """weights: a file, or None for torchvision's. confidence: the least one of a box, in [0, 1]."""

    weights: Path | None = None
    confidence: float = 0.25

    def __post_init__(self) -> None:
        check_share("a box's least confidence", self.confidence)


class MobilenetDetector:
    """SSDLite with weights from a file, torchvision's cache or torchvision's download, in this order."""

    Settings = MobilenetSettings

    name = "mobilenet"
    depends_on_target = False

    def __init__(self, settings: MobilenetSettings, context: DetectorContext) -> None:
        """Load the model. Raises WeightsError for weights that are missing, out of reach, damaged or do not fit."""
        path = settings.weights or context.fetch(WEIGHTS_URL, "the SSDLite weights")
        state_dict = read_weights(path).state_dict
        import_torchvision()  # only now: where there are no weights, nobody waits for it
        from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights, ssdlite320_mobilenet_v3_large

        model = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, score_thresh=settings.confidence, detections_per_img=100
        )
        load_into(model, state_dict, what=f"the weights in {path}")
        self._model = model.eval().requires_grad_(False).to(context.device)
        self._device = context.device
        self._names: list[str] = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
        digest = state_dict_sha256(state_dict)[:16]
        self.weights = f"{path.name} sha256:{digest}"
        self.fingerprint = f"mobilenet {digest} confidence={settings.confidence:g}"

    @torch.inference_mode()
    def detect(self, photo: Photo, target: Target) -> Detection:
        """Every COCO object above the confidence, boxes inside the photo, by falling confidence."""
        image = for_detector(photo)
        x_CHW = to_unit(np.array(image)).to(self._device)
        found = self._model([x_CHW])[0]
        boxes = []
        rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
        for corners, score, label in rows:
            if inside := scaled_corners(corners, image, photo):
                boxes.append(Box(*inside, score, self._names[label]))
        return Detection(tuple(sorted(boxes, key=lambda box: -box.score)))
