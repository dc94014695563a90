"""What `latcli train` comes to, in plain values, and its JSON document; must not know how it came about."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latcli.engine.training.scoring import Score


@dataclass(frozen=True)
class TrainResult:
    """A finished training run.

    final: the score on the natural test images; adversarial: under the regime's own attack, which `attack` names, None
    for the natural regime. seconds, images_per_second and devices (how many ranks) are those of this process, which may
    have resumed the run.
    """

    run: str
    dir: Path
    checkpoint: Path
    regime: str
    dataset: str
    architecture: str
    steps: int
    epsilon: float | None
    form: str
    final: Score
    adversarial: Score | None
    attack: str | None
    resumed_at: int | None
    seconds: float
    images_per_second: float
    devices: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        paths = {"dir": str(self.dir), "checkpoint": str(self.checkpoint)}
        return asdict(self) | paths | {"notes": list(self.notes)}
