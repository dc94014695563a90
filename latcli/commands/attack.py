"""`latcli attack`: photos in, adversarial photos and a stored run out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from types import TracebackType
from typing import Any, Self

import torch

from latcli.commands.photos import PhotoWork, located_values
from latcli.commands.pictures import PictureDrawer
from latcli.engine import registry
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.evaluation.distrust import examine
from latcli.engine.failures import explained
from latcli.engine.images import sha256_of
from latcli.engine.labels import parse_label
from latcli.engine.localize import Region
from latcli.engine.models.classifier import Classifier
from latcli.engine.photos import Located, PhotoAttacker, PhotoResult, PhotoSettings, batches
from latcli.errors import LatcliError, StoreError
from latcli.options import AttackOptions
from latcli.reporting.text import printable
from latcli.results import (
    AttackedPhoto,
    AttackProtocol,
    AttackResult,
    PlannedPhoto,
    RegionSummary,
    columns,
    median_smallest_epsilon,
    photo_summary,
    to_json,
)
from latcli.session import Session
from latcli.store.store import Run, Store

_STOP_RANKS = {"never": 0, "top1": 1, "top10": 10}


@dataclass(frozen=True)
class Task:
    """One region and one epsilon of a run; `smallest` where the smallest epsilon up to this one is searched for."""

    region: Region
    epsilon: float
    smallest: bool = False

    def covers(self, photo: AttackedPhoto) -> bool:
        """Whether a photo's result is of this task."""
        return photo.region == self.region and (self.smallest or photo.epsilon == self.epsilon)


def run(options: AttackOptions, session: Session) -> AttackResult:
    """Attack every photo, keep the results, and return them; see `attacking`."""
    with attacking(options, session) as result:
        return result


@contextmanager
def attacking(options: AttackOptions, session: Session) -> Iterator[AttackResult]:
    """Attack every photo and give the result as soon as it is known; leaving the block draws the last pictures.

    Until then the run is not completed, and one that is interrupted while it draws is an interrupted one. A photo
    that fails among several is noted and the others continue; a single photo raises its LatcliError. Raises UsageError,
    ImageError and WeightsError before a run is started, StoreError and ContractError at any time.
    """
    tasks = tasks_of(options)
    attack, search = registry.load("attack", options.attack), attack_settings(options)
    work = PhotoWork(options, session, options.mask)
    settings = PhotoSettings(
        epsilon=tasks[0].epsilon,
        region=tasks[0].region,
        attack=search,
        target=None if options.target is None else parse_label(options.target, work.classifier),
        at_model_resolution=options.at_model_resolution,
        precision=session.precision,
        seed=session.seed,
    )
    attacker = PhotoAttacker(work.classifier, work.finder, attack, settings)
    protocol = protocol_of(options, work.classifier.name, tasks)
    result = AttackResult(
        **asdict(protocol), detector=options.detector, dry_run=options.dry_run, check_success=options.check_success
    )
    with Store.open(session.store) as store:
        store.check_name(session.name)
        photos = work.located(attacker, store)
        # Looked at before anything is measured or a run is started: a photo on its own may raise its error here.
        if (first := next(photos, None)) is not None:
            photos = chain([first], photos)
            result = replace(result, warnings=_doubts(work.classifier, first))
        for warning in result.warnings:
            session.note(f"warning: {warning}")
        if options.dry_run:
            planned = filter(None, [_plan(attacker, tasks, located, work) for located in photos])
            yield replace(result, planned=tuple(planned), failures=tuple(work.failures))
            return
        config = config_of(options) | {"precision": session.precision, "form": attacker.gradients.form}
        config["labels_sha256"] = None if options.labels is None else sha256_of(options.labels)
        if attacker.gradients.note:
            session.note(f"note: {attacker.gradients.note}")
        model = store.record_model(work.classifier.name, weights_sha256=work.classifier.fingerprint)
        given: dict[str, Any] = {"config": config, "seed": session.seed, "device": str(attacker.device), "model": model}
        with store.start_run("attack", **session.of_run(), **given) as stored, explained():
            drawer = PictureDrawer(attacker, figures=not options.no_figures and len(tasks) == 1)
            with drawer, _Keeper(stored, drawer, protocol, work, len(tasks) > 1) as keeper:
                for batch in batches(photos, options.batch):
                    for task in tasks:
                        drawer.begin()  # the results before, while these are made
                        results = _attacked(attacker, task, batch, work)
                        keeper.keep_pictures()
                        for attacked, smallest in results:
                            keeper.keep(attacked, smallest)
                images = tuple(sorted(keeper.kept, key=lambda photo: work.position(photo.image)))
                result = replace(
                    result,
                    run=stored.id,
                    dir=stored.folder,
                    images=images,
                    failures=tuple(work.failures),
                    summary=photo_summary(images) if len(tasks) == 1 else None,
                    regions=tuple(_region_summary(task, images) for task in tasks),
                )
                stored.set_exit_code(result.exit_code)
                if session.json:  # what a document names is there when it is read
                    keeper.keep_pictures()
                yield result
                keeper.keep_pictures()


