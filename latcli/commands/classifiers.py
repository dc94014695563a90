"""Classifiers by name: training runs as such, what the options say of one, and the command `latcli classes`."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from latcli.engine import registry
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier, ClassifierSource
from latcli.engine.registry import nearest
from latcli.engine.vision import import_timm
from latcli.errors import UsageError
from latcli.options import ClassesOptions, ClassifierOptions
from latcli.results import ClassList, FoundClass
from latcli.session import Session
from latcli.store.files import artifact_path
from latcli.store.store import DATABASE, RunRow, Store

#: The model that a run of `latcli train` leaves in its folder.
CHECKPOINT = "checkpoint.safetensors"

#: The id of a training run, or the four digits that it ends with.
_RUN = re.compile(r"(\d{8}-\d{6}-train-)?[0-9a-f]{4}")


def named_run(store: Store, name: str) -> RunRow | None:
    """The run that a model's name stands for, by its id, the end of its id, or its own name; None for other models.

    Raises UsageError for the id of a run that is not there.
    """
    if _RUN.fullmatch(name):
        return store.find_run(name)
    known = _may_be_a_run(name) and store.query("SELECT id FROM runs WHERE name = :name", {"name": name})
    return store.find_run(name) if known else None


def classifier_path(name: str, store: Path) -> str:
    """The name as it is, or, where it stands for a training run of the store, the path of that run's model.

    Raises UsageError for a run that is not of train or has not finished, StoreError where the store fails.
    """
    if not _may_be_a_run(name) or not (store / DATABASE).exists():
        return name
    with Store.open_existing(store) as opened:
        row = named_run(opened, name)
    if row is None:
        return name
    if row.command != "train":
        raise UsageError(f"{row.id} is a run of {row.command}, not of train", "`latcli runs list --command train`")
    path = artifact_path(row.path, CHECKPOINT)
    if not path.exists():
        raise UsageError(
            f"the run {row.id} has no model: it is {row.status}",
            f"let it finish first: latcli train --resume {row.id.rpartition('-')[2]}",
        )
    return str(path)


def _may_be_a_run(name: str) -> bool:
    if _RUN.fullmatch(name):
        return True
    return re.fullmatch(r"[\w.-]+", name) is not None and name not in registry.names("classifier")


def classifier_source(options: ClassifierOptions, session: Session) -> ClassifierSource:
    """What the options say of a classifier besides its name."""
    size = options.input_size
    return ClassifierSource(
        weights=options.classifier_weights,
        offline=session.offline,
        progress=session.shows_progress,
        class_names=options.class_names,
        mean=options.mean,
        std=options.std,
        input_size=(size[0], size[1]) if size else None,
        resize=options.resize,
        note=session.note,
    )


def run(options: ClassesOptions, session: Session) -> ClassList:
    """The classes of a classifier, or those that the words describe. Raises UsageError where there is none."""
    name = classifier_path(options.classifier, session.store)
    classifier = open_classifier(name, classifier_source(options, session), torch.device("cpu"))
    words = [word.casefold() for text in options.words for word in text.split()]
    descriptions = _descriptions(classifier)
    named, described = [], []
    for index, class_name in enumerate(classifier.class_names):
        wordnet_id = classifier.class_ids[index] if classifier.class_ids else None
        other_names, definition = descriptions.get(wordnet_id or "", ("", ""))
        one = FoundClass(index, class_name, wordnet_id, definition or None)
        if all(_has(f"{class_name} {other_names} {wordnet_id}", word) for word in words):
            named.append(one)
        elif all(_has(f"{class_name} {other_names} {definition}", word) for word in words):
            described.append(one)
    found = named + described
    if not found:
        asked = " ".join(options.words)
        close = nearest(asked, classifier.class_names)
        hint = f"the nearest: {', '.join(close)}" if close else "leave the word out to see all"
        raise UsageError(f"no class of {classifier.name} has '{asked}' in its name or description", hint)
    return ClassList(classifier.name, len(classifier.class_names), tuple(found))


def _has(text: str, word: str) -> bool:
    """Whether a text has the word, also in the plural."""
    return re.search(rf"(?<![^\W_]){re.escape(word)}(e?s)?(?![^\W_])", text.casefold()) is not None


def _descriptions(classifier: Classifier) -> dict[str, tuple[str, str]]:
    """Other names and the definition of each WordNet id."""
    if not classifier.class_ids:
        return {}
    info = import_timm().data.ImageNetInfo("imagenet-22k")
    known = set(info.label_names())
    ids = [one for one in classifier.class_ids if one in known]
    parts = {one: info.label_name_to_description(one, detailed=True).partition(": ") for one in ids}
    return {one: (names, definition) for one, (names, _, definition) in parts.items()}
