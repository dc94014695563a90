"""`latcli eval`: models in; the loss matrix, what is measured beside it, and a stored run out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from latcli.commands.classifiers import classifier_source
from latcli.commands.datasets import DETECTING, OBJECTS, DataObjects, check_object_options, given_plainly, with_objects
from latcli.commands.evaluated_models import (
    DEFAULT_REGIMES,
    LoadedModel,
    ModelLoader,
    PhotoWay,
    code_named,
    once_each,
    open_data,
    photo_way,
    require_named_again,
    source_of,
    trained_on,
    usual_dataset,
)
from latcli.commands.evaluation_parts import SAMPLES, Findings, SampleKeeper, parts_of, restore
from latcli.commands.report import MATRIX
from latcli.commands.resume import check_same_data, dataset_of, folder_of, resumable_run, resume_command
from latcli.commands.trained import CHECKPOINT, classifier_path
from latcli.commands.training_log import duration_text
from latcli.engine import registry
from latcli.engine.attacks.contract import run_attack
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.catalog import full_name
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.devices import open_device
from latcli.engine.evaluation.chance import mcnemar_p_value
from latcli.engine.evaluation.curves import require_ascending
from latcli.engine.evaluation.matrix import Evaluation, Progress
from latcli.engine.evaluation.reliance import VARIANTS, photos_of
from latcli.engine.evaluation.settings import NATURAL, NATURAL_ATTACKED, EvalSettings
from latcli.engine.evaluation.statistics import ColumnStatistics
from latcli.engine.failures import explained
from latcli.errors import Terminated, UsageError, WeightsError
from latcli.options import ClassifierOptions, EvalOptions, parse_epsilon
from latcli.results import (
    Cell,
    Comparison,
    DocumentError,
    EvalResult,
    EvaluatedModel,
    EvalWarning,
    RelianceRow,
    SeedGroup,
    read,
    spread,
    to_json,
)
from latcli.session import Session, Tick
from latcli.store.files import artifact_path
from latcli.store.store import Run, RunRow, Store

#: As `--transfer`: every model of the evaluation.
ALL_MODELS = "all"

#: How many times each photo gets other backgrounds by default.
DONOR_SEEDS = 3

#: Photos attacked together; one takes as much memory as two hundred digits.
_PHOTO_BATCH = 16

#: The remaining time is estimated once this many seconds have passed.
_FIRST_SECONDS = 3.0

_CURVE_HINT = "for example --curve epsilon=0.1,0.2,0.3 or --curve steps=1,10,100"


@dataclass(frozen=True)
class Job:
    """All that is settled before the first batch; the same for an evaluation that begins and one that is resumed."""

    data: TrainingData
    settings: EvalSettings
    models: tuple[LoadedModel, ...]
    contenders: tuple[LoadedModel, ...]
    seeds: bool
    device: torch.device

    def evaluation(self) -> Evaluation:
        """With empty columns."""
        return Evaluation([one.subject for one in self.models], self.data, self.settings)


def run(options: EvalOptions, session: Session) -> EvalResult:
    """Evaluate models, or resume an evaluation that was cut off, and keep what was found.

    Raises UsageError and LatcliError for models, options and data that are unusable, before a run is started;
    WeightsError for samples that are damaged or do not fit; ContractError and StoreError while it evaluates.
    """
    with Store.open(session.store) as store:
        if options.resume is not None:
            return _resume(store, options, session)
        return _begin(store, options, session)


def _begin(store: Store, options: EvalOptions, session: Session) -> EvalResult:
    store.check_name(session.name)
    device = open_device(session.device)
    names, _ = named_models(options), _beside(options)  # errors in them come before any file is read
    dataset = full_name(options.dataset or usual_dataset(store, names) or registry.DEFAULT_DATASET)
    described = classifier_source(options, session)
    way = photo_way(dataset, _sources(store, names, dataset, options.seeds), described)
    objects = DataObjects.of(options)
    data = open_data(dataset, way, options.masks, device, session)
    settings = settings_of(options, data, session)
    data = _with_objects(data, way, settings, objects, device, store, session)
    models, contenders = _loaded(ModelLoader(store, data, settings.batch, session, described), options, settings)
    if settings.donor_seeds:
        photos_of(data)
    if settings.transfer and len(contenders) < 2:
        raise UsageError("--transfer needs at least two models", "name several models, or train another regime")
    job = Job(data, settings, tuple(models), tuple(contenders), options.seeds, device)
    evaluation = job.evaluation()
    _try_attack(evaluation)
    config: dict[str, object] = {
        "dataset": dataset,
        "dataset_folder": folder_of(dataset),
        "dataset_fingerprint": data.fingerprint,
        "models": list(names),
        "entries": to_json([one.entry for one in models]),
        "contenders": [one.entry.id for one in contenders],
        **{
            name: to_json(value) for name in ClassifierOptions.__dataclass_fields__ if (value := getattr(options, name))
        },
        "seeds": options.seeds,
        "precision": session.precision,
        "threads": torch.get_num_threads(),
        **to_json(settings),
        **(objects.to_config() if way else {"masks": objects.to_config()["masks"]}),
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
            dataset=store.record_dataset(data.name, fingerprint=data.fingerprint),
        ) as stored,
        explained(),
    ):
        session.note(f"run {stored.id}")
        _say(describe(settings, data, len(models)), stored, session)
        return _evaluate(stored, job, evaluation, Findings(), session)


def _resume(store: Store, options: EvalOptions, session: Session) -> EvalResult:
    row = resumable_run(store, str(options.resume), "eval", _given(options), session)
    job = _job_of(row, store, options, session)
    evaluation, findings = job.evaluation(), Findings()
    kept = artifact_path(row.path, SAMPLES)
    if kept.exists():
        findings = restore(evaluation, kept)
    with store.resume_run(row.id, argv=sys.argv, name=session.name, tags=session.tag) as stored, explained():
        done, total = evaluation.attacked_images
        session.note(f"run {stored.id}")
        _say(f"resumed with {done:,} of {total:,} attacked images done", stored, session)
        return _evaluate(stored, job, evaluation, findings, session)


def _job_of(row: RunRow, store: Store, options: EvalOptions, session: Session) -> Job:
    """What an evaluation was started with, whatever the defaults and the newest models are by now."""
    try:
        settings = read(EvalSettings, row.config)
        entries = [read(EvaluatedModel, one) for one in row.config["entries"]]
        threads, ids = int(row.config["threads"]), row.config["contenders"]
    except (DocumentError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the configuration of {row.id} is damaged: {error}", "start a new evaluation") from error
    require_named_again(entries, options.models, row.id)
    if other := [name for name in named_models(options) if name not in row.config.get("models", ())]:
        raise UsageError(f"{row.id} does not evaluate {other[0]}", "resume it without this name, or start a new run")
    device = open_device(session.device)
    dataset = dataset_of(row, options.dataset)
    objects = DataObjects.of(options, row.config)
    described = classifier_source(objects, session)
    way = photo_way(dataset, [source_of(entry, store) for entry in entries], described)
    data = open_data(dataset, way, objects.masks, device, session)
    check_same_data(row, data.name, data.fingerprint)
    data = _with_objects(data, way, settings, objects, device, store, session)
    if data.mask_fingerprint != row.config.get("mask_fingerprint"):
        raise WeightsError(
            f"the masks of {data.name} are not those that {row.id} was started with",
            "put the same masks and weights back, or start a new evaluation",
        )
    if device.type == "cpu" and torch.get_num_threads() != threads:
        session.note(f"using {threads} threads, as the run did before")
        torch.set_num_threads(threads)  # the order in which a CPU adds depends on them
    loader = ModelLoader(store, data, settings.batch, session, described)
    models = tuple(loader.load_again(entry) for entry in entries)
    contenders = tuple(one for one in models if one.entry.id in ids)
    return Job(data, settings, models, contenders, bool(row.config.get("seeds")), device)


# from options to settings


def named_models(options: EvalOptions) -> tuple[str, ...]:
    """The models that were named, as such or for the transfer, each name once; none: the latest runs."""
    named = () if options.transfer in (None, ALL_MODELS) else _transfer(options)
    return tuple(dict.fromkeys((*options.models, *named)))


def settings_of(options: EvalOptions, data: TrainingData, session: Session) -> EvalSettings:
    """Settings from the options, else from the data set. Raises UsageError."""
    defaults, of_photos = data.defaults, isinstance(data, PhotoFolder)
    mask_from = options.mask_from or ("folder" if options.masks else defaults.mask_from)
    if mask_from == "detector" and not of_photos:
        raise UsageError("--mask-from detector needs photos, not small images", "choose another --mask-from")
    check_object_options(given_plainly(options), mask_from, DETECTING)
    given = {name: getattr(options, name) for name in ("images", "epsilon", "steps", "restarts", "batch")}
    usual = {"epsilon": defaults.epsilon} | ({"batch": _PHOTO_BATCH} if of_photos else {})
    return EvalSettings(
        **usual | {name: value for name, value in given.items() if value is not None},
        mask_from=mask_from,
        center=defaults.center if options.center is None else options.center,
        attack=options.attack,
        norm=options.norm,
        radius=options.radius,
        controls=options.controls,
        until_wrong=options.until_wrong,
        seed=session.seed,
        **_beside(options),
    )


def _beside(options: EvalOptions) -> dict[str, Any]:
    """Settings whose options have another form."""
    curves = _curves(options.curve)
    return {
        "strong": (options.strong_budget or "full") if options.strong else None,
        "transfer": _transfer(options),
        "curve_epsilons": curves["epsilon"],
        "curve_steps": tuple(int(value) for value in curves["steps"]),
        "donor_seeds": (options.donor_seeds or DONOR_SEEDS) if options.reliance else 0,
    }


def _transfer(options: EvalOptions) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in (options.transfer or "").split(",") if name.strip()))
    if len(names) == 1 and names != (ALL_MODELS,):
        raise UsageError("--transfer needs at least two models", "for example --transfer 7f3a,81c2, or all")
    return names


def _curves(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The points of each axis from `epsilon=E,E,...` and `steps=N,N,...`, each at most once. Raises UsageError."""
    points: dict[str, tuple[float, ...]] = {"epsilon": (), "steps": ()}
    for text in texts:
        axis, _, values = text.partition("=")
        if axis not in points:
            raise UsageError(f"there is no curve '{text}': it is epsilon=... or steps=...", _CURVE_HINT)
        if points[axis]:
            raise UsageError(f"two curves against {axis} were given", f"give all its points at once, {_CURVE_HINT}")
        points[axis] = tuple(_point(axis, value) for value in values.split(","))
        require_ascending(points[axis], f"values of '{text}'")
    return points


