"""Photos, their labels, their objects, a classifier and the pictures, for the commands `attack` and `mask`."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from latcli.commands.classifiers import classifier_path, classifier_source
from latcli.engine.detectors.base import Box, Detection, DetectorContext
from latcli.engine.devices import open_device
from latcli.engine.distributed import Ranks
from latcli.engine.images import Photo, damage_as_errors, decode_png, encode_png
from latcli.engine.labels import labeller
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier
from latcli.engine.objects import (
    WITHOUT_BOXES,
    DetectionCache,
    ObjectFinder,
    ObjectSettings,
    check_values,
    known_values,
    open_finder,
)
from latcli.engine.photo_files import PhotoSource, find_sources
from latcli.engine.photos import Located, PhotoAttacker, PhotoResult
from latcli.errors import ContractError, ImageError, LatcliError, NoObjectError, StoreError, UsageError, WeightsError
from latcli.options import ObjectOptions, PhotoOptions, given, parse_box
from latcli.reporting.figures import (
    Guess,
    Panel,
    amplified_difference,
    difference_gain,
    triptych,
    without_glyph_warnings,
)
from latcli.results import DocumentError, Failure, Label, Prediction, read
from latcli.session import Session
from latcli.store.files import StagedFile
from latcli.store.schema import utc_now
from latcli.store.store import Store


def detector_values(options: ObjectOptions) -> dict[str, Any]:
    """Settings of detectors as `open_detector` takes them: `--detector-NAME`, `--DETECTOR-NAME`, `--detector-option`.

    Raises UsageError for a --detector-option that the detector does not have.
    """
    stated: dict[str, Any] = {}
    for text in options.detector_option:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"'{text}' is not a setting of a detector", "for example --detector-option threshold=0.3")
        stated[name.strip().replace("-", "_")] = value.strip()
    check_values(options.detector, stated)
    named = {name: value for name, value in asdict(options).items() if "_" in name and name not in _NO_SETTINGS}
    overruled = [name for name in named for other in stated if name == other or name.endswith(f"_{other}")]
    return {name.removeprefix("detector_"): named[name] for name in named.keys() - set(overruled)} | stated


#: Options that only a detector reads.
DETECTING = tuple(field.name for field in fields(ObjectOptions) if field.name not in ("trust_weights", "soft"))
#: Options whose names look like a detector's setting, and are none.
_NO_SETTINGS = ("detector_option", "trust_weights")


def object_settings(options: ObjectOptions, **more: Any) -> ObjectSettings:
    """How the object of each photo is found; `more` settings are no detector's. Raises UsageError."""
    settings = ObjectSettings(
        detector=options.detector,
        values=detector_values(options),
        which=options.boxes,
        refine=options.refine,
        soft=options.soft,
        **more,
    )
    _refuse_idle(options, settings)
    return settings


def _refuse_idle(options: ObjectOptions, settings: ObjectSettings) -> None:
    """Raise UsageError for options of detectors that were given, and that change nothing about where the object is."""
    instead = {"--box": settings.boxes, "--mask": settings.mask, "--center": settings.center}
    chosen = next((option for option, value in instead.items() if value not in ((), None)), None)
    if chosen is not None:
        used = {"refine"} if settings.boxes else set()
    else:
        chosen, known = f"--detector {options.detector}", known_values(options.detector)
        used = {"detector", "detector_option"}  # its names are checked
        used |= {name for name in DETECTING if name.removeprefix("detector_") in known}
        used |= set() if options.detector in WITHOUT_BOXES else {"boxes", "refine"}
    asked = given(options)
    for name in DETECTING:
        if name in asked and name not in used:
            raise UsageError(f"--{name.replace('_', '-')} is not used with {chosen}", "leave one of them out")


def finder_of(
    settings: ObjectSettings,
    options: ObjectOptions,
    session: Session,
    classifier: Classifier,
    cache: DetectionCache | None = None,
) -> tuple[ObjectFinder, str]:
    """What finds objects in photos for the classifier, and a line that says so. Raises as `open_finder` does."""
    context = DetectorContext(
        classifier, classifier.device, session.offline, session.shows_progress, options.trust_weights
    )
    return open_finder(settings, context, cache)


