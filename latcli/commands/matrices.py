"""The cells of many evaluations as loss matrices: comparable figures side by side, seeds averaged, the best marked.

A later evaluation of a model replaces an earlier one, and a later model of the same configuration and seed an earlier
one. Mean, spread, interval and best are computed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from latcli.commands.paper import FIGURE_2
from latcli.engine.evaluation.statistics import not_beaten
from latcli.reporting.text import counted
from latcli.results import (
    Cell,
    EvalResult,
    LossMatrix,
    MatrixCell,
    MatrixRow,
    SeedGroup,
    comparable_config,
    mean_of,
)

if TYPE_CHECKING:
    from latcli.store.store import RunRow

#: Rows and columns as the paper's Figure 2 has them, then the controls.
_ORDER = ("natural", "natural-attacked", "standard", "background", "foreground", "random")
_STRONG = "-strong"
#: Options that tell rows of one regime apart, in a row's label.
_LABELLED = 3
#: The 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


@dataclass(frozen=True)
class Evaluated:
    """A completed evaluation: its run, its cells, and its whole document where that is as it was written."""

    run: RunRow
    cells: Sequence[Cell]
    document: EvalResult | None = None


#: Everything that must be equal for figures to be compared, by name. images: how many were attacked; strong: whether
#: the strong suite has the budget of a trial.
Protocol = tuple[tuple[str, Any], ...]


@dataclass
class _Model:
    """One model's latest cells under a protocol, by input and evaluation seed, each with its evaluation.

    trained: the run that made it, None where it is from elsewhere or gone.
    """

    id: str
    label: str
    regime: str | None
    trained: RunRow | None
    cells: dict[str, dict[int, tuple[Evaluated, Cell]]] = field(default_factory=dict)

    @property
    def experiment(self) -> object:
        """Equal for models whose figures are averaged: of one regime, and trained alike but for the seed."""
        if self.trained is None:
            return self.id
        config = comparable_config(self.trained.config)
        return self.regime, tuple(sorted((name, repr(value)) for name, value in config.items()))

    @property
    def trained_at(self) -> tuple[str, str]:
        return ("", "") if self.trained is None else (self.trained.started, self.trained.id)


def loss_matrices(
    evaluations: Iterable[Evaluated], datasets: Mapping[str, str], trained: Mapping[str, RunRow]
) -> list[LossMatrix]:
    """The matrices, the one evaluated last first; `evaluations` are the newest first.

    datasets: names by id. trained: the store's training runs by id.
    """
    makers = makers_of_models(trained)
    found: dict[Protocol, dict[str, _Model]] = {}
    for one in evaluations:
        models = found.setdefault(_protocol(one), {})
        for cell in one.cells:
            if cell.model_id not in models:
                run = trained.get(cell.model) or next(iter(makers.get(cell.model_id, ())), None)
                models[cell.model_id] = _Model(cell.model_id, cell.label, cell.regime, run)
            models[cell.model_id].cells.setdefault(cell.input, {}).setdefault(cell.seed, (one, cell))
    return [
        _matrix(f"matrix-{number}", dict(protocol), datasets, list(models.values()))
        for number, (protocol, models) in enumerate(found.items(), start=1)
    ]


def seed_groups(evaluation: Evaluated, trained: Mapping[str, RunRow]) -> tuple[SeedGroup, ...]:
    """The cells of an evaluation's own matrix, with seeds averaged, row by row."""
    (matrix,) = loss_matrices([evaluation], {}, trained)
    return tuple(
        SeedGroup(regime=row.regime or row.label, input=given, **vars(cell))
        for row in matrix.rows
        for given, cell in row.cells.items()
    )


def makers_of_models(trained: Mapping[str, RunRow]) -> dict[str, list[RunRow]]:
    """The training runs behind each model's id, the newest first: equal runs make equal models."""
    makers: dict[str, list[RunRow]] = {}
    for run in sorted(trained.values(), key=lambda run: (run.started, run.id), reverse=True):
        if run.model is not None:
            makers.setdefault(run.model, []).append(run)
    return makers


def _protocol(one: Evaluated) -> Protocol:
    attacked = [cell for cell in one.cells if cell.epsilon is not None]
    first = next((cell for cell in attacked if not cell.input.endswith(_STRONG)), attacked[0] if attacked else None)
    names = ("epsilon", "attack", "norm", "radius", "steps", "restarts", "mask_from", "center")
    values: dict[str, Any] = {name: getattr(first, name, None) for name in names}
    if values["mask_from"] != "center":
        values["center"] = None
    values |= {"dataset": one.run.dataset or "", "images": first.n if first else 0}
    values |= {name: one.run.config.get(name) for name in ("mask_fingerprint", "strong")}
    return tuple((values | {"strong": values["strong"] == "quick"}).items())


