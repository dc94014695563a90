"""Where and with what a run is made: code version, packages, devices, host; found out without importing torch."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import latcli
from latcli.results import canonical_json


def environment() -> dict[str, Any]:
    """The environment of this process: a row of `environments`. Equal ones have equal ids, so that runs share a row."""
    sha, is_dirty = _checkout(Path(latcli.__file__).parent)
    versions = packages()
    facts = {
        "git_sha": sha,
        "git_dirty": is_dirty,
        "latcli": latcli.__version__,
        "python": platform.python_version(),
        "torch": versions.get("torch"),
        "platform": platform.platform(),
        "devices": devices(),
        "packages": versions,
    }
    code = f"{latcli.__version__}+{sha[:7]}{'*' if is_dirty else ''}" if sha else latcli.__version__
    name = f"latcli {code}, Python {facts['python']}, torch {facts['torch']}, {platform.system()}"
    return {"id": fingerprint(facts)[:16], "name": name, **facts}


def fingerprint(config: object) -> str:
    """Hex sha256 of the canonical JSON of a configuration: equal settings, equal hash, whatever their order."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def checkout(package: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the git checkout that the package folder is the source of; (None, None) without one.

    A package that merely lies in someone's repository, say in its virtual environment, is not that repository's code.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or package.resolve().parent != Path(top).resolve():
        return None, None
    return _git(package, "rev-parse", "HEAD"), bool(_git(package, "status", "--porcelain", "--untracked-files=no"))


_checkout = functools.cache(checkout)  # what runs is what was there when the process began


def packages() -> dict[str, str]:
    """Installed versions of latcli's own requirements, by name, without importing them."""
    versions: dict[str, str] = {}
    try:
        requirements = metadata.requires("latcli") or []
    except metadata.PackageNotFoundError:  # a checkout that runs without being installed
        return {}
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        with suppress(metadata.PackageNotFoundError):
            if "extra ==" not in requirement:
                versions[name] = metadata.version(name)
    return versions


def devices() -> list[str]:
    """Names of the processor and of the accelerators that this process already uses.

    Torch is asked only where it is loaded, and CUDA only where it is in use: asking starts it, which costs seconds.
    """
    cpuinfo, torch = Path("/proc/cpuinfo"), sys.modules.get("torch")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    names = [model[1].strip() if model else platform.processor() or platform.machine()]
    if torch is not None and torch.cuda.is_initialized():
        names += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch is not None and torch.backends.mps.is_available():
        names.append("Apple MPS")
    return names


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    # a git hook sets GIT_DIR and its like, which would outrank the folder asked for
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, timeout=5, check=True, env=plain)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one that does not answer
        return None
    return os.fsdecode(done.stdout).strip()
