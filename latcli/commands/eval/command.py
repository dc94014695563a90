"""`latcli eval`: models in, the loss matrix and a stored run out; must not know how a result is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from latcli.commands.datasets import PhotoOptions, with_objects
from latcli.commands.eval.data import PhotoWay, folder_of, open_data, photo_way
from latcli.commands.eval.further import ALL_MODELS, Findings, Further, Watched, parts_of
from latcli.commands.eval.models import (
    DEFAULT_REGIMES,
    Bench,
    Entry,
    Opened,
    once_each,
    open_again,
    open_named,
    open_run,
    trained_on,
    usual_dataset,
)
from latcli.commands.eval.monitor import Monitor, attacked_images
from latcli.commands.eval.options import describe, further, given_of, named, resolve
from latcli.commands.eval.result import CellRow, EvalResult, Warned, grouped
from latcli.commands.eval.samples import SAMPLES, Keeper, restore
from latcli.commands.report.evaluations import MATRIX
from latcli.commands.resume import resumable_run
from latcli.commands.trained import CHECKPOINT, classifier_path
from latcli.engine import registry
from latcli.engine.datasets.base import TrainingData
from latcli.engine.devices import open_device
from latcli.engine.evaluation.matrix import Evaluation, Progress
from latcli.engine.evaluation.settings import EvalSettings
from latcli.engine.failures import explained
from latcli.errors import UsageError, WeightsError
from latcli.options import EvalOptions
from latcli.results import to_json
from latcli.session import Session
from latcli.store.files import artifact_path
from latcli.store.store import Run, RunRow, Store


@dataclass(frozen=True)
class Job:
    """All that is settled before the first batch; the same for an evaluation that begins and one that goes on."""

    data: TrainingData
    settings: EvalSettings
    further: Further
    models: tuple[Opened, ...]
    contenders: tuple[Opened, ...]
    seeds: bool
    device: torch.device

    def evaluation(self) -> Evaluation:
        """With empty columns."""
        return Evaluation([one.subject for one in self.models], self.data, self.settings)


def run(options: EvalOptions, session: Session) -> EvalResult:
    """Evaluate models, or go on with an evaluation that was cut off, and keep what was found.

    Raises UsageError and LatcliError for models, options and data that are unusable, before a run is begun;
    WeightsError for samples that are damaged or do not fit; ContractError and StoreError while it evaluates.
    """
    with Store.open(session.store) as store:
        if options.resume is not None:
            return _resume(store, options, session)
        return _begin(store, options, session)


def _begin(store: Store, options: EvalOptions, session: Session) -> EvalResult:
    device = open_device(session.device)
    name = options.dataset or usual_dataset(store, named(options)) or registry.DEFAULT_DATASET
    path = folder_of(name)
    way = None if path is None else photo_way(path, _sources(store, f"folder:{path}", options), session)
    photos = PhotoOptions.of(given_of(options))
    data = open_data(name, way, photos, device, session)
    settings = resolve(options, data, session)
    data, photos = _with_objects(data, way, settings, photos, device, store, session)
    models, contenders = _opened(Bench.of(store, data, settings.batch, session), options)
    further(options).check(len(contenders), data)
    job = Job(data, settings, further(options), tuple(models), tuple(contenders), options.seeds, device)
    dataset = store.record_dataset(data.name, fingerprint=data.fingerprint)
    config: dict[str, object] = {
        "dataset": name,
        "dataset_fingerprint": data.fingerprint,
        "models": list(named(options)),
        "entries": [one.entry.to_json() for one in models],
        "contenders": [one.entry.id for one in contenders],
        "seeds": options.seeds,
        "precision": session.precision,
        "threads": torch.get_num_threads(),
        **settings.to_json(),
        **job.further.to_json(),
        **(asdict(photos) if way else {"masks": photos.masks}),
        "mask_fingerprint": data.mask_fingerprint,
        "notes": list(data.notes),
    }
    with (
        store.start_run(
            "eval",
            **session.of_run(),
            config=config,
            seed=settings.seed,
            device=str(device),
            dataset=dataset,
        ) as stored,
        explained(),
    ):
        session.note(f"run {stored.id}")
        line = describe(settings, job.further, data, len(models))
        session.note(line)
        stored.log(line)
        return _evaluate(stored, job, job.evaluation(), Findings(), session)


def _sources(store: Store, dataset: str, options: EvalOptions) -> list[str]:
    """What opens each model: a checkpoint's path, or a name."""
    if named(options):
        return [classifier_path(name, store.folder) for name in named(options)]
    return [str(artifact_path(row.path, CHECKPOINT)) for row in trained_on(store, dataset, seeds=options.seeds)]


