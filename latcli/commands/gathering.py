"""One document of what the store's runs found, from which every format of `latcli report` is made.

Only what is as it was written is shown: a file is compared with its recorded size and sha256, and what is gone, changed
or unreadable is named instead.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from latcli import __version__
from latcli.commands.matrices import Evaluated, loss_matrices, makers_of_models
from latcli.commands.paper import compare_with_paper
from latcli.engine.registry import unknown_name
from latcli.errors import UsageError
from latcli.options import ReportOptions
from latcli.results import (
    AttackedPhoto,
    AttackProtocol,
    BestRun,
    Cell,
    DocumentError,
    EvalResult,
    ReportedAttack,
    ReportedTraining,
    ReportResult,
    from_columns,
    median_smallest_epsilon,
    photo_summary,
    read,
)
from latcli.session import Session
from latcli.store.files import fault_of
from latcli.store.schema import utc_now
from latcli.store.store import RunRow, Store, no_runs

T = TypeVar("T")
Row = dict[str, Any]

#: The document that `latcli eval` leaves in its run.
MATRIX = "matrix.json"
#: Attack runs that the terminal shows, and results of each.
SHOWN_ATTACKS, SHOWN_PHOTOS = 2, 100
#: What a finished training run measured its model at, by the names of the report.
_FINAL = {
    "loss": "test_loss",
    "accuracy": "test_accuracy",
    "adversarial_loss": "test_adversarial_loss",
    "adversarial_accuracy": "test_adversarial_accuracy",
}
#: What it recorded while it trained.
_SERIES = (
    *("loss", "clean_accuracy", "adversarial_accuracy", "epsilon", "rate"),
    *("test_loss", "test_accuracy", "test_attacked_loss", "test_attacked_accuracy"),
)
#: Figures that the best run is chosen by, the first that it has.
_BEST_BY = {"adversarial_accuracy": "accuracy under its own attack", "accuracy": "accuracy on natural images"}
_FILES = """
    SELECT name, size, sha256 FROM artifacts WHERE run = :run AND name IN (SELECT value FROM json_each(:names))
