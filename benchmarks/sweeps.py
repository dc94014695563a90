"""What an attack costs against batch size, image size, steps and number of photos: is it linear, is memory flat?

Each point is a process of its own, so that its peak memory is its own; the attack is timed inside of it, warm, several
times, and folders of photos as whole processes of `latcli attack`. The form of gradients is chosen once for each sweep,
at its largest point. Usage: `python -m benchmarks.sweeps [SWEEP...] [--photos FOLDER]`. Must not import torch: what a
process has grown to would show in the peak memory of its children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lines import FLAT, fit, growth
from benchmarks.machine import Neighbours
from benchmarks.photo_folder import timed
from benchmarks.photos import add_photos, copies, given_photos
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import Spread, spread


@dataclass(frozen=True)
class Point:
    """Seconds of an attack at one size, and the peak memory of its process in MiB."""

    seconds: Spread
    mebibytes: float


@dataclass(frozen=True)
class Sweep:
    """What varies, the sizes of a whole run and of a quick one, and what stays.

    option: the option of `benchmarks.sweep_point` that varies. of: from that to the size which cost is held against.
    grows: whether memory may grow with it.
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


SWEEPS = {
    "batch-cnn": Sweep(
        "paper's CNN, 5 steps", "cnn", "batch", (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 8), {"steps": 5}, "image"
    ),
    "batch-lite0": Sweep(
        "EfficientNet-Lite0, 5 steps", "efficientnet_lite0", "batch", (1, 2, 4, 8, 16), (1, 2), {"steps": 5}, "image"
    ),
    "size": Sweep(
        "one photo at its own resolution, EfficientNet-Lite0, 5 steps",
        "photo",
        "side",
        (224, 448, 896, 1344, 1792),
        (224, 448),
        {"steps": 5},
        "megapixel",
        lambda side: side * side / 1e6,
    ),
    "steps": Sweep(
        "paper's CNN, batch 64", "cnn", "steps", (1, 2, 5, 10, 20, 50, 100), (1, 4), {"batch": 64}, "step", grows=False
    ),
}

_PHOTOS = "photos"


def process(sweep: Sweep, value: int, form: str, repeats: int) -> tuple[Point, str]:
    """One point, and the form that it took."""
    told = {**sweep.fixed, sweep.option: value, "form": form, "repeats": repeats}
    options = [f"--{name}={given}" for name, given in told.items()]
    command = [sys.executable, "-m", "benchmarks.sweep_point", sweep.network, *options]
    beside = Neighbours()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"a point of the sweep failed: {' '.join(command)}")
    found = json.loads(said)
    return Point(spread(found["seconds"], beside.busy()), usage.ru_maxrss / 1024), found["form"]


def run(name: str, sweep: Sweep, quick: bool, repeats: int, record: Record) -> None:
    values = sweep.quick if quick else sweep.full
    _, form = process(sweep, values[-1], "auto", 1)
    print(f"\n{name}: {sweep.about}, {form}", flush=True)
    points = {value: process(sweep, value, form, repeats)[0] for value in values}
    sizes = {value: sweep.of(value) for value in values}
    show(name, sweep.option, sweep.unit, sizes, points, sweep.grows, record)


def folders(photos: list[Path], counts: Sequence[int], steps: int, record: Record) -> None:
    """Whole processes of `latcli attack FOLDER`, with the carried classifier, its activation map and the pictures."""
    print(f"\n{_PHOTOS}: latcli attack FOLDER, {steps} steps, whole processes", flush=True)
    points = {}
    with TemporaryDirectory() as name:
        for count in counts:
            folder = copies(photos, count, Path(name, str(count)))
            beside = Neighbours()
            seconds, mebibytes = timed(folder, "--steps", str(steps), "--store", Path(name, f"store {count}"))
            points[count] = Point(spread([seconds], beside.busy()), mebibytes)
    show(_PHOTOS, "photos", "photo", {count: float(count) for count in counts}, points, False, record)


def show(
    name: str,
    option: str,
    unit: str,
    sizes: Mapping[int, float],
    points: Mapping[int, Point],
    grows: bool,
    record: Record,
) -> None:
    """The points as a table, and what line they lie on."""
    print(f"  {option:>8} {'ms':>10} {'low-high':>19} {'ms each':>10} {'MiB':>7}")
    for value, point in points.items():
        low, middle, high = (
            1000 * part for part in (point.seconds.lowest, point.seconds.median, point.seconds.highest)
        )
        mark = "*" if point.seconds.disturbed else ""
        width = f"{low:.1f}-{high:.1f}"
        each = middle / sizes[value]
        print(f"  {value:8} {middle:10.1f}{mark:1} {width:>18} {each:10.2f} {point.mebibytes:7.0f}")
        told = {**asdict(point.seconds), "disturbed": point.seconds.disturbed, "mebibytes": point.mebibytes}
        record.add(name, **{option: value}, size=sizes[value], **told)
    costs = {sizes[value]: 1000 * point.seconds.median for value, point in points.items()}
    memory = {sizes[value]: point.mebibytes for value, point in points.items()}
    judge(name, unit, costs, memory, grows, record)


def judge(
    name: str, unit: str, costs: Mapping[float, float], memory: Mapping[float, float], grows: bool, record: Record
) -> None:
    """Is the time linear, and is memory flat where it should be?"""
    time, space, more = fit(costs), fit(memory), growth(memory)
    known = len(costs) > 2  # any two points lie on a line
    verdict = ("linear" if time.is_straight else "not linear") if known else "two points say nothing"
    print(f"  time: {time.constant:.1f} ms + {time.slope:.2f} ms a {unit}; ", end="")
    print(f"off by at most {100 * time.off:.0f} %: {verdict}")
    if grows:
        print(f"  memory: {space.constant:.0f} MiB + {space.slope:.2f} MiB a {unit}; ", end="")
        print(f"off by at most {100 * space.off:.0f} %")
    else:
        print(f"  memory: highest {100 * more:.0f} % above lowest: {'flat' if more <= FLAT else 'not flat'}")
    told = {
        "milliseconds": asdict(time),
        "linear": time.is_straight if known else None,
        "mebibytes": asdict(space),
        "growth": more,
    }
    record.add("verdict", sweep=name, **told, flat=None if grows else more <= FLAT)


def main(arguments: Sequence[str] | None = None) -> None:
    names = (*SWEEPS, _PHOTOS)
    parser = Options(__doc__)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=", ".join(names))
    add_photos(parser)
    parser.sized("repeats", 5, 1)
    given = parser.read(arguments)
    unknown = [name for name in given.sweeps if name not in names]
    if unknown:
        parser.error(f"there is no sweep '{unknown[0]}': {', '.join(names)}")
    record = begin("sweeps", given)
    work = {name: partial(run, name, sweep, given.quick, given.repeats, record) for name, sweep in SWEEPS.items()}
    counts, steps = ((2, 4), 1) if given.quick else ((8, 16, 32, 64), 10)
    work[_PHOTOS] = partial(folders, given_photos(given.photos), counts, steps, record)
    for name in given.sweeps or names:
        work[name]()
    record.finish(given.out)


if __name__ == "__main__":
    main()