def tasks_of(options: AttackOptions) -> list[Task]:
    """What is attacked how, in the order of the table: every region with every epsilon. A patch has epsilon 1."""
    regions: Sequence[Region] = options.regions or (options.region,)
    if options.smallest_epsilon is not None:
        return [Task(region, options.smallest_epsilon, smallest=True) for region in regions]
    epsilons = options.epsilon if isinstance(options.epsilon, tuple) else (options.epsilon,)
    return [Task(region, e) for region in regions for e in ((1.0,) if region == "patch" else epsilons)]


def attack_settings(options: AttackOptions) -> AttackSettings:
    """How the attack searches. Raises UsageError."""
    largest = max(task.epsilon for task in tasks_of(options))
    return AttackSettings(
        steps=options.steps,
        step=None if options.step_size is None else options.step_size / (options.radius or largest),
        schedule=options.schedule,
        restarts=options.restarts,
        random_start=not options.no_random_start,
        objective=options.objective,
        norm=options.norm,
        radius=options.radius,
        stop_rank=_STOP_RANKS[options.stop],
    )


def protocol_of(options: AttackOptions, classifier: str, tasks: Sequence[Task]) -> AttackProtocol:
    """What all photos of the run have in common."""
    regions, epsilons = {task.region for task in tasks}, {task.epsilon for task in tasks}
    return AttackProtocol(
        classifier=classifier,
        region=regions.pop() if len(regions) == 1 else None,
        epsilon=epsilons.pop() if len(epsilons) == 1 and options.smallest_epsilon is None else None,
        attack=options.attack,
        norm=options.norm,
        radius=options.radius,
        steps=options.steps,
        restarts=options.restarts,
        objective=options.objective,
        smallest_epsilon_max=options.smallest_epsilon,
    )


def config_of(options: AttackOptions) -> dict[str, Any]:
    """The options in plain values, as the run keeps them; what allows code to run is given anew each time."""
    values: dict[str, Any] = to_json(asdict(options))
    return {name: value for name, value in values.items() if name != "trust_weights"}


def _doubts(classifier: Classifier, located: Located) -> tuple[str, ...]:
    """What speaks against the classifier, from its answers to a photo and its mirror image. Raises LatcliError."""
    x_1Chw = classifier.preprocessing.read(located.photo.image)[None].to(classifier.device)
    return tuple(one.text for one in examine(classifier, torch.cat([x_1Chw, x_1Chw.flip(3)]), classifier.name))


def _attacked(
    attacker: PhotoAttacker, task: Task, batch: Sequence[Located], work: PhotoWork
) -> list[tuple[PhotoResult, float | None]]:
    """The results of one task on some photos, with the smallest epsilon where that is searched for and found."""
    threats = []
    for located in batch:
        try:
            threats.append(attacker.threat(located, task.region, task.epsilon))
        except LatcliError as error:
            work.fail(located.photo.name, error)
    if not threats:
        return []
    if task.smallest:
        return attacker.smallest_epsilon([one.located for one in threats], task.region, task.epsilon)
    return [(result, None) for result in attacker.attack_batch(threats)]