def _point(axis: str, text: str) -> float:
    if axis == "epsilon":
        return parse_epsilon(text)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"'{text}' is no number of steps", _CURVE_HINT) from None


def _given(options: EvalOptions) -> dict[str, Any]:
    """The options that were given and that decide what is computed, by the name that they have in a configuration."""
    given = given_plainly(options)
    for name in ("models", "strong", "strong_budget", "transfer", "curve", "reliance", "donor_seeds"):
        given.pop(name, None)
    beside = {name: value for name, value in _beside(options).items() if value}
    plain: dict[str, Any] = to_json(given | beside)
    return plain


def describe(settings: EvalSettings, data: TrainingData, models: int) -> str:
    """What is going to be done, in one line."""
    kept = OBJECTS.get(settings.mask_from, f"a middle of {settings.center:g} of the side")
    parts = [f"{settings.attack_name} at epsilon {settings.epsilon:.4g}", f"object: {kept}"]
    parts += [f"strong suite, {settings.strong} budget"] if settings.strong else []
    parts += ["transfer"] if settings.transfer else []
    curves = {"epsilon": settings.curve_epsilons, "steps": settings.curve_steps}
    parts += [f"curve against {axis}, {len(points)} points" for axis, points in curves.items() if points]
    parts += [f"background reliance, donor seeds: {settings.donor_seeds}"] if settings.donor_seeds else []
    count = f"{models} model{'' if models == 1 else 's'}"
    attacked = f"{min(settings.images, data.test_count):,} of {data.test_count:,} images attacked"
    return f"evaluating {count} on {data.name}, {attacked}: {', '.join(parts)}"


