"""Where and with what a run was made: code version, packages, devices, host; must not import torch to find out."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import latcli
from latcli.store.values import canonical_json

_GIT_SECONDS = 5


@dataclass(frozen=True)
class Environment:
    """One row of `environments`. `torch` is None where it is not installed; the JSON columns are canonical."""

    id: str
    name: str
    git_sha: str | None
    git_dirty: bool | None
    latcli: str
    python: str
    torch: str | None
    platform: str
    devices_json: str
    packages_json: str

    def to_row(self) -> dict[str, object]:
        """The row as the database takes it."""
        return asdict(self)


def environment() -> Environment:
    """The environment of this process. Equal environments have equal ids, so that runs share a row."""
    sha, dirty = checkout(Path(latcli.__file__).parent)
    found = packages()
    facts: dict[str, object] = {
        "git_sha": sha,
        "git_dirty": dirty,
        "latcli": latcli.__version__,
        "python": platform.python_version(),
        "torch": found.get("torch"),
        "platform": platform.platform(),
        "devices_json": canonical_json(devices()),
        "packages_json": canonical_json(found),
    }
    code = f"{latcli.__version__}+{sha[:7]}{'*' if dirty else ''}" if sha else latcli.__version__
    name = f"latcli {code}, Python {facts['python']}, torch {facts['torch']}, {platform.system()}"
    return Environment(id=fingerprint(facts)[:16], name=name, **facts)  # type: ignore[arg-type]


def fingerprint(config: object) -> str:
    """Hex sha256 of the canonical JSON of a configuration: equal settings, equal hash, whatever their order."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def host() -> str:
    """This machine's name, by which a run's process is looked for again."""
    return socket.gethostname()


def checkout(package: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the git checkout that the package folder is the source of; (None, None) without one.

    A package that merely lies in someone's repository, say in its virtual environment, is not that repository's code.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or package.resolve().parent != Path(top).resolve():
        return None, None
    sha = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return sha, None if changes is None else bool(changes)


def packages() -> dict[str, str]:
    """Installed versions of latcli's own requirements, by name, without importing them."""
    try:
        wanted = metadata.requires("latcli") or []
    except metadata.PackageNotFoundError:  # run from a folder that was never installed
        wanted = ["torch", "torchvision", "ultralytics", "timm", "numpy", "pillow", "sqlite-utils"]
    versions: dict[str, str] = {}
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def devices() -> list[str]:
    """Names of the processor and of the accelerators that this process already uses.

    Torch is asked only where it is loaded, and CUDA only where it is in use: asking starts it, which costs seconds.
    """
    names = [_processor()]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        names += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch is not None and torch.backends.mps.is_available():
        names.append("Apple MPS")
    return names


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        if named:
            return named[1].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    # a git hook sets GIT_DIR and its like, which would outrank the folder asked for
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            check=True,
            env=variables | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one that does not answer
        return None
    return done.stdout.strip()
