"""Detections kept in the store between runs: the engine's detections as rows, and back."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from latcli.engine.detectors.base import Box, Detection
from latcli.engine.images import Photo, damage_as_errors, decode_png, encode_png
from latcli.errors import ImageError
from latcli.results import DocumentError, read
from latcli.store.schema import utc_now
from latcli.store.store import Store

_FOUND = """
    SELECT boxes_json, segmentations FROM detections
    WHERE image = :image AND detector = :detector AND target = :target
"""


class StoredDetections:
    """The engine's `DetectionCache` on a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        """The detection of the same photo by the same detector for the same target, if there was one before."""
        key = {"image": _key(photo), "detector": fingerprint, "target": target}
        for row in self.store.query(_FOUND, key):
            with suppress(DocumentError, ImageError):  # damaged: it is found and kept anew
                return _detection(row["boxes_json"], row["segmentations"], photo)
        return None

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        """Keep a detection."""
        row: dict[str, Any] = {"image": _key(photo), "detector": fingerprint, "target": target, "created": utc_now()}
        row |= {"boxes_json": json.dumps([asdict(box) for box in detection.boxes]), "segmentations": None}
        if detection.segmentations_NHW is not None:  # kept as one tall grey picture
            _, width = photo.size
            row["segmentations"] = encode_png(detection.segmentations_NHW.reshape(-1, width).cpu().numpy())
        with self.store.writing() as db:
            db.table("images").insert({"sha256": row["image"]}, ignore=True)
            db.table("detections").upsert(row, pk=("image", "detector", "target"))


def _detection(boxes_json: str, segmentations: bytes | None, photo: Photo) -> Detection:
    """Raises DocumentError or ImageError where it is not what `put` kept."""
    boxes = tuple(read(list[Box], boxes_json))
    height, width = photo.size
    stacked_HW = None
    if segmentations is not None:
        with damage_as_errors("the silhouettes"):
            stacked_HW = torch.from_numpy(np.array(decode_png(segmentations))).byte()
    return Detection(boxes, None if stacked_HW is None else stacked_HW.view(-1, height, width))


def _key(photo: Photo) -> str:
    # The same file at another size (attacked at the model's resolution) is another image to a detector.
    height, width = photo.size
    return f"{photo.sha256}@{width}x{height}" if photo.resized else photo.sha256
