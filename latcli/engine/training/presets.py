"""What `--preset` means, as one table on one screen; must not know data sets, networks or torch.

What depends on the data (epsilon, the protected middle, the architecture) stands with the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PresetName = Literal["quick", "standard", "paper"]
OptimizerName = Literal["adamw", "sgd"]
RateSchedule = Literal["one-cycle", "constant"]
InnerAttackName = Literal["pgd", "fgsm-rs", "n-fgsm", "free"]
LossName = Literal["ce", "trades"]

PRESETS_NAMES: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True)
class Preset:
    """One row.

    epsilon: None for the data set's own. steps: minibatches; natural_steps: of the natural regime, whose steps cost a
    fraction. attack, attack_steps: the inner attack. step_share: its step as a share of epsilon, None for the attack's
    own. warm_up: share of the steps over which epsilon grows from 0. average: decay of the weights' running average, 0
    for none. score_images, score_steps: how many test images the finished model is attacked on, by PGD of how many
    steps.
    """

    epsilon: float | None
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
        epsilon=None,
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
    # Meant for about a quarter of an hour on two cores; the attacked regimes are yet to be timed in full.
    "standard": Preset(
        epsilon=None,
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
    # The paper's section 5: 100,000 steps, 100 PGD iterations, epsilon .3; where it is silent, the MNIST network's own
    # settings (Madry et al., ICLR'18): batches of 50, Adam at 1e-4, and a PGD step of .01, here 1/30 of epsilon.
    "paper": Preset(
        epsilon=0.3,
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
