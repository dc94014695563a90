"""The paper's figures and claims as data, and a verdict on each claim from what was measured.

Rothberg, Chen, Jie, Ji: Localized Adversarial Training for Increased Accuracy and Robustness in Image Classification,
AdvML'19. All numbers of the paper that latcli compares itself with stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any, Literal

from latcli.reporting.evaluations import object_words
from latcli.reporting.text import counted, number_text
from latcli.results import (
    AttackProtocol,
    LossMatrix,
    MatrixRow,
    PaperClaim,
    PaperComparison,
    PaperFigure,
    PaperMatrix,
    PaperPhotos,
    PhotoSummary,
    ReportedAttack,
    spread,
)

#: Model, input: both called as regimes are.
Place = tuple[str, str]
Quantity = Literal["loss", "accuracy"]

REGIMES = ("natural", "standard", "background")


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that figures can confirm or refute.

    asked: which figures it is about, by quantity and place, or by the names of `PHOTO_FIGURES`; holds: whether it is
    true of them, in this order. Losses are mean cross entropies, not scaled; accuracies are shares.
    """

    text: str
    asked: tuple[Any, ...]
    holds: Callable[..., bool]


@dataclass(frozen=True)
class Figure2:
    """The paper's figures for one data set: its Figure 2, and accuracies where its text has them.

    losses: as printed, that is with those on natural inputs multiplied by `natural_scale`. accuracies: shares.
    protocol: what the paper states about its training and attacks, by the names of latcli's options.
    """

    dataset: str
    source: str
    natural_scale: int
    losses: Mapping[Place, float]
    accuracies: Mapping[Place, float]
    protocol: Mapping[str, float]
    claims: tuple[Claim, ...]

    def value(self, quantity: Quantity, place: Place) -> float | None:
        """A figure of the paper, losses not scaled; None where it has none."""
        if quantity == "accuracy":
            return self.accuracies.get(place)
        loss = self.losses.get(place)
        return loss if loss is None or place[1] != "natural" else loss / self.natural_scale


@dataclass(frozen=True)
class PhotoTables:
    """Tables 1 and 2: `n` photos on one classifier; figures by the names of `PHOTO_FIGURES`, shares from 0 to 1."""

    source: str
    classifier: str
    n: int
    figures: Mapping[str, float]
    claims: tuple[Claim, ...]


#: Means over photos, in words.
PHOTO_FIGURES = {
    "clean_confidence": "confidence in the right class, clean",
    "adversarial_confidence": "confidence in the right class, attacked",
    "clean_top10": "right class in the top ten, clean",
    "adversarial_top10": "right class in the top ten, attacked",
    "altered": "pixels altered",
}


def _loss(model: str, given: str) -> tuple[Quantity, Place]:
    return "loss", (model, given)


def _accuracy(model: str, given: str) -> tuple[Quantity, Place]:
    return "accuracy", (model, given)


def _losses(*rows: tuple[float, float, float]) -> dict[Place, float]:
    """Figure 2 from its rows, models down, inputs across."""
    return {(model, given): row[i] for model, row in zip(REGIMES, rows, strict=True) for i, given in enumerate(REGIMES)}


#: What both data sets show.
_SHARED = (
    Claim(
        "standard training costs loss on natural images",
        (_loss("standard", "natural"), _loss("natural", "natural")),
        lambda standard, natural: standard > natural,
    ),
    Claim(
        "background training costs no loss on natural images",
        (_loss("background", "natural"), _loss("natural", "natural")),
        lambda background, natural: background <= natural,
    ),
    Claim(
        "changing the background alone raises a natural model's loss at least tenfold",
        (_loss("natural", "background"), _loss("natural", "natural")),
        lambda attacked, natural: attacked >= 10 * natural,
    ),
    Claim(
        "background training takes nine tenths of the loss under background attack, or more",
        (_loss("background", "background"), _loss("natural", "background")),
        lambda background, natural: background <= natural / 10,
    ),
    Claim(
        "there it is as good as standard training: at most 1.25 times its loss",
        (_loss("background", "background"), _loss("standard", "background")),
        lambda background, standard: background <= 1.25 * standard,
    ),
)

