"""The tables, verdicts and plots of a reproduction, read from the report of the runs that each part is made of.

A figure is the mean over training seeds, of photos over attack seeds, with the sample standard deviation behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from latcli.commands.paper import FIGURE_2, PHOTOS, Figure2, compare_with_paper, photo_figures
from latcli.commands.report import Needs, gather
from latcli.commands.reproduction_steps import COMPARED, CONTROLS, Step
from latcli.engine.datasets.base import Dataset
from latcli.engine.localize import middle_pixels
from latcli.engine.photo_files import find_sources
from latcli.options import AttackOptions, EvalOptions, ReportOptions, ReproduceOptions, TrainOptions
from latcli.reporting.text import counted, number_text
from latcli.results import (
    LossMatrix,
    MatrixCell,
    PaperClaim,
    ReportResult,
    ReproducedTable,
    ReproduceResult,
    Sweep,
    SweepLine,
    SweepPanel,
    TableEntry,
    spread,
    starts_text,
)
from latcli.session import Session
from latcli.store.store import RunRow

#: Parts that are figures of the paper; the others vary what these keep fixed.
OF_PAPER = ("figure1", "table2", "figure2")

#: x, mean and spread.
Point = tuple[float, float | None, float | None]

_NEEDS = Needs(attacks=None, care="size", points=0)
_SPREAD = "mean and sample standard deviation over training seeds"


def with_tables(
    result: ReproduceResult,
    parts: Mapping[str, Sequence[Step]],
    runs: Mapping[Step, RunRow],
    options: ReproduceOptions,
    data: Dataset | None,
    session: Session,
) -> ReproduceResult:
    """The result with what its runs show. Raises StoreError."""
    tables = _Tables(runs, options, data, session)
    for name, steps in parts.items():
        tables.of_part(name, steps)
    own = [step for name, steps in parts.items() if name in OF_PAPER for step in steps]
    return replace(
        result,
        tables=tuple(tables.tables),
        claims=tuple(tables.claims),
        sweeps=tuple(tables.sweeps),
        report=tables.report(own) if own else None,
    )


class _Tables:
    def __init__(
        self, runs: Mapping[Step, RunRow], options: ReproduceOptions, data: Dataset | None, session: Session
    ) -> None:
        self.runs, self.options, self.data, self.session = runs, options, data, session
        name = options.like or (data.name if data else "")
        self.paper: Figure2 | None = next((figure for figure in FIGURE_2 if figure.dataset == name), None)
        self.tables: list[ReproducedTable] = []
        self.claims: list[PaperClaim] = []
        self.sweeps: list[Sweep] = []

    def of_part(self, name: str, steps: Sequence[Step]) -> None:
        """Add what the runs of a part show, by the method of its name."""
        getattr(self, name.replace("-", "_"))(steps, self.report(steps))

    def report(self, steps: Iterable[Step]) -> ReportResult:
        """The report of `latcli report --paper` on the runs of these steps."""
        ids = tuple(dict.fromkeys(self.runs[step].id for step in steps))
        found = gather(ReportOptions(runs=ids), self.session, _NEEDS)
        configs = {str(row["run"]): row["config"] for row in found.runs}
        return replace(found, paper=compare_with_paper(found.matrices, found.attacks, configs, self.options.like))

    # figures of the paper

    def figure2(self, steps: Sequence[Step], report: ReportResult) -> None:
        (matrix,) = report.matrices
        ours = report.paper.figure2 if report.paper else ()
        known = next((part for part in ours if part.matrix is not None), None)
        beside = {(cell.regime, cell.input): cell for cell in known.cells} if known else {}
        scale = known.natural_scale if known else 1
        rows = []
        for regime in COMPARED:
            for given in COMPARED:
                cell, theirs = self._cell(matrix, steps, regime, given), beside.get((regime, given))
                by = scale if given == "natural" else 1
                loss = _entry(cell.loss, cell.loss_spread, 2 if by != 1 else 4, by) if cell else TableEntry("-")
                paper = TableEntry(f"{theirs.paper:g}" if theirs else "-")
                rows.append((TableEntry(f"{regime}, {given}"), paper, loss, _percent(cell)))
        notes = [f"losses on natural inputs times {scale:,}"] if scale != 1 else []
        title = known.source if known else f"Figure 2 on {matrix.dataset}"
        headings = ("model, inputs", "paper", "ours: loss", "ours: accuracy")
        self._table(title, headings, rows, [*notes, *self._protocol(steps, matrix)])
        self.claims += [replace(claim, of=known.source) for claim in known.claims] if known else []

    def table2(self, steps: Sequence[Step], report: ReportResult) -> None:
        (photos,) = report.paper.tables if report.paper else ()
        rows = [
            (TableEntry(str(one.figure)), TableEntry(f"{one.paper:.3g}"), _entry(one.ours, one.ours_spread))
            for one in photos.figures
        ]
        headings = ("mean over photos", f"paper (n {photos.n['paper']})", f"ours (n {photos.n['ours']})")
        self._table(photos.source, headings, rows, self._photo_protocol(steps, report))
        self.claims += [replace(claim, of=photos.source) for claim in photos.claims]

    def figure1(self, steps: Sequence[Step], report: ReportResult) -> None:
        rows = [
            (TableEntry(f"{attack.run[-4:]}/{Path(image['files']['figure']).name}"), TableEntry(str(attack.seed)))
            for attack in sorted(report.attacks, key=lambda one: one.seed or 0)
            for image in attack.images
            if image["files"].get("figure")
        ]
        notes = ["files of runs: latcli runs path RUN FILE"]
        self._table("Figure 1: photo, background black, attacked", ("run/file", "seed"), rows, notes)

    # beyond the paper

    def hole(self, steps: Sequence[Step], report: ReportResult) -> None:
        """The natural models under background attack: accuracy, and loss by that under standard attack."""
        paper: tuple[float, float] | None = None
        if self.paper is not None:
            losses = [self.paper.losses["natural", given] for given in ("background", "standard")]
            paper = self.paper.accuracies["natural", "background"], losses[0] / losses[1]
        rows: list[tuple[TableEntry, ...]] = []
        accuracies: list[Point] = []
        ratios: list[Point] = []
        distances: dict[float, float] = {}
        for step in _evaluations(steps):
            matrix = self._matrix_of(step, report)
            share = matrix.center or 0.0
            background, standard = (self._cell(matrix, steps, "natural", given) for given in ("background", "standard"))
            if background is None or standard is None:
                continue
            pairs = zip(background.losses, standard.losses, strict=True)
            ratio = [above / below for above, below in pairs if above is not None and below]
            accuracies.append((share, background.accuracy, background.accuracy_spread))
            ratios.append((share, fmean(ratio) if ratio else None, spread(ratio)))
            distance = TableEntry("-")
            if paper and ratio:
                distances[share] = abs(background.accuracy - paper[0]) + abs(fmean(ratio) - paper[1])
                distance = TableEntry(f"{distances[share]:.3f}")
            middle = TableEntry(f"{share:.4g} ({self._pixels(share)} px)")
            rows.append((middle, _percent(background), _entry(*ratios[-1][1:], 3), distance))
        notes = [
            "natural models alone; ratio: loss under background attack by loss under standard attack",
            "distance: of both figures from the paper's, the sum",
            *self._protocol(steps, report.matrices[0], middle=False),
        ]
        if paper:
            texts = ("paper", f"{100 * paper[0]:.2f} %", f"{paper[1]:.3f}", "")
            rows.append(tuple(map(TableEntry, texts)))
        if distances:
            closest = min(distances, key=lambda share: distances[share])
            notes.insert(0, f"closest to the paper: {closest:.4g} of the side, {self._pixels(closest)} pixels")
        headings = ("middle, share of the side", "accuracy", "loss ratio", "distance")
        self._table("How large the middle is: natural models", headings, rows, notes)
        panels = [
            SweepPanel(title, (SweepLine("ours", tuple(points)),), paper[place] if paper else None)
            for place, (title, points) in enumerate(
                (("accuracy under background attack", accuracies), ("loss, background by standard attack", ratios))
            )
        ]
        title = "Natural models against the size of the middle"
        self.sweeps.append(Sweep("hole", title, "middle, share of the side", tuple(panels)))

    def controls(self, steps: Sequence[Step], report: ReportResult) -> None:
        regimes = (*COMPARED, *CONTROLS)
        self._accuracies("Controls of equal budget", steps, report, regimes, regimes)

    def strong(self, steps: Sequence[Step], report: ReportResult) -> None:
        inputs = ("standard", "standard-strong", "background", "background-strong")
        self._accuracies("The strong suite", steps, report, COMPARED, inputs)

    def masks(self, steps: Sequence[Step], report: ReportResult) -> None:
        middle, silhouette = (self._matrix_of(step, report) for step in _evaluations(steps))
        kinds: dict[str, tuple[str, str | None]] = {
            "standard": ("standard", None),
            "background, middle": ("background", None),
            "background, silhouettes": ("background", "otsu"),
        }
        columns = ((middle, "natural"), (middle, "background"), (silhouette, "background"), (middle, "standard"))
        rows = []
        for name, (regime, mask) in kinds.items():
            own = [step for step in steps if getattr(step.options, "mask_from", None) == mask]
            cells = (self._cell(matrix, own, regime, given) for matrix, given in columns)
            rows.append((TableEntry(name), *map(_percent, cells)))
        headings = ("model", "natural", "outside the middle", "outside the silhouette", "everywhere")
        notes = ["accuracy", *self._protocol(steps, middle)]
        self._table("Exact masks (Otsu's silhouettes) against the middle", headings, rows, notes)

    def transfer(self, steps: Sequence[Step], report: ReportResult) -> None:
        regimes = {model["id"]: model["regime"] for one in report.evaluations for model in one["models"]}
        found: dict[tuple[str, str, str], list[float]] = {}
        for row in report.transfer:
            source = "(no attack)" if row["source"] is None else regimes[row["source"]]
            found.setdefault((row["input"], source, regimes[row["target"]]), []).append(row["accuracy"])
        notes = [
            "accuracy; down: the model that examples were made on",
            *self._protocol(steps, report.matrices[0]),
        ]
        for given in ("standard", "background"):
            rows = []
            for source in ("(no attack)", *COMPARED):
                values = [found.get((given, source, target), []) for target in COMPARED]
                rows.append((TableEntry(source), *(_mean(one, 2, 100.0, " %") for one in values)))
            self._table(f"Transfer of {given} examples", ("made on", *COMPARED), rows, notes)

    def photos_epsilon(self, steps: Sequence[Step], report: ReportResult) -> None:
        of_epsilon: dict[float, list[dict[str, float]]] = {}
        for attack in report.attacks:
            summary, top1 = attack.summary, {}
            for side, averages in (("clean", summary.clean), ("adversarial", summary.adversarial)):
                top1[f"{side}_top1"] = averages.right / summary.n if averages else 0.0
            of_epsilon.setdefault(attack.epsilon or 0.0, []).append(photo_figures(summary) | top1)
        by_epsilon = {
            epsilon: {name: [one[name] for one in seeds] for name in seeds[0]}
            for epsilon, seeds in sorted(of_epsilon.items())
        }
        shown = ("confidence", "top1", "top10")
        clean = next(iter(by_epsilon.values()))
        rows = [(TableEntry("clean"), *(_mean(clean[f"clean_{name}"]) for name in shown), TableEntry(""))]
        for epsilon, figures in by_epsilon.items():
            columns = [*(f"adversarial_{name}" for name in shown), "altered"]
            rows.append((TableEntry(number_text(epsilon)), *(_mean(figures[name]) for name in columns)))
        headings = ("epsilon", "confidence", "right first", "in the top ten", "altered")
        self._table("Photos against epsilon", headings, rows, self._photo_protocol(steps, report, epsilon=False))
        panels = []
        # The paper's confidence is a ten thousandth.
        for title, name, decades in (
            ("confidence in the right class", "adversarial_confidence", True),
            ("right class in the top ten", "adversarial_top10", False),
        ):
            values = {epsilon: figures[name] for epsilon, figures in by_epsilon.items()}
            points = tuple((255 * epsilon, fmean(seeds), spread(seeds)) for epsilon, seeds in values.items())
            panels.append(SweepPanel(title, (SweepLine("ours", points),), PHOTOS.figures[name], decades))
        self.sweeps.append(Sweep("photos-epsilon", "Attacked photos against epsilon", "epsilon, of 255", tuple(panels)))

    # what they share

    def _table(
        self, title: str, headings: Sequence[str], rows: Iterable[tuple[TableEntry, ...]], notes: Iterable[str]
    ) -> None:
        self.tables.append(ReproducedTable(title, tuple(headings), tuple(rows), tuple(notes)))

    def _accuracies(
        self, title: str, steps: Sequence[Step], report: ReportResult, models: Sequence[str], inputs: Sequence[str]
    ) -> None:
        (matrix,) = report.matrices
        rows = [
            (TableEntry(regime), *(_percent(self._cell(matrix, steps, regime, given)) for given in inputs))
            for regime in models
        ]
        notes = ["accuracy; across: what the attack may change", *self._protocol(steps, matrix)]
        self._table(title, ("model", *inputs), rows, notes)

    def _matrix_of(self, step: Step, report: ReportResult) -> LossMatrix:
        return next(matrix for matrix in report.matrices if self.runs[step].id in matrix.runs)

    def _cell(self, matrix: LossMatrix, steps: Iterable[Step], regime: str, given: str) -> MatrixCell | None:
        """Of the row that has the models of these training steps of the regime."""
        models = {self.runs[step].model for step in steps if getattr(step.options, "regime", None) == regime}
        row = next((row for row in matrix.rows if set(row.models) <= models), None)
        return row.cells.get(given) if row else None

    def _protocol(self, steps: Sequence[Step], matrix: LossMatrix, *, middle: bool = True) -> list[str]:
        """How the figures of a part's evaluations, which differ in one respect alone, were made."""
        trainings = [step for step in steps if isinstance(step.options, TrainOptions)]
        epsilon = f"epsilon {number_text(matrix.epsilon or 0.0)}"
        attack = (f"{matrix.attack}-{matrix.steps}", starts_text(matrix.attack, matrix.restarts), epsilon)
        kept = f"the center, {matrix.center or 0.0:.4g} of each side"
        seeds = ", ".join(map(str, sorted({step.seed for step in trainings})))
        return [
            f"{matrix.dataset}, n = {matrix.images:,} attacked images",
            ", ".join(filter(None, attack)),
            *([kept] if middle and matrix.mask_from == "center" else []),
            f"training: {_budget(trainings)}, seeds {seeds}",
            _SPREAD,
            f"evaluations {', '.join(self.runs[step].id[-4:] for step in _evaluations(steps))}",
        ]

    def _photo_protocol(self, steps: Sequence[Step], report: ReportResult, *, epsilon: bool = True) -> list[str]:
        options = steps[0].options
        assert isinstance(options, AttackOptions)
        seeds = ", ".join(map(str, sorted({step.seed for step in steps})))
        within = f"epsilon {number_text(report.attacks[0].epsilon or 0.0)}, " if epsilon else ""
        images = report.attacks[0].images
        lines = [
            f"classifier {options.classifier} (the paper: {PHOTOS.classifier}), object from {options.detector}",
            f"{within}{options.steps} steps; attack seeds {seeds}",
        ]
        photos = len(find_sources(options.photos))
        if len(images) < photos:
            lines.append(f"{photos - len(images)} of {photos} photos could not be attacked, and are not counted")
        if guessed := sum(image["label"]["source"] == "prediction" for image in images):
            lines.append(f"the right class of {guessed} of {len(images)} photos is the clean guess: see --labels")
        return [*lines, f"runs {', '.join(self.runs[step].id[-4:] for step in steps)}"]

    def _pixels(self, share: float) -> int:
        return middle_pixels(self.data.image_shape[1] if self.data else 0, share)


