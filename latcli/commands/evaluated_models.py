"""The models of an evaluation: which they are, how they take photos, how each is opened and looked over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from latcli.commands.classifiers import CHECKPOINT, classifier_path, named_run
from latcli.commands.resume import dataset_of
from latcli.engine import registry
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.photo_folder import PhotoFolder, class_folders, holds_photos
from latcli.engine.evaluation.distrust import Doubt, examine
from latcli.engine.evaluation.matrix import Subject
from latcli.engine.labels import known_class
from latcli.engine.models.catalog import (
    is_classifier_name,
    is_of_code,
    open_classifier,
    preprocessing_of,
    read_info,
    require_named,
)
from latcli.engine.models.classifier import AnyChannels, Classifier, ClassifierSource, with_classes_first
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.precision import check_form, gradient_model
from latcli.engine.training.regimes import Regime
from latcli.errors import LatcliError, UsageError, WeightsError
from latcli.results import EvaluatedModel, comparable_config
from latcli.session import Session
from latcli.store.files import artifact_path
from latcli.store.store import RunRow, Store

#: Without names and without --seeds, the latest run of each of these.
DEFAULT_REGIMES: tuple[Regime, ...] = ("natural", "standard", "background")

#: How many test images a model is looked over with.
_LOOKED_AT = 64

_FOLDER = "folder:"


# which models


def usual_dataset(store: Store, named: Iterable[str]) -> str | None:
    """What the first training run among the named models learnt from, else the one that was completed last.

    None where there is no such run. Raises UsageError for the id of a run that is not there, and for a folder that is
    gone.
    """
    runs = [row for name in named if (row := named_run(store, name)) is not None]
    for row in runs or store.runs(command="train", status="completed"):
        return dataset_of(row, None) or None
    return None


def trained_on(store: Store, dataset: str, *, seeds: bool) -> list[RunRow]:
    """The latest completed training run of each regime on this data set; of the three that the paper compares.

    With `seeds` the latest of each seed of the same experiment, for every regime there is. Raises UsageError where
    there is none.
    """
    rows = [
        row
        for row in store.runs(command="train", status="completed")
        if dataset in (row.config.get("dataset"), (row.dataset or "").rpartition("@")[0])
    ]
    chosen: list[RunRow] = []
    for regime in get_args(Regime) if seeds else DEFAULT_REGIMES:
        newest_first = [row for row in rows if row.config.get("regime") == regime]
        of_seed: dict[int | None, RunRow] = {}
        for row in newest_first if seeds else newest_first[:1]:
            if comparable_config(row.config) == comparable_config(newest_first[0].config):
                of_seed.setdefault(row.seed, row)
        chosen += sorted(of_seed.values(), key=lambda row: row.seed or 0)
    if not chosen:
        raise UsageError(
            f"no training run of {dataset} in {store.folder} is completed",
            f"name a model, or train: latcli train --dataset {dataset} --regime natural (then standard, background)",
        )
    return chosen


def names_again(entries: Iterable[EvaluatedModel], store: Store) -> list[str]:
    """What opens the models of a stored evaluation: their training runs, wherever the store lies now, else their files.

    Raises UsageError where a file is gone.
    """
    trained = {row.id for row in store.runs(command="train") if artifact_path(row.path, CHECKPOINT).exists()}
    names = []
    for entry in entries:
        names.append(entry.train_run if entry.train_run in trained else entry.source)
        if names[-1] == entry.source and entry.source.endswith(".safetensors") and not Path(entry.source).exists():
            raise UsageError(
                f"the model {entry.name} is neither at {entry.source} nor in the store {store.folder}",
                "if the store was moved, move its training runs with it; else put the file back, or evaluate anew",
            )
    return names


# how they take photos


#: How models take photos: a classifier's name, without what it was fine-tuned to, and its preprocessing; None for small
#: images, which are taken as they are.
PhotoWay = tuple[str | None, Preprocessing | None]


def common_way(dataset: str, sources: Sequence[str], described: ClassifierSource) -> PhotoWay:
    """How all of these models take the set's images; `sources` are paths of checkpoints, or names.

    Photos are handed out at the classifiers' input size, so all have to see the same square of a photo. Raises
    UsageError where they do not, or are unknown, WeightsError where a file cannot be read.
    """
    if not dataset.startswith(_FOLDER):
        return None, None
    large = holds_photos(class_folders(Path(dataset.removeprefix(_FOLDER))))
    ways = {source: _way(source, described, large=large) for source in sources}
    words = {source: way.described() if way else "small images as they are" for source, (_, way) in ways.items()}
    first = next(iter(ways))
    for other in ways:
        if words[other] != words[first]:
            raise UsageError(
                f"{first} takes {words[first]}, {other} takes {words[other]}",
                "all models of an evaluation must see the same images: evaluate these separately",
            )
    return ways[first]


def _way(source: str, described: ClassifierSource, *, large: bool) -> PhotoWay:
    if source.endswith(".safetensors"):
        info = read_info(Path(source))
        if not is_classifier_name(info.architecture):
            return info.architecture, None
        require_named(info.architecture)  # a detector of objects would open it
        return info.architecture, info.preprocessing or preprocessing_of(info.architecture)
    tuned = registry.names_code(source) and described.weights is not None and is_of_code(described.weights)
    if not large and not tuned:
        return None, None
    return source, open_classifier(source, described, torch.device("cpu")).preprocessing


# opening


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready, and what speaks against it at first sight."""

    entry: EvaluatedModel
    subject: Subject
    doubts: tuple[Doubt, ...]


