"""What `latcli train` can be told, and how presets, data and words make settings of it; must not train or store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from latcli.engine.datasets.base import Defaults, MaskSource
from latcli.engine.detectors.agreement import WhichBoxes
from latcli.engine.objects import Refinement
from latcli.engine.training.presets import (
    Preset,
    PresetName,
)
from latcli.engine.training.regimes import LOCALIZED, Regime
from latcli.engine.training.settings import TrainSettings
from latcli.errors import UsageError
from latcli.options import TrainOptions, given

DEFAULT_PRESET: PresetName = "standard"
DEFAULT_REGIME: Regime = "background"

#: What stands for the object where it is not the middle, in words.
OBJECTS: dict[MaskSource, str] = {
    "otsu": "otsu silhouettes",
    "detector": "what a detector finds",
    "folder": "masks from files",
}


def given_plainly(options: Any) -> dict[str, Any]:
    """The options that were given, by the name and in the form that a run's configuration has."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in given(options).items()}


@dataclass(frozen=True)
class PhotoOptions:
    """Where the objects of photos and the weights of their classifier come from, as the run's config holds it.

    `detector` may be auto; which one that came to is `found_by`, which a resumed run looks for in its place.
    """

    classifier_weights: str | None = None
    masks: str | None = None
    detector: str = "auto"
    detector_weights: str | None = None
    detector_confidence: float = 0.25
    cam_threshold: float = 0.4
    boxes: WhichBoxes = "all"
    refine: Refinement = "none"
    found_by: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From options that were given, or from a run's config; what is not there is the default."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @property
    def masks_path(self) -> Path | None:
        """The folder of masks."""
        return None if self.masks is None else Path(self.masks)


#: Options that nobody but a detector reads.
DETECTING = ("detector", "detector_weights", "detector_confidence", "cam_threshold", "boxes", "refine")


def check_object_options(given: Mapping[str, Any], mask_from: MaskSource, detecting: Sequence[str]) -> None:
    """Raise UsageError where masks are missing, and for options of `detecting` that are given but read by nobody."""
    if mask_from == "folder" and "masks" not in given:
        raise UsageError("--mask-from folder needs the folder", "give --masks DIR, with train/CLASS/NAME.png in it")
    if mask_from != "folder" and "masks" in given:
        raise UsageError(f"--masks is of no use to --mask-from {mask_from}", "leave one of them out")
    idle = [f"--{name.replace('_', '-')}" for name in detecting if name in given]
    if idle and mask_from != "detector":
        raise UsageError(
            f"{idle[0]} is of no use where no detector looks for objects", "add --mask-from detector, or leave it out"
        )


def check_photo_options(options: TrainOptions, mask_from: MaskSource, *, fine_tuning: bool) -> None:
    """Raise UsageError for options of photos that nothing would come of."""
    check_object_options(given_plainly(options), mask_from, DETECTING)
    if fine_tuning:
        return
    if mask_from == "detector":
        raise UsageError(
            "--mask-from detector needs photos, which a small network cannot take",
            "give a classifier as --architecture, and --dataset folder:PATH",
        )
    if options.classifier_weights is not None:
        raise UsageError(
            "--classifier-weights is of no use to a network that starts from nothing",
            "give a classifier as --architecture",
        )


def resolve(options: TrainOptions, preset: Preset, defaults: Defaults, seed: int) -> TrainSettings:
    """Settings from what was said, else from the preset, else from the data set. Raises UsageError."""
    regime = options.regime or DEFAULT_REGIME
    attack = options.attack or preset.attack
    epsilon = options.epsilon or defaults.epsilon
    step_size = options.step_size
    if step_size is None and preset.step_share is not None and attack == preset.attack:
        step_size = preset.step_share * epsilon
    chosen = TrainSettings(
        regime=regime,
        epsilon=epsilon,
        mask_from="folder" if options.masks else defaults.mask_from if regime in LOCALIZED else "center",
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
    said = {name: value for name, value in given_plainly(options).items() if name in chosen.to_json()}
    return TrainSettings(**chosen.to_json() | said)


def describe(name: PresetName, settings: TrainSettings, dataset: str, architecture: str) -> str:
    """What a preset and the options have come to, in one line."""
    parts = [f"{settings.steps:,} steps of {settings.batch}", f"{settings.optimizer} at {settings.rate:g}"]
    if settings.is_adversarial:
        inner = f"{settings.attack}-{settings.attack_steps}" if settings.attack in ("pgd", "free") else settings.attack
        kept = OBJECTS.get(settings.mask_from, f"a middle of {settings.center:g} of the side")
        parts += [f"{inner} at epsilon {settings.epsilon:.4g}", settings.loss]
        parts += [] if settings.regime == "standard" else [f"object: {kept}"]
    return f"{settings.regime} training of {architecture} on {dataset}, preset {name}: {', '.join(parts)}"
