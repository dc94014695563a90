"""The paper's Table 2 on the paper's nine classes, and its confirmation by a script that has nothing of latcli."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, RunLatcli

pytestmark = pytest.mark.slow

Confirm = Callable[[dict[str, Any]], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def confirm(tmp_path: Path) -> Confirm:
    def run(document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "attack.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        script = ROOT / "tests" / "independent_check.py"
        return subprocess.run([sys.executable, script, path], capture_output=True, text=True, check=False)

    return run


def test_the_papers_result_is_reached_and_confirmed(shared_data: Path, run_latcli: RunLatcli, confirm: Confirm) -> None:
    photos = shared_data / "photos"
    arguments = ["--labels", photos / "labels.csv", "--detector", "cam", "--epsilon", "8/255", "--no-figures", "--json"]
    done = run_latcli("attack", photos / "paper9", *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    images, summary = document["images"], document["summary"]["adversarial"]

    assert len(images) == 9
    assert summary["top10"] == 0
    assert summary["confidence"] <= 0.000169  # the paper's mean, on Inception v3
    assert all(image["linf_inside"] == 0 and image["linf_outside"] <= 8 / 255 for image in images)
    confirmed = confirm(document)
    assert confirmed.returncode == 0, confirmed.stdout + confirmed.stderr
    assert confirmed.stdout.count("confirmed") == 9

    # The script can tell: the clean photos in place of the saved ones, and a document that flatters.
    swapped = copy.deepcopy(document)
    for image in swapped["images"]:
        image["files"]["adversarial"] = image["image"]
    flattering = copy.deepcopy(document)
    flattering["images"][0]["adversarial"]["confidence"] *= 1.1
    assert confirm(swapped).stdout.count("confirmed") == 0
    assert confirm(flattering).stdout.count("confirmed") == 8
    assert confirm(flattering).returncode == 1
