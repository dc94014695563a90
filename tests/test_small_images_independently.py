"""A CIFAR ResNet that latcli trains and attacks, scored from its files by a program that knows nothing of latcli."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from independent_small_images import main
from PIL import Image


def test_another_program_scores_the_files_alike_and_sees_a_change_that_nobody_allowed(
    latcli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for level, name in ((60, "dark"), (190, "light")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                levels_HWC = (level + drawn.integers(-40, 40, (32, 32, 3))).astype(np.uint8)
                Image.fromarray(levels_HWC).save(folder / f"{number}.jpg")
    given = ("--dataset", "folder:data", "--architecture", "resnet20", "--regime", "natural", "--preset", "quick")
    trained = latcli("train", *given, "--steps", "4", "--batch", "8", "--average", "0", "--offline", "--json").json
    attack = ("attack", "data/test", "--labels-from", "folder", "--classifier", trained["run"][-4:], "--center", "0.5")
    short = ("--detector", "none", "--steps", "2", "--no-figures", "--offline", "--json")
    attacked = latcli(*attack, *short).json
    (tmp_path / "attack.json").write_text(json.dumps(attacked))

    assert main(trained["checkpoint"], "data", "attack.json") == 0
    told, said = trained["final"], capsys.readouterr().out
    assert f"n 6, loss {told['loss']:.4f}, right {round(6 * told['accuracy'])}," in said
    changed = Path(attacked["images"][0]["files"]["adversarial"])
    levels_HWC = np.array(Image.open(changed))
    levels_HWC[16, 16] ^= 128  # in the protected middle
    Image.fromarray(levels_HWC).save(changed)
    assert main(trained["checkpoint"], "data", "attack.json") == 1
    assert "a protected pixel changed by 128 levels" in capsys.readouterr().out