def _plan(attacker: PhotoAttacker, tasks: Sequence[Task], located: Located, work: PhotoWork) -> PlannedPhoto | None:
    seconds, first = 0.0, None
    for task in tasks:
        try:
            threat = attacker.threat(located, task.region, task.epsilon)
        except LatcliError as error:
            work.fail(located.photo.name, error)
            continue
        first = first or threat
        # A search attacks once at the largest epsilon, then once for each halving of the whole levels below it.
        trials = 1 + math.ceil(math.log2(max(1, int(255 * task.epsilon + 1e-6)))) if task.smallest else 1
        seconds += trials * attacker.seconds(threat)
    if first is None:
        return None
    return PlannedPhoto(
        **located_values(located),
        background_percent=100 * first.background_share,
        visible_background_percent=100 * first.visible_share,
        seconds=seconds,
    )


def _region_summary(task: Task, images: Sequence[AttackedPhoto]) -> RegionSummary:
    photos = [photo for photo in images if task.covers(photo)]
    return RegionSummary(
        region=task.region,
        epsilon=None if task.smallest else task.epsilon,
        smallest_epsilon=median_smallest_epsilon(photos) if task.smallest else None,
        summary=photo_summary(photos),
    )


class _Keeper:
    """Writes results into a run, one photo at a time: the file first, its row after; pictures as they are drawn.

    `kept` are the results in plain values. With `several` tasks, file names tell them apart. A context: where it is
    left by an error or an interruption, the pictures that were started are kept, but for figures that would take long.
    """

    def __init__(
        self,
        stored: Run,
        drawer: PictureDrawer,
        protocol: AttackProtocol,
        work: PhotoWork,
        several: bool,
    ) -> None:
        self._stored, self._drawer = stored, drawer
        self._protocol, self._work, self._several = protocol, work, several
        self._stems = file_names([source.name for source in work.sources])
        self.kept: list[AttackedPhoto] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drawer.drop_figures()
            with suppress(StoreError):  # the first error is the one to report
                self.keep_pictures()

    def keep(self, attacked: PhotoResult, smallest: float | None) -> None:
        """Write the adversarial photo and its row, and have its pictures drawn."""
        located, threat, change = attacked.located, attacked.threat, attacked.change
        stem = self._stems[self._work.position(located.photo.name)]
        suffix = f"-{threat.region}-{_levels_text(threat.epsilon)}" if self._several else ""
        files = {"adversarial": f"{stem}{suffix}-adversarial.png"}
        sha256 = located.photo.sha256
        self._stored.write_artifact(files["adversarial"], attacked.adversarial_png, "adversarial", sha256)
        files |= self._drawer.ask(attacked, stem, suffix)
        target = self._drawer.attacker.settings.target
        photo = AttackedPhoto(
            **located_values(located),
            region=threat.region,
            epsilon=threat.epsilon,
            adversarial=attacked.adversarial,
            fooled=attacked.fooled,
            target=target,
            p_target=attacked.p_target,
            reached=attacked.reached,
            smallest_epsilon=smallest,
            background_percent=100 * threat.background_share,
            visible_background_percent=100 * threat.visible_share,
            altered_percent=100 * change.altered,
            linf_inside=change.linf_inside,
            linf_outside=change.linf_outside,
            l2=change.l2,
            psnr=change.psnr if math.isfinite(change.psnr) else None,
            ssim=change.ssim,
            files=files,
        )
        self._stored.insert("attacks", [columns(self._protocol) | columns(photo)])
        folder = self._stored.folder
        self.kept.append(replace(photo, files={kind: str(folder / name) for kind, name in files.items()}))

    def keep_pictures(self) -> None:
        """Write the pictures that were asked for; waits for them."""
        for picture in self._drawer.drawn():
            self._stored.write_artifact(picture.file_name, picture.png, picture.kind, picture.image)


def _levels_text(epsilon: float) -> str:
    """An epsilon for a file's name: 8 for 8/255, else a decimal number."""
    levels = round(255 * epsilon, 6)
    return f"{levels:g}"


def file_names(photos: Sequence[str]) -> list[str]:
    """For each photo the beginning of its files' names, such that any file system takes them and no two are alike."""
    taken: set[str] = set()
    names = []
    for photo in photos:
        last = re.split(r"[/\\]", photo)[-1]
        safe = re.sub(r"[^\w.-]+", "_", printable(last.rpartition(".")[0] or last))[:80].lstrip("._")
        stem = safe.encode()[:200].decode(errors="ignore") or "photo"  # file systems count bytes
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