# models and objects


def _sources(store: Store, names: Sequence[str], dataset: str, seeds: bool) -> list[str]:
    """What opens each model: a checkpoint's path, or a name."""
    if names:
        return [classifier_path(name, store.folder) for name in names]
    if folder_of(dataset) is None:
        return []
    return [str(artifact_path(row.path, CHECKPOINT)) for row in trained_on(store, dataset, seeds=seeds)]


def _with_objects(
    data: TrainingData,
    way: PhotoWay | None,
    settings: EvalSettings,
    objects: DataObjects,
    device: torch.device,
    store: Store,
    session: Session,
) -> TrainingData:
    """The data with what a detector finds, where it is photos and a detector is asked. Raises as `with_objects`."""
    if way is None:
        return data
    return with_objects(data, way.architecture, settings.mask_from, objects, device, store, session)


def _loaded(
    loader: ModelLoader, options: EvalOptions, settings: EvalSettings
) -> tuple[list[LoadedModel], list[LoadedModel]]:
    """The models, and those of them whose examples are tried on each other."""
    names, session = named_models(options), loader.session
    if names:
        by_name = {name: loader.load(name) for name in names}
        models = once_each(by_name.values(), session)
        listed = {by_name[name].entry.id for name in settings.transfer if name in by_name}
    else:
        rows = trained_on(loader.store, loader.data.name, seeds=options.seeds)
        for row in rows:
            session.note(f"{row.config['regime']}: training run {row.id}, seed {row.seed}")
        for regime in DEFAULT_REGIMES:
            if regime not in [row.config["regime"] for row in rows]:
                session.note(f"{regime}: no training run of {loader.data.name} is completed")
        models, listed = once_each((loader.load_run(row) for row in rows), session), set()
    everyone = settings.transfer == (ALL_MODELS,)
    return models, [one for one in models if everyone or one.entry.id in listed]


