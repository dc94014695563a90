"""`latcli eval`: models in; the loss matrix, what is measured beside it, and a stored run out."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from latcli.commands import resume
from latcli.commands.classifiers import classifier_path, classifier_source
from latcli.commands.data import config_of, open_data, with_objects
from latcli.commands.evaluated_models import (
    DEFAULT_REGIMES,
    LoadedModel,
    ModelLoader,
    common_way,
    names_again,
    trained_on,
    usual_dataset,
)
from latcli.commands.gathering import MATRIX
from latcli.commands.matrices import Evaluated, seed_groups
from latcli.engine import loggers, registry
from latcli.engine.attacks.contract import run_attack
from latcli.engine.datasets.base import TrainingData, named_mask_source
from latcli.engine.datasets.catalog import full_name
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.devices import open_device
from latcli.engine.distributed import Ranks
from latcli.engine.evaluation.beyond import Row, parts_of
from latcli.engine.evaluation.distrust import Doubt
from latcli.engine.evaluation.matrix import (
    NATURAL,
    NATURAL_ATTACKED,
    EvalSettings,
    Evaluation,
    require_ascending,
)
from latcli.engine.evaluation.reliance import VARIANTS, photos_of
from latcli.engine.evaluation.statistics import column_results
from latcli.engine.models.weights import pack, unpack
from latcli.errors import ExitCode, UsageError
from latcli.options import EvalOptions, given, parse_epsilon
from latcli.reporting.evaluations import object_words
from latcli.reporting.text import counted, rough_duration
from latcli.results import (
    AccuracyCurve,
    Cell,
    Comparison,
    EvalResult,
    EvaluatedModel,
    EvalWarning,
    RelianceRow,
    TransferCell,
    read,
    to_json,
)
from latcli.session import Session, connected
from latcli.store.files import artifact_path
from latcli.store.store import Run, RunRow, Store

#: What was found out, image by image, and beside the matrix part by part.
SAMPLES = "samples.safetensors"
_KIND = "evaluation"
#: After the first batch the samples are kept, and then after each, but not more often than this.
_KEEP_SECONDS = 3.0

#: Rows of a part, by the first word of its name.
_ROWS: dict[str, type] = {"transfer": TransferCell, "curve": AccuracyCurve, "reliance": RelianceRow}

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
    """All that is settled before the first batch; the same for an evaluation that begins and one that is resumed.

    dataset: its name as a configuration has it. contenders: ids of the models whose examples are tried on each other.
    """

    options: EvalOptions
    dataset: str
    device: torch.device
    evaluation: Evaluation
    models: tuple[LoadedModel, ...]
    contenders: tuple[str, ...]


def run(options: EvalOptions, session: Session) -> EvalResult:
    """Evaluate models, or resume an evaluation that was cut off, and keep what was found.

    Raises UsageError and LatcliError for models, options and data that are unusable, before a run is started;
    WeightsError for samples that are damaged or do not fit; ContractError and StoreError while it evaluates.
    """
    loggers.check(options.logger)
    ranks, session = connected(options, session)
    if ranks.rank:  # it evaluates its share of the images, and sends rank 0 what is found
        from_rank_0: Any = ranks.broadcast(None)
        row, opened, samples = from_rank_0  # its run, what opens its models, what is known of each image already
        job = _agree(ranks, lambda: _job(options, row, None, session, opened))
        if samples:
            job.evaluation.restore(samples, row.id)
        findings = Findings(job.evaluation)
        _fill(None, findings, session, ranks)
        _measure(None, job, findings, session, ranks)
        sys.exit(ExitCode.OK)
    with Store.open(session.store) as store:
        row = None
        if options.resume is not None:
            row = resume.resumable_run(store, options.resume, "eval", _given(options), session, options.models)
        store.check_name(session.name, "" if row is None else row.id)
        job = _job(options, row, store, session)
        findings = Findings(job.evaluation)
        if row is not None and (kept := artifact_path(row.path, SAMPLES)).exists():
            findings.restore(kept)
        data = job.evaluation.data
        with resume.running(
            store,
            row,
            "eval",
            session,
            config=_config(job, session) | ranks.world,
            seed=job.evaluation.settings.seed,
            device=str(job.device),
            dataset=store.record_dataset(data.name, fingerprint=data.fingerprint),
        ) as stored:
            session.note(f"run {stored.id}")
            samples = {} if row is None else job.evaluation.tensors()
            ranks.broadcast((stored.row, [one.entry.source for one in job.models], samples))
            _agree(ranks, lambda: job)
            done, total = job.evaluation.attacked_images
            resumed = f"resumed with {done:,} of {total:,} attacked images done"
            _say(describe(job) if row is None else resumed, stored, session)
            result = _evaluate(stored, job, findings, session, ranks)
            _log(result, options.logger, job, session)
            return result


def _agree(ranks: Ranks, make: Callable[[], Job]) -> Job:
    """This rank's job, where data, models and forms of gradients are the same on all. Raises as Ranks.agreed does."""
    return ranks.agreed(
        make,
        lambda job: (
            (job.evaluation.data.fingerprint, job.evaluation.data.mask_fingerprint),
            [(one.entry.fingerprint, one.entry.form) for one in job.models],
        ),
        "the data set, its masks or the models",
        "put the same files on every machine",
    )


