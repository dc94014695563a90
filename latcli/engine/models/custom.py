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

#: What code of the user's may raise. It is no defect of latcli; --debug shows where.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

_EXAMPLE = "a function without arguments that returns a torch.nn.Module taking images in [0, 1]"


def custom_classifier(name: str, source: ClassifierSource) -> Classifier:
    """What `module:function` returns: a Classifier, or any module that takes x_BCHW in [0, 1] and returns logits_BK.

    A plain module may carry `class_names` (a sequence) and `preprocessing` (a Preprocessing); otherwise classes are
    called by their numbers and photos are resized to 256 and cropped to 224. `source.weights` are loaded into it.
    Weights of another precision, half or double, become fp32.
    Raises UsageError where it is not found, fails, or is no classifier.
    """
    net = _made_by(name).float()  # scores are taken in fp32, and half precision knows few operations on a CPU
    if source.weights is not None:
        load_into(net, read_state_dict(source.weights), what=name)
    if isinstance(net, Classifier):
        return net
    preprocessing = getattr(net, "preprocessing", None) or Preprocessing(256, 224, "bilinear")
    if not isinstance(preprocessing, Preprocessing):
        found = type(preprocessing).__name__
        raise UsageError(f"the `preprocessing` of {name} is a {found}", "it has to be a latcli Preprocessing")
    count = _classes_of(net, name, preprocessing)
    names = getattr(net, "class_names", None) or [f"class {index}" for index in range(count)]
    if len(names) != count:
        raise UsageError(
            f"{name} names {len(names)} classes and returns {count} logits", "give `class_names` one name a logit"
        )
    return Classifier(name, net, preprocessing, names, state_dict_sha256(net.state_dict()))


def _made_by(name: str) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(import_module(module_name), function_name)
    except _FAILURES as error:
        raise UsageError(
            f"the classifier {name} cannot be imported: {_first_line(error)}", f"{_EXAMPLE} is needed"
        ) from error
    try:
        net = function()
    except _FAILURES as error:
        raise UsageError(f"{name} failed: {_first_line(error)}", f"{_EXAMPLE} is needed") from error
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} returned a {type(net).__name__}, not a torch.nn.Module", f"{_EXAMPLE} is needed")
    return net


@torch.no_grad()
def _classes_of(net: nn.Module, name: str, preprocessing: Preprocessing) -> int:
    try:
        logits_BK = net.eval()(torch.zeros(1, 3, preprocessing.crop, preprocessing.crop))
    except _FAILURES as error:
        raise UsageError(
            f"{name} does not take images of 3x{preprocessing.crop}x{preprocessing.crop}: {_first_line(error)}",
            "give the module an attribute `preprocessing`, and let it compute in float32",
        ) from error
    if not isinstance(logits_BK, torch.Tensor) or logits_BK.ndim != 2:
        raise UsageError(f"{name} does not return logits of shape (batch, classes)", f"{_EXAMPLE} is needed")
    return logits_BK.shape[1]


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
