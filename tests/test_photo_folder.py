"""Photos in class folders: geometry, masks that follow it, the same bits from any number of processes, clear faults."""

from __future__ import annotations

import multiprocessing
import os
import signal
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photo_set import save, write_photos
from PIL import Image

from latcli.engine.datasets import photo_folder as module
from latcli.engine.datasets.base import Request
from latcli.engine.datasets.photo_folder import (
    class_folders,
    detected_masks,
    holds_photos,
    photo_folder,
    random_crop,
    read_masks,
    read_object,
)
from latcli.engine.detectors.base import Box, Detection, NoDetector
from latcli.engine.images import read_photo
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.objects import ObjectFinder, ObjectSettings
from latcli.errors import ImageError, LatcliError, UsageError

SIZE = Preprocessing(64, 56, "bilinear")


@pytest.fixture
def photos(tmp_path):
    """Eight training and four test photos with masks, read by this process."""
    write_photos(tmp_path / "set", masks=tmp_path / "masks")
    folder = replace(photo_folder(class_folders(tmp_path / "set"), SIZE), workers=0)
    return folder.with_masks(*read_masks(folder.folders, tmp_path / "masks"))


def requests(*batches, seed=0):
    return [
        Request(torch.tensor(batch), torch.tensor([1000 * seed + 7 * sample + index for sample in batch]))
        for index, batch in enumerate(batches)
    ]


def read(folder, asked, augment="crop-flip"):
    return list(folder.training(asked, augment))


def test_test_photos_are_what_the_classifier_itself_reads(photos):
    (images,) = photos.testing([torch.tensor([3, 0])])
    expected = [SIZE.read(read_photo(photos.folders.test[index].path).image) for index in (3, 0)]
    assert torch.equal(images.x_BCHW, torch.stack(expected))
    assert (images.y_B.tolist(), images.samples_B.tolist()) == ([1, 0], [3, 0])
    assert (photos.class_names, photos.image_shape) == (("green", "red"), (3, 56, 56))
    assert (photos.train_count, photos.test_count) == (8, 4)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_a_mask_follows_its_photo_to_the_pixel(photos, augment):
    path = photos.folders.train[0].path
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees to the right: the pixels lie on their left side
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    (images,) = read(photos, requests(range(8)), augment)
    (others,) = read(replace(photos, preprocessing=Preprocessing(64, 56, "bicubic")), requests(range(8)), augment)
    assert torch.equal(others.mask_B1HW, images.mask_B1HW)  # binary whatever the classifier's filter
    # The object is 255 in its class's channel and all else 0: what is at least half object has at least level 128.
    shown_BHW = torch.stack([x_CHW[1 - y] for x_CHW, y in zip(images.x_BCHW, images.y_B.tolist(), strict=True)])
    assert torch.equal(images.mask_B1HW[:, 0], (shown_BHW * 255 >= 127.5).float())
    assert 0.05 < float(images.mask_B1HW.mean()) < 0.95


def test_a_sample_depends_on_its_seed_alone(photos):
    together = read(photos, requests([0, 1, 2, 3]))[0]
    (alone,) = read(photos, [Request(torch.tensor([2]), torch.tensor([14]))])
    (otherwise,) = read(photos, [Request(torch.tensor([2]), torch.tensor([15]))])
    assert torch.equal(together.x_BCHW[2], alone.x_BCHW[0])
    assert not torch.equal(alone.x_BCHW, otherwise.x_BCHW)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(-(2**63), 2**62))
def test_a_random_crop_is_a_part_of_the_photo_and_every_other_is_mirrored(height, width, seed):
    left, top, right, bottom = random_crop((height, width), seed)[0]
    assert 0 <= left < right <= width * (1 + 1e-12)
    assert 0 <= top < bottom <= height * (1 + 1e-12)
    if 0.75 < height / width < 4 / 3:  # a side that would leave the photo is cut
        assert (right - left) * (bottom - top) >= 0.29 * height * width
    assert 160 < sum(random_crop((100, 100), seed + index)[1] for index in range(400)) < 240


