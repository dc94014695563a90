"""`latcli eval`: models in; the loss matrix, what is measured beside it, and a stored run out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import torch

from latcli.commands.classifiers import classifier_source
from latcli.commands.datasets import DETECTING, OBJECTS, DataObjects, check_object_options, given_plainly, with_objects
from latcli.commands.evaluated_models import (
    DEFAULT_REGIMES,
    LoadedModel,
    ModelLoader,
    code_named,
    once_each,
    open_data,
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
from latcli.engine.evaluation.curves import require_ascending
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.evaluation.matrix import Evaluation, Progress
from latcli.engine.evaluation.reliance import VARIANTS, photos_of
from latcli.engine.evaluation.settings import NATURAL, NATURAL_ATTACKED, EvalSettings
from latcli.engine.evaluation.statistics import ColumnStatistics
from latcli.engine.failures import explained
from latcli.errors import Terminated, UsageError, WeightsError
from latcli.options import ClassifierOptions, EvalOptions, given, parse_epsilon
from latcli.reporting.text import counted
from latcli.results import (
    Cell,
    Comparison,
    DocumentError,
    EvalResult,
    EvaluatedModel,
    EvalWarning,
    SeedGroup,
    read,
    spread,
    to_json,
)
from latcli.session import Session
from latcli.store.files import artifact_path
from latcli.store.store import Run, RunRow, Store, require

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

    evaluation: Evaluation
    models: tuple[LoadedModel, ...]
    contenders: tuple[LoadedModel, ...]
    seeds: bool


def run(options: EvalOptions, session: Session) -> EvalResult:
    """Evaluate models, or resume an evaluation that was cut off, and keep what was found.

    Raises UsageError and LatcliError for models, options and data that are unusable, before a run is started;
    WeightsError for samples that are damaged or do not fit; ContractError and StoreError while it evaluates.
    """
    if not options.models:
        require(session.store)  # before data are looked for: in an empty store there is nothing to evaluate
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
    objects = DataObjects.of(options)
    sources = _sources(store, names, dataset, options.seeds)
    data, way = open_data(dataset, sources, described, options.masks, device, session)
    settings = settings_of(options, data, session)
    data = with_objects(data, way.architecture if way else None, settings.mask_from, objects, device, store, session)
    models, contenders = _loaded(ModelLoader(store, data, settings.batch, session, described), options, settings)
    if settings.donor_seeds:
        photos_of(data)
    if settings.transfer and len(contenders) < 2:
        raise UsageError("--transfer needs at least two models", "name several models, or train another regime")
    evaluation = Evaluation([one.subject for one in models], data, settings)
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
        return _evaluate(stored, Job(evaluation, tuple(models), tuple(contenders), options.seeds), Findings(), session)


def _resume(store: Store, options: EvalOptions, session: Session) -> EvalResult:
    row = resumable_run(store, str(options.resume), "eval", _given(options), session)
    job = _job_of(row, store, options, session)
    kept = artifact_path(row.path, SAMPLES)
    findings = restore(job.evaluation, kept) if kept.exists() else Findings()
    with store.resume_run(row.id, argv=sys.argv, name=session.name, tags=session.tag) as stored, explained():
        done, total = job.evaluation.attacked_images
        session.note(f"run {stored.id}")
        _say(f"resumed with {done:,} of {total:,} attacked images done", stored, session)
        return _evaluate(stored, job, findings, session)


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
    sources = [source_of(entry, store) for entry in entries]
    data, way = open_data(dataset, sources, described, objects.masks, device, session)
    check_same_data(row, data.name, data.fingerprint)
    data = with_objects(data, way.architecture if way else None, settings.mask_from, objects, device, store, session)
    if data.mask_fingerprint != row.config.get("mask_fingerprint"):
        raise WeightsError(
            f"the masks of {data.name} are not those that {row.id} was started with",
            "put the same masks and weights back, or start a new evaluation",
        )
    if device.type == "cpu" and torch.get_num_threads() != threads:
        session.note(f"using {counted(threads, 'thread')}, as the run did before")
        torch.set_num_threads(threads)  # the order in which a CPU adds depends on them
    loader = ModelLoader(store, data, settings.batch, session, described)
    models = tuple(loader.load_again(entry) for entry in entries)
    contenders = tuple(one for one in models if one.entry.id in ids)
    evaluation = Evaluation([one.subject for one in models], data, settings)
    return Job(evaluation, models, contenders, bool(row.config.get("seeds")))


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
    usual = {"epsilon": defaults.epsilon, "center": defaults.center} | ({"batch": _PHOTO_BATCH} if of_photos else {})
    chosen = {name: value for name, value in given(options).items() if name in EvalSettings.__dataclass_fields__}
    return EvalSettings(**usual | chosen | _beside(options) | {"mask_from": mask_from, "seed": session.seed})


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
        parts = values.split(",")
        try:
            points[axis] = tuple(map(parse_epsilon if axis == "epsilon" else int, parts))
        except ValueError:
            raise UsageError(f"'{values}' are no numbers of steps", _CURVE_HINT) from None
        require_ascending(points[axis], f"values of '{text}'")
    return points


def _given(options: EvalOptions) -> dict[str, Any]:
    """The options that were given and that decide what is computed, by the name that they have in a configuration."""
    elsewhere = ("models", "strong", "strong_budget", "transfer", "curve", "reliance", "donor_seeds")
    known = {name: value for name, value in given_plainly(options).items() if name not in elsewhere}
    plain: dict[str, Any] = to_json(known | {name: value for name, value in _beside(options).items() if value})
    return plain


def describe(settings: EvalSettings, data: TrainingData, models: int) -> str:
    """What is going to be done, in one line."""
    kept = OBJECTS.get(settings.mask_from, f"the center, {settings.center:g} of each side")
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


def _evaluate(stored: Run, job: Job, findings: Findings, session: Session) -> EvalResult:
    evaluation = job.evaluation

    def warn(doubts: Iterable[tuple[LoadedModel, str | None, Doubt]]) -> list[EvalWarning]:
        warnings = [
            EvalWarning(one.entry.name, one.entry.label, name, doubt.check, doubt.value, doubt.text)
            for one, name, doubt in doubts
        ]
        for warning in warnings:
            _say(f"warning: {warning.line}", stored, session)
        return warnings

    try:
        warnings = warn((one, None, doubt) for one in job.models for doubt in one.doubts)
        keeper = SampleKeeper(stored, evaluation, findings)
        try:
            _fill(stored, evaluation, keeper, session)
        finally:
            keeper.save()  # an interrupted evaluation goes on from here; its last batch is done whole, or open
        found = (evaluation.doubts(position) for position in range(len(job.models)))
        warnings += warn(
            (one, name, doubt) for one, doubts in zip(job.models, found, strict=True) for name, doubt in doubts
        )
        parts = [one for one in parts_of(job.models, job.contenders, evaluation) if one.name not in findings.rows_of]
        with session.progress("beyond the matrix", sum(part.images for part in parts)) as tick:
            for part in parts:
                findings.keep(part, part.measure(tick))
                keeper.save()
        return _kept(stored, _result(stored, job, findings, warnings))
    except (KeyboardInterrupt, Terminated):
        code = code_named(one.entry for one in job.models)
        session.note(
            f"run {stored.id} was interrupted; to continue: {resume_command('eval', stored.id, session, code)}"
        )
        raise


def _fill(stored: Run, evaluation: Evaluation, keeper: SampleKeeper, session: Session) -> None:
    """Do what is open. The bar counts attacked images, since natural ones take next to no time."""
    begun, (done_before, total), estimated = time.monotonic(), evaluation.attacked_images, False
    with session.progress("evaluating", total) as tick:
        tick(done_before)

        def after_batch(progress: Progress) -> None:
            nonlocal estimated
            name, column = progress.column, evaluation.columns[progress.subject][progress.column]
            tick(0 if name == NATURAL else progress.images)
            done, seconds = evaluation.attacked_images[0], time.monotonic() - begun
            if not estimated and seconds >= _FIRST_SECONDS and done_before < done < total:
                estimated = True
                left = duration_text((total - done) * seconds / (done - done_before))
                _say(f"{total - done:,} images to attack, about {left}", stored, session)
            described = f"{evaluation.subjects[progress.subject].name}, {name}"
            tick(0, text=f"{described} {column.done:,}/{len(column.right_N):,}")
            if column.done == len(column.right_N):
                loss, accuracy = column.figures()
                figures = f"{'' if loss is None else f'loss {loss:.4g}, '}accuracy {100 * accuracy:.2f} %"
                took = f"{column.done:,} images, {duration_text(float(column.seconds_1))}"
                line = f"{described}: {figures} ({took})"
                stored.log(line)
                if not session.shows_progress:
                    session.note(line)
            keeper.after_batch()

        evaluation.run(after_batch)


def _say(line: str, stored: Run, session: Session) -> None:
    session.note(line)
    stored.log(line)


# the result


def _result(stored: Run, job: Job, findings: Findings, warnings: Sequence[EvalWarning]) -> EvalResult:
    evaluation, settings, data = job.evaluation, job.evaluation.settings, job.evaluation.data
    cells: list[list[Cell]] = []
    comparisons: list[Comparison] = []
    groups: list[SeedGroup] = []
    # Where fewer images are attacked than there are, natural figures of those alone stand beside them.
    unequal = len(evaluation.chosen_N) < data.test_count
    for name in (NATURAL, *([NATURAL_ATTACKED] if unequal else []), *settings.columns):
        source, chosen = (NATURAL, True) if name == NATURAL_ATTACKED else (name, False)
        found = ColumnStatistics(*evaluation.outcomes(source, chosen=chosen), settings.seed)
        cells.append(_cells(job, name, found))
        ids = [one.entry.id for one in job.models]
        comparisons += [
            Comparison(input=name, a=ids[a], b=ids[b], **found.comparison(a, b))
            for a, b in combinations(range(len(ids)), 2)
        ]
        groups += _groups(cells[-1], found) if job.seeds else []
    return EvalResult(
        run=stored.id,
        dir=stored.folder,
        dataset=data.name,
        n=len(evaluation.chosen_N),
        attack=settings.attack_name,
        settings=to_json(settings),
        models=tuple(one.entry for one in job.models),
        cells=tuple(column[position] for position in range(len(job.models)) for column in cells),
        comparisons=tuple(comparisons),
        groups=tuple(groups),
        transfer=findings.rows("transfer"),
        curves=findings.rows("curve"),
        reliance=findings.rows("reliance"),
        warnings=tuple(warnings),
        notes=data.notes,
    )


def _cells(job: Job, name: str, found: ColumnStatistics) -> list[Cell]:
    settings = job.evaluation.settings
    facts: dict[str, Any] = {"input": name, "n": found.n, "seed": settings.seed}
    if name not in (NATURAL, NATURAL_ATTACKED):
        given = ("epsilon", "steps", "restarts", "norm", "radius", "mask_from")
        facts |= {field: getattr(settings, field) for field in given}
        facts["attack"] = settings.attack_of(name)
        facts["center"] = settings.center if settings.mask_from == "center" else None
    cells = []
    for one, figures, columns in zip(job.models, found.figures(), job.evaluation.columns, strict=True):
        about = {field: getattr(one.entry, field) for field in ("label", "regime", "train_seed")}
        about |= {"model": one.entry.name, "model_id": one.entry.id}
        cells.append(
            Cell(**about, **figures, **facts, seconds=float(columns[name].seconds_1) if name in columns else 0.0)
        )
    return cells


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
    for row in result.reliance:
        gap, means = row.overall.gap, row.overall.means
        values: dict[str, float | None] = {name: means[name].accuracy for name in VARIANTS}
        values |= {"gap": gap.value, "gap_standard_error": gap.standard_error, "n": row.overall.n}
        stored.record_metrics([(f"reliance/{row.model}/{name}", 0, value) for name, value in values.items()])
    stored.write_artifact(MATRIX, json.dumps(to_json(result), indent=2).encode(), "matrix")
    return result
