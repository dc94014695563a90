"""From the name a user types to a classifier on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from latcli.engine import registry
from latcli.engine.models.checkpoint import is_of_code, open_checkpoint
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.custom import named_classifier, refuse_description
from latcli.engine.models.source import ClassifierSource


def open_classifier(name: str, source: ClassifierSource, device: torch.device) -> Classifier:
    """A registered name, `FAMILY:NAME`, `module:function`, `file.py:function` or a checkpoint, in fp32 on `device`.

    A checkpoint is the path of a file of `latcli train`; its name ends in .safetensors. One that was trained from the
    user's code is opened by the name of the code, with the checkpoint as its weights.

    Raises UsageError for an unknown name or options that do not fit, WeightsError for weights that cannot be had, read
    or fitted.
    """
    if name.endswith(".safetensors") and not registry.names_code(name):
        refuse_description(name, source)
        return open_checkpoint(Path(name)).to(device)
    if source.weights is not None and registry.names_code(name) and is_of_code(source.weights):
        refuse_description(name, source)
        return open_checkpoint(source.weights, code=name).to(device)
    return named_classifier(name, source).to(device)
