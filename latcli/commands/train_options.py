"""What `latcli train` can be told, and how presets, data and words make settings of it; must not train or store."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from latcli.engine.datasets.base import Augmentation, Defaults
from latcli.engine.training.presets import (
    InnerAttackName,
    LossName,
    OptimizerName,
    Preset,
    PresetName,
    RateSchedule,
)
from latcli.engine.training.regimes import MaskSource, Regime
from latcli.engine.training.settings import TrainSettings
from latcli.errors import UsageError

DEFAULT_PRESET: PresetName = "standard"
DEFAULT_REGIME: Regime = "background"

#: Options that say how a run is kept and on what it computes, and may change when it is resumed.
_KEEPING = frozenset({"resume", "checkpoint_every", "devices", "nodes"})


@dataclass(frozen=True)
class TrainOptions:
    """Everything that `latcli train` can be told, besides what a Session holds; None where nothing was said."""

    regime: Regime | None = None
    dataset: str | None = None
    preset: PresetName | None = None
    architecture: str | None = None
    epsilon: float | None = None
    mask_from: MaskSource | None = None
    center: float | None = None
    attack: InnerAttackName | None = None
    attack_steps: int | None = None
    step_size: float | None = None
    loss: LossName | None = None
    beta: float | None = None
    mix: float | None = None
    augment: Augmentation | None = None
    steps: int | None = None
    batch: int | None = None
    optimizer: OptimizerName | None = None
    schedule: RateSchedule | None = None
    rate: float | None = None
    weight_decay: float | None = None
    warm_up: float | None = None
    average: float | None = None
    devices: int | None = None
    nodes: int | None = None
    checkpoint_every: int | None = None
    resume: str | None = None

    def given(self) -> dict[str, Any]:
        """The options that were said and that decide what is computed, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _KEEPING}
        return {name: value for name, value in values.items() if value is not None}


def resolve(options: TrainOptions, preset: Preset, defaults: Defaults, seed: int) -> TrainSettings:
    """Settings from what was said, else from the preset, else from the data set. Raises UsageError."""
    regime = options.regime or DEFAULT_REGIME
    attack = options.attack or preset.attack
    epsilon = options.epsilon or preset.epsilon or defaults.epsilon
    step_size = options.step_size
    if step_size is None and preset.step_share is not None and attack == preset.attack:
        step_size = preset.step_share * epsilon
    chosen = TrainSettings(
        regime=regime,
        epsilon=epsilon,
        mask_from="center",
        center=defaults.center,
        attack=attack,
        attack_steps=preset.attack_steps,
        step_size=step_size,
        loss="ce",
        beta=6.0,
        mix=0.0,
        augment=defaults.augment,
        steps=preset.natural_steps if regime == "natural" else preset.steps,
        batch=preset.batch,
        optimizer=preset.optimizer,
        schedule=preset.schedule,
        rate=preset.rate,
        weight_decay=preset.weight_decay,
        warm_up=preset.warm_up,
        average=preset.average,
        seed=seed,
    )
    said = {name: value for name, value in options.given().items() if name in chosen.to_json()}
    return TrainSettings(**chosen.to_json() | said)


def check_unchanged(options: TrainOptions, said: dict[str, Any], config: dict[str, Any], run: str) -> None:
    """Raise UsageError, listing the differences, where what is said now is not what the run was begun with.

    `said` adds what the Session holds, where it was said.
    """
    differences = [
        f"--{name.replace('_', '-')} {_shown(value)} (was {_shown(config.get(name))})"
        for name, value in (options.given() | said).items()
        if config.get(name) != value
    ]
    if differences:
        raise UsageError(
            f"the run {run} was begun otherwise: {', '.join(differences)}",
            "resume it without these options, or start a new run with them",
        )


def describe(name: PresetName, settings: TrainSettings, dataset: str, architecture: str) -> str:
    """What a preset and the options have come to, in one line."""
    parts = [f"{settings.steps:,} steps of {settings.batch}", f"{settings.optimizer} at {settings.rate:g}"]
    if settings.is_adversarial:
        inner = f"{settings.attack}-{settings.attack_steps}" if settings.attack in ("pgd", "free") else settings.attack
        kept = "otsu silhouettes" if settings.mask_from == "otsu" else f"a middle of {settings.center:g} of the side"
        parts += [f"{inner} at epsilon {settings.epsilon:.4g}", settings.loss]
        parts += [] if settings.regime == "standard" else [f"object: {kept}"]
    return f"{settings.regime} training of {architecture} on {dataset}, preset {name}: {', '.join(parts)}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
