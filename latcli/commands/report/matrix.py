"""Cells of many evaluations put together as loss matrices, one a protocol; must not read files or know formats.

What is comparable is put together: a later evaluation of a model replaces an earlier one, a later model of an
experiment replaces one of the same seed, the models of an experiment are averaged, and training runs that were told
something else get a row of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from latcli.commands.experiments import spread
from latcli.commands.paper_figures import FIGURE_2
from latcli.results import comparable_config
from latcli.store.store import RunRow

#: Rows and columns as the paper's Figure 2 has them, then the controls.
_ORDER = ("natural", "standard", "background", "foreground", "random")
#: What the paper multiplies losses on natural inputs by.
_NATURAL_SCALES = {figure.dataset: figure.natural_scale for figure in FIGURE_2}
#: Values that differ between rows of one regime, in a row's label.
_LABELLED = 3


@dataclass(frozen=True)
class Protocol:
    """Everything that must be equal for figures to be compared. `objects` is the fingerprint of masks.

    images: how many were attacked. quick: whether the strong suite had the budget of a trial.
    """

    dataset: str
    epsilon: float | None
    attack: str | None
    steps: int | None
    restarts: int | None
    mask_from: str | None
    center: float | None
    images: int
    objects: str | None
    quick: bool


@dataclass(frozen=True)
class Measured:
    """One cell of one evaluation, and the run of `eval` that it is from."""

    run: RunRow
    cell: Mapping[str, Any]


@dataclass
class Model:
    """One model's cells under a protocol: for each input and evaluation seed the latest.

    train: the run of `train` that made it, None where it is from elsewhere or gone.
    """

    id: str
    label: str
    regime: str | None
    train: RunRow | None
    cells: dict[str, dict[int | None, Measured]] = field(default_factory=dict)

    @property
    def experiment(self) -> object:
        """Equal for models whose figures are averaged: of one regime, and trained alike but for the seed."""
        if self.train is None:
            return self.id
        config = comparable_config(self.train.config)
        return self.regime, tuple(sorted((name, repr(value)) for name, value in config.items()))

    def take(self, one: Measured) -> None:
        """Keep a cell unless a later one is there."""
        self.cells.setdefault(one.cell["input"], {}).setdefault(one.cell["seed"], one)


def matrices(
    evaluations: Sequence[RunRow],
    cells: Iterable[Mapping[str, Any]],
    datasets: Mapping[str, str],
    training: Mapping[str, RunRow],
    makers: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The matrices, the one evaluated last first; `evaluations` are the newest first, `cells` are rows of the database.

    datasets: names by id. training: training runs by id. makers: the training run of each model's id.
    """
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        by_run.setdefault(cell["run"], []).append(cell)
    found: dict[Protocol, dict[str, Model]] = {}
    ids: dict[Protocol, str] = {}
    for run in evaluations:
        if run.id not in by_run:
            continue
        protocol = _protocol(run, by_run[run.id])
        ids.setdefault(protocol, datasets.get(protocol.dataset, protocol.dataset))
        models = found.setdefault(protocol, {})
        for cell in by_run[run.id]:
            if cell["model_id"] not in models:
                models[cell["model_id"]] = _model(run, cell, training, makers)
            models[cell["model_id"]].take(Measured(run, cell))
    return [
        {"id": f"matrix-{number}"} | _matrix(protocol, ids[protocol], list(models.values()))
        for number, (protocol, models) in enumerate(found.items(), start=1)
    ]


def entries(run: RunRow) -> dict[str, Mapping[str, Any]]:
    """The models of an evaluation, as its configuration has them, by their id."""
    return {entry["id"]: entry for entry in run.config.get("entries", ())}


