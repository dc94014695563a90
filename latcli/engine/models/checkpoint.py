"""Trained networks as one safetensors file each, whose header describes the network in JSON.

The header's entry `latcli` holds the JSON document, with `kind`, `format` and `digest` (a sha256 of the tensors) beside
what the writer gives, so that tensors and description cannot be parted, and damage is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from latcli.engine import registry
from latcli.engine.models.classifier import Classifier, GreyInput
from latcli.engine.models.finetuning import fine_tuned_without_weights, is_classifier_name, is_library_name
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.small import Architecture
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.weights import check_readable, load_into, require_fit, state_dict_sha256
from latcli.errors import WeightsError
from latcli.results import DocumentError, read, to_json

_HEADER = "latcli"
_FORMAT = 1
_KIND = "classifier"
_OTHER_CHECKPOINT = "give a checkpoint that latcli wrote"

_Net = TypeVar("_Net", bound=nn.Module)


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a checkpoint's network. `image_shape` is (C, H, W); `dataset_fingerprint` a sha256.

    preprocessing: of a network that was fine-tuned; mean, std: of its normalisation, where the user gave them.
    """

    architecture: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dataset: str
    dataset_fingerprint: str
    regime: str
    epsilon: float
    steps: int
    preprocessing: Preprocessing | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def pack(kind: str, tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> bytes:
    """The bytes of a file with these tensors and this JSON document."""
    from safetensors.torch import save

    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    document = {"kind": kind, "format": _FORMAT, "digest": state_dict_sha256(on_cpu), **description}
    return save(on_cpu, metadata={_HEADER: json.dumps(document)})


def unpack(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and document of a file that `pack` made.

    Raises WeightsError for one that is missing, truncated, altered, of another kind or of a newer latcli.
    """
    from safetensors import SafetensorError, safe_open

    check_readable(path)
    hint = f"give a {kind} file that latcli wrote"
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        document = read(dict[str, Any], header or "{}")
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is truncated or damaged: {reason}", "copy it again") from error
    if document.get("kind") != kind:
        raise WeightsError(f"{path} is no {kind} but {document.get('kind', 'no file of latcli')}", hint)
    if document.get("format") != _FORMAT:
        raise WeightsError(
            f"{path} has the format {document.get('format')}, not {_FORMAT}", "use the latcli that wrote it"
        )
    if document.get("digest") != state_dict_sha256(tensors):
        raise WeightsError(f"{path} is damaged: its tensors are not those that were written", "copy it again")
    return tensors, document


def pack_classifier(state_dict: Mapping[str, torch.Tensor], info: CheckpointInfo) -> bytes:
    """The bytes of a checkpoint that `open_checkpoint` reads."""
    return pack(_KIND, state_dict, to_json(info))


def read_info(path: Path) -> CheckpointInfo:
    """The description of the network in the checkpoint at `path`. Raises WeightsError as `unpack` does."""
    return _info(unpack(path, _KIND)[1], path)


def open_checkpoint(path: Path) -> Classifier:
    """The classifier of a checkpoint: its network, class names and preprocessing, on the CPU.

    It takes photos of three channels, whatever it was trained on; one that was fine-tuned prepares them as the
    classifier that it came from. Raises WeightsError as `unpack` does, and where the
    weights do not fit the architecture that the file names; UsageError for an unknown architecture.
    """
    state_dict, document = unpack(path, _KIND)
    info = _info(document, path)
    classes = len(info.class_names)
    if is_classifier_name(info.architecture):
        described = (info.preprocessing, ClassifierSource(mean=info.mean, std=info.std))
        make = partial(fine_tuned_without_weights, info.architecture, classes, *described)
        tuned = _fitted(make, state_dict, path, by_library=is_library_name(info.architecture))
        return Classifier(
            str(path), tuned, tuned.preprocessing, info.class_names, weights_sha256=state_dict_sha256(state_dict)
        )
    architecture: Architecture = registry.load("architecture", info.architecture)
    net: nn.Module = _fitted(partial(architecture, info.image_shape, classes), state_dict, path)
    C, H, W = info.image_shape
    side = min(H, W)
    net = GreyInput(net) if C == 1 else net
    sha256 = state_dict_sha256(state_dict)
    return Classifier(str(path), net, Preprocessing(side, side), info.class_names, weights_sha256=sha256)


def _fitted(
    make: Callable[[], _Net], state_dict: Mapping[str, torch.Tensor], path: Path, *, by_library: bool = True
) -> _Net:
    """The network with the weights.

    One that a library builds is made without memory first: what a header names may be of any size.
    """
    what = f"the weights of {path}"
    try:
        if by_library:
            with torch.device("meta"):
                require_fit(make(), state_dict, what=what)
        net = make()
    except (RuntimeError, ValueError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(f"the network that {path} describes cannot be made: {reason}", _OTHER_CHECKPOINT) from error
    load_into(net, state_dict, what=what)
    return net


def _info(document: Mapping[str, Any], path: Path) -> CheckpointInfo:
    try:
        info = read(CheckpointInfo, dict(document))
    except DocumentError as error:
        raise WeightsError(f"{path} does not describe its network: {error}", _OTHER_CHECKPOINT) from error
    if min(info.image_shape) < 1 or not info.class_names:
        raise WeightsError(f"{path} describes images without pixels, or no classes", _OTHER_CHECKPOINT)
    return info
