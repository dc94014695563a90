"""Trains many small networks in one process and scores them: does background training pay?

No timing: these are studies behind docs/reproduction.md. Each is a list of models; `--part I/N` takes every N-th.

schedule: the paper's own on MNIST, natural and background, with scores on the way.
search: settings of background training beside natural rivals, on images that are held out from training.
final: what the rows in `--tried` select, the rivals, and the same settings around a square at a random place, three
seeds, on the test images.
cifar: natural; from it natural for longer, standard and background; three seeds; the paper's loss matrix.

Each model adds a line to `--out` (JSON lines); models that have one there are left out, so that the same command goes
on after a kill. With `--start-epochs` a natural model is trained first, once for each seed, and the others go on from
it; `--cache` keeps it for all processes, and the data set's pixels. Published weights may have seen every training
image: where training starts from a file, every second test image is for validation, and the others are the test images.
Usage: `python -m benchmarks.background_search STUDY --cache DIR --out FILE [--dataset NAME] [...]`, and with
`--merge FILE...` the tables of several parts.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from filelock import FileLock
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.machine import machine
from benchmarks.record import Options
from latcli.commands.paper import CIFAR10, MNIST, Asked, Paper
from latcli.engine import registry
from latcli.engine.datasets.base import Dataset, DatasetSource, MaskSource
from latcli.engine.datasets.catalog import full_name, open_dataset
from latcli.engine.devices import open_device
from latcli.engine.evaluation.matrix import EvalSettings, Evaluation, Subject
from latcli.engine.evaluation.statistics import wilson_interval
from latcli.engine.models.catalog import CheckpointInfo, pack_classifier
from latcli.engine.models.weights import load_file
from latcli.engine.precision import gradient_model
from latcli.engine.scoring import adversarial_score, score_point
from latcli.engine.training.loop import DivergedError, Trainer, new_network
from latcli.engine.training.settings import PresetName, TrainSettings, resolve
from latcli.reporting.text import number_text
from latcli.results import ScorePoint, spread, to_json

Row = Mapping[str, Any]

#: Natural models as well tuned as the background models that they are held against.
RIVALS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    ", smoothing .05": {"label_smoothing": 0.05},
    ", smoothing .1": {"label_smoothing": 0.1},
    ", last weights": {"average": 0.0},
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    ", mix .5": {"mix": 0.5},
    ", TRADES 1": {"loss": "trades", "beta": 1.0},
    ", TRADES 6": {"loss": "trades", "beta": 6.0},
    ", smoothing .05": {"label_smoothing": 0.05},
    ", last weights": {"average": 0.0},
}
#: Those that are also tried around silhouettes instead of the middle, with `--otsu`.
_WITH_OTSU = ("", ", mix .5")
#: Selected by validation loss, as it is and with a temperature, among those that keep so much robustness.
_SELECTED, _KEPT = 2, 0.5
#: Images scored together.
_BATCH = 250


@dataclass(frozen=True)
class Job:
    """One model: its name in the tables, its seed, options of its training; `start`: no more than the natural start."""

    name: str
    seed: int
    options: Mapping[str, Any]
    start: bool = False


class TimeOverError(Exception):
    """`--minutes` are over before a model was done."""


class Bench:
    """The data on the device, and what all models of a study share."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.until = given, time.monotonic() + 60 * given.minutes
        self.device = open_device(given.device)
        name, source = full_name(given.dataset), DatasetSource(given.data, offline=True)
        decoded: Dataset = self._kept(f"data {name} {given.data}", lambda: open_dataset(name, source))
        self.data = decoded.to(self.device)
        self.architecture = given.architecture or self.data.defaults.architecture
        usual = (0.05, 0.1, 0.2, 0.3) if self.data.image_shape[0] == 1 else tuple(k / 255 for k in (1, 2, 4, 8))
        self.threats: dict[str, tuple[MaskSource, float]] = {
            f"center {number_text(epsilon)}": ("center", epsilon) for epsilon in given.epsilons or usual
        }
        if given.otsu:
            self.threats |= {name.replace("center", "otsu"): ("otsu", e) for name, (_, e) in self.threats.items()}

    def _kept(self, what: str, make: Callable[[], Any]) -> Any:
        """What the first process that asks for it makes; the others wait."""
        self.given.cache.mkdir(parents=True, exist_ok=True)
        path = self.given.cache / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.pt"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                partial = path.with_suffix(".part")
                torch.save(make(), partial)
                partial.replace(path)
        return torch.load(path, map_location="cpu", weights_only=False)

    def splits(self, seed: int) -> tuple[Dataset, Dataset]:
        """The training images with validation images in place of the test images, and with test images."""
        if self.given.study not in ("search", "final"):
            return self.data, self.data
        if self.given.classifier_weights is None:
            return self.data.split(self.given.validation, seed), self.data
        x_N, y_N = self.data.x_test, self.data.y_test
        odd, even = (replace(self.data, x_test=x_N[first::2], y_test=y_N[first::2]) for first in (1, 0))
        return odd, even

    def settings(self, data: Dataset, seed: int, options: Mapping[str, Any]) -> TrainSettings:
        """What the options of a job and those of the study mean."""
        given = self.given
        names = ("steps", "epochs", "batch", "attack", "attack_steps", "rate", "warm_up")
        shared = {name: value for name in names if (value := getattr(given, name)) is not None}
        if given.epochs:
            del shared["steps"]
        shared |= {"score_images": given.images, "step_size": None}
        preset: PresetName = "paper" if given.study == "schedule" else "standard"
        values = {**shared, **options}
        return resolve(values, data.defaults, preset=preset, train_count=data.train_count, seed=seed)

    def network(self, data: Dataset, seed: int) -> nn.Module:
        """With the weights that training starts from."""
        net, given = new_network(registry.load("architecture", self.architecture), data, seed), self.given
        if given.classifier_weights is not None:
            load_file(given.classifier_weights, lambda _: net, 0, lambda _: None)
        net = net.to(self.device)
        if not given.start_epochs:
            return net
        asked = {"regime": "natural", "batch": given.batch, "rate": given.start_rate, "epochs": given.start_epochs}
        settings = resolve(asked, data.defaults, train_count=data.train_count, seed=seed)
        known = f"start {self.architecture} {data.fingerprint} {given.classifier_weights} {settings}"
        net.load_state_dict(self._kept(known, lambda: self.train(net, data, settings)[0].state_dict()))
        return net

    def train(
        self,
        net: nn.Module,
        data: Dataset,
        settings: TrainSettings,
        on_point: Callable[[ScorePoint], None] | None = None,
    ) -> tuple[nn.Module, int]:
        """The network with the weights that count, in evaluation mode, and the steps done.

        Raises DivergedError; TimeOverError where `--minutes` are over and nobody looks at points on the way.
        """
        trainer = Trainer(net, data, settings, gradient_model(net, data.image_shape).form)
        while trainer.done < settings.steps:
            if time.monotonic() > self.until:
                if on_point is None:
                    raise TimeOverError
                break
            trainer.step()
            if on_point and trainer.done % self.given.test_every == 0:
                on_point(score_point(trainer))
        trainer.check_finite()
        trainer.net.load_state_dict(trainer.weights())
        return trainer.net.eval(), trainer.done

    def matrix(self, net: nn.Module, data: Dataset, settings: TrainSettings) -> dict[str, dict[str, Any]]:
        """n, loss and accuracy on natural inputs (all), under standard and under background attack."""
        about = {"epsilon": settings.epsilon, "center": settings.center, "steps": self.given.eval_steps}
        asked = EvalSettings(images=self.given.images, batch=_BATCH, **about)
        evaluation = Evaluation([Subject("model", net, gradient_model(net, data.image_shape))], data, asked)
        deque(evaluation.run(), maxlen=0)
        columns = {name: (len(one.right_N), *one.figures()) for name, one in evaluation.columns[0].items()}
        return {name: dict(zip(("n", "loss", "accuracy"), values, strict=True)) for name, values in columns.items()}

    def attacked(self, net: nn.Module, data: Dataset, settings: TrainSettings) -> dict[str, Any]:
        """n, loss and accuracy under the background attack of each threat."""
        fast, found = gradient_model(net, data.image_shape), {}
        for name, (mask, epsilon) in self.threats.items():
            threat = replace(settings, regime="background", mask_from=mask, epsilon=epsilon)
            found[name] = to_json(adversarial_score(net, fast, data, threat, steps=self.given.eval_steps))
        return found


