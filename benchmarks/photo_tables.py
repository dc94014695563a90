"""Tables of stored runs of `latcli attack` on photos, with 95 % intervals, as docs/objects.md quotes them.

No timing. A line for each detector, objective and epsilon: what of the photos may change, in how many the right class
is among the first guesses before and after, and the confidence in it. Shares of photos have Wilson's interval, means
that of a bootstrap over photos, medians that of order statistics. `--cutouts` asks the classifier for the object alone
and for the background alone, cut along the masks of folders that `latcli mask --out` wrote; the photos must lie where
they lay.
Usage: `python -m benchmarks.photo_tables RUN... --store DIR [--folders paper9,more41] [--cutouts MASKS...]`. Several
runs of one detector, objective and epsilon count as one, in which a photo's last result counts; with `--as NAME` all
runs do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from benchmarks.record import Options, Record, begin
from latcli.engine.devices import open_device
from latcli.engine.evaluation.reliance import only_bg_b, only_fg
from latcli.engine.evaluation.statistics import bootstrap_means, mcnemar_p_value, percentile_interval, wilson_interval
from latcli.engine.images import read_photo
from latcli.engine.models.catalog import open_classifier
from latcli.engine.models.classifier import Classifier, ClassifierSource, predict
from latcli.engine.photo_files import MaskFolder, read_mask
from latcli.results import AttackedPhoto, from_columns
from latcli.store.store import Store

#: The option `--detector`, objective and epsilon of the photos that make one line.
Setting = tuple[str, str, float]
#: A result, and the classifier's name.
Stored = tuple[AttackedPhoto, str]

RANKS = (1, 5, 10)


def stored_photos(
    store: Path, runs: Iterable[str], folders: Sequence[str], detector: str | None = None
) -> dict[Setting, list[Stored]]:
    """The results of these runs, of photos whose folder has one of these names (any, where there is none).

    `detector` takes the place of the runs' own.
    """
    found: dict[Setting, dict[str, Stored]] = {}
    with Store.open_existing(store) as opened:
        for row in map(opened.find_run, runs):
            for values in opened.rows_of(row.id, "attacks"):
                photo = from_columns(AttackedPhoto, values)
                if not folders or Path(photo.image).parent.name in folders:
                    setting = (detector or str(row.config["detector"]), str(values["objective"]), photo.epsilon)
                    found.setdefault(setting, {})[photo.sha256] = (photo, str(values["classifier"]))
    return {setting: list(found[setting].values()) for setting in sorted(found)}


# figures with their intervals


def mean_text(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The mean and the middle 95 % of 1,000 resampled means."""
    low, high = percentile_interval(bootstrap_means(torch.tensor(values, dtype=torch.float64)[:, None], seed=0)[:, 0])
    return f"{form(statistics.fmean(values))} ({form(low)} to {form(high)})"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The order statistics that hold the median of the population with at least 95 %, the extremes where none do."""
    ordered, n = sorted(values), len(values)
    below, place = 0.0, 0
    while place < n // 2 and (below := below + comb(n, place) / 2**n) <= 0.025:
        place += 1
    place = max(0, place - 1)
    return ordered[place], ordered[n - 1 - place]


def median_text(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median and its interval."""
    low, high = median_interval(values)
    return f"{form(statistics.median(values))} ({form(low)} to {form(high)})"


def count_text(found: Sequence[bool]) -> str:
    """How many of how many, and Wilson's interval of the share in percent."""
    low, high = wilson_interval(sum(found), len(found))
    return f"{sum(found)} of {len(found)} ({100 * low:.0f}-{100 * high:.0f} %)"


def fall_text(photos: Sequence[AttackedPhoto]) -> str:
    """The share of the mean confidence that is lost, in percent; before and after are resampled together."""
    both = torch.tensor([[one.clean.confidence, one.adversarial.confidence] for one in photos], dtype=torch.float64)
    means_R2 = bootstrap_means(both, seed=0)
    low, high = percentile_interval(1.0 - means_R2[:, 1] / means_R2[:, 0])
    before, after = both.mean(dim=0).tolist()
    return f"{100 - 100 * after / before:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def line_of(photos: Sequence[AttackedPhoto], side: Literal["clean", "adversarial"]) -> dict[str, str]:
    """The figures of one line, by the heads of their columns."""
    predictions = [one.clean if side == "clean" else one.adversarial for one in photos]
    confidences = [one.confidence for one in predictions]
    return {
        "background": mean_text([one.background_percent for one in photos], lambda value: f"{value:.1f}") + " %",
        **{f"top {rank}": count_text([one.rank <= rank for one in predictions]) for rank in RANKS},
        "mean p": mean_text(confidences, lambda value: f"{value:.2g}"),
        "median p": median_text(confidences, lambda value: f"{value:.2g}"),
        "mean p falls by": "" if side == "clean" else fall_text(photos),
    }