def _try_attack(evaluation: Evaluation) -> None:
    """One step on one grey image: an attack that does not know the norm, or fails, says so before any long work."""
    settings, subject = evaluation.settings, evaluation.subjects[0]
    (images,) = evaluation.data.testing([evaluation.chosen_N[:1]])
    eps_11HW = torch.full_like(images.x_BCHW[:, :1], settings.epsilon)
    once = replace(settings.attack_settings(), steps=1, restarts=1)
    attack = settings.attack_function()
    run_attack(attack, subject.fast, images.x_BCHW, images.y_B, eps_11HW, once, torch.zeros_like(images.y_B))


# the work


def _evaluate(stored: Run, job: Job, evaluation: Evaluation, findings: Findings, session: Session) -> EvalResult:
    try:
        first = [_warning(one, None, doubt) for one in job.models for doubt in one.doubts]
        _warn(first, stored, session)
        keeper = SampleKeeper(stored, evaluation, findings)
        _fill(stored, evaluation, keeper, session)
        later = [
            _warning(one, name, doubt)
            for position, one in enumerate(job.models)
            for name, doubt in evaluation.doubts(position)
        ]
        _warn(later, stored, session)
        parts = [one for one in parts_of(job.models, job.contenders, evaluation) if one.name not in findings.rows_of]
        with session.progress("beyond the matrix", sum(part.images for part in parts)) as tick:
            for part in parts:
                findings.keep(part, part.measure(tick))
                keeper.save()
        return _kept(stored, _result(stored, job, evaluation, findings, [*first, *later]))
    except (KeyboardInterrupt, Terminated):
        code = code_named(one.entry for one in job.models)
        session.note(
            f"run {stored.id} was interrupted; to continue: {resume_command('eval', stored.id, session, code)}"
        )
        raise


