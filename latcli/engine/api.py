"""The engine from Python: a photo's path in, its result out; classifiers, detectors and attacks by name."""

from __future__ import annotations

from pathlib import Path

from latcli.engine import registry
from latcli.engine.detectors.base import DetectorContext
from latcli.engine.devices import open_device
from latcli.engine.images import read_photo
from latcli.engine.labels import parse_label
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import ClassifierSource
from latcli.engine.objects import ObjectSettings, open_finder
from latcli.engine.photos import PhotoAttacker, PhotoResult, PhotoSettings


def open_attacker(
    settings: PhotoSettings | None = None,
    objects: ObjectSettings | None = None,
    *,
    classifier: str = registry.DEFAULT_CLASSIFIER,
    attack: str = "pgd",
    device: str = "auto",
    offline: bool = False,
) -> PhotoAttacker:
    """A classifier, an object detector and an attack, ready for any number of photos.

    Names are those of `latcli attack`. Without `objects` the detector is `auto`. Raises UsageError for an unknown name
    and WeightsError for weights that cannot be read or downloaded.
    """
    place = open_device(device)
    model = open_classifier(classifier, ClassifierSource(offline=offline), place)
    finder, _ = open_finder(objects or ObjectSettings(), DetectorContext(model, place, offline))
    return PhotoAttacker(model, finder, registry.load("attack", attack), settings or PhotoSettings())


def attack_photo(attacker: PhotoAttacker, path: str | Path, label: str | None = None) -> PhotoResult:
    """Attack one photo file. `label` is the name or index of its correct class, or None for the clean prediction.

    Raises ImageError for a file that is not a photo, NoObjectError if no object is found, and LatcliError if no pixel
    may change.
    """
    right = None if label is None else parse_label(label, attacker.classifier)
    located = attacker.locate(read_photo(Path(path)), right)
    return attacker.attack_batch([attacker.threat(located)])[0]
