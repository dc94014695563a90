"""Image classifiers of Hugging Face's transformers by name, `hf:NAME`, where that package is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from latcli.engine.downloads import require_reachable
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import Preprocessing, interpolation_called
from latcli.engine.models.source import ClassifierSource, names_in
from latcli.engine.models.weights import classes_in, load_into, read_weights, without_prefix
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError, UsageError, WeightsError

#: PIL's filters by the numbers that processors write.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def huggingface_classifier(name: str, source: ClassifierSource) -> Classifier:
    """An `AutoModelForImageClassification`: a name on the hub, or a folder that `save_pretrained` wrote.

    No code of the repository runs. Raises UsageError for a preprocessing that cannot be had as matrices, WeightsError
    for what cannot be had or read.
    """
    if find_spec("transformers") is None:
        raise LatcliError("hf:NAME needs the package transformers", "pip install transformers")
    import_torchvision()
    from huggingface_hub import constants
    from transformers import (  # type: ignore[import-not-found, unused-ignore]
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
    )

    local = source.offline or Path(name).is_dir()
    if not local:
        require_reachable(constants.ENDPOINT, what=f"the files of hf:{name}", offline=False)
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local)
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=local, use_fast=False).to_dict()
        if source.weights is None:
            net: nn.Module = AutoModelForImageClassification.from_pretrained(name, local_files_only=local)
        else:
            net = _from_file(AutoModelForImageClassification.from_config, config, source)
    except WeightsError:
        raise
    except Exception as error:  # the package raises what its many parts raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(f"hf:{name} cannot be loaded: {reason}", "give a name on the hub, or a folder") from error
    own = names_in(dict(net.config.id2label))  # type: ignore[union-attr,arg-type]
    mean, std = (processor[key] if processor.get("do_normalize") else [value] for key, value in _NORMALISED.items())
    body = nn.Sequential(source.normalize(mean, std), net)
    preprocessing = source.preprocessing(processor_preprocessing(processor, f"hf:{name}"))
    return Classifier(f"hf:{name}", body, preprocessing, source.names_of(len(own), own, f"hf:{name}"))


_NORMALISED = {"image_mean": 0.0, "image_std": 1.0}


def _from_file(build: Any, config: Any, source: ClassifierSource) -> nn.Module:
    assert source.weights is not None
    weights = read_weights(source.weights)
    net: nn.Module = build(config)
    state_dict = without_prefix(net, weights, source.note)
    count = classes_in(net, state_dict, config.num_labels)
    if count != config.num_labels:
        config.num_labels = count
        net = build(config)
    load_into(net, state_dict, what=f"the weights in {source.weights}")
    return net


def processor_preprocessing(processor: Mapping[str, Any], where: str) -> Preprocessing:
    """What an image processor of transformers does, from its JSON. Raises UsageError where matrices cannot."""
    hint = "choose another classifier, or say how photos are prepared: --input-size, --resize"
    if processor.get("do_rescale", True) and abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise UsageError(f"{where} scales levels by {processor['rescale_factor']:g}, not by 1/255", hint)
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    if isinstance(size, int):
        size = {"shortest_edge": size} if processor.get("do_center_crop") else {"height": size, "width": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if not processor.get("do_resize", True):
        raise UsageError(f"{where} does not resize photos, so the size of its input is unknown", hint)
    filter_name = _RESAMPLE.get(int(processor.get("resample", 2)), "unknown")
    interpolation = interpolation_called(filter_name, where)
    share = processor.get("crop_pct")  # of ConvNeXt's processor
    if share is not None and "shortest_edge" in size:
        side = int(size["shortest_edge"])
        if side >= 384:
            return Preprocessing((side, side), side, interpolation, "squash")
        return Preprocessing(int(side / share), side, interpolation)
    cropped = bool(processor.get("do_center_crop")) and bool(crop)
    if "shortest_edge" in size and set(size) == {"shortest_edge"} and cropped:
        return Preprocessing(int(size["shortest_edge"]), (crop["height"], crop["width"]), interpolation)
    if {"height", "width"} <= set(size):
        whole = (int(size["height"]), int(size["width"]))
        return Preprocessing(whole, (crop["height"], crop["width"]) if cropped else whole, interpolation, "squash")
    raise UsageError(f"{where} resizes photos to {dict(size)}, which latcli does not support", hint)
