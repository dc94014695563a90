"""`latcli reproduce`: every run that a claim of the paper takes, and what they show.

What the store holds is not done again: a step is done where a completed run has the configuration that the step would
have, on the same data.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from latcli.commands import attack, evaluate, train
from latcli.commands.classifiers import CHECKPOINT
from latcli.commands.data import load_data
from latcli.commands.gathering import MATRIX, TABLES, gather
from latcli.commands.paper import compare_with_paper
from latcli.commands.reproduction_parts import OF_PAPER, OF_PHOTOS, Findings, Step, photos_of, steps_of
from latcli.commands.resume import contents_of
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
        exists = (session.store / DATABASE).exists()
        with Store.open_existing(session.store) if exists else nullcontext() as known:
            return replace(planned, steps=_rows(steps, Found(known, session, data)))
    with Store.open(session.store) as store:
        found = Found(store, session, data)
        with _own_run(store, options, session) as stored:
            session.note(f"run {stored.id}")
            _carry_out(steps, found, stored, replace(session, parent=stored.id, name=None, tag=()))
            result = replace(planned, planned=False, run=stored.id, dir=stored.folder, steps=_rows(steps, found))
            result = _judged(result, parts, Findings(store, found.done, options, data), session)
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


def filled(step: Step, models: Sequence[str]) -> TrainOptions | EvalOptions | AttackOptions:
    """The step's options with what its models are called; a training goes on from the folder of one."""
    if isinstance(step.options, EvalOptions):
        return replace(step.options, models=tuple(models))
    if isinstance(step.options, TrainOptions) and models:
        return replace(step.options, classifier_weights=Path(models[0], CHECKPOINT))
    return step.options


@dataclass
class Found:
    """Finds the runs of steps in a store, if there is one. data: None where no step looks at small images."""

    store: Store | None
    session: Session
    data: Dataset | None
    done: dict[Step, RunRow] = field(default_factory=dict)
    _fits: dict[Step, Callable[[RunRow], bool]] = field(default_factory=dict)

    def state_of(self, step: Step) -> tuple[State, RunRow | None]:
        """The newest run that counts: a finished one, else one at work, else one that was cut off.

        Raises UsageError for options that are unusable, ImageError where photos cannot be read.
        """
        if step not in self.done:
            # What it goes on from, or evaluates, may not be there yet.
            if any(self.state_of(one)[0] != "done" for one in step.models):
                return "missing", None
            if step not in self._fits:
                self._fits[step] = self._fitting(step)
            fits, runs = self._fits[step], self.store.runs(command=step.command) if self.store else []
            rows = [row for row in runs if row.seed == step.seed and fits(row)]
            by_status = {row.status: row for row in reversed(rows)}
            if "completed" not in by_status:
                if "running" in by_status:
                    return "running", by_status["running"]
                cut_off = [row for row in rows if row.path.is_dir()]  # without its folder a run cannot be resumed
                return ("interrupted", cut_off[0]) if cut_off else ("missing", None)
            self.done[step] = by_status["completed"]
        return "done", self.done[step]

    def options_of(self, step: Step) -> TrainOptions | EvalOptions | AttackOptions:
        """The step's options with the models that it takes, which are done."""
        rows = [self.done[one] for one in step.models]
        return filled(step, [row.id if step.command == "eval" else str(row.path) for row in rows])

    def _fitting(self, step: Step) -> Callable[[RunRow], bool]:
        """Whether a run has the configuration that the step would have, on the same data, and what it is to leave."""
        options, data = self.options_of(step), self.data
        if isinstance(options, AttackOptions):
            return self._fitting_attack(options)
        assert data is not None
        wanted: dict[str, Any] = {"dataset_fingerprint": data.fingerprint, "mask_fingerprint": data.mask_fingerprint}
        wanted["precision"] = self.session.precision
        if isinstance(options, TrainOptions):
            artifact, models = CHECKPOINT, list[str]()
            architecture, start = options.architecture or data.defaults.architecture, options.classifier_weights
            wanted |= to_json(train.settings_of(options, data, step.seed)) | {"architecture": architecture}
            weights = None if start is None else train.start_fingerprint(start, architecture, data)
            wanted["weights_fingerprint"] = weights
        else:
            artifact, models = MATRIX, sorted(str(self.done[one].model) for one in step.models)
            wanted |= to_json(evaluate.settings_of(options, data, replace(self.session, seed=step.seed)))
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
        wanted |= {"labels_sha256": contents_of(options)["labels_sha256"], "precision": self.session.precision}
        photos = {sha256_of(source.path) for source in find_sources(options.photos)}

        def fits(row: RunRow) -> bool:
            if self.store is None or not _has(row, wanted):
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


def _own_run(store: Store, options: ReproduceOptions, session: Session) -> Run:
    """The run that the steps are parts of: one of the same options that was cut off, else a new one."""
    config = to_json({name: value for name, value in vars(options).items() if name != "plan"})
    config |= {"precision": session.precision}
    for row in store.runs(command="reproduce"):
        same = row.seed == session.seed and canonical_json(row.config) == canonical_json(config)
        if same and row.status not in ("completed", "running") and row.path.is_dir():
            return store.resume_run(row.id, argv=list(session.argv), name=session.name, tags=session.tag)
    return store.start_run("reproduce", **session.of_run(), config=config, seed=session.seed, device=session.device)


#: What carries out a step of a command.
_COMMANDS: Mapping[str, Callable[..., Any]] = {"train": train.run, "eval": evaluate.run, "attack": attack.run}


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
        options, own = found.options_of(step), replace(session, seed=step.seed)
        own = replace(own, argv=own.command_of(step.command, options))
        if row is not None:  # an attack may be on code, which is named again
            again = {"classifier": options.classifier} if isinstance(options, AttackOptions) else {}
            options = type(options)(resume=row.id, **again)  # type: ignore[arg-type]
        made = _COMMANDS[step.command](options, own)
        if found.state_of(step)[0] != "done":
            if not isinstance(options, AttackOptions):
                raise LatcliError(
                    f"'{step.title}' is done, but its run is not found again",
                    f"see latcli runs show {str(made.run)[-4:]}, and whether data or code have changed meanwhile",
                )
            raise LatcliError(
                f"'{step.title}' found nothing: no photo could be attacked",
                f"latcli runs show {str(made.run)[-4:]} says why; repair or remove the photos",
            )


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
    rows: dict[Step, StepRow] = {}
    for number, step in enumerate(steps, start=1):
        state, row = found.state_of(step)
        models = [_name_of(rows[one], found.done.get(one), step.command) for one in step.models]
        rows[step] = StepRow(
            number=number,
            step=step.title,
            command=step.command,
            state=state,
            run=None if row is None else row.id,
            config_hash=None if row is None else row.config_hash,
            seconds=row.seconds if row is not None and state == "done" else None,
            command_line=command_line(step, found.session, models),
        )
    return tuple(rows.values())


def _name_of(trained: StepRow, run: RunRow | None, command: str) -> str:
    """What a command calls a model, which may be yet to be trained: for train the folder that it goes on from."""
    if run is None:
        return f"STEP{trained.number}"
    return str(run.path) if command == "train" else run.id.rpartition("-")[2]


def command_line(step: Step, session: Session, models: Sequence[str] = ()) -> str:
    """What a user types for this step alone; its `models` are called so."""
    return shlex.join(replace(session, seed=step.seed).command_of(step.command, filled(step, models)))


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
