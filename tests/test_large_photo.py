"""A photo of 100 megapixels is attacked at its own size, within 4 GiB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import blobs

SIDE = 10_000
CENTER = slice(3_750, 6_250)
GIB = 2**30


#: Runs a command and writes the most memory that it held, in kilobytes, as its last line on stderr.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak // 1024 if sys.platform == "darwin" else peak, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_photo_of_100_megapixels_is_attacked_within_4_gib(tmp_path: Path, latcli_environment: dict[str, str]) -> None:
    photo = tmp_path / "large.jpg"
    Image.fromarray(blobs(SIDE, SIDE)).save(photo, quality=85)
    attack = [sys.executable, "-m", "latcli", "attack", photo, "--center", "0.25", "--steps", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *attack],
        cwd=tmp_path,
        env=latcli_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (peak,) = done.stderr.split()  # and nothing else was said
    assert GIB / 4 < int(peak) * 1024 < 4 * GIB
    (image,) = json.loads(done.stdout)["images"]
    assert image["linf_inside"] == 0
    assert image["adversarial"]["confidence"] < image["clean"]["confidence"]
    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    try:
        before, saved = Image.open(photo), Image.open(image["files"]["adversarial"])
        assert saved.size == before.size == (SIDE, SIDE)
        before_HWC, saved_HWC = np.asarray(before), np.asarray(saved)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    np.testing.assert_array_equal(saved_HWC[CENTER, CENTER], before_HWC[CENTER, CENTER])
    largest = max(
        int(np.abs(saved_HWC[top : top + 500].astype(np.int16) - before_HWC[top : top + 500]).max())
        for top in range(0, SIDE, 500)
    )
    assert largest == 8
