"""Everything that decides what a training run computes: its settings, the presets, and schedules over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from latcli.engine.datasets.base import Augmentation, Defaults, MaskSource, named_mask_source
from latcli.engine.training.inner_attacks import check_attack
from latcli.engine.training.regimes import LOCALIZED, Regime
from latcli.errors import UsageError

PresetName = Literal["quick", "standard", "paper"]
OptimizerName = Literal["adamw", "sgd"]
RateSchedule = Literal["one-cycle", "constant"]
LossName = Literal["ce", "trades"]

DEFAULT_PRESET: PresetName = "standard"

#: Share of the steps in which a one-cycle rate climbs to its peak (Smith, 2018).
_CLIMB = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Equal settings, data, architecture, form of gradients and device give equal weights.

    epsilon, step_size: in [0, 1] image scale; a step_size of None is the attack's own. center: share of the side that
    the middle keeps; only used where mask_from is center. attack: pgd, fgsm-rs, n-fgsm, free, or a registered attack
    that can train. attack_steps: its gradient steps; for free the updates on each minibatch. beta: weight of TRADES'
    divergence. mix: share of each minibatch that stays natural. label_smoothing: share of each label that is spread
    over all classes (Szegedy et al., CVPR'16). rate: peak of the learning rate. warm_up: share of the steps over which
    epsilon grows. average: decay of the weights' average, 0 for none. score_images, score_steps: on how many test
    images the finished model is attacked, by PGD of how many steps.
    """

    regime: Regime = "background"
    epsilon: float = 0.3
    mask_from: MaskSource = "center"
    center: float = 0.25
    attack: str = "pgd"
    attack_steps: int = 7
    step_size: float | None = None
    loss: LossName = "ce"
    beta: float = 6.0
    mix: float = 0.0
    label_smoothing: float = 0.0
    augment: Augmentation = "none"
    steps: int = 1_200
    batch: int = 128
    optimizer: OptimizerName = "adamw"
    schedule: RateSchedule = "one-cycle"
    rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: float = 0.4
    average: float = 0.995
    score_images: int = 1_000
    score_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("center", "mix", "label_smoothing", "warm_up", "average"):
            share, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if not 0.0 <= share < 1.0:
                raise UsageError(f"{option} is {share:g}, not a share from 0 to below 1", f"for example {option} 0.5")
        if not (self.rate > 0.0 and math.isfinite(self.rate)):
            raise UsageError(f"--rate is {self.rate:g}, not a number above 0", "for example --rate 0.001")
        for name, example in (("beta", "6"), ("weight_decay", "1e-4")):
            number, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if not (number >= 0.0 and math.isfinite(number)):
                raise UsageError(f"{option} is {number:g}, not a number from 0 on", f"for example {option} {example}")
        check_attack(self.attack, self.loss)
        if self.loss == "trades" and self.mix:
            raise UsageError("--mix cannot be used with TRADES, which has a natural part already", "see --beta")
        if self.mix and self.is_adversarial and not 0 < self.natural_images < self.batch:
            raise self._unmixed()

    @property
    def is_adversarial(self) -> bool:
        """Whether there is an inner attack at all."""
        return self.regime != "natural"

    @property
    def natural_images(self) -> int:
        """How many images of each minibatch stay natural."""
        return round(self.mix * self.batch)

    @property
    def step_share(self) -> float | None:
        """The inner attack's step as a share of epsilon."""
        return None if self.step_size is None else self.step_size / self.epsilon

    def rate_at(self, step: int) -> float:
        """The learning rate of step `step` (from 0): constant, or a linear climb and a cosine fall to near 0."""
        if self.schedule == "constant":
            return self.rate
        climb = max(1, round(_CLIMB * self.steps))
        if step < climb:
            return self.rate * (step + 1) / climb
        fallen = (step - climb + 1) / (self.steps - climb + 1)
        return self.rate * 0.5 * (1.0 + math.cos(math.pi * fallen))

    def epsilon_at(self, step: int) -> float:
        """Epsilon of step `step` (from 0): it grows linearly over the first `warm_up` (a share) of the steps.

        Under the whole of a large epsilon from the start, a fresh network only learns to answer always the same.
        """
        growing = self.warm_up * self.steps
        return self.epsilon if step >= growing else self.epsilon * (step + 1) / (growing + 1)

    def _unmixed(self) -> UsageError:
        """For a mix that rounds to no image of a minibatch, or to all of them."""
        batch, natural = self.batch, self.natural_images
        least = math.floor(0.5 / min(self.mix, 1.0 - self.mix)) + 1
        share = f"--mix {(1 if natural == 0 else batch - 1) / batch:g}, or " if batch > 1 else ""
        return UsageError(
            f"--mix {self.mix:g} of a minibatch of {batch} is {natural}: it needs both a natural and an attacked image",
            f"give {share}--batch at least {least}",
        )


