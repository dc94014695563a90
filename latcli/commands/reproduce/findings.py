"""What the runs of a reproduction come to: tables, verdicts and sweeps of each part; must not run steps or draw.

A figure is the mean over training seeds, of photos over attack seeds, with the sample standard deviation behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from latcli.commands.paper import (
    FIGURE_2,
    PHOTO_FIGURES,
    PHOTOS,
    Claim,
    Figure2,
    PhotoClaim,
    claim_texts,
    photo_figures,
    verdict,
)
from latcli.commands.report import MATRIX
from latcli.commands.reproduce.ledger import Ledger
from latcli.commands.reproduce.parts import COMPARED, CONTROLS, Part
from latcli.commands.reproduce.steps import Evaluation, PhotoAttack, Step, Training
from latcli.engine.localize import middle_pixels
from latcli.engine.photo_files import find_sources
from latcli.errors import LatcliError
from latcli.options import ReproduceOptions, TrainOptions
from latcli.options import ReproduciblePart as PartName
from latcli.reporting.text import number_text
from latcli.results import AttackedPhoto, PhotoSummary, from_columns, photo_summary, spread
from latcli.store.store import RunRow

#: What a table's figures are, to be said below it.
_SPREAD = "mean and sample standard deviation over training seeds"


@dataclass(frozen=True)
class Entry:
    """One field of a table: its text, its spread, and whether it is the best of its column."""

    text: str
    spread: str | None = None
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table: names in the first column, figures in the others. `notes` are what must be known to read it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass
class Found:
    """What the parts show. claims: one mapping each; sweeps: what is drawn, see `reporting.charts.sweep`."""

    sheets: list[Sheet] = field(default_factory=list)
    claims: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Values:
    """One figure of several seeds."""

    of_seeds: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """None where it was not measured."""
        return fmean(self.of_seeds) if self.of_seeds else None

    @property
    def spread(self) -> float | None:
        """None for fewer than two seeds."""
        return spread(self.of_seeds)

    def entry(self, digits: int = 2, scale: float = 1.0, unit: str = "") -> Entry:
        """As a table has it."""
        if self.mean is None:
            return Entry("-")
        beside = None if self.spread is None else f"{scale * self.spread:.{digits}f}{unit}"
        return Entry(f"{scale * self.mean:.{digits}f}{'' if beside else unit}", beside)

    def percent(self) -> Entry:
        """A share as a table has it."""
        return self.entry(scale=100.0, unit=" %")


def find(parts: Iterable[Part], ledger: Ledger, options: ReproduceOptions) -> Found:
    """All that the runs of these parts tell. Every step of theirs is done. Raises StoreError, and LatcliError for a
    run whose document cannot be read."""
    finder = _Finder(ledger, options)
    for part in parts:
        _TELLERS[part.name](finder, part)
    return finder.found


class _Finder:
    def __init__(self, ledger: Ledger, options: ReproduceOptions) -> None:
        self.ledger, self.options, self.found = ledger, options, Found()
        name = options.like or (ledger.data.name if ledger.data else "")
        self.paper: Figure2 | None = next((figure for figure in FIGURE_2 if figure.dataset == name), None)
        self._documents: dict[Step, Mapping[str, Any]] = {}

    # figures of the paper

    def figure2(self, part: Part) -> None:
        step = part.evaluations[0]
        scale = self.paper.natural_scale if self.paper else 1
        rows = []
        for regime in COMPARED:
            for given in COMPARED:
                by = scale if given == "natural" else 1
                theirs = self.paper.losses[regime, given] if self.paper else None
                loss, accuracy = (self.values(step, regime, given, name) for name in ("loss", "accuracy"))
                digits = 2 if by != 1 else 4
                shown = (Entry("-" if theirs is None else f"{theirs:g}"), loss.entry(digits, by), accuracy.percent())
                rows.append((Entry(f"{regime}, {given}"), *shown))
        source = self.paper.source if self.paper else f"Figure 2 on {self._document(step)['dataset']}"
        notes = [f"losses on natural inputs times {scale:,}"] if scale != 1 else []
        self._sheet(
            source, ("model, inputs", "paper", "ours: loss", "ours: accuracy"), rows, [*notes, *self._protocol(part)]
        )
        for claim in self.paper.claims if self.paper else ():
            self._claim(claim, step)

    def _claim(self, claim: Claim, step: Evaluation) -> None:
        figures = [self.values(step, *place, quantity) for quantity, place in claim.asked]
        theirs = [self.paper.value(quantity, place) if self.paper else None for quantity, place in claim.asked]
        means = [one.mean for one in figures]
        counted = list(zip(*(one.of_seeds for one in figures), strict=False))
        self._verdict(
            claim,
            self.paper.source if self.paper else "",
            (claim_texts(claim, theirs), claim_texts(claim, means)),
            means,
            counted,
        )

    def table2(self, part: Part) -> None:
        seeds = self._summaries(part.attacks)
        figures = {name: Values(tuple(photo_figures(one)[name] for one in seeds)) for name in PHOTO_FIGURES}
        rows = [
            (Entry(words), Entry(f"{PHOTOS.figures[name]:.3g}"), _significant(figures[name]))
            for name, words in PHOTO_FIGURES.items()
        ]
        headings = ("mean over photos", f"paper (n {PHOTOS.n})", f"ours (n {seeds[0].n})")
        self._sheet(PHOTOS.source, headings, rows, self._photo_protocol(part))
        for claim in PHOTOS.claims:
            means = [figures[name].mean for name in claim.asked]
            counted = list(zip(*(figures[name].of_seeds for name in claim.asked), strict=False))
            texts = [
                " and ".join("-" if value is None else f"{value:.3g}" for value in values)
                for values in ([PHOTOS.figures[name] for name in claim.asked], means)
            ]
            self._verdict(claim, PHOTOS.source, (texts[0], texts[1]), means, counted)

    def figure1(self, part: Part) -> None:
        rows = []
        for step in part.attacks:
            run = self._run(step)
            names = [row["name"] for row in self.ledger.store.rows_of(run.id, "artifacts") if row["kind"] == "figure"]
            rows += [(Entry(f"{run.id[-4:]}/{name}"), Entry(str(step.seed))) for name in names]
        notes = ["files of runs: latcli runs path RUN FILE"]
        self._sheet("Figure 1: photo, background black, attacked", ("run/file", "seed"), rows, notes)

    # beyond the paper

    def hole(self, part: Part) -> None:
        theirs = self._paper_of_hole()
        rows, points, distances = [], [], {}
        for step in part.evaluations:
            share = float(self._document(step)["settings"]["center"])
            accuracy = self.values(step, "natural", "background", "accuracy")
            attacked = [self.values(step, "natural", given, "loss").of_seeds for given in ("background", "standard")]
            ratio = Values(tuple(b / s for b, s in zip(*attacked, strict=True)))
            distance = _distance((accuracy.mean, ratio.mean), theirs)
            if distance is not None:
                distances[share] = distance
            pixels = self._pixels(share)
            rows.append(
                (Entry(f"{share:.4g} ({pixels} px)"), accuracy.percent(), ratio.entry(3), Entry(_or_dash(distance, 3)))
            )
            points.append((share, accuracy, ratio))
        notes = [
            "natural models alone; ratio: loss under background attack by loss under standard attack",
            "distance: of both figures from the paper's, the sum",
            *self._protocol(part, middle=False),
        ]
        if theirs is not None:
            rows.append((Entry("paper"), Entry(f"{100 * theirs[0]:.2f} %"), Entry(f"{theirs[1]:.3f}"), Entry("")))
            closest = min(distances, key=lambda share: distances[share])
            notes.insert(0, f"closest to the paper: {closest:.4g} of the side, {self._pixels(closest)} pixels")
        headings = ("middle, share of the side", "accuracy", "loss ratio", "distance")
        self._sheet("How large the middle is: natural models", headings, rows, notes)
        panels = [
            _panel(
                "accuracy under background attack", [("ours", [(x, a) for x, a, _ in points])], theirs and theirs[0]
            ),
            _panel(
                "loss, background by standard attack", [("ours", [(x, r) for x, _, r in points])], theirs and theirs[1]
            ),
        ]
        self._sweep("hole", "Natural models against the size of the middle", "middle, share of the side", panels)

    def controls(self, part: Part) -> None:
        self._matrix("Controls of equal budget", part, (*COMPARED, *CONTROLS), (*COMPARED, *CONTROLS))

    def strong(self, part: Part) -> None:
        inputs = ("standard", "standard-strong", "background", "background-strong")
        self._matrix("The strong suite", part, COMPARED, inputs)

    def masks(self, part: Part) -> None:
        middle, silhouette = part.evaluations
        kinds: dict[str, Callable[[Training], bool]] = {
            "standard": lambda one: one.options.regime == "standard",
            "background, middle": lambda one: one.options.regime == "background" and one.options.mask_from is None,
            "background, silhouettes": lambda one: one.options.mask_from == "otsu",
        }
        columns = (
            (middle, "natural"),
            (middle, "background"),
            (silhouette, "background"),
            (middle, "standard"),
        )
        rows = [
            (Entry(name), *(self.values_of(step, chosen, given, "accuracy").percent() for step, given in columns))
            for name, chosen in kinds.items()
        ]
        headings = ("model", "natural", "outside the middle", "outside the silhouette", "everywhere")
        notes = ["accuracy", *self._protocol(part)]
        self._sheet("Exact masks (Otsu's silhouettes) against the middle", headings, rows, notes)

    def transfer(self, part: Part) -> None:
        found: dict[tuple[str, str, str], list[float]] = {}
        for step in part.evaluations:
            document = self._document(step)
            regimes = {model["id"]: model["regime"] for model in document["models"]} | {None: "(no attack)"}
            for row in document["transfer"]:
                place = (row["input"], regimes[row["source"]], regimes[row["target"]])
                found.setdefault(place, []).append(row["accuracy"])
        for given in ("standard", "background"):
            rows = [
                (
                    Entry(source),
                    *(Values(tuple(found.get((given, source, target), ()))).percent() for target in COMPARED),
                )
                for source in ("(no attack)", *COMPARED)
            ]
            notes = ["accuracy; down: the model that examples were made on", *self._protocol(part)]
            self._sheet(f"Transfer of {given} examples", ("made on", *COMPARED), rows, notes)

    def photos_epsilon(self, part: Part) -> None:
        of_epsilon: dict[float, list[PhotoAttack]] = {}
        for step in part.attacks:
            of_epsilon.setdefault(step.options.epsilon, []).append(step)
        columns = ("adversarial_confidence", "adversarial_top1", "adversarial_top10", "altered")
        rows, points = [], []
        for epsilon, steps in of_epsilon.items():
            seeds = [_shares(one) for one in self._summaries(steps)]
            figures = {name: Values(tuple(one[name] for one in seeds)) for name in seeds[0]}
            rows.append((Entry(number_text(epsilon)), *(_significant(figures[name]) for name in columns)))
            points.append((255 * epsilon, figures))
        rows.insert(
            0,
            (
                Entry("clean"),
                *(_significant(figures[f"clean_{name}"]) for name in ("confidence", "top1", "top10")),
                Entry(""),
            ),
        )
        headings = ("epsilon", "confidence", "right first", "in the top ten", "altered")
        self._sheet("Photos against epsilon", headings, rows, self._photo_protocol(part, epsilon=False))
        confidence, ranks = (
            [("ours", [(x, figures[name]) for x, figures in points])]
            for name in ("adversarial_confidence", "adversarial_top10")
        )
        panels = [
            # The paper's figure is a ten thousandth.
            _panel("confidence in the right class", confidence, PHOTOS.figures["adversarial_confidence"], decades=True),
            _panel("right class in the top ten", ranks, PHOTOS.figures["adversarial_top10"]),
        ]
        self._sweep("photos-epsilon", "Attacked photos against epsilon", "epsilon, of 255", panels)

    # what they share

    def values(self, step: Evaluation, regime: str, given: str, quantity: str) -> Values:
        return self.values_of(step, lambda one: one.options.regime == regime, given, quantity)

    def values_of(self, step: Evaluation, chosen: Callable[[Training], bool], given: str, quantity: str) -> Values:
        runs = self.ledger.trained(one for one in step.models if chosen(one))
        cells = {(cell["model"], cell["input"]): cell for cell in self._document(step)["cells"]}
        found = [cells[run, given][quantity] for run in runs.values() if (run, given) in cells]
        return Values(tuple(found) if None not in found else ())

    def _matrix(self, title: str, part: Part, models: Sequence[str], inputs: Sequence[str]) -> None:
        step = part.evaluations[0]
        rows = [
            (Entry(model), *(self.values(step, model, given, "accuracy").percent() for given in inputs))
            for model in models
        ]
        self._sheet(
            title, ("model", *inputs), rows, ["accuracy; across: what the attack may change", *self._protocol(part)]
        )

    def _verdict(
        self,
        claim: Claim | PhotoClaim,
        source: str,
        texts: tuple[str, str],
        means: Sequence[float | None],
        counted: Sequence[Sequence[float]],
    ) -> None:
        holding = sum(verdict(claim, values) == "holds" for values in counted)
        row: dict[str, Any] = {"claim": claim.text, "of": source, "paper": texts[0], "ours": texts[1]}
        row |= {"verdict": verdict(claim, means), "seeds_holding": holding, "seeds": len(counted)}
        self.found.claims.append(row)

    def _sheet(
        self, title: str, headings: Sequence[str], rows: Iterable[tuple[Entry, ...]], notes: Iterable[str]
    ) -> None:
        self.found.sheets.append(Sheet(title, tuple(headings), tuple(rows), tuple(notes)))

    def _sweep(self, name: str, title: str, across: str, panels: list[dict[str, Any]]) -> None:
        self.found.sweeps.append({"name": name, "title": title, "across": across, "panels": panels})

    def _protocol(self, part: Part, *, middle: bool = True) -> list[str]:
        """How the figures of a part's evaluations, which differ in one respect alone, were made."""
        first = part.evaluations[0]
        document, settings = self._document(first), self._document(first)["settings"]
        seeds = sorted({one.seed for step in part.evaluations for one in step.models})
        kept = f"a middle of {settings['center']:.4g} of the side"
        return [
            f"{document['dataset']}, n = {document['n']:,} attacked images",
            f"{document['attack']}, epsilon {number_text(settings['epsilon'])}",
            *([kept] if middle and settings["mask_from"] == "center" else []),
            f"training: {_budget(first.models[0].options)}, seeds {', '.join(map(str, seeds))}",
            _SPREAD,
            f"evaluations {', '.join(self._run(step).id[-4:] for step in part.evaluations)}",
        ]

    def _photo_protocol(self, part: Part, *, epsilon: bool = True) -> list[str]:
        options = part.attacks[0].options
        seeds = sorted({step.seed for step in part.attacks})
        within = f"epsilon {number_text(options.epsilon)}, " if epsilon else ""
        return [
            f"classifier {options.classifier} (the paper: {PHOTOS.classifier}), object from {options.detector}",
            f"{within}{options.steps} steps; attack seeds {', '.join(map(str, seeds))}",
            *self._doubts(part.attacks[0]),
            f"runs {', '.join(self._run(step).id[-4:] for step in part.attacks)}",
        ]

    def _doubts(self, step: PhotoAttack) -> list[str]:
        """What a reader must know of the photos before believing a figure."""
        photos, images = len(find_sources(step.options.photos)), self._images(step)
        guessed = sum(image.label.source == "prediction" for image in images)
        lines = []
        if len(images) < photos:
            lines.append(f"{photos - len(images)} of {photos} photos could not be attacked, and are not counted")
        if guessed:
            lines.append(f"the right class of {guessed} of {len(images)} photos is the clean guess: see --labels")
        return lines

    def _summaries(self, steps: Iterable[PhotoAttack]) -> list[PhotoSummary]:
        """Of each seed, over all photos."""
        of_seed: dict[int, list[AttackedPhoto]] = {}
        for step in steps:
            of_seed.setdefault(step.seed, []).extend(self._images(step))
        return [photo_summary(images) for images in of_seed.values()]

    def _images(self, step: PhotoAttack) -> list[AttackedPhoto]:
        """The photos that were attacked, as reports have them."""
        return [from_columns(AttackedPhoto, row) for row in self.ledger.store.rows_of(self._run(step).id, "attacks")]

    def _paper_of_hole(self) -> tuple[float, float] | None:
        """Accuracy of the natural model under background attack, and its loss there by that under standard attack."""
        if self.paper is None:
            return None
        losses = self.paper.losses
        ratio = losses["natural", "background"] / losses["natural", "standard"]
        return self.paper.accuracies["natural", "background"], ratio

    def _pixels(self, share: float) -> int:
        return middle_pixels(self.ledger.data.image_shape[1] if self.ledger.data else 0, share)

    def _run(self, step: Step) -> RunRow:
        row = self.ledger.standing(step).run
        if row is None:
            raise LatcliError(f"the run of '{step.title}' is gone", "run the same command again")
        return row

    def _document(self, step: Evaluation) -> Mapping[str, Any]:
        if step not in self._documents:
            path = self._run(step).path / MATRIX
            try:
                self._documents[step] = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                raise LatcliError(
                    f"{path} cannot be read: {error}", "remove that run, and run the command again"
                ) from error
        return self._documents[step]


