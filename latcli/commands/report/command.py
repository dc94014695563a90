"""`latcli report`: a store in, one document of what was found in it out; must not draw or write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

from latcli.commands.report import photos as report_photos
from latcli.commands.report.evaluations import Further, read_documents
from latcli.commands.report.files import Care, Files
from latcli.commands.report.matrix import entries, flat_cell, matrices
from latcli.commands.report.options import Selection, dataset_name, select
from latcli.commands.report.paper import paper
from latcli.commands.report.result import ReportResult, Row
from latcli.commands.report.shapes import require_readable
from latcli.commands.report.training import best, training
from latcli.errors import StoreError
from latcli.options import ReportOptions
from latcli.reporting.report_terminal import ATTACKS
from latcli.session import Session
from latcli.store.schema import utc_now
from latcli.store.store import RunRow, Status, Store

_WHY: dict[Status, str] = {
    "running": "running: it is still at work",
    "failed": "failed",
    "interrupted": "interrupted: it can go on with --resume",
    "crashed": "crashed: its process is gone",
}


@dataclass(frozen=True)
class Needs:
    """What the formats that were asked for will look at, so that the rest costs nothing.

    attacks: how many of the newest attack runs, None for all. care: with which their pictures are looked over.
    points: of each training series about so many, None for all, 0 for none.
    """

    attacks: int | None
    care: Care
    points: int | None

    @classmethod
    def joined(cls, asked: Sequence[Self]) -> Self:
        """What several formats together will look at. `asked` is not empty."""
        attacks = [one.attacks for one in asked]
        points = [one.points for one in asked]
        return cls(
            attacks=None if None in attacks else max(count for count in attacks if count is not None),
            care=max((one.care for one in asked), key=get_args(Care).index),
            points=None if None in points else max(count for count in points if count is not None),
        )


#: Attack runs whose photos are asked for in one query.
_AT_ONCE = 8
#: Points of a series that a picture of it can show.
DRAWN_POINTS = 200

EVERYTHING = Needs(attacks=None, care="sha256", points=None)
PAGE = Needs(attacks=None, care="sha256", points=DRAWN_POINTS)
PICTURES = Needs(attacks=0, care="none", points=DRAWN_POINTS)
TABLES = Needs(attacks=None, care="none", points=0)
TERMINAL = Needs(attacks=ATTACKS, care="size", points=0)


def gather(options: ReportOptions, session: Session, needs: Needs) -> ReportResult:
    """Everything of the runs that were asked for that `needs` names.

    Raises StoreError, and UsageError for options that cannot be meant or that no run fits.
    """
    with Store.open_existing(session.store) as store:
        selection = select(store, options)
        return _Gathering(store, selection, options, needs).result()


class _Gathering:
    """One report on its way; what several parts need is asked of the store once."""

    def __init__(self, store: Store, selection: Selection, options: ReportOptions, needs: Needs) -> None:
        self.store, self.selection, self.options, self.needs = store, selection, options, needs
        self.names = {row["id"]: row["name"] for row in store.rows("datasets")}
        self.makers = {row["id"]: row["run"] for row in store.rows("models") if row["run"] is not None}
        self.datasets = {row.id: dataset_name(row, self.names) for row in selection.rows}
        self.files = Files(store)

    def result(self) -> ReportResult:
        rows = self.selection.rows
        require_readable([*rows, *self.selection.trained.values()])
        self.files.load(rows)
        evaluated = self._cells()
        trained = training(self.store, self._trained(evaluated), self.datasets, self.needs.points)
        chosen = best(trained) if self.options.best else []
        if self.options.best:
            trained = _only_best(trained, chosen)
        cells = self._cells_of_best(evaluated, chosen) if self.options.best else evaluated
        with_cells = {cell["run"] for cell in cells}
        evaluations = [run for run in self._of("eval") if run.id in with_cells]
        further = read_documents(evaluations, self.datasets, self.files)
        found, attacks = self._matrices(evaluations, cells, further), self._attacks()
        return ReportResult(
            store=self.store.folder,
            created=utc_now(),
            selection=self.selection.document,
            matrices=found,
            loss_matrix=self._flat(evaluations, cells),
            attacks=attacks[: self.needs.attacks],
            training=trained,
            best=chosen,
            evaluations=further.evaluations,
            curves=further.curves,
            transfer=further.transfer,
            reliance=further.reliance,
            runs=self._runs(),
            left_out=[_left_out(row) for row in rows if row.status != "completed"],
            faults=self.files.faults,
            paper=paper(found, attacks, self._configs()) if self.options.paper else None,
        )

    def _of(self, command: str) -> list[RunRow]:
        return [row for row in self.selection.rows if row.command == command and row.status == "completed"]

    def _trained(self, cells: Iterable[Mapping[str, Any]]) -> list[RunRow]:
        """The training runs that were asked for; under --best those behind the models of the evaluations, too.

        An evaluation that was asked for alone, or after the training, would else have no model that could be the best.
        """
        asked = self._of("train")
        if not self.options.best:
            return asked
        runs = {run.id: run for run in self._of("eval")}
        makers = {self._maker(runs[cell["run"]], cell) for cell in cells} - {run.id for run in asked}
        others = [run for run in self.selection.trained.values() if run.id in makers and run.status == "completed"]
        self.datasets |= {run.id: dataset_name(run, self.names) for run in others}
        return sorted([*asked, *others], key=lambda run: (run.started, run.id), reverse=True)

    def _cells(self) -> list[dict[str, Any]]:
        """Cells of the completed evaluations."""
        return self.store.rows_of_runs("cells", [run.id for run in self._of("eval")])

    def _cells_of_best(self, cells: Iterable[dict[str, Any]], chosen: Iterable[Row]) -> list[dict[str, Any]]:
        """Only the cells of the best runs, and of models from outside."""
        runs = {run.id: run for run in self._of("eval")}
        best_runs = {row["run"] for row in chosen}
        return [cell for cell in cells if self._maker(runs[cell["run"]], cell) in {None, *best_runs}]

    def _maker(self, run: RunRow, cell: Mapping[str, Any]) -> str | None:
        maker: str | None = entries(run).get(cell["model_id"], {}).get("train_run")
        return maker or self.makers.get(cell["model_id"])

    def _matrices(
        self, evaluations: Sequence[RunRow], cells: Iterable[Mapping[str, Any]], further: Further
    ) -> list[Row]:
        found = matrices(evaluations, cells, self.names, self.selection.trained, self.makers)
        for matrix in found:
            matrix["warnings"] = further.warnings_of(matrix["runs"])
        return found

    def _flat(self, evaluations: Sequence[RunRow], cells: Iterable[Mapping[str, Any]]) -> list[Row]:
        runs = {run.id: run for run in evaluations}
        return [flat_cell(runs[cell["run"]], cell) for cell in cells]

    def _configs(self) -> dict[str, dict[str, Any]]:
        return {run.id: run.config for run in self.selection.trained.values()}

    def _attacks(self) -> list[Row]:
        having = self._photographed()
        names = {row["id"]: row["name"] for row in self.store.rows("models")}
        shown = {run.id for run, _ in having[: self.needs.attacks]}
        cares: dict[str, Care] = {run.id: self.needs.care if run.id in shown else "none" for run, _ in having}
        return [report_photos.attack(run, rows, names, self.files, cares[run.id]) for run, rows in having]

    def _photographed(self) -> list[tuple[RunRow, list[dict[str, Any]]]]:
        """The newest attack runs that have photos, with their rows: as many as needed, all beside the paper.

        The one that is nearest to the paper's may be any of them.
        """
        runs = self._of("attack")
        wanted = len(runs) if self.options.paper or self.needs.attacks is None else self.needs.attacks
        # A few at a time, so that of many runs only the newest are read.
        step = max(_AT_ONCE, wanted)
        having: list[tuple[RunRow, list[dict[str, Any]]]] = []
        while runs and len(having) < wanted:
            batch, runs = runs[:step], runs[step:]
            rows: dict[str, list[dict[str, Any]]] = {run.id: [] for run in batch}
            for row in self.store.rows_of_runs("attacks", rows):
                if self.files.complete(row) and self._legible(row):
                    rows[row["run"]].append(row)
            having += [(run, rows[run.id]) for run in batch if rows[run.id]]
        return having[:wanted]

    def _legible(self, row: Mapping[str, Any]) -> bool:
        """Whether what a row of the table `attacks` holds can be shown; else the fault is remembered."""
        try:
            report_photos.image_of(row)
        except StoreError as error:
            self.files.unreadable(row["run"], row["image"], error.message)
            return False
        return True

    def _runs(self) -> list[Row]:
        revisions = {row["id"]: row["git_sha"] for row in self.store.rows("environments")}
        return [
            {
                "run": row.id,
                "dir": str(row.path),
                "command": row.command,
                "status": row.status,
                "started": row.started,
                "seconds": row.seconds,
                "dataset": self.datasets[row.id],
                "model": row.model,
                "seed": row.seed,
                "config": row.config,
                "config_hash": row.config_hash,
                "git_sha": revisions.get(row.environment),
                "device": row.device,
                "argv": row.argv,
            }
            for row in self.selection.rows
        ]


def _only_best(rows: Iterable[Row], chosen: Iterable[Row]) -> list[Row]:
    runs = {row["run"] for row in chosen}
    return [row for row in rows if row["run"] in runs]


def _left_out(row: RunRow) -> Row:
    why = f"{_WHY[row.status]}: {row.error}" if row.status == "failed" and row.error else _WHY[row.status]
    return {"run": row.id, "command": row.command, "status": row.status, "why": why}