class OfPhoto(Protocol):
    """A result or a failure of the photo that `image` names."""

    @property
    def image(self) -> str:
        """The photo's name."""


R = TypeVar("R", bound=OfPhoto)


@dataclass(frozen=True)
class Chunk(Generic[R]):
    """What a rank has made of some photos.

    `done` photos have ended with it: with results, whose files wait under temporary names, or with failures.
    """

    results: tuple[R, ...] = ()
    files: tuple[StagedFile, ...] = ()
    failures: tuple[Failure, ...] = ()
    done: int = 0


class PhotoWork:
    """What a command on photos works with, opened and looked at before any long work.

    `sources` are the photos and `labels` their right classes, None where the clean prediction is to be taken;
    `failures` are the photos that were left out.
    """

    def __init__(self, options: PhotoOptions, session: Session, mask: Path | None = None) -> None:
        """Open the classifier and the detectors. Raises UsageError, ImageError and WeightsError."""
        self._session, self._on_miss = session, options.on_miss
        self.failures: list[Failure] = []
        self._ended: set[str] = set()
        boxes = tuple(parse_box(text) for text in options.box)
        settings = object_settings(options, boxes=boxes, mask=mask, center=options.center, on_miss=options.on_miss)
        self.sources = find_sources(options.photos)
        self._positions = {source.name: index for index, source in enumerate(self.sources)}
        device = open_device(session.device)
        name = classifier_path(options.classifier, session.store)
        self.classifier = open_classifier(name, classifier_source(options, session), device)
        label_of = labeller(self.classifier, options.label, options.labels, options.labels_from)
        self.labels: dict[PhotoSource, Label | None] = {}
        for source in self.sources:
            try:
                self.labels[source] = label_of(source)
            except LatcliError as error:
                self.fail(source.name, error)
        self.finder, about = finder_of(settings, options, session, self.classifier)
        if settings.detector == "auto" and self.finder.detectors:
            session.note(f"objects are found by {about}")
        workers = threads_beside(device)
        self.threads = ThreadPoolExecutor(workers) if workers else None
        self._ahead = 2 * workers
        if self.finder.masks is not None:
            self.finder.masks.refuse_shared(source.path for source in self.sources)

    def located(self, attacker: PhotoAttacker, store: Store | None) -> Iterator[Located]:
        """The photos with their objects, read one after the other; those that cannot be are failures.

        Detections are kept in the store, if there is one.
        """
        self.finder.cache = None if store is None else StoredDetections(store)
        with closing(self._read(attacker)) as photos:
            for source, photo in photos:
                try:
                    yield attacker.locate(photo(), self.labels[source])
                except (ContractError, StoreError, WeightsError):
                    raise  # no fault of this photo: the next one would meet the same
                except LatcliError as error:
                    self.fail(source.name, error)

    def _read(self, attacker: PhotoAttacker) -> Generator[tuple[PhotoSource, Callable[[], Photo]]]:
        """Each photo's source and what reads it; beside a GPU, threads read ahead, and look for objects on the CPU."""
        if self.threads is None:
            yield from ((source, source.read) for source in self.labels)
            return

        def prepared(source: PhotoSource) -> Photo:
            attacker.go_on()
            photo = source.read()
            attacker.look_ahead(photo)
            return photo

        waiting: deque[tuple[PhotoSource, Future[Photo]]] = deque()
        try:
            for source in self.labels:
                waiting.append((source, self.threads.submit(prepared, source)))
                if len(waiting) > self._ahead:
                    first, photo = waiting.popleft()
                    yield first, photo.result
            yield from ((source, photo.result) for source, photo in waiting)
        finally:
            for _, photo in waiting:
                photo.cancel()

    def share(self, ranks: Ranks, done: Container[str] = ()) -> int:
        """Take this rank's part of the photos that are not done; returns how many there are for all ranks together."""
        labels = [(source, label) for source, label in self.labels.items() if source.name not in done]
        self.labels = dict(ranks.share(labels))
        self._ended = {one.image for one in self.failures}
        if ranks.rank:  # rank 0 reports those that all have met already
            self.failures.clear()
        return len(labels)

    def chunk(self, results: Iterable[R] = (), files: Iterable[StagedFile] = (), ended: Iterable[str] = ()) -> Chunk[R]:
        """Results, and the failures since the last chunk; what failed has ended, and so have the `ended` photos."""
        failures = tuple(self.failures)
        self.failures.clear()
        new = {*ended, *(one.image for one in failures)} - self._ended
        self._ended |= new
        return Chunk(tuple(results), tuple(files), failures, len(new))

    def fail(self, name: str, error: LatcliError) -> None:
        """Leave a photo out, and say why. Where it is the only one, and is not to be skipped, the error is raised."""
        skipped = isinstance(error, NoObjectError) and self._on_miss == "skip"
        if len(self.sources) == 1 and not skipped:
            raise error
        message = error.message if name in error.message else f"{name}: {error.message}"
        self.failures.append(Failure(name, message, error.hint, int(error.exit_code), skipped))
        self._session.note(f"{'skipped' if skipped else 'error'}: {message}")

    def facts(self) -> str:
        """A hash of what all ranks must have: names and sizes of photos, labels, classifier, detectors."""
        digest = sha256(f"{self.classifier.name} {self.classifier.fingerprint}".encode())
        digest.update(repr(self.finder.fingerprints).encode())
        for source in self.sources:
            size = None
            with suppress(OSError):  # reported when it is read
                size = None if source.is_stdin else source.path.stat().st_size
            digest.update(repr((source.name, size, self.labels.get(source))).encode())
        return digest.hexdigest()

    @cached_property
    def objects_by(self) -> dict[str, Any]:
        """What objects depend on, as a configuration has it: fingerprints of the detectors and of the masks given."""
        masks = self.finder.mask_fingerprint(source.name for source in self.sources)
        return {"detector_fingerprints": self.finder.fingerprints, "mask_fingerprint": masks}

    def position(self, name: str) -> int:
        """The place of a photo among the sources."""
        return self._positions[name]

    def in_order(self, results: Iterable[R]) -> tuple[R, ...]:
        """Results or failures in the order of their photos."""
        return tuple(sorted(results, key=lambda one: self._positions[one.image]))


