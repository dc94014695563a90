"""The paper's figures and claims as data, and a verdict on each claim from what was measured.

Rothberg, Chen, Jie, Ji: Localized Adversarial Training for Increased Accuracy and Robustness in Image Classification,
AdvML'19. All numbers of the paper that latcli compares itself with stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from latcli.reporting.evaluations import object_words
from latcli.reporting.text import counted, number_text
from latcli.results import (
    AttackProtocol,
    LossMatrix,
    MatrixRow,
    Mean,
    PaperClaim,
    PaperFigure,
    PaperPart,
    PhotoSummary,
    ReportedAttack,
    mean_of,
    steps_taken,
)

#: Which figure: ("loss", model, input), ("accuracy", model, input), or one of `PHOTO_FIGURES` alone.
Asked = tuple[str, ...]
Figures = Mapping[Asked, float | None]
#: Configurations of training and attack runs, by their ids.
Configs = Mapping[str, Mapping[str, Any]]

REGIMES = ("natural", "standard", "background")
#: Means over photos, in words.
PHOTO_FIGURES = {
    "clean_confidence": "confidence in the right class, clean",
    "adversarial_confidence": "confidence in the right class, attacked",
    "clean_top10": "right class in the top ten, clean",
    "adversarial_top10": "right class in the top ten, attacked",
    "altered": "pixels altered",
}


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that figures can confirm or refute.

    asked: which figures it is about; holds: whether it is true of them, in this order.
    """

    text: str
    asked: tuple[Asked, ...]
    holds: Callable[..., bool]

    def verdict(self, figures: Figures) -> str:
        """Return "holds", "fails", or "not measured" where one of the figures that the claim is about is missing."""
        values = [figures.get(one) for one in self.asked]
        if None in values:
            return "not measured"
        return "holds" if self.holds(*values) else "fails"


@dataclass(frozen=True)
class Paper:
    """Figures of the paper: its Figure 2 on a data set, with the accuracies of its text; or its tables of photos.

    Shares are from 0 to 1, losses not scaled: `natural_scale` is what the paper multiplies those on natural inputs by.
    protocol: what it states about its training and attacks, by the names of latcli's options. classifier, n: of photos.
    """

    of: str
    source: str
    figures: Mapping[Asked, float]
    claims: tuple[Claim, ...]
    natural_scale: int = 1
    protocol: Mapping[str, float] = field(default_factory=dict)
    classifier: str = ""
    n: int = 0


def _losses(natural_scale: int, *rows: tuple[float, float, float]) -> dict[Asked, float]:
    """Figure 2 from its rows as printed, models down, inputs across."""
    return {
        ("loss", model, given): value / (natural_scale if given == "natural" else 1)
        for model, row in zip(REGIMES, rows, strict=True)
        for given, value in zip(REGIMES, row, strict=True)
    }


#: What both data sets show.
_SHARED = (
    Claim(
        "standard training costs loss on natural images",
        (("loss", "standard", "natural"), ("loss", "natural", "natural")),
        lambda standard, natural: standard > natural,
    ),
    Claim(
        "background training costs no loss on natural images",
        (("loss", "background", "natural"), ("loss", "natural", "natural")),
        lambda background, natural: background <= natural,
    ),
    Claim(
        "changing the background alone raises a natural model's loss at least tenfold",
        (("loss", "natural", "background"), ("loss", "natural", "natural")),
        lambda attacked, natural: attacked >= 10 * natural,
    ),
    Claim(
        "background training takes nine tenths of the loss under background attack, or more",
        (("loss", "background", "background"), ("loss", "natural", "background")),
        lambda background, natural: background <= natural / 10,
    ),
    Claim(
        "there it is as good as standard training: at most 1.25 times its loss",
        (("loss", "background", "background"), ("loss", "standard", "background")),
        lambda background, standard: background <= 1.25 * standard,
    ),
)

MNIST = Paper(
    of="mnist",
    source="Figure 2, MNIST",
    natural_scale=1000,
    figures=_losses(1000, (41.4, 68.19, 61.80), (57.9, 0.27, 0.21), (39.6, 0.55, 0.23))
    | {("accuracy", "natural", "natural"): 0.9919, ("accuracy", "natural", "background"): 0.0008},
    protocol={"epsilon": 0.3, "attack_steps": 100, "steps": 100_000},
    claims=(
        *_SHARED,
        Claim(
            "background training takes nine tenths of the loss under standard attack, too",
            (("loss", "background", "standard"), ("loss", "natural", "standard")),
            lambda background, natural: background <= natural / 10,
        ),
        Claim(
            "there, too, it comes near standard training: at most 2.5 times its loss",
            (("loss", "background", "standard"), ("loss", "standard", "standard")),
            lambda background, standard: background <= 2.5 * standard,
        ),
        Claim(
            "the background attack leaves a natural model at most one digit in ten",
            (("accuracy", "natural", "background"),),
            lambda attacked: attacked <= 0.1,
        ),
    ),
)