@torch.no_grad()
def natural_figures(net: nn.Module, data: Dataset, temperature: float | None = None) -> dict[str, float]:
    """n, loss and accuracy on natural images, and the loss with that temperature, else with the one that fits best.

    Source: Guo et al., ICML'17. Temperatures are tried from 0.2 to 10 in steps of two per cent.
    """
    batches = list(data.testing(torch.split(torch.arange(data.test_count), _BATCH)))
    logits_NK = torch.cat([net(images.x_BCHW).float().cpu().double() for images in batches])
    y_N = torch.cat([images.y_B.cpu() for images in batches])

    def loss(one: float) -> float:
        return float(cross_entropy(logits_NK / one, y_N))

    fitted = temperature or min(torch.logspace(-0.7, 1.0, 200).tolist(), key=loss)
    right = float((logits_NK.argmax(dim=1) == y_N).double().mean())
    scaled = {"temperature": fitted, "loss at T": loss(fitted)}
    return {"n": len(y_N), "loss": loss(1.0), "accuracy": right, **scaled}


# the models of each study


def rivals(seeds: Iterable[int]) -> list[Job]:
    return [Job(f"natural{name}", seed, {"regime": "natural", **own}) for name, own in RIVALS.items() for seed in seeds]


def schedule_jobs(bench: Bench) -> list[Job]:
    seeds = range(bench.given.seeds)
    return [Job(regime, seed, {"regime": regime}) for regime in ("background", "natural") for seed in seeds]


