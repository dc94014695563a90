"""`latcli attack` as its user meets it: documents, exit codes, what is kept, and what becomes of bad input."""

import io
import json
import os
import re
import shutil
import sqlite3
import sys
import threading
import tracemalloc
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from photo_set import save
from PIL import Image
from rich.cells import cell_len
from tiny_model import save_photo, save_photos

from latcli.commands.attack import file_names
from latcli.commands.photos import package_photos
from latcli.engine import photos, registry
from latcli.engine.detectors.base import ANY_CLASS, Box, Detection
from latcli.errors import ContractError, ExitCode
from latcli.session import Session

TINY = ("--classifier", "tiny_model:tiny")
QUICK = (*TINY, "--steps", "3", "--no-figures")
CENTER = (*QUICK, "--center", "0.4")


def attacked(latcli, *arguments):
    """The document of an attack that ends well."""
    done = latcli("attack", *arguments, "--json")
    assert done.code == 0, done.err
    return done.json


def runs_of(here):
    """Status and exit code of the runs in the store."""
    path = here / "runs" / "latcli.db"
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as db:
        return set(db.execute("SELECT status, exit_code FROM runs"))


def levels_of(path):
    return np.asarray(Image.open(path))


# The document


def test_the_document_says_what_the_files_show(latcli, here):
    save_photos(here / "photos", 2)
    document = attacked(latcli, "photos", *TINY, "--steps", "3", "--detector", "cam")
    assert (document["classifier"], document["detector"], document["attack"]) == ("tiny_model:tiny", "cam", "pgd")
    assert (document["epsilon"], document["region"], document["norm"]) == (8 / 255, "background", "linf")
    run = Path(document["dir"])
    assert run == here / "runs" / document["run"]
    for number, image in enumerate(document["images"]):
        assert image["image"] == f"photos/{number}.png"
        assert image["label"]["name"] == f"class {image['label']['index']}" == image["clean"]["prediction"]
        assert (image["region"], image["epsilon"]) == ("background", 8 / 255)
        for side in ("clean", "adversarial"):
            said = image[side]
            assert said["top"][0] == {"index": said["index"], "name": said["prediction"], "p": said["p_prediction"]}
            assert 0 <= said["confidence"] <= said["p_prediction"] <= 1
            assert (said["rank"] == 1) == (said["prediction"] == image["label"]["name"])
        assert image["was_right"]
        assert image["fooled"] == (image["adversarial"]["rank"] > 1)
        assert image["linf_inside"] == 0
        assert (image["detector"], image["localized_by"]) == ("cam", "cam")
        assert image["detector_weights"].startswith("tiny_model:tiny")
        ((x0, y0, x1, y1, score, name),) = image["boxes"]
        assert 0 <= x0 < x1 <= 44
        assert 0 <= y0 < y1 <= 40
        assert 0 < score == image["detector_confidence"] <= 1
        assert name == image["label"]["name"]
        assert 0 < image["evidence_inside"] <= 1
        assert image["evidence_lift"] == pytest.approx(
            100 * image["evidence_inside"] / image["object_percent"], rel=0.1
        )
        assert image["psnr"] > 20
        assert 0 < image["ssim"] < 1
        assert set(image["files"]) == {"adversarial", "mask", "difference", "figure"}
        for path in map(Path, image["files"].values()):
            assert path.parent == run
            Image.open(path).verify()
        before, mask = tiny_model.blobs(seed=number), levels_of(image["files"]["mask"])
        change = np.abs(levels_of(image["files"]["adversarial"]).astype(int) - before).max(axis=2)
        assert change[mask == 255].max() == 0
        assert change.max() / 255 == pytest.approx(image["linf_outside"]) == pytest.approx(8 / 255)
        assert 100 * np.mean(change > 0) == pytest.approx(image["altered_percent"])
        assert 100 * np.mean(mask == 0) == pytest.approx(image["background_percent"])
        assert 100 * np.mean(mask == 255) == pytest.approx(image["object_percent"])
        difference = levels_of(image["files"]["difference"])
        assert (difference[mask == 255] == 128).all()
        assert {int(difference.min()), int(difference.max())} == {1, 255}
    summary = document["summary"]
    assert (summary["n"], summary["right_before"], summary["wrong_before"]) == (2, 2, 0)
    assert summary["fooled"] == sum(image["fooled"] for image in document["images"])


