"""What a benchmark ran on and what ran beside it; must not import torch, so that parents of processes stay small."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import latcli
from latcli.store.schema import checkout, devices, utc_now

#: Units that decide what the number formats cost, as Linux calls them.
_UNITS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")

_PACKAGES = ("torch", "torchvision", "torchattacks", "foolbox", "adversarial-robustness-toolbox")

_STAT = Path("/proc/stat")


def machine() -> dict[str, Any]:
    """Processor, cores, units, threads, versions, commit, time and load, as a benchmark's record keeps them.

    Threads are torch's own where the process has it loaded.
    """
    torch = sys.modules.get("torch")
    sha, dirty = checkout(Path(latcli.__file__).parent)
    return {
        "date": utc_now(),
        "git": {"sha": sha, "dirty": dirty},
        "devices": devices(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "units": units(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load": load(),
    }


def in_words(found: Mapping[str, Any]) -> str:
    """A line of `machine`, for a terminal."""
    units = ", ".join(unit for unit in found["units"] if "bf16" in unit) or "no bf16 units"
    return (
        f"{', '.join(found['devices'])}; {found['cores']} cores, {found['threads']} threads, {units}\n"
        f"torch {found['packages'].get('torch')}, commit {(found['git']['sha'] or 'unknown')[:7]}"
        f"{' and changes' if found['git']['dirty'] else ''}, load {found['load']:.2f}"
    )


def units() -> list[str]:
    """Those of the processor's vector and matrix units that matter here; none where /proc/cpuinfo does not tell."""
    file = Path("/proc/cpuinfo")
    told = re.search(r"^flags\s*:(.*)$", file.read_text(errors="replace"), re.MULTILINE) if file.exists() else None
    flags = set(told[1].split()) if told else set()
    return [unit for unit in _UNITS if unit in flags]


def load() -> float:
    """The system's load average of the last minute, this process included; 0 where there is none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


class Neighbours:
    """How many processors others have kept busy since this was made: a load average would count this process, too."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = perf_counter(), _busy(), _own()

    def busy(self) -> float | None:
        """Mean number of processors; None where /proc/stat does not tell. Children count as own once they have ended.

        The host's steal counts as others' work: it disturbs as much.
        """
        if self._busy is None:
            return None
        seconds = max(perf_counter() - self._begun, 1e-3)
        return max(0.0, ((_busy() or 0.0) - self._busy - (_own() - self._own)) / seconds)


def _busy() -> float | None:
    if not _STAT.exists():
        return None
    user, nice, system, _idle, _waiting, irq, soft_irq, steal = map(int, _STAT.read_text().split()[1:9])
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
