"""Detector `cam`: a box around the evidence that the classifier itself sees for a class. Needs no further weights.

Legend: c channels and u, v rows and columns of its last spatial layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from latcli.engine.detectors.base import Box, Detection, DetectorContext, Target, check_share
from latcli.engine.images import Photo, to_unit
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Normalize
from latcli.errors import UsageError

#: Maps and masks are compared, thresholded and boxed on a grid of this many pixels a side.
_GRID = 256

#: Of a change in one half of an image, and of one in the other half, these shares of a map's changes lie in the same
#: half, added up: 1 by chance, whatever the layout, at least 1.04 in untrained networks of huge reach, 2 at best.
_LOCAL = 1.025


@dataclass(frozen=True)
class CamSettings:
    """threshold: the share of the map's peak from which on a place is object, in [0, 1)."""

    threshold: float = 0.4

    def __post_init__(self) -> None:
        check_share("a map's threshold", self.threshold, 0.99)


class CamDetector:
    """One box around the largest connected part of the target's activation map (see `activation_map`).

    As in Zhou et al. (CVPR'16), what lies above a share of the maximum is kept and the largest connected part boxed.
    """

    Settings = CamSettings
    name = "cam"
    depends_on_target = True

    def __init__(self, settings: CamSettings, context: DetectorContext) -> None:
        if not isinstance(context.classifier, Classifier):
            raise UsageError("the detector cam needs a classifier", "choose another detector")
        self.classifier = context.classifier
        self.threshold = settings.threshold
        identity = self.classifier.fingerprint
        self.weights = f"{self.classifier.name} sha256:{identity[:16]}" if identity else self.classifier.name
        self.fingerprint = f"cam {identity} threshold={self.threshold:g}" if identity else None

    def detect(self, photo: Photo, target: Target) -> Detection:
        """At most one box; none where the network has no evidence for the target anywhere in the photo.

        Raises UsageError for a network without a spatial layer.
        """
        import cv2

        evidence_GG = evidence_map(self.classifier, photo, target.index)
        if not evidence_GG.max() > 0.0:
            return Detection(())
        above_GG = (evidence_GG >= self.threshold * evidence_GG.max()).astype(np.uint8)
        count, parts_GG, boxes, _ = cv2.connectedComponentsWithStats(above_GG, connectivity=8)
        largest = max(range(1, count), key=lambda part: boxes[part, cv2.CC_STAT_AREA])
        x0, y0, width, height = (int(side) for side in boxes[largest, : cv2.CC_STAT_AREA])
        share = float(evidence_GG[parts_GG == largest].sum() / evidence_GG.sum())
        down, across = (side / _GRID for side in photo.size)
        return Detection(
            (Box(x0 * across, y0 * down, (x0 + width) * across, (y0 + height) * down, share, target.name),)
        )


def evidence_inside(
    classifier: Classifier, photo: Photo, label: int, mask_1HW: torch.Tensor
) -> tuple[float, float] | None:
    """The share of the classifier's evidence for the label that lies on the object, and the lift of that share.

    Evidence is the positive part of the activation map over the whole photo. The lift is the share divided by the
    object's share of the photo: 1 where the evidence is spread as if the object did not matter. None for a network
    that has no map, a map without evidence and an empty mask.
    """
    try:
        evidence_GG = evidence_map(classifier, photo, label)
    except UsageError:
        return None
    object_GG = interpolate(mask_1HW[None], (_GRID, _GRID), mode="area")[0, 0].numpy()
    total, area = float(evidence_GG.sum()), float(object_GG.mean())
    if not (total > 0.0 and area > 0.0):
        return None
    share = float((evidence_GG * object_GG).sum()) / total
    return share, share / area


def evidence_map(classifier: Classifier, photo: Photo, label: int) -> np.ndarray:
    """The positive part of the activation map on the grid, float32 (G, G). Raises UsageError."""
    map_uv = activation_map(classifier, photo, label)
    grid_GG = interpolate(map_uv[None, None], (_GRID, _GRID), mode="bilinear", align_corners=False)[0, 0]
    return grid_GG.clamp_min(0.0).numpy()