MNIST = Figure2(
    dataset="mnist",
    source="Figure 2, MNIST",
    natural_scale=1000,
    losses=_losses((41.4, 68.19, 61.80), (57.9, 0.27, 0.21), (39.6, 0.55, 0.23)),
    accuracies={("natural", "natural"): 0.9919, ("natural", "background"): 0.0008},
    protocol={"epsilon": 0.3, "attack_steps": 100, "steps": 100_000},
    claims=(
        *_SHARED,
        Claim(
            "background training takes nine tenths of the loss under standard attack, too",
            (_loss("background", "standard"), _loss("natural", "standard")),
            lambda background, natural: background <= natural / 10,
        ),
        Claim(
            "there, too, it comes near standard training: at most 2.5 times its loss",
            (_loss("background", "standard"), _loss("standard", "standard")),
            lambda background, standard: background <= 2.5 * standard,
        ),
        Claim(
            "the background attack leaves a natural model at most one digit in ten",
            (_accuracy("natural", "background"),),
            lambda attacked: attacked <= 0.1,
        ),
    ),
)

CIFAR10 = Figure2(
    dataset="cifar10",
    source="Figure 2, CIFAR-10",
    natural_scale=100,
    losses=_losses((21.44, 54.00, 2.96), (40.49, 2.34, 0.52), (21.09, 45.37, 0.23)),
    accuracies={("natural", "natural"): 0.9517, ("natural", "background"): 0.5926},
    protocol={},
    claims=(
        *_SHARED,
        Claim(
            "background training leaves more than half of the loss under standard attack",
            (_loss("background", "standard"), _loss("natural", "standard")),
            lambda background, natural: background > natural / 2,
        ),
        Claim(
            "the background attack costs a natural model 20 points of accuracy or more",
            (_accuracy("natural", "natural"), _accuracy("natural", "background")),
            lambda natural, attacked: natural - attacked >= 0.2,
        ),
    ),
)

FIGURE_2 = (MNIST, CIFAR10)

PHOTOS = PhotoTables(
    source="Tables 1 and 2",
    classifier="inception_v3",
    n=9,
    figures={
        "clean_confidence": 0.71,
        "adversarial_confidence": 0.000169,
        "clean_top10": 8 / 9,
        "adversarial_top10": 0.0,
        "altered": 0.491,
    },
    claims=(
        Claim(
            "the background alone takes 99 % of the confidence in the right class, or more",
            ("clean_confidence", "adversarial_confidence"),
            lambda clean, attacked: attacked <= clean / 100,
        ),
        Claim(
            "the right class leaves the top ten of every photo",
            ("adversarial_top10",),
            lambda attacked: attacked == 0,
        ),
    ),
)


# ours beside the paper's


def compare_with_paper(
    matrices: Sequence[LossMatrix],
    attacks: Sequence[ReportedAttack],
    configs: Mapping[str, Mapping[str, Any]],
    like: str | None = None,
) -> PaperComparison:
    """Figure 2 of each data set, Tables 1 and 2, and a verdict on each claim.

    configs: of training runs by id. like: the data set whose figures every matrix is compared with, whatever its own.
    """
    figures = [_figure(figure, _closest(figure, matrices, like), configs) for figure in FIGURE_2]
    tables = _tables(PHOTOS, _closest_attacks(attacks))
    claims = (*(claim for figure in figures for claim in figure.claims), *tables.claims)
    return PaperComparison(figure2=tuple(figures), tables=(tables,), claims=claims)


def verdict(claim: Claim, values: Sequence[float | None]) -> str:
    """Return "holds", "fails", or "not measured" where one of the figures that the claim is about is missing."""
    if None in values:
        return "not measured"
    return "holds" if claim.holds(*values) else "fails"


Figures = Mapping[Any, float | None]


def _judged(
    claim: Claim,
    of: str,
    theirs: Figures,
    ours: Figures,
    of_seeds: Sequence[Figures],
    text: Callable[[Any, float], str],
) -> PaperClaim:
    """theirs, ours, of_seeds: the paper's figures, our means, and those of each seed, by what claims ask for."""

    def texts(figures: Figures) -> str:
        known = [(one, figures[one]) for one in claim.asked]
        shown = ["-" if value is None else text(one, value) for one, value in known]
        return "-" if set(shown) == {"-"} else " and ".join(shown)

    verdicts = [verdict(claim, [figures.get(one) for one in claim.asked]) for figures in of_seeds]
    return PaperClaim(
        of=of,
        claim=claim.text,
        paper=texts(theirs),
        ours=texts(ours),
        verdict=verdict(claim, [ours[one] for one in claim.asked]),
        seeds_holding=verdicts.count("holds"),
        seeds=len(verdicts) - verdicts.count("not measured"),
    )


def _closest(figure: Figure2, matrices: Iterable[LossMatrix], like: str | None) -> LossMatrix | None:
    """The matrix nearest to the paper's: with most of its cells, then of most images, most models, the newest."""
    own = [matrix for matrix in matrices if (like or matrix.dataset) == figure.dataset]

    def likeness(matrix: LossMatrix) -> tuple[int, int, int]:
        rows = [row for regime in REGIMES if (row := _row_of(matrix, regime)) is not None]
        cells = sum(given in row.cells for row in rows for given in REGIMES)
        return cells, matrix.images, sum(row.model_count for row in rows)

    return max(own, key=likeness, default=None)


