"""Runs all benchmarks, or those named, one after the other, each a process of its own, and prints one table of ratios.

    python -m benchmarks [BENCHMARK...] [--quick] [--photos FOLDER] [--out FILE]

What each found stands in FILE with the machine, the load before and after, and what others did meanwhile; it is written
after each, so that a run that was cut off keeps what it has. Must not know what any of them times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import in_words, machine
from benchmarks.record import Options, table, write


@dataclass(frozen=True)
class Benchmark:
    """What it shows, and about how many minutes it takes on two quiet cores."""

    about: str
    minutes: int
    photos: bool = False


BENCHMARKS = {
    "peers": Benchmark("PGD beside torchattacks, foolbox and ART on five networks", 15, photos=True),
    "robust_accuracy": Benchmark("latcli eval --until-wrong beside torchattacks", 6),
    "training_step": Benchmark("a training step beside the plain loop", 1),
    "cold_start": Benchmark("where the seconds of a first photo go", 3),
    "photo_folder": Benchmark("folders of photos: together, one by one, a process each", 8, photos=True),
    "report_speed": Benchmark("latcli report on 2,000 runs", 3),
    "sweeps": Benchmark("cost and memory against batch, image size, steps, photos", 9, photos=True),
    "forms": Benchmark("the form that the rule chooses beside all others, on five networks", 3),
}

#: What a shell says of a process that was interrupted.
_INTERRUPTED = 130


def ran(name: str, quick: bool, photos: Path | None) -> dict[str, Any]:
    """What one benchmark found; its output goes to the terminal as it comes."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        options = ["--quick"] * quick + (["--photos", str(photos)] if photos and BENCHMARKS[name].photos else [])
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options, "--out", str(out)], check=False)
        found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        return {"exit_code": done.returncode, "seconds": time.perf_counter() - begun, **found}


def summary(results: Mapping[str, Mapping[str, Any]]) -> None:
    """One table of all ratios, then what was left out and what failed."""
    print("\nHow many times as long as latcli (or as the form it chose) each takes:\n")
    for line in table(row for found in results.values() for row in found.get("ratios", [])):
        print(line)
    for name, found in results.items():
        for note in found.get("notes", []):
            print(f"{name}: {note}")
        if found["exit_code"]:
            print(f"{name}: failed with exit code {found['exit_code']}")


def options() -> Options:
    lines = [f"  {name:16} {one.about} ({one.minutes} min)" for name, one in BENCHMARKS.items()]
    parser = Options(__doc__)
    parser.epilog = "\n".join(["benchmarks and about how long they take on two quiet cores:", *lines])
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="default: all")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photos for those that take any")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = options()
    given = parser.read(arguments)
    unknown = [name for name in given.benchmarks if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark '{unknown[0]}': {', '.join(BENCHMARKS)}")
    names = list(dict.fromkeys(given.benchmarks or BENCHMARKS))
    document: dict[str, Any] = {"machine": machine(), "quick": given.quick, "results": {}}
    expected = "" if given.quick else f"; about {sum(BENCHMARKS[name].minutes for name in names)} minutes in all"
    print(in_words(document["machine"]) + expected)
    try:
        for name in names:
            print(f"\n== {name}: {BENCHMARKS[name].about}", flush=True)
            document["results"][name] = ran(name, given.quick, given.photos)
            if given.out:
                write(given.out, document)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        summary(document["results"])
    return int(any(found["exit_code"] for found in document["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
