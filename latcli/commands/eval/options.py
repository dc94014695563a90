"""What `latcli eval` can be told, and how it and the data set make settings of it; must not evaluate or store."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from latcli.commands.eval.further import ALL_MODELS, Further
from latcli.commands.eval.reliance import DONOR_SEEDS
from latcli.commands.session import Session
from latcli.commands.train.options import DETECTING, OBJECTS, check_object_options
from latcli.engine.datasets.base import MaskSource, TrainingData
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.evaluation.settings import EvalSettings, StrongBudget
from latcli.engine.objects import Refinement, WhichBoxes
from latcli.errors import UsageError

IMAGES = 1000
STEPS = 100
BATCH = 250
#: A photo takes as much memory as two hundred digits.
PHOTO_BATCH = 16


@dataclass(frozen=True)
class EvalOptions:
    """Everything that `latcli eval` can be told, besides what a Session holds; None or empty where nothing was said."""

    models: tuple[str, ...] = ()
    dataset: str | None = None
    seeds: bool = False
    images: int | None = None
    epsilon: float | None = None
    mask_from: MaskSource | None = None
    center: float | None = None
    masks: Path | None = None
    detector: str | None = None
    detector_weights: Path | None = None
    detector_confidence: float | None = None
    cam_threshold: float | None = None
    boxes: WhichBoxes | None = None
    refine: Refinement | None = None
    classifier_weights: Path | None = None
    steps: int | None = None
    restarts: int | None = None
    controls: bool = False
    until_wrong: bool = False
    strong: bool = False
    strong_budget: StrongBudget | None = None
    transfer: str | None = None
    curve: tuple[str, ...] = ()
    reliance: bool = False
    donor_seeds: int | None = None
    batch: int | None = None
    resume: str | None = None

    def __post_init__(self) -> None:
        if self.models and self.seeds:
            raise UsageError("--seeds chooses training runs by itself", "name models, or say --seeds, not both")
        if self.strong_budget is not None and not self.strong:
            raise UsageError("--strong-budget is of no use without --strong", "add --strong, or leave it out")
        if self.transfer is not None and not self.transfer.strip():
            raise UsageError("--transfer names no models", "for example --transfer 7f3a,81c2, or all")
        if self.transfer == ALL_MODELS and len(self.models) == 1:
            raise UsageError("--transfer needs two models at least", "name several models, or none for the latest")
        if self.donor_seeds is not None and not self.reliance:
            raise UsageError("--donor-seeds is of no use without --reliance", "add --reliance, or leave it out")
        if self.further.contenders and self.seeds:
            raise UsageError("--seeds chooses training runs by itself", "say --transfer all, or leave --seeds out")

    @property
    def named(self) -> tuple[str, ...]:
        """The models that were named, as such or for the transfer, each name once; none: the latest are meant."""
        return tuple(dict.fromkeys((*self.models, *self.further.contenders)))

    def given(self) -> dict[str, Any]:
        """The options that were said and that decide what is computed, by the name they have in a run's config."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "resume"}
        values["models"] = list(self.named)
        values |= self.further.to_json() | {"donor_seeds": self.donor_seeds}
        values["strong"] = self.budget
        del values["strong_budget"]
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        return {name: value for name, value in plain.items() if value not in (None, False, [])}

    @property
    def further(self) -> Further:
        """What is measured beside the matrix."""
        return Further.of(self.transfer or "", self.curve, (self.donor_seeds or DONOR_SEEDS) if self.reliance else 0)

    @property
    def budget(self) -> StrongBudget | None:
        """Of the strong suite."""
        return (self.strong_budget or "full") if self.strong else None


def resolve(options: EvalOptions, data: TrainingData, session: Session) -> EvalSettings:
    """Settings from what was said, else from the data set. Raises UsageError."""
    defaults, of_photos = data.defaults, isinstance(data, PhotoFolder)
    mask_from = options.mask_from or ("folder" if options.masks else defaults.mask_from)
    if mask_from == "detector" and not of_photos:
        raise UsageError("--mask-from detector needs photos, which small images are not", "choose another --mask-from")
    check_object_options(options.given(), mask_from, (*DETECTING, "classifier_weights"))
    return EvalSettings(
        images=options.images or IMAGES,
        epsilon=options.epsilon or defaults.epsilon,
        mask_from=mask_from,
        center=defaults.center if options.center is None else options.center,
        steps=options.steps or STEPS,
        restarts=options.restarts or 1,
        controls=options.controls,
        until_wrong=options.until_wrong,
        strong=options.budget,
        batch=options.batch or (PHOTO_BATCH if of_photos else BATCH),
        seed=session.seed,
    )


def describe(settings: EvalSettings, further: Further, data: TrainingData, models: int) -> str:
    """What is going to be done, in one line."""
    kept = OBJECTS.get(settings.mask_from, f"a middle of {settings.center:g} of the side")
    parts = [f"{settings.attack_name} at epsilon {settings.epsilon:.4g}", f"object: {kept}"]
    parts += [f"strong suite, {settings.strong} budget"] if settings.strong else []
    parts += further.words
    count = f"{models} model{'' if models == 1 else 's'}"
    attacked = f"{min(settings.images, data.test_count):,} of {data.test_count:,} images attacked"
    return f"evaluating {count} on {data.name}, {attacked}: {', '.join(parts)}"