def _evaluations(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if isinstance(step.options, EvalOptions)]


def _budget(trainings: Sequence[Step]) -> str:
    """Network, start and length of trainings, as they were asked for; those of a start come first."""
    first, last = (step.options for step in (trainings[0], trainings[-1]))
    assert isinstance(first, TrainOptions)
    assert isinstance(last, TrainOptions)
    network = f"{last.architecture}, " if last.architecture else ""
    weights = first.classifier_weights
    start = "" if weights is None else f"{weights.name} fine-tuned for {_length(first)}, then "
    return f"{network}{start}{_length(last)}"


def _length(options: TrainOptions) -> str:
    if options.epochs:
        return counted(options.epochs, "epoch")
    return f"preset {options.preset}" + (f", {options.steps:,} steps" if options.steps else "")


def _entry(
    value: float | None, beside: float | None = None, digits: int | None = None, scale: float = 1.0, unit: str = ""
) -> TableEntry:
    """A figure times `scale` with what stands behind its plus-minus sign; without `digits`, with three that count."""
    if value is None:
        return TableEntry("-")
    form = ".3g" if digits is None else f".{digits}f"
    if beside is None:
        return TableEntry(f"{scale * value:{form}}{unit}")
    return TableEntry(f"{scale * value:{form}}", f"{scale * beside:{form}}{unit}")


def _percent(cell: MatrixCell | None) -> TableEntry:
    return _entry(cell.accuracy, cell.accuracy_spread, 2, 100.0, " %") if cell else TableEntry("-")


def _mean(values: Sequence[float], digits: int | None = None, scale: float = 1.0, unit: str = "") -> TableEntry:
    return _entry(fmean(values) if values else None, spread(values), digits, scale, unit)
