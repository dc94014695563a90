"""`latcli attack`: photos in, adversarial photos and a stored run out."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import torch

from latcli.commands.photos import Chunk, Pictures, drawing, located_values, open_photos
from latcli.commands.resume import contents_of, kept_options, resumable_run, running
from latcli.engine import registry
from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.distributed import Ranks
from latcli.engine.evaluation.distrust import examine
from latcli.engine.images import sha256_of
from latcli.engine.labels import parse_label
from latcli.engine.localize import Region
from latcli.engine.models.classifier import Classifier
from latcli.engine.photos import Located, PhotoAttacker, PhotoResult, PhotoSettings, Threat, whole_levels
from latcli.errors import ExitCode, LatcliError, UsageError
from latcli.options import AttackOptions, given
from latcli.reporting.text import printable
from latcli.results import (
    MOST_RESULTS,
    AttackedPhoto,
    AttackProtocol,
    AttackResult,
    Failure,
    PlannedPhoto,
    RegionSummary,
    columns,
    from_columns,
    median_smallest_epsilon,
    photo_summary,
    to_json,
)
from latcli.session import Session, Tick, common_folder, connected
from latcli.store.files import StagedFile, stage
from latcli.store.store import Run, RunRow, Store

_STOP_RANKS = {"never": 0, "top1": 1, "top10": 10}


@dataclass(frozen=True)
class Task:
    """One region and one epsilon of a run; `smallest` where the smallest epsilon up to this one is searched for."""

    region: Region
    epsilon: float
    smallest: bool = False

    def covers(self, region: str, epsilon: float) -> bool:
        """Whether a result with this region and epsilon is of this task."""
        return region == self.region and (self.smallest or epsilon == self.epsilon)


#: Of a photo: the beginning of its files' names, and the numbers of the tasks that are done.
_Finished = tuple[str, frozenset[int]]


class Job:
    """All that is settled before the first photo, the same on all ranks.

    protocol: what all photos of the run have in common.
    """

    def __init__(self, options: AttackOptions, session: Session, ranks: Ranks) -> None:
        """Raises UsageError, ImageError and WeightsError, also for what fails on another rank."""
        self.options, self.ranks = options, ranks
        # In the order of the table: every region with every epsilon. A patch has epsilon 1.
        regions: Sequence[Region] = options.regions or (options.region,)
        epsilons = options.epsilon if isinstance(options.epsilon, tuple) else (options.epsilon,)
        if (most := options.smallest_epsilon) is not None:
            self.tasks = [Task(region, most, smallest=True) for region in regions]
        else:
            self.tasks = [Task(region, e) for region in regions for e in ((1.0,) if region == "patch" else epsilons)]
        attack, largest = registry.load("attack", options.attack), max(task.epsilon for task in self.tasks)
        search = AttackSettings(
            steps=options.steps,
            schedule=options.schedule,
            restarts=options.restarts,
            random_start=not options.no_random_start,
            objective=options.objective,
            norm=options.norm,
            radius=options.radius,
            stop_rank=_STOP_RANKS[options.stop],
        )
        for epsilon in epsilons:
            if abs(255 * epsilon - (levels := whole_levels(epsilon))) > 1e-3:
                session.note(f"epsilon {epsilon:g} is cut to whole 8-bit levels: {levels}/255")
        self.work = open_photos(options, session, ranks, options.mask)
        classifier = self.work.classifier
        settings = PhotoSettings(
            epsilon=self.tasks[0].epsilon,
            region=self.tasks[0].region,
            attack=search,
            step_size=options.step_size,
            target=None if options.target is None else parse_label(options.target, classifier),
            at_model_resolution=options.at_model_resolution,
            precision=session.precision,
            seed=session.seed,
        )
        self.attacker = PhotoAttacker(classifier, self.work.finder, attack, settings, self.work.threads)
        tried = {task.epsilon for task in self.tasks}
        self.protocol = AttackProtocol(
            classifier=classifier.name,
            region=regions[0] if len(regions) == 1 else None,
            epsilon=largest if len(tried) == 1 and options.smallest_epsilon is None else None,
            smallest_epsilon_max=options.smallest_epsilon,
            **{name: getattr(options, name) for name in ("attack", "norm", "radius", "steps", "restarts", "objective")},
        )

    @property
    def form(self) -> str:
        """Of the gradients."""
        return self.attacker.gradients.form

    @property
    def with_figures(self) -> bool:
        """Whether the paper's Figure 1 is drawn of each photo."""
        return not self.options.no_figures and len(self.tasks) == 1

    def threat(self, located: Located, task: Task) -> Threat | None:
        """What the task lets the attack change; None where that fails, which is noted."""
        try:
            return self.attacker.threat(located, task.region, task.epsilon)
        except LatcliError as error:
            self.work.fail(located.photo.name, error)
            return None

    def place(self, region: str, epsilon: float) -> int | None:
        """The number of a result's task; None where it is of none."""
        return next((number for number, task in enumerate(self.tasks) if task.covers(region, epsilon)), None)

    def is_shown(self, image: str) -> bool:
        """Whether the document has the results of a photo; they are let go otherwise, however many there are."""
        return self.work.position(image) < max(1, MOST_RESULTS // len(self.tasks))

    def share(self, finished: Mapping[str, _Finished]) -> int:
        """Take this rank's part of the photos of which something is left to do; returns how many there are for all."""
        whole = {name for name, (_, numbers) in finished.items() if len(numbers) == len(self.tasks)}
        return self.work.share(self.ranks, whole)


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

    With --resume a run that was cut off goes on, in its folder, with the photos that it has not finished.
    """
    ranks, session = connected(options, session)
    row = ranks.broadcast(None if options.resume is None or ranks.rank else _row_of(options, session))
    if row is not None:
        options, session = _as_before(row, options, session)
    job = Job(options, session, ranks)
    if ranks.rank:
        _follow(job)
    result = AttackResult(
        **asdict(job.protocol), detector=options.detector, dry_run=options.dry_run, check_success=options.check_success
    )
    with Store.open(session.store) as store:
        store.check_name(session.name, "" if row is None else row.id)
        model = store.record_model(job.work.classifier.name, weights_sha256=job.work.classifier.fingerprint)
        before = _Before() if row is None else _before(row, model, job, store)
        left = job.share(ranks.broadcast(before.finished))
        photos = job.work.located(job.attacker, store)
        # Looked at before anything is measured or a run is started: a photo on its own may raise its error here.
        if (first := next(photos, None)) is not None:
            photos = chain([first], photos)
            result = replace(result, warnings=_doubts(job.work.classifier, first))
        for warning in result.warnings:
            session.note(f"warning: {warning}")
        if options.dry_run:
            with session.progress("photos", left, noted=True) as tick:
                result = _with_plan(result, job, photos, tick)
            yield result
            return
        if job.attacker.gradients.note:
            session.note(f"note: {job.attacker.gradients.note}")
        config = config_of(options) | {"precision": session.precision, "form": job.form}
        config |= contents_of(options) | job.work.objects_by | {"threads": torch.get_num_threads(), **ranks.world}
        about: dict[str, Any] = {"seed": session.seed, "device": str(job.attacker.device), "model": model}
        with running(store, row, "attack", session, config=config, **about) as stored:
            common_folder(ranks, stored.folder, lambda: job.form)
            if row is not None:
                stored.remove_attacks(before.unusable)
                session.note(f"run {stored.id} resumed with {before.results} results of its photos")
            with drawing(job.attacker, stored.write_artifact, job.with_figures) as pictures:
                chunks = _Maker(job, stored.folder, pictures, before.finished).chunks(photos)
                shown, failures = list(before.shown), list[Failure]()
                with session.progress("photos", left, noted=True) as tick:
                    for _, chunk in ranks.collected(chunks):
                        stored.keep(chunk.files, [columns(job.protocol) | columns(photo) for photo in chunk.results])
                        shown += [one for one in chunk.results if job.is_shown(one.image)]
                        failures += chunk.failures
                        tick(chunk.done)
                result = _completed(result, job, stored, store.summed(stored.id), shown, failures)
                stored.set_exit_code(result.exit_code)
                if session.json:  # what a document names is there when it is read
                    pictures.finish()
                yield result


def config_of(options: AttackOptions) -> dict[str, Any]:
    """The options in plain values, as the run keeps them; what allows code to run is given anew each time."""
    values: dict[str, Any] = to_json(asdict(options))
    return {
        name: value for name, value in values.items() if name not in ("trust_weights", "resume", "devices", "nodes")
    }


def _doubts(classifier: Classifier, located: Located) -> tuple[str, ...]:
    """Warnings about the classifier, from its answers to a photo and its mirror image. Raises LatcliError."""
    x_1Chw = classifier.preprocessing.read(located.photo.image)[None].to(classifier.device)
    return tuple(one.text for one in examine(classifier, torch.cat([x_1Chw, x_1Chw.flip(3)]), classifier.name))


def _completed(
    result: AttackResult,
    job: Job,
    stored: Run,
    rows: Sequence[Mapping[str, Any]],
    images: Sequence[AttackedPhoto],
    failures: Sequence[Failure],
) -> AttackResult:
    """The result with its first photos, in the order of the arguments, and what the `rows` of all sum up to."""
    regions = []
    for task in job.tasks:
        found = [row for row in rows if task.covers(row["region"], row["epsilon"])]
        median = median_smallest_epsilon(found) if task.smallest else None
        epsilon = None if task.smallest else task.epsilon
        regions.append(RegionSummary(task.region, epsilon, median, photo_summary(found)))
    in_order = sorted(images, key=lambda one: (job.work.position(one.image), job.place(one.region, one.epsilon)))
    return replace(
        result,
        run=stored.id,
        dir=stored.folder,
        images=tuple(photo.in_folder(stored.folder) for photo in in_order),
        failures=job.work.in_order(failures),
        summary=regions[0].summary if len(regions) == 1 else None,
        regions=tuple(regions),
    )


# other ranks


def _follow(job: Job) -> NoReturn:
    """Be a rank other than 0 to the end: attack its share, write the files, and send rank 0 the results."""
    finished = job.ranks.broadcast(dict[str, _Finished]())
    job.share(finished)
    photos = job.work.located(job.attacker, None)
    if job.options.dry_run:
        deque(job.ranks.collected(_planned(job, photos)), maxlen=0)
    else:
        folder = common_folder(job.ranks, None, lambda: job.form)
        drawn: deque[StagedFile] = deque()

        def keep(*picture: Any) -> None:
            drawn.append(stage(folder, *picture))

        with drawing(job.attacker, keep, job.with_figures) as pictures:
            chunks = _Maker(job, folder, pictures, finished).chunks(photos)
            deque(job.ranks.collected(_with_drawn(chunks, pictures, drawn)), maxlen=0)
    sys.exit(ExitCode.OK)


def _with_drawn(
    chunks: Iterable[Chunk[AttackedPhoto]], pictures: Pictures, drawn: deque[StagedFile]
) -> Iterator[Chunk[AttackedPhoto]]:
    """Each chunk with the pictures that a thread has written meanwhile, and what is left of them in the end."""

    def taken() -> tuple[StagedFile, ...]:
        return tuple(drawn.popleft() for _ in range(len(drawn)))

    for chunk in chunks:
        yield replace(chunk, files=(*chunk.files, *taken()))
    pictures.finish()
    yield Chunk(files=taken())


# runs that were cut off


def _row_of(options: AttackOptions, session: Session) -> RunRow:
    """The run to go on with. Raises UsageError and StoreError."""
    with Store.open_existing(session.store) as store:
        asked = to_json(given(options))
        return resumable_run(store, str(options.resume), "attack", asked, session, [options.classifier])


def _as_before(row: RunRow, options: AttackOptions, session: Session) -> tuple[AttackOptions, Session]:
    """The run's own options, and a session with its seed; processes may be more or fewer. Raises as kept_options."""
    kept = kept_options(options, row)
    return kept, replace(session, seed=row.seed or 0, precision=row.config["precision"])


@dataclass(frozen=True)
class _Before:
    """What a run that goes on has already: so many results, what is finished of each photo, and those to be shown.

    unusable: ids of the rows of results whose files are not all there; they are made again.
    """

    results: int = 0
    finished: dict[str, _Finished] = field(default_factory=dict)
    unusable: tuple[int, ...] = ()
    shown: tuple[AttackedPhoto, ...] = ()


def _before(row: RunRow, model: str, job: Job, store: Store) -> _Before:
    """What is there of a run, of photos that are as they were.

    Raises UsageError where the classifier, a mask, a detector or a photo is another one than before.
    """
    if row.model != model:
        raise UsageError(
            f"{job.work.classifier.name} is not the classifier that the run {row.id} attacked: its weights differ",
            "resume it with the same weights, or start a new run",
        )
    for name, known in job.work.objects_by.items():
        if row.config.get(name, known) != known:
            what = "masks" if name == "mask_fingerprint" else "detectors or their weights"
            raise UsageError(
                f"the {what} are not those that the run {row.id} was started with",
                "put the same masks and weights back, or start a new run",
            )
    sources = {source.name: source for source in job.work.sources}
    kept = "SELECT id, image, sha256, region, epsilon, files_json FROM attacks WHERE run = :run ORDER BY id"
    rows = store.query(kept, {"run": row.id})
    for name, sha256 in {one["image"]: one["sha256"] for one in rows}.items():
        if name not in sources or not (sources[name].is_stdin or sha256_of(sources[name].path) == sha256):
            raise UsageError(
                f"{name} is not the photo that the run {row.id} attacked", "put it back, or start a new run"
            )
    finished: dict[str, _Finished] = {}
    unusable, shown = list[int](), list[int]()
    for one in rows:
        files = json.loads(one["files_json"])
        number = job.place(one["region"], one["epsilon"])
        if number is None or not all((row.path / name).exists() for name in files.values()):
            unusable.append(one["id"])
            continue
        stem, numbers = finished.get(one["image"], (files["mask"].removesuffix("-mask.png"), frozenset()))
        finished[one["image"]] = (stem, numbers | {number})
        if job.is_shown(one["image"]):
            shown.append(one["id"])
    of_ids = "SELECT * FROM attacks WHERE id IN (SELECT value FROM json_each(:ids))"
    photos = [from_columns(AttackedPhoto, one) for one in store.query(of_ids, {"ids": json.dumps(shown)})]
    return _Before(len(rows) - len(unusable), finished, tuple(unusable), tuple(photos))


# dry runs


def _with_plan(result: AttackResult, job: Job, photos: Iterable[Located], tick: Tick) -> AttackResult:
    """The result of a dry run."""
    planned, failures = list[PlannedPhoto](), list[Failure]()
    for _, chunk in job.ranks.collected(_planned(job, photos)):
        planned += chunk.results
        failures += chunk.failures
        tick(chunk.done)
    return replace(result, planned=job.work.in_order(planned), failures=job.work.in_order(failures))


def _planned(job: Job, photos: Iterable[Located]) -> Iterator[Chunk[PlannedPhoto]]:
    for located in photos:
        threats = [(task, threat) for task in job.tasks if (threat := job.threat(located, task)) is not None]
        seconds = 0.0
        for task, threat in threats:
            # A search attacks once at the largest epsilon, then once for each halving of the whole levels below it.
            trials = 1 + math.ceil(math.log2(whole_levels(task.epsilon))) if task.smallest else 1
            seconds += trials * job.attacker.seconds(threat)
        plans = [
            PlannedPhoto(
                **located_values(located),
                background_percent=100 * first.background_share,
                visible_background_percent=100 * first.visible_share,
                seconds=seconds,
            )
            for _, first in threats[:1]
        ]
        yield job.work.chunk(plans, ended=[located.photo.name])
    yield job.work.chunk()


# results


#: A result, with the smallest epsilon where that is searched for and found.
_Attacked = tuple[PhotoResult, float | None]


class _Maker:
    """Makes the results of this rank's photos: attacks them and writes their files, under temporary names as yet.

    With several tasks, file names tell them apart.
    """

    def __init__(self, job: Job, folder: Path, pictures: Pictures, finished: Mapping[str, _Finished]) -> None:
        self._job, self._folder, self._pictures, self._finished = job, folder, pictures, finished
        names = [source.name for source in job.work.sources if source.name not in finished]
        stems = file_names(names, [stem for stem, _ in finished.values()])
        self._stems = {name: stem for name, (stem, _) in finished.items()} | dict(zip(names, stems, strict=True))

    def chunks(self, photos: Iterable[Located]) -> Iterator[Chunk[AttackedPhoto]]:
        """Results of a batch of photos at a time; the pictures of the last ones are yet to be drawn.

        Where threads encode what was attacked, the next batch is attacked meanwhile. An error is raised after the
        results of what was attacked before it.
        """
        begun, behind = deque[Callable[[], Chunk[AttackedPhoto]]](), 0 if self._job.attacker.threads is None else 1
        try:
            for chunk in self._begun(photos):
                begun.append(chunk)
                if len(begun) > behind:
                    yield begun.popleft()()
        except Exception:
            while begun:
                yield begun.popleft()()
            raise
        while begun:
            yield begun.popleft()()
        yield self._job.work.chunk()

    def _begun(self, photos: Iterable[Located]) -> Iterator[Callable[[], Chunk[AttackedPhoto]]]:
        """For each batch and task, once its photos are attacked: a function that returns their results."""
        job = self._job
        for batch in job.attacker.batches(photos, job.options.batch):
            for number, task in enumerate(job.tasks):
                self._pictures.begin()  # those of the results before, while these are made
                missing = [one for one in batch if number not in self._finished.get(one.photo.name, ("", ()))[1]]
                ended = [one.photo.name for one in batch] if number == len(job.tasks) - 1 else []
                yield partial(self._chunk, self._attacked(task, missing), ended)

    def _chunk(self, results: Callable[[], list[_Attacked]], ended: Sequence[str]) -> Chunk[AttackedPhoto]:
        made = [self._made(*one) for one in results()]
        return self._job.work.chunk((one for one, _ in made), (file for _, file in made), ended)

    def _attacked(self, task: Task, batch: Sequence[Located]) -> Callable[[], list[_Attacked]]:
        """Attack the photos for one task; returns a function that returns the results."""
        attacker = self._job.attacker
        threats = [threat for one in batch if (threat := self._job.threat(one, task)) is not None]
        if not threats:
            return list
        if task.smallest:
            found = attacker.smallest_epsilon([one.located for one in threats], task.region, task.epsilon)
            return lambda: found
        results = attacker.begin_batch(threats)
        return lambda: [(result, None) for result in results()]

    def _made(self, attacked: PhotoResult, smallest: float | None) -> tuple[AttackedPhoto, StagedFile]:
        """A result and its adversarial photo, written; its pictures are asked for."""
        located, threat, change = attacked.located, attacked.threat, attacked.change
        stem = self._stems[located.photo.name]
        # Epsilon in levels: 8 for 8/255, else a decimal number.
        suffix = f"-{threat.region}-{round(255 * threat.epsilon, 6):g}" if len(self._job.tasks) > 1 else ""
        name, sha256 = f"{stem}{suffix}-adversarial.png", located.photo.sha256
        file = stage(self._folder, name, attacked.adversarial_png, "adversarial", sha256)
        photo = AttackedPhoto(
            **located_values(located),
            region=threat.region,
            epsilon=threat.epsilon,
            adversarial=attacked.adversarial,
            fooled=attacked.fooled,
            target=self._job.attacker.settings.target,
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
            files={"adversarial": name} | self._pictures.ask(attacked, stem, suffix),
        )
        return photo, file


def file_names(photos: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """For each photo the beginning of its files' names, such that any file system takes them and no two are alike.

    `taken` are names that others have already.
    """
    taken = {name.casefold() for name in taken}
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
