"""What `latcli report` comes to, in plain values, and its JSON document; must not know how it was gathered."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from latcli import __version__
from latcli.errors import ExitCode

Row = dict[str, Any]


@dataclass
class ReportResult:
    """All that is to be reported. Lists hold plain mappings, the newest run first; `paper` is None unless asked for.

    created: when it was gathered, UTC. left_out: runs that have no figures, and why. faults: files that are not shown,
    for they are not as they were written. best: which training runs were chosen as the best, and by what.
    """

    store: Path
    created: str
    selection: Row
    matrices: list[Row] = field(default_factory=list)
    loss_matrix: list[Row] = field(default_factory=list)
    attacks: list[Row] = field(default_factory=list)
    training: list[Row] = field(default_factory=list)
    best: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)
    transfer: list[Row] = field(default_factory=list)
    reliance: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    left_out: list[Row] = field(default_factory=list)
    faults: list[Row] = field(default_factory=list)
    paper: Row | None = None

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints and that every writer takes."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {
            "store": str(self.store),
            "latcli": __version__,
        }


@dataclass(frozen=True)
class Written:
    """One file that a report was written to; size in bytes."""

    format: str
    path: Path
    size: int


@dataclass(frozen=True)
class FilesWritten:
    """What a report was written to, in the order of the options; `printed` where one of them is on stdout already."""

    report: ReportResult
    files: tuple[Written, ...]
    printed: bool = False
    exit_code: ExitCode = ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """The report's document, and the files under `written`."""
        written = [asdict(one) | {"path": str(one.path)} for one in self.files]
        return self.report.to_json() | {"written": written, "printed": self.printed}
