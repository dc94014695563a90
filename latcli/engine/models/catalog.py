"""From the name a user types to a classifier on a device; the files that training leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from latcli.engine import registry
from latcli.engine.models.classifier import Classifier, ClassifierSource, GreyInput
from latcli.engine.models.custom import named_by_user, named_classifier, refuse_description
from latcli.engine.models.finetuning import fine_tuned_without_weights, is_classifier_name
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.weights import load_into, pack, read_safetensors, state_dict_sha256, unpack
from latcli.errors import WeightsError, first_line
from latcli.results import DocumentError, read, to_json

_KIND = "classifier"
_OTHER_CHECKPOINT = "give a checkpoint that latcli wrote"


def open_classifier(name: str, source: ClassifierSource, device: torch.device) -> Classifier:
    """A registered name, `FAMILY:NAME`, `module:function`, `file.py:function` or a checkpoint, in fp32 on `device`.

    A checkpoint is the path of a file of `latcli train`; its name ends in .safetensors. One that was trained from the
    user's code is opened by the name of the code, with the checkpoint as its weights.

    Raises UsageError for an unknown name or options that do not fit, WeightsError for weights that cannot be had, read
    or fitted.
    """
    code = registry.names_code(name)
    if code and source.weights is not None and is_of_code(source.weights):
        refuse_description(name, source)
        return open_checkpoint(source.weights, code=name).to(device)
    if name.endswith(".safetensors") and not code:
        refuse_description(name, source)
        return open_checkpoint(Path(name)).to(device)
    return named_classifier(name, source).to(device)


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a checkpoint's network. `image_shape` is (C, H, W); `dataset_fingerprint` a sha256.

    class_ids: the classes' WordNet ids, where it kept the classes of a classifier that has such. preprocessing: of a
    network that was fine-tuned; mean, std: of its normalisation, where the user gave them.
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
    class_ids: tuple[str, ...] = ()


def pack_classifier(state_dict: Mapping[str, torch.Tensor], info: CheckpointInfo) -> bytes:
    """The bytes of a checkpoint that `open_checkpoint` reads."""
    return pack(_KIND, state_dict, to_json(info))


def read_info(path: Path) -> CheckpointInfo:
    """The description of the network in the checkpoint at `path`. Raises WeightsError as `unpack` does."""
    return _read(path)[1]


def is_of_code(path: Path) -> bool:
    """Whether the weights at `path` are a checkpoint whose network the user's code makes.

    Raises WeightsError for a safetensors file that cannot be read.
    """
    document = read_safetensors(path)[1] if path.suffix == ".safetensors" else {}
    return document.get("kind") == _KIND and registry.names_code(str(document.get("architecture")))


def open_checkpoint(path: Path, code: str | None = None) -> Classifier:
    """The classifier of a checkpoint: its network, class names and preprocessing, on the CPU.

    `code` is the user's name of the code that makes its network, which then may run.

    It takes photos of three channels, whatever it was trained on; one that was fine-tuned prepares them as the
    classifier that it came from. Raises WeightsError as `unpack` does, and where the
    weights do not fit the architecture that the file names; UsageError for an unknown architecture.
    """
    state_dict, info = _read(path)
    name, shape = code or info.architecture, info.image_shape
    if code is not None:
        named_by_user.add(code)
    try:
        if is_classifier_name(name):
            source = ClassifierSource(mean=info.mean, std=info.std)
            tuned = fine_tuned_without_weights(name, info.class_names, info.preprocessing, source)
            load_into(tuned, state_dict, what=f"the weights of {path}")
            net, preprocessing = tuned.net, tuned.preprocessing
        else:
            small = registry.load("architecture", name)(shape, len(info.class_names))
            load_into(small, state_dict, what=f"the weights of {path}")
            net, side = GreyInput(small) if shape[0] == 1 else small, min(shape[1:])
            preprocessing = Preprocessing(side, side)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        reason = f"the network that {path} describes cannot be made: {first_line(error)}"
        raise WeightsError(reason, _OTHER_CHECKPOINT) from error
    sha256 = state_dict_sha256(state_dict)
    return Classifier(str(path), net, preprocessing, info.class_names, info.class_ids, sha256)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], CheckpointInfo]:
    state_dict, document = unpack(path, _KIND)
    try:
        info = read(CheckpointInfo, document)
    except DocumentError as error:
        raise WeightsError(f"{path} does not describe its network: {error}", _OTHER_CHECKPOINT) from error
    if min(info.image_shape) < 1 or not info.class_names:
        raise WeightsError(f"{path} describes images without pixels, or no classes", _OTHER_CHECKPOINT)
    return state_dict, info
