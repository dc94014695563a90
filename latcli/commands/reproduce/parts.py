"""Which steps each part of a reproduction needs: options in, steps out; must not know what is done or run anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latcli.commands.package_photos import PACKAGE_LABELS, package_photos
from latcli.commands.reproduce.options import BUDGETS
from latcli.commands.reproduce.steps import Evaluation, PhotoAttack, Step, Training
from latcli.engine.datasets.base import Dataset
from latcli.engine.localize import middle_pixels
from latcli.engine.training.regimes import LOCALIZED, Regime
from latcli.options import AttackOptions, EvalOptions, ReproduceOptions, TrainOptions
from latcli.options import ReproduciblePart as PartName
from latcli.session import Session

COMPARED: tuple[Regime, ...] = ("natural", "standard", "background")
#: Localized training that protects something else.
CONTROLS: tuple[Regime, ...] = ("foreground", "random")

#: Parts that need no small images.
OF_PHOTOS = frozenset({"figure1", "table2", "photos-epsilon"})
#: Sides of the middle that are tried, in pixels of so many: the paper's figures lie between the first and the last.
_SIZES = {28: (4, 5, 6, 8, 10, 12, 14), 32: (12, 16, 20, 22, 24, 26, 28)}
#: Where the side is another one.
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)

_EPSILONS = tuple(levels / 255 for levels in (1, 2, 4, 8, 16))
_EPSILON = 8 / 255


@dataclass(frozen=True)
class Part:
    """What is reproduced, and the steps that it takes, in their order."""

    name: PartName
    steps: tuple[Step, ...]

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Those of its steps that are evaluations."""
        return tuple(step for step in self.steps if isinstance(step, Evaluation))

    @property
    def attacks(self) -> tuple[PhotoAttack, ...]:
        """Those of its steps that attack photos."""
        return tuple(step for step in self.steps if isinstance(step, PhotoAttack))


def parts_of(options: ReproduceOptions, session: Session, data: Dataset | None) -> list[Part]:
    """The parts that were asked for.

    data: None where no part looks at small images. Raises LatcliError where the photos that stand in for missing ones
    are missing, too.
    """
    maker = _Maker(options, session, data)
    return [Part(name, tuple(maker.steps(name))) for name in options.parts]


def needs_small_images(options: ReproduceOptions) -> bool:
    """Whether any part is of a data set of small images."""
    return any(name not in OF_PHOTOS for name in options.parts)


