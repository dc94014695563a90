"""From `--device` to a torch device of this machine."""

from __future__ import annotations

import torch

from latcli.errors import UsageError


def open_device(name: str) -> torch.device:
    """`auto` (CUDA, then MPS, then CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises UsageError for a name that is none of these, or a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"there is no device called '{name}'", "known: auto, cpu, cuda, cuda:N, mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device '{name}' on this machine: CUDA devices found: {torch.cuda.device_count()}",
            "try --device auto",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("there is no device 'mps' on this machine", "try --device auto")
    return device
