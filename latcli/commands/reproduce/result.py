"""What a reproduction comes to, as `reproduce --json` gives it; must not compute, store or show anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latcli.commands.reproduce.findings import Found
from latcli.commands.reproduce.options import config_of
from latcli.options import ReproduceOptions


@dataclass(frozen=True)
class StepRow:
    """One step. seconds: it took, or is expected to take; None where nothing tells. command_line: to do it alone."""

    number: int
    step: str
    command: str
    state: str
    run: str | None
    config_hash: str | None
    seconds: float | None
    command_line: str


@dataclass(frozen=True)
class ReproduceResult:
    """A reproduction that was planned or has come to its end.

    run, dir, found, report: None where it was planned. report: None, too, where nothing is of the paper's own.
    """

    options: ReproduceOptions
    seed: int
    run: str | None
    dir: Path | None
    steps: tuple[StepRow, ...]
    found: Found | None
    report: dict[str, Any] | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        found = self.found or Found()
        return {
            "run": self.run,
            "dir": None if self.dir is None else str(self.dir),
            **config_of(self.options),
            "seed": self.seed,
            "planned": self.found is None,
            "steps": [asdict(row) for row in self.steps],
            "tables": [asdict(sheet) for sheet in found.sheets],
            "claims": found.claims,
            "sweeps": found.sweeps,
            "report": self.report,
            "files": [str(path) for path in self.files],
            "notes": list(self.notes),
        }
