"""`latcli report`: one document of what the store's runs found, and the files that it is written to.

Only what is as it was written is shown: a file is compared with its recorded size and sha256, and what is gone, changed
or unreadable is named instead.
"""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from latcli import __version__
from latcli.commands.compare import compare
from latcli.commands.matrices import Evaluated, loss_matrices, makers_of_models
from latcli.commands.paper import compare_with_paper
from latcli.commands.report_output import STDOUT, check, texts_of, write
from latcli.engine.registry import unknown_name
from latcli.errors import UsageError
from latcli.options import ReportOptions
from latcli.results import (
    AttackedPhoto,
    AttackProtocol,
    BestRun,
    Cell,
    ComparedRuns,
    DocumentError,
    EvalResult,
    ReportedAttack,
    ReportedTraining,
    ReportResult,
    WrittenReport,
    from_columns,
    median_smallest_epsilon,
    photo_summary,
    read,
    to_json,
)
from latcli.session import Session
from latcli.store.files import artifact_path, sha256_of_file
from latcli.store.schema import utc_now
from latcli.store.store import RunRow, Store, no_runs
from latcli.store.verify import fault_of

T = TypeVar("T")
Row = dict[str, Any]
#: How files are checked before they are shown.
Care: TypeAlias = Literal["none", "size", "sha256"]

#: The document that `latcli eval` leaves in its run.
MATRIX = "matrix.json"
#: Attack runs that the terminal shows, and points of a series that a picture can show.
SHOWN_ATTACKS, DRAWN_POINTS = 2, 200

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
_BEST_BY = {
    "adversarial_accuracy": "accuracy under its own attack",
    "accuracy": "accuracy on natural images",
}
_WHY = {
    "running": "running: it has not ended yet",
    "failed": "failed",
    "interrupted": "interrupted: continue it with --resume",
    "crashed": "crashed: its process is gone",
}


@dataclass(frozen=True)
class Needs:
    """What the formats that were asked for will look at, so that the rest costs nothing.

    attacks: how many of the newest attack runs, None for all. care: how their files are checked: by sha256, by size, or
    not at all. points: about so many of each training series, None for all, 0 for none.
    """

    attacks: int | None
    care: Care
    points: int | None


EVERYTHING = Needs(attacks=None, care="sha256", points=None)
TABLES = Needs(attacks=None, care="none", points=0)
TERMINAL = Needs(attacks=SHOWN_ATTACKS, care="size", points=0)


def run(options: ReportOptions, session: Session) -> ReportResult | ComparedRuns:
    """The report, written where files were asked for; `-` is printed at once.

    Raises UsageError and LatcliError before the work where options or paths are unusable, and StoreError.
    """
    check(options, session.store, json=session.json)
    if options.compare:
        return compare(options, session)
    result = gather(options, session, _needs(options, json=session.json))
    if not texts_of(options) and options.png is None:
        return result
    written = write(options, to_json(result), session.stdout)
    if options.open and options.html is not None and not webbrowser.open(options.html.absolute().as_uri()):
        session.note(f"no browser could be opened; the page is {options.html}")
    gathered = {one.name: getattr(result, one.name) for one in fields(result)}
    return WrittenReport(**gathered, written=written, printed=STDOUT in texts_of(options).values())


def gather(options: ReportOptions, session: Session, needs: Needs) -> ReportResult:
    """Everything about the chosen runs that `needs` names. Raises StoreError, and UsageError where no run fits."""
    with Store.open_existing(session.store) as store:
        rows, selection = _select(store, options)
        return _Gathering(store, options, needs, rows).result(selection)


# which runs, and what of them


def _needs(options: ReportOptions, *, json: bool) -> Needs:
    if json:
        return EVERYTHING
    if options.html is not None:
        return Needs(None, "sha256", DRAWN_POINTS)
    if options.png is not None:
        return Needs(None, "none", DRAWN_POINTS)
    return TABLES if texts_of(options) else TERMINAL


