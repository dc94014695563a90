"""`latcli reproduce`: every run that a claim of the paper takes, and what they show.

What the store holds is not done again: a step is done where a completed run has the configuration that the step would
have, on the same data.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from latcli.commands import attack, evaluate, train
from latcli.commands.classifiers import CHECKPOINT
from latcli.commands.data import load_data
from latcli.commands.gathering import MATRIX, TABLES, gather
from latcli.commands.paper import compare_with_paper
from latcli.commands.reproduction_parts import OF_PAPER, OF_PHOTOS, Findings, Step, photos_of, steps_of
from latcli.engine import registry
from latcli.engine.datasets.base import Dataset
from latcli.engine.images import sha256_of
from latcli.engine.photo_files import find_sources
from latcli.errors import ExitCode, LatcliError, UsageError
from latcli.options import (
    AttackOptions,
    EvalOptions,
    ReportOptions,
    ReproduceOptions,
    ReproduciblePart,
    TrainOptions,
)
from latcli.results import ReportResult, ReproduceResult, StepRow, canonical_json, to_json
from latcli.session import Session
from latcli.store.store import DATABASE, Run, RunRow, Store

#: What a reproduction leaves in its run, besides its plots.
MARKDOWN = "reproduction.md"

State = Literal["done", "interrupted", "running", "missing"]


#: Regimes that compute the same wherever the object is, and what says where it is.
_WITHOUT_OBJECT = frozenset({"natural", "standard"})
_OF_OBJECT = frozenset({"center", "mask_from", "mask_fingerprint"})
#: Parts of an attack's configuration that decide how it is kept or shown, or that are compared by contents instead.
_OF_ATTACK_FREE = frozenset({"photos", "labels", "batch", "dry_run", "check_success"})


def run(options: ReproduceOptions, session: Session) -> ReproduceResult:
    """Run what is missing, resume what was interrupted, and judge the results; with `plan`, only list the steps.

    Raises UsageError and LatcliError for options and data that are unusable, before a run is started; then whatever a
    step's command raises. What is done stays done.
    """
    data = _small_images(options, session)
    parts = {name: steps_of(name, options, session, data) for name in options.parts}
    steps = list(dict.fromkeys(step for part in parts.values() for step in part))
    notes = _notes(options, data, session)
    for note in notes:
        session.note(f"note: {note}")
    shown = {name: value for name, value in vars(options).items() if name != "plan"} | {"seed": session.seed}
    planned = ReproduceResult(options=shown, planned=True, steps=(), notes=(*(data.notes if data else ()), *notes))
    if options.plan:
        with _looking(session) as store:
            return replace(planned, steps=_rows(steps, Found(store, session, data)))
    with Store.open(session.store) as store:
        found = Found(store, session, data)
        with _own_run(store, options, session) as stored:
            session.note(f"run {stored.id}")
            _carry_out(steps, found, stored, replace(session, parent=stored.id, name=None, tag=()))
            result = replace(planned, planned=False, run=stored.id, dir=stored.folder, steps=_rows(steps, found))
            result = _judged(result, parts, Findings(store, _runs_of(steps, found), options, data), session)
            return replace(result, files=(*_kept(stored, result), *result.files))


# data and notes


def _small_images(options: ReproduceOptions, session: Session) -> Dataset | None:
    """What the steps look at, None where they look at photos alone.

    Raises UsageError, for an unknown network too; WeightsError for weights that do not fit it.
    """
    if set(options.parts) <= OF_PHOTOS:
        return None
    data = load_data(options.dataset, None, session)
    if not isinstance(data, Dataset):
        raise UsageError(
            f"{options.dataset} holds photos, and the paper's figures are of small images",
            "give a folder of small images, or reproduce table2 with --photos",
        )
    if options.architecture is not None:
        registry.load("architecture", options.architecture)
    if options.classifier_weights is not None:
        train.start_fingerprint(options.classifier_weights, options.architecture or data.defaults.architecture, data)
    return data


def _notes(options: ReproduceOptions, data: Dataset | None, session: Session) -> list[str]:
    notes = []
    if options.like is not None and data is not None and data.name != options.like:
        notes.append(f"figures of {data.name} are compared with the paper's of {options.like}")
    if OF_PHOTOS & set(options.parts) and photos_of(options, session) is None:
        notes.append(
            f"no photos in {session.data / 'photos'}: two that packages carry are used; --photos DIR names others"
        )
    if options.budget == "paper" and data is not None:
        notes.append("the paper's budget is 100,000 minibatches under PGD-100 a model: days on a CPU")
    return notes


# what the store has of a step


@dataclass
class Found:
    """Finds the runs of steps in a store. data: the set of small images, None where no step looks at one."""

    store: Store
    session: Session
    data: Dataset | None
    _fits: dict[tuple[object, ...], Callable[[RunRow], bool]] = field(default_factory=dict)

    def state_of(self, step: Step) -> tuple[State, RunRow | None]:
        """The newest run that counts: a finished one, else one at work, else one that was cut off.

        Raises UsageError for options that are unusable, ImageError where photos cannot be read.
        """
        models = self.trained(step.models)
        if len(models) < len(step.models):  # what it goes on from, or evaluates, is not there yet
            return "missing", None
        known = (step, *(row.id for row in models.values()))
        if known not in self._fits:
            self._fits[known] = self._fitting(step)
        fits = self._fits[known]
        rows = [row for row in self.store.runs(command=step.command) if row.seed == step.seed and fits(row)]
        states: dict[str, State] = {"completed": "done", "running": "running"}
        for status, state in states.items():
            for row in rows:
                if row.status == status:
                    return state, row
        cut_off = [row for row in rows if row.path.is_dir()]  # without its folder a run cannot be resumed
        return ("interrupted", cut_off[0]) if cut_off else ("missing", None)

    def trained(self, steps: Sequence[Step]) -> dict[Step, RunRow]:
        """The runs of those training steps that are done."""
        states = {step: self.state_of(step) for step in steps}
        return {step: row for step, (state, row) in states.items() if state == "done" and row is not None}

    def started(self, step: Step) -> TrainOptions:
        """The options of a training, with the weights of the one that it goes on from, which is done."""
        options = step.options
        assert isinstance(options, TrainOptions)
        starts = [row.path / CHECKPOINT for row in self.trained(step.models).values()]
        return replace(options, classifier_weights=starts[0]) if starts else options

    def _fitting(self, step: Step) -> Callable[[RunRow], bool]:
        """Whether a run has the configuration that the step would have, on the same data, and what it is to leave."""
        if isinstance(step.options, AttackOptions):
            return self._fitting_attack(step.options)
        data, artifact, models = self.data, MATRIX, sorted(str(row.model) for row in self.trained(step.models).values())
        assert data is not None
        if isinstance(step.options, TrainOptions):
            options, artifact, models = self.started(step), CHECKPOINT, []
            architecture, start = options.architecture or data.defaults.architecture, options.classifier_weights
            settings: object = train.settings_of(options, data, step.seed)
            weights = None if start is None else train.start_fingerprint(start, architecture, data)
            wanted: dict[str, Any] = {"architecture": architecture, "weights_fingerprint": weights}
        else:
            settings = evaluate.settings_of(step.options, data, replace(self.session, seed=step.seed))
            wanted = {}
        wanted |= dict(to_json(settings)) | {"precision": self.session.precision}
        wanted |= {"dataset_fingerprint": data.fingerprint, "mask_fingerprint": data.mask_fingerprint}
        if wanted.get("regime") in _WITHOUT_OBJECT:
            wanted = {name: value for name, value in wanted.items() if name not in _OF_OBJECT}

        def fits(row: RunRow) -> bool:
            evaluated = sorted(str(entry.get("id")) for entry in row.config.get("entries", ()))
            whole = row.status != "completed" or (row.path / artifact).is_file()
            return whole and evaluated == models and _has(row, wanted)

        return fits

    def _fitting_attack(self, options: AttackOptions) -> Callable[[RunRow], bool]:
        given = attack.config_of(options)
        wanted = {name: value for name, value in given.items() if name not in _OF_ATTACK_FREE}
        wanted |= {"labels_sha256": attack.labels_sha256(options), "precision": self.session.precision}
        photos = {sha256_of(source.path) for source in find_sources(options.photos)}

        def fits(row: RunRow) -> bool:
            if not _has(row, wanted):
                return False
            attacked = {photo["sha256"] for photo in self.store.rows_of(row.id, "attacks")}
            if row.status != "completed":  # it is resumed with the files that it was started with
                where = {name: given[name] for name in ("photos", "labels")}
                return _has(row, where) and attacked <= photos
            # What could not be attacked, without an object or readable contents, cannot be the next time either.
            failed = row.exit_code not in (None, ExitCode.OK)
            return attacked == photos or (failed and bool(attacked) and attacked < photos)

        return fits


def _has(row: RunRow, wanted: Mapping[str, Any]) -> bool:
    """Whether a run's configuration has all of these values."""
    known = {name: row.config[name] for name in wanted if name in row.config}
    return canonical_json(known) == canonical_json(wanted)


