"""What reads files in latcli, each with sound files to damage and the way a command reads them."""

from __future__ import annotations

import functools
import gzip
import io
import json
import sqlite3
import struct
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import mutations
from mutations import Mutation

sys.path.append(str(Path(__file__).parent.parent))


@dataclass(frozen=True)
class Target:
    """Sound files, how they are damaged, and the reader, which is given the bytes of one."""

    seeds: list[bytes]
    mutation: Mutation
    read: Callable[[bytes], None]


# Photos and masks


def pictures() -> list[bytes]:
    """Small files of every format and mode that is read: palettes, 16 bits, alpha, frames, EXIF, several pictures."""
    import numpy as np
    from PIL import Image

    levels = np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8)
    levels[6:12] = 90  # something to compress
    rgba = Image.fromarray(levels, "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    more: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True, "exif": exif, "quality": 40}), (grey, "JPEG", {}),
        (rgb.convert("CMYK"), "JPEG", {}), (rgb, "MPO", more),
        (rgb, "PNG", {}), (rgba, "PNG", {}), (grey, "PNG", {}), (deep, "PNG", {}), (rgb.quantize(7), "PNG", {}),
        (rgb.quantize(7), "PNG", {"transparency": 2}), (grey.convert("1"), "PNG", {}), (rgba.convert("LA"), "PNG", {}),
        (rgb, "PNG", more), (rgb, "PNG", {"exif": exif}),
        (rgb, "WEBP", {}), (rgba, "WEBP", {"lossless": True, "exif": exif}), (rgb, "WEBP", more),
        (rgb, "TIFF", {}), (rgba, "TIFF", {"compression": "tiff_lzw"}), (deep, "TIFF", {"compression": "tiff_deflate"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}), (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb, "TIFF", {"compression": "packbits"}), (grey.convert("F"), "TIFF", {}),
        (rgb, "BMP", {}), (rgb.quantize(5), "BMP", {}), (rgba, "BMP", {}), (rgb, "DIB", {}),
        (rgb, "GIF", {}), (rgb, "GIF", more), (rgb.quantize(4), "GIF", {"transparency": 1}),
        (rgb, "PPM", {}), (grey, "PPM", {}), (deep, "PPM", {}), (rgb, "AVIF", {"speed": 10}), (rgba, "AVIF", {}),
        (rgb, "JPEG2000", {}), (rgba, "JPEG2000", {"irreversible": True}),
    ]  # fmt: skip
    files = []
    for image, form, options in wanted:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return files


def _picture_damaged(data: bytes, rng: Random) -> bytes:
    if data.startswith(b"\x89PNG") and rng.random() < 0.8:
        return mutations.png_damaged(data, rng)
    return mutations.damaged(data, rng)


def image(_: Path) -> Target:
    """Photos, as every command decodes them."""
    from latcli.engine.images import decode_photo

    return Target(pictures(), _picture_damaged, lambda data: _ignore(decode_photo(data, "photo")))


def image_header(folder: Path) -> Target:
    """Photos of which only the size is asked."""
    from latcli.engine.images import photo_size

    return Target(pictures(), _picture_damaged, _from_file(folder / "photo.jpg", photo_size))


def mask(folder: Path) -> Target:
    """Masks, as `--mask` reads them."""
    from latcli.engine.images import read_mask

    return Target(pictures(), _picture_damaged, _from_file(folder / "mask.png", lambda path: read_mask(path, (23, 17))))


# What people write


def labels(folder: Path) -> Target:
    """CSV files of labels."""
    from latcli.engine.labels import LabelFile

    names = ("hen", "cock", "great white shark", "hen")
    classes = SimpleNamespace(class_names=names * 250, class_ids=("n01514859", "n01514668"))

    def read(path: Path) -> None:
        LabelFile(path).label_of(folder / "a.jpg", classes)

    seeds = [
        b"file,index\na.jpg,2\nsub/b.jpg,1\n",
        b"a.jpg,cock\nb.jpg,hen\n",
        '\ufefffile,name,index\na.jpg,Great_White shark,\n"b,\n.jpg",n01514859,1\n'.encode(),
    ]
    return Target(seeds, mutations.text_damaged, _from_file(folder / "labels.csv", read))