def test_the_database_has_what_the_document_says(latcli, here):
    save_photo(here / "a.png")
    options = ("a.png", *CENTER, "--seed", "7", "--label", "3", "--target", "5", "--steps", "4")
    document = attacked(latcli, *options)
    (image,) = document["images"]
    with closing(sqlite3.connect(here / "runs" / "latcli.db")) as db:
        db.row_factory = sqlite3.Row
        (row,) = db.execute("SELECT * FROM attacks").fetchall()
        kinds = {row["kind"]: row["image"] for row in db.execute("SELECT kind, image FROM artifacts")}
    for key in ("image", "sha256", "region", "epsilon", "detector", "localized_by", "fooled", "was_right", "reached"):
        assert row[key] == image[key], key
    for key in ("p_target", "object_percent", "visible_background_percent", "l2", "psnr", "ssim", "evidence_inside"):
        assert row[key] == pytest.approx(image[key]), key
    for side in ("clean", "adversarial"):
        for key in ("prediction", "p_prediction", "confidence", "rank", "loss"):
            assert row[f"{side}_{key}"] == image[side][key]
    for key in ("classifier", "attack", "norm", "radius", "steps", "restarts", "objective"):
        assert row[key] == document[key], key
    assert (row["target_index"], row["label_name"], row["steps"]) == (5, "class 3", 4)
    assert kinds == {"adversarial": image["sha256"], "mask": image["sha256"], "difference": image["sha256"]}
    shown = latcli("runs", "show", "latest", "--json").json
    assert (shown["status"], shown["exit_code"], shown["seed"]) == ("completed", 0, 7)
    assert shown["config"]["center"] == 0.4
    assert latcli("runs", "verify").code == 0


def test_the_same_command_gives_the_same_files(latcli, here):
    save_photo(here / "a.png")
    runs = [attacked(latcli, "a.png", *TINY, "--steps", "3", "--center", "0.4") for _ in range(2)]
    for kind, path in runs[0]["images"][0]["files"].items():
        assert Path(path).read_bytes() == Path(runs[1]["images"][0]["files"][kind]).read_bytes(), kind
    other = attacked(latcli, "a.png", *CENTER, "--seed", "1")
    first, second = (Path(run["images"][0]["files"]["adversarial"]).read_bytes() for run in (runs[0], other))
    assert first != second


def test_a_second_run_finds_its_detections_in_the_store(latcli, here):
    save_photo(here / "a.png")
    cam, moved = ("a.png", *QUICK, "--detector", "cam"), [1.0, 2.0, 30.0, 31.0]

    def box(*more):
        return attacked(latcli, *cam, *more)["images"][0]["boxes"][0][:4]

    assert box() != moved
    with closing(sqlite3.connect(here / "runs" / "latcli.db")) as db:
        found = db.execute("SELECT boxes_json FROM detections").fetchone()
        if found is None:
            pytest.skip("this classifier has no identity, so nothing is cached")
        other = json.dumps([json.loads(found[0])[0] | dict(zip(("x0", "y0", "x1", "y1"), moved, strict=True))])
        db.execute("UPDATE detections SET boxes_json = ?", [other])
        db.commit()
    assert box() == moved
    assert box("--cam-threshold", "0.3") != moved
    assert box("--detector-option", "threshold=0.3") == box("--cam-threshold", "0.3")


# Several regions and epsilons


def test_regions_and_epsilons_make_one_table_in_one_run(latcli, here):
    save_photos(here / "photos", 2)
    document = attacked(
        latcli, "photos", *CENTER, "--regions", "background,random,foreground,all,patch", "--epsilon", "2/255,8/255"
    )
    assert (document["region"], document["epsilon"], document["summary"]) == (None, None, None)
    wanted = [(region, e / 255) for region in ("background", "random", "foreground", "all") for e in (2, 8)]
    wanted.append(("patch", 1.0))
    assert [(one["region"], one["epsilon"]) for one in document["regions"]] == wanted
    assert [one["summary"]["n"] for one in document["regions"]] == [2] * 9
    images = document["images"]
    assert [image["image"] for image in images] == ["photos/0.png"] * 9 + ["photos/1.png"] * 9
    assert [(image["region"], image["epsilon"]) for image in images[:9]] == wanted
    files = [image["files"]["adversarial"] for image in images]
    assert len(set(files)) == 18
    assert len({image["files"]["mask"] for image in images}) == 2
    for image in images:
        change = np.abs(levels_of(image["files"]["adversarial"]).astype(int) - levels_of(image["image"])).max(axis=2)
        mask = levels_of(image["files"]["mask"])
        assert change.max() <= round(255 * image["epsilon"])
        if image["region"] in ("background", "patch"):
            assert change[mask == 255].max() == 0
        if image["region"] == "foreground":
            assert change[mask == 0].max() == 0
    table = latcli("attack", "photos", *CENTER, "--regions", "background,all").out
    assert "background" in table
    assert latcli("runs", "verify").code == 0


def test_the_first_step_has_its_size_whatever_else_is_in_the_run(latcli, here):
    save_photos(here / "photos", 1)
    words = ("photos", *CENTER, "--steps", "1", "--step-size", "1/255", "--no-random-start")
    alone = attacked(latcli, *words, "--epsilon", "4/255")["images"][0]
    several = attacked(latcli, *words, "--epsilon", "4/255,16/255")["images"]
    with_patch = attacked(latcli, *words, "--epsilon", "4/255", "--regions", "background,patch")["images"][0]
    assert alone["linf_outside"] == pytest.approx(1 / 255)
    assert [one["linf_outside"] for one in (*several, with_patch)] == [alone["linf_outside"]] * 3


