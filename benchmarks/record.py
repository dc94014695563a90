"""What a benchmark found, as one JSON document and one table of ratios; its options; must not know what was timed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Neighbours, in_words, load, machine
from benchmarks.rounds import Spread
from latcli.results import to_json as plain
from latcli.store.schema import utc_now


@dataclass
class Record:
    """Machine, settings and results of one benchmark. Seeds are fixed: 0 everywhere.

    ratios: rows of `add_ratio`. rows: everything else that was printed, each with the name of its table. notes: what
    was left out, and why.
    """

    benchmark: str
    settings: Mapping[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)
    seed: int = 0
    ratios: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._neighbours = Neighbours()

    def add_ratio(self, problem: str, peer: str, ratio: Spread, reached: Sequence[float | None] = ()) -> None:
        """How many times as long the peer takes; `reached` is the success of ours and of theirs, in percent."""
        ours, theirs = reached or (None, None)
        told = {"problem": problem, "peer": peer, **asdict(ratio), "disturbed": ratio.disturbed}
        self.ratios.append({**told, "ours_reached": ours, "peer_reached": theirs})

    def add(self, table: str, **values: Any) -> None:
        """A row of one of its tables."""
        self.rows.append({"table": table, **values})

    def note(self, text: str) -> None:
        """Say what was left out, here and in the document."""
        self.notes.append(text)
        print(text)

    def finish(self, out: Path | None) -> None:
        """Note what ran beside it, and write the document where one is wanted."""
        self.machine["others"] = self._neighbours.busy()
        self.machine["load_after"] = load()
        self.machine["ended"] = utc_now()
        if out:
            write(out, {name: value for name, value in vars(self).items() if not name.startswith("_")})


def write(out: Path, document: Mapping[str, Any]) -> None:
    """A JSON document, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".part")
    partial.write_text(json.dumps(plain(document), indent=1) + "\n", encoding="utf-8")
    partial.replace(out)


def table(ratios: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Lines of at most 80 columns: each ratio with its spread, and the success that each side reached."""
    yield f"{'':35} {'peer / latcli':>13} {'median':>6} {'low-high':>11} {'reached %':>11}"
    disturbed = False
    for row in ratios:
        sides = [row["ours_reached"], row["peer_reached"]]
        reached = (
            "/".join("-" if side is None else f"{side:.1f}" for side in sides)
            if any(side is not None for side in sides)
            else ""
        )
        mark = "*" if row["disturbed"] else ""
        disturbed |= bool(mark)
        width = f"{row['lowest']:.2f}-{row['highest']:.2f}"
        place = f"{row['problem'][:35]:35} {row['peer'][:13]:>13}"
        yield f"{place} {row['median']:5.2f}{mark:1} {width:>11} {reached:>11}".rstrip()
    if disturbed:
        yield "* disturbed: other work beside it, or rounds that differ by more than 20 %"


@dataclass(frozen=True)
class Sized:
    """A default of the whole run and one of `--quick`."""

    full: Any
    quick: Any


class Options(argparse.ArgumentParser):
    """Options of a benchmark: all have `--quick` and `--out`; `sized` adds those that `--quick` makes smaller."""

    def __init__(self, about: str | None) -> None:
        super().__init__(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--quick", action="store_true", help="small settings, to see that it runs")
        self.add_argument("--out", type=Path, metavar="FILE", help="write what was found as JSON")

    def sized(self, name: str, full: Any, quick: Any, kind: Callable[[str], Any] = int) -> None:
        """An option that is smaller with `--quick`."""
        self.add_argument(
            f"--{name}", type=kind, default=Sized(full, quick), help=f"default: {full}; with --quick {quick}"
        )

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options as given, each default the one that is meant."""
        given = self.parse_args(arguments)
        for name, value in vars(given).items():
            if isinstance(value, Sized):
                setattr(given, name, value.quick if given.quick else value.full)
        return given


def begin(benchmark: str, given: argparse.Namespace) -> Record:
    """A record of what these options make, its machine on the terminal."""
    settings = {name: value for name, value in vars(given).items() if name != "out"}
    record = Record(benchmark, settings)
    print(in_words(record.machine))
    return record