CIFAR10 = Paper(
    of="cifar10",
    source="Figure 2, CIFAR-10",
    natural_scale=100,
    figures=_losses(100, (21.44, 54.00, 2.96), (40.49, 2.34, 0.52), (21.09, 45.37, 0.23))
    | {("accuracy", "natural", "natural"): 0.9517, ("accuracy", "natural", "background"): 0.5926},
    claims=(
        *_SHARED,
        Claim(
            "background training leaves more than half of the loss under standard attack",
            (("loss", "background", "standard"), ("loss", "natural", "standard")),
            lambda background, natural: background > natural / 2,
        ),
        Claim(
            "the background attack costs a natural model 20 points of accuracy or more",
            (("accuracy", "natural", "natural"), ("accuracy", "natural", "background")),
            lambda natural, attacked: natural - attacked >= 0.2,
        ),
    ),
)

FIGURE_2 = (MNIST, CIFAR10)

PHOTOS = Paper(
    of="photos",
    source="Tables 1 and 2",
    classifier="inception_v3",
    n=9,
    figures={
        ("clean_confidence",): 0.71,
        ("adversarial_confidence",): 0.000169,
        ("clean_top10",): 8 / 9,
        ("adversarial_top10",): 0.0,
        ("altered",): 0.491,
    },
    claims=(
        Claim(
            "the background alone takes 99 % of the confidence in the right class, or more",
            (("clean_confidence",), ("adversarial_confidence",)),
            lambda clean, attacked: attacked <= clean / 100,
        ),
        Claim(
            "the right class leaves the top ten of every photo",
            (("adversarial_top10",),),
            lambda attacked: attacked == 0,
        ),
    ),
)


# ours beside the paper's


def compare_with_paper(
    matrices: Sequence[LossMatrix], attacks: Sequence[ReportedAttack], configs: Configs, like: str | None = None
) -> tuple[PaperPart, ...]:
    """Figure 2 of each data set, then Tables 1 and 2, each with a verdict on its claims.

    like: the data set whose figures every matrix is compared with, whatever its own.
    """
    figures = (_of_matrix(paper, _closest(paper, matrices, like), configs) for paper in FIGURE_2)
    return (*figures, _of_photos(_closest_attacks(attacks, configs), configs))


def _beside(
    paper: Paper,
    ours: Mapping[Asked, Mean],
    of_seeds: Sequence[Figures],
    text: Callable[[Asked, float], str],
    found: str | None,
    protocol: tuple[str, ...],
) -> PaperPart:
    """Our means and spreads beside the paper's figures, with a verdict on each claim, and for how many seeds."""

    def texts(claim: Claim, figures: Figures) -> str:
        known = [(one, figures.get(one)) for one in claim.asked]
        shown = ["-" if value is None else text(one, value) for one, value in known]
        return "-" if set(shown) == {"-"} else " and ".join(shown)

    claims, values = [], {asked: mean.value for asked, mean in ours.items()}
    for claim in paper.claims:
        verdicts = [claim.verdict(figures) for figures in of_seeds]
        holding, missing = verdicts.count("holds"), verdicts.count("not measured")
        both = texts(claim, paper.figures), texts(claim, values)
        claims.append(PaperClaim(paper.of, claim.text, *both, claim.verdict(values), holding, len(verdicts) - missing))
    figures = []
    for asked, theirs in paper.figures.items():
        (name, *place), mean = asked, ours.get(asked, Mean(None))
        regime, given = place or (None, None)
        shown = PHOTO_FIGURES.get(name, name)
        figures.append(PaperFigure(shown, regime, given, theirs, mean.value, mean.spread))
    return PaperPart(
        source=paper.source,
        of=paper.of,
        natural_scale=paper.natural_scale,
        ours=found,
        figures=tuple(figures),
        claims=tuple(claims),
        protocol=protocol,
    )


# matrices


def _closest(paper: Paper, matrices: Iterable[LossMatrix], like: str | None) -> LossMatrix | None:
    """The matrix nearest to the paper's: with most of its cells, then of most images, most models, the newest."""

    def likeness(matrix: LossMatrix) -> tuple[int, int, int]:
        rows = _rows_of(matrix).values()
        cells = sum(given in row.cells for row in rows for given in REGIMES)
        return cells, matrix.images, sum(row.model_count for row in rows)

    own = [matrix for matrix in matrices if (like or matrix.dataset) == paper.of]
    return max(own, key=likeness, default=None)