def flat_cell(run: RunRow, cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as `eval --json` has it, with its run."""
    entry = entries(run).get(cell["model_id"], {})
    shared = ("input", "loss", "accuracy", "n", "epsilon", "steps", "restarts", "attack", "seed", "seconds")
    return {
        "run": run.id,
        "model": entry.get("name", cell["model_id"]),
        "label": entry.get("label", cell["model_id"]),
        "model_id": cell["model_id"],
        "regime": cell["regime"],
        "train_seed": entry.get("train_seed"),
        **{name: cell[name] for name in shared},
    }


def _protocol(run: RunRow, cells: Sequence[Mapping[str, Any]]) -> Protocol:
    attacked = [cell for cell in cells if cell["epsilon"] is not None]
    plain = [cell for cell in attacked if not cell["input"].endswith("-strong")]
    first: Mapping[str, Any] = (plain or attacked or [{}])[0]
    middle = first.get("mask_from") in (None, "center")
    return Protocol(
        dataset=run.dataset or "",
        epsilon=first.get("epsilon"),
        attack=first.get("attack"),
        steps=first.get("steps"),
        restarts=first.get("restarts"),
        mask_from=first.get("mask_from"),
        center=first.get("center") if middle else None,
        images=first.get("n", 0),
        objects=run.config.get("mask_fingerprint"),
        quick=run.config.get("strong") == "quick",
    )


def _model(run: RunRow, cell: Mapping[str, Any], training: Mapping[str, RunRow], makers: Mapping[str, str]) -> Model:
    entry = entries(run).get(cell["model_id"], {})
    maker = makers.get(cell["model_id"]) or entry.get("train_run") or ""
    return Model(cell["model_id"], entry.get("label", cell["model_id"]), cell["regime"], training.get(maker))


def _newest_of_seeds(models: Sequence[Model]) -> list[Model]:
    """The models of one experiment without those whose seed was trained again, which are no further seed."""
    newest: dict[object, Model] = {}
    for model in models:
        seed = model.id if model.train is None else model.train.seed
        newest[seed] = max(newest.get(seed, model), model, key=_trained_at)
    return list(newest.values())


def _trained_at(model: Model) -> tuple[str, str]:
    return ("", "") if model.train is None else (model.train.started, model.train.id)


def _matrix(protocol: Protocol, dataset: str, measured_models: Sequence[Model]) -> dict[str, Any]:
    experiments: dict[object, list[Model]] = {}
    for model in measured_models:
        experiments.setdefault(model.experiment, []).append(model)
    groups = [_newest_of_seeds(group) for group in experiments.values()]
    models = [model for group in groups for model in group]
    inputs = sorted({name for model in models for name in model.cells}, key=_place)
    rows = [_row(group) for group in groups]
    _label_apart(rows, groups)
    replaced = _replaced(rows, groups, experiments.values())
    rows.sort(key=lambda row: _place(row["regime"] or ""))
    for name in inputs:
        _mark_best([row["cells"][name] for row in rows if name in row["cells"]])
    measured = [one for model in models for seeds in model.cells.values() for one in seeds.values()]
    runs = list(dict.fromkeys(one.run.id for one in sorted(measured, key=lambda one: one.run.started, reverse=True)))
    return {
        "dataset": dataset,
        "epsilon": protocol.epsilon,
        "attack": protocol.attack,
        "steps": protocol.steps,
        "restarts": protocol.restarts,
        "mask_from": protocol.mask_from,
        "center": protocol.center,
        "images": protocol.images,
        "strong": _strong(protocol, inputs),
        "natural_scale": _NATURAL_SCALES.get(dataset, 1),
        "inputs": inputs,
        "runs": runs,
        "seeds": sorted({one.cell["seed"] for one in measured if one.cell["seed"] is not None}),
        "rows": rows,
        "warnings": [],
        "notes": [*_notes(rows, inputs), *replaced],
    }


def _place(name: str) -> tuple[bool, int, str]:
    """Natural, standard, background, the controls, others; then the same under the strong suite."""
    base, _, strong = name.partition("-")
    return bool(strong), _ORDER.index(base) if base in _ORDER else len(_ORDER), name


def _strong(protocol: Protocol, inputs: Iterable[str]) -> str | None:
    if not any(name.endswith("-strong") for name in inputs):
        return None
    return "quick" if protocol.quick else "full"


def _row(models: Sequence[Model]) -> dict[str, Any]:
    first = models[0]
    names = dict.fromkeys(name for model in models for name in model.cells)
    trained = [model.train for model in models if model.train is not None]
    return {
        "label": first.regime if first.train is not None and first.regime else first.label,
        "differs": None,
        "regime": first.regime,
        "models": [model.id for model in models],
        "train_runs": [run.id for run in trained],
        "train_seeds": [run.seed for run in trained],
        "config_hash": trained[0].config_hash if trained else None,
        "model_count": len(models),
        "cells": {name: _cell([model.cells[name] for model in models if name in model.cells]) for name in names},
    }


def _cell(models: Sequence[Mapping[int | None, Measured]]) -> dict[str, Any]:
    """Of one row and input: the mean over models of each model's mean over evaluation seeds.

    The spread is over models, or, of a single model, over its evaluation seeds.
    """
    cells = [[one.cell for one in seeds.values()] for seeds in models]
    flat = [cell for of_model in cells for cell in of_model]
    losses = _means(cells, "loss")
    accuracies = _means(cells, "accuracy")
    return {
        "loss": fmean(losses) if losses else None,
        "loss_spread": spread(losses),
        "accuracy": fmean(accuracies) if accuracies else None,
        "accuracy_spread": spread(accuracies),
        "n": min(cell["n"] for cell in flat),
        "models": len(models),
        "spread_over": "models" if len(models) > 1 else "seeds" if len(flat) > 1 else None,
        "diverged": sum(cell["loss"] is None and not _leaves_no_loss(cell) for cell in flat),
        "best_loss": False,
        "best_accuracy": False,
    }


def _means(models: Sequence[Sequence[Mapping[str, Any]]], name: str) -> list[float]:
    """One value a model, or, of a single model, one an evaluation seed; empty where any of them is missing.

    A mean over those that did not diverge would make the others disappear.
    """
    if any(cell[name] is None for of_model in models for cell in of_model):
        return []
    if len(models) == 1:
        return [cell[name] for cell in models[0]]
    return [fmean(cell[name] for cell in of_model) for of_model in models]


def _leaves_no_loss(cell: Mapping[str, Any]) -> bool:
    return cell["attack"] == "pgd until wrong" or str(cell["input"]).endswith("-strong")


def _mark_best(cells: Sequence[dict[str, Any]]) -> None:
    """The lowest loss and the highest accuracy of a column, where there is something to compare."""
    if len(cells) < 2:
        return
    losses = [cell["loss"] for cell in cells if cell["loss"] is not None]
    accuracies = [cell["accuracy"] for cell in cells if cell["accuracy"] is not None]
    for cell in cells:
        cell["best_loss"] = cell["loss"] is not None and cell["loss"] == min(losses)
        cell["best_accuracy"] = cell["accuracy"] is not None and cell["accuracy"] == max(accuracies)


def _label_apart(rows: Sequence[dict[str, Any]], groups: Sequence[Sequence[Model]]) -> None:
    """Say in the labels of rows of one regime what their training was told differently."""
    by_label: dict[str, list[tuple[dict[str, Any], RunRow | None]]] = {}
    for row, group in zip(rows, groups, strict=True):
        by_label.setdefault(row["label"], []).append((row, group[0].train))
    for label, alike in by_label.items():
        configs = [comparable_config(run.config) for _, run in alike if run is not None]
        for row, run in alike if len(alike) > 1 else ():
            row["differs"] = row["models"][0] if run is None else _told_apart(comparable_config(run.config), configs)
            row["label"] = f"{label} ({row['differs']})"


def _told_apart(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({name for one in configs for name in one if any(one[name] != other.get(name) for other in configs)})
    # What one version of latcli did not know yet says little; what both knew comes first.
    names.sort(key=lambda name: not all(name in one for one in configs))
    if not names:
        return "the only one trained by latcli"
    texts = [f"{name} {_plain(config.get(name))}" for name in names[:_LABELLED]]
    return ", ".join(texts) + (", ..." if len(names) > _LABELLED else "")


def _plain(value: object) -> str:
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _replaced(
    rows: Iterable[Mapping[str, Any]], groups: Iterable[Sequence[Model]], experiments: Iterable[Sequence[Model]]
) -> list[str]:
    """A line for each row that has left out models whose seed was trained again."""
    counts = [len(every) - len(kept) for kept, every in zip(groups, experiments, strict=True)]
    return [
        f"{row['label']}: {count} older training run(s) of the same seed left out"
        for row, count in zip(rows, counts, strict=True)
        if count
    ]


def _notes(rows: Sequence[Mapping[str, Any]], inputs: Sequence[str]) -> list[str]:
    cells = [(row["label"], name, row["cells"].get(name)) for row in rows for name in inputs]
    notes = [f"{label}, {name}: not evaluated" for label, name, cell in cells if cell is None]
    for label, name, cell in cells:
        if cell is not None and cell["diverged"]:
            notes.append(f"{label}, {name}: {cell['diverged']} evaluation(s) have no finite loss, so there is no mean")
    row_counts = {row["label"]: row["model_count"] for row in rows}
    for label, name, cell in cells:
        if cell is not None and cell["models"] < row_counts[label]:
            notes.append(f"{label}, {name}: {cell['models']} of {row_counts[label]} models")
    return notes
