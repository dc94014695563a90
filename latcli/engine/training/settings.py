"""Everything that decides what a training run computes, checked once; must not know files, stores or devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

from latcli.engine.datasets.base import Augmentation, MaskSource
from latcli.engine.training.presets import InnerAttackName, LossName, OptimizerName, RateSchedule
from latcli.engine.training.regimes import Regime
from latcli.errors import UsageError

_CHOICES: dict[str, Any] = {
    "regime": Regime,
    "mask_from": MaskSource,
    "attack": InnerAttackName,
    "loss": LossName,
    "augment": Augmentation,
    "optimizer": OptimizerName,
    "schedule": RateSchedule,
}


@dataclass(frozen=True)
class TrainSettings:
    """Equal settings, data, architecture and device give equal weights.

    epsilon, step_size: in [0, 1] image scale; a step_size of None is the attack's own. center: share of the side that
    the middle keeps; looked at where mask_from is center. attack_steps: gradient steps of pgd, updates a minibatch of
    free. beta: weight of TRADES' divergence. mix: share of each minibatch that stays natural. rate: the learning rate's
    peak. warm_up: share of the steps over which epsilon grows. average: decay of the weights' average, 0 for none.
    """

    regime: Regime
    epsilon: float
    mask_from: MaskSource
    center: float
    attack: InnerAttackName
    attack_steps: int
    step_size: float | None
    loss: LossName
    beta: float
    mix: float
    augment: Augmentation
    steps: int
    batch: int
    optimizer: OptimizerName
    schedule: RateSchedule
    rate: float
    weight_decay: float
    warm_up: float
    average: float
    seed: int

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise UsageError(
                    f"there is no {name.replace('_', '-')} called '{getattr(self, name)}'", f"known: {known}"
                )
        self._check_ranges()
        if self.attack == "free" and self.loss == "trades":
            raise UsageError("the inner attack free cannot be used with TRADES", "choose pgd, or the loss ce")
        if self.loss == "trades" and self.mix:
            raise UsageError(
                "TRADES has its natural part already, so --mix is of no use", "leave --mix out; see --beta"
            )

    def _check_ranges(self) -> None:
        least_one = {"steps": self.steps, "batch": self.batch, "attack-steps": self.attack_steps}
        for name, count in least_one.items():
            if count < 1:
                raise UsageError(f"{name} is {count}; at least 1 is needed", f"give --{name} a whole number above 0")
        shares = {"center": self.center, "mix": self.mix, "warm-up": self.warm_up, "average": self.average}
        for name, share in shares.items():
            if not 0.0 <= share < 1.0:
                raise UsageError(f"{name} is {share:g}, not a share from 0 to below 1", f"for example --{name} 0.5")
        positive = {"epsilon": self.epsilon, "rate": self.rate, "step-size": self.step_size or 1.0}
        for name, value in positive.items():
            if not (value > 0.0 and math.isfinite(value)):
                raise UsageError(f"{name} is {value:g}, not above 0", f"give --{name} a number above 0")
        if self.epsilon > 1.0:
            raise UsageError(f"epsilon is {self.epsilon:g}, not in (0, 1]", "it is in image scale: 8/255 or 0.031")
        if self.beta < 0.0 or self.weight_decay < 0.0:
            raise UsageError("beta and weight-decay cannot be below 0", "for example --beta 6 --weight-decay 1e-4")

    @property
    def is_adversarial(self) -> bool:
        """Whether there is an inner attack at all."""
        return self.regime != "natural"

    @property
    def step_share(self) -> float | None:
        """The inner attack's step as a share of epsilon."""
        return None if self.step_size is None else self.step_size / self.epsilon

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
