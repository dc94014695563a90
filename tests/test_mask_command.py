"""`latcli mask`: masks that lie as the photos do and are read back as they were written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_model import save_photo

from latcli.commands.mask import mask_places
from latcli.engine.photo_files import MaskFolder, read_mask
from latcli.errors import ExitCode, UsageError

TINY = ("--classifier", "tiny_model:tiny", "--detector", "cam")


@pytest.fixture(autouse=True)
def nested_photos(here):
    """Photos nested as those of a data set."""
    for number, name in enumerate(("train/hen/1.png", "train/kite/1.png", "test/hen/2.png")):
        save_photo(here / "data" / name, 40 + number, 44, number)


def test_masks_lie_as_the_photos_do_and_are_read_as_they_were_written(latcli, here):
    done = latcli("mask", "data", *TINY, "--out", "masks", "--json")
    assert done.code == 0, done.err
    images = done.json["images"]
    names = ["test/hen/2.png", "train/hen/1.png", "train/kite/1.png"]
    assert [image["files"] for image in images] == [
        {"mask": f"masks/{name}", "overlay": f"masks/overlays/{name}"} for name in names
    ]
    folder = MaskFolder(here / "masks")
    for image in images:
        photo, (x0, y0, x1, y1) = Path(image["image"]), image["boxes"][0][:4]
        mask_1HW, notes = read_mask(folder.mask_of(photo), (image["height"], image["width"]))
        assert (notes, set(mask_1HW.unique().tolist())) == ((), {0.0, 1.0})
        box_HW = np.zeros(mask_1HW.shape[1:])
        box_HW[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 1
        np.testing.assert_array_equal(mask_1HW[0].numpy(), box_HW)
        assert image["object_percent"] == pytest.approx(100 * box_HW.mean())
        overlay = np.asarray(Image.open(image["files"]["overlay"])).astype(int)
        assert overlay.shape == (*box_HW.shape, 3)
        before = np.asarray(Image.open(photo)).astype(int)
        inner = np.s_[int(np.ceil(y0)) + 2 : int(y1) - 2, int(x0) + 3 : int(x1) - 3]
        np.testing.assert_array_equal(overlay[inner], before[inner])  # the object is seen as it is
    shown = latcli("runs", "show", "latest", "--json").json
    assert (shown["command"], shown["status"], len(shown["artifacts"])) == ("mask", "completed", 6)
    assert latcli("runs", "verify").code == 0
    attack = latcli("attack", "data", *TINY[:2], "--steps", "1", "--no-figures", "--mask", "masks", "--json")
    assert [image["background_percent"] for image in attack.json["images"]] == [
        pytest.approx(100 - image["object_percent"]) for image in images
    ]


def test_masks_never_lie_among_the_photos_and_are_no_photos(latcli, here):
    before = {path: path.read_bytes() for path in (here / "data").rglob("*.png")}
    for photos, out in (
        ("data", "data"),
        ("data/train", "data/train"),
        ("data/test/hen/2.png", "data/train/../test/hen"),
    ):
        refused = latcli("mask", photos, *TINY, "--out", out)
        assert (refused.code, "among the photos" in refused.err) == (2, True)
    assert {path: path.read_bytes() for path in (here / "data").rglob("*.png")} == before
    assert latcli("mask", ".", *TINY).code == 0
    assert latcli("mask", ".", *TINY, "--json").json["masked"] == len(before)


def test_a_photo_without_an_object_is_a_failure_or_skipped(latcli, here):
    Image.new("RGB", (44, 40)).save(here / "data" / "black.png")
    (here / "data" / "broken.png").write_bytes(b"")
    done = latcli("mask", "data", *TINY, "--json")
    assert done.code == ExitCode.FAILURE
    assert [failure["image"] for failure in done.json["failures"]][-1] == "data/broken.png"
    assert not list((here / "masks").rglob("broken*"))
    assert latcli("mask", "data", *TINY).out.isascii()


def test_photos_named_alone_have_masks_at_the_top_and_none_shares_one(here):
    one, other = Path("data/train/hen/1.png"), Path("data/train/kite/1.png")
    assert list(map(str, mask_places([one, Path("-")], (str(one), "-")))) == ["1.png", "stdin.png"]
    assert list(map(str, mask_places([one, other], ("data/train",)))) == ["hen/1.png", "kite/1.png"]
    with pytest.raises(UsageError, match=r"would both have the mask 1\.png"):
        mask_places([one, other], (str(one), str(other)))


def test_a_place_that_cannot_be_written_is_told_in_two_lines(latcli, here):
    (here / "taken").write_text("a file")
    error, _ = latcli("mask", "data/test/hen/2.png", *TINY, "--out", "taken").error
    assert "taken" in error