def configuration(folder: Path) -> Target:
    """TOML files, as `--config` and latcli.toml."""
    import typer
    from latcli.cli_options import shape_of

    from latcli.cli import app
    from latcli.config import settings_for

    root = shape_of(typer.main.get_command(app))
    seeds = [
        b'seed = 3\nepsilon = "8/255"\nstore = "~/runs"\n[attack]\nsteps = 40\n[runs.list]\nlimit = 5\n',
        b'# mine\noffline = true\nquiet = false\n[train]\nregime = ["natural", "background"]\nsteps = 1_200\n',
        b'attack.box = ["1,2,3,4"]\n[eval]\ncurve = ["epsilon=0.1,0.2"]\ntransfer = "all"\n[report]\nbest = true\n',
    ]

    def read(path: Path) -> None:
        settings_for(("attack",), root, [path])
        settings_for(("runs", "list"), root, [path])

    return Target(seeds, mutations.text_damaged, _from_file(folder / "latcli.toml", read))


# Networks


def _tiny_tensors() -> dict[str, Any]:
    import torch

    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


def _resealed(mutation: Mutation) -> Mutation:
    """The damage, and then the digest of the tensors made right, so that what the header says is looked at."""

    def damage(data: bytes, rng: Random) -> bytes:
        from safetensors import SafetensorError
        from safetensors.torch import load, save

        from latcli.engine.models.weights import state_dict_sha256

        if rng.random() < 0.3:
            return mutation(data, rng)
        (length,) = struct.unpack("<Q", data[:8])
        document = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["latcli"])
        tensors = load(data)
        if rng.random() < 0.3 and tensors:
            name = rng.choice(list(tensors))
            tensors[name] = _other_tensor(tensors[name], rng)
        changed = (
            json.loads(mutations.json_damaged(json.dumps(document).encode(), rng)) if rng.random() < 0.8 else document
        )
        if isinstance(changed, dict) and "digest" in changed:
            changed["digest"] = state_dict_sha256(tensors)
        try:
            return save(tensors, metadata={"latcli": json.dumps(changed)})
        except (SafetensorError, UnicodeEncodeError):
            return data

    def damage_of_any_json(data: bytes, rng: Random) -> bytes:
        try:
            return damage(data, rng)
        except (ValueError, RecursionError):  # the document is no JSON any more
            return mutation(data, rng)

    return damage_of_any_json


def _other_tensor(value: Any, rng: Random) -> Any:
    import torch

    return rng.choice((
        value.double(), value.half(), value.to(torch.int8), value.flatten(), value[:0], value.bool(),
        torch.full_like(value, float("nan")) if value.is_floating_point() else value.fill_(77), torch.ones(()),
        torch.ones(3, 4, 5),
    )).clone()  # fmt: skip


def checkpoint(folder: Path) -> Target:
    """Checkpoints of latcli, as `--classifier FILE` opens them."""
    import torch

    from latcli.engine import registry
    from latcli.engine.models.checkpoint import CheckpointInfo, open_checkpoint, pack_classifier

    torch.manual_seed(0)
    seeds = []
    for C in (1, 3):
        net = registry.load("architecture", "paper-cnn")((C, 4, 4), 3)
        info = CheckpointInfo("paper-cnn", (C, 4, 4), ("a", "b", "c"), "mnist", "0" * 64, "background", 0.3, 10)
        seeds.append(pack_classifier(net.state_dict(), info))
    mutation = _resealed(mutations.safetensors_damaged)
    return Target(seeds, mutation, _from_file(folder / "checkpoint.safetensors", open_checkpoint))


def training_state(folder: Path) -> Target:
    """The state that `train --resume` goes on from."""
    from latcli.engine.models.checkpoint import pack
    from latcli.engine.training.state import read_state

    told = {"step": 7, "architecture": "paper-cnn", "dataset_fingerprint": "0" * 64, "form": "fp32", "ranks": 1}
    seeds = [pack("training state", _tiny_tensors(), told | {"threads": 1, "settings": {"seed": 0}})]
    return Target(seeds, _resealed(mutations.safetensors_damaged), _from_file(folder / "state.safetensors", read_state))


