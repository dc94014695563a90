"""RobustBench's model zoo by name, `robustbench:NAME`, where that package is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch

from latcli.engine.models.classifier import Classifier
from latcli.engine.models.libraries import imagenet_ids, imagenet_names
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.weights import check_readable
from latcli.engine.registry import unknown_name
from latcli.engine.vision import import_torchvision
from latcli.errors import LatcliError, UsageError, WeightsError, first_line

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HINT = "robustbench:NAME for CIFAR-10 and linf, or robustbench:DATASET/THREAT/NAME: robustbench:imagenet/Linf/NAME"


def robustbench_classifier(name: str, source: ClassifierSource) -> Classifier:
    """A model of RobustBench: `NAME`, `DATASET/NAME` or `DATASET/THREAT/NAME`, by default of cifar10 and Linf.

    Weights come from `models/` of torch's cache (`torch.hub.get_dir()`), else RobustBench downloads them there; or from
    `source.weights`, a file as RobustBench has it. Raises UsageError for an unknown name, WeightsError for weights that
    cannot be had.
    """
    if find_spec("robustbench") is None:
        raise LatcliError("robustbench:NAME needs the package robustbench", "pip install robustbench")
    import_torchvision()
    try:
        with contextlib.redirect_stdout(sys.stderr), _pkg_resources():  # it prints
            from robustbench.model_zoo.models import model_dicts  # type: ignore[import-untyped, import-not-found, unused-ignore]
            from robustbench.utils import load_model  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise LatcliError(f"robustbench cannot be imported: {error}", "install what it needs") from error
    *where, model = name.split("/")
    dataset, threat = (*where, "cifar10", "Linf")[0], (*where[1:], "Linf")[0]
    zoo = {d.value: {t.value: models for t, models in threats.items()} for d, threats in model_dicts.items()}
    if dataset not in zoo or threat not in zoo[dataset] or len(where) > 2:
        raise UsageError(f"RobustBench has no models of {'/'.join(where)}", _HINT)
    if model not in zoo[dataset][threat]:
        raise unknown_name("RobustBench model", model, sorted(zoo[dataset][threat]))
    folder = Path(torch.hub.get_dir(), "robustbench")
    kept = folder / dataset / threat / f"{model}.pt"
    if source.weights is None and source.offline and not kept.exists():
        raise WeightsError(f"{kept} is not on this machine, and --offline forbids the download", "put it there")
    try:
        with contextlib.redirect_stdout(sys.stderr), TemporaryDirectory() as named:
            if source.weights is not None:  # RobustBench finds weights by their names
                check_readable(source.weights)
                folder = Path(named)
                kept = folder / dataset / threat / f"{model}.pt"
                kept.parent.mkdir(parents=True)
                kept.symlink_to(source.weights.absolute())
            net = load_model(model, model_dir=folder, dataset=dataset, threat_model=threat)
    except WeightsError:
        raise
    except Exception as error:  # of downloads, pickles and state dicts alike
        reason = f"RobustBench cannot load {name}: {first_line(error)}"
        raise WeightsError(reason, f"look at {source.weights or kept}") from error
    own = Preprocessing(256, 224) if dataset == "imagenet" else Preprocessing(32, 32)
    names, ids = {"cifar10": (_CIFAR10, ()), "imagenet": (imagenet_names(), imagenet_ids())}.get(dataset, ((), ()))
    with torch.no_grad():
        count = net(torch.zeros(1, 3, *own.size)).shape[1]
    return source.classifier(f"robustbench:{name}", net, count, own, names, ids)


@contextlib.contextmanager
def _pkg_resources() -> Iterator[None]:
    """RobustBench imports a module that setuptools no longer has, for a data set that is not needed here."""
    if "pkg_resources" in sys.modules or find_spec("pkg_resources") is not None:
        yield
        return
    sys.modules["pkg_resources"] = ModuleType("pkg_resources")
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
