"""Which files are photos, in which order, and what they are called; which mask belongs to which photo."""

from __future__ import annotations

import io
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_datasets import write_folders

from latcli.engine import photo_files
from latcli.engine.datasets.photo_folder import class_folders
from latcli.engine.photo_files import MaskFolder, find_sources, photos_below
from latcli.errors import ImageError, LatcliError, UsageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in photos_below(folder)]


def test_photos_are_found_by_their_endings_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "b/2.JPG", "b/10.jpg", "a/x.webp", "z.png", "b/c/d.gif", "notes.txt", "c.avif", "png")
    touch(tmp_path, ".hidden.png", "._z.png", ".thumbnails/x.png", "b/.ipynb_checkpoints/2-checkpoint.jpg")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would not end
    assert below(tmp_path) == ["a/x.webp", "b/10.jpg", "b/2.JPG", "b/c/d.gif", "c.avif", "z.png"]


def test_links_keep_their_own_names_and_circles_end(tmp_path):
    pool, photos = tmp_path / "pool", tmp_path / "photos"
    touch(pool, "1.png")
    touch(photos, "own.png", "deep/2.png")
    (photos / "hen").symlink_to(pool)
    (photos / "kite").symlink_to(pool)
    (photos / "link.png").symlink_to(pool / "1.png")
    (photos / "circle.png").symlink_to("circle.png")
    (photos / "gone.png").symlink_to("nowhere")
    (photos / "deep" / "up").symlink_to(photos)
    (photos / "itself").symlink_to("itself")
    found = below(photos)
    assert found == ["circle.png", "deep/2.png", "gone.png", "hen/1.png", "kite/1.png", "link.png", "own.png"]


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(photo_files.os, "scandir", refuse)
    with pytest.raises(ImageError, match=r"cannot read the folder .*: Permission denied"):
        below(tmp_path)


def test_train_and_attack_find_the_same_photos(tmp_path):
    for split in ("train", "test"):
        touch(
            tmp_path / split, "hen/1.png", "hen/more/2.JPG", "hen/.ipynb_checkpoints/1.png", "kite/.a.png", "kite/b.gif"
        )
        touch(tmp_path / split, "kite/b.txt", ".git/c.png")
        (tmp_path / split / "jay").symlink_to("hen")
    folders = class_folders(tmp_path)
    assert folders.class_names == ("hen", "jay", "kite")
    trained = [file.path for file in (*folders.test, *folders.train)]
    assert trained == [source.path for source in find_sources([str(tmp_path)])]


def test_names_are_compared_in_one_unicode_form(tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        touch(tmp_path / split, f"{unicodedata.normalize(form, 'née')}/1.png", "a/1.png")
    assert class_folders(tmp_path).class_names == ("a", "née")


def test_each_path_counts_once_whatever_its_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "a.png", "b/c.png", "stdin"))
    (tmp_path / "link.png").symlink_to("a.png")
    sources = find_sources(["b/../a.png", "-", "a.png", "b", "stdin", ".", "-"])
    assert [source.name for source in sources] == ["b/../a.png", "stdin", "b/c.png", "./stdin", "link.png"]


def test_a_folder_without_photos_and_what_is_not_there_are_refused(tmp_path):
    for arguments, message in (
        ([], "no photo was given"),
        ([str(tmp_path / "nowhere")], r"no such file: .*nowhere"),
        ([str(touch(tmp_path, "notes.txt", ".hidden.jpg", ".folder/photo.jpg"))], "no image below"),
    ):
        with pytest.raises(LatcliError, match=message):
            find_sources(arguments)


def test_standard_input_is_read(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), 7, dtype=np.uint8)).save(buffer, "PNG")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stdin").write_bytes(buffer.getvalue())
    photos = [source.read() for source in find_sources(["-", "stdin"])]
    assert [photo.name for photo in photos] == ["stdin", "./stdin"]  # results are known by their photos' names
    assert all((photo.size, int(photo.levels_HWC.mean())) == ((3, 4), 7) for photo in photos)


def test_masks_lie_as_the_photos_do(tmp_path):
    masks = MaskFolder(touch(tmp_path, "hen/1.png", "kite/1.tiff", "train/hen/1.png", "plain.png", "é.png"))
    found = {name: masks.find(Path(name)) for name in ("/any/hen/1.jpg", "/any/kite/1.JPG", "/set/train/hen/1.jpg")}
    assert [path and path.relative_to(tmp_path).as_posix() for path in found.values()] == [
        *("hen/1.png", "kite/1.tiff", "train/hen/1.png")
    ]
    assert masks.find(Path("/any/jay/1.jpg")) is None
    assert masks.find(Path("deep/plain.webp")) == tmp_path / "plain.png"
    assert masks.find(Path(unicodedata.normalize("NFD", "é.jpg"))) == tmp_path / "é.png"
    with pytest.raises(UsageError, match=r"jay/1\.jpg has no mask"):
        masks.mask_of(Path("jay/1.jpg"))


def test_the_folder_that_one_stands_in_counts_as_given(tmp_path, monkeypatch):
    touch(tmp_path, "photos/hen/1.jpg", "masks/hen/1.png")
    monkeypatch.chdir(tmp_path / "photos" / "hen")
    assert MaskFolder(tmp_path / "masks").find(Path("1.jpg")) == tmp_path / "masks" / "hen" / "1.png"


def test_a_mask_is_of_one_photo_and_a_photo_has_one_mask(tmp_path):
    masks = MaskFolder(touch(tmp_path, "1.png"))
    for one, other in (("nest/hen/1.png", "nest/kite/1.png"), ("hen/1.png", "hen/1.jpg")):
        masks.refuse_shared([Path(one), Path(one), Path("other.png")])
        with pytest.raises(UsageError, match=f"{one} and {other} would both have the mask"):
            masks.refuse_shared([Path(one), Path(other)])
    with pytest.raises(UsageError, match="are masks of one photo"):
        MaskFolder(touch(tmp_path, "1.tiff"))


@pytest.mark.slow
def test_attack_train_and_eval_read_one_folder_and_its_masks_alike(latcli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "set", grey=True, masks=tmp_path / "masks")  # of 0 and 1
    for split in ("train", "test"):
        hidden = tmp_path / "set" / split / "cat" / ".ipynb_checkpoints"
        shutil.copytree(tmp_path / "set" / split / "cat", hidden)
    quick = ("--preset", "quick", "--steps", "1", "--batch", "2", "--average", "0")
    where = ("--dataset", "folder:set", "--mask-from", "folder", "--masks", "masks")

    trained = latcli("train", *where, "--regime", "background", *quick, "--json")
    assert trained.code == 0, trained.err
    evaluated = latcli("eval", trained.json["run"], *where, "--images", "4", "--steps", "1", "--json")
    assert evaluated.code == 0, evaluated.err
    attacked = latcli("attack", "set", "--mask", "masks", "--classifier", "tiny_model:tiny", "--steps", "1", "--json")
    assert attacked.code == 0, attacked.err
    assert (trained.json["dataset"], evaluated.json["dataset"]) == (f"folder:{tmp_path / 'set'}",) * 2
    assert {cell["n"] for cell in evaluated.json["cells"] if cell["input"] == "natural"} == {4}
    assert len(attacked.json["images"]) == 8
    assert {image["linf_inside"] for image in attacked.json["images"]} == {0}
    for outcome in (trained, evaluated):
        assert "of 8 of 8 masks: its largest value, 1, is white" in outcome.err
