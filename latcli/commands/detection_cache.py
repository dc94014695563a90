"""Detections kept in the store between runs: turns the engine's detections into rows and back; knows nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import torch

from latcli.engine.detectors.base import Box, Detection
from latcli.engine.images import Photo, decode_png, encode_png
from latcli.store.database import Store


class StoredDetections:
    """The engine's `DetectionCache` on a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        """The detection of the same photo by the same detector for the same target, if there was one before."""
        row = self.store.find_detection(_key(photo), fingerprint, target)
        if row is None:
            return None
        boxes = tuple(Box(**box) for box in json.loads(row.boxes_json))
        if row.segmentations is None:
            return Detection(boxes)
        # Silhouettes are kept as one tall black and white picture.
        stacked = torch.from_numpy(np.array(decode_png(row.segmentations)) > 0)
        return Detection(boxes, stacked.view(-1, *photo.size))

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        """Keep a detection."""
        boxes_json = json.dumps([asdict(box) for box in detection.boxes])
        segmentations = None
        if detection.segmentations_NHW is not None:
            _, width = photo.size
            stacked = detection.segmentations_NHW.reshape(-1, width).to(torch.uint8).mul(255)
            segmentations = encode_png(stacked.cpu().numpy())
        self.store.save_detection(_key(photo), fingerprint, target, boxes_json, segmentations)


def _key(photo: Photo) -> str:
    # The same file at another size (attacked at the model's resolution) is another image to a detector.
    height, width = photo.size
    return f"{photo.sha256}@{width}x{height}" if photo.resized else photo.sha256
