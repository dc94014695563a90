"""No damaged file makes latcli raise anything but its own error, hang, or fill the memory.

Cases follow from their number. The short form tries some dozens of each kind, LATCLI_RELIABILITY=full 4,000.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import resource
import signal
import sqlite3
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import mutations
import numpy as np
import pytest
import torch
from form import full
from mutations import Mutation
from PIL import Image

from latcli.errors import LatcliError

pytestmark = pytest.mark.reliability

SEED = 8
MOST_SECONDS = 5.0
MOST_BYTES = 2 << 30

#: Sound files, how they are damaged, and the reader, which is given the bytes of one.
Kind = tuple[list[bytes], Mutation, Callable[[bytes], Any]]


class HangError(BaseException):
    """Raised by the alarm; no reader may take it for damage."""


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, ring)
    yield
    signal.signal(signal.SIGPROF, before)


def from_file(path: Path, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """The reader of a path as a reader of bytes."""

    def read_bytes(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return read_bytes


# photos and masks


def pictures() -> list[bytes]:
    """Small files of every format and mode that is read: palettes, 16 bits, alpha, frames, EXIF, several pictures."""
    levels = np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8)
    levels[6:12] = 90  # something to compress
    rgba = Image.fromarray(levels, "RGBA")
    rgb, grey, deep = rgba.convert("RGB"), rgba.convert("L"), Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((rgb, form, {}) for form in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")),
        *((grey, form, {}) for form in ("JPEG", "PNG", "PPM")),
        *((deep, form, {}) for form in ("PNG", "TIFF", "PPM")),
        *((rgba, form, {}) for form in ("PNG", "WEBP", "BMP", "AVIF", "JPEG2000")),
        *((rgb, form, frames) for form in ("MPO", "PNG", "WEBP", "GIF")),
        *((rgb.quantize(7), form, {"transparency": 2}) for form in ("PNG", "GIF")),
        *((rgba, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"})),
        *((grey.convert("1"), "TIFF", {"compression": "group4"}), (grey.convert("F"), "TIFF", {})),
        *((rgb.convert("CMYK"), "JPEG", {}), (rgb, "JPEG", {"progressive": True, "exif": exif})),
    ]
    files = []
    for image, form, options in wanted:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return files


def photo(folder: Path) -> Kind:
    from latcli.engine.images import decode_photo, encode_png, photo_size
    from latcli.engine.masks import read_mask

    def read(path: Path) -> None:
        for reader in (photo_size, lambda path: read_mask(path, (23, 17))):
            with suppress(LatcliError):
                reader(path)
        decode_photo(path.read_bytes(), "photo")

    seeds = [encode_png(np.eye(23, 17, dtype=np.uint8) * 255), *pictures()]
    return seeds, mutations.picture_damaged, from_file(folder / "photo.jpg", read)


# what people write


def labels(folder: Path) -> Kind:
    from latcli.engine.labels import LabelFile

    classes = SimpleNamespace(class_names=("hen", "cock", "great white shark") * 300, class_ids=("n01514859",))
    seeds = [
        *(
            b"file,index\na.jpg,2\nsub/b.jpg,1\n",
            b"a.jpg,cock\nb.jpg,hen\n",
            "file;name\na.jpg;cock\n".encode("utf-16"),
        ),
        '\ufefffile,name,index\na.jpg,Great_White shark,\n"b,\n.jpg",n01514859,1\n'.encode(),
    ]
    read = from_file(folder / "labels.csv", lambda path: LabelFile(path).label_of(folder / "a.jpg", classes))
    return seeds, mutations.text_damaged, read


def configuration(folder: Path) -> Kind:
    from latcli.cli import COMMANDS, settable
    from latcli.config import settings_for

    shape = {path: tuple(settable(command)) for path, command in COMMANDS.items()}
    seeds = [
        b'seed = 3\nepsilon = "8/255"\nstore = "~/runs"\n[attack]\nsteps = 40\n[runs.list]\nlimit = 5\n',
        b'# mine\noffline = true\nquiet = false\n[train]\nregime = ["natural", "background"]\nsteps = 1_200\n',
        b'attack.box = ["1,2,3,4"]\n[eval]\ncurve = ["epsilon=0.1,0.2"]\ntransfer = "all"\n[report]\nbest = true\n',
    ]
    read = from_file(folder / "latcli.toml", lambda path: settings_for(("attack",), shape, [path]))
    return seeds, mutations.text_damaged, read


# networks


def tensors() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


def checkpoint(folder: Path) -> Kind:
    from latcli.engine import registry
    from latcli.engine.models.catalog import CheckpointInfo, open_checkpoint, pack_classifier

    net = registry.load("architecture", "paper-cnn")((1, 4, 4), 3)
    info = CheckpointInfo("paper-cnn", (1, 4, 4), ("a", "b", "c"), "mnist", "0" * 64, "background", 0.3, 10)
    seeds = [pack_classifier(net.state_dict(), info)]
    return seeds, mutations.header_document_damaged, from_file(folder / "c.safetensors", open_checkpoint)


def weights(folder: Path) -> Kind:
    from safetensors.torch import save

    from latcli.engine.models.weights import load_into, read_weights

    seeds = [save(tensors())]
    for content in (tensors(), {"state_dict": tensors(), "epoch": 3}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            seeds.append(buffer.getvalue())

    def damage(data: bytes, rng: Random) -> bytes:
        return (mutations.safetensors_damaged if data is seeds[0] else mutations.damaged)(data, rng)

    def read(data: bytes) -> None:
        path = folder / ("w.safetensors" if data[8:9] == b"{" else "w.pth")
        path.write_bytes(data)
        load_into(torch.nn.Linear(3, 2), read_weights(path).state_dict, what="the weights")

    return seeds, damage, read


# data sets and the store


def digits(folder: Path) -> Kind:
    from latcli.engine.datasets.base import DatasetSource
    from latcli.engine.datasets.published import mnist

    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = gzip.compress(struct.pack(">4I", 2051, 6, 28, 28) + Random(0).randbytes(6 * 28 * 28))
    classes = gzip.compress(struct.pack(">2I", 2049, 6) + bytes(range(6)))
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte.gz").write_bytes(images)
        (raw / f"{split}-labels-idx1-ubyte.gz").write_bytes(classes)
    read = from_file(raw / "train-images-idx3-ubyte.gz", lambda _: mnist(DatasetSource(folder, offline=True)))

    def damage(data: bytes, rng: Random) -> bytes:
        return gzip.compress(mutations.damaged(gzip.decompress(data), rng), 1)

    return [images, classes], damage, read


def detections(folder: Path) -> Kind:
    from latcli.commands.detection_cache import StoredDetections
    from latcli.engine.detectors.base import Detection
    from latcli.engine.images import Photo, encode_png
    from latcli.store.store import Store

    store = Store.open(folder / "runs")
    photo = Photo("hen.jpg", np.zeros((6, 10, 3), dtype=np.uint8), "5" * 64)
    StoredDetections(store).put(photo, "fake", "", Detection(()))
    boxes = b'[{"x0": 1, "y0": 2, "x1": 3.5, "y1": 4, "score": 0.5, "name": "hen", "segmentation": 0}]'
    silhouettes = encode_png(np.full((6, 10), 255, dtype=np.uint8))

    def damage(data: bytes, rng: Random) -> bytes:
        return mutations.json_damaged(data, rng) if data == boxes else mutations.picture_damaged(data, rng)

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace") if data[:1] in (b"[", b"{") else boxes.decode()
        with store.writing() as db:
            picture = silhouettes if data[:1] in (b"[", b"{") else data
            db.execute("UPDATE detections SET boxes_json = ?, segmentations = ?", [text, picture])
        found = StoredDetections(store).get(photo, "fake", "")
        for box in found.boxes if found else ():
            assert box.segmentation is None or found.segmentations_NHW[box.segmentation].shape == photo.size

    return [boxes, silhouettes], damage, read


def evaluation_document(folder: Path) -> Kind:
    """matrix.json of an evaluation, with the hash that the database expects, as `report` reads it."""
    from report_store import whole

    ids = whole(folder / "runs")
    path = folder / "runs" / ids["evaluation"] / "matrix.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with closing(sqlite3.connect(folder / "runs" / "latcli.db")) as db, db:
            row = [hashlib.sha256(data).hexdigest(), len(data), ids["evaluation"]]
            db.execute("UPDATE artifacts SET sha256 = ?, size = ? WHERE run = ? AND name = 'matrix.json'", row)
        report(folder / "runs")

    return [path.read_bytes()], mutations.json_damaged, read


def database(folder: Path) -> Kind:
    """The bytes of a database, as `runs` and `report` read them."""
    from report_store import whole

    from latcli.commands import runs
    from latcli.options import RunsListOptions, RunsVerifyOptions
    from latcli.session import Session

    whole(folder / "made")
    with closing(sqlite3.connect(folder / "made" / "latcli.db")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("VACUUM")
    sound = (folder / "made" / "latcli.db").read_bytes()
    (folder / "runs").mkdir()

    def read(path: Path) -> None:
        session = Session(store=path.parent, quiet=True)
        runs.list_runs(RunsListOptions(), session)
        runs.verify_runs(RunsVerifyOptions(), session)
        report(path.parent)

    return [sound], mutations.damaged, from_file(folder / "runs" / "latcli.db", read)


def report(store: Path) -> None:
    """What `report` shows and writes of a store."""
    from latcli.commands.gathering import TABLES, gather
    from latcli.options import ReportOptions
    from latcli.reporting import render
    from latcli.reporting.terminal import shown
    from latcli.results import to_json
    from latcli.session import Session

    document = to_json(gather(ReportOptions(paper=True), Session(store=store, quiet=True), TABLES))
    for write in (render.csv_lines, render.latex, render.markdown):
        "".join(write(document))
    shown("report", document)


CASES: dict[Callable[[Path], Kind], int] = {
    **{photo: 200, labels: 100, configuration: 60, checkpoint: 60, weights: 120},
    **{digits: 20, detections: 30, evaluation_document: 12, database: 8},
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_damaged_files_are_read_or_refused(kind: Callable[[Path], Kind], tmp_path: Path) -> None:
    seeds, damage, read = kind(tmp_path)
    with suppress(LatcliError):
        read(seeds[0])  # imports and caches are no case's memory
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    failures = []
    for number in range(4_000 if full() else CASES[kind]):
        rng = Random(SEED * 1_000_003 + number)
        data = damage(rng.choice(seeds), rng)
        try:
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(data)
        except LatcliError:
            pass
        except (HangError, Exception):
            (tmp_path / f"case-{number}").write_bytes(data)
            failures.append(f"{tmp_path}/case-{number}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    assert not failures, "\n".join([f"{len(failures)} failures", *failures[:3]])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - memory < MOST_BYTES
