"""Robustness curves, transfer, background reliance and training as charts and tables; must not know how they are drawn.

What is in the report's document under `curves`, `transfer`, `reliance` and `training`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latcli.reporting.page.charts import Axis, Chart, Series, chart, linear, losses, shares
from latcli.reporting.page.formats import NONE, number, percent, short
from latcli.reporting.reliance_table import VARIANT_NAMES

#: Style numbers of the regimes, the same in every chart; others come after them.
REGIMES = ("natural", "standard", "background", "foreground", "random")
STYLES = 8

#: What a training run writes down that says nothing of the model.
_BOOKKEEPING = {"rate", "epsilon", "images_per_second"}
_TRAINING = {
    "loss": "Training loss",
    "clean_accuracy": "Accuracy on clean training batches",
    "adversarial_accuracy": "Accuracy on attacked training batches",
}


@dataclass(frozen=True)
class Table:
    """A plain table: the first cell of each row names it. `runs` are where its figures come from."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class TrainingRun:
    """The last figures of a training run by their headings."""

    run: str
    regime: str
    seed: str
    figures: Sequence[str]


@dataclass(frozen=True)
class Training:
    """All training runs on one data set."""

    dataset: str
    charts: Sequence[Chart]
    headings: Sequence[str]
    runs: Sequence[TrainingRun]


def labels_of(document: Mapping[str, Any]) -> dict[str, str]:
    """A label for each model id that the document's cells name."""
    return {
        cell["model_id"]: cell["label"]
        for cell in document.get("loss_matrix") or ()
        if cell.get("model_id") and cell.get("label")
    }


def curves(document: Mapping[str, Any]) -> list[Chart]:
    """A chart for each run, axis and input: accuracy against epsilon or steps, a line for each model."""
    labels, rows = labels_of(document), document.get("curves") or ()
    regimes = {cell["model_id"]: cell.get("regime") for cell in document.get("loss_matrix") or () if "model_id" in cell}
    charts: list[Chart] = []
    for run, axis, given in dict.fromkeys((row.get("run"), row["axis"], row["input"]) for row in rows):
        chosen = [row for row in rows if (row.get("run"), row["axis"], row["input"]) == (run, axis, given)]
        styles = _styles(
            [_name(row, labels) for row in chosen], [row.get("regime") or regimes.get(row["model"]) for row in chosen]
        )
        series = [
            Series(name, style, [(p["value"], p["accuracy"]) for p in row["points"]])
            for row, (name, style) in zip(chosen, styles, strict=True)
        ]
        x = linear(axis, (place for one in series for place, _ in one.points), bend=axis == "steps")
        n = chosen[0]["points"][0].get("n")
        of = f"{chosen[0].get('dataset') or ''} {given}".strip()
        title = f"{of} attack, accuracy against {axis}" + (f", n = {n:,}" if n else "")
        id = f"curve-{len(charts) + 1}"
        charts.append(chart(id, title, x, shares("accuracy"), series, [(style, name) for name, style in styles]))
    return charts


def transfer(document: Mapping[str, Any]) -> list[Table]:
    """A table for each run and input: examples made on the models down, tried on the models across."""
    labels, rows = labels_of(document), document.get("transfer") or ()
    tables = []
    for run, given in dict.fromkeys((row.get("run"), row["input"]) for row in rows):
        chosen = [row for row in rows if (row.get("run"), row["input"]) == (run, given)]
        targets = {row["target"]: row.get("target_label") or labels.get(row["target"], row["target"]) for row in chosen}
        sources: dict[str | None, str] = {
            row["source"]: "no attack"
            if row["source"] is None
            else row.get("source_label") or labels.get(row["source"], row["source"])
            for row in chosen
        }
        cells = {
            (row["source"], row["target"]): f"{number(row['loss'])} · {percent(row['accuracy'])}" for row in chosen
        }
        of = f"{chosen[0].get('dataset') or ''} {given}".strip()
        tables.append(
            Table(
                f"{of} examples, n = {chosen[0]['n']:,}: loss · accuracy of models across on examples of those down",
                ["made on", *targets.values()],
                [
                    [name, *(cells.get((source, target), NONE) for target in targets)]
                    for source, name in sources.items()
                ],
                runs=[run] if run else [],
            )
        )
    return tables


