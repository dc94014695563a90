"""Measures the background gap of photos that a network was not trained on, after natural and after localized training.

No timing: this is the study behind docs/reproduction.md. Fifty photos of as many classes are too few for the gap, which
needs another photo of a photo's class; so they are put in broader classes, and these in two folds. A network learns on
one fold and is tested on the other, and both ways together tell of every photo. Natural fine-tuning of as many steps is
what localized training is held against: the published network does not know the broader classes.
Usage: `python -m benchmarks.background_gap --photos FOLDER --store DIR [--steps N] [--seeds N]`. Photos are known by
how their names end (`n01514859_hen.jpg`).
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shutil import copyfile
from statistics import fmean
from typing import Any

from benchmarks.photos import photo_files
from benchmarks.record import Options, Record, begin

#: Broader classes: at least four photos each, so that each fold has two.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "bird": ("hen", "kite", "house_finch", "prairie_chicken"),
    "building": ("bookshop", "butcher_shop", "tobacco_shop", "triumphal_arch"),
    "device": ("iPod", "oscilloscope", "cassette_player", "stethoscope"),
    "dog": (
        "Irish_wolfhound",
        "Labrador_retriever",
        "Bouvier_des_Flandres",
        "Great_Dane",
        "keeshond",
        "miniature_poodle",
    ),
    "food and drink": ("pizza", "bottlecap", "water_bottle", "wine_bottle"),
    "furniture": ("dining_table", "throne", "stretcher", "pool_table"),
    "instrument": ("bassoon", "banjo", "drum", "harmonica"),
    "lower animal": ("tarantula", "barn_spider", "snail", "triceratops", "great_white_shark"),
    "mammal": ("American_black_bear", "meerkat", "ram", "llama"),
    "sport and tool": ("hammer", "shovel", "golf_ball", "puck"),
    "vehicle": ("canoe", "limousine", "harvester", "wreck"),
}
FOLDS = 2
REGIMES = ("natural", "background")
#: Columns of the table: where a figure stands in what `latcli eval` prints.
_CELLS = ("natural", "background", "standard")
_VARIANTS = ("original", "only_fg", "only_bg_t", "mixed_same", "mixed_rand")


def make_folds(photos: Iterable[Path], folder: Path) -> list[Path]:
    """Two data sets of photos; what one trains on, the other tests on. Ends the program where a photo is missing."""
    named = {path.stem.partition("_")[2]: path for path in photos}
    missing = [name for names in GROUPS.values() for name in names if name not in named]
    if missing:
        sys.exit(f"no photo of {', '.join(missing)}")
    folds = [folder / f"fold {number}" for number in range(FOLDS)]
    for group, names in GROUPS.items():
        for index, name in enumerate(names):
            for number, fold in enumerate(folds):
                place = fold / ("test" if index % FOLDS == number else "train") / group
                place.mkdir(parents=True, exist_ok=True)
                copyfile(named[name], place / named[name].name)
    return folds


def told(*arguments: str) -> dict[str, Any]:
    """The document that `latcli ARGUMENTS --json` prints. Ends the program where latcli fails."""
    command = [sys.executable, "-m", "latcli", *arguments, "--quiet", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {shlex.join(command)}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def measured(fold: Path, seed: int, steps: int, attack_steps: int, store: Path) -> dict[str, dict[str, Any]]:
    """Train both regimes on a fold and evaluate them on its test photos: regime to its cells and its reliance."""
    shared = ["--dataset", f"folder:{fold}", "--store", str(store), "--seed", str(seed)]
    found_by = {"natural": [], "background": ["--detector", "cam"]}
    runs = {
        regime: told("train", "--regime", regime, "--steps", str(steps), *found_by[regime], *shared)["run"]
        for regime in REGIMES
    }
    asked = ["--reliance", "--steps", str(attack_steps), "--images", str(len(photo_files(fold / "test")))]
    return figures_of(told("eval", *runs.values(), "--detector", "cam", *asked, *shared))


def figures_of(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `latcli eval --reliance` found of each regime: shares, each behind the number of its photos, and runs."""
    cells = {(cell["model"], cell["input"]): cell for cell in evaluation["cells"]}
    found = {row["model"]: row["overall"] for row in evaluation["reliance"]}
    figures = {}
    for model in evaluation["models"]:
        run, whole = model["train_run"], found[model["id"]]
        attacked = {given: cells[run, given] for given in _CELLS}
        figures[model["regime"]] = {
            "runs": [run, evaluation["run"]],
            **{f"right, {given}": (cell["n"], cell["accuracy"]) for given, cell in attacked.items()},
            **{name: (whole["means"][name]["n"], whole["means"][name]["accuracy"]) for name in _VARIANTS},
            "gap": (whole["gap"]["n"], whole["gap"]["value"], whole["gap"]["standard_error"]),
        }
    return figures


def pooled(found: Sequence[tuple[int, float]]) -> float:
    """A share over all folds, each counted by its photos."""
    return sum(n * share for n, share, *_ in found) / sum(n for n, *_ in found)


def pooled_error(gaps: Sequence[tuple[int, float, float]]) -> float:
    """The standard error of the pooled gap: folds hold different photos."""
    return math.sqrt(sum((n * error) ** 2 for n, _, error in gaps)) / sum(n for n, *_ in gaps)


def show(results: Mapping[int, Sequence[Mapping[str, Mapping[str, Any]]]], record: Record) -> None:
    """A line for each regime and seed, in percent, and the mean over seeds. results: seed to what each fold gave."""
    columns = [*(f"right, {given}" for given in _CELLS), *_VARIANTS, "gap"]
    print(f"{'':16} " + " ".join(f"{name.removeprefix('right, ')[:10]:>10}" for name in columns) + "  error of gap")
    for regime in REGIMES:
        lines = []
        for seed, folds in results.items():
            shares = {name: 100 * pooled([fold[regime][name] for fold in folds]) for name in columns}
            error = 100 * pooled_error([fold[regime]["gap"] for fold in folds])
            runs = [fold[regime]["runs"] for fold in folds]
            record.add("background gap", regime=regime, seed=seed, error=error, runs=runs, **shares)
            lines.append([*shares.values(), error])
            print(f"{f'{regime}, {seed}':16} " + " ".join(f"{value:10.1f}" for value in lines[-1]))
        means = [fmean(values) for values in zip(*lines, strict=True)]
        print(f"{f'{regime}, mean':16} " + " ".join(f"{value:10.1f}" for value in means))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="runs and folds are kept here")
    for name, full, quick in (("steps", 100, 2), ("attack-steps", 20, 2), ("seeds", 3, 1)):
        parser.sized(name, full, quick)
    given = parser.read(arguments)
    record = begin("background_gap", given)
    folds = make_folds(photo_files(given.photos), given.store / "folds")
    results = {
        seed: [measured(fold, seed, given.steps, given.attack_steps, given.store) for fold in folds]
        for seed in range(given.seeds)
    }
    show(results, record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
