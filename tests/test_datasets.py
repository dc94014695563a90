"""Data sets are whole, labelled and the same every time; what is damaged or missing is named with its checksum."""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latcli.engine.datasets.base import DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.catalog import open_dataset
from latcli.engine.datasets.folders import image_folder
from latcli.errors import LatcliError, UsageError

CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def offline(folder: Path) -> DatasetSource:
    return DatasetSource(folder, offline=True)


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 2048 + values.ndim, *values.shape) + values.tobytes()


def write_idx_files(folder: Path, theirs: str = "MNIST", *, zipped: bool = True) -> dict[str, np.ndarray]:
    """Six training and three test images in torchvision's layout."""
    raw = folder / theirs / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("t10k", 3)):
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = random.integers(0, 10, count, dtype=np.uint8)
    for name, values in arrays.items():
        data = idx(values)
        (raw / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return arrays


def write_image(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def write_folders(
    folder: Path, classes: tuple[str, ...] = ("cat", "dog"), size: int = 12, *, grey: bool = False
) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            for index in range(2):
                shape = (size, size) if grey else (size, size, 3)
                write_image(folder / split / name / f"{index}.png", random.integers(0, 256, shape, dtype=np.uint8))


# mnist-5k


def test_the_embedded_digits_are_split_evenly_and_hold_real_digits() -> None:
    digits = open_dataset("mnist-5k", offline(Path("nowhere")))

    assert digits.x_train.shape == (4000, 1, 28, 28)
    assert digits.x_train.dtype == torch.uint8
    assert digits.y_train.bincount().tolist() == [400] * 10
    assert digits.y_test.bincount().tolist() == [100] * 10
    assert int(digits.x_train.max()) == 255
    # A classifier by nearest class mean gets most real digits right, and noise or shuffled labels hardly any.
    means = torch.stack([digits.x_train[digits.y_train == k].double().mean(dim=0).flatten() for k in range(10)])
    guesses = torch.cdist(digits.x_test.double().flatten(1), means).argmin(dim=1)
    assert (guesses == digits.y_test).double().mean() > 0.75


def test_no_digit_is_in_both_splits() -> None:
    digits = open_dataset("mnist-5k", offline(Path("nowhere")))
    train = {bytes(x.numpy().tobytes()) for x in digits.x_train}

    assert sum(x.numpy().tobytes() in train for x in digits.x_test) == 0


# MNIST and Fashion-MNIST


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "theirs"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_files_in_the_layout_of_torchvision_are_read_exactly(
    tmp_path: Path, name: str, theirs: str, zipped: bool
) -> None:
    arrays = write_idx_files(tmp_path, theirs, zipped=zipped)
    dataset = open_dataset(name, offline(tmp_path))

    assert dataset.name == name
    assert np.array_equal(dataset.x_train[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert dataset.y_test.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()


def test_files_that_are_sound_but_not_the_published_ones_are_told_of(tmp_path: Path) -> None:
    write_idx_files(tmp_path)

    notes = open_dataset("mnist", offline(tmp_path)).notes

    assert len(notes) == 4
    assert all(
        name in notes_of and md5 in notes_of for notes_of, (name, md5) in zip(notes, CHECKSUMS.items(), strict=True)
    )


def test_mnist_that_is_nowhere_becomes_the_embedded_digits_and_says_so(tmp_path: Path) -> None:
    dataset = open_dataset("mnist", offline(tmp_path))

    assert dataset.name == "mnist-5k"
    assert dataset.notes[0].startswith("NOT MNIST")
    assert CHECKSUMS["train-images-idx3-ubyte.gz"] in dataset.notes[0]


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_data_set_that_cannot_be_had_is_named_with_a_file_and_its_checksum(tmp_path: Path, name: str) -> None:
    with pytest.raises(LatcliError, match=r"is missing, and --offline forbids to download it") as caught:
        open_dataset(name, offline(tmp_path))

    assert "(md5 " in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_mnist_with_a_file_missing_is_not_silently_replaced(tmp_path: Path) -> None:
    write_idx_files(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()

    with pytest.raises(LatcliError, match=r"t10k-labels-idx1-ubyte\.gz \(md5 ec29112dd5afa0611ce80d1b7f02629c\)"):
        open_dataset("mnist", offline(tmp_path))


@pytest.mark.parametrize("name", CHECKSUMS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_named_with_the_checksum_of_a_sound_one(tmp_path: Path, name: str, damage: str) -> None:
    write_idx_files(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes({"cut": whole[:-9], "flipped": bytes(flipped), "empty": b"", "other": gzip.compress(b"?")}[damage])

    with pytest.raises(LatcliError) as caught:
        open_dataset("mnist", offline(tmp_path))

    assert str(path) in caught.value.message
    assert CHECKSUMS[name] in caught.value.hint


def test_the_real_mnist(shared_data: Path) -> None:
    dataset = open_dataset("mnist", offline(shared_data))

    assert dataset.name == "mnist"
    assert dataset.x_train.shape == (60_000, 1, 28, 28)
    assert dataset.y_test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# CIFAR-10


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    trace = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (trace,)

    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Hostile()))

    with pytest.raises(LatcliError, match="data_batch_1 is damaged: its md5 is not c99cafc152244af753f735de768cd75f"):
        open_dataset("cifar10", offline(tmp_path))
    assert not trace.exists()


# folders


def test_a_folder_of_small_images(tmp_path: Path) -> None:
    write_folders(tmp_path)
    dataset = open_dataset(f"folder:{tmp_path}", offline(tmp_path))

    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (3, 12, 12)
    assert dataset.y_train.tolist() == [0, 0, 1, 1]
    first = np.asarray(Image.open(tmp_path / "train" / "cat" / "0.png"))
    assert np.array_equal(dataset.x_train[0].permute(1, 2, 0).numpy(), first)


def test_images_without_colour_have_one_channel(tmp_path: Path) -> None:
    write_folders(tmp_path, grey=True)

    assert image_folder(tmp_path).image_shape == (1, 12, 12)


def test_classes_that_differ_are_listed(tmp_path: Path) -> None:
    write_folders(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")

    with pytest.raises(UsageError, match=r"missing in .*test: dog"):
        image_folder(tmp_path)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path)
    for split in ("train", "test"):
        (tmp_path / split / "eel").mkdir()

    with pytest.raises(UsageError, match=r"the class 'eel' in .*train has no image"):
        image_folder(tmp_path)


def test_images_of_several_sizes_are_refused_with_the_odd_one_out(tmp_path: Path) -> None:
    write_folders(tmp_path)
    write_image(tmp_path / "train" / "dog" / "odd.png", np.zeros((9, 12, 3), dtype=np.uint8))

    with pytest.raises(UsageError, match=r"odd\.png has 12x9 pixels, others have 12x12"):
        image_folder(tmp_path)


def test_large_images_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, size=120)

    with pytest.raises(UsageError, match="too large"):
        image_folder(tmp_path)


@pytest.mark.parametrize("path", ["nothing", "file"])
def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match="cannot read the folder"):
        image_folder(tmp_path / path)


def test_real_colour_images(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "cifar10-subset.tar.xz") as archive:
        for member in archive:
            wanted = member.isdir() or member.name.endswith(("0.jpg", "5.jpg"))
            if wanted and ("airplane" in member.name or "cat" in member.name):
                archive.extract(member, tmp_path, filter="data")
    root = next(path.parent for path in tmp_path.rglob("train") if path.is_dir())

    dataset = image_folder(root)

    assert dataset.class_names == ("airplane", "cat")
    assert dataset.image_shape == (3, 32, 32)


# all


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no dataset called 'mist'") as caught:
        open_dataset("mist", offline(Path("nowhere")))
    assert "'mnist'" in caught.value.hint
    with pytest.raises(UsageError, match="no kind of data set called 'zip:'"):
        open_dataset("zip:x", offline(Path("nowhere")))


def test_the_fingerprint_changes_with_any_pixel_and_any_label() -> None:
    x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    pixel, label = x.clone(), y.clone()
    pixel[3, 0, 7, 7] = 1
    label[0] = 1
    defaults = Defaults(0.3, 0.25, "paper-cnn")

    def fingerprint(x_train: torch.Tensor, y_train: torch.Tensor, names: tuple[str, str] = ("a", "b")) -> str:
        return make_dataset("any", (x_train, y_train), (x, y), names, defaults).fingerprint

    found = [fingerprint(x, y), fingerprint(pixel, y), fingerprint(x, label), fingerprint(x, y, ("a", "c"))]
    assert len(set(found)) == 4
    assert fingerprint(x.clone(), y.clone()) == found[0]


def test_labels_that_no_class_has_are_refused() -> None:
    x, y = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 2])

    with pytest.raises(LatcliError, match="labels that are not 0 to 1"):
        make_dataset("any", (x, y), (x, y), ("a", "b"), Defaults(0.3, 0.25, "paper-cnn"))
