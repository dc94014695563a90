"""Training runs as a report has them: final figures, series, and which is the best; must not know evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latcli.store.store import RunRow, Store

#: What a finished run recorded of its model, by the names of the report.
_FINAL = {
    "loss": "test_loss",
    "accuracy": "test_accuracy",
    "adversarial_loss": "test_adversarial_loss",
    "adversarial_accuracy": "test_adversarial_accuracy",
}
#: What a run recorded while it trained.
_SERIES = ("loss", "clean_accuracy", "adversarial_accuracy", "epsilon", "rate")
#: What the best run of a regime is best by, and in words.
_BEST_BY = {
    "adversarial_accuracy": "accuracy under its own attack",
    "accuracy": "accuracy on natural images",
}


def training(
    store: Store, runs: Sequence[RunRow], datasets: Mapping[str, str | None], points: int | None
) -> list[dict[str, Any]]:
    """Each training run with its final figures and series.

    points: about so many of each series, None for all, 0 for no series. Raises StoreError.
    """
    ids = [run.id for run in runs]
    final = store.last_values(ids, list(_FINAL.values()))
    curves = {} if points == 0 else store.series(ids, _SERIES, points=points)
    return [
        {
            "run": run.id,
            "regime": run.config.get("regime"),
            "dataset": datasets[run.id],
            "seed": run.seed,
            "architecture": run.config.get("architecture"),
            "steps": run.config.get("steps"),
            "epsilon": run.config.get("epsilon"),
            "status": run.status,
            "final": {name: final.get(run.id, {}).get(metric) for name, metric in _FINAL.items()},
            "series": curves.get(run.id, {}),
        }
        for run in runs
    ]


def best(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each data set and regime the training run with the best final figure, and which figure that is.

    It is the accuracy under the run's own attack where it has one, else that on natural images; of equal ones the
    newest. Runs without any final figure take no part.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((str(row["dataset"]), str(row["regime"])), []).append(row)
    chosen = []
    for (dataset, regime), members in groups.items():
        for figure, words in _BEST_BY.items():
            scored = [row for row in members if row["final"][figure] is not None]
            if scored:
                top = max(scored, key=lambda row: row["final"][figure])
                place = {"dataset": dataset, "regime": regime, "run": top["run"], "of": len(members)}
                chosen.append(place | {"figure": words, "value": top["final"][figure]})
                break
    return chosen