def _with_objects(
    data: TrainingData,
    way: PhotoWay | None,
    settings: EvalSettings,
    photos: PhotoOptions,
    device: torch.device,
    store: Store,
    session: Session,
) -> tuple[TrainingData, PhotoOptions]:
    """The data with what a detector finds, where it is photos and a detector is asked. Raises as `with_objects`."""
    if way is None:
        return data, photos
    return with_objects(data, way.architecture, settings.mask_from, photos, device, store, session)


def _opened(bench: Bench, options: EvalOptions) -> tuple[list[Opened], list[Opened]]:
    """The models, and those of them whose examples are tried on each other."""
    if named(options):
        by_name = {name: open_named(name, bench) for name in named(options)}
        models = once_each(by_name.values(), bench.session)
        listed = {by_name[name].entry.id for name in further(options).contenders}
    else:
        rows = trained_on(bench.store, bench.data.name, seeds=options.seeds)
        _say_which(rows, bench)
        models, listed = once_each((open_run(row, bench) for row in rows), bench.session), set()
    everyone = further(options).transfer == ALL_MODELS
    return models, [one for one in models if everyone or one.entry.id in listed]


def _say_which(rows: Sequence[RunRow], bench: Bench) -> None:
    for row in rows:
        bench.session.note(f"{row.config['regime']}: training run {row.id}, seed {row.seed}")
    for regime in DEFAULT_REGIMES:
        if regime not in [row.config["regime"] for row in rows]:
            bench.session.note(f"{regime}: no training run of {bench.data.name} is completed")


def _resume(store: Store, options: EvalOptions, session: Session) -> EvalResult:
    row = resumable_run(store, str(options.resume), "eval", given_of(options), session)
    job = _job_of(row, store, session)
    evaluation, findings = job.evaluation(), Findings()
    kept = artifact_path(row.path, SAMPLES)
    if kept.exists():
        findings = restore(evaluation, kept)
    with store.resume_run(row.id, argv=sys.argv, name=session.name, tags=session.tag) as stored, explained():
        done, total = attacked_images(evaluation)
        line = f"resumed with {done:,} of {total:,} attacked images done"
        session.note(f"run {stored.id} {line}")
        stored.log(line)
        return _evaluate(stored, job, evaluation, findings, session)


def _job_of(row: RunRow, store: Store, session: Session) -> Job:
    """What an evaluation was begun with, whatever the defaults and the newest models are by now."""
    settings = EvalSettings.from_json(row.config)
    missing = [
        name
        for name in ("dataset", "dataset_fingerprint", "entries", "contenders", "threads")
        if name not in row.config
    ]
    if missing:
        raise UsageError(f"{row.id} does not say its {', '.join(missing)}", "it was written by another latcli")
    device = open_device(session.device)
    name, path, photos = row.config["dataset"], folder_of(row.config["dataset"]), PhotoOptions.of(row.config)
    entries = [Entry.from_json(values) for values in row.config["entries"]]
    way = None if path is None else photo_way(path, [entry.source for entry in entries], session)
    data = open_data(name, way, photos, device, session)
    if data.fingerprint != row.config["dataset_fingerprint"]:
        raise WeightsError(
            f"the data set {data.name} is not the one that {row.id} was begun on",
            "put the same files back under --data, or start a new evaluation",
        )
    data, _ = _with_objects(data, way, settings, photos, device, store, session)
    if data.mask_fingerprint != row.config.get("mask_fingerprint"):
        raise WeightsError(
            f"the masks of {data.name} are not those that {row.id} was begun with",
            "put the same masks and weights back, or start a new evaluation",
        )
    threads = int(row.config["threads"])
    if device.type == "cpu" and torch.get_num_threads() != threads:
        session.note(f"using {threads} threads, as the run did before")
        torch.set_num_threads(threads)  # the order in which a CPU adds depends on them
    bench = Bench.of(store, data, settings.batch, session)
    models = tuple(open_again(entry, bench) for entry in entries)
    contenders = tuple(one for one in models if one.entry.id in row.config["contenders"])
    further = Further.from_json(row.config)
    return Job(data, settings, further, models, contenders, bool(row.config.get("seeds")), device)