# carrying out


@contextmanager
def _looking(session: Session) -> Iterator[Store]:
    """The store as it is, unchanged; an empty one where there is none."""
    if (session.store / DATABASE).exists():
        with Store.open_existing(session.store) as store:
            yield store
        return
    with TemporaryDirectory() as folder, Store.open(Path(folder)) as store:
        yield store


def _own_run(store: Store, options: ReproduceOptions, session: Session) -> Run:
    """The run that the steps are parts of: one of the same options that was cut off, else a new one."""
    config = to_json({name: value for name, value in vars(options).items() if name != "plan"})
    config |= {"precision": session.precision}
    for row in store.runs(command="reproduce"):
        same = row.seed == session.seed and canonical_json(row.config) == canonical_json(config)
        if same and row.status not in ("completed", "running") and row.path.is_dir():
            return store.resume_run(row.id, argv=list(session.argv), name=session.name, tags=session.tag)
    return store.start_run("reproduce", **session.of_run(), config=config, seed=session.seed, device=session.device)


def _carry_out(steps: Sequence[Step], found: Found, stored: Run, session: Session) -> None:
    for number, step in enumerate(steps, start=1):
        state, row = found.state_of(step)
        place = f"step {number} of {len(steps)}: {step.title}"
        if state == "done" and row is not None:
            session.note(f"{place}: done, run {row.id[-4:]}")
            continue
        if state == "running" and row is not None:
            raise LatcliError(
                f"'{step.title}' is running in another process, as {row.id}", "wait for its end, then run this again"
            )
        session.note(place)
        stored.log(place)
        _carry_out_one(step, row.id if row else None, found, replace(session, seed=step.seed))


