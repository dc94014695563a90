"""Weights: read without running any code in them, fitted to a network, written, and downloaded where they are missing.

A state dict here is a plain dict from parameter name to tensor, on the CPU.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from latcli.errors import WeightsError

#: Keys under which training scripts keep the state dict in a larger checkpoint, and class names beside it.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "model_state")
_NAMES = ("class_names", "classes", "idx_to_class", "class_to_idx", "id2label")

#: Batch norm counts its batches only since torch 0.4.1; older files lack the counters, which inference never uses.
_COUNTER = ".num_batches_tracked"

_TRUSTED_HINT = "ask for the weights as safetensors, or save the bare state dict: torch.save(model.state_dict(), FILE)"
_DAMAGED_HINT = "copy or download the file again"

#: The format of files that latcli writes: safetensors, with a JSON document in the header's entry `latcli`.
_FORMAT = 1

#: How long a server may take to answer before weights count as out of reach, and how long a transfer may stall.
_ANSWER_SECONDS, _STALL_SECONDS = 4.0, 20.0


# reading


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
        content, header = read_safetensors(path)
        names = _names_beside(header)
    else:
        names, scripted = (), False
        with reading(path):
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
            if scripted:  # its code is for torch's own interpreter alone
                content = dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
    for _ in range(2):  # a state dict in a state dict, as `{"model": {"state_dict": ...}}`
        for key in _WRAPPERS:
            inner = content.get(key) if isinstance(content, Mapping) else None
            if isinstance(inner, Mapping) and any(isinstance(value, Tensor | Mapping) for value in inner.values()):
                content, names = inner, names or _names_beside(content)
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} contains no state dict but an object of type {_kind(content)}", _TRUSTED_HINT)
    for name, value in content.items():
        if not isinstance(name, str) or not _is_plain(value):
            reason = f"'{name}' is of type {_kind(value)}, not a tensor of plain numbers"
            raise WeightsError(f"{path} contains no state dict: {reason}", _TRUSTED_HINT)
    return Weights(path, dict(content), names)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and the document in the header of a file that latcli wrote, else {}. Raises WeightsError."""
    from safetensors import safe_open

    with reading(path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        header = json.loads((file.metadata() or {}).get("latcli", "{}"))
    return tensors, header if isinstance(header, dict) else {}


class UnsafeWeightsError(WeightsError):
    """A pickle that was not read, because code in it would have had to be run."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads the file into a WeightsError: missing, damaged, or with code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses at what a damaged file may be
            yield
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"no such weights file: {path}", "check the path") from None
    except Exception as error:  # it differs with the place where the file is broken
        reason = str(error.__cause__ or error)  # ultralytics' own words are many lines, torch's are the cause
        # torch keeps the name that its restricted unpickler refused nowhere but in the message.
        if code := re.search(r"GLOBAL (\S{1,120})", reason):
            raise UnsafeWeightsError(f"{path} contains code ({code[1]}), which was not run", _TRUSTED_HINT) from error
        # torch puts advice in front of the reason when its restricted unpickler fails.
        lines = reason.rpartition("WeightsUnpickler error:")[2].strip().splitlines() or [type(error).__name__]
        raise WeightsError(f"{path} is damaged, or not a weights file: {lines[0][:160]}", _DAMAGED_HINT) from error


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not (value.is_meta or value.is_quantized)


def _kind(value: object) -> str:
    return type(value).__name__


def _names_beside(content: Mapping[Any, Any]) -> tuple[str, ...]:
    more = content.get("hyper_parameters")  # Lightning's
    places = [content, more] if isinstance(more, Mapping) else [content]
    return next((names for place in places for key in _NAMES if (names := names_in(place.get(key)))), ())


def names_in(found: object) -> tuple[str, ...]:
    """Class names in plain values: a list, index to name (also Hugging Face's), or name to index; empty without any."""
    if isinstance(found, Mapping):
        try:
            if all(isinstance(value, int) for value in found.values()):
                found = {index: name for name, index in found.items()}
            by_index = {int(index): name for index, name in found.items()}
            found = [by_index[index] for index in range(len(by_index))]
        except (ValueError, TypeError, KeyError):
            return ()
    if not isinstance(found, list | tuple):
        return ()
    names = [" ".join(name.split()) if isinstance(name, str) else "" for name in found]
    while names and not names[-1]:  # empty lines at the end
        names.pop()
    return tuple(names) if all(names) else ()


# fitting


def load_file(
    path: Path, build: Callable[[int], nn.Module], classes: int, note: Callable[[str], None]
) -> tuple[nn.Module, int, tuple[str, ...]]:
    """The network with the weights of a file, its number of classes, and their names where the file has them.

    `build(K)` makes it for K classes; `classes` is how many it usually has, 0 where nobody knows. A file whose head has
    another number of rows gets a network of that many. Raises WeightsError where the file cannot be read or fitted.
    """
    weights = read_weights(path)
    net = build(classes)
    state_dict = without_prefix(net, weights, note)
    count = _classes_in(net, state_dict, classes)
    if count != classes:
        net = build(count)
    load_into(net, state_dict, what=f"the weights in {path}")
    return net, count, weights.class_names if len(weights.class_names) == count or not classes else ()


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], *, what: str) -> None:
    """Copy a state dict into a module; every entry must be there and fit, or the module is left as it was.

    `what` names the weights in the error. Raises WeightsError with the first entries that are missing, left over or of
    another shape.
    """
    expected = module.state_dict()
    found = {
        "missing": [name for name in expected if name not in state_dict and not name.endswith(_COUNTER)],
        "left over": [name for name in state_dict if name not in expected],
        "of another shape": [
            f"{name} {tuple(state_dict[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state_dict and state_dict[name].shape != value.shape
        ],
    }
    faults = "; ".join(f"{fault}: {_shortened(entries)}" for fault, entries in found.items() if entries)
    if faults:
        raise WeightsError(
            f"{what} do not fit {_kind(module)}: {faults}",
            "give weights of this architecture; safetensors or torch.load shows what the file contains",
        )
    # A plain dict carries no version, so that torch adds the counters an old file lacks.
    module.load_state_dict(dict(state_dict))