def test_the_smallest_epsilon_is_told_for_each_photo_and_region(latcli, here):
    save_photos(here / "photos", 2)
    words = (*CENTER, "--steps", "8", "--regions", "background,all", "--smallest-epsilon")
    assert attacked(latcli, *words, "photos")["smallest_epsilon_max"] == 16 / 255  # it needs no maximum
    document = attacked(latcli, *words, "64/255", "photos")
    assert document["smallest_epsilon_max"] == 64 / 255
    for image in document["images"]:
        assert image["smallest_epsilon"] == image["epsilon"]
        assert image["fooled"]
    for one in document["regions"]:
        found = [image["epsilon"] for image in document["images"] if image["region"] == one["region"]]
        assert (one["epsilon"], one["smallest_epsilon"]) == (None, pytest.approx(np.median(found)))
    assert document["regions"][1]["smallest_epsilon"] <= document["regions"][0]["smallest_epsilon"]


# The pictures


def test_an_error_keeps_what_is_drawn_and_waits_for_no_figure(latcli, here, monkeypatch):
    save_photos(here / "photos", 4)
    begun, go_on, drawn, attacks, attack = threading.Event(), threading.Event(), [], [], photos.run_attack

    def slow(*given):
        drawn.append(given)
        begun.set()
        assert go_on.wait(60)
        return b"figure"

    def fails_at_last(*given):
        attacks.append(given)
        if len(attacks) == 1:
            return attack(*given)
        assert begun.wait(60)
        threading.Timer(0.1, go_on.set).start()
        raise ContractError("the attack broke its contract", "a defect")

    monkeypatch.setattr("latcli.commands.photos.triptych", slow)
    monkeypatch.setattr(photos, "run_attack", fails_at_last)
    done = latcli("attack", "photos", *TINY, "--steps", "1", "--center", "0.4", "--batch", "3")
    assert done.code == ExitCode.FAILURE
    kept = {path.name for path in (here / "runs").glob("*/*.png")}
    assert kept == {
        *(f"{place}-{kind}.png" for place in range(3) for kind in ("adversarial", "mask", "difference")),
        "0-figure.png",
    }
    assert len(drawn) == 1
    assert latcli("runs", "verify").code == 0


def test_the_result_of_one_photo_is_shown_before_its_figure_is_drawn(latcli, here, monkeypatch):
    save_photo(here / "a.png")
    shown = []

    def draw(*_given):
        shown.append(sys.stdout.buffer.getvalue().decode())
        with closing(sqlite3.connect(here / "runs" / "latcli.db")) as db:
            shown.append(db.execute("SELECT status FROM runs ORDER BY rowid DESC").fetchone()[0])
        return b"figure"

    monkeypatch.setattr("latcli.commands.photos.triptych", draw)
    done = latcli("attack", "a.png", *TINY, "--steps", "1", "--center", "0.4")
    assert done.code == 0, done.err
    assert shown == [done.out, "running"]
    assert next((here / "runs").glob("*/a-figure.png")).read_bytes() == b"figure"
    assert latcli("runs", "show", "latest", "--json").json["status"] == "completed"
    assert attacked(latcli, "a.png", *TINY, "--steps", "1", "--center", "0.4")["images"][0]["files"]["figure"]
    assert shown[2:] == ["", "running"]  # a document is written when all that it names is there


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
def test_a_figure_that_cannot_be_drawn_leaves_a_run_that_is_not_completed(error, latcli, here, monkeypatch):
    save_photo(here / "a.png")

    def fails(*_given):
        raise error

    monkeypatch.setattr("latcli.commands.photos.triptych", fails)
    with pytest.raises(type(error)) if isinstance(error, OSError) else nullcontext():
        latcli("attack", "a.png", *TINY, "--steps", "1", "--center", "0.4")
    shown = latcli("runs", "show", "latest", "--json").json
    assert shown["status"] == ("failed" if isinstance(error, OSError) else "interrupted")
    assert [image["image"] for image in shown["images"]] == ["a.png"]


# Resuming


def cut_off(latcli, here, monkeypatch, error, *more, where=("--center", "0.4")):
    """An attack on five photos, one at a time, that ends with an error as it begins the third photo."""
    for seed in range(5):
        save_photo(here / "photos" / f"{seed % 3}" / f"{'ab'[seed // 3]}.png", seed=seed)
    attack, calls = photos.run_attack, []

    def fails_at_last(*given):
        calls.append(given)
        if len(calls) == 3:
            raise error
        return attack(*given)

    with monkeypatch.context() as patch:
        patch.setattr(photos, "run_attack", fails_at_last)
        return latcli("attack", "photos", *QUICK, *where, "--seed", "3", "--batch", "1", *more)


def files_and_figures(document):
    return [
        (
            *(image[key] for key in ("image", "region", "label", "adversarial", "l2")),
            {kind: (Path(path).name, Path(path).read_bytes()) for kind, path in image["files"].items()},
        )
        for image in document["images"]
    ]


