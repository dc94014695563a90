"""Data sets are whole, labelled and the same every time; what is damaged or missing is named with its checksum."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_set import save

from latcli.engine.datasets.base import DatasetSource, Defaults, make_dataset
from latcli.engine.datasets.catalog import full_name, image_folder, open_dataset
from latcli.engine.datasets.photo_folder import class_folders
from latcli.errors import LatcliError, UsageError

CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def offline(folder):
    return DatasetSource(folder, offline=True)


def write_idx_files(folder, theirs="MNIST", *, zipped=True):
    """Six training and three test images in torchvision's layout."""
    raw = folder / theirs / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("t10k", 3)):
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = random.integers(0, 10, count, dtype=np.uint8)
    for name, values in arrays.items():
        data = struct.pack(f">I{values.ndim}I", 2048 + values.ndim, *values.shape) + values.tobytes()
        (raw / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return arrays


def write_folders(folder, size=12, *, grey=False, masks=None):
    """Two images of two classes in both splits; their masks are what is bright in them."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for index in range(2):
                shape = (size, size) if grey else (size, size, 3)
                levels = random.integers(0, 256, shape, dtype=np.uint8)
                save(folder / split / name / f"{index}.png", levels)
                if masks is not None:
                    save(masks / split / name / f"{index}.png", (levels > 128).astype(np.uint8))
    return folder


def test_the_embedded_digits_are_real_digits_evenly_split_and_none_is_in_both_splits():
    digits = open_dataset("mnist-5k", offline(Path("nowhere")))
    assert (digits.x_train.shape, digits.x_train.dtype) == ((4000, 1, 28, 28), torch.uint8)
    assert digits.y_train.bincount().tolist() == [400] * 10
    assert digits.y_test.bincount().tolist() == [100] * 10
    # A classifier by nearest class mean gets most real digits right, and noise or shuffled labels hardly any.
    means = torch.stack([digits.x_train[digits.y_train == k].double().mean(dim=0).flatten() for k in range(10)])
    guesses = torch.cdist(digits.x_test.double().flatten(1), means).argmin(dim=1)
    assert (guesses == digits.y_test).double().mean() > 0.75
    assert not {x.numpy().tobytes() for x in digits.x_train} & {x.numpy().tobytes() for x in digits.x_test}


@pytest.mark.parametrize(
    ("name", "theirs", "zipped"),
    [("mnist", "MNIST", True), ("mnist", "MNIST", False), ("fashion-mnist", "FashionMNIST", True)],
)
def test_files_in_the_layout_of_torchvision_are_read_exactly(tmp_path, name, theirs, zipped):
    arrays = write_idx_files(tmp_path, theirs, zipped=zipped)
    dataset = open_dataset(name, offline(tmp_path))
    assert dataset.name == name
    for split, x, y in (("train", dataset.x_train, dataset.y_train), ("t10k", dataset.x_test, dataset.y_test)):
        assert np.array_equal(x[:, 0].numpy(), arrays[f"{split}-images-idx3-ubyte"])
        assert y.tolist() == arrays[f"{split}-labels-idx1-ubyte"].tolist()


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "mnist in part", "mnist"])
def test_a_data_set_that_cannot_be_had_is_named_with_a_file_and_its_checksum(tmp_path, name):
    if name == "mnist":  # which the embedded digits stand in for
        dataset = open_dataset(name, offline(tmp_path))
        assert (dataset.name, dataset.notes[0][:9]) == ("mnist-5k", "NOT MNIST")
        assert CHECKSUMS["train-images-idx3-ubyte.gz"] in dataset.notes[0]
        return
    if name == "mnist in part":  # one that is there in part is not replaced
        write_idx_files(tmp_path)
        (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(LatcliError, match=r"\(md5 [0-9a-f]{32}\) is missing, and --offline forbids") as caught:
        open_dataset(name.partition(" ")[0], offline(tmp_path))
    assert str(tmp_path) in caught.value.message
    assert name != "mnist in part" or CHECKSUMS["t10k-labels-idx1-ubyte.gz"] in caught.value.message


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "header"])
def test_a_damaged_file_is_named_with_the_checksum_of_a_sound_one(tmp_path, name, damage):
    write_idx_files(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    whole = path.read_bytes()
    content, middle = gzip.decompress(whole), len(whole) // 2
    damaged = {"cut": whole[:-9], "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]}
    damaged |= {"empty": b"", "header": gzip.compress(content[:7] + b"\xff" + content[8:])}
    path.write_bytes(damaged[damage])
    with pytest.raises(LatcliError) as caught:
        open_dataset("mnist", offline(tmp_path))
    assert str(path) in caught.value.message
    assert CHECKSUMS[name] in caught.value.hint


def test_the_real_mnist(shared_data):
    dataset = open_dataset("mnist", offline(shared_data))
    assert (dataset.name, dataset.x_train.shape) == ("mnist", (60_000, 1, 28, 28))
    assert dataset.y_test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


class _Touch:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(_Touch(tmp_path / "ran")))
    with pytest.raises(LatcliError, match="are damaged or incomplete"):
        open_dataset("cifar10", offline(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_small_images_is_known_by_its_contents_not_its_path(tmp_path, monkeypatch):
    write_folders(tmp_path / "a")
    write_folders(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    dataset, other = (open_dataset(f"folder:{name}", offline(tmp_path)) for name in "ab")
    assert (dataset.name, full_name("folder:a"), full_name("mnist")) == (*(f"folder:{tmp_path / 'a'}",) * 2, "mnist")
    assert dataset.fingerprint == other.fingerprint
    assert (dataset.class_names, dataset.image_shape) == (("cat", "dog"), (3, 12, 12))
    assert dataset.y_train.tolist() == [0, 0, 1, 1]
    assert not torch.equal(dataset.x_train[0], dataset.x_train[1])
    for split in ("train", "test"):
        (tmp_path / "b" / split / "dog").rename(tmp_path / "b" / split / "wolf")
    assert open_dataset("folder:b", offline(tmp_path)).fingerprint != dataset.fingerprint


def test_images_without_colour_have_one_channel_and_masks_move_with_them(tmp_path):
    write_folders(tmp_path / "set", grey=True, masks=tmp_path / "masks")
    folders = class_folders(tmp_path / "set")
    plain, dataset = image_folder(folders), image_folder(folders, tmp_path / "masks")
    assert (plain.image_shape, plain.mask_fingerprint, dataset.fingerprint) == ((1, 12, 12), None, plain.fingerprint)
    assert dataset.mask_train is not None
    assert torch.equal(dataset.mask_train, dataset.x_train > 128)
    assert dataset.notes == ("of 8 of 8 masks: its largest value, 1, is white",)


REFUSED = {
    "classes differ": (lambda root: (root / "test" / "dog").rename(root / "test" / "wolf"), r"missing in .*test: dog"),
    "empty class": (
        lambda root: [(root / split / "eel").mkdir() for split in ("train", "test")],
        r"the class 'eel' in .*train has no image",
    ),
    "two sizes": (
        lambda root: save(root / "train" / "dog" / "odd.png", np.zeros((9, 12, 3), dtype=np.uint8)),
        r"odd\.png has 12x9 pixels, others have 12x12",
    ),
    "large": (lambda root: write_folders(root, 120), "too large"),
    "tiny": (lambda root: write_folders(root, 7), "too small"),
    "an archive": (lambda root: (root.rename(root.parent / "aside"), root.touch()), "set is a file, not a folder"),
    "no folder": (lambda root: root.rename(root.parent / "elsewhere"), "cannot read the folder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_folder_of_another_kind_is_refused(kind, tmp_path):
    change, message = REFUSED[kind]
    change(write_folders(tmp_path / "set"))
    with pytest.raises(LatcliError, match=message):
        image_folder(class_folders(tmp_path / "set"))


def tiny(x_train, y_train, names=("a", "b")):
    test = (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    return make_dataset("any", (x_train, y_train), test, names, Defaults(0.3, 0.25, "paper-cnn"))


def test_the_fingerprint_changes_with_any_pixel_and_any_label():
    x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    pixel, label = x.clone(), y.clone()
    pixel[3, 0, 7, 7] = 1
    label[0] = 1
    found = [tiny(x, y), tiny(pixel, y), tiny(x, label), tiny(x, y, ("a", "c"))]
    assert len({dataset.fingerprint for dataset in found}) == 4
    assert tiny(x.clone(), y.clone()).fingerprint == found[0].fingerprint
    with pytest.raises(LatcliError, match="labels that are not 0 to 1"):
        tiny(x, y + 1)


def test_a_validation_split_parts_the_training_images_by_its_seed():
    numbers = torch.arange(40, dtype=torch.uint8)
    dataset = tiny(numbers[:, None, None, None].expand(40, 1, 8, 8).contiguous(), numbers.long() % 2)
    one, again, other = dataset.split(0.25, 3), dataset.split(0.25, 3), dataset.split(0.25, 4)
    held, rest = (split[:, 0, 0, 0].tolist() for split in (one.x_test, one.x_train))
    assert (len(held), sorted([*held, *rest])) == (10, list(range(40)))
    assert one.y_test.tolist() == [number % 2 for number in held]
    assert torch.equal(again.x_test, one.x_test)
    assert not torch.equal(other.x_test, one.x_test)
    assert len({split.fingerprint for split in (dataset, one, again, other)}) == 3
    for share in (0.0, 0.01, 0.99, 1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="a validation share of"):
            dataset.split(share, 0)