def activation_map(classifier: Classifier, photo: Photo, label: int) -> torch.Tensor:
    """map_uv: the evidence for `label` at each place of the last spatial layer; float32, on the CPU.

    Gradient x activation, summed over channels. For networks that end in global average pooling and one linear layer
    this is the class activation map of Zhou et al. (CVPR'16) itself, for others its generalisation (HiResCAM, Draelos
    and Carin 2020). The whole photo is looked at, squeezed to the network's input. Raises UsageError for a network
    whose last four-dimensional output is no map of the image, such as attention over tokens.
    """
    height, width = classifier.preprocessing.size
    x_1Chw = to_unit(photo.image.resize((width, height)))[None].to(classifier.device)
    channels = _channel_axis(classifier)
    with torch.enable_grad():
        logits_1K, last = _forward(classifier, x_1Chw.requires_grad_())
        if channels is None or last is None:
            raise UsageError(
                f"{classifier.name} has no spatial layer to make an activation map of",
                "choose another --detector, or say where the object is: --mask, --box, --center",
            )
        (gradient,) = torch.autograd.grad(logits_1K[0, label], last, allow_unused=True)
        if gradient is None:  # of a quantised network, say
            raise UsageError(f"{classifier.name} gives no gradient of its logits", "choose another --detector")
    return (gradient * last).sum(dim=channels)[0].detach().float().cpu()


@lru_cache(maxsize=4)
@torch.no_grad()
def _channel_axis(classifier: Classifier) -> int | None:
    """Which axis of the last four-dimensional output holds channels: 1, 3, or None where it is no map of the image.

    Found by trying, once for each classifier: where half of an image changes, a map changes in that half.
    """
    height, width = classifier.preprocessing.size
    coarse = (1, 3, max(1, height // 8), max(1, width // 8))
    noise = (torch.rand(coarse, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x_1Chw, other_1Chw = (interpolate(one, (height, width), mode="nearest").to(classifier.device) for one in noise)
    before = _forward(classifier, x_1Chw)[1]
    if before is None:
        return None
    shares: dict[int, list[float]] = {1: [], 3: []}
    for axis, side in ((2, height), (3, width)):
        for half in (slice(0, side // 2), slice(side // 2, side)):
            changed_1Chw = x_1Chw.clone()
            place = (..., half, slice(None)) if axis == 2 else (..., half)
            changed_1Chw[place] = other_1Chw[place]
            after = _forward(classifier, changed_1Chw)[1]
            if after is None or after.shape != before.shape:
                return None
            for channels, found in shares.items():
                change_uv = (after - before).abs().sum(dim=channels)[0].float()
                found.append(_share_of_half(change_uv.sum(dim=3 - axis), first=half.start == 0))
    # Along both axes: tokens of attention are in order along one alone.
    local = {channels: min(found[0] + found[1], found[2] + found[3]) for channels, found in shares.items()}
    best = max(local, key=local.__getitem__)
    return best if local[best] >= _LOCAL else None


def _share_of_half(profile: torch.Tensor, first: bool) -> float:
    """Which share of a profile along one axis lies in its first (or last) half; 1 where there is nothing at all."""
    middle = len(profile) // 2
    before, after = float(profile[:middle].sum()), float(profile[len(profile) - middle :].sum())
    return (before if first else after) / (before + after) if before + after > 0 else 1.0


def _forward(classifier: Classifier, x_1Chw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The logits, and the last output of a module of the network, for this one image, that is four-dimensional.

    At least two of its axes must have more than one place.
    """
    last: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, torch.Tensor) or output.ndim != 4 or len(output) != 1:
            return
        if sorted(output.shape)[-2] > 1 and (output.requires_grad or not torch.is_grad_enabled()):
            last[:] = [output]

    # A normalised image is no evidence that a network has found.
    hidden = (Normalize, torch.jit.ScriptModule)  # scripted layers take no hooks
    layers = [module for module in classifier.net.modules() if not isinstance(module, hidden)]
    hooks = [module.register_forward_hook(keep) for module in layers]
    try:
        logits_1K = classifier(x_1Chw)
    finally:
        for hook in hooks:
            hook.remove()
    return logits_1K, last[0] if last else None
