"""Names of attacks, detectors, classifiers, data sets and where each lives; imports none of them until asked.

A row is `name: "module:attribute"`. Another package adds its own through an entry point in the group of the kind:
`latcli.attacks`, `latcli.detectors` and so on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from latcli.errors import LatcliError, UsageError

Kind = Literal["attack", "detector", "classifier", "dataset", "architecture", "logger"]

BUILT_IN: dict[Kind, dict[str, str]] = {
    "attack": {
        "pgd": "latcli.engine.attacks.pgd:pgd",
        "fgsm": "latcli.engine.attacks.pgd:fgsm",
        "apgd-ce": "latcli.engine.attacks.apgd:apgd_ce",
        "apgd-dlr": "latcli.engine.attacks.apgd:apgd_dlr",
        "apgd-t": "latcli.engine.attacks.apgd:apgd_t",
        "square": "latcli.engine.attacks.square:square",
        "mi-fgsm": "latcli.engine.attacks.pgd:mi_fgsm",
        "minimal": "latcli.engine.attacks.minimal:minimal",
    },
    "detector": {
        "yolo": "latcli.engine.detectors.yolo:YoloDetector",
        "mobilenet": "latcli.engine.detectors.mobilenet:MobilenetDetector",
        "saliency": "latcli.engine.detectors.saliency:SaliencyDetector",
        "cam": "latcli.engine.detectors.cam:CamDetector",
        "none": "latcli.engine.detectors.base:NoDetector",
    },
    "classifier": {  # each makes a LibraryNetwork; a plug-in's makes a Classifier from a ClassifierSource
        "efficientnet_lite0": "latcli.engine.models.libraries:efficientnet_lite0",
        "inception_v3": "latcli.engine.models.libraries:inception_v3",
    },
    "dataset": {
        "mnist": "latcli.engine.datasets.catalog:mnist",
        "fashion-mnist": "latcli.engine.datasets.catalog:fashion_mnist",
        "cifar10": "latcli.engine.datasets.catalog:cifar10",
        "mnist-5k": "latcli.engine.datasets.catalog:mnist_5k",
    },
    "architecture": {
        "paper-cnn": "latcli.engine.models.small:PaperCNN",
        "resnet18": "latcli.engine.models.small:resnet18",
        "resnet20": "latcli.engine.models.small:resnet20",
        "resnet56": "latcli.engine.models.small:resnet56",
    },
    "logger": {
        "tensorboard": "latcli.engine.loggers:TensorBoard",
        "wandb": "latcli.engine.loggers:Wandb",
        "mlflow": "latcli.engine.loggers:Mlflow",
    },
}


DEFAULT_CLASSIFIER = "efficientnet_lite0"
DEFAULT_DATASET = "mnist"

#: Classifiers by a library's own names, `timm:resnet50`. Anything else before a colon is a module whose code runs.
CLASSIFIER_FAMILIES = ("timm", "torchvision", "hf", "robustbench")

#: What is allowed besides the registered names, and the kinds in two words, for errors.
_FURTHER: dict[Kind, tuple[str, ...]] = {
    "detector": ("auto",),
    "dataset": ("folder:PATH",),
    "classifier": (*(f"{family}:NAME" for family in CLASSIFIER_FAMILIES), "module:function", "file.py:function"),
}
_IN_WORDS: dict[Kind, str] = {"dataset": "data set"}

#: No registered name is this long.
_LONGEST = 100
#: An error lists all known names up to this many: those that are registered, but not all that a library has.
_SHOWN = 40


def _plugins(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"latcli.{kind}s")}


def plugin_names(kind: Kind) -> list[str]:
    """The names that installed plug-ins add to a kind, in alphabetical order."""
    return sorted(name for name in _plugins(kind) if name not in BUILT_IN[kind])


def names(kind: Kind) -> list[str]:
    """Every registered name of a kind, built-in ones first."""
    return [*BUILT_IN[kind], *plugin_names(kind)]


def names_code(name: str) -> bool:
    """Whether a classifier's name stands for the user's code, as `module:function` does."""
    family, colon, _ = name.partition(":")
    return bool(colon) and family not in (*CLASSIFIER_FAMILIES, "folder")


def load(kind: Kind, name: str) -> Any:
    """The registered object of that kind and name.

    Raises UsageError for an unknown name and LatcliError where a plug-in cannot be imported.
    """
    if name in BUILT_IN[kind]:
        return EntryPoint(name, BUILT_IN[kind][name], kind).load()
    plugin = _plugins(kind).get(name)
    if plugin is None:
        raise unknown_name(_IN_WORDS.get(kind, kind), name, [*names(kind), *_FURTHER.get(kind, ())])
    try:
        # Beside a torch that it was not built for, torchvision has to be mended before anybody imports it.
        import_module("latcli.engine.vision").import_torchvision()
        return plugin.load()
    except (ImportError, AttributeError) as error:
        raise LatcliError(
            f"the {kind} '{name}' of plug-in {plugin.value} cannot be imported: {error}",
            "reinstall the package it comes from, or choose a built-in one",
        ) from error


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among the known ones, with the nearest spelling as its hint."""
    known = list(known)
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."  # comparing takes the square of its length
    close = nearest(name, known)
    hints = [f"did you mean {' or '.join(map(repr, close))}?"] if close else []
    if len(known) <= _SHOWN:
        hints.append(f"known: {', '.join(known)}")
    elif not close:
        hints.append(f"there are {len(known):,}, such as {', '.join(known[:3])}")
    return UsageError(f"there is no {what} called '{name}'", " ".join(hints))


def nearest(text: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The names nearest to a text: those that contain its words, the shortest first, then those spelt alike."""
    text = text[:_LONGEST].casefold()
    words = [word for word in re.split(r"[\s_\-.]+", text) if word]
    holding = [name for name in names if words and all(word in name.casefold() for word in words)]
    whole = [name for name in holding if set(words) <= set(re.split(r"[\s_\-.,]+", name.casefold()))]
    by_word = [*sorted(whole, key=len), *sorted(holding, key=len)]
    spelt = {name.casefold(): name for name in reversed(names)}
    alike = [spelt[name] for name in difflib.get_close_matches(text, spelt, n=count)]
    return list(dict.fromkeys([*by_word, *alike]))[:count]