def _fill(stored: Run, evaluation: Evaluation, keeper: SampleKeeper, session: Session) -> None:
    with session.progress("evaluating", evaluation.attacked_images[1]) as tick:
        monitor = _Monitor(session, stored, tick, evaluation)

        def after_batch(progress: Progress) -> None:
            monitor.after_batch(progress)
            keeper.after_batch()

        try:
            evaluation.run(after_batch)
        finally:
            keeper.save()  # an interrupted evaluation goes on from here; its last batch is done whole, or open


class _Monitor:
    """Shows each batch on the bar, which counts attacked images, since natural ones take next to no time."""

    def __init__(self, session: Session, stored: Run, tick: Tick, evaluation: Evaluation) -> None:
        self._session, self._stored, self._tick, self._evaluation = session, stored, tick, evaluation
        self._begun, self._attacked, self._estimated = time.monotonic(), 0, False
        tick(evaluation.attacked_images[0])

    def after_batch(self, progress: Progress) -> None:
        """Take in a batch. Raises StoreError."""
        subject = self._evaluation.subjects[progress.subject]
        column = self._evaluation.columns[progress.subject][progress.column]
        if progress.column != NATURAL:
            self._attacked += progress.images
            self._tick(progress.images)
            self._estimate()
        self._tick(0, text=f"{subject.name}, {progress.column} {column.done:,}/{len(column.right_N):,}")
        if column.done == len(column.right_N):
            loss, accuracy = column.figures()
            figures = f"{'' if loss is None else f'loss {loss:.4g}, '}accuracy {100 * accuracy:.2f} %"
            took = f"{column.done:,} images, {duration_text(float(column.seconds_1))}"
            line = f"{subject.name}, {progress.column}: {figures} ({took})"
            self._stored.log(line)
            if not self._session.shows_progress:
                self._session.note(line)

    def _estimate(self) -> None:
        seconds = time.monotonic() - self._begun
        done, total = self._evaluation.attacked_images
        if not self._estimated and seconds >= _FIRST_SECONDS and done < total:
            self._estimated = True
            left = (total - done) * seconds / self._attacked
            _say(f"{total - done:,} images to attack, about {duration_text(left)}", self._stored, self._session)


def _say(line: str, stored: Run, session: Session) -> None:
    session.note(line)
    stored.log(line)


def _warning(one: LoadedModel, name: str | None, doubt: Any) -> EvalWarning:
    return EvalWarning(one.entry.name, one.entry.label, name, doubt.check, doubt.value, doubt.text)


def _warn(warnings: Sequence[EvalWarning], stored: Run, session: Session) -> None:
    for warning in warnings:
        _say(f"warning: {warning.line}", stored, session)


# the result


def _result(
    stored: Run, job: Job, evaluation: Evaluation, findings: Findings, warnings: Sequence[EvalWarning]
) -> EvalResult:
    cells: list[list[Cell]] = []
    comparisons: list[Comparison] = []
    groups: list[SeedGroup] = []
    for name in _columns(evaluation):
        source, chosen = (NATURAL, True) if name == NATURAL_ATTACKED else (name, False)
        found = ColumnStatistics(*evaluation.outcomes(source, chosen=chosen), evaluation.settings.seed)
        cells.append(_cells(job, evaluation, name, found))
        comparisons += [_comparison(job, name, found, a, b) for a, b in found.pairs()]
        groups += _groups(cells[-1], found) if job.seeds else []
    return EvalResult(
        run=stored.id,
        dir=stored.folder,
        dataset=job.data.name,
        n=len(evaluation.chosen_N),
        attack=job.settings.attack_name,
        settings=to_json(job.settings),
        models=tuple(one.entry for one in job.models),
        cells=tuple(column[position] for position in range(len(job.models)) for column in cells),
        comparisons=tuple(comparisons),
        groups=tuple(groups),
        transfer=findings.rows("transfer"),
        curves=findings.rows("curve"),
        reliance=findings.rows("reliance"),
        warnings=tuple(warnings),
        notes=job.data.notes,
    )


def _columns(evaluation: Evaluation) -> list[str]:
    """Natural images; where fewer are attacked, the same on those alone, for comparison; then the attacked columns."""
    unequal = len(evaluation.chosen_N) < evaluation.data.test_count
    return [NATURAL, *([NATURAL_ATTACKED] if unequal else []), *evaluation.settings.columns]