def test_any_number_of_processes_gives_the_same_bits(photos):
    asked = requests([0, 3, 5], [7, 1, 2], [6, 4, 0], [1, 1, 1])
    alone = read(photos, asked)
    for workers in (1, 2):
        together = read(replace(photos, workers=workers), asked)
        for one, other in zip(together, alone, strict=True):
            for name in ("x_BCHW", "y_B", "samples_B", "mask_B1HW"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named(photos, workers, tmp_path):
    damaged = photos.folders.train[2].path
    damaged.write_bytes(damaged.read_bytes()[:300])
    save(tmp_path / "masks" / "train" / "green" / "1.png", np.zeros((5, 6), dtype=np.uint8))
    with pytest.raises(ImageError, match=f"{damaged} is damaged") as caught:
        read(replace(photos, workers=workers), requests([0, 3], [2, 3]))
    assert caught.value.hint == "copy or download the file again"
    with pytest.raises(ImageError, match=r"green/1\.png is 6x5, its photo"):
        read(replace(photos, workers=workers), requests([1]))


@pytest.mark.slow  # torch looks after its processes every 5 s
def test_a_process_that_dies_is_one_clear_error(photos, monkeypatch):
    """Killed as the kernel does where memory is short."""
    monkeypatch.setattr(module, "read_object", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(LatcliError, match="a process that reads photos has died"):
        read(replace(photos, workers=2), requests([0, 1]))
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_ctrl_c_is_the_parents_affair(photos):
    endless = (request for _ in iter(int, 1) for request in requests([0, 1]))
    before = torch.random.get_rng_state()
    stream = replace(photos, workers=2).training(endless, "none")
    next(stream), next(stream)  # one of each process: both are past their beginning
    assert torch.equal(torch.random.get_rng_state(), before)
    children = multiprocessing.active_children()
    for child in children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGINT)
    for _ in range(12):  # more than was read ahead
        next(stream)
    assert len(children) == 2
    assert all(child.is_alive() for child in children)


def test_a_validation_split_takes_photos_and_masks_together(photos):
    (held,) = photos.split(0.25, 1).testing([torch.arange(2)])
    (every,) = read(photos, requests(range(8)), "none")
    where = [next(n for n in range(8) if torch.equal(x, every.x_BCHW[n])) for x in held.x_BCHW]
    assert torch.equal(held.mask_B1HW, every.mask_B1HW[where])
    assert torch.equal(held.y_B, every.y_B[where])
    assert photos.split(0.25, 1).train_count == 6


def test_the_fingerprint_is_of_names_and_contents_and_photos_are_large_or_of_several_sizes(tmp_path):
    for copy in "ab":
        write_photos(tmp_path / copy, train=2, test=1)
    one, other = (class_folders(tmp_path / copy) for copy in "ab")
    first = photo_folder(one, SIZE).fingerprint
    assert photo_folder(other, SIZE).fingerprint == first
    assert holds_photos(one)
    changed = tmp_path / "b" / "test" / "red" / "0.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert photo_folder(other, SIZE).fingerprint != first
    (tmp_path / "a" / "train" / "red" / "0.png").rename(tmp_path / "a" / "train" / "red" / "7.png")
    assert photo_folder(class_folders(tmp_path / "a"), SIZE).fingerprint != first
    for size, photos in (((32, 32), False), ((96, 96), False), ((97, 97), True)):
        for file in (*other.train, *other.test):
            save(file.path, np.zeros((*size, 3), dtype=np.uint8))
        assert holds_photos(other) is photos


def test_a_missing_mask_names_the_photo_and_none_is_shared(photos, tmp_path):
    missing = tmp_path / "masks" / "test" / "red" / "1.png"
    missing.rename(tmp_path / "masks" / "1.png")
    assert len(read_masks(photos.folders, tmp_path / "masks")[0]) == 12  # by its bare name, which no other photo needs
    (tmp_path / "masks" / "test" / "green" / "1.png").unlink()
    with pytest.raises(UsageError, match=r"test/green/1\.png and test/red/1\.png would both have the mask"):
        read_masks(photos.folders, tmp_path / "masks")
    (tmp_path / "masks" / "1.png").unlink()
    with pytest.raises(UsageError, match=r"^test/green/1\.png has no mask"):
        read_masks(photos.folders, tmp_path / "masks")


def test_masks_of_0_and_1_are_the_same_masks_with_a_note(photos, tmp_path):
    before = [read_object(file.mask, read_photo(file.path).size) for file in photos.folders.files]
    for path in (tmp_path / "masks").rglob("*.png"):
        with Image.open(path) as image:
            levels = np.asarray(image) // 255
        save(path, levels)
    dark, notes = read_masks(photos.folders, tmp_path / "masks")
    assert notes == ("of 12 of 12 masks: its largest value, 1, is white",)
    for mask, expected_HW in zip(dark, before, strict=True):
        assert np.array_equal(read_object(mask, expected_HW.shape), expected_HW)


class Reds:
    """Finds the one red square, and remembers what it was asked for."""

    name, fingerprint, depends_on_target = "reds", "reds 1", True

    def __init__(self):
        self.asked: list[str] = []

    def detect(self, photo, target):
        self.asked.append(target.name)
        rows, columns = np.nonzero(photo.levels_HWC[..., 0] == 255)
        if not len(rows):
            return Detection(())
        return Detection((Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 0.9, target.name),))