def search_jobs(bench: Bench) -> list[Job]:
    jobs = rivals([0])
    for variant, own in VARIANTS.items():
        for threat, (mask, epsilon) in bench.threats.items():
            if mask == "center" or variant in _WITH_OTSU:
                options = {"regime": "background", "epsilon": epsilon, "mask_from": mask, **own}
                jobs.append(Job(f"background {threat}{variant}", 0, options))
    return jobs


def final_jobs(bench: Bench) -> list[Job]:
    wanted = ("search", bench.given.dataset)
    tried = [row for row in read_rows(bench.given.tried) if (row["study"], row["dataset"]) == wanted]
    names, seeds = selected(tried), range(bench.given.seeds)
    chosen = [Job(row["name"], seed, row["options"]) for row in tried if row["name"] in names for seed in seeds]
    # Is it the background that helps, or that few pixels change? As large a square elsewhere says.
    controls = [
        Job(one.name.replace("background", "random"), one.seed, {**one.options, "regime": "random"}) for one in chosen
    ]
    return chosen + rivals(seeds) + controls


def cifar_jobs(bench: Bench) -> list[Job]:
    further = {"background": "background", "natural, trained on": "natural", "standard": "standard"}
    seeds = range(bench.given.seeds)
    starts = [Job("natural", seed, {"regime": "natural"}, start=True) for seed in seeds]
    return starts + [Job(name, seed, {"regime": regime}) for name, regime in further.items() for seed in seeds]


STUDIES = {"schedule": schedule_jobs, "search": search_jobs, "final": final_jobs, "cifar": cifar_jobs}


def kept_robustness(row: Row, rows: Iterable[Row]) -> float:
    """How much it has of what the plain background model has beyond the natural one, under the attack of both.

    0 where that has nothing, or one of the two is not among the rows.
    """
    right = {one["name"]: one["attacked"][row["threat"]]["accuracy"] for one in rows}
    natural, plain = right.get("natural", 1.0), right.get(f"background {row['threat']}", 0.0)
    return (right[row["name"]] - natural) / (plain - natural) if plain > natural else 0.0


