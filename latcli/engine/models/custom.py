"""A classifier of the user's own: `module:function`, found from the working directory; knows nothing of attacks."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from latcli.engine.models.classifier import Classifier
from latcli.engine.models.imagenet import ClassifierSource
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.weights import load_into, read_state_dict, state_dict_sha256
from latcli.errors import UsageError

_EXAMPLE = "a function without arguments that returns a torch.nn.Module taking images in [0, 1]"


def custom_classifier(name: str, source: ClassifierSource) -> Classifier:
    """What `module:function` returns: a Classifier, or any module that takes x_BCHW in [0, 1] and returns logits_BK.

    A plain module may carry `class_names` (a sequence) and `preprocessing` (a Preprocessing); otherwise classes are
    called by their numbers and photos are resized to 256 and cropped to 224. `source.weights` are loaded into it.
    Raises UsageError where it is not found, fails, or is no classifier.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"the classifier {name} cannot be imported: {error}", f"{_EXAMPLE} is needed") from error
    net = function()
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} returned a {type(net).__name__}, not a torch.nn.Module", f"{_EXAMPLE} is needed")
    if source.weights is not None:
        load_into(net, read_state_dict(source.weights), what=name)
    if isinstance(net, Classifier):
        return net
    preprocessing = getattr(net, "preprocessing", None) or Preprocessing(256, 224, "bilinear")
    names = getattr(net, "class_names", None) or [
        f"class {index}" for index in range(_classes_of(net, name, preprocessing))
    ]
    return Classifier(name, net, preprocessing, names, state_dict_sha256(net.state_dict()))


@torch.no_grad()
def _classes_of(net: nn.Module, name: str, preprocessing: Preprocessing) -> int:
    try:
        logits_BK = net.eval()(torch.zeros(1, 3, preprocessing.crop, preprocessing.crop))
    except RuntimeError as error:
        raise UsageError(
            f"{name} does not take images of 3x{preprocessing.crop}x{preprocessing.crop}: {error}",
            "give the module an attribute `preprocessing`",
        ) from error
    if not isinstance(logits_BK, torch.Tensor) or logits_BK.ndim != 2:
        raise UsageError(f"{name} does not return logits of shape (batch, classes)", f"{_EXAMPLE} is needed")
    return logits_BK.shape[1]
