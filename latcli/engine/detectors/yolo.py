"""Detector `yolo`: any detection or segmentation model of ultralytics.

Weights are read in ultralytics' safe mode, which allows known layer classes and runs no other code of the file, unless
their user trusts the file (--trust-weights).
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from latcli.engine.detectors.base import (
    Box,
    Detection,
    DetectorContext,
    Target,
    check_share,
    for_detector,
    scaled_corners,
)
from latcli.engine.images import Photo, sha256_of
from latcli.engine.models.weights import UnsafeWeightsError, kept_at, reading
from latcli.engine.vision import import_torchvision
from latcli.errors import WeightsError

#: What ultralytics itself takes when nothing is asked for: its smallest current detection model, 80 COCO classes.
DEFAULT_WEIGHTS = "yolo26n.pt"

#: Where ultralytics, too, downloads every official name from.
_ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
#: Silhouettes of at most this many pixels in all are kept, the surest boxes first: half a gigabyte.
_MAX_MASK_PIXELS = 500_000_000
#: Read by ultralytics when it is imported: no question to a name server, no telemetry, no pip, no messages.
_ENVIRONMENT = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_VERBOSE": "0"}

_lock = threading.RLock()


@dataclass(frozen=True)
class YoloSettings:
    """weights: a .pt file or an official name. confidence: the least one of a box, in [0, 1]."""

    weights: str = DEFAULT_WEIGHTS
    confidence: float = 0.25

    def __post_init__(self) -> None:
        check_share("a box's least confidence", self.confidence)


class YoloDetector:
    """A YOLO from a `.pt` file, an official name ("yolo26s.pt") or, by default, the official `yolo26n.pt`.

    Segmentation weights give silhouettes at the photo's own size besides the boxes. Class names are the model's.
    """

    Settings = YoloSettings
    name = "yolo"
    depends_on_target = False

    def __init__(self, settings: YoloSettings, context: DetectorContext) -> None:
        """Load the model. Raises WeightsError for weights that are missing, unreachable, damaged, unsafe or no YOLO."""
        path = _find_weights(settings.weights, context)
        self._model = _load(path, trusted=context.trust_weights)
        self._confidence = settings.confidence
        self._device = context.device
        digest = sha256_of(path)[:16]
        self.weights = f"{path.name} sha256:{digest}"
        self.fingerprint = f"yolo {digest} confidence={settings.confidence:g}"

    def detect(self, photo: Photo, target: Target) -> Detection:
        """Every object above the confidence, boxes inside the photo, by falling confidence."""
        image = for_detector(photo)
        with _visiting_ultralytics():
            (found,) = self._model.predict(
                image, conf=self._confidence, device=self._device, retina_masks=True, save=False, verbose=False
            )
        masks_NHW = None if found.masks is None else found.masks.data
        room = _MAX_MASK_PIXELS // (photo.size[0] * photo.size[1])
        boxes: list[Box] = []
        silhouettes: list[torch.Tensor] = []
        for row in found.boxes.conf.argsort(descending=True, stable=True).tolist():
            inside = scaled_corners(found.boxes.xyxy[row].tolist(), image, photo)
            if inside is None:
                continue
            segmentation = None
            if masks_NHW is not None and len(silhouettes) < room:
                segmentation = len(silhouettes)
                silhouettes.append(_at_size(masks_NHW[row], photo.size))
            kind = int(found.boxes.cls[row])
            boxes.append(Box(*inside, float(found.boxes.conf[row]), found.names.get(kind, str(kind)), segmentation))
        return Detection(tuple(boxes), torch.stack(silhouettes) if silhouettes else None)


def weights_at_hand(name: str = DEFAULT_WEIGHTS) -> Path | None:
    """The official weights of that name where they are on this machine: in the current folder or in torch's cache."""
    return next((path for path in (Path(name), kept_at(f"{_ASSETS}/{name}")) if path.is_file()), None)


def _find_weights(name: str, context: DetectorContext) -> Path:
    path = Path(name)
    if path.name == name and (name == DEFAULT_WEIGHTS or name in _official_names()):
        path = weights_at_hand(name) or context.fetch(f"{_ASSETS}/{name}", f"the weights {name}")
    if path.suffix.lower() != ".pt":
        raise WeightsError(f"{path} is not a YOLO weights file", "give a .pt file as ultralytics saves it")
    return path