#: What each preset changes of the defaults above. natural_steps: steps of the natural regime, whose steps cost a
#: fraction; step_share: the inner attack's step as a share of epsilon. What depends on the data (epsilon, the protected
#: middle, the architecture) stands with the data set.
PRESETS: Mapping[PresetName, Mapping[str, Any]] = {
    # A minute on two cores: shows that everything works, and gives a model that has learnt something.
    "quick": {"steps": 150, "natural_steps": 300, "batch": 64, "attack_steps": 5, "warm_up": 0.5, "average": 0.98}
    | {"score_images": 200, "score_steps": 10},
    # Five to eight minutes on two cores.
    "standard": {"steps": 1_200, "natural_steps": 2_500},
    # The paper's section 5: 100,000 steps, 100 PGD iterations; its epsilon, .3, is MNIST's own default here, and more
    # than a network can bear on pictures in colour. Where it is silent, the MNIST network's own settings (Madry et al.,
    # ICLR'18): batches of 50, Adam at 1e-4, and a PGD step of .01, which is 1/30 of epsilon.
    "paper": {"steps": 100_000, "natural_steps": 100_000, "batch": 50, "attack_steps": 100, "step_share": 1 / 30}
    | {"schedule": "constant", "rate": 1e-4, "weight_decay": 0.0, "warm_up": 0.0, "average": 0.0}
    | {"score_images": 10_000},
}

#: For a classifier that has learnt its features already, on photos. The paper trained no such network.
FINE_TUNING: Mapping[PresetName, Mapping[str, Any]] = {
    # A few minutes on two cores.
    "quick": {"steps": 40, "natural_steps": 80, "batch": 16, "attack_steps": 2, "rate": 2e-4, "warm_up": 0.25}
    | {"average": 0.9, "score_images": 100, "score_steps": 10},
    # For thousands of photos and a graphics card.
    "standard": {"steps": 1_000, "natural_steps": 2_000, "batch": 16, "attack_steps": 3, "rate": 1e-4}
    | {"warm_up": 0.25, "average": 0.99, "score_steps": 20},
}


def preset_values(preset: PresetName, *, fine_tuning: bool) -> Mapping[str, Any]:
    """What a preset changes. Raises UsageError for one that fine-tuning does not have."""
    if fine_tuning and preset not in FINE_TUNING:
        raise UsageError(
            f"the preset {preset} is for small networks with fresh weights, not for fine-tuning",
            f"known for fine-tuning: {', '.join(FINE_TUNING)}",
        )
    return (FINE_TUNING if fine_tuning else PRESETS)[preset]


def resolve(
    given: Mapping[str, Any],
    defaults: Defaults,
    *,
    preset: PresetName = DEFAULT_PRESET,
    fine_tuning: bool = False,
    train_count: int = 0,
    seed: int = 0,
) -> TrainSettings:
    """Settings from the options that were `given`, else from the preset, else from the data set's `defaults`.

    `given` may hold other options besides those of TrainSettings, and `epochs` in place of `steps`: an epoch is all
    minibatches that `train_count` images make. Raises UsageError.
    """
    values = dict(preset_values(preset, fine_tuning=fine_tuning))
    regime = given.get("regime") or TrainSettings.regime
    natural_steps, step_share = values.pop("natural_steps"), values.pop("step_share", None)
    if regime == "natural":
        values["steps"] = natural_steps
    values |= {"epsilon": defaults.epsilon, "center": defaults.center, "augment": defaults.augment, "seed": seed}
    usual = defaults.mask_from if regime in LOCALIZED else TrainSettings.mask_from
    values["mask_from"] = named_mask_source(given) or usual
    values |= {name: given[name] for name in (field.name for field in fields(TrainSettings)) if name in given}
    if step_share is not None and "step_size" not in given and given.get("attack", "pgd") == "pgd":
        values["step_size"] = step_share * values["epsilon"]
    if "epochs" in given:
        if "steps" in given:
            raise UsageError("--steps and --epochs both say how long to train", "give one of them")
        values["steps"] = given["epochs"] * max(1, train_count // values.get("batch", TrainSettings.batch))
    return TrainSettings(**values)