def with_threads(monkeypatch, count):
    """Work as beside a GPU: threads read ahead of the attack, and encode behind it."""
    monkeypatch.setattr("latcli.commands.photos.threads_beside", lambda device: count)


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize(
    ("error", "more"),
    [(KeyboardInterrupt(), ("--regions", "background,all")), (ContractError("it broke", "a defect"), ())],
)
def test_a_resumed_attack_is_the_one_that_was_never_cut_off(error, more, threads, latcli, here, monkeypatch):
    with_threads(monkeypatch, threads)
    done = cut_off(latcli, here, monkeypatch, error, *more)
    shown = latcli("runs", "show", "latest", "--json").json
    assert len(shown["images"]) == (1 if threads and isinstance(error, KeyboardInterrupt) else 2)
    if isinstance(error, KeyboardInterrupt):
        assert done.code == ExitCode.INTERRUPTED
        assert f"latcli attack --classifier tiny_model:tiny --resume {shown['run'][-4:]} --offline" in done.err
    assert shown["resume"] == f"latcli attack --classifier tiny_model:tiny --resume {shown['run'][-4:]}"
    lost = next(path for path in (here / "runs" / shown["run"]).glob("*-difference.png"))
    lost.unlink()  # as after a kill: the row is there, and a picture is not
    before = {path: path.stat().st_mtime_ns for path in (here / "runs" / shown["run"]).glob("*-adversarial.png")}
    resumed = attacked(latcli, *shown["resume"].split()[2:])
    again = attacked(latcli, "photos", *CENTER, "--seed", "3", "--batch", "1", *more)
    assert resumed["run"] == shown["run"]
    assert files_and_figures(resumed) == files_and_figures(again)
    assert (resumed["summary"], resumed["regions"]) == (again["summary"], again["regions"])
    assert sum(path.stat().st_mtime_ns == was for path, was in before.items()) == len(before) - 1
    after = latcli("runs", "show", resumed["run"], "--json").json
    assert (after["status"], after["seed"], len(after["images"])) == ("completed", 3, len(resumed["images"]))
    assert latcli("runs", "verify").code == 0
    assert "completed" in latcli("attack", *TINY, "--resume", resumed["run"]).error[0]


def test_a_run_is_not_resumed_with_other_options_photos_or_labels_nor_where_its_configuration_is_damaged(
    latcli, here, monkeypatch
):
    labels, photo, database = here / "labels.csv", here / "photos" / "0" / "a.png", here / "runs" / "latcli.db"
    labels.write_text("a.png,1\nb.png,1\n")
    cut_off(latcli, here, monkeypatch, KeyboardInterrupt(), "--labels", "labels.csv")
    other = {"--epsilon": ("--epsilon", "4/255", *TINY), "--seed": ("--seed", "4", *TINY), "--photos": ("x", *TINY)}
    for word, options in (other | {"that a stored run names": ()}).items():
        done = latcli("attack", "--resume", "latest", *options)
        assert (done.code, word in done.err) == (ExitCode.USAGE, True)

    def damage():
        with closing(sqlite3.connect(database)) as db, db:
            db.execute("UPDATE runs SET config_json = json_set(config_json, '$.steps', 'many')")

    for file, change, said in (
        (photo, lambda: save_photo(photo, seed=9), "photos/0/a.png"),
        (photo, photo.unlink, "photos/0/a.png"),
        (labels, lambda: labels.write_text("a.png,1\nb.png,2\n"), "labels.csv has other contents"),
        (database, damage, "configuration"),
    ):
        kept = file.read_bytes()
        change()
        done = latcli("attack", *TINY, "--resume", "latest")
        assert (done.code, said in done.error[0]) == (ExitCode.USAGE, True)
        file.write_bytes(kept)
    assert latcli("attack", *TINY, "--resume", "latest").code == 0


def save_mask(path, left):
    mask_HW = np.zeros((40, 44), dtype=np.uint8)
    mask_HW[10:30, left : left + 20] = 255
    save(path, mask_HW)


def test_a_run_is_resumed_with_moved_masks_and_with_no_others(latcli, here, monkeypatch):
    for place in ("0/a", "1/a", "2/a", "0/b", "1/b"):
        save_mask(here / "masks" / f"{place}.png", left=4)
    names, mask = here / "names.txt", here / "masks" / "1" / "b.png"
    names.write_text("\n".join(f"class {index}" for index in range(tiny_model.CLASSES)))
    masks = ("--mask", "masks", "--class-names", "names.txt")
    cut_off(latcli, here, monkeypatch, KeyboardInterrupt(), where=masks)
    for path, change, said in (
        (names, lambda: names.write_text(names.read_text().replace("class 3", "owl")), "names.txt has other contents"),
        (mask, lambda: save_mask(mask, left=9), "the masks are not those"),
        (mask, mask.unlink, "the masks are not those"),
    ):
        kept = path.read_bytes()
        change()
        done = latcli("attack", *TINY, "--resume", "latest")
        assert (done.code, said in done.error[0]) == (ExitCode.USAGE, True)
        path.write_bytes(kept)
    (here / "masks").rename(here / "moved")
    assert len(attacked(latcli, *TINY, "--resume", "latest", "--mask", "moved")["images"]) == 5


@dataclass(frozen=True)
class ByFileSettings:
    weights: str


class ByFile:
    """A detector whose weights are the corner of its box."""

    Settings, name, depends_on_target = ByFileSettings, "by-file", False

    def __init__(self, settings, context):
        self.corner = float(Path(settings.weights).read_text())
        self.fingerprint = f"by-file {self.corner:g}"

    def detect(self, photo, target):
        return Detection((Box(self.corner, self.corner, 30.0, 30.0, 0.9, ANY_CLASS),))


