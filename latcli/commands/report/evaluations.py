"""What evaluations measured beside their cells, from the documents in their folders; must not know the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latcli.commands.report.files import Files
from latcli.commands.report.shapes import Evaluation, require_consistent
from latcli.documents import DocumentError, read_json
from latcli.store.store import RunRow

#: The document that `latcli eval --json` prints, in the run's folder.
MATRIX = "matrix.json"


@dataclass
class Further:
    """Curves, transfer and reliance as `eval --json` has them, each row with run, data set and labels of its models.

    evaluations: of each run its models and what it told, for readers who want one run's alone.
    """

    evaluations: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    transfer: list[dict[str, Any]] = field(default_factory=list)
    reliance: list[dict[str, Any]] = field(default_factory=list)

    def take(self, run: RunRow, dataset: str | None, document: Mapping[str, Any]) -> None:
        """Add what one evaluation's document has."""
        labels = {model["id"]: model["label"] for model in document["models"]}
        place = {"run": run.id, "dataset": dataset}
        models = [{name: model.get(name) for name in ("id", "label", "name", "regime")} for model in document["models"]]
        told = {name: list(document.get(name, ())) for name in ("warnings", "notes")}
        self.evaluations.append(place | {"dir": str(run.path), "models": models} | told)
        regimes = {model["id"]: model.get("regime") for model in document["models"]}
        for row in document.get("curves", ()):
            self.curves.append(place | {"label": labels[row["model"]], "regime": regimes[row["model"]]} | row)
        self.reliance += [place | {"label": labels[row["model"]]} | row for row in document.get("reliance", ())]
        for row in document.get("transfer", ()):
            named = {"source_label": labels.get(row["source"]), "target_label": labels[row["target"]]}
            self.transfer.append(place | named | row)

    def warnings_of(self, runs: Sequence[str]) -> list[str]:
        """What the evaluations say against their own figures, each once."""
        lines = [
            f"{warned['label']}{', ' + warned['input'] if warned['input'] else ''}: {warned['text']}"
            for evaluation in self.evaluations
            if evaluation["run"] in runs
            for warned in evaluation["warnings"]
        ]
        return list(dict.fromkeys(lines))


def read_documents(runs: Sequence[RunRow], datasets: Mapping[str, str | None], files: Files) -> Further:
    """Of each of these evaluations what its document says.

    One that is gone, changed or of another shape is a fault and says nothing.
    """
    further = Further()
    for run in runs:
        if not run.path.is_dir():
            continue
        data = files.read(run, MATRIX)
        if data is None:
            continue
        try:
            document = read_json(data, Evaluation)
            require_consistent(document)
        except DocumentError as error:
            files.unreadable(run.id, MATRIX, str(error))
        else:
            further.take(run, datasets[run.id], document)
    return further