def _select(store: Store, options: ReportOptions) -> tuple[list[RunRow], Row]:
    """The runs that were asked for, all by default, the newest first; and how they were chosen."""
    since = None if options.since is None else _moment(options.since)
    rows = store.runs()
    if options.runs:
        named = {store.find_run(name).id for name in options.runs}
        rows = [row for row in rows if row.id in named]
    if not rows:
        raise no_runs(store.folder)
    names = _names_of(store, "datasets")
    known = {_dataset_of(row, names) for row in rows}
    if options.dataset is not None and options.dataset not in known:
        raise unknown_name("data set among the runs", options.dataset, sorted(name for name in known if name))
    chosen = [
        row
        for row in rows
        if (since is None or _moment(row.started) >= since)
        and options.dataset in (None, _dataset_of(row, names))
        and options.status in (None, row.status)
    ]
    if not chosen:
        raise UsageError("no run matches", "leave out --since, --dataset or --status")
    return chosen, {
        "runs": [row.id for row in rows] if options.runs else [],
        "since": None if since is None else since.isoformat().replace("+00:00", "Z"),
        "dataset": options.dataset,
        "status": options.status,
        "best": options.best,
    }


def _names_of(store: Store, table: Literal["datasets", "models"]) -> dict[str, str]:
    return {row["id"]: row["name"] for row in store.rows(table)}


def _dataset_of(row: RunRow, names: Mapping[str, str]) -> str | None:
    return None if row.dataset is None else names.get(row.dataset, row.dataset)


def _moment(text: str) -> datetime:
    """A date, or a date and a time of day, UTC where it names no zone. Raises UsageError."""
    try:
        value = datetime.fromisoformat(text)
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: in UTC it would be before the year 1, or after 9999
        raise UsageError(f"'{text}' is not a date", "a date is 2026-11-22, or 2026-11-22T18:30 (UTC)") from None


# gathering


