"""The parts of a reproduction: the steps that each takes, and what its runs show, averaged over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from latcli.commands.gathering import MATRIX
from latcli.commands.paper import FIGURE_2, PHOTOS, photo_figures
from latcli.commands.photos import PACKAGE_LABELS, package_photos
from latcli.engine.datasets.base import Dataset
from latcli.engine.localize import middle_pixels
from latcli.engine.photo_files import find_sources
from latcli.engine.training.regimes import LOCALIZED, Regime
from latcli.options import AttackOptions, EvalOptions, ReproduceOptions, ReproduciblePart, TrainOptions
from latcli.reporting.text import counted, number_text
from latcli.results import (
    EvalResult,
    Mean,
    MeansRow,
    MeansTable,
    mean_of,
    photo_summary,
    read,
    starts_text,
)
from latcli.session import Session
from latcli.store.store import RunRow, Store

# steps: the options of one train, eval or attack each, and a seed


@dataclass(frozen=True)
class Budget:
    """seeds: of training and of photo attacks. images: attacked ones; strong_images: by the strong suite."""

    seeds: int
    preset: Literal["quick", "standard", "paper"]
    images: int
    strong_images: int
    strong_budget: Literal["quick"] | None = None


BUDGETS = {
    # Minutes: shows that everything works, and which way figures point.
    "quick": Budget(seeds=1, preset="quick", images=200, strong_images=50, strong_budget="quick"),
    # Hours on two cores.
    "standard": Budget(seeds=3, preset="standard", images=1_000, strong_images=300),
    # The paper's 100,000 minibatches of PGD-100: days on a CPU.
    "paper": Budget(seeds=3, preset="paper", images=10_000, strong_images=1_000),
}

COMPARED: tuple[Regime, ...] = ("natural", "standard", "background")
#: Localized training that protects something else.
CONTROLS: tuple[Regime, ...] = ("foreground", "random")
#: What a part trains where that is not the three that the paper compares.
_TRAINED: Mapping[str, tuple[Regime, ...]] = {
    "hole": ("natural",),
    "controls": (*COMPARED, *CONTROLS),
    "masks": ("standard", "background"),
}
#: Parts that are figures of the paper, and shown beside them; the others vary what these keep fixed.
OF_PAPER = ("figure1", "table2", "figure2")
#: Parts that need no small images.
OF_PHOTOS = frozenset({"figure1", "table2", "photos-epsilon"})
#: Sides of the middle that `hole` tries, in pixels of so many: the paper's figures lie between the first and the last.
_SIZES = {28: (4, 5, 6, 8, 10, 12, 14), 32: (16, 20, 24, 26, 28, 29, 30)}
#: Where the side is another one.
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
_EPSILONS, _EPSILON = tuple(levels / 255 for levels in (1, 2, 4, 8, 16)), 8 / 255


#: With weights to start from: how they are fine-tuned on natural images, which gives the natural model, and how every
#: other regime goes on from it. The finished model is attacked briefly, since an evaluation follows.
_FINE_TUNED: dict[str, Any] = {"preset": "standard", "epochs": 3, "rate": 1e-3}
_GOING_ON: dict[str, Any] = {"preset": "quick", "steps": 250, "batch": 128, "attack": "fgsm-rs", "warm_up": 0.1}


@dataclass(frozen=True)
class Step:
    """One invocation of a command.

    models: the training steps whose models an evaluation evaluates; of a training, the one that it goes on from.
    """

    title: str
    options: TrainOptions | EvalOptions | AttackOptions
    seed: int
    models: tuple[Step, ...] = ()

    @property
    def command(self) -> str:
        """The subcommand."""
        return {TrainOptions: "train", EvalOptions: "eval", AttackOptions: "attack"}[type(self.options)]


def steps_of(
    part: ReproduciblePart, options: ReproduceOptions, session: Session, data: Dataset | None
) -> tuple[Step, ...]:
    """The steps that a part takes, in their order; equal steps of several parts are equal.

    data: None where no part looks at small images. Raises LatcliError where the photos that stand in for missing ones
    are missing, too.
    """
    budget = BUDGETS[options.budget]
    seeds = range(session.seed, session.seed + (options.seeds or budget.seeds))
    if part in OF_PHOTOS:
        epsilons = _EPSILONS if part == "photos-epsilon" else (_EPSILON,)
        return tuple(_attack(options, session, epsilon, seed) for epsilon in epsilons for seed in seeds)
    silhouettes: dict[str, Any] = {"center": None, "mask_from": "otsu"}
    strong: dict[str, Any] = {"strong": True, "strong_budget": budget.strong_budget}
    strong["images"] = options.images or budget.strong_images
    models = [_training(options, regime, seed) for seed in seeds for regime in _TRAINED.get(part, COMPARED)]
    if part == "masks":
        models += [_training(options, "background", seed, **silhouettes) for seed in seeds]
    of_parts: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "figure2": [("the loss matrix", {})],
        "hole": [(f"a middle of {share:.3g}", {"center": share}) for share in _shares(options, data)],
        "controls": [("with controls", {"controls": True})],
        "masks": [("outside the middle", {}), ("outside the silhouette", silhouettes)],
        "strong": [("by the strong suite", strong)],
        "transfer": [(f"transfer, seed {seed}", {"transfer": "all"}) for seed in seeds],
    }
    evaluations = of_parts[part]
    of_seed = [tuple(one for one in models if one.seed == seed) for seed in seeds]
    among = of_seed if part == "transfer" else [tuple(models)] * len(evaluations)
    given: dict[str, Any] = {
        "dataset": options.dataset,
        "images": options.images or budget.images,
        "steps": options.attack_steps,
        "epsilon": options.epsilon,
        "center": options.center,
    }
    evaluated = [
        Step(f"evaluate {aim}, {counted(len(group), 'model')}", EvalOptions(**given | more), session.seed, group)
        for (aim, more), group in zip(evaluations, among, strict=True)
    ]
    starts = [start for step in models for start in step.models]
    return tuple(dict.fromkeys([*starts, *models, *evaluated]))


def _training(options: ReproduceOptions, regime: Regime, seed: int, **more: Any) -> Step:
    """A training; of weights that a user has, the natural one fine-tunes them, and the others go on from that."""
    given: dict[str, Any] = {"regime": regime, "dataset": options.dataset, "architecture": options.architecture}
    weights, starts = options.classifier_weights, tuple[Step, ...]()
    given["center"] = options.center if regime in LOCALIZED else None
    given["epsilon"] = None if regime == "natural" else options.epsilon
    if weights is None:
        given |= {"preset": BUDGETS[options.budget].preset, "steps": options.steps}
    else:
        given |= _FINE_TUNED | {"classifier_weights": weights} if regime == "natural" else _GOING_ON
        given |= {} if options.steps is None else {"epochs": None, "steps": options.steps}
        starts = () if regime == "natural" else (_training(options, "natural", seed),)
    chosen = TrainOptions(**given | more)
    masks = f" ({chosen.mask_from} masks)" if chosen.mask_from else ""
    title = f"train {regime}{masks}" if weights is None or starts else f"fine-tune {weights.name}"
    return Step(f"{title}, seed {seed}", chosen, seed, starts)


def _shares(options: ReproduceOptions, data: Dataset | None) -> tuple[float, ...]:
    """Sizes of the middle that are tried: those that were asked for, else even pixels of the side."""
    if options.centers:
        centers: tuple[float, ...] = options.centers
        return centers
    side, own = (data.image_shape[1], data.defaults.center) if data else (0, 0.0)
    if side not in _SIZES:
        return _SHARES
    # The data set's own middle is tried by its own number, so that what was measured with it counts.
    return tuple(own if pixels == middle_pixels(side, own) else pixels / side for pixels in _SIZES[side])


def _attack(options: ReproduceOptions, session: Session, epsilon: float, seed: int) -> Step:
    photos, labels = photos_of(options, session) or (package_photos(), PACKAGE_LABELS)
    given: dict[str, Any] = {"epsilon": epsilon, "classifier": options.classifier, "detector": options.detector}
    given |= {} if options.attack_steps is None else {"steps": options.attack_steps}
    names = ", ".join(photo.name for photo in photos)
    chosen = AttackOptions(photos=tuple(map(str, photos)), labels=labels, **given)
    return Step(f"attack {names} within {number_text(epsilon)}, seed {seed}", chosen, seed)


def photos_of(options: ReproduceOptions, session: Session) -> tuple[tuple[Path, ...], Path | None] | None:
    """The photos that are attacked and their labels; None where those that packages carry must do."""
    if options.photos is not None:
        return (options.photos,), options.labels
    photos, labels = session.data / "photos" / "paper9", session.data / "photos" / "labels.csv"
    return ((photos,), labels) if photos.is_dir() and labels.is_file() else None


# what the runs show


#: A figure of one seed: its row, its column, its value.
Record = tuple[str, str, float | None]


@dataclass(frozen=True)
class Findings:
    """Reads off the runs of a part's steps what it shows."""

    store: Store
    runs: Mapping[Step, RunRow]
    options: ReproduceOptions
    data: Dataset | None

    def tables(self, part: ReproduciblePart, steps: Sequence[Step]) -> list[MeansTable]:
        """What a part shows beyond the paper's own figures. Raises DocumentError for damaged rows."""
        titles = {"controls": "Controls of equal budget", "strong": "The strong suite"}
        if part in titles:
            cells = [pair for pair in self._cells(steps) if pair[1]["input"] != "natural-attacked"]
            records = [(_regime(model), row["input"], row["accuracy"]) for model, row in cells]
            notes = ["accuracy; across: what the attack may change", *self._notes(steps)]
            return [_percents(part, titles[part], "model", records, notes)]
        makers = {"photos-epsilon": self._photos, "hole": self._hole, "transfer": self._transfer, "masks": self._masks}
        return makers[part](steps) if part in makers else []

    def figures(self, steps: Sequence[Step]) -> list[Path]:
        """The pictures that attacks on photos drew: photo, background black, attacked."""
        kept = [(self.runs[step], row) for step in steps for row in self.store.rows_of(self.runs[step].id, "artifacts")]
        return [run.path / row["name"] for run, row in kept if row["kind"] == "figure"]

    def _hole(self, steps: Sequence[Step]) -> list[MeansTable]:
        """Natural models under background attack: accuracy, and loss by that under standard attack."""
        cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for _, cell in self._cells(steps):
            cells.setdefault((cell["run"], cell["model_id"]), {})[cell["input"]] = cell
        records: list[Record] = []
        shares: dict[str, float] = {}
        for of_model in cells.values():
            background, standard = of_model["background"], of_model["standard"]
            name = f"{background['center']:.4g} ({self._pixels(background['center'])} px)"
            shares[name] = background["center"]
            is_known = background["loss"] is not None and standard["loss"]
            ratio = background["loss"] / standard["loss"] if is_known else None
            records += [(name, "accuracy", background["accuracy"]), (name, "loss ratio", ratio)]
        rows = [replace(row, x=shares[row.name]) for row in _rows(records)]
        notes = ["natural models alone; ratio: loss under background attack by loss under standard attack"]
        like = self.options.like or (self.data.name if self.data else "")
        if paper := next((one.figures for one in FIGURE_2 if one.of == like), None):
            above, below = (paper["loss", "natural", given] for given in ("background", "standard"))
            theirs = {"accuracy": paper["accuracy", "natural", "background"], "loss ratio": above / below}
            apart: dict[float, float] = {}
            for place, row in enumerate(rows):
                ours = {name: row.means[name].value for name in theirs}
                known = [abs(value - theirs[name]) for name, value in ours.items() if value is not None]
                distance = Mean(sum(known) if len(known) == len(ours) else None)
                rows[place] = replace(row, means={**row.means, "distance": distance})
                if distance.value is not None:
                    apart[shares[row.name]] = distance.value
            if apart:
                share = min(apart, key=lambda one: apart[one])
                closest = f"closest to the paper: {share:.4g} of the side, {self._pixels(share)} pixels"
                notes = [closest, *notes, "distance: of both figures from the paper's, the sum"]
            rows.append(MeansRow("paper", {name: Mean(value) for name, value in theirs.items()}))
        columns = {"accuracy": "percent", "loss ratio": "short", "distance": "short"}
        title, heading = "How large the middle is: natural models", "middle, share of the side"
        notes += self._notes(steps, middle=False)
        drawn = ("accuracy", "loss ratio")
        return [MeansTable("hole", title, heading, columns, tuple(rows), tuple(notes), drawn)]

    def _masks(self, steps: Sequence[Step]) -> list[MeansTable]:
        """By the training's masks down, and by the evaluation's across."""
        middle, silhouette = _evaluations(steps)
        names = {None: "background, middle", "otsu": "background, silhouettes"}
        columns = {
            (middle, "natural"): "natural",
            (middle, "background"): "outside the middle",
            (silhouette, "background"): "outside the silhouette",
            (middle, "standard"): "everywhere",
        }
        found: dict[str, list[Record]] = {column: [] for column in columns.values()}
        for evaluation in (middle, silhouette):
            for model, row in self._cells([evaluation]):
                if column := columns.get((evaluation, row["input"])):
                    masks = getattr(model.options, "mask_from", None)
                    name = "standard" if _regime(model) == "standard" else names[masks]
                    found[column].append((name, column, row["accuracy"]))
        records = [record for of_column in found.values() for record in of_column]
        title = "Exact masks (Otsu's silhouettes) against the middle"
        return [_percents("masks", title, "model", records, ["accuracy", *self._notes(steps)])]

    def _transfer(self, steps: Sequence[Step]) -> list[MeansTable]:
        found: dict[str, list[Record]] = {}
        for evaluation in _evaluations(steps):
            document = read(EvalResult, (self.runs[evaluation].path / MATRIX).read_bytes())
            regimes: dict[str | None, str] = {one.id: str(one.regime) for one in document.models}
            regimes[None] = "(no attack)"
            for cell in document.transfer:
                record = regimes[cell.source], regimes[cell.target], cell.accuracy
                found.setdefault(cell.input, []).append(record)
        notes = ["accuracy; down: the model that examples were made on", *self._notes(steps)]
        return [
            _percents(f"transfer-{given}", f"Transfer of {given} examples", "made on", records, notes)
            for given, records in found.items()
        ]

    def _photos(self, steps: Sequence[Step]) -> list[MeansTable]:
        names = {"confidence": "confidence", "top1": "right first", "top10": "in the top ten"}
        found: dict[float, list[Record]] = {}
        for step in steps:
            rows = self.store.rows_of(self.runs[step].id, "attacks")
            summary = photo_summary(rows)
            figures = {asked[0]: value for asked, value in photo_figures(summary).items()}
            for side, averages in (("clean", summary.clean), ("adversarial", summary.adversarial)):
                figures[f"{side}_top1"] = averages.right / summary.n if averages else 0.0
            epsilon: float = rows[0]["epsilon"]
            found.setdefault(0.0, [("clean", shown, figures[f"clean_{name}"]) for name, shown in names.items()])
            columns = [(shown, figures[f"adversarial_{name}"]) for name, shown in names.items()]
            columns.append(("altered", figures["altered"]))
            found.setdefault(epsilon, []).extend((number_text(epsilon), *column) for column in columns)
        table = [replace(_rows(found[epsilon])[0], x=epsilon or None) for epsilon in sorted(found)]
        theirs = {"confidence": "adversarial_confidence", "in the top ten": "adversarial_top10", "altered": "altered"}
        table.append(MeansRow("paper", {name: Mean(PHOTOS.figures[figure,]) for name, figure in theirs.items()}))
        forms = {"confidence": "short"} | dict.fromkeys(("right first", "in the top ten", "altered"), "percent")
        notes, drawn = tuple(self._of_photos(steps)), ("confidence", "in the top ten")
        return [MeansTable("photos-epsilon", "Photos against epsilon", "epsilon", forms, tuple(table), notes, drawn)]

    def _cells(self, steps: Sequence[Step]) -> Iterator[tuple[Step, dict[str, Any]]]:
        """Each cell of the evaluations with the training step of its model."""
        for evaluation in _evaluations(steps):
            trained = {self.runs[model].model: model for model in evaluation.models}
            for row in self.store.rows_of(self.runs[evaluation].id, "cells"):
                yield trained[row["model_id"]], row

    def _notes(self, steps: Sequence[Step], *, middle: bool = True) -> list[str]:
        """How the figures of a part's evaluations, which differ in one respect alone, were made."""
        row = next(row for _, row in self._cells(steps) if row["epsilon"] is not None)
        trainings = [step for step in steps if isinstance(step.options, TrainOptions)]
        attack = (f"{row['attack']}-{row['steps']}", starts_text(row["attack"], row["restarts"]))
        kept = [f"the center, {row['center']:.4g} of each side"] if middle and row["mask_from"] == "center" else []
        seeds = ", ".join(map(str, sorted({step.seed for step in trainings})))
        return [
            f"{self.options.dataset}, n = {row['n']:,} attacked images",
            ", ".join(filter(None, (*attack, f"epsilon {number_text(row['epsilon'])}"))),
            *kept,
            f"training: {_budget(trainings)}, seeds {seeds}; mean and sample standard deviation over them",
            f"evaluations {', '.join(self.runs[step].id[-4:] for step in _evaluations(steps))}",
        ]

    def _of_photos(self, steps: Sequence[Step]) -> list[str]:
        options = steps[0].options
        assert isinstance(options, AttackOptions)
        seeds = ", ".join(map(str, sorted({step.seed for step in steps})))
        photos, attacked = len(find_sources(options.photos)), self.store.rows_of(self.runs[steps[0]].id, "attacks")
        lines = [
            f"classifier {options.classifier} (the paper: {PHOTOS.classifier}), object from {options.detector}",
            f"{options.steps} steps; attack seeds {seeds}",
        ]
        if len(attacked) < photos:
            lines.append(f"{photos - len(attacked)} of {photos} photos could not be attacked, and are not counted")
        if guessed := sum(row["label_source"] == "prediction" for row in attacked):
            lines.append(f"the right class of {guessed} of {len(attacked)} photos is the clean guess: see --labels")
        return [*lines, f"runs {', '.join(self.runs[step].id[-4:] for step in steps)}"]

    def _pixels(self, share: float) -> int:
        return middle_pixels(self.data.image_shape[1] if self.data else 0, share)


def _rows(records: Iterable[Record]) -> tuple[MeansRow, ...]:
    """A row for each name with the mean of each column, in the order in which they first appear."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for name, column, value in records:
        found.setdefault(name, {}).setdefault(column, []).append(value)
    return tuple(
        MeansRow(name, {column: mean_of(values) for column, values in columns.items()})
        for name, columns in found.items()
    )


def _percents(name: str, title: str, heading: str, records: Sequence[Record], notes: Sequence[str]) -> MeansTable:
    columns = dict.fromkeys((column for _, column, _ in records), "percent")
    return MeansTable(name, title, heading, columns, _rows(records), tuple(notes))


def _evaluations(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if isinstance(step.options, EvalOptions)]


def _regime(step: Step) -> str:
    return str(getattr(step.options, "regime", None))


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