def _rows_of(matrix: LossMatrix | None) -> dict[str, MatrixRow]:
    """The row of each of the paper's regimes; of several, that of most models."""
    found: dict[str, MatrixRow] = {}
    for regime in REGIMES:
        rows = [row for row in (matrix.rows if matrix else ()) if row.regime == regime]
        found |= {regime: max(rows, key=lambda row: row.model_count)} if rows else {}
    return found


def _of_matrix(paper: Paper, matrix: LossMatrix | None, configs: Configs) -> PaperPart:
    rows = _rows_of(matrix)
    asked = {*paper.figures, *(one for claim in paper.claims for one in claim.asked)}
    ours: dict[Asked, Mean] = {}
    of_seeds: dict[object, dict[Asked, float | None]] = {}
    for figure, regime, given in asked:
        row = rows.get(regime)
        if row is None or given not in row.cells:
            continue
        cell, place = row.cells[given], (figure, regime, given)
        ours[place] = Mean(getattr(cell, figure), getattr(cell, f"{figure}_spread"))
        values = cell.losses if figure == "loss" else cell.accuracies
        for seed, value in zip(row.train_seeds, values, strict=False):
            of_seeds.setdefault(seed, {})[place] = value
    found = matrix.id if matrix else None
    protocol = tuple(_protocol(paper, matrix, rows, configs)) if matrix else ()

    def text(asked: Asked, value: float) -> str:
        return f"{100 * value:.2f} %" if asked[0] == "accuracy" else f"{value:.4g}"

    return _beside(paper, ours, [*of_seeds.values()], text, found=found, protocol=protocol)


def _protocol(paper: Paper, matrix: LossMatrix, rows: Mapping[str, MatrixRow], configs: Configs) -> Iterable[str]:
    """In what ours differs from the paper, as far as both are known, a line each."""
    theirs = paper.protocol
    trained = {regime: [configs.get(run, {}) for run in row.train_runs] for regime, row in rows.items()}
    if matrix.epsilon is None:
        yield "no attack"
    else:
        where = object_words(matrix.mask_from, matrix.center)
        yield f"object: {where}; the paper does not say how large its middle is"
        if theirs.get("epsilon") not in (None, matrix.epsilon):
            yield f"epsilon: {number_text(matrix.epsilon)}; the paper {theirs['epsilon']:g}"
        yield f"attack: {_attack_words(matrix, theirs.get('attack_steps'))}"
    for name, option, unit in (
        ("inner attack of training", "attack_steps", "steps"),
        ("training", "steps", "minibatches"),
    ):
        known = {
            regime: sorted({config[option] for config in found if config.get(option) is not None})
            for regime, found in trained.items()
            if option == "steps" or regime != "natural"
        }
        if any(values not in ([], [theirs.get(option)]) for values in known.values()):
            texts = [f"{regime} {', '.join(map('{:,}'.format, values))}" for regime, values in known.items() if values]
            yield f"{name}: {'; '.join(texts)} {unit}{_of_paper(theirs.get(option))}"
    networks = {str(one["architecture"]) for found in trained.values() for one in found if "architecture" in one}
    if networks:
        yield f"network: {', '.join(sorted(networks))}"
    natural = [row.cells["natural"].n for row in rows.values() if "natural" in row.cells]
    yield f"n: {matrix.images:,} attacked images" + (f", {min(natural):,} natural ones" if natural else "")
    counts = ", ".join(f"{regime} {row.model_count}" for regime, row in rows.items())
    yield f"training seeds: {counts}; the paper has one figure a cell, without a spread"


def _attack_parts(made: LossMatrix | ReportedAttack) -> list[str]:
    """The attack's name, then what it went by."""
    steps = steps_taken(made.attack, made.steps)
    radius = [] if made.radius is None else [f"{made.norm} radius {made.radius:g}"]
    return [made.attack or "", *([counted(steps, "step")] if steps else []), *radius]


def _attack_words(matrix: LossMatrix, their_steps: float | None) -> str:
    words = ", ".join(_attack_parts(matrix))
    if their_steps is None:
        return words
    # The paper's PGD is bounded by epsilon alone; every other norm has a radius.
    is_same = (matrix.attack, matrix.radius, matrix.steps) == ("pgd", None, their_steps)
    return f"{words}, as in the paper" if is_same else f"{words}; the paper pgd, {their_steps:.0f} steps"


def _of_paper(value: float | None) -> str:
    return "" if value is None else f"; the paper {value:,.0f}"


# photos