def threads_beside(device: torch.device) -> int:
    """How many threads work beside a device: none beside a CPU, whose cores they would take from the attack."""
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def open_photos(options: PhotoOptions, session: Session, ranks: Ranks, mask: Path | None = None) -> PhotoWork:
    """What all ranks work with, the same on each. Raises as PhotoWork does, also for what fails on another rank."""
    return ranks.agreed(
        lambda: PhotoWork(options, session, mask),
        PhotoWork.facts,
        "the photos, their labels or the weights",
        "put the same files on every machine",
    )


def located_values(located: Located) -> dict[str, Any]:
    """The fields of `results.LocatedPhoto`."""
    photo, found = located.photo, located.found
    share, lift = located.evidence or (None, None)
    return {
        "image": photo.name,
        "sha256": photo.sha256,
        "height": photo.size[0],
        "width": photo.size[1],
        "label": located.label,
        "clean": located.clean,
        "was_right": located.clean.rank == 1,
        "detector": found.detector,
        "detector_weights": found.weights,
        "detector_confidence": found.confidence,
        "localized_by": found.how,
        "object_percent": 100 * located.object_share,
        "evidence_inside": share,
        "evidence_lift": lift,
        "boxes": tuple((box.x0, box.y0, box.x1, box.y1, box.score, box.name) for box in found.boxes),
        "notes": located.notes,
    }


# detections kept in the store between runs: the engine's detections as rows, and back

_FOUND = """
    SELECT boxes_json, segmentations FROM detections
    WHERE image = :image AND detector = :detector AND target = :target
"""


