"""What `latcli attack` comes to, in plain values, and its JSON document; must not know how it came about."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from latcli.engine.labels import Label
from latcli.engine.models.classifier import Prediction
from latcli.errors import ExitCode
from latcli.results import photo_summary, to_json

BoxRow = tuple[float, float, float, float, float, str]


@dataclass(frozen=True)
class AttackedPhoto:
    """One photo's result in plain values. `files` are paths relative to the run's folder."""

    image: str
    label: Label
    clean: Prediction
    adversarial: Prediction
    altered_percent: float
    background_percent: float
    visible_background_percent: float
    linf_inside: float
    linf_outside: float
    l2: float
    boxes: tuple[BoxRow, ...]
    how: str
    notes: tuple[str, ...]
    files: dict[str, str]

    @property
    def was_right(self) -> bool:
        """Whether the top guess was the right class before the attack."""
        return self.clean.rank == 1

    @property
    def fooled(self) -> bool:
        """Whether the top guess was the right class before the attack and is another one after it."""
        return self.was_right and self.adversarial.rank > 1

    def to_json(self, folder: Path) -> dict[str, Any]:
        """The image's part of the JSON document."""
        return {
            "image": self.image,
            "label": asdict(self.label),
            "clean": _prediction_json(self.clean),
            "adversarial": _prediction_json(self.adversarial),
            "fooled": self.fooled,
            "altered_percent": self.altered_percent,
            "background_percent": self.background_percent,
            "visible_background_percent": self.visible_background_percent,
            "linf_inside": self.linf_inside,
            "linf_outside": self.linf_outside,
            "l2": self.l2,
            "boxes": [list(box) for box in self.boxes],
            "localized_by": self.how,
            "notes": list(self.notes),
            "files": {kind: str(folder / name) for kind, name in self.files.items()},
        }


@dataclass(frozen=True)
class PlannedPhoto:
    """One photo of a dry run; shares in per cent, `seconds` an estimate from one measured step."""

    image: str
    label: Label
    height: int
    width: int
    clean: Prediction
    how: str
    boxes: tuple[BoxRow, ...]
    background_percent: float
    visible_background_percent: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """A photo that was not attacked, and why. `skipped` where that was asked for."""

    image: str
    error: str
    hint: str
    exit_code: ExitCode
    skipped: bool = False


@dataclass
class AttackResult:
    """What a run of `latcli attack` came to. `run` and `dir` are None for a dry run."""

    classifier: str
    detector: str
    #: What the photos were attacked with: the keys epsilon, region, norm, steps, restarts of the JSON document.
    protocol: dict[str, Any]
    dry_run: bool = False
    check_success: bool = False
    run: str | None = None
    dir: Path | None = None
    images: list[AttackedPhoto] = field(default_factory=list)
    planned: list[PlannedPhoto] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """Failures first, then, if asked for, photos that were not fooled."""
        failed = {failure.exit_code for failure in self.failures if not failure.skipped}
        if failed:
            return failed.pop() if len(failed) == 1 else ExitCode.FAILURE
        if self.check_success and not all(image.fooled for image in self.images):
            return ExitCode.NOT_FOOLED
        return ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        document: dict[str, Any] = {
            "run": self.run,
            "dir": None if self.dir is None else str(self.dir),
            "classifier": self.classifier,
            "detector": self.detector,
            **self.protocol,
        }
        if self.dry_run:
            document["planned"] = [
                asdict(one) | {"label": asdict(one.label), "clean": _prediction_json(one.clean)} for one in self.planned
            ]
        else:
            folder = self.dir or Path()
            document["images"] = [image.to_json(folder) for image in self.images]
            document["summary"] = to_json(photo_summary(cast(Any, self.images)))
        document["failures"] = [asdict(failure) for failure in self.failures]
        return document


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "prediction": prediction.name,
        "index": prediction.index,
        "confidence": prediction.confidence,
        "rank": prediction.rank,
        "loss": prediction.loss,
    }
