"""From the name a user types to a classifier on a device; knows every kind of name, no network."""

from __future__ import annotations

from pathlib import Path

import torch

from latcli.engine import registry
from latcli.engine.models.checkpoint import open_checkpoint
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.custom import custom_classifier
from latcli.engine.models.imagenet import ClassifierSource, timm_classifier, torchvision_classifier


def open_classifier(name: str, source: ClassifierSource, device: torch.device) -> Classifier:
    """A registered name, `torchvision:NAME`, `timm:NAME`, `module:function` or a checkpoint, in fp32 on `device`.

    A checkpoint is the path of a file of `latcli train`; its name ends in .safetensors.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had, read or fitted.
    """
    if name.endswith(".safetensors"):
        return open_checkpoint(Path(name)).to(device)
    family, colon, rest = name.partition(":")
    if not colon:
        classifier: Classifier = registry.load("classifier", name)(source)
    elif family == "torchvision":
        classifier = torchvision_classifier(rest, source)
    elif family == "timm":
        classifier = timm_classifier(rest, source)
    else:
        classifier = custom_classifier(name, source)
    return classifier.to(device)
