"""What an attack costs against batch size, image size, steps and number of photos: is it linear, is memory flat?

    python -m benchmarks.sweeps [SWEEP...] [--photos FOLDER]

Each point is a process of its own, so that its peak memory is its own; the attack is timed inside of it, warm, several
times, and folders of photos as whole processes of `latcli attack`. This module does not import torch before it is such
a process: what a parent has grown to would show in the peak memory of its children.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.machine import Neighbours
from benchmarks.photo_folder import timed
from benchmarks.photos import add_photos, carried, copies, given_photos
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import Spread, spread

#: Share that a point may lie off the line, and that the highest peak may exceed the lowest where memory is to be flat.
STRAIGHT, FLAT = 0.15, 0.1


@dataclass(frozen=True)
class Sweep:
    """What varies (an option of a point), the sizes of a whole run and of a quick one, and what stays.

    of: from an option's value to the size which cost is held against. grows: whether memory may grow with it.
    """

    about: str
    network: str
    option: str
    full: tuple[int, ...]
    quick: tuple[int, ...]
    fixed: Mapping[str, int] = field(default_factory=dict)
    unit: str = ""
    of: Callable[[int], float] = float
    grows: bool = True


_FIVE = {"steps": 5}
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_OWN = "one photo at its own resolution, EfficientNet-Lite0, 5 steps"
_SIDES, _STEPS = (224, 448, 896, 1344, 1792), (1, 2, 5, 10, 20, 50, 100)
SWEEPS = {
    "batch-cnn": Sweep("paper's CNN, 5 steps", "cnn", "batch", _BATCHES, (1, 8), _FIVE, "image"),
    "batch-lite0": Sweep("EfficientNet-Lite0, 5 steps", "lite0", "batch", _BATCHES[:5], (1, 2), _FIVE, "image"),
    "size": Sweep(_OWN, "photo", "side", _SIDES, (224, 448), _FIVE, "megapixel", lambda side: side * side / 1e6),
    "steps": Sweep("paper's CNN, batch 64", "cnn", "steps", _STEPS, (1, 4), {"batch": 64}, "step", grows=False),
}
_PHOTOS = Sweep(
    "latcli attack FOLDER, whole processes", "", "photos", (8, 16, 32, 64), (2, 4), {}, "photo", grows=False
)


# one point, in a process of its own


def batch_attack(given: argparse.Namespace) -> Callable[[], object]:
    """PGD on a batch of images at the network's own size."""
    import torch

    from benchmarks.problems import fresh_cnn, lite0
    from latcli.engine.attacks.contract import run_attack
    from latcli.engine.attacks.pgd import pgd
    from latcli.engine.attacks.settings import AttackSettings
    from latcli.engine.noise import item_seeds

    case = fresh_cnn(given.batch) if given.point == "cnn" else lite0(None, given.batch)
    form, eps_B1HW = case.gradient_form(), torch.full_like(case.x_BCHW[:, :1], case.epsilon)
    y_B, seeds_B = case.labels(), item_seeds(0, torch.arange(len(case.x_BCHW)))
    return lambda: run_attack(pgd, form, case.x_BCHW, y_B, eps_B1HW, AttackSettings(steps=given.steps), seeds_B)


def photo_attack(given: argparse.Namespace) -> Callable[[], object]:
    """The attack on square photos at their own resolution, from the canvas to the scored PNG; gradients in fp32."""
    import numpy as np

    from latcli.engine.api import open_attacker
    from latcli.engine.attacks.settings import AttackSettings
    from latcli.engine.images import read_photo
    from latcli.engine.objects import ObjectSettings
    from latcli.engine.photos import PhotoSettings

    settings = PhotoSettings(attack=AttackSettings(steps=given.steps), precision="fp32")
    attacker = open_attacker(settings, ObjectSettings(center=0.5), device="cpu", offline=True)
    photo = read_photo(carried()[0])
    levels_HWC = np.asarray(photo.image.resize((given.side, given.side)))
    threat = attacker.threat(attacker.locate(replace(photo, levels_HWC=levels_HWC, resized=True)))
    return lambda: attacker.attack_batch([threat] * given.batch)


def point(given: argparse.Namespace) -> list[float]:
    """Seconds of each repetition."""
    attack = (photo_attack if given.point == "photo" else batch_attack)(given)
    attack()  # warms up
    seconds = []
    for _ in range(given.repeats):
        begun = perf_counter()
        attack()
        seconds.append(perf_counter() - begun)
    return seconds


# all points


def process(sweep: Sweep, value: int, repeats: int) -> tuple[Spread, float]:
    """Seconds of one point, and the peak memory of its process in MiB."""
    values = {**sweep.fixed, sweep.option: value, "repeats": repeats}
    options = [f"--point={sweep.network}", *(f"--{name}={given}" for name, given in values.items())]
    beside = Neighbours()
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.sweeps", *options], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"a point of the sweep failed: {' '.join(options)}")
    return spread(json.loads(printed), beside.busy()), usage.ru_maxrss / 1024


