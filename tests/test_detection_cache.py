"""Detections come back from the store as they went in, and only for the photo, detector and target they belong to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latcli.commands.photos import StoredDetections
from latcli.engine.detectors.base import Box, Detection
from latcli.engine.images import Photo
from latcli.store.store import Store

PHOTO = Photo("hen.jpg", np.zeros((6, 10, 3), dtype=np.uint8), "5" * 64)
BOX = Box(0.1, 1 / 3, 9.999999, 5.5, 0.123456789, "köttbullar 'x'")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "runs") as opened:
        yield opened


def test_boxes_come_back_to_the_last_digit_and_photo_detector_and_target_are_their_key(store, tmp_path):
    cache, found = StoredDetections(store), Detection((BOX, Box(1, 2, 3, 4, 1.0, "hen")))
    for kept in (Detection(()), found):  # that nothing was found is kept, too, until a later detection replaces it
        cache.put(PHOTO, "fake", "hen", kept)
        assert cache.get(replace(PHOTO, name="renamed.jpg"), "fake", "hen") == kept
    assert cache.get(replace(PHOTO, sha256="6" * 64), "fake", "hen") is None
    assert cache.get(PHOTO, "fake confidence=0.5", "hen") is None
    assert cache.get(PHOTO, "fake", "cock") is None
    # The same file at another size is another image to a detector.
    small = replace(PHOTO, levels_HWC=np.zeros((4, 4, 3), dtype=np.uint8), resized=True)
    assert cache.get(small, "fake", "hen") is None
    cache.put(small, "fake", "hen", Detection(()))
    assert cache.get(small, "fake", "hen") == Detection(())
    assert cache.get(replace(small, levels_HWC=np.zeros((5, 5, 3), dtype=np.uint8)), "fake", "hen") is None
    store.close()
    with Store.open(tmp_path / "runs") as again:
        assert StoredDetections(again).get(PHOTO, "fake", "hen") == found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 4), height=st.integers(1, 9), width=st.integers(1, 11), seed=st.integers(0, 2**32 - 1))
def test_silhouettes_come_back_level_by_level(store, count, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    silhouettes_NHW = torch.randint(0, 256, (count, height, width), generator=generator, dtype=torch.uint8)
    boxes = tuple(replace(BOX, segmentation=index) for index in reversed(range(count)))
    photo = replace(PHOTO, levels_HWC=np.zeros((height, width, 3), dtype=np.uint8))
    StoredDetections(store).put(photo, "fake", "", Detection(boxes, silhouettes_NHW))
    found = StoredDetections(store).get(photo, "fake", "")
    assert found is not None
    assert found.boxes == boxes
    assert found.segmentations_NHW is not None
    assert torch.equal(found.segmentations_NHW, silhouettes_NHW)