class Guesses(torch.nn.Module):
    """Class 2 of 3 for everything."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.0, 0.0, 1.0]))

    def forward(self, x_BCHW):
        return self.weight.expand(len(x_BCHW), -1)


def found(photos, detector):
    """The masks that the detector finds, the notes on them, and how many photos were looked at."""
    names, ids, ticks = ("red", "blue", "fox"), ("n00000001", "n00000002", "n00000003"), []
    finder = ObjectFinder(ObjectSettings(detector=detector.name), [detector])
    classifier = Classifier("guesses", Guesses(), SIZE, names, ids)
    return *detected_masks(photos.folders, finder, classifier, lambda: ticks.append(1)), len(ticks)


def test_a_detectors_masks_and_what_it_is_asked_for(photos):
    detector = Reds()
    masks, notes, looked_at = found(photos, detector)
    assert detector.asked == ["fox"] * 4 + ["red"] * 4 + ["fox"] * 2 + ["red"] * 2
    assert notes == ("reds found no object in 6 of 12 photos, where the middle 0.5 of the sides stands for it",)
    assert looked_at == 12
    for mask, file in zip(masks[4:8], photos.folders.train[4:], strict=True):
        size = read_photo(file.path).size
        assert np.array_equal(read_object(mask, size), read_object(file.mask, size))
    missed = read_object(masks[0], read_photo(photos.folders.train[0].path).size)
    assert missed.mean() == pytest.approx(0.25, abs=0.01)
    nothing, notes, _ = found(photos, NoDetector())
    assert notes == ()
    assert not any(any(zlib.decompress(mask)) for mask in nothing)


def test_real_photos_with_real_faults_are_read(shared_data, tmp_path):
    """JPEGs as cameras and the web leave them, beside one in CMYK and one that lies on its side."""
    jpegs = sorted((shared_data / "photos" / "paper9").glob("*.jpg"))[:6]
    for split in ("train", "test"):
        for index, path in enumerate(jpegs):
            place = tmp_path / split / ("a" if index % 2 else "b")
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).write_bytes(path.read_bytes())
    with Image.open(jpegs[0]) as image:
        image.convert("CMYK").save(tmp_path / "train" / "a" / "cmyk.jpg")
        exif = image.getexif()
        exif[0x0112] = 8
        image.save(tmp_path / "train" / "b" / "turned.jpg", exif=exif)
    folder = replace(photo_folder(class_folders(tmp_path), Preprocessing(256, 224, "bicubic")), workers=2)

    (images,) = read(folder, requests(range(8)))
    assert images.x_BCHW.shape == (8, 3, 224, 224)
    assert 0.0 <= float(images.x_BCHW.min()) < float(images.x_BCHW.max()) <= 1.0
    assert images.mask_B1HW is None