class StoredDetections:
    """The engine's `DetectionCache` on a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, photo: Photo, fingerprint: str, target: str) -> Detection | None:
        """The detection of the same photo by the same detector for the same target, if there was one before."""
        key = {"image": _key(photo), "detector": fingerprint, "target": target}
        for row in self.store.query(_FOUND, key):
            with suppress(DocumentError, ImageError):  # damaged: it is found and kept anew
                return _detection(row["boxes_json"], row["segmentations"], photo)
        return None

    def put(self, photo: Photo, fingerprint: str, target: str, detection: Detection) -> None:
        """Keep a detection."""
        row: dict[str, Any] = {"image": _key(photo), "detector": fingerprint, "target": target, "created": utc_now()}
        row |= {"boxes_json": json.dumps([asdict(box) for box in detection.boxes]), "segmentations": None}
        if detection.segmentations_NHW is not None:  # kept as one tall grey picture
            _, width = photo.size
            row["segmentations"] = encode_png(detection.segmentations_NHW.reshape(-1, width).cpu().numpy())
        with self.store.writing() as db:
            db.table("images").insert({"sha256": row["image"]}, ignore=True)
            db.table("detections").upsert(row, pk=("image", "detector", "target"))


def _detection(boxes_json: str, segmentations: bytes | None, photo: Photo) -> Detection:
    """Raises DocumentError or ImageError where it is not what `put` kept."""
    boxes = tuple(read(list[Box], boxes_json))
    height, width = photo.size
    stacked_HW = None
    if segmentations is not None:
        with damage_as_errors("the silhouettes"):
            stacked_HW = torch.from_numpy(np.array(decode_png(segmentations))).byte()
    return Detection(boxes, None if stacked_HW is None else stacked_HW.view(-1, height, width))


def _key(photo: Photo) -> str:
    # The same file at another size (attacked at the model's resolution) is another image to a detector.
    height, width = photo.size
    return f"{photo.sha256}@{width}x{height}" if photo.resized else photo.sha256


# photos that installed packages contain

#: Package, and path of a photo in it.
_PACKAGE_PHOTOS = (
    ("ultralytics", "assets/bus.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
#: Their correct classes.
PACKAGE_LABELS = Path(__file__).with_name("package_photos.csv")


def package_photos() -> tuple[Path, ...]:
    """The photos. Raises LatcliError where a package does not contain its photo."""
    return tuple(_photo(package, path) for package, path in _PACKAGE_PHOTOS)


def _photo(package: str, path: str) -> Path:
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    photo = Path(folders[0], path) if folders else None
    if photo is None or not photo.is_file():
        raise LatcliError(
            f"the package {package} does not contain {Path(path).name}", f"reinstall it: pip install {package}"
        )
    return photo


# pictures of attacked photos, drawn and kept on a thread while the next photos are attacked

Keep = Callable[[str, bytes, str, str], object]


@contextmanager
def drawing(attacker: PhotoAttacker, keep: Keep, figures: bool) -> Iterator[Pictures]:
    """Pictures of results, all of them kept when the block ends.

    `keep` is given each one's name, bytes, kind (mask, difference, figure), and the sha256 of the photo that it shows.
    Where an error ends it, what is quickly drawn is kept, and nobody waits for a figure that is not begun.
    """
    # One thread: matplotlib bears no two, and an attack on the CPU wants the other cores.
    with without_glyph_warnings(), ThreadPoolExecutor(1, thread_name_prefix="pictures") as thread:
        pictures = Pictures(attacker, keep, figures, thread)
        try:
            yield pictures
            pictures.finish()
        except BaseException:
            attacker.give_up()
            pictures.drop_figures()
            with suppress(Exception):  # the first error is the one to report
                pictures.finish()
            raise


class Pictures:
    """Draws and keeps what shows a result: the mask, the amplified difference and, if `figures`, Figure 1."""

    def __init__(self, attacker: PhotoAttacker, keep: Keep, figures: bool, thread: ThreadPoolExecutor) -> None:
        """Use `drawing`."""
        self.attacker, self._keep_file, self._figures, self._thread = attacker, keep, figures, thread
        self._asked: list[tuple[PhotoResult, dict[str, str]]] = []
        self._begun: list[tuple[str, Future[None]]] = []
        self._masks: set[str] = set()

    def ask(self, attacked: PhotoResult, stem: str, suffix: str = "") -> dict[str, str]:
        """Ask for a result's pictures; returns the names of their files by kind. The mask is one for each stem."""
        names = {"mask": f"{stem}-mask.png", "difference": f"{stem}{suffix}-difference.png"}
        if self._figures:
            names["figure"] = f"{stem}{suffix}-figure.png"
        self._asked.append((attacked, {k: v for k, v in names.items() if k != "mask" or stem not in self._masks}))
        self._masks.add(stem)
        return names

    def begin(self) -> None:
        """Have the thread draw what was asked for, once it has drawn what was asked for before."""
        self._wait()
        asked, self._asked = self._asked, []
        for attacked, names in asked:
            draw: dict[str, tuple[Callable[..., bytes], tuple[Any, ...]]] = {
                "difference": (_difference, (attacked,)),
                "mask": (encode_png, (attacked.located.mask_HW,)),
            }
            if "figure" in names:  # the classifier is asked here, where the attack is not running beside it
                draw["figure"] = triptych, self._figure_1(attacked)
            for kind, name in names.items():
                image = attacked.located.photo.sha256
                thread = self._thread if kind == "figure" else self.attacker.threads or self._thread
                self._begun.append((kind, thread.submit(self._keep, kind, name, image, *draw[kind])))

    def finish(self) -> None:
        """Wait until all that was asked for is drawn and kept; raises what the drawing raised."""
        self.begin()
        self._wait()

    def drop_figures(self) -> None:
        """Leave out the figures that are not being drawn yet, which are what takes time."""
        for _, names in self._asked:
            names.pop("figure", None)
        self._begun = [(kind, future) for kind, future in self._begun if not (kind == "figure" and future.cancel())]

    def _wait(self) -> None:
        while self._begun:
            self._begun.pop(0)[1].result()

    def _keep(self, kind: str, name: str, image: str, draw: Callable[..., bytes], given: tuple[Any, ...]) -> None:
        self._keep_file(name, draw(*given), kind, image)

    def _figure_1(self, attacked: PhotoResult) -> tuple[list[Panel], str]:
        one, change = attacked.located, attacked.change
        object_HWC, object_only = self.attacker.object_only(one)
        panels = [
            _panel("photo", one.photo.levels_HWC, one.clean, one),
            _panel("background blacked out", object_HWC, object_only, one),
            _panel("adversarial photo", attacked.adversarial_HWC, attacked.adversarial, one),
        ]
        caption = (
            f"{one.label.name}: {100 * change.altered:.1f} % of pixels altered, by at most "
            f"{255 * change.linf_outside:.0f}/255; {self.attacker.classifier.name}, object from {one.found.how}"
        )
        return panels, caption


