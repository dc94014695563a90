"""What `latcli eval` can be told, and how it and the data set make settings of it; must not evaluate or store."""

from __future__ import annotations

from typing import Any

from latcli.commands.datasets import DETECTING, OBJECTS, check_object_options, given_plainly
from latcli.commands.eval.further import Further
from latcli.commands.eval.reliance import DONOR_SEEDS
from latcli.engine.datasets.base import TrainingData
from latcli.engine.datasets.photo_folder import PhotoFolder
from latcli.engine.evaluation.settings import EvalSettings, StrongBudget
from latcli.errors import UsageError
from latcli.options import EvalOptions
from latcli.session import Session

IMAGES = 1000
STEPS = 100
BATCH = 250
#: A photo takes as much memory as two hundred digits.
PHOTO_BATCH = 16


def named(options: EvalOptions) -> tuple[str, ...]:
    """The models that were named, as such or for the transfer, each name once; none: the latest are meant."""
    return tuple(dict.fromkeys((*options.models, *further(options).contenders)))


def given_of(options: EvalOptions) -> dict[str, Any]:
    """The options that were given and that decide what is computed, by the name they have in a run's config."""
    values = given_plainly(options)
    values |= {"models": list(named(options)), "strong": budget(options)}
    values |= further(options).to_json() | {"donor_seeds": options.donor_seeds}
    values.pop("strong_budget", None)
    return {name: value for name, value in values.items() if value not in (None, False, [])}


def further(options: EvalOptions) -> Further:
    """What is measured beside the matrix."""
    seeds = (options.donor_seeds or DONOR_SEEDS) if options.reliance else 0
    return Further.of(options.transfer or "", options.curve, seeds)


def budget(options: EvalOptions) -> StrongBudget | None:
    """Of the strong suite."""
    return (options.strong_budget or "full") if options.strong else None


def resolve(options: EvalOptions, data: TrainingData, session: Session) -> EvalSettings:
    """Settings from what was said, else from the data set. Raises UsageError."""
    defaults, of_photos = data.defaults, isinstance(data, PhotoFolder)
    mask_from = options.mask_from or ("folder" if options.masks else defaults.mask_from)
    if mask_from == "detector" and not of_photos:
        raise UsageError("--mask-from detector needs photos, which small images are not", "choose another --mask-from")
    check_object_options(given_of(options), mask_from, (*DETECTING, "classifier_weights"))
    return EvalSettings(
        images=options.images or IMAGES,
        epsilon=options.epsilon or defaults.epsilon,
        mask_from=mask_from,
        center=defaults.center if options.center is None else options.center,
        steps=options.steps or STEPS,
        restarts=options.restarts or 1,
        controls=options.controls,
        until_wrong=options.until_wrong,
        strong=budget(options),
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
