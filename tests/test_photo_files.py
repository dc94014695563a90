"""Which files are photos, in which order, what they are called; which mask belongs to which, and what a mask means."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_datasets import write_folders

from latcli.engine import photo_files
from latcli.engine.datasets.photo_folder import class_folders
from latcli.engine.photo_files import MaskFolder, find_sources, photos_below, read_mask
from latcli.errors import ImageError, LatcliError, UsageError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def below(folder):
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
    def refuse(path):
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


def test_what_latcli_wrote_below_a_folder_is_no_photo_of_it(tmp_path):
    touch(
        tmp_path, "a.png", "runs/1/run.json", "runs/1/a-adversarial.png", "masks/.latcli-masks", "masks/overlays/a.png"
    )
    assert [source.path.name for source in find_sources([str(tmp_path)])] == ["a.png"]
    named = tmp_path / "runs" / "1"
    assert [source.path.name for source in find_sources([str(named)])] == ["a-adversarial.png"]


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


def test_masks_lie_as_the_photos_do(tmp_path, monkeypatch):
    masks = MaskFolder(touch(tmp_path, "hen/1.png", "kite/1.tiff", "train/hen/1.png", "plain.png", "é.png"))
    for photo, mask in {
        **{"/any/hen/1.jpg": "hen/1.png", "/any/kite/1.JPG": "kite/1.tiff", "/set/train/hen/1.jpg": "train/hen/1.png"},
        **{"deep/plain.webp": "plain.png", unicodedata.normalize("NFD", "é.jpg"): "é.png"},
    }.items():
        assert masks.find(Path(photo)) == tmp_path / mask
    assert masks.find(Path("/any/jay/1.jpg")) is None
    with pytest.raises(UsageError, match=r"jay/1\.jpg has no mask"):
        masks.mask_of(Path("jay/1.jpg"))
    (tmp_path / "photos" / "hen").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos" / "hen")  # the folder that one stands in counts as given
    assert masks.find(Path("1.jpg")) == tmp_path / "hen" / "1.png"


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


#: The object of every mask below: six rows of eight pixels, an object of 2 x 3.
OBJECT_HW = np.zeros((6, 8), dtype=bool)
OBJECT_HW[1:3, 2:5] = True


def grey(white, black=0):
    return Image.fromarray(np.where(OBJECT_HW, white, black).astype(np.uint8))


def deep(white):
    return Image.fromarray(np.where(OBJECT_HW, white, 0).astype(np.uint16))


def colours(of_object, of_background=(0, 0, 0)):
    return Image.fromarray(np.where(OBJECT_HW[..., None], of_object, of_background).astype(np.uint8))


def voc(*, border=False):
    """As Pascal VOC has them: a palette, class 1, and the border as number 255, which is part of the object here."""
    numbers_HW = OBJECT_HW.astype(np.uint8)
    if border:
        numbers_HW[1, 2:5] = 255
    image = Image.fromarray(numbers_HW, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, *[9] * 759, 224, 224, 192])
    return image


def cut_out():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    photo.putalpha(grey(255))
    return photo


def with_alpha(image, alpha):
    image.putalpha(alpha)
    return image


READ = {
    "black and white": (lambda: grey(255), False),
    "one bit": (lambda: grey(255).convert("1"), False),
    "palette of greys": (lambda: grey(255).convert("P"), False),
    "RGB": (lambda: grey(255).convert("RGB"), False),
    "CMYK": (lambda: grey(255).convert("CMYK"), False),
    "opaque alpha": (lambda: with_alpha(grey(255).convert("RGB"), 255), False),
    "16 bit": (lambda: deep(65535), False),
    "0 and 1": (lambda: grey(1), True),
    "0 and 200": (lambda: grey(200), True),
    "16 bit, 0 and 255": (lambda: deep(255), True),
    "a class of Pascal VOC": (voc, True),
    "with its border": (lambda: voc(border=True), True),
    "red on black": (lambda: colours((255, 0, 0)), True),
    "a cut-out": (cut_out, True),
    "alpha of one colour": (lambda: with_alpha(Image.new("RGB", (8, 6)), grey(255)), True),
    "white on nothing": (lambda: with_alpha(grey(255).convert("RGB"), grey(255)), True),
}


def test_the_object_is_found_in_masks_of_every_kind(tmp_path):
    for kind in READ:
        make, noted = READ[kind]
        path = tmp_path / "mask.tiff"
        make().save(path)
        mask_1HW, notes = read_mask(path, (6, 8))
        assert torch.equal(mask_1HW, torch.from_numpy(OBJECT_HW)[None].float())
        assert len(notes) == noted


REFUSED = {
    "black": lambda: grey(0),
    "wholly transparent": lambda: with_alpha(colours((9, 8, 7)), 0),
    "nothing is white": lambda: grey(100, 50),
    "numbers of classes": lambda: Image.fromarray(np.where(OBJECT_HW, 7, np.eye(6, 8) * 255).astype(np.uint8)),
    "several colours": lambda: colours((255, 0, 0), (0, 0, 255)),
    "a photo": lambda: cut_out().convert("RGB"),
    "alpha against its colours": lambda: with_alpha(grey(0, 255).convert("RGB"), grey(255)),
    "floating point": lambda: grey(255).convert("F"),
}


def test_what_would_protect_nothing_or_the_wrong_thing_is_refused(tmp_path):
    for kind in REFUSED:
        path = tmp_path / "mask.tiff"
        REFUSED[kind]().save(path)
        with pytest.raises(ImageError, match=r"mask\.tiff"):
            read_mask(path)


def test_soft_values_are_kept(tmp_path):
    levels = np.array([[0, 51, 255], [102, 1, 254]], dtype=np.uint8)
    for scale, name in ((1, "8.png"), (257, "16.png")):
        Image.fromarray(levels.astype(np.uint16) * scale if scale > 1 else levels).save(tmp_path / name)
        mask_1HW, notes = read_mask(tmp_path / name, (2, 3))
        assert torch.equal(mask_1HW[0], torch.from_numpy(levels).float() / 255)
        assert notes == ()


def test_a_mask_of_another_size_or_none_at_all_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(ImageError, match=r"no such file: .*mask\.png"):
        read_mask(path, (6, 8))
    grey(255).save(path)
    with pytest.raises(ImageError, match="is 8x6, its photo 6x8"):
        read_mask(path, (8, 6))
    for content in (b"", b"no image"):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"mask\.png is"):
            read_mask(path, (6, 8))