def folders(sizes: Sequence[int], photos: list[Path], steps: int) -> dict[int, tuple[Spread, float]]:
    """Whole processes of `latcli attack FOLDER`, with the carried classifier, its activation map and the pictures."""
    points = {}
    with TemporaryDirectory() as name:
        for size in sizes:
            folder = copies(photos, size, Path(name, str(size)))
            beside = Neighbours()
            seconds, mebibytes = timed(folder, "--steps", str(steps), "--store", Path(name, f"store {size}"))
            points[size] = spread([seconds], beside.busy()), mebibytes
    return points


def fit(costs: Mapping[float, float]) -> tuple[float, float, float]:
    """Constant and slope of the line through cost by size with the least sum of squared relative residuals; the worst.

    Relative, since clocks err in proportion: the largest point would decide alone otherwise. The worst residual is a
    share of its point. Needs two sizes, and costs above 0.
    """
    weights = {size: cost**-2 for size, cost in costs.items()}
    total = sum(weights.values())
    middle = sum(weights[size] * size for size in costs) / total
    level = sum(weights[size] * cost for size, cost in costs.items()) / total
    width = sum(weights[size] * (size - middle) ** 2 for size in costs)
    slope = sum(weights[size] * (size - middle) * (cost - level) for size, cost in costs.items()) / width
    constant = level - slope * middle
    return constant, slope, max(abs(constant + slope * size - cost) / cost for size, cost in costs.items())


def show(name: str, sweep: Sweep, points: Mapping[int, tuple[Spread, float]], record: Record) -> None:
    """The points as a table; whether time is linear, and whether memory is flat where it should be."""
    print(f"  {sweep.option:>8} {'ms':>10} {'low-high':>19} {'ms each':>10} {'MiB':>7}")
    costs, memory = {}, {}
    for value, (seconds, mebibytes) in points.items():
        size = sweep.of(value)
        low, middle, high = (1000 * part for part in (seconds.lowest, seconds.median, seconds.highest))
        costs[size], memory[size] = middle, mebibytes
        mark, width = "*" if seconds.disturbed else "", f"{low:.1f}-{high:.1f}"
        print(f"  {value:8} {middle:10.1f}{mark:1} {width:>18} {middle / size:10.2f} {mebibytes:7.0f}")
        row = {**asdict(seconds), "disturbed": seconds.disturbed, "mebibytes": mebibytes}
        record.add(name, **{sweep.option: value}, size=size, **row)
    constant, slope, off = fit(costs)
    linear = off <= STRAIGHT if len(costs) > 2 else None  # any two points lie on a line
    verdict = {True: "linear", False: "not linear", None: "two points say nothing"}[linear]
    print(f"  time: {constant:.1f} ms + {slope:.2f} ms a {sweep.unit}; off by at most {100 * off:.0f} %: {verdict}")
    growth = max(memory.values()) / min(memory.values()) - 1.0
    flat = None if sweep.grows else growth <= FLAT
    if sweep.grows:
        base, more, _ = fit(memory)
        print(f"  memory: {base:.0f} MiB + {more:.2f} MiB a {sweep.unit}")
    else:
        print(f"  memory: highest {100 * growth:.0f} % above lowest: {'flat' if flat else 'not flat'}")
    line = {"constant": constant, "slope": slope, "off": off, "linear": linear}
    record.add("verdict", sweep=name, **line, growth=growth, flat=flat)


def main(arguments: Sequence[str] | None = None) -> None:
    sweeps = {**SWEEPS, "photos": _PHOTOS}
    parser = Options(__doc__)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=", ".join(sweeps))
    add_photos(parser)
    parser.sized("repeats", 5, 1)
    parser.add_argument("--point", choices=("cnn", "lite0", "photo"), help=argparse.SUPPRESS)
    for name, default in (("batch", 1), ("side", 224), ("steps", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=argparse.SUPPRESS)
    given = parser.read(arguments)
    if given.point:
        print(json.dumps(point(given)))
        return
    unknown = [name for name in given.sweeps if name not in sweeps]
    if unknown:
        parser.error(f"there is no sweep '{unknown[0]}': {', '.join(sweeps)}")
    record = begin("sweeps", given)
    for name in given.sweeps or sweeps:
        sweep = sweeps[name]
        values = sweep.quick if given.quick else sweep.full
        print(f"\n{name}: {sweep.about}", flush=True)
        if name == "photos":
            points = folders(values, given_photos(given.photos), 1 if given.quick else 10)
        else:
            points = {value: process(sweep, value, given.repeats) for value in values}
        show(name, sweep, points, record)
    record.finish(given.out)


if __name__ == "__main__":
    main()
