"""The models of an evaluation: which they are, how each is opened and looked over, and how they see photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from latcli.commands.resume import dataset_of, folder_of
from latcli.commands.trained import CHECKPOINT, classifier_path, named_run
from latcli.engine import registry
from latcli.engine.datasets.base import DatasetSource, TrainingData
from latcli.engine.datasets.catalog import open_folder, open_training_data
from latcli.engine.datasets.folders import class_folders
from latcli.engine.datasets.photo_folder import PhotoFolder, holds_photos
from latcli.engine.evaluation.distrust import Doubt, examine
from latcli.engine.evaluation.matrix import Subject
from latcli.engine.labels import known_class
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.checkpoint import is_of_code, read_info
from latcli.engine.models.classifier import Classifier, with_classes_first
from latcli.engine.models.finetuning import is_classifier_name, preprocessing_of, require_named
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.source import ClassifierSource
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


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready, and what speaks against it at first sight."""

    entry: EvaluatedModel
    subject: Subject
    doubts: tuple[Doubt, ...]


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
    folder = folder_of(dataset)
    rows = [
        row
        for row in store.runs(command="train", status="completed")
        if (folder and row.config.get("dataset_folder") == folder) or (row.dataset or "").rpartition("@")[0] == dataset
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


def require_named_again(entries: Iterable[EvaluatedModel], named: Sequence[str], run: str) -> None:
    """Raise UsageError where a stored run names code of the user's own that the command line does not name as well.

    What lies in a store must not run code by itself: a store may come from somebody else.
    """
    code = code_named(entries)
    if missing := [name for name in code if name not in named]:
        raise UsageError(
            f"{run} evaluates {missing[0]}, and the code that a stored run names is not run automatically",
            f"if you trust it, name it again: latcli eval {' '.join(code)} --resume {run[-4:]}",
        )


def source_of(entry: EvaluatedModel, store: Store) -> str:
    """What opens a model of a stored evaluation again: its training run, wherever the store lies now, else its name.

    Raises UsageError where its file is gone.
    """
    if entry.train_run is not None:
        found = [row for row in store.runs(command="train") if row.id == entry.train_run]
        path = artifact_path(found[0].path, CHECKPOINT) if found else None
        if path is not None and path.exists():
            return str(path)
    if entry.source.endswith(".safetensors") and not Path(entry.source).exists():
        raise UsageError(
            f"the model {entry.name} is neither at {entry.source} nor in the store {store.folder}",
            "if the store was moved, move its training runs with it; else put the file back, or start a new evaluation",
        )
    return entry.source


def code_named(entries: Iterable[EvaluatedModel]) -> list[str]:
    """Names among the models that stand for the user's code, as `module:function` does."""
    sources = [entry.source for entry in entries]
    return [name for name in sources if not name.endswith(".safetensors") and registry.names_code(name)]


# the data, in the form that the models take


@dataclass(frozen=True)
class PhotoWay:
    """How models take photos. `architecture` is the classifier's name without what it was fine-tuned to."""

    architecture: str
    preprocessing: Preprocessing


def open_data(
    dataset: str,
    sources: Sequence[str],
    described: ClassifierSource,
    masks: Path | None,
    device: torch.device,
    session: Session,
) -> tuple[TrainingData, PhotoWay | None]:
    """The data set on the device as these models take it, with the masks that files hold; and how, if as photos.

    `sources` are paths of checkpoints or names. Photos are handed out at the classifiers' input size, so all have to
    see the same square of a photo. Raises UsageError where they do not, or are unknown, ImageError and WeightsError
    where a file cannot be read, and else as `open_training_data`.
    """
    way = None
    if dataset.startswith(_FOLDER):
        folders = class_folders(Path(dataset.removeprefix(_FOLDER)))
        way = _common_way(sources, described, large=holds_photos(folders))
        data = open_folder(folders, way.preprocessing if way else None, masks)
    else:
        source = DatasetSource(session.data, session.offline, session.shows_progress)
        data = open_training_data(dataset, None, source, masks)
    for note in data.notes:
        session.note(f"note: {note}")
    return data.to(device), way


def _common_way(sources: Sequence[str], described: ClassifierSource, *, large: bool) -> PhotoWay | None:
    ways = {source: _way(source, described, large=large) for source in sources}
    first = next(iter(ways))
    for source, way in ways.items():
        if _seen(way) != _seen(ways[first]):
            raise UsageError(
                f"{first} takes {_seen(ways[first])}, {source} takes {_seen(way)}",
                "all models of an evaluation must see the same images: evaluate these separately",
            )
    return ways[first]


def _way(source: str, described: ClassifierSource, *, large: bool) -> PhotoWay | None:
    if source.endswith(".safetensors"):
        info = read_info(Path(source))
        if not is_classifier_name(info.architecture):
            return None
        require_named(info.architecture)  # a detector of objects would open it
        return PhotoWay(info.architecture, info.preprocessing or preprocessing_of(info.architecture))
    tuned = registry.names_code(source) and described.weights is not None and is_of_code(described.weights)
    if not large and not tuned:
        return None
    return PhotoWay(source, open_classifier(source, described, torch.device("cpu")).preprocessing)


def _seen(way: PhotoWay | None) -> str:
    if way is None:
        return "small images as they are"
    return way.preprocessing.described()


# opening


class ColourInput(nn.Module):
    """Lets a network that takes colour see grey images: the one channel becomes all three."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
        """logits_BK of grey images."""
        logits_BK: torch.Tensor = self.net(x_B1HW.expand(-1, 3, -1, -1))
        return logits_BK


class ModelLoader:
    """Opens models for one data set: looks at classes and image size, and tries each on some test images."""

    def __init__(
        self, store: Store, data: TrainingData, batch: int, session: Session, described: ClassifierSource
    ) -> None:
        """`described` is what the user says of models that are no training run's.

        Raises LatcliError where the set has no test images.
        """
        n = min(_LOOKED_AT, data.test_count)
        if n == 0:
            raise LatcliError(f"{data.name} has no test images", "choose another data set")
        (images,) = data.testing([torch.arange(n) * data.test_count // n])
        self.store, self.data, self.session, self._batch = store, data, session, batch
        self._described = described
        self._x_BCHW = images.x_BCHW

    def load(self, name: str) -> LoadedModel:
        """A model by the end of a training run's id, by its checkpoint's path, or by any name of a classifier.

        Raises UsageError where it is unknown or does not fit the data, WeightsError where it cannot be read, and
        LatcliError where it gives NaN or no gradient.
        """
        path = classifier_path(name, self.store.folder)
        if path != name:
            return self.load_run(self.store.find_run(Path(path).parent.name))
        if name.endswith(".safetensors"):
            return self._load_checkpoint(Path(name).absolute(), name, Path(name).stem, None)
        classifier = self._classifier(name)
        net = self._fitting(classifier, name)
        model_id = self.store.record_model(name, weights_sha256=classifier.fingerprint)
        return self._ready(EvaluatedModel(name, name, name, model_id, classifier.fingerprint or "", form=""), net)

    def load_run(self, row: RunRow) -> LoadedModel:
        """The model of a training run. Raises as `load` does."""
        label = row.name or f"{row.config.get('regime')} {row.id[-4:]}"
        return self._load_checkpoint(artifact_path(row.path, CHECKPOINT), row.id, label, row)

    def load_again(self, entry: EvaluatedModel) -> LoadedModel:
        """A model of a stored evaluation, with gradients in the form that it had. Raises WeightsError if it changed."""
        source = source_of(entry, self.store)
        classifier = self._classifier(source)
        if (classifier.fingerprint or "") != entry.fingerprint:
            raise WeightsError(
                f"the model {entry.name} is not the one that the evaluation was started with: it answers differently",
                "start a new evaluation",
            )
        return self._ready(replace(entry, source=source), self._fitting(classifier, entry.name))

    def _load_checkpoint(self, path: Path, name: str, label: str, row: RunRow | None) -> LoadedModel:
        classifier, info, data = self._classifier(str(path)), read_info(path), self.data
        net = self._fitting(classifier, name)
        if sorted(info.class_names) != sorted(data.class_names) or info.image_shape != data.image_shape:
            raise UsageError(
                f"{name} was trained on {info.dataset}, whose classes or image size are not those of {data.name}",
                "choose a model that was trained for this data set, or --dataset NAME",
            )
        if info.dataset != data.name:
            self.session.note(f"note: {name} was trained on {info.dataset}, not on {data.name}")
        of_model = {
            "architecture": info.architecture,
            "regime": info.regime,
            "weights_sha256": classifier.weights_sha256,
        }
        model_id = self.store.record_model(f"{info.architecture}-{info.regime}", **of_model)
        entry = EvaluatedModel(str(path), name, label, model_id, classifier.fingerprint or "", "", info.regime)
        return self._ready(replace(entry, train_run=row.id, train_seed=row.seed) if row else entry, net)

    def _ready(self, entry: EvaluatedModel, net: nn.Module) -> LoadedModel:
        """With gradients in the entry's form, or in the one that is chosen now where it has none yet."""
        form = check_form(entry.form) if entry.form else None
        fast = gradient_model(net, self.data.image_shape, self.session.precision, form)
        if fast.note:
            self.session.note(f"note: {fast.note}")
        doubts = examine(net, self._x_BCHW, entry.label, fast)
        return LoadedModel(replace(entry, form=fast.form), Subject(entry.label, net, fast), tuple(doubts))

    def _classifier(self, source: str) -> Classifier:
        described = self._described
        if source.endswith(".safetensors"):
            described = ClassifierSource(offline=described.offline, progress=described.progress, note=described.note)
        return open_classifier(source, described, self._x_BCHW.device)

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
        for net in (classifier, ColourInput(classifier)) if data.image_shape[0] == 1 else (classifier,):
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


def once_each(loaded: Iterable[LoadedModel], session: Session) -> list[LoadedModel]:
    """Without those that are another one under a second name."""
    kept: dict[str, LoadedModel] = {}
    for one in loaded:
        if one.entry.id in kept:
            session.note(f"note: {one.entry.name} is {kept[one.entry.id].entry.name}, and is evaluated once")
        kept.setdefault(one.entry.id, one)
    return list(kept.values())