def without_prefix(module: nn.Module, weights: Weights, note: Callable[[str], None]) -> dict[str, Tensor]:
    """The tensors by the module's own names: a prefix that a wrapper put before all of them is taken off, with a note.

    DataParallel writes `module.`, torch.compile `_orig_mod.`, Lightning the attribute's name, MadryLab `module.model.`
    beside an attacker. What does not begin with it belongs to the wrapper. Raises WeightsError where two
    prefixes fit as well as each other, as of a student and its teacher.
    """
    state_dict = weights.state_dict
    expected = [name for name in module.state_dict() if not name.endswith(_COUNTER)]
    ends = tuple(f".{name}" for name in (expected[:1] + expected[-1:]))
    if any(name in state_dict for name in expected) or not any(name.endswith(ends) for name in state_dict):
        return state_dict
    prefixes = {name.removesuffix(end[1:]) for name in state_dict for end in ends if name.endswith(end)}
    counts = {prefix: sum(prefix + name in state_dict for name in expected) for prefix in sorted(prefixes)}
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) > 1:  # MadryLab's attacker holds the model once more
        best = [prefix for prefix in best if "attacker." not in prefix] or best
    if len(best) > 1:
        raise WeightsError(
            f"{weights.path} holds several networks of this kind: {', '.join(best)}",
            "save one of them alone: torch.save(model.state_dict(), FILE)",
        )
    others = [name for name in state_dict if not name.startswith(best[0])]
    beside = f", and left out {_shortened(others)}" if others else ""
    note(f"note: took the prefix '{best[0]}' off the names in {weights.path.name}{beside}")
    return {name.removeprefix(best[0]): value for name, value in state_dict.items() if name.startswith(best[0])}


def _classes_in(module: nn.Module, state_dict: Mapping[str, Tensor], classes: int) -> int:
    """The number of classes of the weights, where the module was built for `classes`: of its last layers' rows.

    `classes` where nothing, or something else, differs.
    """
    rows = {
        len(found)
        for name, value in module.state_dict().items()
        if (found := state_dict.get(name)) is not None
        and found.ndim == value.ndim > 0
        and found.shape[1:] == value.shape[1:]
        and len(found) != len(value) == classes
    }
    return rows.pop() if len(rows) == 1 else classes


