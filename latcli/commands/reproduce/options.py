"""What `latcli reproduce` can be told, and what its budgets mean; must not plan or run anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latcli.engine.evaluation.settings import StrongBudget
from latcli.engine.training.settings import PresetName
from latcli.options import ReproduceOptions

BudgetName = Literal["quick", "standard", "paper"]


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


def config_of(options: ReproduceOptions) -> dict[str, Any]:
    """All of it in plain values, as the run keeps it."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return {name: value for name, value in values.items() if name != "plan"} | {"centers": list(options.centers)}