def evaluation_samples(folder: Path) -> Target:
    """What `eval --resume` goes on from."""
    from latcli.commands.evaluation_parts import restore
    from latcli.engine.evaluation.matrix import Column
    from latcli.engine.models.checkpoint import pack

    column = Column.empty(6)
    tensors = {f"0.natural.{name}": value for name, value in column.tensors().items()}
    mean = {"n": 5, "accuracy": 0.5, "confidence": 0.4}
    group = {"n": 5, "low": 0.1, "high": 0.9, "means": {"original": mean}}
    group["gap"] = {"n": 5, "mixed_same": 0.5, "mixed_rand": 0.4, "value": 0.1, "standard_error": 0.1}
    point = {"value": 0.1, "n": 6, "accuracy": 0.5, "attacked": 6}
    reliance = {"model": "m", "donor_seeds": 1, "overall": group, "by_share": [group], "without_same": 0}
    findings = {
        "transfer standard": [{"input": "standard", "source": None, "target": "m", "n": 6, "loss": 1.0, "accuracy": 1}],
        "curve epsilon standard m": [{"model": "m", "input": "standard", "axis": "epsilon", "points": [point]}],
        "reliance m": [reliance | {"left_out": [{"name": "a.jpg", "why": "no object"}]}],
    }

    def read(path: Path) -> None:
        fresh = Column.empty(6)
        found = restore(SimpleNamespace(columns=[{"natural": fresh}]), path)
        rows = [row for kind in ("transfer", "curve", "reliance") for row in found.rows(kind)]
        json.dumps([str(row) for row in rows])

    seeds = [pack("evaluation", tensors, {"settings": {"n": 6}, "findings": findings})]
    return Target(seeds, _resealed(mutations.safetensors_damaged), _from_file(folder / "samples.safetensors", read))


def weights_safetensors(folder: Path) -> Target:
    """`--classifier-weights FILE.safetensors`."""
    from safetensors.torch import save

    return Target(
        [save(_tiny_tensors())], mutations.safetensors_damaged, _from_file(folder / "w.safetensors", _load_weights)
    )


