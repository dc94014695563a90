"""What `--preset` means, as one table on one screen; must not know data sets, networks or torch.

What depends on the data (epsilon, the protected middle, the architecture) stands with the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from latcli.errors import UsageError

PresetName = Literal["quick", "standard", "paper"]
OptimizerName = Literal["adamw", "sgd"]
RateSchedule = Literal["one-cycle", "constant"]
InnerAttackName = Literal["pgd", "fgsm-rs", "n-fgsm", "free"]
LossName = Literal["ce", "trades"]

PRESETS_NAMES: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True)
class Preset:
    """One row.

    steps: minibatches; natural_steps: of the natural regime, whose steps cost a fraction. attack, attack_steps: the
    inner attack. step_share: its step as a share of epsilon, None for the attack's own. warm_up: share of the steps
    over which epsilon grows from 0. average: decay of the weights' running average, 0 for none. score_images,
    score_steps: how many test images the finished model is attacked on, by PGD of how many steps.
    """

    steps: int
    natural_steps: int
    batch: int
    attack: InnerAttackName
    attack_steps: int
    step_share: float | None
    optimizer: OptimizerName
    schedule: RateSchedule
    rate: float
    weight_decay: float
    warm_up: float
    average: float
    score_images: int
    score_steps: int


PRESETS: dict[PresetName, Preset] = {
    # A minute on two cores: shows that everything works, and a model that has learnt something.
    "quick": Preset(
        steps=150,
        natural_steps=300,
        batch=64,
        attack="pgd",
        attack_steps=5,
        step_share=None,
        optimizer="adamw",
        schedule="one-cycle",
        rate=2e-3,
        weight_decay=1e-4,
        warm_up=0.5,
        average=0.98,
        score_images=200,
        score_steps=10,
    ),
    # Five to eight minutes on two cores.
    "standard": Preset(
        steps=1_200,
        natural_steps=2_500,
        batch=128,
        attack="pgd",
        attack_steps=7,
        step_share=None,
        optimizer="adamw",
        schedule="one-cycle",
        rate=2e-3,
        weight_decay=1e-4,
        warm_up=0.4,
        average=0.995,
        score_images=1_000,
        score_steps=100,
    ),
    # The paper's section 5: 100,000 steps, 100 PGD iterations; its epsilon, .3, is what MNIST has of its own, and more
    # than a network can bear on pictures in colour. Where it is silent, the MNIST network's own settings (Madry et al.,
    # ICLR'18): batches of 50, Adam at 1e-4, and a PGD step of .01, here 1/30 of epsilon.
    "paper": Preset(
        steps=100_000,
        natural_steps=100_000,
        batch=50,
        attack="pgd",
        attack_steps=100,
        step_share=1 / 30,
        optimizer="adamw",
        schedule="constant",
        rate=1e-4,
        weight_decay=0.0,
        warm_up=0.0,
        average=0.0,
        score_images=10_000,
        score_steps=100,
    ),
}

#: For a classifier that has learnt its features already, on photos. No row of the paper's: it trained no such network.
FINE_TUNING: dict[PresetName, Preset] = {
    # A few minutes on two cores.
    "quick": Preset(
        steps=40,
        natural_steps=80,
        batch=16,
        attack="pgd",
        attack_steps=2,
        step_share=None,
        optimizer="adamw",
        schedule="one-cycle",
        rate=2e-4,
        weight_decay=1e-4,
        warm_up=0.25,
        average=0.9,
        score_images=100,
        score_steps=10,
    ),
    # Thousands of photos and a graphics card are what it is meant for.
    "standard": Preset(
        steps=1_000,
        natural_steps=2_000,
        batch=16,
        attack="pgd",
        attack_steps=3,
        step_share=None,
        optimizer="adamw",
        schedule="one-cycle",
        rate=1e-4,
        weight_decay=1e-4,
        warm_up=0.25,
        average=0.99,
        score_images=1_000,
        score_steps=20,
    ),
}


def preset_row(name: PresetName, *, fine_tuning: bool) -> Preset:
    """The row of a preset. Raises UsageError for one that fine-tuning does not have."""
    if not fine_tuning:
        return PRESETS[name]
    if name not in FINE_TUNING:
        raise UsageError(
            f"the preset {name} is for small networks that start from nothing, not for fine-tuning",
            f"known for fine-tuning: {', '.join(FINE_TUNING)}",
        )
    return FINE_TUNING[name]