def photo_figures(summary: PhotoSummary) -> dict[Asked, float]:
    """The figures of `PHOTO_FIGURES`; `summary` is of one photo at least."""
    found: dict[Asked, float] = {("altered",): (summary.altered_percent or 0.0) / 100}
    for side, averages in (("clean", summary.clean), ("adversarial", summary.adversarial)):
        if averages is not None:
            found |= {(f"{side}_confidence",): averages.confidence, (f"{side}_top10",): averages.top10 / summary.n}
    return found


#: Options of an attack that do not tell experiments apart: where it runs and what it writes; and those that its
#: results tell better, such as which photos they are, with which labels.
_NOT_COMPARED = frozenset(
    {
        *("notes", "precision", "form", "devices", "nodes", "threads", "batch", "no_figures", "dry_run"),
        *("check_success", "photos", "label", "labels", "labels_from", "labels_sha256", "epsilon", "region", "regions"),
    }
)


def _closest_attacks(attacks: Iterable[ReportedAttack], configs: Configs) -> list[ReportedAttack]:
    """The run on backgrounds that is most like the paper's, and those that differ from it by their seed alone.

    Most like it: on its classifier, not stopped at the first success, of as many photos with labels, the newest. Of a
    seed that was run again, the newest. Attacks with a target take no part: the paper has none.
    """

    def likeness(attack: ReportedAttack) -> tuple[bool, bool, int, int]:
        labelled, n = attack.summary.n - _guessed(attack), attack.summary.n
        is_like, goes_on = attack.classifier == PHOTOS.classifier, _stop(attack, configs) is None
        return is_like, goes_on, min(labelled, PHOTOS.n), min(n, PHOTOS.n)

    of_background = [
        one
        for one in attacks
        if one.region == "background" and one.epsilon is not None and not any(image.target for image in one.images)
    ]
    closest = max(of_background, key=likeness, default=None)
    if closest is None:
        return []
    of_seeds = {closest.seed: closest}
    for one in of_background:
        if _all_but_seed(one, configs) == _all_but_seed(closest, configs):
            of_seeds.setdefault(one.seed, one)
    return list(of_seeds.values())


def _all_but_seed(attack: ReportedAttack, configs: Configs) -> tuple[object, ...]:
    """Equal for attacks whose figures are averaged. An option that is unset counts as one that is not there."""
    config = configs.get(attack.run, {})
    options = {name: repr(value) for name, value in config.items() if name not in _NOT_COMPARED and value is not None}
    protocol = [getattr(attack, one.name) for one in fields(AttackProtocol)]
    photos = frozenset((one.sha256, one.label.index, one.label.source == "prediction") for one in attack.images)
    return (*protocol, attack.detector, attack.at_model_resolution, photos, frozenset(options.items()))


def _guessed(attack: ReportedAttack) -> int:
    """How many photos have no label but the classifier's own guess before the attack."""
    return sum(one.label.source == "prediction" for one in attack.images)


def _stop(attack: ReportedAttack, configs: Configs) -> str | None:
    """The success at which an attack ends, None where it takes all its steps."""
    stop = configs.get(attack.run, {}).get("stop")
    return None if stop in (None, "never") else str(stop)


def _of_photos(attacks: Sequence[ReportedAttack], configs: Configs) -> PaperPart:
    of_seeds = [photo_figures(attack.summary) for attack in attacks]
    return _beside(
        PHOTOS,
        {asked: mean_of([one[asked] for one in of_seeds]) for asked in PHOTOS.figures},
        of_seeds,
        lambda _, value: f"{value:.3g}",
        found=attacks[0].run if attacks else None,
        protocol=tuple(_photo_protocol(attacks, configs)),
    )


def _photo_protocol(attacks: Sequence[ReportedAttack], configs: Configs) -> Iterable[str]:
    for attack in attacks[:1]:
        yield f"photos: {attack.summary.n}; the paper's {PHOTOS.n} are others"
        if attack.classifier != PHOTOS.classifier:
            yield f"classifier: {attack.classifier}; the paper {PHOTOS.classifier}"
        yield f"object from: {attack.detector}"
        if guessed := _guessed(attack):
            of = f"{guessed} of {attack.summary.n}"
            yield f"labels: the right class of {of} is the classifier's own guess before the attack; see --labels"
        stop = _stop(attack, configs)
        parts = [*_attack_parts(attack), *([] if stop is None else [f"stopped at {stop}"])]
        yield f"attack: epsilon {number_text(attack.epsilon or 0.0)}, {', '.join(parts)}"
        if not attack.at_model_resolution:
            yield "resolution: the photo's own; the paper's photos were resized for the classifier first"
        yield f"attack seeds: {', '.join(str(one.seed) for one in attacks)}"
