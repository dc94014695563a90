"""What the engine is told of the options of `latcli attack`; must not open or attack anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from latcli.engine.attacks.settings import AttackSettings
from latcli.engine.photos import Localization
from latcli.options import AttackOptions, parse_box

_STOP_RANKS = {"never": 0, "top1": 1, "top10": 10}


def localization(options: AttackOptions) -> Localization:
    """The part that says where the object is. Raises UsageError."""
    boxes = tuple(parse_box(text) for text in options.box)
    return Localization(boxes, options.mask, options.center, options.boxes, options.refine, options.on_miss)


def attack_settings(options: AttackOptions) -> AttackSettings:
    """The part that says how to search. Raises UsageError."""
    return AttackSettings(
        steps=options.steps,
        step=None if options.step_size is None else options.step_size / (options.radius or options.epsilon),
        schedule=options.schedule,
        restarts=options.restarts,
        random_start=not options.no_random_start,
        objective=options.objective,
        norm=options.norm,
        radius=options.radius,
        stop_rank=_STOP_RANKS[options.stop],
    )


def config_of(options: AttackOptions) -> dict[str, object]:
    """All of it in plain values, as the run keeps it."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    return {key: value for key, value in values.items() if key != "trust_weights"}


def protocol(options: AttackOptions) -> dict[str, object]:
    """What a reader must know of the attack to compare results."""
    return {key: getattr(options, key) for key in ("epsilon", "norm", "steps", "restarts")}