def weights_torch(folder: Path) -> Target:
    """`--classifier-weights FILE.pth`: zip archives and the older streams of pickles, bare and wrapped."""
    import torch

    seeds = []
    for content in (_tiny_tensors(), {"state_dict": _tiny_tensors(), "epoch": 3}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            seeds.append(buffer.getvalue())

    def damage(data: bytes, rng: Random) -> bytes:
        return (mutations.zip_damaged if data.startswith(b"PK") else mutations.damaged)(data, rng)

    return Target(seeds, damage, _from_file(folder / "w.pth", _load_weights))


def _load_weights(path: Path) -> None:
    import torch

    from latcli.engine.models.weights import load_into, read_state_dict, state_dict_sha256

    found = read_state_dict(path)
    load_into(torch.nn.Linear(3, 2), found, what="the weights")
    state_dict_sha256(found)


def yolo_weights(folder: Path) -> Target:
    """`--detector-weights FILE.pt`: a whole network, rebuilt from a pickle."""
    from latcli.engine.detectors.base import DetectorContext
    from latcli.engine.detectors.yolo import YoloDetector, YoloSettings

    seeds = [small_yolo(folder)]
    return Target(
        seeds,
        mutations.zip_damaged,
        _from_file(folder / "w.pt", lambda path: YoloDetector(YoloSettings(str(path)), DetectorContext(offline=True))),
    )


def small_yolo(folder: Path) -> bytes:
    """A detector of ultralytics' own kind, with two layers instead of twenty."""
    import torch
    from PIL import Image

    from latcli.engine.vision import import_torchvision

    import_torchvision()
    opens = Image.open
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    Image.open = opens  # as latcli leaves it; ultralytics' own installs packages

    layers = {"nc": 2, "backbone": [[-1, 1, "Conv", [4, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]}
    layers |= {"head": [[[0, 1], 1, "Detect", ["nc"]]], "scales": {"n": [1.0, 1.0, 1024]}, "scale": "n"}
    torch.manual_seed(0)
    path = folder / "small.pt"
    model = YOLO("yolo26n.yaml")
    model.model = DetectionModel(layers, ch=3, verbose=False)
    model.model.args = dict(model.overrides)
    model.save(path)
    return path.read_bytes()


# Data sets


def digits(folder: Path) -> Target:
    """MNIST's files, gzipped and plain."""
    from latcli.engine.datasets.base import DatasetSource
    from latcli.engine.datasets.published import mnist

    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    images = struct.pack(">4I", 2051, 6, 28, 28) + Random(0).randbytes(6 * 28 * 28)
    classes = struct.pack(">2I", 2049, 6) + bytes(range(6))
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (raw / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(classes))
    source = DatasetSource(folder, offline=True)

    def read(data: bytes) -> None:
        # Which of the four it is follows from the bytes, so that a case can be made again.
        name = "train-labels-idx1-ubyte.gz" if len(data) < 250 else "train-images-idx3-ubyte.gz"
        sound = (raw / name).read_bytes()
        (raw / name).write_bytes(data)
        try:
            mnist(source)
        finally:
            (raw / name).write_bytes(sound)

    return Target([gzip.compress(images), gzip.compress(classes)], mutations.gzip_damaged, read)


# The store


def database_columns(folder: Path) -> Target:
    """The JSON columns of a database, as `runs` and `report` read them."""
    from report_store import whole

    whole(folder / "runs")
    columns = [
        ("runs", "config_json"), ("runs", "argv_json"), ("attacks", "boxes_json"), ("attacks", "notes_json"),
        ("attacks", "clean_top_json"), ("attacks", "adversarial_top_json"), ("environments", "packages_json"),
        ("environments", "devices_json"),
    ]  # fmt: skip
    path = folder / "runs" / "latcli.db"
    rows = []
    with closing(sqlite3.connect(path)) as db:
        for table, column in columns:
            query = f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL LIMIT 3"
            rows += [(table, column, *row) for row in db.execute(query)]
    seeds = [json.dumps(row).encode() for row in rows]

    def damage(data: bytes, rng: Random) -> bytes:
        table, column, row, text = json.loads(data)
        changed = mutations.json_damaged(text.encode(), rng).decode("utf-8", "replace")
        return json.dumps([table, column, row, changed]).encode()

    def read(data: bytes) -> None:
        try:
            table, column, row, text = json.loads(data)
        except ValueError:  # two seeds spliced
            return
        if (table, column) not in columns:
            return
        with closing(sqlite3.connect(path)) as db:
            (sound,) = db.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", [row]).fetchone()
            with db:
                db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", [text.replace("\ud800", "?"), row])
            try:
                _show_everything(folder / "runs")
            finally:
                with db:
                    db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", [sound, row])

    return Target(seeds, damage, read)


def evaluation_document(folder: Path) -> Target:
    """matrix.json of an evaluation, with the hash that the database expects."""
    import hashlib

    from report_store import whole

    ids = whole(folder / "runs")
    path = folder / "runs" / ids["evaluation"] / "matrix.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with closing(sqlite3.connect(folder / "runs" / "latcli.db")) as db, db:
            told = [hashlib.sha256(data).hexdigest(), len(data), ids["evaluation"]]
            db.execute("UPDATE artifacts SET sha256 = ?, size = ? WHERE run = ? AND name = 'matrix.json'", told)
        _report(folder / "runs")

    return Target([path.read_bytes()], mutations.json_damaged, read)


def database_file(folder: Path) -> Target:
    """The bytes of a database."""
    from report_store import whole

    whole(folder / "made")
    with closing(sqlite3.connect(folder / "made" / "latcli.db")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("VACUUM")
    sound = (folder / "made" / "latcli.db").read_bytes()
    place = folder / "runs"
    place.mkdir(exist_ok=True)

    def read(data: bytes) -> None:
        (place / "latcli.db").write_bytes(data)
        _show_everything(place)

    return Target([sound], mutations.damaged, read)


def detections(folder: Path) -> Target:
    """Detections kept in the store."""
    import numpy as np

    from latcli.commands.detection_cache import StoredDetections
    from latcli.engine.images import Photo, encode_png
    from latcli.store.store import Store

    store = Store.open(folder / "runs")
    photo = Photo("hen.jpg", np.zeros((6, 10, 3), dtype=np.uint8), "5" * 64)
    boxes = '[{"x0": 1, "y0": 2, "x1": 3.5, "y1": 4, "score": 0.5, "name": "hen", "segmentation": 0}]'
    silhouettes = encode_png(np.full((6, 10), 255, dtype=np.uint8))

    def damage(data: bytes, rng: Random) -> bytes:
        if data.startswith(b"["):
            return mutations.json_damaged(data, rng)
        return mutations.png_damaged(data, rng)

    def read(data: bytes) -> None:
        if data[:1] in (b"[", b"{"):
            store.save_detection("5" * 64, "fake", "", data.decode("utf-8", "replace"), silhouettes)
        else:
            store.save_detection("5" * 64, "fake", "", boxes, data)
        found = StoredDetections(store).get(photo, "fake", "")
        if found is not None:
            _use_detection(found, photo)

    return Target([boxes.encode(), silhouettes], damage, read)


def _use_detection(found: Any, photo: Any) -> None:
    from latcli.engine.localize import boxes_mask

    boxes_mask([(box.x0, box.y0, box.x1, box.y1) for box in found.boxes], photo.size)
    for box in found.boxes:
        assert isinstance(box.name, str)
        assert box.segmentation is None or found.segmentations_NHW[box.segmentation].shape == photo.size


def _show_everything(store: Path) -> None:
    """What `runs list`, `runs show`, `runs verify` and `report` put on a terminal."""
    from rich.console import Console

    from latcli.commands import runs
    from latcli.errors import LatcliError
    from latcli.reporting.terminal import shown as drawn
    from latcli.results import to_json

    console = Console(file=io.StringIO(), width=80)
    refused = None
    for what in (lambda: drawn("runs list", to_json(runs.list_runs(store))),
                 *(lambda row=row: drawn("runs show", to_json(runs.show_run(store, row))) for row in _ids(store)),
                 lambda: drawn("runs verify", to_json(runs.verify_runs(store))),
                 lambda: _report(store)):  # fmt: skip
        try:
            shown = what()
        except LatcliError as error:
            refused = error
        else:
            console.print(shown)
    if refused is not None:
        raise refused


def _ids(store: Path) -> list[str]:
    try:
        with closing(sqlite3.connect(store / "latcli.db")) as db:
            return [str(row[0]) for row in db.execute("SELECT id FROM runs GROUP BY command")]
    except (sqlite3.Error, OSError, UnicodeDecodeError):
        return []


def _report(store: Path) -> Any:
    from latcli.commands.report import TABLES, gather
    from latcli.options import ReportOptions
    from latcli.reporting import page, render
    from latcli.reporting.terminal import shown
    from latcli.results import to_json
    from latcli.session import Session

    if not hasattr(page.environment, "cache_info"):
        page.environment = functools.cache(page.environment)  # templates are compiled once
    document = to_json(gather(ReportOptions(paper=True), Session(store=store, quiet=True), TABLES))
    json.dumps(document)
    for write in (render.csv_lines, render.latex, render.markdown, lambda report: page.render(report, lambda _: None)):
        "".join(write(document))
    return shown("report", document)


def _from_file(path: Path, read: Callable[[Path], Any]) -> Callable[[bytes], None]:
    def read_bytes(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return read_bytes


def _ignore(_: object) -> None:
    return None


TARGETS: dict[str, Callable[[Path], Target]] = {
    "image": image,
    "image-header": image_header,
    "mask": mask,
    "labels": labels,
    "configuration": configuration,
    "checkpoint": checkpoint,
    "training-state": training_state,
    "evaluation-samples": evaluation_samples,
    "weights-safetensors": weights_safetensors,
    "weights-torch": weights_torch,
    "weights-yolo": yolo_weights,
    "digits": digits,
    "database-columns": database_columns,
    "evaluation-document": evaluation_document,
    "database-file": database_file,
    "detections": detections,
}