class _Gathering:
    """One report; what several parts of it need is read from the store once."""

    def __init__(self, store: Store, options: ReportOptions, needs: Needs, rows: Sequence[RunRow]) -> None:
        self.store, self.options, self.needs, self.rows = store, options, needs, rows
        self.names = _names_of(store, "datasets")
        self.trained = {row.id: row for row in store.runs(command="train")}
        self.files = _Files(store, rows)

    def result(self, selection: Row) -> ReportResult:
        evaluated = self._evaluated()
        training, chosen = self._training(evaluated)
        if self.options.best:
            evaluated = self._of_best(evaluated, chosen)
        evaluated = [replace(one, document=self._document(one.run)) for one in evaluated]
        matrices = loss_matrices(evaluated, self.names, self.trained)
        attacks = self._attacks()
        return ReportResult(
            store=self.store.folder,
            created=utc_now(),
            selection=selection,
            matrices=matrices,
            loss_matrix=[{"run": one.run.id} | to_json(cell) for one in evaluated for cell in one.cells],
            attacks=attacks[: self.needs.attacks],
            training=training,
            best=chosen,
            **self._further(evaluated),
            runs=self._runs(),
            left_out=[_left_out(row) for row in self.rows if row.status != "completed"],
            faults=self.files.faults,
            paper=compare_with_paper(matrices, attacks, self._configs()) if self.options.paper else None,
            latcli=__version__,
        )

    def _completed(self, command: str) -> list[RunRow]:
        return [row for row in self.rows if row.command == command and row.status == "completed"]

    def _configs(self) -> dict[str, dict[str, Any]]:
        return {run.id: run.config for run in self.trained.values()}

    def _read(self, kind: type[T], row: Mapping[str, Any], name: str) -> T | None:
        """The object of a row of the database; None where it cannot be one, and the fault is noted."""
        try:
            return from_columns(kind, row)
        except DocumentError as error:
            self.files.note(row["run"], name, "unreadable", str(error))
            return None

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
        path = self.files.sound(run, MATRIX, "sha256")
        if path is None:
            return None
        try:
            return read(EvalResult, path.read_bytes())
        except (DocumentError, OSError) as error:
            self.files.note(run.id, MATRIX, "unreadable", str(error))
            return None

    def _further(self, evaluated: Iterable[Evaluated]) -> dict[str, Any]:
        """What evaluations measured beside the matrix: each row with run, data set, and labels of its models."""
        found: dict[str, list[Row]] = {name: [] for name in ("evaluations", "curves", "transfer", "reliance")}
        for run, document in ((one.run, one.document) for one in evaluated):
            if document is None:
                continue
            place = {"run": run.id, "dataset": _dataset_of(run, self.names)}
            models = {one.id: one for one in document.models}
            known = [
                {name: getattr(one, name) for name in ("id", "label", "name", "regime")} for one in models.values()
            ]
            notes = {"warnings": to_json(document.warnings), "notes": list(document.notes)}
            found["evaluations"].append(place | {"dir": str(run.path), "models": known} | notes)
            for curve in document.curves:
                model = {"label": models[curve.model].label, "regime": models[curve.model].regime}
                found["curves"].append(place | model | to_json(curve))
            for cell in document.transfer:
                source = None if cell.source is None else models[cell.source].label
                both = {"source_label": source, "target_label": models[cell.target].label}
                found["transfer"].append(place | both | to_json(cell))
            for row in document.reliance:
                found["reliance"].append(place | {"label": models[row.model].label} | to_json(row))
        return found

    # training

    def _training(self, evaluated: Iterable[Evaluated]) -> tuple[list[ReportedTraining], list[BestRun]]:
        """Completed training runs, and the best of them; under --best these alone.

        Then those behind the models of the evaluations compete, too: an evaluation may have been asked for alone.
        """
        runs = self._completed("train")
        if self.options.best:
            models = {cell.model_id for one in evaluated for cell in one.cells}
            asked = {run.id for run in runs}
            runs += [
                run
                for run in self.trained.values()
                if run.model in models and run.id not in asked and run.status == "completed"
            ]
            runs.sort(key=lambda run: (run.started, run.id), reverse=True)
        ids = [run.id for run in runs]
        final: dict[str, dict[str, float | None]] = {}
        for row in self.store.rows_of(ids, "latest_metrics"):
            final.setdefault(row["run"], {})[row["name"]] = row["value"]
        series = {} if self.needs.points == 0 else self.store.series(ids, _SERIES, points=self.needs.points)
        found = [
            ReportedTraining(
                run=run.id,
                dataset=_dataset_of(run, self.names),
                seed=run.seed,
                status=run.status,
                final={name: final.get(run.id, {}).get(metric) for name, metric in _FINAL.items()},
                series=series.get(run.id, {}),
                **{name: run.config.get(name) for name in ("regime", "architecture", "steps", "epsilon")},
            )
            for run in runs
        ]
        if not self.options.best:
            return found, []
        chosen = best_runs(found)
        return [one for one in found if one.run in {best.run for best in chosen}], chosen

    # photos

    def _attacks(self) -> list[ReportedAttack]:
        """The newest attack runs that have photos: as many as needed, all beside the paper, which picks the nearest."""
        photographed = {row["run"] for row in self.store.query("SELECT DISTINCT run FROM attacks")}
        runs = [run for run in self._completed("attack") if run.id in photographed]
        if not self.options.paper:
            runs = runs[: self.needs.attacks]
        rows: dict[str, list[tuple[AttackProtocol, AttackedPhoto]]] = {run.id: [] for run in runs}
        for row in self.store.rows_of(rows, "attacks"):
            protocol = self._read(AttackProtocol, row, row["image"])
            photo = self._read(AttackedPhoto, row, row["image"]) if protocol else None
            if protocol is not None and photo is not None:
                rows[row["run"]].append((protocol, photo))
        found: list[ReportedAttack] = []
        for number, run in enumerate(runs):
            shown = self.needs.attacks is None or number < self.needs.attacks
            found += self._attack(run, rows[run.id], self.needs.care if shown else "none")
        return found

    def _attack(
        self, run: RunRow, rows: Iterable[tuple[AttackProtocol, AttackedPhoto]], care: Care
    ) -> Iterator[ReportedAttack]:
        """One for each region and epsilon; a search for the smallest epsilon is one as a whole."""
        groups: dict[tuple[str, float | None], list[tuple[AttackProtocol, AttackedPhoto]]] = {}
        for protocol, photo in rows:
            epsilon = photo.epsilon if protocol.smallest_epsilon_max is None else None
            groups.setdefault((photo.region, epsilon), []).append((protocol, photo))
        for (region, epsilon), members in groups.items():
            protocol, photos = members[0][0], [photo for _, photo in members]
            shared = {one.name: getattr(protocol, one.name) for one in fields(AttackProtocol)}
            yield ReportedAttack(
                **shared | {"region": region, "epsilon": epsilon},
                run=run.id,
                dir=run.path,
                started=run.started,
                seed=run.seed,
                detector=_detector_of(run.config),
                at_model_resolution=bool(run.config.get("at_model_resolution")),
                smallest_epsilon=None if epsilon is not None else median_smallest_epsilon(photos),
                summary=photo_summary(photos),
                images=tuple(to_json(photo) | {"files": self._files_of(run, photo, care)} for photo in photos),
            )

    def _files_of(self, run: RunRow, photo: AttackedPhoto, care: Care) -> dict[str, str | None]:
        paths = {kind: self.files.sound(run, name, care) for kind, name in photo.files.items()}
        paths["original"] = self.files.original(run, photo) if care == "sha256" else None
        return {kind: None if path is None else str(path) for kind, path in paths.items()}

    def _runs(self) -> list[Row]:
        revisions = {row["id"]: row["git_sha"] for row in self.store.rows("environments")}
        names = ("name", "tags", "command", "status", "started", "seconds", "model", "seed", "config", "config_hash")
        return [
            {"run": row.id, "dir": str(row.path), "dataset": _dataset_of(row, self.names)}
            | {name: getattr(row, name) for name in (*names, "device", "argv")}
            | {"git_sha": revisions.get(row.environment)}
            for row in self.rows
        ]


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


