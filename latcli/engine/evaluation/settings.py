"""Everything that decides what an evaluation computes, checked once; must not know models, files or devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.attacks.suite import Member, members, standard_suite
from latcli.engine.datasets.base import MaskSource
from latcli.engine.training.regimes import Regime
from latcli.errors import UsageError

#: What a model is tried on: the images as they are, or with what a regime of that name may change changed.
InputType = Regime

ATTACKED: tuple[InputType, ...] = ("standard", "background")
CONTROLS: tuple[InputType, ...] = ("foreground", "random")

#: How hard the strong suite tries: `full` is AutoAttack's budget, `quick` shows no more than that it runs.
StrongBudget = Literal["quick", "full"]
_QUICK = {"apgd_steps": 10, "targets": 3, "queries": 100}


@dataclass(frozen=True)
class EvalSettings:
    """Equal settings, models, data and device give equal figures.

    images: how many test images are attacked; natural inputs are always all of them. epsilon in [0, 1] image scale;
    center: share of the side that the middle keeps, looked at where mask_from is center. steps, restarts: of PGD.
    controls: the inputs foreground and random, too. until_wrong: an image is attacked no further than its first wrong
    guess, which leaves no loss to be reported. strong: the budget of the suite that standard and background inputs are
    attacked with besides; None for no suite. batch: images attacked together.
    """

    images: int
    epsilon: float
    mask_from: MaskSource
    center: float
    steps: int
    restarts: int
    controls: bool
    until_wrong: bool
    strong: StrongBudget | None
    batch: int
    seed: int

    def __post_init__(self) -> None:
        for name, count in {"images": self.images, "batch": self.batch}.items():
            if count < 1:
                raise UsageError(f"{name} is {count}; at least 1 is needed", f"give --{name} a whole number above 0")
        if not 0.0 < self.epsilon <= 1.0:
            raise UsageError(f"epsilon is {self.epsilon:g}, not in (0, 1]", "it is in image scale: 8/255 or 0.031")
        if not 0.0 <= self.center < 1.0:
            raise UsageError(f"center is {self.center:g}, not a share from 0 to below 1", "for example --center 0.5")
        if self.mask_from not in get_args(MaskSource):
            raise UsageError(
                f"there is no mask-from called '{self.mask_from}'", "known: center, otsu, detector, folder"
            )
        if self.strong not in (None, *get_args(StrongBudget)):
            raise UsageError(f"there is no strong budget called '{self.strong}'", "known: quick, full")
        self.attack()

    @property
    def inputs(self) -> tuple[InputType, ...]:
        """The attacked inputs, in the order of the table."""
        return (*ATTACKED, *CONTROLS) if self.controls else ATTACKED

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attacked columns, in the order of the table."""
        return (*self.inputs, *(map(strong_column, ATTACKED) if self.strong else ()))

    def first_wrong(self) -> list[Member]:
        """PGD as a suite of its own, in which an image rests at its first wrong guess."""
        return members([("pgd", self.attack())])

    def suite(self) -> list[Member]:
        """The strong suite: APGD on cross entropy, targeted APGD on DLR, Square."""
        return standard_suite(**_QUICK) if self.strong == "quick" else standard_suite()

    def attack(self) -> AttackSettings:
        """PGD as the paper has it: steps of one size from a random start. Raises UsageError."""
        return AttackSettings(steps=self.steps, restarts=self.restarts, schedule="constant")

    @property
    def attack_name(self) -> str:
        """As the caption calls it."""
        starts = "1 random start" if self.restarts == 1 else f"{self.restarts} random starts"
        return f"pgd-{self.steps}, {starts}" + (", until the first wrong guess" if self.until_wrong else "")

    def attack_of(self, column: str) -> str:
        """What an attacked column was made with, for a reader of the database."""
        if column in self.inputs:
            return "pgd until wrong" if self.until_wrong else "pgd"
        return " + ".join(["pgd", *(member.name for member in self.suite())])

    def to_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave; other keys are not looked at. Raises UsageError where one is missing."""
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise UsageError(f"the run does not say its {', '.join(missing)}", "it was written by another latcli")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


def strong_column(name: InputType) -> str:
    """What the column of an input under the strong suite is called."""
    return f"{name}-strong"
