"""No damaged file makes latcli raise anything but its own error, hang, or fill the memory.

Cases follow from their number. The short form tries some dozens of each kind, LATCLI_RELIABILITY=full 4,000.
"""

import io
import json
import resource
import signal
import struct
import traceback
import warnings
import zlib
from contextlib import suppress
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import FULL
from PIL import Image

from latcli.errors import LatcliError

SEED = 8
MOST_SECONDS = 5.0
MOST_BYTES = 2 << 30

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)
_WORDS = (
    *(b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b'"', b"{", b"]", b"[[", b"NaN", b"-1", b"1e999"),
    *(b"null", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"../../../../etc/passwd", b"\xed\xa0\x80", b"A" * 70000),
)


class HangError(BaseException):
    """Raised by the alarm; no reader may take it for damage."""


@pytest.fixture(autouse=True)
def _alarm():
    def ring(*_):
        raise HangError

    before = signal.signal(signal.SIGPROF, ring)
    yield
    signal.signal(signal.SIGPROF, before)


# damage


def damaged(data, rng):
    """A few bits turned, bytes replaced, a piece cut, repeated or put in, or a number driven to its limit."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, length = rng.randrange(len(changed) or 1), rng.choice((1, 4, 12, 100))
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            del changed[place : place + length]
        elif kind == 4:
            changed[place:place] = changed[place : place + length] * rng.choice((2, 20, 200))
        elif kind == 5:
            changed[place:place] = rng.choice(_WORDS)
        else:  # headers stand in front, where the sizes are
            form = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            start = rng.randrange(min(len(changed), rng.choice((16, 64, 400))) or 1)
            number = rng.choice(_EXTREMES) % 256 ** struct.calcsize(form)
            changed[start : start + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(changed)


def picture_damaged(data, rng):
    """An image file; most PNGs get right checksums again, so that what is in their chunks is looked at."""
    changed, place = bytearray(damaged(data, rng)), 8
    while data.startswith(b"\x89PNG") and rng.random() < 0.95 and place + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, place)
        if place + 12 + length > len(changed):
            break
        struct.pack_into(">I", changed, place + 8 + length, zlib.crc32(changed[place + 4 : place + 8 + length]))
        place += 12 + length
    return bytes(changed)


def header_damaged(data, rng):
    """A safetensors file whose header is damaged, with its length right again; any other file as `damaged` does."""
    if data[8:9] != b"{" or rng.random() < 0.3:
        return damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header = damaged(data[8 : 8 + length].rstrip(), rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def document_damaged(data, rng):
    """A checkpoint with other values, and shapes, in the document in its header."""
    if rng.random() < 0.4:
        return header_damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header["__metadata__"]["latcli"])
    values = (None, True, 0, -1, 2**63, 1e308, "", "x" * 70000, "\0", "/dev/zero", [], [-1] * 3, {})
    document[rng.choice(list(document))] = rng.choice(values)
    header["__metadata__"]["latcli"] = json.dumps(document)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


# what is read


def photo():
    """Small files of every format and mode that is read: palettes, 16 bits, alpha, frames, several pictures.

    As all of these: sound files, how they are damaged, and the reader, which is given the path of one.
    """
    from latcli.engine.images import decode_photo, encode_png, photo_size
    from latcli.engine.photo_files import read_mask

    levels = np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8)
    levels[6:12] = 90  # something to compress
    rgba = Image.fromarray(levels, "RGBA")
    rgb, grey, deep = rgba.convert("RGB"), rgba.convert("L"), Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    wanted = [
        *((rgb, form, {}) for form in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")),
        *((deep, form, {}) for form in ("PNG", "TIFF", "PPM")),
        *((rgba, form, {}) for form in ("PNG", "WEBP", "AVIF")),
        *((rgb, form, frames) for form in ("MPO", "PNG", "WEBP", "GIF")),
        *((rgb.quantize(7), form, {"transparency": 2}) for form in ("PNG", "GIF")),
        *((rgba, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"})),
        *((grey.convert("1"), "TIFF", {"compression": "group4"}), (grey.convert("F"), "TIFF", {})),
        *((rgb.convert("CMYK"), "JPEG", {}), (grey, "JPEG", {"progressive": True})),
    ]
    files = [encode_png(np.eye(23, 17, dtype=np.uint8) * 255)]
    for image, form, options in wanted:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())

    def read(path):
        for reader in (photo_size, lambda path: read_mask(path, (23, 17))):
            with suppress(LatcliError):
                reader(path)
        decode_photo(path.read_bytes(), "photo")

    return files, picture_damaged, read


def labels():
    from latcli.engine.labels import LabelFile

    classes = SimpleNamespace(class_names=("hen", "cock", "great white shark") * 300, class_ids=("n01514859",))
    files = [b"file,index\na.jpg,2\nsub/b.jpg,1\n", "file;name\na.jpg;cock\n".encode("utf-16")]
    files.append('\ufefffile,name,index\na.jpg,Great_White shark,\n"b,\n.jpg",n01514859,1\n'.encode())
    return files, damaged, lambda path: LabelFile(path).label_of(path.with_name("a.jpg"), classes)


def configuration():
    from latcli.cli import COMMANDS, settable
    from latcli.config import settings_for

    shape = {path: tuple(settable(command)) for path, command in COMMANDS.items()}
    files = [
        b'seed = 3\nepsilon = "8/255"\nstore = "~/runs"\n[attack]\nsteps = 40\n[runs.list]\nlimit = 5\n',
        b'attack.box = ["1,2,3,4"]\noffline = true\n[train]\nsteps = 1_200\n[report]\nbest = true\n',
    ]
    return files, damaged, lambda path: settings_for(("attack",), shape, [path])


def checkpoint():
    from latcli.engine import registry
    from latcli.engine.models.catalog import CheckpointInfo, open_checkpoint, pack_classifier

    net = registry.load("architecture", "paper-cnn")((1, 4, 4), 3)
    info = CheckpointInfo("paper-cnn", (1, 4, 4), ("a", "b", "c"), "mnist", "0" * 64, "background", 0.3, 10)
    return [pack_classifier(net.state_dict(), info)], document_damaged, open_checkpoint


def weights():
    from safetensors.torch import save

    from latcli.engine.models.weights import load_into, read_weights

    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
    files = [save(tensors)]
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save({"state_dict": tensors, "epoch": 3}, buffer, _use_new_zipfile_serialization=new)
        files.append(buffer.getvalue())

    def read(path):
        path = path.rename(path.with_suffix(".safetensors" if path.read_bytes()[8:9] == b"{" else ".pth"))
        load_into(torch.nn.Linear(3, 2), read_weights(path).state_dict, what="the weights")

    return files, header_damaged, read


CASES = {photo: 200, labels: 100, configuration: 60, checkpoint: 60, weights: 120}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    files, damage, read = kind()
    path = tmp_path / f"file{'.safetensors' if kind is checkpoint else '.jpg'}"
    path.write_bytes(files[0])
    read(path)  # imports and caches are no case's memory
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    failures = []
    for number in range(4_000 if FULL else CASES[kind]):
        rng = Random(SEED * 1_000_003 + number)
        data = damage(rng.choice(files), rng)
        path.write_bytes(data)
        try:
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except LatcliError:
            pass
        except (HangError, Exception):
            (tmp_path / f"case-{number}").write_bytes(data)
            failures.append(f"{tmp_path}/case-{number}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    assert not failures, "\n".join([f"{len(failures)} failures", *failures[:3]])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - memory < MOST_BYTES