def _evaluate(stored: Run, job: Job, evaluation: Evaluation, findings: Findings, session: Session) -> EvalResult:
    first_doubts = [Warned(one.entry.name, one.entry.label, None, doubt) for one in job.models for doubt in one.doubts]
    _warn(first_doubts, stored, session)
    keeper = Keeper(stored, evaluation, findings)
    with session.progress("evaluating", attacked_images(evaluation)[1]) as tick:
        monitor = Monitor(session, stored, tick, evaluation)

        def after_batch(progress: Progress) -> None:
            monitor.after_batch(progress)
            keeper.after_batch()

        try:
            evaluation.run(after_batch)
        finally:
            keeper.save()  # an interrupted evaluation goes on from here; its last batch is done whole, or open
    doubts = [
        Warned(one.entry.name, one.entry.label, name, doubt)
        for position, one in enumerate(job.models)
        for name, doubt in evaluation.doubts(position)
    ]
    _warn(doubts, stored, session)
    _measure_further(job, evaluation, findings, keeper, session)
    return _kept(stored, _result(stored, job, evaluation, findings, [*first_doubts, *doubts]))


def _warn(warnings: Sequence[Warned], stored: Run, session: Session) -> None:
    for warned in warnings:
        session.note(f"warning: {warned.line}")
        stored.log(f"warning: {warned.line}")


def _measure_further(job: Job, evaluation: Evaluation, findings: Findings, keeper: Keeper, session: Session) -> None:
    """What was asked for beside the matrix and is not found yet."""
    asked = parts_of(job.models, job.contenders, evaluation, job.further)
    parts = [part for part in asked if part.name not in findings.rows_of]
    with session.progress("beyond the matrix", sum(part.images for part in parts)) as tick:
        watched = Watched(keeper.stored, tick)
        for part in parts:
            findings.keep(part, part.measure(watched))
            keeper.save()


def _result(
    stored: Run, job: Job, evaluation: Evaluation, findings: Findings, warnings: Sequence[Warned]
) -> EvalResult:
    cells = [
        _cell_row(job, position, name, evaluation) for position in range(len(job.models)) for name in _columns(job)
    ]
    return EvalResult(
        run=stored.id,
        dir=stored.folder,
        dataset=job.data.name,
        n=len(evaluation.chosen_N),
        settings=job.settings,
        models=tuple(one.entry for one in job.models),
        cells=tuple(cells),
        groups=grouped(cells) if job.seeds else (),
        transfer=findings.transfer(),
        curves=findings.curves(),
        reliance=findings.reliance(),
        warnings=tuple(warnings),
        notes=job.data.notes,
    )


def _kept(stored: Run, result: EvalResult) -> EvalResult:
    stored.insert("cells", [_database_row(cell, result.settings) for cell in result.cells], instead=True)
    if result.reliance:
        stored.record_metrics([metric for row in result.reliance for metric in row.metrics()])
    stored.write_artifact(MATRIX, json.dumps(to_json(result.to_json()), indent=2).encode(), "matrix")
    return result


def _columns(job: Job) -> tuple[str, ...]:
    return ("natural", *job.settings.columns)


def _cell_row(job: Job, position: int, name: str, evaluation: Evaluation) -> CellRow:
    entry, settings = job.models[position].entry, job.settings
    cell = evaluation.columns[position][name].cell()
    attacked = name != "natural"
    return CellRow(
        model=entry.name,
        label=entry.label,
        model_id=entry.id,
        regime=entry.regime,
        train_seed=entry.train_seed,
        input=name,
        loss=cell.loss,
        accuracy=cell.accuracy,
        n=cell.n,
        epsilon=settings.epsilon if attacked else None,
        steps=settings.steps if attacked else None,
        restarts=settings.restarts if attacked else None,
        attack=settings.attack_of(name) if attacked else None,
        seed=settings.seed,
        seconds=cell.seconds,
    )


def _database_row(cell: CellRow, settings: EvalSettings) -> dict[str, object]:
    objects = {"mask_from": settings.mask_from, "center": settings.center}
    return asdict(cell) | (objects if cell.epsilon is not None else {})
