"""ImageNet networks without weights, with their classes and how photos are prepared for them; downloads nothing.

Knows what libraries say of their networks; must not know weights, heads of other classes or training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from latcli.engine.models.classifier import Normalize
from latcli.engine.models.preprocessing import Interpolation, Preprocessing
from latcli.engine.registry import unknown_name
from latcli.engine.vision import import_timm, import_torchvision

#: Networks whose published weights expect the input scaling of the original implementation.
_TRANSFORM_INPUT = {"inception_v3", "googlenet"}


@dataclass(frozen=True)
class ImageNetNetwork:
    """A library's network as it is built, before weights are put into it.

    `name` is what users call it; `body` the library's own module, `normalize` what its input goes through first.
    """

    name: str
    body: nn.Module
    normalize: Normalize
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...]

    def module(self) -> nn.Module:
        """The network as latcli uses it: images in [0, 1] to logits."""
        return nn.Sequential(self.normalize, self.body)


def efficientnet_lite0_network() -> ImageNetNetwork:
    """EfficientNet-Lite0, 224 px, as the embedded weights want it."""
    timm = import_timm()
    return ImageNetNetwork(
        "efficientnet_lite0",
        timm.create_model("tf_efficientnet_lite0", pretrained=False),
        Normalize((127 / 255,) * 3, (128 / 255,) * 3),
        Preprocessing(256, 224, "bicubic"),
        tuple(imagenet_names()),
        tuple(imagenet_ids()),
    )


def torchvision_network(name: str) -> ImageNetNetwork:
    """Any ImageNet classifier of torchvision, prepared for its default weights. Raises UsageError for another name."""
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    weights = models.get_model_weights(name).DEFAULT
    extra: dict[str, Any] = {"init_weights": False, "transform_input": True} if name in _TRANSFORM_INPUT else {}
    transform = weights.transforms()
    return ImageNetNetwork(
        name if name == "inception_v3" else f"torchvision:{name}",
        models.get_model_builder(name)(weights=None, num_classes=len(weights.meta["categories"]), **extra),
        Normalize(transform.mean, transform.std),
        Preprocessing(
            transform.resize_size[0], transform.crop_size[0], interpolation_called(transform.interpolation.value)
        ),
        tuple(imagenet_names()),
        tuple(imagenet_ids()),
    )


def timm_network(name: str) -> ImageNetNetwork:
    """Any classifier of timm. Raises UsageError for a name that timm does not know."""
    timm = import_timm()
    known = timm.list_models(pretrained=True)
    if name not in known and name not in timm.list_models():
        raise unknown_name("timm classifier", name, known)
    return timm_described(name, timm.create_model(name, pretrained=False))


def timm_described(name: str, body: nn.Module) -> ImageNetNetwork:
    """A network that timm built, with what timm says of its input and its classes."""
    timm = import_timm()
    data = timm.data.resolve_model_data_config(body)
    crop = data["input_size"][-1]
    # Rounded down, as timm's own transform does.
    preprocessing = Preprocessing(int(crop / data["crop_pct"]), crop, interpolation_called(data["interpolation"]))
    names, ids = _timm_classes(body)
    return ImageNetNetwork(
        f"timm:{name}", body, Normalize(data["mean"], data["std"]), preprocessing, tuple(names), tuple(ids)
    )


#: Built-in names of classifiers that are no `torchvision:NAME` or `timm:NAME`.
BUILT_IN: dict[str, Callable[[], ImageNetNetwork]] = {
    "efficientnet_lite0": efficientnet_lite0_network,
    "inception_v3": lambda: torchvision_network("inception_v3"),
}


def interpolation_called(name: str) -> Interpolation:
    """The filter that a library names."""
    return "bilinear" if name == "bilinear" else "bicubic"


def imagenet_names() -> list[str]:
    """The 1,000 class names, as torchvision spells them."""
    names: list[str] = import_torchvision().models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return names


def imagenet_ids() -> list[str]:
    """The 1,000 WordNet ids, in the order of the class indices."""
    ids: list[str] = import_timm().data.ImageNetInfo().label_names()
    return ids


def _timm_classes(net: nn.Module) -> tuple[list[str], list[str]]:
    timm = import_timm()
    count = int(cast("int", net.num_classes))
    if count == 1000:
        return imagenet_names(), imagenet_ids()
    subset = timm.data.infer_imagenet_subset(net)
    if subset is None:
        return [f"class {index}" for index in range(count)], []
    info = timm.data.ImageNetInfo(subset)
    return info.label_descriptions(), info.label_names()
