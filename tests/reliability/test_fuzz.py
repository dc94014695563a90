"""No file makes latcli raise anything but its own error, hang, or fill the memory: damaged ones by the thousand.

Each target runs in a process of its own, which is killed where it does not come back. `LATCLI_RELIABILITY=full` tries
more than 100,000 cases, the short form some hundreds. Cases follow from their number: a failing one is left as a file,
and `python tests/reliability/fuzz.py TARGET=1 SEED FOLDER NUMBER` makes it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from form import full

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


#: Cases of each target in the long form: the more, the cheaper.
CASES = {
    "image": 26_000,
    "image-header": 10_000,
    "mask": 12_000,
    "labels": 12_000,
    "configuration": 5_000,
    "checkpoint": 3_000,
    "training-state": 6_000,
    "evaluation-samples": 5_000,
    "weights-safetensors": 12_000,
    "weights-torch": 8_000,
    "weights-yolo": 2_500,
    "digits": 3_000,
    "database-columns": 2_000,
    "evaluation-document": 2_000,
    "database-file": 2_000,
    "detections": 5_000,
}
#: In the short form so many times fewer, and no target fewer than this.
SHORTER, LEAST = 150, 15
SEED = 8


def test_the_long_form_is_as_long_as_is_promised() -> None:
    assert sum(CASES.values()) >= 100_000
    assert min(CASES.values()) >= 2_000
    assert CASES["image"] >= 20_000


def _told() -> list[str]:
    """What each process tries: of the long form one target, of the short form several, to import only once."""
    if full():
        return [f"{target}={count}" for target, count in CASES.items()]
    counts = [f"{target}={max(LEAST, count // SHORTER)}" for target, count in CASES.items()]
    return [",".join(counts[start::3]) for start in range(3)]


@pytest.mark.reliability
@pytest.mark.parametrize("told", _told())
def test_damaged_files_are_refused_or_read(told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), told, str(SEED), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe case is `current` in a folder of {tmp_path}"
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert ",".join(f"{report['target']}={report['cases']}" for report in reports) == told
    for report in reports:
        assert report["failures"] == {}, f"the cases are in {tmp_path / report['target']}"
