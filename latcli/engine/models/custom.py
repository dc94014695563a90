"""Classifiers by name; of them, the user's own: `module:function` or `path/file.py:function`, whose code runs here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latcli.engine import registry
from latcli.engine.models.classifier import AnyChannels, Classifier, ClassifierSource, logits_in
from latcli.engine.models.libraries import library_classifier
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.weights import load_file
from latcli.engine.vision import import_torchvision
from latcli.errors import UsageError, first_line

#: Sides that a module is tried on where nobody says and it does not take 224, the usual one.
_OTHER_SIDES = (32, 28, 64, 96, 128, 160, 192, 240, 256, 299, 320, 384, 448, 512)

_EXAMPLE = "a function without arguments that returns a torch.nn.Module taking images in [0, 1] is needed"

#: The names that were opened in this process: their code may run again, as for a checkpoint that was trained from it.
named_by_user: set[str] = set()


def named_classifier(name: str, source: ClassifierSource) -> Classifier:
    """The classifier of a registered name, a library's or the user's code, on the CPU. Raises as `open_classifier`."""
    if registry.names_code(name):
        return custom_classifier(name, source)
    if (classifier := library_classifier(name, source)) is not None:
        return classifier
    refuse_description(name, source)
    return registry.load("classifier", name)(source)  # type: ignore[no-any-return]


def refuse_description(name: str, source: ClassifierSource) -> None:
    """Raise UsageError where the user describes a classifier that describes itself."""
    if given := source.described:
        raise UsageError(f"{given} cannot be used with {name}, which describes itself", f"leave {given} out")


def custom_classifier(name: str, source: ClassifierSource) -> Classifier:
    """What `module:function` returns: a Classifier, or any module that takes x_BCHW in [0, 1] and returns logits_BK.

    The logits may be in a tuple, a dict or an object with `logits`; images may have one channel. A plain module may
    carry `class_names` and `preprocessing` (a Preprocessing). Otherwise `source` says, or else classes are called by
    their numbers and photos are resized to 256 and cropped to 224; a network that does not take those gets the first
    size that it takes. `source.weights` are loaded into it. Weights of another precision become fp32.

    Raises UsageError where it is not found, fails, exits, or is no classifier; WeightsError for weights that do not
    fit.
    """
    named_by_user.add(name)
    net = _made_by(name).float()  # scores are taken in fp32, and half precision knows few operations on a CPU
    names: tuple[str, ...] = ()
    if source.weights is not None:
        inner = net.net if isinstance(net, Classifier) else net
        names = load_file(source.weights, lambda _: inner, 0, source.note)[2]
    if isinstance(net, Classifier):
        refuse_description(name, source)
        return net
    own = getattr(net, "preprocessing", None)
    if own is not None and not isinstance(own, Preprocessing):
        raise UsageError(
            f"the `preprocessing` of {name} is a {type(own).__name__}", "it has to be a latcli Preprocessing"
        )
    names = names or tuple(getattr(net, "class_names", None) or ())
    body, preprocessing, count = _tried(net.eval(), name, own, source)
    if names and len(names) != count and source.class_names is None:
        raise UsageError(
            f"{name} names {len(names)} classes and returns {count} logits", "give one class name for each logit"
        )
    return source.classifier(name, body, count, preprocessing, names)


def _made_by(name: str) -> nn.Module:
    where, _, function_name = name.rpartition(":")
    import_torchvision()  # user code may begin with `import torchvision` or `import timm`
    function = _run(lambda: getattr(_imported(where), function_name), f"the classifier {name} cannot be imported")
    net = _run(function, f"{name} failed")
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} returned a {type(net).__name__}, not a torch.nn.Module", _EXAMPLE)
    return net


def _imported(where: str) -> Any:
    """The module of a dotted name, found from the working directory, or of a file, with the files beside it."""
    path = Path(where).absolute() if where.endswith(".py") else None
    folder = str(path.parent if path else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if path is None:
        return import_module(where)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # so that pickles and dataclasses in it find it
    spec.loader.exec_module(module)
    return module


def _run(work: Callable[[], Any], what: str) -> Any:
    """What user code returns; whatever it raises, an exit included, is no defect of latcli: --debug shows where."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what}: {type(error).__name__}: {first_line(error)}", _EXAMPLE) from error


def _tried(
    net: nn.Module, name: str, own: Preprocessing | None, source: ClassifierSource
) -> tuple[nn.Module, Preprocessing, int]:
    """The network as it takes photos, its preprocessing and its number of classes, found by giving it images."""
    usual = own or (Preprocessing(256, 224) if source.input_size is None else Preprocessing(224, 224))
    prepared = [source.preprocessing(usual)]
    if own is None and source.input_size is None:
        prepared += [Preprocessing(side, side) for side in _OTHER_SIDES]
    failures = []
    for preprocessing in prepared:
        x_23hw = torch.rand(2, 3, *preprocessing.size, generator=torch.Generator().manual_seed(0))
        for body in (net, AnyChannels(net, 1)):
            try:
                with torch.no_grad():
                    found = logits_in(body(x_23hw))
            except (Exception, SystemExit) as error:
                failures.append(f"{type(error).__name__}: {first_line(error)}")
                continue
            if isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == 2 and found.shape[1] > 1:
                return body, preprocessing, found.shape[1]
            of_tensor = isinstance(found, torch.Tensor)
            shown = f"a tensor of shape {tuple(found.shape)}" if of_tensor else f"a {type(found).__name__}"
            raise UsageError(f"{name} returns {shown} for two images, not logits of shape (2, classes)", _EXAMPLE)
    h, w = prepared[0].size
    sizes = f"3x{h}x{w}" + (", nor of other usual sizes" if len(prepared) > 1 else ", nor of one channel")
    raise UsageError(
        f"{name} does not take images of {sizes}: {failures[0]}",
        "give --input-size, or give the module an attribute `preprocessing`; it must take a batch of float32 images",
    )