def _carry_out_one(step: Step, resume: str | None, found: Found, session: Session) -> None:
    match step.options:
        case TrainOptions():
            started = found.started(step)
            own = replace(session, argv=session.command_of("train", started))
            train.run(started if resume is None else TrainOptions(resume=resume), own)
        case EvalOptions() as options:
            options = replace(options, models=tuple(row.id for row in found.trained(step.models).values()))
            own = replace(session, argv=session.command_of("eval", options))
            evaluate.run(options if resume is None else EvalOptions(resume=resume), own)
        case AttackOptions() as options:
            own = replace(session, argv=session.command_of("attack", options))
            again = AttackOptions(resume=resume, classifier=options.classifier)
            attacked = attack.run(options if resume is None else again, own)
            if found.state_of(step)[0] != "done":
                raise LatcliError(
                    f"'{step.title}' found nothing: no photo could be attacked",
                    f"latcli runs show {str(attacked.run)[-4:]} says why; repair or remove the photos",
                )


def _runs_of(steps: Sequence[Step], found: Found) -> dict[Step, RunRow]:
    return {step: row for step in steps if (row := found.state_of(step)[1]) is not None}


def _judged(
    result: ReproduceResult, parts: Mapping[ReproduciblePart, Sequence[Step]], findings: Findings, session: Session
) -> ReproduceResult:
    """The result with what its runs show: tables, and of the paper's own figures the report and the verdicts."""
    tables = [table for name, steps in parts.items() for table in findings.tables(name, steps)]
    own = [step for name, steps in parts.items() if name in OF_PAPER for step in steps]
    if not own:
        return replace(result, tables=tuple(tables))
    ids = tuple(dict.fromkeys(findings.runs[step].id for step in own))
    report: ReportResult = gather(ReportOptions(runs=ids), session, TABLES)
    configs = {str(row["run"]): row["config"] for row in report.runs}
    paper = compare_with_paper(report.matrices, report.attacks, configs, findings.options.like)
    return replace(
        result,
        tables=tuple(tables),
        claims=tuple(claim for part in paper if part.ours is not None for claim in part.claims),
        report=replace(report, paper=paper),
        files=tuple(findings.figures(parts.get("figure1", ()))),
    )


def _rows(steps: Sequence[Step], found: Found) -> tuple[StepRow, ...]:
    numbered = list(enumerate(steps, start=1))
    trained = found.trained([step for step in steps if step.command == "train"])
    # The ends of the training runs' ids; STEP and its number for a model that is yet to be trained.
    names = {step: trained[step].id.rpartition("-")[2] if step in trained else f"STEP{n}" for n, step in numbered}
    files = {
        step: str((trained[step].path if step in trained else Path(name)) / CHECKPOINT) for step, name in names.items()
    }
    rows = []
    for number, step in numbered:
        state, row = found.state_of(step)
        rows.append(
            StepRow(
                number=number,
                step=step.title,
                command=step.command,
                state=state,
                run=None if row is None else row.id,
                config_hash=None if row is None else row.config_hash,
                seconds=row.seconds if row is not None and state == "done" else None,
                command_line=command_line(
                    step, found.session, [(files if step.command == "train" else names)[one] for one in step.models]
                ),
            )
        )
    return tuple(rows)


def command_line(step: Step, session: Session, models: Sequence[str] = ()) -> str:
    """What a user types for this step alone.

    models: the names of the models of an evaluation, or the path of the weights that a training goes on from.
    """
    options = step.options
    if isinstance(options, EvalOptions):
        options = replace(options, models=tuple(models))
    elif isinstance(options, TrainOptions) and models:
        options = replace(options, classifier_weights=Path(models[0]))
    return shlex.join(replace(session, seed=step.seed).command_of(step.command, options))


def _kept(stored: Run, result: ReproduceResult) -> Iterator[Path]:
    """The plots and tables, as files of the run."""
    from latcli.reporting import render
    from latcli.reporting.figures import means

    document = to_json(result)
    for one in document["tables"]:
        if one["drawn"]:
            yield stored.write_artifact(f"{one['name']}.png", means(one), "plot")
    text = "".join(render.reproduction(document))
    yield stored.write_artifact(MARKDOWN, text.encode("utf-8", "backslashreplace"), "report")