def reliance(document: Mapping[str, Any]) -> list[Table]:
    """A table for each model: accuracy without attack, variants down, groups by share of background across."""
    labels = labels_of(document)
    tables = []
    for row in document.get("reliance") or ():
        groups = [row["overall"], *row["by_share"]]
        head = [f"background {100 * group['low']:.0f} to {100 * group['high']:.0f} %" for group in row["by_share"]]
        lines = [
            [name, *(_variant(group["means"].get(variant) or {}) for group in groups)]
            for variant, name in VARIANT_NAMES.items()
        ]
        lines.append(["background gap", *(_gap(group["gap"]) for group in groups)])
        tables.append(
            Table(
                f"{_name(row, labels)}: accuracy (number of photos)",
                ["photo shown as", "all photos", *head],
                lines,
                _reliance_remarks(row),
                [row["run"]] if row.get("run") else [],
            )
        )
    return tables


def training(document: Mapping[str, Any]) -> list[Training]:
    """For each data set the curves of its training runs, and what they ended with."""
    runs = document.get("training") or ()
    found: list[Training] = []
    for dataset in dict.fromkeys(run.get("dataset") or NONE for run in runs):
        chosen = [run for run in runs if (run.get("dataset") or NONE) == dataset]
        names = list(dict.fromkeys(key for run in chosen for key in run.get("final") or {}))
        lines = [
            TrainingRun(
                run["run"],
                run.get("regime") or NONE,
                NONE if run.get("seed") is None else str(run["seed"]),
                [_figure(name, (run.get("final") or {}).get(name)) for name in names],
            )
            for run in chosen
        ]
        headings = [name.replace("_", " ") for name in names]
        found.append(Training(dataset, _training_charts(chosen, len(found) + 1), headings, lines))
    return found


def _training_charts(runs: Sequence[Mapping[str, Any]], place: int) -> list[Chart]:
    names = dict.fromkeys(key for run in runs for key, points in (run.get("series") or {}).items() if len(points) > 1)
    wanted = [name for name in _TRAINING if name in names]
    wanted += [name for name in names if name not in _TRAINING and name not in _BOOKKEEPING]
    return [_training_chart(name, runs, f"training-{place}-{number}") for number, name in enumerate(wanted, start=1)]


def _training_chart(name: str, runs: Sequence[Mapping[str, Any]], id: str) -> Chart:
    shown = [run for run in runs if len((run.get("series") or {}).get(name) or ()) > 1]
    regimes = [run.get("regime") or NONE for run in shown]
    styles = dict(_styles(regimes, regimes))
    series = [
        Series(f"{regime} {short(run['run'])}", styles[regime], [(step, value) for step, value in run["series"][name]])
        for run, regime in zip(shown, regimes, strict=True)
    ]
    counts = {regime: regimes.count(regime) for regime in styles}
    legend = [
        (style, regime if counts[regime] == 1 else f"{regime} ({counts[regime]} runs)")
        for regime, style in styles.items()
    ]
    x = linear("step", (step for one in series for step, _ in one.points))
    values = [value for one in series for _, value in one.points if value is not None]
    y: Axis = shares("accuracy") if name.endswith("accuracy") else losses(name.replace("_", " "), values)
    return chart(id, _TRAINING.get(name, name.replace("_", " ")), x, y, series, legend)


def _styles(names: Sequence[str], regimes: Iterable[str | None]) -> list[tuple[str, int]]:
    """A style for each name: its regime's where it is the first of that regime, else the next that is free."""
    taken: dict[str, int] = {}
    for name, regime in zip(names, regimes, strict=True):
        own = REGIMES.index(regime) if regime in REGIMES else None
        if name not in taken:
            free = (
                style for style in (*range(len(REGIMES), STYLES), *range(len(REGIMES))) if style not in taken.values()
            )
            taken[name] = own if own is not None and own not in taken.values() else next(free, len(taken) % STYLES)
    return [(name, taken[name]) for name in names]


def _name(row: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    return str(row.get("label") or labels.get(row["model"], row["model"]))


def _variant(mean: Mapping[str, Any]) -> str:
    return NONE if mean.get("accuracy") is None else f"{percent(mean['accuracy'])} ({mean['n']:,})"


def _gap(gap: Mapping[str, Any]) -> str:
    if gap["value"] is None:
        return NONE
    error = "" if gap["standard_error"] is None else f" ± {100 * gap['standard_error']:.2f}"
    return f"{100 * gap['value']:.2f}{error} points"


def _reliance_remarks(row: Mapping[str, Any]) -> list[str]:
    seeds = row["donor_seeds"]
    lines = [f"The gap is Mixed-Same - Mixed-Rand ± its standard error, over {seeds} donor seed{'s' * (seeds != 1)}."]
    if row.get("without_same"):
        lines.append(f"{row['without_same']:,} photos are alone in their class: no Mixed-Same, no part in the gap.")
    if row.get("left_out"):
        lines.append(f"{len(row['left_out']):,} photos are left out: no object, or no background beside it.")
    return lines


def _figure(name: str, value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return NONE
    return percent(value) if name.endswith("accuracy") else number(value)
