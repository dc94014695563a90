"""Names of attacks, detectors, classifiers, data sets and where each lives; imports none of them until asked.

A row is `name: "module:attribute"`. Another package adds its own through an entry point in the group
`latcli.attacks`, `latcli.detectors`, `latcli.classifiers`, `latcli.datasets` or `latcli.architectures`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from latcli.errors import LatcliError, UsageError

Kind = Literal["attack", "detector", "classifier", "dataset", "architecture"]

BUILT_IN: dict[Kind, dict[str, str]] = {
    "attack": {
        "pgd": "latcli.engine.attacks.pgd:pgd",
        "fgsm": "latcli.engine.attacks.fgsm:fgsm",
        "apgd-ce": "latcli.engine.attacks.apgd:apgd_ce",
        "apgd-dlr": "latcli.engine.attacks.apgd:apgd_dlr",
        "apgd-t": "latcli.engine.attacks.apgd:apgd_t",
        "square": "latcli.engine.attacks.square:square",
        "mi-fgsm": "latcli.engine.attacks.mi_fgsm:mi_fgsm",
        "minimal": "latcli.engine.attacks.minimal:minimal",
    },
    "detector": {
        "yolo": "latcli.engine.detectors.yolo:YoloDetector",
        "mobilenet": "latcli.engine.detectors.mobilenet:MobilenetDetector",
        "saliency": "latcli.engine.detectors.saliency:SaliencyDetector",
        "cam": "latcli.engine.detectors.cam:CamDetector",
        "none": "latcli.engine.detectors.base:NoDetector",
    },
    "classifier": {
        "efficientnet_lite0": "latcli.engine.models.imagenet:efficientnet_lite0",
        "inception_v3": "latcli.engine.models.imagenet:inception_v3",
    },
    "dataset": {
        "mnist": "latcli.engine.datasets.published:mnist",
        "fashion-mnist": "latcli.engine.datasets.published:fashion_mnist",
        "cifar10": "latcli.engine.datasets.published:cifar10",
        "mnist-5k": "latcli.engine.datasets.published:mnist_5k",
    },
    "architecture": {
        "paper-cnn": "latcli.engine.models.small:paper_cnn",
        "resnet18": "latcli.engine.models.small:resnet18",
    },
}


DEFAULT_CLASSIFIER = "efficientnet_lite0"
DEFAULT_DATASET = "mnist"

#: Before a colon: a library's own name, or a folder; anything else there is a module whose code runs.
_FAMILIES = ("timm", "torchvision", "folder")

#: No name of ours is so long.
_LONGEST = 100


def _plugins(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"latcli.{kind}s")}


def names(kind: Kind) -> list[str]:
    """Every registered name of a kind, built-in ones first."""
    built_in = BUILT_IN[kind]
    return [*built_in, *sorted(name for name in _plugins(kind) if name not in built_in)]


def names_code(name: str) -> bool:
    """Whether a classifier's name stands for code of the user's own, as `module:function` does."""
    family, colon, _ = name.partition(":")
    return bool(colon) and family not in _FAMILIES


def load(kind: Kind, name: str) -> Any:
    """The registered object of that kind and name.

    Raises UsageError for an unknown name and LatcliError where a plug-in cannot be imported.
    """
    if name in BUILT_IN[kind]:
        module, _, attribute = BUILT_IN[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    plugin = _plugins(kind).get(name)
    if plugin is None:
        raise unknown_name(kind, name, names(kind))
    try:
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
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    shown = ", ".join(known[:12]) + (" …" if len(known) > 12 else "")
    return UsageError(f"there is no {what} called '{name}'", f"{hint}known: {shown}")