def test_a_run_is_not_resumed_with_another_detector_that_has_its_name(latcli, here, monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["detector"], "by-file", f"{__name__}:ByFile")
    for name, corner in (("a", "3"), ("b", "9"), ("same", "3")):
        (here / name).write_text(corner)
    cut_off(latcli, here, monkeypatch, KeyboardInterrupt(), where=("--detector", "by-file", "--detector-weights", "a"))
    resume = (*TINY, "--resume", "latest", "--detector-weights")
    other = latcli("attack", *resume, "b")
    assert (other.code, "the detectors or their weights are not those" in other.error[0]) == (ExitCode.USAGE, True)
    assert latcli("attack", *resume, "same").code == 0


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--epsilon", "2/255,4/255")], ids=" ".join)
def test_progress_ends_with_all_photos_whatever_became_of_them(more, latcli, here, monkeypatch):
    for name in "abc":
        save_photo(here / "photos" / f"{name}.png")
    (here / "photos" / "b.png").write_bytes(b"no photo")
    bars = []

    @contextmanager
    def progress(self, description, total, *, noted=False):
        bars.append((total, []))
        yield lambda steps=1, /, *, text=None: bars[-1][1].append(steps)

    monkeypatch.setattr(Session, "progress", progress)
    assert latcli("attack", "photos", *CENTER, *more).code == 1
    assert [(total, sum(steps)) for total, steps in bars] == [(3, 3)]


# Many photos


def test_of_many_photos_the_document_has_the_first_and_sums_up_all(latcli, here, monkeypatch):
    cut_off(latcli, here, monkeypatch, KeyboardInterrupt())
    whole = attacked(latcli, "photos", *CENTER, "--seed", "3", "--batch", "1")
    monkeypatch.setattr("latcli.commands.attack.MOST_RESULTS", 2)
    monkeypatch.setattr("latcli.reporting.photos.MANY", 1)
    for words in (("photos", *CENTER, "--seed", "3", "--batch", "1"), (*TINY, "--resume", "latest")):
        if "--resume" in words:
            cut_off(latcli, here, monkeypatch, KeyboardInterrupt())
        first = attacked(latcli, *words)
        assert [one["image"] for one in first["images"]] == [one["image"] for one in whole["images"][:2]]
        assert (first["summary"], first["regions"]) == (whole["summary"], whole["regions"])
    shown = latcli("attack", "photos", *CENTER)
    assert "the first 2 of 5 photos" in shown.out
    assert "5 photos against" in shown.out


@pytest.mark.slow
def test_memory_grows_by_little_more_than_the_names_of_photos(latcli, here, monkeypatch):
    monkeypatch.setattr("latcli.commands.attack.MOST_RESULTS", 20)
    peaks = []
    for count in (40, 40, 240):  # the first makes what is made once
        save_photos(here / f"{count}", count)
        tracemalloc.start()
        attacked(latcli, str(count), *TINY, "--steps", "1", "--center", "0.4", "--no-figures")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 200 * 4096


# The tables


def is_plain(text):
    """No line over 80 columns, and nothing that a terminal would act upon."""
    return all(cell_len(line) <= 80 for line in text.splitlines()) and not re.search(r"[^\n -~\u00a0-\U0010ffff]", text)


# Which photos


