"""The classifier's own class activation map as a detector: needs no further weights, so it always works.

Knows the classifier it looks into; must not know attacks.

Legend: h = w the classifier's input size, c channels and u, v rows and columns of its last spatial layer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from latcli.engine.detectors.base import Box, Detection, Target
from latcli.engine.detectors.settings import DetectorSettings
from latcli.engine.images import Photo
from latcli.engine.models.classifier import Classifier, Normalize
from latcli.engine.models.preprocessing import square_to_unit
from latcli.errors import UsageError

#: The map is thresholded and boxed on a grid of this many pixels a side.
_GRID = 256


class CamDetector:
    """One box around the strongest connected part of the map of the target class.

    The map is gradient x activation of the last spatial layer, summed over channels; for networks that end in global
    average pooling and one linear layer this is the class activation map of Zhou et al. (CVPR'16) itself, for others
    its generalisation (HiResCAM, Draelos and Carin 2020). As there, what lies above a share of the maximum (0.2) is
    kept and the largest connected part boxed. The whole photo is looked at, squeezed to the network's square.
    """

    name = "cam"
    depends_on_target = True

    def __init__(self, settings: DetectorSettings) -> None:
        classifier = settings.classifier
        if not isinstance(classifier, Classifier):
            raise UsageError("the cam detector needs a classifier to look into", "choose another detector")
        self.classifier = classifier
        self.device = settings.device
        self.threshold = settings.threshold
        self.fingerprint = f"cam {classifier.name} {classifier.fingerprint[:16]} threshold={self.threshold:g}"

    def detect(self, photo: Photo, target: Target) -> Detection:
        """At most one box; none where the network has no evidence for the target anywhere in the photo."""
        H, W = photo.size
        map_uv = self.activation_map(photo, target.index)
        grid_GG = interpolate(map_uv[None, None], (_GRID, _GRID), mode="bilinear", align_corners=False)[0, 0].numpy()
        box = _largest_part(grid_GG, self.threshold)
        if box is None:
            return Detection(())
        x0, y0, x1, y1, score = box
        scale_x, scale_y = W / _GRID, H / _GRID
        return Detection((Box(x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y, score, target.name),))

    def activation_map(self, photo: Photo, label: int) -> torch.Tensor:
        """map_uv: the evidence for `label` at each place of the last spatial layer; float32, on the CPU.

        Raises UsageError for a network without a spatial layer.
        """
        crop = self.classifier.preprocessing.crop
        x_1Chw = square_to_unit(photo.image.resize((crop, crop))).to(self.device)[None]
        activations_1cuv = None
        with torch.enable_grad():
            logits_1K, activations_1cuv = _forward_with_last_spatial_layer(self.classifier, x_1Chw)
            if activations_1cuv is None:
                raise UsageError(
                    f"{self.classifier.name} has no spatial layer to make an activation map of",
                    "choose another --detector, or say where the object is: a mask, a box, the middle",
                )
            (gradient_1cuv,) = torch.autograd.grad(logits_1K[0, label], activations_1cuv)
        return (gradient_1cuv * activations_1cuv).sum(dim=1)[0].detach().float().cpu()


def _forward_with_last_spatial_layer(
    classifier: Classifier, x_1Chw: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits, and the last output with more than one place that a module of the network gave on the way."""
    last: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1 and output.requires_grad:
            last[:] = [output]

    # A normalised image is no evidence that a network has found.
    layers = [module for module in classifier.net.modules() if not isinstance(module, Normalize)]
    hooks = [module.register_forward_hook(keep) for module in layers]
    try:
        # The weights are frozen; without this no activation would carry a gradient.
        logits_1K = classifier(x_1Chw.requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    return logits_1K, last[0] if last else None


def _largest_part(grid_GG: np.ndarray, threshold: float) -> tuple[float, float, float, float, float] | None:
    """x0, y0, x1, y1 on the grid and the share of all evidence inside, of the largest part above the threshold."""
    import cv2

    evidence_GG = np.maximum(grid_GG, 0.0)
    if not evidence_GG.max() > 0.0:
        return None
    above_GG = (evidence_GG >= threshold * evidence_GG.max()).astype(np.uint8)
    count, parts_GG, boxes, _ = cv2.connectedComponentsWithStats(above_GG, connectivity=8)
    largest = max(range(1, count), key=lambda part: boxes[part, cv2.CC_STAT_AREA])
    x0, y0, width, height = (int(side) for side in boxes[largest, : cv2.CC_STAT_AREA])
    share = float(evidence_GG[parts_GG == largest].sum() / evidence_GG.sum())
    return x0, y0, x0 + width, y0 + height, share
