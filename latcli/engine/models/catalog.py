"""From the name a user types to a classifier on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from latcli.engine import registry
from latcli.engine.models.checkpoint import open_checkpoint
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.custom import custom_classifier
from latcli.engine.models.source import ClassifierSource
from latcli.errors import UsageError


def open_classifier(name: str, source: ClassifierSource, device: torch.device) -> Classifier:
    """A registered name, `FAMILY:NAME`, `module:function`, `file.py:function` or a checkpoint, in fp32 on `device`.

    A checkpoint is the path of a file of `latcli train`; its name ends in .safetensors.

    Raises UsageError for an unknown name or options that do not fit, WeightsError for weights that cannot be had, read
    or fitted.
    """
    family, colon, rest = name.partition(":")
    if name.endswith(".safetensors") and not registry.names_code(name):
        _refuse_options(name, source)
        classifier = open_checkpoint(Path(name))
    elif not colon and name in registry.BUILT_IN["classifier"]:
        classifier = registry.load("classifier", name)(source)
    elif not colon:
        _refuse_options(name, source)
        classifier = registry.load("classifier", name)(source)
    elif family in registry.CLASSIFIER_FAMILIES:
        classifier = registry.load_family(family)(rest, source)
    else:
        classifier = custom_classifier(name, source)
    return classifier.to(device)


def _refuse_options(name: str, source: ClassifierSource) -> None:
    """A checkpoint and a plug-in's classifier say themselves what their classes and images are."""
    if given := source.described:
        raise UsageError(f"{name} says itself what {given} would", f"leave {given} out")