def _shortened(entries: list[str]) -> str:
    return ", ".join(entries[:3]) + (f" and {len(entries) - 3} more" if len(entries) > 3 else "")


def state_dict_sha256(state_dict: Mapping[str, Any]) -> str:
    """The SHA-256 of names, types, shapes and bytes: the same for the same weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        value = state_dict[name]
        if not isinstance(value, Tensor) or value.is_meta:  # packed weights of a quantised layer, or no weights
            digest.update(f"{name} {value!r}\n".encode())
            continue
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# files of latcli's own


def pack(kind: str, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file with this JSON document in its header.

    `kind`, `format` and `digest` (a sha256 of the tensors) are added to the document, so that tensors and description
    cannot be parted, and damage is noticed.
    """
    from safetensors.torch import save

    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    document = {"kind": kind, "format": _FORMAT, "digest": state_dict_sha256(on_cpu), **description}
    return save(on_cpu, metadata={"latcli": json.dumps(document)})


def unpack(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and document of a file that `pack` made.

    Raises WeightsError for one that is missing, truncated, altered, of another kind or of a newer latcli.
    """
    tensors, document = read_safetensors(path)
    if (found := document.get("kind", "no file of latcli")) != kind:
        raise WeightsError(f"{path} is no {kind} but {found}", f"give a {kind} file that latcli wrote")
    if (found := document.get("format")) != _FORMAT:
        raise WeightsError(f"{path} has the format {found}, not {_FORMAT}", "use the latcli that wrote it")
    if document.get("digest") != state_dict_sha256(tensors):
        raise WeightsError(f"{path} is damaged: its tensors are not those that were written", _DAMAGED_HINT)
    return tensors, document


# downloads


def downloads_folder() -> Path | None:
    """Where downloads are kept: torch's own cache; None for a user without a home folder, for whom it names none."""
    folder = Path(torch.hub.get_dir())
    return None if folder.parts[0] == "~" else folder


def kept_at(url: str) -> Path:
    """Where the file of that URL is kept once it is here: torch's own cache, as torchvision uses it."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


def reachable(url: str, timeout_s: float = _ANSWER_SECONDS) -> bool:
    """Whether the URL answers within the time, name resolution, proxies and redirects included."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(url, method="HEAD"), timeout=timeout_s):
                answers.append(True)
        except HTTPError as error:
            answers.append(error.code in {405, 501})  # a server that has the file but no HEAD
        except (OSError, HTTPException, ValueError):
            answers.append(False)

    # A thread, because resolving a name takes as long as it likes: no timeout applies to it.
    thread = threading.Thread(target=ask, daemon=True, name="latcli-reachable")
    thread.start()
    thread.join(timeout_s)
    return answers == [True]


def require_reachable(url: str, *, what: str, hint: str, offline: bool) -> None:
    """Raise WeightsError where `url` may not (`offline`) or cannot be asked for what `what` names."""
    if offline:
        raise WeightsError(f"{what} are not on this machine, and --offline forbids the download", hint)
    if not reachable(url):
        raise WeightsError(f"{what} are not on this machine, and {urlparse(url).netloc} does not answer", hint)


def fetch(url: str, *, what: str, hint: str, offline: bool, progress: bool = False) -> Path:
    """The file of that URL: from torch's cache, else downloaded into it, as torch does (hash in the file's name).

    `what` names the weights in the error ("the weights of …"), `hint` says how to get them by hand. `progress` shows a
    bar on stderr. Raises WeightsError, within seconds where nothing answers.
    """
    path = kept_at(url)
    if path.is_file():
        return path
    if downloads_folder() is None:
        raise WeightsError(
            f"{what} are not on this machine, and this user has no home folder to keep them in",
            "set HOME, XDG_CACHE_HOME or TORCH_HOME, or choose weights that are on this machine",
        )
    require_reachable(url, what=what, hint=hint, offline=offline)
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    before = socket.getdefaulttimeout()
    # torch opens its connection without a timeout; the default for new sockets is the only way to give it one.
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), named and named.group(1), progress=progress)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the hash differs
        raise WeightsError(f"the download of {what} from {url} failed: {error}", hint) from error
    finally:
        socket.setdefaulttimeout(before)
    return path
