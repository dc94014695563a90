"""Which of a store's files a report may show: those that are as they were written; must not know what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from latcli.store.files import artifact_path, sha256_of_file
from latcli.store.store import RunRow, Store
from latcli.store.verify import fault_of

#: How far a file is trusted: not looked at; there and of its size; of its sha256.
Care = Literal["none", "size", "sha256"]


#: Columns of the table `attacks` without which there is nothing to report.
_NEEDED = (
    "label_name",
    "epsilon",
    "clean_prediction",
    "clean_confidence",
    "clean_rank",
    "adversarial_prediction",
    "adversarial_confidence",
    "adversarial_rank",
    "altered_percent",
    "linf_inside",
)


def lacking(attack: Mapping[str, Any]) -> list[str]:
    """What a row of the table `attacks` has not of what a report needs; one that another program wrote may not."""
    return [name for name in _NEEDED if attack[name] is None]


@dataclass
class Files:
    """Looks files over when they are asked for, each once, and collects what is wrong with them."""

    store: Store
    faults: list[dict[str, Any]] = field(default_factory=list)
    _known: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def load(self, rows: Iterable[RunRow]) -> None:
        """Get ready to be asked for the files of these runs; a folder that is gone is one fault. Raises StoreError."""
        present = []
        for row in rows:
            if row.path.is_symlink():
                self._fault(row.id, None, "outside", "a link stands in the place of the run's folder")
            elif row.path.is_dir():
                present.append(row.id)
            else:
                self._fault(row.id, None, "missing", "the run's folder is gone")
        for artifact in self.store.rows_of_runs("artifacts", present):
            self._known.setdefault(artifact["run"], {})[artifact["name"]] = artifact

    def of_kind(self, run: str, kind: str) -> list[str]:
        """The names of a run's files of one kind, in the order in which they were written."""
        return [name for name, row in self._known.get(run, {}).items() if row["kind"] == kind]

    def sound(self, row: RunRow, name: str, care: Care) -> Path | None:
        """Where a file lies, or None where it is not in the run or is not to be shown; the fault is remembered."""
        artifact = self._known.get(row.id, {}).get(name)
        if artifact is None or care == "none":
            return None
        fault = fault_of(row.path, name, artifact["size"], artifact["sha256"] if care == "sha256" else None)
        if fault is not None:
            self._fault(row.id, name, *fault)
            return None
        return artifact_path(row.path, name)

    def read(self, row: RunRow, name: str) -> bytes | None:
        """The bytes of a small file; None as `sound` says."""
        path = self.sound(row, name, "sha256")
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            self._fault(row.id, name, "unreadable", (error.strerror or str(error)).lower())
            return None

    def complete(self, attack: Mapping[str, Any]) -> bool:
        """Whether a row of the table `attacks` lacks nothing; else the fault is remembered."""
        missing = lacking(attack)
        if missing:
            self._fault(attack["run"], attack["image"], "incomplete", f"its row has no {', '.join(missing)}")
        return not missing

    def unreadable(self, run: str, name: str, detail: str) -> None:
        """Remember that a file, or a row of the table `attacks`, is as it was written and cannot be understood."""
        self._fault(run, name, "unreadable", detail)

    def photo(self, row: RunRow, name: str, sha256: str | None) -> Path | None:
        """A photo that was attacked, where it lay then and has the same contents; one that has moved is no fault.

        A path that was relative is looked for beside the store, too.
        """
        changed = False
        for path in dict.fromkeys((Path(name).absolute(), self.store.folder.parent / name)):
            try:
                if not path.is_file():
                    continue
                if sha256_of_file(path) == sha256:
                    return path
                changed = True
            except (OSError, ValueError):  # ValueError: a name with a null character
                continue
        if changed:
            self._fault(row.id, name, "changed", "the photo that lies there is another one by now")
        return None

    def _fault(self, run: str, name: str | None, fault: str, detail: str) -> None:
        found = {"run": run, "name": name, "fault": fault, "detail": detail}
        if found not in self.faults:
            self.faults.append(found)
