"""Image classifiers of Hugging Face's transformers by name, `hf:NAME`, where that package is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from latcli.engine.downloads import require_reachable
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.preprocessing import OTHER_CLASSIFIER, Preprocessing, interpolation_called
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.weights import load_file, names_in
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError, UsageError, WeightsError, first_line

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
        hint = "check the connection, or choose a model that is on this machine"
        require_reachable(constants.ENDPOINT, what=f"the files of hf:{name}", hint=hint, offline=False)
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local)
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=local, use_fast=False).to_dict()
        if source.weights is None:
            net: nn.Module = AutoModelForImageClassification.from_pretrained(name, local_files_only=local)
        else:

            def build(classes: int) -> nn.Module:
                if classes != config.num_labels:
                    config.num_labels = classes
                built: nn.Module = AutoModelForImageClassification.from_config(config)
                return built

            net, _, _ = load_file(source.weights, build, config.num_labels, source.note)
    except WeightsError:
        raise
    except Exception as error:  # the package raises what its many parts raise
        reason = f"hf:{name} cannot be loaded: {first_line(error)}"
        raise WeightsError(reason, "give a name on the hub, or a folder") from error
    names = names_in(dict(net.config.id2label))  # type: ignore[union-attr,arg-type]
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
    interpolation = interpolation_called(_RESAMPLE.get(int(processor.get("resample", 2)), "unknown"), where)
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