class _Maker:
    """Makes steps; equal steps of several parts are equal."""

    def __init__(self, options: ReproduceOptions, session: Session, data: Dataset | None) -> None:
        self.options, self.session, self.data = options, session, data
        count = options.seeds or BUDGETS[options.budget].seeds
        self.seeds = range(session.seed, session.seed + count)

    def steps(self, name: PartName) -> Sequence[Step]:
        return _STEPS[name](self)

    def photos(self) -> list[Step]:
        return [self._attack(_EPSILON, seed) for seed in self.seeds]

    def photos_epsilon(self) -> list[Step]:
        return [self._attack(epsilon, seed) for epsilon in _EPSILONS for seed in self.seeds]

    def figure2(self) -> list[Step]:
        trained = self._trained(COMPARED)
        return [*trained, self._evaluation("the loss matrix", trained)]

    def hole(self) -> list[Step]:
        trained = self._trained(("natural",))
        return [
            *trained,
            *(self._evaluation(f"a middle of {share:.3g}", trained, center=share) for share in self._shares()),
        ]

    def controls(self) -> list[Step]:
        trained = self._trained((*COMPARED, *CONTROLS))
        return [*trained, self._evaluation("with controls", trained, controls=True)]

    def masks(self) -> list[Step]:
        trained = [*self._trained(("standard", "background")), *self._silhouettes()]
        return [
            *trained,
            self._evaluation("outside the middle", trained),
            self._evaluation("outside the silhouette", trained, center=None, mask_from="otsu"),
        ]

    def strong(self) -> list[Step]:
        row, trained = BUDGETS[self.options.budget], self._trained(COMPARED)
        images = self.options.images or row.strong_images
        budget = None if row.strong == "full" else row.strong
        strong = self._evaluation("by the strong suite", trained, images=images, strong=True, strong_budget=budget)
        return [*trained, strong]

    def transfer(self) -> list[Step]:
        trained = self._trained(COMPARED)
        of_seeds = [[one for one in trained if one.seed == seed] for seed in self.seeds]
        words = [f"transfer, seed {seed}" for seed in self.seeds]
        tried = [self._evaluation(aim, models, transfer="all") for aim, models in zip(words, of_seeds, strict=True)]
        return [*trained, *tried]

    def _trained(self, regimes: Sequence[Regime]) -> list[Training]:
        return [self._training(regime, seed) for seed in self.seeds for regime in regimes]

    def _silhouettes(self) -> list[Training]:
        return [self._training("background", seed, center=None, mask_from="otsu") for seed in self.seeds]

    def _training(self, regime: Regime, seed: int, **told: Any) -> Training:
        options = self.options
        said: dict[str, Any] = {"architecture": options.architecture}
        said |= {"epsilon": None if regime == "natural" else options.epsilon}
        said |= {"center": options.center if regime in LOCALIZED else None} | told
        preset, dataset = BUDGETS[options.budget].preset, options.dataset
        return Training(TrainOptions(regime=regime, dataset=dataset, preset=preset, steps=options.steps, **said), seed)

    def _evaluation(self, aim: str, models: Sequence[Training], **told: Any) -> Evaluation:
        options = self.options
        said: dict[str, Any] = {
            "dataset": options.dataset,
            "images": options.images or BUDGETS[options.budget].images,
            "steps": options.attack_steps,
            "epsilon": options.epsilon,
            "center": options.center,
        }
        return Evaluation(EvalOptions(**said | told), tuple(models), self.session.seed, aim)

    def _shares(self) -> tuple[float, ...]:
        if self.options.centers:
            centers: tuple[float, ...] = self.options.centers
            return centers
        if self.data is None:
            raise RuntimeError("hole needs small images, and none were opened")
        side, own = self.data.image_shape[1], self.data.defaults.center
        if side not in _SIZES:
            return _SHARES
        # The default is tried by its own name, so that what was measured with it counts.
        return tuple(own if pixels == middle_pixels(side, own) else pixels / side for pixels in _SIZES[side])

    def _attack(self, epsilon: float, seed: int) -> Step:
        options = self.options
        photos, labels = photos_of(options, self.session) or (package_photos(), PACKAGE_LABELS)
        said: dict[str, Any] = {"epsilon": epsilon, "classifier": options.classifier, "detector": options.detector}
        said |= {} if options.attack_steps is None else {"steps": options.attack_steps}
        return PhotoAttack(AttackOptions(photos=tuple(map(str, photos)), labels=labels, **said), seed)


def photos_of(options: ReproduceOptions, session: Session) -> tuple[tuple[Path, ...], Path | None] | None:
    """The photos that are attacked and their labels; None where those that packages carry must do."""
    if options.photos is not None:
        return (options.photos,), options.labels
    photos, labels = session.data / "photos" / "paper9", session.data / "photos" / "labels.csv"
    return ((photos,), labels) if photos.is_dir() and labels.is_file() else None


_STEPS: dict[PartName, Callable[[_Maker], Sequence[Step]]] = {
    "figure1": _Maker.photos,
    "table2": _Maker.photos,
    "figure2": _Maker.figure2,
    "hole": _Maker.hole,
    "controls": _Maker.controls,
    "masks": _Maker.masks,
    "strong": _Maker.strong,
    "transfer": _Maker.transfer,
    "photos-epsilon": _Maker.photos_epsilon,
}
