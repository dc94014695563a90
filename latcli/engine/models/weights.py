"""Reads weights files without running any code in them.

A state dict here is a plain dict from parameter name to tensor, on the CPU.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latcli.engine.models.source import names_in
from latcli.errors import WeightsError

#: Keys under which training scripts keep the state dict in a larger checkpoint, and class names beside it.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "model_state")
_NAMES = ("class_names", "classes", "idx_to_class", "class_to_idx", "id2label", "hyper_parameters")

#: Batch norm counts its batches only since torch 0.4.1; older files lack the counters, which inference never uses.
_COUNTER = ".num_batches_tracked"

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


@dataclass(frozen=True)
class Weights:
    """What a weights file holds: its tensors by name, and the class names that its maker put beside them, if any."""

    path: Path
    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...] = ()


def read_weights(path: Path) -> Weights:
    """The weights in a file: safetensors (by its ending), a torch file of plain data, or a scripted network.

    A torch file may keep its state dict under one of the usual keys, beside class names. It is read with
    `weights_only`, so that nothing in it runs. Raises WeightsError for a file that is missing, damaged, wants to run
    code or holds no weights.
    """
    content: Any
    if path.suffix == ".safetensors":
        content, names = _read_safetensors(path)
    else:
        content, names = _read_torch_file(path), ()
    for _ in range(2):  # a state dict in a state dict, as `{"model": {"state_dict": ...}}`
        wrapper = next((key for key in _WRAPPERS if isinstance(content, Mapping) and _is_wrapped(content, key)), None)
        if wrapper is None:
            break
        names = names or _names_beside(content)
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} contains no state dict but {_described(content)}", _TRUSTED_HINT)
    strangers = [name for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strangers:
        reason = f"'{strangers[0]}' is {_described(content[strangers[0]])}, not a tensor"
        raise WeightsError(f"{path} contains no state dict: {reason}", _TRUSTED_HINT)
    for name, value in content.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise WeightsError(f"{path} holds no plain numbers: '{name}' is {_kind(value)}", _TRUSTED_HINT)
    return Weights(path, dict(content), names)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; see `read_weights`."""
    return read_weights(path).state_dict


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
    """Raise WeightsError with the first entries that are missing, left over or of another shape; see `load_into`."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in state_dict and not name.endswith(_COUNTER)]
    unexpected = [name for name in state_dict if name not in expected]
    misshapen = [
        f"{name} {tuple(state_dict[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state_dict and state_dict[name].shape != value.shape
    ]
    found = {"missing": missing, "left over": unexpected, "of another shape": misshapen}
    faults = "; ".join(f"{fault}: {_shortened(entries)}" for fault, entries in found.items() if entries)
    if faults:
        raise WeightsError(
            f"{what} do not fit {type(module).__name__}: {faults}",
            "give weights of this architecture; safetensors or torch.load shows what the file contains",
        )


def without_prefix(module: nn.Module, weights: Weights, note: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors by the module's own names: a prefix that a wrapper put before all of them is taken off, with a note.

    DataParallel writes `module.`, torch.compile `_orig_mod.`, Lightning the attribute's name, MadryLab `module.model.`
    beside an attacker. What does not begin with it belongs to the wrapper. Raises WeightsError where two
    prefixes fit as well as each other, as of a student and its teacher.
    """
    expected = [name for name in module.state_dict() if not name.endswith(_COUNTER)]
    state_dict = weights.state_dict
    if not expected or any(name in state_dict for name in expected):
        return state_dict
    prefixes = {
        found[: -len(name)]
        for name in (expected[0], expected[-1])
        for found in state_dict
        if found.endswith(f".{name}")
    }
    counts = {prefix: sum(prefix + name in state_dict for name in expected) for prefix in sorted(prefixes)}
    if not counts:
        return state_dict
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) > 1:  # MadryLab's attacker holds the model once more
        best = [prefix for prefix in best if "attacker." not in prefix] or best
    if len(best) > 1:
        raise WeightsError(
            f"{weights.path} holds several networks of this kind: {', '.join(best)}",
            "save one of them alone: torch.save(model.state_dict(), FILE)",
        )
    inner = {name.removeprefix(best[0]): value for name, value in state_dict.items() if name.startswith(best[0])}
    others = [name for name in state_dict if not name.startswith(best[0])]
    beside = f", and left out {_shortened(others)}" if others else ""
    note(f"note: took the prefix '{best[0]}' off the names in {weights.path.name}{beside}")
    return inner


def classes_in(module: nn.Module, state_dict: Mapping[str, Tensor], classes: int) -> int:
    """The number of classes of the weights, where the module was built for `classes`: of its last layers' rows.

    `classes` where nothing, or something else, differs.
    """
    rows = {
        len(found)
        for name, value in module.state_dict().items()
        if (found := state_dict.get(name)) is not None
        and found.shape != value.shape
        and found.ndim == value.ndim > 0
        and len(value) == classes
        and found.shape[1:] == value.shape[1:]
    }
    return rows.pop() if len(rows) == 1 else classes


def state_dict_sha256(state_dict: Mapping[str, Any]) -> str:
    """The SHA-256 of names, types, shapes and bytes: the same for the same weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        if not isinstance(state_dict[name], Tensor):  # packed weights of a quantised layer
            digest.update(f"{name} {state_dict[name]!r}\n".encode())
            continue
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
    """The error for a pickle that could not be read: it wanted to run code, or it is damaged, or not a weights file."""
    if name := _refused_global(error):
        refused = UnreadableError(f"{path} contains code ({name}), which was not run", _TRUSTED_HINT)
        refused.wants_code = True
        return refused
    return UnreadableError(f"{path} is damaged, or not a weights file: {_first_line(error)}", _DAMAGED_HINT)


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


def _is_wrapped(content: Mapping[Any, Any], key: str) -> bool:
    inner = content.get(key)
    return isinstance(inner, Mapping) and any(isinstance(value, Tensor | Mapping) for value in inner.values())


def _names_beside(content: Mapping[Any, Any]) -> tuple[str, ...]:
    for key in _NAMES:
        value = content.get(key)
        if key == "hyper_parameters":  # Lightning's
            found = _names_beside(value) if isinstance(value, Mapping) else ()
        else:
            found = names_in(value)
        if found:
            return found
    return ()


def _read_torch_file(path: Path) -> Any:
    check_readable(path)
    try:
        if _is_scripted(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
        with warnings.catch_warnings(), short_reasons():
            warnings.simplefilter("ignore")  # torch's guesses at what a damaged file may be
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE_ERRORS as error:
        raise unreadable(path, error) from error


def _is_scripted(path: Path) -> bool:
    """Whether a file is what torch.jit.save writes, which is code for torch's own interpreter alone."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):  # torch.load says what is wrong with it
        return False


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors, and the class names of a checkpoint that latcli wrote."""
    from safetensors import SafetensorError, safe_open

    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            header = json.loads((file.metadata() or {}).get("latcli", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = f"{path} is damaged or no safetensors file: {_first_line(error)}"
        raise WeightsError(reason, _DAMAGED_HINT) from error
    return tensors, _names_beside(header) if isinstance(header, dict) else ()


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
