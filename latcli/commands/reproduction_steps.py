"""The steps that each part of a reproduction takes: the options of one `train`, `eval` or `attack` each, and a seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latcli.commands.package_photos import PACKAGE_LABELS, package_photos
from latcli.engine.datasets.base import Dataset
from latcli.engine.localize import middle_pixels
from latcli.engine.training.regimes import LOCALIZED, Regime
from latcli.options import AttackOptions, EvalOptions, ReproduceOptions, ReproduciblePart, TrainOptions
from latcli.reporting.text import number_text
from latcli.session import Session


@dataclass(frozen=True)
class Budget:
    """seeds: of training and of photo attacks. images: attacked ones; strong_images: by the strong suite."""

    seeds: int
    preset: Literal["quick", "standard", "paper"]
    images: int
    strong_images: int
    strong: Literal["quick", "full"]


BUDGETS = {
    # Minutes: shows that everything works, and which way figures point.
    "quick": Budget(seeds=1, preset="quick", images=200, strong_images=50, strong="quick"),
    # Hours on two cores.
    "standard": Budget(seeds=3, preset="standard", images=1_000, strong_images=300, strong="full"),
    # The paper's 100,000 minibatches of PGD-100: days on a CPU.
    "paper": Budget(seeds=3, preset="paper", images=10_000, strong_images=1_000, strong="full"),
}

COMPARED: tuple[Regime, ...] = ("natural", "standard", "background")
#: Localized training that protects something else.
CONTROLS: tuple[Regime, ...] = ("foreground", "random")
#: Parts that need no small images.
OF_PHOTOS = frozenset({"figure1", "table2", "photos-epsilon"})
#: Sides of the middle that `hole` tries, in pixels of so many: the paper's figures lie between the first and the last.
_SIZES = {28: (4, 5, 6, 8, 10, 12, 14), 32: (12, 16, 20, 22, 24, 26, 28)}
#: Where the side is another one.
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
_EPSILONS, _EPSILON = tuple(levels / 255 for levels in (1, 2, 4, 8, 16)), 8 / 255


#: With weights to start from: how they are fine-tuned on natural images, which gives the natural model, and how every
#: other regime goes on from it. The finished model is attacked briefly, since an evaluation follows.
_FINE_TUNED: Mapping[str, Any] = {"preset": "standard", "epochs": 3, "rate": 1e-3}
_GOING_ON: Mapping[str, Any] = {"preset": "quick", "steps": 250, "batch": 128, "attack": "fgsm-rs", "warm_up": 0.1}


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
    steps = _steps_of(part, options, session, data)
    starts = [start for step in steps if step.command == "train" for start in step.models]
    return tuple(dict.fromkeys([*starts, *steps]))


def _steps_of(
    part: ReproduciblePart, options: ReproduceOptions, session: Session, data: Dataset | None
) -> Iterable[Step]:
    """Without the trainings that others go on from."""
    budget = BUDGETS[options.budget]
    seeds = range(session.seed, session.seed + (options.seeds or budget.seeds))

    def trained(*regimes: Regime, **more: Any) -> list[Step]:
        return [_training(options, regime, seed, **more) for seed in seeds for regime in regimes]

    def evaluated(aim: str, models: Sequence[Step], **more: Any) -> Step:
        return _evaluation(options, aim, models, session.seed, **more)

    if part in ("figure1", "table2"):
        return tuple(_attack(options, session, _EPSILON, seed) for seed in seeds)
    if part == "photos-epsilon":
        return tuple(_attack(options, session, epsilon, seed) for epsilon in _EPSILONS for seed in seeds)
    if part == "figure2":
        models = trained(*COMPARED)
        return (*models, evaluated("the loss matrix", models))
    if part == "hole":
        models = trained("natural")
        return (
            *models,
            *(evaluated(f"a middle of {share:.3g}", models, center=share) for share in _shares(options, data)),
        )
    if part == "controls":
        models = trained(*COMPARED, *CONTROLS)
        return (*models, evaluated("with controls", models, controls=True))
    if part == "masks":
        silhouettes = {"center": None, "mask_from": "otsu"}
        models = [*trained("standard", "background"), *trained("background", **silhouettes)]
        outside = evaluated("outside the silhouette", models, **silhouettes)
        return (*models, evaluated("outside the middle", models), outside)
    if part == "strong":
        models = trained(*COMPARED)
        images = options.images or budget.strong_images
        strength = None if budget.strong == "full" else budget.strong
        suite = evaluated("by the strong suite", models, images=images, strong=True, strong_budget=strength)
        return (*models, suite)
    models = trained(*COMPARED)
    transfers = [
        evaluated(f"transfer, seed {seed}", [one for one in models if one.seed == seed], transfer="all")
        for seed in seeds
    ]
    return (*models, *transfers)


def _training(options: ReproduceOptions, regime: Regime, seed: int, **more: Any) -> Step:
    given: dict[str, Any] = {
        "regime": regime,
        "dataset": options.dataset,
        "preset": BUDGETS[options.budget].preset,
        "steps": options.steps,
        "architecture": options.architecture,
        "epsilon": None if regime == "natural" else options.epsilon,
        "center": options.center if regime in LOCALIZED else None,
    }
    starts: tuple[Step, ...] = ()
    if options.classifier_weights is not None:
        start = _fine_tuning(options, options.classifier_weights, seed)
        if regime == "natural":
            return start
        starts = (start,)
        given |= _for_as_long(_GOING_ON, options)
    chosen = TrainOptions(**given | more)
    masks = f" ({chosen.mask_from} masks)" if chosen.mask_from else ""
    return Step(f"train {regime}{masks}, seed {seed}", chosen, seed, starts)


def _fine_tuning(options: ReproduceOptions, weights: Path, seed: int) -> Step:
    """Natural training from weights that a user has."""
    given: dict[str, Any] = {"dataset": options.dataset, "architecture": options.architecture}
    given["classifier_weights"] = weights
    chosen = TrainOptions(regime="natural", **given | _for_as_long(_FINE_TUNED, options))
    return Step(f"fine-tune {weights.name}, seed {seed}", chosen, seed)


def _for_as_long(values: Mapping[str, Any], options: ReproduceOptions) -> dict[str, Any]:
    """These options of a training, or as many steps as were asked for in place of their epochs."""
    return dict(values) if options.steps is None else {**values, "epochs": None, "steps": options.steps}


def _evaluation(options: ReproduceOptions, aim: str, models: Sequence[Step], seed: int, **more: Any) -> Step:
    given: dict[str, Any] = {
        "dataset": options.dataset,
        "images": options.images or BUDGETS[options.budget].images,
        "steps": options.attack_steps,
        "epsilon": options.epsilon,
        "center": options.center,
    }
    title = f"evaluate {aim}, {len(models)} model{'' if len(models) == 1 else 's'}"
    return Step(title, EvalOptions(**given | more), seed, tuple(models))


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
