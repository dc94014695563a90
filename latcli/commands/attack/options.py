"""What `latcli attack` can be told, and what of it the search is told; must not open or attack anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from latcli.commands.parsing import parse_box
from latcli.engine.attacks.settings import AttackSettings, Norm, Objective, Schedule
from latcli.engine.localize import Region
from latcli.engine.models.catalog import DEFAULT_CLASSIFIER
from latcli.engine.photos import Localization, OnMiss

Stop = Literal["never", "top1", "top10"]

_STOP_RANKS: dict[Stop, int] = {"never": 0, "top1": 1, "top10": 10}


@dataclass(frozen=True)
class AttackOptions:
    """Everything that `latcli attack` can be told, besides what a Session holds."""

    photos: tuple[str, ...]
    epsilon: float = 8 / 255
    region: Region = "background"
    classifier: str = DEFAULT_CLASSIFIER
    classifier_weights: Path | None = None
    detector: str = "auto"
    detector_weights: Path | None = None
    detector_confidence: float = 0.25
    cam_threshold: float = 0.4
    box: tuple[str, ...] = ()
    mask: Path | None = None
    center: float | None = None
    boxes: Literal["all", "best"] = "all"
    refine: Literal["none", "grabcut"] = "none"
    on_miss: OnMiss = "fail"
    label: str | None = None
    labels: Path | None = None
    labels_from: str | None = None
    target: str | None = None
    attack: str = "pgd"
    steps: int = 40
    step_size: float | None = None
    schedule: Schedule = "cosine"
    restarts: int = 1
    no_random_start: bool = False
    objective: Objective = "ce"
    norm: Norm = "linf"
    radius: float | None = None
    stop: Stop = "never"
    at_model_resolution: bool = False
    batch: int = 8
    no_figures: bool = False
    dry_run: bool = False
    check_success: bool = False

    def localization(self) -> Localization:
        """The part that says where the object is. Raises UsageError."""
        boxes = tuple(parse_box(text) for text in self.box)
        return Localization(boxes, self.mask, self.center, self.boxes, self.refine, self.on_miss)

    def attack_settings(self) -> AttackSettings:
        """The part that the search is told. Raises UsageError."""
        return AttackSettings(
            steps=self.steps,
            step=None if self.step_size is None else self.step_size / (self.radius or self.epsilon),
            schedule=self.schedule,
            restarts=self.restarts,
            random_start=not self.no_random_start,
            objective=self.objective,
            norm=self.norm,
            radius=self.radius,
            stop_rank=_STOP_RANKS[self.stop],
        )

    def config(self) -> dict[str, object]:
        """All of it in plain values, as the run keeps it."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def protocol(self) -> dict[str, object]:
        """What a reader must know of the attack to compare results."""
        return {key: getattr(self, key) for key in ("epsilon", "norm", "steps", "restarts")}
