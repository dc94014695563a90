"""Which models an evaluation is of, and how each is opened and looked over; must not attack them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from latcli.commands.trained import CHECKPOINT, classifier_path, means_a_run
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.evaluation.matrix import Subject, examine
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.checkpoint import read_info
from latcli.engine.models.classifier import Classifier
from latcli.engine.models.source import ClassifierSource
from latcli.engine.models.classifier import with_classes_first
from latcli.engine.precision import Form, GradientForm, check_form, gradient_model
from latcli.engine.training.regimes import Regime
from latcli.errors import LatcliError, UsageError, WeightsError
from latcli.results import comparable_config
from latcli.session import Session
from latcli.store.files import artifact_path
from latcli.store.store import RunRow, Store

#: Without names and without --seeds, the latest run of each of these.
DEFAULT_REGIMES: tuple[Regime, ...] = ("natural", "standard", "background")

#: How many test images a model is looked over with.
_LOOKED_AT = 64


@dataclass(frozen=True)
class Entry:
    """One model of an evaluation, as the run's config holds it.

    source: what opens it again: a path or a name. name: the training run, or as the user named it; label: in tables.
    id: in the store. regime, train_run, train_seed: None where it is none of latcli's. form: of its gradients.
    """

    source: str
    name: str
    label: str
    id: str
    regime: str | None
    train_run: str | None
    train_seed: int | None
    fingerprint: str
    form: Form

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Entry:
        """What `to_json` gave. Raises UsageError where something is missing."""
        try:
            return cls(**{**values, "form": check_form(str(values["form"]))})
        except (KeyError, TypeError) as error:
            raise UsageError("the run does not say what its models are", "it was written by another latcli") from error


@dataclass(frozen=True)
class Opened:
    """A model that is ready, and what speaks against it at first sight."""

    entry: Entry
    subject: Subject
    doubts: tuple[Doubt, ...]


class ColourInput(nn.Module):
    """Lets a network that takes colour see grey images: the one channel becomes all three."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
        """logits_BK of grey images."""
        logits_BK: torch.Tensor = self.net(x_B1HW.expand(-1, 3, -1, -1))
        return logits_BK


def usual_dataset(store: Store, named: Iterable[str]) -> str | None:
    """What the first training run among the named models learnt from, else the one that was completed last.

    As its user named it; None where there is no such run. Raises UsageError for the id of a run that is not there.
    """
    runs = [store.find_run(name) for name in named if means_a_run(name)]
    for row in runs or store.runs(command="train", status="completed"):
        return str(row.config["dataset"]) if "dataset" in row.config else None
    return None


def trained_on(store: Store, dataset: str, *, seeds: bool) -> list[RunRow]:
    """The latest completed training run of each regime on this data set; of the three that the paper compares.

    With `seeds` the latest of each seed of the same experiment, for every regime there is. Raises UsageError where
    there is none.
    """
    rows = [row for row in store.runs(command="train", status="completed") if _name_of(row) == dataset]
    chosen: list[RunRow] = []
    for regime in get_args(Regime) if seeds else DEFAULT_REGIMES:
        of_regime = [row for row in rows if row.config.get("regime") == regime]
        chosen += _one_a_seed(of_regime) if seeds else of_regime[:1]
    if not chosen:
        raise UsageError(
            f"no training run of {dataset} in {store.folder} is completed",
            f"name a model, or train: latcli train --dataset {dataset} --regime natural (then standard, background)",
        )
    return chosen


def _one_a_seed(newest_first: Sequence[RunRow]) -> list[RunRow]:
    """The latest run of each seed, of those that were told the same as the latest of all."""
    chosen: dict[int | None, RunRow] = {}
    for row in newest_first:
        if comparable_config(row.config) == comparable_config(newest_first[0].config):
            chosen.setdefault(row.seed, row)
    return sorted(chosen.values(), key=lambda row: row.seed or 0)


def _name_of(row: RunRow) -> str:
    return (row.dataset or "").rpartition("@")[0]