def _row_of(matrix: LossMatrix | None, regime: str) -> MatrixRow | None:
    """The regime's row; of several, that of most models."""
    rows = [row for row in matrix.rows if row.regime == regime] if matrix else []
    return max(rows, key=lambda row: row.model_count, default=None)


Rows = Mapping[str, MatrixRow | None]


def _figure(figure: Figure2, matrix: LossMatrix | None, configs: Mapping[str, Mapping[str, Any]]) -> PaperMatrix:
    rows = {regime: _row_of(matrix, regime) for regime in REGIMES}
    asked = {one for claim in figure.claims for one in claim.asked}
    theirs, ours = {one: figure.value(*one) for one in asked}, {one: _ours(rows, *one) for one in asked}
    by_seed = {one: _of_seeds(rows, *one) for one in asked}
    of_seeds = [
        {one: values.get(seed) for one, values in by_seed.items()}
        for seed in dict.fromkeys(seed for values in by_seed.values() for seed in values)
    ]
    return PaperMatrix(
        dataset=figure.dataset,
        source=figure.source,
        matrix=matrix.id if matrix else None,
        natural_scale=figure.natural_scale,
        cells=tuple(_beside(figure, "loss", place, value, rows) for place, value in figure.losses.items()),
        accuracies=tuple(_beside(figure, "accuracy", place, value, rows) for place, value in figure.accuracies.items()),
        claims=tuple(_judged(one, figure.dataset, theirs, ours, of_seeds, _text) for one in figure.claims),
        protocol=tuple(_protocol(figure, matrix, rows, configs)) if matrix else (),
    )


def _beside(figure: Figure2, quantity: Quantity, place: Place, theirs: float, rows: Rows) -> PaperFigure:
    scale = figure.natural_scale if quantity == "loss" and place[1] == "natural" else 1
    values = (_ours(rows, name, place) for name in (quantity, f"{quantity}_spread"))
    ours, beside = (None if value is None else scale * value for value in values)
    difference = None if ours is None else ours - theirs
    return PaperFigure(
        regime=place[0], input=place[1], paper=theirs, ours=ours, ours_spread=beside, difference=difference
    )


def _ours(rows: Rows, name: str, place: Place) -> float | None:
    row = rows[place[0]]
    value: float | None = getattr(row.cells.get(place[1]) if row else None, name, None)
    return value


def _of_seeds(rows: Rows, quantity: Quantity, place: Place) -> dict[int | None, float | None]:
    row = rows[place[0]]
    if row is None or place[1] not in row.cells:
        return {}
    cell = row.cells[place[1]]
    return dict(zip(row.train_seeds, cell.losses if quantity == "loss" else cell.accuracies, strict=False))


def _text(asked: tuple[Quantity, Place], value: float) -> str:
    return f"{100 * value:.2f} %" if asked[0] == "accuracy" else f"{value:.4g}"


# in what ours differs from the paper


def _protocol(
    figure: Figure2, matrix: LossMatrix, rows: Rows, configs: Mapping[str, Mapping[str, Any]]
) -> Iterable[str]:
    """In what ours differs from the paper, as far as both are known, a line each."""
    theirs, kept = figure.protocol, [row for row in rows.values() if row]
    trained = {str(row.regime): [configs.get(run, {}) for run in row.train_runs] for row in kept}
    yield from _attack_lines(matrix, theirs) if matrix.epsilon is not None else ("no attack",)
    attacked = {regime: found for regime, found in trained.items() if regime != "natural"}
    yield from _differing("inner attack of training", "attack_steps", "steps", attacked, theirs)
    yield from _differing("training", "steps", "minibatches", trained, theirs)
    known = [config for found in trained.values() for config in found]
    networks = {str(config["architecture"]) for config in known if "architecture" in config}
    if networks:
        yield f"network: {', '.join(sorted(networks))}"
    natural = [row.cells["natural"].n for row in kept if "natural" in row.cells]
    yield f"n: {matrix.images:,} attacked images" + (f", {min(natural):,} natural ones" if natural else "")
    counts = ", ".join(f"{row.regime} {row.model_count}" for row in kept)
    yield f"training seeds: {counts}; the paper has one figure a cell, without a spread"