def _job(
    options: EvalOptions, row: RunRow | None, store: Store | None, session: Session, opened: Sequence[str] = ()
) -> Job:
    """What these options mean; of a run, what it was started with, whatever is newest by now.

    A rank other than 0 has no store; rank 0 sends it what opens the models.

    Raises UsageError, LatcliError, also where data, masks or models of the run have changed.
    """
    device = open_device(session.device)
    entries: list[EvaluatedModel | None] = []
    if row is None:
        assert store is not None
        names, _ = list(named_models(options)), _beside(options)  # errors in them come before any file is read
        dataset = full_name(options.dataset or usual_dataset(store, names) or registry.DEFAULT_DATASET)
        latest = [] if names else trained_on(store, dataset, seeds=options.seeds)
        for found in latest:
            session.note(f"{found.config['regime']}: training run {found.id}, seed {found.seed}")
        for regime in DEFAULT_REGIMES if latest else ():
            if regime not in [found.config["regime"] for found in latest]:
                session.note(f"{regime}: no training run of {dataset} is completed")
        opened = names or [found.id for found in latest]
    else:
        stored = resume.read_config(_StoredModels, row)
        names, entries, dataset = list(stored.models), list(stored.entries), resume.dataset_of(row, options.dataset)
        if other := [name for name in named_models(options) if name not in names]:
            raise UsageError(f"{row.id} does not evaluate {other[0]}", "resume it without this name, or start anew")
        if store is not None:
            opened = names_again(stored.entries, store)
        options = resume.kept_options(options, row, EvalSettings)
    about = classifier_source(options, session)
    sources = [classifier_path(name, session.store) for name in opened]
    architecture, preprocessing = common_way(dataset, sources, about)

    data = open_data(dataset, architecture, options, device, session, row, preprocessing)
    settings = settings_of(options, data, session) if row is None else resume.read_config(EvalSettings, row)
    data = with_objects(data, settings.mask_from, architecture, options, store, session, row)
    if row is not None and device.type == "cpu":
        resume.use_threads(stored.threads, session)
    loader = ModelLoader(store, data, session, about)
    loaded = [loader.load(name, was) for name, was in zip(opened, entries or [None] * len(opened), strict=True)]
    models: dict[str, LoadedModel] = {}
    for one in loaded:
        if models.setdefault(one.entry.id, one) is not one:
            session.note(f"note: {one.entry.name} is {models[one.entry.id].entry.name}, and is evaluated once")
    if row is None:
        among = {one.entry.id for name, one in zip(opened, loaded, strict=True) if name in settings.transfer}
        among = set(models) if settings.transfer == (ALL_MODELS,) else among
        if settings.transfer and len(among) < 2:
            raise UsageError("--transfer needs at least two models", "name several models, or train another regime")
    else:
        among = set(stored.contenders)
    if settings.donor_seeds:
        photos_of(data)
    evaluation = Evaluation([one.subject for one in models.values()], data, settings)
    _try_attack(evaluation)
    contenders = tuple(model for model in models if model in among)
    options = replace(options, models=tuple(names))
    return Job(options, dataset, device, evaluation, tuple(models.values()), contenders)


