"""What torch.compile (inductor) makes of the input gradient beside the form that latcli chooses, and when it pays.

Both on the same network, batch and form, in turn in one process, after compiling into an empty cache; the gradients are
held against those of the network as it is, in fp32. Usage: `python -m benchmarks.compile [MODEL...] [--rounds N]`.
Needs a C++ compiler. Legend: B images, C channels, H, W pixels.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from benchmarks.photos import add_photos
from benchmarks.problems import Problem, problems
from benchmarks.record import Options, Record, begin
from benchmarks.rounds import Rounds, clocked, in_turn
from latcli.engine.attacks.objectives import cross_entropy_odds
from latcli.engine.attacks.pgd import input_gradient

_MODELS = ("cnn", "resnet18", "efficientnet_lite0", "resnet50")

Gradient = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Agreement:
    """Of a gradient with that of the network in fp32: relative l2 error, and the share of equal signs among its pixels.

    The sign is all that an l-infinity step takes.
    """

    error: float
    same_signs: float


def agreement(found_BCHW: torch.Tensor, exact_BCHW: torch.Tensor) -> Agreement:
    error = float((found_BCHW - exact_BCHW).norm() / exact_BCHW.norm())
    return Agreement(error, float((found_BCHW.sign() == exact_BCHW.sign()).float().mean()))


def gradients(case: Problem) -> tuple[str, Gradient, Gradient, Gradient]:
    """The chosen form's name; the gradient as the network is, in that form, and in that form compiled."""
    form, y_B = case.gradient_form(), case.labels()

    def of(model: Callable[[torch.Tensor], torch.Tensor]) -> Gradient:
        return lambda: input_gradient(model, case.x_BCHW, y_B, cross_entropy_odds)[0]

    case.net.requires_grad_(False)
    torch.compiler.reset()
    return form.form, of(case.net), of(form), of(torch.compile(partial(form), dynamic=False))


def break_even(compiling: float, eager: float, compiled: float) -> int | None:
    """Gradients after which compiling has paid for itself; None where it never does."""
    return None if compiled >= eager else round(compiling / (eager - compiled))


def compare(case: Problem, rounds: int, record: Record) -> None:
    form, exact, eager, compiled = gradients(case)
    begun = perf_counter()
    found_BCHW = compiled()
    first = perf_counter() - begun
    exact_BCHW = exact()
    agreements = {"eager": agreement(eager(), exact_BCHW), "compiled": agreement(found_BCHW, exact_BCHW)}
    measures = [clocked("eager", eager), clocked("compiled", compiled)]
    in_turn(measures, 1)  # warms up
    found = in_turn(measures, rounds)
    show(case.name, form, first - found.time("compiled").median, found, agreements, record)


def show(
    problem: str, form: str, compiling: float, found: Rounds, agreements: dict[str, Agreement], record: Record
) -> None:
    pays = break_even(compiling, found.time("eager").median, found.time("compiled").median)
    print(f"\n{problem}; {form}; {compiling:.1f} s to compile")
    for name, agreed in agreements.items():
        milliseconds = 1000 * found.time(name).median
        told = f"{100 * agreed.same_signs:6.2f} % of signs as in fp32, l2 error {agreed.error:.1e}"
        print(f"  {name:8} {milliseconds:8.1f} ms a gradient   {told}")
        record.add("gradients", problem=problem, form=form, name=name, ms=milliseconds, **vars(agreed))
    print("  it never pays" if pays is None else f"  it pays after {pays:,} gradients")
    record.add("compile", problem=problem, form=form, seconds=compiling, pays_after=pays)
    record.add_ratio(problem, "compiled", found.ratio("compiled", "eager"))


def compiler() -> str | None:
    """The C++ compiler that inductor would take."""
    return next((name for name in (os.environ.get("CXX"), "g++", "clang++") if name and shutil.which(name)), None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Options(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(_MODELS))
    add_photos(parser)
    parser.sized("rounds", 15, 2)
    given = parser.read(arguments)
    known = problems(given.photos)
    unknown = [name for name in given.models if name not in known]
    if unknown:
        parser.error(f"there is no model '{unknown[0]}': {', '.join(known)}")
    warnings.filterwarnings("ignore")
    record = begin("compile", given)
    if compiler():
        with TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            begun = perf_counter()
            torch.compile(torch.sin)(torch.zeros(64))
            print(f"{perf_counter() - begun:.1f} s for the first compilation of a process, into an empty cache")
            for name in given.models or (_MODELS[:1] if given.quick else _MODELS):
                compare(known[name](), given.rounds, record)
    else:
        record.note("there is no C++ compiler, so nothing was compiled: install g++, or name one in CXX")
    record.finish(given.out)


if __name__ == "__main__":
    main()
