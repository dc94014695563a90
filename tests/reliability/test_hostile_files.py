"""Files made to do harm: bombs, pickles that run code, archives and links that lead out, options that nobody said."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latcli.engine.datasets.base import DatasetSource
from latcli.engine.detectors.base import DetectorContext
from latcli.engine.detectors.yolo import YoloDetector, YoloSettings
from latcli.engine.images import MAX_FILE_BYTES, decode_photo, read_photo
from latcli.engine.models.checkpoint import CheckpointInfo, open_checkpoint, pack_classifier
from latcli.engine.models.weights import read_state_dict
from latcli.errors import ImageError, LatcliError, UsageError, WeightsError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

pytestmark = pytest.mark.reliability

# Photos


def _png(width: int, height: int, colour: int, depth: int, row: bytes, count: int) -> bytes:
    """A PNG of that header and of `count` rows that are all the same."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" + row) for _ in range(count)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (20_000, 20_000)])
def test_a_header_that_promises_too_much_is_refused_before_anything_is_decoded(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=r"more than 150 megapixels|damaged|not an image"):
        decode_photo(_png(width, height, 2, 8, bytes(30), 1), "bomb.png")


_MEASURED = """
import sys
from pathlib import Path
from latcli.engine.images import decode_photo
photo = decode_photo(Path(sys.argv[1]).read_bytes(), "photo")
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024, *photo.levels_HWC.shape)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("colour", "depth", "bytes_a_pixel"), [(6, 8, 4), (0, 16, 2), (4, 8, 2)])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the peak of a process's memory")
def test_the_largest_photo_of_any_kind_stays_below_2_gib(
    colour: int, depth: int, bytes_a_pixel: int, tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(_png(15_000, 9_900, colour, depth, bytes(15_000 * bytes_a_pixel), 9_900))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path / "large.png")], capture_output=True, text=True, check=True
    )
    mebibytes, *shape = map(int, done.stdout.split())
    assert shape == [9_900, 15_000, 3]
    assert mebibytes < 2048


def test_rows_are_the_same_however_many_are_turned_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (37, 21, 4), dtype=np.uint8)
    deep = levels[..., 0].astype(np.uint16) * 257
    for image in (Image.fromarray(levels, "RGBA"), Image.fromarray(deep), Image.fromarray(levels[..., :3]).quantize(9)):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **({"transparency": 3} if image.mode == "P" else {}))
        whole = decode_photo(buffer.getvalue(), "photo")
        monkeypatch.setattr("latcli.engine.images._AT_ONCE", 50)
        assert np.array_equal(decode_photo(buffer.getvalue(), "photo").levels_HWC, whole.levels_HWC)
        monkeypatch.undo()


def test_a_device_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FILE_BYTES == 1 << 30
    monkeypatch.setattr("latcli.engine.images.MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="longer than 1 MiB"):
        read_photo(Path("/dev/zero"))


# Pickles


class _Call:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made_by = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.made_by


@pytest.fixture(scope="module")
def small_yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import targets

    folder = tmp_path_factory.mktemp("yolo")
    targets.small_yolo(folder)
    return folder / "small.pt"


def opened(weights: Path, **context: bool) -> YoloDetector:
    return YoloDetector(YoloSettings(str(weights)), DetectorContext(**context))


def _with_call(weights: Path, to: Path, call: _Call) -> Path:
    torch.save(torch.load(weights, weights_only=False) | {"date": call}, to)
    return to


def test_weights_that_run_code_need_their_user_s_word(small_yolo: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = _with_call(small_yolo, tmp_path / "calls.pt", _Call(os.mkdir, str(marker)))
    with pytest.raises(WeightsError, match="wants to run code") as refused:
        opened(file)
    assert "--trust-weights" in refused.value.hint
    assert not marker.exists()
    opened(file, trust_weights=True)
    assert marker.is_dir()


def test_a_layer_of_yolo_is_rebuilt_and_never_constructed(
    small_yolo: Path, tmp_path: Path, no_network: list[object]
) -> None:
    from ultralytics.nn.modules.block import TorchVision
    from ultralytics.nn.tasks import DetectionModel

    calls = [_Call(TorchVision, "resnet18"), _Call(DetectionModel, "/etc/passwd.yaml"), _Call(torch.nn.Linear, 9, 9)]
    for call in calls:
        with pytest.raises(WeightsError, match="wants to run code"):
            opened(_with_call(small_yolo, tmp_path / "calls.pt", call))
    assert no_network == []
    assert torch.nn.Linear(2, 2).weight.shape == (2, 2)  # elsewhere layers are made as before
    assert opened(small_yolo).name == "yolo"


def test_no_file_of_options_can_trust_weights(tmp_path: Path) -> None:
    import typer
    from latcli.cli_options import shape_of

    from latcli.cli import app
    from latcli.config import settings_for

    file = tmp_path / "latcli.toml"
    file.write_text("trust-weights = true\n")
    for command in ("attack", "train", "eval"):
        with pytest.raises(UsageError, match="trust-weights"):
            settings_for((command,), shape_of(typer.main.get_command(app)), [file])


def test_a_name_of_a_hundred_thousand_letters_is_refused_at_once_and_shortened(tmp_path: Path) -> None:
    name = "a" * 100_000
    (tmp_path / "long.pth").write_bytes(b"\x80\x02c" + name.encode() + b"\n" + name.encode() + b"\n.")
    with pytest.raises(WeightsError) as refused:
        read_state_dict(tmp_path / "long.pth")
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    "value", [torch.ones(2, 3).to_sparse(), torch.ones(2, 3, device="meta")], ids=["sparse", "meta"]
)
def test_tensors_without_plain_numbers_are_refused(value: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"weight": value, "bias": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / "odd.pth")


def test_a_checkpoint_that_names_a_huge_network_makes_none(tmp_path: Path) -> None:
    info = CheckpointInfo("paper-cnn", (3, 50_000, 50_000), ("a", "b"), "mnist", "0" * 64, "natural", 0.3, 1)
    (tmp_path / "huge.safetensors").write_bytes(pack_classifier({"weight": torch.zeros(1)}, info))
    with pytest.raises(WeightsError, match="do not fit"):
        open_checkpoint(tmp_path / "huge.safetensors")


# Archives


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address on this machine and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", folder
        http.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _leading_out() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("../escaped", "cifar-10-batches-py/data_batch_1"):
            member = tarfile.TarInfo(name)
            data = pickle.dumps(_Call(os.mkdir, "ran"))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_2")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


@pytest.mark.parametrize("place", ["server", "disk"])
def test_an_archive_that_is_not_the_published_one_is_never_unpacked(
    place: str, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latcli.engine.datasets.published import cifar10
    from latcli.engine.vision import import_torchvision

    theirs = import_torchvision().datasets.CIFAR10
    url, served = server
    data = tmp_path / "data"
    data.mkdir()
    (served / theirs.filename).write_bytes(_leading_out())
    if place == "disk":
        (data / theirs.filename).write_bytes(_leading_out())
    monkeypatch.setattr(theirs, "url", url + theirs.filename)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LatcliError):
        cifar10(DatasetSource(data))
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert left == {theirs.filename}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../../escaped", "archive/../../../escaped", "/tmp/escaped"])
def test_members_of_weights_lead_nowhere(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, "x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.pth").write_bytes(buffer.getvalue())
    with suppress(WeightsError):
        read_state_dict(tmp_path / "inner" / "w.pth")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["w.pth"]