def _matrix(name: str, protocol: dict[str, Any], datasets: Mapping[str, str], models: Sequence[_Model]) -> LossMatrix:
    experiments: dict[object, list[_Model]] = {}
    for model in models:
        experiments.setdefault(model.experiment, []).append(model)
    every = sorted(experiments.values(), key=lambda group: _place(group[0].regime or ""))
    groups = [_newest_of_seeds(group) for group in every]
    labels = _labels_apart(groups)
    kept = [model for group in groups for model in group]
    inputs = tuple(sorted({given for model in kept for given in model.cells}, key=_place))
    rows, replaced = [], []
    for label, group, all_of_it in zip(labels, groups, every, strict=True):
        if len(all_of_it) > len(group):
            older = len(all_of_it) - len(group)
            replaced.append(f"{label}: {older} older training run(s) of the same seed left out")
        runs_of_group = [model.trained for model in group if model.trained is not None]
        on = {
            given: _cell([[cell for _, cell in model.cells.get(given, {}).values()] for model in group])
            for given in dict.fromkeys(given for model in group for given in model.cells)
        }
        rows.append(
            MatrixRow(
                label=label,
                regime=group[0].regime,
                models=tuple(model.id for model in group),
                train_runs=tuple(run.id for run in runs_of_group),
                train_seeds=tuple(run.seed for run in runs_of_group),
                model_count=len(group),
                cells=on,
            )
        )
    for given in inputs if len(groups) > 1 else ():
        _mark_best(given, [row.cells for row in rows], groups)
    measured = [pair for model in kept for seeds in model.cells.values() for pair in seeds.values()]
    runs = {one.run.id: one for one, _ in measured}
    newest = sorted(runs.values(), key=lambda one: one.run.started, reverse=True)
    is_strong = any(given.endswith(_STRONG) for given in inputs)
    dataset = datasets.get(protocol["dataset"], protocol["dataset"])
    warnings = [warning.line for one in newest if one.document for warning in one.document.warnings]
    shared = {name: value for name, value in protocol.items() if name != "mask_fingerprint"}
    shared |= {"dataset": dataset, "strong": ("quick" if protocol["strong"] else "full") if is_strong else None}
    return LossMatrix(
        **shared,
        id=name,
        natural_scale=next((paper.natural_scale for paper in FIGURE_2 if paper.of == dataset), 1),
        inputs=inputs,
        runs=tuple(one.run.id for one in newest),
        seeds=tuple(sorted({cell.seed for _, cell in measured})),
        rows=tuple(rows),
        warnings=tuple(dict.fromkeys(warnings)),
        notes=(*_notes(rows, inputs), *replaced),
    )


def _newest_of_seeds(models: Sequence[_Model]) -> list[_Model]:
    """The models of one experiment without those whose seed was trained again, which is no further seed."""
    newest: dict[object, _Model] = {}
    for model in models:
        seed = model.id if model.trained is None else model.trained.seed
        newest[seed] = max(newest.get(seed, model), model, key=lambda one: one.trained_at)
    return list(newest.values())


def _place(name: str) -> tuple[bool, int, str]:
    """Natural, standard, background, the controls, others; then the same under the strong suite."""
    base = name.removesuffix(_STRONG)
    return base != name, _ORDER.index(base) if base in _ORDER else len(_ORDER), name


# cells: mean, spread, interval


def _cell(of_models: Sequence[Sequence[Cell]]) -> MatrixCell:
    """Of the evaluations of a row's models on one input; a model without any takes no part."""
    cells = [of_model for of_model in of_models if of_model]
    flat = [cell for of_model in cells for cell in of_model]
    values: dict[str, Any] = {}
    for name, method in (("loss", "bootstrap"), ("accuracy", "wilson")):
        means = [mean_of([getattr(cell, name) for cell in of_model]).value for of_model in of_models]
        known = [getattr(cell, name) for cell in flat] if len(cells) == 1 else [one for one in means if one is not None]
        # A mean over those that did not diverge would make the others disappear.
        mean = mean_of(known if len(known) >= len(cells) else [None])
        low, high, over = _interval(flat, name, method, known if mean.value is not None else [], len(cells))
        values |= {name: mean.value, f"{name}_spread": mean.spread, f"{name}_low": low, f"{name}_high": high}
        values |= {"interval" if name == "accuracy" else "loss_interval": over}
        values["losses" if name == "loss" else "accuracies"] = tuple(means)
    values |= {"accuracy_low": max(0.0, values["accuracy_low"]), "accuracy_high": min(1.0, values["accuracy_high"])}
    return MatrixCell(
        **values,
        n=min(cell.n for cell in flat),
        models=len(cells),
        spread_over="models" if len(cells) > 1 else "seeds" if len(flat) > 1 else None,
        diverged=sum(cell.loss is None and not _leaves_no_loss(cell) for cell in flat),
    )


