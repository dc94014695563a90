"""`latcli doctor`: ten checks of this machine, a line each; it changes nothing and needs no network."""

from __future__ import annotations

import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from latcli import __version__
from latcli.config import files_in_use
from latcli.errors import LatcliError, UsageError
from latcli.options import DoctorOptions
from latcli.reporting.text import counted
from latcli.results import Check, DoctorResult
from latcli.session import Session

#: A run on a folder of large photos leaves about this much.
_ROOM = 1 << 30

#: MNIST's files as torchvision keeps them below the data folder, each plain or compressed.
_MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def run(options: DoctorOptions, session: Session) -> DoctorResult:
    """Check what latcli needs. Raises UsageError for a device that this machine does not have."""
    about = f"{__version__} on Python {platform.python_version()}, {platform.system()}"
    if platform.system() == "Windows":
        why = "Windows is not supported: the store needs POSIX file locks, and runs need POSIX signals"
        return DoctorResult((Check("latcli", "broken", f"{about}: {why}", "use WSL (Linux inside Windows)"),))
    checks = [
        Check("latcli", "ok", about),
        _looked_at("torch", _torch),
        _looked_at("device", lambda: _device(session.device)),
        _looked_at("detectors", _detectors),
        _looked_at("classifiers", _classifiers),
        _data_sets(session.data),
        _looked_at("downloads", _downloads),
        _disk(session.store),
        _looked_at("database", lambda: _database(session.store)),
        Check("configuration", "ok", ", ".join(map(str, reversed(files_in_use(session.config)))) or "defaults only"),
    ]
    return DoctorResult(tuple(checks))


def _looked_at(name: str, look: Callable[[], Check]) -> Check:
    """The check; broken where a library cannot be imported, or what is there cannot be read."""
    try:
        return look()
    except UsageError:
        raise
    except LatcliError as error:
        return Check(name, "broken", error.message, error.hint)
    except (ImportError, OSError, RuntimeError) as error:
        return Check(name, "broken", f"cannot be imported: {error}", "reinstall latcli")


def _torch() -> Check:
    import torch

    from latcli.engine.vision import operators

    of = {"native": "native", "stand-in": "plain PyTorch"}
    return Check("torch", "ok", f"{torch.__version__}; torchvision operators: {of[operators()]}")


def _device(name: str) -> Check:
    import torch

    from latcli.engine.devices import open_device

    device = open_device(name)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        detail = f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        units = ["CUDA"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    else:
        detail = f"{device}, {counted(torch.get_num_threads(), 'thread')} of {os.cpu_count() or 1}"
        found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        units = [unit for unit, there in found.items() if "bf16" in unit and there is True]
    return Check("device", "ok", f"{detail}, bf16: {', '.join(units) or 'no'}")


def _detectors() -> Check:
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    from latcli.engine.detectors import saliency, yolo
    from latcli.engine.models.weights import kept_at

    weights = {
        "yolo": yolo.weights_at_hand(),
        "mobilenet": _if_there(kept_at(SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url)),
        "saliency": saliency.weights_at_hand(),
    }
    ready = [f"{name} ({path.name})" for name, path in weights.items() if path]
    absent = ", ".join(name for name, path in weights.items() if not path)
    detail = ", ".join([*ready, "cam"]) + (f"; no weights: {absent}" if absent else "")
    if ready:
        return Check("detectors", "ok", detail)
    hint = f"for saliency: {saliency.INSTALL_WEIGHTS}; others are downloaded, or use --detector-weights FILE"
    return Check("detectors", "missing", detail, hint)


def _classifiers() -> Check:
    from torchvision.models import Inception_V3_Weights

    from latcli.engine import registry
    from latcli.engine.models.catalog import named_classifier
    from latcli.engine.models.classifier import ClassifierSource
    from latcli.engine.models.weights import kept_at

    named_classifier(registry.DEFAULT_CLASSIFIER, ClassifierSource(offline=True))
    there = _if_there(kept_at(Inception_V3_Weights.DEFAULT.url)) is not None
    more = ", inception_v3" if there else "; no weights: inception_v3"
    return Check("classifiers", "ok", f"{registry.DEFAULT_CLASSIFIER}{more}")


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _data_sets(data: Path) -> Check:
    folder = data / "MNIST" / "raw"
    absent = [name for name in _MNIST if not (folder / name).is_file() and not (folder / f"{name}.gz").is_file()]
    if not absent:
        return Check("data sets", "ok", f"MNIST in {folder}")
    hint = "mnist-5k is used instead; put MNIST's four files there, or name their folder with --data DIR"
    return Check("data sets", "missing", f"no MNIST in {folder}", hint)


def _downloads() -> Check:
    """Where downloaded weights are kept; without a home folder, nowhere."""
    from latcli.engine.models.weights import downloads_folder

    folder = downloads_folder()
    if folder is not None:
        return Check("downloads", "ok", str(folder))
    hint = "set HOME, XDG_CACHE_HOME or TORCH_HOME to keep downloads"
    return Check("downloads", "missing", "no home folder, so nothing is downloaded", hint)


def _disk(store: Path) -> Check:
    """Whether there is room where runs are kept, or would be once their folder is made."""
    absolute = store.absolute()
    folder = next(one for one in (absolute, *absolute.parents) if one.exists())
    another = "name another folder with --store DIR"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Check("disk", "broken", f"cannot write to {folder}", another)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", "broken", f"{folder}: {error.strerror}", another)
    room = Check("disk", "ok", f"{free / 2**30:.1f} GiB free at {folder}")
    return room if free >= _ROOM else replace(room, state="missing", hint="a run on large photos may need more")


def _database(store: Path) -> Check:
    from latcli.store.store import DATABASE, Store

    path = store / DATABASE
    if not path.exists():
        return Check("database", "missing", f"no {path} yet", "the first run creates it")
    with Store.open_existing(store) as opened:
        faults = opened.faults()
        states = Counter(run.status for run in opened.runs())
    if faults:
        hint = "move it away to start a new one; each run folder still has its run.json"
        return Check("database", "broken", f"{path}: {faults[0]}", hint)
    shown = ", ".join(f"{count} {state}" for state, count in states.items()) or "no runs"
    return Check("database", "ok", f"{path}: {shown}")
