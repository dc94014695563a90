"""Reads weights files without running anything that stands in them; knows tensors and files, no architecture.

A state dict here is a plain dict from parameter name to tensor, on the CPU.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latcli.errors import WeightsError

#: Keys under which training scripts keep the state dict in a larger checkpoint.
_WRAPPERS = ("state_dict", "model")

#: What torch raises on a damaged or hostile pickle; it differs with the place where the file is broken.
DAMAGE_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    ImportError,
    AssertionError,
    OSError,
)

_LONGEST_REASON, _LONGEST_NAME = 600, 120
#: One at a time: reading puts something of its own into torch.
_unpickling = threading.RLock()

_TRUSTED_HINT = "ask for the weights as safetensors, or save the bare state dict: torch.save(model.state_dict(), FILE)"
_DAMAGED_HINT = "copy or download the file again"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file: safetensors (by its ending), or a torch file that holds nothing but tensors.

    A torch file may wrap its state dict in `{"state_dict": …}` or `{"model": …}`. It is read with `weights_only`, so
    that nothing in it runs. Raises WeightsError for a file that is missing, damaged, wants to run code or holds no
    weights.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {_described(content)}", _TRUSTED_HINT)
    strangers = [name for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strangers:
        reason = f"'{strangers[0]}' is {_described(content[strangers[0]])}, not a tensor"
        raise WeightsError(f"{path} holds no state dict: {reason}", _TRUSTED_HINT)
    for name, value in content.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise WeightsError(f"{path} holds no plain numbers: '{name}' is {_kind(value)}", _TRUSTED_HINT)
    return dict(content)


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], *, what: str) -> None:
    """Copy a state dict into a module; every entry must be there and fit, or the module is left as it was.

    `what` names the weights in the error. Raises WeightsError as `require_fit` does.
    """
    require_fit(module, state_dict, what=what)
    try:
        # A plain dict carries no version, so that torch adds the counters an old file lacks.
        module.load_state_dict(dict(state_dict))
    except DAMAGE_ERRORS as error:  # numbers of a kind that none can be copied from
        raise WeightsError(f"{what} cannot be copied: {_first_line(error)}", _TRUSTED_HINT) from error


def require_fit(module: nn.Module, state_dict: Mapping[str, Tensor], *, what: str) -> None:
    """Raise WeightsError with the first entries that are missing, unexpected or of another shape; see `load_into`."""
    expected = module.state_dict()
    # Batch norm counts its batches only since torch 0.4.1; older files lack the counters, which inference never uses.
    missing = [name for name in expected if name not in state_dict and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in state_dict if name not in expected]
    misshapen = [
        f"{name} {tuple(state_dict[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state_dict and state_dict[name].shape != value.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    faults = "; ".join(f"{_shortened(entries)} {fault}" for fault, entries in found.items() if entries)
    if faults:
        raise WeightsError(
            f"{what} do not fit {type(module).__name__}: {faults}",
            "give weights of this very architecture and number of classes",
        )


def state_dict_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, types, shapes and bytes: the same for the same weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        value = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_readable(path: Path) -> None:
    """Raise WeightsError where there is no file, an empty one, or one that may not be read."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise WeightsError(f"no such weights file: {path}", "check the path") from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}", "give a readable file") from error
    if empty:
        raise WeightsError(f"{path} is empty (0 bytes)", _DAMAGED_HINT)


class UnreadableError(WeightsError):
    """A pickle that was not read; `wants_code` where it would have had to be run."""

    wants_code = False


def unreadable(path: Path, error: BaseException) -> UnreadableError:
    """The error for a pickle that could not be read: it wanted to run code, or it is damaged or no weights file."""
    if name := _refused_global(error):
        refused = UnreadableError(
            f"{path} wants to run code of its own ({name}); refused, nothing of it ran", _TRUSTED_HINT
        )
        refused.wants_code = True
        return refused
    return UnreadableError(f"{path} is damaged or no weights file: {_first_line(error)}", _DAMAGED_HINT)


@contextmanager
def short_reasons() -> Iterator[None]:
    """While pickles are read, cut what the restricted unpickler has against them to what a person reads.

    torch looks through the reason with patterns that take the square of its length, and a name in a file may be long
    enough for hours.
    """
    from torch._weights_only_unpickler import Unpickler

    with _unpickling:
        load = Unpickler.load

        def load_or_say_why(unpickler: Any) -> Any:
            try:
                return load(unpickler)  # type: ignore[no-untyped-call]
            except pickle.UnpicklingError as error:
                raise pickle.UnpicklingError(str(error)[:_LONGEST_REASON]) from None

        Unpickler.load = load_or_say_why  # type: ignore[method-assign]
        try:
            yield
        finally:
            Unpickler.load = load  # type: ignore[method-assign]


def _read_torch_file(path: Path) -> Any:
    check_readable(path)
    try:
        with warnings.catch_warnings(), short_reasons():
            warnings.simplefilter("ignore")  # torch's guesses at what a damaged file may be
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE_ERRORS as error:
        raise unreadable(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_readable(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"{path} is damaged or no safetensors file: {_first_line(error)}"
        raise WeightsError(reason, _DAMAGED_HINT) from error


def _refused_global(error: BaseException) -> str | None:
    """The name that torch's restricted unpickler refused, from its message: torch keeps it nowhere else."""
    known = re.search(r"GLOBAL (\S+)", str(error))
    return known.group(1)[:_LONGEST_NAME] if known and isinstance(error, pickle.UnpicklingError) else None


def _first_line(error: BaseException) -> str:
    # torch puts advice in front of the reason when its restricted unpickler fails.
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _kind(value: Tensor) -> str:
    return "a tensor without data" if value.is_meta else "quantized" if value.is_quantized else f"{value.layout}"


def _described(value: object) -> str:
    if isinstance(value, Mapping):
        return "an empty mapping" if not value else f"a mapping that begins with {next(iter(value))!r}"
    return f"an object of type {type(value).__name__}"


def _shortened(entries: list[str]) -> str:
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return ", ".join(entries[:3]) + more
