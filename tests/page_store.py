"""A store with attacked photos that can be seen: what the report's page is tested on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report_store import photo, whole

from latcli.reporting.figures import amplified_difference
from latcli.store.store import Store


def png(levels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def levels(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, the same changed by up to 8 levels outside a box, and the box as a mask."""
    drawn = np.random.default_rng(seed)
    across = np.linspace(0, 255, 96, dtype=np.float32)
    photo_HWC = np.clip(across[None, :, None] + drawn.normal(0, 20, (64, 96, 3)), 0, 255).astype(np.uint8)
    mask_HW = np.zeros((64, 96), np.uint8)
    mask_HW[20:50, 30:70] = 255
    change_HWC = drawn.integers(-8, 9, photo_HWC.shape) * (mask_HW == 0)[..., None]
    change_HWC[0, 0] = -8 if photo_HWC[0, 0].min() >= 8 else 8
    return photo_HWC, np.clip(photo_HWC + change_HWC, 0, 255).astype(np.uint8), mask_HW


def attack_files(seed: int = 0) -> dict[str, bytes]:
    """What `latcli attack` leaves of a photo."""
    before_HWC, after_HWC, mask_HW = levels(seed)
    difference_HWC = amplified_difference(before_HWC, after_HWC, 127.0 / 8)
    return {"adversarial": png(after_HWC), "difference": png(difference_HWC), "mask": png(mask_HW)}


def seen(folder: Path, names: list[str]) -> dict[str, str]:
    """The store of `report_store.whole`, and an attack on photos of these names; ids by what they are."""
    ids = whole(folder)
    config: dict[str, Any] = {"classifier": "efficientnet_lite0", "detector": "cam", "region": "background"}
    with Store.open(folder) as store:
        model = store.record_model("efficientnet_lite0")
        with store.start_run("attack", argv=[], config=config, seed=0, device="cpu", model=model) as run:
            for position, name in enumerate(names):
                for kind, data in attack_files(position).items():
                    run.write_artifact(f"{position}-{kind}.png", data, kind)
                run.insert("attacks", [photo(position, name, "hen", '"cock" </script>')])
    return ids | {"seen": run.id}
