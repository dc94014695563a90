"""From the name a user types to a classifier on a device; knows every kind of name, no network."""

from __future__ import annotations

import torch

from latcli.engine import registry
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.custom import custom_classifier
from latcli.engine.models.imagenet import ClassifierSource, timm_classifier, torchvision_classifier

DEFAULT_CLASSIFIER = "efficientnet_lite0"


def open_classifier(name: str, source: ClassifierSource, device: torch.device) -> Classifier:
    """A registered name, `torchvision:NAME`, `timm:NAME` or `module:function`, in fp32 on `device`.

    Raises UsageError for an unknown name, WeightsError for weights that cannot be had, read or fitted.
    """
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