def _panel(title: str, levels_HWC: np.ndarray, prediction: Prediction, one: Located) -> Panel:
    guesses = [Guess(guess.name, guess.p, guess.index == one.label.index) for guess in prediction.top]
    if not any(guess.right for guess in guesses):
        guesses.append(Guess(f"{one.label.name} (rank {prediction.rank})", prediction.confidence, True))
    return Panel(title, levels_HWC, guesses)


def _difference(attacked: PhotoResult) -> bytes:
    gain = difference_gain(attacked.change.linf_outside)
    return encode_png(amplified_difference(attacked.located.photo.levels_HWC, attacked.adversarial_HWC, gain))


def overlay(located: Located) -> bytes:
    """PNG of a photo with its background darkened, and the edge of the object drawn on it in magenta."""
    import cv2

    object_HW1 = located.mask_HW[:, :, None] / 255.0
    grey_HW1 = located.photo.levels_HWC.mean(axis=2, keepdims=True)
    shown_HWC = np.rint(object_HW1 * located.photo.levels_HWC + (1.0 - object_HW1) * 0.35 * grey_HW1).astype(np.uint8)
    outlines, _ = cv2.findContours((located.mask_HW >= 128).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(located.photo.size) / 300))
    return encode_png(cv2.drawContours(np.ascontiguousarray(shown_HWC), outlines, -1, (255, 0, 200), thickness))