@dataclass(frozen=True)
class _StoredModels:
    """What a configuration says of the models; `threads` were at work."""

    models: tuple[str, ...]
    entries: tuple[EvaluatedModel, ...]
    contenders: tuple[str, ...]
    threads: int


def _config(job: Job, session: Session) -> dict[str, Any]:
    options, data = job.options, job.evaluation.data
    stored = _StoredModels(
        options.models, tuple(one.entry for one in job.models), job.contenders, torch.get_num_threads()
    )
    known = config_of(job.dataset, data, job.evaluation.settings, options, session)
    return {**known, **to_json(stored), "seeds": options.seeds}


def _try_attack(evaluation: Evaluation) -> None:
    """One step on one grey image: an attack that does not know the norm, or fails, says so before any long work."""
    settings, subject = evaluation.settings, evaluation.subjects[0]
    (images,) = evaluation.data.testing([evaluation.chosen_N[:1]])
    eps_11HW = torch.full_like(images.x_BCHW[:, :1], settings.epsilon)
    once = replace(settings.attack_settings(), steps=1, restarts=1)
    part = (images.x_BCHW, images.y_B, eps_11HW, once, torch.zeros_like(images.y_B))
    run_attack(evaluation.attack_function, subject.fast, *part)


# from options to settings


def named_models(options: EvalOptions) -> tuple[str, ...]:
    """The models that were named, as such or for the transfer, each name once; none: the latest runs."""
    named = () if options.transfer in (None, ALL_MODELS) else _transfer(options)
    return tuple(dict.fromkeys((*options.models, *named)))


def settings_of(options: EvalOptions, data: TrainingData, session: Session) -> EvalSettings:
    """Settings from the options, else from the data set. Raises UsageError."""
    defaults, of_photos = data.defaults, isinstance(data, PhotoFolder)
    mask_from = named_mask_source(given(options)) or defaults.mask_from
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
    known = {name: value for name, value in given(options).items() if name not in elsewhere}
    return resume.plainly(known | {name: value for name, value in _beside(options).items() if value})


def describe(job: Job) -> str:
    """What is going to be done, in one line."""
    settings, data = job.evaluation.settings, job.evaluation.data
    kept = object_words(settings.mask_from, settings.center)
    parts = [f"{settings.attack_name} at epsilon {settings.epsilon:.4g}", f"object: {kept}"]
    parts += [f"strong suite, {settings.strong} budget"] if settings.strong else []
    parts += ["transfer"] if settings.transfer else []
    curves = {"epsilon": settings.curve_epsilons, "steps": settings.curve_steps}
    parts += [f"curve against {axis}, {len(points)} points" for axis, points in curves.items() if points]
    parts += [f"background reliance, donor seeds: {settings.donor_seeds}"] if settings.donor_seeds else []
    attacked = f"{min(settings.images, data.test_count):,} of {data.test_count:,} images attacked"
    return f"evaluating {counted(len(job.models), 'model')} on {data.name}, {attacked}: {', '.join(parts)}"


# the work