def _detector_of(config: Mapping[str, Any]) -> str | None:
    """Where the objects are from: a detector, or the option that replaced it."""
    given = (place for place in ("box", "mask", "center") if config.get(place) not in (None, [], ()))
    return next(given, config.get("detector"))


def _left_out(row: RunRow) -> Row:
    why = f"{_WHY[row.status]}: {row.error}" if row.status == "failed" and row.error else _WHY[row.status]
    return {"run": row.id, "command": row.command, "status": row.status, "why": why}


@dataclass
class _Files:
    """The files of runs, each shown only while it is as it was written; `faults` are what is wrong with the others."""

    store: Store
    rows: Sequence[RunRow]
    faults: list[Row] = field(default_factory=list)
    _known: dict[tuple[str, str], Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        present = []
        for row in self.rows:
            if row.path.is_symlink():
                self.note(row.id, None, "outside", "the run's folder was replaced by a link")
            elif row.path.is_dir():
                present.append(row.id)
            else:
                self.note(row.id, None, "missing", "the run's folder is gone")
        self._known = {(row["run"], row["name"]): row for row in self.store.rows_of(present, "artifacts")}

    def note(self, run: str, name: str | None, fault: str, detail: str) -> None:
        found = {"run": run, "name": name, "fault": fault, "detail": detail}
        if found not in self.faults:
            self.faults.append(found)

    def sound(self, run: RunRow, name: str, care: Care) -> Path | None:
        """Where the file lies; None where the run has none of that name, or it is not as it was written."""
        known = self._known.get((run.id, name))
        if known is None or care == "none":
            return None
        fault = fault_of(run.path, name, known["size"], known["sha256"] if care == "sha256" else None)
        if fault is not None:
            self.note(run.id, name, *fault)
            return None
        return artifact_path(run.path, name)

    def original(self, run: RunRow, photo: AttackedPhoto) -> Path | None:
        """The photo that was attacked, where it lay then, or beside the store; one that has moved is no fault."""
        changed = False
        for path in dict.fromkeys((Path(photo.image).absolute(), self.store.folder.parent / photo.image)):
            try:
                if not path.is_file():
                    continue
                if sha256_of_file(path) == photo.sha256:
                    return path
                changed = True
            except (OSError, ValueError):  # ValueError: a name with a null character
                continue
        if changed:
            self.note(run.id, photo.image, "changed", "the photo there has changed")
        return None
