"""What `latcli reproduce` can be told, and what its budgets mean; must not plan or run anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from latcli.engine.datasets.catalog import DEFAULT_DATASET
from latcli.engine.evaluation.settings import StrongBudget
from latcli.engine.models.catalog import DEFAULT_CLASSIFIER
from latcli.engine.training.presets import PresetName
from latcli.errors import UsageError

#: What the paper shows, and what goes beyond it.
PartName = Literal["figure1", "table2", "figure2", "hole", "controls", "masks", "strong", "transfer", "photos-epsilon"]
PARTS: tuple[PartName, ...] = get_args(PartName)
ALL = "all"

BudgetName = Literal["quick", "standard", "paper"]
#: A data set of the paper's, whose figures a folder may be held against.
Paper = Literal["mnist", "cifar10"]


@dataclass(frozen=True)
class Budget:
    """One row. seeds: of training and of photo attacks. images: attacked ones; strong_images: by the strong suite."""

    seeds: int
    preset: PresetName
    images: int
    strong_images: int
    strong: StrongBudget


BUDGETS: dict[BudgetName, Budget] = {
    # Minutes: shows that everything works, and which way figures point.
    "quick": Budget(seeds=1, preset="quick", images=200, strong_images=50, strong="quick"),
    # Hours on two cores.
    "standard": Budget(seeds=3, preset="standard", images=1_000, strong_images=300, strong="full"),
    # The paper's 100,000 minibatches of PGD-100: days on a CPU.
    "paper": Budget(seeds=3, preset="paper", images=10_000, strong_images=1_000, strong="full"),
}


@dataclass(frozen=True)
class ReproduceOptions:
    """Everything that `latcli reproduce` can be told, besides what a Session holds; None where the budget says.

    architecture, epsilon, center: of small images. centers: sizes of the middle that `hole` tries. attack_steps: of the
    attacks that score; training has its preset's. like: the paper's data set whose figures a folder is held against.
    plan: show the steps and do nothing.
    """

    what: str
    dataset: str = DEFAULT_DATASET
    budget: BudgetName = "standard"
    seeds: int | None = None
    steps: int | None = None
    images: int | None = None
    attack_steps: int | None = None
    epsilon: float | None = None
    center: float | None = None
    centers: tuple[float, ...] = ()
    photos: Path | None = None
    labels: Path | None = None
    classifier: str = DEFAULT_CLASSIFIER
    detector: str = "cam"
    like: Paper | None = None
    architecture: str | None = None
    plan: bool = False

    def __post_init__(self) -> None:
        if self.what not in (ALL, *PARTS):
            raise UsageError(f"there is nothing called '{self.what}' to reproduce", f"known: {', '.join(PARTS)}, all")
        if self.labels is not None and self.photos is None:
            raise UsageError("--labels is of no use without --photos", "add --photos DIR, or leave it out")

    @property
    def parts(self) -> tuple[PartName, ...]:
        """What is to be reproduced, each part once."""
        return tuple(part for part in PARTS if self.what in (ALL, part))

    @property
    def row(self) -> Budget:
        """What the budget means."""
        return BUDGETS[self.budget]

    def config(self) -> dict[str, Any]:
        """All of it in plain values, as the run keeps it."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if name != "plan"} | {"centers": list(self.centers)}


def parse_centers(text: str) -> tuple[float, ...]:
    """Shares of the side with commas between, ascending. Raises UsageError."""
    hint = "for example --centers 0.25,0.5,0.75"
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"'{text}' is no list of shares", hint) from None
    if not all(0.0 <= value < 1.0 for value in values) or list(values) != sorted(set(values)):
        raise UsageError(f"'{text}' is no ascending list of shares from 0 to below 1", hint)
    return values
