"""Everything that decides what an evaluation computes, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from latcli.engine import registry
from latcli.engine.attacks.settings import Attack, AttackSettings, Norm
from latcli.engine.attacks.suite import Member, members, standard_suite
from latcli.engine.datasets.base import MaskSource
from latcli.engine.training.regimes import Regime
from latcli.errors import UsageError
from latcli.results import starts_text

#: What a model is tried on: the images as they are, or with what a regime of that name may change changed.
InputType = Regime

ATTACKED: tuple[InputType, ...] = ("standard", "background")
CONTROLS: tuple[InputType, ...] = ("foreground", "random")

#: The column of natural images, and that of those among them that the attacked columns have.
NATURAL, NATURAL_ATTACKED = "natural", "natural-attacked"

#: How hard the strong suite tries: `full` is AutoAttack's budget, `quick` shows no more than that it runs.
StrongBudget = Literal["quick", "full"]
_QUICK = {"apgd_steps": 10, "targets": 3, "queries": 100}


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Equal settings, models, data and device give equal figures.

    images: how many test images are attacked; natural inputs are always all of them. epsilon in [0, 1] image scale;
    center: share of the side that the middle keeps, looked at where mask_from is center. attack: a registered name;
    norm, radius, steps, restarts: its settings. controls: the inputs foreground and random, too. until_wrong: an image
    is attacked no further than its first wrong guess, which leaves no loss to be reported. strong: the budget of the
    suite that standard and background inputs are attacked with besides; None for no suite. transfer: the models, by
    name, whose examples are tried on each other, or "all"; empty for none. curve_epsilons, curve_steps: the points of
    accuracy curves. donor_seeds: how often each photo gets other backgrounds; 0 for never. batch: images attacked
    together.
    """

    images: int = 1000
    epsilon: float
    mask_from: MaskSource = "center"
    center: float = 0.0
    attack: str = "pgd"
    norm: Norm = "linf"
    radius: float | None = None
    steps: int = 100
    restarts: int = 1
    controls: bool = False
    until_wrong: bool = False
    strong: StrongBudget | None = None
    transfer: tuple[str, ...] = ()
    curve_epsilons: tuple[float, ...] = ()
    curve_steps: tuple[int, ...] = ()
    donor_seeds: int = 0
    batch: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.center < 1.0:
            raise UsageError(f"center is {self.center:g}, not a share from 0 to below 1", "for example --center 0.5")
        if self.strong and self.norm != "linf":
            raise UsageError("the strong suite does not support --norm l2", "leave --strong or --norm l2 out")
        for what, values in {"epsilons": self.curve_epsilons, "numbers of steps": self.curve_steps}.items():
            if values:
                require_ascending(values, what)
        self.attack_settings()

    @property
    def inputs(self) -> tuple[InputType, ...]:
        """The attacked inputs, in the order of the table."""
        return (*ATTACKED, *CONTROLS) if self.controls else ATTACKED

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attacked columns, in the order of the table."""
        return (*self.inputs, *(map(strong_column, ATTACKED) if self.strong else ()))

    def attack_settings(self) -> AttackSettings:
        """Steps of one size from a random start, as the paper's PGD has them. Raises UsageError."""
        return AttackSettings(
            steps=self.steps, restarts=self.restarts, schedule="constant", norm=self.norm, radius=self.radius
        )

    def attack_function(self) -> Attack:
        """The attack itself. Raises LatcliError where its plug-in cannot be imported."""
        attack: Attack = registry.load("attack", self.attack)
        return attack

    def first_wrong(self) -> list[Member]:
        """The attack as a suite, in which an image stops at its first wrong guess."""
        return members([(self.attack, self.attack_settings())])

    def suite(self) -> list[Member]:
        """The strong suite: APGD on cross entropy, targeted APGD on DLR, Square."""
        return standard_suite(**_QUICK) if self.strong == "quick" else standard_suite()

    @property
    def attack_name(self) -> str:
        """As the caption calls it."""
        parts = [f"{self.attack}-{self.steps}", starts_text(self.attack, self.restarts)]
        parts += [f"l2 radius {self.radius:g}"] if self.radius is not None else []
        parts += ["until the first wrong guess"] if self.until_wrong else []
        return ", ".join(filter(None, parts))

    def facts(self, column: str) -> dict[str, Any]:
        """What a `Cell` says of how its column was made."""
        found: dict[str, Any] = {"input": column, "seed": self.seed}
        if column not in (NATURAL, NATURAL_ATTACKED):
            names = ("epsilon", "steps", "restarts", "norm", "radius", "mask_from")
            found |= {name: getattr(self, name) for name in names}
            found |= {"attack": self.attack_of(column), "center": self.center if self.mask_from == "center" else None}
        return found

    def attack_of(self, column: str) -> str:
        """What an attacked column was made with."""
        if column in self.inputs:
            return f"{self.attack} until wrong" if self.until_wrong else self.attack
        return " + ".join([self.attack, *(member.name for member in self.suite())])


def strong_column(name: InputType) -> str:
    """What the column of an input under the strong suite is called."""
    return f"{name}-strong"


def require_ascending(values: Sequence[float], what: str) -> None:
    """Raise UsageError for values that are no curve's; `what` names them."""
    if not values or not values[0] > 0 or any(not low < high for low, high in pairwise(values)):
        raise UsageError(f"the {what} of a curve are not ascending and above 0", "for example 0.1 0.2 0.3, or 1 10 100")