def test_a_photo_is_read_from_standard_input_and_keeps_its_own_files(latcli, here, monkeypatch):
    data = save_photo(here / "stdin.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    document = attacked(latcli, "-", "stdin.png", *CENTER)
    assert [image["image"] for image in document["images"]] == ["stdin", "stdin.png"]
    files = [path for image in document["images"] for path in image["files"].values()]
    assert len(set(files)) == 6
    assert latcli("runs", "verify").code == 0


def test_the_label_comes_from_where_it_was_given(latcli, here):
    save_photo(here / "class-9" / "a.png")
    (here / "labels.csv").write_text("file,name\nclass-9/a.png,Class 9\n")
    sources = {"given": ("--label", "class_9"), "file": ("--labels", "labels.csv")}
    sources |= {"folder": ("--labels-from", "folder"), "prediction": ()}
    for source, words in sources.items():
        (image,) = attacked(latcli, "class-9", *CENTER, *words)["images"]
        assert image["label"] == {"index": 9, "name": "class 9", "source": source}


def test_a_broken_photo_is_reported_and_the_rest_goes_on(latcli, here):
    save_photos(here / "photos", 4)
    (here / "photos" / "1.png").write_bytes(b"")
    (here / "photos" / "2.png").write_bytes((here / "photos" / "3.png").read_bytes()[:300])
    (here / "photos" / "circle.png").symlink_to("circle.png")
    done = latcli("attack", "photos", *CENTER, "--json")
    assert done.code == ExitCode.FAILURE
    assert [image["image"] for image in done.json["images"]] == ["photos/0.png", "photos/3.png"]
    names = ["photos/1.png", "photos/2.png", "photos/circle.png"]
    assert [failure["image"] for failure in done.json["failures"]] == names
    for line, name in zip(done.err.splitlines(), names, strict=True):
        assert line.startswith("error: ")
        assert name in line
    shown = latcli("runs", "show", "latest", "--json").json
    assert (shown["status"], shown["exit_code"]) == ("completed", 1)


def test_photos_that_threads_read_and_encode_give_the_same_results_in_the_same_order(latcli, here, monkeypatch):
    for number in range(6):
        save_photo(here / "photos" / f"{number}.png", seed=number)
    (here / "photos" / "1.png").write_bytes(b"")
    found = []
    for threads in (0, 3):
        with_threads(monkeypatch, threads)
        command = ("attack", "photos", *QUICK, "--detector", "saliency", "--on-miss", "center", "--store", f"{threads}")
        done = latcli(*command, "--batch", "2", "--regions", "background,all", "--json")
        document = done.json
        names = [image.pop("files") for image in document["images"]]
        files = [{kind: Path(path).read_bytes() for kind, path in of_image.items()} for of_image in names]
        with closing(sqlite3.connect(here / f"{threads}" / "latcli.db")) as db:
            assert db.execute("SELECT count(*) FROM detections").fetchone() == (5,)
            rows = db.execute("SELECT image, region, linf_outside FROM attacks ORDER BY id").fetchall()
        found.append((document["images"], document["failures"], files, rows, done.err))

    assert found[0] == found[1]


def test_a_batch_is_attacked_while_threads_encode_the_one_before(latcli, here, monkeypatch):
    for number in range(3):
        save_photo(here / "photos" / f"{number}.png", seed=number)
    begun, attacks, attack, encode = threading.Event(), [], photos.run_attack, photos.encode_png

    def counted(*given):
        attacks.append(given)
        if len(attacks) == 2:
            begun.set()
        return attack(*given)

    def encoded(*given):
        assert begun.wait(60)
        return encode(*given)

    with_threads(monkeypatch, 2)
    monkeypatch.setattr(photos, "run_attack", counted)
    monkeypatch.setattr(photos, "encode_png", encoded)
    document = attacked(latcli, "photos", *CENTER, "--batch", "1")
    assert [image["image"] for image in document["images"]] == [f"photos/{number}.png" for number in range(3)]


def test_what_does_not_fit_one_of_several_photos_is_told_with_its_name_before_any_is_attacked(latcli, here):
    save_photo(here / "class 1" / "a.png")
    save_photo(here / "holiday" / "odd.png")
    done = latcli("attack", "holiday", "class 1", *CENTER, "--labels-from", "folder", "--json")
    assert done.code == ExitCode.USAGE
    assert "odd.png" in done.err
    (failure,) = done.json["failures"]
    assert (failure["image"], failure["exit_code"]) == ("holiday/odd.png", 2)
    assert len(done.json["images"]) == 1


def test_masks_lie_as_their_photos_do(latcli, here):
    """Two photos of one name have a mask each, and may not share one."""
    for seed, folder in enumerate(("hen", "kite")):
        save_photo(here / "nest" / folder / "1.png", seed=seed)
        (here / "masks" / folder).mkdir(parents=True)
        mask = np.zeros((40, 44), np.uint8)
        mask[: 10 + 10 * seed] = 255
        Image.fromarray(mask).save(here / "masks" / folder / "1.png")
    images = attacked(latcli, "nest", *QUICK, "--mask", "masks")["images"]
    assert [image["background_percent"] for image in images] == [75.0, 50.0]
    (here / "flat").mkdir()
    shutil.copy(here / "masks" / "hen" / "1.png", here / "flat")
    error, _ = latcli("attack", "nest", *QUICK, "--mask", "flat").error
    assert "flat/1.png" in error
    assert runs_of(here) == {("completed", 0)}


# Bad input: two lines, the right exit code, nothing half-written


def bad_files(folder):
    good = save_photo(folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "nothing").mkdir()
    Image.new("L", (44, 40)).save(folder / "black_mask.png")
    save_photo(folder / "masks" / "other.png")
    (folder / "binary.csv").write_bytes(good)
    (folder / "text.safetensors").write_text("hello")


GOOD = ("good.png", *CENTER)
FOUND = ("good.png", *QUICK)

BAD_INPUT = {
    "no such file": (("nowhere.jpg", *CENTER), 1, "no such file: nowhere.jpg"),
    "truncated": (("truncated.png", *CENTER), 1, "truncated.png is damaged"),
    "folder without photos": (("nothing", *CENTER), 1, "nothing"),
    "no photo": ((*CENTER,), 2, "no photo"),
    "one epsilon of several": ((*GOOD, "--epsilon", "1/255,eight"), 2, "'eight' is not a number"),
    "epsilon below a level": ((*GOOD, "--epsilon", "0.001"), 2, "less than one 8-bit level"),
    "smallest epsilon of several": ((*GOOD, "--smallest-epsilon", "--epsilon", "1/255,2/255"), 2, "--smallest-epsilon"),
    "smallest epsilon and epsilon": (
        (*GOOD, "--smallest-epsilon", "--epsilon", "64/255"),
        2,
        "--smallest-epsilon and --epsilon",
    ),
    "smallest epsilon of a patch": ((*GOOD, "--smallest-epsilon", "--region", "patch"), 2, "a patch has epsilon 1"),
    "no object to change": (
        (*FOUND, "--detector", "none", "--region", "foreground"),
        1,
        "there is no object in good.png whose pixels",
    ),
    "region and regions": ((*GOOD, "--region", "all", "--regions", "background,all"), 2, "--region and --regions"),
    "objective": ((*GOOD, "--objective", "topk:0"), 2, "no objective called 'topk:0'"),
    "target that is the label": ((*GOOD, "--label", "3", "--target", "3"), 2, "the class of good.png itself"),
    "label and labels": ((*GOOD, "--label", "3", "--labels-from", "folder"), 2, "--label and --labels-from cannot be"),
    "labels binary": ((*GOOD, "--labels", "binary.csv"), 2, "cannot read the labels file binary.csv"),
    "detector": ((*FOUND, "--detector", "yoloo"), 2, "no detector called 'yoloo'"),
    "setting of a detector": ((*FOUND, "--detector", "cam", "--detector-option", "x=1"), 2, "no setting of .* 'x'"),
    **{
        f"idle option: {words}": ((*FOUND, *words.split()), 2, f"{words.split()[0]} is not used with {chosen}")
        for words, chosen in (
            ("--detector-weights no.pt --detector cam", "--detector cam"),
            ("--detector-confidence 0.9 --detector cam", "--detector cam"),
            ("--cam-threshold 0.3 --detector yolo", "--detector yolo"),
            ("--refine grabcut --detector saliency", "--detector saliency"),
            ("--boxes best --detector none", "--detector none"),
            ("--detector mobilenet --center 0.5", "--center"),
            ("--detector-weights no.pt --center 0.5", "--center"),
            ("--detector-option threshold=0.3 --mask black_mask.png", "--mask"),
            ("--refine grabcut --mask black_mask.png", "--mask"),
            ("--boxes best --box 0,0,9,9", "--box"),
        )
    },
    "classifier": (("good.png", "--classifier", "efficientnet_lite"), 2, "no classifier called"),
    "no network": (("good.png", "--classifier", "odd_models:no_module"), 2, "odd_models:no_module"),
    "attack": ((*GOOD, "--attack", "pdg"), 2, "no attack called 'pdg'"),
    "box outside": ((*FOUND, "--box", "0,0,45,10"), 2, "outside the photo of 44x40"),
    "box and center": ((*GOOD, "--box", "0,0,9,9"), 2, "--box and --center"),
    "full frame": ((*FOUND, "--box", "0,0,44,40"), 1, "nothing is left to change in good.png"),
    "mask that protects nothing": ((*FOUND, "--mask", "black_mask.png"), 1, "black_mask.png"),
    "no mask in the folder": ((*FOUND, "--mask", "masks"), 2, "good"),
    "no object": (("good.png", "--classifier", "odd_models:Blind", "--detector", "cam"), 3, "cam found no object"),
    "weights that are text": ((*GOOD, "--classifier-weights", "text.safetensors"), 1, "text.safetensors is .*damaged"),
    "no way to the weights": ((*FOUND, "--detector", "yolo", "--offline"), 1, "yolo"),
    "store in the way": ((*GOOD, "--store", "good.png"), 1, "good.png"),
}


def test_bad_input_is_told_in_two_lines_with_its_exit_code(latcli, here):
    bad_files(here)
    for case, (arguments, code, message) in BAD_INPUT.items():
        done = latcli("attack", *arguments, "--json")
        assert done.code == code, f"{case}: {done.err}"
        assert re.search(message, done.error[0]), f"{case}: {done.err}"
    assert list((here / "runs").rglob("*.png")) == []
    assert list((here / "runs").rglob(".latcli-*")) == []
    assert {status for status, _ in runs_of(here)} <= {"failed"}


def test_photos_without_an_object_are_failures_or_skipped(latcli, here):
    save_photos(here / "photos", 2)
    blind = ("--classifier", "odd_models:Blind", "--detector", "cam", "--steps", "2", "--no-figures", "--json")
    failed = latcli("attack", "photos", *blind)
    assert failed.code == ExitCode.NO_OBJECT
    assert [failure["skipped"] for failure in failed.json["failures"]] == [False, False]
    for given in ("photos", "photos/0.png"):
        skipped = latcli("attack", given, *blind, "--on-miss", "skip")
        assert skipped.code == 0
        assert "skipped: cam found no object" in skipped.err
        assert all(failure["skipped"] for failure in skipped.json["failures"])
    centered = latcli("attack", "photos", *blind, "--on-miss", "center")
    assert centered.code == 0
    assert len(centered.json["images"]) == 2


def test_check_success_is_4_unless_every_photo_was_right_and_is_fooled(latcli, here):
    save_photo(here / "a.png")
    hardly, surely = ("--epsilon", "1/255", "--steps", "1"), ("--epsilon", "64/255", "--steps", "20")
    given = ("a.png", *TINY, "--center", "0.4", "--no-figures", "--json")
    done = latcli("attack", *given, *hardly, "--label", "9", "--check-success")
    assert (done.code, done.json["images"][0]["fooled"]) == (4, False)
    assert latcli("runs", "show", "latest", "--json").json["exit_code"] == 4
    done = latcli("attack", *given, *surely, "--label", "9", "--check-success")
    assert (done.code, done.json["images"][0]["fooled"]) == (0, True)
    assert latcli("attack", *given, *hardly, "--label", "9").code == 0
    wrong = latcli("attack", *given, *surely, "--label", "2", "--check-success")
    (image,) = wrong.json["images"]
    assert (wrong.code, image["was_right"], image["fooled"]) == (4, False, False)
    assert image["adversarial"]["rank"] > 1
    targeted = latcli("attack", *given, *surely, "--target", "5", "--check-success")
    (image,) = targeted.json["images"]
    assert targeted.code == (0 if image["reached"] else 4)
    assert image["reached"] == (image["adversarial"]["index"] == 5)


def test_a_dry_run_attacks_nothing_and_creates_no_run(latcli, here, monkeypatch):
    monkeypatch.setattr("latcli.engine.photos.run_attack", None)
    save_photos(here / "photos", 2)
    (here / "photos" / "2.png").write_bytes(b"")
    done = latcli("attack", "photos", *QUICK, "--detector", "cam", "--dry-run", "--json")
    assert done.code == ExitCode.FAILURE
    assert (done.json["run"], done.json["images"], len(done.json["planned"])) == (None, [], 2)
    for planned in done.json["planned"]:
        assert (planned["height"], planned["width"]) == (40, 44)
        assert len(planned["boxes"]) == 1
        assert 0 < planned["background_percent"] < 100
        assert planned["seconds"] > 0
    table = latcli("attack", "photos/0.png", *QUICK, "--detector", "cam", "--dry-run")
    assert table.code == 0
    assert "44x40" in table.out
    assert runs_of(here) == set()


@pytest.mark.parametrize(("network", "word"), [("softmax", "probabilities"), ("noisy", "different logits")])
def test_networks_whose_figures_are_doubtful_are_warned_of_before_the_attack(network, word, latcli, here):
    save_photo(here / "a.png")
    done = latcli("attack", "a.png", "--classifier", f"odd_models:{network}", *CENTER[2:], "--json")
    assert word in done.err
    assert any(word in warning for warning in done.json["warnings"])
    assert attacked(latcli, "a.png", *CENTER)["warnings"] == []


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


def test_hostile_names_of_photos_do_no_harm(latcli, here):
    photo = save_photo(here / "a.png").read_bytes()
    (here / "photos").mkdir()
    for name in HOSTILE:
        (here / "photos" / os.fsdecode(name)).write_bytes(photo)
    (here / "photos" / "broken [red]\x1b[31m\n.png").write_bytes(b"")
    shown = latcli("attack", "photos", *CENTER)
    assert shown.code == ExitCode.FAILURE
    assert is_plain(shown.out), shown.out
    (line,) = shown.err.splitlines()
    assert line == r"error: photos/broken [red]\x1b[31m\n.png is empty (0 bytes)"
    done = latcli("attack", "photos", *CENTER, "--json")
    images = done.json["images"]
    assert len(images) == len(HOSTILE) - 1  # a name that begins with a dot is hidden
    files = [Path(path) for image in images for path in image["files"].values()]
    assert len(set(files)) == 3 * len(images)
    for path in files:
        assert path.is_file()
        assert re.fullmatch(r"[\w.-]+", path.name), path.name
    for command in (("show", "latest"), ("verify",), ("list",)):
        found = latcli("runs", *command)
        assert found.code == 0
        assert is_plain(found.out), found.out
    assert not (here / "ran").exists()


def test_names_of_files_are_safe_distinct_and_not_too_long():
    given = [os.fsdecode(b"photos/" + name) for name in HOSTILE]
    given += ["x/a.png", "y/a.jpg", "z/A.png", "stdin", "./stdin", "stdin.png", "a/", "é" * 200]
    given += [f"{folder}/{'貓' * 100}.png" for folder in "xy"]
    names = file_names(given)
    assert len({name.casefold() for name in names}) == len(given)
    for name in names:
        assert re.fullmatch(r"[\w.-]+", name)
        assert not name.startswith(".")
        assert len(os.fsencode(f"{name}-adversarial.png")) <= 255


# The real classifier on real photos


@pytest.mark.slow
def test_real_photos_are_fooled_by_their_backgrounds(latcli, here):
    photos = package_photos()
    bus, officer = attacked(latcli, *photos, "--steps", "10", "--check-success", "--no-figures")["images"]
    assert bus["label"]["name"] == "minibus"
    assert officer["label"]["name"] in {"academic gown", "military uniform"}
    for photo, image in zip(photos, (bus, officer), strict=True):
        assert image["fooled"]
        assert image["adversarial"]["confidence"] < image["clean"]["confidence"] / 100
        change = np.abs(levels_of(image["files"]["adversarial"]).astype(int) - levels_of(photo)).max(axis=2)
        assert change[levels_of(image["files"]["mask"]) > 0].max() == 0
        assert change.max() == 8
    stopped = attacked(latcli, *photos, "--detector", "cam", "--stop", "top10", "--no-figures")["images"]
    assert all(image["adversarial"]["rank"] > 10 for image in stopped)