def compared(first: Sequence[Stored], second: Sequence[Stored], rank: int) -> tuple[int, int, int, float]:
    """Of the photos that both have: how many, in how many the class stays so high under one alone, and the p-value."""
    high: list[dict[str, bool]] = [
        {one.sha256: one.adversarial.rank <= rank for one, _ in photos} for photos in (first, second)
    ]
    both = high[0].keys() & high[1].keys()
    only = [sum(mine[one] and not other[one] for one in both) for mine, other in (high, high[::-1])]
    return len(both), only[0], only[1], mcnemar_p_value(*only)


# the object alone, the background alone


def cut_ranks(photos: Iterable[AttackedPhoto], masks: MaskFolder, classifier: Classifier) -> dict[str, list[int]]:
    """The rank of the right class when a part of each photo is all there is."""
    ranks: dict[str, list[int]] = {"object alone": [], "background alone": [], "background outside its box": []}
    for one in photos:
        photo = read_photo(Path(one.image))
        object_HW = read_mask(masks.mask_of(Path(one.image)), photo.size)[0][0].numpy() >= 0.5
        parts = (
            only_fg(photo.levels_HWC, object_HW),
            only_fg(photo.levels_HWC, ~object_HW),
            only_bg_b(photo.levels_HWC, object_HW),
        )
        x_BChw = torch.stack([classifier.preprocessing.read(Image.fromarray(part)) for part in parts])
        for name, found in zip(ranks, predict(classifier, x_BChw, [one.label.index] * len(parts)), strict=True):
            ranks[name].append(found.rank)
    return ranks


# printing


def show(title: str, lines: Mapping[str, Mapping[str, str]], record: Record) -> None:
    """A Markdown table, its first column the names of the lines."""
    heads = list(next(iter(lines.values())))
    print(f"\n{title}\n\n| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name, line in lines.items():
        print(f"| {name} | {' | '.join(line.values())} |")
        record.add(title, line=name, **{head.replace(" ", "_"): value for head, value in line.items()})


def name_of(setting: Setting) -> str:
    """A setting in words."""
    detector, objective, epsilon = setting
    return f"{detector}, {epsilon * 255:g}/255" + ("" if objective == "ce" else f", {objective}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs of latcli attack: ends of ids, or names")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR")
    parser.add_argument("--folders", default="", metavar="A,B,...", help="only photos of folders of these names")
    parser.add_argument("--as", dest="detector", metavar="NAME", help="count all runs as this detector's")
    parser.add_argument("--cutouts", nargs="+", default=[], type=Path, metavar="MASKS", help="folders of masks")
    given = parser.read(arguments)
    record = begin("photo_tables", given)
    found = stored_photos(given.store, given.runs, [*filter(None, given.folders.split(","))], given.detector)
    lines: dict[str, dict[str, str]] = {}
    for setting, stored in found.items():
        photos = [one for one, _ in stored]
        lines.setdefault(f"{setting[0]}, clean", line_of(photos, "clean"))
        lines[name_of(setting)] = line_of(photos, "adversarial")
    show("attacks", lines, record)
    for (first, mine), (second, others) in combinations(found.items(), 2):
        if first[2] == second[2]:
            for rank in (1, 10):
                both, only_first, only_second, p = compared(mine, others, rank)
                said = f"{name_of(first)} | {name_of(second)}: of {both} photos in both, right class in the top {rank}"
                print(f"{said} only under the first {only_first}, only under the second {only_second}, p = {p:.2g}")
    if given.cutouts:
        show("cutouts", cut_lines(next(iter(found.values())), given.cutouts), record)
    record.finish(given.out)


def cut_lines(photos: Sequence[Stored], folders: Iterable[Path]) -> dict[str, dict[str, str]]:
    """A line for each folder of masks, named as the folder is."""
    classifier = open_classifier(photos[0][1], ClassifierSource(offline=True), open_device("cpu"))
    attacked = [one for one, _ in photos]
    lines = {}
    for folder in folders:
        whole = {"whole photo": [one.clean.rank for one in attacked]}
        ranks = whole | cut_ranks(attacked, MaskFolder(folder), classifier)
        lines[folder.name] = {
            f"{part}, top {rank}": count_text([one <= rank for one in of_part])
            for part, of_part in ranks.items()
            for rank in (1, 5)
        }
    return lines


if __name__ == "__main__":
    main()