def selected(rows: Sequence[Row]) -> list[str]:
    """Names of the settings to be tried on test images, chosen on validation images alone."""
    able = [row for row in rows if row["regime"] == "background" and kept_robustness(row, rows) >= _KEPT]
    plain, scaled = (sorted(able, key=lambda row: row["validation"][key]) for key in ("loss", "loss at T"))
    return [row["name"] for row in (*plain[:_SELECTED], *scaled[:1])]


# running


def row_of(bench: Bench, job: Job) -> dict[str, Any]:
    """Train a model and score it."""
    given, begun = bench.given, time.monotonic()
    training, test = bench.splits(job.seed)
    settings = bench.settings(training, job.seed, job.options)
    row = {"study": given.study, "dataset": given.dataset, "name": job.name, "seed": job.seed}
    row |= {"regime": settings.regime, "threat": f"{settings.mask_from} {number_text(settings.epsilon)}"}
    row |= {"options": job.options, "settings": to_json(settings), "notes": bench.data.notes}
    row["device"] = torch.cuda.get_device_name() if bench.device.type == "cuda" else str(bench.device)
    on_point = (
        (lambda point: write_row(given.out, row | {"point": to_json(point)})) if given.study == "schedule" else None
    )
    net = bench.network(training, job.seed)
    try:
        net, row["steps"] = (net.eval(), 0) if job.start else bench.train(net, training, settings, on_point)
    except DivergedError as error:
        return row | {"failed": error.message}
    if given.study in ("schedule", "cifar"):
        row["matrix"] = bench.matrix(net, test, settings)
    else:
        row["validation"] = natural_figures(net, training)
        if given.study == "final":
            row["test"] = natural_figures(net, test, row["validation"]["temperature"])
        row["attacked"] = bench.attacked(net, test if given.study == "final" else training, settings)
    if given.keep is not None:
        keep(bench, job, net, settings)
    return row | {"seconds": time.monotonic() - begun}


def keep(bench: Bench, job: Job, net: nn.Module, settings: TrainSettings) -> None:
    """A checkpoint that `latcli eval` reads."""
    data, study, epsilon = bench.data, bench.given.study, settings.epsilon if settings.is_adversarial else 0.0
    about = (bench.architecture, data.image_shape, data.class_names, data.name, data.fingerprint)
    info = CheckpointInfo(*about, settings.regime, epsilon, settings.steps)
    name = f"{study} {data.fingerprint[:4]} {job.name} {job.seed}.safetensors"
    bench.given.keep.mkdir(parents=True, exist_ok=True)
    file = bench.given.keep / name.replace("/", "_").replace(",", "").replace(" ", "-")
    file.write_bytes(pack_classifier(net.state_dict(), info))


def write_row(out: Path, row: Row) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Models that are done, and points on the way; of what was run again the last."""
    rows = [json.loads(line) for file in files if file.exists() for line in file.read_text("utf-8").splitlines()]
    known = {
        (row["study"], row["dataset"], row["name"], row["seed"], row.get("point", {}).get("step")): row
        for row in rows
        if "name" in row and "failed" not in row
    }
    return list(known.values())


def run(given: argparse.Namespace) -> None:
    bench = Bench(given)
    part, parts = map(int, given.part.split("/"))
    done = {
        (row["study"], row["dataset"], row["name"], row["seed"]) for row in read_rows([given.out]) if "steps" in row
    }
    write_row(given.out, {"machine": machine(), "arguments": {name: str(value) for name, value in vars(given).items()}})
    for job in STUDIES[given.study](bench)[part - 1 :: parts]:
        if (given.study, given.dataset, job.name, job.seed) in done:
            continue
        try:
            row = row_of(bench, job)
        except TimeOverError:
            print(f"{given.minutes:g} minutes are over at {job.name}, seed {job.seed}")
            return
        write_row(given.out, row)
        print(f"{given.dataset}: {job.name}, seed {job.seed}: {row.get('failed') or round(row['seconds'])}", flush=True)
        gc.collect()  # a trainer and its recorded attack know each other
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


# tables


def text_of(cells: Sequence[Row], key: str) -> str:
    """Mean and deviation over seeds; accuracies in percent, of a single model with Wilson's interval."""
    if not cells:
        return "-"
    scale, decimals = (100, 2) if "accuracy" in key else (1, 4)
    values = [scale * cell[key] for cell in cells]
    deviation = spread(values)
    text = f"{fmean(values):.{decimals}f}"
    if deviation is not None:
        return f"{text} +- {deviation:.{decimals}f}"
    if key != "accuracy" or "n" not in cells[0]:
        return text
    low, high = wilson_interval(round(cells[0]["n"] * cells[0][key]), cells[0]["n"])
    return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"