def _attack_lines(matrix: LossMatrix, theirs: Mapping[str, float]) -> Iterable[str]:
    where = object_words(matrix.mask_from, matrix.center)
    yield f"object: {where}; the paper does not say how large its middle is"
    if theirs.get("epsilon") not in (None, matrix.epsilon):
        yield f"epsilon: {number_text(matrix.epsilon or 0.0)}; the paper {theirs['epsilon']:g}"
    attack = f"attack: {matrix.attack}, {counted(matrix.steps or 0, 'step')}"
    steps = theirs.get("attack_steps")
    yield f"{attack}, as in the paper" if steps == matrix.steps else f"{attack}{_of_paper(steps)}"


def _of_paper(value: float | None) -> str:
    return "" if value is None else f"; the paper {value:,.0f}"


def _differing(
    name: str,
    option: str,
    unit: str,
    trained: Mapping[str, Sequence[Mapping[str, Any]]],
    theirs: Mapping[str, float],
) -> Iterable[str]:
    known = {}
    for regime, configs in trained.items():
        if values := sorted({config[option] for config in configs if config.get(option) is not None}):
            known[regime] = values
    if any(values != [theirs.get(option)] for values in known.values()):
        texts = [f"{regime} {', '.join(f'{value:,}' for value in values)}" for regime, values in known.items()]
        yield f"{name}: {'; '.join(texts)} {unit}{_of_paper(theirs.get(option))}"


# photos


def photo_figures(summary: PhotoSummary) -> dict[str, float]:
    """The figures of `PHOTO_FIGURES`; `summary` is of one photo at least."""
    found: dict[str, float] = {}
    for side, averages in (("clean", summary.clean), ("adversarial", summary.adversarial)):
        if averages is not None:
            found |= {f"{side}_confidence": averages.confidence, f"{side}_top10": averages.top10 / summary.n}
    return found | {"altered": (summary.altered_percent or 0.0) / 100}


def _closest_attacks(attacks: Iterable[ReportedAttack]) -> list[ReportedAttack]:
    """The run on backgrounds that is most like the paper's, and those that differ from it by their seed alone.

    Most like it: on its classifier, of as many photos, the newest. Of a seed that was run again, the newest.
    """

    def likeness(attack: ReportedAttack) -> tuple[bool, int]:
        return attack.classifier == PHOTOS.classifier, min(attack.summary.n, PHOTOS.n)

    of_background = [one for one in attacks if one.region == "background" and one.epsilon is not None]
    closest = max(of_background, key=likeness, default=None)
    of_seeds: dict[int | None, ReportedAttack] = {}
    for one in of_background:
        if closest is not None and _all_but_seed(one) == _all_but_seed(closest):
            of_seeds.setdefault(one.seed, one)
    return [] if closest is None else [closest, *(one for seed, one in of_seeds.items() if seed != closest.seed)]


def _all_but_seed(attack: ReportedAttack) -> tuple[object, ...]:
    protocol = [getattr(attack, one.name) for one in fields(AttackProtocol)]
    return (*protocol, attack.detector, attack.at_model_resolution, frozenset(one["sha256"] for one in attack.images))


def _tables(tables: PhotoTables, attacks: Sequence[ReportedAttack]) -> PaperPhotos:
    of_seeds = [photo_figures(attack.summary) for attack in attacks]
    first = attacks[0] if attacks else None
    ours = {name: [one[name] for one in of_seeds] for name in PHOTO_FIGURES}
    means = {name: fmean(values) if values else None for name, values in ours.items()}
    return PaperPhotos(
        source=tables.source,
        run=first.run if first else None,
        runs=tuple(attack.run for attack in attacks),
        classifier={"paper": tables.classifier, "ours": first.classifier if first else None},
        n={"paper": tables.n, "ours": first.summary.n if first else None},
        figures=tuple(
            PaperFigure(
                figure=words,
                paper=tables.figures[name],
                ours=(mean := means[name]),
                ours_spread=spread(ours[name]),
                difference=None if mean is None else mean - tables.figures[name],
            )
            for name, words in PHOTO_FIGURES.items()
        ),
        claims=tuple(
            _judged(claim, "photos", tables.figures, means, of_seeds, lambda _, value: f"{value:.3g}")
            for claim in tables.claims
        ),
        protocol=tuple(_photo_protocol(tables, first)) if first else (),
    )


def _photo_protocol(tables: PhotoTables, attack: ReportedAttack) -> Iterable[str]:
    yield f"photos: {attack.summary.n}; the paper's {tables.n} are others"
    if attack.classifier != tables.classifier:
        yield f"classifier: {attack.classifier}; the paper {tables.classifier}"
    yield f"object from: {attack.detector}"
    yield f"attack: epsilon {number_text(attack.epsilon or 0.0)}, {counted(attack.steps, 'step')}, {attack.norm}"
    if not attack.at_model_resolution:
        yield "resolution: the photo's own; the paper's photos were resized for the classifier first"
