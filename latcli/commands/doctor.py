"""`latcli doctor`: what this machine offers; must not change anything, and must not know the terminal."""

from __future__ import annotations

import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latcli import __version__
from latcli.config import files_in_use
from latcli.errors import ExitCode, LatcliError, StoreError
from latcli.options import DoctorOptions
from latcli.session import Session

#: A run on a folder of large photos leaves about this much.
_ROOM = 1 << 30

#: MNIST's files as torchvision keeps them below the data folder, each plain or compressed.
_MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Check:
    """One thing looked at: it is fine, not here but not needed, or broken so that latcli cannot work."""

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    hint: str | None = None


@dataclass(frozen=True)
class DoctorResult:
    """Everything looked at, in the order it is shown."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Failure where something is broken; what is only missing is no failure."""
        return ExitCode.FAILURE if any(check.state == "broken" for check in self.checks) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """`{"ok": bool, "checks": [{name, state, detail, hint}]}`."""
        return {"ok": self.exit_code == ExitCode.OK, "checks": [asdict(check) for check in self.checks]}


def run(options: DoctorOptions, session: Session) -> DoctorResult:
    """Look at what latcli needs, without the network. Raises UsageError for a device that this machine lacks."""
    checks = [Check("latcli", "ok", f"{__version__} on Python {platform.python_version()}, {platform.system()}")]
    try:
        import torch
    except (ImportError, OSError) as error:
        checks.append(Check("torch", "broken", f"cannot be imported: {error}", "install latcli again"))
    else:
        checks.append(Check("torch", "ok", torch.__version__))
        checks += [*_hardware(session.device), *_vision()]
    checks += [_mnist(session.data), _disk(session.store), _database(session.store), _configuration(session.config)]
    return DoctorResult(tuple(checks))


def _hardware(name: str) -> Iterator[Check]:
    import torch

    from latcli.engine.devices import open_device

    device = open_device(name)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield Check("device", "ok", f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        units = ["CUDA"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    else:
        yield Check("device", "ok", f"{device}, {torch.get_num_threads()} threads on {os.cpu_count()} cores")
        found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        units = [unit for unit, there in found.items() if "bf16" in unit and there is True]
    if units:
        yield Check("bf16 units", "ok", ", ".join(units))
    else:
        yield Check("bf16 units", "missing", f"none known on {device.type}", "--precision fp32 is the faster one here")


def _vision() -> Iterator[Check]:
    """Torchvision's operators, and what needs them to be found: detectors and classifiers."""
    from latcli.engine.vision import operators

    try:
        kind = operators()
    except (LatcliError, ImportError, OSError, RuntimeError) as error:
        yield Check("torchvision", "broken", f"cannot be imported: {error}", "install latcli again")
        return
    detail = {"native": "its own operators", "stand-in": "operators in plain PyTorch: its own are for another torch"}
    yield Check("torchvision", "ok", detail[kind])
    yield from _detectors()
    yield from _classifiers()


def _detectors() -> Iterator[Check]:
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    from latcli.engine.detectors.yolo import DEFAULT_WEIGHTS, weights_at_hand
    from latcli.engine.downloads import kept_at

    yolo = weights_at_hand()
    yield _weights("detector yolo", yolo or Path(DEFAULT_WEIGHTS), "--detector-weights FILE")
    url = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url
    yield _weights("detector mobilenet", kept_at(url), "--detector-weights FILE")
    yield Check("detector cam", "ok", "needs no weights besides the classifier's")


def _classifiers() -> Iterator[Check]:
    from torchvision.models import Inception_V3_Weights

    from latcli.engine import registry
    from latcli.engine.downloads import kept_at
    from latcli.engine.models.source import ClassifierSource
    from latcli.engine.registry import DEFAULT_CLASSIFIER

    name = f"classifier {DEFAULT_CLASSIFIER}"
    try:
        registry.load("classifier", DEFAULT_CLASSIFIER)(ClassifierSource(offline=True))
    except LatcliError as error:
        yield Check(name, "broken", error.message, error.hint)
    except ImportError as error:
        yield Check(name, "broken", f"cannot be imported: {error}", "install latcli again")
    else:
        yield Check(name, "ok", "its weights come with a package")
    yield _weights("classifier inception_v3", kept_at(Inception_V3_Weights.DEFAULT.url), "--classifier-weights FILE")


def _weights(name: str, path: Path, option: str) -> Check:
    if path.is_file():
        return Check(name, "ok", str(path))
    return Check(name, "missing", f"no {path.name}", f"downloaded when first used, or given with {option}")


def _mnist(data: Path) -> Check:
    folder = data / "MNIST" / "raw"
    absent = [name for name in _MNIST if not (folder / name).is_file() and not (folder / f"{name}.gz").is_file()]
    if not absent:
        return Check("data set MNIST", "ok", str(folder))
    return Check(
        "data set MNIST", "missing", f"no {folder / absent[0]}", "put its four files there, or name --data DIR"
    )


def _disk(store: Path) -> Check:
    """Whether there is room where runs are kept, or would be once their folder is made."""
    folder = store.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Check(
            "disk", "broken", f"{folder} is no folder that may be written", "name another folder with --store DIR"
        )
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", "broken", f"{folder}: {error.strerror}", "name another folder with --store DIR")
    detail = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < _ROOM:
        return Check("disk", "missing", detail, "a folder of large photos may need more")
    return Check("disk", "ok", detail)


def _database(store: Path) -> Check:
    from latcli.store.store import DATABASE, Store
    from latcli.store.verify import database_faults

    path = store / DATABASE
    if not path.exists():
        return Check("database", "missing", f"no {path} yet", "the first run makes it")
    try:
        with Store.open_existing(store) as opened:
            faults = database_faults(opened)
            states = Counter(run.status for run in opened.runs())
    except StoreError as error:
        return Check("database", "broken", error.message, error.hint)
    if faults:
        hint = "move it away to start a new one; each run's folder keeps its run.json"
        return Check("database", "broken", f"{path}: {faults[0]}", hint)
    shown = ", ".join(f"{count} {state}" for state, count in states.items()) or "no runs"
    return Check("database", "ok", f"{path}: {shown}")


def _configuration(named: Path | None) -> Check:
    files = files_in_use(named)
    return Check("configuration", "ok", ", ".join(str(file) for file in reversed(files)) or "defaults only")