class Findings:
    """What was found out so far, kept in the run's folder now and then: samples of images, and rows of whole parts.

    The file before stays until the new one is whole, and an interrupted evaluation goes on from it.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.rows_of: dict[str, list[dict[str, Any]]] = {}  # by the names of the parts that are done, as plain values
        self._kept_at = -math.inf

    def keep(self, stored: Run, *, soon: bool = False) -> None:
        """Keep it; `soon`: only where some time has passed since the last time. Raises StoreError."""
        if soon and time.monotonic() - self._kept_at < _KEEP_SECONDS:
            return
        description = {"settings": to_json(self.evaluation.settings), "findings": self.rows_of}
        stored.write_artifact(SAMPLES, pack(_KIND, self.evaluation.tensors(), description), "samples")
        self._kept_at = time.monotonic()

    def restore(self, path: Path) -> None:
        """Take over what a file of `keep` holds. Raises WeightsError where it is damaged or of something else."""
        tensors, description = unpack(path, _KIND)
        self.evaluation.restore(tensors, str(path))
        self.rows_of = description["findings"]

    def rows(self, kind: str) -> tuple[Any, ...]:
        """All rows of the parts whose name begins so."""
        kept = [row for name, rows in self.rows_of.items() if name.partition(" ")[0] == kind for row in rows]
        return tuple(read(list[_ROWS[kind]], kept))  # type: ignore[valid-type]


def _evaluate(stored: Run, job: Job, findings: Findings, session: Session, ranks: Ranks) -> EvalResult:
    evaluation, models = job.evaluation, job.models

    def warn(doubts: Iterable[tuple[LoadedModel, str | None, Doubt]]) -> list[EvalWarning]:
        warnings = [
            EvalWarning(one.entry.name, one.entry.label, name, doubt.check, doubt.value, doubt.text)
            for one, name, doubt in doubts
        ]
        for warning in warnings:
            _say(f"warning: {warning.line}", stored, session)
        return warnings

    warnings = warn((one, None, doubt) for one in models for doubt in one.doubts)
    try:
        _fill(stored, findings, session, ranks)
    finally:
        findings.keep(stored)  # an interrupted evaluation goes on from here; its last batch is done whole, or open
    warnings += warn((one, name, doubt) for place, one in enumerate(models) for name, doubt in evaluation.doubts(place))
    _measure(stored, job, findings, session, ranks)
    return _kept(stored, _result(stored, job, findings, warnings))


def _fill(stored: Run | None, findings: Findings, session: Session, ranks: Ranks) -> None:
    """Do what is open of this rank's share; rank 0 alone has a run, and takes in what all of them find.

    The bar counts attacked images, since natural ones take next to no time.
    """
    evaluation = findings.evaluation
    begun, (done_before, total), estimated = time.monotonic(), evaluation.attacked_images, False
    filled = evaluation.run(ranks.rank, ranks.size)
    found = ((one, evaluation.columns[one.subject][one.column].images(one.place_B)) for one in filled)
    with session.progress("evaluating", total) as tick:
        tick(done_before)
        for rank, (progress, images) in ranks.collected(found):
            assert stored is not None  # nothing comes to another rank
            name, column = progress.column, evaluation.columns[progress.subject][progress.column]
            if rank:
                column.take(progress.place_B, images, progress.seconds)
            tick(0 if name == NATURAL else len(progress.place_B))
            done, seconds = evaluation.attacked_images[0], time.monotonic() - begun
            if not estimated and seconds >= _FIRST_SECONDS and done_before < done < total:
                estimated = True
                left = rough_duration((total - done) * seconds / (done - done_before))
                _say(f"{total - done:,} images to attack, about {left}", stored, session)
            described = f"{evaluation.subjects[progress.subject].name}, {name}"
            tick(0, text=f"{described} {column.done:,}/{len(column.right_N):,}")
            if column.done == len(column.right_N):
                loss, accuracy = column.figures()
                figures = f"{'' if loss is None else f'loss {loss:.4g}, '}accuracy {100 * accuracy:.2f} %"
                took = f"{column.done:,} images, {rough_duration(float(column.seconds_1))}"
                line = f"{described}: {figures} ({took})"
                stored.log(line)
                if not session.shows_progress:
                    session.note(line)
            findings.keep(stored, soon=True)


def _measure(stored: Run | None, job: Job, findings: Findings, session: Session, ranks: Ranks) -> None:
    """Measure the parts that are open, of which each rank takes its share."""
    parts = list(parts_of(job.evaluation, [one.entry.id for one in job.models], job.contenders))
    left = {part.name: part.images for part in parts if part.name not in findings.rows_of}
    mine = ranks.share(ranks.broadcast(list(left)))
    with session.progress("further measurements", sum(left.values())) as tick:

        def measured() -> Iterator[tuple[str, Sequence[Row]]]:
            for part in parts:
                if part.name in mine:
                    tick(0, text=part.text)
                    yield part.name, part.measure(tick)

        for rank, (name, rows) in ranks.collected(measured()):
            assert stored is not None  # nothing comes to another rank
            tick(left[name] if rank else 0)
            findings.rows_of[name] = to_json(rows)
            findings.keep(stored)
    if stored is not None:  # several ranks end in any order
        findings.rows_of = {part.name: findings.rows_of[part.name] for part in parts} | findings.rows_of


def _say(line: str, stored: Run, session: Session) -> None:
    session.note(line)
    stored.log(line)


# the result


def _result(stored: Run, job: Job, findings: Findings, warnings: Sequence[EvalWarning]) -> EvalResult:
    evaluation, settings, data = job.evaluation, job.evaluation.settings, job.evaluation.data
    entries = [one.entry for one in job.models]
    cells: list[list[Cell]] = []
    comparisons: list[Comparison] = []
    # Where fewer images are attacked than there are, natural figures of those alone stand beside them.
    unequal = len(evaluation.chosen_N) < data.test_count
    for name in (NATURAL, *([NATURAL_ATTACKED] if unequal else []), *settings.columns):
        source, chosen = (NATURAL, True) if name == NATURAL_ATTACKED else (name, False)
        outcomes = evaluation.outcomes(source, chosen=chosen)
        seconds = [float(columns[name].seconds_1) if name in columns else 0.0 for columns in evaluation.columns]
        column, pairs = column_results(*outcomes, settings.seed, entries, settings.facts(name), seconds)
        cells.append(column)
        comparisons += pairs
    result = EvalResult(
        run=stored.id,
        dir=stored.folder,
        dataset=data.name,
        n=len(evaluation.chosen_N),
        attack=settings.attack_name,
        settings=to_json(settings),
        models=tuple(entries),
        cells=tuple(column[position] for position in range(len(entries)) for column in cells),
        comparisons=tuple(comparisons),
        transfer=findings.rows("transfer"),
        curves=findings.rows("curve"),
        reliance=findings.rows("reliance"),
        warnings=tuple(warnings),
        notes=data.notes,
    )
    if not job.options.seeds:
        return result
    trained = {row.id: row for row in stored.store.runs(command="train")}
    return replace(result, groups=seed_groups(Evaluated(stored.row, result.cells, result), trained))


def _log(result: EvalResult, names: Sequence[str], job: Job, session: Session) -> None:
    """Give trackers the loss matrix: a number for each cell's loss and accuracy, and a table."""
    about = {"dataset": result.dataset, **result.settings}
    run = loggers.LoggedRun(result.run, session.name or result.run, "eval", result.dir, about, offline=session.offline)
    rows = [(cell.label, cell.input, cell.n, cell.loss, cell.accuracy) for cell in result.cells]
    with loggers.Loggers(names, run, session.note) as trackers:
        for label, given, _, loss, accuracy in rows:
            values = {f"{label}/{given}/loss": loss, f"{label}/{given}/accuracy": accuracy}
            trackers.scalars({name: value for name, value in values.items() if value is not None}, 0)
        trackers.table("Loss matrix", ("model", "input", "n", "loss", "accuracy"), rows)


def _kept(stored: Run, result: EvalResult) -> EvalResult:
    stored.insert("cells", result.cells, instead=True)
    for row in result.reliance:
        gap, means = row.overall.gap, row.overall.means
        values: dict[str, float | None] = {name: means[name].accuracy for name in VARIANTS}
        values |= {"gap": gap.value, "gap_standard_error": gap.standard_error, "n": row.overall.n}
        stored.record_metrics([(f"reliance/{row.model}/{name}", 0, value) for name, value in values.items()])
    stored.write_artifact(MATRIX, json.dumps(to_json(result), indent=2).encode(), "matrix")
    return result