def _official_names() -> frozenset[str]:
    with _visiting_ultralytics():
        from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

        return frozenset(GITHUB_ASSETS_NAMES)


def _load(path: Path, *, trusted: bool) -> Any:
    path = path.absolute()
    with _visiting_ultralytics():
        from ultralytics import YOLO
        from ultralytics.nn.tasks import BaseModel
        from ultralytics.utils.checks import check_yolov5u_filename

        # It would look for another name than the file has, and ask the network for it.
        if (looked_for := check_yolov5u_filename(str(path).strip().replace("'", ""))) != str(path):
            raise WeightsError(f"ultralytics looks for {path} as {looked_for}", "rename or copy the file")
        try:
            with reading(path), _trusting(trusted):
                path.open("rb").close()  # ultralytics asks the network for what is not there
                model = YOLO(str(path))
        except UnsafeWeightsError as error:
            error.hint = "--trust-weights lets it run: only for a file whose maker you trust as you would a program's"
            raise
    hint = "give detection weights such as yolo26n.pt, or segmentation weights such as yolo26n-seg.pt"
    if not isinstance(model.model, BaseModel):  # any network passes for a detector otherwise
        raise WeightsError(f"{path} holds a {type(model.model).__name__}, not a YOLO", hint)
    if model.task not in {"detect", "segment"}:
        raise WeightsError(f"{path} is a YOLO of the task '{model.task}', which finds no boxes of objects", hint)
    return model


@contextmanager
def _trusting(trusted: bool) -> Iterator[None]:
    """While weights are read: run the code in them if they are trusted, else construct no layer.

    ultralytics' safe mode lets a file call known classes with any arguments, and some constructors ask the network,
    open files or take any amount of memory. A saved network is rebuilt from its state, which calls none of them.
    """
    from ultralytics.nn import tasks

    reader, construct, load = threading.get_ident(), nn.Module.__init__, tasks.torch_load

    def refuse(module: nn.Module, *arguments: Any, **named: Any) -> None:
        if threading.get_ident() == reader:
            kind = type(module)
            raise pickle.UnpicklingError(f"GLOBAL {kind.__module__}.{kind.__qualname__} is called, not rebuilt")
        construct(module, *arguments, **named)

    def guarded(*arguments: Any, **named: Any) -> Any:
        with _set(nn.Module, "__init__", refuse):
            return load(*arguments, **named)

    with _set(tasks, "SAFE_LOAD", not trusted), _set(tasks, "torch_load", load if trusted else guarded):
        yield


def _at_size(mask_HW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if mask_HW.shape != size:
        mask_HW = functional.interpolate(mask_HW[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    return (mask_HW > 0.5).cpu().to(torch.uint8).mul_(255)


@contextmanager
def _visiting_ultralytics() -> Iterator[None]:
    """Import and use ultralytics with its safe mode on, and without what it does to the process that hosts it.

    It sets the number of torch's threads, OpenCV's and OpenMP's, sends telemetry, installs packages, prints, puts an
    `open` of its own into PIL, which installs more of them, and what one checkpoint may hold in safe mode it allows to
    every later one.
    """
    with _lock:
        import cv2

        threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
        allowed, opens = torch.serialization.get_safe_globals(), Image.open
        os.environ.update(_ENVIRONMENT)
        try:
            import_torchvision()
            from ultralytics.nn import tasks
            from ultralytics.utils import LOGGER, checks
            from ultralytics.utils.events import events

            with (
                _set(tasks, "SAFE_LOAD", True),
                _set(checks, "AUTOINSTALL", False),
                _set(events, "enabled", False),
                _set(LOGGER, "disabled", True),
            ):
                yield
        finally:
            Image.open = opens
            torch.set_num_threads(threads)
            cv2.setNumThreads(cv2_threads)
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(allowed)


@contextmanager
def _set(owner: object, name: str, value: object) -> Iterator[None]:
    # Fails where a later ultralytics has no such switch, rather than going on without its protection.
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