def _shares(summed: PhotoSummary) -> dict[str, float]:
    """The paper's figures of photos, and how many have the right class first."""
    first = {f"{side}_top1": getattr(summed, side).right / summed.n for side in ("clean", "adversarial")}
    return photo_figures(summed) | first


def _budget(options: TrainOptions) -> str:
    """What a training was told of its network and its length."""
    network = f"{options.architecture}, " if options.architecture else ""
    return f"{network}preset {options.preset}" + (f", {options.steps:,} steps" if options.steps else "")


def _significant(values: Values) -> Entry:
    if values.mean is None:
        return Entry("-")
    return Entry(f"{values.mean:.3g}", None if values.spread is None else f"{values.spread:.2g}")


def _panel(
    title: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, Values]]]],
    paper: float | None,
    *,
    decades: bool = False,
) -> dict[str, Any]:
    drawn = [{"label": label, "points": [[x, one.mean, one.spread] for x, one in points]} for label, points in lines]
    return {"title": title, "lines": drawn, "paper": paper, "decades": decades}


def _distance(ours: tuple[float | None, float | None], theirs: tuple[float, float] | None) -> float | None:
    if theirs is None or None in ours:
        return None
    return sum(abs(one - other) for one, other in zip(ours, theirs, strict=True) if one is not None)


def _or_dash(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


_TELLERS: dict[PartName, Callable[[_Finder, Part], None]] = {
    "figure1": _Finder.figure1,
    "table2": _Finder.table2,
    "figure2": _Finder.figure2,
    "hole": _Finder.hole,
    "controls": _Finder.controls,
    "masks": _Finder.masks,
    "strong": _Finder.strong,
    "transfer": _Finder.transfer,
    "photos-epsilon": _Finder.photos_epsilon,
}