class ModelLoader:
    """Opens models for one data set: looks at classes and image size, and tries each on some test images."""

    def __init__(self, store: Store | None, data: TrainingData, session: Session, described: ClassifierSource) -> None:
        """`described` is what the user says of models that are no training run's; rank 0 alone has a store.

        Raises LatcliError where the set has no test images.
        """
        n = min(_LOOKED_AT, data.test_count)
        if n == 0:
            raise LatcliError(f"{data.name} has no test images", "choose another data set")
        (images,) = data.testing([torch.arange(n) * data.test_count // n])
        self.store, self.data, self.session = store, data, session
        self._described, self._x_BCHW = described, images.x_BCHW

    def load(self, name: str, was: EvaluatedModel | None = None) -> LoadedModel:
        """A model by the end of a training run's id, by its checkpoint's path, or by any name of a classifier.

        `was` is the model of a stored evaluation that it must be, with gradients in the form that they had. Raises
        UsageError where it is unknown or does not fit the data, WeightsError where it cannot be read or has changed,
        and LatcliError where it gives NaN or no gradient.
        """
        path = classifier_path(name, self.session.store)
        if path.endswith(".safetensors"):
            row = None if path == name or self.store is None else self.store.find_run(Path(path).parent.name)
            found, net = self._checkpoint(Path(path).absolute(), name if row is None else row.id, row)
        else:
            classifier = open_classifier(name, self._described, self._x_BCHW.device)
            net = self._fitting(classifier, name)
            model_id = self._recorded(name, weights_sha256=classifier.fingerprint)
            found = EvaluatedModel(name, name, name, model_id, classifier.fingerprint or "", form="")
        if was is not None:
            if found.fingerprint != was.fingerprint:
                raise WeightsError(
                    f"the model {was.name} is not the one that the evaluation was started with: it answers differently",
                    "start a new evaluation",
                )
            found = replace(was, source=found.source)
        fast = gradient_model(
            net, self.data.image_shape, self.session.precision, check_form(found.form) if found.form else None
        )
        if fast.note:
            self.session.note(f"note: {fast.note}")
        doubts = examine(net, self._x_BCHW, found.label, fast)
        return LoadedModel(replace(found, form=fast.form), Subject(found.label, net, fast), tuple(doubts))

    def _checkpoint(self, path: Path, name: str, row: RunRow | None) -> tuple[EvaluatedModel, nn.Module]:
        described, data, info = self._described, self.data, read_info(path)
        described = ClassifierSource(offline=described.offline, progress=described.progress, note=described.note)
        classifier = open_classifier(str(path), described, self._x_BCHW.device)
        net = self._fitting(classifier, name)
        # The classes of a photo folder may be some of the network's.
        same = sorted(info.class_names) == sorted(data.class_names) or (
            isinstance(data, PhotoFolder) and all(known_class(one, classifier) for one in data.class_names)
        )
        if not same or info.image_shape != data.image_shape:
            raise UsageError(
                f"{name} was trained on {info.dataset}, whose classes or image size are not those of {data.name}",
                "choose a model that was trained for this data set, or --dataset NAME",
            )
        if info.dataset != data.name:
            self.session.note(f"note: {name} was trained on {info.dataset}, not on {data.name}")
        model_id = self._recorded(
            f"{info.architecture}-{info.regime}",
            architecture=info.architecture,
            regime=info.regime,
            weights_sha256=classifier.weights_sha256,
        )
        label = path.stem if row is None else row.name or f"{row.config.get('regime')} {row.id[-4:]}"
        entry = EvaluatedModel(str(path), name, label, model_id, classifier.fingerprint or "", "", info.regime)
        return replace(entry, train_run=row.id, train_seed=row.seed) if row else entry, net

    def _recorded(self, name: str, **known: str | None) -> str:
        """The id of a model, remembered in the store; without one, the name."""
        return name if self.store is None else self.store.record_model(name, **known)

    def _fitting(self, classifier: Classifier, name: str) -> nn.Module:
        """The network as it takes this set's images; on photos a Classifier.

        Raises UsageError where classes or images do not fit.
        """
        theirs, ours, data = classifier.class_names, self.data.class_names, self.data
        if isinstance(data, PhotoFolder):
            return with_classes_first(classifier, ours, data.name)
        if len(theirs) != len(ours):
            raise UsageError(
                f"{name} has {len(theirs):,} classes, and {data.name} has {len(ours):,}",
                "choose a model that was trained for this data set, or --dataset NAME",
            )
        if all(known_class(one, classifier) for one in ours):
            classifier = with_classes_first(classifier, ours, data.name)
        failures = []
        for net in (classifier, AnyChannels(classifier, 3)) if data.image_shape[0] == 1 else (classifier,):
            try:
                with torch.no_grad():
                    net(self._x_BCHW[:1])
            except RuntimeError as error:
                failures.append(str(error).partition("\n")[0])
            else:
                return net
        shape = "x".join(map(str, data.image_shape))
        raise UsageError(
            f"{name} does not take images of {shape}: {failures[0]}", "choose a model for images of this size"
        )