def _cells(job: Job, evaluation: Evaluation, name: str, found: ColumnStatistics) -> list[Cell]:
    settings, attacked = job.settings, name not in (NATURAL, NATURAL_ATTACKED)
    facts: dict[str, Any] = dict.fromkeys(("epsilon", "steps", "restarts", "attack", "norm", "radius", "mask_from"))
    facts["center"] = None
    if attacked:
        facts = {field: getattr(settings, field) for field in facts} | {"attack": settings.attack_of(name)}
        facts["center"] = settings.center if settings.mask_from == "center" else None
    best_accuracy, best_loss = found.best_accuracy(), found.best_loss()
    cells = []
    for position, one in enumerate(job.models):
        entry, column = one.entry, evaluation.columns[position].get(name)
        accuracy_low, accuracy_high = found.accuracy_interval(position)
        loss_low, loss_high = found.loss_interval(position)
        cells.append(
            Cell(
                model=entry.name,
                label=entry.label,
                model_id=entry.id,
                regime=entry.regime,
                train_seed=entry.train_seed,
                input=name,
                loss=found.loss_M[position] if found.has_loss else None,
                loss_low=loss_low,
                loss_high=loss_high,
                accuracy=found.accuracy_M[position],
                accuracy_low=accuracy_low,
                accuracy_high=accuracy_high,
                n=found.n,
                seed=settings.seed,
                seconds=0.0 if column is None else float(column.seconds_1),
                best_accuracy=best_accuracy[position],
                best_loss=best_loss[position],
                **facts,
            )
        )
    return cells


def _comparison(job: Job, name: str, found: ColumnStatistics, a: int, b: int) -> Comparison:
    only_a, only_b = found.only_right(a, b)
    return Comparison(
        input=name,
        a=job.models[a].entry.id,
        b=job.models[b].entry.id,
        n=found.n,
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar_p_value(only_a, only_b),
        loss_difference=found.loss_M[a] - found.loss_M[b] if found.has_loss else None,
        loss_p_value=found.loss_p_value(a, b) if found.has_loss else None,
    )


def _groups(column: Sequence[Cell], found: ColumnStatistics) -> list[SeedGroup]:
    """The cells of one input, those of a regime as one, in the order in which they first come."""
    members: dict[str, list[int]] = {}
    for position, cell in enumerate(column):
        members.setdefault(cell.regime or cell.label, []).append(position)
    best = zip(*found.best_groups(list(members.values())), strict=True)
    groups = []
    for (regime, positions), (best_accuracy, best_loss) in zip(members.items(), best, strict=True):
        accuracies = [column[position].accuracy for position in positions]
        losses = [loss for position in positions if (loss := column[position].loss) is not None]
        groups.append(
            SeedGroup(
                regime=regime,
                input=column[0].input,
                models=len(positions),
                n=column[0].n,
                loss=fmean(losses) if losses else None,
                loss_spread=spread(losses),
                accuracy=fmean(accuracies),
                accuracy_spread=spread(accuracies),
                best_accuracy=best_accuracy,
                best_loss=best_loss,
            )
        )
    return groups


def _kept(stored: Run, result: EvalResult) -> EvalResult:
    stored.insert("cells", result.cells, instead=True)
    if result.reliance:
        stored.record_metrics([metric for row in result.reliance for metric in _metrics(row)])
    stored.write_artifact(MATRIX, json.dumps(to_json(result), indent=2).encode(), "matrix")
    return result


def _metrics(row: RelianceRow) -> list[tuple[str, int, float | None]]:
    """The numbers of all photos together, as the store keeps them: name, step, value."""
    values: dict[str, float | None] = {name: row.overall.means[name].accuracy for name in VARIANTS}
    gap = row.overall.gap
    values |= {"gap": gap.value, "gap_standard_error": gap.standard_error, "n": row.overall.n}
    return [(f"reliance/{row.model}/{name}", 0, value) for name, value in values.items()]
