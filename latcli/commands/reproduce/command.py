"""`latcli reproduce`: a claim of the paper in, every run it takes and what they show out; must not compute anything.

Everything is done by the subcommands' own code, step by step; what the store has already is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latcli.commands.paper import compare_with_paper
from latcli.commands.report import TABLES, gather
from latcli.commands.reproduce.findings import find
from latcli.commands.reproduce.ledger import Ledger, Standing
from latcli.commands.reproduce.options import config_of
from latcli.commands.reproduce.parts import OF_PHOTOS, Part, needs_small_images, parts_of, photos_of
from latcli.commands.reproduce.result import ReproduceResult, StepRow
from latcli.commands.reproduce.steps import PhotoAttack, Step, Training, command_line, command_of
from latcli.commands.reproduce.times import Times
from latcli.commands.train.data import open_data
from latcli.commands.train.monitor import duration_text
from latcli.commands.train.options import PhotoOptions
from latcli.engine import registry
from latcli.engine.datasets.base import Dataset
from latcli.engine.devices import open_device
from latcli.errors import LatcliError, UsageError
from latcli.options import ReportOptions, ReproduceOptions
from latcli.reporting import render
from latcli.results import canonical_json, to_json
from latcli.session import Session
from latcli.store.store import DATABASE, Run, Store

#: What a reproduction leaves in its run, besides its plots.
MARKDOWN = "reproduction.md"


def run(options: ReproduceOptions, session: Session) -> ReproduceResult:
    """Do what is missing, go on with what was cut off, and say what all of it shows; with `plan`, only say the steps.

    Raises UsageError and LatcliError for options and data that are unusable, before a run is begun; then whatever a
    step's command raises. What is done stays done.
    """
    data = _small_images(options, session)
    parts = parts_of(options, session, data)
    steps = list(dict.fromkeys(step for part in parts for step in part.steps))
    further = _notes(options, data, session)
    for note in further:
        session.note(f"note: {note}")
    notes = (*(data.notes if data else ()), *further)
    if options.plan:
        with _looking(session) as store:
            rows = _rows(steps, Ledger.of(store, session, data))
        return ReproduceResult(options, session.seed, None, None, rows, None, None, (), notes)
    with Store.open(session.store) as store:
        ledger = Ledger.of(store, session, data)
        with _own_run(store, options, session) as stored:
            session.note(f"run {stored.id}")
            _carry_out(steps, ledger, stored, replace(session, parent=stored.id, name=None))
            return _kept(stored, _result(stored, parts, steps, ledger, options, notes))


def _small_images(options: ReproduceOptions, session: Session) -> Dataset | None:
    """What the steps look at, None where they look at photos alone. Raises UsageError, for an unknown network too."""
    if not needs_small_images(options):
        return None
    data = open_data(options.dataset, None, PhotoOptions(), open_device("cpu"), session)
    if not isinstance(data, Dataset):
        raise UsageError(
            f"{options.dataset} holds photos, and the paper's figures are of small images",
            "give a folder of small images, or reproduce table2 with --photos",
        )
    if options.architecture is not None:
        registry.load("architecture", options.architecture)
    return data


def _notes(options: ReproduceOptions, data: Dataset | None, session: Session) -> tuple[str, ...]:
    notes = []
    if options.like is not None and data is not None and data.name != options.like:
        notes.append(f"figures of {data.name} are held against the paper's of {options.like}")
    if OF_PHOTOS & set(options.parts) and photos_of(options, session) is None:
        notes.append(
            f"no photos in {session.data / 'photos'}: two that packages carry stand in; --photos DIR names others"
        )
    if options.budget == "paper" and data is not None:
        notes.append("the paper's budget is 100,000 minibatches under PGD-100 a model: days on a CPU")
    return tuple(notes)


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
    """The run that the steps are a part of: one that was cut off at the same task, else a new one."""
    config = config_of(options) | {"precision": session.precision}
    for row in store.runs(command="reproduce"):
        same = row.seed == session.seed and canonical_json(row.config) == canonical_json(config)
        if same and row.status not in ("completed", "running") and row.path.is_dir():
            return store.resume_run(row.id, argv=sys.argv, name=session.name, tags=session.tag)
    return store.start_run("reproduce", config=config, seed=session.seed, device=session.device, **session.of_run())


def _carry_out(steps: Sequence[Step], ledger: Ledger, stored: Run, session: Session) -> None:
    times = Times(ledger)
    for number, step in enumerate(steps, start=1):
        ledger.refresh()
        standing = ledger.standing(step)
        place = f"step {number} of {len(steps)}: {step.title}"
        if standing.state == "done" and standing.run is not None:
            session.note(f"{place}: done, run {standing.run.id[-4:]}")
            continue
        line = f"{place} ({_time_left(step, steps[number:], standing, times)})"
        session.note(line)
        stored.log(line)
        _carry_out_one(step, standing, ledger, session)
    ledger.refresh()


def _carry_out_one(step: Step, standing: Standing, ledger: Ledger, session: Session) -> None:
    if standing.state == "running" and standing.run is not None:
        raise LatcliError(
            f"'{step.title}' is at work in another process, as {standing.run.id}",
            "wait for its end, then run this again",
        )
    resume = standing.run.id if standing.run is not None else None
    if isinstance(step, PhotoAttack):
        attacked = step.run(session)
        ledger.refresh()
        if ledger.standing(step).state != "done":
            raise LatcliError(
                f"'{step.title}' came to nothing: no photo could be attacked",
                f"latcli runs show {attacked[-4:]} says why; mend or remove the photos",
            )
    elif isinstance(step, Training):
        step.run(session, resume)
    else:
        trained = ledger.trained(step.models)
        step.run(session, resume, tuple(trained[one] for one in step.models))


def _time_left(step: Step, later: Sequence[Step], standing: Standing, times: Times) -> str:
    now = times.expected(step, standing)
    others = [times.expected(one, times.ledger.standing(one)) for one in later]
    known = [seconds for seconds in (now, *others) if seconds is not None]
    if not any(known):
        return "its time is not known yet"
    least = "" if len(known) == len(others) + 1 else "at least "
    first = "its time is not known yet" if now is None else f"about {duration_text(now)}"
    return f"{first}; {least}{duration_text(sum(known))} in all"


def _rows(steps: Sequence[Step], ledger: Ledger) -> tuple[StepRow, ...]:
    times, names = Times(ledger), _names_of_models(steps, ledger)
    rows = []
    for number, step in enumerate(steps, start=1):
        standing = ledger.standing(step)
        found = standing.run
        done = standing.state == "done" and found is not None
        rows.append(
            StepRow(
                number=number,
                step=step.title,
                command=command_of(step),
                state=standing.state,
                run=None if found is None else found.id,
                config_hash=None if found is None else found.config_hash,
                seconds=found.seconds if done and found else times.expected(step, standing),
                command_line=command_line(step, ledger.session, names),
            )
        )
    return tuple(rows)


def _names_of_models(steps: Sequence[Step], ledger: Ledger) -> dict[Training, str]:
    """The ends of the training runs' ids; the number of its step for a model that is yet to be trained."""
    trainings = {step: number for number, step in enumerate(steps, start=1) if isinstance(step, Training)}
    trained = ledger.trained(trainings)
    return {
        step: trained[step].rpartition("-")[2] if step in trained else f"STEP{number}"
        for step, number in trainings.items()
    }