def _interval(
    cells: Sequence[Cell], name: str, method: str, values: Sequence[float], models: int
) -> tuple[float | None, float | None, str | None]:
    """The wider of two 95 % intervals: the mean of the cells' own, by `method`, and Student's over the models."""
    lows, highs = ([getattr(cell, f"{name}_{end}") for cell in cells] for end in ("low", "high"))
    if not values or None in (*lows, *highs):
        return None, None, None
    low, high = fmean(lows), fmean(highs)
    half = _student(models - 1) * stdev(values) / sqrt(models) if models > 1 else 0.0
    if 2 * half <= high - low:
        return low, high, method
    return fmean(values) - half, fmean(values) + half, "models"


def _student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table by its expansion in 1 / degrees (Cornish and Fisher)."""
    if degrees <= len(_STUDENT):
        return _STUDENT[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _leaves_no_loss(cell: Cell) -> bool:
    return (cell.attack or "").endswith(" until wrong") or cell.input.endswith(_STRONG)


# the best of a column


def _mark_best(given: str, rows: Sequence[dict[str, MatrixCell]], groups: Sequence[Sequence[_Model]]) -> None:
    """Mark the cells of a column that no other beats beyond chance.

    As their evaluation has marked them where they are all that it has of the column, which it compared on the same
    images, else by intervals that do not overlap.
    """
    places = [place for place, row in enumerate(rows) if given in row]
    cells = [rows[place][given] for place in places]
    measured = [pair for place in places for model in groups[place] for pair in model.cells.get(given, {}).values()]
    of_all = [cell for cell in measured[0][0].cells if cell.input == given]
    alone = len({one.run.id for one, _ in measured}) == 1 and len(measured) == len(of_all) == len(places)
    if alone and any(cell.best_accuracy for cell in of_all):  # older evaluations have no marks
        best = [(cell.best_accuracy, cell.best_loss) for _, cell in measured]
    else:
        accuracies = not_beaten(
            [cell.accuracy for cell in cells],
            lambda a, b: float(cells[a].accuracy_low <= cells[b].accuracy_high),
        )
        known = [place for place, cell in enumerate(cells) if cell.loss is not None]

        def overlap(a: int, b: int) -> float:
            high, low = cells[known[a]].loss_high, cells[known[b]].loss_low
            return float(high is None or low is None or high >= low)

        losses = dict(zip(known, not_beaten([-(cells[place].loss or 0.0) for place in known], overlap), strict=True))
        best = [(accuracy, losses.get(place, False)) for place, accuracy in enumerate(accuracies)]
    for place, cell, (accuracy, loss) in zip(places, cells, best, strict=True):
        rows[place][given] = replace(cell, best_accuracy=accuracy, best_loss=loss)


# labels and notes


def _labels_apart(groups: Sequence[Sequence[_Model]]) -> list[str]:
    """A label for each row; those that would have the same say how their training differs."""
    labels = [one.regime if one.trained is not None and one.regime else one.label for one, *_ in groups]
    trained = [group[0].trained for group in groups]
    configs = [None if run is None else comparable_config(run.config) for run in trained]
    found = []
    for label, own, group in zip(labels, configs, groups, strict=True):
        alike = [config for other, config in zip(labels, configs, strict=True) if other == label]
        differs = group[0].id if own is None else _difference(own, [one for one in alike if one is not None])
        found.append(f"{label} ({differs})" if len(alike) > 1 else label)
    return found


def _difference(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({name for one in configs for name in one if any(one[name] != other.get(name) for other in configs)})
    names.sort(key=lambda name: not all(name in one for one in configs))  # what all have set says more
    if not names:
        return "the only one trained by latcli"
    values = [(name, config.get(name, "unset")) for name in names[:_LABELLED]]
    texts = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values]
    return ", ".join(texts) + (", ..." if len(names) > _LABELLED else "")


def _notes(rows: Sequence[MatrixRow], inputs: Sequence[str]) -> list[str]:
    notes = []
    for row in rows:
        for given in inputs:
            cell, place = row.cells.get(given), f"{row.label}, {given}"
            if cell is None:
                notes.append(f"{place}: not evaluated")
                continue
            if cell.diverged:
                notes.append(f"{place}: {cell.diverged} evaluation(s) have no finite loss, so there is no mean")
            if cell.models < row.model_count:
                notes.append(f"{place}: {cell.models} of {counted(row.model_count, 'model')}")
    return notes