def print_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    whole = [head, *lines]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for line in whole:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def show_points(rows: Iterable[Row]) -> None:
    """On the way: natural loss and accuracy, and those under the regime's own attack of ten steps."""
    keys, lines = ("loss", "accuracy", "attacked_loss", "attacked_accuracy"), []
    for (step, name), of in sorted(grouped(rows, lambda row: (row["point"]["step"], row["name"])).items()):
        cells = [[row["point"] for row in of if row["point"].get(key) is not None] for key in keys]
        texts = [text_of(points, key) for points, key in zip(cells, keys, strict=True)]
        lines.append([f"{step:,}", name, str(len(of)), *texts])
    print_table(["step", "model", "seeds", *keys], lines)


def show_matrix(rows: Sequence[Row], paper: Paper) -> None:
    """The loss matrix, and a verdict on each claim: of the means, and for how many seeds it holds alone."""
    inputs, keys = ("natural", "standard", "background"), ("loss", "accuracy")
    asked = [(given, key) for given in inputs for key in keys]
    lines = []
    for name, of in grouped(rows, lambda row: row["name"]).items():
        texts = [text_of([row["matrix"][given] for row in of], key) for given, key in asked]
        lines.append([name, str(len(of)), "/".join(str(row["steps"]) for row in of), *texts])
    counts = [f"{given} (n {rows[0]['matrix'][given]['n']:,}): {key}" for given, key in asked]
    print_table(["model", "seeds", "steps", *counts], lines)
    of_seeds: list[dict[Asked, float]] = [
        {(key, row["name"], given): row["matrix"][given][key] for row in of for given, key in asked}
        for of in grouped(rows, lambda row: row["seed"]).values()
    ]
    places = {place for figures in of_seeds for place in figures}
    means = {place: fmean(figures[place] for figures in of_seeds if place in figures) for place in places}
    for number, claim in enumerate(paper.claims, 1):
        holding = sum(claim.verdict(figures) == "holds" for figures in of_seeds)
        values = " and ".join(f"{means[one]:.4g}" if one in means else "-" for one in claim.asked)
        print(f"{number}. {claim.text}: {values}: {claim.verdict(means)} ({holding} of {len(of_seeds)})")


def show_settings(rows: Sequence[Row], part: str) -> None:
    """Natural figures of each setting, best first, and accuracy under the background attack of its epsilon and mask."""
    of_name = grouped(rows, lambda row: row["name"])
    chosen = selected(rows) if part == "validation" else list(of_name)
    keys, lines = ("loss", "accuracy", "temperature", "loss at T"), []
    for name, of in sorted(of_name.items(), key=lambda item: fmean(row[part]["loss"] for row in item[1])):
        line = ["*" * (name in chosen and part == "validation") + name, str(len(of))]
        line += [text_of([row[part] for row in of], key) for key in keys]
        if of[0]["regime"] != "natural":
            threat = of[0]["threat"]
            line.append(text_of([row["attacked"][threat] for row in of], "accuracy"))
            line.append(text_of([row["attacked"][threat] for row in of_name.get("natural", [])], "accuracy"))
            line.append(f"{kept_robustness(of[0], rows):.2f}" if part == "validation" else "")
        lines.append([*line, *[""] * (9 - len(line))])
    print(
        f"natural images: {part}, n {rows[0][part]['n']:,}; attacked: {next(iter(rows[0]['attacked'].values()))['n']:,}"
    )
    print_table(["model", "seeds", *keys, "background attack: accuracy", "natural model there", "kept"], lines)
    if part == "test":
        show_differences(of_name)