"""
_WHY = {
    "running": "running: it has not ended yet",
    "failed": "failed",
    "interrupted": "interrupted: continue it with --resume",
    "crashed": "crashed: its process is gone",
}


@dataclass(frozen=True)
class Needs:
    """What the formats that were asked for will look at, so that the rest costs nothing.

    attacks: how many of the newest attack runs, None for all. photos: about how many results of each, None for all.
    hashed: files are compared by sha256, too, since they are shown, not by size alone. points: about so many of each
    training series, None for all, 0 for none.
    """

    attacks: int | None = None
    photos: int | None = None
    hashed: bool = False
    points: int | None = 0


EVERYTHING, TABLES = Needs(hashed=True, points=None), Needs()
TERMINAL = Needs(attacks=SHOWN_ATTACKS, photos=SHOWN_PHOTOS)


def gather(options: ReportOptions, session: Session, needs: Needs) -> ReportResult:
    """Everything about the chosen runs that `needs` names. Raises StoreError, and UsageError where no run fits."""
    with Store.open_existing(session.store) as store:
        gathering = _Gathering(store, options, needs)
        gathering.select()
        return gathering.result()


def _moment(text: str) -> datetime:
    """A date, or a date and a time of day, UTC where it names no zone. Raises UsageError."""
    try:
        value = datetime.fromisoformat(text)
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: in UTC it would be before the year 1, or after 9999
        raise UsageError(f"'{text}' is not a date", "a date is 2026-11-22, or 2026-11-22T18:30 (UTC)") from None


class _Gathering:
    """One report; what several parts of it need is read from the store once. `faults`: files that cannot be shown."""

    def __init__(self, store: Store, options: ReportOptions, needs: Needs) -> None:
        self.store, self.options, self.needs = store, options, needs
        self.datasets = {row["id"]: row["name"] for row in store.rows("datasets")}
        every = store.runs()
        self.trained = {row.id: row for row in every if row.command == "train"}
        self.rows = every
        self.faults: dict[tuple[str, str | None, str, str], Row] = {}

    def select(self) -> None:
        """Choose the runs that were asked for, all by default, the newest first."""
        options, rows = self.options, self.rows
        since = None if options.since is None else _moment(options.since)
        if options.runs:
            named = {self.store.find_run(name).id for name in options.runs}
            rows = [row for row in rows if row.id in named]
        if not rows:
            raise no_runs(self.store.folder)
        known = {self._dataset(row) for row in rows}
        if options.dataset is not None and options.dataset not in known:
            raise unknown_name("data set among the runs", options.dataset, sorted(name for name in known if name))
        self.rows = [
            row
            for row in rows
            if (since is None or _moment(row.started) >= since)
            and options.dataset in (None, self._dataset(row))
            and options.status in (None, row.status)
        ]
        if not self.rows:
            raise UsageError("no run matches", "leave out --since, --dataset or --status")

    def result(self) -> ReportResult:
        self._look_for_folders()
        evaluated = self._evaluated()
        training, chosen = self._training(evaluated)
        if self.options.best:
            evaluated = self._of_best(evaluated, chosen)
        evaluated = [replace(one, document=self._document(one.run)) for one in evaluated]
        matrices = loss_matrices(evaluated, self.datasets, self.trained)
        attack_runs = self._with_photos()
        newest = {run.id for run in attack_runs[: self.needs.attacks]}
        attacks = self._attacks(attack_runs, newest)
        configs = {run.id: run.config for run in (*self.trained.values(), *attack_runs)}
        names = ("since", "dataset", "status", "best")
        return ReportResult(
            store=self.store.folder,
            created=utc_now(),
            selection={"runs": [row.id for row in self.rows] if self.options.runs else []}
            | {name: getattr(self.options, name) for name in names},
            matrices=matrices,
            attacks=[one for one in attacks if one.run in newest],
            further_attacks=len(attack_runs) - len(newest),
            training=training,
            best=chosen,
            evaluations=[one.document for one in evaluated if one.document is not None],
            runs=self._runs(),
            left_out=[_left_out(row) for row in self.rows if row.status != "completed"],
            faults=list(self.faults.values()),
            paper=compare_with_paper(matrices, attacks, configs) if self.options.paper else None,
            latcli=__version__,
        )

    def _completed(self, command: str) -> list[RunRow]:
        return [row for row in self.rows if row.command == command and row.status == "completed"]

    def _dataset(self, row: RunRow) -> str | None:
        return None if row.dataset is None else self.datasets.get(row.dataset, row.dataset)

    def _runs(self) -> list[Row]:
        revisions = {row["id"]: row["git_sha"] for row in self.store.rows("environments")}
        names = ("name", "tags", "command", "status", "started", "seconds", "model", "seed", "config", "config_hash")
        return [
            {"run": row.id, "dir": str(row.path), "dataset": self._dataset(row)}
            | {name: getattr(row, name) for name in (*names, "device", "argv")}
            | {"git_sha": revisions.get(row.environment)}
            for row in self.rows
        ]

    # evaluations

    def _evaluated(self) -> list[Evaluated]:
        """Completed evaluations with their cells."""
        cells: dict[str, list[Cell]] = {run.id: [] for run in self._completed("eval")}
        for row in self.store.rows_of(cells, "cells"):
            cell = self._read(Cell, row, "cells")
            if cell is not None:
                cells[row["run"]].append(cell)
        return [Evaluated(run, cells[run.id]) for run in self._completed("eval") if cells[run.id]]

    def _of_best(self, evaluated: Iterable[Evaluated], chosen: Iterable[BestRun]) -> list[Evaluated]:
        """Only cells of the best runs' models, and of models that no run of the store made.

        By the models' ids, which equal trainings share: the one that was evaluated need not be the one that was chosen.
        """
        best, made = {self.trained[one.run].model for one in chosen}, makers_of_models(self.trained)
        kept = [
            replace(one, cells=[cell for cell in one.cells if cell.model_id in best or cell.model_id not in made])
            for one in evaluated
        ]
        return [one for one in kept if one.cells]

    def _document(self, run: RunRow) -> EvalResult | None:
        """What an evaluation left; None where that is gone, changed or unreadable."""
        path = self._sound(run, [MATRIX], hashed=True).get(MATRIX)
        if path is None:
            return None
        try:
            return read(EvalResult, path.read_bytes())
        except (DocumentError, OSError) as error:
            self._note(run.id, MATRIX, "unreadable", str(error))
            return None

    # training

    def _scored_on(self, run: RunRow) -> str | None:
        """The name of the run's data set, and that training images were held out in place of its test images."""
        held = run.config.get("validation")
        name = self._dataset(run)
        return name if held is None else f"{name}, {100 * held:g} % held out"

    def _training(self, evaluated: Iterable[Evaluated]) -> tuple[list[ReportedTraining], list[BestRun]]:
        """Completed training runs, and the best of them; under --best these alone.

        Then those behind the models of the evaluations compete, too: an evaluation may have been asked for alone.
        """
        runs = {run.id: run for run in self._completed("train")}
        if self.options.best:
            models = {cell.model_id for one in evaluated for cell in one.cells}
            behind = (run for run in self.trained.values() if run.model in models and run.status == "completed")
            runs |= {run.id: run for run in behind}
        final: dict[str, dict[str, float | None]] = {}
        for row in self.store.rows_of(runs, "latest_metrics"):
            final.setdefault(row["run"], {})[row["name"]] = row["value"]
        series = {} if self.needs.points == 0 else self.store.series(runs, _SERIES, points=self.needs.points)
        found = [
            ReportedTraining(
                run=run.id,
                dataset=self._scored_on(run),
                seed=run.seed,
                final={name: final.get(run.id, {}).get(metric) for name, metric in _FINAL.items()},
                series=series.get(run.id, {}),
                **{name: run.config.get(name) for name in ("regime", "architecture", "steps", "epsilon")},
            )
            for run in sorted(runs.values(), key=lambda run: (run.started, run.id), reverse=True)
        ]
        chosen = best_runs(found) if self.options.best else []
        best = {one.run for one in chosen}
        return [one for one in found if not self.options.best or one.run in best], chosen

    # photos

    def _with_photos(self) -> list[RunRow]:
        """Attack runs that have photos, the newest first."""
        photographed = {row["run"] for row in self.store.query("SELECT DISTINCT run FROM attacks")}
        return [run for run in self._completed("attack") if run.id in photographed]

    def _attacks(self, runs: Iterable[RunRow], newest: Container[str]) -> list[ReportedAttack]:
        """The attacks of the newest of these runs (ids); beside the paper, which picks the nearest, of all."""
        most = None if self.options.paper else self.needs.photos
        # Tables alone show no files.
        shown = () if self.needs == TABLES else newest
        kept = (run for run in runs if self.options.paper or run.id in newest)
        return [attack for run in kept for attack in self._attacks_of(run, most, with_files=run.id in shown)]

    def _attacks_of(self, run: RunRow, most: int | None, *, with_files: bool) -> Iterator[ReportedAttack]:
        """One for each region and epsilon; a search for the smallest epsilon is one as a whole.

        Of more than `most` results the first of each region and epsilon are in it; sums are of all.
        """
        groups: dict[tuple[str, float | None], list[AttackedPhoto]] = {}
        protocols: dict[tuple[str, float | None], AttackProtocol] = {}
        summed: dict[tuple[str, float | None], list[Row]] = {}
        rows = self.store.attacked(run.id, most)
        for row in rows:
            protocol = self._read(AttackProtocol, row, row["image"])
            photo = self._read(AttackedPhoto, row, row["image"]) if protocol else None
            if protocol is not None and photo is not None:
                place = photo.region, photo.epsilon if protocol.smallest_epsilon_max is None else None
                protocols.setdefault(place, protocol)
                groups.setdefault(place, []).append(photo)
                summed.setdefault(place, []).append(row)
        everything = self.store.summed(run.id) if most is not None and len(rows) >= most else None
        # Where the objects are from: a detector, or the option that replaced it.
        given = (place for place in ("box", "mask", "center") if run.config.get(place) not in (None, [], ()))
        detector = next(given, run.config.get("detector"))
        for (region, epsilon), photos in groups.items():
            protocol = protocols[region, epsilon]
            found = summed[region, epsilon]
            if everything is not None:
                found = [row for row in everything if row["region"] == region and epsilon in (None, row["epsilon"])]
            shared = {one.name: getattr(protocol, one.name) for one in fields(AttackProtocol)}
            names = [name for one in photos for name in one.files.values()] if with_files else []
            sound = self._sound(run, names, hashed=self.needs.hashed)
            yield ReportedAttack(
                **shared | {"region": region, "epsilon": epsilon},
                run=run.id,
                dir=run.path,
                seed=run.seed,
                detector=detector,
                at_model_resolution=bool(run.config.get("at_model_resolution")),
                smallest_epsilon=None if epsilon is not None else median_smallest_epsilon(found),
                summary=photo_summary(found),
                images=tuple(
                    replace(one, files={kind: str(sound[name]) for kind, name in one.files.items() if name in sound})
                    for one in photos
                ),
            )

    # files and rows, only while they are as they were written

    def _look_for_folders(self) -> None:
        for row in self.rows:
            if row.path.is_symlink():
                self._note(row.id, None, "outside", "the run's folder was replaced by a link")
            elif not row.path.is_dir():
                self._note(row.id, None, "missing", "the run's folder is gone")

    def _note(self, run: str, name: str | None, fault: str, detail: str) -> None:
        self.faults[run, name, fault, detail] = {"run": run, "name": name, "fault": fault, "detail": detail}

    def _sound(self, run: RunRow, names: Sequence[str], *, hashed: bool) -> dict[str, Path]:
        """Where those of these files lie that the run has and that are as they were written."""
        if not names or run.path.is_symlink() or not run.path.is_dir():
            return {}
        rows = self.store.query(_FILES, {"run": run.id, "names": json.dumps(names)})
        known = {row["name"]: row for row in rows}
        found = {}
        for name in filter(known.get, names):
            fault = fault_of(run.path, name, known[name]["size"], known[name]["sha256"] if hashed else None)
            if fault is None:
                found[name] = run.path / name
            else:
                self._note(run.id, name, *fault)
        return found

    def _read(self, kind: type[T], row: Mapping[str, Any], name: str) -> T | None:
        """The object of a row of the database; None where it cannot be one, and the fault is noted."""
        try:
            return from_columns(kind, row)
        except DocumentError as error:
            self._note(row["run"], name, "unreadable", str(error))
            return None


def best_runs(trained: Sequence[ReportedTraining]) -> list[BestRun]:
    """Of each data set and regime the training run with the best final figure.

    It is the accuracy under the run's own attack where any has one, else that on natural images; of equal ones the
    newest. Runs without any final figure take no part.
    """
    groups: dict[tuple[str, str], list[ReportedTraining]] = {}
    for one in trained:
        groups.setdefault((str(one.dataset), str(one.regime)), []).append(one)
    chosen = []
    for (dataset, regime), members in groups.items():
        for figure, words in _BEST_BY.items():
            scored = [(value, one.run) for one in members if (value := one.final[figure]) is not None]
            if scored:
                value, run_id = max(scored, key=lambda pair: pair[0])
                chosen.append(BestRun(dataset, regime, run_id, len(members), words, value))
                break
    return chosen


def _left_out(row: RunRow) -> Row:
    why = f"{_WHY[row.status]}: {row.error}" if row.status == "failed" and row.error else _WHY[row.status]
    return {"run": row.id, "command": row.command, "status": row.status, "why": why}