@dataclass(frozen=True)
class Bench:
    """What models are opened for: `x_BCHW` are some test images from all over the set, on the device that computes."""

    store: Store
    data: TrainingData
    batch: int
    session: Session
    x_BCHW: torch.Tensor

    @classmethod
    def of(cls, store: Store, data: TrainingData, batch: int, session: Session) -> Bench:
        """Raises LatcliError where the set has no test images."""
        n = min(_LOOKED_AT, data.test_count)
        if n == 0:
            raise LatcliError(f"{data.name} has no test images", "choose another data set")
        (images,) = data.testing([torch.arange(n) * data.test_count // n])
        return cls(store, data, batch, session, images.x_BCHW)

    def gradients(self, net: nn.Module, form: Form | None = None) -> GradientForm:
        """The network in which gradients are computed, in this form; None: in the one that suits it here."""
        fast = gradient_model(net, self.data.image_shape, self.session.precision, form)
        if fast.note:
            self.session.note(f"note: {fast.note}")
        return fast

    def classifier(self, source: str) -> Classifier:
        """What the name or path stands for. Raises UsageError, WeightsError."""
        wanted = ClassifierSource(None, self.session.offline, self.session.shows_progress)
        return open_classifier(source, wanted, self.x_BCHW.device)


def open_run(row: RunRow, bench: Bench) -> Opened:
    """The model of a training run. Raises as `open_named` does."""
    source = artifact_path(row.path, CHECKPOINT)
    return _open_checkpoint(source, row.id, f"{row.config.get('regime')} {row.id[-4:]}", row, bench)


def open_named(name: str, bench: Bench) -> Opened:
    """A model by the end of a training run's id, by its checkpoint's path, or by any name of a classifier.

    Raises UsageError where it is unknown or does not fit the data, WeightsError where it cannot be read, and
    LatcliError where it gives NaN or no gradient.
    """
    path = classifier_path(name, bench.store.folder)
    if path != name:
        return open_run(bench.store.find_run(Path(path).parent.name), bench)
    if name.endswith(".safetensors"):
        return _open_checkpoint(Path(name).absolute(), name, Path(name).stem, None, bench)
    classifier = bench.classifier(name)
    net = _fitting(classifier, name, bench)
    model_id = bench.store.record_model(name, weights_sha256=classifier.fingerprint)
    fast = bench.gradients(net)
    entry = Entry(name, name, name, model_id, None, None, None, classifier.fingerprint, fast.form)
    return _looked_over(entry, net, fast, bench)


def open_again(entry: Entry, bench: Bench) -> Opened:
    """A model that an evaluation was begun with, in the form it had. Raises WeightsError where it has changed."""
    classifier = bench.classifier(entry.source)
    if classifier.fingerprint != entry.fingerprint:
        raise WeightsError(
            f"the weights of {entry.name} are not those that the evaluation was begun with", "start a new evaluation"
        )
    net = _fitting(classifier, entry.name, bench)
    return _looked_over(entry, net, bench.gradients(net, entry.form), bench)


def _open_checkpoint(path: Path, name: str, label: str, row: RunRow | None, bench: Bench) -> Opened:
    classifier, info, data = bench.classifier(str(path)), read_info(path), bench.data
    net = _fitting(classifier, name, bench)
    if info.class_names != data.class_names or info.image_shape != data.image_shape:
        raise UsageError(
            f"{name} was trained on {info.dataset}, whose classes or image size are not those of {data.name}",
            "choose a model that was trained for this data set, or --dataset NAME",
        )
    if info.dataset != data.name:
        bench.session.note(f"note: {name} was trained on {info.dataset}, not on {data.name}")
    model_id = bench.store.record_model(
        f"{info.architecture}-{info.regime}",
        architecture=info.architecture,
        weights_sha256=classifier.fingerprint,
        regime=info.regime,
    )
    fast = bench.gradients(net)
    entry = Entry(
        source=str(path),
        name=name,
        label=label,
        id=model_id,
        regime=info.regime,
        train_run=None if row is None else row.id,
        train_seed=None if row is None else row.seed,
        fingerprint=classifier.fingerprint,
        form=fast.form,
    )
    return _looked_over(entry, net, fast, bench)


def _fitting(classifier: Classifier, name: str, bench: Bench) -> nn.Module:
    """The network as it takes this set's images; on photos a Classifier.

    Raises UsageError where classes or images do not fit.
    """
    theirs, ours, data = classifier.class_names, bench.data.class_names, bench.data
    if isinstance(data, PhotoFolder):
        return with_classes_first(classifier, ours, data.name)
    if len(theirs) != len(ours):
        raise UsageError(
            f"{name} has {len(theirs):,} classes, and {data.name} has {len(ours):,}",
            "choose a model that was trained for this data set, or --dataset NAME",
        )
    if set(theirs) == set(ours) and theirs != ours:
        raise UsageError(f"{name} has the classes of {data.name} in another order", "give it in the data set's order")
    failures = []
    for net in (classifier, ColourInput(classifier)) if data.image_shape[0] == 1 else (classifier,):
        try:
            with torch.no_grad():
                net(bench.x_BCHW[:1])
        except RuntimeError as error:
            failures.append(str(error).partition("\n")[0])
        else:
            return net
    shape = "x".join(map(str, data.image_shape))
    raise UsageError(f"{name} does not take images of {shape}: {failures[0]}", "choose a model for images of this size")


def _looked_over(entry: Entry, net: nn.Module, fast: GradientForm, bench: Bench) -> Opened:
    subject = Subject(entry.label, net, fast)
    return Opened(entry, subject, tuple(examine(subject, bench.x_BCHW)))


def once_each(opened: Iterable[Opened], session: Session) -> list[Opened]:
    """Without those that are another one under a second name."""
    kept: dict[str, Opened] = {}
    for one in opened:
        if one.entry.id in kept:
            session.note(f"note: {one.entry.name} is {kept[one.entry.id].entry.name}, and is evaluated once")
        kept.setdefault(one.entry.id, one)
    return list(kept.values())