def _result(
    stored: Run,
    parts: Sequence[Part],
    steps: Sequence[Step],
    ledger: Ledger,
    options: ReproduceOptions,
    notes: tuple[str, ...],
) -> ReproduceResult:
    rows = _rows(steps, ledger)
    found, report = find(parts, ledger, options), _report(parts, ledger, options)
    return ReproduceResult(options, ledger.session.seed, stored.id, stored.folder, rows, found, report, (), notes)


def _report(parts: Sequence[Part], ledger: Ledger, options: ReproduceOptions) -> dict[str, Any] | None:
    """What `latcli report --paper` says of the runs that the paper's own figures are made of; None without any.

    The other parts vary what the paper's figures keep fixed, so that none of their runs may stand beside these.
    """
    own = [part for part in parts if part.name in ("figure1", "table2", "figure2")]
    found = (ledger.standing(step).run for part in own for step in part.steps)
    runs = tuple(dict.fromkeys(row.id for row in found if row is not None))
    if not runs:
        return None
    report = gather(ReportOptions(runs=runs, paper=True), ledger.session, TABLES)
    if options.like is not None:
        configs = {row.id: row.config for row in ledger.rows}
        paper = compare_with_paper(report.matrices, report.attacks, configs, options.like)
        report = replace(report, paper=paper)
    document: dict[str, Any] = to_json(report)
    return document


def _kept(stored: Run, result: ReproduceResult) -> ReproduceResult:
    """The result, once its plots and tables are files of the run."""
    from latcli.reporting.charts import sweep

    document = result.to_json()
    files = [stored.write_artifact(f"{one['name']}.png", sweep(one), "plot") for one in document["sweeps"]]
    text = "".join(render.reproduction(document))
    files.append(stored.write_artifact(MARKDOWN, text.encode("utf-8", "backslashreplace"), "report"))
    return replace(result, files=tuple(files))
