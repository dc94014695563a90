"""`latcli attack` as its user meets it: documents, tables, exit codes, what is kept, and what bad input comes to."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from PIL import Image
from rich.cells import cell_len
from tiny_model import save_photo

from latcli import process
from latcli.cli import app
from latcli.commands.attack.files import file_names
from latcli.errors import ExitCode

TINY = ("--classifier", "tiny_model:tiny")
QUICK = (*TINY, "--steps", "3", "--no-figures")
CENTER = (*QUICK, "--center", "0.4")

#: Classifiers with oddities, as a user's own module.
ODD_MODELS = """
import torch
from tiny_model import TinyNet

class Blind(TinyNet):
    def __init__(self):
        super().__init__()
        self.features.weight.data.zero_()
        self.features.bias.data.zero_()

class Named(TinyNet):
    class_names = tuple(f"[red]très {index} \\x1b[31m" + "long " * 20 for index in range(16))

def blind():
    return Blind()

def named():
    return Named()

def no_module():
    return 3
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty working directory with the user's own classifiers in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(tiny_model.__file__, folder)
    (folder / "odd_models.py").write_text(ODD_MODELS)
    return folder


@dataclass(frozen=True)
class Done:
    """What a command line came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.stdout)


Latcli = Callable[..., Done]


@pytest.fixture
def latcli(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Latcli:
    """Run a command line in this process, in the folder `here`, with what a process of its own would print."""
    for name in [name for name in os.environ if name.startswith("LATCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("HOME", str(here.parent))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(here)

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = process.run(app, [str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return run


def levels_of(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def is_two_lines(stderr: str) -> bool:
    return re.fullmatch(r"error: [^\n]+\nhint: [^\n]+\n", stderr) is not None


def store_is_sound(folder: Path) -> bool:
    """Whether every file of the store is whole and recorded, and no run looks alive."""
    if not folder.exists():
        return True
    done = subprocess.run(
        [sys.executable, "-m", "latcli", "runs", "verify", "--json", "--store", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    leftovers = [path for path in folder.rglob("*") if path.name.startswith(".latcli-")]
    with closing(sqlite3.connect(folder / "latcli.db")) as db:
        running = db.execute("SELECT count(*) FROM runs WHERE status = 'running'").fetchone()[0]
    return done.returncode == 0 and not leftovers and running == 0


# The document


def test_json_prints_one_document_with_the_promised_keys_and_nothing_else(run_latcli, here: Path) -> None:  # type: ignore[no-untyped-def]
    for seed in range(2):
        save_photo(here / "photos" / f"{seed}.png", seed=seed)
    done = run_latcli("attack", "photos", *TINY, "--steps", "3", "--detector", "cam", "--json", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["classifier"] == "tiny_model:tiny"
    assert document["detector"] == "cam"
    assert document["epsilon"] == pytest.approx(8 / 255)
    run = Path(document["dir"])
    assert run == here / "runs" / document["run"]
    assert len(document["images"]) == 2
    for number, image in enumerate(document["images"]):
        assert image["image"] == f"photos/{number}.png"
        assert set(image["label"]) >= {"index", "name"}
        assert image["label"]["name"] == f"class {image['label']['index']}"
        for side in ("clean", "adversarial"):
            assert isinstance(image[side]["prediction"], str)
            assert 0 <= image[side]["confidence"] <= 1
            assert 1 <= image[side]["rank"] <= 16
        assert image["clean"]["rank"] == 1
        assert image["clean"]["prediction"] == image["label"]["name"]
        assert 0 < image["altered_percent"] <= image["background_percent"] <= 100
        assert image["linf_inside"] == 0
        assert 0 < image["linf_outside"] <= 8 / 255 + 1e-9
        ((x0, y0, x1, y1, score, name),) = image["boxes"]
        assert 0 <= x0 < x1 <= 44
        assert 0 <= y0 < y1 <= 40
        assert 0 < score <= 1
        assert name == image["label"]["name"]
        assert set(image["files"]) == {"adversarial", "mask", "difference", "figure"}
        for path in map(Path, image["files"].values()):
            assert path.parent == run
            Image.open(path).verify()
        change = np.abs(levels_of(image["files"]["adversarial"]).astype(int) - tiny_model.blobs(seed=number)).max(
            axis=2
        )
        mask = levels_of(image["files"]["mask"])
        assert change[mask == 255].max() == 0
        assert change.max() / 255 == pytest.approx(image["linf_outside"])
        assert 100 * np.mean(change > 0) == pytest.approx(image["altered_percent"])
        assert 100 * np.mean(mask == 0) == pytest.approx(image["background_percent"])


def test_the_difference_is_grey_where_nothing_changed(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    (image,) = latcli("attack", "a.png", *CENTER, "--json").document["images"]
    difference, mask = levels_of(image["files"]["difference"]), levels_of(image["files"]["mask"])
    assert (difference[mask == 255] == 128).all()
    assert {int(difference.min()), int(difference.max())} == {1, 255}


def test_the_run_keeps_what_was_asked_and_what_came_of_it(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    document = latcli("attack", "a.png", *CENTER, "--seed", "7", "--label", "3", "--json").document
    shown = latcli("runs", "show", document["run"][-4:], "--json").document
    assert (shown["status"], shown["exit_code"], shown["seed"]) == ("completed", 0, 7)
    assert shown["config"]["center"] == 0.4
    assert shown["config"]["steps"] == 3
    (kept,), (told,) = shown["images"], document["images"]
    for key in ("image", "label", "altered_percent", "background_percent", "linf_inside", "linf_outside", "boxes"):
        assert kept[key] == told[key], key
    for side in ("clean", "adversarial"):
        for key in ("prediction", "confidence", "rank"):
            assert kept[side][key] == told[side][key]
    assert {row["name"] for row in shown["artifacts"]} == {Path(path).name for path in told["files"].values()}


def test_the_same_command_gives_the_same_files(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    runs = [latcli("attack", "a.png", *TINY, "--steps", "3", "--center", "0.4", "--json").document for _ in range(2)]
    for kind, path in runs[0]["images"][0]["files"].items():
        assert Path(path).read_bytes() == Path(runs[1]["images"][0]["files"][kind]).read_bytes(), kind
    other = latcli("attack", "a.png", *CENTER, "--seed", "1", "--json").document
    first = Path(runs[0]["images"][0]["files"]["adversarial"]).read_bytes()
    assert first != Path(other["images"][0]["files"]["adversarial"]).read_bytes()


def test_a_second_run_finds_its_detections_in_the_store(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    first = latcli("attack", "a.png", *QUICK, "--detector", "cam", "--json").document
    with closing(sqlite3.connect(here / "runs" / "latcli.db")) as db:
        (boxes,) = db.execute("SELECT boxes_json FROM detections").fetchone()
        moved = json.dumps([json.loads(boxes)[0] | {"x0": 1.0, "y0": 2.0, "x1": 30.0, "y1": 31.0}])
        db.execute("UPDATE detections SET boxes_json = ?", [moved])
        db.commit()
    again = latcli("attack", "a.png", *QUICK, "--detector", "cam", "--json").document
    assert first["images"][0]["boxes"][0][:4] != [1.0, 2.0, 30.0, 31.0]
    assert again["images"][0]["boxes"][0][:4] == [1.0, 2.0, 30.0, 31.0]
    other = latcli("attack", "a.png", *QUICK, "--detector", "cam", "--cam-threshold", "0.3", "--json").document
    assert other["images"][0]["boxes"][0][:4] != [1.0, 2.0, 30.0, 31.0]


# The tables


def is_plain(text: str) -> bool:
    """No line over 80 columns, and nothing that a terminal would act upon."""
    return all(cell_len(line) <= 80 for line in text.splitlines()) and not re.search(r"[^\n -~\u00a0-\U0010ffff]", text)


@pytest.mark.parametrize("photos", [1, 3])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_tables_fit_80_columns_whatever_things_are_called(
    photos: int, dry: tuple[str, ...], latcli: Latcli, here: Path
) -> None:
    for seed in range(photos):
        save_photo(here / "photos" / (f"{seed}" + "-very" * 20 + "-long.png"), seed=seed)
    done = latcli("attack", "photos", "--classifier", "odd_models:named", *CENTER[2:], *dry)
    assert done.code == 0
    assert is_plain(done.stdout), done.stdout
    assert "[red]" in done.stdout


def test_tables_of_ascii_names_are_ascii(latcli: Latcli, here: Path) -> None:
    for seed in range(3):
        save_photo(here / "photos" / f"{seed}.png", seed=seed)
    done = latcli("attack", "photos", *CENTER)
    assert done.code == 0
    assert done.stdout.isascii()
    assert is_plain(done.stdout)


def test_the_tables_have_the_papers_columns_and_the_averages(latcli: Latcli, here: Path) -> None:
    for seed in range(3):
        save_photo(here / "photos" / f"{seed}.png", seed=seed)
    lines = [line.split() for line in latcli("attack", "photos", *CENTER, "--label", "9").stdout.splitlines()]
    assert ["class", "right?", "top", "5", "top", "10", "guess", "p(class)"] in lines
    assert ["class", "altered", "right?", "top", "5", "top", "10", "guess", "p(class)"] in lines
    document = latcli("attack", "photos", *CENTER, "--label", "9", "--json").document
    for side in ("clean", "adversarial"):
        ranks = [image[side]["rank"] for image in document["images"]]
        counts = [f"{sum(rank <= limit for rank in ranks)}/3" for limit in (1, 5, 10)]
        (row,) = [line for line in lines if line[:2] == ["3", "photos"] and len(line) == 6 + 2 * (side != "clean")]
        assert row[-4:-1] == counts
        mean = np.mean([image[side]["confidence"] for image in document["images"]])
        assert float(row[-1]) == pytest.approx(mean, rel=0.05, abs=6e-4)


def test_without_a_label_the_output_says_that_the_prediction_was_taken(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    assert "no label was given" in latcli("attack", "a.png", *CENTER).stdout
    assert "no label was given" not in latcli("attack", "a.png", *CENTER, "--label", "class_9").stdout


# Which photos


def test_several_photos_folders_and_duplicates_are_each_attacked_once(latcli: Latcli, here: Path) -> None:
    for name in ("a.png", "deep/er/b.png", "deep/c.png"):
        save_photo(here / name)
    (here / "deep" / "notes.txt").write_text("no photo")
    (here / "deep" / "again.png").symlink_to(here / "a.png")
    (here / "deep" / "circle").symlink_to(here / "deep")
    document = latcli("attack", "deep", "a.png", "deep/c.png", "./a.png", *CENTER, "--json").document
    names = [Path(image["image"]).resolve() for image in document["images"]]
    assert sorted(names) == sorted(here / name for name in ("a.png", "deep/er/b.png", "deep/c.png"))


def test_a_photo_is_read_from_standard_input(latcli_environment: dict[str, str], here: Path) -> None:
    data = save_photo(here / "a.png").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "latcli", "attack", "-", *CENTER, "--json"],
        cwd=here,
        env=latcli_environment,
        input=data,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    (image,) = json.loads(done.stdout)["images"]
    assert image["image"] == "stdin"
    assert levels_of(image["files"]["adversarial"]).shape == (40, 44, 3)


def test_photos_of_one_name_in_two_folders_get_files_of_their_own(latcli: Latcli, here: Path) -> None:
    for number, name in enumerate(("x/a.png", "y/a.png", "y/A.png", "z/a.tiff", "z/a-2.png")):
        save_photo(here / name, seed=number)
    images = latcli("attack", "x", "y", "z", *CENTER, "--json").document["images"]
    paths = [image["files"]["adversarial"].casefold() for image in images]
    assert len(set(paths)) == 5
    for image in images:
        change = levels_of(image["files"]["adversarial"]).astype(int) - levels_of(image["image"])
        assert np.abs(change).max() <= 8


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (("--label", "class_9"), "given"),
        (("--label", "9"), "given"),
        (("--labels", "labels.csv"), "file"),
        (("--labels-from", "folder"), "folder"),
        ((), "prediction"),
    ],
)
def test_the_label_comes_from_where_it_was_said(
    arguments: tuple[str, ...], source: str, latcli: Latcli, here: Path
) -> None:
    save_photo(here / "class-9" / "a.png")
    (here / "labels.csv").write_text("file,name\nclass-9/a.png,Class 9\n")
    (image,) = latcli("attack", "class-9", *CENTER, *arguments, "--json").document["images"]
    assert image["label"] == {"index": 9, "name": "class 9", "source": source}


# A broken photo among good ones


def test_a_broken_photo_is_reported_and_the_rest_goes_on(latcli: Latcli, here: Path) -> None:
    for number in range(4):
        save_photo(here / "photos" / f"{number}.png", seed=number)
    (here / "photos" / "1.png").write_bytes(b"")
    (here / "photos" / "2.png").write_bytes((here / "photos" / "3.png").read_bytes()[:300])
    (here / "photos" / "circle.png").symlink_to("circle.png")
    (here / "photos" / "gone.png").symlink_to("nowhere.png")
    done = latcli("attack", "photos", *CENTER, "--json")
    assert done.code == ExitCode.FAILURE
    assert [image["image"] for image in done.document["images"]] == ["photos/0.png", "photos/3.png"]
    names = ["photos/1.png", "photos/2.png", "photos/circle.png", "photos/gone.png"]
    assert [failure["image"] for failure in done.document["failures"]] == names
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for line, name in zip(lines, names, strict=True):
        assert line.startswith("error: ")
        assert name in line
    assert "0 bytes" in lines[0]
    shown = latcli("runs", "show", "latest", "--json").document
    assert (shown["status"], shown["exit_code"]) == ("completed", 1)
    assert store_is_sound(here / "runs")
    table = latcli("attack", "photos", *CENTER)
    assert (table.code, table.stdout.count("failed: ")) == (1, 4)
    assert is_plain(table.stdout)


def test_where_no_photo_can_be_attacked_the_run_says_so(latcli: Latcli, here: Path) -> None:
    for name in ("a.png", "b.png"):
        (here / name).write_bytes(b"")
    done = latcli("attack", "a.png", "b.png", *CENTER)
    assert done.code == ExitCode.FAILURE
    assert "no photo was attacked" in done.stdout
    assert latcli("attack", "a.png", "b.png", *CENTER, "--json").document["summary"] == {"n": 0}


@pytest.mark.parametrize(
    "arguments",
    [("--labels", "labels.csv"), ("--labels-from", "folder"), ("--box", "0,0,50,10"), ("--mask", "mask.png")],
)
def test_what_does_not_fit_one_of_several_photos_is_told_with_its_name(
    arguments: tuple[str, ...], latcli: Latcli, here: Path
) -> None:
    save_photo(here / "class 1" / "good.png", 40, 60)
    save_photo(here / "holiday" / "odd.png", 44, 44)
    (here / "labels.csv").write_text("good.png,1\nodd.png,999\n")
    save_photo(here / "mask.png", 40, 60)
    options = QUICK if arguments[0] in ("--box", "--mask") else CENTER
    done = latcli("attack", "class 1", "holiday", *options, *arguments, "--json")
    assert done.code in (ExitCode.FAILURE, ExitCode.USAGE)
    assert [image["image"] for image in done.document["images"]] == ["class 1/good.png"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "odd.png" in line
    (failure,) = done.document["failures"]
    assert failure["image"] == "holiday/odd.png"


# Bad input: two lines, the right exit code, nothing half-written


def bad_files(folder: Path) -> None:
    good = save_photo(folder / "good.png").read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(tiny_model.blobs()).save(buffer, format="JPEG")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("hello\n")
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (folder / "bomb.png").write_bytes(good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:])
    (folder / "no_pixels.ppm").write_bytes(b"P6 0 0 255\n")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "nothing").mkdir()
    save_photo(folder / "small_mask.png", 10, 10)
    save_photo(folder / "masks" / "other.png")
    (folder / "no_labels.csv").write_text("other.png,3\n")
    (folder / "binary.csv").write_bytes(good)
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.safetensors").write_text("hello")


GOOD = ("good.png", *CENTER)
DETECT = ("good.png", *QUICK, "--detector", "cam")

BAD_INPUT = {
    "no such file": (("nowhere.jpg", *CENTER), 1, "no such file: nowhere.jpg"),
    "a name that no file can have": (("x" * 5_000 + ".jpg", *CENTER), 1, "cannot read|no such file"),
    "empty": (("empty.jpg", *CENTER), 1, "empty.jpg is empty"),
    "text": (("text.jpg", *CENTER), 1, "text.jpg is not an image"),
    "truncated PNG": (("truncated.png", *CENTER), 1, "truncated.png is damaged"),
    "truncated JPEG": (("truncated.jpg", *CENTER), 1, "truncated.jpg is damaged"),
    "bomb": (("bomb.png", *CENTER), 1, "claims 60000x60000 pixels"),
    "no pixels": (("no_pixels.ppm", *CENTER), 1, "no_pixels.ppm"),
    "circular link": (("circle.png", *CENTER), 1, "circle.png"),
    "folder without photos": (("nothing", *CENTER), 1, "no image below nothing"),
    "no photo": ((*CENTER,), 2, "PHOTO"),
    "epsilon 0": ((*GOOD, "--epsilon", "0"), 2, "not over 0"),
    "epsilon below 0": ((*GOOD, "--epsilon=-1/255"), 2, "not over 0"),
    "epsilon above 1": ((*GOOD, "--epsilon", "1.01"), 2, "at most 1"),
    "epsilon no number": ((*GOOD, "--epsilon", "eight"), 2, "not a number"),
    "epsilon nan": ((*GOOD, "--epsilon", "nan"), 2, "not over 0"),
    "epsilon 1/0": ((*GOOD, "--epsilon", "1/0"), 2, "not a number"),
    "epsilon below a level": ((*GOOD, "--epsilon", "0.001"), 2, "less than one 8-bit level"),
    "label": ((*GOOD, "--label", "clas 9"), 2, "no class called 'clas 9'"),
    "label out of range": ((*GOOD, "--label", "16"), 2, "there is no class 16"),
    "target": ((*GOOD, "--target", "unicorn"), 2, "no class called 'unicorn'"),
    "labels missing": ((*GOOD, "--labels", "nowhere.csv"), 2, "nowhere.csv"),
    "labels binary": ((*GOOD, "--labels", "binary.csv"), 2, "cannot read the labels binary.csv"),
    "labels of others": ((*GOOD, "--labels", "no_labels.csv"), 2, "no label for good.png"),
    "labels from elsewhere": ((*GOOD, "--labels-from", "moon"), 2, "moon"),
    "two kinds of labels": ((*GOOD, "--label", "1", "--labels", "no_labels.csv"), 2, "--label and --labels"),
    "detector": (("good.png", *QUICK, "--detector", "yoloo"), 2, "no detector called 'yoloo'"),
    "classifier": (("good.png", "--classifier", "efficientnet_lite"), 2, "no classifier called"),
    "module": (("good.png", "--classifier", "tinny:tiny"), 2, "tinny:tiny cannot be imported"),
    "function": (("good.png", "--classifier", "tiny_model:tinny"), 2, "tiny_model:tinny cannot be imported"),
    "no network": (("good.png", "--classifier", "odd_models:no_module"), 2, "returned a int"),
    "device": ((*GOOD, "--device", "abacus"), 2, "no device called 'abacus'"),
    "device that is not here": ((*GOOD, "--device", "cuda:99"), 2, "cuda:99"),
    "attack": ((*GOOD, "--attack", "pdg"), 2, "no attack called 'pdg'"),
    "steps": ((*GOOD, "--steps", "0"), 2, "steps"),
    "step size": ((*GOOD, "--step-size", "0"), 2, "step size '0'"),
    "restarts": ((*GOOD, "--restarts", "0"), 2, "restarts"),
    "l2 without a radius": ((*GOOD, "--norm", "l2"), 2, "--radius"),
    "radius without l2": ((*GOOD, "--radius", "2"), 2, "--norm l2"),
    "radius 0": ((*GOOD, "--norm", "l2", "--radius", "0"), 2, "radius"),
    "center": ((*GOOD[:1], *QUICK, "--center", "1.5"), 2, "center"),
    "box outside": (("good.png", *QUICK, "--box", "0,0,45,10"), 2, "outside the photo of 44x40"),
    "box of three": (("good.png", *QUICK, "--box", "0,0,45"), 2, "not four numbers"),
    "box inside out": (("good.png", *QUICK, "--box", "9,9,1,1"), 2, "is empty"),
    "box and center": ((*GOOD, "--box", "0,0,9,9"), 2, "--box and --center"),
    "full frame": (("good.png", *QUICK, "--box", "0,0,44,40"), 1, "nothing is left to change in good.png"),
    "mask of another size": (("good.png", *QUICK, "--mask", "small_mask.png"), 1, "is 10x10, its photo 44x40"),
    "mask missing": (("good.png", *QUICK, "--mask", "nowhere.png"), 1, "cannot read the mask nowhere.png"),
    "mask empty": (("good.png", *QUICK, "--mask", "empty.jpg"), 1, "empty.jpg is empty"),
    "mask of a name that no file can have": (("good.png", *QUICK, "--mask", "x" * 5_000), 2, "cannot read the masks"),
    "target that is the label": (
        (*GOOD, "--label", "3", "--target", "3"),
        2,
        "'class 3' is the class of good.png itself",
    ),
    "no mask in the folder": (("good.png", *QUICK, "--mask", "masks"), 2, r"no file called good\.\*"),
    "no object": (("good.png", "--classifier", "odd_models:blind", "--detector", "cam"), 3, "cam found no object"),
    "weights missing": ((*GOOD, "--classifier-weights", "nowhere.pt"), 1, "no such weights file"),
    "weights empty": ((*GOOD, "--classifier-weights", "empty.pt"), 1, "empty.pt is empty"),
    "weights that are text": ((*GOOD, "--classifier-weights", "text.safetensors"), 1, "text.safetensors is damaged"),
    "weights that are a photo": ((*GOOD, "--classifier-weights", "good.png"), 1, "good.png is damaged or no weights"),
    "detector weights": (
        ("good.png", *QUICK, "--detector", "yolo", "--detector-weights", "empty.pt"),
        1,
        "empty.pt is empty",
    ),
    "no way to the weights": (("good.png", *QUICK, "--detector", "yolo", "--offline"), 1, "yolo"),
    "store in the way": ((*GOOD, "--store", "good.png"), 1, "good.png"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_told_in_two_lines_with_its_exit_code(case: str, latcli: Latcli, here: Path) -> None:
    arguments, code, message = BAD_INPUT[case]
    bad_files(here)
    for output in ((), ("--json",)):
        done = latcli("attack", *arguments, *output)
        assert (done.code, done.stdout) == (code, ""), done
        assert is_two_lines(done.stderr), done.stderr
        assert re.search(message, done.stderr.splitlines()[0]), done.stderr
    if (here / "runs").exists():
        runs = latcli("runs", "list", "--json").document["runs"]
        assert {(run["status"], run["exit_code"]) for run in runs} <= {("failed", code)}
        assert list((here / "runs").rglob("*.png")) == []
        assert list((here / "runs").rglob(".latcli-*")) == []
        assert latcli("runs", "verify").code == 0


def test_all_is_well_without_the_bad_input(latcli: Latcli, here: Path) -> None:
    bad_files(here)
    assert latcli("attack", *GOOD).code == 0
    assert latcli("attack", *DETECT).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("text.jpg", *CENTER), 1, "text.jpg is not an image"),
        ((*GOOD, "--epsilon", "0"), 2, "not over 0"),
        (("good.png", "--classifier", "odd_models:blind", "--detector", "cam"), 3, "found no object"),
        ((*GOOD[:1], *CENTER, "--label", "9", "--epsilon", "1/255", "--steps", "1", "--check-success"), 4, ""),
    ],
)
def test_a_process_of_its_own_ends_with_these_codes(  # type: ignore[no-untyped-def]
    arguments: tuple[str, ...], code: int, message: str, run_latcli, here: Path
) -> None:
    bad_files(here)
    done = run_latcli("attack", *arguments, cwd=here)
    assert done.returncode == code
    assert is_two_lines(done.stderr) if message else done.stderr == ""
    assert message in done.stderr


def test_a_folder_that_may_not_be_read_is_told_in_two_lines(latcli: Latcli, here: Path) -> None:
    save_photo(here / "photos" / "closed" / "a.png")
    (here / "photos" / "closed").chmod(0)
    try:
        if os.access(here / "photos" / "closed", os.R_OK):
            pytest.skip("this user may read every folder")
        done = latcli("attack", "photos", *CENTER)
    finally:
        (here / "photos" / "closed").chmod(0o700)
    assert done.code == ExitCode.FAILURE
    assert is_two_lines(done.stderr)


def test_photos_without_an_object_are_failures_or_skipped(latcli: Latcli, here: Path) -> None:
    for seed in range(2):
        save_photo(here / "photos" / f"{seed}.png", seed=seed)
    blind = ("--classifier", "odd_models:blind", "--detector", "cam", "--steps", "2", "--no-figures", "--json")
    failed = latcli("attack", "photos", *blind)
    assert failed.code == ExitCode.NO_OBJECT
    assert [failure["skipped"] for failure in failed.document["failures"]] == [False, False]
    for photos in ("photos", "photos/0.png"):
        skipped = latcli("attack", photos, *blind, "--on-miss", "skip")
        assert skipped.code == 0
        assert skipped.stderr.startswith("skipped: cam found no object")
        assert all(failure["skipped"] for failure in skipped.document["failures"])
    centered = latcli("attack", "photos", *blind, "--on-miss", "center")
    assert centered.code == 0
    assert len(centered.document["images"]) == 2


def test_check_success_is_4_unless_every_photo_is_fooled(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    hardly = ("--epsilon", "1/255", "--steps", "1", "--check-success", "--label", "9", "--json")
    surely = ("--epsilon", "64/255", "--steps", "20", "--check-success", "--label", "9", "--json")
    done = latcli("attack", "a.png", *TINY, "--center", "0.4", *hardly)
    assert (done.code, done.document["images"][0]["fooled"], done.stderr) == (4, False, "")
    assert latcli("runs", "show", "latest", "--json").document["exit_code"] == 4
    done = latcli("attack", "a.png", *TINY, "--center", "0.4", *surely)
    assert (done.code, done.document["images"][0]["fooled"]) == (0, True)
    without = [option for option in hardly if option != "--check-success"]
    assert latcli("attack", "a.png", *TINY, "--center", "0.4", *without).code == 0


def test_a_photo_that_was_wrong_before_is_not_fooled(latcli: Latcli, here: Path) -> None:
    """Success is counted against the label, never against the clean prediction."""
    save_photo(here / "a.png")
    done = latcli("attack", "a.png", *CENTER, "--label", "2", "--epsilon", "1/255", "--check-success", "--json")
    (image,) = done.document["images"]
    assert image["clean"]["rank"] > 1
    assert not image["fooled"]
    assert done.code == 4


def test_a_dry_run_attacks_nothing_and_creates_no_run(
    latcli: Latcli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*arguments: object) -> None:
        raise AssertionError("a dry run attacked")

    monkeypatch.setattr("latcli.engine.attacks.pgd.pgd", explode)
    for seed in range(2):
        save_photo(here / "photos" / f"{seed}.png", seed=seed)
    (here / "photos" / "2.png").write_bytes(b"")
    done = latcli("attack", "photos", *QUICK, "--detector", "cam", "--dry-run", "--json")
    assert done.code == ExitCode.FAILURE
    assert done.document["run"] is None
    assert "images" not in done.document
    assert len(done.document["planned"]) == 2
    for planned in done.document["planned"]:
        assert (planned["height"], planned["width"]) == (40, 44)
        assert len(planned["boxes"]) == 1
        assert 0 < planned["background_percent"] < 100
        assert planned["seconds"] > 0
    table = latcli("attack", "photos/0.png", *QUICK, "--detector", "cam", "--dry-run")
    assert table.code == 0
    assert "44x40" in table.stdout
    assert latcli("runs", "list", "--json").document["runs"] == []
    assert [path for path in (here / "runs").iterdir() if path.is_dir()] == []


def test_auto_says_in_one_line_which_detector_it_took(latcli: Latcli, here: Path) -> None:
    save_photo(here / "a.png")
    done = latcli("attack", "a.png", *QUICK, "--offline", "--json")
    assert done.code == 0
    assert done.document["detector"] == "cam"
    (line,) = done.stderr.splitlines()
    assert line.startswith("cam")
    assert "not yolo" in line
    assert "not mobilenet" in line
    assert latcli("attack", "a.png", *QUICK, "--offline", "--quiet").stderr == ""


# Signals


@contextmanager
def at_work(here: Path, environment: dict[str, str], photos: int = 60) -> Iterator[subprocess.Popen[str]]:
    """A process that attacks a folder of photos one by one, once it has finished two of them."""
    for seed in range(photos):
        save_photo(here / "photos" / f"{seed:03}.png", 60 + seed, 90, seed)
    command = [sys.executable, "-m", "latcli", "attack", "photos", *TINY]
    command += ["--center", "0.4", "--steps", "30", "--batch", "1", "--json"]
    with subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            end = time.monotonic() + 120
            while len(list((here / "runs").glob("*/*-figure.png"))) < 2:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end, "no photo was finished"
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_the_run_and_keeps_what_is_finished(
    number: signal.Signals, code: int, word: str, here: Path, latcli_environment: dict[str, str], latcli: Latcli
) -> None:
    with at_work(here, latcli_environment) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (code, "", f"{word}\n")
    shown = latcli("runs", "show", "latest", "--json").document
    assert (shown["status"], shown["exit_code"]) == ("interrupted", code)
    assert 1 <= len(shown["images"]) < 60
    kept = {row["name"] for row in shown["artifacts"]}
    stems = [Path(image["image"]).stem for image in shown["images"]]
    assert {f"{stem}-{kind}.png" for stem in stems for kind in ("adversarial", "mask", "difference")} <= kept
    assert {f"{stem}-figure.png" for stem in stems[:-1]} <= kept  # of a batch of one, the last may not be drawn yet
    assert latcli("runs", "verify").code == 0
    assert store_is_sound(here / "runs")


def test_after_a_kill_the_next_command_marks_the_run_as_crashed(
    here: Path, latcli_environment: dict[str, str], latcli: Latcli
) -> None:
    with at_work(here, latcli_environment) as process:
        process.kill()
        process.communicate(timeout=60)
    assert latcli("attack", "photos/000.png", *CENTER).code == 0
    first, last = latcli("runs", "list", "--json").document["runs"][::-1]
    assert (first["status"], last["status"]) == ("crashed", "completed")
    with closing(sqlite3.connect(here / "runs" / "latcli.db")) as db:
        assert db.execute("SELECT status FROM runs WHERE id = ?", [first["run"]]).fetchone() == ("crashed",)
        assert db.execute("SELECT count(*) FROM attacks WHERE run = ?", [first["run"]]).fetchone()[0] >= 1
    checked = latcli("runs", "verify", "--json").document
    assert {problem["fault"] for problem in checked["problems"]} <= {"stray"}
    assert checked["database"] == []


# Stores that cannot be written


@pytest.fixture
def on_a_small_disk(
    here: Path, latcli_environment: dict[str, str]
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a shell script in `here`, with a file system of its own at `here/runs`; latcli is `$LATCLI`."""
    disk = here / "runs"
    disk.mkdir()
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1"'
    try:
        able = subprocess.run([*unshare, mount, "sh", disk], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this system lets no one mount a file system of his own")

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = [*unshare, f"{mount} && {script}", "sh", disk]
        environment = latcli_environment | {"LATCLI": f"{sys.executable} -m latcli"}
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_in_two_lines_and_what_is_finished_stays(here: Path, on_a_small_disk) -> None:  # type: ignore[no-untyped-def]
    for seed in range(3):
        save_photo(here / "photos" / f"{seed}.png", seed=seed)
    noise = np.random.default_rng(0).integers(0, 256, (800, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(here / "photos" / "3.png")
    done = on_a_small_disk(
        "$LATCLI attack photos --classifier tiny_model:tiny --steps 1 --center 0.4 --no-figures --batch 1; code=$?; "
        "$LATCLI runs show latest --json; $LATCLI runs verify >&2; echo verified $? >&2; exit $code"
    )
    assert done.returncode == ExitCode.FAILURE
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"error: .*no space left on device", lines[0]), done.stderr
    assert lines[1].startswith("hint: free some space")
    assert lines[-1] == "verified 0"
    shown = json.loads(done.stdout)
    assert (shown["status"], shown["exit_code"]) == ("failed", 1)
    assert len(shown["images"]) == 3


def test_a_read_only_store_is_told_in_two_lines(here: Path, on_a_small_disk) -> None:  # type: ignore[no-untyped-def]
    save_photo(here / "a.png")
    done = on_a_small_disk(
        'mount -o remount,bind,ro "$1" && $LATCLI attack a.png --classifier tiny_model:tiny --center 0.4 --steps 1'
    )
    assert (done.returncode, done.stdout) == (ExitCode.FAILURE, "")
    assert is_two_lines(done.stderr), done.stderr
    assert "read-only" in done.stderr
    assert "--store DIR" in done.stderr


# Weights that want to run code


class Bomb:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize("option", ["--classifier-weights", "--detector-weights"])
def test_a_pickle_that_wants_to_run_code_does_not_run(name: str, option: str, latcli: Latcli, here: Path) -> None:
    import torch

    save_photo(here / "a.png")
    torch.save({"state_dict": Bomb(here / "ran")}, here / name)
    where = ("--center", "0.4") if option == "--classifier-weights" else ("--detector", "mobilenet")
    done = latcli("attack", "a.png", *QUICK, *where, option, name)
    assert done.code == ExitCode.FAILURE
    assert is_two_lines(done.stderr), done.stderr
    assert name in done.stderr
    assert not (here / "ran").exists()
    with (here / name).open("rb") as file:
        torch.load(file, weights_only=False)
    assert (here / "ran").exists()


def test_weights_that_fit_are_used_and_others_are_refused(latcli: Latcli, here: Path) -> None:
    import torch

    save_photo(here / "a.png")
    net = tiny_model.TinyNet()
    net.head.bias.data[5] += 100
    torch.save(net.state_dict(), here / "good.pt")
    torch.save({"head.weight": torch.zeros(3)}, here / "bad.pt")
    (image,) = latcli("attack", "a.png", *CENTER, "--classifier-weights", "good.pt", "--json").document["images"]
    assert image["clean"]["prediction"] == "class 5"
    done = latcli("attack", "a.png", *CENTER, "--classifier-weights", "bad.pt")
    assert done.code == ExitCode.FAILURE
    assert "do not fit" in done.stderr


# Names


HOSTILE = [
    b"line\nbreak.png",
    b"\x1b[31mred\x1b]0;title\x07.png",
    b"[red]markup [link=x]y.png",
    b"<img src=x onerror=alert(1)>.png",
    b"$(touch ran) `touch ran`; touch ran.png",
    b"caf\xe9 \xff\xfe.png",
    "\u202egnp.exe\u200b.png".encode(),
    ("\u8c93" * 80).encode() + b".png",
    b"x" * 251 + b".png",
    b"..png",
    b"--help.png",
    b"%s%n{0}.png",
]


def test_hostile_names_of_photos_do_no_harm(run_latcli, latcli: Latcli, here: Path) -> None:  # type: ignore[no-untyped-def]
    photo = save_photo(here / "a.png").read_bytes()
    folder = here / "photos"
    folder.mkdir()
    for name in HOSTILE:
        (folder / os.fsdecode(name)).write_bytes(photo)
    (folder / "broken [red]\x1b[31m\n.png").write_bytes(b"")
    shown = run_latcli("attack", "photos", *CENTER, cwd=here)
    assert shown.returncode == ExitCode.FAILURE
    assert is_plain(shown.stdout), shown.stdout
    (line,) = shown.stderr.splitlines()
    assert line == r"error: photos/broken [red]\x1b[31m\n.png is empty (0 bytes)"

    done = run_latcli("attack", "photos", *CENTER, "--json", cwd=here)
    images = json.loads(done.stdout)["images"]
    assert done.stdout.isascii()
    assert len(images) == len(HOSTILE) - 1  # a name that begins with a dot is hidden
    run = Path(json.loads(done.stdout)["dir"])
    files = [Path(path) for image in images for path in image["files"].values()]
    assert len(set(files)) == 3 * len(images)
    for path in files:
        assert path.parent == run
        assert path.is_file()
        assert re.fullmatch(r"[\w.-]+", path.name), path.name
    for command in (("show", "latest"), ("verify",), ("list",)):
        told = latcli("runs", *command)
        assert told.code == 0
        assert is_plain(told.stdout), told.stdout
    assert not (here / "ran").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_on_its_own_does_no_harm(name: bytes, latcli: Latcli, here: Path) -> None:
    path = save_photo(here / "a.png").rename(here / os.fsdecode(name))
    done = latcli("attack", f"./{path.name}", *CENTER)
    assert (done.code, done.stderr) == (0, "")
    assert is_plain(done.stdout), done.stdout
    missing = latcli("attack", f"./{path.name}.gone", *CENTER)
    assert missing.code == ExitCode.FAILURE
    assert is_two_lines(missing.stderr), missing.stderr


def test_names_of_files_are_safe_distinct_and_not_too_long() -> None:
    given = [os.fsdecode(b"photos/" + name) for name in HOSTILE] + [
        "x/a.png",
        "y/a.jpg",
        "z/A.png",
        "stdin",
        "a/",
        "é" * 200,
    ]
    given += [f"{folder}/{'貓' * 100}.png" for folder in "xy"]
    names = file_names(given)
    assert set(names) == set(given)
    assert len({name.casefold() for name in names.values()}) == len(given)
    for name in names.values():
        assert re.fullmatch(r"[\w.-]+", name)
        assert not name.startswith(".")
        assert len(os.fsencode(f"{name}-adversarial.png")) <= 255


# Large folders


PEAK = """
import resource, runpy, sys
sys.argv = ["latcli", *sys.argv[1:]]
try:
    runpy.run_module("latcli", run_name="__main__")
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(here: Path, latcli_environment: dict[str, str]) -> None:
    def peak_megabytes(photos: int) -> float:
        folder = here / f"photos{photos}"
        for seed in range(photos):
            save_photo(folder / f"{seed}.bmp", 500 + 31 * (seed % 7), 700 - 53 * (seed % 5), seed)
        command = [sys.executable, "-c", PEAK, "attack", folder.name, *CENTER, "--steps", "1", "--json"]
        done = subprocess.run(command, cwd=here, env=latcli_environment, capture_output=True, text=True, check=True)
        assert len(json.loads(done.stdout)["images"]) == photos
        return int(done.stderr.split()[-1]) / 1024

    few, many = peak_megabytes(20), peak_megabytes(60)
    # Forty more photos that were kept would take 150 MB as they are read, and 200 MB with their results.
    assert many - few < 80, (few, many)


# The real classifier on real photos


def installed_photos() -> list[Path]:
    import importlib.util

    found = []
    for package, file in (("ultralytics", "assets/bus.jpg"), ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")):
        specification = importlib.util.find_spec(package)
        assert specification is not None
        assert specification.origin is not None
        found.append(Path(specification.origin).parent / file)
    return found


@pytest.mark.slow
def test_real_photos_are_fooled_by_their_backgrounds(run_latcli, here: Path) -> None:  # type: ignore[no-untyped-def]
    done = run_latcli(
        "attack", *installed_photos(), "--detector", "cam", "--steps", "10", "--check-success", "--json", cwd=here
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["classifier"] == "efficientnet_lite0"
    bus, officer = document["images"]
    assert bus["label"]["name"] == "minibus"
    assert officer["label"]["name"] in {"academic gown", "military uniform"}
    for photo, image in zip(installed_photos(), (bus, officer), strict=True):
        assert image["fooled"]
        assert image["adversarial"]["confidence"] < image["clean"]["confidence"] / 100
        change = np.abs(levels_of(image["files"]["adversarial"]).astype(int) - levels_of(photo)).max(axis=2)
        assert change[levels_of(image["files"]["mask"]) > 0].max() == 0
        assert change.max() == 8
    assert store_is_sound(here / "runs")


@pytest.mark.slow
def test_an_attack_that_stops_at_top10_has_left_the_top_ten_of_the_saved_file(run_latcli, here: Path) -> None:  # type: ignore[no-untyped-def]
    done = run_latcli(
        *("attack", *installed_photos(), "--detector", "cam", "--stop", "top10", "--no-figures", "--json"), cwd=here
    )
    assert done.returncode == 0, done.stderr
    for image in json.loads(done.stdout)["images"]:
        assert image["adversarial"]["rank"] > 10