def show_differences(of_name: Mapping[str, Sequence[Row]]) -> None:
    """Each setting against the rival that is best on validation images, seed by seed."""
    for key in ("loss", "loss at T"):
        means = {name: fmean(row["validation"][key] for row in of) for name, of in of_name.items()}
        best = min((name for name in means if of_name[name][0]["regime"] == "natural"), key=means.__getitem__)
        rival = {row["seed"]: row["test"][key] for row in of_name[best]}
        for name, of in of_name.items():
            if of[0]["regime"] != "natural":
                gaps = [{"gap": row["test"][key] - rival[row["seed"]]} for row in of if row["seed"] in rival]
                lower = sum(one["gap"] < 0 for one in gaps)
                print(f"{key}: {name} minus {best}: {text_of(gaps, 'gap')}, lower for {lower} of {len(gaps)} seeds")


def show(rows: Sequence[Row]) -> None:
    """The tables of all studies that there are rows of."""
    for (study, dataset), here in grouped(rows, lambda row: (row["study"], row["dataset"])).items():
        done, points = ([row for row in here if part in row] for part in ("steps", "point"))
        seeds, devices = (", ".join(sorted({str(row[key]) for row in here})) for key in ("seed", "device"))
        print(f"\n{study}, {dataset}: {len(done)} models, seeds {seeds}; {devices}")
        if points:
            show_points(points)
        if done and study in ("schedule", "cifar"):
            show_matrix(done, MNIST if study == "schedule" else CIFAR10)
        elif done:
            show_settings(done, "validation" if study == "search" else "test")


def options() -> Options:
    parser = Options(__doc__)
    parser.add_argument("study", nargs="?", choices=STUDIES)
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="print the tables of these rows, no more")
    parser.add_argument("--tried", type=Path, nargs="+", metavar="FILE", help="rows of search, for final")
    for name, about in (("cache", "decoded data and natural starts"), ("keep", "checkpoints for latcli eval")):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=about)
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th model, beginning with the I-th")
    parser.add_argument("--minutes", type=float, default=1e6, help="take no step after so many")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--architecture", help="default: the data set's")
    parser.add_argument("--classifier-weights", type=Path, metavar="FILE")
    parser.add_argument("--epsilons", type=lambda text: [float(Fraction(one)) for one in text.split(",")])
    parser.add_argument("--otsu", action="store_true", help="silhouettes, too")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the training images")
    parser.add_argument("--attack", default="pgd", help="the inner attack")
    parser.add_argument("--rate", type=float, help="default: the preset's")
    parser.add_argument("--warm-up", type=float, help="default: the preset's")
    parser.add_argument("--epochs", type=int, help="in place of --steps")
    parser.add_argument("--start-epochs", type=int, default=0)
    parser.add_argument("--start-rate", type=float, default=1e-3)
    for name, full, quick in (("steps", 4000, 4), ("batch", 128, 16), ("attack-steps", 3, 1), ("seeds", 3, 1)):
        parser.sized(name, full, quick)
    for name, full, quick in (("test-every", 5000, 2), ("images", 1000, 50), ("eval-steps", 20, 2)):
        parser.sized(name, full, quick)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options()
    given = parser.read(arguments)
    if not given.merge:
        if not (given.study and given.cache and given.out) or (given.study == "final" and not given.tried):
            parser.error("give a study, --cache and --out, and for final --tried; or --merge")
        run(given)
    show(read_rows(given.merge or [given.out]))


if __name__ == "__main__":
    main()
